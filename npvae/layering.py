"""Which arrays are layers, and which layers put out the code: by names, by shapes and by their order.

The layers must come in the order of the forward pass. An array of two axes is a W; its bias is what its name says ("W1"
and "b1", "fc.weight" and "fc.bias"), else the array behind it, if that is as long as W has outputs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from npvae.flat import Array

WEIGHTS, BIASES = ("weights", "weight", "kernel", "w"), ("biases", "bias", "b")


@dataclass(frozen=True)
class Layer:
    """A W (in, out) and its b (out,), by name; no b, if it has none. turned: W lies in memory as (out, in)."""

    W: str
    b: str | None
    shape: tuple[int, ...]  # (in, out)
    turned: bool = False

    @property
    def names(self) -> list[str]:
        """Its arrays."""
        return [self.W] if self.b is None else [self.W, self.b]

    def upright(self, a: Array) -> Array:
        """An array of W's shape as (in, out)."""
        return a.T if self.turned else a


def layers(arrays: Mapping[str, Array]) -> list[Layer]:
    """The layers among arrays in forward order.

    W is (in, out) unless more of the biases fit W's first length alone than its last alone: then all are (out, in).

    >>> import numpy as np
    >>> [(l.W, l.b) for l in layers({"W1": np.ones((3, 2)), "b1": np.ones((1, 2)), "W2": np.ones((2, 3))})]
    [('W1', 'b1'), ('W2', None)]
    """
    matrices = [name for name, a in arrays.items() if a.ndim == 2]
    called = {W: bias_of(W, arrays) for W in matrices}
    behind = dict(zip(arrays, [*arrays][1:], strict=False))
    pairs: dict[str, str | None] = {}
    for W in matrices:
        if W not in (*called.values(), *pairs.values()):  # a bias may be a matrix of one row
            b = called[W] or (behind.get(W) if behind.get(W) not in called.values() else None)
            pairs[W] = b if b is not None and any(_fits(arrays[W], arrays[b], axis) for axis in (0, 1)) else None
    votes = [[_fits(arrays[W], arrays[b], axis) for axis in (0, 1)] for W, b in pairs.items() if b is not None]
    turned = votes.count([True, False]) > votes.count([False, True])
    found = []
    for W, b in pairs.items():
        own = b is not None and _fits(arrays[W], arrays[b], 0 if turned else 1)
        found.append(Layer(W, b if own else None, arrays[W].shape[:: -1 if turned else 1], turned))
    return found


def bias_of(W: str, names: Iterable[str]) -> str | None:
    """Which of the names is that of W's bias, if names tell.

    >>> bias_of("Enc.W", ["Enc.W", "Enc.b"]), bias_of("fc1.weight", ["fc1.bias"]), bias_of("U", ["c"])
    ('Enc.b', 'fc1.bias', None)
    """
    known, W = {name.lower(): name for name in names}, W.lower()
    places = [(at, word) for word in WEIGHTS for at in range(len(W)) if W.startswith(word, at)]
    others = (W[:at] + bias + W[at + len(word) :] for at, word in places for bias in BIASES)
    return next((known[other] for other in others if other in known), None)


def _fits(W: Array, b: Array, axis: int) -> bool:
    """Whether b is a vector, or a row or a column of a matrix, as long as W along an axis."""
    return b.ndim in (1, 2) and max(b.shape) == b.size == W.shape[axis]


@dataclass(frozen=True)
class Code:
    """Where an encoder ends: the layers that put out mu and log sigma, which may be one layer's two halves."""

    mu: Layer
    logvar: Layer
    encoder: tuple[str, ...]  # all arrays up to there
    decoder: tuple[str, ...]  # all after


def code(found: Sequence[Layer], names: Sequence[str]) -> Code | None:
    """The layers of the code: one twice as wide as the next is deep, or two alike, as wide as the next is deep."""

    def split(mu: Layer, logvar: Layer) -> Code:
        last = names.index(logvar.names[-1]) + 1
        return Code(mu, logvar, tuple(names[:last]), tuple(names[last:]))

    for one, after in pairwise(found):
        if one.shape[1] == 2 * after.shape[0]:
            return split(one, one)
    for mu, logvar, after in zip(found, found[1:], found[2:], strict=False):
        if mu.shape == logvar.shape and mu.shape[1] == after.shape[0] and mu.shape[0] != mu.shape[1]:
            return split(mu, logvar)
    return None


def is_backwards(found: Sequence[Layer]) -> bool:
    """Whether the shapes contradict the order and fit the reverse.

    They fit where the next layer takes what one puts out, or half of it, or where both are heads of one size.

    >>> import numpy as np
    >>> is_backwards(layers({"V": np.ones((6, 3)), "c": np.ones(3), "W": np.ones((5, 6)), "b": np.ones(6)}))
    True
    """

    def is_chain(some: Sequence[Layer]) -> bool:
        return all(
            one.shape == after.shape or one.shape[1] in (after.shape[0], 2 * after.shape[0])
            for one, after in pairwise(some)
        )

    return is_chain(found[::-1]) and not is_chain(found)


def forward_order(names: Iterable[str], found: Sequence[Layer]) -> list[str]:
    """The names in their order, but for every bias, which comes right behind its W."""
    behind = {layer.W: layer.names for layer in found}
    biases = {layer.b for layer in found}
    return [one for name in names if name not in biases for one in behind.get(name, [name])]


def groups(where: Code | None, names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The arrays of the encoder and of the decoder: by their names, else by the code's place."""
    first = [name for name in names if name.lower().startswith("enc")]
    second = [name for name in names if name.lower().startswith("dec")]
    if first and second:
        return first, second
    return (where.encoder, where.decoder) if where is not None else ((), ())
