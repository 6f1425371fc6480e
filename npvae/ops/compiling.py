"""How a kernel is compiled: on first use, with a cache on disk that knows every file a kernel is made of."""

import hashlib
import importlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numba import config, njit, prange
from numba.core.caching import FunctionCache

from npvae.errors import InputError
from npvae.ops.linking import Named
from npvae.ops.threads import BUSY

F = TypeVar("F", bound=Callable[..., Any])

# What the compiler may do to floating-point numbers. Never "nnan" or "ninf", which assume NaN and inf away.
SUM = frozenset(("nsz", "arcp", "contract", "reassoc"))  # only a sum that may be reordered is vectorised
CAREFUL = frozenset(("nsz", "contract"))  # reordering undoes the range reduction inside an exponential
ROUNDED = frozenset(("nsz",))  # no product is fused with a sum: in z^2 - eps^2 and 1 - y^2 it would show

# Width in bits of the vector registers to compile for, where it shall not be the widest that the processor has.
VECTOR_BITS = os.environ.get("NPVAE_VECTOR_BITS", "")
if VECTOR_BITS not in ("", "128", "256", "512"):
    raise InputError(
        f"the environment variable NPVAE_VECTOR_BITS must be 128, 256 or 512, got {VECTOR_BITS!r}: "
        "without it the processor's widest are used"
    )


def fingerprint(folder: Path = Path(__file__).parent) -> str:
    """A hash of all that compiled code depends on besides its own file: its neighbours, and the width of a vector."""
    digest = hashlib.sha256(VECTOR_BITS.encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


FINGERPRINT = fingerprint()


def load_pool() -> None:
    """Load Numba's OpenMP pool, if it has one, so that a thread which waits spins for half a millisecond, then sleeps.

    By default GNU's OpenMP spins for many milliseconds. Where other programs want the processors, one thread then
    spends the time on waiting that the other needs to be done: steps of 2 ms were seen to take 200. The library reads
    the variable once, when it is loaded; a value set by the user stands.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "10000"
        try:
            with suppress(ImportError):
                importlib.import_module("numba.np.ufunc.omppool")
        finally:
            del os.environ["GOMP_SPINCOUNT"]


load_pool()


class KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, which looks at the file of the function alone; a kernel inlines others and reads constants.

    Nor can it tell closures of one function apart; `name` can.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        super().__init__(function)
        self.name = name

    def save_overload(self, signature: Any, data: Any) -> None:
        """Keep what was compiled, if there is room for it: it runs all the same."""
        with suppress(OSError):
            super().save_overload(signature, data)

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        return signature, codegen.magic_tuple(), self.name, FINGERPRINT


COMPILED: list[Any] = []  # every function to be compiled, in Numba's wrapping


def census() -> tuple[int, int, Path | None]:
    """How many kernels this process compiled and loaded from the cache, one for each dtype; and where it is."""
    stats = [function.stats for function in COMPILED]
    misses, hits = (sum(sum(each[i].values()) for each in stats) for i in (2, 1))
    folder = stats[0].cache_path if stats else None
    return misses, hits, None if folder is None else Path(folder)


LINE = 16  # the grain of vectors: a cache line of float32, which one thread should write


def _compile(function: F, name: str, **options: Any) -> F:
    compiled: Any = njit(error_model="numpy", no_cfunc_wrapper=True, **options)(function)  # no C code calls it
    if not config.DISABLE_JIT:
        COMPILED.append(compiled)
        with suppress(RuntimeError):  # "no locator available": Numba found nowhere to write
            compiled._cache = KernelCache(function, f"{function.__module__} {name}")
    return cast(F, compiled)


def kernel(fastmath: frozenset[str] = CAREFUL, inline: str = "never") -> Callable[[F], F]:
    """Compile on first use and keep the result on disk; where no folder can be written, keep it in memory."""
    return lambda function: _compile(function, function.__qualname__, fastmath=set(fastmath), inline=inline)


def parallel(fastmath: frozenset[str] = CAREFUL) -> Callable[[F], Callable[..., None]]:
    """The same for work that can be shared out.

    ``work(part, parts, *arguments)`` does its share; ``work(parts, *arguments)`` is what it becomes, which does all
    of it, when no other work is under way. One part is done on the caller's thread, more of them by Numba's pool.
    """

    def decorate(function: F) -> Callable[..., None]:
        work: Any = kernel(fastmath)(function)
        launched = in_turn(work) if config.DISABLE_JIT else launcher(work, function)

        @wraps(function)
        def shared(parts: int, *arguments: Any) -> None:
            with BUSY:
                if parts == 1:
                    work(0, 1, *arguments)
                else:
                    launched(parts, *arguments)

        return shared

    return decorate


def launcher(work: Any, function: Callable[..., Any]) -> Callable[..., None]:
    """What hands out the parts of compiled work to the pool."""
    named = Named(work, f"{function.__module__}.{function.__qualname__}")
    call = named.call

    def launch(parts: int, *arguments: Any) -> None:
        for part in prange(parts):
            call(np.int64(part), parts, arguments)  # uint64 would compile anew

    launched = _compile(launch, f"launch {function.__qualname__}", parallel=True)
    named.publish_before(launched)
    return launched


def in_turn(work: Any) -> Callable[..., None]:
    """Where nothing is compiled: one part after another."""

    def launched(parts: int, *arguments: Any) -> None:
        for part in range(parts):
            work(part, parts, *arguments)

    return launched


@kernel()
def share(part: int, parts: int, count: int, grain: int) -> tuple[int, int]:
    """The first of `count` things that is this part's, and the first after them; both are multiples of grain."""
    grains = -(-count // grain)
    return min(count, part * grains // parts * grain), min(count, (part + 1) * grains // parts * grain)
