"""A whole training step: forward, backward, Adam."""

import math
from dataclasses import replace

import numpy as np

import npvae as nv
from benchmarks import peaks
from benchmarks.contest import Arrays, Cell, Check, Pace, Record, compete, l2
from benchmarks.options import Options
from benchmarks.peers import OURS, PEERS, answer, ours
from benchmarks.problem import Array, Problem
from benchmarks.results import Result, result
from benchmarks.workers import Worker, close_all
from npvae import noise

DEEP = Problem(hidden=(200, 200), latent=50)
PROBLEMS = (
    *(Problem(batch=batch) for batch in (16, 64, 128, 512, 2048)),
    *(replace(DEEP, batch=batch) for batch in (20, 100)),
    *(replace(DEEP, batch=batch, samples=k, bound="iwae") for batch in (20, 100) for k in (5, 50)),
)

# Largest L2 errors against npvae's reference in float64. One tensor may be worse than all together. Adam divides by the
# gradient's own size: where that is hardly more than rounding a step may differ by any factor, so the worst hundredth
# of each tensor's steps is left out. What was tried and is right stays below 2e-4; beta2 of 0.99 makes 1.3e-3 or more.
LARGEST = {"loss": 1e-5, "gradient": 1e-4, "worst tensor": 1e-3, "update": 1e-3}


def run(options: Options) -> Result:
    """All cells that are wanted."""
    names, problems = options.choose(list(PEERS)), [p for p in PROBLEMS if options.wants(p.name)]
    pace = Pace(len(problems) * options.rounds)
    sizes = sorted({p.parameters for p in problems})
    cells, limits = peaks.around(
        options, sizes, lambda: [measure(p, p.name, names, options, options.threads, pace) for p in problems]
    )
    pace.close()
    return result("step", options, cells, limits)


def measure(problem: Problem, name: str, names: list[str], options: Options, threads: int, pace: Pace) -> Record:
    """The contestants `names` on this problem, in fresh processes."""
    workers = {peer: Worker(peer, threads) for peer in names}
    labels = {peer: PEERS[peer].label for peer in names}
    cell = replace(cell_of(problem, tune=not options.quick), name=name)
    try:
        return compete(cell, workers, labels, OURS, options.timing, pace)
    finally:
        close_all(workers.values())


def cell_of(problem: Problem, tune: bool = True) -> Cell:
    """The cell in which this problem is timed."""
    given = arrays(problem)
    return Cell(
        problem.name,
        "benchmarks.peers",
        problem.to_json(),
        check_of(problem, given),
        given,
        {"problem": problem.to_json(), "flops": problem.flops, "parameters": problem.parameters},
        {"tune": tune},
    )


def arrays(problem: Problem) -> Arrays:
    """What all contestants get: initial parameters, 2 to 8 batches of digits, binarised once, and their noise."""
    batches = min(max(8192 // problem.batch, 2), 8)
    images = nv.datasets.load("mnist-small").train.images[: batches * problem.batch]
    x = noise.binarize(noise.stream(0, noise.Purpose.STATIC_BINARIZE), images)
    shape = (batches, problem.batch, problem.samples, problem.latent)
    eps = noise.stream(0, noise.Purpose.EPS).standard_normal(shape, np.float32)
    model = nv.VAE(data=problem.data, hidden=problem.hidden, latent=problem.latent)
    theta = nv.Workspace(model, 1, backend="reference", seed=0).theta
    return {"theta": theta, "x": x.reshape(batches, problem.batch, problem.data), "eps": eps}


def check_of(problem: Problem, given: Arrays) -> Check:
    """Compares an answer with that of npvae's reference in float64."""
    expected = answer(ours.make("reference", problem, given, tune=False, dtype="float64"))

    def check(found: Arrays) -> dict[str, tuple[float, float]]:
        errors = {name: l2(found[name], expected[name]) for name in ("loss", "gradient")}
        errors["worst tensor"] = worst(problem, found["gradient"], expected["gradient"], left_out=0.0)
        errors["update"] = worst(problem, found["update"], expected["update"], left_out=0.01)
        return {name: (errors[name], most) for name, most in LARGEST.items()}

    return check


def worst(problem: Problem, found: Array, expected: Array, left_out: float) -> float:
    """The largest L2 error among the tensors of a flat vector, without so many of each tensor's worst entries."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    errors = []
    for pair in zip(problem.layers(found), problem.layers(expected), strict=True):
        for a, b in zip(*pair, strict=True):
            off = np.sort(np.abs(a - b), axis=None)
            off = off[: off.size - math.ceil(left_out * off.size)]
            errors.append(float(np.linalg.norm(off) / (np.linalg.norm(b) or 1.0)))
    return max(errors)
