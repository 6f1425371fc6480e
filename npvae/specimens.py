"""Every op, declared once, and every model, likelihood and bound: what `npvae gradcheck` checks of npvae itself.

The ops' own parameter names are the protocol: forward's are inputs and settings; backward's are inputs, outputs,
settings and, as "d" + the name of an output, the derivative by it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.bounds import ELBO, IWAE, Bound
from npvae.flat import Array
from npvae.likelihoods import LIKELIHOODS
from npvae.mlp import ACTIVATIONS
from npvae.vae import VAE
from npvae.workspace import Model


class Sizes(NamedTuple):
    """Batch, samples, data, hidden, latent."""

    B: int
    K: int
    D: int
    H: int
    Z: int


SIZES = Sizes(B=4, K=3, D=5, H=6, Z=3)
FAR = (-3.5, -2.5)  # of a mean from its target


@dataclass(frozen=True)
class Op:
    """A pair of functions `name`_forward and `name`_backward with one setting of its options; see `check_pair`."""

    name: str
    draw: Callable[[np.random.Generator, Sizes], dict[str, Array]]  # inputs; kinks, if any, are at a distance
    outputs: tuple[str, ...]  # what forward returns
    gradients: tuple[str, ...]  # by what backward returns derivatives, in order
    variant: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {self.variant}".rstrip()


def normal(rng: np.random.Generator, *shape: int, edge: tuple[float, float] = (0.5, 1.5)) -> Array:
    """N(0, 1), but uniform in `edge` where the first or the last index is 0.

    So of the sums over a batch, over samples or over features at least one has terms of one sign. Errors are
    measured against the largest entry: this keeps it from being what a cancellation has left over.
    """
    a = rng.standard_normal(shape)
    steady = rng.uniform(*edge, shape)
    a[:1], a[..., :1] = steady[:1], steady[..., :1]
    return a


def gaussian_stats(rng: np.random.Generator, *shape: int, edge: tuple[float, float] = (0.5, 1.5)) -> Array:
    """[mu | logvar] along the last axis, logvar in (-1, 1)."""
    return np.concatenate([normal(rng, *shape, edge=edge), rng.uniform(-1, 1, shape)], axis=-1)


def _dense(rng: np.random.Generator, s: Sizes) -> dict[str, Array]:
    while True:
        x, W, b = normal(rng, s.B * s.K, s.D), normal(rng, s.D, s.H) / max(1, s.D) ** 0.5, normal(rng, s.H)
        a = x @ W + b
        if np.all(np.abs(a) > 0.2 / (1 + a.size)):  # away from where ReLU and its kin have their kink
            return {"x": x, "W": W, "b": b}


def _tied(rng: np.random.Generator, s: Sizes) -> dict[str, Array]:
    return {"x": normal(rng, s.B, s.D), "W": normal(rng, s.D, s.Z)}


def _error(rng: np.random.Generator, s: Sizes) -> dict[str, Array]:
    return {"y": normal(rng, s.B, s.D, edge=FAR), "target": normal(rng, s.B, s.D)}


def _reparameterize(rng: np.random.Generator, s: Sizes) -> dict[str, Array]:
    return {"stats": gaussian_stats(rng, s.B, 1, s.Z), "eps": normal(rng, s.B, s.K, s.Z)}


def _ratio(rng: np.random.Generator, s: Sizes) -> dict[str, Array]:
    z = normal(rng, s.B, s.K, s.Z, edge=(2.5, 3.5))  # z^2 - eps^2 does not cancel
    return {"z": z, **_reparameterize(rng, s)}


def _bernoulli(rng: np.random.Generator, s: Sizes) -> dict[str, Array]:
    target = rng.random((s.B, s.D))
    target[:, ::3] = np.rint(target[:, ::3])
    target[:, :1] = 0  # and the logit there is positive: t - s(l) does not cancel
    return {"logits": normal(rng, s.B, s.K, s.D), "target": target}


def _mean(rng: np.random.Generator, s: Sizes) -> dict[str, Array]:
    return {"mean": normal(rng, s.B, s.K, s.D, edge=FAR), "target": normal(rng, s.B, s.D)}


def _pixels(rng: np.random.Generator, s: Sizes) -> dict[str, Array]:
    return {"pixels": gaussian_stats(rng, s.B, s.K, s.D, edge=FAR), "target": normal(rng, s.B, s.D)}


def _elbo(rng: np.random.Generator, s: Sizes) -> dict[str, Array]:
    rate = rng.uniform(0.6, 1, (s.B, s.K, s.Z))
    rate[..., 1::2] -= 0.5  # every other latent below 0.5 free bits, none near them
    return {"log_px": -20 + normal(rng, s.B, s.K), "rate": rate}


def _iwae(rng: np.random.Generator, s: Sizes) -> dict[str, Array]:
    return {"log_px": -20 + normal(rng, s.B, s.K), "rate": normal(rng, s.B, s.K, s.Z)}


OPS = (
    *(
        Op("dense", _dense, ("y",), ("x", "W", "b"), activation, {"act": number})
        for activation, number in ACTIVATIONS.items()
    ),
    Op("tied", _tied, ("z", "y"), ("z", "W")),
    Op("squared_error", _error, ("error",), ("y",)),
    Op("reparameterize", _reparameterize, ("z",), ("stats",)),
    Op("gaussian_kl", lambda rng, s: {"stats": gaussian_stats(rng, s.B, 1, s.Z)}, ("rate",), ("stats",)),
    Op("log_ratio", _ratio, ("rate",), ("z", "stats")),
    Op("bernoulli", _bernoulli, ("log_px",), ("logits",)),
    Op("gaussian", lambda r, s: {**_mean(r, s), "logvar": r.uniform(-1, 1, 1)}, ("log_px",), ("mean", "logvar")),
    Op("gaussian_optimal", _mean, ("log_px", "logvar"), ("mean",)),
    Op("gaussian_pixel", _pixels, ("log_px",), ("pixels",)),
    Op("elbo", _elbo, ("loss",), ("log_px", "rate"), "", {"beta": 0.7, "free_bits": 0.0}),
    Op("elbo", _elbo, ("loss",), ("log_px", "rate"), "free-bits", {"beta": 0.7, "free_bits": 0.5}),
    Op("iwae", _iwae, ("loss", "log_w"), ("log_px", "rate", "log_w"), "", {"beta": 0.7}),
)
# So few free bits that some latents cost more and some less in most of the models.
BOUNDS: dict[str, Bound] = {"elbo": ELBO(), "elbo with free bits": ELBO(free_bits=0.03), "iwae": IWAE()}


def models() -> Iterator[tuple[str, Model]]:
    """A VAE of every likelihood and bound, the activations taking turns, and both autoencoders, by name."""
    _, _, D, H, Z = SIZES
    activations = cycle(ACTIVATIONS)
    for likelihood in LIKELIHOODS:
        for bound, form in BOUNDS.items():
            activation = next(activations)
            yield f"vae {likelihood} {bound} {activation}", VAE(D, (H, H - 2), Z, activation, likelihood, form)
    for activation in ACTIVATIONS:
        yield f"ae {activation}", Autoencoder(D, (H,), Z, activation)
    yield "linear", LinearAutoencoder(D, Z)
