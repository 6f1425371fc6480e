"""Arrays in one file that is either whole or not there: the safetensors format, written atomically.

A file is 8 bytes of header length (little-endian), a JSON header padded with spaces, then the bytes of the
tensors with nothing before, between or after them:

    {"__metadata__": {"key": "text"}, "theta": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}

Offsets count from the end of the header; numbers are little-endian, the last axis varies fastest. Nothing in
such a file can run code. The public `safetensors` library reads what is written here, and vice versa.
Source: section "Format" of the safetensors project's README, https://github.com/huggingface/safetensors.
"""

import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from reprlib import repr as brief  # names and numbers of a hostile header may be megabytes long
from typing import Any, NamedTuple

import numpy as np

from npvae.errors import InputError
from npvae.flat import Array

# Every type that NumPy and the format both have, complex apart: its name in the file, its code in NumPy.
CODES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "b1",
}  # fmt: skip
NAMES = {code: name for name, code in CODES.items()}

METADATA = "__metadata__"  # the one header key that is not a tensor
LARGEST_HEADER = 100_000_000  # the public library's limit
LARGEST_ARRAY = int(np.iinfo(np.intp).max)  # bytes that NumPy can address
MOST_AXES = 64  # NumPy's limit since 2.0
CHUNK = 1 << 20  # bytes per write, so that an interrupt is soon heard


def write_atomically(path: Path, content: bytes | Iterable[bytes | bytearray | memoryview]) -> None:
    """Give `path` this content all at once: whoever opens it, even after a power cut, finds old or new.

    `content` is bytes, or pieces of bytes to be written one after another (never joined in memory).
    Raises the OSError that stopped it (disk full, folder missing or read-only): `path` is then as it was, and
    the temporary file beside it is gone. The same holds when the writing is interrupted.
    """
    temporary = path.with_name(f".npvae-{secrets.token_hex(8)}.tmp")  # beside it: a rename stays on one disk
    try:
        # Unbuffered, so that closing after a failure has nothing left to write and cannot fail in its turn.
        with temporary.open("xb", buffering=0) as file:
            for piece in [content] if isinstance(content, bytes) else content:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest[:CHUNK]) :]
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename2 is None:
            error.filename = str(path)  # a full disk does not say what did not fit
        raise
    # Syncing the folder makes the rename outlast a power cut. Windows and some network disks refuse; the new
    # file is in place by now, so an error here would wrongly say that nothing had changed.
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def save_tensors(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write named arrays of any shape (0-d and empty ones too), and text about them, to `path` atomically.

    The same content gives the same bytes, whatever the order of the mappings. Wider types come first and the
    data starts at a multiple of 64 bytes, so that every tensor is aligned for whoever maps the file.

    Raises OSError when it cannot be written (see `write_atomically`). A caller's mistake is found before
    anything is written: TypeError (a dtype not in CODES, names or metadata that are not text) or ValueError
    (a tensor called "__metadata__", text that UTF-8 cannot hold).
    """
    if not all(isinstance(text, str) for text in [*tensors, *metadata, *metadata.values()]):
        raise TypeError("names of tensors, and keys and values of metadata, must be text")
    if METADATA in tensors:
        raise ValueError(f"a tensor cannot be called {METADATA!r}: the format keeps that name for text")
    header: dict[str, Any] = {METADATA: dict(metadata)}
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    begin = 0
    for name in order:
        array = tensors[name]
        code = NAMES.get(array.dtype.str[1:])
        if code is None:
            raise TypeError(f"tensor {name!r} is {array.dtype}; the file can hold {', '.join(CODES)}")
        end = begin + array.nbytes
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)

    def pieces() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little")
        yield text
        for name in order:  # contiguous arrays go out from where they lie, others are copied one at a time
            dtype = tensors[name].dtype.newbyteorder("<")
            yield np.asarray(tensors[name], dtype, order="C").reshape(-1).view(np.uint8).data

    write_atomically(path, pieces())


def load_tensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Read `path` back: ({name: a new writable array, of the shape and dtype that were saved}, metadata).

    The whole header is checked, against the length of the file too, before memory is asked for.
    Raises InputError when there is no such file or when its structure is damaged in any way; OSError when the
    system cannot read it.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint, found no such file; check the path, or train first")
    with path.open("rb") as file:
        try:
            header, room = _read_header(file)
            metadata = header.pop(METADATA, {})
            if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
                raise _DamagedError(f"{METADATA} must hold text under every key, got {brief(metadata)}")
            entries = _check_layout([_check_entry(*item) for item in header.items()], room)
            return {entry.name: _read_tensor(file, entry) for entry in entries}, metadata
        except (_DamagedError, MemoryError) as error:
            cure = "restore it from a copy, or train again"
            raise InputError(f"{path} cannot be loaded: {error}; {cure}") from error


def expect_tensors(
    path: Path, tensors: Mapping[str, Array], layout: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
) -> None:
    """Check that what was loaded from `path` has exactly the names, shapes and dtypes of `layout`.

    Raises InputError that says what is missing, what is there besides, what has another shape or dtype.
    """
    wrong = [f"{name!r} is missing" for name in layout if name not in tensors]
    for name, array in tensors.items():
        if name not in layout:
            wrong.append(f"{brief(name)} does not belong to this model")
        elif (array.shape, array.dtype) != layout[name]:
            shape, dtype = layout[name]
            wrong.append(f"{name!r} is {array.dtype} {array.shape}, expected {dtype} {shape}")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        cure = "load it with the settings it was trained with, or train this model"
        raise InputError(f"{path} is a checkpoint of another model: {'; '.join(wrong[:5])}{more}; {cure}")


class _DamagedError(Exception):
    """What is wrong with a file. Its path and the cure are added in one place, by `load_tensors`."""


class _Entry(NamedTuple):
    """Where one tensor lies and what it is; begin and end come first, so that entries sort as they lie."""

    begin: int
    end: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _read_header(file: BufferedReader) -> tuple[dict[str, Any], int]:
    """Return the header, and how many bytes the file has left for the tensors."""
    length = os.fstat(file.fileno()).st_size - 8
    if length < 0:
        raise _DamagedError(f"it is cut short: expected at least 8 bytes, found {length + 8}")
    size = int.from_bytes(file.read(8), "little")
    if size > LARGEST_HEADER:
        raise _DamagedError(f"it claims a header of {size} bytes, expected at most {LARGEST_HEADER}")
    if size > length:
        raise _DamagedError(f"it is cut short: its header needs {size} bytes, and {length} are there")
    try:
        header = json.loads(file.read(size).decode(), object_pairs_hook=_check_object)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, endless digits; endless nesting
        raise _DamagedError(f"its header is not JSON as expected ({error})") from error
    if not isinstance(header, dict):
        raise _DamagedError(f"its header must be a JSON object, got {brief(header)}")
    return header, length - size


def _check_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict, if no key comes twice and all its text is text."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError(f"a key comes twice among {brief([key for key, _ in pairs])}")
    # JSON can spell half a UTF-16 pair, "\ud800", which can be neither printed nor saved: encode refuses it.
    "".join(text for pair in pairs for text in pair if isinstance(text, str)).encode()
    return members


def _check_entry(name: str, fields: Any) -> _Entry:
    """Return what the header says of one tensor, if it makes sense by itself."""
    what = f"tensor {brief(name)}"
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise _DamagedError(f"{what} must have a dtype, a shape and data_offsets, got {brief(fields)}")
    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(code, str) or code not in CODES:
        raise _DamagedError(f"{what} has the dtype {brief(code)}, expected one of {', '.join(CODES)}")
    dtype = np.dtype(CODES[code])
    is_shape = _are_sizes(shape) and len(shape) <= MOST_AXES
    # Like NumPy, count an empty axis as 1 in the product that must stay addressable.
    if not is_shape or math.prod(n or 1 for n in shape) * dtype.itemsize > LARGEST_ARRAY:
        limits = f"at most {MOST_AXES} whole numbers, none negative, and at most {LARGEST_ARRAY} bytes"
        raise _DamagedError(f"{what} has the shape {brief(shape)}, expected {limits}")
    span = math.prod(shape) * dtype.itemsize
    if not (_are_sizes(offsets) and len(offsets) == 2 and offsets[1] - offsets[0] == span):
        expected = f"two that lie {span} bytes apart, as {code} of shape {brief(shape)} takes"
        raise _DamagedError(f"{what} has the data_offsets {brief(offsets)}, expected {expected}")
    return _Entry(offsets[0], offsets[1], name, tuple(shape), dtype)


def _are_sizes(value: Any) -> bool:
    """Say whether this is a list of whole numbers that NumPy can count to; JSON's `true` is not 1."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= LARGEST_ARRAY for n in value)


def _check_layout(entries: list[_Entry], room: int) -> list[_Entry]:
    """Return the entries as they lie in the file, if they cover each byte of its `room` exactly once."""
    entries = sorted(entries)
    position = 0
    for entry in entries:
        if entry.begin != position:
            where = f"begins at byte {entry.begin} of the data, expected {position}"
            raise _DamagedError(f"tensor {brief(entry.name)} {where}: neither overlaps nor holes are allowed")
        position = entry.end
    if position != room:
        fault = "cut short" if position > room else "too long"
        raise _DamagedError(f"it is {fault}: its tensors need {position} bytes, and {room} are there")
    return entries


def _read_tensor(file: BufferedReader, entry: _Entry) -> Array:
    """Read the tensor at which `file` stands into a new array."""
    array = np.empty(entry.shape, entry.dtype.newbyteorder("<"))
    content = array.reshape(-1).view(np.uint8)
    if file.readinto(content.data) != content.size:
        raise _DamagedError("it became shorter while it was read")
    if entry.dtype == np.bool_ and content.max(initial=0) > 1:
        raise _DamagedError(f"tensor {brief(entry.name)} is BOOL and has bytes that are neither 0 nor 1")
    return array.astype(entry.dtype, copy=False)
