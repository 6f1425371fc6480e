"""What finds mistakes around the gradient: in the step that it is used for, and in the pass over the data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from npvae.flat import Array
from npvae.zoo.testimony import Testimony, away_from_start, passed, same

# ── Adam ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def adam(module: Any) -> Testimony:
    """Three steps on two arrays are those of Kingma & Ba 2015, algorithm 1, its averages written as sums."""
    rng, lr = np.random.default_rng(0), 0.1
    model = module.VAE(3, 2, 1)
    names = ["W1", "b1"]
    start = {name: model.p[name].copy() for name in names}
    history: dict[str, list[Array]] = {name: [] for name in names}
    for _ in range(3):
        grads = {name: 1e-4 * rng.standard_normal(start[name].shape) for name in names}  # small: epsilon shows
        for name in names:
            history[name].append(grads[name])
        model.step({name: grad.copy() for name, grad in grads.items()}, lr)
    moved = [model.p[name] - start[name] for name in names]
    off = worst(moved, [adam_moves(history[name], lr) for name in names])
    if off < 1e-9:
        return passed("adam", "three steps are the algorithm's")
    text = f"three steps are {off:.1e} off the algorithm's"
    for kind, words in ADAM.items():
        if worst(moved, [adam_moves(history[name], lr, kind, place) for place, name in enumerate(names)]) < 1e-9:
            return Testimony("adam", False, kind, f"{text}: {words}")
    return Testimony("adam", False, "", text)


ADAM = {
    "no bias correction": "the moments are not divided by 1 - beta^t",
    "epsilon inside the root": "epsilon stands inside the root",
    "counter per array": "t counts arrays, not steps",
    "square of the mean": "the second moment averages squares of the averaged gradient",
}


def adam_moves(grads: list[Array], lr: float, kind: str = "", place: int = 0) -> Array:
    """How far Adam goes with these gradients in a row; `kind` is a mistake, `place` the array's among two."""
    b1, b2, epsilon, moved = 0.9, 0.999, 1e-8, np.zeros_like(grads[0])

    def average(values: list[Array], b: float) -> Array:
        """sum_i (1 - b) b^(t-i) values_i: the moving average as a sum."""
        total: Array = np.sum([(1 - b) * b ** (len(values) - 1 - i) * x for i, x in enumerate(values)], axis=0)
        return total

    for t in range(1, len(grads) + 1):
        squared = [average(grads[: i + 1], b1) for i in range(t)] if kind == "square of the mean" else grads[:t]
        count = 2 * (t - 1) + place + 1 if kind == "counter per array" else t
        corrected = kind != "no bias correction"
        m = average(grads[:t], b1) / (1 - b1**count if corrected else 1)
        v = average([value**2 for value in squared], b2) / (1 - b2**count if corrected else 1)
        moved -= lr * m / (np.sqrt(v + epsilon) if kind == "epsilon inside the root" else np.sqrt(v) + epsilon)
    return moved


def worst(arrays: list[Array], others: list[Array]) -> float:
    """The largest difference, relative to the largest number on the right."""
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in zip(arrays, others, strict=True))


# ── The epoch ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Watched(NamedTuple):
    """An epoch over ten images in batches of four: what it returned, the rows and the loss of every forward."""

    returned: float
    rows: list[Array]
    losses: list[float]
    images: Array


def watch(module: Any) -> Watched:
    """Run one, with a learning rate of 0."""
    images, rows, losses = np.random.default_rng(0).random((10, 5)), [], []
    model = away_from_start(module.VAE(5, 2, 2))
    forward = model.forward

    def watched(x: Array, *rest: Any) -> Any:
        rows.append(x)
        losses.append(forward(x, *rest))
        return losses[-1]

    model.forward = watched
    return Watched(float(model.epoch(images, batch=4, lr=0.0)), rows, losses, images)


def epoch_rows(module: Any) -> Testimony:
    """An epoch shows every image once."""
    seen, images = np.concatenate((run := watch(module)).rows), run.images
    counts = (seen[None] == images[:, None]).all(axis=2).sum(axis=1)
    if (counts == 1).all() and len(seen) == len(images):
        return passed("epoch-rows", "every image is seen once")
    kind = "rows repeated" if (counts > 1).any() else "rows missing"
    text = f"of {len(images)} images an epoch misses {(counts == 0).sum()} and repeats {(counts > 1).sum()}"
    return Testimony("epoch-rows", False, kind, text)


def epoch_mean(module: Any) -> Testimony:
    """The loss of an epoch is the mean over its images: batches count by their rows."""
    run = watch(module)
    sizes = np.array([len(x) for x in run.rows])
    right = float(np.average(run.losses, weights=sizes))
    if same(run.returned, right):
        return passed("epoch-mean", "the epoch's loss is the mean over its images")
    text = f"the epoch's loss is {run.returned:.4f}, the mean over its images {right:.4f}"
    if same(run.returned, float(np.mean(run.losses))):
        kind = "last batch weighted as full"
        return Testimony("epoch-mean", False, kind, f"{text}: the smaller last batch counts as a full one")
    return Testimony("epoch-mean", False, "", text)


WITNESSES: dict[str, Callable[[Any], Testimony]] = {"adam": adam, "epoch-rows": epoch_rows, "epoch-mean": epoch_mean}
