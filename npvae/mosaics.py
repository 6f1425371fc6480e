"""Images side by side: reconstructions, samples, interpolations, traversals and the plane of a code, as Figures.

n images · D numbers per image · shape: of one image, (h, w), (h, w, 3) or (D,)
"""

import math
import textwrap
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from npvae.codes import REACH
from npvae.errors import InputError
from npvae.flat import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
ALARM = "#D55E00"  # the colour of pixels that are NaN or infinite

Shape = tuple[int, ...]
Limits = tuple[float, float]  # the values drawn black and white; a pixel beyond them is as black or white as can be
UNIT = (0.0, 1.0)


# ── Images ───────────────────────────────────────────────────────────────────────────────────────────────────────


def reconstructions(
    originals: Array, reconstructed: Array, shape: Shape, seen: Array | None = None, *, limits: Limits = UNIT
) -> "Figure":
    """Images (n, D) above what the model makes of them, (n, D); between them what it saw, if that was corrupted."""
    rows = {"original": originals, "seen, corrupted": seen, "reconstruction": reconstructed}
    images = [image for image in rows.values() if image is not None]
    if len({np.shape(image) for image in images}) != 1:
        raise InputError(f"originals and reconstructions differ in shape: {[np.shape(image) for image in images]}")
    names = [name for name, image in rows.items() if image is not None]
    title = "Test images above their reconstructions" + ("" if seen is None else " from corrupted input")
    return _mosaic(np.stack(images), shape, title, limits, rows=names)


def sample_grid(images: Array, shape: Shape, title: str, *, limits: Limits = UNIT) -> "Figure":
    """Images (n, D) in rows that form a square as nearly as they can."""
    return _mosaic(_images(images, 2), shape, title, limits)


def interpolation(
    images: Array,
    shape: Shape,
    *,
    title: str = "Interpolation: each row goes from one code to another",
    limits: Limits = UNIT,
) -> "Figure":
    """Images (rows, steps, D) decoded at even steps from the code at the left to the code at the right."""
    steps = _images(images, 3).shape[1]
    shares = [f"{step / max(steps - 1, 1):.0%}" for step in range(steps)]
    return _mosaic(images, shape, title, limits, columns=shares, xlabel="share of the way from left to right")


def traversal(
    images: Array,
    shape: Shape,
    latents: npt.ArrayLike,
    rates: npt.ArrayLike,
    *,
    title: str = "Traversal: in each row one latent varies, the others stay",
    limits: Limits = UNIT,
) -> "Figure":
    """Images (m, steps, D), in each row one latent going evenly from -REACH to REACH.

    latents, rates: (m,), the index of each row's latent and its KL in nats.
    """
    m, steps, _ = _images(images, 3).shape
    if np.shape(latents) != (m,) or np.shape(rates) != (m,):
        raise InputError(f"latents and rates must be ({m},), one per row, got {np.shape(latents)}, {np.shape(rates)}")
    names = [f"z[{i}]  {rate:.2f} nats" for i, rate in zip(np.asarray(latents), np.asarray(rates), strict=True)]
    values = [f"{value:g}".replace("-", "−") for value in np.linspace(-REACH, REACH, steps).round(2)]
    return _mosaic(images, shape, title, limits, rows=names, columns=values, xlabel="value of the row's latent")


def manifold(images: Array, shape: Shape, *, limits: Limits = UNIT) -> "Figure":
    """The plane of a two-dimensional code: images (n, n, D), images[i, j] decoded at z = (q[j], q[i]).

    q are the quantiles of `codes.quantiles`, so that every image stands for the same mass of the prior; z[0] grows to
    the right and z[1] upwards.
    """
    n = len(_images(images, 3))
    title = f"The code's plane: decoded at {n} × {n} quantiles of the prior"
    figure = _mosaic(images[::-1], shape, title, limits, xlabel="z[0]", ylabel="z[1]", seams=False)
    axes = figure.axes[0]
    ends = np.reshape(axes.images[0].get_extent(), (2, 2))
    for axis, (start, stop), size in zip((axes.xaxis, axes.yaxis), ends, axes.bbox.size, strict=True):
        values = (-2, -1, -0.5, 0, 0.5, 1, 2) if size > 400 else (0,)
        spots = [start + NormalDist().cdf(value) * (stop - start) for value in values]
        axis.set_ticks(spots, [f"{value:g}".replace("-", "−") for value in values])
    axes.tick_params(length=4)
    return figure


def _mosaic(
    images: Array,
    shape: Shape,
    title: str,
    limits: Limits,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    xlabel: str = "",
    ylabel: str = "",
    seams: bool = True,
) -> "Figure":
    """Images (r, c, D), or (n, D) for a grid that is nearly square, as one picture; rows and columns have names.

    An image's pixel becomes a whole number of the figure's where there is room, so that it is neither blurred nor
    uneven; the margins are reckoned in the figure's pixels too.
    """
    images = np.asarray(images)
    if not images.size:
        raise InputError(f"there are no images to draw: shape {images.shape}")
    c = images.shape[1] if images.ndim == 3 else math.ceil(math.sqrt(len(images)))
    r = math.ceil(math.prod(images.shape[:-1]) / c)
    images = images.reshape(-1, images.shape[-1])
    h, w, _ = _pixels(images[0], shape, limits).shape
    gap_y, gap_x = (math.ceil(h / 14), math.ceil(w / 14)) if seams else (0, 0)
    canvas = np.ones((r * (h + gap_y) - gap_y, c * (w + gap_x) - gap_x, 3), np.float32)
    tops, lefts = (h + gap_y) * np.arange(r), (w + gap_x) * np.arange(c)
    for index, image in enumerate(images):
        top, left = tops[index // c], lefts[index % c]
        canvas[top : top + h, left : left + w] = _pixels(image, shape, limits)

    scale = min(1200 / (c * (w + gap_x)), 1200 / (r * (h + gap_y)), 90 / max(h, w))
    scale = math.floor(scale) if scale >= 1 else scale
    scale_y, scale_x = max(scale, 22 / h if rows else 8 / h), max(scale, 8 / w)  # a single row of pixels is stretched
    high, wide = math.ceil(canvas.shape[0] * scale_y), math.ceil(canvas.shape[1] * scale_x)
    margin = 24 + (9 * max(map(len, rows)) + 6 if rows else 80 if ylabel else 0)
    bottom = 20 + (48 if xlabel else 0)
    full = max(margin + wide + 24, 620)
    lines = textwrap.wrap(title, (full - 40) // 10)
    tall = 24 + 25 * len(lines) + high + bottom

    figure = new_figure(full / DPI, tall / DPI, fitted=False)
    axes = figure.add_axes((margin / full, bottom / tall, wide / full, high / tall))
    axes.imshow(canvas, aspect="auto", interpolation="nearest" if scale >= 1 else None)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(tops + (h - 1) / 2 if rows else [], rows)
    every = math.ceil(12 * max(map(len, columns), default=0) / ((w + gap_x) * scale_x))
    axes.set_xticks(lefts[::every] + (w - 1) / 2 if columns else [], columns[::every] if columns else ())
    axes.set_xlabel(xlabel, loc="center" if wide > 10 * len(xlabel) else "left")
    axes.set_ylabel(ylabel)
    figure.text(24 / full, 1 - 14 / tall, "\n".join(lines), fontsize=12, va="top", linespacing=1.2)
    return figure


def _pixels(image: Array, shape: Shape, limits: Limits) -> Array:
    """(D,) -> (h, w, 3) in [0, 1]; three channels are colours, of any other number each is grey, side by side."""
    side = math.isqrt(math.prod(shape))
    if len(shape) == 1:
        shape = (side, side) if side * side == shape[0] else (1, shape[0])
    if len(shape) not in (2, 3) or math.prod(shape) != image.size:
        raise InputError(f"shape must be (h, w), (h, w, channels) or (D,) for D = {image.size}, got {shape}")
    black, white = limits
    values = image.astype(np.float64).reshape(*shape[:2], -1)
    broken = ~np.isfinite(values)
    values = (np.clip(np.where(broken, black, values), black, white) - black) / (white - black or 1.0)
    if values.shape[2] != 3:
        values, broken = (np.moveaxis(a, 2, 1).reshape(shape[0], -1, 1) for a in (values, broken))
        values = np.repeat(values, 3, axis=2)
    values[broken.any(axis=2)] = [int(ALARM[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return values


def _images(images: Array, axes: int) -> Array:
    if np.ndim(images) != axes or 0 in np.shape(images):
        wanted = ("(n, D)", "(rows, columns, D)")[axes - 2]
        raise InputError(f"images must be {wanted} and not empty, got shape {np.shape(images)}")
    return images


def new_figure(width: float, height: float, *, fitted: bool = True) -> "Figure":
    """An empty figure of so many inches; unless its axes are placed by hand, they are fitted to their labels."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08) if fitted else None
    return Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
