"""How much a code says about the image that it stands for, in nats.

n images · K samples · Z latent
"""

import numpy as np

from npvae.errors import InputError
from npvae.flat import Array
from npvae.ops.reference import halves, reparameterize_forward

BLOCK = 4_000_000  # numbers in a table of codes against images


def mutual_information(stats: Array, eps: Array) -> float:
    """I(X;Z) of n images, one drawn at random, and the code that the encoder draws for it: E_x KL(q(z|x) || q(z)).

    stats (n,1,2Z) = [mu | logvar] of q(z|x), as in `acts.stats`; eps (n,K,Z), standard normal. q(z) is the mixture of
    the n encoders, not the prior: E_x KL(q(z|x) || p(z)), the rate, is larger by KL(q(z) || p(z)) (Hoffman & Johnson
    2016, "ELBO surgery"). The mean of log q(z|x) - log q(z) over draws of z is unbiased. It is 0 where all images have
    the same code, and log n where each has its own: a larger information takes more images to be seen. InputError if
    the shapes do not fit.

    >>> import math
    >>> apart = np.array([[[-50.0, 0.0]], [[50.0, 0.0]]])
    >>> eps = np.random.default_rng(0).standard_normal((2, 5, 1))
    >>> round(mutual_information(apart, eps) / math.log(2), 12), mutual_information(0 * apart, eps)
    (1.0, 0.0)
    """
    shape = np.shape(stats)
    if len(shape) != 3 or shape[1] != 1 or shape[2] % 2 or 0 in shape:
        raise InputError(f"stats must be (n, 1, 2Z), a workspace's acts.stats, got shape {shape}")
    n, latent = shape[0], shape[2] // 2
    if np.ndim(eps) != 3 or (len(eps), eps.shape[2]) != (n, latent) or not eps.shape[1]:
        raise InputError(f"eps must be (n, K, Z) = ({n}, K, {latent}), got shape {np.shape(eps)}")
    stats, eps = np.asarray(stats, np.float64), np.asarray(eps, np.float64)
    mu, logvar = halves(stats[:, 0])
    z = reparameterize_forward(stats, eps).reshape(-1, latent)
    own = -0.5 * (eps**2 + logvar[:, None]).sum(axis=-1).ravel()  # log q(z|x), without log 2 pi, as below
    total = 0.0
    rows = max(BLOCK // n, 1)
    for start in range(0, len(z), rows):
        part = z[start : start + rows]
        log_q = np.full((len(part), n), -0.5 * logvar.sum(axis=-1))  # of each code by each image's encoder
        for j in range(latent):
            log_q -= 0.5 * (part[:, j, None] - mu[:, j]) ** 2 * np.exp(-logvar[:, j])
        top = log_q.max(axis=1)
        mixture = top + np.log(np.exp(log_q - top[:, None]).mean(axis=1))
        total += float((own[start : start + rows] - mixture).sum())
    return total / len(z)
