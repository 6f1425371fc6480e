r"""The loss, its closed form, and what its weights mean.

L = E_Q log P(X|Z) − KL(Q ‖ P(Z)). For Q = N(μ, σ²) and P(Z) = N(0, 1) the second term is ½(−log σ² + μ² + σ² − 1), and
with a Gaussian decoder of variance ½ the loss is ‖X − X̂‖² + KL, up to a constant. Any other weights mean another
variance: the mean over D pixels in place of the sum is a β of D, and the code is given up.

The divergence between two Gaussians, for one latent (Kingma and Welling 2014, appendix B). The logarithm of their ratio
is quadratic in $Z$, so that its mean under $Q$ needs no more than $E Z^2 = \mu^2 + \sigma^2$ and
$E (Z - \mu)^2 = \sigma^2$:

$$
\begin{aligned}
KL(Q \| P(Z)) &= E_Q \left[ -\frac{1}{2} \log \sigma^2 - \frac{(Z - \mu)^2}{2 \sigma^2} + \frac{Z^2}{2} \right] \\
&= \frac{1}{2} \left( -\log \sigma^2 + \mu^2 + \sigma^2 - 1 \right)
\end{aligned}
$$

With independent latents it is the sum of these. The other term stays an expectation, by samples of $Q$. With a decoder
$P(X|Z) = N(\hat{X}, s^2)$, the same for all of the $D$ pixels,

$$
-\log P(X|Z) = \frac{1}{2 s^2} \| X - \hat{X} \|^2 + \frac{D}{2} \log (2 \pi s^2)
$$

so that $s^2 = \frac{1}{2}$ makes it $\| X - \hat{X} \|^2 + \frac{D}{2} \log \pi$, and

$$
-L = E_Q \| X - \hat{X} \|^2 + KL(Q \| P(Z)) + \frac{D}{2} \log \pi
$$

This is the loss "MSE + KL", the squared error being summed over the pixels.

Now let somebody write $a \| X - \hat{X} \|^2 + b \, KL$. Divide by $b$: it is the bound of a decoder with
$s^2 = b / (2 a)$. Or divide by $a$: with $s^2 = \frac{1}{2}$ the divergence has the weight

$$
\beta = \frac{b}{a}
$$

which is a β-VAE (Higgins et al. 2017, "beta-VAE", equation 4). To average over the pixels, as a framework's mean
squared error does, is $a = 1/D$, $b = 1$: hence $\beta = D$, or a standard deviation of $\sqrt{D/2}$ for pixels between
0 and 1. A linear VAE keeps just those directions of the data whose variance is above $s^2$ (Lucas et al. 2019, "Don't
blame the ELBO!"). With $s^2 = D/2$ there is none: pixels between 0 and 1 have a variance of $D/4$ at most, all of them
together. $Q$ becomes the prior, every image is reconstructed as the mean image, and the loss looks excellent. "MSE +
KL" is not innocent either: ten latents reconstruct digits to about $s^2 = 0.03$, and $\frac{1}{2}$ is 17 times as much.
To learn $s^2$ takes no weight at all (Rybkin, Daniilidis and Levine 2021, "Simple and effective VAE training with
calibrated decoders").
"""

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npvae import datasets
from npvae.bounds import IWAE
from npvae.checking import check_function
from npvae.datasets import Dataset, Split
from npvae.flat import Array
from npvae.lessons.digits import tiled
from npvae.lessons.outcome import CHANCE, Findings, Number
from npvae.likelihoods import Gaussian
from npvae.mosaics import new_figure
from npvae.noise import Purpose, stream
from npvae.normal import log_density
from npvae.ops import reference
from npvae.plots import IDLE, TEST, TRAIN
from npvae.probing import largest
from npvae.quadrature import gauss_hermite, grid
from npvae.training import train
from npvae.vae import VAE
from npvae.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATENT = 10
BETAS = (0.06, 0.25, 1.0, 2.0, 4.0, 16.0)  # and D
WRITTEN = {0.06: "s² = 0.03", 1.0: "sum + KL", 2.0: "½ sum + KL"}  # what has this beta


class Learned(NamedTuple):
    """What a model trained at this beta keeps of an image: nats of KL, squared error; ten reconstructions (10, D)."""

    beta: float
    rate: float
    error: float
    reconstructed: Array


def lesson(quick: bool) -> Findings:
    """The identities for random networks and random Q; then digits learned under the weights that people give."""
    x = datasets.load("mnist-small", rows=8).train.images.astype(np.float64)
    piece = np.ascontiguousarray(x[:, 396:416])  # of the row in the middle: enough for gradients
    given = datasets.load("mnist-small", rows=1_500 if quick else 5_000)
    data = given._replace(test=Split(given.test.images[:500], None))
    epochs, lr = (15, 6e-3) if quick else (20, 2e-3)
    D = data.train.images.shape[1]
    models = [learned(data, beta, epochs, lr) for beta in (*BETAS, float(D))]
    fitted, summed, averaged = models[0], models[BETAS.index(1.0)], models[-1]
    mean_image = float(((data.test.images - data.train.images.mean(axis=0)) ** 2).sum(axis=1).mean())
    spectrum = np.linalg.eigvalsh(np.cov(data.train.images.T))
    numbers = (
        Number("loss at s² = ½ off MSE + KL + (D/2) log π", identity(x), at_most=1e-12, unit="nats"),
        Number("its gradient off that of MSE + KL, relative", gradient_error(piece, per_pixel=False), at_most=1e-9),
        Number("closed form of KL off the integral", closed_form_off_integral(), at_most=1e-12, unit="nats"),
        # Of 40 means of 20,000 samples.
        Number("closed form of KL off samples of Q", off_samples(x), at_most=CHANCE, unit="standard errors"),
        Number("L in two terms off ∫ Q log(P(X, Z)/Q) dZ", off_integral(piece[:1]), at_most=1e-9, unit="nats"),
        Number("mean-MSE: gradient off β = D's over D, relative", gradient_error(piece, per_pixel=True), at_most=1e-9),
        Number("β = D at s² = ½ off β = 1 at s² = D/2, relative", two_readings(piece), at_most=1e-12),
        Number("mean-MSE: the s² that it means, D/2", D / 2),
        Number("largest variance of the digits in any direction", spectrum[-1], at_most=D / 4),
        Number("mean-MSE: KL that is left", averaged.rate, at_most=0.01, unit="nats"),
        Number(
            "mean-MSE: squared error over the mean image's", averaged.error / mean_image, at_least=0.99, at_most=1.05
        ),
        Number("MSE + KL: KL that is left", summed.rate, at_least=1.0, unit="nats"),
        Number("MSE + KL: squared error over the mean image's", summed.error / mean_image, at_most=0.9),
        Number("s² that fits: squared error per pixel at β = 0.06", fitted.error / D),
    )
    alt = (
        "Top left: the divergence of one latent by sigma, lowest at sigma 1, higher by half of mu squared. Top right: "
        "by the beta that the weights of the loss mean, the divergence falls to 0 and the squared error rises to that "
        "of the mean image. Below: ten digits and their reconstructions, sharpest where beta is 0.06, paler as it "
        "grows, and the same dark blob for all under mean + KL."
    )
    return Findings(numbers, _draw(data, models, mean_image), alt)


def mse_plus_kl(ws: Workspace, x: Array, per_pixel: bool = False) -> float:
    """The loss as people write it, from X̂, mu and log sigma^2 of the last forward; the error summed, or averaged."""
    squares = (x[:, None] - ws.acts.y) ** 2  # (B,K,D)
    error = squares.mean(axis=-1) if per_pixel else squares.sum(axis=-1)
    mu, logvar = np.split(ws.acts.stats, 2, axis=-1)
    kl = 0.5 * (-logvar + mu**2 + np.exp(logvar) - 1)
    return float(error.mean() + kl.sum() / len(x))


def identity(x: Array) -> float:
    """The largest difference between the loss and MSE + KL + (D/2) log pi, for 20 random networks and two samples."""
    D, off = x.shape[1], []
    for seed in range(20):
        ws = Workspace(VAE(D, (50,), 5, "tanh", Gaussian(np.sqrt(0.5))), len(x), 2, "float64", seed=seed)
        off.append(ws.forward(x) - (mse_plus_kl(ws, x) + D / 2 * np.log(np.pi)))
    return largest(off)


def gradient_error(x: Array, per_pixel: bool) -> float:
    """Numeric derivatives of `mse_plus_kl` beside backward's at s^2 = 1/2 and beta = 1, or beta = D, all over beta."""
    beta = float(x.shape[1]) if per_pixel else 1.0
    ws, eps = _small(x, 0.5)

    def loss(p: dict[str, Array]) -> float:
        np.copyto(ws.theta, p["theta"])
        ws.forward(x, eps=eps, beta=beta)
        return mse_plus_kl(ws, x, per_pixel)

    def gradients(p: dict[str, Array]) -> dict[str, Array]:
        loss(p)
        ws.backward()
        return {"theta": ws.dtheta / beta}

    return check_function(loss, gradients, {"theta": ws.theta.copy()}, entries=40).max_error


def two_readings(x: Array) -> float:
    """The gradients of beta = D at s^2 = 1/2 and of beta = 1 at s^2 = D/2, the one over D beside the other."""
    D, gradients = x.shape[1], []
    for variance, beta in ((0.5, D), (D / 2, 1)):
        ws, eps = _small(x, variance)
        ws.forward(x, eps=eps, beta=float(beta))
        ws.backward()
        gradients.append(ws.dtheta / beta)
    return largest(gradients[0] - gradients[1]) / largest(gradients[1])


def closed_form_off_integral() -> float:
    """The library's KL of 50 random Q beside the integral of Q log(Q/P), on a grid of 12 deviations."""
    rng, off = stream(0, Purpose.CHECK), []
    for mu, logvar in rng.uniform((-3, -4), (3, 1), (50, 2)):
        rate = reference.gaussian_kl_forward(np.array([[[mu, logvar]]]))[0, 0, 0]
        rule = grid(np.array([mu]), np.array([[np.exp(logvar / 2)]]), reach=12.0, nodes=201)
        log_q = log_density(rule.z, np.array([mu]), np.array([[np.exp(logvar)]]))
        log_ratio = log_q - log_density(rule.z, np.zeros(1), np.eye(1))
        off.append(rate - rule.integral(np.exp(log_q) * log_ratio))
    return largest(off)


def off_samples(x: Array) -> float:
    """The KL in closed form beside the mean of log(Q/P) over samples of Q, by image and latent, in standard errors."""
    model, K = VAE(x.shape[1], (50,), 5, "tanh", Gaussian(1.0)), 20_000
    ws = Workspace(dataclasses.replace(model, bound=IWAE()), 1, K, "float64")
    ws.theta *= 2  # so that Q is far from the prior
    closed = Workspace(model, len(x), 1, "float64", theta=ws.theta)
    closed.forward(x)
    off = []
    for row, rate in zip(x, closed.acts.rate[:, 0], strict=True):
        ws.forward(row[None])
        sampled = ws.acts.rate[0]  # (K,Z)
        off.append((sampled.mean(axis=0) - rate) / (sampled.std(axis=0) / np.sqrt(K)))
    return largest(off)


def off_integral(x: Array) -> float:
    """E log P(X|Z) by a Gauss-Hermite rule, minus the KL in closed form, beside the integral over a grid of it all."""
    model = VAE(x.shape[1], (8,), 2, "tanh", Gaussian(np.sqrt(0.5)))
    hermite = gauss_hermite(np.zeros(2), np.ones(2), nodes=80)
    ws = Workspace(model, 1, len(hermite.z), "float64")
    ws.forward(x, eps=hermite.z[None])
    two_terms = hermite.integral(ws.acts.log_px[0]) - float(ws.acts.rate.sum())
    even = grid(np.zeros(2), np.eye(2), reach=10.0, nodes=101)
    whole = Workspace(dataclasses.replace(model, bound=IWAE()), 1, len(even.z), "float64", theta=ws.theta)
    whole.forward(x, eps=even.z[None])  # log_w is log P(X, Z)/Q
    return abs(two_terms - even.integral(np.exp(log_density(even.z, np.zeros(2), np.eye(2))) * whole.acts.log_w[0]))


def learned(data: Dataset, beta: float, epochs: int, lr: float) -> Learned:
    """Train at s^2 = 1/2 and this beta."""
    D, x = data.train.images.shape[1], data.test.images
    model = VAE(D, (100,), LATENT, likelihood=Gaussian(np.sqrt(0.5)))
    run = train(model, data, epochs=epochs, lr=lr, schedule="cosine", beta=beta, watched=False)
    last = run.history[-1]
    return Learned(
        beta, last["test_rate"], last["test_reconstruction"] - D / 2 * np.log(np.pi), run.reconstruct(x[:10])
    )


def _small(x: Array, variance: float) -> tuple[Workspace, Array]:
    """A small network for x (B, D) with this s^2, and noise."""
    ws = Workspace(VAE(x.shape[1], (6,), 3, "tanh", Gaussian(np.sqrt(variance))), len(x), dtype="float64")
    return ws, stream(0, Purpose.EPS).standard_normal((len(x), 1, 3))


def _draw(data: Dataset, models: list[Learned], mean_image: float) -> "Figure":
    figure = new_figure(10.5, 8.0)
    spots = figure.add_gridspec(2, 2, height_ratios=(1, 1.05))
    curves, sweep, strip = (figure.add_subplot(spot) for spot in (spots[0, 0], spots[0, 1], spots[1, :]))
    sigma = np.linspace(0.1, 2.4, 200)
    for mu, colour, line in ((0, TRAIN, "-"), (1, TEST, "--"), (2, IDLE, "-.")):
        kl = 0.5 * (-np.log(sigma**2) + mu**2 + sigma**2 - 1)
        curves.plot(sigma, kl, line, color=colour, linewidth=2, label=f"μ = {mu}")
    curves.set(title="½(−log σ² + μ² + σ² − 1)", xlabel="σ", ylabel="nats per latent", ylim=(0, 4.2))
    curves.legend(frameon=False, fontsize=10)

    betas = [model.beta for model in models]
    sweep.semilogx(betas, [model.rate for model in models], "o-", color=TRAIN, linewidth=2, label="KL (nats)")
    errors = [model.error for model in models]
    sweep.semilogx(betas, errors, "s--", color=TEST, linewidth=2, label="squared error, summed")
    sweep.axhline(mean_image, color=IDLE, linestyle=":", label="squared error of the mean image")
    sweep.set(
        title="What is learned by the weights of the loss", xlabel="β of the loss, where s² = ½", ylabel="per image"
    )
    sweep.set_ylim(-2, 1.75 * max(errors))
    sweep.legend(frameon=False, fontsize=10, loc="upper left")

    shown = [model for model in models if model.beta in WRITTEN] + [models[-1]]
    images = [data.test.images[:10], *(model.reconstructed for model in shown)]
    picture = tiled(np.stack(images), data.shape)
    strip.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    names = ["test images", *(f"{WRITTEN[model.beta]} (β = {model.beta:g})" for model in shown[:-1])]
    names.append(f"mean + KL (β = {shown[-1].beta:g})")
    strip.set_yticks((np.arange(len(names)) + 0.5) * len(picture) / len(names), names)
    strip.set_xticks([])
    strip.tick_params(length=0)
    strip.set_title("Test images reconstructed under each")
    for axes in (curves, sweep):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


SHOWN = (mse_plus_kl, identity, gradient_error, two_readings)
