"""The optimisers' rules: against the published algorithms in plain Python, on both backends."""

import math

import numpy as np
import pytest
from op_cases import error, same

from npvae.ops import jit, reference

PRECISIONS = ((np.float32, 1e-6), (np.float64, 1e-14))
pytestmark = [
    pytest.mark.parametrize("ops", (reference, jit), ids=("reference", "jit")),
    pytest.mark.parametrize("dtype, tolerance", PRECISIONS, ids=("float32", "float64")),
]
SCALE = 0.3  # as clipping asks for


def sgd(theta, gradients, rate, momentum):
    velocity = 0.0
    for g in gradients:
        velocity = momentum * velocity + g
        theta = theta - rate * velocity
        yield theta, velocity


def rmsprop(theta, gradients, rate, decay, epsilon):
    square = 0.0
    for g in gradients:
        square = decay * square + (1 - decay) * g**2
        theta = theta - rate * g / (math.sqrt(square) + epsilon)
        yield theta, square


def adam(theta, gradients, rate, beta1, beta2, epsilon):
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - rate * m_hat / (math.sqrt(v_hat) + epsilon)
        yield theta, m, v


RULES = {  # rule, op, numbers; epsilon is large enough to be seen inside a root
    "sgd": (sgd, "sgd_step", {"rate": 0.1, "momentum": 0.9}),
    "plain sgd": (sgd, "sgd_step", {"rate": 0.1, "momentum": 0}),
    "rmsprop": (rmsprop, "rmsprop_step", {"rate": 0.1, "decay": 0.9, "epsilon": 1e-3}),
    "adam": (adam, "adam_step", {"rate": 0.1, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-3}),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", (1, 37))
def test_steps_are_the_published_algorithm(ops, dtype, tolerance, rule, count):
    algorithm, name, numbers = RULES[rule]
    rng = np.random.default_rng(3)
    theta, gradients = rng.standard_normal(count).astype(dtype), rng.standard_normal((6, count)).astype(dtype)
    start = theta.copy()
    vectors = [theta, *(np.zeros_like(theta) for _ in range(2 if rule == "adam" else 1))]
    scaled = SCALE * gradients.astype(np.float64)
    histories = [list(algorithm(float(start[i]), scaled[:, i].tolist(), **numbers)) for i in range(count)]
    for t, g in enumerate(gradients):
        kept = g.copy()
        extra = {"step": t + 1} if rule == "adam" else {}
        getattr(ops, name)(vectors[0], g, *vectors[1:], **numbers, scale=SCALE, **extra)
        assert same(g, kept), "the gradient was written to"
        for vector, exact in zip(vectors, np.array([history[t] for history in histories]).T, strict=True):
            assert vector.dtype == dtype
            assert error(vector, exact) <= tolerance, (t, vector, exact)


def test_adam_moves_by_its_rate_at_first(ops, dtype, tolerance):
    """Bias correction makes the first step rate * sign(g), however small the gradient."""
    theta, g = np.zeros(3, dtype), np.array([1e-5, -3.0, 1e5], dtype)
    ops.adam_step(theta, g, np.zeros_like(g), np.zeros_like(g), 0.01, 0.9, 0.999, 0.0, 1, 1.0)
    assert error(theta, np.array([-0.01, 0.01, -0.01])) <= tolerance


def test_global_norm(ops, dtype, tolerance):
    v = np.random.default_rng(4).standard_normal(1001).astype(dtype)
    norm = ops.global_norm(v)
    assert type(norm) is float
    assert norm == pytest.approx(math.sqrt(math.fsum(float(x) ** 2 for x in v)), rel=1e-14)
    assert ops.global_norm(np.full(4, 1e30, dtype)) == pytest.approx(2e30, rel=1e-6)  # 1e60 is no float32
    assert ops.global_norm(np.empty(0, dtype)) == 0
    v[500] = np.nan
    assert math.isnan(ops.global_norm(v))


def test_a_nan_gradient_spoils_its_own_parameter_alone(ops, dtype, tolerance):
    for rule, (_, name, numbers) in RULES.items():
        theta, g = np.zeros(3, dtype), np.array([1, np.nan, 1], dtype)
        vectors = [np.zeros_like(g) for _ in range(2 if rule == "adam" else 1)]
        extra = {"step": 1} if rule == "adam" else {}
        getattr(ops, name)(theta, g, *vectors, **numbers, scale=1.0, **extra)
        assert np.isnan(theta).tolist() == [False, True, False]
