"""npvae, on either backend, used as its README says."""

from typing import Any

import numpy as np

import npvae as nv
from benchmarks.peers import answer
from benchmarks.problem import BETA1, BETA2, EPSILON, LR, Array, Arrays, Problem


class Ours:
    """A workspace and its optimiser. `forward` copies the batch into the workspace: that is part of the step."""

    def __init__(self, backend: str, problem: Problem, given: Arrays, dtype: str) -> None:
        bound = nv.IWAE() if problem.bound == "iwae" else nv.ELBO()
        vae = nv.VAE(data=problem.data, hidden=problem.hidden, latent=problem.latent, bound=bound)
        self.ws = nv.Workspace(vae, problem.batch, problem.samples, dtype, backend, theta=given["theta"].astype(dtype))
        self.optimizer = nv.Adam(self.ws, LR, BETA1, BETA2, EPSILON)
        self.initial, self.x, self.eps = given["theta"], given["x"], given["eps"]
        self.notes: dict[str, Any] = {}

    def reset(self) -> None:
        restart(self.optimizer, self.initial)

    def run(self, times: int) -> None:
        ws, optimizer, x, eps = self.ws, self.optimizer, self.x, self.eps
        for i in range(times):
            ws.forward(x[i % len(x)], eps=eps[i % len(x)])
            ws.backward()
            optimizer.step()

    def loss_and_gradient(self) -> tuple[Array, Array]:
        loss = self.ws.forward(self.x[0], eps=self.eps[0])
        self.ws.backward()
        return np.array(loss), self.ws.dtheta.copy()

    def theta(self) -> Array:
        return self.ws.theta.copy()

    def answer(self) -> Arrays:
        return answer(self)


def restart(optimizer: nv.Adam, theta: Array) -> None:
    """Go back to these parameters, with nothing remembered of any step."""
    optimizer.ws.theta[:] = theta
    for vector in optimizer.state.values():
        vector[:] = 0
    optimizer.steps = 0


def make(name: str, problem: Problem, given: Arrays, tune: bool, dtype: str = "float32") -> Ours:
    return Ours(name, problem, given, dtype)
