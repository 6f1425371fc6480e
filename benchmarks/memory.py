"""Memory of a process that trains 50 steps of B = 128, and what one step allocates once everything is warm."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.contest import Check, Pace, Record, examine, guarded, summarise
from benchmarks.options import Options
from benchmarks.peers import OURS, PEERS
from benchmarks.problem import Problem
from benchmarks.results import Result, result
from benchmarks.step import arrays, check_of
from benchmarks.workers import Worker, WorkerError

STEPS = 50
TRACED = ("jit", "reference", "numpy", "autograd")  # tracemalloc sees NumPy's arrays, not those of other libraries
CELLS = {
    "before: Python and NumPy": "MiB",
    f"peak of the process, {STEPS} steps": "MiB",
    f"of that: library, batches, model, {STEPS} steps": "MiB",
    "allocated within one step, at its peak": "KiB",
}
BEFORE, PEAK, GROWTH, STEP = CELLS


def run(options: Options) -> Result:
    """All contestants, one after the other."""
    names, problem = options.choose(list(PEERS)), Problem()
    rounds = min(options.rounds, 1 if options.quick else 3)
    pace = Pace(rounds * len(names))
    contestants: dict[str, Record] = {name: {"label": PEERS[name].label, "status": "timed"} for name in names}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        shared, given = arrays(problem), Path(folder) / "given.npz"
        np.savez(given, **shared)
        check = check_of(problem, shared)
        for _ in range(rounds):
            for name, record in contestants.items():
                pace.say(record["label"])
                if record["status"] == "timed":
                    guarded(record, measure, record, found[name], name, problem, given, options.threads, check)
                pace.tick()
    pace.close()
    cells: dict[str, dict[str, Record]] = {cell: {} for cell in CELLS}
    for cell, records in cells.items():
        for name, record in contestants.items():
            values = [one[cell] for one in found[name] if cell in one]
            if record["status"] != "timed":
                records[name] = record
            elif values:
                records[name] = record | {"values": values}
        summarise(records, OURS)
    facts = {"problem": problem.to_json()}
    made = [{"name": cell, "unit": CELLS[cell], **facts, "contestants": records} for cell, records in cells.items()]
    return result("memory", replace(options, rounds=rounds), made)


def measure(
    record: Record,
    found: list[dict[str, float]],
    name: str,
    problem: Problem,
    given: Path,
    threads: int,
    check: Check,
) -> None:
    """Add the memory of one process, by the name of the cell; compilers in processes of their own do not count.

    It answers after that, because to answer takes memory; one whose answer is wrong is refused.
    """
    worker = Worker(name, threads)
    try:
        before = worker.ask("memory")["peak"]
        maker = "benchmarks.peers"
        worker.ask("load", maker=maker, name=name, problem=problem.to_json(), arrays=str(given), tune=False)
        worker.ask("burst", times=STEPS, warm=1)
        peak = worker.ask("memory")["peak"]
        if peak is None:
            raise WorkerError("this system does not tell how much memory a process has")
        memory = {BEFORE: before / 2**20, PEAK: peak / 2**20, GROWTH: (peak - before) / 2**20}
        if name in TRACED:
            memory[STEP] = worker.ask("trace")["peak"] / 2**10
        examine(worker, check, record, given)
        found.append(memory)
    finally:
        worker.close()
