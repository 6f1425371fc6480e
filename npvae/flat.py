"""One flat buffer per role, carved into a tree of named views.

A *layout* is a tree: named tuples and tuples are its branches, `Shape`s its leaves. `carve` returns the same tree
with every Shape replaced by a view into a flat vector, one after the other, without gaps. So Adam is one loop over
one vector, a checkpoint is that vector, a gradient check perturbs `theta[i]` - and a reader still says
`params.encoder[0].W`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tree = Any  # a tree of Shapes (a layout) or of arrays, its branches tuples or NamedTuples

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


@dataclass(frozen=True)
class Shape:
    """A leaf of a layout. `wide` leaves are kept in double precision whatever the rest is in."""

    dims: tuple[int, ...]
    wide: bool = False


def sizes(layout: Tree) -> tuple[int, int]:
    """How many ordinary and how many wide numbers a layout holds.

    >>> sizes((Shape((2, 3)), Shape((4,)), (Shape((5,), wide=True),)))
    (10, 5)
    """
    counts = [0, 0]
    for _, leaf in leaves(layout):
        counts[leaf.wide] += math.prod(leaf.dims)
    return counts[0], counts[1]


def carve(layout: Tree, flat: Array, wide: Array | None = None) -> Tree:
    """The layout's tree of views: ordinary leaves into `flat` (n,), wide ones into `wide` (m,), in order.

    Both vectors may be longer than the layout needs: views of fewer rows share the memory of those of more.

    >>> carve((Shape((2, 2)), (Shape((1,)),)), np.arange(5.0))
    (array([[0., 1.],
           [2., 3.]]), (array([4.]),))
    """
    offsets = [0, 0]

    def take(node: Tree) -> Tree:
        if isinstance(node, Shape):
            buffer = wide if node.wide else flat
            assert buffer is not None
            start = offsets[node.wide]
            offsets[node.wide] = stop = start + math.prod(node.dims)
            return buffer[start:stop].reshape(node.dims)
        parts = [take(child) for child in node]
        return type(node)(*parts) if hasattr(node, "_fields") else tuple(parts)

    return take(layout)


def zeros(count: int, dtype: npt.DTypeLike) -> Array:
    """A vector of `count` zeros that starts at a 64-byte boundary, so that a register's load never spans two lines.

    >>> vector = zeros(5, "float32")
    >>> vector.tolist(), vector.ctypes.data % 64
    ([0.0, 0.0, 0.0, 0.0, 0.0], 0)
    """
    size = count * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype)


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a tree in the order in which they are carved, each with its dotted path."""
    if not isinstance(tree, tuple):
        yield prefix, tree
        return
    for name, child in zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True):
        yield from leaves(child, f"{prefix}.{name}" if prefix else str(name))


def named(tree: Tree) -> dict[str, Array]:
    """The views of a tree by dotted path, such as ``{"encoder.0.W": ..., "encoder.0.b": ..., ...}``.

    They are views, not copies: writing to one writes to the buffer under it.
    """
    return dict(leaves(tree))
