"""Mutual information of image and code, against what is known without sampling."""

import numpy as np
import pytest

import npvae.information as information
from npvae.errors import InputError
from npvae.information import mutual_information


def drawn(rng, n, K, Z):
    stats = np.concatenate([2 * rng.standard_normal((n, 1, Z)), rng.uniform(-2, 1, (n, 1, Z))], axis=-1)
    return stats, rng.standard_normal((n, K, Z))


def exact(stats):
    """Entropy of the mixture of one-dimensional encoders minus theirs, by the trapezium rule."""
    mu, logvar = stats[:, 0, 0], stats[:, 0, 1]
    z = np.linspace(-30, 30, 20_001)
    q = np.exp(-0.5 * ((z[:, None] - mu) ** 2 * np.exp(-logvar) + logvar + np.log(2 * np.pi))).mean(axis=1)
    entropy = -np.sum(q * np.log(np.maximum(q, 1e-300))) * (z[1] - z[0])
    return entropy - np.mean(0.5 * (1 + np.log(2 * np.pi) + logvar))


def test_the_mean_over_draws_is_the_integral():
    """Within 4.5 standard errors, of 400 independent estimates."""
    rng = np.random.default_rng(5)
    stats, _ = drawn(rng, 7, 1, 1)
    estimates = [mutual_information(stats, rng.standard_normal((7, 50, 1))) for _ in range(400)]
    error = np.std(estimates, ddof=1) / np.sqrt(400)
    assert error < 0.004 and 0.5 < exact(stats) < np.log(7)
    assert abs(np.mean(estimates) - exact(stats)) <= 4.5 * error


def test_each_code_against_all_images_written_down_once_more(monkeypatch):
    stats, eps = drawn(np.random.default_rng(1), 5, 3, 2)
    terms = []
    for i in range(5):
        for k in range(3):
            z = stats[i, 0, :2] + np.exp(stats[i, 0, 2:] / 2) * eps[i, k]
            v = np.exp(stats[:, 0, 2:])
            q = np.exp(-0.5 * (z - stats[:, 0, :2]) ** 2 / v).prod(axis=1) / np.sqrt(v.prod(axis=1))
            terms.append(np.log(q[i] / q.mean()))
    assert mutual_information(stats, eps) == pytest.approx(np.mean(terms), rel=1e-12)
    monkeypatch.setattr(information, "BLOCK", 12)  # two codes at a time
    assert mutual_information(stats, eps) == pytest.approx(np.mean(terms), rel=1e-12)


def test_the_same_code_for_all_says_nothing_and_one_for_each_everything():
    eps = np.random.default_rng(0).standard_normal((6, 4, 3))
    assert mutual_information(np.full((6, 1, 6), 0.3), eps) == pytest.approx(0, abs=1e-14)
    far = np.concatenate([1e3 * np.arange(18.0).reshape(6, 1, 3), np.zeros((6, 1, 3))], axis=-1)
    assert mutual_information(far, eps) == pytest.approx(np.log(6), rel=1e-12)
    assert mutual_information(far.astype(np.float32), eps.astype(np.float32)) == pytest.approx(np.log(6), rel=1e-6)


def test_what_does_not_fit_is_refused():
    stats, eps = drawn(np.random.default_rng(2), 4, 2, 3)
    for wrong in (stats[:, 0], stats[..., :5], stats[:0], np.repeat(stats, 2, axis=1)):
        with pytest.raises(InputError, match=r"stats must be \(n, 1, 2Z\)"):
            mutual_information(wrong, eps)
    for wrong in (eps[:3], eps[..., :2], eps[:, 0], eps[:, :0]):
        with pytest.raises(InputError, match=r"eps must be \(n, K, Z\) = \(4, K, 3\)"):
            mutual_information(stats, wrong)
