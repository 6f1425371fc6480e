"""What a model is worth on images: its bound, and an importance-weighted estimate of log p(x)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from npvae import noise
from npvae.bounds import ELBO, IWAE, Bound
from npvae.errors import InputError, check_whole
from npvae.flat import Array
from npvae.noise import Purpose, stream
from npvae.runs import Run
from npvae.vae import VAE
from npvae.workspace import Workspace

ACTIVE = 0.01  # the variance of a code unit's mean above which it is in use (Burda et al. 2016, section 5.2)


class Evaluation(NamedTuple):
    """Per image, in nats for a VAE.

    loss: minus the bound at beta 1, without free bits, or the squared error. samples, nll, nll_se and nll_se_image
    are None unless an estimate was made: nll is that of -log p(x) from `samples` importance samples, itself an upper
    bound in expectation; nll_se its standard error across images, NaN for one image; nll_se_image the mean of each
    image's own, NaN for one sample.
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
    """Loss and terms that `ws` measures on images (n, D), as evaluated, all noise from a fixed seed."""
    target, seen = _as_evaluated(run, images)
    totals = np.zeros(3)
    for index, rows in enumerate(_batches(len(images), ws.batch)):
        eps = draw_eps(ws, len(target[rows]), stream(run.seed, Purpose.EVALUATE_EPS, 0, index))
        loss = ws.forward(seen[rows], target[rows], eps)
        totals += len(target[rows]) * np.array([loss, ws.terms["reconstruction"], ws.terms["rate"]])
    loss, reconstruction, rate = (totals / len(images)).tolist()
    active = int(np.count_nonzero(ws.encode(seen).var(axis=0, dtype=np.float64) > ACTIVE))
    return Evaluation(len(images), loss, reconstruction, rate, active)


def evaluate(
    run: Run, images: Array, samples: int | None = 500, watch: Callable[[int, int], None] | None = None
) -> Evaluation:
    """-ELBO and its terms, and the importance-weighted estimate of -log p(x) from `samples` samples per image.

    images: (n, D), as loaded; they are binarised and corrupted as in training, from the run's seed. An autoencoder
    has no p(x): its loss is the squared error. The samples are streamed: memory does not grow with their number.
    `watch(done, total)` hears of progress. InputError for what `Run.check` refuses.

    log p(x) = log E_q[w], w = p(x,z)/q(z|x), is estimated by log mean_k w_k (Burda et al. 2016, eq. 8). By the delta
    method its variance is Var(w)/(K E[w]^2), which the samples estimate as (sum w^2/(sum w)^2 - 1/K) K/(K - 1).
    """
    if not isinstance(run, Run):
        raise InputError(f"run must be a Run, what nv.train and nv.load return, got {type(run).__name__}")
    run.check(images)
    if samples is not None:
        check_whole("samples", samples)
    if not isinstance(run.model, VAE):
        return measure(run, run.ws, images)
    plain = measure(run, _workspace(run, run.ws.batch, run.ws.samples, ELBO()), images)
    if samples is None:
        return plain
    log_p, error = _importance(run, images, samples, watch)
    across = float(log_p.std(ddof=1) / math.sqrt(len(log_p))) if len(log_p) > 1 else math.nan
    return plain._replace(samples=samples, nll=float(-log_p.mean()), nll_se=across, nll_se_image=float(error.mean()))


def _importance(run: Run, images: Array, samples: int, watch: Callable[[int, int], None] | None) -> tuple[Array, Array]:
    """The estimates of log p(x), (n,), and their standard errors, (n,): NaN for a single sample."""
    target, seen = _as_evaluated(run, images)
    batch, chunk = min(100, len(images)), min(100, samples)
    # Chunks of samples, the last one smaller if need be; only sums of w and w^2 are kept, as logarithms.
    parts = [_workspace(run, batch, chunk, IWAE())] * (samples // chunk)
    parts += [_workspace(run, batch, samples % chunk, IWAE())] if samples % chunk else []
    log_p, variance = np.empty(len(images)), np.empty(len(images))
    for rows in _batches(len(images), batch):
        count = len(target[rows])
        log_sum, log_sum_squares = np.full((2, count), -np.inf)
        for index, ws in enumerate(parts):
            eps = draw_eps(ws, count, stream(run.seed, Purpose.EVALUATE_EPS, 1 + rows.start, index))
            ws.forward(seen[rows], target[rows], eps)
            log_w = ws.acts.log_w
            log_sum = np.logaddexp(log_sum, np.logaddexp.reduce(log_w, axis=1))
            log_sum_squares = np.logaddexp(log_sum_squares, np.logaddexp.reduce(2 * log_w, axis=1))
        log_p[rows] = log_sum - math.log(samples)
        spread = np.exp(log_sum_squares - 2 * log_sum) - 1 / samples  # at least 0, but for its rounding
        variance[rows] = np.maximum(spread, 0) * samples / (samples - 1) if samples > 1 else math.nan
        if watch is not None:
            watch(min(rows.stop, len(images)), len(images))
    return log_p, np.sqrt(variance)


def _as_evaluated(run: Run, images: Array) -> tuple[Array, Array]:
    """What is to be reconstructed, and what the model sees of it."""
    target = run.binarize(images)
    return target, run.corrupt(target)


def _workspace(run: Run, batch: int, samples: int, bound: Bound) -> Workspace:
    """A workspace that measures the run's parameters by `bound`."""
    assert isinstance(run.model, VAE)
    model = run.model.evaluation(bound)
    return Workspace(model, batch, samples, run.theta.dtype, run.settings.backend, theta=run.theta)


def _batches(total: int, batch: int) -> list[slice]:
    return [slice(start, start + batch) for start in range(0, total, batch)]


def draw_eps(ws: Workspace, rows: int, rng: np.random.Generator) -> Array | None:
    """Noise for `rows` images, or None for a model that has none."""
    shape = ws.model.noise(rows, ws.samples)
    return None if shape is None else noise.normal(rng, np.empty(shape, ws.dtype))
