"""How many threads the compiled kernels share their work among. There is one pool, Numba's."""

import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from npvae.errors import InputError, check_whole

# Work, in multiply-adds, that one thread does sooner than two: starting them takes about 2 microseconds.
SMALL = 600_000

# Held while a kernel runs. Numba lets go of Python's lock while its pool works; but one of its pools ends the process
# if two threads of Python enter it at once, and products share the memory that they pack matrices into.
BUSY = threading.RLock()  # again by the same thread: from a signal's handler

_count = 0  # 0: not asked for yet
_child = False  # of a fork


def set_threads(count: int) -> None:
    """Let compiled kernels use `count` threads, 1 to NUMBA_NUM_THREADS (by default the processors one may use).

    It changes how long a result takes, not a bit of it. A process made by fork has one thread. Raises InputError for
    any other number.
    """
    global _count
    count = check_whole("threads", count)
    if count > max_threads():
        if _child:
            raise InputError(
                f"threads must be 1 in a process made by fork, got {count}: Numba's pool stayed with its parent, "
                'start worker processes by "spawn" to have more'
            )
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
    return 1 if _child else int(_numba().config.NUMBA_NUM_THREADS)


def parts(work: int) -> int:
    """Into how many parts to cut `work` multiply-adds, or what takes as long."""
    return 1 if work < SMALL else _count or get_threads()


@contextmanager
def cut_all() -> Iterator[None]:
    """Cut all work, however small, so that small arrays reach what only large ones would."""
    global SMALL
    before, SMALL = SMALL, 0
    try:
        yield
    finally:
        SMALL = before


def _numba() -> Any:
    return importlib.import_module("numba")  # when it is needed: it takes a while


def _forked() -> None:
    """A child has its parent's memory but none of its threads, and starting others would end it: it uses one."""
    global _count, _child
    _count, _child = 1, True
    BUSY.release()


if hasattr(os, "register_at_fork"):  # no fork while a kernel runs: its child would wait for the end of it
    os.register_at_fork(before=BUSY.acquire, after_in_parent=BUSY.release, after_in_child=_forked)
