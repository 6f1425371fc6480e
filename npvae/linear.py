"""Principal component analysis by the singular value decomposition, to compare linear autoencoders with.

n rows · D numbers per row · k directions kept · r = min(n, D)
"""

import math
from typing import NamedTuple

import numpy as np

from npvae.errors import InputError, check_whole
from npvae.flat import Array


class PCA(NamedTuple):
    """The mean (D,) of n rows, the principal directions in the columns of `axes` (D, r), and their variances (r,).

    Variances, the eigenvalues of the covariance (divided by n, not n - 1), are in descending order.
    """

    mean: Array
    axes: Array
    variances: Array

    def error(self, k: int) -> float:
        """The mean of |x - x^|^2 where x^ keeps the first k directions: the sum of the other variances.

        InputError unless 1 <= k <= r.
        """
        if check_whole("k", k) > len(self.variances):
            raise InputError(f"k must be at most {len(self.variances)}, the number of directions, got {k}")
        return float(self.variances[k:].sum())


def pca(x: Array) -> PCA:
    """The principal components of the rows of x (n, D), in float64. InputError if x is not a matrix of finite numbers.

    >>> found = pca(np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    >>> np.abs(found.axes).round(12).tolist(), found.variances.round(12).tolist(), round(found.error(1), 12)
    ([[1.0, 0.0], [0.0, 1.0]], [4.5, 0.5], 0.5)
    """
    x = _matrix("x", x)
    mean = x.mean(axis=0)
    _, singular, axes = np.linalg.svd(x - mean, full_matrices=False)
    return PCA(mean, axes.T, singular**2 / len(x))


def condensed(x: Array) -> Array:
    """At most D rows that every linear autoencoder without a bias takes for x (n, D): the same x'x/n. (r, D).

    With x = Q R and Q'Q = 1, |x - x M|^2 = |Q (R - R M)|^2 = |R - R M|^2 for any matrix M (D, D). The factor
    sqrt(r/n) makes means over rows of these sums. InputError as for `pca`.
    """
    x = _matrix("x", x)
    R = np.linalg.qr(x, mode="r")
    return np.asarray(R * np.sqrt(len(R) / len(x)))


def largest_angle(a: Array, b: Array) -> float:
    """The largest principal angle, in radians, between the spans of the columns of a and of b, (D, k) both.

    From its sine, the norm of what of the one basis is outside of the other span: a cosine cannot tell angles below
    1e-8 from 0 (Björck and Golub 1973, "Numerical methods for computing angles between linear subspaces"). Near a
    right angle it is the sine that cannot. InputError if the shapes differ or columns are linearly dependent.

    >>> turn = 1e-9
    >>> round(largest_angle(np.array([[1.0], [0.0]]), np.array([[np.cos(turn)], [np.sin(turn)]])), 15)
    1e-09
    """
    a, b = _matrix("a", a), _matrix("b", b)
    if a.shape != b.shape or a.shape[1] > a.shape[0]:
        raise InputError(f"a and b must both be (D, k) with k at most D, got {a.shape} and {b.shape}")
    for name, basis in (("a", a), ("b", b)):
        if np.linalg.matrix_rank(basis) < basis.shape[1]:
            raise InputError(f"the columns of {name} are linearly dependent: they span less than {basis.shape[1]}")
    a, b = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
    sine = float(np.linalg.norm(b - a @ (a.T @ b), ord=2))
    return math.asin(min(sine, 1.0))


def _matrix(name: str, x: Array) -> Array:
    """`x` in float64, or InputError if it is not a matrix of finite real numbers with something in it."""
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.size == 0 or x.dtype.kind not in "fiub":
        found = f"{x.shape} of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise InputError(f"{name} must be a matrix of real numbers, two axes and not empty, got {found}")
    if not np.isfinite(x).all():
        raise InputError(f"{name} has entries that are NaN or infinite")
    return np.asarray(x, np.float64)
