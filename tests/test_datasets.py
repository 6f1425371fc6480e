"""Datasets: what is read comes out as it was written, and whatever cannot be read is refused in words."""

import contextlib
import gzip
import hashlib
import http.server
import io
import lzma
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from npvae import datasets
from npvae.datasets import download, embed, idx, known, npy, png, streams
from npvae.datasets.arrays import from_arrays
from npvae.datasets.sources import load
from npvae.errors import InputError

MIB = 2**20
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 4, 3), dtype=np.uint8)
LABELS = np.arange(20, dtype=np.uint8) % 10


def refused(source, *words, **options):
    """`source` is refused, the message holds every one of `words`, and no array was allocated on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            load(source, **options)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is missing in: {message}"
    return message


def write(path, content):
    path.write_bytes(content)
    return path


# --- arrays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", ">i4", "u8", "f2", "<f4", ">f8", "g"])
@pytest.mark.parametrize("shape", [(10, 6), (10, 2, 3), (10, 1, 2, 3)])
def test_every_real_dtype_and_shape_becomes_float32_rows(dtype, shape):
    given_ = (np.arange(60).reshape(shape) % 2).astype(dtype)
    data = from_arrays(given_, given_[:3], name="mine")
    assert data.name == "mine"
    assert data.shape == shape[1:]
    for split, count in ((data.train, 10), (data.test, 3)):
        assert split.images.dtype == np.float32
        assert split.images.flags.c_contiguous
        assert split.labels is None
        np.testing.assert_array_equal(split.images, given_[:count].reshape(count, 6))


def test_integers_stay_as_they_are_and_lists_are_arrays():
    data = from_arrays([[0, 255], [3, 4]], [[7, 8]])
    np.testing.assert_array_equal(data.train.images, [[0, 255], [3, 4]])
    np.testing.assert_array_equal(data.test.images, [[7, 8]])


def test_fitting_images_are_not_copied_and_never_written():
    images = np.arange(40, dtype=np.float32).reshape(10, 4)
    before = images.copy()
    assert np.shares_memory(from_arrays(images).train.images, images)
    from_arrays(images, rescale=True)
    np.testing.assert_array_equal(images, before)


def test_column_order_and_strides_do_not_matter():
    images = np.asfortranarray(RNG.random((10, 3, 4)))[::-1]
    np.testing.assert_array_equal(from_arrays(images, images).train.images, images.reshape(10, 12).astype(np.float32))


@pytest.mark.parametrize(("count", "held"), [(2, 1), (9, 1), (10, 1), (25, 2), (100, 10)])
def test_the_last_tenth_is_held_out(count, held):
    images = np.arange(count)[:, None]
    data = from_arrays(images, train_labels=np.arange(count))
    assert len(data.test.images) == held
    np.testing.assert_array_equal(np.concatenate([data.train.images, data.test.images]), images)
    np.testing.assert_array_equal(np.concatenate([data.train.labels, data.test.labels]), np.arange(count))
    assert data.train.labels.dtype == np.int64


def test_rows_keeps_the_first():
    data = from_arrays(np.arange(20)[:, None], np.ones((5, 1)), train_labels=np.arange(20), rows=7)
    np.testing.assert_array_equal(data.train.images[:, 0], np.arange(7))
    np.testing.assert_array_equal(data.train.labels, np.arange(7))
    assert len(data.test.images) == 5


def test_rows_beyond_a_nan_do_not_meet_it():
    images = np.ones((20, 2))
    images[12, 1] = np.nan
    assert from_arrays(images, np.ones((2, 2)), rows=12).train.images.shape == (12, 2)
    with pytest.raises(InputError, match="row 12, column 1"):
        from_arrays(images, np.ones((2, 2)), rows=13)


def test_rescale_maps_both_sets_by_their_common_range():
    data = from_arrays([[-10], [40], [15]], [[90], [-10]], rescale=True)
    np.testing.assert_array_equal(data.train.images[:, 0], [0, 0.5, 0.25])
    np.testing.assert_array_equal(data.test.images[:, 0], [1, 0])


@settings(deadline=None)
@given(hnp.arrays(np.float32, (6, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_rescaled_training_images_fill_the_unit_interval(images):
    if images.min() == images.max():
        with pytest.raises(InputError, match="every pixel is"):
            from_arrays(images, images, rescale=True)
    else:
        train = from_arrays(images, images, rescale=True).train.images
        assert (train.min(), train.max()) == (0, 1)


def test_nan_and_inf_are_counted_and_located():
    train, test = np.zeros((5, 2, 3)), np.zeros((4, 2, 3))
    test[2, 1, 1] = np.nan
    test[3] = -np.inf
    with pytest.raises(InputError, match=r"test images hold 1 NaN and 6 infinite .* row 2, column 4 of 6"):
        from_arrays(train, test)
    train[1, 0, 2] = 1e300  # finite, but not in float32
    with pytest.raises(InputError, match=r"train images hold 0 NaN and 1 infinite .* row 1, column 2 of 6"):
        from_arrays(train, test)


ONES = np.ones((4, 2))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"train": ONES.astype(complex)}, "must be booleans, integers or floats, got dtype complex128"),
        ({"train": ONES.astype(object)}, "got dtype object"),
        ({"train": ONES.astype("S3")}, "got dtype |S3"),
        ({"train": ONES.astype("M8[s]")}, "got dtype datetime64"),
        ({"train": np.zeros(4, [("a", "f4")])}, "got dtype [('a'"),
        ({"train": "digits"}, "got dtype <U6"),
        ({"train": None}, "got dtype object"),
        ({"train": [[1, 2], [3]]}, "do not form an array"),
        ({"train": np.ma.masked_equal(ONES, 0)}, "masked"),
        ({"train": np.float32(3)}, "got shape ()"),
        ({"train": np.ones(4)}, "one image per row; got shape (4,)"),
        ({"train": np.ones((4, 1, 1, 1, 1))}, "got shape (4, 1, 1, 1, 1)"),
        ({"train": np.ones((0, 5))}, "no images"),
        ({"train": np.ones((5, 0))}, "no columns"),
        ({"train": np.ones((5, 3, 0))}, "no columns"),
        ({"train": ONES, "test": np.ones((0, 2))}, "test images have no images"),
        ({"train": np.ones((1, 2))}, "at least 2"),
        ({"train": ONES, "test": np.ones((4, 3))}, "train images are 2 wide and test images 3 wide"),
        ({"train": np.ones((4, 2, 2)), "test": np.ones((4, 4))}, "2 x 2 = 4 and test images 4 wide"),
        ({"train": ONES, "train_labels": [1, 2, 3]}, "labels must be (4,), one per image; got shape (3,)"),
        ({"train": ONES, "train_labels": np.eye(4)}, "got shape (4, 4)"),
        ({"train": ONES, "train_labels": [1, 2, 3, 0.5]}, "whole numbers"),
        ({"train": ONES, "train_labels": [1, 2, 3, np.nan]}, "whole numbers"),
        ({"train": ONES, "train_labels": np.full(4, 2**63, np.uint64)}, "whole numbers"),
        ({"train": ONES, "train_labels": list("abcd")}, "train labels must be booleans"),
        ({"train": ONES, "test_labels": [1]}, "without test images"),
        ({"train": ONES, "test": ONES, "rows": 5}, "asks for 5 training images, but there are 4"),
        ({"train": ONES, "rows": 4}, "there are 3 (1 more are held out as test)"),
        ({"train": ONES, "rows": 0}, "rows must be a whole number of at least 1, got 0"),
        ({"train": ONES, "rows": 1.5}, "got 1.5"),
        ({"train": ONES, "rescale": True}, "every pixel is 1"),
        ({"train": [[-3e38], [3e38], [0]], "rescale": True}, "wider than float32"),
    ],
)  # fmt: skip
def test_what_from_arrays_refuses(arguments, words):
    with pytest.raises(InputError) as caught:
        from_arrays(**arguments)
    assert words in str(caught.value)


# --- names and paths --------------------------------------------------------------------------------------


def test_a_mistyped_name_gets_the_list_and_the_nearest():
    message = refused("mnist-smal", "mnist-small, mnist, fashion-mnist", "Did you mean 'mnist-small'?", ".npy")
    assert "'mnist-smal'" in message


@pytest.mark.parametrize("source", ["digits.npy", "no/where", Path("digits")])
def test_a_missing_path_is_a_missing_path(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(source, f"no file or folder {source}")


@pytest.mark.parametrize("source", ["", None, 3, IMAGES])
def test_what_is_neither_name_nor_path(source):
    refused(source, "must be a name or a path")


def test_odd_paths(tmp_path):
    refused("a\0b")
    refused(f"{tmp_path}/{'x' * 5000}")
    refused(write(tmp_path / "empty", b""), "of no format", "nothing")
    refused(write(tmp_path / "text", b"hello, world"), "of no format", "68 65")
    refused(tmp_path / "text" / "below")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "neither a file nor a folder")


def test_the_reason_of_the_operating_system_is_passed_on(tmp_path, monkeypatch):
    path = tmp_path / "images.npy"
    np.save(path, IMAGES)

    def forbid(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    refused(path, "cannot read", "images.npy", "Permission denied")


def test_the_pictures_library_and_the_network_stay_unimported():
    code = (
        "import sys; from npvae import datasets; datasets.load('mnist-small', rows=10); "
        "sys.exit(' '.join({'matplotlib', 'urllib.request'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- IDX --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_idx_images_are_divided_by_255(compress, tmp_path):
    data = load(write(tmp_path / "any-name", compress(idx.encode(IMAGES))))
    assert data.shape == (4, 3)
    assert data.name == str(tmp_path / "any-name")
    both = np.concatenate([data.train.images, data.test.images])
    np.testing.assert_array_equal(both, IMAGES.reshape(20, 12) / np.float32(255))
    assert both.max() <= 1


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4)), st.booleans())
def test_idx_round_trip(array, compressed):
    content = gzip.compress(idx.encode(array)) if compressed else idx.encode(array)
    again = idx.decode(io.BytesIO(content), len(content), "test")
    np.testing.assert_array_equal(again, array)
    assert idx.digest(again) == hashlib.sha256(idx.encode(array)).hexdigest()


def idx_header(*shape, kind=8):
    return struct.pack(f">4B{len(shape)}I", 0, 0, kind, len(shape), *shape)


def in_pieces(header, zeros):
    """A gzip file of `header` and so many MiB of zeros, made without compressing them all."""
    return gzip.compress(header) + zeros * gzip.compress(bytes(MIB))


WHOLE = idx.encode(IMAGES)
HUGE = 2**32 - 1
BAD_IDX = {
    "cut in the magic": (WHOLE[:3], "not an IDX file"),
    "cut in the header": (WHOLE[:13], "inside its header"),
    "truncated": (WHOLE[:-1], "claims 20 x 4 x 3 = 240 bytes", "holds 239"),
    "too long": (WHOLE + b"!", "holds 241"),
    "past memory": (idx_header(HUGE, HUGE, HUGE, HUGE) + bytes(100), "340,282,366,604,025,813,516"),
    "product wraps to what is there": (idx_header(2**31, 2**31, 4) + bytes(8), "holds 8"),
    "no images": (idx_header(0, 28, 28), "is empty"),
    "nothing times everything": (idx_header(0, HUGE, HUGE), "is empty"),
    "floats": (idx_header(1, 2, 2, kind=0x0D) + bytes(16), "holds floats", ".npy"),
    "unknown type": (idx_header(1, 2, 2, kind=0x42) + bytes(4), "unknown type 66"),
    "no dimensions": (idx_header() + b"x", "0 dimensions"),
    "255 dimensions": (b"\0\0\x08\xff" + bytes(2000), "255 dimensions"),
    "labels": (idx.encode(LABELS), "labels, not images"),
    "not zero": (b"\0\1" + WHOLE[2:], "of no format"),
}  # fmt: skip
BAD_GZIP = {
    "truncated content": (gzip.compress(WHOLE[:-1]), "ends after 239 of 240"),
    "content too long": (gzip.compress(WHOLE + b"!"), "more than its header claims"),
    "cut stream": (gzip.compress(WHOLE)[:-20], "damaged"),
    "cut trailer": (gzip.compress(WHOLE)[:-3], "damaged"),
    "wrong checksum": (gzip.compress(WHOLE)[:-8] + bytes(8), "CRC"),
    "trailing bytes": (gzip.compress(WHOLE) + b"PK!", "gzip"),
    "only the magic": (b"\x1f\x8b", "damaged"),
    "not an IDX file": (gzip.compress(b"hello, world"), "not an IDX file"),
    "past memory": (gzip.compress(idx_header(HUGE, HUGE, HUGE)), "can hold"),
    "an honest bomb": (in_pieces(idx_header(80, 1024, 1024), 80), "bomb"),
    "a bomb behind a modest header": (in_pieces(WHOLE, 80), "more than its header claims"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_IDX)
def test_bad_idx(case, tmp_path):
    content, *words = BAD_IDX[case]
    refused(write(tmp_path / "images-idx3-ubyte", content), *words)


@pytest.mark.parametrize("case", BAD_GZIP)
def test_bad_gzip(case, tmp_path):
    content, *words = BAD_GZIP[case]
    refused(write(tmp_path / "images-idx3-ubyte.gz", content), *words)


def test_limits_of_inflation():
    streams.check_inflation(1032 * 1000, 1000, "x")
    streams.check_inflation(200 * MIB, MIB, "x")
    for count, compressed in ((1032 * 1000 + 1, 1000), (200 * MIB + 1, MIB), (2048 * MIB + 1, 2048 * MIB)):
        with pytest.raises(InputError):
            streams.check_inflation(count, compressed, "x")


def put_four(folder, arrays, suffix=".gz"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(idx.FILES, arrays, strict=True):
        content = idx.encode(array)
        write(folder / f"{name}{suffix}", gzip.compress(content) if suffix else content)


FOUR = (IMAGES, LABELS, IMAGES[::-1][:6].copy(), LABELS[::-1][:6].copy())


def is_four(data):
    assert data.shape == (4, 3)
    np.testing.assert_array_equal(data.train.images, FOUR[0].reshape(20, 12) / np.float32(255))
    np.testing.assert_array_equal(data.test.images, FOUR[2].reshape(6, 12) / np.float32(255))
    np.testing.assert_array_equal(data.train.labels, FOUR[1])
    np.testing.assert_array_equal(data.test.labels, FOUR[3])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_four_idx_files(suffix, tmp_path):
    put_four(tmp_path, FOUR, suffix)
    is_four(load(tmp_path))


def test_a_folder_of_three_idx_files(tmp_path):
    put_four(tmp_path, FOUR)
    (tmp_path / f"{idx.FILES[3]}.gz").unlink()
    refused(tmp_path, "lacks t10k-labels-idx1-ubyte")


def test_labels_that_do_not_fit_their_images(tmp_path):
    put_four(tmp_path, (IMAGES, LABELS[:-1], *FOUR[2:]))
    refused(tmp_path, "train labels must be (20,)")


# --- .npy -------------------------------------------------------------------------------------------------


def npy_bytes(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def npy_header(text, version=1):
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes((version, 0)) + len(text).to_bytes(width, "little") + text.encode("latin-1")


def npy_of(descr="'|u1'", order="False", shape="(2, 2)", version=1):
    return npy_header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}", version)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", ">i4", "u8", "f2", "<f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_every_dtype_is_what_numpy_reads(dtype, order, tmp_path):
    array = np.asarray(RNG.integers(0, 2, (10, 3, 4)).astype(dtype), order=order)
    np.save(tmp_path / "images.npy", array)
    read = npy.read_npy(tmp_path / "images.npy")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, np.load(tmp_path / "images.npy", allow_pickle=False))
    data = load(tmp_path / "images.npy", rows=5)
    np.testing.assert_array_equal(data.train.images, array[:5].reshape(5, 12).astype(np.float32))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_of_every_version(version, tmp_path):
    path = write(tmp_path / "images.npy", npy_bytes(IMAGES, version=version))
    np.testing.assert_array_equal(npy.read_npy(path), IMAGES)
    assert load(path).train.images.max() > 1  # nothing is silently renormalised
    assert load(path, rescale=True).train.images.max() == 1


NPY = npy_bytes(IMAGES)
BAD_NPY = {
    "objects": (npy_bytes(np.array([[1, None]], object), allow_pickle=True), "objects", "never unpickled"),
    "objects of the right size": (npy_of("'|O'", shape="(1, 2)") + bytes(16), "never unpickled"),
    "structured": (npy_bytes(np.zeros(3, [("a", "f4"), ("b", "i8")])), "of type [('a'"),
    "complex": (npy_bytes(np.ones((3, 2), complex)), "of type '<c16'"),
    "text": (npy_bytes(np.array([["a", "b"]])), "of type '<U1'"),
    "times": (npy_bytes(np.zeros((2, 2), "M8[s]")), "of type '<M8[s]'"),
    "a dtype in commas": (npy_of("'f4,f4'") + bytes(32), "of type 'f4,f4'"),
    "a dtype that is no text": (npy_of("('<f4', (2**60,))"), "damaged header"),
    "a subarray": (npy_of("('<f4', (1000000000000,))"), "of type ("),
    "one dimension": (npy_bytes(np.ones(5)), "got shape (5,)"),
    "no dimension": (npy_bytes(np.array(5.0)), "got shape ()"),
    "five dimensions": (npy_bytes(np.ones((2, 1, 1, 1, 1))), "(2, 1, 1, 1, 1)"),
    "truncated": (NPY[:-1], "claims 20 x 4 x 3 of uint8 = 240 bytes", "holds 239"),
    "too long": (NPY + NPY, "240 bytes", "holds 608"),
    "cut in the magic": (NPY[:7], "not a .npy file"),
    "cut in the length": (NPY[:9], "inside its header"),
    "cut in the header": (NPY[:40], "inside its header"),
    "unknown version": (NPY[:6] + b"\x09" + NPY[7:], "version 1, 2 or 3"),
    "a header of gigabytes": (b"\x93NUMPY\2\0" + b"\xff" * 4, "a header of 4,294,967,295 bytes"),
    "past memory": (npy_of(shape=f"({2**40}, {2**40})") + bytes(10), "holds 10"),
    "product wraps to what is there": (npy_of(shape=f"({2**32}, {2**32})"), "holds 0"),
    "size beyond 64 bits": (npy_of(shape=f"({2**64}, 1)"), "damaged header"),
    "size beyond words": (npy_of(shape=f"(1{'0' * 3900}, 1)"), "damaged header"),
    "negative": (npy_of(shape="(-2, -2)") + bytes(4), "damaged header"),
    "boolean sizes": (npy_of(shape="(True, 4)") + bytes(4), "damaged header"),
    "a list of sizes": (npy_of(shape="[2, 2]") + bytes(4), "damaged header"),
    "order of no kind": (npy_of(order="7") + bytes(4), "damaged header"),
    "nothing": (npy_of(shape="(0, 4)"), "is empty"),
    "nothing times everything": (npy_of(shape=f"(0, {2**62}, {2**62})"), "is empty"),
    "a header that is code": (npy_header("__import__('os').abort()"), "damaged header"),
    "a header that lacks keys": (npy_header("{}"), "damaged header"),
    "a header that is no dict": (npy_header("3"), "damaged header"),
    "a nested header": (npy_header("(" * 4000), "damaged header"),
    "a header of signs": (npy_header("-" * 4000 + "1"), "damaged header"),
    "zeros in the header": (npy_header("{\0}"), "damaged header"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_NPY)
def test_bad_npy(case, tmp_path):
    content, *words = BAD_NPY[case]
    refused(write(tmp_path / "images.npy", content), *words)


# --- .npz -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_layouts(save, tmp_path):
    path = tmp_path / "data.npz"
    save(path, x_train=IMAGES, y_train=LABELS, x_test=FOUR[2], y_test=FOUR[3].astype(np.int32))
    data = load(path)
    np.testing.assert_array_equal(data.train.images, IMAGES.reshape(20, 12))
    np.testing.assert_array_equal(data.test.images, FOUR[2].reshape(6, 12))
    np.testing.assert_array_equal(data.train.labels, LABELS)
    np.testing.assert_array_equal(data.test.labels, FOUR[3])
    save(path, x_train=IMAGES, x_test=FOUR[2])
    assert load(path).train.labels is None
    save(path, images=IMAGES, labels=LABELS)
    data = load(path)
    np.testing.assert_array_equal(data.test.images, IMAGES[18:].reshape(2, 12))
    np.testing.assert_array_equal(data.test.labels, LABELS[18:])
    save(path, images=IMAGES)
    assert load(path).test.labels is None
    save(path, IMAGES)  # called arr_0
    np.testing.assert_array_equal(load(path).train.images, IMAGES[:18].reshape(18, 12))


@pytest.mark.parametrize(
    "keys",
    [(), ("a", "b"), ("x_train", "y_train"), ("images", "labels", "mean"), ("x_train", "x_test", "x_more")],
)
def test_npz_of_other_arrays_lists_them(keys, tmp_path):
    np.savez(tmp_path / "data.npz", **dict.fromkeys(keys, IMAGES))
    refused(tmp_path / "data.npz", ", ".join(sorted(keys)) or "nothing", "expected x_train and x_test")


def zip_of(*members, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def patched(content, **fields):
    """A zip of one member whose local header and directory claim other `fields` than is true."""
    # kind, offset in the local header, offset in the directory
    places = {
        "flags": ("H", 6, 8),
        "method": ("H", 8, 10),
        "crc": ("I", 14, 16),
        "packed": ("I", 18, 20),
        "size": ("I", 22, 24),
    }
    content = bytearray(content)
    directory = content.index(b"PK\1\2")
    for field, value in fields.items():
        kind, local, central = places[field]
        struct.pack_into(f"<{kind}", content, local, value)
        struct.pack_into(f"<{kind}", content, directory + central, value)
    return bytes(content)


MORE = NPY + bytes(100)  # a member that goes on after its array
LIE = npy_of(shape=f"({2**21}, 1000)")  # an array of 2 GB of which nothing follows
BAD_NPZ = {
    "truncated": (zip_of(("images.npy", NPY))[:-30], "damaged"),
    "only the magic": (b"PK\3\4", "damaged"),
    "not an array": (zip_of(("images", b"hello, world")), "not a .npy file"),
    "objects": (zip_of(("images.npy", BAD_NPY["objects"][0])), "never unpickled"),
    "structured": (zip_of(("images.npy", BAD_NPY["structured"][0])), "of type [("),
    "array claims more than its member": (zip_of(("images.npy", BAD_NPY["past memory"][0])), "holds 10"),
    "array shorter than its member": (zip_of(("images.npy", MORE)), "holds 340"),
    "member claims gigabytes": (patched(zip_of(("images.npy", NPY)), size=2**32 - 2), "can hold"),
    "stored member claims gigabytes": (
        patched(zip_of(("images.npy", NPY), method=0), size=2**31, packed=2**31), "it is damaged"),
    "array and member agree on gigabytes": (
        patched(zip_of(("images.npy", LIE)), size=len(LIE) + 2**21 * 1000),
        "can hold"),
    "a bomb": (zip_of(("images.npy", npy_of(shape=f"(80, {MIB})") + bytes(80 * MIB))), "bomb"),
    "inflates beyond its claim": (patched(zip_of(("images.npy", MORE)), size=len(NPY)), "CRC"),
    "inflates beyond its claim, checksum of the claim": (
        patched(zip_of(("images.npy", MORE)), size=len(NPY), crc=zlib.crc32(NPY)), "CRC"),
    "inflates to less than its claim": (
        patched(zip_of(("images.npy", NPY[:-1])), size=len(NPY)), "truncated"),
    "wrong checksum": (patched(zip_of(("images.npy", NPY)), crc=1), "CRC"),
    "encrypted": (patched(zip_of(("images.npy", NPY)), flags=1), "encrypted"),
    "unknown method": (patched(zip_of(("images.npy", NPY)), method=99), "compressed in a way"),
    "lzma": (zip_of(("images.npy", NPY), method=zipfile.ZIP_LZMA), "compressed in a way"),
    "directories": (zip_of(("images/", b""), ("images/a.npy", NPY)), "images/, images/a"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz(case, tmp_path):
    content, *words = BAD_NPZ[case]
    refused(write(tmp_path / "data.npz", content), *words)


def test_npz_of_two_arrays_under_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = zip_of(("images.npy", NPY), ("images.npy", NPY))
    refused(write(tmp_path / "data.npz", content), "several arrays of one name")


# --- PNG --------------------------------------------------------------------------------------------------


def save_png(path, array):
    Image.fromarray(array).save(path)


def png_bytes(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png")
    return stream.getvalue()


def test_a_folder_of_pngs_in_the_order_of_names(tmp_path):
    for at in (2, 0, 1, 3):
        save_png(tmp_path / f"img{at}.{'PNG' if at == 2 else 'png'}", IMAGES[at])
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._img0.png").write_text("what a Mac leaves behind")
    data = load(tmp_path)
    assert data.shape == (4, 3)
    both = np.concatenate([data.train.images, data.test.images])
    np.testing.assert_allclose(both, IMAGES[:4].reshape(4, 12) / 255, rtol=1e-6)


def test_pngs_of_every_kind_become_grey(tmp_path):
    colours = RNG.integers(0, 256, (4, 3, 4), dtype=np.uint8)
    grey = colours[..., 0]
    deep = RNG.integers(0, 2**16, (4, 3), dtype=np.uint16)
    palette = Image.fromarray(colours[..., :3]).quantize(16)
    expected = [
        ("1rgb", Image.fromarray(colours[..., :3]), colours[..., :3].mean(-1) / 255),
        ("2rgba", Image.fromarray(colours), colours[..., :3].mean(-1) / 255),
        ("3grey+alpha", Image.fromarray(np.ascontiguousarray(colours[..., :2])), grey / 255),
        ("4deep", Image.fromarray(deep), deep / 65535),
        ("5bits", Image.fromarray(grey > 99), grey > 99),
        ("6palette", palette, np.asarray(palette.convert("RGB")).mean(-1) / 255),
    ]
    for name, image, _ in expected:
        image.save(tmp_path / f"{name}.png")
    images = png.read(png.find(tmp_path))
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, [grey for _, _, grey in expected], atol=1e-6)


def test_the_first_png_that_differs_is_named(tmp_path):
    for name, width in (("a", 3), ("b", 3), ("c", 4), ("d", 5)):
        save_png(tmp_path / f"{name}.png", np.zeros((2, width), np.uint8))
    refused(tmp_path, "c.png is 4 x 2 pixels, but a.png is 3 x 2")


def ihdr(width, height):
    chunk = b"IHDR" + struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return png.SIGNATURE + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a PNG"),
        (b"hello, this is a picture of a cat", "not a PNG"),
        (png_bytes(IMAGES[0])[:30], "cannot be decoded"),
        (png_bytes(IMAGES[0])[:-25], "cannot be decoded"),
        (ihdr(4, 0), "4 x 0 pixels"),
        (ihdr(4, 4), "cannot be decoded"),
        (ihdr(2**31 - 1, 2**31 - 1), "bomb"),
        (ihdr(5000, 5000), "bomb"),
    ],
)
def test_bad_pngs(content, words, tmp_path):
    png.read([write(tmp_path / "good.png", png_bytes(IMAGES[0]))])  # matplotlib is imported, and stays
    (tmp_path / "good.png").unlink()
    refused(write(tmp_path / "bad.png", content).parent, "bad.png" if "bomb" not in words else "", words)


def test_pngs_that_are_not_as_large_as_they_say(tmp_path, monkeypatch):
    save_png(tmp_path / "one.png", IMAGES[0])
    image = matplotlib.image.imread(tmp_path / "one.png")
    monkeypatch.setattr(matplotlib.image, "imread", lambda *_, **__: image[1:])
    refused(tmp_path, "one.png is damaged", f"its header says {image.shape}")


def test_images_that_do_not_fit_in_memory():
    with pytest.raises(InputError, match=r"images\.npy does not fit in memory"), streams.reading("images.npy"):
        raise MemoryError


def test_folders_without_images(tmp_path):
    refused(tmp_path, "neither PNG images nor train-images-idx3-ubyte")
    (tmp_path / "deeper.png").mkdir()
    refused(tmp_path, "deeper.png", "irectory")


def test_a_single_png(tmp_path):
    save_png(tmp_path / "one.png", IMAGES[0])
    refused(tmp_path / "one.png", "give the folder")


# --- whatever else a file may hold ------------------------------------------------------------------------

SEEDS = {
    "idx": WHOLE,
    "idx.gz": gzip.compress(WHOLE),
    "npy": NPY,
    "floats.npy": npy_bytes(IMAGES.astype(np.float64)),
    "npz": zip_of(("x_train.npy", NPY), ("x_test.npy", NPY)),
    "stored.npz": zip_of(("images.npy", NPY), ("labels.npy", npy_bytes(LABELS)), method=0),
    "png": png_bytes(IMAGES[0]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damage")


@pytest.mark.parametrize("kind", SEEDS)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damage_never_raises_anything_but_input_error(kind, data, folder):
    content = bytearray(SEEDS[kind])
    # Headers are where damage hurts, and directories of zips lie at the end.
    place = st.one_of(st.integers(0, len(content) - 1), st.integers(0, 40), st.integers(-120, -1))
    for at, byte in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)):
        content[max(at, -len(content))] = byte
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = folder / f"damaged.{kind}"
    path.write_bytes(content[:end] + data.draw(st.binary(max_size=8)))
    try:
        if kind == "png":
            png.read([path])
        else:
            load(path)
    except InputError:
        pass


# --- data sets with a name --------------------------------------------------------------------------------


def test_the_embedded_digits():
    data = load("mnist-small")
    assert data.name == "mnist-small"
    assert data.shape == (28, 28)
    assert data.train.images.shape == (10_000, 784)
    assert data.test.images.shape == (2_000, 784)
    assert (data.train.images.min(), data.train.images.max()) == (0, 1)
    assert data.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    content = b"".join(map(idx.encode, known.read_embedded()))
    expected = "eaf71cf55b51e1dd7f24a41425ce60ed055550699bec7fe9dfb302ec1d9a362a"
    assert hashlib.sha256(content).hexdigest() == expected


def test_the_embedded_digits_are_the_first_of_the_real_ones():
    home = datasets.data_home()
    if home is None or not (home / "mnist").is_dir():
        pytest.skip("NPVAE_DATA_HOME names no folder with mnist/ in it: set it to compare with the real MNIST")
    small, full = load("mnist-small"), load("mnist")
    for part, whole, count in ((small.train, full.train, 10_000), (small.test, full.test, 2_000)):
        np.testing.assert_array_equal(part.images, whole.images[:count])
        np.testing.assert_array_equal(part.labels, whole.labels[:count])


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_full_sets(name):
    home = datasets.data_home()
    if home is None or not (home / name).is_dir():
        pytest.skip(f"NPVAE_DATA_HOME names no folder with {name}/ in it: set it to read the real set")
    data = load(name)
    assert data.train.images.shape == (60_000, 784)
    assert data.test.images.shape == (10_000, 784)
    assert np.bincount(data.test.labels).size == 10


def test_embedding_keeps_the_first_and_is_deterministic(tmp_path, monkeypatch):
    put_four(tmp_path, FOUR)
    packed = embed.embed(tmp_path, train=9, test=4)
    assert packed == embed.embed(tmp_path, train=9, test=4)
    firsts = [array[:count] for array, count in zip(FOUR, (9, 9, 4, 4), strict=True)]
    assert lzma.decompress(packed) == b"".join(map(idx.encode, firsts))
    with pytest.raises(InputError, match="holds 20 items, 21 are wanted"):
        embed.embed(tmp_path, train=21, test=4)
    monkeypatch.setattr(embed, "embed", lambda folder: b"packed " + str(folder).encode())
    monkeypatch.setattr(sys, "argv", ["embed", "here", "--out", str(tmp_path / "out.xz")])
    embed.main()
    assert (tmp_path / "out.xz").read_bytes() == b"packed here"


def test_embedding_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["embed", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        embed.main()
    assert stopped.value.code == 2
    assert "lacks train-images-idx3-ubyte" in capsys.readouterr().err


def test_a_damaged_installation(monkeypatch):
    monkeypatch.setattr(known, "EMBEDDED_FILE", "LICENSE-MNIST.md")
    refused("mnist-small", "LICENSE-MNIST.md is damaged")
    monkeypatch.setattr(known, "EMBEDDED_FILE", "gone.xz")
    refused("mnist-small", "cannot read gone.xz", "No such file")


def test_folders_by_platform(monkeypatch, tmp_path):
    for variable in ("NPVAE_DATA_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    home = tmp_path / "user"
    monkeypatch.setattr(Path, "home", lambda: home)
    assert datasets.data_home() is None
    monkeypatch.setenv("NPVAE_DATA_HOME", "")
    assert datasets.data_home() is None
    monkeypatch.setenv("NPVAE_DATA_HOME", "some/where")
    assert datasets.data_home() == Path("some/where")

    monkeypatch.setattr(sys, "platform", "linux")
    assert datasets.cache_folder() == home / ".cache" / "npvae"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert datasets.cache_folder() == home / ".cache" / "npvae"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert datasets.cache_folder() == tmp_path / "npvae"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert datasets.cache_folder() == home / "Library" / "Caches" / "npvae"
    monkeypatch.setattr(sys, "platform", "win32")
    assert datasets.cache_folder() == home / "AppData" / "Local" / "npvae"
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert datasets.cache_folder() == tmp_path / "local" / "npvae"


def test_no_home_at_all(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match="set NPVAE_DATA_HOME"):
        datasets.cache_folder()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """`mnist` is a set of 26 tiny images without mirrors; data home and cache are two empty folders."""
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    monkeypatch.setenv("NPVAE_DATA_HOME", str(home))
    monkeypatch.setattr(known, "cache_folder", lambda: cache)
    monkeypatch.setitem(known.SOURCES, "mnist", known.Source((), tuple(map(idx.digest, FOUR))))
    return home, cache


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("which", [0, 1])
def test_named_data_is_found_in_the_data_home_and_in_the_cache(which, suffix, places):
    put_four(places[which] / "mnist", FOUR, suffix)
    is_four(load("mnist"))
    assert load("mnist", rows=3).train.images.shape == (3, 12)


def test_the_data_home_comes_first_and_is_completed_by_the_cache(places):
    for place in places:
        put_four(place / "mnist", FOUR)
    (places[0] / "mnist" / f"{idx.FILES[0]}.gz").unlink()
    for name in idx.FILES[1:]:
        write(places[1] / "mnist" / f"{name}.gz", b"never looked at")
    is_four(load("mnist"))


@pytest.mark.parametrize("which", [0, 1])
def test_a_found_file_of_other_content_is_refused(which, places):
    put_four(places[which] / "mnist", (*FOUR[:3], FOUR[3] + 1))
    refused("mnist", f"{places[which]}", "t10k-labels", idx.digest(FOUR[3]), idx.digest(FOUR[3] + 1))


def test_a_data_home_that_does_not_exist(places, monkeypatch):
    monkeypatch.setenv("NPVAE_DATA_HOME", str(places[0] / "nowhere"))
    refused("mnist", "NPVAE_DATA_HOME names", "not a folder")


# --- downloads, from this machine -------------------------------------------------------------------------


@pytest.fixture
def serve(monkeypatch):
    """Return (base address, pages): a server on the loopback answers with pages[path], bytes or a status."""
    pages: dict[str, bytes | int] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            page = pages.get(self.path, 404)
            if isinstance(page, int):
                self.send_error(page)
            elif page is None:
                self.wfile.write(b"this is not HTTP\r\n\r\n")
            else:
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):  # the client may have had enough
                    self.wfile.write(page)

        def log_message(self, *_arguments):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", pages
        server.shutdown()
        thread.join()


@pytest.fixture
def mirrors(places, serve, monkeypatch):
    """Two mirrors of `mnist`, a and b, with nothing on them yet; return (pages, cache folder)."""
    address, pages = serve
    source = known.SOURCES["mnist"]
    monkeypatch.setitem(known.SOURCES, "mnist", source._replace(mirrors=(f"{address}/a/", f"{address}/b/")))
    return pages, places[1] / "mnist"


def publish(pages, mirror, arrays=FOUR):
    for name, array in zip(idx.FILES, arrays, strict=True):
        pages[f"/{mirror}/{name}.gz"] = gzip.compress(idx.encode(array))


def kept(cache):
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_a_download_is_kept_and_used_again(mirrors):
    pages, cache = mirrors
    publish(pages, "a")
    is_four(load("mnist"))
    assert kept(cache) == sorted(f"{name}.gz" for name in idx.FILES)
    pages.clear()
    is_four(load("mnist"))


def test_the_second_mirror_is_asked_when_the_first_fails(mirrors):
    pages, _ = mirrors
    publish(pages, "b")
    is_four(load("mnist"))


GOOD = gzip.compress(WHOLE)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (404, "404"),
        (503, "503"),
        (None, "breaks off"),
        (gzip.compress(idx.encode(IMAGES + 1)), "expected " + idx.digest(IMAGES)),
        (GOOD[: len(GOOD) // 2], "damaged"),
        (b"<html>not here</html>", "not an IDX file"),
        (b"", "not an IDX file"),
        (in_pieces(WHOLE, 80), "more than its header claims"),
        (bytes(MIB), "more than 100,000 bytes"),
    ],
)
def test_what_a_mirror_may_send_instead(page, words, mirrors, monkeypatch):
    pages, cache = mirrors
    monkeypatch.setattr(download, "MOST_BYTES", 100_000)
    first = f"/a/{idx.FILES[0]}.gz"
    pages[first] = page
    # In the end the message lists each mirror's failure and says what to do by hand; nothing is kept.
    refused("mnist", first, words, f"/b/{idx.FILES[0]}.gz", "404", str(cache), "NPVAE_DATA_HOME")
    assert kept(cache) == []
    publish(pages, "b")
    is_four(load("mnist"))


def test_a_server_that_is_not_there(mirrors, monkeypatch):
    source = known.SOURCES["mnist"]
    monkeypatch.setitem(known.SOURCES, "mnist", source._replace(mirrors=("http://127.0.0.1:9/", "nonsense:")))
    refused("mnist", "127.0.0.1:9", "nonsense:")


def test_a_server_that_never_ends(mirrors, monkeypatch):
    pages, _ = mirrors
    publish(pages, "a")
    monkeypatch.setattr(download, "DEADLINE", -1.0)
    refused("mnist", "has sent only")


def test_a_cache_that_cannot_be_written(mirrors):
    pages, cache = mirrors
    publish(pages, "a")
    write(cache.parent, b"a file where a folder should be")
    refused("mnist", "cannot write", str(cache))


def test_a_full_disk_leaves_nothing_behind(mirrors, monkeypatch):
    pages, cache = mirrors
    publish(pages, "a")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused("mnist", "cannot write", "No space left on device")
    assert kept(cache) == []


def test_real_mirrors_are_asked_by_https_first():
    for source in known.SOURCES.values():
        secure = [mirror.startswith("https://") for mirror in source.mirrors]
        assert secure[0]
        assert secure == sorted(secure, reverse=True)
        assert all(mirror.endswith("/") for mirror in source.mirrors)
        assert all(len(digest) == 64 for digest in source.digests)
