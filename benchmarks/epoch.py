"""An epoch of mnist-small end to end: shuffle, index, binarise, draw noise, step; 10,000 digits in batches of 128.

Every contestant's step is compared as in `step`. Random numbers are each library's own, so that the losses of an epoch
agree only as closely as they do from seed to seed.
"""

import numpy as np

import npvae as nv
from benchmarks import loops, step
from benchmarks.contest import Arrays, Cell, Pace, compete
from benchmarks.options import Options
from benchmarks.peers import OURS, PEERS
from benchmarks.problem import Problem
from benchmarks.results import Result, result
from benchmarks.workers import Worker, close_all

NAMES = ("jit", "train", "reference", "numpy", "torch", "torch-compiled", "jax")
# How far an epoch's mean loss may be from the reference's, relatively: 4 standard deviations of the difference of two
# seeds. Over 24 seeds of ours that of the loss itself was 0.29 %.
CLOSE = 4 * 2**0.5 * 0.0029
LABELS = {name: peer.label for name, peer in PEERS.items()} | {"train": "npvae jit, nv.train with its validation"}


def run(options: Options) -> Result:
    """One cell."""
    names = options.choose(NAMES)
    pace = Pace(options.rounds)
    workers = {name: Worker(name, options.threads) for name in names}
    try:
        cells = [compete(cell_of(Problem()), workers, LABELS, OURS, options.timing, pace)]
    finally:
        close_all(workers.values())
    pace.close()
    return result("epoch", options, cells)


def cell_of(problem: Problem, rows: int | None = None) -> Cell:
    """The cell in which an epoch of the first `rows` digits, or of all, is timed."""
    given = arrays(problem, rows)
    steps, expected = step.check_of(problem, given), loops.Ours("reference", problem, given).epoch()

    def check(found: Arrays) -> dict[str, tuple[float, float]]:
        return {**steps(found), "epoch": (abs(float(found["epoch"]) / expected - 1), CLOSE)}

    facts = {"problem": problem.to_json(), "images": len(given["images"]), "flops": None}
    name = f"an epoch of mnist-small, B={problem.batch}"
    return Cell(name, "benchmarks.loops", problem.to_json(), check, given, facts)


def arrays(problem: Problem, rows: int | None = None) -> Arrays:
    """What a step gets, and the digits; the decoder's bias starts at the mean image's logit, as nv.train has it."""
    given, images = step.arrays(problem), nv.datasets.load("mnist-small").train.images[:rows]
    model = nv.VAE(data=problem.data, hidden=problem.hidden, latent=problem.latent)
    ws = nv.Workspace(model, 1, backend="reference", theta=given["theta"])
    model.initialize_from(ws.params, images)
    return {**given, "theta": ws.theta, "images": np.ascontiguousarray(images)}
