"""Medians, and intervals for them that assume nothing about how times are distributed."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Summary(NamedTuple):
    """The median of some values, an interval for the median they are drawn from, and how sure that interval is."""

    median: float
    low: float
    high: float
    coverage: float


def summarize(values: Sequence[float], level: float = 0.95) -> Summary:
    """The median, and two order statistics that hold the true median between them with at least this probability.

    Each value is above or below the true median as a coin falls, so the number below is binomial(n, 1/2), whatever
    the distribution. With the k-th smallest and the k-th largest as ends the interval misses if fewer than k values
    fall on one side, which has probability 2 P(X < k). The largest k that keeps this under 1 - level is taken. Five
    values or fewer cannot be that sure: their whole range is returned, with its coverage.

    >>> summarize(range(1, 16))
    Summary(median=8.0, low=4.0, high=12.0, coverage=0.96484375)
    """
    ordered = sorted(values)
    n = len(ordered)
    if not n:
        raise ValueError("there are no values to summarise")
    k, missed = 1, 2 * 0.5**n
    while k < n // 2:
        more = missed + 2 * math.comb(n, k) * 0.5**n
        if more > 1 - level:
            break
        k, missed = k + 1, more
    return Summary(float(np.median(ordered)), float(ordered[k - 1]), float(ordered[n - k]), max(1 - missed, 0.0))


def ratios(values: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Each round's value by ours of the same round, so that what slows a whole round cancels."""
    return [value / own for value, own in zip(values, ours, strict=True)]
