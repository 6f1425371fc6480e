"""Maximum mean discrepancy: whether two samples come from one distribution, and which of two is closer to a third.

MMD(P, Q) is the distance of the mean features of P and Q in the space of a kernel k (Gretton et al. 2012, "A kernel
two-sample test", lemma 6):

    MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y)        x, x' ~ P and y, y' ~ Q, all independent

Under the Gaussian kernel k(x, y) = exp(−|x − y|²/(2 σ²)) it is 0 only if P = Q. Estimated without bias, by means over
pairs of *different* members (their eq. 3), it is about 0, and may be below it, if P = Q.

n, m sizes of samples · D numbers per member. The kernel's matrix is made in blocks and never held whole.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from npvae.errors import InputError, check_memory, check_real, check_whole
from npvae.flat import Array

_BLOCK = 2**22  # numbers of the kernel's matrix held at once
_ENOUGH = 1000  # members that the median distance is taken of


class TwoSample(NamedTuple):
    """The result of `permutation_test`: the estimate of MMD², and how likely one as large is if P = Q."""

    mmd2: float
    p: float


class Difference(NamedTuple):
    """The result of `compare`: MMD²(x, reference) − MMD²(y, reference), and its standard error."""

    value: float
    standard_error: float


def median_distance(x: Array, y: Array) -> float:
    """The median distance within the pooled sample, of 1,000 members of each at most: the usual bandwidth σ.

    Gretton et al. 2012, section 8. InputError if it is 0, when no kernel can tell the samples apart.
    """
    parts = [part[:: math.ceil(len(part) / _ENOUGH)] for part in _samples(x, y)]
    pooled = np.concatenate(parts)
    distances = np.concatenate([block for _, block in _squared_distances(pooled, pooled)])
    median = float(np.median(np.sqrt(distances[np.triu_indices(len(pooled), 1)])))
    if median == 0:
        raise InputError("half of all members or more are the same: give a bandwidth, their median distance is 0")
    return median


def mmd2(x: Array, y: Array, bandwidth: float | None = None) -> float:
    """The unbiased estimate of MMD² of samples x (n, D) and y (m, D). bandwidth: σ, the median distance when None."""
    return permutation_test(x, y, bandwidth, permutations=0).mmd2


def permutation_test(
    x: Array, y: Array, bandwidth: float | None = None, permutations: int = 500, seed: int = 0
) -> TwoSample:
    """MMD² of x (n, D) and y (m, D), and the share of random relabellings that give at least as much.

    If P = Q the labels say nothing, so a relabelling is as good as the truth, which is counted as one of them:
    p <= alpha then has a probability of at most alpha (Phipson & Smyth 2010).

    With a = 1 for those labelled x, 0 for those labelled y, K the kernel's matrix and b = 1 − a, the three means are
    aᵀKa, bᵀKb and aᵀKb less the diagonals: every relabelling is a column of A, and K A is made in blocks of rows.
    """
    x, y = _samples(x, y)
    check_whole("permutations", permutations, least=0)
    pooled = np.concatenate([x, y])
    bandwidth = median_distance(x, y) if bandwidth is None else check_real("bandwidth", bandwidth, 0.0, open_=True)
    check_memory(f"{permutations} relabellings", 16 * len(pooled) * (permutations + 1), "ask for fewer")
    labels = np.zeros((len(pooled), permutations + 1))
    labels[: len(x)] = 1
    np.random.default_rng(seed).permuted(labels[:, 1:], axis=0, out=labels[:, 1:])  # the first column stays the truth
    within, rows = np.zeros(permutations + 1), np.empty(len(pooled))
    for part, kernel in _kernel(pooled, pooled, bandwidth):
        within += (labels[part] * (kernel @ labels)).sum(axis=0)
        rows[part] = kernel.sum(axis=1)
    n, m = len(x), len(y)
    between = rows @ labels - within
    others = rows.sum() - within - 2 * between
    estimates = (within - n) / (n * (n - 1)) + (others - m) / (m * (m - 1)) - 2 * between / (n * m)
    return TwoSample(float(estimates[0]), float((estimates >= estimates[0]).mean()))


def compare(x: Array, y: Array, reference: Array, bandwidth: float | None = None) -> Difference:
    """How much farther x (n, D) is from a reference (r, D) than y (m, D) is, in MMD², with its standard error.

    The difference is a U-statistic: to first order the mean of one term for each member, whose variances add up
    (Hoeffding 1948; Bounliphone et al. 2016, "A test of relative similarity for model selection in generative
    models"). bandwidth: σ, the median distance within y and the reference when None.
    """
    x, y = _samples(x, y)
    y, reference = _samples(y, reference)
    sigma = median_distance(y, reference) if bandwidth is None else check_real("bandwidth", bandwidth, 0.0, open_=True)

    def means(a: Array, b: Array) -> Array:
        """The mean of k(a_i, b_j) over j, without j = i where b is a."""
        sums = np.concatenate([kernel.sum(axis=1) for _, kernel in _kernel(a, b, sigma)])
        return (sums - 1) / (len(a) - 1) if a is b else sums / len(b)

    xx, xr, yy, yr = means(x, x), means(x, reference), means(y, y), means(y, reference)
    value = xx.mean() - 2 * xr.mean() - yy.mean() + 2 * yr.mean()
    terms = (xx - xr, yy - yr, means(reference, x) - means(reference, y))
    return Difference(float(value), 2 * math.sqrt(sum(term.var(ddof=1) / len(term) for term in terms)))


def nearest(x: Array, others: Array) -> tuple[Array, Array]:
    """The distance of each x (n, D) to the nearest of the others (m, D), and its index: (n,), (n,)."""
    x, others = _samples(x, others)
    found = [(block.min(axis=1), block.argmin(axis=1)) for _, block in _squared_distances(x, others)]
    squares, indices = (np.concatenate(part) for part in zip(*found, strict=True))
    return np.sqrt(squares), indices


def _kernel(a: Array, b: Array, sigma: float) -> Iterator[tuple[slice, Array]]:
    """Rows of exp(−|a − b|²/(2 σ²)), block by block."""
    for part, distances in _squared_distances(a, b):
        yield part, np.exp(distances / (-2 * sigma**2), out=distances)


def _squared_distances(a: Array, b: Array) -> Iterator[tuple[slice, Array]]:
    """|a − b|² = |a|² + |b|² − 2 a·b, (n, D) and (m, D) -> blocks of rows of (n, m)."""
    squares = np.einsum("ij,ij->i", b, b)
    step = max(_BLOCK // len(b), 1)
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        block = (-2 * a[part]) @ b.T
        block += squares
        block += np.einsum("ij,ij->i", a[part], a[part])[:, None]
        yield part, np.maximum(block, 0, out=block)  # a rounding below 0 would have no root


def _samples(x: Array, y: Array) -> tuple[Array, Array]:
    """Both as float64; InputError unless they are samples of two or more finite vectors of one length."""
    for sample in (x, y):
        if not isinstance(sample, np.ndarray) or sample.ndim != 2 or sample.dtype.kind not in "fiub":
            came = getattr(sample, "shape", type(sample).__name__)
            raise InputError(f"a sample must be an array (n, D) of real numbers, got {came}")
        if len(sample) < 2 or not np.isfinite(sample).all():
            raise InputError(f"a sample must have at least 2 members, all of them finite, got {len(sample)}")
    if x.shape[1] != y.shape[1]:
        raise InputError(f"the members of both samples must be of one length, got {x.shape[1]} and {y.shape[1]}")
    return x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
