"""A cell of a benchmark: every contestant loaded, validated, and only then timed, in rounds that interleave.

In a round each contestant in turn, in an order drawn anew, does a burst of work while the others' processes sleep. So
what slows the machine for a while slows all of them, and a round's times can be paired.
"""

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serve import read_arrays
from benchmarks.statistics import ratios, summarize
from benchmarks.workers import WorkerError
from npvae.progress import Progress

Array = Any
Arrays = dict[str, Any]
Record = dict[str, Any]  # a contestant's part of a cell, as it goes to JSON
Check = Callable[[Arrays], Mapping[str, tuple[float, float]]]  # answer -> {what: (its error, the largest allowed)}
WARM = 0.1  # of a burst's work is done before its clock starts


@dataclass
class Timing:
    """How long to measure: rounds, and seconds of bursts for a whole cell."""

    rounds: int = 15
    seconds: float = 20.0
    seed: int = 0


@dataclass
class Cell:
    """What is measured: a name, how contestants are made, what their answers must be."""

    name: str
    maker: str
    problem: dict[str, Any]
    check: Check
    arrays: Arrays = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # kept in the result: flops, bytes, ...
    options: dict[str, Any] = field(default_factory=dict)  # for the maker


class Pace:
    """How far all rounds of all cells are, on stderr."""

    def __init__(self, rounds: int) -> None:
        self.bar, self.done = Progress(rounds, unit="rounds"), 0

    def say(self, text: str) -> None:
        """Show what is being done."""
        self.bar.update(self.done, text)

    def tick(self) -> None:
        """A round is over."""
        self.done += 1

    def close(self) -> None:
        """Clear the line."""
        self.bar.close()


def compete(
    cell: Cell,
    workers: Mapping[str, Any],
    labels: Mapping[str, str],
    ours: str,
    timing: Timing,
    pace: Pace,
) -> Record:
    """Validate and time every worker on this cell, and return the cell as it goes to JSON."""
    records: dict[str, Record] = {name: {"label": labels[name], "status": "timed"} for name in workers}
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.npz"
        np.savez(given, **cell.arrays)
        for name, worker in workers.items():
            pace.say(f"{cell.name}: {labels[name]} gets ready")
            guarded(records[name], enter, cell, worker, records[name], given)
    share = timing.seconds / (timing.rounds * len(workers))
    for name, worker in workers.items():
        if records[name]["status"] == "timed":
            guarded(records[name], calibrate, worker, records[name], share)
    order = random.Random(timing.seed)
    for _ in range(timing.rounds):
        running = [name for name, record in records.items() if record["status"] == "timed"]
        for name in order.sample(running, len(running)):
            pace.say(f"{cell.name}: {labels[name]}")
            guarded(records[name], burst, workers[name], records[name], share)
        pace.tick()
    summarise(records, ours)
    return {"name": cell.name, "unit": "s", **cell.facts, "contestants": records}


def guarded(record: Record, action: Callable[..., Any], *arguments: Any) -> None:
    """Do it; a contestant that fails is named with its error, and the others go on."""
    try:
        action(*arguments)
    except WorkerError as error:
        record["status"] = "missing" if error.missing else "failed"
        record["reason"] = str(error)
        record.pop("values", None)


def enter(cell: Cell, worker: Any, record: Record, given: Path) -> None:
    """Load the contestant and compare its answer; one that is wrong is refused."""
    load = {"maker": cell.maker, "name": worker.name, "problem": cell.problem, **cell.options}
    record["notes"] = worker.ask("load", arrays=str(given), **load)["notes"]
    examine(worker, cell.check, record, given)


def examine(worker: Any, check: Check, record: Record, given: Path) -> None:
    """Ask a contestant that has loaded the arrays of `given` for its answer, and judge that."""
    path = given.with_name("answer.npz")
    worker.ask("answer", path=str(path))
    judge(check, read_arrays(path), record)


def judge(check: Check, answer: Arrays, record: Record) -> None:
    """Note the errors of an answer; whoever is wrong is refused."""
    errors = check(answer)
    record["errors"] = {what: error for what, (error, _) in errors.items()}
    wrong = [f"{what} off by {error:.2g} (at most {most:g})" for what, (error, most) in errors.items()
             if not error <= most]  # fmt: skip
    if wrong:
        record["status"], record["reason"] = "refused", "; ".join(wrong)


def calibrate(worker: Any, record: Record, seconds: float) -> None:
    """Note how many runs make a burst of about so many seconds."""
    times, taken = 1, worker.ask("burst", times=1, warm=1)["seconds"]
    while taken < seconds / 4 and times < 1 << 24:
        times = max(2 * times, int(min(seconds / max(taken, 1e-9), 50) * times))
        taken = min(worker.ask("burst", times=times, warm=1)["seconds"] for _ in range(2))
    worker.settle()
    record["times"] = max(1, round(times * seconds / max(taken, 1e-9)))


def burst(worker: Any, record: Record, seconds: float) -> None:
    """One round of one contestant: seconds per run. Bursts that turn out short, by half or more, become longer."""
    times = record["times"]
    taken = worker.ask("burst", times=times, warm=max(1, round(WARM * times)))["seconds"]
    record.setdefault("values", []).append(taken / times)
    if taken < seconds / 2:  # whatever slowed the machine while it was calibrated has gone
        record["times"] = round(times * min(seconds / max(taken, 1e-9), 4))
    worker.settle()


def summarise(records: Mapping[str, Record], ours: str) -> None:
    """Add medians and intervals, and those of the ratio to ours, to every record that has values."""
    own: Sequence[float] = records.get(ours, {}).get("values", [])
    for record in records.values():
        values = record.get("values")
        if not values:
            continue
        median, low, high, coverage = summarize(values)
        record |= {"median": median, "interval": [low, high], "coverage": coverage}
        if len(own) == len(values):
            median, low, high, coverage = summarize(ratios(values, own))
            record |= {"ratio": median, "ratio_interval": [low, high]}


def l2(a: Any, b: Any) -> float:
    """|a - b| / |b|, infinite where shapes differ or a number is not finite."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not np.isfinite(a).all():
        return float("inf")
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0))
