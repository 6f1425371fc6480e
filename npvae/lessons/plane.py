"""A VAE whose code is a point in a plane, so that its integrals can be done: what `marginal` and `elbo` share."""

from typing import NamedTuple

import numpy as np

from npvae import datasets
from npvae.bounds import ELBO, IWAE, Bound
from npvae.flat import Array
from npvae.normal import log_density
from npvae.quadrature import Rule, grid
from npvae.training import train
from npvae.vae import VAE
from npvae.workspace import Workspace

WHITE = 0.5  # the grey level from which a pixel counts as white: P(X) is then the probability of an image
REACH, SPACING = 9.0, 0.1  # of the grid on which it is seen where P(X, Z) is; the prior beyond has a mass of 1e-18
DEPTH = 30.0  # nats below the top, from where on P(X, Z) counts as nothing: at 7.7 deviations of a Gaussian
NODES = 161  # along an axis of the grid of that part
CHUNK = 4_000  # codes decoded at a time


class Plane(NamedTuple):
    """A trained model of two latents, its parameters in double precision, and test images (n, D), black and white."""

    model: VAE
    theta: Array
    images: Array


def trained_plane(quick: bool) -> Plane:
    """Train a tanh VAE of two latents on digits."""
    rows, hidden, epochs, lr = (4_000, 100, 10, 5e-3) if quick else (10_000, 200, 20, 2e-3)
    digits = datasets.load("mnist-small", rows=rows)
    data = datasets.from_arrays(digits.train.images >= WHITE, digits.test.images[:200] >= WHITE)
    model = VAE(data.train.images.shape[1], (hidden,), 2, "tanh")
    run = train(model, data, epochs=epochs, lr=lr, schedule="cosine", binarize="none", watched=False)
    return Plane(model, run.theta.astype(np.float64), data.test.images.astype(np.float64))


def workspace(plane: Plane, samples: int, bound: Bound, q: Array | None = None) -> Workspace:
    """One image at a time in double precision; with `q` = [mu | logvar] (2Z,), Q is that, whatever the image.

    Where Q is given, the encoder's last layer is the bias alone. With q = 0 it is the prior, and z is the noise itself.
    """
    ws = Workspace(plane.model.evaluation(bound), 1, samples, "float64", theta=plane.theta.copy())
    if q is not None:
        ws.params.encoder[-1].W[:] = 0
        ws.params.encoder[-1].b[:] = q
    return ws


def encoded(plane: Plane, x: Array) -> Array:
    """The encoder's [mu | log sigma^2] for an image x (1, D) -> (4,)."""
    ws = workspace(plane, 1, ELBO())
    ws.forward(x)
    q: Array = ws.acts.stats[0, 0].copy()
    return q


def log_joint(plane: Plane, x: Array, z: Array) -> Array:
    """log P(X, Z) = log P(X|Z) + log P(Z) of an image x (1, D) at codes z (n, 2) -> (n,)."""
    ws = workspace(plane, min(CHUNK, len(z)), IWAE(), q=np.zeros(4))
    log_px = np.empty(len(z))
    for start in range(0, len(z), ws.samples):
        start = min(start, len(z) - ws.samples)  # the last chunk overlaps the one before it
        part = slice(start, start + ws.samples)
        ws.forward(x, eps=z[None, part])
        log_px[part] = ws.acts.log_px[0]
    return log_px + log_density(z, np.zeros(2), np.eye(2))


class Evidence(NamedTuple):
    """log P(X) of an image, what halving the spacing changed of it, and the posterior at the nodes of the rule."""

    log_p: float
    change: float
    rule: Rule
    log_posterior: Array  # log P(Z|X) = log P(X, Z) - log P(X), (n,)


def evidence(plane: Plane, x: Array) -> Evidence:
    """log P(X), the logarithm of the integral of P(X, Z), on a grid of the rectangle that holds it; x (1, D)."""
    coarse = grid(np.zeros(2), np.eye(2), REACH, round(2 * REACH / SPACING) + 1)
    joint = log_joint(plane, x, coarse.z)
    held = coarse.z[joint > joint.max() - DEPTH]
    low, high = held.min(axis=0) - SPACING, held.max(axis=0) + SPACING
    rule = grid((low + high) / 2, np.diag(high - low) / 2, 1.0, NODES)
    joint = log_joint(plane, x, rule.z)
    log_p = rule.log_integral(joint)
    # Every other node along both axes is a grid of twice the spacing, whose nodes weigh four times as much.
    every_other = (rule.log_weight + joint).reshape(NODES, NODES)[::2, ::2] + np.log(4)
    return Evidence(log_p, abs(log_p - np.logaddexp.reduce(every_other, axis=None)), rule, joint - log_p)
