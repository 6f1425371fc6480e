"""What is known of one array's gradient: what came, what should have come, and how well that is known.

A gradient `misses` the expected one by what goes beyond the doubt of each entry, relative to the largest expected
entry; an explanation may miss it by no more than `fit`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from npvae.factors import NAMED
from npvae.flat import Array
from npvae.probing import largest
from npvae.reports import Diagnosis

FIT = 1e-6  # relative: above what the oracles leave open, and far below what a wrong formula leaves
LEFT = 1e-3  # of the error, at most, may an explanation leave unexplained: else it explains a small error by itself


@dataclass(frozen=True)
class Evidence:
    """One array. `expected` is NaN where no oracle was asked; so is each of the `terms`, whose sum it is.

    wrong: whether the check failed; undecided: whether it did neither that nor succeed. doubt: how far off `expected`
    may be, entry by entry. coarse: whether the loss has so few digits that this is much. again: what a second call at
    the same parameters returned, if something else. param: the array itself. scales: what a factor may be called;
    guessed: nobody said so, they are the lengths of the arrays. found: what is known already.
    """

    name: str
    analytic: Array
    expected: Array
    wrong: bool = True
    undecided: bool = False
    doubt: Array | float = 0.0
    coarse: bool = False
    again: Array | None = None
    param: Array | None = None
    terms: Mapping[str, Array] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    guessed: bool = False
    found: Diagnosis | None = None

    @property
    def known(self) -> Array:
        """Where an expected value is known, as a mask."""
        return np.isfinite(self.expected)

    @property
    def off(self) -> Array:
        """Where it is known to be wrong, as a mask."""
        near: Array = np.abs(self.analytic - self.expected) <= self.fit * self.scale + self.doubt
        return self.known & ~near

    @cached_property
    def fit(self) -> float:
        """How far off an explanation may be, relative to `scale` and besides the doubt."""
        error = misfit(*self.pair)
        return min(FIT, LEFT * error) if error > 0 else FIT

    @property
    def scale(self) -> float:
        """The largest expected value."""
        return largest(self.expected[self.known])

    @property
    def pair(self) -> tuple[Array, Array]:
        """The analytic and the expected values (n,) where both are known."""
        return self.analytic[self.known], self.expected[self.known]

    @property
    def doubts(self) -> Array:
        """The doubt (n,) where both are known."""
        return np.broadcast_to(self.doubt, self.expected.shape)[self.known]

    @property
    def weights(self) -> Array:
        """How much the entries (n,) count in a fit: by the squares of their doubt, relative to `scale`."""
        weights: Array = (self.doubts / self.scale + NAMED) ** -2.0
        return weights

    def misses(self, gradient: Array) -> float:
        """How far a gradient is from the expected one, relative to `scale`, by more than the doubt."""
        b = self.expected[self.known]
        off = np.abs(gradient[self.known] - b)
        return misfit(b + np.maximum(off - self.doubts, 0.0), b)


def misfit(a: Array, b: Array) -> float:
    """max|a - b| / max|b|; infinite if there is nothing to compare, or b is 0 and a is not."""
    scale = largest(b)
    off = largest(a - b)
    return off / scale if scale > 0 and a.size else (0.0 if off == 0 and a.size else math.inf)


def cosine(a: Array, b: Array) -> float:
    """The cosine of the angle between two vectors; 0 if one is 0. Their squares may be beyond what a float holds."""
    a, b = a / (largest(a) or 1.0), b / (largest(b) or 1.0)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) or 1.0))
