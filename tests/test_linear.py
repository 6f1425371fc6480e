"""Principal components by the SVD, fewer rows, and angles between subspaces: beside values known exactly."""

import math

import numpy as np
import pytest
from test_ops import rng_of
from test_theory import images_of_spectrum

from npvae.errors import InputError
from npvae.linear import fewer_rows, principal_angle, principal_components

VARIANCES = np.array([9.0, 4.0, 1.5, 0.4, 0.2])
MEAN = np.array([1.0, -2.0, 0.5, 0.0, 3.0])


def test_components_of_a_known_spectrum():
    x, axes = images_of_spectrum(rng_of("pca"), 40, VARIANCES, MEAN)
    found = principal_components(x)
    np.testing.assert_allclose(found.mean, MEAN, atol=1e-12)
    np.testing.assert_allclose(found.variances, VARIANCES, rtol=1e-12)
    np.testing.assert_allclose(np.abs(found.axes.T @ axes), np.eye(5), atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_error_is_that_of_the_projection(k):
    x, axes = images_of_spectrum(rng_of("pca"), 40, VARIANCES, MEAN)
    projected = MEAN + (x - MEAN) @ axes[:, :k] @ axes[:, :k].T
    found = principal_components(x)
    np.testing.assert_allclose(found.decode(found.encode(x, k)), projected, rtol=0, atol=1e-12)
    assert found.encode(x, k).shape == (40, k)
    assert found.error(k) == pytest.approx(((x - projected) ** 2).sum(axis=1).mean(), rel=1e-12, abs=1e-12)


def test_fewer_images_than_pixels():
    """n images have n - 1 directions, and the n-th has no variance."""
    found = principal_components(rng_of("few").standard_normal((3, 7)).astype(np.float32))
    assert found.axes.shape == (7, 3) and found.axes.dtype == np.float64
    assert found.variances[2] <= 1e-12 * found.variances[0]


def test_fewer_rows_have_every_linear_autoencoders_loss():
    rng = rng_of("fewer")
    x, M = rng.standard_normal((30, 6)) + 1, rng.standard_normal((6, 6))
    rows = fewer_rows(x)
    assert rows.shape == (6, 6)
    losses = [((part - part @ M) ** 2).sum(axis=1).mean() for part in (x, rows)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    np.testing.assert_allclose(rows.T @ rows / 6, x.T @ x / 30, rtol=0, atol=1e-12)


@pytest.mark.parametrize("angle", [1e-12, 1e-8, 1e-3, 0.7, 1.5])
def test_the_angle_is_known_where_planes_are_turned(angle):
    """Two planes turned against each other by this angle and by half of it, their bases mixed."""
    rng = rng_of("angle")
    frame = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    a, apart = frame[:, :2], frame[:, 2:4]
    turns = np.array([angle / 2, angle])
    b = a * np.cos(turns) + apart * np.sin(turns)
    found = principal_angle(a @ rng.standard_normal((2, 2)), b @ rng.standard_normal((2, 2)))
    assert found == pytest.approx(angle, rel=1e-9, abs=1e-14)


def test_right_angles_and_the_whole_space():
    e = np.eye(4)
    assert principal_angle(e[:, :2], e[:, 1:3]) == pytest.approx(np.pi / 2)
    assert principal_angle(e, rng_of("whole").standard_normal((4, 4))) <= 1e-14
    assert principal_angle(e[:, :2], e[:, :3]) == np.pi / 2
    assert principal_angle(e[:, :2], np.ones((4, 2))) == np.pi / 2  # of which the columns span a line
    assert principal_angle(np.zeros((4, 1)), np.zeros((4, 2))) == 0


def test_a_matrix_that_has_diverged_has_no_angle():
    assert math.isnan(principal_angle(np.eye(2), np.full((2, 2), np.inf)))


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: principal_components(np.zeros(3)), r"finite images \(n, D\), got shape \(3,\)"),
        (lambda: principal_components(np.zeros((0, 3))), r"got shape \(0, 3\)"),
        (lambda: principal_components([[np.nan]]), "finite"),
        (lambda: principal_components(np.eye(3)).error(0), "k must be a whole number of at least 1"),
        (lambda: principal_components(np.eye(3)).error(4), "k must be at most 3"),
        (lambda: fewer_rows(np.ones((2, 3))), r"n at least D .* got shape \(2, 3\)"),
        (lambda: fewer_rows(np.ones(3)), r"got shape \(3,\)"),
        (lambda: principal_angle(np.eye(3), np.eye(2)), r"\(3, 3\) and \(2, 2\)"),
        (lambda: principal_angle(np.ones(3), np.ones((3, 1))), r"\(3,\) and \(3, 1\)"),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
