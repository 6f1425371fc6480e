"""What finds bugs that no derivative sees: statistics, and identities that hold for every right model.

Each takes a module such as `npvae.zoo.plain`, runs it, and returns a Testimony. None knows how the module computes: each
reads losses, codes and steps from outside and holds them against a law - a density sums to 1, the evidence is the ELBO
plus a KL, a batch is its images. All noise has fixed seeds; statistical bounds are five standard errors, which a right
model passes with all but 6e-7 of all seeds. What is wrong is named by trying what it might be.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from npvae.flat import Array

ROUNDING = 1e-10  # relative, of identities that hold exactly: double precision leaves some 1e-14
SIGMAS = 5.0  # standard errors that a statistic may be off


class Testimony(NamedTuple):
    """What a killer says: `ok`, or the `kind` of mistake ("" where it has no name for it); and `text` in words."""

    killer: str
    ok: bool
    kind: str
    text: str


# ── The rate ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def rate(module: Any) -> Testimony:
    """The rate is KL(q || p) of the q that is really drawn from: E_q[log q(z) - log p(z)], by 100,000 samples.

    The rate is what the loss gains from beta 0 to beta 1. q is read off the sampler, not off `logvar`: eps 0 gives mu,
    eps 1 gives mu + sigma. So a sampler and a KL that read one head in two ways are found.
    """
    latent, images = 3, np.random.default_rng(0).random((3, 5))
    eps = np.random.default_rng(1).standard_normal((100_000, latent))
    measured, spread, candidates = [], [], []
    for x in images:
        model = away_from_start(module.VAE(5, 4, latent))
        mu, sigma = posterior(model, x, latent)
        z = mu + sigma * eps
        samples = np.sum((z**2 - eps**2) / 2 - np.log(sigma), axis=1)
        measured.append(loss(model, x, np.zeros((1, latent)), beta=1) - loss(model, x, np.zeros((1, latent)), beta=0))
        spread.append((samples.mean(), samples.std() / np.sqrt(len(samples))))
        candidates.append(rates(mu, sigma))
    off = [abs(m - mean) / error for m, (mean, error) in zip(measured, spread, strict=True)]
    if max(off) < SIGMAS:
        return passed("rate", f"KL by sampling within {max(off):.1f} standard errors of the rate")
    name = fitting(measured, candidates)
    worst = int(np.argmax(off))
    text = f"the rate is {measured[worst]:.3f} nats, the KL of what is sampled {spread[worst][0]:.3f}"
    return Testimony("rate", False, name, f"{text}: {RATES.get(name, 'no known mistake')}")


RATES = {
    "factor -1": "the sign of the KL is wrong",
    "factor 2": "the KL is doubled, its 1/2 is missing",
    "factor 1/2": "the KL is halved",
    "factor 1/Z": "the KL is averaged over the latents, not summed",
    "ignored": "beta does not reach the loss",
    "std for variance": "sigma stands in the KL where sigma^2 belongs",
    "kl takes sigma^2 for sigma": "the KL's sigma is the square of the sampler's: the sampler reads log sigma^2, the KL "
    "log sigma",
    "kl takes sigma for sigma^2": "the KL's sigma is the root of the sampler's: the sampler reads log sigma, the KL log "
    "sigma^2",
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
        "kl takes sigma^2 for sigma": kl(sigma**4, 2 * log),
        "kl takes sigma for sigma^2": kl(sigma, log / 2),
        "mu^2 missing": kl(sigma**2, log, 0 * mu),
        "sigma missing": float(np.sum(mu**2) / 2),
    }


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
    for kind, factor in (("mean over D", data), ("sum for mean", 1 / data), ("wrong sign", -1.0)):
        if abs(total(factor) - 1) < ROUNDING:
            return Testimony("pixels", False, kind, f"{text}: log p(x|z) is 1/{factor:g} of what it should be ({kind})")
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
        return Testimony("images", False, "images mixed", f"{text}: an image's loss depends on the others in its batch, "
                       "as when (B,K) is reshaped in the wrong order")  # fmt: skip
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
    """An importance weight estimates p(x) without bias: E_q[w] = p(x), by quadrature, with one latent and one sample."""
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


def weights(module: Any) -> Testimony:
    """The bound of K samples is log mean_k w_k, so ELBO <= IWAE_K <= IWAE_K+1 on average: w_k read off one by one."""
    latent, samples = 2, 5
    x, eps = np.random.default_rng(0).random(5), np.random.default_rng(1).standard_normal((samples, latent))
    many, one = (away_from_start(module.VAE(5, 4, latent, K=count, iwae=True)) for count in (samples, 1))
    log_w = np.array([-loss(one, x, row[None]) for row in eps])
    bound, right = -loss(many, x, eps), float(np.log(np.mean(np.exp(log_w))))
    if same(bound, right):
        return passed("weights", "the bound of K samples is the log of their mean weight")
    text = f"the bound of {samples} samples is {bound:.4f}, log mean w is {right:.4f}"
    if same(bound, right + np.log(samples)):
        return Testimony("weights", False, "1/K missing", f"{text}: log sum stands for log mean, off by log K")
    if same(bound, log_w.mean()):
        return Testimony("weights", False, "log outside in", f"{text}: the log weights are averaged, not the weights")
    return Testimony("weights", False, "", text)


class Grid:
    """What one image's evidence is made of, on a grid of noise: 161 points over eps in [-10, 10], z = mu + sigma eps."""

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


# ── Adam ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def adam(module: Any) -> Testimony:
    """Three steps on two arrays are those of Kingma & Ba 2015, algorithm 1, its averages written as sums."""
    rng, lr = np.random.default_rng(0), 0.1
    model = module.VAE(3, 2, 1)
    names = ["W1", "b1"]
    start = {name: model.p[name].copy() for name in names}
    history: dict[str, list[Array]] = {name: [] for name in names}
    for _ in range(3):
        grads = {name: 1e-4 * rng.standard_normal(start[name].shape) for name in names}  # small: epsilon shows
        for name in names:
            history[name].append(grads[name])
        model.step({name: grad.copy() for name, grad in grads.items()}, lr)
    moved = [model.p[name] - start[name] for name in names]
    off = worst(moved, [adam_moves(history[name], lr) for name in names])
    if off < 1e-9:
        return passed("adam", "three steps are the algorithm's")
    text = f"three steps are {off:.1e} off the algorithm's"
    for kind, words in ADAM.items():
        if worst(moved, [adam_moves(history[name], lr, kind, place) for place, name in enumerate(names)]) < 1e-9:
            return Testimony("adam", False, kind, f"{text}: {words}")
    return Testimony("adam", False, "", text)


ADAM = {
    "no bias correction": "the moments are not divided by 1 - beta^t",
    "epsilon inside the root": "epsilon stands inside the root",
    "counter per array": "t counts arrays, not steps",
    "square of the mean": "the second moment averages squares of the averaged gradient",
}


def adam_moves(grads: list[Array], lr: float, kind: str = "", place: int = 0) -> Array:
    """How far Adam goes with these gradients in a row; `kind` is a mistake, `place` the array's among two."""
    b1, b2, epsilon, moved = 0.9, 0.999, 1e-8, np.zeros_like(grads[0])

    def average(values: list[Array], b: float) -> Array:
        """sum_i (1 - b) b^(t-i) values_i: the moving average as a sum."""
        return np.sum([(1 - b) * b ** (len(values) - 1 - i) * value for i, value in enumerate(values)], axis=0)

    for t in range(1, len(grads) + 1):
        squared = [average(grads[: i + 1], b1) for i in range(t)] if kind == "square of the mean" else grads[:t]
        count = 2 * (t - 1) + place + 1 if kind == "counter per array" else t
        corrected = kind != "no bias correction"
        m = average(grads[:t], b1) / (1 - b1**count if corrected else 1)
        v = average([value**2 for value in squared], b2) / (1 - b2**count if corrected else 1)
        moved -= lr * m / (np.sqrt(v + epsilon) if kind == "epsilon inside the root" else np.sqrt(v) + epsilon)
    return moved


# ── The epoch ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Watched(NamedTuple):
    """An epoch over ten images in batches of four: what it returned, the rows and the loss of every forward."""

    returned: float
    rows: list[Array]
    losses: list[float]
    images: Array


def watch(module: Any) -> Watched:
    """Run one, with a learning rate of 0."""
    images, rows, losses = np.random.default_rng(0).random((10, 5)), [], []
    model = away_from_start(module.VAE(5, 2, 2))
    forward = model.forward

    def watched(x: Array, *rest: Any) -> Any:
        rows.append(x)
        losses.append(forward(x, *rest))
        return losses[-1]

    model.forward = watched
    return Watched(float(model.epoch(images, batch=4, lr=0.0)), rows, losses, images)


def epoch_rows(module: Any) -> Testimony:
    """An epoch shows every image once."""
    seen, images = np.concatenate((run := watch(module)).rows), run.images
    counts = (seen[None] == images[:, None]).all(axis=2).sum(axis=1)
    if (counts == 1).all() and len(seen) == len(images):
        return passed("epoch-rows", "every image is seen once")
    kind = "rows repeated" if (counts > 1).any() else "rows missing"
    text = f"of {len(images)} images an epoch misses {(counts == 0).sum()} and repeats {(counts > 1).sum()}"
    return Testimony("epoch-rows", False, kind, text)


def epoch_mean(module: Any) -> Testimony:
    """The loss of an epoch is the mean over its images: batches count by their rows."""
    run = watch(module)
    sizes = np.array([len(x) for x in run.rows])
    right = float(np.average(run.losses, weights=sizes))
    if same(run.returned, right):
        return passed("epoch-mean", "the epoch's loss is the mean over its images")
    text = f"the epoch's loss is {run.returned:.4f}, the mean over its images {right:.4f}"
    if same(run.returned, float(np.mean(run.losses))):
        kind = "last batch weighted as full"
        return Testimony("epoch-mean", False, kind, f"{text}: the smaller last batch counts as a full one")
    return Testimony("epoch-mean", False, "", text)


# ── What they share ──────────────────────────────────────────────────────────────────────────────────────────────────

WITNESSES: dict[str, Callable[[Any], Testimony]] = {
    "rate": rate,
    "pixels": pixels,
    "images": images,
    "weights": weights,
    "evidence-iwae": evidence_iwae,
    "evidence": evidence,
    "sampler": sampler,
    "adam": adam,
    "epoch-rows": epoch_rows,
    "epoch-mean": epoch_mean,
}


def passed(killer: str, text: str) -> Testimony:
    """Nothing was found."""
    return Testimony(killer, True, "", text)


def away_from_start(model: Any) -> Any:
    """The model with every parameter moved a little: at its start mu, logvar and biases are so small that bugs hide."""
    rng = np.random.default_rng(5)
    for value in model.p.values():
        value += 0.4 * rng.standard_normal(value.shape)
    return model


def loss(model: Any, x: Array, eps: Array, beta: float = 1.0) -> float:
    """The loss of one image x (D,) with noise eps (K,Z)."""
    model.beta = beta
    return float(model.forward(x[None], eps[None]))


def posterior(model: Any, x: Array, latent: int) -> tuple[Array, Array]:
    """mu and sigma (Z,) of q(z|x), read off the sampler: z at eps 0, and its distance to z at eps 1."""
    ends = []
    for value in (0.0, 1.0):
        model.forward(x[None], np.full((1, model.K, latent), value))
        ends.append(model.z[0, 0].copy())
    return ends[0], ends[1] - ends[0]


def log_normal(x: Array) -> Array:
    """log N(x; 0, 1)."""
    return -(x**2 + np.log(2 * np.pi)) / 2


def same(a: float, b: float) -> bool:
    """Equal up to rounding."""
    return bool(abs(a - b) <= ROUNDING * max(abs(a), abs(b), 1.0))


def worst(arrays: list[Array], others: list[Array]) -> float:
    """The largest difference, relative to the largest number on the right."""
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in zip(arrays, others, strict=True))


def fitting(measured: list[float], candidates: list[dict[str, float]]) -> str:
    """The name under which every candidate is what was measured, or ""."""
    for name in candidates[0]:
        if all(same(m, c[name]) for m, c in zip(measured, candidates, strict=True)):
            return name
    return ""
