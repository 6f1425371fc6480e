"""Gaussians with a full covariance, against what is known otherwise."""

import numpy as np
import pytest

from npvae.errors import InputError
from npvae.normal import kl, log_density
from npvae.ops import reference

S = np.array([[2.0, -0.6, 0.1], [-0.6, 1.0, 0.3], [0.1, 0.3, 0.7]])
T = np.array([[1.0, 0.2, 0.0], [0.2, 3.0, -0.5], [0.0, -0.5, 1.2]])
M, N = np.array([0.5, -1.0, 2.0]), np.array([0.0, 0.4, 1.0])


def test_log_density_by_the_inverse_and_the_determinant():
    x = np.random.default_rng(0).standard_normal((7, 3))
    for mean in (M, x[::-1]):
        apart = x - mean
        expected = -0.5 * (
            np.einsum("ni,ij,nj->n", apart, np.linalg.inv(S), apart) + np.log(np.linalg.det(2 * np.pi * S))
        )
        np.testing.assert_allclose(log_density(x, mean, S), expected, rtol=1e-13)


def test_log_density_is_that_of_the_library():
    """With one variance for all it is the likelihood of a Gaussian decoder."""
    x = np.random.default_rng(1).standard_normal((4, 3))
    expected = reference.gaussian_forward(np.zeros((4, 1, 3)), x, np.log([0.3]))[:, 0]
    np.testing.assert_allclose(log_density(x, np.zeros(3), 0.3 * np.eye(3)), expected, rtol=1e-13)


def test_kl_by_the_inverse_and_the_determinants():
    precision, apart = np.linalg.inv(T), N - M
    determinants = np.log(np.linalg.det(T) / np.linalg.det(S))
    expected = 0.5 * (np.trace(precision @ S) + apart @ precision @ apart - 3 + determinants)
    assert kl(M, S, N, T) == pytest.approx(expected, rel=1e-13)
    assert abs(kl(M, S, N, T) - kl(N, T, M, S)) > 0.1
    assert kl(M, S, M, S) == pytest.approx(0, abs=1e-14)


def test_kl_from_the_prior_is_the_rate():
    mu, logvar = np.array([0.3, -2.0]), np.array([-1.0, 0.4])
    rate = reference.gaussian_kl_forward(np.concatenate([mu, logvar])[None, None]).sum()
    assert kl(mu, np.diag(np.exp(logvar)), np.zeros(2), np.eye(2)) == pytest.approx(rate, rel=1e-13)


def test_kl_is_the_mean_log_ratio():
    """Within 4.5 standard errors of 20,000 draws."""
    x = np.random.default_rng(2).multivariate_normal(M, S, 20_000)
    ratio = log_density(x, M, S) - log_density(x, N, T)
    assert abs(ratio.mean() - kl(M, S, N, T)) <= 4.5 * ratio.std() / np.sqrt(len(x))


@pytest.mark.parametrize(
    "covariance",
    [np.eye(2)[:1], np.ones(2), np.zeros((0, 0)), -np.eye(2), np.array([[1.0, 2.0], [2.0, 1.0]]),
     np.array([[1.0, 0.1], [0.0, 1.0]]), np.full((2, 2), np.nan)],
)  # fmt: skip
def test_what_is_no_covariance_is_refused(covariance):
    with pytest.raises(InputError, match=r"covariance must be symmetric and positive definite, \(Z, Z\)"):
        log_density(np.zeros((3, 2)), np.zeros(2), covariance)
    with pytest.raises(InputError, match=r"to_covariance must be symmetric"):
        kl(np.zeros(2), np.eye(2), np.zeros(2), covariance)


def test_shapes_that_do_not_fit_are_refused():
    for x, mean in ((np.zeros((3, 2)), M), (np.zeros(3), M), (np.zeros((4, 3)), np.zeros((5, 3)))):
        with pytest.raises(InputError, match=r"x must be \(n, 3\)"):
            log_density(x, mean, S)
    for mean, covariance in ((M[:2], S), (M, np.eye(2)), (M[None], S)):
        with pytest.raises(InputError, match=r"of one Z"):
            kl(mean, covariance, N, T)
