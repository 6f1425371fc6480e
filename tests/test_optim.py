"""The optimisers against a plain scalar re-implementation of their papers, schedules at their corners."""

import math
from itertools import pairwise

import numpy as np
import pytest
from op_cases import error
from test_ops import BACKENDS, rng_of

from npvae.errors import InputError
from npvae.flat import carve, leaves
from npvae.optim import (
    SGD,
    Adam,
    AdamW,
    RMSProp,
    as_schedule,
    check_clip,
    clip_scale,
    constant,
    cosine,
    linear_warmup,
    make_schedule,
    step_decay,
)
from npvae.vae import VAE
from npvae.workspace import Workspace

BOTH = pytest.mark.parametrize("backend", BACKENDS)
STEPS = 6


def workspace(backend="reference", dtype="float64"):
    """A small model with gradients allocated and every parameter away from 0."""
    model = VAE(4, (3,), 2, likelihood="gaussian-learned")
    ws = Workspace(model, 2, 1, dtype, backend)
    ws.forward(np.ones((2, 4)))
    ws.backward()
    ws.theta[:] = rng_of("theta").uniform(0.5, 1.5, ws.theta.size)
    return ws


# ── One number at a time, from the papers ────────────────────────────────────────────────────────────────────────


def sgd(theta, gradients, lr, momentum):
    velocity = 0.0
    for rate, g in zip(lr, gradients, strict=True):
        velocity = momentum * velocity + g
        theta = theta - rate * velocity
    return theta


def rmsprop(theta, gradients, lr, decay, epsilon):
    square = 0.0
    for rate, g in zip(lr, gradients, strict=True):
        square = decay * square + (1 - decay) * g * g
        theta = theta - rate * g / (math.sqrt(square) + epsilon)
    return theta


def adam(theta, gradients, lr, beta1, beta2, epsilon, weight_decay=0.0):
    mean = square = 0.0
    for t, (rate, g) in enumerate(zip(lr, gradients, strict=True), start=1):
        mean = beta1 * mean + (1 - beta1) * g
        square = beta2 * square + (1 - beta2) * g * g
        theta = theta - rate * weight_decay * theta
        theta = theta - rate * (mean / (1 - beta1**t)) / (math.sqrt(square / (1 - beta2**t)) + epsilon)
    return theta


RATES = [0.1, 0.05, 0.2, 0.1, 0.3, 0.1]
CASES = {
    "sgd": (SGD, {"momentum": 0.8}, sgd),
    "descent": (SGD, {"momentum": 0.0}, sgd),
    "rmsprop": (RMSProp, {"decay": 0.7, "epsilon": 1e-2}, rmsprop),
    "adam": (Adam, {"beta1": 0.7, "beta2": 0.9, "epsilon": 1e-2}, adam),
}


def run(optimizer, gradients):
    for gradient in gradients:
        optimizer.ws.dtheta[:] = gradient
        optimizer.step()


@BOTH
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_optimizer_is_its_scalar_formula(name, dtype, backend):
    kind, options, by_hand = CASES[name]
    ws = workspace(backend, dtype)
    start, gradients = ws.theta.astype(float), rng_of(name).standard_normal((STEPS, ws.theta.size))
    gradients = gradients.astype(dtype)
    optimizer = kind(ws, lr=lambda step: RATES[step], **options)
    run(optimizer, gradients)
    expected = [by_hand(*entry, RATES, **options) for entry in zip(start, gradients.T.astype(float), strict=True)]
    assert error(ws.theta - start, np.array(expected) - start) <= (1e-13 if dtype == "float64" else 2e-6)
    assert optimizer.steps == STEPS
    assert all(moment.dtype == ws.theta.dtype for moment in optimizer.state.values())


@BOTH
def test_adamw_decays_matrices_only(backend):
    """Biases and log sigma^2 take Adam's step exactly."""
    ws, plain = workspace(backend), workspace(backend)
    start, gradients = ws.theta.copy(), rng_of("adamw").standard_normal((STEPS, ws.theta.size))
    options = {"beta1": 0.7, "beta2": 0.9, "epsilon": 1e-2}
    run(AdamW(ws, lr=lambda step: RATES[step], weight_decay=0.3, **options), gradients)
    run(Adam(plain, lr=lambda step: RATES[step], **options), gradients)
    expected = [adam(*entry, RATES, **options, weight_decay=0.3) for entry in zip(start, gradients.T, strict=True)]
    decayed = carve(ws.model.params(), np.array(expected))
    matrices = 0
    for (name, view), (_, same), (_, other) in zip(
        leaves(ws.params), leaves(plain.params), leaves(decayed), strict=True
    ):
        if name.endswith(".W"):
            matrices += 1
            assert error(view, other) <= 1e-13, name
            assert (view != same).all()
        else:
            assert np.array_equal(view, same), name
    assert matrices == 4 and "likelihood.logvar" in dict(leaves(ws.params))


def test_adamw_without_decay_is_adam():
    a, b = workspace(), workspace()
    gradients = rng_of("adam").standard_normal((STEPS, a.theta.size))
    run(AdamW(a, weight_decay=0.0), gradients)
    run(Adam(b), gradients)
    assert np.array_equal(a.theta, b.theta)


def test_first_step_of_adam_is_the_rate():
    """Whatever the gradient's size: this is what dividing the moments by 1 - beta^t is for."""
    ws = workspace()
    start = ws.theta.copy()
    ws.dtheta[:] = np.where(np.arange(ws.theta.size) % 2, 1e-3, -1e3)
    Adam(ws, lr=0.01, epsilon=0.0).step()
    np.testing.assert_allclose(start - ws.theta, 0.01 * np.sign(ws.dtheta), rtol=1e-12)


OPTIMIZERS = pytest.mark.parametrize("kind", [SGD, RMSProp, Adam, AdamW])


@OPTIMIZERS
def test_a_step_needs_a_gradient(kind):
    ws = Workspace(VAE(5, (4,), 2), 3)
    before = ws.theta.copy()
    with pytest.raises(InputError, match=r"call ws\.forward and ws\.backward first"):
        kind(ws).step()
    assert np.array_equal(ws.theta, before)


@BOTH
@OPTIMIZERS
def test_clipping_scales_the_gradient_and_leaves_it_alone(kind, backend):
    clipped, scaled = workspace(backend), workspace(backend)
    gradient = rng_of("clip").standard_normal(clipped.theta.size)
    norm = np.linalg.norm(gradient)
    a, b = kind(clipped, clip=0.25), kind(scaled)
    for size in (1.0, 3.0):
        run(a, [size * gradient])
        assert np.array_equal(clipped.dtheta, size * gradient)
        run(b, [gradient * (0.25 / norm)])
    assert error(clipped.theta - scaled.theta, np.zeros_like(scaled.theta)) <= 1e-14
    assert clip_scale(clipped, 0.25) == pytest.approx(0.25 / (3 * norm), rel=1e-14)


@BOTH
def test_short_gradients_are_not_clipped(backend):
    ws = workspace(backend)
    ws.dtheta[:] = 0
    ws.dtheta[:2] = (3, 4)
    assert clip_scale(ws, None) == clip_scale(ws, 5.0) == clip_scale(ws, 6.0) == 1
    assert clip_scale(ws, 2.5) == 0.5
    ws.dtheta[:] = 0
    assert clip_scale(ws, 2.5) == 1
    ws.dtheta[0] = np.nan
    assert not clip_scale(ws, 2.5) <= 1  # stays visible


@OPTIMIZERS
def test_a_quadratic_converges(kind):
    """The gradient of |theta - goal|^2/2 with curvatures over a factor of ten; decay would move the goal."""
    ws = workspace()
    goal, curvature = np.linspace(-1, 1, ws.theta.size), np.linspace(0.3, 3, ws.theta.size)
    options = {"weight_decay": 0.0} if kind is AdamW else {}
    optimizer = kind(ws, lr=cosine(0.05, 600), **options)
    for _ in range(600):
        ws.dtheta[:] = curvature * (ws.theta - goal)
        optimizer.step()
    assert np.abs(ws.theta - goal).max() < 1e-3


def test_optimizers_lower_a_real_loss():
    for kind in (SGD, RMSProp, Adam, AdamW):
        ws = workspace()
        x, eps = rng_of("x").random((2, 4)), np.zeros((2, 1, 2))
        optimizer = kind(ws, lr=1e-2)
        losses = []
        for _ in range(30):
            losses.append(ws.forward(x, eps=eps))
            ws.backward()
            optimizer.step()
        assert losses[-1] < 0.8 * losses[0]


# ── Schedules ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_constant():
    assert [constant(0.3)(step) for step in (0, 1, 10**9)] == [0.3] * 3


def test_step_decay():
    schedule = step_decay(1.0, every=3, factor=0.5)
    assert [schedule(step) for step in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert step_decay(2.0, every=1)(2) == pytest.approx(0.02, rel=1e-15)


def test_cosine():
    schedule = cosine(3.0, steps=10, final=1.0)
    assert schedule(0) == 3 and schedule(10) == schedule(11) == schedule(10**9) == 1
    assert schedule(5) == pytest.approx(2, rel=1e-15)
    assert schedule(1) == pytest.approx(2 + math.cos(math.pi / 10), rel=1e-15)
    rates = [schedule(step) for step in range(11)]
    assert all(after < before for before, after in pairwise(rates))


def test_linear_warmup():
    schedule = linear_warmup(step_decay(1.0, every=6), steps=4)
    assert [schedule(step) for step in range(7)] == [0.25, 0.5, 0.75, 1, 1, 1, pytest.approx(0.1)]
    assert linear_warmup(constant(1.0), steps=0)(0) == 1
    assert linear_warmup(constant(1.0), steps=1)(0) == 1


def test_schedules_by_name():
    assert [make_schedule("constant", 0.3, 9, 0)(step) for step in (0, 8)] == [0.3, 0.3]
    rates = [make_schedule("step", 1.0, 9, 0)(step) for step in range(9)]
    assert rates == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3)
    assert make_schedule("cosine", 1.0, 9, 0)(9) == 0
    assert [make_schedule("constant", 1.0, 9, 2)(step) for step in range(3)] == [0.5, 1, 1]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("cosin", 0.1, 9, 0), "unknown schedule 'cosin'.*Did you mean 'cosine'"),
        (("constant", 0.0, 9, 0), "lr must be a number above 0"),
        (("constant", 0.1, 9, -1), "lr_warmup must be a whole number of at least 0"),
        (("constant", 0.1, 9, 1.5), "lr_warmup must be a whole number"),
    ],
)
def test_impossible_schedules_are_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        make_schedule(*arguments)


@OPTIMIZERS
def test_the_schedule_counts_steps_from_zero(kind):
    seen = []
    ws = workspace()
    optimizer = kind(ws, lr=lambda step: seen.append(step) or 0.1)
    for _ in range(3):
        optimizer.step()
    assert sorted(set(seen)) == [0, 1, 2] and optimizer.steps == 3


def test_a_number_is_a_constant_schedule():
    schedule = cosine(1.0, 3)
    assert as_schedule(schedule) is schedule
    assert as_schedule(0.2)(7) == 0.2


@OPTIMIZERS
@pytest.mark.parametrize("wrong", [0, -0.1, math.nan, math.inf, "fast", None, True])
def test_a_rate_must_be_above_zero(kind, wrong):
    with pytest.raises(InputError, match="lr must be a number above 0"):
        kind(workspace(), lr=wrong)


@OPTIMIZERS
@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf, "1"])
def test_a_clip_must_be_above_zero(kind, wrong):
    with pytest.raises(InputError, match="clip must be a number above 0"):
        kind(workspace(), clip=wrong)
    assert check_clip(None) is None and check_clip(2) == 2


@pytest.mark.parametrize(
    "kind, options",
    [
        (SGD, {"momentum": 1.0}),
        (SGD, {"momentum": -0.1}),
        (RMSProp, {"decay": 1.0}),
        (RMSProp, {"epsilon": -1e-8}),
        (Adam, {"beta1": 1.0}),
        (Adam, {"beta2": 1.0}),
        (Adam, {"beta2": math.nan}),
        (Adam, {"epsilon": math.inf}),
        (AdamW, {"weight_decay": -0.1}),
        (AdamW, {"beta1": 2}),
    ],
)
def test_other_settings_are_checked(kind, options):
    with pytest.raises(InputError, match=f"{next(iter(options))} must be a number"):
        kind(workspace(), **options)
