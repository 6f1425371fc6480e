"""The compiled loops under `jit`: one pass each, no temporaries of the size of an activation.

Every kernel is work that is shared out by images or by columns (see compiling.parallel): it is called with the number of
parts and its arguments, and each part does its own. No sum is shared between parts.

A kernel writes all of its outputs and nothing else. Ordinary arrays share one dtype, float32 or float64, and
computation stays in it, which takes constants of that dtype (a bare 0.5 would make float64); a "wide"
argument is float64. A sum of a density over D is kept in float64, in an accumulator that starts as
np.float64(0): uncompiled, under NUMBA_DISABLE_JIT, 0.0 plus a float32 would stay float32. A NaN stays
visible: comparisons are written so that it falls on the side that keeps it.

A sum over D is vectorised because SUM lets the compiler reorder it; the functions of elementary.py that are called in it
keep flags of their own.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from npvae.ops.compiling import CAREFUL, LINE, ROUNDED, SUM, kernel, parallel, share
from npvae.ops.elementary import exp, expm1, sigmoid, softplus_of_minus_abs
from npvae.ops.reference import LOG_2PI

Array = npt.NDArray[Any]

# ── The code ─────────────────────────────────────────────────────────────────────────────────────────────────────


@parallel(CAREFUL)
def reparameterize(part: int, parts: int, stats: Array, eps: Array, z: Array) -> None:
    """Fill z (B,K,Z) with mu + sigma eps. An exponential per sample is cheaper than a place to keep it."""
    half = stats.dtype.type(0.5)
    B, K, Z = eps.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for k in range(K):
            for j in range(Z):
                z[b, k, j] = exp(half * stats[b, 0, Z + j]) * eps[b, k, j] + stats[b, 0, j]


@parallel(CAREFUL)
def reparameterize_backward(part: int, parts: int, dz: Array, stats: Array, eps: Array, dstats: Array) -> None:
    """Fill dstats (B,1,2Z) with [sum_k dz | sum_k dz eps sigma/2]."""
    half = stats.dtype.type(0.5)
    B, K, Z = eps.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        dstats[b, 0, :] = 0
        for k in range(K):
            for j in range(Z):
                dstats[b, 0, j] += dz[b, k, j]
                dstats[b, 0, Z + j] += dz[b, k, j] * eps[b, k, j]
        for j in range(Z):
            dstats[b, 0, Z + j] *= half * exp(half * stats[b, 0, Z + j])


@parallel(CAREFUL)
def gaussian_kl(part: int, parts: int, stats: Array, rate: Array) -> None:
    """Fill rate (B,1,Z), wide, with (sigma^2 - 1 - logvar + mu^2)/2."""
    B, _, Z = rate.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for j in range(Z):
            mu, logvar = np.float64(stats[b, 0, j]), np.float64(stats[b, 0, Z + j])
            rate[b, 0, j] = 0.5 * (expm1(logvar) - logvar + mu * mu)


@parallel(CAREFUL)
def gaussian_kl_backward(part: int, parts: int, drate: Array, stats: Array, dstats: Array) -> None:
    """Fill dstats (B,1,2Z) with drate [mu | (sigma^2 - 1)/2], drate wide."""
    number = stats.dtype.type
    B, _, Z = drate.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for j in range(Z):
            seed = number(drate[b, 0, j])
            dstats[b, 0, j] = seed * stats[b, 0, j]
            dstats[b, 0, Z + j] = seed * (number(0.5) * expm1(stats[b, 0, Z + j]))


@parallel(ROUNDED)
def log_ratio(part: int, parts: int, stats: Array, z: Array, eps: Array, rate: Array) -> None:
    """Fill rate (B,K,Z), wide, with (z^2 - eps^2 - logvar)/2."""
    B, K, Z = z.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for k in range(K):
            for j in range(Z):
                code, noise = np.float64(z[b, k, j]), np.float64(eps[b, k, j])
                rate[b, k, j] = 0.5 * (code * code - noise * noise - np.float64(stats[b, 0, Z + j]))


@parallel(SUM)
def log_ratio_backward(part: int, parts: int, drate: Array, z: Array, dz: Array, dstats: Array) -> None:
    """Fill dz (B,K,Z) with drate z and dstats (B,1,2Z) with [0 | -sum_k drate/2], drate wide."""
    number = z.dtype.type
    B, K, Z = z.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for j in range(Z):
            total = np.float64(0)
            for k in range(K):
                dz[b, k, j] = number(drate[b, k, j]) * z[b, k, j]
                total += drate[b, k, j]
            dstats[b, 0, j] = number(0)
            dstats[b, 0, Z + j] = number(-0.5 * total)


# ── Likelihoods ──────────────────────────────────────────────────────────────────────────────────────────────────


@parallel(SUM)
def squared_distance(part: int, parts: int, y: Array, target: Array, out: Array) -> None:
    """Fill out (B,K), wide, with sum_d (target_bd - y_bkd)^2."""
    B, K, D = y.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for k in range(K):
            total = np.float64(0)
            for d in range(D):
                r = target[b, d] - y[b, k, d]
                total += np.float64(r * r)
            out[b, k] = total


@parallel(CAREFUL)
def weighted_residual(
    part: int, parts: int, seed: Array, shift: float, scale: float, y: Array, target: Array, out: Array
) -> None:
    """Fill out (B,K,D) with scale (seed_bk - shift) (target_bd - y_bkd); seed, shift and scale are wide."""
    B, K, D = y.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for k in range(K):
            weight = y.dtype.type(scale * (seed[b, k] - shift))
            for d in range(D):
                out[b, k, d] = weight * (target[b, d] - y[b, k, d])


@kernel(CAREFUL)
def dlogvar(dlog_px: Array, log_px: Array, D: int, logvar: float) -> Any:
    """sum_bk dlog_px_bk (S_bk e^-logvar - D)/2, S read back from log_px (B,K); all of it wide."""
    total = np.float64(0)
    for b in range(log_px.shape[0]):
        for k in range(log_px.shape[1]):
            total -= dlog_px[b, k] * (log_px[b, k] + 0.5 * D * (LOG_2PI + 1 + logvar))
    return total


@parallel(SUM)
def bernoulli(part: int, parts: int, logits: Array, target: Array, log_px: Array) -> None:
    """Fill log_px (B,K), wide, with sum_d l (t - [l > 0]) - log(1 + e^-|l|)."""
    zero, one = logits.dtype.type(0), logits.dtype.type(1)
    B, K, D = logits.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for k in range(K):
            total = np.float64(0)
            for d in range(D):
                a = logits[b, k, d]
                gap = target[b, d] - (one if a > 0 else zero)
                total += np.float64((zero if gap == 0 else gap * a) - softplus_of_minus_abs(a))
            log_px[b, k] = total


@parallel(CAREFUL)
def bernoulli_backward(part: int, parts: int, dlog_px: Array, logits: Array, target: Array, dlogits: Array) -> None:
    """Fill dlogits (B,K,D) with dlog_px (t - s(l)), dlog_px wide."""
    B, K, D = logits.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for k in range(K):
            seed = logits.dtype.type(dlog_px[b, k])
            for d in range(D):
                dlogits[b, k, d] = seed * (target[b, d] - sigmoid(logits[b, k, d]))


@parallel(SUM)
def gaussian_pixel(part: int, parts: int, pixels: Array, target: Array, log_px: Array) -> None:
    """Fill log_px (B,K), wide, with -sum_d (r^2 e^-logvar + logvar + log 2pi)/2, r = target - mean."""
    log_2pi = pixels.dtype.type(LOG_2PI)
    B, K, D = pixels.shape[0], pixels.shape[1], target.shape[1]
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for k in range(K):
            total = np.float64(0)
            for d in range(D):
                r, logvar = target[b, d] - pixels[b, k, d], pixels[b, k, D + d]
                total += np.float64(r * r * exp(-logvar) + logvar + log_2pi)
            log_px[b, k] = -0.5 * total


@parallel(CAREFUL)
def gaussian_pixel_backward(
    part: int, parts: int, dlog_px: Array, pixels: Array, target: Array, dpixels: Array
) -> None:
    """Fill dpixels (B,K,2D) with dlog_px [r e^-logvar | (r^2 e^-logvar - 1)/2], dlog_px wide."""
    one, half = pixels.dtype.type(1), pixels.dtype.type(0.5)
    B, K, D = pixels.shape[0], pixels.shape[1], target.shape[1]
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for k in range(K):
            seed = pixels.dtype.type(dlog_px[b, k])
            for d in range(D):
                r = target[b, d] - pixels[b, k, d]
                weighted = r * exp(-pixels[b, k, D + d])
                dpixels[b, k, d] = weighted * seed
                dpixels[b, k, D + d] = (r * weighted - one) * (half * seed)


# ── The importance-weighted bound: all of it wide ────────────────────────────────────────────────────────────────


@parallel(SUM)
def log_weights(part: int, parts: int, log_px: Array, rate: Array, beta: float, log_w: Array) -> None:
    """Fill log_w (B,K) with log_px - beta sum_j rate."""
    B, K, Z = rate.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for k in range(K):
            total = np.float64(0)
            for j in range(Z):
                total += rate[b, k, j]
            log_w[b, k] = log_px[b, k] - beta * total


@kernel(CAREFUL)
def iwae(log_w: Array) -> Any:
    """sum_b log mean_k e^log_w_bk."""
    B, K = log_w.shape
    bound = np.float64(0)
    for b in range(B):
        top = -np.inf
        for k in range(K):
            top = max(top, log_w[b, k])
        weights = np.float64(0)
        for k in range(K):
            weights += exp(log_w[b, k] - top)  # a NaN in the row comes back here, whatever top became
        bound += np.log(weights / K) + top
    return bound


@parallel(CAREFUL)
def iwae_backward(
    part: int, parts: int, seed: float, log_w: Array, beta: float, dlog_px: Array, drate: Array, dlog_w: Array
) -> None:
    """Fill dlog_w and dlog_px (B,K) with seed softmax_k(log_w) and drate (B,K,Z) with -beta dlog_w."""
    B, K, Z = drate.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        top = -np.inf
        for k in range(K):
            top = max(top, log_w[b, k])
        weights = np.float64(0)
        for k in range(K):
            dlog_w[b, k] = exp(log_w[b, k] - top)
            weights += dlog_w[b, k]
        for k in range(K):
            dlog_w[b, k] *= seed / weights
            dlog_px[b, k] = dlog_w[b, k]
            for j in range(Z):
                drate[b, k, j] = -beta * dlog_w[b, k]


# ── Updates: vectors of one dtype, numbers rounded to it once ────────────────────────────────────────────────────


BLOCK = 2**16  # numbers


@parallel(SUM)
def sums_of_squares(part: int, parts: int, v: Array, sums: Array) -> None:
    """Fill sums (ceil(n/BLOCK),), wide, with sum_i v_i^2 over each block of v (n,)."""
    first, last = share(part, parts, sums.size, 1)
    for block in range(first, last):
        total = np.float64(0)
        for i in range(block * BLOCK, min(v.size, (block + 1) * BLOCK)):
            x = np.float64(v[i])
            total += x * x
        sums[block] = total


@parallel(CAREFUL)
def sgd(
    part: int, parts: int, theta: Array, dtheta: Array, velocity: Array, rate: float, momentum: float, scale: float
) -> None:
    """As updates.sgd_step."""
    number = theta.dtype.type
    rate_, momentum_, scale_ = number(rate), number(momentum), number(scale)
    first, last = share(part, parts, theta.size, LINE)
    for i in range(first, last):
        velocity[i] = momentum_ * velocity[i] + scale_ * dtheta[i]
        theta[i] -= rate_ * velocity[i]


@parallel(CAREFUL)
def rmsprop(
    part: int,
    parts: int,
    theta: Array,
    dtheta: Array,
    square: Array,
    rate: float,
    decay: float,
    rest: float,
    epsilon: float,
    scale: float,
) -> None:
    """As updates.rmsprop_step; `rest` is 1 - decay."""
    number = theta.dtype.type
    rate_, decay_, rest_ = number(rate), number(decay), number(rest)
    epsilon_, scale_ = number(epsilon), number(scale)
    first, last = share(part, parts, theta.size, LINE)
    for i in range(first, last):
        g = scale_ * dtheta[i]
        square[i] = decay_ * square[i] + rest_ * g * g
        theta[i] -= rate_ * g / (np.sqrt(square[i]) + epsilon_)


@parallel(CAREFUL)
def adam(
    part: int,
    parts: int,
    theta: Array,
    dtheta: Array,
    mean: Array,
    square: Array,
    rate: float,
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    correction: float,
    epsilon: float,
    scale: float,
) -> None:
    """As updates.adam_step; `rest` is 1 - beta, `rate` over 1 - beta1^step, `correction` 1/sqrt(1 - beta2^step)."""
    number = theta.dtype.type
    beta1_, rest1_, beta2_, rest2_ = number(beta1), number(rest1), number(beta2), number(rest2)
    rate_, correction_ = number(rate), number(correction)
    epsilon_, scale_ = number(epsilon), number(scale)
    first, last = share(part, parts, theta.size, LINE)
    for i in range(first, last):
        g = scale_ * dtheta[i]
        mean[i] = beta1_ * mean[i] + rest1_ * g
        square[i] = beta2_ * square[i] + rest2_ * g * g
        theta[i] -= rate_ * mean[i] / (np.sqrt(square[i]) * correction_ + epsilon_)
