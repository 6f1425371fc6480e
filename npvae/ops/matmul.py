"""The matrix product, compiled: one small tile of the result at a time, held in the registers of one core.

    C (M,N) = A (M,K) B (K,N),      c_ij = sum_k a_ik b_kj

**What bounds it.** A core with two fused-multiply-add units of 16 lanes does 64 floating-point operations a cycle, and
its cache delivers two vectors a cycle. A loop that loads an a and a b for every product would wait for memory nearly
all of the time: each number has to be used many times while it is in a register.

**The tile.** ROWS x VECTORS accumulators, here 8 rows of 3 vectors of 16 float32 under AVX-512, stay in registers
while k runs over the depth. A step loads 3 vectors of B's row k and 8 single numbers of A's column k, and does
8 x 3 multiply-adds with them: 11 loads for 24 operations, so the arithmetic units are the bottleneck, as they should
be. Why 8 x 3: of 32 vector registers 24 accumulate, 3 hold B and one the number of A that is spread over its lanes;
and at least 8 accumulators must be under way, because a multiply-add takes 4 cycles and two start in each. With 16
registers (AVX2) it is 4 x 3 for the same reasons.

**The strip.** Tiles are visited down a strip of B, VECTORS registers wide: it stays in the caches while all rows of A
pass by. The depth is cut (`depth_of`) so that it does; C then holds the partial sum between two cuts. This is what
remains of the algorithm of Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication", and of BLIS
(Van Zee & van de Geijn 2015) when the matrices are those of a small network, 0.1 to 10 MB: they pack A and B into
contiguous panels first, which costs a pass over memory that so few rows do not repay.

**The transposes.** A is read through its two strides, so A^T costs the same as A. B^T does not: its vectors would lie
across rows. So each thread packs the strip that it is about to use, transposed in registers, into a panel of its own.

**The edges.** A tile at the lower edge points its missing rows at its last one: they are computed and stored twice, with
the same value. At the right edge the last vector is masked, so that nothing past the end is read or written.

**The threads.** The tiles are laid in a row, strip after strip, and each thread takes its share of that row. A thin
product is thus cut along N and a flat one along M. No sum over k is shared between threads, and where the columns are
cut changes no sum: the result is the same, bit for bit, for any number of threads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from npvae.ops.compiling import kernel, parallel
from npvae.ops.activation import activate
from npvae.ops.host import vector_registers
from npvae.ops.reference import IDENTITY
from npvae.ops.threads import max_threads, parts

Array = npt.NDArray[Any]

BITS, REGISTERS = vector_registers()
ROWS, VECTORS = (8, 3) if REGISTERS == 32 else (4, 3)
LINE = 64  # bytes of a cache line
DEPTH = 512  # terms of a sum between two cuts: a strip of it, 512 x 48 float32, is 96 kB and stays in the second cache
BLOCK = 32 * ROWS  # rows of A that strip after strip passes by: of 512 terms they are 512 kB

INT, LANE = ir.IntType(64), ir.IntType(32)

# ── The tile ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Builder:
    """LLVM's instructions on vectors of one dtype, as a tile needs them."""

    def __init__(self, context: Any, build: Any, array: Any) -> None:
        self.context, self.build = context, build
        self.number = context.get_data_type(array.dtype)
        self.bytes = array.dtype.bitwidth // 8
        self.lanes = BITS // 8 // self.bytes
        self.vector = ir.VectorType(self.number, self.lanes)
        self.bits = ir.VectorType(ir.IntType(1), self.lanes)
        self.places = ir.VectorType(LANE, self.lanes)
        self.zero = ir.Constant(self.vector, None)

    def function(self, name: str, result: Any, arguments: list[Any]) -> Callable[..., Any]:
        """A function of LLVM's, such as llvm.fmuladd, for vectors of this dtype."""
        name = f"llvm.{name}.v{self.lanes}f{8 * self.bytes}"
        declared = cgutils.get_or_insert_function(self.build.module, ir.FunctionType(result, arguments), name)
        return lambda *given: self.build.call(declared, given)

    def at(self, array: Any, value: Any, offset: Any) -> Any:
        """The address of array[offset]."""
        return self.build.gep(self.context.make_array(array)(self.context, self.build, value).data, [offset])

    def vector_at(self, base: Any, j: int) -> Any:
        """The address of the j-th vector from base."""
        return self.build.bitcast(self.build.gep(base, [INT(j * self.lanes)]), self.vector.as_pointer())

    def load(self, base: Any, j: int, mask: Any = None) -> Any:
        """The j-th vector from base, 0 in the lanes that are masked out and not read."""
        if mask is None:
            value = self.build.load(self.vector_at(base, j))
            value.align = self.bytes
            return value
        pointer = self.vector.as_pointer()
        load = self.function("masked.load", self.vector, [pointer, LANE, self.bits, self.vector])
        return load(self.vector_at(base, j), LANE(self.bytes), mask, self.zero)

    def store(self, value: Any, base: Any, j: int, mask: Any = None) -> None:
        """Write the j-th vector from base, but for the lanes that are masked out."""
        if mask is None:
            self.build.store(value, self.vector_at(base, j)).align = self.bytes
        else:
            store = self.function(
                "masked.store", ir.VoidType(), [self.vector, self.vector.as_pointer(), LANE, self.bits]
            )
            store(value, self.vector_at(base, j), LANE(self.bytes), mask)

    def spread(self, number: Any, kind: Any) -> Any:
        """A number in every lane."""
        one = self.build.insert_element(ir.Constant(kind, ir.Undefined), number, LANE(0))
        return self.build.shuffle_vector(one, one, ir.Constant(self.places, [0] * self.lanes))

    def first(self, live: Any) -> Any:
        """The mask of the first `live` lanes."""
        limit = self.spread(self.build.trunc(live, LANE), self.places)
        return self.build.icmp_signed(">", limit, ir.Constant(self.places, list(range(self.lanes))))

    def least(self, a: Any, b: Any) -> Any:
        """min(a, b) of two integers."""
        return self.build.select(self.build.icmp_signed("<", a, b), a, b)


NAMES = ("a", "a_at", "a_row", "a_k", "b", "b_at", "b_row", "c", "c_at", "c_row", "depth", "resume", "live", "width")


@intrinsic
def tile(  # type: ignore[no-untyped-def]
    typing_context, a, a_at, a_row, a_k, b, b_at, b_row, c, c_at, c_row, depth, resume, live, width
):
    """C[:live, :width] = A B, or += where `resume` is not 0, over `depth` > 0 terms.

    a, b and c are flat; the tile starts at a[a_at], b[b_at] and c[c_at]. Rows of C and B are contiguous and c_row and
    b_row numbers apart; from a row of A to the next it is a_row numbers, from a term to the next a_k.
    """

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        v = dict(zip(NAMES, values, strict=True))
        to = Builder(context, build, c)
        v |= {"a": to.at(a, v["a"], v["a_at"]), "b": to.at(b, v["b"], v["b_at"]), "c": to.at(c, v["c"], v["c_at"])}
        build.function.attributes.add("noinline")  # code of this size is compiled once, not for each of its callers
        tall = build.icmp_signed(">", v["live"], INT(ROWS // 2))
        for rows, fits in ((ROWS, tall), (ROWS // 2, build.not_(tall))):
            with build.if_then(fits):
                whole = build.icmp_signed("==", v["width"], INT(VECTORS * to.lanes))
                with build.if_else(whole) as (then, otherwise):
                    with then:
                        accumulate(to, v, rows, VECTORS, masked=False)
                    with otherwise:
                        for vectors in range(1, VECTORS + 1):
                            above = build.icmp_signed(">", v["width"], INT((vectors - 1) * to.lanes))
                            below = build.icmp_signed("<=", v["width"], INT(vectors * to.lanes))
                            with build.if_then(build.and_(above, below)):
                                accumulate(to, v, rows, vectors, masked=True)
        return context.get_dummy_value()

    given = (a, a_at, a_row, a_k, b, b_at, b_row, c, c_at, c_row, depth, resume, live, width)
    return types.void(*(kind if isinstance(kind, types.Array) else types.int64 for kind in given)), generate


def accumulate(to: Builder, v: dict[str, Any], rows: int, vectors: int, masked: bool) -> None:
    """Write the loop of a tile of so many rows and vectors; masked, its last vector ends with the matrix."""
    build = to.build
    multiply_add = to.function("fmuladd", to.vector, [to.vector] * 3)  # one instruction where the processor has it
    grid = [(i, j) for i in range(rows) for j in range(vectors)]
    mask: list[Any] = [None] * vectors
    if masked:
        mask[-1] = to.first(build.sub(v["width"], INT((vectors - 1) * to.lanes)))
    row = [to.least(INT(i), build.sub(v["live"], INT(1))) for i in range(rows)]
    a_rows = [build.gep(v["a"], [build.mul(i, v["a_row"])]) for i in row]
    c_rows = [build.gep(v["c"], [build.mul(i, v["c_row"])]) for i in row]

    entry = build.block
    resumed, loop, done = (build.function.append_basic_block(name) for name in ("resumed", "loop", "done"))
    build.cbranch(build.icmp_signed("!=", v["resume"], INT(0)), resumed, loop)

    build.position_at_end(resumed)
    partial = {(i, j): to.load(c_rows[i], j, mask[j]) for i, j in grid}
    build.branch(loop)

    build.position_at_end(loop)
    k = build.phi(INT)
    sums = {ij: build.phi(to.vector) for ij in grid}
    b_k = build.gep(v["b"], [build.mul(k, v["b_row"])])
    b_vectors = [to.load(b_k, j, mask[j]) for j in range(vectors)]
    a_k = build.mul(k, v["a_k"])
    added = {}
    for i in range(rows):
        number = to.spread(build.load(build.gep(a_rows[i], [a_k])), to.vector)
        for j in range(vectors):
            added[i, j] = multiply_add(number, b_vectors[j], sums[i, j])
    k_next = build.add(k, INT(1))
    build.cbranch(build.icmp_signed("<", k_next, v["depth"]), loop, done)

    k.add_incoming(INT(0), entry)
    k.add_incoming(INT(0), resumed)
    k.add_incoming(k_next, loop)
    for ij in grid:
        sums[ij].add_incoming(to.zero, entry)
        sums[ij].add_incoming(partial[ij], resumed)
        sums[ij].add_incoming(added[ij], loop)

    build.position_at_end(done)
    for i, j in grid:
        to.store(added[i, j], c_rows[i], j, mask[j])


# ── The panel ────────────────────────────────────────────────────────────────────────────────────────────────────


@intrinsic
def transpose_square(typing_context, a, a_at, a_row, out, out_at, out_row, live, width):  # type: ignore[no-untyped-def]
    """out = A^T for a square of as many rows as a vector has lanes, of which `live` > 0 exist, `width` numbers each.

    What does not exist is not read; in `out` its place is filled all the same. Rows are transposed in registers:
    interleaving row i with row i + lanes/2 for all i is a perfect shuffle of the rows' numbers, and log2(lanes) perfect
    shuffles exchange rows and columns (Stone 1971, "Parallel processing with the perfect shuffle").
    """

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        to = Builder(context, build, out)
        source, target = to.at(a, values[0], values[1]), to.at(out, values[3], values[4])
        mask, last = to.first(values[7]), build.sub(values[6], INT(1))
        rows = [
            to.load(build.gep(source, [build.mul(to.least(INT(i), last), values[2])]), 0, mask) for i in range(to.lanes)
        ]
        half = to.lanes // 2
        zip_ = [[j // 2 + part * half + (j % 2) * to.lanes for j in range(to.lanes)] for part in range(2)]
        low, high = (ir.Constant(to.places, order) for order in zip_)
        for _ in range(half.bit_length()):
            pairs = [(rows[i], rows[i + half]) for i in range(half)]
            rows = [build.shuffle_vector(a, b, order) for a, b in pairs for order in (low, high)]
        for i, row in enumerate(rows):
            to.store(row, build.gep(target, [build.mul(INT(i), values[5])]), 0)
        return context.get_dummy_value()

    given = (a, a_at, a_row, out, out_at, out_row, live, width)
    return types.void(*(kind if isinstance(kind, types.Array) else types.int64 for kind in given)), generate


if config.DISABLE_JIT:  # the same, as definitions

    def tile(  # noqa: F811
        a, a_at, a_row, a_k, b, b_at, b_row, c, c_at, c_row, depth, resume, live, width
    ):  # type: ignore[no-untyped-def]
        """C[:live, :width] = A B, or +=."""
        i, j, k = np.arange(live)[:, None], np.arange(width), np.arange(depth)
        product = a[a_at + i * a_row + k * a_k] @ b[b_at + k[:, None] * b_row + j]
        c[c_at + i * c_row + j] = product + (c[c_at + i * c_row + j] if resume else 0)

    def transpose_square(a, a_at, a_row, out, out_at, out_row, live, width):  # type: ignore[no-untyped-def]  # noqa: F811
        """out = A^T."""
        i, j = np.arange(live), np.arange(width)
        out[out_at + j[:, None] * out_row + i] = a[a_at + i * a_row + j[:, None]]


# ── The product ──────────────────────────────────────────────────────────────────────────────────────────────────


@kernel()
def lanes_of(c: Array) -> int:
    """How many numbers of c a vector holds."""
    return BITS // 8 // c.itemsize


@kernel()
def depth_of(c: Array, b_row: int) -> int:
    """How many terms of a sum go by between two cuts.

    Rows of B that are a multiple of 4096 bytes apart fall into the same few places of a cache and push each other out.
    """
    return DEPTH // 4 if b_row * c.itemsize % 4096 == 0 else DEPTH


@kernel(inline="always")
def pack(b: Array, b_at: int, b_row: int, panel: Array, panel_at: int, depth: int, width: int) -> None:
    """The panel's row k, as long as a strip is wide, becomes column k of the rows of B at b_at."""
    lanes = lanes_of(panel)
    for j in range(0, width, lanes):
        for k in range(0, depth, lanes):
            from_, to = b_at + j * b_row + k, panel_at + k * VECTORS * lanes + j
            transpose_square(b, from_, b_row, panel, to, VECTORS * lanes, min(lanes, width - j), min(lanes, depth - k))


@kernel()
def panel_size(lanes: int) -> int:
    """How many numbers a thread packs at a time."""
    return DEPTH * VECTORS * lanes


@parallel()
def product(
    part: int,
    parts: int,
    a: Array,
    a_row: int,
    a_k: int,
    b: Array,
    b_row: int,
    panels: Array,
    c: Array,
    K: int,
    bias: Array,
    act: int,
) -> None:
    """This part of C (M,N) = A B or, if there are `panels` to pack it into, of A B^T; A and B flat.

    With a bias (N,) the result is act(A B + bias), applied to each strip while it is in the cache; a bias of no numbers
    stands for none.
    """
    (M, N), lanes, flat, turned = c.shape, lanes_of(c), c.reshape(-1), panels.size > 0
    step = DEPTH if turned else depth_of(c, b_row)
    # The first strip ends where a cache line begins, so that no vector of the others lies across two of them.
    lead = -np.int64(b.ctypes.data) % LINE // c.itemsize if b_row * c.itemsize % LINE == 0 and not turned else 0
    across = -(-lead // lanes) - (lead - N) // lanes  # vectors in a row of C
    total = across * -(-M // ROWS)  # work, in tiles of one vector
    begin, end = part * total // parts, (part + 1) * total // parts
    for top in range(0, M, BLOCK):
        bottom = min(M, top + BLOCK)
        tiles = -(-(bottom - top) // ROWS)
        for p in range(0, max(K, 1), step):
            depth = min(step, K - p)
            left, before = 0, across * top // ROWS
            while left < N:
                right = min(N, lead if left < lead else left + VECTORS * lanes)
                vectors, width = -(-(right - left) // lanes), right - left
                # Of the tiles of this strip, one after another in the row of all, those between begin and end.
                first = max(0, min(tiles, -((before - begin) // vectors)))
                last = max(0, min(tiles, -((before - end) // vectors)))
                rows = top + first * ROWS, min(bottom, top + last * ROWS)
                left, before, start = right, before + vectors * tiles, left
                if first == last:
                    continue
                source, at, apart = b, p * b_row + start, b_row
                if turned:
                    source, at, apart = panels, part * panel_size(lanes), VECTORS * lanes
                    pack(b, start * b_row + p, b_row, panels, at, depth, width)
                for i in range(rows[0], rows[1], ROWS):
                    a_at, c_at, live = i * a_row + p * a_k, i * N + start, min(ROWS, rows[1] - i)
                    if depth > 0:
                        tile(a, a_at, a_row, a_k, source, at, apart, flat, c_at, N, depth, p, live, width)
                    else:  # a sum of no terms
                        c[i : i + live, start:right] = 0
                if bias.size and p + step >= K:
                    activate(c, rows, (start, right), bias, act)


def matmul(a: Array, b: Array, out: Array) -> Array:
    """out (M,N) = a (M,K) b (K,N), where a or b may be the transpose of a C-contiguous array. Nothing is checked."""
    (M, K), N = a.shape, b.shape[1]
    a_row, a_k = (stride // a.itemsize for stride in a.strides)
    turned = not b.flags.c_contiguous
    panels = np.empty(max_threads() * panel_size(lanes_of(out)) if turned else 0, out.dtype)
    flat = [x.T.reshape(-1) if x.flags.f_contiguous else x.reshape(-1) for x in (a, b)]
    product(parts(M * N * K), flat[0], a_row, a_k, flat[1], K if turned else N, panels, out, K, panels[:0], IDENTITY)
    return out
