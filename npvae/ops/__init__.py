"""The ops and their backends. A backend is a module; which one runs is an argument.

`reference` is NumPy, in any dtype, complex included: read it first. `jit` is the same pairs compiled by Numba, in
float32 and float64; it is imported on first use, because Numba takes a while.
"""

import importlib
import os
from types import ModuleType

from npvae.errors import check_choice

BACKENDS = ("jit", "reference")


def default_backend() -> str:
    """`jit`, unless NUMBA_DISABLE_JIT asks for uncompiled code: then `reference`, which is the faster one."""
    return "reference" if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0") else "jit"


def load_backend(name: str) -> ModuleType:
    """Return the module of ops called `name`; an unknown name raises InputError."""
    return importlib.import_module(f"npvae.ops.{check_choice('backend', name, BACKENDS)}")
