"""Rules for integrals over a code: exact where they should be, converged where that is said, and what is refused."""

import math

import numpy as np
import pytest

from npvae.errors import InputError
from npvae.quadrature import gauss_hermite, grid


def moments(rule, z):
    """The mean of powers up to 3 of the last coordinate."""
    return [rule.integral(z[:, -1] ** power) for power in range(4)]


@pytest.mark.parametrize("Z", [1, 2])
def test_gauss_hermite_has_the_moments_of_a_gaussian(Z):
    mean, sigma = np.array([7.0, -0.5])[-Z:], np.array([3.0, 1.5])[-Z:]
    m, s = mean[-1], sigma[-1]
    rule = gauss_hermite(mean, sigma, nodes=2)  # exact to degree 3
    assert rule.z.shape == (2**Z, Z)
    np.testing.assert_allclose(moments(rule, rule.z), [1, m, m**2 + s**2, m**3 + 3 * m * s**2], rtol=1e-13)


def test_gauss_hermite_of_what_is_no_polynomial():
    """E cos(a z) = e^(-a^2/2) for z ~ N(0, 1)."""
    rule = gauss_hermite(np.zeros(1), np.ones(1), nodes=30)
    assert rule.integral(np.cos(2 * rule.z[:, 0])) == pytest.approx(math.exp(-2), rel=1e-12)


@pytest.mark.parametrize("nodes", [100, 150])
def test_gauss_hermite_stays_finite(nodes):
    rule = gauss_hermite(np.zeros(2), np.ones(2), nodes)
    assert np.isfinite(rule.log_weight).all() and rule.integral(np.ones(nodes**2)) == pytest.approx(1, rel=1e-12)


def test_grid_on_a_skewed_gaussian():
    """Its integral is sqrt(det 2 pi S), its second moments are S; half the spacing changes nothing."""
    S = np.array([[2.0, 0.9], [0.9, 0.5]])
    centre, axes = np.array([3.0, -1.0]), np.linalg.cholesky(S).T
    for nodes in (41, 81):
        rule = grid(centre, axes, reach=9.0, nodes=nodes)
        apart = rule.z - centre
        log_f = -0.5 * np.einsum("ni,ij,nj->n", apart, np.linalg.inv(S), apart)
        log_area = 0.5 * np.linalg.slogdet(2 * np.pi * S)[1]
        assert rule.log_integral(log_f) == pytest.approx(log_area, abs=1e-12)
        assert rule.log_integral(log_f - 1e4) == pytest.approx(log_area - 1e4, rel=1e-14)  # and no underflow
        density = np.exp(log_f - log_area)
        seconds = [[rule.integral(density * a * b) for a in apart.T] for b in apart.T]
        np.testing.assert_allclose(seconds, S, rtol=1e-10)


def test_grid_reaches_its_corners_and_no_further():
    rule = grid(np.array([1.0, 2.0]), np.diag([2.0, 0.5]), reach=3.0, nodes=4)
    assert rule.z.shape == (16, 2)
    np.testing.assert_allclose([rule.z.min(axis=0), rule.z.max(axis=0)], [[-5, 0.5], [7, 3.5]])
    np.testing.assert_allclose(np.exp(rule.log_weight), (2 * 2.0) * (2 * 0.5))


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: grid(np.zeros(2), np.eye(3), 1.0, 5), r"axes must be \(Z, Z\)"),
        (lambda: grid(np.zeros(2), np.ones((2, 2)), 1.0, 5), "span an area"),
        (lambda: grid(np.zeros(2), np.full((2, 2), np.nan), 1.0, 5), "and finite, got"),
        (lambda: grid(np.zeros((2, 1)), np.eye(2), 1.0, 5), "middle of a rule"),
        (lambda: grid(np.array([np.inf]), np.eye(1), 1.0, 5), "middle of a rule"),
        (lambda: grid(np.zeros(1), np.eye(1), 0.0, 5), "reach must be a number above 0"),
        (lambda: grid(np.zeros(1), np.eye(1), 1.0, 1), "nodes must be a whole number of at least 2"),
        (lambda: grid(np.zeros(20), np.eye(20), 1.0, 5), "5 nodes along each of 20 axes are 95,367,431,640,625"),
        (lambda: gauss_hermite(np.zeros(2), np.ones(3), 5), r"sigma must be \(2,\) and above 0"),
        (lambda: gauss_hermite(np.zeros(1), np.zeros(1), 5), "above 0"),
        (lambda: gauss_hermite(np.zeros(1), np.array([np.nan]), 5), "above 0"),
        (lambda: gauss_hermite(np.zeros(1), np.ones(1), 151), "at most 150"),
        (lambda: gauss_hermite(np.zeros(1), np.ones(1), 2.5), "whole number"),
    ],
)
def test_what_makes_no_rule_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
