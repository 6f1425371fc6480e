"""Every random number of npvae, as a function of (seed, purpose, epoch, step).

Philox is a generator by counter (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): its output is a
bijection of (key, counter). With the seed and the purpose as the key and the epoch and the step in the upper words
of the counter, every step has a stream of 2^128 numbers of its own, and a resumed run needs no generator state.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from npvae.errors import check_choice, check_real
from npvae.flat import Array

CORRUPTIONS = ("none", "masking", "gaussian", "salt-and-pepper")
BINARIZATIONS = ("none", "static", "dynamic")


class Purpose(IntEnum):
    """What a stream is for. The numbers are part of what a seed means: never reuse one."""

    INITIALIZE = 0
    WORKSPACE = 1
    SHUFFLE = 2
    EPS = 3
    BINARIZE = 4
    CORRUPT = 5
    EVALUATE_EPS = 6
    EVALUATE_BINARIZE = 7
    EVALUATE_CORRUPT = 8
    STATIC_BINARIZE = 9
    SAMPLE = 10
    CHECK = 11


def stream(seed: int, purpose: Purpose, epoch: int = 0, step: int = 0) -> np.random.Generator:
    """The generator that belongs to a seed in [0, 2^64), a purpose, an epoch and a step.

    >>> stream(7, Purpose.EPS, epoch=1, step=2).standard_normal() == stream(7, Purpose.EPS, 1, 2).standard_normal()
    True
    """
    key = np.array([seed, purpose], np.uint64)
    counter = np.array([0, 0, step, epoch], np.uint64)  # the lower two words count the numbers drawn
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def normal(rng: np.random.Generator, out: Array) -> Array:
    """Fill `out` with N(0, 1); a complex array gets real noise."""
    if out.dtype in (np.float32, np.float64):
        rng.standard_normal(dtype=out.dtype, out=out)
    else:
        out[...] = rng.standard_normal(out.shape)
    return out


class Room(NamedTuple):
    """Memory for the draws of (n, D) pixels: one that is given is used again, in place of memory that is new."""

    drawn: Array  # float32
    struck: Array  # bool


def make_room(shape: tuple[int, ...]) -> Room:
    """Room for images of this shape."""
    return Room(np.empty(shape, np.float32), np.empty(shape, bool))


def binarize(rng: np.random.Generator, images: Array, out: Array | None = None, room: Room | None = None) -> Array:
    """Black or white pixels, white with the grey level's probability: (n, D) in [0, 1] -> (n, D) of 0 and 1.

    `out` may be `images` itself.
    """
    u, white = room or make_room(images.shape)
    binary = np.empty(images.shape, images.dtype) if out is None else out
    rng.random(dtype=np.float32, out=u)
    np.copyto(binary, np.less(u, images, out=white))
    return binary


def corrupt(
    rng: np.random.Generator,
    images: Array,
    kind: str,
    level: float,
    out: Array | None = None,
    room: Room | None = None,
) -> Array:
    """What a denoising autoencoder sees instead of `images` (n, D).

    masking: a pixel becomes 0 with probability `level` (Vincent et al. 2008). salt-and-pepper: it becomes 0 or 1,
    evenly, with that probability. gaussian: N(0, level^2) is added to it (both Vincent et al. 2010). none: it is
    `images` that is returned, whatever `out` is.
    """
    if kind == "none":
        return images
    u, struck = room or make_room(images.shape)
    noisy = np.empty(images.shape, images.dtype) if out is None else out
    if kind == "gaussian":
        rng.standard_normal(dtype=np.float32, out=u)
        u *= level
        return np.add(images, u, out=noisy, casting="unsafe")
    rng.random(dtype=np.float32, out=u)
    np.copyto(noisy, images)
    np.copyto(noisy, images.dtype.type(0), where=np.less(u, level, out=struck))
    if kind == "salt-and-pepper":
        np.copyto(noisy, images.dtype.type(1), where=np.less(u, level / 2, out=struck))
    return noisy


def check_corruption(kind: object, level: float) -> float:
    """Return `level` as a float, or raise InputError unless `corrupt` can work with these."""
    check_choice("corruption", kind, CORRUPTIONS)
    return check_real("corruption level", level, 0.0, float("inf") if kind == "gaussian" else 1.0, open_=True)
