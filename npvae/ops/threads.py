"""How many threads the compiled kernels share their work among. There is one pool, Numba's."""

import importlib
import os
from typing import Any

from npvae.errors import InputError, check_whole

# Work, in multiply-adds, that one thread does sooner than two: starting them takes about 2 microseconds.
SMALL = 400_000

_count = 0  # 0: not asked for yet


def set_threads(count: int) -> None:
    """Let compiled kernels use `count` threads, 1 to NUMBA_NUM_THREADS (by default the processors one may use).

    It changes how long a result takes, not a bit of it. Raises InputError for any other number.
    """
    global _count
    if check_whole("threads", count) > max_threads():
        raise InputError(
            f"threads must be 1 to {max_threads()}, got {count}: Numba's pool has so many, "
            "set the environment variable NUMBA_NUM_THREADS before Python starts to have more"
        )
    _numba().set_num_threads(count)
    _count = count


def get_threads() -> int:
    """How many threads compiled kernels use."""
    global _count
    _count = _count or max_threads()
    return _count


def max_threads() -> int:
    """How many threads there are to use."""
    return int(_numba().config.NUMBA_NUM_THREADS)


def parts(work: int) -> int:
    """Into how many parts to cut `work` multiply-adds, or what takes as long."""
    return 1 if work < SMALL else _count or get_threads()


def _numba() -> Any:
    return importlib.import_module("numba")  # when it is needed: it takes a while


def _forked() -> None:
    """A child has its parent's memory but none of its threads, and starting others would end it: it uses one."""
    global _count
    _count = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
