"""Elementary functions against libm in twice the precision and against decimal arithmetic; and that they vectorise.

Under NUMBA_DISABLE_JIT=1 the same tests run the functions as Python, on fewer numbers.
"""

import importlib.util
import math
import os
import platform
import re
import subprocess
import sys
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import config, njit

from npvae.ops import elementary
from npvae.ops.compiling import CAREFUL, SUM

NAMES = ("exp", "exp_of_minus_abs", "expm1", "tanh", "sigmoid", "log1p", "softplus_of_minus_abs", "softplus")
EVERY = pytest.mark.parametrize("name", NAMES)
FLOATS = pytest.mark.parametrize("dtype", (np.float32, np.float64), ids=("float32", "float64"))
COMPILED = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="of compiled code")
STRIDE = 499_979 if config.DISABLE_JIT else 1999  # over the bit patterns of float32

examples = settings(max_examples=40 if config.DISABLE_JIT else 100, deadline=None, derandomize=True, database=None)


def looped(function, fastmath=CAREFUL):
    """A kernel that applies the function, as those that use it do."""

    @njit(error_model="numpy", fastmath=set(fastmath))
    def loop(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    return loop


LOOPS = {name: looped(getattr(elementary, name)) for name in NAMES}


def apply(name, x, loops=LOOPS):
    y = np.full_like(x, 7)
    loops[name](x, y)
    return y


def bound(name, dtype):
    """What the docstring promises, in ulp."""
    text = getattr(elementary, name).__doc__
    single, double = re.search(r"At most ([\d.]+) ulp in float32, ([\d.]+) in float64\.$", text).groups()
    return float(single if dtype == np.float32 else double)


# ── What is right ────────────────────────────────────────────────────────────────────────────────────────────────


def wide(name, a):
    """In float64, by NumPy."""
    with np.errstate(all="ignore"):
        a = a.astype(np.float64)
        e = np.exp(-np.abs(a))
        match name:
            case "exp_of_minus_abs":
                return e
            case "sigmoid":
                return np.where(a > 0, 1, e) / (1 + e)
            case "softplus_of_minus_abs":
                return np.log1p(e)
            case "softplus":
                return np.maximum(a, 0) + np.log1p(e)
            case _:
                return getattr(np, name)(a)


def exact(name, a):
    """Of a finite number, to 40 digits at least."""
    with localcontext() as context:
        context.prec = 60 + 2 * max(0, -math.frexp(a)[1]) * 3 // 10  # a^2 beside 1 is still seen
        a = Decimal(a)
        b = min(max(a, Decimal(-800)), Decimal(800))  # where e^b is 0 or infinite to float64
        e = (-abs(b)).exp()
        match name:
            case "exp":
                return b.exp()
            case "exp_of_minus_abs":
                return e
            case "expm1":
                return b.exp() - 1
            case "tanh":
                return ((1 - e * e) / (1 + e * e)).copy_sign(a)
            case "sigmoid":
                return 1 / (1 + (-b).exp())
            case "log1p":
                return (1 + a).ln()
            case "softplus_of_minus_abs":
                return tail(e)
            case "softplus":
                return max(a, Decimal(0)) + tail(e)


def tail(e):
    """log(1 + e), e down to e^-800."""
    return (1 + e).ln() if e > Decimal("1e-25") else e - e * e / 2


def errors(y, expected):
    """In ulp of y's dtype; infinite where one is NaN or infinite or minus zero and the other is not."""
    with np.errstate(all="ignore"):
        rounded = expected.astype(y.dtype)
        special = ~np.isfinite(y) | ~np.isfinite(rounded) | ((y == 0) & (rounded == 0))
        same = ((y == rounded) & (np.signbit(y) == np.signbit(rounded))) | (np.isnan(y) & np.isnan(rounded))
        ulp = np.abs(y - expected) / np.spacing(np.abs(rounded)).astype(expected.dtype)
    return np.where(special, np.where(same, 0, np.inf), ulp)


def exact_error(name, a, y):
    """The same, for one float64."""
    if name == "log1p" and a <= -1:
        return 0 if (y == -math.inf if a == -1 else math.isnan(y)) else math.inf
    if name in ("expm1", "log1p", "tanh") and a == 0:
        return 0 if y == 0 and math.copysign(1, y) == math.copysign(1, a) else math.inf
    expected = exact(name, a)
    if math.isinf(float(expected)) or not math.isfinite(y):
        return 0 if y == float(expected) else math.inf
    return float(abs(Decimal(y) - expected) / Decimal(math.ulp(float(expected))))


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def patterns(stride):
    """Every so many float32, of all there are: denormal, infinite and NaN among them."""
    for start in range(0, 2**32, 2**20 * stride):
        chunk = np.arange(start, min(start + 2**20 * stride, 2**32), stride, np.uint64)
        x = chunk.astype(np.uint32).view(np.float32)
        yield np.where(np.isnan(x), np.float32(np.nan), x)  # a signalling one would make NumPy warn


def worst(name, stride, loops=LOOPS):
    return max(errors(apply(name, x, loops), wide(name, x)).max() for x in patterns(stride))


@EVERY
def test_float32_everywhere(name):
    assert worst(name, STRIDE) <= bound(name, np.float32)


@EVERY
def test_float32_densely_where_the_functions_turn(name):
    """Around 0, +-1, the steps of n from +-ln(2)/2 on, and the ends of what exp can express."""
    few, around = (20, 3) if config.DISABLE_JIT else (20000, 1000)
    x = np.linspace(-18, 18, 10 * few, dtype=np.float32)
    centres = np.array([0, 1, -1, 0.34657359, -0.34657359, 88.72283, -87.33655, -103.97208, 2**-24], np.float32)
    near = centres.view(np.int32)[:, None] + np.arange(-around, around, dtype=np.int32)
    x = np.concatenate([x, near.astype(np.int32).view(np.float32).ravel()])
    x = x[~np.isnan(x)]
    assert errors(apply(name, x), wide(name, x)).max() <= bound(name, np.float32)


@EVERY
def test_float64(name):
    rng = np.random.default_rng(3)
    n = 100 if config.DISABLE_JIT else 300
    x = np.concatenate([
        rng.uniform(-3, 3, 2 * n),
        rng.uniform(-750, 750, n),
        rng.standard_normal(n) * 10.0 ** rng.uniform(-18, 2, n),
        rng.integers(0, 2**63, n // 5, dtype=np.uint64).view(np.float64),
        -rng.integers(0, 2**63, n // 5, dtype=np.uint64).view(np.float64),
    ])  # fmt: skip
    x = x[np.isfinite(x) & ((np.abs(x) > 1e-30) | (x == 0))]
    y = apply(name, x)
    assert max(map(exact_error, [name] * x.size, x.tolist(), y.tolist())) <= bound(name, np.float64)


@COMPILED
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of this family")
def test_without_fused_products():
    """On a processor that has none the errors stay within the same bounds."""
    code = (
        "import numpy as np, test_elementary as t\n"
        "for name in ('exp', 'tanh', 'sigmoid', 'log1p', 'softplus'):\n"
        "    error = t.worst(name, 100_003)\n"
        "    assert error <= t.bound(name, np.float32), (name, error)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


@COMPILED
@pytest.mark.parametrize("name", ["tanh", "log1p"])
def test_in_a_kernel_that_may_reorder_sums(name):
    """What it may do to its own sums it may not do to those inside."""
    assert worst(name, 100_003, {name: looped(getattr(elementary, name), SUM)}) <= bound(name, np.float32)


@EVERY
def test_the_bounds_are_worth_having(name):
    assert bound(name, np.float32) <= 4 and bound(name, np.float64) <= 4


@EVERY
@given(a=st.floats(width=32))
@example(a=-100.0)
@examples
def test_any_float32(name, a):
    x = np.array([a], np.float32)
    assert errors(apply(name, x), wide(name, x)).max() <= bound(name, np.float32)


@EVERY
@given(a=st.floats(allow_nan=False, allow_infinity=False))
@example(a=-740.0)
@example(a=709.782712893384)
@example(a=709.7827128933841)
@examples
def test_any_float64(name, a):
    assert exact_error(name, a, apply(name, np.array([a]))[0].item()) <= bound(name, np.float64)


# ── Special values ───────────────────────────────────────────────────────────────────────────────────────────────

INF, NAN, LN2 = math.inf, math.nan, math.log(2)
ZEROS, HUGE = ((0.0, 0.0), (-0.0, -0.0)), 1e38
SPECIAL = {  # (a, f(a))
    "exp": ((0.0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (HUGE, INF), (-HUGE, 0), (1e4, INF), (-1e4, 0), (1e-40, 1)),
    "exp_of_minus_abs": ((0.0, 1), (-0.0, 1), (INF, 0), (-INF, 0), (HUGE, 0), (-HUGE, 0), (1e4, 0), (1e-40, 1)),
    "expm1": (*ZEROS, (INF, INF), (-INF, -1), (HUGE, INF), (-HUGE, -1), (1e-40, 1e-40), (-1e-40, -1e-40)),
    "tanh": (*ZEROS, (INF, 1), (-INF, -1), (HUGE, 1), (-HUGE, -1), (1e-40, 1e-40), (-1e-40, -1e-40)),
    "sigmoid": ((0.0, 0.5), (-0.0, 0.5), (INF, 1), (-INF, 0), (HUGE, 1), (-HUGE, 0), (1e-40, 0.5)),
    "log1p": (*ZEROS, (INF, INF), (-INF, NAN), (-HUGE, NAN), (-2, NAN), (-1, -INF), (1e-40, 1e-40), (-1e-40, -1e-40)),
    "softplus_of_minus_abs": ((0.0, LN2), (-0.0, LN2), (INF, 0), (-INF, 0), (HUGE, 0), (-HUGE, 0)),
    "softplus": ((0.0, LN2), (-0.0, LN2), (INF, INF), (-INF, 0), (HUGE, HUGE), (-HUGE, 0), (1e4, 1e4), (-1e4, 0)),
}


@EVERY
@FLOATS
def test_special_values(name, dtype):
    arguments, values = np.array([*SPECIAL[name], (NAN, NAN)], dtype).T.copy()
    y = apply(name, arguments)
    np.testing.assert_array_equal(y, values)
    known = ~np.isnan(values)
    np.testing.assert_array_equal(np.signbit(y[known]), np.signbit(values[known]))


@FLOATS
def test_exp_underflows_gradually(dtype):
    x = np.array([-88, -95, -100, -103.5] if dtype == np.float32 else [-710, -730, -745, -745.1], dtype)
    for name in ("exp", "exp_of_minus_abs", "sigmoid", "softplus_of_minus_abs", "softplus"):
        y = apply(name, x)
        assert np.all((y > 0) & (y < np.finfo(dtype).tiny)), name
        np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=0, atol=np.finfo(dtype).smallest_subnormal)


@EVERY
@FLOATS
def test_a_scalar_keeps_its_dtype(name, dtype):
    """As Python, too, where a bare 0.5 would do no harm and a wide constant would."""
    function = getattr(elementary, name)
    if config.DISABLE_JIT:
        assert function(dtype(0.3)).dtype == dtype
    else:
        apply(name, np.zeros(1, dtype))
        assert {str(s[0]): str(r) for s, r in returns(function).items()}[np.dtype(dtype).name] == np.dtype(dtype).name


def returns(function):
    return {signature: function.overloads[signature].signature.return_type for signature in function.signatures}


# ── Vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────


def machine_calls_and_lanes(loop, dtype):
    """Of the compiled loop, the functions that it calls and the numbers that one multiplication takes."""
    loop(np.ones(3, dtype), np.ones(3, dtype))
    [text] = [text for types, text in loop.inspect_llvm().items() if types[0].dtype.name == np.dtype(dtype).name]
    body = re.search(r"^define [^\n]*@_ZN(?!7cpython).*?^}", text, re.DOTALL | re.MULTILINE)[0]
    called = {name for name in re.findall(r"call [^\n]*?@\"?([\w.$]+)", body) if not name.startswith("llvm.")}
    lanes = re.findall(rf"fmul [^\n<]*<(\d+) x {'float' if dtype == np.float32 else 'double'}>", body)
    return called, max(map(int, lanes), default=1)


@COMPILED
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64", "aarch64", "arm64"), reason="has other vectors")
@EVERY
@FLOATS
def test_a_loop_is_vectorised(name, dtype):
    called, lanes = machine_calls_and_lanes(LOOPS[name], dtype)
    assert not called
    assert lanes * np.dtype(dtype).itemsize >= 16


@COMPILED
def test_a_loop_over_libm_is_not():
    """Or the test above would mean nothing."""
    called, lanes = machine_calls_and_lanes(looped(njit(lambda a: a * np.log1p(a))), np.float32)
    assert called and lanes == 1


# ── The tests can fail ───────────────────────────────────────────────────────────────────────────────────────────

MUTATIONS = {  # old, new, a function that must suffer
    "low part of ln 2": ("LN2_LOW = 1.4286068203094173e-06", "LN2_LOW = 1.4386068203094173e-06", "exp_of_minus_abs"),
    "coefficient of P": ("0.16666543", "0.16666743", "expm1"),
    "coefficient of Q": ("0.66666776", "0.6666", "log1p"),
    "flush to zero": ("lowest=dtype(lowest)", "lowest=dtype(0.84 * lowest)", "sigmoid"),
    "no correction": ("+ c * scale", "", "log1p"),
    "sums reordered": ('frozenset(("contract",))', 'frozenset(("contract", "nsz", "reassoc"))', "tanh"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_function_is_caught(mutation, tmp_path):
    if config.DISABLE_JIT and mutation == "sums reordered":
        pytest.skip("by the compiler alone")
    old, new, name = MUTATIONS[mutation]
    source = Path(elementary.__file__).read_text("utf-8")
    assert source.count(old) == 1
    path = tmp_path / f"elementary_{list(MUTATIONS).index(mutation)}.py"
    path.write_text(source.replace(old, new), "utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    mutant = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = mutant  # where the compiler looks for the types it defines
    try:
        spec.loader.exec_module(mutant)
        stride = STRIDE if config.DISABLE_JIT else 100_003
        assert worst(name, stride, {name: looped(getattr(mutant, name))}) > 1.5 * bound(name, np.float32)
    finally:
        del sys.modules[path.stem]
