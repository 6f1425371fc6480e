"""Dense layers in a row: forward down the list of activations, backward up the same list."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from npvae.errors import InputError, check_choice, check_whole
from npvae.flat import Array, Shape, Tree
from npvae.ops import reference

# What a model's `activation` may be, and the number by which ops know it.
ACTIVATIONS = {
    "identity": reference.IDENTITY,
    "relu": reference.RELU,
    "leaky-relu": reference.LEAKY_RELU,
    "tanh": reference.TANH,
    "sigmoid": reference.SIGMOID,
    "softplus": reference.SOFTPLUS,
    "elu": reference.ELU,
}
RECTIFIERS = ("relu", "leaky-relu", "elu")  # half of their inputs pass weakened: He's initialisation


class Dense(NamedTuple):
    """The parameters of a layer, y = act(x W + b): W (in, out) and b (out,)."""

    W: Any
    b: Any


@dataclass(frozen=True)
class MLP:
    """Dense layers of the given widths, input first; the activation stands between them, the last is linear.

    It owns no numbers. `h` is the list of what the layers put out, h[-1] the result; the input is passed beside it.
    """

    widths: tuple[int, ...]
    activation: str

    def params(self) -> Tree:
        """Layout of the parameters: a Dense per layer."""
        return tuple(Dense(Shape((i, o)), Shape((o,))) for i, o in pairwise(self.widths))

    def acts(self, rows: int) -> Tree:
        """Layout of the activations: (rows, width) per layer."""
        return tuple(Shape((rows, width)) for width in self.widths[1:])

    def scratch(self, ops: Any, rows: int) -> int:
        """How many numbers of scratch the largest layer's backward wants."""
        return max(int(ops.dense_scratch(rows, i, o)) for i, o in pairwise(self.widths))

    def codes(self) -> list[int]:
        """The activation of each layer, as ops take it."""
        hidden = len(self.widths) - 2
        return [ACTIVATIONS[self.activation]] * hidden + [reference.IDENTITY]

    def forward(self, ops: Any, p: Tree, x: Array, h: Tree) -> Array:
        """x (rows, in) -> h[-1] (rows, out); every layer's output is left in h."""
        for layer, act, y in zip(p, self.codes(), h, strict=True):
            x = ops.dense_forward(x, layer.W, layer.b, act, out=y)
        return x

    def backward(
        self, ops: Any, p: Tree, x: Array, h: Tree, dp: Tree, dh: Tree, scratch: Array, dx: Array | None = None
    ) -> None:
        """dh[-1] (rows, out) -> dp, the rest of dh and, if there is room for it, dx (rows, in)."""
        codes = self.codes()
        for i in reversed(range(len(p))):
            below, dbelow = (h[i - 1], dh[i - 1]) if i > 0 else (x, dx)
            ops.dense_backward(dh[i], below, p[i].W, h[i], codes[i], out=(dbelow, *dp[i]), scratch=scratch)

    def initialize(self, p: Tree, rng: np.random.Generator) -> None:
        """Draw the weights so that activations keep their variance on the way down, and set the biases to 0.

        He, Zhang, Ren & Sun 2015 for layers under a rectifier, N(0, 2/in); Glorot & Bengio 2010 for the others and
        for the last, U(-a, a) with a^2 = 6/(in + out). Drawn in float64, so that a seed means the same weights in
        every precision.
        """
        for i, layer in enumerate(p):
            fan_in, fan_out = layer.W.shape
            if self.activation in RECTIFIERS and i < len(p) - 1:
                layer.W[:] = rng.normal(0, np.sqrt(2 / fan_in), layer.W.shape)
            else:
                edge = np.sqrt(6 / (fan_in + fan_out))
                layer.W[:] = rng.uniform(-edge, edge, layer.W.shape)
            layer.b[:] = 0


def check_architecture(data: object, hidden: object, latent: object, activation: object) -> dict[str, Any]:
    """Return data, hidden (a tuple) and latent as plain numbers, by name.

    Raises InputError unless these describe an encoder and its mirror image.
    """
    check_choice("activation", activation, ACTIVATIONS)
    if not isinstance(hidden, tuple | list):
        raise InputError(f"hidden must be a tuple of widths such as (400, 200), got {hidden!r}")
    widths = tuple(check_whole("hidden", width) for width in hidden)
    return {"data": check_whole("data", data), "hidden": widths, "latent": check_whole("latent", latent)}
