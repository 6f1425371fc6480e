r"""The evidence is a divergence and a bound.

log P(X) = KL(Q ‖ P(Z|X)) + ELBO, whatever Q is. P(Z|X) is out of reach, and so are P(X) and the divergence; but
log P(X) does not depend on Q, and a divergence is at least 0. So the ELBO is a lower bound of log P(X), and to maximise
it is to bring Q to P(Z|X): inference has become optimisation.

The posterior is $P(Z|X) = P(X|Z) P(Z) / P(X)$, and its denominator is the integral that nobody can do. Take any density
$Q(Z)$ that can be sampled, and write down how far it is from the posterior:

$$
\begin{aligned}
KL(Q \| P(Z|X)) &= E_Q \left[ \log Q(Z) - \log P(Z|X) \right] \\
&= E_Q \left[ \log Q(Z) - \log P(X|Z) - \log P(Z) \right] + \log P(X)
\end{aligned}
$$

The second line is Bayes' rule; $\log P(X)$ does not depend on $Z$ and leaves the expectation. Bring it to the left:

$$
\log P(X) = KL(Q \| P(Z|X)) + ELBO, \quad ELBO = E_Q \left[ \log P(X|Z) \right] - KL(Q \| P(Z))
$$

This is equation 1 of Kingma and Welling (2014, "Auto-encoding variational Bayes"), their equation 3 being the ELBO. The
left side is a constant of the model and the image, the divergence is at least 0, so

$$
ELBO \le \log P(X), \quad \arg \max_{Q} ELBO = \arg \min_{Q} KL(Q \| P(Z|X))
$$

and what is maximised holds nothing that cannot be computed: samples of $Q$, the decoder's $\log P(X|Z)$, and a
divergence between two Gaussians. With $Q = P(Z|X)$ there is no gap. A diagonal Gaussian is hardly ever the posterior,
so a gap stays. An encoder, which has to give $Q$ for every image at once, adds to it: its $Q$ is not the best diagonal
Gaussian for the image (Cremer, Li and Duvenaud 2018, "Inference suboptimality in variational autoencoders").

That the two terms add up is seen in numbers only if each comes from elsewhere. In a linear model with Gaussian noise
all are known: $P(X)$ and $P(Z|X)$ are Gaussians. In a trained VAE with tanh layers and two latents nothing is, but a
plane can be integrated over: $\log P(X)$ is summed over a grid of the plane; the ELBO is the library's divergence and a
Gauss-Hermite rule around $Q$; and for $KL(Q \| P(Z|X))$ the posterior is normalised once more, on a skewed grid that
shares no node with the first. Then $Q$ is set free: for one image, its $\mu$ and $\log \sigma^2$ start far away and
climb the ELBO by the gradients that the decoder sends back through $Z = \mu + \sigma \epsilon$.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npvae.bounds import ELBO
from npvae.flat import Array
from npvae.lessons.outcome import Findings, Number
from npvae.lessons.plane import REACH, Evidence, Plane, encoded, evidence, log_joint, trained_plane, workspace
from npvae.likelihoods import Gaussian
from npvae.mosaics import new_figure
from npvae.noise import Purpose, stream
from npvae.normal import kl, log_density
from npvae.optim import Adam, cosine
from npvae.plots import TEST, TRAIN
from npvae.probing import largest
from npvae.quadrature import Rule, gauss_hermite, grid
from npvae.vae import VAE
from npvae.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST_Q = np.array([0.0, 0.0, -1.5, -1.5])  # [mu | log sigma^2] where the climb starts
STEPS, EVERY, DRAWS, RATE = 240, 4, 64, 0.1  # of the climb: looked at so often, with so many samples, at Adam's rate
HERMITE = 32  # nodes along an axis around Q
FREE = 2  # the test image whose Q is set free


class Posterior(NamedTuple):
    """log P(Z|X) (n,) at the nodes of a rule."""

    rule: Rule
    log: Array


class Climb(NamedTuple):
    """What a Q was after each step: [mu | log sigma^2] (m, 4), its ELBO (m,) and its divergence (m,), nats."""

    q: Array
    elbo: Array
    divergence: Array


def lesson(quick: bool) -> Findings:
    """The sum of the two terms beside log P(X): exactly for a linear model, by three rules for a trained one."""
    log_p, elbo, divergence = terms_of_linear_models()
    exact = largest(log_p - elbo - divergence)
    numbers = [
        Number("linear model, random Q: log P(X) off KL + ELBO", exact, at_most=1e-10, unit="nats"),
        Number("the least KL among these Q", divergence.min(), at_least=0.1, unit="nats"),  # none is the posterior
    ]
    plane = trained_plane(quick)
    off, halved, doubled = [], [], []
    for index in range(3 if quick else 10):
        x = plane.images[index : index + 1]
        truth, q = evidence(plane, x), encoded(plane, x)
        posterior = posterior_on_another_grid(plane, x, truth, q)
        bound = elbo_around(plane, x, q)
        off.append(truth.log_p - (divergence_from(posterior, q) + bound))
        halved.append(truth.change)
        doubled.append(bound - elbo_around(plane, x, q, nodes=2 * HERMITE))
        if index == FREE:
            free = x, truth, q, posterior
    x, truth, q, posterior = free
    climb = set_free(plane, x)
    along = largest(truth.log_p - climb.elbo - climb.divergence)
    slope = gradient_around(plane, x, FIRST_Q)
    steep = largest(slope - numeric_gradient(plane, x, FIRST_Q)) / largest(slope)
    first, last, encoder = climb.divergence[0], climb.divergence[-1], divergence_from(posterior, q)
    numbers += [
        Number("trained VAE, three rules: log P(X) off KL + ELBO", largest(off), at_most=1e-6, unit="nats"),
        Number("half the grid's spacing changes log P(X) by", largest(halved), at_most=1e-6, unit="nats"),
        Number("twice the Gauss-Hermite nodes change the ELBO by", largest(doubled), at_most=1e-6, unit="nats"),
        Number("the gradient that Q climbs by off a numeric one, relative", steep, at_most=1e-6),
        Number("while Q climbs: log P(X) off KL + ELBO", along, at_most=1e-6, unit="nats"),
        Number("gap of the first Q", first, unit="nats"),
        Number("share of it that the climb leaves", last / first, at_most=0.05),
        Number("gap of the last Q, about the best diagonal Gaussian", last, unit="nats"),
        Number("gap that the encoder's Q has besides", encoder - last, at_least=0.0, unit="nats"),
    ]
    alt = (
        "Left: the true posterior of a digit, a hill in the plane of the code, and ellipses of Q on its way there; the "
        "last lies on the hill as well as a level ellipse can, the encoder's Q beside it. Right: step by step the ELBO "
        "rises towards the level line log P(X), and the band between them, the divergence, closes but for a rest."
    )
    return Findings(tuple(numbers), _draw(climb, truth.log_p, posterior, q, x), alt)


def terms_of_linear_models() -> tuple[Array, Array, Array]:
    """log P(X), the ELBO and KL(Q || P(Z|X)) of 200 images under x = z V + b + noise, V, b and Q at random."""
    D, Z, variance, images = 8, 3, 0.36, 20
    ws = Workspace(VAE(D, (), Z, "identity", Gaussian(np.sqrt(variance))), images, 2 * Z, "float64")
    # 2Z samples of mean 0 and covariance 1, exactly: the mean over them of what is quadratic in z is its expectation.
    eps = np.tile(np.sqrt(Z) * np.vstack([np.eye(Z), -np.eye(Z)]), (images, 1, 1))
    terms = []
    for seed in range(10):
        rng = stream(seed, Purpose.CHECK)
        ws.theta[:] = 0.5 * rng.standard_normal(ws.theta.size)
        x = rng.standard_normal((images, D))
        ws.forward(x, eps=eps)
        elbo = ws.acts.log_px.mean(axis=1) - ws.acts.rate.sum(axis=(1, 2))
        V, b = ws.params.decoder[0]
        log_p = log_density(x, b, V.T @ V + variance * np.eye(D))
        C = np.linalg.inv(V @ V.T / variance + np.eye(Z))  # the posterior is N((x - b) V' C / variance, C)
        means = (x - b) @ V.T @ C / variance
        mu, logvar = np.split(ws.acts.stats[:, 0], 2, axis=1)
        gaps = [kl(m, np.diag(np.exp(s)), mean, C) for m, s, mean in zip(mu, logvar, means, strict=True)]
        terms.append((log_p, elbo, np.array(gaps)))
    log_p, elbo, divergence = np.concatenate(terms, axis=1)
    return log_p, elbo, divergence


def elbo_around(plane: Plane, x: Array, q: Array, nodes: int = HERMITE) -> float:
    """E_Q log P(X|Z), by a Gauss-Hermite rule around Q, minus KL(Q || P(Z)), which the library has in closed form."""
    rule = gauss_hermite(np.zeros(2), np.ones(2), nodes)
    ws = workspace(plane, len(rule.z), ELBO(), q)
    ws.forward(x, eps=rule.z[None])  # z = mu + sigma eps
    return rule.integral(ws.acts.log_px[0]) - float(ws.acts.rate.sum())


def gradient_around(plane: Plane, x: Array, q: Array) -> Array:
    """The derivatives (4,) of what `elbo_around` gives, by the VAE's backward pass, node by node of the same rule."""
    rule = gauss_hermite(np.zeros(2), np.ones(2), HERMITE)
    ws, slopes = workspace(plane, 1, ELBO(), q), []
    for eps in rule.z:
        ws.forward(x, eps=eps[None, None])
        ws.backward()
        slopes.append(-ws.grads.encoder[-1].b)  # of the loss, which is -ELBO
    gradient: Array = np.exp(rule.log_weight) @ np.array(slopes)
    return gradient


def numeric_gradient(plane: Plane, x: Array, q: Array, step: float = 1e-4) -> Array:
    """The same by central differences, without a backward pass."""
    ahead, behind = ([elbo_around(plane, x, q + t * axis) for axis in np.eye(len(q))] for t in (step, -step))
    return (np.array(ahead) - behind) / (2 * step)


def posterior_on_another_grid(plane: Plane, x: Array, truth: Evidence, q: Array) -> Posterior:
    """P(Z|X) normalised on a grid of its own: 10 deviations of Q and the posterior taken together, along their axes."""
    weight = np.exp(truth.rule.log_weight + truth.log_posterior)
    mean = weight @ truth.rule.z
    covariance = (truth.rule.z - mean).T * weight @ (truth.rule.z - mean)
    apart = mean - q[:2]
    both = (covariance + np.diag(np.exp(q[2:]))) / 2 + np.outer(apart, apart) / 4  # of the two in equal shares
    rule = grid((mean + q[:2]) / 2, np.linalg.cholesky(both).T, reach=10, nodes=121)
    joint = log_joint(plane, x, rule.z)
    return Posterior(rule, joint - rule.log_integral(joint))


def divergence_from(posterior: Posterior, q: Array) -> float:
    """KL(Q || P(Z|X)) = the integral of Q (log Q - log P(Z|X)), over the posterior's grid."""
    log_q = log_density(posterior.rule.z, q[:2], np.diag(np.exp(q[2:])))
    return posterior.rule.integral(np.exp(log_q) * (log_q - posterior.log))


def set_free(plane: Plane, x: Array) -> Climb:
    """Maximise the ELBO over Q alone, for one image, by the gradients of the VAE's own backward pass."""
    ws = workspace(plane, DRAWS, ELBO(), FIRST_Q)
    optimizer, seen = Adam(ws, cosine(RATE, STEPS)), []
    everywhere = grid(np.zeros(2), np.eye(2), REACH, 301)  # wherever Q comes along
    joint = log_joint(plane, x, everywhere.z)
    posterior = Posterior(everywhere, joint - everywhere.log_integral(joint))
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            q = ws.params.encoder[-1].b.copy()
            seen.append((q, elbo_around(plane, x, q), divergence_from(posterior, q)))
        ws.forward(x)
        ws.backward()
        dq = ws.grads.encoder[-1].b.copy()
        ws.dtheta[:] = 0  # the decoder, and with it log P(X), stays what it is
        ws.grads.encoder[-1].b[:] = dq
        optimizer.step()
    return Climb(*map(np.array, zip(*seen, strict=True)))


def _draw(climb: Climb, log_p: float, posterior: Posterior, q: Array, x: Array) -> "Figure":
    figure = new_figure(10.5, 5.2)
    left, right = figure.subplots(1, 2)
    side = int(len(posterior.log) ** 0.5)
    z = posterior.rule.z.reshape(side, side, 2)
    height = np.exp(posterior.log - posterior.log.max()).reshape(side, side)
    levels = np.exp(-0.5 * np.arange(3, -0.1, -0.5) ** 2)  # half deviations from the top, were it a Gaussian
    left.contourf(*z.T, height.T, levels=levels, cmap="Greys")
    gaps = climb.divergence
    way = [climb.q[np.argmax(gaps <= share * gaps[0])] for share in (1.0, 0.5, 0.2, 0.05)]
    for one in way:
        left.plot(*_ellipse(one), color=TEST, linewidth=1.0, label="Q on its way" if one is way[0] else None)
    left.plot(*_ellipse(climb.q[-1]), color=TEST, linewidth=2.6, label="Q at the end")
    left.plot(*_ellipse(q), "--", color=TRAIN, linewidth=2.0, label="the encoder's Q")
    left.set(title="P(Z|X) of one digit in grey, Q at 2 deviations", xlabel="z[0]", ylabel="z[1]")
    middle = (climb.q[0, :2] + climb.q[-1, :2]) / 2
    left.set(xlim=middle[0] + np.array([-3.6, 3.6]), ylim=middle[1] + np.array([-3.6, 3.6]), aspect="equal")
    left.legend(loc="upper right", fontsize=10, frameon=False)
    inset = left.inset_axes((0.02, 0.02, 0.24, 0.24))
    inset.imshow(x.reshape(28, 28), cmap="Greys", interpolation="nearest")
    inset.set(xticks=[], yticks=[])

    steps, top, floor = EVERY * np.arange(len(gaps)), climb.elbo + gaps, log_p - 20  # nothing new lies below
    right.fill_between(steps, climb.elbo.min(), climb.elbo, color=TRAIN, alpha=0.3, linewidth=0)
    right.fill_between(steps, climb.elbo, top, color=TEST, alpha=0.4, linewidth=0)
    right.plot(steps, climb.elbo, color=TRAIN, linewidth=2)
    right.plot(steps, top, color="black", linewidth=2)
    seen = STEPS // 2  # what happens later is not to be seen
    right.text(seen / 2, log_p + 0.5, "log P(X) = KL + ELBO", ha="center", fontsize=11)
    right.text(seen / 2, log_p - 14, "ELBO", ha="center", fontsize=11)
    arrow = {"arrowstyle": "->"}
    wide = steps[np.argmax(gaps <= 10)]
    right.annotate("KL(Q ‖ P(Z|X))", (wide - 4, log_p - 6), (wide + 14, log_p - 9), fontsize=11, arrowprops=arrow)
    rest = f"{gaps[-1]:.2f} nats stay after {STEPS} steps:\nP(Z|X) is no diagonal Gaussian"
    right.annotate(rest, (seen - 1, log_p - 0.1), (seen - 2, log_p - 4), ha="right", fontsize=10, arrowprops=arrow)
    right.set(title="The sum is level, so the gap closes", xlabel="step", ylabel="nats")
    right.set(xlim=(0, seen), ylim=(floor, log_p + 2))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _ellipse(q: Array) -> Array:
    """Two standard deviations around Q: (2, 200)."""
    angle = np.linspace(0, 2 * np.pi, 200)
    return np.asarray(q[:2, None] + 2 * np.exp(q[2:, None] / 2) * [np.cos(angle), np.sin(angle)])


SHOWN = (elbo_around, posterior_on_another_grid, divergence_from, set_free)
