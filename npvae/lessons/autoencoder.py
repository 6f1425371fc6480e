r"""An autoencoder returns its input through a narrow code.

min E‖X̂ − X‖²: the output of an autoencoder is to be its input, X̂ = g(f(X)). Between encoder f and decoder g stands a
code of k numbers, far fewer than there are pixels, so that copying is not possible: what is kept is what tells one
digit from another. The wider the code, the smaller the error on digits that were never seen.

The encoder $f$ maps an image of $D$ pixels to a code $z = f(x)$ of $k$ numbers, the decoder $g$ maps the code back.
Both are chosen together so that the squared error is least on average:

$$
L = \frac{1}{n} \sum_{i=1}^{n} \left\| g(f(x_i)) - x_i \right\|^2
$$

Nothing else is asked; there are no labels. If $k \ge D$ the identity does it. If $k < D$, the reconstructions lie on a
surface of $k$ dimensions, $\{ g(z) \}$, and $f$ finds for each image a point on it. A code of no numbers at all leaves
one image for all, and the best of these is the mean:

$$
\frac{1}{n} \sum_i \left\| c - x_i \right\|^2
  = \frac{1}{n} \sum_i \left\| \bar{x} - x_i \right\|^2 + \left\| c - \bar{x} \right\|^2, \quad
\bar{x} = \frac{1}{n} \sum_i x_i
$$

So the error of the mean image is what a code is measured by. A decoder of $k + 1$ numbers can do all that one of $k$
can, by ignoring the last of them: the least error falls, or at worst stays, as the code grows. That training gets
there, and that it helps with new images, is not proved by this; it is measured here on held-out digits. The derivatives
are those of any network,

$$
\frac{\partial L}{\partial \hat x_i} = \frac{2}{n} (\hat x_i - x_i), \quad \hat x_i = g(f(x_i)),
$$

from where they run back through the decoder, the code and the encoder (Hinton and Salakhutdinov 2006, "Reducing the
dimensionality of data with neural networks").
"""

from typing import TYPE_CHECKING

import numpy as np

from npvae.autoencoder import Autoencoder
from npvae.datasets import Dataset
from npvae.flat import Array
from npvae.lessons.digits import difference, digits, squared_errors, tiled
from npvae.lessons.outcome import CHANCE, Findings, Number
from npvae.mosaics import new_figure
from npvae.plots import TEST, TRAIN
from npvae.runs import Run
from npvae.training import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CODES = (2, 8, 32)


def lesson(quick: bool) -> Findings:
    """A deep autoencoder for each size of the code, and the error that is left on held-out digits."""
    data = digits(quick)
    x = data.test.images
    runs = {k: autoencoder(data, k, quick) for k in CODES}
    again = {k: run.reconstruct(x) for k, run in runs.items()}
    errors = {0: squared_errors(np.broadcast_to(data.train.images.mean(axis=0), x.shape), x)}
    errors |= {k: squared_errors(again[k], x) for k in CODES}
    numbers = [Number("error of the mean image, no code", float(errors[0].mean()))]
    for fewer, k in zip((0, *CODES), CODES, strict=False):
        drop, error = difference(errors[fewer], errors[k])
        than = f"{fewer} numbers" if fewer else "the mean image"
        numbers += [
            Number(f"error with a code of {k} numbers", float(errors[k].mean())),
            Number(f"{k} numbers: error less than with {than} by", drop, at_least=CHANCE * error),
        ]
    share = float(errors[CODES[-1]].mean() / errors[0].mean())
    numbers += [
        Number(f"share of the mean image's error that {CODES[-1]} numbers leave", share, at_most=1 / 3),
        Number(f"pixels for each number of a code of {CODES[-1]}", x.shape[1] / CODES[-1]),
    ]
    alt = (
        f"Held-out digits in the top row; below them what a deep autoencoder makes of them with codes of "
        f"{', '.join(map(str, CODES))} numbers: blurred and sometimes another digit with 2, nearly the original with "
        f"{CODES[-1]}. "
        "At the right the squared error falls with the size of the code."
    )
    return Findings(tuple(numbers), _draw(data, again, errors), alt)


def autoencoder(data: Dataset, k: int, quick: bool) -> Run:
    """Train a deep autoencoder with a code of k numbers."""
    hidden, epochs = ((128, 64), 12) if quick else ((400, 200, 100), 20)
    model = Autoencoder(data.train.images.shape[1], hidden, k)
    return train(model, data, epochs=epochs, batch=50, lr=2e-3, schedule="cosine")


def _draw(data: Dataset, again: dict[int, Array], errors: dict[int, Array]) -> "Figure":
    """Originals above reconstructions, and the error by the size of the code."""
    labels = data.test.labels
    assert labels is not None
    chosen = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    figure = new_figure(10.5, 4.4)
    pictures, course = figure.subplots(1, 2, width_ratios=(2.1, 1))
    rows = [data.test.images[chosen], *(images[chosen] for images in again.values())]
    picture = tiled(np.stack(rows), data.shape)
    pictures.imshow(picture, cmap="gray", vmin=0, vmax=1)
    height = picture.shape[0] / len(rows)
    names = ["original", *(f"{k} numbers" for k in again)]
    pictures.set_yticks([(row + 0.5) * height for row in range(len(rows))], names, fontsize=11)
    pictures.set_xticks([])
    pictures.tick_params(length=0)
    pictures.spines[:].set_visible(False)
    pictures.set_title(f"Held-out digits of {data.shape[0]} × {data.shape[1]} pixels, through codes")
    means = [errors[k].mean() for k in again]
    course.plot(range(len(means)), means, "o-", color=TRAIN)
    for at, mean in enumerate(means):
        course.annotate(f"{mean:.2f}", (at, mean), (6, 6), textcoords="offset points", fontsize=11)
    course.axhline(errors[0].mean(), color=TEST, linestyle="--")
    course.text(
        len(means) - 1, 0.98 * errors[0].mean(), "the mean image", color=TEST, ha="right", va="top", fontsize=11
    )
    course.set_xticks(range(len(means)), [str(k) for k in again])
    course.set(title="What is lost", xlabel="numbers in the code", ylabel="squared error per image")
    course.set_ylim(0, 1.06 * errors[0].mean())
    course.spines[["top", "right"]].set_visible(False)
    course.grid(alpha=0.3)
    return figure


SHOWN = (autoencoder,)
