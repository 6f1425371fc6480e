"""What finds a wrong loss whose gradient is right: identities and statistics that hold for every right model.

None knows how the module computes: each holds losses and codes against a law - a density adds up to 1, the evidence is
the ELBO plus a KL, a batch is its images. What is wrong is named by trying what it might be. All noise has fixed seeds.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from npvae.flat import Array
from npvae.zoo.testimony import ROUNDING, SIGMAS, Testimony, away_from_start, log_normal, loss, passed, posterior, same

# ── The rate ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def rate(module: Any) -> Testimony:
    """The rate is KL(q || p) of the q that is really drawn from: E_q[log q(z) - log p(z)], by 20,000 samples.

    The rate is what the loss gains from beta 0 to beta 1. q is read off the sampler, not off `logvar`: eps 0 gives mu,
    eps 1 gives mu + sigma. So a sampler and a KL that read one head in two ways are found.
    """
    latent, count = 3, 20_000
    eps = np.random.default_rng(1).standard_normal((count, latent))
    measured, sampled, errors, candidates = [], [], [], []
    for x in np.random.default_rng(0).random((2, 5)):
        model = away_from_start(module.VAE(5, 4, latent, K=count))
        mu, sigma = posterior(model, x, latent)
        measured.append(loss(model, x, eps, beta=1) - loss(model, x, eps, beta=0))
        log_ratio = np.sum(((mu + sigma * eps) ** 2 - eps**2) / 2 - np.log(sigma), axis=1)
        sampled.append(log_ratio.mean())
        errors.append(log_ratio.std() / np.sqrt(count))
        candidates.append(rates(mu, sigma))
    off = np.abs(np.subtract(measured, sampled)) / errors
    if np.max(off) < SIGMAS:
        return passed("rate", f"the rate is within {np.max(off):.1f} standard errors of the sampled KL")
    worst, name = int(np.argmax(off)), fitting(measured, candidates)
    text = f"the rate is {measured[worst]:.3f} nats, the KL of what is sampled {sampled[worst]:.3f}"
    return Testimony("rate", False, name, f"{text}: {RATES.get(name, 'no known mistake')}")


RATES = {
    "factor -1": "the sign of the KL is wrong",
    "factor 2": "the KL is doubled, its 1/2 is missing",
    "factor 1/2": "the KL is halved",
    "factor 1/Z": "the KL is averaged over the latents, not summed",
    "ignored": "beta does not reach the loss",
    "std for variance": "sigma stands in the KL where sigma^2 belongs",
    "KL takes sigma^2 for sigma": "the sampler reads the head as log sigma^2, the KL as log sigma",
    "KL takes sigma for sigma^2": "the sampler reads the head as log sigma, the KL as log sigma^2",
    "mu^2 missing": "mu^2 is missing from the KL",
    "sigma missing": "sigma is missing from the KL",
}


def rates(mu: Array, sigma: Array) -> dict[str, float]:
    """What a rate may be, by name, for one image: mu and sigma (Z,)."""

    def kl(variance: Array, log_variance: Array, square: Array = mu**2) -> float:
        return float(np.sum(square + variance - log_variance - 1) / 2)

    log, right = 2 * np.log(sigma), kl(sigma**2, 2 * np.log(sigma))
    return {
        "factor -1": -right,
        "factor 2": 2 * right,
        "factor 1/2": right / 2,
        "factor 1/Z": right / len(mu),
        "ignored": 0.0,
        "std for variance": kl(sigma, log),
        "KL takes sigma^2 for sigma": kl(sigma**4, 2 * log),
        "KL takes sigma for sigma^2": kl(sigma, log / 2),
        "mu^2 missing": kl(sigma**2, log, 0 * mu),
        "sigma missing": float(np.sum(mu**2) / 2),
    }


def fitting(measured: list[float], candidates: list[dict[str, float]]) -> str:
    """The name under which every candidate is what was measured, or ""."""
    for name in candidates[0]:
        if all(same(m, c[name]) for m, c in zip(measured, candidates, strict=True)):
            return name
    return ""


# ── The reconstruction ───────────────────────────────────────────────────────────────────────────────────────────────


def pixels(module: Any) -> Testimony:
    """The probabilities of all 2^D images add up to 1, whatever the decoder says. Encoder off: one z for all."""
    data, latent = 3, 2
    model = away_from_start(module.VAE(data, 4, latent))
    for name in ("W1", "W2", "W3"):
        model.p[name][:] = 0
    images = np.array(list(product((0.0, 1.0), repeat=data)))
    losses = np.array([loss(model, x, np.zeros((1, latent)), beta=0) for x in images])

    def total(factor: float) -> float:
        return float(np.exp(-factor * losses).sum())

    if abs(total(1) - 1) < ROUNDING:
        return passed("pixels", "p(x|z) adds up to 1 over all images")
    text = f"the probabilities of all {len(images)} images add up to {total(1):.4f}, not 1"
    for kind, factor, words in (
        ("mean over D", data, "log p(x|z) is averaged over the pixels, not summed"),
        ("D times", 1 / data, "log p(x|z) is D times what it should be"),
        ("wrong sign", -1.0, "the sign of log p(x|z) is wrong"),
    ):
        if abs(total(factor) - 1) < ROUNDING:
            return Testimony("pixels", False, kind, f"{text}: {words}")
    if min(abs(losses[0]), abs(losses[-1])) < ROUNDING:  # all black or all white costs nothing
        which = "black" if abs(losses[0]) < ROUNDING else "white"
        text = f"{text}: an all {which} image costs nothing, the term of the {which} pixels is missing"
        return Testimony("pixels", False, "one pixel value missing", text)
    return Testimony("pixels", False, "", text)


def images(module: Any) -> Testimony:
    """The loss of a batch is the mean of the losses of its images, each alone with its own noise."""
    rng, batch, samples, latent = np.random.default_rng(0), 4, 3, 2
    x, eps = rng.random((batch, 5)), rng.standard_normal((batch, samples, latent))
    for iwae in (False, True):
        model = away_from_start(module.VAE(5, 4, latent, K=samples, iwae=iwae))
        alone = np.array([loss(model, row, noise) for row, noise in zip(x, eps, strict=True)])
        together = float(model.forward(x, eps))
        if same(together, alone.mean()):
            continue
        text = f"a batch of {batch} has loss {together:.4f}, its images alone have {alone.mean():.4f} on average"
        if same(together, alone.sum()):
            return Testimony("images", False, "sum over B", f"{text}: the loss is summed over the batch")
        # Of a loss that is a sum over images a second difference by two of them vanishes.
        changed = [x.copy() for _ in range(4)]
        for which, images_too in zip(((), (0,), (1,), (0, 1)), changed, strict=True):
            images_too[list(which)] = 1 - x[list(which)]
        a, b, c, d = (float(model.forward(version, eps)) for version in changed)
        if same(a + d, b + c):
            return Testimony("images", False, "", text)
        text = f"{text}: its images are mixed, as when (B,K) is reshaped in the wrong order"
        return Testimony("images", False, "images mixed", text)
    return passed("images", "a batch is the mean of its images")


# ── The bound ────────────────────────────────────────────────────────────────────────────────────────────────────────


def evidence(module: Any) -> Testimony:
    """log p(x) = ELBO + KL(q || posterior), so -loss never exceeds log p(x): by quadrature, with one latent.

    log p(x|z) is read off the model at every point of a grid (beta 0), so the identity tests how it is put together
    with the rate. The trapezoid rule converges faster than any power for integrands that vanish with their derivatives
    at both ends: 1e-10 with 161 points.
    """
    for x in EVIDENCE_IMAGES:
        model = away_from_start(module.VAE(3, 4, 1))
        grid = Grid(model, x)
        elbo = -grid.mean([loss(model, x, np.full((1, 1), e)) for e in grid.eps])
        gap = grid.mean(grid.log_q - grid.log_posterior)
        if abs(elbo + gap - grid.log_px) > ROUNDING * abs(grid.log_px):
            above = " and the 'bound' is above log p(x)" if elbo > grid.log_px else ""
            text = (
                f"ELBO {elbo:.4f} + KL(q || posterior) {gap:.4f} should be log p(x) = {grid.log_px:.4f}, "
                f"is {elbo + gap:.4f}{above}"
            )
            return Testimony("evidence", False, "no bound", text)
    return passed("evidence", "ELBO + KL(q || posterior) = log p(x) by quadrature")


def evidence_iwae(module: Any) -> Testimony:
    """An importance weight estimates p(x) without bias: E_q[w] = p(x), by quadrature, with one latent, one sample."""
    for x in EVIDENCE_IMAGES:
        model = away_from_start(module.VAE(3, 4, 1, iwae=True))
        grid = Grid(model, x)
        log_w = np.array([-loss(model, x, np.full((1, 1), e)) for e in grid.eps])
        estimate = np.log(grid.mean(np.exp(log_w)))
        if abs(estimate - grid.log_px) > ROUNDING * abs(grid.log_px):
            text = f"log E[w] = {estimate:.4f} is not log p(x) = {grid.log_px:.4f}"
            if np.ptp(grid.log_px_z - log_w) < ROUNDING:
                text += ": log w - log p(x|z) does not depend on z, a closed-form KL stands inside the weight"
                return Testimony("evidence-iwae", False, "analytic KL in the weight", text)
            return Testimony("evidence-iwae", False, "", text)
    return passed("evidence-iwae", "E[w] = p(x) by quadrature")


def samples(module: Any) -> Testimony:
    """Of K samples the ELBO is the mean of log w_k, the importance-weighted bound log mean_k w_k, w_k one by one.

    So ELBO <= IWAE_K (Jensen), and on average IWAE_K <= IWAE_K+1 <= log p(x) (Burda et al. 2016, theorem 1).
    """
    latent, count = 2, 5
    x, eps = np.random.default_rng(0).random(5), np.random.default_rng(1).standard_normal((count, latent))
    for iwae, law in ((False, "mean log w"), (True, "log mean w")):
        many, one = (away_from_start(module.VAE(5, 4, latent, K=k, iwae=iwae)) for k in (count, 1))
        log_w = np.array([-loss(one, x, row[None]) for row in eps])
        inside, outside = float(log_w.mean()), float(np.log(np.mean(np.exp(log_w))))
        bound, (right, other) = -loss(many, x, eps), (outside, inside) if iwae else (inside, outside)
        if same(bound, right):
            continue
        text = f"the {'weighted bound' if iwae else 'ELBO'} of {count} samples is {bound:.4f}, {law} is {right:.4f}"
        if same(bound, right + np.log(count)):
            return Testimony("samples", False, "1/K missing", f"{text}: off by log K, a sum stands for a mean")
        if same(bound, other):
            kind = "mean of logs" if iwae else "log of mean"
            return Testimony("samples", False, kind, f"{text}: it is the {kind}")
        return Testimony("samples", False, "", text)
    return passed("samples", "K samples are K times one sample, in both bounds")


class Grid:
    """What one image's evidence is made of, on a grid of noise: 161 points eps in [-10, 10], z = mu + sigma eps."""

    def __init__(self, model: Any, x: Array) -> None:
        self.eps = np.linspace(-10, 10, 161)
        mu, sigma = posterior(model, x, 1)
        z = mu + sigma * self.eps
        self.log_q = log_normal(self.eps) - np.log(sigma)
        self.log_px_z = np.array([-loss(model, x, np.full((1, 1), e), beta=0) for e in self.eps])
        joint = self.log_px_z + log_normal(z)
        self.log_px = float(np.log(self.mean(np.exp(joint - self.log_q))))
        self.log_posterior = joint - self.log_px

    def mean(self, values: Any) -> float:
        """E_q of values (161,) on the grid: the trapezoid rule, whose ends are 0."""
        return float(np.sum(values * np.exp(log_normal(self.eps))) * (self.eps[1] - self.eps[0]))


EVIDENCE_IMAGES = np.array([(1.0, 0.0, 1.0), (0.0, 0.0, 1.0)])


# ── The noise ────────────────────────────────────────────────────────────────────────────────────────────────────────


def sampler(module: Any) -> Testimony:
    """The noise has mean 0 and variance 1, and is drawn anew for every image, sample and call."""
    batch, samples, latent = 60, 40, 2
    model = away_from_start(module.VAE(5, 4, latent, K=samples, seed=3))
    x = np.tile(np.random.default_rng(0).random(5), (batch, 1))
    mu, sigma = posterior(model, x[0], latent)
    first, second = ((model.forward(x), (model.z - mu) / sigma)[1] for _ in range(2))
    for other, kind, text in (
        (second, "repeated", "a second call draws the same noise"),
        (np.roll(first, 1, axis=0), "shared by images", "the images of a batch share their noise"),
        (np.roll(first, 1, axis=1), "shared by samples", "the samples of an image share their noise"),
    ):
        if np.allclose(first, other):
            return Testimony("sampler", False, kind, text)
    mean, variance = first.mean(), first.var()
    # Of n independent normals the mean has variance 1/n, the variance about 2/n.
    bounds = SIGMAS / np.sqrt(first.size), SIGMAS * np.sqrt(2 / first.size)
    text = f"the noise has mean {mean:.3f} and variance {variance:.3f}"
    if abs(mean) < bounds[0] and abs(variance - 1) < bounds[1]:
        return passed("sampler", text)
    if abs(mean - 0.5) < bounds[0] and abs(variance - 1 / 12) < bounds[1]:
        return Testimony("sampler", False, "uniform", f"{text}: it is uniform in [0, 1), not normal")
    return Testimony("sampler", False, "", text)


WITNESSES: dict[str, Callable[[Any], Testimony]] = {
    "rate": rate,
    "pixels": pixels,
    "images": images,
    "samples": samples,
    "evidence-iwae": evidence_iwae,
    "evidence": evidence,
    "sampler": sampler,
}
