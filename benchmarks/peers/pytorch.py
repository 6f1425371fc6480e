"""PyTorch, eager and compiled: nn.Linear layers, torch.optim.Adam in whichever form is fastest here."""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]
import torch.nn.functional as F  # type: ignore[import-not-found,unused-ignore]

from benchmarks.peers import answer
from benchmarks.problem import BETA1, BETA2, EPSILON, LR, Array, Arrays, Problem


class Torch:
    def __init__(self, problem: Problem, given: Arrays, compiled: bool, tune: bool) -> None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.problem, self.initial = problem, given["theta"]
        self.x, self.eps = list(torch.from_numpy(given["x"])), list(torch.from_numpy(given["eps"]))
        self.encoder, self.decoder = network(problem.encoder), network(problem.decoder)
        self.linears = [m for net in (self.encoder, self.decoder) for m in net if isinstance(m, torch.nn.Linear)]
        self.params = [p for linear in self.linears for p in (linear.weight, linear.bias)]
        self.loss: Callable[[Any, Any], Any] = torch.compile(self.objective) if compiled else self.objective
        self.notes: dict[str, Any] = {}
        self.use("fused")
        if tune:
            self.notes["milliseconds"] = self.tune(["fused", "foreach"] + ["compiled"] * compiled)

    # ── The optimiser ────────────────────────────────────────────────────────────────────────────────────────────

    def use(self, form: str) -> None:
        """Take this form of Adam."""
        options = {"fused": {"fused": True}, "foreach": {"foreach": True}, "compiled": {"foreach": True}}[form]
        self.optimizer = torch.optim.Adam(self.params, LR, (BETA1, BETA2), EPSILON, **options)
        self.optimizer_step = torch.compile(self.optimizer.step) if form == "compiled" else self.optimizer.step
        self.notes["adam"] = form
        self.reset()

    def tune(self, forms: list[str]) -> dict[str, Any]:
        """Time steps with every form of Adam, take the fastest, and return what was measured."""
        measured: dict[str, Any] = {}
        for form in forms:
            try:
                self.use(form)
                self.run(3)
                start = time.perf_counter()
                self.run(2)
                times = min(max(3, int(0.2 / (time.perf_counter() - start))), 100)
                bursts = []
                for _ in range(5):
                    start = time.perf_counter()
                    self.run(times)
                    bursts.append(1e3 * (time.perf_counter() - start) / times)
                measured[form] = float(np.median(bursts))
            except Exception as error:  # a form that this version of PyTorch lacks is no reason to stop
                measured[form] = f"{type(error).__name__}: {error}".splitlines()[0]
        timed = {form: value for form, value in measured.items() if isinstance(value, float)}
        self.use(min(timed, key=lambda form: timed[form]))
        return measured

    # ── The step ─────────────────────────────────────────────────────────────────────────────────────────────────

    def objective(self, x: Any, eps: Any) -> Any:
        B, K, Z = eps.shape
        mu, logvar = self.encoder(x)[:, None].chunk(2, dim=-1)
        z = mu + torch.exp(0.5 * logvar) * eps
        logits = self.decoder(z.reshape(B * K, Z)).reshape(B, K, -1)
        if self.problem.bound == "elbo":
            nll = F.binary_cross_entropy_with_logits(logits[:, 0], x, reduction="sum")
            return (nll + 0.5 * torch.sum(mu**2 + torch.exp(logvar) - 1 - logvar)) / B
        target = x[:, None].expand_as(logits)
        log_px = -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=-1)
        log_w = log_px - 0.5 * torch.sum(z**2 - eps**2 - logvar, dim=-1)
        return -torch.mean(torch.logsumexp(log_w, dim=1) - float(np.log(K)))

    def run(self, times: int) -> None:
        for i in range(times):
            self.step(self.x[i % len(self.x)], self.eps[i % len(self.x)])

    def step(self, x: Any, eps: Any) -> Any:
        """Train on a batch: -> its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x, eps)
        loss.backward()
        self.optimizer_step()
        return loss

    def reset(self) -> None:
        with torch.no_grad():
            for linear, (W, b) in zip(self.linears, self.problem.layers(self.initial), strict=True):
                linear.weight.copy_(torch.from_numpy(W.T))
                linear.bias.copy_(torch.from_numpy(b))
            for state in self.optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()

    def loss_and_gradient(self) -> tuple[Array, Array]:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.x[0], self.eps[0])
        loss.backward()
        return loss.detach().numpy(), self.flatten([p.grad for p in self.params])

    def theta(self) -> Array:
        return self.flatten([p.detach() for p in self.params])

    def flatten(self, tensors: list[Any]) -> Array:
        """nn.Linear keeps (out, in)."""
        return self.problem.flatten([(W.T, b) for W, b in zip(tensors[::2], tensors[1::2], strict=True)])

    def answer(self) -> Arrays:
        return answer(self)


def network(layers: list[tuple[int, int]]) -> Any:
    """Linear layers with ReLU between them."""
    modules: list[Any] = []
    for i, o in layers:
        modules += [torch.nn.Linear(i, o), torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


def make(name: str, problem: Problem, given: Arrays, tune: bool) -> Torch:
    return Torch(problem, given, name == "torch-compiled", tune)
