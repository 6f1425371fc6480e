"""The contestants of a training step. Each module has `make(name, problem, given, tune)`, which returns a Contestant.

given: what all of them get, `theta` (P,) the initial parameters, `x` (batches,B,D) and `eps` (batches,B,K,Z), float32.
A contestant brings them into the form natural to it once, before anything is timed; step i uses batch i modulo their
number. tune: whether to spend time on finding the contestant's fastest settings first.
"""

import importlib
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from benchmarks.problem import Array, Arrays, Problem


class Contestant(Protocol):
    """What is timed."""

    notes: dict[str, Any]  # settings that were found or chosen, for the record

    def reset(self) -> None:
        """Go back to the initial parameters and an optimiser that has not moved."""

    def run(self, times: int) -> None:
        """So many training steps, all of them finished on return."""

    def answer(self) -> Arrays:
        """What is compared with the reference before anything is timed; see `answer` below."""


class Peer(NamedTuple):
    """Who takes part: a name for people, the module that makes it, the package whose version is noted."""

    label: str
    module: str
    package: str


PEERS = {
    "jit": Peer("npvae jit", "ours", "npvae"),
    "reference": Peer("npvae reference", "ours", "npvae"),
    "numpy": Peer("NumPy", "numpy_plain", "numpy"),
    "torch": Peer("PyTorch eager", "pytorch", "torch"),
    "torch-compiled": Peer("PyTorch compiled", "pytorch", "torch"),
    "jax": Peer("JAX jit", "jax_jit", "jax"),
    "autograd": Peer("HIPS autograd", "hips", "autograd"),
}
OURS = "jit"  # what the others' times are divided by


def make(name: str, problem: dict[str, Any], given: Arrays, tune: bool = True) -> Contestant:
    """The contestant called `name`; ImportError if what it is made of is not installed."""
    made: Contestant = peer_module(name).make(name, Problem.from_json(problem), given, tune)
    return made


def peer_module(name: str) -> ModuleType:
    """The module of the contestant called `name`."""
    return importlib.import_module(f"benchmarks.peers.{PEERS[name].module}")


def answer(contestant: Any, steps: int = 3) -> Arrays:
    """loss and gradient (P,) of batch 0 at the initial parameters, and how far `steps` steps of Adam move them (P,)."""
    contestant.reset()
    loss, gradient = contestant.loss_and_gradient()
    contestant.reset()
    before: Array = contestant.theta()
    contestant.run(steps)
    update = contestant.theta() - before
    contestant.reset()
    return {"loss": loss, "gradient": gradient, "update": update}
