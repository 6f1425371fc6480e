"""The contestants of `epoch`: the loop that one writes in each library, around the step that `step` times.

Only NumPy is imported here: a contestant's process loads this file, and must not load another contestant with it.
"""

from typing import Any

import numpy as np

from benchmarks.peers import PEERS, answer, peer_module
from benchmarks.problem import LR, Arrays, Problem


class Loop:
    """Epochs of a contestant of `step`. run(n): n epochs."""

    def __init__(self, name: str, problem: Problem, given: Arrays) -> None:
        self.peer: Any = peer_module(name).make(name, problem, given, tune=False)
        self.problem, self.images = problem, given["images"]
        self.notes: dict[str, Any] = self.peer.notes

    def reset(self) -> None:
        self.peer.reset()

    def run(self, times: int) -> None:
        for _ in range(times):
            self.epoch()

    def epoch(self) -> float:
        """Train for an epoch: -> the mean loss of its images."""
        raise NotImplementedError

    def answer(self) -> Arrays:
        """That of the step, and the mean loss of a first epoch."""
        found = answer(self.peer)
        loss = self.epoch()
        self.reset()
        return found | {"epoch": np.array(loss)}


class Ours(Loop):
    """Around a workspace, which draws its own noise."""

    def epoch(self) -> float:
        from npvae import noise

        ws, optimizer, total = self.peer.ws, self.peer.optimizer, 0.0
        rng = noise.stream(0, noise.Purpose.BINARIZE)
        order = noise.stream(0, noise.Purpose.SHUFFLE).permutation(len(self.images))
        for start in range(0, len(order), ws.batch):
            index = order[start : start + ws.batch]
            total += len(index) * ws.forward(noise.binarize(rng, self.images[index]))
            ws.backward()
            optimizer.step()
        return total / len(order)


class Train(Ours):
    """nv.train, kept in memory; at the end of every epoch it also measures the 2,000 test images."""

    def __init__(self, problem: Problem, given: Arrays) -> None:
        import npvae as nv

        super().__init__("jit", problem, given)
        self.train, self.dataset = nv.train, nv.datasets.load("mnist-small")
        self.notes = {"test images": len(self.dataset.test.images)}

    def run(self, times: int) -> None:
        self.train_for(times)

    def epoch(self) -> float:
        loss: float = self.train_for(1).history[0]["train_loss"]
        return loss

    def train_for(self, epochs: int) -> Any:
        """Every training starts anew."""
        model, batch = self.peer.ws.model, self.problem.batch
        return self.train(model, self.dataset, epochs=epochs, batch=batch, lr=LR, backend="jit", watched=False)


class Plain(Loop):
    """NumPy's generator."""

    def epoch(self) -> float:
        rng, total = np.random.default_rng(0), 0.0
        order = rng.permutation(len(self.images))
        for start in range(0, len(order), self.problem.batch):
            grey = self.images[order[start : start + self.problem.batch]]
            x = (rng.random(grey.shape, np.float32) < grey).astype(np.float32)
            total += len(x) * self.peer.step(x, rng.standard_normal((len(x), 1, self.problem.latent), np.float32))
        return total / len(order)


class Torch(Loop):
    """Without a DataLoader, which is slower where the images are in memory."""

    def __init__(self, name: str, problem: Problem, given: Arrays) -> None:
        import torch  # type: ignore[import-not-found,unused-ignore]

        super().__init__(name, problem, given)
        self.torch: Any = torch
        self.pixels = torch.from_numpy(self.images)

    def epoch(self) -> float:
        torch, total = self.torch, 0.0
        order = torch.randperm(len(self.pixels))
        for start in range(0, len(order), self.problem.batch):
            x = torch.bernoulli(self.pixels[order[start : start + self.problem.batch]])
            total += len(x) * self.peer.step(x, torch.randn(len(x), 1, self.problem.latent)).item()
        return total / len(order)


class Jax(Loop):
    """Random numbers are compiled too; the losses are added up without waiting for them."""

    def __init__(self, name: str, problem: Problem, given: Arrays) -> None:
        import jax  # type: ignore[import-not-found,unused-ignore]

        super().__init__(name, problem, given)
        self.jax: Any = jax
        self.pixels = jax.device_put(self.images)

        def draw(key: Any, number: Any, pixels: Any, index: Any) -> Any:
            black, eps = jax.random.split(jax.random.fold_in(key, number))
            x = jax.random.bernoulli(black, pixels[index]).astype(np.float32)
            return x, jax.random.normal(eps, (len(index), 1, problem.latent))

        self.draw = jax.jit(draw)

    def epoch(self) -> float:
        key, total = self.jax.random.key(0), 0.0
        order = np.asarray(self.jax.random.permutation(key, len(self.images)))
        for start in range(0, len(order), self.problem.batch):
            index = order[start : start + self.problem.batch]
            total += len(index) * self.peer.step(*self.draw(key, start, self.pixels, index))
        return float(total) / len(order)


LOOPS = {"ours": Ours, "numpy_plain": Plain, "pytorch": Torch, "jax_jit": Jax}  # by the module of the step's contestant


def make(name: str, problem: dict[str, Any], given: Arrays) -> Loop:
    """The contestant called `name`; ImportError if what it is made of is not installed."""
    known = Problem.from_json(problem)
    return Train(known, given) if name == "train" else LOOPS[PEERS[name].module](name, known, given)
