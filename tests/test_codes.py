"""Codes on their way: ends, lengths, what moves and what stays, and how much of the prior each stands for."""

from statistics import NormalDist

import numpy as np
import pytest

from npvae.codes import REACH, interpolate, quantiles, traverse
from npvae.errors import InputError


def test_an_arc_keeps_its_length_and_ends():
    a, b = np.array([2.0, 0, 0]), np.array([0, 2.0, 0])
    path = interpolate(a, b, 5, spherical=True)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 2)
    np.testing.assert_allclose(path[[0, -1]], [a, b], atol=1e-15)
    np.testing.assert_allclose(path @ a, 4 * np.cos(np.pi / 2 * np.linspace(0, 1, 5)), atol=1e-15)  # at even angles


def test_a_chord_where_no_arc_is_defined_or_none_is_asked_for():
    a, b = np.array([2.0, 0, 0]), np.array([0, 2.0, 0])
    chord = np.linspace(0, 1, 5)[:, None]
    for other in (-a, 2 * a, 0 * a):
        np.testing.assert_allclose(interpolate(a, other, 5, spherical=True), (1 - chord) * a + chord * other)
    np.testing.assert_allclose(interpolate(a, b, 5, spherical=False), (1 - chord) * a + chord * b)


def test_a_traversal_moves_one_latent_in_each_row():
    code = np.array([0.5, -1.0, 2.0])
    path = traverse(code, [2, 0], 7)
    assert path.shape == (2, 7, 3)
    for row, latent in zip(path, (2, 0), strict=True):
        np.testing.assert_allclose(row[:, latent], np.linspace(-REACH, REACH, 7))
        np.testing.assert_array_equal(np.delete(row, latent, axis=1), np.tile(np.delete(code, latent), (7, 1)))


def test_every_quantile_stands_for_the_same_mass():
    z = quantiles(4)
    assert z.shape == (4, 4, 2)
    masses = [NormalDist().cdf(value) for value in z[1, :, 0]]
    np.testing.assert_allclose(masses, [1 / 8, 3 / 8, 5 / 8, 7 / 8])
    np.testing.assert_array_equal(z[..., 1], z[..., 0].T)  # z[0] grows along a row, z[1] from row to row


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: interpolate(np.zeros(2), np.zeros(3), 5, spherical=True), r"codes \(Z,\), got shapes \(2,\) and"),
        (lambda: interpolate(np.zeros(2), np.zeros(2), 0, spherical=True), "steps must be"),
        (lambda: traverse(np.zeros(2), [0], 0), "steps must be"),
        (lambda: quantiles(0), "side must be"),
    ],
)
def test_what_is_no_path_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
