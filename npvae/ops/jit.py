"""The ops of `reference` for float32 and float64, compiled: the same names, the same signatures.

What an op computes, and why, stands in reference.py. What differs here:

* Products are NumPy's; everything else is one pass over its arrays in a compiled loop (kernels.py). No loop
  is parallel: the BLAS under NumPy keeps threads of its own, and two pools of spinning threads in one step
  cost many times the step.
* Layout: C-contiguous arrays, as views carved out of a flat buffer are. Any other works, and compiles anew.
* Precision: the arrays of an op share one dtype, but for those that reference calls wide, which are float64.

NaN and inf are treated as in reference. An empty batch gives empty outputs and zeros for the derivatives by
parameters; the bounds and the optimal sigma, which are means over the batch, need an image.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from npvae.ops import kernels

# There is nothing to compile in products alone, nor in a bound on B*K numbers without an exponential.
from npvae.ops.reference import IDENTITY, LOG_2PI
from npvae.ops.reference import dense_scratch as dense_scratch
from npvae.ops.reference import elbo_backward as elbo_backward
from npvae.ops.reference import elbo_forward as elbo_forward
from npvae.ops.reference import tied_backward as tied_backward
from npvae.ops.reference import tied_forward as tied_forward
from npvae.ops.reference import tied_scratch as tied_scratch

Array = npt.NDArray[Any]

# ── Dense layer ──────────────────────────────────────────────────────────────────────────────────────────────────


def dense_forward(x: Array, W: Array, b: Array, act: int, out: Array | None = None) -> Array:
    """See reference; bias and activation are one pass over y."""
    y = np.matmul(x, W, out=out)
    kernels.activate(y, b, act)
    return y


def dense_backward(
    dy: Array,
    x: Array,
    W: Array,
    y: Array,
    act: int,
    out: tuple[Array | None, Array, Array] | None = None,
    scratch: Array | None = None,
) -> tuple[Array | None, Array, Array]:
    """See reference; da and db are one pass over dy."""
    dx, dW, db = out or (np.empty_like(x), np.empty_like(W), np.empty_like(W, shape=W.shape[1]))
    if act == IDENTITY:
        da = dy
    elif scratch is None:
        da = np.empty_like(dy)
    else:
        da = scratch[: dy.size].reshape(dy.shape)
    kernels.activate_backward(dy, y, act, da, db)
    if dx is not None:
        np.matmul(da, W.T, out=dx)
    np.matmul(x.T, da, out=dW)
    return dx, dW, db


# ── Linear autoencoder ───────────────────────────────────────────────────────────────────────────────────────────


def squared_error_forward(y: Array, target: Array, out: Array | None = None) -> Array:
    """See reference."""
    error = np.empty(len(y)) if out is None else out
    kernels.squared_distance(y[:, None], target, error[:, None])
    return error


def squared_error_backward(derror: Array, y: Array, target: Array, out: Array | None = None) -> Array:
    """See reference."""
    dy = np.empty_like(y) if out is None else out
    kernels.weighted_residual(-2 * derror[:, None], y[:, None], target, dy[:, None])
    return dy


# ── The code: reparameterisation and its rate ────────────────────────────────────────────────────────────────────


def reparameterize_forward(stats: Array, eps: Array, out: Array | None = None) -> Array:
    """See reference."""
    z = np.empty_like(eps) if out is None else out
    kernels.reparameterize(stats, eps, z)
    return z


def reparameterize_backward(dz: Array, stats: Array, eps: Array, out: Array | None = None) -> Array:
    """See reference."""
    dstats = np.empty_like(stats) if out is None else out
    kernels.reparameterize_backward(dz, stats, eps, dstats)
    return dstats


def gaussian_kl_forward(stats: Array, out: Array | None = None) -> Array:
    """See reference."""
    rate = np.empty((*stats.shape[:-1], stats.shape[-1] // 2)) if out is None else out
    kernels.gaussian_kl(stats, rate)
    return rate


def gaussian_kl_backward(drate: Array, stats: Array, out: Array | None = None) -> Array:
    """See reference."""
    dstats = np.empty_like(stats) if out is None else out
    kernels.gaussian_kl_backward(drate, stats, dstats)
    return dstats


def log_ratio_forward(stats: Array, z: Array, eps: Array, out: Array | None = None) -> Array:
    """See reference."""
    rate = np.empty(z.shape) if out is None else out
    kernels.log_ratio(stats, z, eps, rate)
    return rate


def log_ratio_backward(
    drate: Array, stats: Array, z: Array, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """See reference."""
    dz, dstats = out or (np.empty_like(z), np.empty_like(stats))
    kernels.log_ratio_backward(drate, z, dz, dstats)
    return dz, dstats


# ── Likelihoods ──────────────────────────────────────────────────────────────────────────────────────────────────
# With one sigma for all pixels, what is left beside them are B*K numbers, and NumPy's.


def bernoulli_forward(logits: Array, target: Array, out: Array | None = None) -> Array:
    """See reference; summed in float64."""
    log_px = np.empty(logits.shape[:-1]) if out is None else out
    kernels.bernoulli(logits, target, log_px)
    return log_px


def bernoulli_backward(dlog_px: Array, logits: Array, target: Array, out: Array | None = None) -> Array:
    """See reference."""
    dlogits = np.empty_like(logits) if out is None else out
    kernels.bernoulli_backward(dlog_px, logits, target, dlogits)
    return dlogits


def gaussian_forward(mean: Array, target: Array, logvar: Array, out: Array | None = None) -> Array:
    """See reference; summed in float64."""
    log_px = np.empty(mean.shape[:-1]) if out is None else out
    kernels.squared_distance(mean, target, log_px)
    _to_density(log_px, mean.shape[-1], logvar.astype(np.float64))
    return log_px


def gaussian_backward(
    dlog_px: Array,
    mean: Array,
    target: Array,
    logvar: Array,
    log_px: Array,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """See reference."""
    dmean, dlogvar = out or (np.empty_like(mean), np.empty_like(logvar))
    logvar = logvar.astype(np.float64)
    kernels.weighted_residual(dlog_px * np.exp(-logvar), mean, target, dmean)
    dlogvar[:] = _dlogvar(dlog_px, mean.shape[-1], logvar, log_px)
    return dmean, dlogvar


def gaussian_optimal_forward(mean: Array, target: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """See reference; summed in float64."""
    log_px, logvar = out or (np.empty(mean.shape[:-1]), np.empty(1))
    kernels.squared_distance(mean, target, log_px)
    logvar[:] = np.log(np.mean(log_px) / mean.shape[-1])
    _to_density(log_px, mean.shape[-1], logvar)
    return log_px, logvar


def gaussian_optimal_backward(
    dlog_px: Array, mean: Array, target: Array, log_px: Array, logvar: Array, out: Array | None = None
) -> Array:
    """See reference."""
    dmean = np.empty_like(mean) if out is None else out
    dlogvar = _dlogvar(dlog_px, mean.shape[-1], logvar, log_px)
    kernels.weighted_residual((dlog_px - 2 * dlogvar / mean.size) * np.exp(-logvar), mean, target, dmean)
    return dmean


def _to_density(S: Array, D: int, logvar: Array) -> None:
    """S (B,K) <- -(D (log 2pi + logvar) + S e^-logvar)/2."""
    S *= np.exp(-logvar)
    S += D * (LOG_2PI + logvar)
    S *= -0.5


def _dlogvar(dlog_px: Array, D: int, logvar: Array, log_px: Array) -> Any:
    """sum_bk dlog_px_bk (S_bk e^-logvar - D)/2, S read back from log_px."""
    return -np.sum(dlog_px * (log_px + 0.5 * D * (LOG_2PI + 1 + logvar)))


def gaussian_pixel_forward(pixels: Array, target: Array, out: Array | None = None) -> Array:
    """See reference; summed in float64."""
    log_px = np.empty(pixels.shape[:-1]) if out is None else out
    kernels.gaussian_pixel(pixels, target, log_px)
    return log_px


def gaussian_pixel_backward(dlog_px: Array, pixels: Array, target: Array, out: Array | None = None) -> Array:
    """See reference."""
    dpixels = np.empty_like(pixels) if out is None else out
    kernels.gaussian_pixel_backward(dlog_px, pixels, target, dpixels)
    return dpixels


# ── Bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────


def iwae_forward(log_px: Array, rate: Array, beta: float, out: Array | None = None) -> tuple[Any, Array]:
    """See reference."""
    log_w = np.empty_like(log_px) if out is None else out
    bound = np.float64(kernels.iwae(log_px, rate, float(beta), log_w))
    return -bound / len(log_w), log_w


def iwae_backward(
    dloss: float, log_w: Array, rate: Array, beta: float, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """See reference."""
    dlog_px, drate, dlog_w = out or (np.empty_like(log_w), np.empty_like(rate), np.empty_like(log_w))
    kernels.iwae_backward(-dloss / len(log_w), log_w, float(beta), dlog_px, drate, dlog_w)
    return dlog_px, drate, dlog_w


# ── Updates: one pass over the vectors, the step's own numbers worked out in float64 ─────────────────────────────


def global_norm(dtheta: Array) -> float:
    """See updates."""
    return math.sqrt(kernels.sum_of_squares(dtheta))


def sgd_step(theta: Array, dtheta: Array, velocity: Array, rate: float, momentum: float, scale: float) -> None:
    """See updates."""
    kernels.sgd(theta, dtheta, velocity, float(rate), float(momentum), float(scale))


def rmsprop_step(
    theta: Array, dtheta: Array, square: Array, rate: float, decay: float, epsilon: float, scale: float
) -> None:
    """See updates."""
    decay = float(decay)  # an integer would compile anew
    kernels.rmsprop(theta, dtheta, square, float(rate), decay, 1 - decay, float(epsilon), float(scale))


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
    """See updates."""
    beta1, beta2, step_rate = float(beta1), float(beta2), float(rate / (1 - beta1**step))
    kernels.adam(
        *(theta, dtheta, mean, square),
        *(step_rate, beta1, 1 - beta1, beta2, 1 - beta2, 1 - beta2**step, float(epsilon), float(scale)),
    )
