"""A VAE in NumPy as one writes it by hand: arrays made as they are needed, an Adam per tensor, products by the BLAS."""

from typing import Any

import numpy as np

from benchmarks.peers import answer
from benchmarks.problem import BETA1, BETA2, EPSILON, LR, Array, Arrays, Problem

Layers = list[tuple[Array, Array]]


class Plain:
    def __init__(self, problem: Problem, given: Arrays) -> None:
        self.problem, self.initial, self.x, self.eps = problem, given["theta"], given["x"], given["eps"]
        self.notes: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        layers = self.problem.layers(self.initial)
        self.params = [part.copy() for layer in layers for part in layer]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.steps = 0

    def run(self, times: int) -> None:
        for i in range(times):
            self.step(self.x[i % len(self.x)], self.eps[i % len(self.x)])

    def step(self, x: Array, eps: Array) -> Any:
        """Train on a batch: -> its loss."""
        loss, gradients = self.loss(x, eps)
        self.adam(gradients)
        return loss

    def adam(self, gradients: list[Array]) -> None:
        self.steps += 1
        for i, g in enumerate(gradients):
            self.m[i] = BETA1 * self.m[i] + (1 - BETA1) * g
            self.v[i] = BETA2 * self.v[i] + (1 - BETA2) * g**2
            m = self.m[i] / (1 - BETA1**self.steps)
            v = self.v[i] / (1 - BETA2**self.steps)
            self.params[i] -= LR * m / (np.sqrt(v) + EPSILON)

    def loss(self, x: Array, eps: Array) -> tuple[Any, list[Array]]:
        """The loss and its gradient by every parameter."""
        B, K, Z = eps.shape
        layers = list(zip(self.params[::2], self.params[1::2], strict=True))
        depth = len(self.problem.encoder)
        encoder, decoder = layers[:depth], layers[depth:]

        hidden = forward(encoder, x)
        mu, logvar = hidden[-1][:, None, :Z], hidden[-1][:, None, Z:]
        sigma = np.exp(0.5 * logvar)
        z = mu + sigma * eps
        decoded = forward(decoder, z.reshape(B * K, Z))
        logits = decoded[-1].reshape(B, K, -1)
        target = x[:, None]
        log_px = np.sum(target * logits - np.maximum(logits, 0) - np.log1p(np.exp(-np.abs(logits))), axis=-1)
        residual = target - 1 / (1 + np.exp(-logits))
        if self.problem.bound == "elbo":
            loss = -log_px.mean() + 0.5 * np.sum(mu**2 + np.exp(logvar) - 1 - logvar) / B
            dlogits = -residual / (B * K)
            dz_rate, dmu, dlogvar = np.zeros_like(z), mu / B, 0.5 * (np.exp(logvar) - 1) / B
        else:
            log_w = log_px - 0.5 * np.sum(z**2 - eps**2 - logvar, axis=-1)
            top = log_w.max(axis=1, keepdims=True)
            w = np.exp(log_w - top)
            loss = -np.mean(np.log(w.mean(axis=1)) + top[:, 0])
            w /= w.sum(axis=1, keepdims=True) * B
            dlogits = -residual * w[..., None]
            dz_rate, dmu, dlogvar = w[..., None] * z, 0.0, -0.5 / B

        grads_decoder, dz = backward(decoder, z.reshape(B * K, Z), decoded, dlogits.reshape(B * K, -1), input=True)
        dz = dz.reshape(B, K, Z) + dz_rate
        dmu = dmu + dz.sum(axis=1, keepdims=True)
        dlogvar = dlogvar + np.sum(dz * eps, axis=1, keepdims=True) * 0.5 * sigma
        dstats = np.concatenate([dmu, dlogvar], axis=-1)[:, 0]
        grads_encoder, _ = backward(encoder, x, hidden, dstats, input=False)
        return loss, grads_encoder + grads_decoder

    def loss_and_gradient(self) -> tuple[Array, Array]:
        loss, gradients = self.loss(self.x[0], self.eps[0])
        return np.array(loss), np.concatenate([g.ravel() for g in gradients])

    def theta(self) -> Array:
        return np.concatenate([p.ravel() for p in self.params])

    def answer(self) -> Arrays:
        return answer(self)


def forward(layers: Layers, x: Array) -> list[Array]:
    """The outputs of all layers: ReLU between them, the last linear."""
    outputs = []
    for i, (W, b) in enumerate(layers):
        x = x @ W + b
        if i < len(layers) - 1:
            x = np.maximum(x, 0)
        outputs.append(x)
    return outputs


def backward(layers: Layers, x: Array, outputs: list[Array], dy: Array, input: bool) -> tuple[list[Array], Any]:
    """The gradients by [W, b, W, b, ...] and, if wanted, by x."""
    gradients: list[Array] = []
    for i in reversed(range(len(layers))):
        below = outputs[i - 1] if i > 0 else x
        gradients = [below.T @ dy, dy.sum(axis=0), *gradients]
        if i > 0:
            dy = dy @ layers[i][0].T * (below > 0)
        elif input:
            dy = dy @ layers[i][0].T
    return gradients, dy


def make(name: str, problem: Problem, given: Arrays, tune: bool) -> Plain:
    return Plain(problem, given)
