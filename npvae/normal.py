"""Gaussians with a full covariance: their log-density, and the divergence of one from another. Nats.

Z dimensions · n points
"""

import math

import numpy as np

from npvae.errors import InputError
from npvae.flat import Array


def log_density(x: Array, mean: Array, covariance: Array) -> Array:
    """log N(x; mean, covariance) of every row of x (n, Z); mean (Z,) or (n, Z), covariance (Z, Z) -> (n,).

    InputError if the covariance is not symmetric and positive definite, or the shapes do not fit.

    >>> float(log_density(np.zeros((1, 2)), np.zeros(2), np.eye(2))[0]) == -math.log(2 * math.pi)
    True
    """
    factor = cholesky("covariance", covariance)
    Z = len(factor)
    if np.ndim(x) != 2 or np.shape(x)[1] != Z or np.shape(mean) not in ((Z,), np.shape(x)):
        raise InputError(f"x must be (n, {Z}) and mean ({Z},) or (n, {Z}), got {np.shape(x)}, {np.shape(mean)}")
    white = np.linalg.solve(factor, (x - mean).T)  # of covariance 1, were x drawn from it
    return np.asarray(-0.5 * (white**2).sum(axis=0) - np.log(np.diag(factor)).sum() - 0.5 * Z * math.log(2 * math.pi))


def kl(mean: Array, covariance: Array, to_mean: Array, to_covariance: Array) -> float:
    """KL(N(mean, covariance) || N(to_mean, to_covariance)), means (Z,), covariances (Z, Z).

    (tr(S'^-1 S) + (m' - m)' S'^-1 (m' - m) - Z + log det S' - log det S)/2. InputError as for `log_density`.

    >>> kl(np.zeros(1), np.eye(1), np.ones(1), np.eye(1))
    0.5
    """
    own, other = cholesky("covariance", covariance), cholesky("to_covariance", to_covariance)
    Z = len(own)
    if not len(other) == Z or not np.shape(mean) == np.shape(to_mean) == (Z,):
        raise InputError(
            f"means must be (Z,) and covariances (Z, Z) of one Z, got {np.shape(mean)}, {np.shape(covariance)}, "
            f"{np.shape(to_mean)}, {np.shape(to_covariance)}"
        )
    apart = np.linalg.solve(other, np.asarray(to_mean) - mean)
    spread = np.linalg.solve(other, own)
    log_ratio = 2 * (np.log(np.diag(other)).sum() - np.log(np.diag(own)).sum())
    return float(0.5 * ((spread**2).sum() + apart @ apart - Z + log_ratio))


def cholesky(name: str, covariance: Array) -> Array:
    """The lower triangular factor L of a covariance L L', or InputError if it is none."""
    S = np.asarray(covariance, np.float64)
    if S.ndim == 2 and S.shape[0] == S.shape[1] and len(S) and np.abs(S - S.T).max() <= 1e-10 * np.abs(S).max():
        try:
            return np.linalg.cholesky(S)
        except np.linalg.LinAlgError:
            pass
    raise InputError(f"{name} must be symmetric and positive definite, (Z, Z), got shape {S.shape}: {S.tolist()!r:.80}")
