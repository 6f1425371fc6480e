"""The pieces of the matrix product that are written in the processor's terms: vectors and their registers.

matmul.py says why they are as they are. Each is an intrinsic of Numba: a function that compiled code may call, whose
body is not Python but the LLVM instructions that it writes down. At the end of the file they stand a second time, as
definitions in NumPy; these run where nothing is compiled.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from npvae.ops.host import vector_registers

Array = npt.NDArray[Any]

BITS, REGISTERS = vector_registers()
HEIGHTS = (8, 8, 8) if REGISTERS == 32 else (8, 6, 4)  # rows of a tile that is 1, 2, 3 vectors wide
ROWS, VECTORS = HEIGHTS[-1], len(HEIGHTS)

INT, LANE = ir.IntType(64), ir.IntType(32)

# ── The tile ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Builder:
    """LLVM's instructions on vectors of one dtype and so many bits, as a tile needs them."""

    def __init__(self, context: Any, build: Any, array: Any, bits: int = BITS) -> None:
        self.context, self.build = context, build
        self.number = context.get_data_type(array.dtype)
        self.bytes = array.dtype.bitwidth // 8
        self.lanes = bits // 8 // self.bytes
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

    def vector_at(self, base: Any, offset: int) -> Any:
        """The address of the vector that begins so many numbers after base."""
        return self.build.bitcast(self.build.gep(base, [INT(offset)]), self.vector.as_pointer())

    def load(self, base: Any, offset: int, mask: Any = None) -> Any:
        """That vector, 0 in the lanes that are masked out and not read."""
        if mask is None:
            value = self.build.load(self.vector_at(base, offset))
            value.align = self.bytes
            return value
        pointer = self.vector.as_pointer()
        load = self.function("masked.load", self.vector, [pointer, LANE, self.bits, self.vector])
        return load(self.vector_at(base, offset), LANE(self.bytes), mask, self.zero)

    def store(self, value: Any, base: Any, offset: int, mask: Any = None) -> None:
        """Write that vector, but for the lanes that are masked out."""
        if mask is None:
            self.build.store(value, self.vector_at(base, offset)).align = self.bytes
        else:
            store = self.function(
                "masked.store", ir.VoidType(), [self.vector, self.vector.as_pointer(), LANE, self.bits]
            )
            store(value, self.vector_at(base, offset), LANE(self.bytes), mask)

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
        to, half = Builder(context, build, c), Builder(context, build, c, BITS // 2)
        v |= {"a": to.at(a, v["a"], v["a_at"]), "b": to.at(b, v["b"], v["b_at"]), "c": to.at(c, v["c"], v["c_at"])}
        build.function.attributes.add("noinline")  # what calls this does not become part of its callers
        whole = build.icmp_signed("==", v["width"], INT(VECTORS * to.lanes))
        with build.if_else(whole) as (then, otherwise):
            with then:
                low = build.icmp_signed("<=", v["live"], INT(ROWS // 2))
                with build.if_else(low) as (few, many):
                    with few:
                        accumulate(v, ROWS // 2, [to] * VECTORS, masked=False)
                    with many:
                        accumulate(v, ROWS, [to] * VECTORS, masked=False)
            with otherwise:
                for columns in [[to] * n + [last] for n in range(VECTORS) for last in (half, to)]:
                    rows, reach = HEIGHTS[len(columns) - 1], sum(vector.lanes for vector in columns)
                    most = reach
                    if BITS < 512 and len(columns) < VECTORS:  # where a mask costs a register, and time at every load
                        with build.if_then(build.icmp_signed("==", v["width"], INT(reach))):
                            accumulate(v, rows, columns, masked=False)
                        most -= 1
                    above = build.icmp_signed(">", v["width"], INT(reach - half.lanes))
                    below = build.icmp_signed("<=", v["width"], INT(most))
                    with build.if_then(build.and_(above, below)):
                        accumulate(v, rows, columns, masked=True)
        return context.get_dummy_value()

    given = (a, a_at, a_row, a_k, b, b_at, b_row, c, c_at, c_row, depth, resume, live, width)
    return types.void(*(kind if isinstance(kind, types.Array) else types.int64 for kind in given)), generate


def accumulate(v: dict[str, Any], rows: int, columns: list[Builder], masked: bool) -> None:
    """Write the loop of a tile of so many rows and these vectors; masked, the last of them ends with the matrix.

    It may be half as wide as the others: some processors take half the time for it.
    """
    to = columns[0]
    build = to.build
    multiply_add = [each.function("fmuladd", each.vector, [each.vector] * 3) for each in columns]  # one instruction
    start = [sum(each.lanes for each in columns[:j]) for j in range(len(columns))]
    grid = [(i, j) for i in range(rows) for j in range(len(columns))]
    mask: list[Any] = [None] * len(columns)
    if masked:
        mask[-1] = columns[-1].first(build.sub(v["width"], INT(start[-1])))
    row = [to.least(INT(i), build.sub(v["live"], INT(1))) for i in range(rows)]
    a_rows = [build.gep(v["a"], [build.mul(i, v["a_row"])]) for i in row]
    c_rows = [build.gep(v["c"], [build.mul(i, v["c_row"])]) for i in row]

    entry = build.block
    resumed, loop, done = (build.function.append_basic_block(name) for name in ("resumed", "loop", "done"))
    build.cbranch(build.icmp_signed("!=", v["resume"], INT(0)), resumed, loop)

    build.position_at_end(resumed)
    partial = {(i, j): columns[j].load(c_rows[i], start[j], mask[j]) for i, j in grid}
    build.branch(loop)

    build.position_at_end(loop)
    k = build.phi(INT)
    sums = {(i, j): build.phi(columns[j].vector) for i, j in grid}
    b_k = build.gep(v["b"], [build.mul(k, v["b_row"])])
    b_vectors = [each.load(b_k, at, live) for each, at, live in zip(columns, start, mask, strict=True)]
    a_k = build.mul(k, v["a_k"])
    added = {}
    for i in range(rows):
        number = build.load(build.gep(a_rows[i], [a_k]))
        for j, each in enumerate(columns):
            added[i, j] = multiply_add[j](each.spread(number, each.vector), b_vectors[j], sums[i, j])
    k_next = build.add(k, INT(1))
    build.cbranch(build.icmp_signed("<", k_next, v["depth"]), loop, done)

    k.add_incoming(INT(0), entry)
    k.add_incoming(INT(0), resumed)
    k.add_incoming(k_next, loop)
    for i, j in grid:
        sums[i, j].add_incoming(columns[j].zero, entry)
        sums[i, j].add_incoming(partial[i, j], resumed)
        sums[i, j].add_incoming(added[i, j], loop)

    build.position_at_end(done)
    for i, j in grid:
        columns[j].store(added[i, j], c_rows[i], start[j], mask[j])


# ── Copies that a tile reads ─────────────────────────────────────────────────────────────────────────────────────


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


@intrinsic
def move(typing_context, a, a_at, out, out_at):  # type: ignore[no-untyped-def]
    """ROWS numbers, one vector, go from a[a_at] on to out[out_at] on.

    A loop would move them one by one, which takes four times as long: for all that the compiler knows, they overlap.
    """

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        some = Builder(context, build, out, ROWS * out.dtype.bitwidth)
        some.store(some.load(some.at(a, values[0], values[1]), 0), some.at(out, values[2], values[3]), 0)
        return context.get_dummy_value()

    given = (a, a_at, out, out_at)
    return types.void(*(kind if isinstance(kind, types.Array) else types.int64 for kind in given)), generate


# ── The same as definitions ──────────────────────────────────────────────────────────────────────────────────────


def define_tile(
    a: Array,
    a_at: int,
    a_row: int,
    a_k: int,
    b: Array,
    b_at: int,
    b_row: int,
    c: Array,
    c_at: int,
    c_row: int,
    depth: int,
    resume: int,
    live: int,
    width: int,
) -> None:
    """C[:live, :width] = A B, or +=."""
    lanes = BITS // 8 // c.itemsize
    assert 0 < width <= VECTORS * lanes and 0 < live <= HEIGHTS[-(-width // lanes) - 1]
    i, j, k = np.arange(live)[:, None], np.arange(width), np.arange(depth)
    product = a[a_at + i * a_row + k * a_k] @ b[b_at + k[:, None] * b_row + j]
    c[c_at + i * c_row + j] = product + (c[c_at + i * c_row + j] if resume else 0)


def define_transpose_square(
    a: Array, a_at: int, a_row: int, out: Array, out_at: int, out_row: int, live: int, width: int
) -> None:
    """out = A^T."""
    i, j = np.arange(live), np.arange(width)[:, None]
    out[out_at + j * out_row + i] = a[a_at + i * a_row + j]


def define_move(a: Array, a_at: int, out: Array, out_at: int) -> None:
    """ROWS numbers of out = those of a."""
    out[out_at : out_at + ROWS] = a[a_at : a_at + ROWS]


if config.DISABLE_JIT:
    tile, transpose_square, move = define_tile, define_transpose_square, define_move
