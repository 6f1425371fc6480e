"""How a kernel is compiled: on first use, with a cache on disk that knows every file a kernel is made of."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import FunctionCache

F = TypeVar("F", bound=Callable[..., Any])

# What the compiler may do to floating-point numbers. Never "nnan" or "ninf", which assume NaN and inf away.
SUM = frozenset(("nsz", "arcp", "contract", "reassoc"))  # only a sum that may be reordered is vectorised
CAREFUL = frozenset(("nsz", "contract"))  # reordering undoes the range reduction inside an exponential
ROUNDED = frozenset(("nsz",))  # no product is fused with a sum: in z^2 - eps^2 and 1 - y^2 it would show

# Width in bits of the vector registers to compile for, where it shall not be the widest that the processor has.
VECTOR_BITS = os.environ.get("NPVAE_VECTOR_BITS", "")


def fingerprint(folder: Path = Path(__file__).parent) -> str:
    """A hash of all that compiled code depends on besides its own file: its neighbours, and the width of a vector."""
    digest = hashlib.sha256(VECTOR_BITS.encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


FINGERPRINT = fingerprint()


class KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, which looks at the file of the function alone; a kernel inlines others and reads constants."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return *super()._index_key(sig, codegen), FINGERPRINT


def kernel(fastmath: frozenset[str] = CAREFUL, parallel: bool = False) -> Callable[[F], F]:
    """Compile on first use and keep the result on disk; where no folder can be written, keep it in memory."""

    def decorate(function: F) -> F:
        compiled = njit(error_model="numpy", fastmath=set(fastmath), parallel=parallel)(function)
        try:
            cache = KernelCache(function)
        except RuntimeError:  # "no locator available": Numba found nowhere to write
            return cast(F, compiled)
        if hasattr(compiled, "_cache"):  # not under NUMBA_DISABLE_JIT
            compiled._cache = cache
        return cast(F, compiled)

    return decorate
