"""Random numbers as a function of (seed, purpose, epoch, step): apart, the same again, and of the right law.

Frequencies are held to 4.5 standard errors of the number of draws; seeds are fixed, so a test passes or never does.
"""

from itertools import product

import numpy as np
import pytest

from npvae.errors import InputError
from npvae.noise import (
    BINARIZATIONS,
    CORRUPTIONS,
    Purpose,
    Room,
    binarize,
    check_corruption,
    corrupt,
    make_room,
    normal,
    stream,
)

FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])
N = 200_000


def within(mean, expected, deviation, count=N):
    """Whether a mean of `count` draws of that standard deviation is where it should be."""
    return abs(mean - expected) <= 4.5 * deviation / np.sqrt(count)


def test_streams_are_apart():
    """Every pair of keys draws other numbers, and they are not correlated beyond chance."""
    keys = list(product((0, 1, 2**64 - 1), Purpose, (0, 1, 2**40), (0, 1, 7)))
    draws = np.array([stream(*key).standard_normal(4) for key in keys])
    assert len(np.unique(draws[:, 0])) == len(keys) == len({tuple(row) for row in draws})
    long = np.array([stream(*key).standard_normal(5000) for key in keys[:: len(keys) // 20]])
    correlation = np.corrcoef(long) - np.eye(len(long))
    assert np.abs(correlation).max() < 5 / np.sqrt(5000)


def test_streams_do_not_overlap_their_neighbours():
    """A step's stream does not run on into the next step's, nor does an epoch's."""
    long = set(stream(3, Purpose.EPS, 1, 1).random(20_000))
    for epoch, step in ((1, 2), (2, 1), (1, 0), (0, 1), (2, 0)):
        assert not long & set(stream(3, Purpose.EPS, epoch, step).random(20_000)), (epoch, step)


def test_streams_replay():
    a, b = (stream(5, Purpose.CORRUPT, 2, 3) for _ in range(2))
    assert np.array_equal(a.random(100), b.random(100))
    assert np.array_equal(a.standard_normal(7, np.float32), b.standard_normal(7, np.float32))


def test_seeds_keep_their_meaning():
    """These numbers are part of what a seed means: they may not change between versions."""
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "INITIALIZE": 0, "WORKSPACE": 1, "SHUFFLE": 2, "EPS": 3, "BINARIZE": 4, "CORRUPT": 5, "EVALUATE_EPS": 6,
        "EVALUATE_BINARIZE": 7, "EVALUATE_CORRUPT": 8, "STATIC_BINARIZE": 9, "SAMPLE": 10, "CHECK": 11,
    }  # fmt: skip
    key, counter = np.array([7, 3], np.uint64), np.array([0, 0, 2, 1], np.uint64)
    raw = np.random.Philox(key=key, counter=counter).random_raw(3)
    assert np.array_equal(stream(7, Purpose.EPS, epoch=1, step=2).bit_generator.random_raw(3), raw)


@FLOATS
def test_normal_noise(dtype):
    out = np.full((N // 100, 100), np.nan, dtype)
    assert normal(stream(1, Purpose.EPS), out) is out
    out = out.astype(np.float64)
    assert within(out.mean(), 0, 1) and within((out**2).mean(), 1, np.sqrt(2))
    assert within((out**3).mean(), 0, np.sqrt(15)) and within((out**4).mean(), 3, np.sqrt(96))
    again = normal(stream(1, Purpose.EPS), np.empty_like(out, dtype=dtype))
    assert np.array_equal(again, out)


def test_complex_noise_is_real():
    out = normal(stream(1, Purpose.EPS), np.full(1000, 9 + 9j))
    assert not out.imag.any()
    assert np.array_equal(out.real, normal(stream(1, Purpose.EPS), np.empty(1000)))


@FLOATS
def test_binarize_frequencies(dtype):
    levels = np.array([0, 0.1, 0.5, 0.9, 1], dtype)
    drawn = binarize(stream(1, Purpose.BINARIZE), np.broadcast_to(levels, (N, 5)))
    assert drawn.dtype == dtype and drawn.shape == (N, 5)
    assert set(np.unique(drawn)) == {0, 1}
    means = drawn.mean(axis=0, dtype=np.float64)
    assert means[0] == 0 and means[4] == 1  # exactly
    for mean, level in zip(means[1:4], levels[1:4], strict=True):
        assert within(mean, level, np.sqrt(level * (1 - level)))
    assert abs(np.corrcoef(drawn[:, 1], drawn[:, 2])[0, 1]) < 4.5 / np.sqrt(N)


def test_binarize_leaves_its_images_alone():
    images = np.full((3, 4), 0.5, np.float32)
    binarize(stream(0, Purpose.BINARIZE), images)
    assert (images == 0.5).all()


@FLOATS
def test_given_memory_changes_no_draw(dtype):
    """Neither memory to draw in, of fewer rows than there is room for, nor a place for the result."""
    images = np.random.default_rng(5).random((30, 20)).astype(dtype)
    kept, room = images.copy(), Room(*(part[:30] for part in make_room((40, 20))))
    room.drawn[:], room.struck[:] = np.nan, True
    draws = [lambda **memory: binarize(stream(2, Purpose.BINARIZE), images, **memory)]
    draws += [
        lambda kind=kind, **memory: corrupt(stream(2, Purpose.CORRUPT), images, kind, 0.3, **memory)
        for kind in CORRUPTIONS
        if kind != "none"
    ]
    for draw in draws:
        out = np.full_like(images, np.nan)
        assert draw(out=out, room=room) is out
        assert np.array_equal(out, draw()) and out.dtype == draw().dtype == dtype
        assert np.array_equal(images, kept)
    binary = draws[0]()
    assert binarize(stream(2, Purpose.BINARIZE), images, images, room) is images
    assert np.array_equal(images, binary)


def test_the_numbers_that_are_drawn_keep_their_order():
    """They are part of what a seed means."""
    grey = np.random.default_rng(5).random((30, 20), np.float32)
    u = stream(2, Purpose.CORRUPT).random((30, 20), np.float32)
    n = stream(2, Purpose.CORRUPT).standard_normal((30, 20), np.float32)
    pepper = np.where(u < 0.15, 1, np.where(u < 0.3, 0, grey))
    for drawn, expected in (
        (binarize(stream(2, Purpose.CORRUPT), grey), u < grey),
        (corrupt(stream(2, Purpose.CORRUPT), grey, "masking", 0.3), np.where(u < 0.3, 0, grey)),
        (corrupt(stream(2, Purpose.CORRUPT), grey, "salt-and-pepper", 0.3), pepper),
        (corrupt(stream(2, Purpose.CORRUPT), grey, "gaussian", 0.3), grey + np.float32(0.3) * n),
    ):
        assert np.array_equal(drawn, expected)


@FLOATS
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_keep_images_and_dtype(kind, dtype):
    images = np.full((50, 20), 0.5, dtype)
    noisy = corrupt(stream(2, Purpose.CORRUPT), images, kind, 0.3)
    assert noisy.dtype == dtype and noisy.shape == images.shape
    assert (images == 0.5).all()
    assert np.array_equal(noisy, images) == (kind == "none")
    assert np.array_equal(noisy, corrupt(stream(2, Purpose.CORRUPT), images, kind, 0.3))


@pytest.mark.parametrize("level", [0.1, 0.4])
def test_masking(level):
    noisy = corrupt(stream(2, Purpose.CORRUPT), np.full((N, 1), 0.5, np.float32), "masking", level)
    assert set(np.unique(noisy)) == {0, 0.5}
    assert within((noisy == 0).mean(), level, np.sqrt(level * (1 - level)))


@pytest.mark.parametrize("level", [0.1, 0.4])
def test_salt_and_pepper(level):
    noisy = corrupt(stream(2, Purpose.CORRUPT), np.full((N, 1), 0.5, np.float32), "salt-and-pepper", level)
    assert set(np.unique(noisy)) == {0, 0.5, 1}
    for colour in (0, 1):
        assert within((noisy == colour).mean(), level / 2, np.sqrt(level / 2 * (1 - level / 2)))


@pytest.mark.parametrize("level", [0.1, 2.0])
def test_gaussian_corruption(level):
    noisy = corrupt(stream(2, Purpose.CORRUPT), np.full((N, 1), 0.5), "gaussian", level)
    assert within(noisy.mean(), 0.5, level)
    assert within(((noisy - 0.5) ** 2).mean(), level**2, np.sqrt(2) * level**2)


@pytest.mark.parametrize("kind, level", [("masking", 0.5), ("salt-and-pepper", 0.999), ("gaussian", 3), ("none", 0.1)])
def test_corruption_levels(kind, level):
    check_corruption(kind, level)


@pytest.mark.parametrize(
    "kind, level, says",
    [
        ("masking", 0.0, "corruption level must be a number above 0"),
        ("masking", 1.0, "below 1"),
        ("salt-and-pepper", 1.5, "below 1"),
        ("gaussian", -1, "above 0"),
        ("gaussian", np.inf, "above 0"),
        ("gaussian", np.nan, "above 0"),
        ("mask", 0.5, "unknown corruption 'mask'.*Did you mean 'masking'"),
    ],
)
def test_impossible_corruptions_are_refused(kind, level, says):
    with pytest.raises(InputError, match=says):
        check_corruption(kind, level)


def test_names():
    assert CORRUPTIONS == ("none", "masking", "gaussian", "salt-and-pepper")
    assert BINARIZATIONS == ("none", "static", "dynamic")
