"""What lessons share: digits, whole or small; how models are trained on them; errors and how they compare; pictures."""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npvae import datasets, noise
from npvae.datasets import Dataset
from npvae.filters import downsample
from npvae.flat import Array
from npvae.runs import Run
from npvae.training import train
from npvae.workspace import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def digits(quick: bool) -> Dataset:
    """The 10,000 + 2,000 digits of 28 x 28 pixels in the package; quick, 4,000 + 2,000 of them at 14 x 14."""
    data = datasets.load("mnist-small", rows=4_000 if quick else None)
    if not quick:
        return data
    train, test = (downsample(split.images, (28, 28), 2).reshape(-1, 14, 14) for split in (data.train, data.test))
    return datasets.from_arrays(train, test, train_labels=data.train.labels, test_labels=data.test.labels)


class Size(NamedTuple):
    """Of a model that is to generate, and of its training."""

    hidden: tuple[int, ...]
    latent: int
    epochs: int
    lr: float


QUICK, FULL = Size((128, 64), 10, 15, 3e-3), Size((400, 200), 10, 30, 2e-3)


def trained(model: Model, data: Dataset, size: Size) -> Run:
    """The run of a model on the digits, for as long as its size says."""
    return train(model, data, epochs=size.epochs, lr=size.lr, schedule="cosine", watched=False)


def squared_errors(reconstructed: Array, x: Array) -> Array:
    """|x^ - x|^2 of every image, (n, D) and (n, D) -> (n,)."""
    errors: Array = ((reconstructed.astype(np.float64) - x) ** 2).sum(axis=1)
    return errors


def difference(a: Array, b: Array) -> tuple[float, float]:
    """The mean of a - b (n,), image by image, and its standard error.

    Of truth values it is McNemar's, but for the factor sqrt(n/(n - 1)) by which it is larger.
    """
    apart = a.astype(np.float64) - b
    return float(apart.mean()), float(apart.std(ddof=1) / math.sqrt(len(apart)))


def drawn(rng: np.random.Generator, images: Array) -> Array:
    """Black-and-white images (n, D): each pixel white with its grey, cut to [0, 1], as the probability.

    This is what a Bernoulli VAE models and is trained on. Samples of all kinds and real digits are compared so: by
    one rule, which gives back to a VAE's mean images the variance of the pixels that averaging took from them.
    """
    return noise.binarize(rng, np.clip(images, 0, 1))


def tiled(images: Array, shape: tuple[int, ...]) -> Array:
    """Images (rows, columns, D) side by side with white seams, as one picture (height, width) of greys in [0, 1]."""
    h, w = shape
    seam = h // 14
    tiles = np.clip(images, 0, 1).reshape(*images.shape[:2], h, w)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, seam), (0, seam)), constant_values=1)
    rows, columns = images.shape[:2]
    return tiles.transpose(0, 2, 1, 3).reshape(rows * (h + seam), columns * (w + seam))[:-seam, :-seam]


def draw_blocks(figure: "Figure", rows: int, columns: int, blocks: dict[str, Array], shape: tuple[int, ...]) -> None:
    """Blocks of images (r, c, D) by their titles, as a figure of so many rows and columns."""
    for axes, (name, images) in zip(figure.subplots(rows, columns).flat, blocks.items(), strict=True):
        axes.imshow(tiled(images, shape), cmap="gray", vmin=0, vmax=1)
        axes.set_title(name)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
