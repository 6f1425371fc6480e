"""A VAE of which all is known: probabilistic PCA, whose log p(x|z) is a parabola along each latent.

Z latent
"""

import math
from typing import NamedTuple

import numpy as np

from npvae.flat import Array
from npvae.likelihoods import Gaussian
from npvae.linear import Components
from npvae.ops.reference import halves
from npvae.vae import VAE
from npvae.workspace import Workspace


def principal_vae(found: Components, latent: int, rows: int) -> Workspace:
    """Probabilistic PCA as a VAE (Tipping & Bishop 1999, eq. 7): linear, and its encoder is the posterior itself."""
    top, axes, noise = found.variances[:latent], found.axes[:, :latent], found.variances[latent:].mean()
    model = VAE(len(axes), (), latent, "identity", Gaussian(math.sqrt(noise)))
    ws = Workspace(model, rows, dtype="float64", backend="reference")
    decoder, encoder = ws.params.decoder[0], ws.params.encoder[0]
    decoder.W[:], decoder.b[:] = np.sqrt(top - noise)[:, None] * axes.T, found.mean
    to_mu = decoder.W.T / top
    encoder.W[:] = np.hstack([to_mu, np.zeros_like(to_mu)])
    encoder.b[:] = np.concatenate([-found.mean @ to_mu, np.log(noise / top)])
    return ws


class Parabola(NamedTuple):
    """log p(x|z) at z = mu + sigma eps: level + sum_j (alpha_j eps_j - beta_j eps_j^2 / 2)."""

    level: float
    alpha: Array
    beta: Array
    sigma: Array

    @classmethod
    def of(cls, ws: Workspace, image: Array) -> "Parabola":
        """That of a linear decoder with orthogonal rows, on an image (D,)."""
        assert isinstance(ws.model, VAE) and isinstance(ws.model.p_x, Gaussian)
        ws.forward(image[None], eps=np.zeros((1, 1, ws.model.latent)))
        sigma = np.exp(halves(ws.acts.stats[0, 0])[1] / 2)
        W, precision = ws.params.decoder[0].W, 1 / ws.model.p_x.sigma**2
        residual = image - ws.acts.y[0, 0]
        return cls(float(ws.acts.log_px[0, 0]), sigma * (W @ residual) * precision,
                   sigma**2 * (W**2).sum(axis=1) * precision, sigma)  # fmt: skip

    def derivative(self) -> Array:
        """Of its mean, level - sum_j beta_j / 2, by [mu | log sigma^2]."""
        return np.concatenate([self.alpha / self.sigma, -self.beta / 2])

    def pathwise_variance(self) -> float:
        """Of (alpha - beta eps)/sigma and of (alpha eps - beta eps^2)/2, summed."""
        return float(np.sum((self.beta / self.sigma) ** 2 + (self.alpha**2 + 2 * self.beta**2) / 4))

    def score_variance(self, baseline: float) -> float:
        """Of (f - c) eps_j/sigma_j and (f - c)(eps_j^2 - 1)/2, summed, by the Gaussian's moments 1, 3, 15, 105.

        f - c is what latent j gives it, alpha_j eps_j - beta_j eps_j^2/2, and the rest, which is independent of eps_j.
        """
        alpha, beta, sigma = self.alpha, self.beta, self.sigma
        own = alpha**2 + beta**2 / 2  # variance of what each latent gives
        rest = self.level - baseline - (beta.sum() - beta) / 2
        power = rest**2 + own.sum() - own  # second moment of the rest
        by_mu = (3 * alpha**2 + 15 / 4 * beta**2 - 3 * beta * rest + power) / sigma**2
        by_logvar = (10 * alpha**2 + 78 / 4 * beta**2 - 10 * beta * rest + 2 * power) / 4
        return float((by_mu + by_logvar).sum() - (self.derivative() ** 2).sum())
