"""Codes to be decoded one after another: on the way between two, along single latents, all over a plane.

Z latent
"""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from npvae.errors import InputError, check_whole
from npvae.flat import Array

REACH = 3.0  # a traversal goes from -REACH to REACH, in standard deviations of the prior


def interpolate(a: Array, b: Array, steps: int, *, spherical: bool) -> Array:
    """(steps, Z) at even steps from code a (Z,) to code b (Z,); InputError if these are not two vectors of one length.

    Linear for autoencoders, whose codes have no prior. In many dimensions the mass of N(0, I) lies near a sphere and a
    chord cuts through its empty inside, so a VAE's path follows the arc (White 2016, "Sampling generative networks");
    in one or two the inside is where the mass is, and the chord is right again. So it is where no arc is defined.
    """
    if np.ndim(a) != 1 or np.shape(a) != np.shape(b):
        raise InputError(f"a and b must be codes (Z,), got shapes {np.shape(a)} and {np.shape(b)}")
    t = np.linspace(0, 1, check_whole("steps", steps))[:, None]
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / lengths if spherical and lengths > 0 else 1.0
    angle = math.acos(min(max(cosine, -1.0), 1.0)) if math.isfinite(cosine) else 0.0
    if math.sin(angle) < 1e-3:
        chord: Array = (1 - t) * a + t * b
        return chord
    arc: Array = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / math.sin(angle)
    return arc


def traverse(code: Array, latents: npt.ArrayLike, steps: int) -> Array:
    """(m, steps, Z): the code (Z,) again and again, in each row one of m latents going evenly from -REACH to REACH."""
    latents = np.asarray(latents)
    path = np.tile(code, (len(latents), check_whole("steps", steps), 1))
    path[np.arange(len(latents)), :, latents] = np.linspace(-REACH, REACH, steps)
    return path


def quantiles(side: int) -> Array:
    """(side, side, 2), of which [i, j] is (q[j], q[i]): codes in a plane, each for the same mass of its prior N(0, I).

    q are the quantiles (i + 1/2)/side of N(0, 1).

    >>> quantiles(3)[0].round(2).tolist()
    [[-0.97, -0.97], [0.0, -0.97], [0.97, -0.97]]
    """
    q = [NormalDist().inv_cdf((i + 0.5) / side) for i in range(check_whole("side", side))]
    return np.stack(np.meshgrid(q, q), axis=2)
