"""The file format against its public library, hostile files, and writes that fail half-way."""

import errno
import io
import json
import math
import os
import signal
import stat
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from npvae import checkpoint
from npvae.checkpoint import expect_tensors, load_tensors, save_tensors, write_atomically
from npvae.errors import InputError

files = settings(deadline=None)  # a disk may be slow for a moment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        native = array.astype(array.dtype.newbyteorder("="))
        assert (got[name].dtype, got[name].shape) == (native.dtype, native.shape)
        assert got[name].tobytes() == native.tobytes()  # bytes, so that NaN equals itself


# --- What is written is what is read, by us and by the public library

dtypes = st.sampled_from([np.dtype(code) for code in checkpoint.CODES.values()])
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, shapes))
names = st.text(max_size=12).filter(lambda name: name != "__metadata__")
trees = st.dictionaries(names, arrays, max_size=5)
texts = st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3)
# As a caller may hand them over: in place, transposed, with gaps, backwards, of the other byte order.
layouts = st.sampled_from(
    [
        lambda a: a,
        lambda a: a.T,
        lambda a: a[..., ::2] if a.ndim else a,
        lambda a: a[::-1] if a.ndim else a,
        lambda a: a.astype(a.dtype.newbyteorder(">")),
    ]
)


@files
@given(tree=trees, metadata=texts, layout=layouts)
@example(tree={}, metadata={}, layout=np.asarray)
@example(tree={"": np.float32(3.5), "μ·σ²/😀": np.empty((3, 0, 2))}, metadata={"": ""}, layout=np.asarray)
def test_ours_is_read_back_by_us_and_by_the_library(folder, tree, metadata, layout):
    tree = {name: layout(array) for name, array in tree.items()}
    path = folder / "ours.safetensors"
    save_tensors(path, tree, metadata)
    loaded, text = load_tensors(path)
    assert text == metadata
    assert_same(loaded, tree)
    assert_same(safetensors.numpy.load_file(path), tree)
    with safetensors.safe_open(path, framework="np") as file:
        assert (file.metadata() or {}) == metadata


@files
@given(tree=trees, metadata=texts)
def test_the_librarys_is_read_by_us(folder, tree, metadata):
    path = folder / "theirs.safetensors"
    # "or None": no tensors and {} for metadata make the library (0.8.0) write what it cannot read itself.
    safetensors.numpy.save_file(tree, path, metadata or None)
    loaded, text = load_tensors(path)
    assert text == metadata
    assert_same(loaded, tree)


def test_loaded_arrays_are_the_readers_own(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((), bool)}, {})
    loaded, _ = load_tensors(path)
    for array in loaded.values():
        assert array.flags.owndata and array.flags.writeable and array.flags.c_contiguous
        array[...] = 1
    assert np.array_equal(load_tensors(path)[0]["a"], np.arange(6.0).reshape(2, 3))


@files
@given(tree=trees, metadata=texts, data=st.data())
def test_same_content_gives_the_same_bytes(folder, tree, metadata, data):
    shuffled = [dict(data.draw(st.permutations(list(items.items())))) for items in (tree, metadata)]
    save_tensors(folder / "first", tree, metadata)
    save_tensors(folder / "second", *shuffled)
    assert (folder / "first").read_bytes() == (folder / "second").read_bytes()


def test_every_tensor_is_aligned_and_the_data_starts_at_64(tmp_path):
    path = tmp_path / "a.safetensors"
    tree = {code: np.ones(3, code) for code in checkpoint.CODES.values()}
    save_tensors(path, tree, {})
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert (8 + size) % 64 == 0
    assert content[8:9] == b"{"  # as the format asks
    for name, entry in json.loads(content[8 : 8 + size]).items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % tree[name].dtype.itemsize == 0


def test_neither_saving_nor_loading_keeps_a_second_copy(tmp_path):
    path = tmp_path / "a.safetensors"
    tree = {"a": np.zeros(1_000_000), "b": np.zeros((1000, 1000))}
    tracemalloc.start()
    try:
        save_tensors(path, tree, {})
        assert tracemalloc.get_traced_memory()[1] < 100_000
        load_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 16_100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("tree", "metadata", "error", "says"),
    [
        ({"a": np.zeros(2, complex)}, {}, TypeError, "'a' is complex128; the file can hold F64, F32"),
        ({"a": np.array([None])}, {}, TypeError, "object"),
        ({"a": np.array(["text"])}, {}, TypeError, "<U4"),
        ({"a": np.zeros(2, "M8[s]")}, {}, TypeError, "datetime64"),
        ({"a": np.zeros(2, [("x", "f8")])}, {}, TypeError, "'x'"),
        ({1: np.zeros(2)}, {}, TypeError, "must be text"),
        ({}, {"step": 3}, TypeError, "must be text"),
        ({}, {3: "step"}, TypeError, "must be text"),
        ({"__metadata__": np.zeros(2)}, {}, ValueError, "cannot be called '__metadata__'"),
        ({"\ud800": np.zeros(2)}, {}, UnicodeEncodeError, "surrogates"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_and_nothing_written(tmp_path, tree, metadata, error, says):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(error, match=says):
        save_tensors(path, tree, metadata)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


# --- Hostile and damaged files


def file_of(header, data=b"", size=None):
    """The bytes of a file whose header is this JSON text or object, honest about its length unless told."""
    if not isinstance(header, (str, bytes)):
        header = json.dumps(header)
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def one(dtype="U8", shape=(4,), offsets=(0, 4)):
    """The header of a file with one tensor."""
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def two(first, second):
    """The header of a file with two tensors of bytes at these offsets."""
    spans = {"a": first, "b": second}
    return {
        name: {"dtype": "U8", "shape": [max(end - begin, 0)], "data_offsets": [begin, end]}
        for name, (begin, end) in spans.items()
    }


DATA = b"\1\2\3\4"
HUGE = 10**4000
HOSTILE = {
    "empty file": (b"", "cut short: expected at least 8 bytes, found 0"),
    "seven bytes": (b"\0" * 7, "found 7"),
    "no header": (file_of(b""), "not JSON"),
    "header longer than the file": (file_of(one(), DATA, size=1000), "its header needs 1000 bytes"),
    "header of gigabytes": (file_of(one(), DATA, size=3 << 30), "expected at most 100000000"),
    "header of 2^64 - 1": (file_of(one(), DATA, size=2**64 - 1), "18446744073709551615"),
    "header cut inside": (file_of(one(), DATA, size=20), "not JSON"),
    "header reaches into the data": (file_of(one(), DATA, size=len(json.dumps(one())) + 1), "not JSON"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "utf-8"),
    "UTF-16": (file_of(json.dumps(one()).encode("utf-16"), DATA), "utf-8"),
    "byte order mark": (file_of(b"\xef\xbb\xbf{}"), "BOM"),
    "half a surrogate pair": (file_of('{"\\ud800": 1}'), "surrogates"),
    "half a surrogate pair in metadata": (file_of('{"__metadata__": {"a": "\\udc00"}}'), "surrogates"),
    "not JSON": (file_of("{'a': 1}"), "not JSON"),
    "a pickle": (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0" * 4, "claims a header"),
    "a list": (file_of("[1, 2]"), r"must be a JSON object, got \[1, 2\]"),
    "null": (file_of("null"), "must be a JSON object"),
    "nested too deep": (file_of('{"a":' + "[" * 200_000), "recursion"),
    "objects nested too deep": (file_of('{"a":' * 200_000), "recursion"),
    "a tensor twice": (file_of(f'{{"a": {json.dumps(one()["a"])}, "a": 1}}', DATA), "'a', 'a'"),
    "a field twice": (file_of('{"a": {"dtype": "U8", "dtype": "I8"}}'), "twice"),
    "metadata twice": (file_of('{"__metadata__": {}, "__metadata__": {}}'), "twice"),
    "a metadata key twice": (file_of('{"__metadata__": {"a": "1", "a": "2"}}'), "twice"),
    "metadata not an object": (file_of({"__metadata__": ["a"]}), "__metadata__ must hold text"),
    "metadata null": (file_of({"__metadata__": None}), "__metadata__ must hold text"),
    "metadata not text": (file_of({"__metadata__": {"step": 3}}), r"must hold text.*\{'step': 3\}"),
    "metadata nested": (file_of({"__metadata__": {"a": {"b": "c"}}}), "must hold text"),
    "tensor not an object": (file_of({"a": [0, 4]}, DATA), "must have a dtype, a shape and data_offsets"),
    "no dtype": (file_of({"a": {"shape": [4], "data_offsets": [0, 4]}}, DATA), "must have a dtype"),
    "no offsets": (file_of({"a": {"shape": [4], "dtype": "U8"}}, DATA), "must have a dtype"),
    "unknown field": (file_of({"a": {**one()["a"], "strides": [1]}}, DATA), "must have a dtype"),
    "unknown dtype": (file_of(one(dtype="BF16", shape=[2]), DATA), "dtype 'BF16', expected one of F64, F32"),
    "complex dtype": (file_of(one(dtype="C64", shape=[0], offsets=[0, 0])), "dtype 'C64'"),
    "object dtype": (file_of(one(dtype="O", shape=[0], offsets=[0, 0])), "dtype 'O'"),
    "dtype in NumPy's spelling": (file_of(one(dtype="u1"), DATA), "dtype 'u1'"),
    "dtype not text": (file_of(one(dtype=["U8"]), DATA), r"dtype \['U8'\]"),
    "shape not a list": (file_of(one(shape=4), DATA), "the shape 4, expected at most 64 whole numbers"),
    "shape negative": (file_of(one(shape=[-4]), DATA), "shape"),
    "shape twice negative": (file_of(one(shape=[-2, -2]), DATA), "shape"),
    "shape of floats": (file_of(one(shape=[4.0]), DATA), "shape"),
    "shape of text": (file_of(one(shape=["4"]), DATA), "shape"),
    "shape of true": (file_of(one(shape=[True, 4]), DATA), r"\[True, 4\]"),
    "shape of NaN": (file_of('{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}}', DATA), "nan"),
    "shape of 65 axes": (file_of(one(shape=[1] * 64 + [4]), DATA), "at most 64"),
    "shape past memory": (file_of(one(shape=[2**62, 2**62]), DATA), "shape"),
    "shape past memory, empty": (file_of(one(shape=[0, 2**40, 2**40], offsets=[0, 0])), "shape"),
    "shape that wraps to 4": (file_of(one(shape=[2**32, 2**32 + 1]), DATA), "shape"),
    "shape of 4000 digits": (file_of(one(shape=[HUGE]), DATA), r"shape \[10+\.\.\.0+\]"),
    "shape of 4000 digits, empty": (file_of(one(shape=[0, HUGE, HUGE], offsets=[0, 0])), "shape"),
    "shape of 5000 digits": (file_of('{"a":{"dtype":"U8","shape":[' + "9" * 5000 + "]}}"), "4300 digits"),
    "shape of a million axes": (file_of(one(shape=[2**62] * 1_000_000), DATA), "at most 64"),
    "shape too small": (file_of(one(shape=[3]), DATA), "expected two that lie 3 bytes apart, as U8 of shape"),
    "shape too large": (file_of(one(shape=[5]), DATA), "5 bytes apart"),
    "shape of a terabyte": (file_of(one(dtype="F64", shape=[2**37]), DATA), "1099511627776 bytes apart"),
    "item size forgotten": (file_of(one(dtype="F32"), DATA), "16 bytes apart, as F32 of shape"),
    "offsets not a list": (file_of(one(offsets=4), DATA), "data_offsets 4"),
    "offsets null": (file_of(one(offsets=None), DATA), "data_offsets None"),
    "offsets one": (file_of(one(offsets=[4]), DATA), "data_offsets"),
    "offsets three": (file_of(one(offsets=[0, 4, 4]), DATA), "data_offsets"),
    "offsets of floats": (file_of(one(offsets=[0.0, 4.0]), DATA), "data_offsets"),
    "offsets of false": (file_of(one(offsets=[False, 4]), DATA), "data_offsets"),
    "offsets negative": (file_of(one(offsets=[-4, 0]), DATA), "data_offsets"),
    "offsets reversed": (file_of(one(offsets=[4, 0]), DATA), "data_offsets"),
    "offsets of 4000 digits": (file_of(one(offsets=[HUGE, HUGE + 4]), DATA), "data_offsets"),
    "offsets of 4000 digits apart": (file_of(one(offsets=[-HUGE, HUGE]), DATA), "data_offsets"),
    "not starting at 0": (file_of(one(offsets=[1, 5]), DATA + b"!"), "begins at byte 1 of"),
    "empty tensor far out": (file_of(one(shape=[0], offsets=[9, 9])), "begins at byte 9"),
    "overlap": (file_of(two((0, 3), (2, 4)), DATA), "'b' begins at byte 2 of the data, expected 3"),
    "same bytes twice": (file_of(two((0, 4), (0, 4)), DATA), "begins at byte 0 of the data, expected 4"),
    "hole": (file_of(two((0, 1), (2, 4)), DATA), "begins at byte 2 of the data, expected 1"),
    "cut short": (file_of(one(), DATA[:-1]), "cut short: its tensors need 4 bytes, and 3 are there"),
    "trailing bytes": (file_of(one(), DATA + b"!"), "too long: its tensors need 4 bytes, and 5 are there"),
    "no tensors, but data": (file_of({}, DATA), "too long"),
    "a bool that is 2": (file_of(one(dtype="BOOL"), b"\0\1\2\1"), "BOOL"),
}


@pytest.mark.parametrize(("content", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_an_input_error(tmp_path, content, says):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        load_tensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be loaded: ")
    assert message.endswith("; restore it from a copy, or train again")
    assert len(message) < 600 + len(str(path))  # quotes a hostile header, but not all of it


def test_the_helpers_make_valid_files_otherwise(tmp_path):
    path = tmp_path / "valid.safetensors"
    path.write_bytes(file_of(one(), DATA))
    assert load_tensors(path)[0]["a"].tolist() == [1, 2, 3, 4]
    path.write_bytes(file_of(two((1, 4), (0, 1)), DATA))  # the order of the header's keys means nothing
    assert {name: a.tolist() for name, a in load_tensors(path)[0].items()} == {"a": [2, 3, 4], "b": [1]}
    path.write_bytes(file_of(one(shape=[1] * 63 + [4]), DATA))
    assert load_tensors(path)[0]["a"].ndim == 64
    path.write_bytes(file_of(one(shape=[0, 2**60], offsets=[0, 0])))
    assert load_tensors(path)[0]["a"].shape == (0, 2**60)


def test_a_header_of_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "large.safetensors"
    path.write_bytes(struct.pack("<Q", 3 << 30))
    os.truncate(path, 4 << 30)  # a sparse file: it really is that long, and takes no room
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="expected at most 100000000"):
            load_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
        path.unlink()


def test_a_file_larger_than_memory_is_an_input_error(tmp_path, monkeypatch):
    def refuse(*args):
        raise MemoryError("Unable to allocate 4. TiB")

    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(one(), DATA))
    monkeypatch.setattr(np, "empty", refuse)
    with pytest.raises(InputError, match="Unable to allocate"):
        load_tensors(path)


def test_a_file_that_shrinks_while_it_is_read_is_an_input_error(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(one(shape=[1 << 20], offsets=[0, 1 << 20]), bytes(1 << 20)))
    monkeypatch.setattr(checkpoint, "_check_layout", lambda entries, room: os.truncate(path, 99) or entries)
    with pytest.raises(InputError, match="became shorter"):
        load_tensors(path)


@pytest.mark.parametrize("where", ["absent", "absent/absent", "file/inside", ".", "null\0byte"])
def test_where_there_is_no_file_is_an_input_error(tmp_path, where):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="found no such file; check the path, or train first") as caught:
        load_tensors(tmp_path / where)
    assert str(tmp_path / where) in str(caught.value)


# Whatever happens to the bytes, loading succeeds or raises InputError and nothing else.

SOUND = file_of(
    {
        "__metadata__": {"seed": "0"},
        "mask": {"dtype": "BOOL", "shape": [3], "data_offsets": [20, 23]},
        "step": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
        "theta": {"dtype": "F32", "shape": [1, 3], "data_offsets": [8, 20]},
    },
    bytes(20) + b"\0\1\1",
)
edits = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, len(SOUND) - 1), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, len(SOUND) - 1), st.integers(1, len(SOUND))),
    st.tuples(st.just("insert"), st.integers(0, len(SOUND)), st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("digit"), st.integers(0, len(SOUND) - 1), st.sampled_from(b'0123456789-.e[]{},:" \\')),
)


def apply(content, edit):
    kind, at, what = edit
    if kind == "flip":
        return content[:at] + bytes(byte ^ what for byte in content[at : at + 1]) + content[at + 1 :]
    if kind == "cut":
        return content[:at] + content[at + what :]
    if kind == "insert":
        return content[:at] + what + content[at:]
    return content[:at] + bytes([what]) + content[at + 1 :]


def load_or_refuse(path, content):
    path.write_bytes(content)
    try:
        tree, _ = load_tensors(path)
    except InputError:
        return None
    assert_same(safetensors.numpy.load(content), tree)  # what we accept, the library accepts
    return tree


@settings(files, max_examples=400)
@given(st.lists(edits, min_size=1, max_size=3))
def test_damaged_bytes_load_or_are_refused(folder, mutations):
    content = SOUND
    for edit in mutations:
        content = apply(content, edit)
    load_or_refuse(folder / "mutated", content)


def test_every_truncation_is_refused(folder):
    for length in range(len(SOUND)):
        assert load_or_refuse(folder / "cut", SOUND[:length]) is None
    assert load_or_refuse(folder / "cut", SOUND) is not None


whole = st.one_of(st.integers(-2, 9), st.sampled_from([2**31, 2**62, 2**63, 2**64, HUGE]))
values = st.recursive(
    st.none() | st.booleans() | whole | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*checkpoint.CODES, "BF16", "C64"]) | values,
        "shape": st.lists(whole, max_size=4) | values,
        "data_offsets": st.tuples(whole, whole) | values,
    }
)
headers = st.dictionaries(st.sampled_from(["__metadata__", "a", "b", "c"]), entries | values, max_size=3)


@settings(files, max_examples=200)
@given(header=headers, room=st.integers(0, 40))
def test_invented_headers_load_or_are_refused(folder, header, room):
    load_or_refuse(folder / "invented", file_of(header, bytes(room)))


# --- A checkpoint of another model


def test_expected_tensors_pass_and_others_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    f4, i8 = np.dtype("f4"), np.dtype("i8")
    save_tensors(path, {"theta": np.zeros((3, 4), f4), "step": np.zeros((), i8)}, {})
    tree, _ = load_tensors(path)
    layout = {"theta": ((3, 4), f4), "step": ((), i8)}
    expect_tensors(path, tree, layout)

    def complaint(layout):
        with pytest.raises(InputError) as caught:
            expect_tensors(path, tree, layout)
        message = str(caught.value)
        assert message.startswith(f"{path} is a checkpoint of another model: ")
        assert message.endswith("; load it with the settings it was trained with, or train this model")
        return message

    assert "'theta' is float32 (3, 4), expected float32 (5,)" in complaint({**layout, "theta": ((5,), f4)})
    assert "'step' is int64 (), expected float32 ()" in complaint({**layout, "step": ((), f4)})
    assert "'m' is missing" in complaint({**layout, "m": ((3, 4), f4)})
    assert "'step' does not belong to this model" in complaint({"theta": ((3, 4), f4)})
    many = complaint({**layout, **{f"m{i}": ((), f4) for i in range(40)}})
    assert "'m4' is missing; and 35 more" in many and "m5" not in many


# --- Writes that fail

OLD = {"theta": np.arange(5.0)}
NEW = {"theta": np.ones(500_000), "moments": np.zeros((2, 3), np.float32)}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.parent.mkdir()
    save_tensors(path, OLD, {"epoch": "1"})
    return path


def assert_untouched(path):
    assert list(path.parent.iterdir()) == [path]  # no temporary left
    tree, metadata = load_tensors(path)
    assert_same(tree, OLD)
    assert metadata == {"epoch": "1"}


class Disk(io.FileIO):
    """A file on a disk with this many bytes left, that takes at most `grain` bytes at a time."""

    room = math.inf
    grain = 1 << 30
    fault: BaseException = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, content):
        if self.tell() >= self.room:
            raise self.fault
        return super().write(content[: min(self.grain, self.room - self.tell())])


@pytest.fixture
def disk(monkeypatch):
    """The disk that new files are written to, from here on."""
    real = Path.open

    def open_(path, mode="r", buffering=-1, **rest):
        return Disk(path, mode) if mode == "xb" else real(path, mode, buffering, **rest)

    monkeypatch.setattr(Path, "open", open_)

    def configure(**attributes):
        for name, value in attributes.items():
            monkeypatch.setattr(Disk, name, value)

    return configure


@pytest.mark.parametrize("room", [0, 3, 8, 100, 300_000, 4_000_000])
@pytest.mark.parametrize("fault", [Disk.fault, KeyboardInterrupt()])
def test_a_disk_that_fills_up_leaves_the_old_file(saved, disk, room, fault):
    disk(room=room, fault=fault)
    with pytest.raises(type(fault)) as caught:
        save_tensors(saved, NEW, {})
    assert caught.value is fault  # as it came
    assert_untouched(saved)


def test_short_writes_are_continued(saved, disk):
    disk(grain=1000)
    save_tensors(saved, NEW, {})
    assert_same(load_tensors(saved)[0], NEW)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt(), SystemExit(143)])
def test_a_failure_at_the_end_leaves_the_old_file(saved, monkeypatch, call, fault):
    def fail(*args):
        raise fault

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[call], fail)
    with pytest.raises(type(fault)) as caught:
        save_tensors(saved, NEW, {})
    assert caught.value is fault
    assert_untouched(saved)


def test_a_folder_that_takes_no_new_files(saved, monkeypatch):
    real = Path.open

    def read_only(path, mode="r", *args, **rest):
        if mode == "xb":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, mode, *args, **rest)

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(PermissionError):
        save_tensors(saved, NEW, {})
    assert_untouched(saved)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("run/checkpoint.safetensors/a", NotADirectoryError),  # the parent is a file
        ("absent/a", FileNotFoundError),
        ("run", OSError),  # a folder stands in the way
    ],
)
def test_a_path_that_cannot_be_written(tmp_path, saved, where, error):
    with pytest.raises(error):
        save_tensors(tmp_path / where, NEW, {})
    assert_untouched(saved)
    assert list(tmp_path.iterdir()) == [saved.parent]


def test_ctrl_c_between_two_pieces(saved):
    def pieces():
        yield b"first"
        signal.raise_signal(signal.SIGINT)
        yield b"never written"

    with pytest.raises(KeyboardInterrupt):
        write_atomically(saved, pieces())
    assert_untouched(saved)


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=Path(checkpoint.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_limit_on_file_sizes_leaves_the_old_file(saved):
    pytest.importorskip("resource", reason="Windows has no limit on file sizes to run into")
    script = """
import resource, sys, pathlib, numpy as np
from npvae.checkpoint import save_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))
try:
    save_tensors(pathlib.Path(sys.argv[1]), {"theta": np.ones(500_000)}, {})
except OSError as error:
    sys.exit(f"stopped by errno {error.errno}")
"""
    assert run(script, saved).stderr.strip() == f"stopped by errno {errno.EFBIG}"
    assert_untouched(saved)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_process_leaves_the_old_file(saved):
    script = """
import os, signal, sys, pathlib
from npvae.checkpoint import write_atomically
def pieces():
    yield bytes(3_000_000)
    os.kill(os.getpid(), signal.SIGKILL)
write_atomically(pathlib.Path(sys.argv[1]), pieces())
"""
    assert run(script, saved).returncode == -signal.SIGKILL
    [left] = set(saved.parent.iterdir()) - {saved}  # nobody was alive to remove it: hidden, and never read
    assert left.name.startswith(".npvae-") and left.stat().st_size == 3_000_000
    left.unlink()
    assert_untouched(saved)


def test_the_content_is_on_disk_before_it_takes_the_place(saved, monkeypatch):
    done = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(temporary, target):
        assert temporary.parent == target.parent
        done.append("replace")
        return replace(temporary, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_atomically(saved, b"new")
    assert done == ["file", "replace", "folder"]
    assert saved.read_bytes() == b"new"


def test_a_folder_that_cannot_be_synced_is_no_failure(saved, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    write_atomically(saved, b"new")
    monkeypatch.undo()
    assert saved.read_bytes() == b"new"


@pytest.mark.parametrize("content", [b"", b"abc", [], [b"a", b"", bytearray(b"b"), memoryview(b"c")]])
def test_content_may_be_bytes_or_pieces(tmp_path, content):
    path = tmp_path / "new"
    write_atomically(path, content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else b"".join(content))
    assert list(tmp_path.iterdir()) == [path]
