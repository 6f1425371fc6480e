"""The compiled loops under `jit`: serial, one pass each, no temporaries of the size of an activation.

A kernel writes all of its outputs and nothing else. Ordinary arrays share one dtype, float32 or float64, and
computation stays in it, which takes constants of that dtype (a bare 0.5 would make float64); a "wide"
argument is float64. A sum of a density over D is kept in float64, in an accumulator that starts as
np.float64(0): uncompiled, under NUMBA_DISABLE_JIT, 0.0 plus a float32 would stay float32. A NaN stays
visible: comparisons are written so that it falls on the side that keeps it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from npvae.ops.compiling import CAREFUL, ROUNDED, SUM, kernel
from npvae.ops.reference import ELU, LEAK, LEAKY_RELU, LOG_2PI, RELU, SIGMOID, SOFTPLUS, TANH

Array = npt.NDArray[Any]


@kernel(CAREFUL)
def minus_abs(a: Any) -> Any:
    """-|a|, the argument that an exponential can always bear."""
    return -a if a > 0 else a


@kernel(CAREFUL)
def sigmoid(a: Any) -> Any:
    """1 / (1 + e^-a)."""
    one = type(a)(1)
    e = np.exp(minus_abs(a))
    return (one if a > 0 else e) / (one + e)


# ── Dense layer ──────────────────────────────────────────────────────────────────────────────────────────────────


@kernel(CAREFUL)
def activate(y: Array, b: Array, act: int) -> None:
    """y (N,H) becomes act(y + b)."""
    zero, leak = y.dtype.type(0), y.dtype.type(LEAK)
    rows, columns = y.shape
    for n in range(rows):
        for j in range(columns):
            y[n, j] += b[j]
        if act == RELU:
            for j in range(columns):
                y[n, j] = zero if y[n, j] <= 0 else y[n, j]
        elif act == LEAKY_RELU:
            for j in range(columns):
                y[n, j] = leak * y[n, j] if y[n, j] <= 0 else y[n, j]
        elif act == TANH:
            for j in range(columns):
                y[n, j] = np.tanh(y[n, j])
        elif act == SIGMOID:
            for j in range(columns):
                y[n, j] = sigmoid(y[n, j])
        elif act == SOFTPLUS:
            for j in range(columns):
                tail = np.log1p(np.exp(minus_abs(y[n, j])))
                y[n, j] = tail if y[n, j] <= 0 else y[n, j] + tail
        elif act == ELU:
            for j in range(columns):
                y[n, j] = np.expm1(y[n, j]) if y[n, j] <= 0 else y[n, j]


@kernel(ROUNDED)
def activate_backward(dy: Array, y: Array, act: int, da: Array, db: Array) -> None:
    """Fill da (N,H) with dy act' and db (H,) with sum_n da. Under IDENTITY da is dy and not written."""
    zero, one, leak = y.dtype.type(0), y.dtype.type(1), y.dtype.type(LEAK)
    rows, columns = y.shape
    db[:] = zero
    for n in range(rows):
        if act == RELU:
            for j in range(columns):
                da[n, j] = zero if y[n, j] <= 0 else dy[n, j]
        elif act == LEAKY_RELU:
            for j in range(columns):
                da[n, j] = leak * dy[n, j] if y[n, j] <= 0 else dy[n, j]
        elif act == TANH:
            for j in range(columns):
                da[n, j] = (one - y[n, j] * y[n, j]) * dy[n, j]
        elif act == SIGMOID:
            for j in range(columns):
                da[n, j] = (one - y[n, j]) * y[n, j] * dy[n, j]
        elif act == SOFTPLUS:
            for j in range(columns):
                da[n, j] = -np.expm1(-y[n, j]) * dy[n, j]
        elif act == ELU:
            for j in range(columns):
                da[n, j] = (y[n, j] + one) * dy[n, j] if y[n, j] <= 0 else dy[n, j]
        for j in range(columns):
            db[j] += da[n, j]


# ── The code ─────────────────────────────────────────────────────────────────────────────────────────────────────


@kernel(CAREFUL)
def reparameterize(stats: Array, eps: Array, z: Array) -> None:
    """Fill z (B,K,Z) with mu + exp(logvar/2) eps."""
    half = stats.dtype.type(0.5)
    B, K, Z = eps.shape
    for b in range(B):
        for j in range(Z):
            mu, sigma = stats[b, 0, j], np.exp(half * stats[b, 0, Z + j])
            for k in range(K):
                z[b, k, j] = sigma * eps[b, k, j] + mu


@kernel(CAREFUL)
def reparameterize_backward(dz: Array, stats: Array, eps: Array, dstats: Array) -> None:
    """Fill dstats (B,1,2Z) with [sum_k dz | sum_k dz eps sigma/2]."""
    zero, half = stats.dtype.type(0), stats.dtype.type(0.5)
    B, K, Z = eps.shape
    for b in range(B):
        for j in range(Z):
            dmu = dsigma = zero
            for k in range(K):
                dmu += dz[b, k, j]
                dsigma += dz[b, k, j] * eps[b, k, j]
            dstats[b, 0, j] = dmu
            dstats[b, 0, Z + j] = dsigma * (half * np.exp(half * stats[b, 0, Z + j]))


@kernel(CAREFUL)
def gaussian_kl(stats: Array, rate: Array) -> None:
    """Fill rate (B,1,Z), wide, with (sigma^2 - 1 - logvar + mu^2)/2."""
    B, R, Z = rate.shape
    for b in range(B):
        for r in range(R):
            for j in range(Z):
                mu, logvar = np.float64(stats[b, r, j]), np.float64(stats[b, r, Z + j])
                rate[b, r, j] = 0.5 * (np.expm1(logvar) - logvar + mu * mu)


@kernel(CAREFUL)
def gaussian_kl_backward(drate: Array, stats: Array, dstats: Array) -> None:
    """Fill dstats (B,1,2Z) with drate [mu | (sigma^2 - 1)/2], drate wide."""
    half = stats.dtype.type(0.5)
    B, R, Z = drate.shape
    for b in range(B):
        for r in range(R):
            for j in range(Z):
                seed = stats.dtype.type(drate[b, r, j])
                dstats[b, r, j] = seed * stats[b, r, j]
                dstats[b, r, Z + j] = seed * (half * np.expm1(stats[b, r, Z + j]))


@kernel(ROUNDED)
def log_ratio(stats: Array, z: Array, eps: Array, rate: Array) -> None:
    """Fill rate (B,K,Z), wide, with (z^2 - eps^2 - logvar)/2."""
    B, K, Z = z.shape
    for b in range(B):
        for k in range(K):
            for j in range(Z):
                code, noise = np.float64(z[b, k, j]), np.float64(eps[b, k, j])
                rate[b, k, j] = 0.5 * (code * code - noise * noise - np.float64(stats[b, 0, Z + j]))


@kernel(CAREFUL)
def log_ratio_backward(drate: Array, z: Array, dz: Array, dstats: Array) -> None:
    """Fill dz (B,K,Z) with drate z and dstats (B,1,2Z) with [0 | -sum_k drate/2], drate wide."""
    number = z.dtype.type
    B, K, Z = z.shape
    for b in range(B):
        for j in range(Z):
            total = np.float64(0)
            for k in range(K):
                dz[b, k, j] = number(drate[b, k, j]) * z[b, k, j]
                total += drate[b, k, j]
            dstats[b, 0, j] = number(0)
            dstats[b, 0, Z + j] = number(-0.5 * total)


# ── Likelihoods ──────────────────────────────────────────────────────────────────────────────────────────────────


@kernel(SUM)
def squared_distance(y: Array, target: Array, out: Array) -> None:
    """Fill out (B,K), wide, with sum_d (target_bd - y_bkd)^2."""
    B, K, D = y.shape
    for b in range(B):
        for k in range(K):
            total = np.float64(0)
            for d in range(D):
                r = target[b, d] - y[b, k, d]
                total += r * r
            out[b, k] = total


@kernel(CAREFUL)
def weighted_residual(seed: Array, y: Array, target: Array, out: Array) -> None:
    """Fill out (B,K,D) with seed_bk (target_bd - y_bkd), seed wide."""
    B, K, D = y.shape
    for b in range(B):
        for k in range(K):
            weight = y.dtype.type(seed[b, k])
            for d in range(D):
                out[b, k, d] = weight * (target[b, d] - y[b, k, d])


@kernel(CAREFUL)
def bernoulli(logits: Array, target: Array, log_px: Array) -> None:
    """Fill log_px (B,K), wide, with sum_d l (t - [l > 0]) - log(1 + e^-|l|)."""
    zero, one = logits.dtype.type(0), logits.dtype.type(1)
    B, K, D = logits.shape
    for b in range(B):
        for k in range(K):
            total = np.float64(0)
            for d in range(D):
                a = logits[b, k, d]
                gap = target[b, d] - (one if a > 0 else zero)
                total += (zero if gap == 0 else gap * a) - np.log1p(np.exp(minus_abs(a)))
            log_px[b, k] = total


@kernel(CAREFUL)
def bernoulli_backward(dlog_px: Array, logits: Array, target: Array, dlogits: Array) -> None:
    """Fill dlogits (B,K,D) with dlog_px (t - s(l)), dlog_px wide."""
    B, K, D = logits.shape
    for b in range(B):
        for k in range(K):
            seed = logits.dtype.type(dlog_px[b, k])
            for d in range(D):
                dlogits[b, k, d] = seed * (target[b, d] - sigmoid(logits[b, k, d]))


@kernel(CAREFUL)
def gaussian_pixel(pixels: Array, target: Array, log_px: Array) -> None:
    """Fill log_px (B,K), wide, with -sum_d (r^2 e^-logvar + logvar + log 2pi)/2, r = target - mean."""
    log_2pi = pixels.dtype.type(LOG_2PI)
    B, K, D = pixels.shape[0], pixels.shape[1], target.shape[1]
    for b in range(B):
        for k in range(K):
            total = np.float64(0)
            for d in range(D):
                r, logvar = target[b, d] - pixels[b, k, d], pixels[b, k, D + d]
                total += r * r * np.exp(-logvar) + logvar + log_2pi
            log_px[b, k] = -0.5 * total


@kernel(CAREFUL)
def gaussian_pixel_backward(dlog_px: Array, pixels: Array, target: Array, dpixels: Array) -> None:
    """Fill dpixels (B,K,2D) with dlog_px [r e^-logvar | (r^2 e^-logvar - 1)/2], dlog_px wide."""
    one, half = pixels.dtype.type(1), pixels.dtype.type(0.5)
    B, K, D = pixels.shape[0], pixels.shape[1], target.shape[1]
    for b in range(B):
        for k in range(K):
            seed = pixels.dtype.type(dlog_px[b, k])
            for d in range(D):
                r = target[b, d] - pixels[b, k, d]
                weighted = r * np.exp(-pixels[b, k, D + d])
                dpixels[b, k, d] = weighted * seed
                dpixels[b, k, D + d] = (r * weighted - one) * (half * seed)


# ── The importance-weighted bound: all of it wide ────────────────────────────────────────────────────────────────


@kernel(CAREFUL)
def iwae(log_px: Array, rate: Array, beta: float, log_w: Array) -> Any:
    """Fill log_w (B,K) with log_px - beta sum_j rate and return sum_b log mean_k e^log_w."""
    B, K, Z = rate.shape
    bound = np.float64(0)
    for b in range(B):
        top = -np.inf
        for k in range(K):
            total = np.float64(0)
            for j in range(Z):
                total += rate[b, k, j]
            log_w[b, k] = log_px[b, k] - beta * total
            top = max(top, log_w[b, k])
        weights = np.float64(0)
        for k in range(K):
            weights += np.exp(log_w[b, k] - top)  # a NaN in the row comes back here, whatever top became
        bound += np.log(weights / K) + top
    return bound


@kernel(CAREFUL)
def iwae_backward(seed: float, log_w: Array, beta: float, dlog_px: Array, drate: Array, dlog_w: Array) -> None:
    """Fill dlog_w and dlog_px (B,K) with seed softmax_k(log_w) and drate (B,K,Z) with -beta dlog_w."""
    B, K, Z = drate.shape
    for b in range(B):
        top = -np.inf
        for k in range(K):
            top = max(top, log_w[b, k])
        weights = np.float64(0)
        for k in range(K):
            dlog_w[b, k] = np.exp(log_w[b, k] - top)
            weights += dlog_w[b, k]
        for k in range(K):
            dlog_w[b, k] *= seed / weights
            dlog_px[b, k] = dlog_w[b, k]
            for j in range(Z):
                drate[b, k, j] = -beta * dlog_w[b, k]


# ── Updates: vectors of one dtype, numbers rounded to it once ────────────────────────────────────────────────────


@kernel(SUM)
def sum_of_squares(v: Array) -> Any:
    """Return sum_i v_i^2, wide."""
    total = np.float64(0)
    for i in range(v.size):
        x = np.float64(v[i])
        total += x * x
    return total


@kernel(CAREFUL)
def sgd(theta: Array, dtheta: Array, velocity: Array, rate: float, momentum: float, scale: float) -> None:
    """As updates.sgd_step."""
    number = theta.dtype.type
    rate_, momentum_, scale_ = number(rate), number(momentum), number(scale)
    for i in range(theta.size):
        velocity[i] = momentum_ * velocity[i] + scale_ * dtheta[i]
        theta[i] -= rate_ * velocity[i]


@kernel(CAREFUL)
def rmsprop(
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
    for i in range(theta.size):
        g = scale_ * dtheta[i]
        square[i] = decay_ * square[i] + rest_ * g * g
        theta[i] -= rate_ * g / (np.sqrt(square[i]) + epsilon_)


@kernel(CAREFUL)
def adam(
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
    """As updates.adam_step; `rest` is 1 - beta, `rate` over 1 - beta1^step, `correction` 1 - beta2^step."""
    number = theta.dtype.type
    beta1_, rest1_, beta2_, rest2_ = number(beta1), number(rest1), number(beta2), number(rest2)
    rate_, correction_ = number(rate), number(correction)
    epsilon_, scale_ = number(epsilon), number(scale)
    for i in range(theta.size):
        g = scale_ * dtheta[i]
        mean[i] = beta1_ * mean[i] + rest1_ * g
        square[i] = beta2_ * square[i] + rest2_ * g * g
        theta[i] -= rate_ * mean[i] / (np.sqrt(square[i] / correction_) + epsilon_)
