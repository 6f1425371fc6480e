"""The ops of `reference` for float32 and float64, compiled: the same names, the same signatures.

What an op computes, and why, stands in reference.py. What differs here:

* Products are those of matmul.py, everything else is one pass over its arrays in a compiled loop (kernels.py). Both
  share their work out to one pool of threads. No BLAS is called: it keeps threads of its own, and two pools of
  spinning threads in one step cost many times the step.
* Results are the same bits for any number of threads: no sum is shared between threads, and where work is cut
  changes none.
* Layout: C-contiguous arrays, as views carved out of a flat buffer are. Any other works: in a product it is copied,
  in a loop it compiles anew.
* Precision: the arrays of an op share one dtype, but for those that reference calls wide, which are float64.

NaN and inf are treated as in reference. An empty batch gives empty outputs and zeros for the derivatives by
parameters; the bounds and the optimal sigma, which are means over the batch, need an image.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from npvae.ops import activation, kernels
from npvae.ops.matmul import product, product_nt, product_tn
from npvae.ops.reference import IDENTITY, LOG_2PI

# Scratch holds what it holds there.
from npvae.ops.reference import dense_scratch as dense_scratch
from npvae.ops.reference import tied_scratch as tied_scratch
from npvae.ops.threads import parts

Array = npt.NDArray[Any]

EXPONENTIAL = 32  # an exponential takes about as long as so many multiply-adds of a product,
PASS = 16  # reading and writing a number as so many

# ── Input ────────────────────────────────────────────────────────────────────────────────────────────────────────


def copy(a: Array, out: Array) -> None:
    """See reference; what can be copied as it lies is shared out."""
    alike = a.dtype == out.dtype and a.flags.c_contiguous and out.flags.c_contiguous
    if alike and a.flags.writeable:  # read-only arrays would compile anew
        kernels.copy(parts(PASS * a.size), a.reshape(-1), out.reshape(-1))
    else:
        out[...] = a


# ── Dense layer ──────────────────────────────────────────────────────────────────────────────────────────────────


def dense_forward(x: Array, W: Array, b: Array, act: int, out: Array | None = None) -> Array:
    """See reference; bias and activation are applied to each strip of y while it is in the cache."""
    return product(x, W, np.empty((len(x), W.shape[1]), x.dtype) if out is None else out, b, act)


def dense_backward(
    dy: Array,
    x: Array,
    W: Array,
    y: Array,
    act: int,
    out: tuple[Array | None, Array, Array] | None = None,
    scratch: Array | None = None,
) -> tuple[Array | None, Array, Array]:
    """See reference; db is summed where dW reads da, which two products read and so is written out once."""
    dx, dW, db = out or (np.empty_like(x), np.empty_like(W), np.empty_like(W, shape=W.shape[1]))
    scratch = np.empty(dy.size, dy.dtype) if scratch is None else scratch
    da = dy
    if act != IDENTITY:
        da = scratch[: dy.size].reshape(dy.shape)
        activation.activate_backward(parts(PASS * dy.size), dy, y, act, da)
    if dx is not None:
        product_nt(da, W, dx)
    product_tn(x, da, dW, sums=db)
    return dx, dW, db


# ── Tied linear layers ───────────────────────────────────────────────────────────────────────────────────────────


def tied_forward(x: Array, W: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """See reference."""
    z, y = out or (np.empty((len(x), W.shape[1]), x.dtype), np.empty_like(x))
    return product(x, W, z), product_nt(z, W, y)


def tied_backward(
    dy: Array,
    x: Array,
    W: Array,
    z: Array,
    out: tuple[Array, Array] | None = None,
    scratch: Array | None = None,
) -> tuple[Array, Array]:
    """See reference."""
    dz, dW = out or (np.empty_like(z), np.empty_like(W))
    decoder = np.empty_like(W) if scratch is None else scratch[: W.size].reshape(W.shape)
    product(dy, W, dz)
    product_tn(dy, z, decoder)
    product_tn(x, dz, dW)
    dW += decoder
    return dz, dW


# ── Linear autoencoder ───────────────────────────────────────────────────────────────────────────────────────────


def squared_error_forward(y: Array, target: Array, out: Array | None = None) -> Array:
    """See reference."""
    error = np.empty(len(y)) if out is None else out
    kernels.squared_distance(parts(PASS * y.size), y[:, None], target, error[:, None])
    return error


def squared_error_backward(derror: Array, y: Array, target: Array, out: Array | None = None) -> Array:
    """See reference."""
    dy = np.empty_like(y) if out is None else out
    kernels.weighted_residual(parts(PASS * y.size), derror[:, None], 0.0, -2.0, y[:, None], target, dy[:, None])
    return dy


# ── The code: reparameterisation and its rate ────────────────────────────────────────────────────────────────────


def reparameterize_forward(stats: Array, eps: Array, out: Array | None = None) -> Array:
    """See reference."""
    z = np.empty_like(eps) if out is None else out
    kernels.reparameterize(parts(EXPONENTIAL * eps.size), stats, eps, z)
    return z


def reparameterize_backward(dz: Array, stats: Array, eps: Array, out: Array | None = None) -> Array:
    """See reference."""
    dstats = np.empty_like(stats) if out is None else out
    kernels.reparameterize_backward(parts(EXPONENTIAL * eps.size), dz, stats, eps, dstats)
    return dstats


def gaussian_kl_forward(stats: Array, out: Array | None = None) -> Array:
    """See reference."""
    rate = np.empty((*stats.shape[:-1], stats.shape[-1] // 2)) if out is None else out
    kernels.gaussian_kl(parts(EXPONENTIAL * stats.size), stats, rate)
    return rate


def gaussian_kl_backward(drate: Array, stats: Array, out: Array | None = None) -> Array:
    """See reference."""
    dstats = np.empty_like(stats) if out is None else out
    kernels.gaussian_kl_backward(parts(EXPONENTIAL * stats.size), drate, stats, dstats)
    return dstats


def log_ratio_forward(stats: Array, z: Array, eps: Array, out: Array | None = None) -> Array:
    """See reference."""
    rate = np.empty(z.shape) if out is None else out
    kernels.log_ratio(parts(PASS * eps.size), stats, z, eps, rate)
    return rate


def log_ratio_backward(
    drate: Array, stats: Array, z: Array, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """See reference."""
    dz, dstats = out or (np.empty_like(z), np.empty_like(stats))
    kernels.log_ratio_backward(parts(PASS * z.size), drate, z, dz, dstats)
    return dz, dstats


# ── Likelihoods ──────────────────────────────────────────────────────────────────────────────────────────────────
# With one sigma for all pixels, what is left beside them are B*K numbers, and NumPy's.


def bernoulli_forward(logits: Array, target: Array, out: Array | None = None) -> Array:
    """See reference; summed in float64, but for a chunk of terms at a time."""
    log_px = np.empty(logits.shape[:-1]) if out is None else out
    kernels.bernoulli(parts(EXPONENTIAL * logits.size), logits, target, log_px)
    return log_px


def bernoulli_backward(dlog_px: Array, logits: Array, target: Array, out: Array | None = None) -> Array:
    """See reference."""
    dlogits = np.empty_like(logits) if out is None else out
    kernels.bernoulli_backward(parts(EXPONENTIAL * logits.size), dlog_px, logits, target, dlogits)
    return dlogits


def gaussian_forward(mean: Array, target: Array, logvar: Array, out: Array | None = None) -> Array:
    """See reference; summed in float64."""
    log_px = np.empty(mean.shape[:-1]) if out is None else out
    kernels.squared_distance(parts(PASS * mean.size), mean, target, log_px)
    return _to_density(log_px, mean.shape[-1], float(logvar[0]))


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
    value = float(logvar[0])
    kernels.weighted_residual(parts(PASS * mean.size), dlog_px, 0.0, np.exp(-value), mean, target, dmean)
    dlogvar[0] = kernels.dlogvar(dlog_px, log_px, mean.shape[-1], value)
    return dmean, dlogvar


def gaussian_optimal_forward(mean: Array, target: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """See reference; summed in float64."""
    log_px, logvar = out or (np.empty(mean.shape[:-1]), np.empty(1))
    kernels.squared_distance(parts(PASS * mean.size), mean, target, log_px)
    logvar[0] = np.log(np.mean(log_px) / mean.shape[-1])
    return _to_density(log_px, mean.shape[-1], float(logvar[0])), logvar


def gaussian_optimal_backward(
    dlog_px: Array, mean: Array, target: Array, log_px: Array, logvar: Array, out: Array | None = None
) -> Array:
    """See reference."""
    dmean = np.empty_like(mean) if out is None else out
    value = float(logvar[0])
    shift = 2 * kernels.dlogvar(dlog_px, log_px, mean.shape[-1], value) / mean.size
    kernels.weighted_residual(parts(PASS * mean.size), dlog_px, shift, np.exp(-value), mean, target, dmean)
    return dmean


def _to_density(S: Array, D: int, logvar: float) -> Array:
    """S (B,K) <- -(D (log 2pi + logvar) + S e^-logvar)/2."""
    S *= np.exp(-logvar)
    S += D * (LOG_2PI + logvar)
    S *= -0.5
    return S


def gaussian_pixel_forward(pixels: Array, target: Array, out: Array | None = None) -> Array:
    """See reference; summed in float64, but for a chunk of terms at a time."""
    log_px = np.empty(pixels.shape[:-1]) if out is None else out
    kernels.gaussian_pixel(parts(EXPONENTIAL * pixels.size), pixels, target, log_px)
    return log_px


def gaussian_pixel_backward(dlog_px: Array, pixels: Array, target: Array, out: Array | None = None) -> Array:
    """See reference."""
    dpixels = np.empty_like(pixels) if out is None else out
    kernels.gaussian_pixel_backward(parts(EXPONENTIAL * pixels.size), dlog_px, pixels, target, dpixels)
    return dpixels


# ── Bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────


def elbo_forward(log_px: Array, rate: Array, beta: float, free_bits: float) -> Any:
    """See reference."""
    return np.float64(kernels.elbo(log_px, rate, float(beta), float(free_bits)))


def elbo_backward(
    dloss: float,
    log_px: Array,
    rate: Array,
    beta: float,
    free_bits: float,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """See reference."""
    dlog_px, drate = out or (np.empty_like(log_px), np.empty_like(rate))
    kernels.elbo_backward(float(dloss), rate, float(beta), float(free_bits), dlog_px, drate)
    return dlog_px, drate


def iwae_forward(log_px: Array, rate: Array, beta: float, out: Array | None = None) -> tuple[Any, Array]:
    """See reference."""
    log_w = np.empty_like(log_px) if out is None else out
    kernels.log_weights(parts(PASS * rate.size), log_px, rate, float(beta), log_w)
    return -np.float64(kernels.iwae(log_w)) / len(log_w), log_w


def iwae_backward(
    dloss: float, log_w: Array, rate: Array, beta: float, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """See reference."""
    dlog_px, drate, dlog_w = out or (np.empty_like(log_w), np.empty_like(rate), np.empty_like(log_w))
    kernels.iwae_backward(
        parts(PASS * rate.size), float(-dloss / len(log_w)), log_w, float(beta), dlog_px, drate, dlog_w
    )
    return dlog_px, drate, dlog_w


# ── Updates: one pass over the vectors, the step's own numbers worked out in float64 ─────────────────────────────


def global_norm(dtheta: Array) -> float:
    """See updates."""
    sums = np.empty(-(-dtheta.size // kernels.BLOCK))
    kernels.sums_of_squares(parts(PASS * dtheta.size), dtheta, sums)
    return math.sqrt(sums.sum())


def sgd_step(theta: Array, dtheta: Array, velocity: Array, rate: float, momentum: float, scale: float) -> None:
    """See updates."""
    kernels.sgd(parts(PASS * theta.size), theta, dtheta, velocity, float(rate), float(momentum), float(scale))


def rmsprop_step(
    theta: Array, dtheta: Array, square: Array, rate: float, decay: float, epsilon: float, scale: float
) -> None:
    """See updates."""
    decay = float(decay)  # an integer would compile anew
    kernels.rmsprop(
        parts(PASS * theta.size), theta, dtheta, square, float(rate), decay, 1 - decay, float(epsilon), float(scale)
    )


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
        parts(PASS * theta.size),
        *(theta, dtheta, mean, square),
        *(step_rate, beta1, 1 - beta1, beta2, 1 - beta2, 1 / math.sqrt(1 - beta2**step), float(epsilon), float(scale)),
    )
