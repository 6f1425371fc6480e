"""Bounds on log p(x): from (log_px, rate) to the loss, and the seeds of the backward pass back.

A bound decides how the rate is measured (in closed form or at the samples) and how the K samples are combined.
Both take the weight `beta` of the rate as an input; at beta 1 minus the loss is a lower bound on the mean log p(x).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from npvae.errors import check_real
from npvae.flat import Array, Shape, Tree


@dataclass(frozen=True)
class ELBO:
    """-loss = mean log p(x|z) - beta KL(q(z|x) || p(z)), the K samples averaged, the KL in closed form.

    `free_bits`, in nats: a latent's mean rate below this costs as much as this, so that it is not driven to zero.
    Kingma & Welling 2014, eq. 3 and appendix B; Kingma et al. 2016, eq. 15.
    """

    free_bits: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "free_bits", check_real("free_bits", self.free_bits, 0.0))

    def rate(self, batch: int, samples: int, latent: int) -> Shape:
        """Layout of the rate: one per image and latent."""
        return Shape((batch, 1, latent), wide=True)

    def log_w(self, batch: int, samples: int) -> Tree:
        """Layout of the importance weights: an average has none."""
        return ()

    def rate_forward(self, ops: Any, eps: Array, a: Tree) -> None:
        """a.stats -> a.rate."""
        ops.gaussian_kl_forward(a.stats, out=a.rate)

    def rate_backward(self, ops: Any, eps: Array, a: Tree, da: Tree, scratch: Tree) -> None:
        """da.rate -> the rate's share of dstats, and of dz: none, the closed form does not read z."""
        ops.gaussian_kl_backward(da.rate, a.stats, out=scratch.stats)
        scratch.z[:] = 0

    def forward(self, ops: Any, beta: float, a: Tree) -> Any:
        """a.log_px, a.rate -> the loss."""
        return ops.elbo_forward(a.log_px, a.rate, beta, self.free_bits)

    def backward(self, ops: Any, beta: float, a: Tree, da: Tree) -> None:
        """The loss's derivative by itself, 1 -> da.log_px, da.rate."""
        ops.elbo_backward(1.0, a.log_px, a.rate, beta, self.free_bits, out=(da.log_px, da.rate))


@dataclass(frozen=True)
class IWAE:
    """-loss = log mean_k p(x,z_k)/q(z_k|x): K importance-weighted samples, a tighter bound the larger K.

    Burda, Grosse & Salakhutdinov 2016, "Importance weighted autoencoders", eq. 8.
    """

    def rate(self, batch: int, samples: int, latent: int) -> Shape:
        """Layout of the rate: one per image, sample and latent."""
        return Shape((batch, samples, latent), wide=True)

    def log_w(self, batch: int, samples: int) -> Tree:
        """Layout of the importance weights."""
        return Shape((batch, samples), wide=True)

    def rate_forward(self, ops: Any, eps: Array, a: Tree) -> None:
        """a.stats, a.z -> a.rate."""
        ops.log_ratio_forward(a.stats, a.z, eps, out=a.rate)

    def rate_backward(self, ops: Any, eps: Array, a: Tree, da: Tree, scratch: Tree) -> None:
        """da.rate -> the rate's share of dz and of dstats."""
        ops.log_ratio_backward(da.rate, a.stats, a.z, out=(scratch.z, scratch.stats))

    def forward(self, ops: Any, beta: float, a: Tree) -> Any:
        """a.log_px, a.rate -> a.log_w and the loss."""
        loss, _ = ops.iwae_forward(a.log_px, a.rate, beta, out=a.log_w)
        return loss

    def backward(self, ops: Any, beta: float, a: Tree, da: Tree) -> None:
        """The loss's derivative by itself, 1 -> da.log_px, da.rate, da.log_w."""
        ops.iwae_backward(1.0, a.log_w, a.rate, beta, out=(da.log_px, da.rate, da.log_w))


Bound = ELBO | IWAE


def terms(log_px: Array, rate: Array) -> dict[str, float]:
    """What a bound is made of, in nats per image: -mean log p(x|z) and the mean rate, whatever their weights."""
    samples = rate.shape[0] * rate.shape[1]
    return {"reconstruction": float(-np.mean(log_px.real)), "rate": float(np.sum(rate.real) / samples)}
