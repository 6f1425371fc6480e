"""One specimen of every op, and of every model, likelihood and bound: what `npvae gradcheck` checks of npvae itself."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np

from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.bounds import ELBO, IWAE, Bound
from npvae.flat import Array
from npvae.likelihoods import LIKELIHOODS
from npvae.mlp import ACTIVATIONS
from npvae.vae import VAE
from npvae.workspace import Model

B, K, D, H, Z = 4, 3, 5, 6, 3


@dataclass(frozen=True)
class Op:
    """A pair of functions `name`_forward and `name`_backward with one setting of its options; see `check_pair`."""

    name: str
    draw: Callable[[np.random.Generator], dict[str, Array]]  # inputs
    outputs: tuple[str, ...]  # what forward returns
    gradients: tuple[str, ...]  # by what backward returns derivatives, in order
    variant: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {self.variant}".rstrip()


def _stats(rng: np.random.Generator, *shape: int) -> Array:
    """[mu | logvar], logvar in (-1, 1)."""
    return np.concatenate([rng.standard_normal(shape), rng.uniform(-1, 1, shape)], axis=-1)


def _dense(rng: np.random.Generator) -> dict[str, Array]:
    return {"x": rng.standard_normal((B, D)), "W": rng.standard_normal((D, H)), "b": rng.standard_normal(H)}


def _tied(rng: np.random.Generator) -> dict[str, Array]:
    return {"x": rng.standard_normal((B, D)), "W": rng.standard_normal((D, Z))}


def _error(rng: np.random.Generator) -> dict[str, Array]:
    return {"y": rng.standard_normal((B, D)), "target": rng.standard_normal((B, D))}


def _bernoulli(rng: np.random.Generator) -> dict[str, Array]:
    return {"logits": rng.standard_normal((B, K, D)), "target": rng.random((B, D))}


def _pixels(rng: np.random.Generator) -> dict[str, Array]:
    return {"pixels": _stats(rng, B, K, D), "target": rng.standard_normal((B, D))}


def _ratio(rng: np.random.Generator) -> dict[str, Array]:
    z, eps = rng.standard_normal((2, B, K, Z))
    return {"stats": _stats(rng, B, 1, Z), "z": z, "eps": eps}


def _reparameterize(rng: np.random.Generator) -> dict[str, Array]:
    return {"stats": _stats(rng, B, 1, Z), "eps": rng.standard_normal((B, K, Z))}


def _mean(rng: np.random.Generator) -> dict[str, Array]:
    return {"mean": rng.standard_normal((B, K, D)), "target": rng.standard_normal((B, D))}


def _weighted(rng: np.random.Generator) -> dict[str, Array]:
    """Rates on both sides of half a nat of free bits."""
    return {
        "log_px": rng.standard_normal((B, K)) - 20,
        "rate": rng.uniform(0, 1, (B, K, Z)) + np.arange(Z) % 2 / 2 - 0.25,
    }


OPS = (
    *(
        Op("dense", _dense, ("y",), ("x", "W", "b"), activation, {"act": number})
        for activation, number in ACTIVATIONS.items()
    ),
    Op("tied", _tied, ("z", "y"), ("z", "W")),
    Op("squared_error", _error, ("error",), ("y",)),
    Op("reparameterize", _reparameterize, ("z",), ("stats",)),
    Op("gaussian_kl", lambda r: {"stats": _stats(r, B, 1, Z)}, ("rate",), ("stats",)),
    Op("log_ratio", _ratio, ("rate",), ("z", "stats")),
    Op("bernoulli", _bernoulli, ("log_px",), ("logits",)),
    Op("gaussian", lambda r: {**_mean(r), "logvar": r.uniform(-1, 1, 1)}, ("log_px",), ("mean", "logvar")),
    Op("gaussian_optimal", _mean, ("log_px", "logvar"), ("mean",)),
    Op("gaussian_pixel", _pixels, ("log_px",), ("pixels",)),
    Op("elbo", _weighted, ("loss",), ("log_px", "rate"), "", {"beta": 0.7, "free_bits": 0.0}),
    Op("elbo", _weighted, ("loss",), ("log_px", "rate"), "free-bits", {"beta": 0.7, "free_bits": 0.5}),
    Op("iwae", _weighted, ("loss", "log_w"), ("log_px", "rate", "log_w"), "", {"beta": 0.7}),
)
# So few free bits that some latents cost more and some less in most of the models.
BOUNDS: dict[str, Bound] = {"elbo": ELBO(), "elbo with free bits": ELBO(free_bits=0.03), "iwae": IWAE()}


def models() -> Iterator[tuple[str, Model]]:
    """A VAE of every likelihood and bound, the activations taking turns, and both autoencoders, by name."""
    activations = cycle(ACTIVATIONS)
    for likelihood in LIKELIHOODS:
        for bound, form in BOUNDS.items():
            activation = next(activations)
            yield f"vae {likelihood} {bound} {activation}", VAE(D, (H, H - 2), Z, activation, likelihood, form)
    for activation in ACTIVATIONS:
        yield f"ae {activation}", Autoencoder(D, (H,), Z, activation)
    yield "linear", LinearAutoencoder(D, Z)
