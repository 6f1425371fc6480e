r"""The evidence is an integral that is out of reach.

P(X) = ∫ P(Z) P(X|Z) dZ: to know how probable a model finds an image, every code must be asked how well it explains it.
Almost none does. So samples of the prior are nearly all wasted, a grid is hopeless beyond a few dimensions, and what
helps is to ask the codes that may have made this image: samples of a Q near P(Z|X), weighted.

A latent variable model says how images come about: draw $Z$ from the prior, then $X$ from $P(X|Z)$. The probability of
an image is that of all the ways to it:

$$
P(X) = \int P(X, Z) \, dZ = \int P(Z) P(X|Z) \, dZ = E_{Z \sim P(Z)} \left[ P(X|Z) \right]
$$

The decoder is a neural network, so nobody can do this integral on paper. There are three ways to do it by machine.

A grid. Where the code is a plane, $m$ nodes along each axis are $m^2$ images to decode, and the sum over them is the
integral to ten digits: that is the truth here. In $d$ dimensions it is $m^d$ images.

Samples of the prior. The mean of $P(X|Z)$ over $S$ of them is unbiased, and its relative standard error is

$$
\sqrt{\frac{v}{S}}, \quad v = \frac{E_{P(Z)} \left[ P(X|Z)^2 \right]}{P(X)^2} - 1
$$

$1 + v$ is how many samples it takes to have a single effective one, and it is large, since $P(X|Z)$ is next to nothing
but where the posterior is: by Jensen's inequality, $1 + v \ge \exp KL(P(Z|X) \| P(Z))$. About that exponential is
needed for any estimate at all (Chatterjee and Diaconis 2018, "The sample size required in importance sampling", theorem
1.1). A VAE of 20 latents has some 25 nats there: $\exp 25$ is $7 \times 10^{10}$ samples for one image.

Samples of a $Q(Z|X)$ that knows the image. Multiply and divide by it:

$$
P(X) = E_{Z \sim Q} \left[ w \right], \quad w = \frac{P(X|Z) P(Z)}{Q(Z|X)}
$$

The better $Q$ is, the less $w$ varies: with $Q = P(Z|X)$ it is $P(X)$ itself, whatever $Z$ is. Its $v$ is the integral
of $P(Z|X)^2 / Q(Z|X)$, less 1. This is how a VAE is evaluated (Rezende, Mohamed and Wierstra 2014, "Stochastic
backpropagation"; Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", equation 8). How many of $S$
samples count is told by the effective sample size, $(\sum w)^2 / \sum w^2$ (Kong 1992, "A note on importance sampling
using standardized weights").

Beware of thin tails. Where $Q$ is much smaller than the posterior, in a second mode perhaps, a rare sample outweighs
all others, and the error is worse than it seems. An encoder trained for $KL(Q \| P(Z|X))$ gives a $Q$ that is rather
too narrow, and too wide only wastes a little: so the deviations of $Q$ are here one and a half times the encoder's. The
grid covers where the posterior is above $\exp(-30)$ of its top; beyond it the $v$ of $Q$ may well be infinite, by codes
so far away that no sample ever sees them.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npvae.bounds import IWAE
from npvae.flat import Array
from npvae.lessons.outcome import CHANCE, Findings, Number
from npvae.lessons.plane import CHUNK, NODES, Evidence, Plane, encoded, evidence, trained_plane, workspace
from npvae.mosaics import new_figure
from npvae.noise import Purpose, stream
from npvae.normal import log_density
from npvae.plots import IDLE, TEST, TRAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRIOR = np.zeros(4)  # [mu | log sigma^2] of N(0, 1)
WIDER = 1.5  # times the encoder's deviations are those of Q
SIZES = 2 ** np.arange(15)  # of samples
FEW = 4  # SIZES[FEW] samples of Q have the error that samples of the prior are to reach
MANY = 9  # of SIZES[MANY] samples it is reported how many are effective


class Sampler(NamedTuple):
    """By the numbers of samples in SIZES: the error of log P(X), root mean square in nats; how many are effective."""

    error: Array
    effective: Array


def lesson(quick: bool) -> Findings:
    """For test images of a VAE with two latents: log P(X) by the grid, by samples of the prior, by samples of Q."""
    plane, images, draws = trained_plane(quick), *((4, 2**15) if quick else (10, 2**17))
    truths, variances, apart = [], [], []
    samplers: tuple[list[Sampler], list[Sampler]] = [], []
    for index in range(images):
        x = plane.images[index : index + 1]
        truth = evidence(plane, x)
        wide = encoded(plane, x) + np.repeat([0, 2 * np.log(WIDER)], 2)
        truths.append(truth)
        for q, count, judgements in zip((PRIOR, wide), (draws, draws // 8), samplers, strict=True):
            log_w = log_weights(plane, x, q, count, seed=index)
            judgements.append(judged(log_w, truth.log_p))
            variances.append(relative_variance(truth, q))
            apart.append((np.exp(log_w - truth.log_p).mean() - 1) / np.sqrt(variances[-1] / count))
    by_prior, by_q = samplers
    needed = [samples_for(q.error[FEW], prior) for q, prior in zip(by_q, by_prior, strict=True)]
    factors = np.array(needed) / SIZES[FEW]
    off, for_one = np.abs(apart).reshape(-1, 2).max(axis=0), 1 + np.median(np.reshape(variances, (-1, 2)), axis=0)
    nats = [divergence_from_prior(truth) for truth in truths]
    few = f"{SIZES[FEW]} samples of"
    numbers = (
        Number("half the grid's spacing changes log P(X) by", max(t.change for t in truths), at_most=1e-6, unit="nats"),
        # Means of w beside P(X), the farthest of all images. The errors are the grid's: where Q has thin tails they are
        # large, and it is the other images that are tested.
        Number("samples of the prior off the grid", off[0], at_most=CHANCE, unit="standard errors"),
        Number("samples of Q off the grid", off[1], at_most=CHANCE, unit="standard errors"),
        Number(f"error of log P(X) by {few} the prior, median", _median(by_prior, "error", FEW), unit="nats"),
        Number(f"error of log P(X) by {few} Q, median", _median(by_q, "error", FEW), unit="nats"),
        Number("times as many of the prior, median (up to 1,024)", float(np.median(factors)), at_least=100.0),
        Number("the same, for the image that gains least", factors.min()),
        Number(f"effective of {SIZES[MANY]:,} samples of the prior, median", _median(by_prior, "effective", MANY)),
        Number(f"effective of {SIZES[MANY]:,} samples of Q, median", _median(by_q, "effective", MANY)),
        Number("samples of the prior for an effective one, median", for_one[0]),
        Number("samples of Q for an effective one, median", for_one[1]),
        Number("KL(P(Z|X) || P(Z)), median", float(np.median(nats)), unit="nats"),
        Number("nodes of such a grid in 20 dimensions, log10", 20 * np.log10(NODES)),
    )
    alt = (
        "Left: 400 samples of the prior scattered over the plane of the code, and the posteriors of four digits, small "
        "spots that few samples hit. Middle: the error of log P(X) by the number of samples falls both for samples of "
        "the prior and of Q, but the prior's is higher by far. Right: Q's effective sample size is a little below the "
        "number of samples from the start, but for one image; the prior's stays at 1 for long and is far below."
    )
    return Findings(numbers, _draw(truths, by_prior, by_q), alt)


def log_weights(plane: Plane, x: Array, q: Array, count: int, seed: int) -> Array:
    """log w = log P(X|Z) P(Z) / Q(Z) of `count` samples of Q -> (count,); q = [mu | log sigma^2]."""
    ws, rng = workspace(plane, min(CHUNK, count), IWAE(), q), stream(seed, Purpose.SAMPLE)
    parts = []
    for _ in range(0, count, ws.samples):
        ws.forward(x, eps=rng.standard_normal((1, ws.samples, 2)))  # z = mu + sigma eps
        parts.append(ws.acts.log_w[0].copy())
    return np.concatenate(parts)[:count]


def judged(log_w: Array, log_p: float) -> Sampler:
    """What the samples are worth: cut into groups of S, each of which estimates log P(X) by log mean w."""
    errors, effective = [], []
    for S in SIZES[len(log_w) >= 8 * SIZES]:  # 8 groups or more
        groups = log_w[: len(log_w) // S * S].reshape(-1, S)
        log_sum = np.logaddexp.reduce(groups, axis=1)
        errors.append(np.sqrt(np.mean((log_sum - np.log(S) - log_p) ** 2)))
        effective.append(np.mean(np.exp(2 * log_sum - np.logaddexp.reduce(2 * groups, axis=1))))
    return Sampler(np.array(errors), np.array(effective))


def samples_for(error: float, sampler: Sampler) -> float:
    """The number of samples that has this error, between those measured; the largest of them if none is so good."""
    falling, sizes = np.minimum.accumulate(sampler.error), SIZES[: len(sampler.error)]
    return float(np.exp(np.interp(-np.log(error), -np.log(falling), np.log(sizes))))


def relative_variance(truth: Evidence, q: Array) -> float:
    """v = E_Q w^2 / P(X)^2 - 1, by the grid; q = [mu | log sigma^2]."""
    log_q = log_density(truth.rule.z, q[:2], np.diag(np.exp(q[2:])))
    return float(np.expm1(truth.rule.log_integral(2 * truth.log_posterior - log_q)))


def divergence_from_prior(truth: Evidence) -> float:
    """KL(P(Z|X) || P(Z)), by the grid."""
    log_prior = log_density(truth.rule.z, np.zeros(2), np.eye(2))
    return truth.rule.integral(np.exp(truth.log_posterior) * (truth.log_posterior - log_prior))


def _median(samplers: list[Sampler], of: str, size: int) -> float:
    """Over images, of the error or of the effective sample size with SIZES[size] samples."""
    return float(np.median([getattr(sampler, of)[size] for sampler in samplers]))


def _draw(truths: list[Evidence], by_prior: list[Sampler], by_q: list[Sampler]) -> "Figure":
    figure = new_figure(11, 4.2)
    where, error, effective = figure.subplots(1, 3)
    z = stream(0, Purpose.SAMPLE).standard_normal((400, 2))
    where.plot(*z.T, ".", color=IDLE, markersize=3)
    for truth, colour in zip(truths[:4], ("#009E73", "#CC79A7", TRAIN, "#E69F00"), strict=True):
        side = int(len(truth.log_posterior) ** 0.5)
        levels = truth.log_posterior.max() + np.array([-3.0, 0.0])  # to about 2.4 deviations
        grids = (a.reshape(side, side) for a in (*truth.rule.z.T, truth.log_posterior))
        where.contourf(*grids, levels=levels, colors=[colour], alpha=0.8)
    where.set(title="400 samples of P(Z), four P(Z|X)", xlabel="z[0]", ylabel="z[1]")
    where.set(xlim=(-5.5, 5.5), ylim=(-5.5, 5.5), aspect="equal")
    for sampler, name, colour in ((by_prior, "samples of P(Z)", TEST), (by_q, "samples of Q(Z|X)", TRAIN)):
        for axes, curve in ((error, "error"), (effective, "effective")):
            curves = np.array([getattr(one, curve) for one in sampler])
            sizes = SIZES[: curves.shape[1]]
            axes.loglog(sizes, curves.T, color=colour, linewidth=0.6, alpha=0.4)
            axes.loglog(sizes, np.median(curves, axis=0), color=colour, linewidth=2.4, label=name)
    effective.loglog(SIZES, SIZES, ":", color="black", linewidth=1, label="all of them")
    error.set(title="Error of log P(X)", xlabel="samples", ylabel="root mean square (nats)")
    effective.set(title="Effective sample size", xlabel="samples", ylabel="samples that count")
    for axes in (error, effective):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    for axes in (where, error, effective):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


SHOWN = (log_weights, judged, relative_variance)
