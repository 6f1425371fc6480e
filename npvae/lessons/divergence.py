r"""Entropy, divergence, and its two directions.

KL(P ‖ Q) = Σ P log(P/Q) = ∫ p(x) log(p(x)/q(x)) dx is what it costs to take Q for P. It is at least 0, and 0 only if
Q = P; and it is not symmetric: KL(P ‖ Q) ≠ KL(Q ‖ P). Fitted to two modes, a Gaussian covers both in the one direction
and seeks one of them in the other. Inference needs KL(Q ‖ P), the one that asks only for samples of Q.

An event of probability $p$ tells us $-\log p$ nats when it happens (Shannon 1948, "A mathematical theory of
communication"). What is heard on average from $P$ is its entropy; from $P$ by somebody who expects $Q$ it is the
cross entropy; and the difference is what the wrong belief costs, the divergence of Kullback and Leibler (1951, "On
information and sufficiency"):

$$
H(P) = -\sum_{x} P(x) \log P(x), \quad H(P, Q) = -\sum_{x} P(x) \log Q(x), \quad KL(P \| Q) = H(P, Q) - H(P)
$$

For densities the sums are integrals over $x$: $-\int p(x) \log p(x) \, dx$. That entropy is no information in itself.
It grows by $\log 10$ when $x$ is measured in millimetres in place of centimetres, and may be negative; the divergence,
where the unit cancels in $p/q$, stays what it is.

The lemma is Jensen's inequality, the logarithm being concave:

$$
KL(P \| Q) = -\sum_{x} P(x) \log \frac{Q(x)}{P(x)} \ge -\log \sum_{x} P(x) \frac{Q(x)}{P(x)} \ge -\log 1 = 0
$$

The last sum is over the $x$ that $P$ can produce, and is 1 if $Q$ produces no other. The proof in the lecture has a
slip of sign here. With the minus lost on the left, or on both sides, the line would say that $KL(P \| Q)$ is at most 0,
which only $Q = P$ obeys.

Fit $Q = N(m, s^2)$ to a $P$ of two modes. In the direction $KL(P \| Q)$ only $-E_P \log Q$ depends on $Q$. With
$v = \log s^2$,

$$
\frac{\partial KL(P \| Q)}{\partial m} = -\frac{E_P[x] - m}{s^2}, \quad
\frac{\partial KL(P \| Q)}{\partial v} = \frac{1}{2} \left( 1 - \frac{E_P[(x - m)^2]}{s^2} \right)
$$

which vanish where $Q$ has the mean and the variance of $P$: where $P$ has mass $Q$ must have some, and the valley is
covered too. In the direction $KL(Q \| P)$ put $x = m + s \epsilon$, $\epsilon \sim N(0, 1)$, so that
$\log Q = -\frac{1}{2} (\log 2 \pi + v + \epsilon^2)$ and

$$
\frac{\partial KL(Q \| P)}{\partial m} = -E \left[ \frac{d \log P}{dx} \right], \quad
\frac{\partial KL(Q \| P)}{\partial v} = -\frac{1}{2} - E \left[ \frac{d \log P}{dx} \frac{s \epsilon}{2} \right]
$$

Now $Q$ must be small where $P$ is: it sits down on one mode, whichever is near, and $KL(Q \| P)$ is then about minus
the logarithm of that mode's weight (Bishop 2006, "Pattern recognition and machine learning", section 10.1).

The lecture says that one can pick either. For a $P$ that can be sampled, yes. In inference $P$ is the posterior
$P(Z|X) = P(X, Z) / P(X)$, which can neither be sampled nor evaluated, only its numerator can. In $KL(Q \| P)$ that is
enough: the expectation is over $Q$, and the unknown $P(X)$ is a constant that no derivative sees. In $KL(P \| Q)$ the
expectation is over the posterior itself: its gradient is in proportion to the unknown factor. And
$\log P(X) = KL(Q \| P(Z|X)) + ELBO$ makes a bound of this direction alone.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npvae.checking import check_function
from npvae.flat import Array
from npvae.lessons.outcome import Findings, Number
from npvae.mosaics import new_figure
from npvae.noise import Purpose, stream
from npvae.normal import kl, log_density
from npvae.ops import reference
from npvae.plots import IDLE, TEST, TRAIN
from npvae.probing import largest
from npvae.quadrature import gauss_hermite, grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WEIGHTS, MEANS, SIGMAS = np.array([0.4, 0.6]), np.array([-3.5, 2.5]), np.array([1.0, 0.7])  # P, two modes
X = grid(np.zeros(1), np.eye(1), reach=16.0, nodes=2001)
EPS = gauss_hermite(np.zeros(1), np.ones(1), nodes=100)
STEPS, RATE = 1_000, 0.5

Direction = Callable[..., tuple[float, Array]]  # of [m, v]: a divergence and its gradient


class Lemma(NamedTuple):
    """For pairs of distributions: KL(P||Q), the sum in Jensen's step, and H(P, Q) - H(P), each (n,)."""

    divergence: Array
    inside: Array
    difference: Array


def lesson(quick: bool) -> Findings:
    """The lemma on random distributions, integrals beside closed forms, and a Gaussian fitted in both directions."""
    seen = lemma(2_000 if quick else 50_000)
    closed, shift, stays = continuous(20 if quick else 200)
    fits = {
        "P||Q": descended(covering, (0.0, 0.0)),
        "left": descended(seeking, (-2.0, 0.0)),
        "right": descended(seeking, (1.0, 0.0)),
    }
    mean = WEIGHTS @ MEANS
    moments = np.array([mean, WEIGHTS @ (SIGMAS**2 + MEANS**2) - mean**2])
    m, v = fits["P||Q"]
    sides = [_above(*fits["left"]), 1 - _above(*fits["right"])]
    losses = [covering(fits[side])[0] for side in ("left", "right")]
    prices = np.array([seeking(fits[side])[0] for side in ("left", "right")])
    numbers = (
        Number("discrete: the least KL", seen.divergence.min(), at_least=0.0, unit="nats"),
        Number("discrete: KL off H(P, Q) − H(P)", largest(seen.divergence - seen.difference), at_most=1e-12),
        Number("Jensen's step: least of left − right", (seen.divergence + np.log(seen.inside)).min(), at_least=0.0),
        Number("Jensen's step: right side where P can do all", largest(np.log(seen.inside[1::2])), at_most=1e-14),
        Number(
            "share of different pairs that agree with the slip of sign",
            float(np.mean(seen.divergence <= 0)),
            at_most=0.0,
        ),
        Number("KL(Q||P) − KL(P||Q) of N(0, 1) and N(0, 16)", _asymmetry(), at_least=5.0, unit="nats"),
        Number("Gaussians: integrals off closed forms, relative", closed, at_most=1e-10),
        Number("in units of a tenth: entropy's change off log 10", shift, at_most=1e-10, unit="nats"),
        Number("in units of a tenth: KL's change", stays, at_most=1e-10, unit="nats"),
        Number("both gradients by hand off numeric ones", _gradient_error(), at_most=1e-8),
        Number("fit by KL(P||Q): mean and variance off P's", largest(moments - [m, np.exp(v)]), at_most=1e-8),
        Number("fits by KL(Q||P): mass on the other mode's side", max(sides), at_most=1e-3),
        Number("their KL(Q||P) off −log of the mode's weight", largest(prices + np.log(WEIGHTS)), at_most=0.01),
        Number("KL(Q||P): covering fit − seeking fit", seeking(fits["P||Q"])[0] - prices.min(), at_least=0.1),
        Number("KL(P||Q): seeking fit − covering fit", min(losses) - covering(fits["P||Q"])[0], at_least=0.1),
        Number("P times e^−100: change of KL(Q||P)'s gradient", _change(seeking), at_most=1e-12),
        Number("P times e^−100: change of KL(P||Q)'s gradient", _change(covering), at_least=0.99),
    )
    alt = (
        "Left: the curve −log u, convex, with the points u = Q/P of a distribution of four outcomes on it; their mean, "
        "weighted by P, lies at u = 1 above the curve, by the height KL(P‖Q). Right: a density of two modes; the "
        "Gaussian fitted by KL(P‖Q) is wide, with its top in the valley, the two fitted by KL(Q‖P) each sit on a mode."
    )
    return Findings(numbers, _draw(fits), alt)


def lemma(pairs: int) -> Lemma:
    """Random distributions over six outcomes; every other P cannot produce the first of them."""
    P, Q = stream(0, Purpose.CHECK).dirichlet(np.ones(6), (2, pairs))
    P[::2, 0] = 0
    P /= P.sum(axis=1, keepdims=True)
    u = np.divide(Q, P, out=np.ones_like(P), where=P > 0)  # where P is 0 nothing is summed
    log_P = np.log(P, out=np.zeros_like(P), where=P > 0)
    cross, entropy = -(P * np.log(Q)).sum(axis=1), -(P * log_P).sum(axis=1)
    return Lemma(-(P * np.log(u)).sum(axis=1), (P * u).sum(axis=1), cross - entropy)


def covering(q: Array, log_factor: float = 0.0) -> tuple[float, Array]:
    """KL(P||Q) of Q = N(m, e^v), q = [m, v], and its gradient; P is the mixture times e^log_factor."""
    (m, v), x = q, X.z[:, 0]
    log_p, _ = log_mixture(x, log_factor)
    p = np.exp(X.log_weight + log_p)
    squares = (x - m) ** 2 * np.exp(-v)
    log_q = -0.5 * (reference.LOG_2PI + v + squares)
    return p @ (log_p - log_q), np.array([-p @ (x - m) * np.exp(-v), 0.5 * p @ (1 - squares)])


def seeking(q: Array, log_factor: float = 0.0) -> tuple[float, Array]:
    """KL(Q||P) and its gradient, through x = m + s epsilon and the VAE's own pair for that."""
    stats, eps, weight = np.reshape(q, (1, 1, 2)), EPS.z[None], np.exp(EPS.log_weight)
    x = reference.reparameterize_forward(stats, eps)
    log_p, slope = log_mixture(x[0, :, 0], log_factor)
    log_q = -0.5 * (reference.LOG_2PI + q[1] + eps[0, :, 0] ** 2)
    dx = -(weight * slope)[None, :, None]
    gradient = reference.reparameterize_backward(dx, stats, eps)[0, 0] + [0, -0.5]  # log Q reads v too
    return weight @ (log_q - log_p), gradient


def log_mixture(x: Array, log_factor: float) -> tuple[Array, Array]:
    """log P at x (n,), and its derivative by x."""
    apart = (x[:, None] - MEANS) / SIGMAS
    parts = np.log(WEIGHTS / SIGMAS) - 0.5 * (reference.LOG_2PI + apart**2) + log_factor
    log_p = np.logaddexp.reduce(parts, axis=1)
    return log_p, -(np.exp(parts - log_p[:, None]) * apart / SIGMAS).sum(axis=1)


def descended(direction: Direction, start: tuple[float, float]) -> Array:
    """[m, v] at the end of plain gradient descent."""
    q = np.array(start)
    for _ in range(STEPS):
        q -= RATE * direction(q)[1]
    return q


def continuous(pairs: int) -> tuple[float, float, float]:
    """Integrals off closed forms, relative, at most; entropy's change by the unit off log 10; and KL's change."""
    rng, closed = stream(1, Purpose.CHECK), []
    for _ in range(pairs):
        mean, other = rng.standard_normal((2, 2))
        root, other_root = np.eye(2) + 0.4 * rng.standard_normal((2, 2, 2))
        S, T = root.T @ root, other_root.T @ other_root
        rule = grid(mean, root, reach=9.0, nodes=91)
        log_p, log_q = log_density(rule.z, mean, S), log_density(rule.z, other, T)
        divergence = kl(mean, S, other, T)
        entropy = math.log(2 * math.pi * math.e) + 0.5 * np.linalg.slogdet(S)[1]
        closed.append((rule.integral(np.exp(log_p) * (log_p - log_q)) - divergence) / max(divergence, 1))
        closed.append((rule.integral(-np.exp(log_p) * log_p) - entropy) / max(abs(entropy), 1))
    by_unit = []
    for unit in (1.0, 0.1):
        rule = grid(np.zeros(1), np.eye(1) / unit, reach=16.0, nodes=2001)  # the same lengths in another unit
        x = rule.z[:, 0] * unit
        log_p, log_q = log_mixture(x, math.log(unit))[0], log_density(x[:, None], np.zeros(1), 9 * np.eye(1))
        p = np.exp(log_p)
        by_unit.append((-rule.integral(p * log_p), rule.integral(p * (log_p - log_q - math.log(unit)))))
    shift, change = np.subtract(by_unit[1], by_unit[0])
    return largest(closed), abs(shift - math.log(10)), abs(change)


def _asymmetry() -> float:
    (zero, one), wide = (np.zeros(1), np.eye(1)), 16 * np.eye(1)
    return kl(zero, wide, zero, one) - kl(zero, one, zero, wide)


def _gradient_error() -> float:
    """Of both directions, against numeric derivatives, relative; at a Q that is no optimum of either."""
    errors = []
    for direction in (covering, seeking):

        def loss(p: dict[str, Array], direction: Direction = direction) -> float:
            return direction(p["q"])[0]

        def gradients(p: dict[str, Array], direction: Direction = direction) -> dict[str, Array]:
            return {"q": direction(p["q"])[1]}

        errors.append(check_function(loss, gradients, {"q": np.array([0.7, -0.4])}).max_error)
    return max(errors)


def _change(direction: Direction) -> float:
    """How much the gradient at some Q changes if P is known but for a factor: relative."""
    q = np.array([0.7, -0.4])
    known, unknown = direction(q)[1], direction(q, log_factor=-100.0)[1]
    return largest(known - unknown) / largest(known)


def _above(m: float, v: float) -> float:
    """The mass of N(m, e^v) above 0."""
    return 0.5 * math.erfc(-m / math.sqrt(2 * math.exp(v)))


def _draw(fits: dict[str, Array]) -> "Figure":
    figure = new_figure(10.5, 4.6)
    jensen, modes = figure.subplots(1, 2)
    P, Q = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.25, 0.3, 0.35])
    u, curve = Q / P, np.linspace(0.12, 4, 300)
    jensen.plot(curve, -np.log(curve), color=IDLE, linewidth=2)
    jensen.text(2.2, -0.7, "−log u", color="#666666", fontsize=11)
    jensen.scatter(u, -np.log(u), s=600 * P, color=TRAIN, zorder=3, label="u = Q/P of each outcome, as heavy as P")
    height = float(-P @ np.log(u))
    jensen.plot([1, 1], [0, height], color=TEST, linewidth=2)
    jensen.plot([1], [height], "D", color=TEST, markersize=9, label="their mean: u = 1, height KL(P‖Q)")
    jensen.annotate(
        f"KL = {height:.2f} nats", (1, height / 2), (1.5, 0.6), fontsize=11, arrowprops={"arrowstyle": "->"}
    )
    jensen.axhline(0, color="black", linewidth=0.8)
    jensen.set(title="KL ≥ 0: a mean lies above a convex curve", xlabel="u = Q/P", ylabel="nats", ylim=(-1.6, 2.4))
    jensen.legend(frameon=False, fontsize=10, loc="upper right")

    x = np.linspace(-9, 8, 600)
    modes.fill_between(x, np.exp(log_mixture(x, 0.0)[0]), color=IDLE, alpha=0.4, linewidth=0, label="P, two modes")
    for name, label, colour, line in (
        ("P||Q", "Q by KL(P‖Q): covers", TRAIN, "-"),
        ("left", "Q by KL(Q‖P): seeks", TEST, "--"),
        ("right", None, TEST, "--"),
    ):
        m, v = fits[name]
        modes.plot(x, np.exp(log_density(x[:, None], np.array([m]), np.array([[np.exp(v)]]))), line, color=colour,
                   linewidth=2.2, label=label)  # fmt: skip
    modes.set(title="A Gaussian for two modes, in each direction", xlabel="x", ylabel="density", ylim=(0, 0.85))
    modes.legend(frameon=False, fontsize=10, loc="upper left")
    for axes in (jensen, modes):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


SHOWN = (lemma, covering, seeking, descended)
