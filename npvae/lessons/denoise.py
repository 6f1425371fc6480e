r"""Denoising and super-resolution: the target is not the input.

An autoencoder that sees a damaged image X̃ and is asked for the clean one, min E‖X̂(X̃) − X‖², learns what digits look
like: on held-out digits it comes nearer to the clean image than the input and than the best median or Gaussian filter,
for masked pixels, Gaussian noise, salt and pepper; and doubling the resolution it beats nearest and bilinear
upsampling.

An autoencoder may copy its input; one whose input was damaged may not. Let $\tilde{x} \sim c(\tilde{x} \mid x)$ be what
the damage leaves of $x$, and let the network $g$ see $\tilde{x}$ while the loss still asks for $x$ (Vincent et al.
2008, "Extracting and composing robust features with denoising autoencoders", section 2.3):

$$
L(g) = E_{p(x)} \, E_{c(\tilde{x} \mid x)} \left\| g(\tilde{x}) - x \right\|^2
$$

To see what the best $g$ is, put the posterior mean $m(\tilde{x}) = E[x \mid \tilde{x}]$ between the two. Given
$\tilde{x}$, the cross term has the factor $E[m(\tilde{x}) - x \mid \tilde{x}] = 0$, so

$$
L(g) = E \left\| g(\tilde{x}) - m(\tilde{x}) \right\|^2 + E \left\| m(\tilde{x}) - x \right\|^2
$$

The second term is nobody's to change, the first is zero at $g = m$. So the network learns
$E[x \mid \tilde{x}]$, of all clean digits that could have become this input the mean, which cannot be had
without knowing $p(x)$. A median or Gaussian filter knows nothing of digits, only that neighbours are alike. For noise
$N(0, s^2)$ there is even a formula (Miyasawa 1961; Robbins 1956), with $p_s$ the density of noisy images:

$$
m(\tilde{x}) = \tilde{x} + s^2 \nabla \log p_s(\tilde{x})
$$

Denoising is a step uphill, towards what is more probable (Alain & Bengio 2014, "What regularized auto-encoders learn
from the data-generating distribution", theorem 1).

Super-resolution is the same with another damage: $\tilde{x}$ is $x$ averaged over blocks of $2 \times 2$ pixels. The
quality is measured by the peak signal-to-noise ratio, for pixels in $[0, 1]$

$$
\operatorname{PSNR} = 10 \log_{10} \frac{1}{\frac{1}{D} \sum_{i} (\hat{x}_i - x_i)^2} \text{ dB}
$$

of each image, then averaged. Every rival's result is cut to $[0, 1]$, and of the filters that one counts which was
best on training images. Full, digits are $28 \times 28$ and super-resolution goes from $14 \times 14$; quick, half of
that.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npvae import noise
from npvae.autoencoder import Autoencoder
from npvae.filters import downsample, gaussian_filter, median_filter, psnr, upsample_bilinear, upsample_nearest
from npvae.flat import Array
from npvae.lessons.digits import difference, digits, tiled
from npvae.lessons.outcome import Findings, Number
from npvae.mosaics import new_figure
from npvae.noise import Purpose, stream
from npvae.optim import Adam, cosine
from npvae.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = {"masking": 0.5, "gaussian": 0.5, "salt-and-pepper": 0.3}  # the damages of noise.corrupt, and how much
SUPER = "super-resolution"
BATCH, JUDGED = 100, 500  # images in a step; held-out images, and training images that the filter is chosen on

Damage = Callable[[np.random.Generator, Array], Array]


class Size(NamedTuple):
    """Of the network and its training."""

    hidden: int
    latent: int
    epochs: int
    lr: float


QUICK, FULL = Size(256, 100, 10, 3e-3), Size(500, 200, 20, 1e-3)


def lesson(quick: bool) -> Findings:
    """A denoising autoencoder for each damage: its PSNR on held-out digits against that of its rivals."""
    data = digits(quick)
    shape = (data.shape[0], data.shape[1])
    train, test = data.train.images, data.test.images[:JUDGED]
    numbers: list[Number] = []
    pictures: dict[str, dict[str, Array]] = {}
    for kind in (*LEVELS, SUPER):
        damage = _damage(kind, shape)
        ws = train_denoiser(train, damage, QUICK if quick else FULL)
        seen = damage(stream(0, Purpose.EVALUATE_CORRUPT), test)
        chosen = train[:JUDGED]
        name, best = best_filter(damage(stream(1, Purpose.EVALUATE_CORRUPT), chosen), chosen, shape)
        rivals = {"nearest upsampling" if kind == SUPER else "noisy input": seen}
        if kind == SUPER:
            small = tuple(side // 2 for side in shape)
            rivals["bilinear upsampling"] = upsample_bilinear(downsample(test, shape, 2), (small[0], small[1]), 2)
        rivals[f"best filter ({name})"] = best(seen)
        made = ws.decode(ws.encode(seen))
        numbers += _compared(kind, made, rivals, test)
        pictures[kind] = {"original": test, "input": seen, **dict(list(rivals.items())[1:]), "autoencoder": made}
    alt = (
        "Four blocks of held-out digits, one for each damage: masked pixels, Gaussian noise, salt and pepper, and half "
        "the resolution. In each the rows are the original, the damaged input, the best filter's result (for "
        "super-resolution also bilinear upsampling) and the autoencoder's, whose digits have no noise left, though "
        "strokes are blurred here and there."
    )
    return Findings(tuple(numbers), _draw(pictures, shape), alt)


def train_denoiser(images: Array, damage: Damage, size: Size) -> Workspace:
    """A new damage for every image in every epoch; the loss compares with what was there before it."""
    ws = Workspace(Autoencoder(images.shape[1], (size.hidden,), size.latent), BATCH)
    steps = size.epochs * len(images) // BATCH
    optimizer = Adam(ws, cosine(size.lr, steps))
    for epoch in range(size.epochs):
        shuffled = images[stream(0, Purpose.SHUFFLE, epoch).permutation(len(images))]
        seen = damage(stream(0, Purpose.CORRUPT, epoch), shuffled)
        for start in range(0, len(images), BATCH):
            batch = slice(start, start + BATCH)
            ws.forward(seen[batch], target=shuffled[batch])
            ws.backward()
            optimizer.step()
    return ws


def best_filter(seen: Array, clean: Array, shape: tuple[int, int]) -> tuple[str, Callable[[Array], Array]]:
    """Of medians and Gaussians of many widths the one that brings these images nearest to the clean ones."""
    filters: dict[str, Callable[[Array], Array]] = {}
    for width in (3, 5):
        filters[f"median, {width} × {width}"] = partial(median_filter, shape=shape, width=width)
    for sigma in np.arange(3, 16) / 10:
        filters[f"Gaussian, σ = {sigma}"] = partial(gaussian_filter, shape=shape, sigma=sigma)
    name = max(filters, key=lambda name: _quality(filters[name](seen), clean).mean())
    return name, filters[name]


def _damage(kind: str, shape: tuple[int, int]) -> Damage:
    """What a network of D inputs sees of images (n, D)."""
    if kind == SUPER:
        small = (shape[0] // 2, shape[1] // 2)
        return lambda rng, x: upsample_nearest(downsample(x, shape, 2), small, 2)
    return lambda rng, x: noise.corrupt(rng, x, kind, LEVELS[kind])


def _quality(images: Array, clean: Array) -> Array:
    """The PSNR of each image as it can be shown, cut to [0, 1]."""
    return psnr(np.clip(images, 0, 1), clean)


def _compared(kind: str, made: Array, rivals: dict[str, Array], clean: Array) -> list[Number]:
    """The mean PSNR, and by how much it is above each rival's on the same images: more than 4 standard errors."""
    ours = _quality(made, clean)
    numbers = [Number(f"{kind}: autoencoder", float(ours.mean()), unit="dB")]
    for name, rival in rivals.items():
        gain, error = difference(ours, _quality(rival, clean))
        numbers.append(Number(f"{kind}: above {name}", gain, at_least=4 * error, unit="dB"))
    return numbers


def _draw(pictures: dict[str, dict[str, Array]], shape: tuple[int, int]) -> "Figure":
    """A block for each damage, in it a row for each result, of seven digits."""
    figure = new_figure(10, 5.6)
    for axes, (kind, rows) in zip(figure.subplots(2, 2).flat, pictures.items(), strict=True):
        axes.imshow(tiled(np.stack([images[:7] for images in rows.values()]), shape), cmap="gray", vmin=0, vmax=1)
        axes.set_title({"gaussian": "Gaussian noise"}.get(kind, kind))
        height = shape[0] + shape[0] // 14
        names = [name.replace(" (", "\n(").replace(" upsampling", "\nupsampling") for name in rows]
        axes.set_yticks([height * (row + 0.5) for row in range(len(rows))], names, fontsize=9)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.suptitle("Held-out digits, damaged and restored")
    return figure


SHOWN = (train_denoiser, best_filter)
