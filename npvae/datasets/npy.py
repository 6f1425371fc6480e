"""NumPy's own files, .npy and .npz, read without trust: no pickle, no allocation before sizes agree.

Sources: NEP 1 (the .npy format); a .npz is a zip of .npy files, stored or deflated.
"""

import ast
import io
import math
import re
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from npvae.datasets.arrays import Raw
from npvae.datasets.streams import check_end, check_inflation, read_bytes, reading
from npvae.errors import InputError

NPY, ZIP = b"\x93NUMPY", b"PK"
# The header of an array of numbers takes about 100 bytes; only structured types need long ones.
_LONGEST_HEADER = 4096
_NUMBERS = re.compile(r"[<>=|]?(\?|b1|[iu][1248]|f[248])")
_ENCRYPTED = 0x1
_LAYOUTS = "x_train and x_test (with y_train, y_test), or images (with labels), or a single array"


def read_npy(path: Path) -> NDArray[Any]:
    """Read a .npy file of booleans, integers or floats. Raises `InputError`."""
    with reading(path), path.open("rb") as stream:
        return _decode(stream, path.stat().st_size, str(path))


def read_npz(path: Path) -> Raw:
    """Read a .npz file: x_train and x_test (y_train, y_test), or images (labels), or one array of any name.

    Raises `InputError`; for any other set of arrays it lists the names found.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        keys = set(members)
        if len(members) < len(archive.infolist()):
            raise InputError(f"{path} holds several arrays of one name: save it anew")
        if {"x_train", "x_test"} <= keys <= {"x_train", "x_test", "y_train", "y_test"}:
            roles = {"train": "x_train", "test": "x_test", "train_labels": "y_train", "test_labels": "y_test"}
        elif {"images"} <= keys <= {"images", "labels"}:
            roles = {"train": "images", "train_labels": "labels"}
        elif len(keys) == 1:
            roles = {"train": keys.pop()}
        else:
            found = ", ".join(sorted(members)) or "nothing"
            raise InputError(f"{path} holds {found}; expected {_LAYOUTS}")
        _check_archive(archive.infolist(), path)
        raw: dict[str, Any] = {
            role: _decode_member(archive, members[key], f"{key} in {path}")
            for role, key in roles.items()
            if key in members
        }
        return Raw(**raw)


def _check_archive(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Hold what the directory of a zip claims against the size of the file."""
    stored = inflated = 0
    for member in members:
        if member.flag_bits & _ENCRYPTED:
            raise InputError(f"{path} is encrypted: decrypt it first")
        if member.compress_type == zipfile.ZIP_STORED:
            stored += member.file_size
        elif member.compress_type == zipfile.ZIP_DEFLATED:
            inflated += member.file_size
        else:
            raise InputError(f"{path}: {member.filename} is compressed in a way NumPy does not use: save it anew")
    size = path.stat().st_size
    if stored > size:
        raise InputError(f"{path} claims {stored:,} bytes of arrays but is {size:,} bytes long: it is damaged")
    check_inflation(inflated, size, str(path))


def _decode_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> NDArray[Any]:
    size = member.file_size
    # zipfile quietly cuts a member off at the size it claims. Allowed one byte more, a liar shows at the end.
    member.file_size += 1
    with archive.open(member) as stream:
        return _decode(cast(io.BufferedIOBase, stream), size, where)


def _decode(stream: io.BufferedIOBase, size: int, where: str) -> NDArray[Any]:
    """Read the one array in `stream`, which is `size` bytes long."""
    dtype, shape, fortran, offset = _read_header(stream, where)
    count = math.prod(shape) * dtype.itemsize
    if count != size - offset:
        raise InputError(
            f"{where} claims {' x '.join(map(str, shape))} of {dtype} = {count:,} bytes after its header "
            f"but holds {size - offset:,}: it is truncated or damaged"
        )
    array = read_bytes(stream, count, where).view(dtype).reshape(shape, order="F" if fortran else "C")
    check_end(stream, where)
    return array


def _read_header(stream: io.BufferedIOBase, where: str) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Return dtype, shape, whether the first dimension runs fastest, and the header's length."""
    start = stream.read(8)
    if start[:6] != NPY or len(start) < 8 or start[6] not in (1, 2, 3):
        raise InputError(f"{where} is not a .npy file of version 1, 2 or 3")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > _LONGEST_HEADER:
        raise InputError(f"{where} claims a header of {length:,} bytes: it is damaged or not an array of numbers")
    text = stream.read(length)
    if len(text) < length:
        raise InputError(f"{where} is truncated: it ends inside its header")
    try:
        fields = ast.literal_eval(text.decode("latin-1"))
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (ValueError, SyntaxError, TypeError, LookupError, MemoryError, RecursionError) as error:
        raise InputError(f"{where} has a damaged header") from error
    if isinstance(descr, str) and descr.lstrip("<>=|").startswith("O"):
        raise InputError(f"{where} holds Python objects, which are never unpickled: save an array of numbers")
    if not (isinstance(descr, str) and _NUMBERS.fullmatch(descr)):
        raise InputError(f"{where} holds elements of type {descr!r}; expected booleans, integers or floats")
    sizes_valid = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**63 for n in shape)
    if not sizes_valid or len(shape) > 4 or not isinstance(fortran, bool):
        raise InputError(f"{where} has a damaged header: shape {shape!r}, fortran_order {fortran!r}")
    if 0 in shape:
        raise InputError(f"{where} is empty: its shape is {shape}")
    return np.dtype(descr), shape, fortran, len(start) + width + length
