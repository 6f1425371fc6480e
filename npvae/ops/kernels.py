"""The compiled loops under `jit`: one pass each, no temporaries of the size of an activation.

A kernel's work is shared out by images or by numbers (see compiling.parallel): it is called with the number of parts
and its arguments, and each part does its own. No sum is shared between parts.

A kernel writes all of its outputs and nothing else. Ordinary arrays share one dtype, float32 or float64, and
computation stays in it, which takes constants of that dtype (a bare 0.5 would make float64); a "wide" argument is
float64. A NaN stays visible: comparisons are written so that it falls on the side that keeps it.

What a loop needs to be turned into vector instructions:

* An index that cannot be negative, as far as the compiler knows: inner loops run from 0, over a slice where need be.
* Numbers of one width: a sum over D is kept in float64, but where a term takes an exponential, CHUNK terms at a time
  are summed in their own precision.
* Leave to reorder a sum, SUM; the functions of elementary.py that are called in it keep flags of their own.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from npvae.ops.compiling import CAREFUL, LINE, ROUNDED, SUM, kernel, parallel, share
from npvae.ops.elementary import exp, expm1, sigmoid, softplus_of_minus_abs
from npvae.ops.reference import LOG_2PI

Array = npt.NDArray[Any]

CHUNK = 64  # terms of a density that are summed in its own precision

# ── Input ────────────────────────────────────────────────────────────────────────────────────────────────────────


@parallel()
def copy(part: int, parts: int, a: Array, out: Array) -> None:
    """Fill out (n,) with a (n,)."""
    first, last = share(part, parts, a.size, LINE)
    a, out = a[first:last], out[first:last]
    for i in range(a.size):
        out[i] = a[i]


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
    number, half = stats.dtype.type, stats.dtype.type(0.5)
    B, _, Z = drate.shape
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        seed, mu, logvar = drate[b, 0], stats[b, 0, :Z], stats[b, 0, Z:]
        dmu, dlogvar = dstats[b, 0, :Z], dstats[b, 0, Z:]
        for j in range(Z):
            dmu[j] = number(seed[j]) * mu[j]
        for j in range(Z):
            dlogvar[j] = number(seed[j]) * (half * expm1(logvar[j]))


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
            for start in range(0, D, CHUNK):
                t, a = target[b, start : start + CHUNK], logits[b, k, start : start + CHUNK]
                some = zero
                for d in range(t.size):
                    gap = t[d] - (one if a[d] > 0 else zero)
                    some += (zero if gap == 0 else gap * a[d]) - softplus_of_minus_abs(a[d])
                total += np.float64(some)
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
    zero, log_2pi = pixels.dtype.type(0), pixels.dtype.type(LOG_2PI)
    B, K, D = pixels.shape[0], pixels.shape[1], target.shape[1]
    first, last = share(part, parts, B, 1)
    for b in range(first, last):
        for k in range(K):
            total = np.float64(0)
            for start in range(0, D, CHUNK):
                t, mean = target[b, start : start + CHUNK], pixels[b, k, start : min(D, start + CHUNK)]
                logvar = pixels[b, k, D + start : D + start + CHUNK]
                some = zero
                for d in range(t.size):
                    r = t[d] - mean[d]
                    some += r * r * exp(-logvar[d]) + logvar[d] + log_2pi
                total += np.float64(some)
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


# ── Bounds: all of it wide ───────────────────────────────────────────────────────────────────────────────────────


@kernel(SUM)
def sum_of(a: Array) -> Any:
    """The sum of all of a's numbers."""
    total = np.float64(0)
    for number in a.flat:
        total += number
    return total


@kernel(SUM)
def mean_rate(rate: Array, j: int) -> Any:
    """The mean of rate (B,R,Z) in latent j."""
    total = np.float64(0)
    for b in range(rate.shape[0]):
        for r in range(rate.shape[1]):
            total += rate[b, r, j]
    return total / (rate.shape[0] * rate.shape[1])


@kernel(CAREFUL)
def elbo(log_px: Array, rate: Array, beta: float, free_bits: float) -> Any:
    """-mean log_px + beta sum_j max(free_bits, mean rate_j), without a clamp where free_bits is 0."""
    total, rates = sum_of(log_px), np.float64(0)
    if free_bits > 0:
        for j in range(rate.shape[2]):
            mean = mean_rate(rate, j)
            rates += free_bits if mean < free_bits else mean
    else:
        rates = sum_of(rate) / (rate.shape[0] * rate.shape[1])
    return beta * rates - total / log_px.size


@kernel(CAREFUL)
def elbo_backward(dloss: float, rate: Array, beta: float, free_bits: float, dlog_px: Array, drate: Array) -> None:
    """Fill dlog_px (B,K) with -dloss/BK and drate (B,R,Z) with dloss beta/BR, or 0 where it is clamped."""
    B, R, Z = rate.shape
    dlog_px[:] = -dloss / dlog_px.size
    drate[:] = dloss * beta / (B * R)
    if free_bits > 0:
        for j in range(Z):
            if mean_rate(rate, j) < free_bits:
                drate[:, :, j] = 0.0


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
        for number in v[block * BLOCK : (block + 1) * BLOCK]:
            x = np.float64(number)
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
    theta, dtheta, velocity = theta[first:last], dtheta[first:last], velocity[first:last]
    for i in range(theta.size):
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
    theta, dtheta, square = theta[first:last], dtheta[first:last], square[first:last]
    for i in range(theta.size):
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
    theta, dtheta, mean, square = theta[first:last], dtheta[first:last], mean[first:last], square[first:last]
    for i in range(theta.size):
        g = scale_ * dtheta[i]
        mean[i] = beta1_ * mean[i] + rest1_ * g
        square[i] = beta2_ * square[i] + rest2_ * g * g
        theta[i] -= rate_ * mean[i] / (np.sqrt(square[i]) * correction_ + epsilon_)
