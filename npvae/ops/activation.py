"""The activations and their derivatives on a block of a matrix, compiled; reference.py has the mathematics."""

from typing import Any

import numpy.typing as npt

from npvae.ops.compiling import CAREFUL, ROUNDED, kernel, parallel, share
from npvae.ops.elementary import expm1, sigmoid, softplus, tanh
from npvae.ops.reference import ELU, LEAK, LEAKY_RELU, RELU, SIGMOID, SOFTPLUS, TANH

Array = npt.NDArray[Any]


@kernel(CAREFUL)
def activate(y: Array, y_row: int, top: int, bottom: int, left: int, right: int, b: Array, act: int) -> None:
    """y becomes act(y + b) in rows top to bottom, columns left to right; y is flat, its rows y_row numbers apart."""
    zero, leak = y.dtype.type(0), y.dtype.type(LEAK)
    for n in range(top, bottom):
        line, bias = y[n * y_row + left : n * y_row + right], b[left:right]
        for j in range(line.size):
            line[j] += bias[j]
        if act == RELU:
            for j in range(line.size):
                line[j] = zero if line[j] <= 0 else line[j]
        elif act == LEAKY_RELU:
            for j in range(line.size):
                line[j] = leak * line[j] if line[j] <= 0 else line[j]
        elif act == TANH:
            for j in range(line.size):
                line[j] = tanh(line[j])
        elif act == SIGMOID:
            for j in range(line.size):
                line[j] = sigmoid(line[j])
        elif act == SOFTPLUS:
            for j in range(line.size):
                line[j] = softplus(line[j])
        elif act == ELU:
            for j in range(line.size):
                line[j] = expm1(line[j]) if line[j] <= 0 else line[j]


@parallel(ROUNDED)
def activate_backward(part: int, parts: int, dy: Array, y: Array, act: int, da: Array) -> None:
    """Fill da (N,H) with dy act', by rows: columns would have two threads write to one page."""
    zero, one, leak = y.dtype.type(0), y.dtype.type(1), y.dtype.type(LEAK)
    first, last = share(part, parts, len(y), 1)
    for n in range(first, last):
        dy_n, y_n, da_n = dy[n], y[n], da[n]
        if act == RELU:
            for j in range(y_n.size):
                da_n[j] = zero if y_n[j] <= 0 else dy_n[j]
        elif act == LEAKY_RELU:
            for j in range(y_n.size):
                da_n[j] = leak * dy_n[j] if y_n[j] <= 0 else dy_n[j]
        elif act == TANH:
            for j in range(y_n.size):
                da_n[j] = (one - y_n[j] * y_n[j]) * dy_n[j]
        elif act == SIGMOID:
            for j in range(y_n.size):
                da_n[j] = (one - y_n[j]) * y_n[j] * dy_n[j]
        elif act == SOFTPLUS:
            for j in range(y_n.size):
                da_n[j] = -expm1(-y_n[j]) * dy_n[j]
        elif act == ELU:
            for j in range(y_n.size):
                da_n[j] = (y_n[j] + one) * dy_n[j] if y_n[j] <= 0 else dy_n[j]
