"""How a step's time grows: with threads, with the batch, with the width."""

from benchmarks import peaks
from benchmarks.contest import Pace
from benchmarks.options import Options
from benchmarks.problem import Problem
from benchmarks.results import Result, result
from benchmarks.step import measure
from benchmarks.workers import cores

NAMES = ("jit", "numpy", "torch", "jax")
BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
WIDTHS = (100, 200, 400, 800, 1600)


def plan(threads: int) -> list[tuple[str, int, Problem]]:
    """(name of the cell, threads, problem)."""
    cells = [(f"threads {n}, B={batch}", n, Problem(batch=batch)) for batch in (128, 512) for n in counts(threads)]
    cells += [(f"batch {batch}, threads {threads}", threads, Problem(batch=batch)) for batch in BATCHES]
    cells += [(f"width {width}, B=128, threads {threads}", threads, Problem(hidden=(width,))) for width in WIDTHS]
    return cells


def counts(threads: int) -> list[int]:
    """1, 2, 4, ... and all; every number up to four."""
    return sorted({n for n in range(1, threads + 1) if n <= 4 or n & (n - 1) == 0} | {threads})


def run(options: Options) -> Result:
    """All cells that are wanted."""
    names = options.choose(NAMES)
    wanted = [cell for cell in plan(max(options.threads, cores())) if options.wants(cell[0])]
    limits = {}
    for threads in sorted({threads for _, threads, _ in wanted}):
        sizes = sorted({problem.parameters for _, n, problem in wanted if n == threads})
        limits[threads] = peaks.measured(options.with_threads(threads), sizes)
    pace, cells = Pace(len(wanted) * options.rounds), []
    for name, threads, problem in wanted:
        cell = measure(problem, name, names, options, threads, pace)
        cells.append(cell | {"threads": threads, "peaks": limits[threads]})
    pace.close()
    return result("scaling", options, cells)
