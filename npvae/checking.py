"""Gradient checks: the derivative that backward wrote beside the one that the loss itself has.

Two oracles share no mistake. The complex step (Squire & Trapp 1998) reads f'(x) off Im f(x + ih)/h with h = 1e-30:
no difference is taken, so nothing cancels and the error is the rounding of f. The central difference
(f(x + h) - f(x - h))/2h with h = cbrt(machine epsilon) is what a reader can redo by hand, good for about nine digits.
"""

import math
from typing import NamedTuple

import numpy as np

from npvae import noise
from npvae.errors import InputError, check_whole
from npvae.flat import Array, leaves
from npvae.noise import Purpose, stream
from npvae.workspace import Workspace

STEP = 1e-30
TOLERANCE = 1e-11  # of the complex step: a right formula is off by 1e-15, a wrong one by 1e-3 or more


class TensorCheck(NamedTuple):
    """One parameter array: its analytic gradient against both oracles at the entries that were checked.

    Errors are max|analytic - oracle| / max|oracle| over those entries (over the absolute error if the oracle is 0
    throughout); `worst` is the index of the entry that is furthest off the complex step.
    """

    name: str
    shape: tuple[int, ...]
    entries: int
    complex_error: float
    central_error: float
    worst: tuple[int, ...]


class Report(NamedTuple):
    """What `gradcheck` found; printed, it is a table."""

    tensors: tuple[TensorCheck, ...]
    tolerance: float

    @property
    def max_error(self) -> float:
        """The largest error against the complex step."""
        return float(np.max([check.complex_error for check in self.tensors]))  # unlike max(), it lets a NaN through

    @property
    def ok(self) -> bool:
        """Whether every tensor agrees; a NaN does not."""
        return all(check.complex_error <= self.tolerance for check in self.tensors)

    def __str__(self) -> str:
        head = f"{'tensor':<22}{'shape':>14}{'checked':>9}{'complex step':>14}{'central':>11}  verdict"
        lines = [
            f"{c.name:<22}{'x'.join(map(str, c.shape)):>14}{c.entries:>9}{c.complex_error:>14.1e}"
            f"{c.central_error:>11.1e}  {'ok' if c.complex_error <= self.tolerance else f'WRONG, worst at {c.worst}'}"
            for c in self.tensors
        ]
        return "\n".join([head, *lines])


def gradcheck(ws: Workspace, x: Array, target: Array | None = None, beta: float = 1.0, entries: int = 100) -> Report:
    """Check the gradient that `ws`'s model and backend give for a batch x (B, D), and return a Report.

    The check works on a private copy in float64 (the oracle in complex128): `ws`, its generator included, is left
    as it was. `entries`: how many of each parameter array are checked, spread evenly; all, if it has no more.
    Raises InputError for what `Workspace.forward` would refuse.

    >>> import npvae as nv
    >>> ws = nv.Workspace(nv.VAE(data=6, hidden=(5,), latent=2), batch=4)
    >>> nv.gradcheck(ws, np.eye(4, 6)).ok
    True
    """
    if not isinstance(ws, Workspace):
        raise InputError(f"ws must be a Workspace, such as Workspace(model, batch=8), got {type(ws).__name__}")
    check_whole("entries", entries)
    if not isinstance(x, np.ndarray) or x.ndim != 2:
        raise InputError(f"x must be an array (B, {ws.model.data}), got {x!r:.80}")
    copies = [
        Workspace(ws.model, max(len(x), 1), ws.samples, dtype, backend, theta=ws.theta.real.astype(dtype))
        for dtype, backend in (("float64", ws.backend), ("complex128", "reference"))
    ]
    real, oracle = copies
    shape = ws.model.noise(len(x), ws.samples)
    eps = None if shape is None else noise.normal(stream(ws.seed, Purpose.CHECK), np.empty(shape))

    def loss(copy: Workspace) -> float | complex:
        return copy.forward(x, target, eps, beta)

    loss(real)
    real.backward()
    checks = []
    parameters, perturbed = dict(leaves(real.params)), dict(leaves(oracle.params))
    for name, gradient in leaves(real.grads):
        chosen = np.unique(np.linspace(0, gradient.size - 1, min(entries, gradient.size)).astype(int))
        analytic, exact, central = gradient.flat[chosen].copy(), np.empty(len(chosen)), np.empty(len(chosen))
        for k, i in enumerate(chosen):
            here = perturbed[name].flat[i]
            perturbed[name].flat[i] = here + STEP * 1j
            exact[k] = loss(oracle).imag / STEP
            perturbed[name].flat[i] = here

            here = parameters[name].flat[i]
            h = np.cbrt(np.finfo(float).eps) * max(1.0, abs(here))
            ends = []
            for moved in (here + h, here - h):
                parameters[name].flat[i] = moved
                ends.append(loss(real).real)
            parameters[name].flat[i] = here
            central[k] = (ends[0] - ends[1]) / (2 * h)
        off = np.abs(analytic - exact)
        worst = tuple(int(n) for n in np.unravel_index(chosen[int(np.argmax(off))], gradient.shape))
        errors = relative_error(analytic, exact), relative_error(analytic, central)
        checks.append(TensorCheck(name, gradient.shape, len(chosen), *errors, worst))
    return Report(tuple(checks), TOLERANCE)


def relative_error(a: Array, b: Array) -> float:
    """max|a - b| / max|b|, or max|a - b| where b is 0 throughout; NaN if either holds one."""
    scale = float(np.max(np.abs(b), initial=0.0))
    error = float(np.max(np.abs(a - b), initial=0.0))
    return error / scale if scale > 0 or math.isnan(scale) else error
