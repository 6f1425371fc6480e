r"""A Gaussian fitted to pixels is not a model of images.

Fitting N(μ, Σ) to the pixels of X₁…X₄ is incorrect: Σ has rank 3, so the density does not exist, and all that can be
drawn are blends of the four. With as many digits as there are, it matches every mean and every covariance of two
pixels and still draws ghosts: in black and white farther from held-out digits, by MMD², than samples of a VAE
trained on the same images.

The likeliest Gaussian has the mean $\mu = \frac{1}{n} \sum_{i} x_i$ and the covariance of the images. With the
centred images as the rows of $C$, $c_i = x_i - \mu$, that is $\Sigma = \frac{1}{n - 1} C^{\top} C$ (with $n$ in place
of $n - 1$ it is the likeliest; the rank is the same). The rows of $C$ add up to 0, so that at most $n - 1$ of them are
independent:

$$
\operatorname{rank} \Sigma = \operatorname{rank} C \le n - 1, \quad \text{for four images } 3 \text{ of } D = 784
$$

The density has $\Sigma^{-1}$ in its exponent and $\det \Sigma = 0$ below the fraction: there is none. Samples there
are. Since $\epsilon^{\top} C / \sqrt{n - 1}$ with $\epsilon \sim N(0, 1)$ has the covariance $\Sigma$, every sample is

$$
x = \mu + \frac{1}{\sqrt{n - 1}} \sum_{i} \epsilon_i (x_i - \mu) = \sum_{i} a_i x_i, \quad
a_i = \frac{1}{n} + \frac{\epsilon_i - \bar{\epsilon}}{\sqrt{n - 1}}, \quad \sum_{i} a_i = 1
$$

a blend of the four, some with negative weights. No other digit can ever be drawn: held-out digits are not blends of
four.

More images give more directions, not better ones. A Gaussian knows a pixel's neighbours only by their covariance, and
draws a sum of independent waves: strokes that fade, overlap and end nowhere. A digit is not that. Its pixels are black
or white, its strokes are here *or* there, which no mean and no covariance of pairs says. A VAE is a mixture of
infinitely many simple models, $P(X) = \int P(Z) P(X \mid Z) \, dZ$, whose decoder bends the plane of $Z$ to where the
digits are.

Both are compared with held-out digits by the maximum mean discrepancy (Gretton et al. 2012, eq. 3; Gaussian kernel,
median width) in black and white, each pixel white with its grey, cut to $[0, 1]$, as probability. A permutation test
says whether it could be 0: the share of random relabellings of the two samples that give as much. With so many images
it tells everything apart, even training digits, which are by other writers; it says that the Gaussian draws no digits,
not how far from them. That it is farther than the VAE is said by the difference of their MMD².

That cut is no favour to the VAE: greys below black and above white are no images. It is fair to say what happens
otherwise. A kernel so wide sees little more than means and covariances, and these are what the Gaussian was fitted to.
Compared in grey, with its impossible greys left in, and the VAE represented by mean images that lack the variance of
pixels, the Gaussian comes out ahead. Those numbers are given too.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npvae.flat import Array
from npvae.lessons.digits import FULL, QUICK, digits, draw_blocks, drawn, trained
from npvae.lessons.outcome import Findings, Number
from npvae.mmd import compare, median_distance, mmd2, permutation_test
from npvae.mosaics import new_figure
from npvae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RELABELLINGS = 200  # so that p is at least 1/201


class Gaussian(NamedTuple):
    """N(mean, axes axesᵀ): what was fitted. axes (D, rank), the principal directions times their spread."""

    mean: Array
    axes: Array


def lesson(quick: bool) -> Findings:
    """The Gaussian of four images, its rank and its samples; then that of all, against a VAE trained on the same."""
    size, data = QUICK if quick else FULL, digits(quick)
    images, test = data.train.images, data.test.images
    four = images[[0, 1, 2, 4]]  # 5, 0, 4, 9
    rng = np.random.default_rng(0)
    few, many = fit(four), fit(images)
    blends, ghosts = sample(few, len(test), rng), sample(many, len(test), rng)
    vae = trained(VAE(images.shape[1], size.hidden, size.latent), data, size)
    samples = vae.sample(len(test))

    inside, outside = distance_to_blends(blends, four), distance_to_blends(test, four)
    covariance = np.cov(four.T.astype(np.float64))
    rank = int(np.linalg.matrix_rank(covariance, hermitian=True))
    numbers = (
        Number("rank of Σ of 4 images", rank, at_least=3, at_most=3),
        Number("samples: greatest distance to blends of the 4", float(inside.max()), at_most=1e-12),
        Number("held-out digits: median distance to blends of the 4", float(np.median(outside)), at_least=0.5),
        Number(f"rank of Σ of {len(images):,} images, {images.shape[1]} pixels", many.axes.shape[1]),
        *_judged(ghosts, samples, images, test),
    )
    alt = (
        "Six blocks: the four images; what the Gaussian fitted to them draws, the four shining through one another; "
        "held-out digits; what the Gaussian fitted to all training digits draws, grey clouds with traces of strokes; "
        "samples of a VAE, strokes that join, most of them digits; and a row of these three in black and white."
    )
    compared = np.stack([drawn(rng, x[:8]) for x in (test, ghosts, samples)])
    blocks = {
        "the 4 images": four.reshape(2, 2, -1),
        "Gaussian of the 4": _block(blends),
        "held-out digits": _block(test),
        f"Gaussian of {len(images):,} digits": _block(ghosts),
        f"VAE of the same {len(images):,} digits": _block(samples),
        "as they are compared: digits, Gaussian, VAE": compared,
    }
    return Findings(numbers, _draw(blocks, data.shape), alt)


def fit(images: Array) -> Gaussian:
    """The mean and the covariance of the pixels of images (n, D); eigenvalues that are but rounding are 0."""
    pixels = images.astype(np.float64)
    variances, directions = np.linalg.eigh(np.cov(pixels.T))
    real = variances > variances[-1] * len(variances) * np.finfo(np.float64).eps
    return Gaussian(pixels.mean(axis=0), directions[:, real] * np.sqrt(variances[real]))


def sample(gaussian: Gaussian, n: int, rng: np.random.Generator) -> Array:
    """n images (n, D) of it."""
    return gaussian.mean + rng.standard_normal((n, gaussian.axes.shape[1])) @ gaussian.axes.T


def distance_to_blends(x: Array, images: Array) -> Array:
    """How far each x is from the nearest sum of a_i images_i with sum a_i = 1, by how far it is from their mean."""
    pixels = images.astype(np.float64)
    basis, _ = np.linalg.qr((pixels[1:] - pixels[0]).T)  # the directions between them
    offset = x - pixels.mean(axis=0)
    rest = offset - offset @ basis @ basis.T
    share: Array = np.linalg.norm(rest, axis=1) / np.linalg.norm(offset, axis=1)
    return share


def _judged(ghosts: Array, samples: Array, images: Array, test: Array) -> list[Number]:
    """MMD² to held-out digits in black and white, and the same with greys."""
    rng, real = np.random.default_rng(1), images[-len(test) :]
    held, black_real, black_ghosts, black_samples = (drawn(rng, x) for x in (test, real, ghosts, samples))
    width, grey_width = median_distance(black_real, held), median_distance(real, test)
    genuine, ghostly = (permutation_test(x, held, width, RELABELLINGS) for x in (black_real, black_ghosts))
    farther = compare(black_ghosts, black_samples, held, width)
    pixels = [np.mean((x > 0.1) & (x < 0.9), axis=1) for x in (test, ghosts, samples)]
    greyer = pixels[1].mean() - pixels[2].mean()
    error = np.sqrt(sum(share.var(ddof=1) / len(share) for share in pixels[1:]))
    return [
        Number("MMD² of as many training digits", genuine.mmd2),
        Number("p of as many training digits", genuine.p),
        Number("MMD² of the Gaussian", ghostly.mmd2),
        Number("p of the Gaussian", ghostly.p, at_most=0.01),
        Number("MMD² of the VAE", mmd2(black_samples, held, width)),
        Number("Gaussian farther than the VAE", farther.value, at_least=4 * farther.standard_error),
        Number("MMD² in grey: Gaussian, cut to [0, 1]", mmd2(ghosts.clip(0, 1), test, grey_width)),
        Number("MMD² in grey: Gaussian, greys beyond black and white", mmd2(ghosts, test, grey_width)),
        Number("MMD² in grey: VAE, mean images", mmd2(samples, test, grey_width)),
        Number("pixels neither black nor white, held-out digits", float(pixels[0].mean())),
        Number("more of them by the Gaussian than by the VAE", float(greyer), at_least=4 * float(error)),
    ]


def _block(images: Array) -> Array:
    """The first 32 in 4 rows."""
    return images[:32].reshape(4, 8, -1)


def _draw(blocks: dict[str, Array], shape: tuple[int, ...]) -> "Figure":
    """Blocks of images (rows, columns, D) by their title."""
    figure = new_figure(9.5, 8)
    draw_blocks(figure, 3, 2, blocks, shape)
    return figure


SHOWN = (fit, sample, distance_to_blends)
