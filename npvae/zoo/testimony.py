"""What a killer says of somebody's code, and what the killers share.

They read a module such as `npvae.zoo.plain` from outside: losses at noise that is given, codes, steps.
"""

from typing import Any, NamedTuple

import numpy as np

from npvae.flat import Array

ROUNDING = 1e-10  # relative, of identities that hold exactly: double precision leaves some 1e-14
SIGMAS = 5.0  # standard errors that a statistic may be off: a right model is within them for all but 6e-7 of seeds


class Testimony(NamedTuple):
    """`ok`, or the `kind` of mistake ("" where the killer has no name for it), in words `text`.

    exact: whether `text` says what is wrong, rather than where and which few things it may be.
    """

    killer: str
    ok: bool
    kind: str
    text: str
    exact: bool = True


def passed(killer: str, text: str) -> Testimony:
    """Nothing was found."""
    return Testimony(killer, True, "", text)


def away_from_start(model: Any) -> Any:
    """The model with every parameter moved a little: at its start mu, logvar and biases are so small that bugs hide."""
    rng = np.random.default_rng(5)
    for value in model.p.values():
        value += 0.4 * rng.standard_normal(value.shape)
    return model


def loss(model: Any, x: Array, eps: Array, beta: float = 1.0) -> float:
    """The loss of one image x (D,) with noise eps (K,Z)."""
    model.beta = beta
    return float(model.forward(x[None], eps[None]))


def posterior(model: Any, x: Array, latent: int) -> tuple[Array, Array]:
    """mu and sigma (Z,) of q(z|x), read off the sampler: z at eps 0, and its distance to z at eps 1."""
    ends = []
    for value in (0.0, 1.0):
        model.forward(x[None], np.full((1, model.K, latent), value))
        ends.append(model.z[0, 0].copy())
    return ends[0], ends[1] - ends[0]


def log_normal(x: Array) -> Array:
    """log N(x; 0, 1)."""
    log_density: Array = -(x**2 + np.log(2 * np.pi)) / 2
    return log_density


def same(a: float, b: float) -> bool:
    """Equal up to rounding."""
    return bool(abs(a - b) <= ROUNDING * max(abs(a), abs(b), 1.0))
