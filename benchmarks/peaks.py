"""What this machine could do at most, measured: multiply-adds in registers, and bytes to and from memory.

The loop of multiply-adds is written in LLVM's own language, and a compiler that sees through it would make it shorter:
every accumulator starts from other numbers, read from memory, in every lane; the factors arrive at run time; all lanes
of all accumulators are stored at the end. `instructions` counts what is left of it in the machine code.
"""

import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from benchmarks.workers import call

if TYPE_CHECKING:
    from benchmarks.options import Options

T = TypeVar("T")
STREAMED = 1 << 25  # least numbers in each vector of the triad: 128 MB of float32


def measured(options: "Options", sizes: list[int] | tuple[int, ...] = ()) -> dict[str, Any]:
    """FMA peak, memory bandwidth and the bandwidth of an optimiser with so many parameters, at the options' threads."""
    made: dict[str, Any] = call(
        options.threads, "benchmarks.peaks", "measure", threads=options.threads, sizes=list(sizes), quick=options.quick
    )
    return made


def around(options: "Options", sizes: list[int] | tuple[int, ...], action: Callable[[], T]) -> tuple[T, dict[str, Any]]:
    """What the action returns, and the higher of the peaks measured before and after it."""
    before = measured(options, sizes)
    done = action()
    after = measured(options, sizes)
    rates = {name: max(before[name], after[name]) for name in ("fma", "fma_best", "triad")}
    return done, before | rates | {"update": {n: max(rate, after["update"][n]) for n, rate in before["update"].items()}}


def measure(threads: int, sizes: list[int], quick: bool = False) -> dict[str, Any]:
    """The same, in this process: operations and bytes per second, medians; `fma_best` is the fastest burst."""
    repeats = 5 if quick else 25
    fma = fma_rates(threads, repeats)
    return {
        "threads": threads,
        "fma": float(np.median(fma)),
        "fma_best": max(fma),
        "fma_instructions": instructions(),
        "triad": triad_rate(threads, repeats, streamed_length(quick)),
        "update": {str(n): update_rate(threads, n, repeats) for n in sizes},
    }


# ── Multiply-adds ────────────────────────────────────────────────────────────────────────────────────────────────────


def registers() -> tuple[int, int, bool]:
    """float32 lanes of a vector, how many accumulators leave room for the factors, whether multiply-add is one.

    All of it of the processor that is compiled for: NUMBA_CPU_NAME may name another than the host.
    """
    from numba.core.registry import cpu_target

    from npvae.ops.host import vector_registers

    bits, count = vector_registers()
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    fused = any(feature in features for feature in ("+fma", "+neon")) or bits == 512
    return bits // 32, 24 if count == 32 else 12, fused


def make_spin() -> Any:
    """A compiled spin(n, state, factor, term): n times every accumulator <- factor * accumulator + term."""
    from llvmlite import ir
    from numba import njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic

    lanes, count, fused = registers()
    index, number = ir.IntType(64), ir.FloatType()
    vector = ir.VectorType(number, lanes)

    @intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def accumulate(typing_context: Any, n: Any, address: Any, factor: Any, term: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, values: Any) -> Any:
            kind = ir.FunctionType(vector, [vector] * 3)
            fma = cgutils.get_or_insert_function(b.module, kind, f"llvm.fma.v{lanes}f32")

            def everywhere(scalar: Any) -> Any:
                one = b.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
                return b.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))

            rounds, base, m, t = values[0], b.inttoptr(values[1], vector.as_pointer()), *map(everywhere, values[2:])
            slots = [b.gep(base, [ir.Constant(index, i)]) for i in range(count)]
            start = [b.load(slot, align=4) for slot in slots]
            before, body, after = b.block, b.append_basic_block("body"), b.append_basic_block("after")
            b.branch(body)
            b.position_at_end(body)
            k = b.phi(index)
            k.add_incoming(ir.Constant(index, 0), before)
            old = [b.phi(vector) for _ in slots]
            new = [b.call(fma, [x, m, t]) if fused else b.fadd(b.fmul(x, m), t) for x in old]
            following = b.add(k, ir.Constant(index, 1))
            k.add_incoming(following, body)
            for x, first, y in zip(old, start, new, strict=True):
                x.add_incoming(first, before)
                x.add_incoming(y, body)
            b.cbranch(b.icmp_signed("<", following, rounds), body, after)
            b.position_at_end(after)
            for slot, y in zip(slots, new, strict=True):
                b.store(y, slot, align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.uint64, types.float32, types.float32), generate

    @njit  # type: ignore[misc,untyped-decorator,unused-ignore]
    def spin(n: Any, state: Any, factor: Any, term: Any) -> None:
        accumulate(n, state.ctypes.data, factor, term)

    return spin


def instructions() -> dict[str, int]:
    """Multiply-adds of full vectors in the compiled loop; `expected` of them, or a multiple if it was unrolled."""
    lanes, count, _ = registers()
    spin = make_spin()
    spin(1, np.ones(count * lanes, np.float32), np.float32(0.5), np.float32(0.5))
    blocks = re.split(r"^\.?L\w+:", "\n".join(spin.inspect_asm().values()), flags=re.MULTILINE)
    register = {16: "zmm", 8: "ymm"}.get(lanes, "")
    found = max(len(re.findall(rf"\b(?:vfmadd\w*ps|fmla)\b.*{register}", block)) for block in blocks)
    return {"found": found, "expected": count, "lanes": lanes}


def fma_rates(threads: int, repeats: int) -> list[float]:
    """Floating-point operations per second of bursts of about 20 ms, all threads at once."""
    from numba import njit, prange

    lanes, count, _ = registers()
    spin = make_spin()

    @njit(parallel=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
    def everywhere(n: Any, states: Any, factor: Any, term: Any) -> None:
        for i in prange(len(states)):
            spin(n, states[i], factor, term)

    room = -(-count * lanes // 64) * 64  # no two threads on one line of a cache
    states = np.random.default_rng(0).uniform(0.5, 1.5, (threads, room)).astype(np.float32)
    factor, term = np.float32(0.999), np.float32(0.001)  # numbers stay near 1: none overflows or becomes denormal
    everywhere(10, states, factor, term)
    operations = 2 * count * lanes * threads
    n = 1_000_000
    seconds = bursts(lambda: everywhere(n, states, factor, term), repeats)
    return [operations * n / taken for taken in seconds]


# ── Memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def streamed_length(quick: bool) -> int:
    """Numbers in each of the triad's three vectors: together four times the largest cache, in an eighth of memory."""
    from benchmarks.machine import caches, memory

    largest = max((caches() or {"": 0}).values())
    wanted = max(STREAMED, 4 * largest // 12)
    return min(STREAMED if quick else wanted, (memory() or 1 << 34) // 8 // 12)


def triad_rate(threads: int, repeats: int, length: int) -> float:
    """Bytes per second of a <- b + s c on vectors that no cache holds: two read, one written, 12 bytes a number."""
    from numba import njit, prange

    @njit(parallel=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
    def triad(a: Any, b: Any, c: Any, s: Any) -> None:
        for i in prange(len(a)):
            a[i] = b[i] + s * c[i]

    a, b, c = (np.full(length, value, np.float32) for value in (0, 1, 2))
    s = np.float32(0.5)
    triad(a, b, c, s)
    seconds = bursts(lambda: triad(a, b, c, s), repeats)
    return float(12 * length / np.median(seconds))


def update_rate(threads: int, length: int, repeats: int) -> float:
    """Bytes per second of an optimiser's traffic: four vectors read and three of them written, 28 bytes a parameter.

    There are as many sums as to use what is read; nothing of Adam's arithmetic.
    """
    from numba import njit, prange

    @njit(parallel=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
    def update(theta: Any, dtheta: Any, m: Any, v: Any) -> None:
        for i in prange(len(theta)):
            g = dtheta[i]
            theta[i] += g
            m[i] -= g
            v[i] += g

    vectors = [np.zeros(length, np.float32) for _ in range(4)]
    update(*vectors)
    times = max(1, 10_000_000 // length)

    def several() -> None:
        for _ in range(times):
            update(*vectors)

    return float(28 * length * times / np.median(bursts(several, repeats)))


def bursts(action: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each of so many calls, after one that is not counted."""
    action()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    print(measure(int(os.environ.get("NUMBA_NUM_THREADS", "2")), [652_824]))
