r"""When the code says nothing: posterior collapse.

Discussion 2 of the lecture: if P(Z | X) = P(Z) for every X, then Z and X are independent. The KL is 0, which looks like
a success, and the code says nothing of the image, nor a sample's code of the sample: undesired. A large variance of the
decoder or a large β bring it about: in a linear VAE just those latents collapse whose eigenvalue is below βσ². Where a
decoder is too deep they may collapse with neither.

The rate that the loss contains is the sum of two divergences. With $q(z)$ the mean of $q(z \mid x)$ over the images,

$$
\operatorname{E}_x \mathrm{KL}(q(z \mid x) \| p(z)) = I(X; Z) + \mathrm{KL}(q(z) \| p(z)),
\qquad I(X; Z) = \operatorname{E}_x \mathrm{KL}(q(z \mid x) \| q(z))
$$

(Hoffman & Johnson 2016, "ELBO surgery"). Neither is negative: a rate of 0 leaves no information, and the rate bounds
it from above. I is estimated without bias by the mean of $\log q(z \mid x) - \log q(z)$ over codes of 500 test images,
q(z) being the mixture of their 500 encoders; it cannot exceed $\log 500 = 6.2$ nats.

Which latents pay for themselves can be computed where the decoder is linear, $x = zW + b$ with noise of variance
$\sigma^2$. Let the row of W for a latent point in a principal direction of the images, of eigenvalue $\lambda$, with
length w. Along it the model is $N(0, w^2 + \sigma^2)$, and the expected log-density of the images, but for a
constant,

$$
-\frac{1}{2} \left[ \log(w^2 + \sigma^2) + \frac{\lambda}{w^2 + \sigma^2} \right],
\qquad
\frac{\partial}{\partial (w^2)} = \frac{\lambda - \sigma^2 - w^2}{2 (w^2 + \sigma^2)^2} .
$$

If $\lambda > \sigma^2$ it is greatest at $w^2 = \lambda - \sigma^2$; otherwise it falls from the start, w = 0 is best
and the latent collapses (Tipping & Bishop 1999; Lucas et al. 2019, "Don't blame the ELBO!", who show that training has
no other stable end). The posterior then has variance $1/(1 + w^2/\sigma^2) = \sigma^2/\lambda$, and means with variance
$1 - \sigma^2/\lambda$, so that the rate of a latent is

$$
\frac{1}{2} \left( 1 - \frac{\sigma^2}{\lambda} + \frac{\sigma^2}{\lambda} - 1 - \log \frac{\sigma^2}{\lambda} \right)
  = \frac{1}{2} \log \frac{\lambda}{\sigma^2} \quad \text{if } \lambda > \sigma^2, \qquad 0 \text{ otherwise.}
$$

A weight $\beta$ of the rate does the same as a larger variance, since all that depends on z is

$$
\frac{1}{2\sigma^2} \lVert x - \hat{x} \rVert^2 + \beta \, \mathrm{KL}
  = \beta \left( \frac{1}{2 \beta\sigma^2} \lVert x - \hat{x} \rVert^2 + \mathrm{KL} \right) .
$$

So there are two illnesses, which look alike. In the first the objective itself wants the collapse, $\beta\sigma^2$
being above every eigenvalue. A learned $\sigma$ cures it, for it falls to the error that is left; free bits (Kingma et
al. 2016, eq. 15) make a part of each latent's rate free of charge, so that it is used. A warm-up of $\beta$ (Sønderby
et al. 2016) does not: at its end the objective is what it was. In the second the objective is sound, but a deep decoder
has not yet learned to read a code when the rate has already silenced it. There warm-up helps, and free bits do.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npvae.bounds import ELBO
from npvae.datasets import Dataset, Split
from npvae.evaluation import evaluate
from npvae.flat import Array
from npvae.information import mutual_information
from npvae.lessons.digits import digits, tiled
from npvae.lessons.outcome import CHANCE, Findings, Number
from npvae.likelihoods import Gaussian
from npvae.linear import principal_components
from npvae.mosaics import new_figure
from npvae.noise import Purpose, stream
from npvae.optim import Adam, cosine
from npvae.plots import TEST, TRAIN
from npvae.training import train
from npvae.vae import VAE
from npvae.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATENT = 10
LINEAR, DIRECTIONS = 8, 16  # latents of the linear VAE, principal directions that it sees
NOTHING = 0.02  # nats, or a share of the pixels' variance: what counts as none of it
CODES, DRAWS = 500, 4  # test images whose codes are looked at, codes drawn for each


class Sizes(NamedTuple):
    """Live latents and beta of the linear VAEs, their steps; layers of the deep VAE; epochs and lr of all others."""

    linear: tuple[tuple[int, float], ...]
    steps: int
    deep: tuple[int, ...]
    epochs: int
    lr: float


FULL = Sizes(((0, 1), (1, 1), (2, 3), (4, 1), (6, 1), (8, 0.5)), 3_000, (100,) * 5, 8, 4e-3)
QUICK = Sizes(((0, 1), (2, 3), (6, 1)), 1_000, (50,) * 3, 12, 6e-3)


def lesson(quick: bool) -> Findings:
    """Linear VAEs on the digits' principal directions, every rate against the one derived; then VAEs on digits: two
    that are driven to collapse, one that is too deep, and what remedies do.
    """
    sizes, data = QUICK if quick else FULL, digits(quick)
    data = data._replace(test=Split(data.test.images[:CODES], None))
    variances = principal_components(data.train.images).variances
    linear = [train_linear(variances[:DIRECTIONS], *case, sizes.steps) for case in sizes.linear]
    shallow, wide = sizes.deep[:1], Gaussian(math.sqrt(2 * variances[0]))  # sigma^2 above every eigenvalue
    plain, free, slowly = ELBO(), ELBO(free_bits=0.5), sizes.epochs * 2 // 3

    def saw(title: str, hidden: tuple[int, ...], likelihood: Any, bound: ELBO = plain, **settings: Any) -> "Seen":
        return observe(
            title,
            VAE(math.prod(data.shape), hidden, LATENT, "relu", likelihood, bound),
            data,
            {"epochs": sizes.epochs, "lr": sizes.lr, **settings},
        )

    healthy = saw("β = 1", shallow, "bernoulli")
    driven = [saw("β = 30", shallow, "bernoulli", beta=30), saw("σ² = 2λ₁", shallow, wide)]
    uncured = saw("σ² = 2λ₁, warm-up", shallow, wide, warmup=slowly)
    deep = saw("deep", sizes.deep, "bernoulli")
    cured = [
        saw("σ² learned", shallow, "gaussian-learned"),
        saw("σ² = 2λ₁, free bits", shallow, wide, free),
        saw("deep, warm-up", sizes.deep, "bernoulli", warmup=slowly),
        saw("deep, free bits", sizes.deep, "bernoulli", free),
    ]
    numbers = [
        Number(
            "linear: rate of a latent, furthest from ½ log(λ/βσ²)",
            max(one.error for one in linear),
            at_most=1e-8,
            unit="nats",
        ),
        Number("linear: latents live that should not be, or not live", sum(one.mistaken for one in linear), at_most=0),
    ]
    for one in (*driven, deep, uncured):
        numbers += [
            Number(f"{one.title}: KL, summed over latents", one.rates.sum(), at_most=NOTHING, unit="nats"),
            Number(f"{one.title}: I(X;Z)", one.information, at_most=NOTHING, unit="nats"),
            Number(f"{one.title}: active units", one.active, at_most=0),
            Number(f"{one.title}: share of samples' variance due to Z", one.share, at_most=NOTHING),
        ]
    for one in (healthy, *cured):
        numbers += [
            Number(f"{one.title}: I(X;Z)", one.information, at_least=1, unit="nats"),
            Number(f"{one.title}: active units of {LATENT}", one.active, at_least=LATENT // 3),
            Number(f"{one.title}: share of samples' variance due to Z", one.share, at_least=5 * NOTHING),
        ]
    all_seen = [healthy, *driven, uncured, *cured[:2], deep, *cured[2:]]
    most = max(one.information for one in all_seen)
    name = f"I(X;Z) − rate − {CHANCE} standard errors, largest of all"
    numbers += [
        Number(name, above_rate(all_seen), at_most=0, unit="nats"),
        # of every single code at most log n, as the mixture that it is compared with holds its own encoder at 1/n
        Number("I(X;Z), largest of all", most, at_most=math.log(CODES), unit="nats"),
        Number("deep: −ELBO of test images", deep.loss, unit="nats"),
        Number("deep, warm-up: −ELBO of test images", cured[2].loss, at_most=deep.loss - 5, unit="nats"),
    ]
    alt = (
        "Top: the rate of each latent of linear VAEs against its eigenvalue; for every variance of the decoder the "
        "points lie on the derived curve, 0 up to that variance and rising from there. Below, for nine VAEs on digits: "
        "a bar made of the rates of the latents, and on it the information between image and code, both of them "
        "nothing for the collapsed; and beside each bar samples, which for the collapsed repeat one blurred mean and "
        "for the others are different digits."
    )
    return Findings(tuple(numbers), _draw(linear, all_seen, data), alt)


# ── Linear: predicted and observed ───────────────────────────────────────────────────────────────────────────────


class Linear(NamedTuple):
    """The eigenvalues (D,), beta sigma^2, and the rates of the trained latents (Z,), in descending order."""

    variances: Array
    noise: float
    rates: Array

    @property
    def predicted(self) -> Array:
        """The rate of each latent, the first having the first direction."""
        return np.maximum(0.5 * np.log(self.variances[: len(self.rates)] / self.noise), 0)

    @property
    def error(self) -> float:
        """The largest difference from what is predicted."""
        return float(np.abs(self.rates - self.predicted).max())

    @property
    def mistaken(self) -> int:
        """How many latents are live, or collapsed, and should not be."""
        return int(np.count_nonzero((self.rates > 1e-6) != (self.predicted > 0)))


def train_linear(variances: Array, live: int, beta: float, steps: int) -> Linear:
    """Train a linear VAE with beta sigma^2 between the eigenvalues `live` and `live` + 1, counted from 1.

    A linear VAE knows of the images their mean and their covariance alone: instead of 10,000 digits it is given, in
    the coordinates of the principal directions, the two points ±sqrt(D lambda) on each axis, whose covariance is the
    same. Noise of ±sqrt(Z) on each axis has the covariance 1: the loss has no sampling error.
    """
    D, latent = len(variances), LINEAR
    noise = math.sqrt(variances[live - 1] * variances[live]) if live else 1.2 * variances[0]
    points, axes = np.diag(np.sqrt(D * variances)), math.sqrt(latent) * np.eye(latent)
    x, eps = np.vstack([points, -points]), np.tile(np.vstack([axes, -axes]), (2 * D, 1, 1))
    model = VAE(D, (), latent, "identity", Gaussian(math.sqrt(noise / beta)))
    ws = Workspace(model, 2 * D, 2 * latent, "float64", "reference")
    optimizer = Adam(ws, lr=cosine(0.3, steps))
    for _ in range(steps):
        ws.forward(x, eps=eps, beta=beta)
        ws.backward()
        optimizer.step()
    ws.forward(x, eps=eps, beta=beta)
    return Linear(variances, noise, np.sort(ws.acts.rate.mean(axis=(0, 1)))[::-1])


# ── Digits: what a code says ─────────────────────────────────────────────────────────────────────────────────────


class Seen(NamedTuple):
    """A trained VAE: rates (Z,) and I(X;Z) in nats; latents whose mean varies; the share; -ELBO; samples (n,D)."""

    title: str
    rates: Array
    information: float
    active: int
    share: float
    loss: float
    samples: Array


def observe(title: str, model: VAE, data: Dataset, settings: dict[str, Any]) -> Seen:
    """Train a VAE and see what its codes say of images, and what the samples owe to their codes.

    The share: the variance of the decoded mean over codes from the prior, by that of test images, summed over pixels.
    """
    run = train(model, data, watched=False, **settings)
    test = data.test.images
    measured = evaluate(run, test, samples=None)
    coding = Workspace(model, len(test), theta=run.theta)
    coding.encode(run.binarize(test))
    eps = stream(0, Purpose.EVALUATE_EPS).standard_normal((len(test), DRAWS, model.latent))
    information = mutual_information(coding.acts.stats, eps)
    samples = run.sample(CODES)
    share = float(samples.var(axis=0).sum() / test.var(axis=0).sum())
    return Seen(title, run.rates(test), information, measured.active_units, share, measured.loss, samples[:12])


def above_rate(seen: list[Seen]) -> float:
    """The largest of I(X;Z) - rate, none of which is above 0, less the standard errors of chance; in nats.

    Where the two are nearly equal both are near 0, and log q(z|x)/p(z) has a variance of twice its mean, the rate.
    """
    rates = [float(one.rates.sum()) for one in seen]
    return max(
        one.information - rate - CHANCE * math.sqrt(2 * max(rate, 0) / (CODES * DRAWS))
        for one, rate in zip(seen, rates, strict=True)
    )


def _draw(linear: list[Linear], seen: list[Seen], data: Dataset) -> "Figure":
    """Rates of the linear VAEs beside the derived ones; of the others the rate of each latent, information, samples."""
    figure = new_figure(11, 9.5)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.7))
    curves, (bars, mosaic) = parts[0].subplots(), parts[1].subplots(1, 2, width_ratios=(1.15, 2))
    colours = (TRAIN, TEST, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito 2008
    grid = np.linspace(linear[0].variances[LINEAR], linear[0].variances[0], 400)
    for case, colour in zip(linear, colours, strict=False):
        curves.plot(grid, np.maximum(0.5 * np.log(grid / case.noise), 0), color=colour, linewidth=1.2)
        live = np.count_nonzero(case.rates > 1e-6)
        curves.plot(case.variances[:LINEAR], case.rates, "o", color=colour, markersize=5,
                    label=f"βσ² = {case.noise:.2f}: {live} of {LINEAR} live")  # fmt: skip
    curves.set(title="Linear VAEs: the rate of each latent as observed (points), and ½ log(λ/βσ²) (lines)",
               xlabel="λ, eigenvalue of the latent's direction", ylabel="rate of the latent (nats)")  # fmt: skip
    curves.legend(frameon=False, fontsize=9)

    spots = np.arange(len(seen)) + 0.5
    most = max(one.rates.sum() for one in seen)
    for spot, one in zip(spots, seen, strict=True):
        rates = np.sort(one.rates)[::-1]
        name = "rate, latent by latent" if one is seen[0] else None
        bars.barh(np.full(LATENT, spot), rates, left=np.cumsum(rates) - rates, height=0.55, color=TRAIN,
                  edgecolor="white", linewidth=0.6, label=name)  # fmt: skip
        bars.text(rates.sum() + 0.04 * most, spot, f"{rates.sum():.2f}, {one.active} active", va="center", fontsize=9)
    bars.plot([one.information for one in seen], spots, "D", color=TEST, markersize=6, clip_on=False,
              label=f"I(X;Z), at most log {CODES}")  # fmt: skip
    bars.set_yticks(spots, [one.title for one in seen])
    bars.set(title="Rate and information", xlabel="nats", xlim=(0, 1.5 * most), ylim=(len(seen), 0))
    bars.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.82))  # beside bars of nothing

    picture = tiled(np.stack([one.samples for one in seen]), data.shape)
    mosaic.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect="auto")  # its rows beside the bars
    mosaic.set(title="Samples: z ~ N(0, I), decoded to the mean of p(x|z)", xticks=[], yticks=[])
    mosaic.spines[:].set_visible(False)
    for panel in (curves, bars):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
    return figure


SHOWN = (train_linear, observe)
