"""Layouts: views in order, without gaps, of one vector or two."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npvae.flat import Shape, carve, leaves, named, sizes, zeros


class Pair(NamedTuple):
    left: Any
    right: Any


SHAPES = st.builds(Shape, st.lists(st.integers(0, 3), max_size=3).map(tuple), st.booleans())
LAYOUTS = st.recursive(
    SHAPES, lambda inner: st.builds(Pair, inner, inner) | st.lists(inner, max_size=3).map(tuple), max_leaves=8
)


@settings(derandomize=True, database=None)
@given(LAYOUTS)
def test_views_tile_their_vectors_in_order(layout):
    """Numbering the vectors and reading the views one after the other gives the numbers back."""
    counts = sizes(layout)
    vectors = [np.arange(float(count)) for count in counts]
    tree = carve(layout, *vectors)
    shapes, views = dict(leaves(layout)), dict(leaves(tree))
    assert list(shapes) == list(views)
    read: list[list[float]] = [[], []]
    for path, shape in shapes.items():
        assert views[path].shape == shape.dims
        read[shape.wide].extend(views[path].ravel())
    for vector, numbers in zip(vectors, read, strict=True):
        assert np.array_equal(vector, numbers)


def test_branches_keep_their_kind():
    tree = carve(Pair((Shape((2,)), Shape((1,))), Pair(Shape(()), ())), np.arange(4.0))
    assert type(tree) is Pair and type(tree.left) is tuple and type(tree.right) is Pair
    assert tree.right.left == 3.0 and tree.right.right == ()


def test_views_write_through():
    flat, wide = np.zeros(5, np.float32), np.zeros(2)
    tree = carve(Pair(Shape((2, 2)), Pair(Shape((2,), wide=True), Shape((1,)))), flat, wide)
    tree.left[1, 0] = 7
    tree.right.left[:] = (8, 9)
    tree.right.right[:] = 6
    assert flat.tolist() == [0, 0, 7, 0, 6] and wide.tolist() == [8, 9]
    flat[0] = 5
    assert tree.left[0, 0] == 5
    assert tree.left.dtype == np.float32 and tree.right.left.dtype == np.float64


def test_longer_vectors_are_not_touched_beyond_the_layout():
    flat = np.full(9, np.nan)
    carve((Shape((2,)), Shape((3,))), flat)[1][:] = 1
    assert np.isnan(flat[[0, 1, 5, 6, 7, 8]]).all() and (flat[2:5] == 1).all()


def test_named_gives_dotted_paths_to_views():
    flat = np.zeros(4)
    views = named(Pair((Shape((1,)), Pair(Shape((1,)), Shape((2,)))), ()))
    assert list(views) == ["left.0", "left.1.left", "left.1.right"]
    views = named(carve(Pair((Shape((1,)), Pair(Shape((1,)), Shape((2,)))), ()), flat))
    views["left.1.right"][:] = 3
    assert flat.tolist() == [0, 0, 3, 3]


def test_too_short_a_vector_does_not_pass():
    with pytest.raises(ValueError, match="reshape"):
        carve((Shape((2, 2)), Shape((2,))), np.zeros(5))


@pytest.mark.parametrize("dtype", ["float32", np.float64, np.dtype(complex)])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 100_000])
def test_zeros_start_at_a_64_byte_boundary(count, dtype):
    for _ in range(5):
        vector = zeros(count, dtype)
        assert vector.shape == (count,) and vector.dtype == dtype and not vector.any()
        assert vector.ctypes.data % 64 == 0 and vector.flags.c_contiguous and vector.flags.writeable
        vector[:] = 1  # the next one is zero again


def test_sizes_of_nothing():
    assert sizes(()) == (0, 0)
    assert sizes(Shape(())) == (1, 0)
    assert sizes(Shape((0, 5), wide=True)) == (0, 0)
    assert zeros(0, "float32").shape == (0,)
