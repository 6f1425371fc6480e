r"""A linear autoencoder performs PCA.

With one linear layer and one matrix for both ways, X̂ = W Wᵀ X, the error E‖X − X̂‖² over centred data is least where
the columns of W are orthonormal and span the first k principal directions (and nowhere else, if the k-th eigenvalue is
above the next). Gradient descent from a random W gets there: to the subspace that the singular value decomposition
finds, and to its error.

The data are centred first, $E X = 0$: PCA subtracts the mean, and this autoencoder has no bias that could. Let
$S = E X X^\top$ be their covariance, with eigenvalues $\lambda_1 \ge \lambda_2 \ge \ldots$ and eigenvectors $u_j$, the
principal directions. The loss depends on the data through $S$ alone:

$$
L(W) = E \| X - W W^\top X \|^2 = \tr \left[ (I - W W^\top) S (I - W W^\top) \right]
$$

Let the $k$ columns of $Q$ be orthonormal and span what the columns of $W$ span, or more if these are dependent.
$W W^\top X$ lies in there, and the point in there that is nearest to $X$ is the projection $Q Q^\top X$. So no $W$ does
better than its own $Q$, and it remains to choose the subspace. With $c_j = \| Q^\top u_j \|^2$,

$$
E \| X - Q Q^\top X \|^2 = \tr S - \tr (Q^\top S Q) = \sum_{j} \lambda_j - \sum_{j} c_j \lambda_j, \quad
0 \le c_j \le 1, \quad \sum_{j} c_j = k
$$

The weights $c_j$ have $k$ to give, at most 1 to each: the best is to give it to the $k$ largest (Fan 1949, "On a
theorem of Weyl concerning eigenvalues of linear transformations"), and the only one if $\lambda_k > \lambda_{k+1}$.
Hence $W W^\top$ is the projector on $u_1, \ldots, u_k$, and the error that is left is PCA's (Bourlard and Kamp 1988,
"Auto-association by multilayer perceptrons and singular value decomposition"):

$$
W W^\top = \sum_{j \le k} u_j u_j^\top, \quad L = \sum_{j > k} \lambda_j
$$

$W$ is used twice, so its derivative has two terms, from the encoder and from the decoder:

$$
\frac{\partial L}{\partial W} = -2 \left[ S (I - W W^\top) + (I - W W^\top) S \right] W
$$

The second alone is the rule of Oja (1989, "Neural networks, principal components, and subspaces"), which finds the same
subspace. That training ends well does not prove a gradient right: it is compared with the formula as well. Where it
is 0 and the subspace is another, the loss has a saddle (Baldi and Hornik 1989, "Neural networks and principal component
analysis: learning from examples without local minima"), so that descent from a random $W$ does not stay.

How fast? At the minimum, to turn a column from $u_k$ towards $u_{k+1}$ by the angle $\varphi$ costs
$(\lambda_k - \lambda_{k+1}) \sin^2 \varphi$; to stretch the one along $u_1$ by $a$ costs about $4 \lambda_1 a^2$. The
curvature is least and largest in these directions:

$$
m = 2 (\lambda_k - \lambda_{k+1}), \quad M = 8 \lambda_1
$$

Plain descent with steps of $1/M$ shrinks the error by $1 - m/M$ in a step; with the momentum
$(1 - \sqrt{m/M})^2$ it is $1 - \sqrt{m/M}$ (Polyak 1964, "Some methods of speeding up the convergence of iteration
methods"). For 32 codes of digits $M/m$ is about 1,000, and that makes 30 times fewer steps.

Nor are all the $n$ images needed in every step. Put them into the rows of a matrix $X$ and let $X = Q R$, where
$Q^\top Q = I$ and $R$ has $D$ rows:

$$
\| X - X W W^\top \|^2 = \| Q (R - R W W^\top) \|^2 = \| R - R W W^\top \|^2
$$

The rows of $R$ times $\sqrt{D/n}$ have, as a mean over $D$ rows, the loss that $X$ has as a mean over $n$, for every
$W$; so they have its gradient too.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npvae.autoencoder import LinearAutoencoder
from npvae.flat import Array
from npvae.lessons.digits import digits, tiled
from npvae.lessons.outcome import Findings, Number
from npvae.linear import Components, fewer_rows, principal_angle, principal_components
from npvae.mosaics import new_figure
from npvae.noise import Purpose, stream
from npvae.optim import SGD
from npvae.plots import IDLE, TEST, TRAIN
from npvae.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPECTRUM = 0.8 ** np.arange(30)  # the Gaussian's eigenvalues
SAMPLES, GAUSSIAN_CODES = 5_000, 5
CODES = 32  # of digits
E_FOLDS = 25  # of the slowest direction's error, which sets the number of steps


class Descent(NamedTuple):
    """The W that was learned, (D, k); by step, the angle to PCA's subspace, and the loss over PCA's error, less 1."""

    W: Array
    steps: list[int]
    angles: list[float]
    excess: list[float]


def lesson(quick: bool) -> Findings:
    """Descend from a random W on a Gaussian, exactly and from its samples, and on digits; compare with the SVD."""
    rng = stream(0, Purpose.CHECK)
    D = len(SPECTRUM)
    axes = np.linalg.qr(rng.standard_normal((D, D)))[0]
    known = Components(np.zeros(D), axes, SPECTRUM)
    exact = descend(np.sqrt(D * SPECTRUM)[:, None] * axes.T, known, GAUSSIAN_CODES)  # rows of this covariance
    drawn = centred(rng.standard_normal((SAMPLES, D)) * np.sqrt(SPECTRUM) @ axes.T)
    found = principal_components(drawn)
    sampled = descend(fewer_rows(drawn), found, GAUSSIAN_CODES)
    sampling = principal_angle(found.axes[:, :GAUSSIAN_CODES], axes[:, :GAUSSIAN_CODES])

    data = digits(quick)
    x = centred(data.train.images)
    principal = principal_components(x)
    learned = descend(fewer_rows(x), principal, CODES)
    best = principal.error(CODES)
    numbers = (
        Number("Gaussian: angle to its own principal subspace", exact.angles[-1], at_most=1e-5, unit="rad"),
        Number("Gaussian: loss off its small eigenvalues' sum, relative", abs(exact.excess[-1]), at_most=1e-8),
        Number("its samples: angle to the SVD's subspace", sampled.angles[-1], at_most=1e-5, unit="rad"),
        Number("its samples: error off PCA's, relative", _off(drawn, sampled.W, found), at_most=1e-8),
        Number("SVD of the samples off the Gaussian's subspace", sampling, unit="rad"),
        Number("digits: angle of the random W at the start", learned.angles[0], at_least=1.0, unit="rad"),
        Number("digits: angle to the SVD's subspace", learned.angles[-1], at_most=1e-5, unit="rad"),
        Number("digits: error off PCA's, relative", _off(x, learned.W, principal), at_most=1e-8),
        Number("digits: error of either, per image", best),
        Number("digits: variance, the error without any code", float(principal.variances.sum()), at_least=2 * best),
        Number("digits: loss of R off that of X, relative", loss_of_R(x), at_most=1e-12),
        Number("digits: gradient off its formula, relative", gradient_error(x), at_most=1e-12),
    )
    alt = (
        "Top: by the step of gradient descent, on logarithmic axes, the angle to the SVD's subspace falls from a right "
        "angle to some billionths, and the loss comes down to PCA's, on a Gaussian within a few hundred steps, on "
        "digits later. Below: ten digits, their reconstructions by PCA with 32 components, and those by the "
        "autoencoder with 32 codes, which look the same."
    )
    runs = {"Gaussian": exact, f"{SAMPLES:,} samples of it": sampled, f"digits, {CODES} codes": learned}
    pictures = data.test.images[:10]
    own = principal.axes[:, :CODES]
    made = [principal.mean + (pictures - principal.mean) @ basis @ basis.T for basis in (own, learned.W)]
    return Findings(numbers, _draw(runs, tiled(np.stack([pictures, *made]), data.shape)), alt)


def descend(rows: Array, found: Components, k: int) -> Descent:
    """Minimise |x - x W W'|^2 over centred rows (n, D) by gradient descent with momentum, from a random W."""
    rate, momentum, steps = heavy_ball(found.variances, k)
    ws = Workspace(LinearAutoencoder(rows.shape[1], k), len(rows), 1, "float64", "reference")
    optimizer, seen = SGD(ws, rate, momentum), Descent(ws.params.W, [], [], [])
    for step in range(steps + 1):
        loss = float(np.real(ws.forward(rows)))
        if step % (steps // 50) == 0 or step == steps:
            seen.steps.append(step)
            seen.angles.append(principal_angle(ws.params.W, found.axes[:, :k]))
            seen.excess.append(loss / found.error(k) - 1)
        if step < steps:
            ws.backward()
            optimizer.step()
    return seen


def heavy_ball(variances: Array, k: int) -> tuple[float, float, int]:
    """The step 1/M, the momentum that suits the curvature m of the slowest direction, and the number of steps."""
    m, M = 2 * (variances[k - 1] - variances[k]), 8 * variances[0]
    slow = math.sqrt(m / M)
    return 1 / M, (1 - slow) ** 2, math.ceil(E_FOLDS / slow)


def centred(x: Array) -> Array:
    """Images (n, D) in double precision less their mean."""
    return np.asarray(x - x.mean(axis=0, dtype=np.float64))


def loss_of_R(x: Array) -> float:
    """The loss of a random W on the D rows of R, beside that on all the n images x (n, D), relative."""
    W, rows = _random(x), fewer_rows(x)
    losses = [((part - part @ W @ W.T) ** 2).sum(axis=1).mean() for part in (rows, x)]
    return float(abs(losses[0] / losses[1] - 1))


def gradient_error(x: Array) -> float:
    """The gradient by backpropagation on the rows of R, beside the formula with the covariance of x (n, D)."""
    rows = fewer_rows(x)
    ws = Workspace(LinearAutoencoder(x.shape[1], CODES), len(rows), 1, "float64", "reference")
    ws.theta[:] = _random(x).ravel()
    ws.forward(rows)
    ws.backward()
    W, S = ws.params.W, x.T @ x / len(x)
    left_out = np.eye(len(S)) - W @ W.T
    formula = -2 * (S @ left_out + left_out @ S) @ W
    return float(np.abs(ws.grads.W - formula).max() / np.abs(formula).max())


def _random(x: Array) -> Array:
    """A W (D, CODES) for images x (n, D)."""
    D = x.shape[1]
    return stream(1, Purpose.CHECK).normal(0, D**-0.5, (D, CODES))


def _off(x: Array, W: Array, found: Components) -> float:
    """The error of W (D, k) on centred images x (n, D), off PCA's with as many directions, relative to it."""
    error = ((x - x @ W @ W.T) ** 2).sum(axis=1).mean()
    return float(abs(error / found.error(W.shape[1]) - 1))


def _draw(runs: dict[str, Descent], images: Array) -> "Figure":
    figure = new_figure(10.0, 7.0)
    spots = figure.add_gridspec(2, 2, height_ratios=(1, 0.85))
    angle, excess, strip = (figure.add_subplot(spot) for spot in (spots[0, 0], spots[0, 1], spots[1, :]))
    for (name, run), colour, line in zip(runs.items(), (IDLE, TEST, TRAIN), ("-", "--", "-"), strict=True):
        angle.semilogy(run.steps, run.angles, line, color=colour, linewidth=2, label=name)
        shown = np.abs(run.excess) > 1e-13  # below is rounding
        excess.semilogy(np.array(run.steps)[shown], np.array(run.excess)[shown], line, color=colour, linewidth=2)
    angle.set(title="Largest angle to PCA's subspace", xlabel="steps", ylabel="radians")
    excess.set(title="Loss above PCA's error", xlabel="steps", ylabel="relative to PCA's error")
    angle.legend(frameon=False, fontsize=10)
    for axes in (angle, excess):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    strip.imshow(images, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    strip.set_yticks((np.arange(3) + 0.5) * len(images) / 3, ["test images", "PCA", "autoencoder"], fontsize=11)
    strip.set_xticks([])
    strip.tick_params(length=0)
    strip.set_title(f"Reconstructed from {CODES} numbers, by PCA and by the autoencoder")
    return figure


SHOWN = (descend, heavy_ball, gradient_error)
