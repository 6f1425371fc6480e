"""The ops' values: against computations that share no code with them, and at the extremes."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from op_cases import ACTIVATIONS, error, same

from npvae.ops import jit, reference

pytestmark = pytest.mark.parametrize("ops", (reference, jit), ids=("reference", "jit"))
FLOATS = pytest.mark.parametrize("dtype", (np.float32, np.float64), ids=("float32", "float64"))


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def gaussian(mean, logvar):
    return NormalDist(float(mean), math.exp(float(logvar) / 2))


# ── Dense layers ─────────────────────────────────────────────────────────────────────────────────────────────────

SCALAR = {
    "identity": lambda a: a,
    "relu": lambda a: max(a, 0.0),
    "leaky-relu": lambda a: a if a > 0 else 0.01 * a,
    "tanh": lambda a: math.sinh(a) / math.cosh(a),
    "sigmoid": lambda a: (1 + math.tanh(a / 2)) / 2,
    "softplus": lambda a: math.log(1 + math.exp(a)),
    "elu": lambda a: a if a > 0 else math.exp(a) - 1,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dense_is_a_sum_of_products(ops, name, rng):
    x, W, b = rng.standard_normal((3, 4)), rng.standard_normal((4, 5)), rng.standard_normal(5)
    y = ops.dense_forward(x, W, b, ACTIVATIONS[name])
    for n in range(3):
        for o in range(5):
            expected = SCALAR[name](b[o] + math.fsum(x[n, i] * W[i, o] for i in range(4)))
            assert y[n, o] == pytest.approx(expected, rel=1e-13, abs=1e-15)


LIMITS = {  # act(-inf), act(-1e4), act(0), act(1e4), act(inf)
    "identity": (-math.inf, -1e4, 0, 1e4, math.inf),
    "relu": (0, 0, 0, 1e4, math.inf),
    "leaky-relu": (-math.inf, -100, 0, 1e4, math.inf),
    "tanh": (-1, -1, 0, 1, 1),
    "sigmoid": (0, 0, 0.5, 1, 1),
    "softplus": (0, 0, math.log(2), 1e4, math.inf),
    "elu": (-1, -1, 0, 1e4, math.inf),
}
SLOPES = {  # their derivatives
    "identity": (1, 1, 1, 1, 1),
    "relu": (0, 0, 0, 1, 1),
    "leaky-relu": (0.01, 0.01, 0.01, 1, 1),
    "tanh": (0, 0, 1, 0, 0),
    "sigmoid": (0, 0, 0.25, 0, 0),
    "softplus": (0, 0, 0.5, 1, 1),
    "elu": (0, 0, 1, 1, 1),
}


@FLOATS
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_at_their_limits(ops, name, dtype):
    x = np.array([[np.inf], [1e4], [0], [-1e4], [-np.inf]], dtype)  # under a weight of -1
    W, zero = np.full((1, 1), -1, dtype), np.zeros(1, dtype)
    y = ops.dense_forward(x, W, zero, ACTIVATIONS[name])
    assert y.ravel().tolist() == np.array(LIMITS[name], dtype).tolist()
    with np.errstate(invalid="ignore"):  # dW sums 0 inf
        dx, _, db = ops.dense_backward(np.ones_like(x), x, W, y, ACTIVATIONS[name])
    assert (-dx).ravel().tolist() == np.array(SLOPES[name], dtype).tolist()
    assert db == pytest.approx(sum(SLOPES[name]), rel=1e-6)


@FLOATS
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_nan(ops, name, dtype):
    x, W, zero = np.array([[np.nan], [1]], dtype), np.full((1, 1), 2, dtype), np.zeros(1, dtype)
    y = ops.dense_forward(x, W, zero, ACTIVATIONS[name])
    assert np.isnan(y[0]) and y[1] == pytest.approx(SCALAR[name](2), rel=1e-6)
    dx, dW, db = ops.dense_backward(np.array([[1], [np.nan]], dtype), x, W, np.abs(y), ACTIVATIONS[name])
    assert np.isnan(dx[1]) and np.isnan(dW) and np.isnan(db)
    if name in ("tanh", "sigmoid", "softplus"):
        assert np.isnan(dx[0])


def test_tied_is_a_projection(ops, rng):
    """With orthonormal columns, x W W^T is what numpy's least squares leaves of x in their span."""
    W, _ = np.linalg.qr(rng.standard_normal((6, 2)))
    x = rng.standard_normal((5, 6))
    z, y = ops.tied_forward(x, W)
    fit = np.linalg.lstsq(W, x.T, rcond=None)[0].T
    assert error(z, fit) <= 1e-13 and error(y, fit @ W.T) <= 1e-13


@FLOATS
def test_squared_error(ops, dtype, rng):
    y, target = rng.standard_normal((2, 3, 40)).astype(dtype)
    result = ops.squared_error_forward(y, target)
    assert result.dtype == np.float64 and result.shape == (3,)
    for b in range(3):
        expected = math.fsum((float(y[b, d]) - float(target[b, d])) ** 2 for d in range(40))
        assert result[b] == pytest.approx(expected, rel=1e-14 if dtype == np.float64 else 1e-7)


# ── The code ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_reparameterized_noise_has_the_moments_of_q(ops, rng):
    """At noise ±1 the sample's mean is mu and its standard deviation sigma, exactly."""
    stats = np.array([[[0.3, -2.0, math.log(4.0), math.log(0.25)]]])
    z = ops.reparameterize_forward(stats, np.array([[[1.0, 1.0], [-1.0, -1.0]]]))
    assert error(z.mean(axis=1), np.array([[0.3, -2.0]])) <= 1e-15
    assert error(z.std(axis=1), np.array([[2.0, 0.5]])) <= 1e-15


@pytest.mark.parametrize("mu, logvar", [(0.0, 0.1), (1.5, -2.0), (-0.3, 1.0), (0.01, 1e-9)])
def test_gaussian_kl_is_the_integral(ops, mu, logvar):
    """The trapezoidal rule is exact to rounding on a smooth function that vanishes at both ends."""
    q, p = gaussian(mu, logvar), NormalDist()
    grid = [mu + q.stdev * (i - 2000) / 200 for i in range(4001)]  # ten standard deviations either way
    terms = [q.pdf(z) * (math.log(q.pdf(z)) - math.log(p.pdf(z))) for z in grid]
    rate = ops.gaussian_kl_forward(np.array([[[mu, logvar]]]))
    assert rate[0, 0, 0] == pytest.approx(math.fsum(terms) * q.stdev / 200, rel=1e-11, abs=1e-14)


def test_gaussian_kl_is_the_mean_of_log_ratio(ops, rng):
    """Over 4,000 samples, within four standard errors of the difference."""
    K = 4000
    stats = np.array([[[0.8, -0.5, -1.0, 0.4]]])
    eps = rng.standard_normal((1, K, 2))
    ratio = ops.log_ratio_forward(stats, ops.reparameterize_forward(stats, eps), eps)
    bound = 4 * ratio.std(axis=1) / math.sqrt(K)
    difference = np.abs(ratio.mean(axis=1) - ops.gaussian_kl_forward(stats)[:, 0])
    assert (difference <= bound).all() and (bound < 0.2).all()


def test_log_ratio_is_that_of_two_densities(ops, rng):
    stats, eps = rng.standard_normal((2, 1, 6)), rng.standard_normal((2, 4, 3))
    z = ops.reparameterize_forward(stats, eps)
    rate = ops.log_ratio_forward(stats, z, eps)
    for b, k, j in np.ndindex(rate.shape):
        q = gaussian(stats[b, 0, j], stats[b, 0, 3 + j])
        expected = math.log(q.pdf(z[b, k, j])) - math.log(NormalDist().pdf(z[b, k, j]))
        assert rate[b, k, j] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_rates_vanish_at_the_prior(ops, rng):
    stats, eps = np.zeros((2, 1, 6)), rng.standard_normal((2, 4, 3))
    assert same(ops.gaussian_kl_forward(stats), np.zeros((2, 1, 3)))
    assert same(ops.gaussian_kl_backward(np.ones((2, 1, 3)), stats), stats)
    assert same(ops.log_ratio_forward(stats, eps, eps), np.zeros((2, 4, 3)))


@FLOATS
def test_the_code_at_its_extremes(ops, dtype):
    stats = np.array([[[3, 0, 0, -1e4, 0, np.nan]]], dtype)
    z = ops.reparameterize_forward(stats, np.full((1, 1, 3), 0.5, dtype))
    assert z[0, 0, :2].tolist() == [3, 0.5] and np.isnan(z[0, 0, 2])
    rate = ops.gaussian_kl_forward(stats)
    assert rate[0, 0, :2].tolist() == [0.5 * (9 + 1e4 - 1), 0] and np.isnan(rate[0, 0, 2])
    far = np.array([[[1e30, 0]]], dtype)  # its square overflows float32, and the rate is wider
    assert ops.gaussian_kl_forward(far).item() == pytest.approx(0.5e60, rel=1e-6)
    noise = np.ones((1, 1, 1), dtype)
    assert ops.log_ratio_forward(far, far[..., :1], noise).item() == pytest.approx(0.5e60, rel=1e-6)


# ── Likelihoods ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_bernoulli_is_a_sum_of_logarithms(ops, rng):
    logits, target = 3 * rng.standard_normal((2, 3, 4)), rng.random((2, 4))
    target[:, 0], target[:, 1] = 0, 1
    log_px = ops.bernoulli_forward(logits, target)
    for b, k in np.ndindex(log_px.shape):
        p = [1 / (1 + math.exp(-a)) for a in logits[b, k]]
        terms = [t * math.log(q) + (1 - t) * math.log1p(-q) for t, q in zip(target[b], p, strict=True)]
        assert log_px[b, k] == pytest.approx(math.fsum(terms), rel=1e-13)


@FLOATS
def test_bernoulli_at_its_extremes(ops, dtype):
    logits = np.array([[[1e4], [-1e4], [np.inf], [-np.inf], [np.nan]]], dtype)
    ones = np.ones((1, 5))
    for t, log_px, slopes in (
        (1, [0, -1e4, 0, -math.inf], [0, 1, 0, 1]),
        (0, [-1e4, 0, -math.inf, 0], [-1, 0, -1, 0]),
        (0.5, [-5e3, -5e3, -math.inf, -math.inf], [-0.5, 0.5, -0.5, 0.5]),
    ):
        target = np.full((1, 1), t, dtype)
        result = ops.bernoulli_forward(logits, target)
        dlogits = ops.bernoulli_backward(ones, logits, target)
        assert result[0, :4].tolist() == log_px and np.isnan(result[0, 4])
        assert dlogits[0, :4, 0].tolist() == slopes and np.isnan(dlogits[0, 4, 0])


def test_gaussian_is_the_normal_density(ops, rng):
    mean, target = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 4))
    logvar = np.array([-0.6])
    log_px = ops.gaussian_forward(mean, target, logvar)
    for b, k in np.ndindex(log_px.shape):
        terms = [math.log(gaussian(m, logvar[0]).pdf(t)) for m, t in zip(mean[b, k], target[b], strict=True)]
        assert log_px[b, k] == pytest.approx(math.fsum(terms), rel=1e-12)


def test_gaussian_pixel_is_the_normal_density(ops, rng):
    pixels, target = rng.standard_normal((2, 3, 8)), rng.standard_normal((2, 4))
    log_px = ops.gaussian_pixel_forward(pixels, target)
    for b, k in np.ndindex(log_px.shape):
        q = [gaussian(m, v) for m, v in zip(pixels[b, k, :4], pixels[b, k, 4:], strict=True)]
        expected = math.fsum(math.log(d.pdf(t)) for d, t in zip(q, target[b], strict=True))
        assert log_px[b, k] == pytest.approx(expected, rel=1e-12)


def test_gaussian_optimal_is_the_best_gaussian(ops, rng):
    mean, target = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 4))
    log_px, logvar = ops.gaussian_optimal_forward(mean, target)
    mse = math.fsum((target[b, d] - mean[b, k, d]) ** 2 for b, k, d in np.ndindex(mean.shape)) / mean.size
    assert logvar[0] == pytest.approx(math.log(mse), rel=1e-13)
    assert error(ops.gaussian_forward(mean, target, logvar), log_px) <= 1e-14
    for other in (logvar - 1e-3, logvar + 1e-3):
        assert ops.gaussian_forward(mean, target, other).sum() < log_px.sum()


@FLOATS
def test_gaussians_at_their_extremes(ops, dtype):
    mean, target = np.full((1, 1, 2), 3, dtype), np.full((1, 2), 2, dtype)
    seed = np.ones((1, 1))
    half = -0.5 * math.log(2 * math.pi)
    wide = np.array([1e4], dtype)  # sigma^2 = e^10000: the error does not count
    log_px = ops.gaussian_forward(mean, target, wide)
    assert log_px.item() == pytest.approx(2 * (half - 5e3), rel=1e-15)
    dmean, dlogvar = ops.gaussian_backward(seed, mean, target, wide, log_px)
    assert dmean.tolist() == [[[0, 0]]] and dlogvar.item() == pytest.approx(-1, rel=1e-6)

    pixels = np.concatenate([mean, np.full_like(mean, 1e4)], axis=-1)
    assert ops.gaussian_pixel_forward(pixels, target).item() == pytest.approx(2 * (half - 5e3), rel=1e-6)
    assert ops.gaussian_pixel_backward(seed, pixels, target).tolist() == [[[0, 0, -0.5, -0.5]]]

    narrow = np.array([-80], dtype)  # e^80 times an error of 1
    log_px = ops.gaussian_forward(mean, target, narrow)
    assert log_px.item() == pytest.approx(2 * (half + 40) - math.exp(80), rel=1e-14)
    _, dlogvar = ops.gaussian_backward(seed, mean, target, narrow, log_px)
    assert dlogvar.item() == pytest.approx(math.exp(80), rel=1e-6)

    mean[0, 0, 1] = np.nan
    assert np.isnan(ops.gaussian_forward(mean, target, wide)).all()
    assert all(np.isnan(part).all() for part in ops.gaussian_optimal_forward(mean, target))


# ── Bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_elbo_by_hand(ops):
    log_px, rate = np.array([[-3.0], [-5.0]]), np.array([[[0.2, 1.0]], [[0.4, 3.0]]])
    assert ops.elbo_forward(log_px, rate, 1.0, 0.0) == pytest.approx(4 + 0.3 + 2)
    assert ops.elbo_forward(log_px, rate, 0.5, 0.0) == pytest.approx(4 + 0.15 + 1)
    assert ops.elbo_forward(log_px, rate, 0.5, 0.9) == pytest.approx(4 + 0.45 + 1)
    dlog_px, drate = ops.elbo_backward(1.0, log_px, rate, 0.5, 0.9)
    assert dlog_px.tolist() == [[-0.5], [-0.5]] and drate.tolist() == [[[0, 0.25]], [[0, 0.25]]]


def test_iwae_is_the_log_of_a_mean(ops, rng):
    log_px, rate = rng.standard_normal((3, 5)), rng.standard_normal((3, 5, 2))
    loss, log_w = ops.iwae_forward(log_px, rate, 0.7)
    expected = log_px - 0.7 * (rate[..., 0] + rate[..., 1])
    assert error(log_w, expected) <= 1e-15
    rows = [math.log(math.fsum(math.exp(v) for v in row) / 5) for row in expected]
    assert loss == pytest.approx(-math.fsum(rows) / 3, rel=1e-14)


def test_iwae_with_one_sample_is_the_elbo(ops, rng):
    log_px, rate = rng.standard_normal((3, 1)), rng.standard_normal((3, 1, 2))
    loss, log_w = ops.iwae_forward(log_px, rate, 0.7)
    assert loss == pytest.approx(ops.elbo_forward(log_px, rate, 0.7, 0.0), rel=1e-14)
    importance = ops.iwae_backward(1.3, log_w, rate, 0.7)
    for mine, theirs in zip(importance, ops.elbo_backward(1.3, log_px, rate, 0.7, 0.0), strict=False):
        assert error(mine, theirs) <= 1e-15


@pytest.mark.parametrize("level", (0.0, -1e4, 1e4, -1e300))
def test_iwae_with_equal_weights_is_their_level(ops, level):
    rate = np.zeros((2, 7, 3))
    loss, log_w = ops.iwae_forward(np.full((2, 7), level), rate, 1.0)
    assert loss == pytest.approx(-level, rel=1e-15, abs=1e-15)
    dlog_px, _, _ = ops.iwae_backward(1.0, log_w, rate, 1.0)
    assert error(dlog_px, np.full((2, 7), -1 / 14)) <= 1e-15


def test_iwae_grows_with_samples_that_are_worth_nothing(ops):
    """A sample of weight 0 costs log 2 of two; NaN is seen."""
    log_px, rate = np.array([[-1e5, -np.inf]]), np.zeros((1, 2, 1))
    loss, log_w = ops.iwae_forward(log_px, rate, 1.0)
    assert loss == 1e5 + math.log(2)
    assert ops.iwae_backward(1.0, log_w, rate, 1.0)[0].tolist() == [[-1, 0]]
    for row in ([-1.0, np.nan], [np.nan, -1.0], [-np.inf, np.nan]):
        with np.errstate(invalid="ignore"):
            loss, log_w = ops.iwae_forward(np.array([row]), rate, 1.0)
            assert np.isnan(loss)
            assert all(np.isnan(part).all() for part in ops.iwae_backward(1.0, log_w, rate, 1.0))


# ── An empty batch ───────────────────────────────────────────────────────────────────────────────────────────────


@FLOATS
def test_an_empty_batch(ops, dtype):
    """No rows in, no rows out, and nothing for the parameters to learn."""
    x, W, b = np.empty((0, 4), dtype), np.ones((4, 3), dtype), np.ones(3, dtype)
    y = ops.dense_forward(x, W, b, reference.TANH)
    dx, dW, db = ops.dense_backward(y, x, W, y, reference.TANH)
    assert y.shape == (0, 3) and dx.shape == (0, 4)
    assert dW.tolist() == np.zeros((4, 3)).tolist() and db.tolist() == [0, 0, 0]
    mean, target, logvar = np.empty((0, 2, 4), dtype), np.empty((0, 4), dtype), np.ones(1, dtype)
    log_px = ops.gaussian_forward(mean, target, logvar)
    assert log_px.shape == (0, 2)
    assert ops.gaussian_backward(log_px, mean, target, logvar, log_px)[1].tolist() == [0]
