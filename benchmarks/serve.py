"""A contestant's process: requests as lines of JSON on stdin, answers as lines of JSON on stdout.

What a library prints to stdout goes to stderr instead. Imports here are few: another contestant's library in this
process would change what is measured.
"""

import importlib
import json
import os
import sys
import time
import traceback
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

Message = dict[str, Any]


class Session:
    """The contestant that was loaded last, and what can be asked of it."""

    def __init__(self) -> None:
        self.contestant: Any = None

    def handle(self, request: Message) -> Message:
        """Answer a request; what goes wrong becomes an answer with an `error`, and `missing` for an ImportError."""
        arguments = dict(request)
        try:
            answer: Message = getattr(self, f"do_{arguments.pop('do')}")(**arguments)
        except ImportError as error:
            return {"error": f"{type(error).__name__}: {error}", "missing": True}
        except Exception as error:
            traceback.print_exc()
            lines = f"{type(error).__name__}: {error}".strip().splitlines()
            return {"error": lines[0]}
        return answer

    def do_load(self, maker: str, name: str, problem: Message, arrays: str | None, **options: Any) -> Message:
        """Make the contestant `name` by `maker`.make, from the arrays in an .npz file."""
        self.contestant = None  # the memory of the one before
        module = importlib.import_module(maker)
        given = {} if arrays is None else read_arrays(Path(arrays))
        self.contestant = module.make(name, problem, given, **options)
        return {"notes": self.contestant.notes}

    def do_answer(self, path: str) -> Message:
        """Write what the contestant has computed to an .npz file."""
        np.savez(path, **self.contestant.answer())
        return {}

    def do_burst(self, times: int, warm: int) -> Message:
        """Seconds of so many runs, after a fresh start and `warm` runs that are not timed."""
        self.contestant.reset()
        self.contestant.run(warm)
        start = time.perf_counter()
        self.contestant.run(times)
        return {"seconds": time.perf_counter() - start}

    def do_memory(self) -> Message:
        """Resident memory of this process in bytes: at its peak, and now."""
        return resident()

    def do_trace(self) -> Message:
        """The most bytes that were allocated at once within one run, when everything is warm."""
        self.contestant.reset()
        self.contestant.run(3)
        tracemalloc.start()
        self.contestant.run(1)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        self.contestant.run(1)
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        return {"peak": peak}

    def do_call(self, module: str, function: str, **arguments: Any) -> Message:
        """Call a function that returns JSON."""
        return {"result": getattr(importlib.import_module(module), function)(**arguments)}


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def resident() -> dict[str, int | None]:
    """Resident memory of this process in bytes, at its peak and now; None where the system does not say.

    Not getrusage where /proc is: its peak is inherited from the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return {name: 1024 * int(fields[key].split()[0]) for name, key in (("peak", "VmHWM"), ("now", "VmRSS"))}
    try:
        import resource
    except ImportError:
        return {"peak": None, "now": None}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "now": None}


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session = Session()
    for line in sys.stdin:
        answers.write(json.dumps(session.handle(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
