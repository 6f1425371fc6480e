"""The likelihoods as densities: normalised, at their mean, and refusing what has none."""

import inspect
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from op_cases import error
from test_ops import BACKENDS, rng_of

from npvae.errors import InputError
from npvae.likelihoods import (
    KINDS,
    LIKELIHOODS,
    Bernoulli,
    Gaussian,
    GaussianLearned,
    GaussianOptimal,
    GaussianPixel,
    Spread,
    as_likelihood,
)

BOTH = pytest.mark.parametrize("ops", BACKENDS.values(), ids=BACKENDS)


def log_px_of(likelihood, ops, y, target, logvar=0.0):
    """log p(target|y) by image, and the likelihood's own intermediate."""
    a = SimpleNamespace(y=y, log_px=np.full(y.shape[:2], np.nan), likelihood=Spread(np.full(1, np.nan)))
    likelihood.forward(ops, Spread(np.full(1, logvar)), target, a)
    return a.log_px, a


@BOTH
def test_bernoulli_probabilities_sum_to_one(ops):
    """Over all 16 images of 4 pixels."""
    images = np.array(list(product((0.0, 1.0), repeat=4)))
    y = np.broadcast_to(rng_of("logits").standard_normal(4) * 2, (16, 1, 4)).copy()
    log_px, _ = log_px_of(Bernoulli(), ops, y, images)
    assert np.exp(log_px).sum() == pytest.approx(1, abs=1e-14)
    white = np.exp(log_px[:, 0]) @ images  # E[x|z]
    assert error(Bernoulli().mean(y[0]), white[None]) <= 1e-14


@BOTH
def test_bernoulli_of_grey_levels_is_the_mean_over_their_drawings(ops):
    grey, logits = np.array([0.25, 0.8]), np.array([0.3, -1.2])
    images = np.array(list(product((0.0, 1.0), repeat=2)))
    weights = np.prod(np.where(images == 1, grey, 1 - grey), axis=1)
    log_px, _ = log_px_of(Bernoulli(), ops, np.broadcast_to(logits, (4, 1, 2)).copy(), images)
    mean, _ = log_px_of(Bernoulli(), ops, logits[None, None], grey[None])
    assert mean[0, 0] == pytest.approx(weights @ log_px[:, 0], rel=1e-14)


@BOTH
@pytest.mark.parametrize(
    "likelihood, y, logvar, sigma",
    [
        (Gaussian(0.3), (0.5,), 0.0, 0.3),
        (Gaussian(), (0.5,), 3.0, 1.0),  # the stored one is not its own
        (GaussianLearned(), (0.5,), -1.2, np.exp(-0.6)),
        (GaussianPixel(), (0.5, 0.8), 0.0, np.exp(0.4)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_gaussian_densities_integrate_to_one(ops, likelihood, y, logvar, sigma):
    """Over one pixel by the trapezium rule, which is exact to rounding here; with its mean and variance."""
    x = np.linspace(0.5 - 12 * sigma, 0.5 + 12 * sigma, 2001)
    outputs = np.broadcast_to(np.array(y), (len(x), 1, len(y))).copy()
    log_px, _ = log_px_of(likelihood, ops, outputs, x[:, None], logvar)
    p, dx = np.exp(log_px[:, 0]), x[1] - x[0]
    assert p.sum() * dx == pytest.approx(1, rel=1e-12)
    assert (p @ x) * dx == pytest.approx(0.5, rel=1e-12)
    assert (p @ (x - 0.5) ** 2) * dx == pytest.approx(sigma**2, rel=1e-12)
    assert likelihood.mean(outputs[:, 0])[0, 0] == 0.5


@BOTH
def test_optimal_sigma_is_the_mean_squared_error(ops):
    rng = rng_of("optimal")
    y, target = rng.standard_normal((4, 3, 5)), rng.standard_normal((4, 5))
    log_px, a = log_px_of(GaussianOptimal(), ops, y, target)
    squared = (target[:, None] - y) ** 2
    assert a.likelihood.logvar[0] == pytest.approx(np.log(squared.mean()), rel=1e-14)
    fixed, _ = log_px_of(Gaussian(np.sqrt(squared.mean())), ops, y, target)
    assert error(log_px, fixed) <= 1e-14
    assert log_px.mean() == pytest.approx(-2.5 * (np.log(2 * np.pi * squared.mean()) + 1), rel=1e-14)


@BOTH
def test_pixel_sigma_of_all_ones_is_the_unit_gaussian(ops):
    rng = rng_of("pixel")
    y, target = rng.standard_normal((4, 3, 5)), rng.standard_normal((4, 5))
    unit, _ = log_px_of(Gaussian(), ops, y, target)
    pixel, _ = log_px_of(GaussianPixel(), ops, np.concatenate([y, 0 * y], axis=-1), target)
    assert error(pixel, unit) <= 1e-14
    assert np.array_equal(GaussianPixel().mean(np.arange(12.0).reshape(2, 6)), [[0, 1, 2], [6, 7, 8]])


def test_remember_is_a_plain_mean_and_then_a_moving_one():
    """The first 100 steps weigh the same; from then on each new one counts a hundredth."""
    p, stored, likelihood = Spread(np.zeros(1)), [], GaussianOptimal()
    variances = rng_of("remember").uniform(0.5, 2, 150)
    for step, variance in enumerate(variances, start=1):
        likelihood.remember(p, SimpleNamespace(likelihood=Spread(np.log([variance]))), step)
        stored.append(np.exp(p.logvar[0]))
    np.testing.assert_allclose(stored[:100], np.cumsum(variances)[:100] / np.arange(1, 101), rtol=1e-12)
    moving = stored[99]
    for variance in variances[100:]:
        moving += 0.01 * (variance - moving)
    assert stored[-1] == pytest.approx(moving, rel=1e-12)
    assert stored[-1] != pytest.approx(variances.mean(), rel=1e-4)


def test_evaluation_of_the_optimal_sigma_reads_the_stored_one():
    likelihood = GaussianOptimal()
    assert likelihood.evaluation() == GaussianLearned()
    assert likelihood.params == likelihood.evaluation().params


# ── What has no density ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("low, high", [(-0.01, 1), (0, 1.01), (0, 255)])
def test_pixels_outside_the_unit_interval_have_no_bernoulli_density(low, high):
    with pytest.raises(InputError, match=rf"these are in \[{low:g}, {high:g}\].*--rescale.*Gaussian"):
        Bernoulli().check(np.array([[low, 0.5], [0.5, high]]))


def test_pixels_in_the_unit_interval_have_one():
    Bernoulli().check(np.array([[0.0, 1.0], [0.5, 0.5]]))
    Bernoulli().check(np.zeros((3, 2)))


@pytest.mark.parametrize("kind", [GaussianLearned, GaussianOptimal, GaussianPixel])
def test_constant_images_have_no_learned_sigma(kind):
    with pytest.raises(InputError, match="all 3 training images are the same: a learned sigma"):
        kind().check_training(np.tile([[0.1, 0.2]], (3, 1)))
    kind().check_training(np.array([[0.1, 0.2], [0.1, 0.3]]))
    kind().check(np.array([[0.1, 0.2]]))


def test_a_fixed_sigma_takes_any_images():
    Gaussian().check(np.full((3, 2), -7.0))
    Gaussian().check_training(np.full((3, 2), -7.0))


@pytest.mark.parametrize("sigma", [0, -1.0, np.nan, np.inf, "1", None, True])
def test_sigma_must_be_a_number_above_zero(sigma):
    with pytest.raises(InputError, match="sigma must be a number above 0"):
        Gaussian(sigma)


# ── By name ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names():
    assert list(LIKELIHOODS) == ["bernoulli", "gaussian", "gaussian-learned", "gaussian-optimal", "gaussian-pixel"]
    for name, kind in LIKELIHOODS.items():
        assert as_likelihood(name) == kind() and as_likelihood(name).name == name
    given = Gaussian(0.3)
    assert as_likelihood(given) is given


@pytest.mark.parametrize("name, nearest", [("gausian", "gaussian"), ("Bernoulli", "bernoulli")])
def test_unknown_names_list_the_known(name, nearest):
    with pytest.raises(InputError, match=rf"expected one of bernoulli, .*gaussian-pixel\. Did you mean '{nearest}'"):
        as_likelihood(name)


@pytest.mark.parametrize("wrong", [None, 3, Bernoulli, object()])
def test_what_is_no_likelihood_is_refused(wrong):
    with pytest.raises(InputError, match="unknown likelihood"):
        as_likelihood(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_every_likelihood_has_the_same_face(kind):
    for method in ("forward", "backward", "check"):
        assert inspect.signature(getattr(kind, method)) == inspect.signature(getattr(Bernoulli, method))
    assert kind().outputs == (2 if kind is GaussianPixel else 1)
