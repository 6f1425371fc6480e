"""npvae's own gradients: every op and every model, on every backend."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from npvae.checking import check_pair, gradcheck
from npvae.ops import BACKENDS, load_backend
from npvae.reports import Report
from npvae.specimens import OPS, SIZES, models
from npvae.vae import VAE
from npvae.workspace import Workspace


class Checked(NamedTuple):
    """What was checked, on which backend, and what was found."""

    name: str
    backend: str
    report: Report


def count() -> int:
    """How many checks `selfcheck` makes."""
    return len(BACKENDS) * (len(OPS) + sum(1 for _ in models()))


def selfcheck() -> Iterator[Checked]:
    """Check every op and every model on every backend, one after the other; the backends of one stand together.

    Inputs and parameters are drawn from fixed seeds. The complex step is always the reference's.
    """
    reference = load_backend("reference")
    for op in OPS:
        inputs = op.draw(np.random.default_rng(0), SIZES)
        for backend in BACKENDS:
            ops = load_backend(backend)
            pair = getattr(ops, f"{op.name}_forward"), getattr(ops, f"{op.name}_backward")
            exact = getattr(reference, f"{op.name}_forward")
            report = check_pair(
                *pair, inputs, outputs=op.outputs, gradients=op.gradients, settings=op.settings, exact=exact
            )
            yield Checked(str(op), backend, report)
    x, target = np.random.default_rng(1).random((2, SIZES.B, SIZES.D))
    for name, model in models():
        for backend in BACKENDS:
            ws = Workspace(model, SIZES.B, SIZES.K if isinstance(model, VAE) else 1, "float64", backend)
            ws.theta += 0.1 * np.random.default_rng(2).standard_normal(ws.theta.shape)  # no bias at a kink
            yield Checked(name, backend, gradcheck(ws, x, target, 0.7 if isinstance(model, VAE) else 1.0))
