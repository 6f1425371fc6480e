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
from typing import Any

import numpy as np

from benchmarks.contest import Pace, Record, summarise
from benchmarks.options import Options
from benchmarks.peers import OURS, PEERS
from benchmarks.problem import Problem
from benchmarks.results import Result, result
from benchmarks.step import arrays
from benchmarks.workers import PATIENCE, ROOT, thread_environment

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
        np.savez(given, **arrays(problem))
        for _ in range(rounds):
            for name in names:
                pace.say(f"{PEERS[name].label} starts")
                take(name, problem, given, options.threads, {cell: cells[cell][name] for cell in CELLS})
                pace.tick()
    pace.close()
    made = []
    for cell, records in cells.items():
        summarise(records, OURS)
        made.append({"name": cell, "unit": "s", "problem": problem.to_json(), "contestants": records})
    return result("startup", replace(options, rounds=rounds), made)


def take(name: str, problem: Problem, given: Path, threads: int, records: dict[str, Record]) -> None:
    """One round of one contestant: two processes, the second with the cache of the first."""
    if any(record["status"] != "timed" for record in records.values()):
        return
    with tempfile.TemporaryDirectory() as cache:
        found = [start(name, problem, given, threads, cache) for _ in range(2)]
    for cell, (process, what) in CELLS.items():
        record, answer = records[cell], found[process]
        if "error" in answer:
            record |= {"status": answer["status"], "reason": answer["error"]}
            record.pop("values")
        else:
            record["values"].append(answer[what])


def start(name: str, problem: Problem, given: Path, threads: int, cache: str) -> dict[str, Any]:
    """What a fresh process says, with its whole time as "process"; or an error."""
    environment = os.environ | thread_environment(threads) | dict.fromkeys(CACHES, cache)
    before = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.cold", name, PEERS[name].package, json.dumps(problem.to_json()), given],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"did not end within {PATIENCE:.0f} s", "status": "failed"}
    taken = time.perf_counter() - before
    if done.returncode:
        error = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"error": error, "status": "missing" if error.startswith(("ModuleNotFound", "Import")) else "failed"}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer | {"process": taken}
