"""An epoch of mnist-small end to end: shuffle, index, binarise, draw noise, step; 10,000 digits in batches of 128.

Random numbers are each library's own, so losses agree only as closely as an epoch's mean does from seed to seed.
"""

from typing import Any

import numpy as np

import npvae as nv
from benchmarks.contest import Arrays, Cell, Pace, Record, compete
from benchmarks.options import Options
from benchmarks.peers import OURS, PEERS, peer_module
from benchmarks.peers.ours import restart
from benchmarks.problem import BETA1, BETA2, EPSILON, LR, Problem
from benchmarks.results import Result, result
from benchmarks.workers import Worker, close_all
from npvae import noise
from npvae.noise import Purpose

LABELS = {
    "jit": "npvae jit",
    "reference": "npvae reference",
    "train": "npvae jit, nv.train with its validation",
    "torch": PEERS["torch"].label,
}
CLOSE = 0.02  # how far an epoch's mean loss may be from the reference's, relatively


def run(options: Options) -> Result:
    """One cell."""
    names = [name for name in options.choose(["jit", "reference", "torch"])]
    names = [*names[:-1], "train", names[-1]] if "torch" in names else [*names, "train"]
    problem, given = Problem(), data()
    expected = Ours("reference", problem, given).answer()["loss"]

    def check(found: Arrays) -> dict[str, tuple[float, float]]:
        return {"loss": (abs(float(found["loss"]) / float(expected) - 1), CLOSE)}

    facts = {"problem": problem.to_json(), "images": len(given["images"]), "flops": None}
    cell = Cell("an epoch of mnist-small, B=128", "benchmarks.epoch", problem.to_json(), check, given, facts)
    pace = Pace(options.rounds)
    workers = {name: Worker(name, options.threads) for name in names}
    try:
        cells: list[Record] = [compete(cell, workers, LABELS, OURS, options.timing, pace)]
    finally:
        close_all(workers.values())
    pace.close()
    return result("epoch", options, cells)


def data() -> Arrays:
    """The digits and the initial parameters, the decoder's bias at the mean image's logit as nv.train has it."""
    problem, images = Problem(), nv.datasets.load("mnist-small").train.images
    model = nv.VAE(data=problem.data, hidden=problem.hidden, latent=problem.latent)
    ws = nv.Workspace(model, 1, backend="reference", seed=0)
    model.initialize_from(ws.params, images)
    return {"theta": ws.theta, "images": images}


class Ours:
    """The loop that one writes around a workspace. run(n): n epochs."""

    def __init__(self, backend: str, problem: Problem, given: Arrays) -> None:
        model = nv.VAE(data=problem.data, hidden=problem.hidden, latent=problem.latent)
        self.ws = nv.Workspace(model, problem.batch, backend=backend)
        self.optimizer = nv.Adam(self.ws, LR, BETA1, BETA2, EPSILON)
        self.initial, self.images = given["theta"], given["images"]
        self.notes: dict[str, Any] = {}

    def reset(self) -> None:
        restart(self.optimizer, self.initial)

    def run(self, times: int) -> None:
        for epoch in range(times):
            self.epoch(epoch)

    def epoch(self, epoch: int) -> float:
        """The mean loss of the epoch's images."""
        ws, rng, total = self.ws, noise.stream(0, Purpose.BINARIZE, epoch), 0.0
        order = noise.stream(0, Purpose.SHUFFLE, epoch).permutation(len(self.images))
        for start in range(0, len(order), ws.batch):
            index = order[start : start + ws.batch]
            total += len(index) * ws.forward(noise.binarize(rng, self.images[index])).real
            ws.backward()
            self.optimizer.step()
        return total / len(order)

    def answer(self) -> Arrays:
        self.reset()
        loss = self.epoch(0)
        self.reset()
        return {"loss": np.array(loss)}


class Train:
    """nv.train, kept in memory; at the end of every epoch it also measures the 2,000 test images."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.model = nv.VAE(data=problem.data, hidden=problem.hidden, latent=problem.latent)
        self.dataset = nv.datasets.load("mnist-small")
        self.notes: dict[str, Any] = {"test images": len(self.dataset.test.images)}

    def reset(self) -> None:
        """Every training starts anew."""

    def run(self, times: int) -> None:
        self.run_of(times)

    def run_of(self, epochs: int) -> nv.Run:
        return nv.train(self.model, self.dataset, epochs=epochs, batch=self.problem.batch, lr=LR, backend="jit",
                        watched=False)  # fmt: skip

    def answer(self) -> Arrays:
        return {"loss": np.array(self.run_of(1).history[0]["train_loss"])}


class Torch:
    """The loop that one writes in PyTorch without a DataLoader, on the eager contestant of the step."""

    def __init__(self, problem: Problem, given: Arrays) -> None:
        import torch  # type: ignore[import-not-found,unused-ignore]

        self.torch: Any = torch
        nothing = {"x": np.empty((0, 0), np.float32), "eps": np.empty((0, 0), np.float32)}
        self.peer: Any = peer_module("torch").make("torch", problem, {"theta": given["theta"], **nothing}, False)
        self.images = torch.from_numpy(given["images"])
        self.batch, self.latent = problem.batch, problem.latent
        self.notes: dict[str, Any] = self.peer.notes

    def reset(self) -> None:
        self.peer.reset()

    def run(self, times: int) -> None:
        for _ in range(times):
            self.epoch()

    def epoch(self) -> float:
        torch, peer, total = self.torch, self.peer, 0.0
        order = torch.randperm(len(self.images))
        for start in range(0, len(order), self.batch):
            x = torch.bernoulli(self.images[order[start : start + self.batch]])
            peer.optimizer.zero_grad(set_to_none=True)
            loss = peer.loss(x, torch.randn(len(x), 1, self.latent))
            loss.backward()
            peer.optimizer_step()
            total += len(x) * loss.item()
        return total / len(order)

    def answer(self) -> Arrays:
        self.torch.manual_seed(0)
        self.reset()
        loss = self.epoch()
        self.reset()
        return {"loss": np.array(loss)}


def make(name: str, problem: dict[str, Any], given: Arrays) -> Ours | Train | Torch:
    known = Problem.from_json(problem)
    if name == "train":
        return Train(known)
    return Torch(known, given) if name == "torch" else Ours(name, known, given)
