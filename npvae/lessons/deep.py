r"""A deep autoencoder's code says more than a linear one's.

A deep non-linear autoencoder gives powerful representations: with as many numbers in the code as PCA has, its
reconstructions of digits that it never saw are nearer to them, and the digit's name can be read off the code of 2 or of
8 numbers more often. At 32 numbers only the error is still smaller: then more names are read off PCA's code.

PCA is the best that a *linear* autoencoder can do (see the lesson on it): its reconstructions lie in a plane of $k$
dimensions through the mean, and its error is the sum of the variances outside of it,

$$
\min_{U^\top U = 1} E \left\| x - \bar{x} - U U^\top (x - \bar{x}) \right\|^2 = \sum_{j > k} \lambda_j
$$

Several linear layers one after another are one: $(x W_1) W_2 = x (W_1 W_2)$, so depth without a non-linear function
gains nothing. With one between them, $h = \max(0, x W + b)$, the surface $\{ g(z) \}$ on which reconstructions lie is
bent: on each of the regions in which the same units are above 0 it is a plane, and the number of regions grows with the
width to the power of the depth (Montúfar et al. 2014, "On the number of linear regions of deep neural networks"). A
stroke that moves through the image passes along a curve in pixel space, whose plane has many dimensions though the
curve has one; a bent surface can follow it.

So at the same $k$ the error can be no larger than PCA's, as a network can be nearly linear where it is used, and for
images that lie near a bent surface it is smaller (Hinton and Salakhutdinov 2006, "Reducing the dimensionality of data
with neural networks"). Whether the code is a better *representation* is another question. Here it is asked by the
simplest reader that there is: the label of the nearest code among the training images,

$$
\hat{c}(x) = c_{i}, \quad i = \arg\min_{i} \left\| f(x_i) - f(x) \right\|
$$

whose error is at most twice the least possible one as the images become many (Cover and Hart 1967, "Nearest neighbor
pattern classification"). It goes by distances. PCA's code keeps those between the images as well as $k$ directions can,
and with $k$ comes near to what the pixels themselves say; the loss of a deep code does not ask for distances at all.
Its advantage is where $k$ is too small for them: at 32 it has none, and that is reported as it comes.

Two codes are compared on the same images. Of these only those count on which one reader is right and the other wrong,
$p$ and $q$ of $n$: the difference of accuracies is $(p - q)/n$, and its standard error (McNemar 1947, "Note on the
sampling error of the difference between correlated proportions")

$$
\frac{1}{n} \sqrt{p + q - \frac{(p - q)^2}{n}}
$$
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npvae.autoencoder import Autoencoder
from npvae.datasets import Dataset
from npvae.flat import Array
from npvae.lessons.digits import difference, digits, squared_errors
from npvae.lessons.outcome import CHANCE, Findings, Number
from npvae.linear import Components, principal_components
from npvae.mmd import nearest
from npvae.mosaics import new_figure
from npvae.plots import CLASSES, TEST, TRAIN
from npvae.training import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIKELY = 2.6  # standard errors that chance exceeds once in 200: of an accuracy, which 2,000 images tell less exactly


class Seen(NamedTuple):
    """What a code of k numbers keeps of the digits: by PCA or by a deep autoencoder."""

    codes: Array  # of the training images (n,k)
    held_out: Array  # of the held-out images (m,k)
    error: Array  # |x^ - x|^2 of each of these, (m,)
    read: Array  # whether the nearest code has its label, (m,)

    @property
    def accuracy(self) -> float:
        """The share of the held-out images whose label is read off the code."""
        return float(self.read.mean())


def lesson(quick: bool) -> Findings:
    """PCA and a deep autoencoder with codes of the same size: errors and nearest neighbours on held-out digits."""
    data = digits(quick)
    sizes = (2, 8) if quick else (2, 8, 32)
    found = principal_components(data.train.images)
    linear = {k: by_pca(found, data, k) for k in sizes}
    deep = {k: by_autoencoder(data, k, quick) for k in sizes}
    numbers = []
    for k in sizes:
        drop, error = difference(linear[k].error, deep[k].error)
        numbers += [
            Number(f"{k} numbers: error of PCA", float(linear[k].error.mean())),
            Number(f"{k} numbers: error of the autoencoder", float(deep[k].error.mean())),
            Number(f"{k} numbers: PCA's error is larger by", drop, at_least=CHANCE * error),
        ]
    for k in sizes:
        gain, error = difference(deep[k].read, linear[k].read)
        least = LIKELY * error if k <= 8 else None
        numbers += [
            Number(f"{k} numbers: labels read off PCA's code", linear[k].accuracy),
            Number(f"{k} numbers: labels read off the autoencoder's", deep[k].accuracy),
            Number(f"{k} numbers: more of them than off PCA's by", gain, at_least=least),
        ]
    raw = read(data, data.train.images, data.test.images)
    numbers += [Number("labels read off the pixels themselves", float(raw.mean()))]
    alt = (
        "Top: held-out digits at their two numbers, coloured by label; by PCA they overlap, by the deep "
        "autoencoder they lie in separate arms. Below: squared error and share of labels read off the code, by size of "
        "the code; the autoencoder has the smaller error, and more labels at 2 and 8."
    )
    return Findings(tuple(numbers), _draw(data, linear, deep, float(raw.mean())), alt)


def by_pca(found: Components, data: Dataset, k: int) -> Seen:
    """The best linear code, from the principal components of the training images."""
    codes, held_out = found.encode(data.train.images, k), found.encode(data.test.images, k)
    errors = squared_errors(found.decode(held_out), data.test.images)
    return Seen(codes, held_out, errors, read(data, codes, held_out))


def by_autoencoder(data: Dataset, k: int, quick: bool) -> Seen:
    """A code of several layers, trained by gradient descent."""
    hidden, epochs, batch, lr = ((320, 128), 25, 40, 4e-3) if quick else ((400, 200, 100), 20, 50, 2e-3)
    model = Autoencoder(data.train.images.shape[1], hidden, k)
    run = train(model, data, epochs=epochs, batch=batch, lr=lr, schedule="cosine")
    codes, held_out = run.encode(data.train.images), run.encode(data.test.images)
    return Seen(codes, held_out, squared_errors(run.decode(held_out), data.test.images), read(data, codes, held_out))


def read(data: Dataset, codes: Array, held_out: Array) -> Array:
    """Whether the label of the nearest training code is that of the image, for each held-out image."""
    assert data.train.labels is not None and data.test.labels is not None
    right: Array = data.train.labels[nearest(held_out, codes)[1]] == data.test.labels
    return right


def _draw(data: Dataset, linear: dict[int, Seen], deep: dict[int, Seen], raw: float) -> "Figure":
    """Codes of two numbers by label; errors and accuracies by size of the code."""
    labels = data.test.labels
    assert labels is not None
    figure = new_figure(11, 7.6)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.5, 1))
    for column, (name, seen) in enumerate({"PCA": linear[2], "deep autoencoder": deep[2]}.items()):
        axes = figure.add_subplot(grid[0, column])
        z = seen.held_out
        axes.scatter(z[:, 0], z[:, 1], s=7, c=[CLASSES[label] for label in labels], linewidths=0)
        spots = apart(np.stack([np.median(z[labels == label], axis=0) for label in range(10)]) / np.ptp(z, axis=0))
        for label, at in enumerate(spots * np.ptp(z, axis=0)):
            box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": CLASSES[label], "linewidth": 2}
            axes.text(at[0], at[1], str(label), weight="bold", ha="center", va="center", bbox=box, fontsize=10)
        axes.set(title=f"Two numbers by {name}: {seen.accuracy:.0%} of labels read", xlabel="z[0]", ylabel="z[1]")
        axes.spines[["top", "right"]].set_visible(False)
    error, accuracy = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    at = np.arange(len(linear))
    for shift, colour, name, seen_by in ((-0.2, TEST, "PCA", linear), (0.2, TRAIN, "deep autoencoder", deep)):
        bars = error.bar(at + shift, [one.error.mean() for one in seen_by.values()], 0.4, color=colour, label=name)
        error.bar_label(bars, fmt="%.2f", fontsize=9)
        bars = accuracy.bar(at + shift, [one.accuracy for one in seen_by.values()], 0.4, color=colour, label=name)
        accuracy.bar_label(bars, fmt="{:.1%}", fontsize=9, label_type="center", color="white")
    accuracy.axhline(raw, color="black", linestyle="--", linewidth=1)
    accuracy.text(-0.4, raw + 0.02, f"the pixels themselves, {raw:.1%}", fontsize=9)
    error.set(title="What is lost", ylabel="squared error per image")
    error.margins(y=0.12)
    accuracy.set(title="Labels read off the nearest code", ylabel="share of held-out digits", ylim=(0, 1.12))
    for axes in (error, accuracy):
        axes.set_xticks(at, [str(k) for k in linear])
        axes.set_xlabel("numbers in the code")
        axes.spines[["top", "right"]].set_visible(False)
    error.legend(frameon=False, fontsize=9)
    return figure


def apart(spots: Array, least: float = 0.085) -> Array:
    """Points (n, 2) moved away from each other until any two are `least` apart, so that no label hides another."""
    spots = spots.copy()
    for _ in range(200):
        between = spots[:, None] - spots
        distance = np.linalg.norm(between, axis=-1, keepdims=True)
        np.fill_diagonal(distance[..., 0], np.inf)
        spots += (np.maximum(least - distance, 0) * between / (2 * distance)).sum(axis=1)
    return spots


SHOWN = (by_pca, by_autoencoder, read)
