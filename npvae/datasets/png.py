"""A folder of same-sized PNG images, decoded by matplotlib (which alone decodes; sizes are read here).

Source of the header: PNG Specification, third edition, sections 5.2 and 11.2.1.
"""

import io
import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from npvae.datasets.streams import reading
from npvae.errors import InputError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A folder of more pixels than this must spend a byte on every so many of them, or it is a decompression bomb.
_UNSUSPECTED, _SUSPICIOUS = 2**24, 1024


def find(folder: Path) -> list[Path]:
    """Return the PNG files of `folder` sorted by name (img10 before img2), hidden ones left out."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith("."))


def read(paths: list[Path]) -> NDArray[np.float32]:
    """Read PNGs of one size as grey levels in [0, 1], (n, h, w): colours averaged, transparency ignored.

    Raises `InputError` that names the first file that is unreadable or whose size differs from the first's.
    """
    # Every header is read before any image is decoded: a wrong folder is refused at once, for little memory.
    sizes = [_size(path) for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise InputError(
                f"{path} is {size[1]} x {size[0]} pixels, "
                f"but {paths[0].name} is {sizes[0][1]} x {sizes[0][0]}: they must be alike"
            )
    pixels, stored = len(paths) * math.prod(sizes[0]), sum(path.stat().st_size for path in paths)
    if pixels > max(_UNSUSPECTED, _SUSPICIOUS * stored):
        raise InputError(
            f"{paths[0].parent} claims {pixels:,} pixels in {stored:,} bytes, which looks like a decompression bomb"
        )
    images = np.empty((len(paths), *sizes[0]), np.float32)
    for image, path in zip(images, paths, strict=True):
        image[:] = _decode(path, sizes[0])
    return images


def _size(path: Path) -> tuple[int, int]:
    """Return (height, width) as the header has them."""
    with reading(path), path.open("rb") as stream:
        head = stream.read(24)
        if len(head) < 24 or head[:8] != SIGNATURE or head[12:16] != b"IHDR":
            raise InputError(f"{path} is not a PNG image")
        width, height = struct.unpack(">2I", head[16:])
        if width == 0 or height == 0:
            raise InputError(f"{path} is damaged: it claims {width} x {height} pixels")
        return height, width


def _decode(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    from matplotlib.image import imread  # here, so that nobody else waits for matplotlib

    with reading(path):
        data = path.read_bytes()
    try:
        pixels = imread(io.BytesIO(data), format="png")
    except Exception as error:  # the decoder lets many kinds through, SyntaxError among them
        raise InputError(f"{path} cannot be decoded: {error}") from error
    if pixels.ndim == 3:
        pixels = pixels[..., :3].mean(axis=-1)
    if pixels.shape != size:
        raise InputError(f"{path} is damaged: its pixels are {pixels.shape}, its header says {size}")
    return pixels.astype(np.float32, copy=False)
