"""The activations and their derivatives on a block of a matrix, compiled; reference.py has the mathematics."""

from typing import Any

import numpy as np
import numpy.typing as npt

from npvae.ops.compiling import CAREFUL, ROUNDED, kernel
from npvae.ops.reference import ELU, LEAK, LEAKY_RELU, RELU, SIGMOID, SOFTPLUS, TANH

Array = npt.NDArray[Any]
Span = tuple[int, int]  # first, and one past the last


@kernel(CAREFUL)
def activate(y: Array, rows: Span, columns: Span, b: Array, act: int) -> None:
    """y (N,H) becomes act(y + b) in the given rows and columns."""
    zero, leak = y.dtype.type(0), y.dtype.type(LEAK)
    first, last = columns
    for n in range(rows[0], rows[1]):
        for j in range(first, last):
            y[n, j] += b[j]
        if act == RELU:
            for j in range(first, last):
                y[n, j] = zero if y[n, j] <= 0 else y[n, j]
        elif act == LEAKY_RELU:
            for j in range(first, last):
                y[n, j] = leak * y[n, j] if y[n, j] <= 0 else y[n, j]
        elif act == TANH:
            for j in range(first, last):
                y[n, j] = np.tanh(y[n, j])
        elif act == SIGMOID:
            for j in range(first, last):
                y[n, j] = sigmoid(y[n, j])
        elif act == SOFTPLUS:
            for j in range(first, last):
                tail = np.log1p(np.exp(minus_abs(y[n, j])))
                y[n, j] = tail if y[n, j] <= 0 else y[n, j] + tail
        elif act == ELU:
            for j in range(first, last):
                y[n, j] = np.expm1(y[n, j]) if y[n, j] <= 0 else y[n, j]


@kernel(ROUNDED)
def activate_backward(dy: Array, y: Array, rows: Span, columns: Span, act: int, da: Array, db: Array) -> None:
    """Fill the columns of da (N,H) with dy act' and those of db (H,) with sum_n da."""
    zero, one, leak = y.dtype.type(0), y.dtype.type(1), y.dtype.type(LEAK)
    first, last = columns
    for j in range(first, last):
        db[j] = zero
    for n in range(rows[0], rows[1]):
        if act == RELU:
            for j in range(first, last):
                da[n, j] = zero if y[n, j] <= 0 else dy[n, j]
        elif act == LEAKY_RELU:
            for j in range(first, last):
                da[n, j] = leak * dy[n, j] if y[n, j] <= 0 else dy[n, j]
        elif act == TANH:
            for j in range(first, last):
                da[n, j] = (one - y[n, j] * y[n, j]) * dy[n, j]
        elif act == SIGMOID:
            for j in range(first, last):
                da[n, j] = (one - y[n, j]) * y[n, j] * dy[n, j]
        elif act == SOFTPLUS:
            for j in range(first, last):
                da[n, j] = -np.expm1(-y[n, j]) * dy[n, j]
        elif act == ELU:
            for j in range(first, last):
                da[n, j] = (y[n, j] + one) * dy[n, j] if y[n, j] <= 0 else dy[n, j]
        for j in range(first, last):
            db[j] += da[n, j]


@kernel(CAREFUL)
def minus_abs(a: Any) -> Any:
    """-|a|, the argument that an exponential can always bear."""
    return -a if a > 0 else a


@kernel(CAREFUL)
def sigmoid(a: Any) -> Any:
    """1 / (1 + e^-a)."""
    one = type(a)(1)
    e = np.exp(minus_abs(a))
    return (one if a > 0 else e) / (one + e)
