"""The variational autoencoder: forward reads down, backward reads up."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from npvae.bounds import ELBO, Bound, terms
from npvae.errors import InputError
from npvae.flat import Array, Shape
from npvae.likelihoods import GaussianOptimal, Likelihood, as_likelihood
from npvae.mlp import MLP, check_architecture


class Params(NamedTuple):
    """Parameters, or the loss's derivatives by them."""

    encoder: Any
    decoder: Any
    likelihood: Any


class Inputs(NamedTuple):
    """All that a pass reads besides parameters: the noise and the weight of the rate are inputs like the images."""

    x: Array  # (B,D), what the encoder sees
    target: Array  # (B,D), what is to be reconstructed
    eps: Any  # (B,K,Z); None for a model without noise
    beta: float


class Acts(NamedTuple):
    """Every intermediate of a pass, or the loss's derivatives by them."""

    encoder: Any  # (B,H) per hidden layer, then (B,2Z)
    z: Any  # (B,K,Z)
    decoder: Any  # (N,H) per hidden layer, then (N,outputs*D), N = B*K
    likelihood: Any  # what the likelihood keeps
    log_px: Any  # (B,K)
    rate: Any  # (B,1,Z) or (B,K,Z)
    log_w: Any  # (B,K) under IWAE, else ()

    @property
    def stats(self) -> Array:
        """[mu | logvar] of q(z|x), (B,1,2Z)."""
        stats: Array = self.encoder[-1]
        return stats[:, None]

    @property
    def y(self) -> Array:
        """The decoder's outputs by image and sample, (B,K,outputs*D); `logits` under a Bernoulli likelihood."""
        y: Array = self.decoder[-1]
        return y.reshape(*self.z.shape[:2], -1)

    @property
    def logits(self) -> Array:
        """`y` by the name it has under a Bernoulli likelihood."""
        return self.y


class Scratch(NamedTuple):
    """What backward needs besides: room for a backend, and the rate's share of dz and dstats."""

    backend: Any
    z: Any
    stats: Any


@dataclass(frozen=True)
class VAE:
    """A variational autoencoder with dense layers (Kingma & Welling 2014). A description: it owns no numbers.

    data: pixels D of an image. hidden: widths of the encoder's hidden layers, mirrored by the decoder. latent: Z.
    The encoder is data-hidden-[mu | logvar], the decoder latent-hidden reversed-outputs; the last layer of each is
    linear. activation: one of npvae.mlp.ACTIVATIONS. likelihood: a name of npvae.likelihoods.LIKELIHOODS or one of
    its classes with its arguments. bound: `ELBO(free_bits)` or `IWAE()`. What makes no sense raises InputError.

    >>> VAE(data=784, latent=2, likelihood="bernouli")
    Traceback (most recent call last):
    npvae.errors.InputError: unknown likelihood 'bernouli': expected one of bernoulli, gaussian, gaussian-learned, \
gaussian-optimal, gaussian-pixel. Did you mean 'bernoulli'?
    """

    data: int
    hidden: tuple[int, ...] = (400,)
    latent: int = 20
    activation: str = "relu"
    likelihood: str | Likelihood = "bernoulli"
    bound: Bound = dataclasses.field(default_factory=ELBO)

    def __post_init__(self) -> None:
        for name, plain in check_architecture(self.data, self.hidden, self.latent, self.activation).items():
            object.__setattr__(self, name, plain)
        object.__setattr__(self, "likelihood", as_likelihood(self.likelihood))
        if not isinstance(self.bound, Bound):
            raise InputError(f"bound must be ELBO(...) or IWAE(), got {self.bound!r}")

    @cached_property
    def encoder(self) -> MLP:
        """x -> [mu | logvar]."""
        return MLP((self.data, *self.hidden, 2 * self.latent), self.activation)

    @cached_property
    def decoder(self) -> MLP:
        """z -> the likelihood's y."""
        return MLP((self.latent, *reversed(self.hidden), self.p_x.outputs * self.data), self.activation)

    @property
    def p_x(self) -> Likelihood:
        """The likelihood: in `likelihood` a name may have been given, __post_init__ has replaced it."""
        assert not isinstance(self.likelihood, str)
        return self.likelihood

    # ── Layouts ──────────────────────────────────────────────────────────────────────────────────────────────────

    def params(self) -> Params:
        """Layout of theta."""
        return Params(self.encoder.params(), self.decoder.params(), self.p_x.params)

    def acts(self, batch: int, samples: int) -> Acts:
        """Layout of the activations."""
        return Acts(
            encoder=self.encoder.acts(batch),
            z=Shape((batch, samples, self.latent)),
            decoder=self.decoder.acts(batch * samples),
            likelihood=self.p_x.kept,
            log_px=Shape((batch, samples), wide=True),
            rate=self.bound.rate(batch, samples, self.latent),
            log_w=self.bound.log_w(batch, samples),
        )

    def scratch(self, ops: Any, batch: int, samples: int) -> Scratch:
        """Layout of the scratch."""
        room = max(self.encoder.scratch(ops, batch), self.decoder.scratch(ops, batch * samples))
        return Scratch(Shape((room,)), Shape((batch, samples, self.latent)), Shape((batch, 1, 2 * self.latent)))

    # ── The pass ─────────────────────────────────────────────────────────────────────────────────────────────────

    def forward(self, ops: Any, p: Params, inputs: Inputs, a: Acts) -> Any:
        """Fill `a` and return the loss, minus the bound: nats, summed over D, averaged over B."""
        x, target, eps, beta = inputs
        self.encoder.forward(ops, p.encoder, x, a.encoder)
        ops.reparameterize_forward(a.stats, eps, out=a.z)
        self.decoder.forward(ops, p.decoder, rows(a.z), a.decoder)
        self.p_x.forward(ops, p.likelihood, target, a)
        self.bound.rate_forward(ops, eps, a)
        return self.bound.forward(ops, beta, a)

    def backward(self, ops: Any, p: Params, inputs: Inputs, a: Acts, dp: Params, da: Acts, s: Scratch) -> None:
        """Fill `dp` and `da` from what forward left in `a`."""
        x, target, eps, beta = inputs
        self.bound.backward(ops, beta, a, da)
        self.bound.rate_backward(ops, eps, a, da, s)
        self.p_x.backward(ops, p.likelihood, target, a, dp.likelihood, da)
        self.decoder.backward(ops, p.decoder, rows(a.z), a.decoder, dp.decoder, da.decoder, s.backend, rows(da.z))
        np.add(da.z, s.z, out=da.z)  # z feeds the decoder and the rate
        ops.reparameterize_backward(da.z, a.stats, eps, out=da.stats)
        np.add(da.stats, s.stats, out=da.stats)  # stats feed z and the rate
        self.encoder.backward(ops, p.encoder, x, a.encoder, dp.encoder, da.encoder, s.backend)

    # ── Around the pass ──────────────────────────────────────────────────────────────────────────────────────────

    def noise(self, batch: int, samples: int) -> tuple[int, int, int]:
        """The shape of eps, (B,K,Z)."""
        return batch, samples, self.latent

    def terms(self, a: Acts) -> dict[str, float]:
        """-mean log p(x|z) and the mean rate of the last forward, in nats per image."""
        return terms(a.log_px, a.rate)

    def encode(self, ops: Any, p: Params, x: Array, a: Acts) -> Array:
        """x (B,D) -> mu (B,Z), the posterior mean."""
        return self.encoder.forward(ops, p.encoder, x, a.encoder)[:, : self.latent]

    def decode(self, ops: Any, p: Params, z: Array, a: Acts) -> Array:
        """z (B,Z) -> E[x|z] (B,D)."""
        return self.p_x.mean(self.decoder.forward(ops, p.decoder, z, [h[: len(z)] for h in a.decoder]))

    def initialize(self, p: Params, rng: np.random.Generator) -> None:
        """Draw the weights; the likelihood's log sigma^2 starts at 0."""
        self.encoder.initialize(p.encoder, rng)
        self.decoder.initialize(p.decoder, rng)
        for view in p.likelihood:
            view[:] = 0

    def initialize_from(self, p: Params, images: Array) -> None:
        """Start the Bernoulli decoder's last bias at the logit of the mean image (n, D).

        (sum + 1/2)/(n + 1) estimates each pixel's mean, so that pixels which are always blank stay finite.
        """
        if self.p_x.name == "bernoulli":
            mean = (images.sum(axis=0, dtype=np.float64) + 0.5) / (len(images) + 1)
            p.decoder[-1].b[:] = np.log(mean / (1 - mean))

    def remember(self, p: Params, a: Acts, step: int) -> None:
        """Store what evaluation needs of training step `step` (from 1): the optimal sigma, where there is one."""
        if isinstance(self.p_x, GaussianOptimal):
            self.p_x.remember(p.likelihood, a, step)

    def evaluation(self, bound: Bound | None = None) -> "VAE":
        """The model that measures this one, on the same parameters: without free bits, with the stored sigma."""
        likelihood: Any = self.p_x.evaluation() if isinstance(self.p_x, GaussianOptimal) else self.p_x
        own = ELBO() if isinstance(self.bound, ELBO) else self.bound
        return dataclasses.replace(self, likelihood=likelihood, bound=bound or own)


def rows(z: Array) -> Array:
    """(B,K,Z) -> (N,Z): the decoder sees the samples as so many rows."""
    return z.reshape(-1, z.shape[-1])
