"""Filters of images against their definitions, pixel by pixel, and what they refuse."""

import math

import numpy as np
import pytest

from npvae import filters
from npvae.errors import InputError
from npvae.filters import downsample, gaussian_filter, median_filter, psnr, upsample_bilinear, upsample_nearest

SHAPE = (5, 7)
X = np.random.default_rng(0).random((3, 35))


def at(image, row, column):
    """A pixel of an image (h, w), which beyond its edge goes on as it ends there."""
    return image[min(max(row, 0), image.shape[0] - 1), min(max(column, 0), image.shape[1] - 1)]


def by_pixel(images, shape, rule):
    """rule(image, row, column) for every pixel."""
    grids = images.reshape(-1, *shape)
    return np.array([[rule(g, i, j) for i in range(shape[0]) for j in range(shape[1])] for g in grids])


@pytest.mark.parametrize("width", [1, 3, 5, 9])
def test_median(width):
    around = range(-(width // 2), width // 2 + 1)

    def rule(g, i, j):
        return np.median([at(g, i + a, j + b) for a in around for b in around])

    np.testing.assert_array_equal(median_filter(X, SHAPE, width), by_pixel(X, SHAPE, rule))


def test_median_in_parts(monkeypatch):
    whole = median_filter(X, SHAPE, 3)
    monkeypatch.setattr(filters, "_BLOCK", 1)
    np.testing.assert_array_equal(median_filter(X, SHAPE, 3), whole)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_gaussian(sigma):
    reach = math.ceil(4 * sigma)
    around = range(-reach, reach + 1)
    total = sum(math.exp(-a * a / (2 * sigma**2)) for a in around)

    def rule(g, i, j):
        return sum(
            math.exp(-(a * a + b * b) / (2 * sigma**2)) / total**2 * at(g, i + a, j + b) for a in around for b in around
        )

    np.testing.assert_allclose(gaussian_filter(X, SHAPE, sigma), by_pixel(X, SHAPE, rule), rtol=1e-13)


def test_nearest_and_means_of_blocks():
    image = np.array([[1.0, 2, 3, 4]])
    large = upsample_nearest(image, (2, 2), 2)
    assert large.reshape(4, 4).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert downsample(large, (4, 4), 2).tolist() == image.tolist()
    assert downsample(np.arange(8.0)[None], (2, 4), 2).tolist() == [[2.5, 4.5]]


def test_bilinear_by_hand():
    """The new pixels' centres lie at -1/4, 1/4, 3/4 and 5/4 among two."""
    assert upsample_bilinear(np.array([[0.0, 4.0]]), (1, 2), 2).tolist() == [[0, 1, 3, 4] * 2]
    assert upsample_bilinear(np.array([[0.0, 3.0]]), (2, 1), 3).reshape(6, 3)[:, 0].tolist() == [0, 0, 1, 2, 3, 3]


def test_bilinear_is_exact_on_planes_and_nearest_is_not():
    i, j = np.mgrid[:5, :7]
    u, v = ((np.arange(2 * n) + 0.5) / 2 - 0.5 for n in SHAPE)
    plane = (2.0 * i - 3.0 * j).reshape(1, -1)
    wanted = 2 * u[:, None] - 3 * v
    inner = (slice(1, -1), slice(1, -1))  # at the edge an image goes on flat
    made = upsample_bilinear(plane, SHAPE, 2).reshape(10, 14)
    np.testing.assert_allclose(made[inner], wanted[inner], atol=1e-13)
    assert np.abs(upsample_nearest(plane, SHAPE, 2).reshape(10, 14) - wanted).max() > 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: gaussian_filter(x, SHAPE, 1.3),
        lambda x: median_filter(x, SHAPE, 3),
        lambda x: upsample_nearest(x, SHAPE, 3),
        lambda x: upsample_bilinear(x, SHAPE, 3),
        lambda x: downsample(upsample_bilinear(x, SHAPE, 3), (15, 21), 3),
    ],
)
def test_a_grey_wall_stays_as_it_is(change, dtype):
    x = np.full((2, 35), 0.7, dtype)
    made = change(x)
    assert made.dtype == dtype
    np.testing.assert_allclose(made, dtype(0.7), rtol=8 * np.finfo(dtype).eps)


def test_psnr():
    originals = np.zeros((3, 4))
    images = np.array([[0.1, 0.1, -0.1, 0.1], [1, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(psnr(images, originals), [20, 10 * math.log10(4), np.inf])
    np.testing.assert_allclose(psnr(images[:2], originals[:2], peak=10.0), psnr(images, originals)[:2] + 20)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: median_filter(X, SHAPE, 4), "width must be odd"),
        (lambda: median_filter(X, (5, 8), 3), r"\(h, w\) = \(5, 8\)"),
        (lambda: median_filter(X[:0], SHAPE, 3), "n of at least 1"),
        (lambda: gaussian_filter(X, SHAPE, 0), "sigma must be a number above 0"),
        (lambda: gaussian_filter(X.astype(int), SHAPE, 1), "must be an array of floats, got int64"),
        (lambda: gaussian_filter(X.tolist(), SHAPE, 1), "must be an array of floats, got list"),
        (lambda: downsample(X, SHAPE, 2), "factor must divide"),
        (lambda: upsample_nearest(X, SHAPE, 1.5), "factor must be a whole number"),
        (lambda: upsample_bilinear(X, SHAPE, 0), "factor must be a whole number"),
        (lambda: psnr(X, X[:2]), r"got \(3, 35\) and \(2, 35\)"),
        (lambda: psnr(X, X, peak=0), "peak must be a number above 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
