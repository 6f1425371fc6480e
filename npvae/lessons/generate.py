r"""Generating an image without the image itself.

A trained VAE needs no X to make one: draw Z ~ N(0, 1), decode it. In black and white its samples are, by MMD², at most
twice as far from held-out digits as other real digits are; they are no copies of training images, and every digit
occurs. Between the codes of two digits there are digits, not blends; a latent that says more changes more; two latents
make a map.

Training maximised $E_{Q} \log P(X \mid Z) - KL(Q(Z \mid X) \| P(Z))$. The decoder knows how to draw $X$ from
codes $Z \sim Q(Z \mid X)$. It is asked to draw from $Z \sim P(Z)$, and that works as far as the two cover the same
ground. Averaged over the data, the KL splits into what the code says about the image and the distance of all codes
together, $q(Z)$, from the prior (Hoffman & Johnson 2016, "ELBO surgery"):

$$
E_{p(X)} KL(Q(Z \mid X) \| P(Z)) = I(X; Z) + KL(q(Z) \| P(Z)), \quad
q(Z) = E_{p(X)} Q(Z \mid X)
$$

The last term is in the loss: training puts no codes where the prior has no mass. And a part of the prior of mass $m$
that has no codes costs $-\log(1 - m)$ nats at least: no large part stays empty, though small holes are cheap, and a
sample from one is no digit. So the encoder can be left away:

$$
Z \sim N(0, 1), \quad X \sim P(X \mid Z)
$$

Is that any good? Four questions, each with a number that could have come out wrong.

*Are they digits?* The maximum mean discrepancy (Gretton et al. 2012; in black and white, Gaussian kernel of median
width) of samples to held-out digits, over that of as many training digits, which is not 0: they are by other
writers. It would be 1 if the samples were as good as training digits; it is held to 2.

*Are they copies?* For each sample take the nearest of all digits, of the $n$ that were trained on and $m$ that were
not. To a model that has learned digits they are all the same, and a share $s = n/(n + m)$ of its samples is nearest to
one of the former; to a model that has stored its training images nearly all are. The share may be above $s$ by four
standard errors, $\sqrt{s(1 - s)/k}$ for $k$ samples; and a little above it without any copying, for the two kinds of
digits are by different writers.

*Are all digits there?* Every sample is given the label of the nearest training digit; the rarest must be a fifth as
frequent as its fair share of a tenth.

*Is there a digit between two digits?* Halfway between two codes, on the arc that keeps their length (White 2016,
"Sampling generative networks"),

$$
\begin{aligned}
Z_t &= \frac{\sin((1 - t) \omega) Z_0 + \sin(t \omega) Z_1}{\sin \omega} \\
\cos \omega &= \frac{Z_0 \cdot Z_1}{\left\| Z_0 \right\| \left\| Z_1 \right\|}
\end{aligned}
$$

the decoded image must be nearer to some real digit than the blend of the two decoded ends is.

A traversal moves one latent from $-3$ to $3$ and leaves the others. How far the image goes should depend on how much
the latent says, its mean KL in nats. Their correlation $r$ over the $n$ latents is held to what chance exceeds once in
200: then $r \sqrt{n - 2} / \sqrt{1 - r^2}$ has Student's distribution with $n - 2$ degrees of freedom (Fisher 1915,
"Frequency distribution of the values of the correlation coefficient"), which makes 0.765 for ten latents. For the map a
VAE with two latents is decoded at the quantiles of the prior, so that every tile stands for the same probability.
"""

from typing import TYPE_CHECKING

import numpy as np

from npvae.codes import REACH, interpolate, quantiles, traverse
from npvae.datasets import Dataset
from npvae.flat import Array
from npvae.lessons.digits import FULL, QUICK, difference, digits, draw_blocks, drawn, trained
from npvae.lessons.outcome import Findings, Number
from npvae.mmd import median_distance, mmd2, nearest
from npvae.mosaics import new_figure
from npvae.plots import decoded
from npvae.runs import Run
from npvae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 10  # rows and columns of each mosaic
MAP = "map: two latents at quantiles of N(0, 1)"


def lesson(quick: bool) -> Findings:
    """Samples of a VAE against held-out digits; its interpolations and traversals; the map of one with two latents."""
    size, data = QUICK if quick else FULL, digits(quick)
    pixels = data.train.images.shape[1]
    vae, plane = (trained(VAE(pixels, size.hidden, latent), data, size) for latent in (size.latent, 2))
    samples = vae.sample(len(data.test.images))
    distance, closest = nearest(samples, data.train.images)
    names, labels = data.train.labels, data.test.labels
    assert names is not None and labels is not None, "the digits have labels"
    codes = vae.encode(data.test.images)
    apart = labels[::2] != labels[1::2]
    ends = codes[::2][apart], codes[1::2][apart]
    rates = vae.rates(data.test.images)
    moved = movement(vae, codes[:50])
    blocks = made(vae, plane, ends, codes[0], np.argsort(-rates)[:SIDE])
    kinds = np.bincount(names[closest], minlength=10)
    found = np.unique(names[nearest(blocks[MAP].reshape(-1, pixels), data.train.images)[1]])
    numbers = (
        *_digits_or_not(samples, data),
        *_copies(samples, distance, data),
        Number("rarest digit's share of the samples", float(kinds.min() / len(samples)), at_least=0.02),
        halfway(vae, ends, data),
        Number("latents: correlation of KL and movement", float(np.corrcoef(rates, moved)[0, 1]), at_least=0.765),
        Number("different digits on the map", len(found), at_least=8),
    )
    alt = (
        "Four mosaics. Samples of the VAE, most of them digits, some smudged; ten rows that turn one digit into "
        "another, mostly through shapes that might be digits; ten rows in which one latent of the same seven moves "
        "and changes slant, width or kind; and a map of two latents, on which the digits lie in regions that pass "
        "into each other."
    )
    return Findings(numbers, _draw(blocks, data.shape), alt)


def made(vae: Run, plane: Run, ends: tuple[Array, Array], code: Array, latents: Array) -> dict[str, Array]:
    """Mosaics of images (rows, columns, D) by their titles: each is decoded, and the encoder is not asked.

    Of codes of the prior, codes between `ends` (n, Z) and (n, Z), one code (Z,) with each of some latents moved, and
    codes all over the plane of two latents.
    """
    paths = np.stack([interpolate(a, b, SIDE, spherical=True) for a, b in zip(*ends, strict=True)][:SIDE])
    return {
        "samples: Z ~ N(0, 1)": vae.sample(SIDE**2).reshape(SIDE, SIDE, -1),
        "interpolation: from left to right": decoded(vae, paths),
        f"traversal: a latent in each row, −{REACH:g} to {REACH:g}": decoded(vae, traverse(code, latents, SIDE)),
        MAP: decoded(plane, quantiles(2 * SIDE))[::-1],  # the second latent grows upwards
    }


def halfway(vae: Run, ends: tuple[Array, Array], data: Dataset) -> Number:
    """How much nearer to a training digit the decoded middle is than the blend of the decoded ends."""
    middle = vae.decode(np.stack([interpolate(a, b, 3, spherical=True)[1] for a, b in zip(*ends, strict=True)]))
    blend = (vae.decode(ends[0]) + vae.decode(ends[1])) / 2
    gain, error = difference(nearest(blend, data.train.images)[0], nearest(middle, data.train.images)[0])
    return Number("halfway: nearer to a digit than a blend is", gain, at_least=4 * error)


def movement(vae: Run, codes: Array) -> Array:
    """How far the image goes when a latent goes from one end of its traversal to the other: mean over codes, (Z,)."""
    ends = np.stack([decoded(vae, traverse(code, range(len(code)), 2)) for code in codes])  # (n,Z,2,D)
    moved: Array = np.linalg.norm(ends[:, :, 1] - ends[:, :, 0], axis=-1).mean(axis=0)
    return moved


def _digits_or_not(samples: Array, data: Dataset) -> list[Number]:
    """MMD² to held-out digits, of the samples and of real digits."""
    rng = np.random.default_rng(0)
    held, real, black = (drawn(rng, x) for x in (data.test.images, data.train.images[-len(samples) :], samples))
    width = median_distance(real, held)
    floor, ours = mmd2(real, held, width), mmd2(black, held, width)
    return [
        Number("MMD² of as many training digits", floor),
        Number("MMD² of the samples", ours),
        Number("the one over the other", ours / floor, at_most=2.0),
    ]


def _copies(samples: Array, distance: Array, data: Dataset) -> list[Number]:
    """Whether samples, at these distances from the digits of the training, are nearer to them than to others."""
    seen, unseen = data.train.images, data.test.images
    found = float((distance < nearest(samples, unseen)[0]).mean())
    chance = len(seen) / (len(seen) + len(unseen))
    error = float(np.sqrt(chance * (1 - chance) / len(samples)))
    return [
        Number(f"samples nearest to a training digit ({chance:.3f} by chance)", found, at_most=chance + 4 * error),
        Number("least distance of a held-out digit to training", float(nearest(unseen, seen)[0].min())),
        Number("least distance of a sample to training", float(distance.min())),
    ]


def _draw(blocks: dict[str, Array], shape: tuple[int, ...]) -> "Figure":
    """Mosaics of images (rows, columns, D) by their title."""
    figure = new_figure(10, 10.4)
    draw_blocks(figure, 2, 2, blocks, shape)
    return figure


SHOWN = (made, halfway, movement)
