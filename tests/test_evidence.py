"""How far two gradients are apart."""

import numpy as np
import pytest

from npvae.evidence import cosine, misfit


def test_misfit():
    assert misfit(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert misfit(np.zeros(2), np.zeros(2)) == 0
    assert misfit(np.ones(2), np.zeros(2)) == np.inf
    assert misfit(np.empty(0), np.empty(0)) == np.inf


def test_the_angle_between_vectors_whose_squares_no_float_holds():
    a, b = np.array([3.0, 4.0]), np.array([4.0, 3.0])
    for size in (1e307, 1e-310):
        assert cosine(size * a, b) == pytest.approx(24 / 25, rel=1e-12)
    assert cosine(0 * a, b) == 0
