"""The optimisers' update rules on flat vectors, as NumPy; the reference backend has them under the same names.

Each moves `theta` in place along `scale * dtheta` and keeps its memory in the vectors after it. `scale` is the
factor that clipping by global norm asks for: 1 leaves the gradient as it is.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def global_norm(dtheta: Array) -> float:
    """|dtheta|, the Euclidean norm, summed in float64."""
    return math.sqrt(np.sum(np.square(dtheta, dtype=np.float64)))


def sgd_step(theta: Array, dtheta: Array, velocity: Array, rate: float, momentum: float, scale: float) -> None:
    """velocity = momentum velocity + g;  theta -= rate velocity.  Sutskever et al. 2013, with the rate outside."""
    velocity *= momentum
    velocity += scale * dtheta
    theta -= rate * velocity


def rmsprop_step(
    theta: Array, dtheta: Array, square: Array, rate: float, decay: float, epsilon: float, scale: float
) -> None:
    """square = decay square + (1 - decay) g^2;  theta -= rate g / (sqrt(square) + epsilon).  Tieleman & Hinton 2012."""
    g = scale * dtheta
    square *= decay
    square += (1 - decay) * g * g
    theta -= rate * g / (np.sqrt(square) + epsilon)


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
    """Kingma & Ba 2015, algorithm 1; `step` counts from 1.

    The moments start at 0, so after t steps they hold 1 - beta^t of what they should: both are divided by that.
    epsilon stands outside the root.
    """
    g = scale * dtheta
    mean *= beta1
    mean += (1 - beta1) * g
    square *= beta2
    square += (1 - beta2) * g * g
    root = np.sqrt(square / (1 - beta2**step))
    theta -= rate / (1 - beta1**step) * mean / (root + epsilon)
