"""What stands before the first step: importing, compiling, reading what was compiled before; in fresh processes.

"first step" begins with the library imported and the arrays at hand: building the model, compiling, one step.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.contest import Check, Pace, Record, judge, summarise
from benchmarks.options import Options
from benchmarks.peers import OURS, PEERS
from benchmarks.problem import Problem
from benchmarks.results import Result, result
from benchmarks.serve import read_arrays
from benchmarks.step import arrays, check_of
from benchmarks.workers import PATIENCE, ROOT, restrict, thread_environment

NAMES = ("jit", "reference", "numpy", "torch", "torch-compiled", "jax")
CACHES = ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")  # JAX keeps nothing unless it is told to
ROUNDS = 5  # at most: compiling takes long, and varies little

CELLS = {  # name -> (which process of a round: 0 finds no cache, 1 finds what the other left; what of it)
    "import": (1, "import"),
    "first step, nothing cached": (0, "first"),
    "first step, cached": (1, "first"),
    "second step": (1, "second"),
    "whole process, cached": (1, "process"),
}


def run(options: Options) -> Result:
    """All of it."""
    names, problem = options.choose(NAMES), Problem()
    rounds = min(options.rounds, 1 if options.quick else ROUNDS)
    pace = Pace(rounds * len(names))
    cells = {cell: {name: {"label": PEERS[name].label, "status": "timed", "values": []} for name in names}
             for cell in CELLS}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.npz"
        shared = arrays(problem)
        np.savez(given, **shared)
        check = check_of(problem, shared)
        for _ in range(rounds):
            for name in names:
                pace.say(f"{PEERS[name].label} starts")
                take(name, problem, given, options.threads, {cell: cells[cell][name] for cell in CELLS}, check)
                pace.tick()
    pace.close()
    made = []
    for cell, records in cells.items():
        summarise(records, OURS)
        made.append({"name": cell, "unit": "s", "problem": problem.to_json(), "contestants": records})
    return result("startup", replace(options, rounds=rounds), made)


def take(name: str, problem: Problem, given: Path, threads: int, records: dict[str, Record], check: Check) -> None:
    """One round of one contestant: two processes, the second with the cache of the first.

    They answer when their clock has been read, because what comes first is what is measured; the times of one whose
    answer is wrong are dropped.
    """
    if any(record["status"] != "timed" for record in records.values()):
        return
    with tempfile.TemporaryDirectory() as cache:
        found = [start(name, problem, given, threads, cache, check) for _ in range(2)]
    for cell, (process, what) in CELLS.items():
        record, (verdict, times) = records[cell], found[process]
        record |= verdict
        if record["status"] == "timed":
            record["values"].append(times[what])
        else:
            record.pop("values")


def start(
    name: str, problem: Problem, given: Path, threads: int, cache: str, check: Check
) -> tuple[Record, dict[str, float]]:
    """Whether a fresh process did what it should, and the times that it says, its whole time as "process" with them."""
    environment = os.environ | thread_environment(threads) | dict.fromkeys(CACHES, cache)
    path = Path(cache) / "answer.npz"
    asked = [name, PEERS[name].package, json.dumps(problem.to_json()), str(given), str(path)]
    before = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cold", *asked],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    restrict(process.pid, threads)
    try:
        said, complaint = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"status": "failed", "reason": f"did not end within {PATIENCE:.0f} s"}, {}
    taken = time.perf_counter() - before
    if process.returncode:
        error = (complaint.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        status = "missing" if error.startswith(("ModuleNotFound", "Import")) else "failed"
        return {"status": status, "reason": error}, {}
    times: dict[str, float] = json.loads(said.strip().splitlines()[-1])
    verdict: Record = {"status": "timed"}
    judge(check, read_arrays(path), verdict)
    return verdict, {**times, "process": taken - times.pop("answer")}
