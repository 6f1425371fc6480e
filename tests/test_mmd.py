"""MMD² against its definition, the law of its p values, the error of a difference, and what is refused."""

import math

import numpy as np
import pytest

from npvae import mmd
from npvae.errors import InputError
from npvae.mmd import compare, median_distance, mmd2, nearest, permutation_test


def normal(seed, n, mean=0.0, dims=3):
    return np.random.default_rng(seed).normal(mean, 1, (n, dims))


def by_definition(x, y, sigma):
    """Gretton et al. 2012, eq. 3, pair by pair."""

    def k(a, b):
        return math.exp(-((a - b) ** 2).sum() / (2 * sigma**2))

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.fixture(params=[2**22, 20], ids=["whole", "in blocks"])
def block(request, monkeypatch):
    monkeypatch.setattr(mmd, "_BLOCK", request.param)


@pytest.mark.usefixtures("block")
def test_mmd2_is_its_definition():
    x, y = normal(0, 7), normal(1, 11, 0.5)
    for sigma in (0.5, 2.0):
        assert mmd2(x, y, sigma) == pytest.approx(by_definition(x, y, sigma), rel=1e-12)


def test_mmd2_is_unbiased():
    """Of N(0, 1) and N(m, 1), D dimensions, it is 2 (s²/(s² + 2))^(D/2) (1 − exp(−D m²/(2 (s² + 2))))."""
    sigma, shift, dims = 1.5, 0.4, 3
    spread = sigma**2 + 2
    wanted = 2 * (sigma**2 / spread) ** (dims / 2) * (1 - math.exp(-dims * shift**2 / (2 * spread)))
    found = np.array([mmd2(normal(2 * i, 20), normal(2 * i + 1, 30, shift), sigma) for i in range(400)])
    error = found.std(ddof=1) / math.sqrt(len(found))
    assert abs(found.mean() - wanted) < 4 * error and error < wanted / 10


@pytest.mark.usefixtures("block")
def test_every_relabelling_is_an_mmd2():
    """The estimates of relabellings, from sums over the whole kernel, are those of the samples that they name."""
    x, y = normal(0, 5), normal(1, 6, 1.0)
    pooled, labels = np.concatenate([x, y]), np.zeros((11, 41))
    labels[:5] = 1
    np.random.default_rng(3).permuted(labels[:, 1:], axis=0, out=labels[:, 1:])
    estimates = [by_definition(pooled[a == 1], pooled[a == 0], 1.2) for a in labels.T]
    found = permutation_test(x, y, 1.2, permutations=40, seed=3)
    assert found.mmd2 == pytest.approx(estimates[0], rel=1e-12)
    assert found.p == np.mean(np.array(estimates) >= estimates[0] - 1e-12)


def test_p_is_uniform_where_there_is_no_difference():
    """Multiples of 1/20, each as likely: mean 21/40, deviation about 1/sqrt(12); held to 4 standard errors of 400."""
    p = np.array([permutation_test(normal(2 * i, 12), normal(2 * i + 1, 9), 1.5, 19, seed=i).p for i in range(400)])
    assert set(np.round(20 * p, 9)) <= set(range(1, 21))
    assert abs(p.mean() - 21 / 40) < 4 / math.sqrt(12 * 400)
    share = 0.2
    assert abs((p <= share).mean() - share) < 4 * math.sqrt(share * (1 - share) / 400)


def test_p_is_least_where_there_is_one():
    found = permutation_test(normal(0, 60), normal(1, 60, 1.0), permutations=99)
    assert found.p == 1 / 100 and found.mmd2 > 0.05


@pytest.mark.usefixtures("block")
def test_compare_is_a_difference_of_mmd2():
    x, y, reference = normal(0, 9, 0.5), normal(1, 8), normal(2, 12)
    wanted = by_definition(x, reference, 1.3) - by_definition(y, reference, 1.3)
    assert compare(x, y, reference, 1.3).value == pytest.approx(wanted, rel=1e-12)


def test_the_standard_error_of_compare():
    """As wide as the estimates are over 400 samples, within 15 %: their deviation is itself known to 1/sqrt(800)."""
    found = [
        compare(normal(3 * i, 60, 0.8), normal(3 * i + 1, 50, 0.3), normal(3 * i + 2, 70), 1.5) for i in range(400)
    ]
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.15)


def test_median_distance():
    x, y = np.array([[0.0], [1.0]]), np.array([[3.0], [7.0]])
    assert median_distance(x, y) == 3.5  # of 1, 3, 7, 2, 6, 4
    many = normal(0, 2500)
    assert median_distance(many, many) == median_distance(many[::3], many[::3])
    with pytest.raises(InputError, match="give a bandwidth"):
        median_distance(np.ones((3, 2)), np.ones((4, 2)))


@pytest.mark.usefixtures("block")
def test_nearest():
    x, others = normal(0, 9), normal(1, 11)
    distances = np.linalg.norm(x[:, None] - others, axis=2)
    found, index = nearest(x, others)
    np.testing.assert_allclose(found, distances.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(index, distances.argmin(axis=1))


X = normal(0, 5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mmd2(X, X[:, :2]), "of one length, got 3 and 2"),
        (lambda: mmd2(X[:1], X), "at least 2 members"),
        (lambda: mmd2(X, X * np.nan), "all of them finite"),
        (lambda: mmd2(X[0], X), r"must be an array \(n, D\)"),
        (lambda: mmd2(X.tolist(), X), r"must be an array \(n, D\) of real numbers, got list"),
        (lambda: mmd2(X, X, bandwidth=0), "bandwidth must be a number above 0"),
        (lambda: permutation_test(X, X, permutations=-1), "permutations must be a whole number"),
        (lambda: permutation_test(X, X, permutations=10**15), "relabellings needs"),
        (lambda: compare(X, X, X[:, :2]), "of one length"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
