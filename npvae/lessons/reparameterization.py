r"""The noise stands apart: Z = μ + εσ.

Discussion 3 of the lecture: with ε ~ N(0, 1), Z = μ + εσ is distributed as N(μ, σ²), and as a function of μ and σ it
can be differentiated. The derivative along this path has the mean of the one that the density gives, at less of its
variance here, and the less the more latents there are; and it belongs to the ε that forward used: with another one, σ
learns nothing.

Z is an affine function of a Gaussian, hence Gaussian, with mean $\mu + \sigma \operatorname{E}[\epsilon] = \mu$ and
variance $\sigma^2 \operatorname{Var}[\epsilon] = \sigma^2$ (Kingma & Welling 2014, section 2.4 and eq. 10). That is
tested on the codes of a digit by a trained VAE. By Kolmogorov's theorem $\sqrt{n} \sup_z |F_n(z) - F(z)|$, with $F_n$
the share of n draws below z, exceeds t with a probability of about $2 e^{-2 t^2}$; the first four moments have the
standard errors $\sigma/\sqrt{n}$, $\sigma^2\sqrt{2/n}$, $\sqrt{6/n}$ and $\sqrt{24/n}$, the last two being those of
skewness and kurtosis.

Training needs the derivative of an expectation by the distribution that it is taken over. Write
$f(z) = \log p(x \mid z)$. There are two ways. The density can be differentiated, $\partial q = q \, \partial \log q$:

$$
\frac{\partial}{\partial \mu} \operatorname{E}_q[f(z)]
  = \operatorname{E}\left[(f(z) - c) \frac{\epsilon}{\sigma}\right],
\qquad
\frac{\partial}{\partial \log\sigma^2} \operatorname{E}_q[f(z)]
  = \operatorname{E}\left[(f(z) - c) \frac{\epsilon^2 - 1}{2}\right].
$$

This is the score-function estimator (Williams 1992, REINFORCE). It asks nothing of f, but what it averages has the size
of f itself, hundreds of nats. Any constant c may be subtracted, because the score has mean 0; the mean of f, taken from
other draws, is the usual baseline. Or z can be differentiated along the path $z = \mu + \epsilon \sigma$:

$$
\frac{\partial}{\partial \mu} \operatorname{E}_q[f(z)] = \operatorname{E}[f'(z)],
\qquad
\frac{\partial}{\partial \log\sigma^2} \operatorname{E}_q[f(z)]
  = \operatorname{E}\left[f'(z) \frac{\epsilon \sigma}{2}\right].
$$

It is the same number, but each latent sees only the slope of f along itself, not what the others do to f. (That its
variance is less is no theorem: where f oscillates within σ, its slope varies more than f does.) To see both
exactly, take a linear decoder W with Gaussian noise $s^2$ and orthogonal rows: probabilistic PCA of the digits. With
$\bar{x} = \mu W + b$ the function is a parabola along each latent,

$$
f(\mu + \sigma \epsilon) = f(\mu) + \sum_j \left( \alpha_j \epsilon_j - \frac{1}{2} \beta_j \epsilon_j^2 \right),
\quad \alpha_j = \frac{\sigma_j}{s^2} w_j \cdot (x - \bar{x}),
\quad \beta_j = \frac{\sigma_j^2}{s^2} w_j \cdot w_j .
$$

The derivatives are $\alpha_j / \sigma_j$ by $\mu_j$ and $-\beta_j/2$ by $\log\sigma_j^2$, and the variance of either
estimator follows from the moments 1, 3, 15, 105 of a Gaussian. On the path it is $\beta_j^2/\sigma_j^2$ and
$(\alpha_j^2 + 2\beta_j^2)/4$, whatever the other latents do. Of the score it holds the second moment of $f - c$: with
$c = 0$ that is the level of the log-density, and with the best constant still the variance that all latents together
give it, so that the ratio of the variances grows with their number (Mohamed, Rosca, Figurnov & Mnih 2020, "Monte Carlo
gradient estimation in machine learning", sections 4.3 and 5.3).

Last, the mistake of many programs: backward draws its noise again. Let $\epsilon'$ be another draw, independent of z:

$$
\operatorname{E}\left[f'(z) \frac{\epsilon' \sigma}{2}\right]
  = \operatorname{E}[f'(z)] \operatorname{E}[\epsilon'] \frac{\sigma}{2} = 0 .
$$

The reconstruction no longer tells σ anything. Only the rate does, whose minimum is σ = 1: the codes become as wide as
the prior. The derivative by μ stays right, so such a program learns, its loss falls, and nobody notices.
"""

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npvae import datasets
from npvae.flat import Array
from npvae.lessons.outcome import CHANCE, Findings, Number
from npvae.lessons.parabola import Parabola, principal_vae
from npvae.linear import Components, principal_components
from npvae.mosaics import new_figure
from npvae.noise import Purpose, stream
from npvae.ops.reference import halves
from npvae.optim import Adam
from npvae.plots import IDLE, TEST, TRAIN
from npvae.vae import VAE
from npvae.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ESTIMATORS = ("pathwise", "score with a baseline", "score")
KOLMOGOROV = 2.5  # what √n sup|Fₙ − F| exceeds by chance once in 130,000, for each latent


class Sizes(NamedTuple):
    """Draws of a code; images and draws of each for the estimators; latents of the models; steps of training."""

    codes: int
    images: int
    draws: int
    latents: tuple[int, ...]
    steps: int


FULL = Sizes(100_000, 10, 2_000, (1, 2, 4, 8, 16, 32, 64), 2_000)
QUICK = Sizes(20_000, 3, 3_000, (1, 2, 4, 8), 200)


def lesson(quick: bool) -> Findings:
    """The codes of a digit are tested; the estimators are held to the exact derivative and variance, on probabilistic
    PCA of the digits; a VAE is trained twice, the second time with ε redrawn in backward.
    """
    sizes = QUICK if quick else FULL
    data = datasets.load("mnist-small", rows=4_000 if quick else None)
    train, test, found = data.train.images, data.test.images, principal_components(data.train.images)
    right, wrong = (train_vae(train, test[:500], sizes.steps, redraw) for redraw in (False, True))
    codes = draw_codes(right.ws, test[:1], sizes.codes)
    compared = [compare(found, test[: sizes.images], latent, sizes.draws) for latent in sizes.latents]
    numbers = [
        Number("√n sup|Fₙ − F| of the codes, worst latent", kolmogorov(codes), at_most=KOLMOGOROV),
        Number("first four moments of the codes, furthest off", moments(codes), at_most=CHANCE, unit="standard errors"),
    ]
    # The furthest of all models, images and derivatives: of 2,540 means in the full run, 90 in the quick one.
    for name in ESTIMATORS:
        furthest = max(one.off(name) for one in compared)
        numbers += [Number(f"mean of {name}, furthest from exact", furthest, at_most=CHANCE, unit="standard errors")]
    for name in ESTIMATORS[1:]:
        for one in compared:
            ratio, derived, error = one.ratio(name)
            low, high = derived - CHANCE * error, derived + CHANCE * error
            numbers += [Number(f"variance ratio, {name} : pathwise, Z = {one.latent}", ratio, high, low)]
    last = compared[-1]
    numbers += [
        Number(
            "ε redrawn: derivative by log σ², furthest from 0",
            last.off("redrawn", of=0),
            at_most=CHANCE,
            unit="standard errors",
        ),
        Number("ε redrawn: the same from exact", last.off("redrawn"), at_least=5 * CHANCE, unit="standard errors"),
        Number("σ of the codes after training", right.sigma, at_most=0.5),
        Number("σ of the codes, trained with ε redrawn", wrong.sigma, at_least=0.8, at_most=1.2),
        Number("−ELBO of test images", right.losses[-1], unit="nats"),
        Number("the same, trained with ε redrawn", wrong.losses[-1], at_least=right.losses[-1] + 10, unit="nats"),
    ]
    alt = (
        "Top left: histograms of three latents of one digit's code lie under the curves of N(μ, σ²). Top right: the "
        "variance of three estimators of one derivative against the number of latents; the points are on the derived "
        "curves, the score's are far above the pathwise one's. Below: the derivative by log σ² of each latent, exact, "
        "pathwise and with ε redrawn, which is 0; and −ELBO by training step, which stays higher with ε redrawn."
    )
    return Findings(tuple(numbers), _draw(codes, compared, right, wrong), alt)


# ── Z is N(μ, σ²) ────────────────────────────────────────────────────────────────────────────────────────────────


class Codes(NamedTuple):
    """Draws z (n,Z) of an image's code, and the mu and sigma (Z,) that its encoder says."""

    z: Array
    mu: Array
    sigma: Array


def draw_codes(ws: Workspace, image: Array, n: int) -> Codes:
    """n codes of an image (1,D)."""
    ws.encode(image)
    stats = ws.acts.stats.astype(np.float64)
    mu, logvar = halves(stats[0, 0])
    eps = stream(0, Purpose.EPS).standard_normal((1, n, len(mu)))
    z = ws.ops.reparameterize_forward(stats, eps)
    return Codes(z[0], mu, np.exp(logvar / 2))


def kolmogorov(codes: Codes) -> float:
    """√n sup|F_n - F| of the latent for which it is largest: the empirical distribution against the Gaussian."""
    n, latents = codes.z.shape
    standard = np.sort((codes.z - codes.mu) / codes.sigma, axis=0)
    F = 0.5 + 0.5 * np.array([math.erf(t / math.sqrt(2)) for t in standard.ravel()]).reshape(n, latents)
    above, below = np.arange(1, n + 1)[:, None] / n, np.arange(n)[:, None] / n
    return math.sqrt(n) * float(np.maximum(above - F, F - below).max())


def moments(codes: Codes) -> float:
    """Mean, variance, skewness and kurtosis of every latent: the one furthest off, in standard errors."""
    e = (codes.z - codes.mu) / codes.sigma
    central = (e - e.mean(axis=0)) / e.std(axis=0)
    off = [e.mean(axis=0), (e.var(axis=0) - 1) / math.sqrt(2)]
    off += [(central**3).mean(axis=0) / math.sqrt(6), ((central**4).mean(axis=0) - 3) / math.sqrt(24)]
    return math.sqrt(len(e)) * float(np.abs(off).max())


# ── Estimators of the derivative by [mu | log sigma^2] ───────────────────────────────────────────────────────────


def pathwise(ws: Workspace, x: Array, eps: Array) -> Array:
    """Images (n,D), noise (n,1,Z) -> (n,2Z), each row an estimate from one draw: what backward gives at beta 0."""
    ws.forward(x, eps=eps, beta=0)
    ws.backward()
    estimates: Array = -len(x) * ws.dacts.stats[:, 0]  # the loss is minus the mean over the rows
    return estimates


def score(ws: Workspace, eps: Array, baseline: float) -> Array:
    """The same derivatives from the last forward's log p(x|z) alone: (f - c) d log q(z) by [mu | log sigma^2]."""
    e, sigma = eps[:, 0], np.exp(halves(ws.acts.stats[:, 0])[1] / 2)
    estimates: Array = (ws.acts.log_px - baseline) * np.hstack([e / sigma, (e**2 - 1) / 2])
    return estimates


def redrawing(ops: Any, rng: np.random.Generator) -> Any:
    """The backend with the mistake: backward draws its noise again."""

    def backward(dz: Array, stats: Array, eps: Array, out: Array | None = None) -> Array:
        fresh = rng.standard_normal(eps.shape).astype(eps.dtype)
        gradient: Array = ops.reparameterize_backward(dz, stats, fresh, out=out)
        return gradient

    return SimpleNamespace(**vars(ops) | {"reparameterize_backward": backward})


# ── The comparison ───────────────────────────────────────────────────────────────────────────────────────────────


class Compared(NamedTuple):
    """The derivatives of some images, (images,2Z), exact; by estimator: estimates (images,n,2Z), derived variance."""

    latent: int
    exact: Array
    estimates: dict[str, Array]
    derived: dict[str, float]

    def off(self, name: str, of: float = 1) -> float:
        """How far the mean estimate is from `of` times the exact derivative, where furthest, in standard errors.

        Of what redraws, only the derivatives by log sigma^2.
        """
        chosen = slice(self.latent, None) if name == "redrawn" else slice(None)
        estimates = self.estimates[name][..., chosen]
        error = estimates.std(axis=1) / math.sqrt(estimates.shape[1])
        return float((np.abs(estimates.mean(axis=1) - of * self.exact[:, chosen]) / error).max())

    def variance(self, name: str) -> tuple[float, float]:
        """The variance of an estimate, summed over derivatives and images, and its standard error."""
        squares = ((self.estimates[name] - self.exact[:, None]) ** 2).sum(axis=-1)
        return float(squares.mean(axis=1).sum()), math.sqrt(squares.var(axis=1).sum() / squares.shape[1])

    def ratio(self, name: str) -> tuple[float, float, float]:
        """The variance of an estimator to that of the pathwise one: measured, derived, and a standard error."""
        (top, top_error), (bottom, bottom_error) = self.variance(name), self.variance("pathwise")
        derived = self.derived[name] / self.derived["pathwise"]
        return top / bottom, derived, top / bottom * math.hypot(top_error / top, bottom_error / bottom)


def compare(found: Components, images: Array, latent: int, draws: int) -> Compared:
    """All estimators on the same draws, for each of the images (m,D)."""
    ws = principal_vae(found, latent, draws)
    faulty = Workspace(ws.model, draws, dtype="float64", backend="reference", theta=ws.theta)
    faulty.ops = redrawing(ws.ops, stream(2, Purpose.EPS))
    exact, derived = np.empty((len(images), 2 * latent)), dict.fromkeys(ESTIMATORS, 0.0)
    estimates = {name: np.empty((len(images), draws, 2 * latent)) for name in (*ESTIMATORS, "redrawn")}
    for i, image in enumerate(images):
        x = np.tile(image.astype(np.float64), (draws, 1))
        ws.forward(x, eps=stream(0, Purpose.EPS, i).standard_normal((draws, 1, latent)))
        baseline = float(ws.acts.log_px.mean())  # of other draws than those that it is subtracted from
        eps = stream(1, Purpose.EPS, i).standard_normal((draws, 1, latent))
        estimates["redrawn"][i] = pathwise(faulty, x, eps)
        estimates["pathwise"][i] = pathwise(ws, x, eps)
        estimates["score"][i] = score(ws, eps, 0.0)
        estimates["score with a baseline"][i] = score(ws, eps, baseline)
        parabola = Parabola.of(ws, image)
        exact[i] = parabola.derivative()
        derived["pathwise"] += parabola.pathwise_variance()
        derived["score"] += parabola.score_variance(0.0)
        derived["score with a baseline"] += parabola.score_variance(baseline)
    return Compared(latent, exact, estimates, derived)


# ── Training ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Trained(NamedTuple):
    """A workspace after training; step and -ELBO of the test images on the way; the mean sigma of their codes."""

    ws: Workspace
    steps: list[int]
    losses: list[float]
    sigma: float


def train_vae(images: Array, test: Array, steps: int, redraw: bool) -> Trained:
    """Train a VAE on images (n,D) by Adam."""
    model = VAE(images.shape[1], (100,), 8)
    ws = Workspace(model, 100)
    measuring = Workspace(model, len(test), theta=ws.theta)
    if redraw:
        ws.ops = redrawing(ws.ops, stream(0, Purpose.EPS))
    model.initialize_from(ws.params, images)
    optimizer, rng = Adam(ws, lr=2e-3), stream(0, Purpose.SHUFFLE)
    eps = stream(0, Purpose.EVALUATE_EPS).standard_normal((len(test), 1, model.latent))
    marks, losses = [], []
    for step in range(1, steps + 1):
        ws.forward(images[rng.integers(len(images), size=100)])
        ws.backward()
        optimizer.step()
        if step % (steps // 10) == 0:
            marks.append(step)
            losses.append(float(measuring.forward(test, eps=eps).real))
    sigma = np.exp(halves(measuring.acts.stats)[1] / 2).mean()
    return Trained(ws, marks, losses, float(sigma))


def _draw(codes: Codes, compared: list[Compared], right: Trained, wrong: Trained) -> "Figure":
    """Codes, variances, the derivative by log sigma^2, and training."""
    figure = new_figure(10, 8)
    (density, variance), (bias, course) = figure.subplots(2, 2)

    narrow = np.argsort(codes.sigma)[[0, len(codes.sigma) // 2, -1]]
    for latent, colour in zip(narrow, (TRAIN, TEST, "#009E73"), strict=True):
        mu, sigma = codes.mu[latent], codes.sigma[latent]
        grid = np.linspace(mu - 4 * sigma, mu + 4 * sigma, 200)
        density.hist(codes.z[:, latent], bins=60, density=True, color=colour, alpha=0.35)
        curve = np.exp(-((grid - mu) ** 2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)
        density.plot(grid, curve, color=colour, label=f"z[{latent}]: N({mu:.2f}, {sigma:.2f}²)")
    density.set(title="Codes of one digit, and N(μ, σ²)", xlabel="z = μ + εσ", ylabel="density")

    latents = [one.latent for one in compared]
    for name, colour, marker in zip(ESTIMATORS, (TRAIN, "#009E73", TEST), "osD", strict=True):
        variance.loglog(latents, [one.derived[name] for one in compared], color=colour)
        variance.loglog(latents, [one.variance(name)[0] for one in compared], marker, color=colour, label=name)
    variance.set_xticks(latents, [str(latent) for latent in latents])
    variance.set(title="Variance of a derivative (points), as derived (lines)", xlabel="latents Z",
                 ylabel="variance, summed over μ and log σ²")  # fmt: skip
    variance.minorticks_off()

    last = compared[-1]
    shown = min(last.latent, 8)
    for name, colour, shift in (("pathwise", TRAIN, -0.12), ("redrawn", TEST, 0.12)):
        estimates = last.estimates[name][0, :, last.latent : last.latent + shown]
        error = CHANCE * estimates.std(axis=0) / math.sqrt(len(estimates))
        label = "ε redrawn in backward" if name == "redrawn" else name
        bias.errorbar(np.arange(shown) + shift, estimates.mean(axis=0), error, fmt="o", color=colour, capsize=3,
                      markersize=4, label=label)  # fmt: skip
    bias.hlines(last.exact[0, last.latent : last.latent + shown], np.arange(shown) - 0.35, np.arange(shown) + 0.35,
                color="black", label="exact")  # fmt: skip
    bias.axhline(0, color=IDLE, linewidth=0.8)
    bias.set(title=f"Derivative by log σ² (bars: {CHANCE} standard errors)", xlabel="latent", ylabel="nats")
    bias.set_xticks(range(shown))

    for trained, colour, label in ((right, TRAIN, "ε of forward"), (wrong, TEST, "ε redrawn in backward")):
        course.plot(trained.steps, trained.losses, "o-", color=colour, markersize=4,
                    label=f"{label}: mean σ {trained.sigma:.2f} at the end")  # fmt: skip
    course.set(title="−ELBO of test images", xlabel="step of training", ylabel="nats per image")
    for axes in (density, variance, bias, course):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    return figure


SHOWN = (draw_codes, pathwise, score, redrawing)
