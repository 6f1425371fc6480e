"""The optimisers' update rules on flat vectors, as NumPy; the reference backend has them under the same names.

Each moves `theta` in place along `scale * dtheta` and keeps its memory in the vectors after it. `scale` is the
factor that clipping by global norm asks for: 1 leaves the gradient as it is.

A rule is many simple passes over vectors that are far larger than the processor's caches. So it goes through them
in blocks that are not, all passes over one block before the next: its memory is read and written once, and besides
the vectors there is no more than a block or two.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BLOCK = 16384  # numbers; the six blocks of Adam's step are 384 KiB in float32


def blocks(rooms: int, *vectors: Array) -> Iterator[tuple[Array, ...]]:
    """The vectors block by block, each time followed by `rooms` blocks of memory to work in, their contents undefined.

    >>> [[len(part) for part in parts] for parts in blocks(1, np.zeros(40000), np.zeros(40000))]
    [[16384, 16384, 16384], [16384, 16384, 16384], [7232, 7232, 7232]]
    """
    size = vectors[0].size
    memory = np.empty((rooms, min(BLOCK, size)), vectors[0].dtype)
    for start in range(0, size, BLOCK):
        parts = [vector[start : start + BLOCK] for vector in vectors]
        yield *parts, *memory[:, : len(parts[0])]


def global_norm(dtheta: Array) -> float:
    """|dtheta|, the Euclidean norm, summed in float64."""
    total, memory = 0.0, np.empty(min(BLOCK, dtheta.size))
    for (g,) in blocks(0, dtheta):
        squares = memory[: len(g)]
        np.copyto(squares, g)
        np.multiply(squares, squares, out=squares)
        total += squares.sum()
    return math.sqrt(total)


def sgd_step(theta: Array, dtheta: Array, velocity: Array, rate: float, momentum: float, scale: float) -> None:
    """velocity = momentum velocity + g;  theta -= rate velocity.  Sutskever et al. 2013, with the rate outside."""
    for w, g, v, a in blocks(1, theta, dtheta, velocity):
        v *= momentum
        v += np.multiply(g, scale, out=a)
        w -= np.multiply(v, rate, out=a)


def rmsprop_step(
    theta: Array, dtheta: Array, square: Array, rate: float, decay: float, epsilon: float, scale: float
) -> None:
    """square = decay square + (1 - decay) g^2;  theta -= rate g / (sqrt(square) + epsilon).  Tieleman & Hinton 2012."""
    for w, dw, s, g, a in blocks(2, theta, dtheta, square):
        np.multiply(dw, scale, out=g)
        s *= decay
        np.multiply(g, 1 - decay, out=a)
        s += np.multiply(a, g, out=a)
        np.sqrt(s, out=a)
        a += epsilon
        g *= rate
        w -= np.divide(g, a, out=a)


def adam_step(
    theta: Array,
    dtheta: Array,
    mean: Array,
    square: Array,
    rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    step: int,
    scale: float,
) -> None:
    """theta -= rate m / (sqrt(s) + epsilon), m = mean / (1 - beta1^t), s = square / (1 - beta2^t), t = step from 1.

    Kingma & Ba 2015, algorithm 1: mean = beta1 mean + (1 - beta1) g and square = beta2 square + (1 - beta2) g^2
    start at 0, so after t steps they hold 1 - beta^t of what they should, and both are divided by that. epsilon
    stands outside the root.
    """
    for w, dw, m, s, g, a in blocks(2, theta, dtheta, mean, square):
        np.multiply(dw, scale, out=g)
        m *= beta1
        m += np.multiply(g, 1 - beta1, out=a)
        s *= beta2
        np.multiply(g, 1 - beta2, out=a)
        s += np.multiply(a, g, out=a)
        root = np.sqrt(np.divide(s, 1 - beta2**step, out=a), out=a)
        root += epsilon
        np.multiply(m, rate / (1 - beta1**step), out=g)
        w -= np.divide(g, root, out=g)
