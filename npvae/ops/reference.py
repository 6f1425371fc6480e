"""Every op of npvae as NumPy: read this file first.

An op is a pair. ``f_forward`` computes; ``f_backward``, directly below its derivation, turns the loss's derivative
by f's output into the derivatives by f's inputs. The contract, which every backend keeps:

* arrays in, arrays out; ``out`` reuses memory, and without it the result is new;
* backward *overwrites* its outputs and never touches its inputs: a sum over two uses of a value is written by
  whoever uses it twice;
* where ``out`` is a tuple, None in the place of dx says that nobody wants it.

Notation: B batch, K samples, D data, H hidden, Z latent, N = B*K; a leading d is the loss's derivative by that.
``stats`` (B,1,2Z) is [mu | logvar]. Everything is in nats. Log-densities, rates and the derivatives by them are
double precision ("wide") whatever the network computes in.

The functions are complex-safe: they hold for complex numbers with an infinitesimal imaginary part, so that
Im f(x + ih)/h is f'(x) without cancellation (Squire & Trapp 1998, "Using complex variables to estimate derivatives
of real functions"). That is why branches compare ``.real`` and why abs, maximum and logaddexp are not used on values
that carry a derivative.

A choice between two formulas is written as arithmetic with [a > 0], which is 1 or 0 (see `right` and `scaled`):
where signs are random a processor guesses wrongly half the time what a mask will choose, and a wrong guess costs more
than ten products.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from npvae.ops.updates import adam_step as adam_step
from npvae.ops.updates import global_norm as global_norm
from npvae.ops.updates import rmsprop_step as rmsprop_step
from npvae.ops.updates import sgd_step as sgd_step

Array = npt.NDArray[Any]

LOG_2PI = math.log(2 * math.pi)
LEAK = 0.01  # slope of leaky ReLU left of zero

# Activations travel as integers: compiled code caches on numbers, not on functions.
IDENTITY, RELU, LEAKY_RELU, TANH, SIGMOID, SOFTPLUS, ELU = range(7)


def wide(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The double-precision dtype that sums of numbers of `dtype` are kept in: float64 or complex128."""
    return np.result_type(dtype, np.float64)


def halves(stats: Array) -> tuple[Array, Array]:
    """Views of the two halves of the last axis: [mu | logvar] or [mean | logvar]."""
    middle = stats.shape[-1] // 2
    return stats[..., :middle], stats[..., middle:]


def copy(a: Array, out: Array) -> None:
    """out = a, in out's dtype: how a batch comes into a workspace."""
    out[...] = a


# ── Dense layer ──────────────────────────────────────────────────────────────────────────────────────────────────


def dense_forward(x: Array, W: Array, b: Array, act: int, out: Array | None = None) -> Array:
    """y = act(x W + b).  x (N,in), W (in,out), b (out,) -> y (N,out)."""
    y = np.matmul(x, W, out=out)
    y += b
    _activate(y, act)
    return y


# With a = x W + b and y = act(a), that is y_no = act(sum_i x_ni W_io + b_o):
#   da_no = dy_no act'(a_no)                  elementwise, act' written from y (see _activate_backward)
#   dx_ni = sum_o da_no W_io                  dx = da W^T
#   dW_io = sum_n x_ni da_no                  dW = x^T da
#   db_o  = sum_n da_no                       b is broadcast over the rows, so its derivative is summed over them
# Rumelhart, Hinton & Williams 1986, "Learning representations by back-propagating errors".
def dense_backward(
    dy: Array,
    x: Array,
    W: Array,
    y: Array,
    act: int,
    out: tuple[Array | None, Array, Array] | None = None,
    scratch: Array | None = None,
) -> tuple[Array | None, Array, Array]:
    """dy (N,out) -> dx (N,in), dW (in,out), db (out,); `scratch` holds `dense_scratch` numbers."""
    dx, dW, db = out or (np.empty_like(x), np.empty_like(W), np.empty_like(W, shape=W.shape[1]))
    if act == IDENTITY:
        da = dy
    else:
        da = np.empty_like(dy) if scratch is None else scratch[: dy.size].reshape(dy.shape)
        _activate_backward(dy, y, act, da)
    if dx is not None:
        np.matmul(da, W.T, out=dx)
    np.matmul(x.T, da, out=dW)
    np.sum(da, axis=0, out=db)
    return dx, dW, db


def dense_scratch(rows: int, fan_in: int, fan_out: int) -> int:
    """How many numbers of scratch `dense_backward` wants: here da."""
    return rows * fan_out


def _activate(a: Array, act: int) -> None:
    """a <- act(a)."""
    if act == RELU:  # max(a, 0)
        scaled(a, right(a), out=a)
    elif act == LEAKY_RELU:  # max(a, LEAK a)
        a *= np.maximum(right(a), LEAK)
    elif act == TANH:
        np.tanh(a, out=a)
    elif act == SIGMOID:
        sigmoid(a, out=a)
    elif act == SOFTPLUS:  # log(1 + e^a) = max(a, 0) + log(1 + e^-|a|), which cannot overflow
        tail = log1p_exp_minus_abs(a)
        scaled(a, right(a), out=a)
        a += tail
    elif act == ELU:  # max(a, 0) + e^min(a, 0) - 1 (Clevert, Unterthiner & Hochreiter 2016, eq. 15, alpha = 1)
        low = scaled(a, 1 - right(a))
        scaled(a, right(a), out=a)
        a += np.expm1(low, out=low)


# act' in terms of y = act(a), so that a need not be kept:
#   ReLU        1 where y > 0, else 0 (the subgradient 0 is taken at the kink)
#   leaky ReLU  1 where y > 0, else LEAK
#   tanh        1 - y^2
#   sigmoid     y (1 - y)
#   softplus    sigmoid(a) = e^a / (1 + e^a) = 1 - e^-y, because e^y = 1 + e^a
#   ELU         1 where y > 0, else e^a = y + 1
def _activate_backward(dy: Array, y: Array, act: int, da: Array) -> None:
    """da <- dy act'(a)."""
    if act == TANH:
        np.multiply(y, y, out=da)
        np.subtract(1, da, out=da)
        da *= dy
    elif act == SIGMOID:
        np.subtract(1, y, out=da)
        da *= y
        da *= dy
    elif act == SOFTPLUS:
        np.negative(y, out=da)
        np.expm1(da, out=da)
        np.negative(da, out=da)
        da *= dy
    elif act == RELU:
        scaled(dy, right(y), out=da)
    elif act == LEAKY_RELU:
        np.multiply(dy, np.maximum(right(y), LEAK), out=da)
    elif act == ELU:  # 1 + min(y, 0)
        scaled(y, 1 - right(y), out=da)
        da += 1
        da *= dy


def right(a: Array) -> Array:
    """[a > 0], as real numbers 1 or 0. For NaN it is 1: the side that keeps a NaN."""
    return (~(a.real <= 0)).astype(a.real.dtype)


def scaled(a: Array, weight: Array, out: Array | None = None) -> Array:
    """weight a, where a weight of 0 makes 0 of whatever a is, inf and NaN included; only then is there a mask."""
    if np.isfinite(a).all():
        return np.multiply(a, weight, out=out)
    product = np.multiply(a, weight, out=np.zeros_like(a), where=weight != 0)
    return np.positive(product, out=out)


def minus_abs(a: Array, out: Array | None = None) -> Array:
    """-|a|, complex-safe: the argument that an exponential can always bear."""
    product: Array = np.multiply(a, 1 - 2 * right(a), out=out)
    return product


def log1p_exp_minus_abs(a: Array) -> Array:
    """log(1 + e^-|a|): what is left of softplus beside max(a, 0)."""
    tail = minus_abs(a)
    np.exp(tail, out=tail)
    return np.log1p(tail, out=tail)


def sigmoid(a: Array, out: Array | None = None) -> Array:
    """s(a) = 1 / (1 + e^-a): e^-|a| / (1 + e^-|a|), which is s(-|a|) and cannot overflow, and s(a) = 1 - s(-a)."""
    side = right(a)
    s = np.exp(minus_abs(a, out=out), out=out)
    s /= 1 + s
    s *= 1 - 2 * side
    s += side
    return s


# ── Tied linear layers ───────────────────────────────────────────────────────────────────────────────────────────


def tied_forward(x: Array, W: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """z = x W and y = z W^T: encoder and decoder are one matrix.  x (B,D), W (D,Z) -> z (B,Z), y (B,D)."""
    z, y = out or (None, None)
    z = np.matmul(x, W, out=z)
    return z, np.matmul(z, W.T, out=y)


# W is used twice, so its derivative has two terms. Let y = z W'^T with W' a second copy of W:
#   dz   = dy W'               from y_bd = sum_j z_bj W'_dj
#   dW'  = dy^T z
#   dW   = x^T dz              from z = x W
# and with W' = W the two add up (Baldi & Hornik 1989, "Neural networks and principal component analysis").
def tied_backward(
    dy: Array,
    x: Array,
    W: Array,
    z: Array,
    out: tuple[Array, Array] | None = None,
    scratch: Array | None = None,
) -> tuple[Array, Array]:
    """dy (B,D) -> dz (B,Z), dW (D,Z); `scratch` holds `tied_scratch` numbers."""
    dz, dW = out or (np.empty_like(z), np.empty_like(W))
    np.matmul(dy, W, out=dz)
    decoder = np.matmul(dy.T, z, out=None if scratch is None else scratch[: W.size].reshape(W.shape))
    np.matmul(x.T, dz, out=dW)
    dW += decoder
    return dz, dW


def tied_scratch(data: int, latent: int) -> int:
    """How many numbers of scratch `tied_backward` wants: here the decoder's share of dW."""
    return data * latent


def squared_error_forward(y: Array, target: Array, out: Array | None = None) -> Array:
    """error_b = sum_d (y_bd - target_bd)^2.  y, target (B,D) -> (B,), wide."""
    r = y - target
    np.multiply(r, r, out=r)
    return np.sum(r, axis=-1, dtype=wide(y.dtype), out=out)


# dy_bd = derror_b 2 (y_bd - target_bd)
def squared_error_backward(derror: Array, y: Array, target: Array, out: Array | None = None) -> Array:
    """derror (B,) -> dy (B,D)."""
    dy = np.subtract(y, target, out=out)
    dy *= (2 * derror[:, None]).astype(dy.dtype)
    return dy


# ── The code: reparameterisation and its rate ────────────────────────────────────────────────────────────────────


def reparameterize_forward(stats: Array, eps: Array, out: Array | None = None) -> Array:
    """z = mu + exp(logvar/2) eps.  stats (B,1,2Z), eps (B,K,Z) -> z (B,K,Z).

    Kingma & Welling 2014, "Auto-encoding variational Bayes", eq. 10: eps ~ N(0, 1) makes z ~ N(mu, sigma^2) while
    mu and sigma stay differentiable.
    """
    mu, logvar = halves(stats)
    z = np.multiply(np.exp(0.5 * logvar), eps, out=out)
    z += mu
    return z


# One mu and one logvar serve all K samples, so their derivatives are summed over K. With sigma = exp(logvar/2),
# dsigma/dlogvar = sigma/2:
#   dmu     = sum_k dz_k
#   dlogvar = sum_k dz_k eps_k sigma/2
def reparameterize_backward(dz: Array, stats: Array, eps: Array, out: Array | None = None) -> Array:
    """dz (B,K,Z) -> dstats (B,1,2Z). `eps` is the forward's own: drawn anew, it would differentiate another z."""
    dstats = np.empty_like(stats) if out is None else out
    dmu, dlogvar = halves(dstats)
    np.sum(dz, axis=1, keepdims=True, out=dmu)
    np.sum(dz * eps, axis=1, keepdims=True, out=dlogvar)
    dlogvar *= 0.5 * np.exp(0.5 * halves(stats)[1])
    return dstats


def gaussian_kl_forward(stats: Array, out: Array | None = None) -> Array:
    """rate = KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + sigma^2 - 1 - log sigma^2)/2, per latent, in nats.

    stats (B,1,2Z) -> rate (B,1,Z), wide. Kingma & Welling 2014, appendix B, with the sign of a KL.
    """
    mu, logvar = halves(stats)
    rate = np.empty(mu.shape, wide(stats.dtype)) if out is None else out
    np.expm1(logvar, out=rate, dtype=rate.dtype)  # sigma^2 - 1: expm1 does not cancel where sigma is near 1
    rate -= logvar
    rate += np.multiply(mu, mu, dtype=rate.dtype)
    rate *= 0.5
    return rate


# dmu = drate mu,  dlogvar = drate (e^logvar - 1)/2: both vanish exactly at the prior, mu = 0 and sigma = 1.
def gaussian_kl_backward(drate: Array, stats: Array, out: Array | None = None) -> Array:
    """drate (B,1,Z) -> dstats (B,1,2Z)."""
    dstats = np.empty_like(stats) if out is None else out
    (mu, logvar), (dmu, dlogvar) = halves(stats), halves(dstats)
    drate = drate.astype(stats.dtype)
    np.multiply(drate, mu, out=dmu)
    np.expm1(logvar, out=dlogvar)
    dlogvar *= 0.5
    dlogvar *= drate
    return dstats


def log_ratio_forward(stats: Array, z: Array, eps: Array, out: Array | None = None) -> Array:
    """rate = (z^2 - eps^2 - logvar)/2, per latent: log q(z|x) - log p(z), the KL by Monte Carlo with one sample.

    stats (B,1,2Z), z and eps (B,K,Z) -> rate (B,K,Z), wide; its mean over z is the KL. Burda et al. 2016, eq. 8.
    log q = -(log 2pi + logvar + eps^2)/2, because (z - mu)/sigma is eps; log p = -(log 2pi + z^2)/2.
    """
    rate = np.empty(z.shape, wide(stats.dtype)) if out is None else out
    np.multiply(z, z, out=rate, dtype=rate.dtype)
    rate -= np.multiply(eps, eps, dtype=rate.dtype)
    rate -= halves(stats)[1]
    rate *= 0.5
    return rate


# rate = (z^2 - eps^2 - logvar)/2 as a function of z and stats, which z depends on in its turn (the caller adds that
# path through reparameterize_backward):
#   dz = drate z,   dmu = 0,   dlogvar = -sum_k drate_k / 2
def log_ratio_backward(
    drate: Array, stats: Array, z: Array, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """drate (B,K,Z) -> dz (B,K,Z), dstats (B,1,2Z)."""
    dz, dstats = out or (np.empty_like(z), np.empty_like(stats))
    dmu, dlogvar = halves(dstats)
    np.multiply(drate.astype(z.dtype), z, out=dz)
    np.copyto(dmu, 0)
    np.multiply(drate.sum(axis=1, keepdims=True), -0.5, out=dlogvar, casting="same_kind")
    return dz, dstats


# ── Likelihoods: log p(target | z), summed over D ────────────────────────────────────────────────────────────────


def bernoulli_forward(logits: Array, target: Array, out: Array | None = None) -> Array:
    """log_px = sum_d t log s(l) + (1 - t) log(1 - s(l)) with s the sigmoid.

    logits (B,K,D), target (B,D) in [0, 1] -> log_px (B,K), wide. Kingma & Welling 2014, appendix C.1.
    """
    # log s(l) = -softplus(-l) and log(1 - s(l)) = -softplus(l), so a term is t l - softplus(l); with
    # softplus(l) = l [l > 0] + log(1 + e^-|l|) it becomes l (t - [l > 0]) - log(1 + e^-|l|), free of cancellation.
    terms = scaled(logits, target[:, None] - right(logits))
    terms -= log1p_exp_minus_abs(logits)
    return np.sum(terms, axis=-1, dtype=wide(logits.dtype), out=out)


# d/dl [t l - softplus(l)] = t - s(l)
def bernoulli_backward(dlog_px: Array, logits: Array, target: Array, out: Array | None = None) -> Array:
    """dlog_px (B,K) -> dlogits (B,K,D)."""
    dlogits = sigmoid(logits, out=out)
    np.subtract(target[:, None], dlogits, out=dlogits)
    dlogits *= dlog_px[..., None].astype(dlogits.dtype)
    return dlogits


def gaussian_forward(mean: Array, target: Array, logvar: Array, out: Array | None = None) -> Array:
    """log_px = -(D (log 2pi + logvar) + S e^-logvar)/2 with S = sum_d (target - mean)^2 and one logvar for all.

    mean (B,K,D), target (B,D), logvar (1,) -> log_px (B,K), wide.
    """
    logvar = logvar.astype(wide(mean.dtype))  # it is multiplied by D: rounding it to float32 would show
    log_px: Array = np.sum((target[:, None] - mean) ** 2, axis=-1, dtype=logvar.dtype, out=out)
    log_px *= np.exp(-logvar)
    log_px += mean.shape[-1] * (LOG_2PI + logvar)
    log_px *= -0.5
    return log_px


# With r = target - mean:
#   dmean   = dlog_px r e^-logvar
#   dlogvar = sum_bk dlog_px_bk (S_bk e^-logvar - D)/2
# and S e^-logvar = -2 log_px - D (log 2pi + logvar) is read back from the output.
def gaussian_backward(
    dlog_px: Array,
    mean: Array,
    target: Array,
    logvar: Array,
    log_px: Array,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """dlog_px (B,K) -> dmean (B,K,D), dlogvar (1,)."""
    dmean, dlogvar = out or (np.empty_like(mean), np.empty_like(logvar))
    logvar = logvar.astype(log_px.dtype)
    np.subtract(target[:, None], mean, out=dmean)
    dmean *= (dlog_px[..., None] * np.exp(-logvar)).astype(mean.dtype)
    dlogvar[:] = -np.sum(dlog_px * (log_px + 0.5 * mean.shape[-1] * (LOG_2PI + 1 + logvar)))
    return dmean, dlogvar


def gaussian_optimal_forward(mean: Array, target: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """The Gaussian with the one variance that maximises the batch's likelihood, sigma^2 = mean of (target - mean)^2.

    mean (B,K,D), target (B,D) -> log_px (B,K) and the logvar used (1,), both wide.
    Rybkin, Daniilidis & Levine 2021, "Simple and effective VAE training with calibrated decoders", eq. 7.
    """
    log_px, logvar = out or (None, np.empty(1, wide(mean.dtype)))
    log_px = np.sum((target[:, None] - mean) ** 2, axis=-1, dtype=wide(mean.dtype), out=log_px)
    logvar[:] = np.log(np.mean(log_px) / mean.shape[-1])
    log_px *= np.exp(-logvar)
    log_px += mean.shape[-1] * (LOG_2PI + logvar)
    log_px *= -0.5
    return log_px, logvar


# log_px depends on mean directly and through logvar = log(sum r^2 / (BKD)), r = target - mean:
#   dlogvar        = sum_bk dlog_px_bk (S_bk e^-logvar - D)/2           as for one learned logvar
#   dlogvar/dmean  = -2 r e^-logvar / (BKD)
#   dmean          = r e^-logvar (dlog_px - 2 dlogvar / (BKD))
# Under the ELBO dlog_px is the same everywhere, S averages to D sigma^2, and dlogvar is 0: the optimum is flat.
# Under importance weights it is not.
def gaussian_optimal_backward(
    dlog_px: Array, mean: Array, target: Array, log_px: Array, logvar: Array, out: Array | None = None
) -> Array:
    """dlog_px (B,K) -> dmean (B,K,D)."""
    dlogvar = -np.sum(dlog_px * (log_px + 0.5 * mean.shape[-1] * (LOG_2PI + 1 + logvar)))
    dmean = np.subtract(target[:, None], mean, out=out)
    dmean *= ((dlog_px[..., None] - 2 * dlogvar / mean.size) * np.exp(-logvar)).astype(mean.dtype)
    return dmean


def gaussian_pixel_forward(pixels: Array, target: Array, out: Array | None = None) -> Array:
    """log_px = -sum_d (log 2pi + logvar_d + (target_d - mean_d)^2 e^-logvar_d)/2.

    pixels (B,K,2D) = [mean | logvar], target (B,D) -> log_px (B,K), wide. Kingma & Welling 2014, appendix C.2.
    """
    mean, logvar = halves(pixels)
    terms = (target[:, None] - mean) ** 2
    terms *= np.exp(-logvar)
    terms += logvar
    terms += LOG_2PI
    log_px = np.sum(terms, axis=-1, dtype=wide(pixels.dtype), out=out)
    log_px *= -0.5
    return log_px


# With r = target - mean, each pixel by itself:
#   dmean   = dlog_px r e^-logvar
#   dlogvar = dlog_px (r^2 e^-logvar - 1)/2
def gaussian_pixel_backward(dlog_px: Array, pixels: Array, target: Array, out: Array | None = None) -> Array:
    """dlog_px (B,K) -> dpixels (B,K,2D)."""
    dpixels = np.empty_like(pixels) if out is None else out
    (mean, logvar), (dmean, dlogvar) = halves(pixels), halves(dpixels)
    seed = dlog_px[..., None].astype(pixels.dtype)
    r = np.subtract(target[:, None], mean, out=dlogvar)
    np.exp(-logvar, out=dmean)
    dmean *= r
    dlogvar *= dmean  # r^2 e^-logvar: in dlogvar is r
    dlogvar -= 1
    dlogvar *= 0.5 * seed
    dmean *= seed
    return dpixels


# ── Bounds: from log-densities to the loss ───────────────────────────────────────────────────────────────────────


def elbo_forward(log_px: Array, rate: Array, beta: float, free_bits: float) -> Any:
    """loss = -mean_bk log_px + beta sum_j max(free_bits, mean_b rate_j), a scalar.

    log_px (B,K), rate (B,R,Z) with R = 1 or K. Kingma & Welling 2014, eq. 3; beta: Higgins et al. 2017, eq. 4;
    free bits, in nats per latent: Kingma et al. 2016, "Improved variational inference with inverse autoregressive
    flow", eq. 15.
    """
    per_latent = rate.mean(axis=(0, 1))
    np.copyto(per_latent, free_bits, where=_clamped(per_latent, free_bits))
    return beta * per_latent.sum() - log_px.mean()


# A mean over BK spreads dloss evenly: dlog_px = -dloss/(BK). A latent whose mean rate is below its free bits
# contributes a constant, hence no derivative; the others have drate = dloss beta/(BR).
def elbo_backward(
    dloss: float,
    log_px: Array,
    rate: Array,
    beta: float,
    free_bits: float,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """dloss, a number -> dlog_px (B,K), drate (B,R,Z)."""
    dlog_px, drate = out or (np.empty_like(log_px), np.empty_like(rate))
    dlog_px[:] = -dloss / log_px.size
    drate[:] = dloss * beta / (rate.shape[0] * rate.shape[1])
    np.copyto(drate, 0, where=_clamped(rate.mean(axis=(0, 1)), free_bits))
    return dlog_px, drate


def _clamped(per_latent: Array, free_bits: float) -> Any:
    # No free bits means no clamp at all: a rate of -1e-17 is rounding and must keep its derivative.
    return (free_bits > 0) & (per_latent.real < free_bits)


def iwae_forward(log_px: Array, rate: Array, beta: float, out: Array | None = None) -> tuple[Any, Array]:
    """loss = -mean_b log mean_k exp(log_w_bk),  log_w = log_px - beta sum_j rate_j  (log p(x,z)/q(z|x) at beta 1).

    log_px (B,K), rate (B,K,Z) -> the loss, a scalar, and log_w (B,K). Burda et al. 2016, eq. 8. The rate must be
    the sampled one: with the closed-form KL in its place the weights would not average to p(x).
    """
    log_w = np.subtract(log_px, beta * rate.sum(axis=-1), out=out)
    top = log_w.real.max(axis=1, keepdims=True)  # a constant taken out of the sum so that exp cannot overflow
    return -np.mean(np.log(np.mean(np.exp(log_w - top), axis=1)) + top[:, 0]), log_w


# d/dlog_w_k log sum_k' e^log_w_k' = e^log_w_k / sum_k' e^log_w_k', the normalised importance weight (Burda et al.
# 2016, eq. 14), and log_w is linear in log_px and in every latent's rate.
def iwae_backward(
    dloss: float, log_w: Array, rate: Array, beta: float, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """dloss, a number -> dlog_px (B,K), drate (B,K,Z), dlog_w (B,K)."""
    dlog_px, drate, dlog_w = out or (np.empty_like(log_w), np.empty_like(rate), np.empty_like(log_w))
    np.exp(log_w - log_w.real.max(axis=1, keepdims=True), out=dlog_w)
    dlog_w *= -dloss / len(log_w) / dlog_w.sum(axis=1, keepdims=True)
    np.copyto(dlog_px, dlog_w)
    np.multiply(dlog_w[..., None], -beta, out=drate)
    return dlog_px, drate, dlog_w
