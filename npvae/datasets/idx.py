"""The IDX format of MNIST: unsigned bytes under a header of sizes.

    0 0 8 d           two zeros, the element type (8: unsigned byte), the number of dimensions
    d numbers         the dimensions, unsigned, 32 bits, big end first; images (n, h, w), labels (n,)
    the bytes         last dimension fastest

Source: "The IDX file format", http://yann.lecun.com/exdb/mnist/. An array has exactly one encoding, so that
the digest of a file can be computed from its array, whichever way the file was compressed.
"""

import gzip
import hashlib
import io
import math
import struct
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from npvae.datasets.streams import check_end, check_inflation, read_bytes, reading
from npvae.errors import InputError

# A data set in this format: train images and labels, test images and labels, always in this order.
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
GZIP = b"\x1f\x8b"
_UBYTE = 8
_OTHER_TYPES = {0x09: "signed bytes", 0x0B: "shorts", 0x0C: "ints", 0x0D: "floats", 0x0E: "doubles"}


def find(folder: Path, name: str) -> Path | None:
    """Return the file `name` or `name`.gz in `folder`, or None."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file, gzip or not: images (n, h, w), labels (n,). Raises `InputError`."""
    with reading(path), path.open("rb") as stream:
        return decode(stream, path.stat().st_size, str(path))


def decode(stream: io.BufferedIOBase, size: int, where: str) -> NDArray[np.uint8]:
    """Read the one array in `stream`, of `size` bytes, gzip or not: nothing missing, nothing left over."""
    compressed = stream.read(2) == GZIP
    stream.seek(0)
    if compressed:
        stream = cast(io.BufferedIOBase, gzip.GzipFile(fileobj=stream))
    shape = _read_header(stream, where)
    count = math.prod(shape)
    if compressed:
        check_inflation(count, size, where)
    elif count != size - stream.tell():
        raise InputError(
            f"{where} claims {' x '.join(map(str, shape))} = {count:,} bytes after its header "
            f"but holds {size - stream.tell():,}: it is truncated or damaged"
        )
    array = read_bytes(stream, count, where).reshape(shape)
    check_end(stream, where)
    return array


def decode_next(stream: io.BufferedIOBase, where: str) -> NDArray[np.uint8]:
    """Read the next of several arrays from a stream that is trusted to hold what its headers claim."""
    shape = _read_header(stream, where)
    return read_bytes(stream, math.prod(shape), where).reshape(shape)


def _read_header(stream: io.BufferedIOBase, where: str) -> tuple[int, ...]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise InputError(f"{where} is not an IDX file: it starts with {magic.hex(' ') or 'nothing'}")
    kind, dimensions = magic[2:]
    if kind != _UBYTE:
        what = _OTHER_TYPES.get(kind, f"elements of unknown type {kind}")
        raise InputError(f"{where} holds {what}; only IDX files of unsigned bytes are read: save it as .npy instead")
    if not 1 <= dimensions <= 4:
        raise InputError(f"{where} claims {dimensions} dimensions: images have 2 to 4, labels 1")
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise InputError(f"{where} is truncated: it ends inside its header")
    shape = struct.unpack(f">{dimensions}I", sizes)
    if 0 in shape:
        raise InputError(f"{where} is empty: it claims {' x '.join(map(str, shape))}")
    return shape


def header(shape: tuple[int, ...]) -> bytes:
    """Return the header of an IDX file of unsigned bytes.

    >>> header((60000, 28, 28)).hex(" ", 4)
    '00000803 0000ea60 0000001c 0000001c'
    """
    return struct.pack(f">4B{len(shape)}I", 0, 0, _UBYTE, len(shape), *shape)


def encode(array: NDArray[np.uint8]) -> bytes:
    """Return `array` as an uncompressed IDX file."""
    return header(array.shape) + array.tobytes()


def digest(array: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of the uncompressed file that holds the contiguous `array`, in hexadecimal."""
    sha = hashlib.sha256(header(array.shape))
    sha.update(array.reshape(-1).data)  # hashlib wants one dimension
    return sha.hexdigest()
