"""The processes of the contestants, seen from the parent: one each, with the same number of threads, asked in turn."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 900.0  # seconds for one answer: compilers may take minutes

# Whatever pool of threads a library has, its size is set in one of these.
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS", "NPROC",
)  # fmt: skip


class WorkerError(Exception):
    """A contestant could not do what it was asked. `missing`: it is not installed."""

    def __init__(self, message: str, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class Worker:
    """A process that runs one contestant; `ask` it, one request at a time."""

    def __init__(self, name: str, threads: int, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=ROOT,
            env={**os.environ, **thread_environment(threads), **(environment or {})},
        )
        restrict(self.process.pid, threads)
        self.lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a request; WorkerError if there is an error instead, or no process that could answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=PATIENCE)
        except (OSError, ValueError):
            line = b""
        except queue.Empty:
            self.process.kill()
            raise WorkerError(f"gave no answer to {do!r} within {PATIENCE:.0f} s") from None
        if not line:
            code = self.process.wait()
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            raise WorkerError(f"its process ended ({how}) {self.last_words()}".strip())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"], answer.get("missing", False))
        return answer

    def last_words(self) -> str:
        """The last line that the process wrote to stderr."""
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def settle(self) -> None:
        """Return when no thread of the process is busy any more: pools spin for a while before they sleep."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        if not stat.exists():
            time.sleep(0.2)
            return
        deadline = time.monotonic() + 2
        before = -1.0
        while time.monotonic() < deadline:
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                return
            used = float(fields[11]) + float(fields[12])  # clock ticks of 10 ms
            if used == before:
                return
            before = used
            time.sleep(0.03)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.reader.join()
        self.log.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as answers:
            for line in answers:
                self.lines.put(line)
        self.lines.put(b"")


def thread_environment(threads: int) -> dict[str, str]:
    """The variables that set the size of every library's pool."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def restrict(process: int, threads: int) -> None:
    """Keep a process to as many processors as it may have threads: not every library heeds a variable."""
    if hasattr(os, "sched_setaffinity") and threads < cores():
        os.sched_setaffinity(process, sorted(os.sched_getaffinity(0))[:threads])


def close_all(workers: Iterable[Worker]) -> None:
    """End all of these processes."""
    for worker in workers:
        worker.close()


def call(threads: int, module: str, function: str, /, **arguments: Any) -> Any:
    """What a function returns in a process of its own; WorkerError if it fails there."""
    worker = Worker(function, threads)
    try:
        return worker.ask("call", module=module, function=function, **arguments)["result"]
    finally:
        worker.close()
