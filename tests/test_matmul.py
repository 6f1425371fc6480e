"""The compiled product against NumPy: any sizes, anywhere in memory, nothing else touched, the same bits always.

Most matrices hold small whole numbers: every sum of them is exact in any order, so the result has to be NumPy's.
Under NUMBA_DISABLE_JIT=1 the same tests run the loops as Python, with the tile as it is defined.
"""

import hashlib
import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba import config
from op_cases import ACTIVATIONS, error, same

from npvae.ops import activation, compiling, matmul, reference
from npvae.ops import tile as tiles

UNCOMPILED = bool(config.DISABLE_JIT)
DTYPES = (np.float32, np.float64)
FLOATS = pytest.mark.parametrize("dtype", DTYPES, ids=("float32", "float64"))
KINDS = ("product", "product_tn", "product_nt")
compiled = pytest.mark.skipif(UNCOMPILED, reason="NumPy defines the tile, and adds up each shape in its own way")
guarded = pytest.mark.skipif(
    UNCOMPILED or sys.platform != "linux", reason="mprotect as Linux has it; elsewhere the NaN around must do"
)
EACH = pytest.mark.parametrize("kind", KINDS)

examples = settings(
    max_examples=25 if UNCOMPILED else 100,
    deadline=None,  # the first call compiles
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors],
)
seeds = st.integers(0, 2**32 - 1)


# ── Matrices ─────────────────────────────────────────────────────────────────────────────────────────────────────


def whole(rng, *shape, dtype=np.float64):
    """Small whole numbers, none of them 0: up to 2^16 products of two sum up exactly in float32."""
    return rng.choice([-3, -2, -1, 1, 2, 3], shape).astype(dtype)


def operands(kind, a, b):
    """What the function `kind` takes to multiply a (M,K) by b (K,N)."""
    return (a.T if kind == "product_tn" else a), (b.T if kind == "product_nt" else b)


def call(kind, a, b, out, *bias_and_act):
    return getattr(matmul, kind)(*operands(kind, a, b), out, *bias_and_act)


def place(values, offset=0, gap=0):
    """`values` (rows, columns) in memory of their own, which holds NaN besides: -> view, that memory.

    The first number is `offset` numbers behind a cache line's beginning, rows are `gap` numbers further apart than they
    need be.
    """
    rows, columns = values.shape
    size = values.itemsize
    memory = np.full(rows * (columns + gap) + 64 // size + offset + 64, np.nan, values.dtype)
    start = -memory.ctypes.data % 64 // size + offset
    view = memory[start : start + rows * (columns + gap)].reshape(rows, columns + gap)[:, :columns]
    view[...] = values
    return view, memory


def page_gap(columns, itemsize):
    """The gap that brings rows to a multiple of 4096 bytes."""
    return -columns % (4096 // itemsize)


LAYOUTS = {  # another array that holds the same
    "C": lambda m: m,
    "Fortran": np.asfortranarray,
    "reversed rows": lambda m: m[::-1].copy()[::-1],
    "reversed columns": lambda m: m[:, ::-1].copy()[:, ::-1],
    "every other row": lambda m: np.repeat(m, 2, axis=0)[::2],
    "every other column": lambda m: np.repeat(m, 2, axis=1)[:, ::2],
    "part of a larger one": lambda m: np.pad(m, 3)[3:-3, 3:-3],
    "part of a larger one's transpose": lambda m: np.pad(m.T, 3)[3:-3, 3:-3].T,
}


def around(*marks):
    return sorted({max(0, mark + step) for mark in marks for step in (-1, 0, 1)})


@st.composite
def sizes(draw, dtype):
    """M, N, K: none, one, around the edges of tiles and strips, and some of them around a larger cut."""
    lanes = tiles.BITS // 8 // np.dtype(dtype).itemsize
    one_of = st.sampled_from
    M = one_of(around(1, tiles.ROWS // 2, *tiles.HEIGHTS, 2 * tiles.ROWS))
    N = one_of(around(1, lanes, tiles.VECTORS * lanes, 2 * tiles.VECTORS * lanes))
    K = one_of(around(1, lanes, 40))
    cut = draw(one_of("MKNW  "))
    if cut == "M":
        M = one_of(around(matmul.BLOCK, 2 * matmul.BLOCK))
    elif cut == "K":
        K = one_of(around(matmul.DEPTH // 4, matmul.DEPTH, 2 * matmul.DEPTH))
    elif cut == "N":  # and deep, so that A^T is copied
        M = N = one_of(around(2 * matmul.SHALLOW, 2 * matmul.SHALLOW + lanes))
        K = one_of(around(matmul.SHALLOW + 1, matmul.DEPTH))
    elif cut == "W":  # so wide that a first strip ends where B's vectors begin, if lines of a cache do with its rows
        N = one_of([*around(matmul.NARROW * lanes), matmul.NARROW * lanes + 64 // np.dtype(dtype).itemsize])
    return draw(M), draw(N), draw(K)


def check(kind, dtype, M, N, K, rng, a_at=(0, 0), b_at=(0, 0), out_at=(0, 0), act=None):
    """The product is exact, what surrounds it untouched, the inputs too; *_at are an offset and a gap."""
    a, b, bias = (whole(rng, *shape, dtype=dtype) for shape in ((M, K), (K, N), (1, N)))
    expected = a.astype(np.float64) @ b.astype(np.float64)
    a, b = operands(kind, a, b)
    (a, a_memory), (b, b_memory) = place(a, *a_at), place(b, *b_at)
    before = a_memory.tobytes(), b_memory.tobytes()
    out, memory = place(np.full((M, N), np.nan, dtype), *out_at)
    extra = ()
    if act is not None:
        extra = place(bias, *b_at)[0][0], act
        expected = reference.dense_forward(expected, np.eye(N), bias[0].astype(np.float64), act)
    sums = np.full(N, np.nan, dtype)
    if kind == "product_tn":
        extra = (sums,)
    assert getattr(matmul, kind)(a, b, out, *extra) is out
    assert kind != "product_tn" or np.array_equal(sums, b.astype(np.float64).sum(axis=0).astype(dtype))
    assert np.array_equal(out, expected.astype(dtype)), (kind, M, N, K)
    assert (a_memory.tobytes(), b_memory.tobytes()) == before
    out[...] = np.nan
    assert np.isnan(memory).all(), "written beyond the result"


@EACH
@FLOATS
@given(data=st.data(), seed=seeds)
@examples
def test_any_size_anywhere(kind, dtype, data, seed):
    """Every operand at any offset from a cache line, its rows any distance apart, a multiple of a page included."""
    M, N, K = data.draw(sizes(dtype))
    a, b = operands(kind, np.empty((M, K)), np.empty((K, N)))

    def anywhere(columns):
        gap = st.sampled_from((0, 0, 1, 5, 16, page_gap(columns, np.dtype(dtype).itemsize)))
        return data.draw(st.integers(0, 15)), data.draw(gap)

    act = data.draw(st.sampled_from((None, reference.IDENTITY, reference.RELU))) if kind == "product" else None
    places = anywhere(a.shape[1]), anywhere(b.shape[1]), anywhere(N)
    check(kind, dtype, M, N, K, np.random.default_rng(seed), *places, act)


@EACH
@FLOATS
@pytest.mark.parametrize("M, N, K", [(0, 0, 0), (3, 5, 0), (0, 5, 3), (3, 0, 5), (1, 1, 0), (1, 0, 0), (0, 1, 0)])
def test_nothing_times_something(kind, dtype, M, N, K):
    """A sum of no terms is 0, under a bias the activation of that."""
    rng = np.random.default_rng(1)
    check(kind, dtype, M, N, K, rng)
    check(kind, dtype, M, N, K, rng, out_at=(1, 3))
    if kind == "product":
        check(kind, dtype, M, N, K, rng, act=reference.RELU)
        check(kind, dtype, M, N, K, rng, out_at=(1, 3), act=reference.RELU)


@FLOATS
@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("left", LAYOUTS)
def test_any_layout(dtype, left, right):
    """Transposed, reversed, with gaps: of either operand, and of `out`."""
    rng = np.random.default_rng(2)
    a, b = whole(rng, 11, 7, dtype=dtype), whole(rng, 7, 9, dtype=dtype)
    for kind in (*KINDS, "matmul"):
        given_ = LAYOUTS[left](a), LAYOUTS[right](b)
        out = np.full((11, 9), np.nan, dtype)
        assert np.array_equal(call(kind, *given_, out), a @ b)
        for layout in (left, right):
            strided = LAYOUTS[layout](np.full((11, 9), np.nan, dtype))
            memory = strided if strided.base is None else strided.base
            others = int(np.size(memory)) - strided.size
            untouched = memory.copy()
            assert call(kind, *given_, strided) is strided
            assert np.array_equal(strided, a @ b)
            strided[...] = np.nan
            assert others == 0 or np.array_equal(memory, untouched, equal_nan=True)


@FLOATS
@EACH
def test_repeated_rows_and_columns(kind, dtype):
    """Operands whose strides are 0, as np.broadcast_to makes them."""
    rng = np.random.default_rng(3)
    for shape_a, shape_b in (((1, 7), (7, 9)), ((11, 1), (1, 9)), ((11, 7), (7, 1)), ((1, 1), (1, 1))):
        a, b = whole(rng, *shape_a, dtype=dtype), whole(rng, *shape_b, dtype=dtype)
        a, b = np.broadcast_to(a, (11, 7)), np.broadcast_to(b, (7, 9))
        assert np.array_equal(call(kind, a, b, np.full((11, 9), np.nan, dtype)), a @ b)


@compiled
@EACH
def test_what_is_read_only_compiles_nothing_anew(kind):
    rng = np.random.default_rng(3)
    a, b, bias = (whole(rng, *shape, dtype=np.float32) for shape in ((11, 7), (7, 9), (9,)))
    extra = (bias, reference.RELU) if kind == "product" else ()
    expected = call(kind, a, b, np.empty((11, 9), np.float32), *extra)
    known = [len(function.signatures) for function in compiling.COMPILED]
    for factor in (a, b, bias):
        factor.flags.writeable = False
    assert same(call(kind, a, b, np.empty((11, 9), np.float32), *extra), expected)
    assert [len(function.signatures) for function in compiling.COMPILED] == known
    assert not (a.flags.writeable or b.flags.writeable or bias.flags.writeable)


@EACH
def test_a_result_that_is_read_only_is_refused(kind):
    a, b, out = (np.ones(shape, np.float32) for shape in ((11, 7), (7, 9), (11, 9)))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        call(kind, a, b, out)
    assert (out == 1).all()


@FLOATS
def test_views_of_one_array(dtype):
    """Columns of larger arrays, as a, as b and as out; a and b may be the same memory."""
    rng = np.random.default_rng(4)
    big, other, result = (whole(rng, 30, 40, dtype=dtype) for _ in range(3))
    kept = result.copy()
    a, b, out = big[:14, 3:17], other[2:16, 3:17], result[5:19, 3:17]
    for kind in KINDS:
        assert np.array_equal(call(kind, a, b, out), a @ b)
        assert np.array_equal(call(kind, a, a, out), a @ a)
        assert np.array_equal(call(kind, a, a.T, out), a @ a.T)
    out[...] = kept[5:19, 3:17]
    assert same(result, kept)


# ── Numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────


@EACH
@FLOATS
@pytest.mark.parametrize("K", [1, 40, 700])
def test_rounding(kind, dtype, K):
    """A sum of K products, each rounded once, is within K u sum |a b| (Higham 2002, sec. 3.1)."""
    rng = np.random.default_rng(K)
    a, b = rng.standard_normal((13, K)).astype(dtype), rng.standard_normal((K, 50)).astype(dtype)
    out = call(kind, a, b, np.empty((13, 50), dtype))
    wide = np.longdouble
    exact, bound = a.astype(wide) @ b.astype(wide), np.abs(a).astype(wide) @ np.abs(b).astype(wide)
    assert np.all(np.abs(out - exact) <= K * np.finfo(dtype).eps / 2 * bound * (1 + 1e-6))


@EACH
@FLOATS
@given(seed=seeds)
@settings(examples, max_examples=20)
def test_nan_and_inf_propagate(kind, dtype, seed):
    """They stand where NumPy has them, whatever they meet on their way: nothing is skipped for being 0."""
    rng = np.random.default_rng(seed)
    M, N, K = rng.choice([1, 5, 19]), rng.choice([1, 20, 50]), rng.choice([1, 7, 40])
    a, b = whole(rng, M, K, dtype=dtype), whole(rng, K, N, dtype=dtype)
    for x in (a, b):
        x[...] = np.where(rng.random(x.shape) < 0.05, rng.choice([np.nan, np.inf, -np.inf, 0.0], x.shape), x)
    with np.errstate(invalid="ignore"):
        expected = np.einsum("mk,kn->mn", a.astype(np.float64), b.astype(np.float64)).astype(dtype)
        out = call(kind, a, b, np.empty((M, N), dtype))
    assert np.array_equal(out, expected, equal_nan=True)


@FLOATS
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bias_and_activation_are_those_of_a_pass_of_its_own(dtype, name):
    """Bit for bit; K = 0, one cut and several, strips at odd places."""
    rng = np.random.default_rng(6)
    for M, N, K, offset, gap in ((9, 75, 30, 0, 0), (9, 75, 30, 3, 5), (5, 70, 1030, 0, 0), (3, 20, 0, 1, 0)):
        a, b = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
        a, bias = a / dtype(max(1, K)) ** dtype(0.5), rng.standard_normal(N).astype(dtype)
        b, _ = place(b, offset, gap)
        fused = matmul.product(a, b, np.empty((M, N), dtype), bias, ACTIVATIONS[name])
        apart = matmul.product(a, b, np.empty((M, N), dtype))
        activation.activate(apart.reshape(-1), N, 0, M, 0, N, bias, ACTIVATIONS[name])
        assert same(fused, apart)
        exact = reference.dense_forward(a.astype(float), b.astype(float), bias.astype(float), ACTIVATIONS[name])
        assert error(fused, exact) <= (1e-13 if dtype == np.float64 else 3e-6)


@FLOATS
def test_sums_with_gaps_are_written_where_they_are(dtype):
    a, b, memory = np.ones((5, 4), dtype), np.ones((5, 3), dtype), np.full(8, np.nan, dtype)
    for sums, places in ((memory[:6:2], [0, 2, 4]), (memory[5:2:-1], [3, 4, 5])):
        memory[:] = np.nan
        matmul.product_tn(a, b, np.empty((4, 3), dtype), sums)
        assert np.flatnonzero(memory == 5).tolist() == places and np.isnan(memory).sum() == 5


# ── Bits ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SHAPES = ((1, 300, 20), (300, 1, 20), (5, 130, 7), (70, 101, 530), (265, 33, 40), (265, 270, 530), (3, 5, 0))


def products(dtype):
    """Every kind of product at some sizes, plain and with a bias."""
    rng = np.random.default_rng(7)
    results = []
    for M, N, K in SHAPES:
        a, b = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
        bias = rng.standard_normal(N).astype(dtype)
        for kind in KINDS:
            results.append(call(kind, a, b, np.full((M, N), np.nan, dtype)))
        results.append(np.full(N, np.nan, dtype))
        matmul.product_tn(operands("product_tn", a, b)[0], b, np.empty((M, N), dtype), results[-1])
        results.append(matmul.product(a, b, np.full((M, N), np.nan, dtype), bias, reference.RELU))
    return results


def cut_into(monkeypatch, count):
    """Share all work out in so many parts, whatever threads there are."""
    room = {np.dtype(d): np.full(count * matmul.ROOM, np.nan, d) for d in DTYPES}
    none_and_one = {dtype: matmul.memory(dtype)[:2] for dtype in room}
    monkeypatch.setattr(matmul, "parts", lambda work: count)
    monkeypatch.setattr(matmul, "memory", lambda dtype: (*none_and_one[dtype], room[dtype]))


@FLOATS
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_bits_do_not_depend_on_the_parts(dtype, count, monkeypatch):
    cut_into(monkeypatch, 1)
    expected = products(dtype)
    cut_into(monkeypatch, count)
    assert all(same(a, b) for a, b in zip(products(dtype), expected, strict=True))


@compiled
@EACH
@FLOATS
def test_bits_do_not_depend_on_the_other_rows_and_columns(kind, dtype):
    """Nor on where they lie: the columns are cut elsewhere then, rows of a page's length are cut more often."""
    rng = np.random.default_rng(8)
    a, b = rng.standard_normal((21, 600)).astype(dtype), rng.standard_normal((600, 170)).astype(dtype)
    every = call(kind, a, b, np.empty((21, 170), dtype))
    for rows in (slice(0, 1), slice(0, 9), slice(20, 21), slice(5, 16)):
        for columns in (slice(0, 1), slice(3, 70), slice(169, 170)):
            part = every[rows, columns]
            assert same(call(kind, a[rows], b[:, columns], np.empty_like(part, order="C")), part.copy())
    gap = page_gap(170, np.dtype(dtype).itemsize)
    for offset, between in ((0, 2), (3, 2), (0, gap), (5, gap)):
        assert same(call(kind, a, place(b, offset, between)[0], np.empty_like(every)), every)


def digest():
    """One number for the bits of all products."""
    bits = hashlib.sha256()
    for dtype in DTYPES:
        for result in products(dtype):
            bits.update(result.tobytes())
    return bits.hexdigest()


def python(code, **environment):
    """What `code`, run in a process of its own next to the tests, prints."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    here = Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=here, timeout=500)
    assert run.returncode == 0, (run.returncode, run.stderr)
    return run.stdout.strip()


@pytest.mark.parametrize("count", ["4"] if UNCOMPILED else ["1", "2", "4"])
def test_bits_do_not_depend_on_the_threads_of_a_process(count):
    code = """
import test_matmul
from npvae.ops import threads
with threads.cut_all():
    print(threads.parts(1), test_matmul.digest())
"""
    assert python(code, NUMBA_NUM_THREADS=count) == f"{count} {digest()}"


# ── Vectors of every width ───────────────────────────────────────────────────────────────────────────────────────


def small_core():
    """What must hold for vectors of any width: sizes around their edges, what lies around, guarded memory."""
    rng = np.random.default_rng(9)
    for dtype in DTYPES:
        lanes = tiles.BITS // 8 // np.dtype(dtype).itemsize
        widths = [1, lanes, lanes + 1, tiles.VECTORS * lanes, 2 * tiles.VECTORS * lanes - 1]
        for kind in KINDS:
            for N in widths:
                for M in (1, tiles.ROWS // 2, tiles.ROWS + 1, max(tiles.HEIGHTS) + 1):
                    check(kind, dtype, M, N, lanes + 3, rng, (1, 2), (int(rng.integers(16)), 0), (3, 1))
            check(kind, dtype, matmul.BLOCK + 1, 5, 2, rng)
            check(kind, dtype, 3, 2 * lanes + 5, matmul.DEPTH + 1, rng)
            line = 64 // np.dtype(dtype).itemsize  # rows of whole cache lines: a first strip that ends sooner
            for N in (3 * line, matmul.NARROW * lanes + line):
                for offset in range(line):
                    check(kind, dtype, 3, N, 4, rng, (0, 0), (offset, 0))
            deep = 2 * matmul.SHALLOW + lanes + 1
            check(kind, dtype, deep, deep, matmul.SHALLOW + 1, rng)
        check("product", dtype, tiles.ROWS + 3, 70, 9, rng, act=reference.RELU)
    if sys.platform == "linux" and not UNCOMPILED:
        guarded_products()


@pytest.mark.parametrize("bits", ["256"] if UNCOMPILED else ["128", "256", "512"])
def test_vectors_of_any_width(bits):
    """On the same processor the bits are the same too: a lane does not know how many there are."""
    code = "import test_matmul as t; t.small_core(); print(t.tiles.BITS, t.digest())"
    width, found = python(code, NPVAE_VECTOR_BITS=bits).split()
    assert width == bits and (found == digest() or UNCOMPILED)


@pytest.mark.skipif(UNCOMPILED or compiling.VECTOR_BITS != "", reason="NPVAE_VECTOR_BITS says how wide they are")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="a processor of x86")
def test_the_width_is_that_of_the_processor_compiled_for():
    """AVX2: sixteen registers of 256 bits."""
    code = "from npvae.ops import tile; print(tile.BITS, tile.REGISTERS, *tile.HEIGHTS)"
    assert python(code, NUMBA_CPU_NAME="haswell") == "256 16 8 6 4"
    assert python(code, NUMBA_CPU_NAME="nehalem") == "128 16 8 6 4"
    assert python(code, NUMBA_CPU_NAME="skylake-avx512") == "512 32 8 8 8"


def same_tile(dtype, seed=10):
    """The instructions of a tile and its definition, on the same arguments; so too of the pieces that copy."""
    rng = np.random.default_rng(seed)
    lanes = tiles.BITS // 8 // np.dtype(dtype).itemsize
    a, b = whole(rng, 2000, dtype=dtype), whole(rng, 4000, dtype=dtype)
    for width in (1, lanes - 1, lanes, lanes + 1, 2 * lanes, 3 * lanes - 1, 3 * lanes):
        for live in range(1, tiles.HEIGHTS[-(-width // lanes) - 1] + 1):
            for a_row, a_k, depth, resume in ((7, 1, 7, 0), (1, 40, 30, 1), (13, 2, 1, 512)):
                c, d = (np.arange(2000).astype(dtype) for _ in range(2))
                where = a, 3, a_row, a_k, b, 5, 3 * lanes + 2
                run_tile(*where, c, 11, 3 * lanes + 1, depth, resume, live, width)
                tiles.define_tile(*where, d, 11, 3 * lanes + 1, depth, resume, live, width)
                assert same(c, d), (live, width, a_row, a_k, depth, resume)
    for live in range(1, lanes + 1):
        for width in range(1, lanes + 1):
            c, d = (np.full(2000, np.nan, dtype) for _ in range(2))
            run_square(a, 3, lanes + 5, c, 7, lanes + 2, live, width)
            tiles.define_transpose_square(a, 3, lanes + 5, d, 7, lanes + 2, live, width)
            written = np.isfinite(d)  # the rest of the square is filled with whatever
            assert same(c[written], d[written]) and written.sum() == live * width
            places = 7 + np.arange(lanes)[:, None] * (lanes + 2) + np.arange(lanes)
            outside = np.setdiff1d(np.arange(2000), places)
            assert np.isnan(c[outside]).all()
    c, d = (np.full(2000, np.nan, dtype) for _ in range(2))
    run_move(a, 5, c, 3)
    tiles.define_move(a, 5, d, 3)
    assert same(c, d) and np.isfinite(c).sum() == tiles.ROWS


@compiling.kernel()
def run_tile(a, a_at, a_row, a_k, b, b_at, b_row, c, c_at, c_row, depth, resume, live, width):
    tiles.tile(a, a_at, a_row, a_k, b, b_at, b_row, c, c_at, c_row, depth, resume, live, width)


@compiling.kernel()
def run_square(a, a_at, a_row, out, out_at, out_row, live, width):
    tiles.transpose_square(a, a_at, a_row, out, out_at, out_row, live, width)


@compiling.kernel()
def run_move(a, a_at, out, out_at):
    tiles.move(a, a_at, out, out_at)


@FLOATS
def test_a_tile_is_as_defined(dtype):
    same_tile(dtype)


# ── Guarded memory ───────────────────────────────────────────────────────────────────────────────────────────────


class Guarded:
    """Memory between two pages that nobody may touch: who does is killed."""

    def __init__(self, pages=64):
        import ctypes

        self.page = mmap.PAGESIZE
        self.memory = mmap.mmap(-1, (pages + 2) * self.page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        for at in (start, start + (pages + 1) * self.page):
            assert protect(at, self.page, 0) == 0
        self.bytes = np.frombuffer(self.memory, np.uint8)[self.page : -self.page]

    def matrix(self, values, gap, last):
        """A matrix that ends where the memory does, or that begins there; rows `gap` numbers further apart."""
        rows, columns = values.shape
        row = columns + gap
        count = max(0, (rows - 1) * row + columns) * values.itemsize
        room = self.bytes[len(self.bytes) - count :] if last else self.bytes[:count]
        flat = room.view(values.dtype)
        view = np.lib.stride_tricks.as_strided(flat, values.shape, (row * values.itemsize, values.itemsize))
        view[...] = values
        return view


def guarded_products():
    """Products of matrices that end, or begin, where memory does."""
    rng = np.random.default_rng(11)
    left, right, result, offset = (Guarded() for _ in range(4))
    for dtype in DTYPES:
        lanes = tiles.BITS // 8 // np.dtype(dtype).itemsize
        for M, N, K in (
            (1, 1, 1),
            (3, lanes + 1, 2),
            (tiles.ROWS + 1, 2 * lanes - 1, 5),
            (5, 3 * lanes + 2, lanes + 1),
        ):
            a, b, bias = (whole(rng, *shape, dtype=dtype) for shape in ((M, K), (K, N), (1, N)))
            for kind in KINDS:
                for gap, last in ((0, True), (3, True), (0, False), (3, False)):
                    mine, other = operands(kind, a, b)
                    mine, other = left.matrix(mine, gap, last), right.matrix(other, gap, last)
                    out = result.matrix(np.zeros((M, N), dtype), gap, last)
                    assert np.array_equal(getattr(matmul, kind)(mine, other, out), a @ b)
                    if kind == "product":
                        matmul.product(mine, other, out, offset.matrix(bias, 0, last)[0], reference.RELU)
                        assert np.array_equal(out, np.maximum(a @ b + bias, 0))


@guarded
def test_nothing_is_touched_past_either_end():
    """In a process of its own, which a fault would kill."""
    assert python("import test_matmul; test_matmul.guarded_products(); print('alive')") == "alive"


@guarded
def test_the_guard_guards():
    code = "import test_matmul; g = test_matmul.Guarded(); b = g.bytes; import numpy as np\n"
    peek = "print(np.lib.stride_tricks.as_strided(b[{}:], (1,), (1,))[0])"
    assert python(code + peek.format(-1)) == "0"
    beyond = "import ctypes; print(ctypes.c_char.from_address(b.ctypes.data + {}).value)"
    for past in ("len(b)", "-1"):
        with pytest.raises(AssertionError, match=r"\(-\d+, "):
            python(code + beyond.format(past))


# ── These tests can fail ─────────────────────────────────────────────────────────────────────────────────────────


def wrong_tile(**changes):
    def wrong(*given_):
        values = dict(zip(tiles.NAMES, given_, strict=True))
        return tiles.define_tile(**values | {name: change(values[name]) for name, change in changes.items()})

    return wrong


def wrong_square(a, a_at, a_row, out, out_at, out_row, live, width):
    i, j = np.arange(live)[:, None], np.arange(width)
    out[out_at + i * out_row + j] = a[a_at + i * a_row + j]  # as it is


def wrong_gather(a, a_at, a_k, block, block_at, rows, depth):
    live = min(tiles.ROWS, rows)  # the first tile alone
    block[block_at + np.arange(live) + tiles.ROWS * np.arange(depth)[:, None]] = a[
        a_at + np.arange(live) + a_k * np.arange(depth)[:, None]
    ]


def wrong_move(a, a_at, out, out_at):
    out[out_at : out_at + tiles.ROWS - 1] = a[a_at : a_at + tiles.ROWS - 1]


def untouched(*arguments):
    """Does nothing."""


MUTATIONS = {
    "a term left out": ("tile", wrong_tile(depth=lambda depth: max(1, depth - 1))),
    "an earlier cut forgotten": ("tile", wrong_tile(resume=lambda resume: 0)),
    "a number too many written": ("tile", wrong_tile(width=lambda width: width + 1)),
    "a row too few": ("tile", wrong_tile(live=lambda live: max(1, live - 1))),
    "b a number further on": ("tile", wrong_tile(b_at=lambda at: at - 1)),
    "a square not transposed": ("transpose_square", wrong_square),
    "a deep transpose copied in part": ("gather", wrong_gather),
    "a number not moved": ("move", wrong_move),
    "no bias": ("activate", untouched),
    "a part of the work not done": ("parts_done", lambda parts: parts - 1),
}


def mutated():
    """Which mutations `small_core` finds, in a process where nothing is compiled."""
    assert UNCOMPILED
    compute = matmul.compute
    work = next(cell.cell_contents for cell in compute.__closure__ if cell.cell_contents.__name__ == "compute")

    def short(parts, *arguments):
        for part in range(parts + 1):
            work(part, parts + 2, *arguments)

    found = []
    for mutation, (name, wrong) in MUTATIONS.items():
        name, wrong = ("compute", short) if name == "parts_done" else (name, wrong)
        right = getattr(matmul, name)
        setattr(matmul, name, wrong)
        try:
            small_core()
        except (AssertionError, IndexError):
            found.append(mutation)
        setattr(matmul, name, right)
    small_core()
    return found


def test_wrong_products_are_caught():
    code = "import test_matmul; print(*test_matmul.mutated(), sep='\\n')"
    assert python(code, NUMBA_DISABLE_JIT="1").splitlines() == list(MUTATIONS)
