"""What a decoder's outputs mean: p(x|z). Each declares its own parameters and how many outputs it reads.

A likelihood is a description with this face; the five share no code, so there is no base class:

* `params` and `kept` are layouts: its own parameters, and what forward leaves for backward besides log_px;
* `outputs` is how many outputs of the decoder a pixel takes;
* `forward` turns a.y (B,K,outputs*D) and target (B,D) into a.log_px, `backward` da.log_px into da.y and dp;
* `mean` turns outputs (n, outputs*D) into E[x|z] (n, D), what a picture shows;
* `check` raises InputError if images (n, D) have no such density, `check_training` if it cannot be fitted to them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from npvae.errors import InputError, check_choice, check_real
from npvae.flat import Array, Shape, Tree
from npvae.ops import reference


class Likelihood(Protocol):
    """The face, for the type checker."""

    name: str
    outputs: int
    params: Tree
    kept: Tree

    @property
    def mean(self) -> Callable[[Array], Array]: ...  # noqa: D102
    @property
    def check(self) -> Callable[[Array], None]: ...  # noqa: D102
    @property
    def check_training(self) -> Callable[[Array], None]: ...  # noqa: D102
    def forward(self, ops: Any, p: Tree, target: Array, a: Tree) -> None: ...  # noqa: D102
    def backward(self, ops: Any, p: Tree, target: Array, a: Tree, dp: Tree, da: Tree) -> None: ...  # noqa: D102


def any_images(images: Array) -> None:
    """Every image has this density."""


def in_unit_range(images: Array) -> None:
    """Raise InputError if a pixel is outside [0, 1]."""
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        raise InputError(
            f"a Bernoulli likelihood needs pixels in [0, 1], these are in [{low:g}, {high:g}]: rescale them "
            "(--rescale; in Python rescale=True when loading), or choose a Gaussian likelihood, which takes any range"
        )


def varied(images: Array) -> None:
    """Raise InputError if the images are all the same."""
    if (images == images[0]).all():
        raise InputError(
            f"all {len(images)} training images are the same: a learned sigma would shrink to 0 and the likelihood "
            "grow without bound. Give images that differ, or a fixed sigma (likelihood 'gaussian')"
        )


class Spread(NamedTuple):
    """One log sigma^2 for all pixels, (1,)."""

    logvar: Any


@dataclass(frozen=True)
class Bernoulli:
    """p(x|z) = prod_d s(y_d)^x_d (1 - s(y_d))^(1 - x_d): black or white pixels, y their logits.

    Grey levels in [0, 1] pass as the probability that a pixel is white: the loss is then its average over such
    drawings of the image.
    """

    name = "bernoulli"
    outputs = 1
    params = kept = ()
    mean = staticmethod(reference.sigmoid)
    check = staticmethod(in_unit_range)
    check_training = staticmethod(any_images)

    def forward(self, ops: Any, p: Tree, target: Array, a: Tree) -> None:
        """a.y, target -> a.log_px."""
        ops.bernoulli_forward(a.y, target, out=a.log_px)

    def backward(self, ops: Any, p: Tree, target: Array, a: Tree, dp: Tree, da: Tree) -> None:
        """da.log_px -> da.y."""
        ops.bernoulli_backward(da.log_px, a.y, target, out=da.y)


@dataclass(frozen=True)
class Gaussian:
    """p(x|z) = N(y, sigma^2) with the sigma given here: |x - y|^2 weighted by 1/(2 sigma^2), plus a constant."""

    sigma: float = 1.0

    name = "gaussian"
    outputs = 1
    params = kept = ()
    mean = staticmethod(np.asarray)
    check = staticmethod(any_images)
    check_training = staticmethod(any_images)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", check_real("sigma", self.sigma, 0.0, open_=True))

    def forward(self, ops: Any, p: Tree, target: Array, a: Tree) -> None:
        """a.y, target -> a.log_px."""
        ops.gaussian_forward(a.y, target, self._logvar(a), out=a.log_px)

    def backward(self, ops: Any, p: Tree, target: Array, a: Tree, dp: Tree, da: Tree) -> None:
        """da.log_px -> da.y. Sigma is given, so the derivative by it is dropped."""
        logvar = self._logvar(a)
        ops.gaussian_backward(da.log_px, a.y, target, logvar, a.log_px, out=(da.y, np.empty_like(logvar)))

    def _logvar(self, a: Tree) -> Array:
        return np.full(1, 2 * np.log(self.sigma), a.log_px.dtype)


@dataclass(frozen=True)
class GaussianLearned:
    """p(x|z) = N(y, sigma^2) with one sigma for all pixels, a parameter: `likelihood.logvar`."""

    name = "gaussian-learned"
    outputs = 1
    params = Spread(Shape((1,)))
    kept = ()
    mean = staticmethod(np.asarray)
    check = staticmethod(any_images)
    check_training = staticmethod(varied)

    def forward(self, ops: Any, p: Tree, target: Array, a: Tree) -> None:
        """a.y, target -> a.log_px."""
        ops.gaussian_forward(a.y, target, p.logvar, out=a.log_px)

    def backward(self, ops: Any, p: Tree, target: Array, a: Tree, dp: Tree, da: Tree) -> None:
        """da.log_px -> da.y, dp.logvar."""
        ops.gaussian_backward(da.log_px, a.y, target, p.logvar, a.log_px, out=(da.y, dp.logvar))


@dataclass(frozen=True)
class GaussianOptimal:
    """p(x|z) = N(y, sigma^2) with sigma^2 the batch's mean squared error, which maximises the likelihood.

    The sigma-VAE of Rybkin, Daniilidis & Levine 2021. sigma^2 depends on the decoder, and backward keeps that path.
    An evaluation must not fit sigma to what it evaluates: `evaluation()` is the likelihood that reads the stored
    `likelihood.logvar` instead, in which training keeps a running average.
    """

    name = "gaussian-optimal"
    outputs = 1
    params = Spread(Shape((1,)))
    kept = Spread(Shape((1,), wide=True))
    mean = staticmethod(np.asarray)
    check = staticmethod(any_images)
    check_training = staticmethod(varied)

    def forward(self, ops: Any, p: Tree, target: Array, a: Tree) -> None:
        """a.y, target -> a.log_px, a.likelihood.logvar."""
        ops.gaussian_optimal_forward(a.y, target, out=(a.log_px, a.likelihood.logvar))

    def backward(self, ops: Any, p: Tree, target: Array, a: Tree, dp: Tree, da: Tree) -> None:
        """da.log_px -> da.y, which holds the path through sigma as well; the stored value takes no part."""
        ops.gaussian_optimal_backward(da.log_px, a.y, target, a.log_px, a.likelihood.logvar, out=da.y)
        da.likelihood.logvar[:] = 0
        dp.logvar[:] = 0

    def remember(self, p: Tree, a: Tree, step: int) -> None:
        """Fold this step's sigma^2 into the stored one: a plain mean of the first 100 steps, then a moving one."""
        weight = max(1 / step, 0.01)
        p.logvar[:] = np.log((1 - weight) * np.exp(p.logvar) + weight * np.exp(a.likelihood.logvar))

    def evaluation(self) -> GaussianLearned:
        """The likelihood of the stored sigma, on the same parameters."""
        return GaussianLearned()


@dataclass(frozen=True)
class GaussianPixel:
    """p(x|z) = N(mean_d, sigma_d^2) for every pixel d, the decoder's last layer being [mean | logvar]."""

    name = "gaussian-pixel"
    outputs = 2
    params = kept = ()
    check = staticmethod(any_images)
    check_training = staticmethod(varied)

    def mean(self, y: Array) -> Array:
        """The first half of the outputs."""
        return reference.halves(y)[0]

    def forward(self, ops: Any, p: Tree, target: Array, a: Tree) -> None:
        """a.y, target -> a.log_px."""
        ops.gaussian_pixel_forward(a.y, target, out=a.log_px)

    def backward(self, ops: Any, p: Tree, target: Array, a: Tree, dp: Tree, da: Tree) -> None:
        """da.log_px -> da.y."""
        ops.gaussian_pixel_backward(da.log_px, a.y, target, out=da.y)


KINDS: tuple[type[Any], ...] = (Bernoulli, Gaussian, GaussianLearned, GaussianOptimal, GaussianPixel)
LIKELIHOODS = {kind.name: kind for kind in KINDS}


def as_likelihood(likelihood: "str | Likelihood") -> Likelihood:
    """The likelihood called so with its defaults, or the likelihood given; an unknown name raises InputError."""
    given: Any = likelihood
    if not isinstance(given, KINDS):
        given = LIKELIHOODS[check_choice("likelihood", given, LIKELIHOODS)]()
    return given  # type: ignore[no-any-return]
