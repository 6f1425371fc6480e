"""Integrals over a code of one or two dimensions, to machine precision: rules of nodes and weights.

What is integrated is a density or its product with something smooth. On such functions, which vanish at the edges,
evenly spaced nodes converge faster than any power of the spacing (Trefethen & Weideman 2014, "The exponentially
convergent trapezoidal rule"), and Gauss-Hermite nodes are exact for polynomials. Weights are logarithms, so that
densities of e^-200 do not vanish in between.

n nodes · Z dimensions of the code
"""

from typing import NamedTuple

import numpy as np

from npvae.errors import InputError, check_real, check_whole
from npvae.flat import Array

LARGEST = 4_000_000  # nodes of a rule
HERMITE = 150  # nodes along an axis beyond which the weights of NumPy's Gauss-Hermite rule underflow


class Rule(NamedTuple):
    """Nodes z (n, Z) and the logarithms of their weights (n,): an integral is a weighted sum over the nodes.

    >>> rule = grid(np.zeros(2), np.eye(2), reach=8.0, nodes=33)
    >>> bell = -0.5 * (rule.z**2).sum(axis=1)  # its integral over the plane is 2 pi
    >>> bool(abs(rule.log_integral(bell) - np.log(2 * np.pi)) < 1e-12)
    True
    """

    z: Array
    log_weight: Array

    def integral(self, f: Array) -> float:
        """The integral of f, given at the nodes, (n,)."""
        return float(np.exp(self.log_weight) @ f)

    def log_integral(self, log_f: Array) -> float:
        """The logarithm of the integral of exp(log_f), log_f being given at the nodes, (n,)."""
        return float(np.logaddexp.reduce(self.log_weight + log_f))


def grid(centre: Array, axes: Array, reach: float, nodes: int) -> Rule:
    """The rule of evenly spaced nodes for the integral over z of what has vanished at the edges.

    centre: (Z,). axes: (Z, Z), a row for every side of the parallelogram: z = centre + u axes with each u on `nodes`
    values from -reach to reach. With the rows of a covariance's transposed Cholesky factor, reach counts standard
    deviations. InputError for shapes that do not fit, axes that span no area, and more than 4 million nodes.
    """
    centre, axes = _centre(centre), np.asarray(axes, np.float64)
    if axes.shape != (centre.size, centre.size) or not np.isfinite(axes).all():
        raise InputError(f"axes must be (Z, Z), as centre is (Z,), and finite, got {axes.tolist()!r:.80}")
    log_area = np.linalg.slogdet(axes)[1]
    if log_area == -np.inf:
        raise InputError(f"axes must span an area, got {axes.tolist()}")
    u, spacing = np.linspace(-check_real("reach", reach, 0.0, open_=True), reach, _count(nodes, 2), retstep=True)
    z = centre + _product(u, centre.size) @ axes
    return Rule(z, np.full(len(z), log_area + centre.size * np.log(spacing)))


def gauss_hermite(mean: Array, sigma: Array, nodes: int) -> Rule:
    """The rule for the expectation over z ~ N(mean, sigma^2), mean and sigma (Z,): sum_i w_i f(z_i) is E f(z).

    Exact where f is a polynomial of degree below 2 `nodes` along every axis. InputError as for `grid`, for sigma that
    is not above 0, and for more than 150 nodes along an axis.
    """
    mean, sigma = _centre(mean), np.asarray(sigma, np.float64)
    if sigma.shape != mean.shape or not (sigma > 0).all():
        raise InputError(f"sigma must be ({mean.size},) and above 0, got {sigma.tolist()}")
    if _count(nodes, 1) > HERMITE:
        raise InputError(f"nodes must be at most {HERMITE} along an axis, got {nodes}")
    u, weight = np.polynomial.hermite_e.hermegauss(nodes)
    log_weight = _product(np.log(weight / weight.sum()), mean.size).sum(axis=1)
    return Rule(mean + sigma * _product(u, mean.size), log_weight)


def _product(values: Array, Z: int) -> Array:
    """All Z-tuples of the values: (m,) -> (m^Z, Z)."""
    if len(values) ** Z > LARGEST:
        raise InputError(f"{len(values)} nodes along each of {Z} axes are {len(values) ** Z:,}: at most {LARGEST:,}")
    return np.stack(np.meshgrid(*[values] * Z, indexing="ij"), axis=-1).reshape(-1, Z)


def _centre(centre: Array) -> Array:
    centre = np.asarray(centre, np.float64)
    if centre.ndim != 1 or not centre.size or not np.isfinite(centre).all():
        raise InputError(f"the middle of a rule must be finite numbers (Z,), got {centre.tolist()}")
    return centre


def _count(nodes: int, least: int) -> int:
    return check_whole("nodes", nodes, least)
