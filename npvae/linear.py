"""Principal components and what they are compared by: what a linear autoencoder should find, without training.

n images · D pixels · k directions
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from npvae.errors import InputError, check_whole
from npvae.flat import Array


class Components(NamedTuple):
    """The principal components of images: orthonormal directions in columns, in descending order of the variances."""

    mean: Array  # (D,)
    axes: Array  # (D, min(n, D))
    variances: Array  # (min(n, D),), the largest eigenvalues of the covariance

    def encode(self, x: Array, k: int) -> Array:
        """x (n, D) -> coordinates (n, k) along the first k directions."""
        codes: Array = (x - self.mean) @ self.axes[:, :k]
        return codes

    def decode(self, z: Array) -> Array:
        """Coordinates (n, k) along the first k directions -> x (n, D)."""
        images: Array = self.mean + z @ self.axes[:, : z.shape[1]].T
        return images

    def error(self, k: int) -> float:
        """The mean of |x - x^|^2 where x^ keeps the first k directions: the sum of the other variances.

        InputError unless 1 <= k <= min(n, D).
        """
        if check_whole("k", k) > len(self.variances):
            raise InputError(f"k must be at most {len(self.variances)}, the number of directions, got {k}")
        return float(self.variances[k:].sum())


def principal_components(x: npt.ArrayLike) -> Components:
    """The principal components of images (n, D), by the singular value decomposition of the centred images.

    The covariance, averaged over n, is never formed: squaring would cost half of the digits of its small
    eigenvalues. In float64. Pearson 1901, "On lines and planes of closest fit to systems of points in space".
    Raises InputError for what is not (n, D), n > 0, or not finite.

    >>> found = principal_components([[3, 0], [-3, 0], [0, 1], [0, -1]])
    >>> found.variances.round(12).tolist(), round(found.error(1), 12)
    ([4.5, 0.5], 0.5)
    """
    images = np.asarray(x, np.float64)
    if images.ndim != 2 or not images.size or not np.isfinite(images).all():
        raise InputError(f"principal components are those of finite images (n, D), got shape {images.shape}")
    mean = images.mean(axis=0)
    s, directions = np.linalg.svd(images - mean, full_matrices=False)[1:]
    return Components(mean, directions.T, s**2 / len(images))


def principal_angle(A: npt.ArrayLike, B: npt.ArrayLike) -> float:
    """The largest angle, in radians, between a direction in one column space and the other; A, B (D, k).

    By its sine, the norm of what of the one lies outside the other: a cosine is 1 to the last bit below 1e-8
    (Björck & Golub 1973, "Numerical methods for computing angles between linear subspaces"). So angles below some
    1e-16 are 0. Spaces of different dimensions are a right angle apart. NaN where A or B is not finite; InputError
    unless both are matrices with the same number of rows.

    >>> e = np.eye(3)
    >>> principal_angle(e[:, :2], e[:, :2] @ [[2, 1], [0, 1]]) < 1e-15
    True
    >>> math.degrees(principal_angle(e[:, 1:], e[:, :2]))
    90.0
    """
    a, b = np.asarray(A, np.float64), np.asarray(B, np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or 0 in a.shape or 0 in b.shape:
        raise InputError(f"an angle is between the columns of (D, k) and (D, m), got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    u, v = _orthonormal(a), _orthonormal(b)
    if u.shape != v.shape:
        return math.pi / 2
    sine = np.linalg.norm(u - v @ (v.T @ u), 2) if u.size else 0.0
    return math.asin(min(float(sine), 1.0))


def fewer_rows(X: npt.ArrayLike) -> Array:
    """D rows (D, D) on which every linear autoencoder has the loss, and the gradient, that it has on X (n, D).

    X = QR with Q'Q = I, so |X - X M|^2 = |R - R M|^2 for every M; a loss is an average over rows, hence the factor
    sqrt(D/n). A model with biases would see another mean. Raises InputError unless X has at least as many rows as
    columns.
    """
    rows = np.asarray(X, np.float64)
    if rows.ndim != 2 or len(rows) < rows.shape[1]:
        raise InputError(f"X must be (n, D) with n at least D to have fewer rows, got shape {rows.shape}")
    n, D = rows.shape
    R = np.asarray(np.linalg.qr(rows, mode="r"))
    return R * math.sqrt(D / n)


def _orthonormal(a: Array) -> Array:
    """A basis (D, rank) of the column space of a (D, k)."""
    u, s, _ = np.linalg.svd(a, full_matrices=False)
    return u[:, s > s[0] * max(a.shape) * np.finfo(np.float64).eps]
