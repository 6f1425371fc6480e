"""JAX: loss, gradient and Adam in one compiled function that writes the new parameters over the old."""

from functools import partial
from typing import Any

import jax  # type: ignore[import-not-found,unused-ignore]
import jax.numpy as jnp  # type: ignore[import-not-found,unused-ignore]
import numpy as np

from benchmarks.peers import answer
from benchmarks.problem import BETA1, BETA2, EPSILON, LR, Array, Arrays, Problem

Params = Any  # a list of (W, b), encoder first


class Jax:
    """Steps are not waited for one by one: the device may run ahead as far as it likes, until the last one."""

    def __init__(self, problem: Problem, given: Arrays) -> None:
        self.problem, self.initial = problem, given["theta"]
        self.x = [jax.device_put(x) for x in given["x"]]
        self.eps = [jax.device_put(eps) for eps in given["eps"]]
        loss = partial(objective, depth=len(problem.encoder), bound=problem.bound)
        self.value_and_grad = jax.jit(jax.value_and_grad(loss))

        def update(params: Params, m: Params, v: Params, t: Any, x: Any, eps: Any) -> Any:
            value, gradients = jax.value_and_grad(loss)(params, x, eps)
            return value, *adam(params, gradients, m, v, t)

        self.update = jax.jit(update, donate_argnums=(0, 1, 2, 3))
        self.notes: dict[str, Any] = {"devices": str(jax.devices())}
        self.reset()

    def reset(self) -> None:
        layers = self.problem.layers(self.initial)
        # copies: a donated buffer is written to
        self.params = [(jnp.array(W, copy=True), jnp.array(b, copy=True)) for W, b in layers]
        self.m = jax.tree_util.tree_map(jnp.zeros_like, self.params)
        self.v = jax.tree_util.tree_map(jnp.zeros_like, self.params)
        self.steps = jnp.zeros((), jnp.float32)
        jax.block_until_ready((self.params, self.m, self.v, self.steps))

    def run(self, times: int) -> None:
        for i in range(times):
            self.step(self.x[i % len(self.x)], self.eps[i % len(self.x)])
        jax.block_until_ready((self.params, self.m, self.v, self.steps))

    def step(self, x: Any, eps: Any) -> Any:
        """Train on a batch: -> its loss."""
        state = self.params, self.m, self.v, self.steps
        loss, self.params, self.m, self.v, self.steps = self.update(*state, x, eps)
        return loss

    def loss_and_gradient(self) -> tuple[Array, Array]:
        loss, gradients = self.value_and_grad(self.params, self.x[0], self.eps[0])
        return np.asarray(loss), self.problem.flatten(gradients)

    def theta(self) -> Array:
        return self.problem.flatten(self.params)

    def answer(self) -> Arrays:
        return answer(self)


def objective(params: Params, x: Any, eps: Any, depth: int, bound: str) -> Any:
    B, K, Z = eps.shape
    stats = mlp(params[:depth], x)[:, None]
    mu, logvar = stats[..., :Z], stats[..., Z:]
    z = mu + jnp.exp(0.5 * logvar) * eps
    logits = mlp(params[depth:], z.reshape(B * K, Z)).reshape(B, K, -1)
    log_px = jnp.sum(x[:, None] * logits - jax.nn.softplus(logits), axis=-1)
    if bound == "elbo":
        return -jnp.mean(log_px) + 0.5 * jnp.sum(mu**2 + jnp.exp(logvar) - 1 - logvar) / B
    log_w = log_px - 0.5 * jnp.sum(z**2 - eps**2 - logvar, axis=-1)
    return -jnp.mean(jax.nn.logsumexp(log_w, axis=1) - jnp.log(K))


def mlp(layers: Params, x: Any) -> Any:
    for W, b in layers[:-1]:
        x = jax.nn.relu(x @ W + b)
    W, b = layers[-1]
    return x @ W + b


def adam(params: Params, gradients: Params, m: Params, v: Params, t: Any) -> Any:
    """Kingma & Ba 2015, algorithm 1."""
    t = t + 1
    m = jax.tree_util.tree_map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, gradients)
    v = jax.tree_util.tree_map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, gradients)
    grown_m, grown_v = 1 - BETA1**t, 1 - BETA2**t
    params = jax.tree_util.tree_map(
        lambda p, m, v: p - LR * (m / grown_m) / (jnp.sqrt(v / grown_v) + EPSILON), params, m, v
    )
    return params, m, v, t


def make(name: str, problem: Problem, given: Arrays, tune: bool) -> Jax:
    return Jax(problem, given)
