"""The optimisers' rules: against the published algorithms in plain Python, on both backends."""

import math
import tracemalloc

import numpy as np
import pytest
from op_cases import error, same

from npvae.ops import jit, reference
from npvae.ops.updates import BLOCK

PRECISIONS = ((np.float32, 1e-6), (np.float64, 1e-14))
BACKENDS = pytest.mark.parametrize("ops", (reference, jit), ids=("reference", "jit"))
FLOATS = pytest.mark.parametrize("dtype, tolerance", PRECISIONS, ids=("float32", "float64"))


def everywhere(test):
    """On both backends, in both precisions."""
    return BACKENDS(FLOATS(test))


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


# ── On both backends ─────────────────────────────────────────────────────────────────────────────────────────────────


@everywhere
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


@everywhere
def test_adam_moves_by_its_rate_at_first(ops, dtype, tolerance):
    """Bias correction makes the first step rate * sign(g), however small the gradient."""
    theta, g = np.zeros(3, dtype), np.array([1e-5, -3.0, 1e5], dtype)
    ops.adam_step(theta, g, np.zeros_like(g), np.zeros_like(g), 0.01, 0.9, 0.999, 0.0, 1, 1.0)
    assert error(theta, np.array([-0.01, 0.01, -0.01])) <= tolerance


@everywhere
def test_global_norm(ops, dtype, tolerance):
    v = np.random.default_rng(4).standard_normal(1001).astype(dtype)
    norm = ops.global_norm(v)
    assert type(norm) is float
    assert norm == pytest.approx(math.sqrt(math.fsum(float(x) ** 2 for x in v)), rel=1e-14)
    assert ops.global_norm(np.full(4, 1e30, dtype)) == pytest.approx(2e30, rel=1e-6)  # 1e60 is no float32
    assert ops.global_norm(np.empty(0, dtype)) == 0
    v[500] = np.nan
    assert math.isnan(ops.global_norm(v))


@everywhere
def test_a_nan_gradient_spoils_its_own_parameter_alone(ops, dtype, tolerance):
    for rule, (_, name, numbers) in RULES.items():
        theta, g = np.zeros(3, dtype), np.array([1, np.nan, 1], dtype)
        vectors = [np.zeros_like(g) for _ in range(2 if rule == "adam" else 1)]
        extra = {"step": 1} if rule == "adam" else {}
        getattr(ops, name)(theta, g, *vectors, **numbers, scale=1.0, **extra)
        assert np.isnan(theta).tolist() == [False, True, False]


# ── The reference, which goes through the vectors in blocks ──────────────────────────────────────────────────────────


def vectors_of(rule, count, dtype):
    """theta, gradient and moments, as after some steps."""
    rng = np.random.default_rng(5)
    vectors = [rng.standard_normal(count).astype(dtype) for _ in range(4 if rule == "adam" else 3)]
    vectors[-1] = vectors[-1] ** 2
    return vectors


def apply(rule, vectors):
    _, name, numbers = RULES[rule]
    getattr(reference, name)(*vectors, **numbers, scale=SCALE, **({"step": 3} if rule == "adam" else {}))


@FLOATS
@pytest.mark.parametrize("rule", RULES)
def test_any_part_of_a_long_vector_is_stepped_by_itself(dtype, tolerance, rule):
    """More than two blocks, cut elsewhere than at their ends: the same bits."""
    count = 2 * BLOCK + 5
    whole, parts = vectors_of(rule, count, dtype), vectors_of(rule, count, dtype)
    apply(rule, whole)
    for part in (slice(0, 7), slice(7, BLOCK + 1), slice(BLOCK + 1, count - 1), slice(count - 1, count)):
        apply(rule, [vector[part] for vector in parts])
    for a, b in zip(whole, parts, strict=True):
        assert same(a, b)


@FLOATS
@pytest.mark.parametrize("rule", RULES)
def test_nothing_of_the_size_of_theta_is_allocated(dtype, tolerance, rule):
    vectors = vectors_of(rule, 20 * BLOCK, dtype)
    for use in (lambda: apply(rule, vectors), lambda: reference.global_norm(vectors[1])):
        tracemalloc.start()
        use()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2.2 * BLOCK * 8 < vectors[0].nbytes / 4


@pytest.mark.parametrize("rule", RULES)
def test_the_reference_steps_along_complex_numbers(rule):
    """What the rules do to the imaginary part is their derivative: by the gradient, one complex step."""
    theta, g, *moments = vectors_of(rule, 11, float)
    h, after = 1e-5, []
    for shift in (1e-30j, h, -h):
        vectors = [v.astype(complex) for v in (theta, g + shift, *moments)]
        apply(rule, vectors)
        after.append(vectors[0])
    derivative = after[0].imag / 1e-30
    assert error(derivative, (after[1] - after[2]).real / (2 * h)) <= 1e-7
    assert np.abs(derivative).min() > 0
