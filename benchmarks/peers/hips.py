"""HIPS autograd: NumPy whose derivatives are traced, with the Adam of the NumPy contestant."""

from typing import Any

import autograd.numpy as anp  # type: ignore[import-untyped,import-not-found,unused-ignore]
import numpy as np
from autograd import value_and_grad

from benchmarks.peers.numpy_plain import Plain
from benchmarks.problem import Array, Arrays, Problem


class Traced(Plain):
    def __init__(self, problem: Problem, given: Arrays) -> None:
        self.differentiated = value_and_grad(self.objective)
        super().__init__(problem, given)

    def loss(self, x: Array, eps: Array) -> tuple[Any, list[Array]]:
        loss, gradients = self.differentiated(self.params, x, eps)
        return loss, gradients

    def objective(self, params: list[Any], x: Array, eps: Array) -> Any:
        B, K, Z = eps.shape
        depth = 2 * len(self.problem.encoder)
        stats = mlp(params[:depth], x)[:, None]
        mu, logvar = stats[..., :Z], stats[..., Z:]
        z = mu + anp.exp(0.5 * logvar) * eps
        logits = anp.reshape(mlp(params[depth:], anp.reshape(z, (B * K, Z))), (B, K, -1))
        log_px = anp.sum(x[:, None] * logits - anp.logaddexp(0, logits), axis=-1)
        if self.problem.bound == "elbo":
            return -anp.mean(log_px) + 0.5 * anp.sum(mu**2 + anp.exp(logvar) - 1 - logvar) / B
        log_w = log_px - 0.5 * anp.sum(z**2 - eps**2 - logvar, axis=-1)
        top = log_w.max(axis=1, keepdims=True)
        return -anp.mean(anp.log(anp.mean(anp.exp(log_w - top), axis=1)) + top[:, 0])


def mlp(params: list[Any], x: Any) -> Any:
    for W, b in zip(params[:-2:2], params[1:-2:2], strict=True):
        x = anp.maximum(anp.dot(x, W) + b, 0)
    return anp.dot(x, params[-2]) + params[-1]


def make(name: str, problem: Problem, given: Arrays, tune: bool) -> Traced:
    assert given["theta"].dtype == np.float32
    return Traced(problem, given)
