"""What a model is worth on images: its bound, and an importance-weighted estimate of log p(x)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from npvae import noise
from npvae.bounds import IWAE
from npvae.errors import check_whole
from npvae.flat import Array
from npvae.noise import Purpose, stream
from npvae.runs import Run
from npvae.vae import VAE
from npvae.workspace import Workspace

ACTIVE = 0.01  # the variance of a code unit's mean above which it is in use (Burda et al. 2016, section 5.2)


class Evaluation(NamedTuple):
    """Per image, in nats for a VAE. The last four are None for an autoencoder or where no samples were asked for.

    loss: minus the bound at beta 1, without free bits. nll: the estimate of -log p(x) from `samples` importance
    samples, itself an upper bound in expectation. nll_se: its standard error across images. nll_se_image: the mean
    over images of each estimate's own standard error, by the delta method.
    """

    images: int
    loss: float
    reconstruction: float
    rate: float
    active_units: int
    samples: int | None = None
    nll: float | None = None
    nll_se: float | None = None
    nll_se_image: float | None = None


def measure(run: Run, ws: Workspace, images: Array) -> Evaluation:
    """Loss and terms on images (n, D), binarised and corrupted as in training, all noise from a fixed seed."""
    target = run.binarize(images)
    seen = run.corrupt(target)
    totals = np.zeros(3)
    for index, start in enumerate(range(0, len(images), ws.batch)):
        rows = slice(start, start + ws.batch)
        eps = draw_eps(ws, len(target[rows]), stream(run.seed, Purpose.EVALUATE_EPS, 0, index))
        loss = ws.forward(seen[rows], target[rows], eps)
        totals += len(target[rows]) * np.array([loss, ws.terms["reconstruction"], ws.terms["rate"]])
    loss, reconstruction, rate = (totals / len(images)).tolist()
    active = int(np.count_nonzero(ws.encode(seen).var(axis=0, dtype=np.float64) > ACTIVE))
    return Evaluation(len(images), loss, reconstruction, rate, active)


def evaluate(
    run: Run, images: Array, samples: int | None = 500, watch: Callable[[int, int], None] | None = None
) -> Evaluation:
    """What `measure` says, and for a VAE the importance-weighted estimate of -log p(x) from `samples` samples.

    images: (n, D), as loaded. The samples are streamed: memory does not grow with their number. `watch(done, total)`
    hears of progress. InputError for images that the model's likelihood cannot take or of another size.

    log p(x) = log E_q[w], w = p(x,z)/q(z|x), is estimated by log mean_k w_k (Burda et al. 2016, eq. 8). By the delta
    method its variance is Var(w)/(K E[w]^2), estimated by sum w^2/(sum w)^2 - 1/K.
    """
    run.check(images)
    plain = measure(run, run.ws, images)
    if samples is None or not isinstance(run.model, VAE):
        return plain
    check_whole("samples", samples)
    target = run.binarize(images)
    seen = run.corrupt(target)
    batch, chunk = min(100, len(images)), min(100, samples)
    ws = Workspace(run.model.evaluation(IWAE()), batch, chunk, run.theta.dtype, run.settings.backend, theta=run.theta)
    rest = samples % chunk  # the last, smaller chunk of samples
    small = None
    if rest:
        small = Workspace(ws.model, batch, rest, run.theta.dtype, run.settings.backend, theta=run.theta)
    log_p, variance = np.empty(len(images)), np.empty(len(images))
    chunks = [ws] * (samples // chunk) + [small] * (rest > 0)
    for start in range(0, len(images), batch):
        rows = slice(start, min(start + batch, len(images)))
        log_sum, log_sum_squares = np.full((2, rows.stop - start), -np.inf)
        for index, part in enumerate(chunks):
            assert part is not None
            eps = draw_eps(part, rows.stop - start, stream(run.seed, Purpose.EVALUATE_EPS, 1 + start, index))
            part.forward(seen[rows], target[rows], eps)
            log_w = part.acts.log_w
            log_sum = np.logaddexp(log_sum, np.logaddexp.reduce(log_w, axis=1))
            log_sum_squares = np.logaddexp(log_sum_squares, np.logaddexp.reduce(2 * log_w, axis=1))
        log_p[rows] = log_sum - math.log(samples)
        variance[rows] = np.maximum(np.exp(log_sum_squares - 2 * log_sum) - 1 / samples, 0)
        if watch is not None:
            watch(rows.stop, len(images))
    spread = float(log_p.std(ddof=1) / math.sqrt(len(log_p))) if len(log_p) > 1 else math.nan
    own = float(np.sqrt(variance).mean())
    estimate: dict[str, Any] = {"samples": samples, "nll": float(-log_p.mean()), "nll_se": spread, "nll_se_image": own}
    return plain._replace(**estimate)


def draw_eps(ws: Workspace, rows: int, rng: np.random.Generator) -> Array | None:
    """Noise for `rows` images, or None for a model that has none."""
    shape = ws.model.noise(rows, ws.samples)
    return None if shape is None else noise.normal(rng, np.empty(shape, ws.dtype))
