"""Arrays in, a checked `Dataset` out: whatever is loaded, from wherever, goes through `assemble`.

n images · D numbers per image · h, w, c height, width, channels
"""

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npvae.errors import InputError, check_whole


class Split(NamedTuple):
    """Images, one per row, with their labels if there are any."""

    images: NDArray[np.float32]  # (n, D), C-contiguous
    labels: NDArray[np.int64] | None  # (n,)


class Origin(NamedTuple):
    """What `load` was asked for, so that it can be asked again."""

    source: str  # a known name or an absolute path
    rows: int | None
    rescale: bool


class Dataset(NamedTuple):
    """What a model trains on and what it is judged by. `shape` is one image's: (28, 28); its product is D."""

    name: str
    train: Split
    test: Split
    shape: tuple[int, ...]
    origin: Origin | None = None  # None for arrays

    def digest(self) -> str:
        """SHA-256 of the images, training then test: whether two sets are the same."""
        sha = hashlib.sha256()
        for split in (self.train, self.test):
            sha.update(np.array(split.images.shape, "<i8").tobytes())
            sha.update(np.ascontiguousarray(split.images, "<f4").data)
        return sha.hexdigest()


class Raw(NamedTuple):
    """What a source holds, before any check. Its pixels divided by `white` are the dataset's."""

    train: ArrayLike
    test: ArrayLike | None = None
    train_labels: ArrayLike | None = None
    test_labels: ArrayLike | None = None
    white: int = 1


def from_arrays(
    train: ArrayLike,
    test: ArrayLike | None = None,
    *,
    train_labels: ArrayLike | None = None,
    test_labels: ArrayLike | None = None,
    name: str = "arrays",
    rescale: bool = False,
    rows: int | None = None,
) -> Dataset:
    """Make a `Dataset` of your own arrays: images (n, D), (n, h, w) or (n, h, w, c), labels (n,).

    Booleans, integers and floats become float32 as they are: 0..255 stays 0..255. Contiguous float32 images
    are not copied. Without `test`, the last tenth of the images (at least one) is held out as test.
    `rows` keeps the first so many training images; `rescale` then maps the least and the greatest value of
    the training and test images to 0 and 1.

    Raises `InputError` for NaN and infinite values (says where), for other dtypes and shapes, for images of
    two sizes, labels that do not fit the images, no images, fewer than `rows`, and constant images under
    `rescale`.

    >>> data = from_arrays(np.arange(320).reshape(20, 4, 4), rescale=True)
    >>> data.train.images.shape, data.test.images.shape, data.shape
    ((18, 16), (2, 16), (4, 4))
    >>> float(data.train.images.min()), float(data.test.images.max())
    (0.0, 1.0)
    """
    return assemble(Raw(train, test, train_labels, test_labels), name=name, rescale=rescale, rows=rows)


def assemble(raw: Raw, *, name: str, rescale: bool, rows: int | None) -> Dataset:
    """Check what a source holds, cut it into train and test, and convert it: see `from_arrays`."""
    train = _images(raw.train, "train")
    train_labels = _labels(raw.train_labels, len(train), "train")
    if raw.test is not None:
        test = _images(raw.test, "test")
        test_labels = _labels(raw.test_labels, len(test), "test")
        if test.shape[1:] != train.shape[1:]:
            raise InputError(
                f"train images are {_times(train.shape[1:])} and test images {_times(test.shape[1:])}: "
                f"both must have one size"
            )
    elif raw.test_labels is not None:
        raise InputError("test_labels came without test images: give both or neither")
    else:
        if len(train) < 2:
            raise InputError("one image cannot be both train and test: give at least 2, or a test set of its own")
        cut = len(train) - max(1, len(train) // 10)
        train, test = train[:cut], train[cut:]
        train_labels, test_labels = (None, None) if train_labels is None else (train_labels[:cut], train_labels[cut:])

    if rows is not None:
        if check_whole("rows", rows) > len(train):
            held = f" ({len(test):,} more are held out as test)" if raw.test is None else ""
            raise InputError(f"rows asks for {rows:,} training images, but there are {len(train):,}{held}")
        # Cut before converting: a few rows of a large set then cost the memory of a few rows.
        train, train_labels = train[:rows], None if train_labels is None else train_labels[:rows]

    shape = train.shape[1:]
    train, test = _as_float32(train, raw.white, "train"), _as_float32(test, raw.white, "test")
    if rescale:
        train, test = _rescaled(train, test)
    return Dataset(name, Split(train, train_labels), Split(test, test_labels), shape)


def _images(given: ArrayLike, split: str) -> NDArray[Any]:
    """Return `given` as an array of booleans, integers or floats, (n, D) or (n, h, w) or (n, h, w, c)."""
    images = _array(given, f"{split} images")
    if images.ndim not in (2, 3, 4):
        raise InputError(
            f"{split} images must be (n, D), (n, h, w) or (n, h, w, c), one image per row; got shape {images.shape}"
        )
    if images.size == 0:
        lack = "images" if len(images) == 0 else "columns"
        raise InputError(f"{split} images have no {lack}: shape {images.shape}")
    return images


def _labels(given: ArrayLike | None, count: int, split: str) -> NDArray[np.int64] | None:
    """Return `given` as int64, one whole number per image."""
    if given is None:
        return None
    labels = _array(given, f"{split} labels")
    if labels.shape != (count,):
        raise InputError(f"{split} labels must be ({count},), one per image; got shape {labels.shape}")
    with np.errstate(invalid="ignore"):  # the cast of NaN; the comparison below refuses it
        whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        raise InputError(
            f"{split} labels must be whole numbers that fit 64 bits; got {labels.dtype} values that do not"
        )
    return whole


def _array(given: ArrayLike, what: str) -> NDArray[Any]:
    if isinstance(given, np.ma.MaskedArray):
        raise InputError(f"{what} are a masked array, whose mask would be lost: fill it first, with .filled(value)")
    try:
        array = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{what} do not form an array: {error}") from error
    if array.dtype.kind not in "buif":
        raise InputError(f"{what} must be booleans, integers or floats, got dtype {array.dtype}")
    return array


def _as_float32(images: NDArray[Any], white: int, split: str) -> NDArray[np.float32]:
    """Return `images` / `white` as finite float32 rows, (n, D)."""
    rows = images.reshape(len(images), -1)
    with np.errstate(over="ignore"):  # 1e300 becomes inf, which is refused below
        if white == 1:
            result = np.ascontiguousarray(rows, dtype=np.float32)
        else:
            # Divided, not multiplied by the inverse, so that white is exactly 1.
            result = np.divide(rows, np.float32(white), dtype=np.float32)
    _check_finite(result, f"{split} images")
    return result


def _check_finite(images: NDArray[np.float32], what: str) -> None:
    # NaN and infinity reach the least or the greatest value, so masks are made only if something is wrong.
    if np.isfinite(images.min()) and np.isfinite(images.max()):
        return
    nan, bad = np.isnan(images), ~np.isfinite(images)
    row, column = np.argwhere(bad)[0]
    raise InputError(
        f"{what} hold {nan.sum():,} NaN and {bad.sum() - nan.sum():,} infinite values (as float32); "
        f"the first is at row {row}, column {column} of {images.shape[1]}, counted from 0"
    )


def _rescaled(train: NDArray[np.float32], test: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    low, high = min(train.min(), test.min()), max(train.max(), test.max())
    with np.errstate(over="ignore"):
        span = high - low
        if span == 0:
            raise InputError(f"rescale: every pixel is {low:g}, and one value cannot be spread over [0, 1]")
        if not np.isfinite(span):
            raise InputError(f"rescale: the range [{low:g}, {high:g}] is wider than float32 can hold")
        train, test = (train - low) / span, (test - low) / span
    return train, test


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + (f" = {math.prod(shape)}" if len(shape) > 1 else " wide")
