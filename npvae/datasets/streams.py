"""Reading bytes that somebody else wrote: nothing is allocated on the word of a header alone.

A reader works out from the header how many bytes must follow, compares that with what the file can hold, and
only then asks for memory. Compressed files cannot be measured without inflating them; limits hold for them.
"""

import io
import lzma
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from npvae.errors import InputError, check_memory

MIB = 2**20
LARGEST_INFLATED = 2048 * MIB
# Deflate cannot shrink anything more than 1032 times (RFC 1951: 258 bytes in 2 bits).
DEFLATE_LIMIT = 1032
# Real images shrink 2 to 30 times. Small files may be as empty as they like; large ones this dense are bombs.
UNSUSPECTED, SUSPICIOUS = 64 * MIB, 200
CHUNK = MIB


@contextmanager
def reading(where: str | PathLike[str]) -> Iterator[None]:
    """Turn whatever an unreadable or damaged file makes libraries raise into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{where} does not fit in memory") from error
    except OSError as error:  # gzip's own complaint is one too, without strerror
        raise InputError(f"cannot read {where}: {error.strerror or error}") from error
    except (
        EOFError,
        ValueError,
        LookupError,
        ArithmeticError,
        RuntimeError,
        struct.error,
        zlib.error,
        lzma.LZMAError,
        BadZipFile,
    ) as error:
        raise InputError(f"{where} is damaged: {error}") from error


def check_inflation(count: int, compressed: int, where: str) -> None:
    """Refuse to inflate `compressed` bytes that claim to become `count`, if they cannot or should not."""
    if count > DEFLATE_LIMIT * compressed:
        raise InputError(f"{where} claims {count:,} bytes, more than its {compressed:,} compressed bytes can hold")
    if count > LARGEST_INFLATED or count > max(UNSUSPECTED, SUSPICIOUS * compressed):
        raise InputError(
            f"{where} would grow from {compressed:,} to {count:,} bytes, which looks like a decompression "
            f"bomb; if you trust it, decompress it yourself"
        )


def read_bytes(stream: io.BufferedIOBase, count: int, where: str) -> NDArray[np.uint8]:
    """Read exactly `count` bytes, (count,); `count` has been checked against the file's size."""
    check_memory(f"{where}, as bytes and as float32,", 5 * count, "keep fewer images in the file")
    data = np.empty(count, np.uint8)
    at = 0
    # In pieces: decompressing streams would build one more copy of whatever is read at once.
    while at < count and (got := stream.readinto(data.data[at : at + CHUNK])):
        at += got
    if at < count:
        raise InputError(f"{where} is truncated: it ends after {at:,} of {count:,} bytes")
    return data


def check_end(stream: io.BufferedIOBase, where: str) -> None:
    """Refuse bytes that the header does not account for; a compressed stream verifies its checksum here."""
    if stream.read(1):
        raise InputError(f"{where} holds more than its header claims")
