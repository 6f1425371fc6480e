"""The compiled ops against the reference, on any sizes and any numbers.

Under NUMBA_DISABLE_JIT=1 the same tests run the kernels as Python, on smaller arrays.
"""

import hashlib
import os
import subprocess
import sys
import tracemalloc
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba import config
from op_cases import CASES, Sizes, error, same
from test_ops import check_contract, rng_of

from npvae.ops import jit, reference, threads

EVERY = pytest.mark.parametrize("case", CASES, ids=str)
FLOATS = pytest.mark.parametrize("dtype", (np.float32, np.float64), ids=("float32", "float64"))
LARGE = Sizes(2, 3, 7, 5, 3) if config.DISABLE_JIT else Sizes(13, 5, 131, 67, 29)

EVERYWHERE = (np.nan, np.inf, -np.inf, 1e4, -1e4, 1e-30, 0.0, -0.0)
EXTREMES = {  # of what is not drawn from everywhere
    "target": (np.nan, 0.0, 1.0),
    "rate": (np.nan, np.inf, -np.inf, 1e4, 0.0),  # summed: 1e4 and -1e4 would leave rounding alone
}
COTANGENTS = (np.nan, np.inf, 0.0)

examples = settings(
    max_examples=40 if config.DISABLE_JIT else 60,
    deadline=None,  # the first call compiles
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors],
)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def sizes(draw, case, samples=(1, 2, 3, 5, 17)):
    """B, K, D, H, Z: empty, single, odd, a vector register's width and beyond."""
    if config.DISABLE_JIT:
        widths, samples = (1, 2, 5), samples[:3]
    else:
        widths = (1, 2, 3, 8, 17, 33, 64)
    batches, widths = ((0, 1, 3, 7), (0, *widths)) if case.empty else ((1, 2, 3, 7), widths)
    one_of = st.sampled_from
    return Sizes(*(draw(one_of(among)) for among in (batches, samples, widths, widths, widths)))


def tolerance(case, dtype):
    return 1e-13 if dtype == np.float64 else 1e-5 if case.transcendental else 1e-6


def spike(rng, values, default=EVERYWHERE):
    """Put extreme values into arrays, here and there."""
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            extremes = rng.choice(EXTREMES.get(name, default), value.shape)
            value[...] = np.where(rng.random(value.shape) < 0.15, extremes, value)


def compare(case, dtype, sizes, seed, extreme=False):
    """Outputs and derivatives of the two backends, backward on the reference's outputs."""
    rng = np.random.default_rng(seed)
    inputs = case.inputs(rng, sizes, dtype)
    if extreme:
        spike(rng, inputs)
    outputs = case.forward(reference, inputs)
    cotangents = case.cotangents(rng, outputs)
    if extreme:
        spike(rng, cotangents, COTANGENTS)
    arguments = case.arguments(cotangents, inputs, outputs)
    derivatives = case.backward(reference, arguments)
    size = derivatives
    if extreme and "W" in arguments:  # products, whose large terms may cancel: what they add up to where none does
        size = case.backward(reference, arguments | {k: abs(v) for k, v in arguments.items() if k in ("dy", "x", "W")})
    for expected, result, scale in (
        (outputs, case.forward(jit, inputs), outputs),
        (derivatives, case.backward(jit, arguments), size),
    ):
        for name in expected:
            assert result[name].dtype == expected[name].dtype, name
            assert error(result[name], expected[name], scale[name]) <= tolerance(case, dtype), name


@EVERY
@FLOATS
@given(data=st.data(), seed=seeds)
@examples
def test_agrees_with_the_reference(case, dtype, data, seed):
    compare(case, dtype, data.draw(sizes(case)), seed)


@EVERY
@FLOATS
def test_agrees_with_the_reference_on_large_arrays(case, dtype):
    compare(case, dtype, LARGE, seed=5)


@EVERY
@FLOATS
@given(data=st.data(), seed=seeds)
@examples
def test_agrees_with_the_reference_at_extremes(case, dtype, data, seed):
    """NaN and inf stand where the reference has them: nothing is clipped, nothing hidden."""
    with np.errstate(all="ignore"):
        compare(case, dtype, data.draw(sizes(case, samples=(1, 2, 3, 5))), seed, extreme=True)


@pytest.mark.parametrize("case, mutation", [(c, m) for c in CASES for m in c.mutations], ids=str)
def test_a_wrong_backward_is_caught(case, mutation, monkeypatch):
    op = f"{case.op}_backward"
    monkeypatch.setattr(jit, op, getattr(case.broken(jit, case.mutations[mutation]), op))
    for dtype in (np.float32, np.float64):
        with pytest.raises(AssertionError):
            compare(case, dtype, Sizes(4, 3, 5, 5, 3), seed=6)


@EVERY
@FLOATS
@given(data=st.data())
@settings(examples, max_examples=5)
def test_contract(case, dtype, data):
    check_contract(case, jit, data.draw(sizes(case)), dtype)


# ── Bits ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def outcome(case, dtype, offset=0):
    """All that the op returns; every array starts `offset` numbers into its memory."""
    rng = rng_of(case)
    size = Sizes(3, 2, 9, 5, 3) if config.DISABLE_JIT else Sizes(7, 5, 131, 67, 29)

    def moved(values):
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                room = np.empty(value.size + offset, value.dtype)
                values[name] = room[offset:].reshape(value.shape)
                values[name][...] = value
        return values

    inputs = moved(case.inputs(rng, size, dtype))
    outputs = case.forward(jit, inputs)
    arguments = moved(case.arguments(case.cotangents(rng, outputs), inputs, outputs))
    return *outputs.values(), *case.backward(jit, arguments).values()


@EVERY
@FLOATS
def test_bits_do_not_depend_on_where_arrays_lie(case, dtype):
    first = outcome(case, dtype)
    for offset in (0, 1, 3):
        assert all(same(a, b) for a, b in zip(first, outcome(case, dtype, offset), strict=True))


def digest():
    """One number for the bits of all ops."""
    bits = hashlib.sha256()
    for case in CASES:
        for part in outcome(case, np.float32):
            bits.update(np.asarray(part).tobytes())
    return bits.hexdigest()


def python(code, **environment):
    """Run `code` in a process of its own, next to the tests."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    here = Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=here)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_bits_do_not_depend_on_the_process():
    assert python("import test_jit; print(test_jit.digest())") == digest()


# ── Memory, layouts ─────────────────────────────────────────────────────────────────────────────────────────────


@EVERY
def test_nothing_of_the_size_of_an_activation_is_allocated(case):
    if config.DISABLE_JIT and case.op in ("dense", "tied"):
        pytest.skip("uncompiled, a tile of the product is a NumPy expression")
    rng = rng_of(case)
    size = Sizes(4, 3, 300, 300, 300)
    inputs = case.inputs(rng, size)
    outputs = case.forward(jit, inputs)
    arguments = case.arguments(case.cotangents(rng, outputs), inputs, outputs)
    gradients = case.backward(jit, arguments)
    room = case.room(jit, inputs)
    extra = {} if room is None else {"scratch": np.empty(room)}
    tracemalloc.start()
    try:
        case.forward(jit, inputs, out={name: outputs[name] for name in case.buffers} or None)
        case.backward(jit, arguments, out=gradients, **extra)
        assert tracemalloc.get_traced_memory()[1] < 4 * 300 * 8
    finally:
        tracemalloc.stop()


@FLOATS
def test_other_layouts_give_the_same(dtype):
    """Neither inputs nor `out` need be contiguous. (A sum may then be compiled in another order.)"""
    rng = np.random.default_rng(7)
    logits = rng.standard_normal((2, 5, 3)).astype(dtype).transpose(0, 2, 1)
    target = rng.random((2, 5)).astype(dtype)
    out = np.full((2, 6, 5), np.nan, dtype)[:, ::2]
    jit.bernoulli_backward(np.ones((2, 3)), logits, target, out=out)
    assert same(out.copy(), jit.bernoulli_backward(np.ones((2, 3)), logits.copy(order="C"), target))
    log_px = jit.bernoulli_forward(logits, target)
    assert error(log_px, jit.bernoulli_forward(logits.copy(order="C"), target)) <= np.finfo(dtype).eps


@pytest.mark.parametrize("source", [np.float32, np.float64, bool, np.uint8])
@pytest.mark.parametrize("count", [0, 1, 5, 1000])
@pytest.mark.parametrize("ops", [reference, jit], ids=["reference", "jit"])
def test_copy(ops, count, source):
    """Shared out or not, of another dtype, read-only or with gaps: all of it, and nothing else is written."""
    a = (rng_of("copy").random((count, 3)) * 9).astype(source)
    shut = a.copy()
    shut.flags.writeable = False
    for layout in (a, shut, np.repeat(a, 2, axis=1)[:, ::2]):
        for shared in (nullcontext(), threads.cut_all()):
            memory = np.full((count + 1, 3), np.nan, np.float32)
            with shared:
                ops.copy(layout, memory[:count])
            assert np.array_equal(memory[:count], a.astype(np.float32)) and np.isnan(memory[count]).all()
            gaps = np.zeros((count, 6), np.float32)
            ops.copy(layout, gaps[:, ::2])
            assert np.array_equal(gaps[:, ::2], a.astype(np.float32)) and not gaps[:, 1::2].any()
