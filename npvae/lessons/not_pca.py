r"""And it is not PCA: the subspace, but not the directions.

W Wᵀ ≠ I: it is the projector on the first k principal directions, the identity only when k = D. The columns of W are
not these directions, but rotated or reflected; and with a decoder of its own an autoencoder need not even have
orthonormal columns. A penalty on the squares of the weights, λ(‖G‖² + ‖F‖²), brings the directions out: encoder G
and decoder F become each other's transpose, with the principal directions for singular vectors.

Let $S = E X X^\top$ be the covariance of the centred data, with eigenvalues $\sigma_1^2 > \sigma_2^2 > \ldots$ and
eigenvectors $u_j$, and $U = (u_1, \ldots, u_k)$. The loss $E \| X - W W^\top X \|^2$ is least where
$W W^\top = U U^\top$. Such a matrix has the eigenvalue 1 for whatever is in the subspace, $k$ times, and 0 for what is
perpendicular to it, $D - k$ times. So $\| W W^\top - I \| = 1$ as long as $k < D$. It is $W^\top W$ that is $I$, of
$k$ rows.

For any rotation $O$, $(W O)(W O)^\top = W W^\top$. The loss cannot tell $U$ from $U O$, and which one descent
finds depends on where it began. PCA orders its directions by variance and makes the codes uncorrelated; here

$$
W = U O, \quad E \left[ (W^\top X)(W^\top X)^\top \right] = O^\top \operatorname{diag}(\sigma_1^2, \ldots, \sigma_k^2) O
$$

With an encoder $G$ and a decoder $F$ of their own, $\hat{X} = F G X$, the freedom is larger still: any invertible
matrix $A$ will do (Baldi and Hornik 1989, "Neural networks and principal component analysis: learning from examples
without local minima"):

$$
F = U A, \quad G = A^{-1} U^\top, \quad F G = U U^\top, \quad G F = I
$$

Now add the penalty (Kunin, Bloom, Goeva and Seed 2019, "Loss landscapes of regularized linear autoencoders": the
transpose theorem and the landscape theorem). With $C = F G$, and $S$ invertible, the loss is

$$
L = \tr \left[ (I - C) S (I - C)^\top \right] + \lambda \left( \| G \|^2 + \| F \|^2 \right), \quad
\| G \|^2 + \| F \|^2 = \| G - F^\top \|^2 + 2 \tr C
$$

At its minimum the derivative by $F$ is 0, which is $(I - C) S G^\top = \lambda F$. Multiplied by $F^\top$ from the
right it says that

$$
S C^\top = C S C^\top + \lambda F F^\top
$$

is symmetric and has no negative eigenvalue. So is, then, $B = S^{-1/2} C S^{1/2} = S^{-1/2} (C S) S^{-1/2}$, of rank
$k$ at most. Let $b_i \ge 0$ and $v_i$ be its eigenvalues and orthonormal eigenvectors, and $s_i = v_i^\top S v_i$. All
traces are sums over these:

$$
L = \tr S + \sum_{i \le k} \left[ (b_i^2 - 2 b_i) s_i + 2 \lambda b_i \right] + \lambda \| G - F^\top \|^2
$$

A term of the sum is least at $b_i = 1 - \lambda / s_i$, where it is $-(s_i - \lambda)^2 / s_i$; or at $b_i = 0$ if
$s_i \le \lambda$: that code is given up. So the term takes $h(s_i)$ from the loss, with $h(s) = (s - \lambda)^2 / s$
above $\lambda$ and 0 below: a function that is convex and does not fall. Each $s_i$ is a mean of the eigenvalues,
with weights $c_{ij} = (v_i^\top u_j)^2$ of sum 1, and Jensen's inequality says that

$$
\sum_{i \le k} h(s_i) \le \sum_{i \le k} \sum_{j} c_{ij} h(\sigma_j^2) \le \sum_{j \le k} h(\sigma_j^2)
$$

since to the $j$-th eigenvalue goes a weight of 1 at most from all $i$ together. With $v_i = u_i$ they are equal, and
only then, for $h$ is strictly convex above $\lambda$ and the eigenvalues differ; and $\| G - F^\top \|$ can be 0 at the
same time. Hence, for $\lambda < \sigma_k^2$,

$$
F = G^\top = U \operatorname{diag} \left( \sqrt{1 - \lambda / \sigma_i^2} \right) O, \quad
L = \sum_{j} \sigma_j^2 - \sum_{i \le k} \frac{(\sigma_i^2 - \lambda)^2}{\sigma_i^2}
$$

The code is still free to rotate by $O$. But the singular values of $F$ differ from each other now, and so the singular
vectors on the side of the data are the $u_i$, one by one and in their order. Where the data have no variance, as
pixels have none that are always black, $S$ is not invertible; there the penalty is alone, and $G$ and $F$ become 0.

The penalty's gradient is $2 \lambda$ times the weights, a line by hand after backward. The digits are trained on the
rows of $R$ from $X = Q R$, the same loss (see the lesson `pca`). The mean of these rows is not 0, and the library's
layers have biases that would fit it; so each row $r$ is accompanied by $-r$, and the biases stay 0.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.flat import Array
from npvae.lessons.digits import digits, tiled
from npvae.lessons.outcome import Findings, Number
from npvae.linear import fewer_rows, principal_angle, principal_components
from npvae.mosaics import new_figure
from npvae.noise import Purpose, stream
from npvae.optim import SGD
from npvae.plots import IDLE, TEST, TRAIN
from npvae.probing import largest
from npvae.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPECTRUM = 0.75 ** np.arange(12)  # the Gaussian's eigenvalues
CODES = 8  # of digits
SEEN = 4  # codes of the Gaussian, where there is one model
BETWEEN = (SPECTRUM[3] + SPECTRUM[4]) / 2  # a penalty to which two of six codes are not worth it


class Data(NamedTuple):
    """Centred rows (n, D), the directions in the columns of axes (D, D), their variances (D,), and how to descend."""

    rows: Array
    axes: Array
    variances: Array
    momentum: float
    steps: int


class Penalised(NamedTuple):
    """A model learned with the penalty, beside the prediction; all but the spectrum should be 0."""

    transposes: float  # largest entry of G - F'
    values: float  # largest difference of the singular values from sqrt(1 - penalty/variance)
    angles: float  # largest of the angles between a singular vector and its principal direction, in radians
    loss: float  # relative
    vectors: Array  # (D, k)
    spectrum: Array  # the singular values of F, (k,)


def lesson(quick: bool) -> Findings:
    """Tied, untied and penalised autoencoders on a Gaussian of known spectrum; tied and penalised ones on digits."""
    gaussian, D = known_gaussian(), len(SPECTRUM)
    tied = {k: learn_tied(gaussian, k) for k in range(1, D + 1)}
    spectra = {k: np.linalg.eigvalsh(W @ W.T)[::-1] for k, W in tied.items()}
    off_spectrum = [np.abs(spectra[k] - (np.arange(D) < k)).max() for k in tied]
    distance = {k: float(np.linalg.norm(W @ W.T - np.eye(D), ord=2)) for k, W in tied.items()}
    other = learn_tied(gaussian, SEEN, seed=1)
    G, F = learn_untied(gaussian, SEEN, penalty=0.0)
    known = penalised(gaussian, SEEN, SPECTRUM[SEEN - 1] / 2)
    given_up = penalised(gaussian, 6, BETWEEN)

    images = digits(quick)
    x = images.train.images - images.train.images.mean(axis=0, dtype=np.float64)
    R = fewer_rows(x)
    found, rows = principal_components(x), np.vstack([R, -R])
    data = Data(rows, found.axes, found.variances, momentum=0.96, steps=1_200)
    W, U = learn_tied(data, CODES), data.axes[:, :CODES]
    codes = np.corrcoef((x @ W).T)
    learned = penalised(data, CODES, data.variances[CODES - 1] / 2)
    numbers = (
        Number("k = 1…12: eigenvalues of W Wᵀ off k ones, D − k zeros", max(off_spectrum), at_most=1e-8),
        Number("k < D: ‖W Wᵀ − I‖ off 1", max(abs(distance[k] - 1) for k in range(1, D)), at_most=1e-8),
        Number("k = D: ‖W Wᵀ − I‖", distance[D], at_most=1e-8),
        Number("two starts: W Wᵀ off each other", largest(other @ other.T - tied[SEEN] @ tied[SEEN].T), at_most=1e-8),
        Number("two starts: W off each other", largest(other - tied[SEEN]), at_least=0.1),
        Number("digits: W Wᵀ off the projector U Uᵀ", largest(W @ W.T - U @ U.T), at_most=1e-8),
        Number("digits: O = Uᵀ W off a rotation, O Oᵀ − I", largest(U.T @ W @ W.T @ U - np.eye(CODES)), at_most=1e-8),
        Number("digits: largest cosine of a column of W and a direction", largest(U.T @ W), at_most=0.95),
        Number("digits: largest correlation of two codes", largest(codes - np.eye(CODES)), at_least=0.1),
        Number("digits: errors of W rotated off those of W, relative", rotated(data, W), at_most=1e-12),
        Number("untied: decoder·encoder off the projector", largest(F @ G - _projector(gaussian)), at_most=1e-8),
        Number("untied: encoder·decoder off I", largest(G @ F - np.eye(SEEN)), at_most=1e-8),
        Number("untied: encoder off orthonormal, G Gᵀ − I", largest(G @ G.T - np.eye(SEEN)), at_least=0.1),
        Number("untied: decoder off orthonormal, Fᵀ F − I", largest(F.T @ F - np.eye(SEEN)), at_least=0.1),
        *_held("L2, Gaussian", known),
        *_held("L2, digits", learned),
        Number("L2, Gaussian, σ² < λ for two of six: values off prediction", given_up.values, at_most=1e-6),
    )
    alt = (
        "Top left: the eigenvalues of W times its transpose are 1 as often as there are codes, and 0 from there on; "
        "with as many codes as dimensions all are 1. Top right: with the penalty, the decoder's singular values lie on "
        "the curve square root of 1 minus lambda over the variance, and at 0 where the variance is below lambda. "
        "Below, as images: the first eight principal directions of the digits; eight columns of W, mixtures in which "
        "none of them is recognised; and the singular vectors of the penalised decoder, which are the directions again."
    )
    vectors = learned.vectors * np.sign((learned.vectors * U).sum(axis=0))  # a direction has no sign
    panels = tiled(np.stack([_grey(basis.T) for basis in (U, W, vectors)]), images.shape)
    return Findings(numbers, _draw(spectra, given_up, panels), alt)


def known_gaussian() -> Data:
    """The Gaussian of this spectrum: 2D rows with its mean 0 and its covariance, exactly, along random axes."""
    D = len(SPECTRUM)
    axes = np.linalg.qr(stream(0, Purpose.CHECK).standard_normal((D, D)))[0]
    rows = np.sqrt(D * SPECTRUM)[:, None] * axes.T
    return Data(np.vstack([rows, -rows]), axes, SPECTRUM, momentum=0.9, steps=1_000)


def descend(ws: Workspace, data: Data, penalty: float) -> None:
    """Gradient descent on the loss and `penalty` times the sum of the squares of all parameters."""
    optimizer = SGD(ws, 1 / (8 * data.variances[0]), data.momentum)
    for _ in range(data.steps):
        ws.forward(data.rows)
        ws.backward()
        ws.dtheta += 2 * penalty * ws.theta
        optimizer.step()


def learn_tied(data: Data, k: int, seed: int = 0) -> Array:
    """The one matrix W (D, k) of X̂ = W W' X."""
    n, D = data.rows.shape
    ws = Workspace(LinearAutoencoder(D, k), n, 1, "float64", "reference", seed)
    descend(ws, data, penalty=0.0)
    W: Array = ws.params.W
    return W


def learn_untied(data: Data, k: int, penalty: float) -> tuple[Array, Array]:
    """The encoder G (k, D) and the decoder F (D, k) of X̂ = F G X; the library's matrices, for rows, are G' and F'."""
    n, D = data.rows.shape
    ws = Workspace(Autoencoder(D, (), k, "identity"), n, 1, "float64", "reference")
    descend(ws, data, penalty)
    return ws.params.encoder[0].W.T, ws.params.decoder[0].W.T


def penalised(data: Data, k: int, penalty: float) -> Penalised:
    """Learn with the penalty, and compare with the prediction; of a code that is given up the vector may be any."""
    G, F = learn_untied(data, k, penalty)
    vectors, values, _ = np.linalg.svd(F, full_matrices=False)
    kept = data.variances[:k] > penalty
    predicted = np.sqrt(np.maximum(1 - penalty / data.variances[:k], 0))
    angles = [principal_angle(vectors[:, [i]], data.axes[:, [i]]) for i in np.flatnonzero(kept)]
    gained = ((data.variances[:k] - penalty) ** 2 / data.variances[:k])[kept].sum()
    least = data.variances.sum() - gained
    error = ((data.rows - data.rows @ G.T @ F.T) ** 2).sum(axis=1).mean()
    loss = error + penalty * ((G**2).sum() + (F**2).sum())
    return Penalised(largest(G - F.T), largest(values - predicted), max(angles), abs(loss / least - 1), vectors, values)


def rotated(data: Data, W: Array) -> float:
    """How much any row's error changes when a random rotation mixes the columns of W, relative to the largest."""
    n, (D, k) = len(data.rows), W.shape
    O = np.linalg.qr(stream(1, Purpose.CHECK).standard_normal((k, k)))[0]  # noqa: E741
    ws = Workspace(LinearAutoencoder(D, k), n, 1, "float64", "reference")
    errors = []
    for turned in (W, W @ O):
        ws.params.W[:] = turned
        ws.forward(data.rows)
        errors.append(ws.acts.error.copy())
    return largest(errors[1] - errors[0]) / largest(errors[0])


def _held(name: str, found: Penalised) -> tuple[Number, ...]:
    return (
        Number(f"{name}: encoder off decoderᵀ", found.transposes, at_most=1e-6),
        Number(f"{name}: singular values off √(1 − λ/σ²)", found.values, at_most=1e-6),
        Number(f"{name}: singular vectors off the directions", found.angles, at_most=1e-6, unit="rad"),
        Number(f"{name}: loss off the prediction, relative", found.loss, at_most=1e-8),
    )


def _projector(data: Data) -> Array:
    """U U' (D, D) on the first SEEN directions."""
    U = data.axes[:, :SEEN]
    return np.asarray(U @ U.T)


def _grey(images: Array) -> Array:
    """Signed images (n, D) with 0 as middle grey, each as strong as its largest entry."""
    return np.asarray(0.5 + 0.5 * images / np.abs(images).max(axis=1, keepdims=True))


def _draw(spectra: dict[int, Array], found: Penalised, panels: Array) -> "Figure":
    figure = new_figure(10.0, 7.6)
    spots = figure.add_gridspec(2, 2, height_ratios=(1, 1.15))
    spectrum, values, strip = (figure.add_subplot(spot) for spot in (spots[0, 0], spots[0, 1], spots[1, :]))
    D = len(SPECTRUM)
    ranks = np.arange(1, D + 1)
    for k, colour, marker in ((2, IDLE, "^-"), (6, TEST, "s-"), (D, TRAIN, "o-")):
        label = f"k = {k}" + (" = D" if k == D else "")
        spectrum.plot(ranks, spectra[k], marker, color=colour, linewidth=1.5, label=label)
    spectrum.set(title="Eigenvalues of W Wᵀ", xlabel="rank", xticks=ranks, ylim=(-0.1, 1.45))
    spectrum.legend(frameon=False, fontsize=10, ncols=3, loc="upper center")

    variances = np.linspace(0.15, 1.05, 400)
    curve = np.sqrt(np.maximum(1 - BETWEEN / variances, 0))
    values.plot(variances, curve, color=IDLE, linewidth=2, label="√(1 − λ/σ²), or 0")
    values.plot(SPECTRUM[:6], found.spectrum, "o", color=TRAIN, markersize=7, label="learned, six codes")
    values.axvline(BETWEEN, color=TEST, linestyle="--", label="λ")
    values.set(
        title="With L2: the decoder's singular values", xlabel="variance σ² of the direction", ylim=(-0.05, 1.15)
    )
    values.legend(frameon=False, fontsize=10, loc="lower right")
    for axes in (spectrum, values):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)

    strip.imshow(panels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    names = ["principal\ndirections", "columns\nof W", "with L2:\nsingular vectors\nof the decoder"]
    strip.set_yticks((np.arange(3) + 0.5) * len(panels) / 3, names, fontsize=11)
    strip.set_xticks([])
    strip.tick_params(length=0)
    strip.set_title("What spans the same subspace of the digits")
    return figure


SHOWN = (descend, learn_tied, learn_untied, penalised, rotated)
