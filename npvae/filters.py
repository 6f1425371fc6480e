"""Filters of images, and how far they leave them from the truth: what a learned denoiser has to beat.

n images · D numbers per image · shape (h, w), grey: h * w = D. Beyond its edge an image goes on as it ends there.

All but the median are linear and separable: an image X (h, w) becomes A X Bᵀ, with a matrix for its columns and one
for its rows. So the code below is about those matrices.
"""

import math
from collections.abc import Callable

import numpy as np

from npvae.errors import InputError, check_real, check_whole
from npvae.flat import Array

_BLOCK = 2**22  # numbers that the median holds at once


def gaussian_filter(images: Array, shape: tuple[int, int], sigma: float) -> Array:
    """Each pixel the mean of those around it, weighted by N(0, sigma^2) of the distance: (n, D) -> (n, D).

    sigma: in pixels; weights beyond 4 sigma are left out. InputError unless it is positive and the images fit.
    """
    reach = math.ceil(4 * check_real("sigma", sigma, 0.0, open_=True))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)

    def matrix(length: int) -> Array:
        around = np.arange(length)[:, None] + steps
        return _weighing(around, np.broadcast_to(weights / weights.sum(), around.shape), length)

    return _separable(images, shape, matrix)


def median_filter(images: Array, shape: tuple[int, int], width: int) -> Array:
    """Each pixel the median of the width x width pixels around it: (n, D) -> (n, D). width: odd, or InputError."""
    if check_whole("width", width) % 2 == 0:
        raise InputError(f"width must be odd, for a window to have its pixel in the middle: got {width}")
    x = _grid(images, shape)
    half = width // 2
    filtered = np.empty_like(x)
    step = max(_BLOCK // (x[0].size * width**2), 1)
    for start in range(0, len(x), step):
        part = np.pad(x[start : start + step], ((0, 0), (half, half), (half, half)), "edge")
        windows = np.lib.stride_tricks.sliding_window_view(part, (width, width), (1, 2))
        filtered[start : start + step] = np.median(windows, axis=(3, 4))
    return filtered.reshape(images.shape)


def downsample(images: Array, shape: tuple[int, int], factor: int) -> Array:
    """The mean of each factor x factor block: (n, D) -> (n, D / factor^2). InputError unless it divides h and w."""
    if any(length % check_whole("factor", factor) for length in shape):
        raise InputError(f"factor must divide both sides of {shape}, got {factor}")

    def matrix(length: int) -> Array:
        return np.repeat(np.eye(length // factor), factor, axis=1) / factor

    return _separable(images, shape, matrix)


def upsample_nearest(images: Array, shape: tuple[int, int], factor: int) -> Array:
    """Each pixel a factor x factor block: (n, D) -> (n, D factor^2)."""
    check_whole("factor", factor)
    return _separable(images, shape, lambda length: np.repeat(np.eye(length), factor, axis=0))


def upsample_bilinear(images: Array, shape: tuple[int, int], factor: int) -> Array:
    """Linear between the centres of pixels, both ways: (n, D) -> (n, D factor^2).

    The centre of a new pixel i lies at (i + 1/2)/factor - 1/2 among the old ones.
    """
    check_whole("factor", factor)

    def matrix(length: int) -> Array:
        centres = (np.arange(factor * length) + 0.5) / factor - 0.5
        left = np.floor(centres).astype(np.int64)
        share = centres - left
        return _weighing(np.stack([left, left + 1], 1), np.stack([1 - share, share], 1), length)

    return _separable(images, shape, matrix)


def psnr(images: Array, originals: Array, peak: float = 1.0) -> Array:
    """The peak signal-to-noise ratio of each image, 10 log10(peak^2 / mean squared error): (n, D), (n, D) -> (n,), dB.

    Infinite where an image is its original. InputError if the two differ in shape.
    """
    if np.ndim(images) != 2 or np.shape(images) != np.shape(originals):
        raise InputError(f"images and originals must both be (n, D), got {np.shape(images)} and {np.shape(originals)}")
    error = np.square(np.subtract(images, originals, dtype=np.float64)).mean(axis=1)
    with np.errstate(divide="ignore"):
        ratio: Array = 10 * np.log10(check_real("peak", peak, 0.0, open_=True) ** 2 / error)
    return ratio


def _separable(images: Array, shape: tuple[int, int], matrix: Callable[[int], Array]) -> Array:
    """A X Bᵀ of each image, A = matrix(h), B = matrix(w)."""
    x = _grid(images, shape)
    a, b = (matrix(length).astype(x.dtype) for length in shape)
    filtered: Array = a @ x @ b.T
    return filtered.reshape(len(x), -1)


def _weighing(columns: Array, weights: Array, length: int) -> Array:
    """The matrix (m, length) whose row i has weights[i] at columns[i], what lies outside moved to the edge."""
    matrix = np.zeros((len(columns), length))
    np.add.at(matrix, (np.arange(len(columns))[:, None], columns.clip(0, length - 1)), weights)
    return matrix


def _grid(images: Array, shape: tuple[int, int]) -> Array:
    """(n, D) -> (n, h, w), floats; InputError if they do not fit or are none."""
    if not isinstance(images, np.ndarray) or images.dtype.kind != "f":
        raise InputError(f"images must be an array of floats, got {getattr(images, 'dtype', type(images).__name__)}")
    if len(shape) != 2 or images.ndim != 2 or math.prod(shape) != images.shape[1] or not images.size:
        raise InputError(f"images must be (n, h * w) with (h, w) = {shape} and n of at least 1, got {images.shape}")
    return images.reshape(-1, *shape)
