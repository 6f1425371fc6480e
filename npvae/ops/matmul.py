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
registers (AVX2) it is 4 x 3 for the same reasons, and 6 x 2 or 8 x 1 where the result ends after 2 vectors or 1.

**The strip.** Tiles are visited down a strip of B, VECTORS registers wide: it stays in the caches while all rows of A
pass by. The depth is cut (`depth_of`) so that it does; C then holds the partial sum between two cuts. This is what
remains of the algorithm of Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication", and of BLIS
(Van Zee & van de Geijn 2015) when the matrices are those of a small network, 0.1 to 10 MB: they pack A and B into
contiguous panels first, which costs a pass over memory that so few rows seldom repay.

**The transposes.** A is read through its two strides, so A^T costs the same as A, as long as it is shallow. One that is
deep, and read by so many strips that it pays, is copied first, so that a tile's numbers lie in the order in which it
reads them. B^T costs more: its vectors would lie across rows. So each thread packs the strip that it is about to use,
transposed in registers, into a panel of its own.

**The edges.** A tile at the lower edge points its missing rows at its last one: they are computed and stored twice,
with the same value. At the right edge the last vector is masked, so that nothing past the end is read or written, and
half as wide where that is enough: a processor whose widest vectors take two turns saves one.

**The threads.** The tiles are laid in a row, strip after strip, and each thread takes its share of that row. A thin
product is thus cut along N and a flat one along M; and along M where A^T is copied, so that no two threads copy the
same. No sum over k is shared between threads, and where C is cut changes no sum: the result is the same, bit for bit,
for any number of threads.

**The memory.** What is packed lies in memory of the pool's, not of a workspace: so much for each thread and dtype, got
once and written over by every product. It cannot be shared by mistake, because no two kernels are under way at once
(threads.BUSY, which a fork waits for as well), and a child of a fork has a copy of its own. Its size depends on no
matrix, so a step allocates nothing and a model of any size needs the same; and what was packed last is still in the
cache of the thread that packs next, whichever layer or workspace that is for. A workspace would hold as much again, and
would have to hand it to every op that multiplies, the forward of tied layers included, which takes no scratch.

**What is done on the way.** A layer wants more than its product, and a strip is never cheaper to read than while it is
in the cache: the forward adds the bias and applies the activation there, the backward sums the rows of dy into db.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from npvae.ops.activation import activate
from npvae.ops.compiling import kernel, parallel, share
from npvae.ops.reference import IDENTITY
from npvae.ops.threads import max_threads, parts
from npvae.ops.tile import BITS, HEIGHTS, ROWS, VECTORS, move, tile, transpose_square

Array = npt.NDArray[Any]

DEPTH = 512  # terms of a sum between two cuts: a strip of it, 512 x 48 float32, is 96 kB and stays in the second cache
BLOCK = 32 * ROWS  # rows of A that strip after strip passes by: of 512 terms they are 512 kB
ROOM = BLOCK * (DEPTH + 2)  # numbers that a thread may pack

SHALLOW = 128  # terms for which copying A^T does not pay; nor does it for twice as many rows or columns
NARROW = 32  # vectors in a row of B for which a strip more costs as much as vectors that lie across cache lines


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


@kernel()
def lead_of(b: Array, b_row: int, N: int) -> Any:
    """How many numbers wide the first strip is; 0 if as wide as the others.

    It ends where a whole vector would begin, so that none of the others lies across two cache lines.
    """
    wide = BITS // 8
    if N // lanes_of(b) > NARROW and b_row * b.itemsize % wide == 0:
        return -np.int64(b.ctypes.data) % wide // b.itemsize
    return np.int64(0)


@kernel()
def is_scattered(a_row: int, a_k: int, M: int, N: int, K: int) -> bool:
    """Whether A is an A^T worth a copy: far down, its numbers lie a page apart, and enough strips are to use it."""
    return a_row == 1 and a_k > 1 and K > SHALLOW and min(M, N) > 2 * SHALLOW


@kernel()
def between(begin: int, end: int, before: int, vectors: int, tiles: int) -> tuple[int, int]:
    """Which tiles of a strip are a part's: the first, and the first after them.

    The strip has so many tiles of so many vectors; `before` it there are vectors of other strips, and the part's are
    those from begin to end.
    """
    return max(0, min(tiles, -((before - begin) // vectors))), max(0, min(tiles, -((before - end) // vectors)))


@kernel(inline="always")
def pack(b: Array, b_at: int, b_row: int, panel: Array, panel_at: int, depth: int, width: int) -> None:
    """The panel's row k, as long as a strip is wide, becomes column k of the rows of B at b_at."""
    lanes = lanes_of(panel)
    for j in range(0, width, lanes):
        for k in range(0, depth, lanes):
            from_, to = b_at + j * b_row + k, panel_at + k * VECTORS * lanes + j
            transpose_square(b, from_, b_row, panel, to, VECTORS * lanes, min(lanes, width - j), min(lanes, depth - k))


@kernel(inline="always")
def gather(a: Array, a_at: int, a_k: int, block: Array, block_at: int, rows: int, depth: int) -> None:
    """Copy `rows` rows of A, which are columns in memory, so that what a tile reads in turn lies in turn.

    Memory is read as it lies. Between what two tiles read there is room for 2 ROWS numbers more: without it, all that
    is written at once would fall into the same few places of a cache.
    """
    whole = rows // ROWS * ROWS
    for k in range(depth):
        line, column = a_at + k * a_k, block_at + k * ROWS
        for i in range(0, whole, ROWS):
            move(a, line + i, block, column + i * (depth + 2))
        for r in range(rows - whole):
            block[column + whole * (depth + 2) + r] = a[line + whole + r]


@parallel()
def compute(
    part: int,
    parts: int,
    a: Array,
    a_row: int,
    a_k: int,
    b: Array,
    b_row: int,
    turned: bool,
    room: Array,
    c: Array,
    c_row: int,
    M: int,
    N: int,
    K: int,
    bias: Array,
    act: int,
    one: Array,
    sums: Array,
) -> None:
    """Compute this part of C (M,N) = A B or, if it is `turned`, of A B^T; all arrays are flat.

    From a row of A to the next it is a_row numbers, from a column to the next a_k; rows of B and C are contiguous.
    `room` is for ROOM numbers that each part packs.
    Two things are done to a strip while it is in the cache. With a bias (N,) the result is act(A B + bias); and `sums`
    (N,) are filled with the sum of B's rows, by whoever has the strip's first tile. Arrays of no numbers stand for
    none; `one` holds a 1.
    """
    lanes, mine = lanes_of(c), part * ROOM
    step = DEPTH if turned else depth_of(c, b_row)
    lead: Any = np.int64(0) if turned else lead_of(b, b_row, N)
    across = -(-lead // lanes) - (lead - N) // lanes  # vectors in a row of C
    total = across * -(-M // ROWS)  # work, in tiles of ROWS rows and one vector
    begin, end = part * total // parts, (part + 1) * total // parts
    upper, lower = 0, M
    scattered = is_scattered(a_row, a_k, M, N, K)
    if scattered:  # then a part takes rows of C instead, all of their tiles, so that no two copy the same
        begin, end, (upper, lower) = 0, total, share(part, parts, M, ROWS)
    for top in range(upper, lower, BLOCK):
        bottom = min(lower, top + BLOCK)
        tiles = -(-(bottom - top) // ROWS)
        for p in range(0, max(K, 1), step):
            depth = min(step, K - p)
            left, before = 0, across * top // ROWS
            gathered = False
            while left < N:
                right = min(N, lead if left < lead else left + VECTORS * lanes)
                vectors, width = -(-(right - left) // lanes), right - left
                first, last = between(begin, end, before, vectors, tiles)
                rows = top + first * ROWS, min(bottom, top + last * ROWS)
                left, before, start = right, before + vectors * tiles, left
                if first == last:
                    continue
                source, at, apart = b, p * b_row + start, b_row
                if turned:
                    source, at, apart = room, mine, VECTORS * lanes
                    pack(b, start * b_row + p, b_row, room, mine, depth, width)
                if scattered and not gathered:
                    gather(a, top + p * a_k, a_k, room, mine, bottom - top, depth)
                    gathered = True
                height = ROWS if scattered else HEIGHTS[vectors - 1]
                steps = -(-(rows[1] - rows[0]) // height)
                summed = sums.size > 0 and rows[0] == 0
                for t in range(steps + summed):
                    i = rows[0] + t * height
                    live = min(height, rows[1] - i)
                    left_, a_at, row, term, to, to_at, to_row = a, i * a_row + p * a_k, a_row, a_k, c, i * c_row, c_row
                    if t == steps:  # a row of ones times B
                        left_, a_at, row, term, to, to_at, to_row, live = one, 0, 0, 0, sums, 0, 0, 1
                    elif scattered:
                        left_, a_at, row, term = room, mine + (i - top) * (depth + 2), 1, ROWS
                    if depth > 0:  # the one call: each would be another copy of so much code
                        tile(
                            left_, a_at, row, term, source, at, apart, to, to_at + start, to_row, depth, p, live, width
                        )
                    else:  # a sum of no terms
                        for j in range(live):
                            to[to_at + j * to_row + start : to_at + j * to_row + right] = 0
                if bias.size and p + step >= K:
                    activate(c, c_row, *rows, start, right, bias, act)


# ── The three products of a dense layer ──────────────────────────────────────────────────────────────────────────
# Their arguments are as NumPy's, and `out` overlaps none; nothing is checked. Rows may be any distance apart, if each
# is contiguous.


def product(a: Array, b: Array, out: Array, bias: Array | None = None, act: int = IDENTITY) -> Array:
    """out = a b or, with a bias, act(a b + bias).  a (M,K), b (K,N), bias (N,) -> (M,N)."""
    (a, a_row), (b, b_row), (M, K), N = factor(a), factor(b), a.shape, b.shape[1]
    return _compute((a, a_row, 1), (b, b_row, False), out, (M, N, K), bias, act)


def product_tn(a: Array, b: Array, out: Array, sums: Array | None = None) -> Array:
    """out = a^T b and, if wanted, sums = the sum of b's rows.  a (K,M), b (K,N) -> (M,N), (N,)."""
    if sums is not None and (a.size == 0 or not sums.flags.c_contiguous):  # no tile, or none that could write there
        np.sum(b, axis=0, out=sums)
        sums = None
    (a, a_row), (b, b_row), (K, M), N = factor(a), factor(b), a.shape, b.shape[1]
    return _compute((a, 1, a_row), (b, b_row, False), out, (M, N, K), sums=sums)


def product_nt(a: Array, b: Array, out: Array) -> Array:
    """out = a b^T.  a (M,K), b (N,K) -> (M,N)."""
    (a, a_row), (b, b_row), (M, K), N = factor(a), factor(b), a.shape, len(b)
    return _compute((a, a_row, 1), (b, b_row, True), out, (M, N, K))


@cache
def memory(dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
    """No number, a 1, and what the threads there may be pack into, a quarter of a megabyte to one each."""
    return np.empty(0, dtype), np.ones(1, dtype), np.empty(max_threads() * ROOM, dtype)


def _compute(
    a: tuple[Array, int, int],
    b: tuple[Array, int, bool],
    out: Array,
    sizes: tuple[int, int, int],
    bias: Array | None = None,
    act: int = IDENTITY,
    sums: Array | None = None,
) -> Array:
    if not in_rows(out) or not out.flags.writeable:  # which NumPy then refuses
        out[...] = _compute(a, b, np.empty_like(out, order="C"), sizes, bias, act, sums)
        return out
    (M, N, K), (c, c_row), (none, one, room) = sizes, flat(out), memory(out.dtype)
    bias, sums = none if bias is None else unlocked(bias), none if sums is None else sums
    compute(parts(M * N * K), *a, *b, room, c, c_row, M, N, K, bias, act, one, sums)
    return out


def in_rows(x: Array) -> bool:
    """Whether the rows of x are contiguous and follow each other."""
    return x.flags.c_contiguous or (
        x.strides[1] == x.itemsize and x.strides[0] % x.itemsize == 0 and x.strides[0] >= x.shape[1] * x.itemsize
    )


def unlocked(x: Array) -> Array:
    """The same memory as x, with a type that does not say it is read-only: Numba would compile anew for that type."""
    if x.flags.writeable:
        return x
    memory = {**x.__array_interface__, "data": (x.ctypes.data, False)}
    return np.asarray(SimpleNamespace(__array_interface__=memory, owner=x))


def factor(x: Array) -> tuple[Array, int]:
    """`flat` for an array that is only read."""
    return flat(unlocked(x))


def flat(x: Array) -> tuple[Array, int]:
    """The memory of x as a vector, and how many numbers it is from one row to the next; a copy if rows have gaps."""
    if x.flags.c_contiguous:
        return x.ravel(), x.shape[1]  # no copy, and half as long as reshape(-1) takes to say so
    if not in_rows(x):
        return np.array(x, order="C").ravel(), x.shape[1]
    row = x.strides[0] // x.itemsize
    return np.lib.stride_tricks.as_strided(x, ((len(x) - 1) * row + x.shape[1],), (x.itemsize,)), row


def matmul(a: Array, b: Array, out: Array) -> Array:
    """out = a b, as np.matmul; the transpose of an array is read as such."""
    if not in_rows(a) and in_rows(a.T):
        return product_tn(a.T, b, out)
    if not in_rows(b) and in_rows(b.T):
        return product_nt(a, b.T, out)
    return product(a, b, out)
