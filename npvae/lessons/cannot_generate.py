r"""Why an autoencoder is not enough: it can memorise, and it cannot generate.

On a limited data set an autoencoder reaches zero loss by learning the images by heart: on 64 digits nearly nothing is
left of its error, on others it stays large. And nothing in min E‖X̂ − X‖² says where the codes Z lie, so random codes
are decoded to no digits, while those that a VAE draws from its prior P(Z) are: in black and white much closer to
held-out digits by MMD².

Zero loss needs no learning. Here is an autoencoder with a code of *one* number that reproduces any $n$ different
images. A random direction $w$ gives each its number $t_i = w \cdot x_i$; sorted, $t_1 < \ldots < t_n$. The decoder is
the straight path from one image to the next, which a layer of $n$ units $\max(0, t - t_i)$ draws exactly:

$$
g(t) = x_1 + \sum_{i=1}^{n} (s_i - s_{i-1}) \max(0, t - t_i), \quad
s_i = \frac{x_{i+1} - x_i}{t_{i+1} - t_i} \text{ for } 0 < i < n, \quad s_0 = s_n = 0
$$

At $t_j$ the sum telescopes to $x_1 + \sum_{i<j} s_i (t_{i+1} - t_i) = x_j$: the loss is 0, and between two images there
is nothing but blends of them. A trained autoencoder with enough weights finds its own way of doing the same.

On many images the loss measures something, but not where codes lie. Take any invertible matrix $A$ and vector $a$: the
encoder $A f(x) + a$ with the decoder $g(A^{-1}(z - a))$ has the same loss, and codes that lie elsewhere. So there is no
$P(Z)$ to draw from: $z \sim N(0, 1)$ means nothing to this decoder. A VAE pays $KL(Q(Z \mid X) \| P(Z))$ for codes that
are not where the prior is, and its decoder has been trained on noise around every code. That is what makes its samples
digits.

How near a sample is to held-out digits is measured by the maximum mean discrepancy (Gretton et al. 2012, "A kernel
two-sample test", lemma 6), here with the Gaussian kernel $k$ whose width is the median distance of digits:

$$
\text{MMD}^2(P, Q) = E \, k(x, x') + E \, k(y, y') - 2 \, E \, k(x, y), \quad
x, x' \sim P, \quad y, y' \sim Q
$$

A permutation test says whether it could be 0: the share of random relabellings of the two samples that give as much.
With so many images it tells everything apart, the VAE's samples and even training digits, which are by other writers;
it says that codes of an autoencoder give no digits, not how far from them. That one autoencoder is farther than the VAE
is said by the difference of their MMD², which must exceed four of its standard errors. All images are compared in black
and white, each pixel white with its grey as probability, which is what the VAE's likelihood describes.

The comparison is not with the worst codes alone. Codes drawn with the mean and spread that each latent of the
autoencoder was *seen* to have fare much better; with their covariance too, better still, and that is no longer a plain
autoencoder: a density was fitted to its codes afterwards. Both are given below.
"""

from typing import TYPE_CHECKING

import numpy as np

from npvae.autoencoder import Autoencoder
from npvae.datasets import Dataset
from npvae.flat import Array
from npvae.lessons.digits import FULL, QUICK, Size, digits, draw_blocks, drawn, trained
from npvae.lessons.outcome import Findings, Number
from npvae.mmd import compare, median_distance, permutation_test
from npvae.mosaics import new_figure
from npvae.optim import Adam, cosine
from npvae.runs import Run
from npvae.vae import VAE
from npvae.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 64


MEMORY, STEPS = (400, 20), 1500  # the autoencoder that sees 64 digits, and for how long
RELABELLINGS = 200  # so that p is at least 1/201


def lesson(quick: bool) -> Findings:
    """An autoencoder on 64 digits; then one on all digits and a VAE of the same size: what their codes decode to."""
    size, data = QUICK if quick else FULL, digits(quick)
    few, test = data.train.images[:FEW], data.test.images
    heart = by_heart(few)
    memory = memorise(few)
    ae, vae = (trained(model, data, size) for model in _models(data, size))

    def left(ws: Workspace, images: Array) -> float:
        """The squared error as a share of the variance: 1 for a model that always says the mean image."""
        error = np.square(ws.decode(ws.encode(images)) - images, dtype=np.float64)
        return float(error.sum() / np.square(images - images.mean(axis=0), dtype=np.float64).sum())

    sets = random_images(ae, vae, data)
    numbers = (
        Number("error left on 64 digits, weights written by hand", left(heart, few), at_most=1e-12),
        Number("the same on held-out digits", left(heart, test), at_least=0.5),
        Number("error left on 64 digits, trained", left(memory, few), at_most=1e-3),
        Number("the same on held-out digits, trained", left(memory, test), at_least=0.5),
        Number("error left on held-out digits, trained on all", left(ae.ws, test)),
        *_judged(sets, data),
    )
    copies = [few[:8], test[:8]]
    copies = [images for original in copies for images in (original, memory.decode(memory.encode(original)))]
    alt = (
        "Six blocks. One: digits of the 64 above the autoencoder's copies, which cannot be told apart, and held-out "
        "digits above what it makes of them, smudges and other digits. Then held-out digits; random codes decoded by "
        "an autoencoder, which are scrawls; codes with the right mean and spread, and with the right covariance, some "
        "of them digits; and samples of a VAE, most of them digits."
    )
    return Findings(numbers, _draw(np.stack(copies), {"held-out digits": test, **sets}, data.shape), alt)


def by_heart(images: Array) -> Workspace:
    """An autoencoder that reproduces n images exactly by a code of one number: nothing is trained."""
    n, pixels = images.shape
    ws = Workspace(Autoencoder(pixels, (n,), latent=1), batch=n, dtype="float64", backend="reference")
    ws.theta[:] = 0
    (lift, project), (bend, draw) = ws.params.encoder, ws.params.decoder
    lift.W[:, 0] = np.random.default_rng(0).random(pixels)  # all positive, as the pixels: relu lets it pass
    project.W[0, 0] = 1
    codes = images.astype(np.float64) @ lift.W[:, 0]
    order = np.argsort(codes)
    x, t = images[order].astype(np.float64), codes[order]
    slopes = np.zeros((n + 1, pixels))
    slopes[1:-1] = np.diff(x, axis=0) / np.diff(t)[:, None]
    bend.W[:], bend.b[:] = 1, -t
    draw.W[:], draw.b[:] = np.diff(slopes, axis=0), x[0]
    return ws


def memorise(images: Array) -> Workspace:
    """Train on a few images, all in every step, until nothing is left to learn."""
    hidden, latent = MEMORY
    ws = Workspace(Autoencoder(images.shape[1], (hidden,), latent), batch=len(images))
    optimizer = Adam(ws, cosine(3e-3, STEPS))
    for _ in range(STEPS):
        ws.forward(images)
        ws.backward()
        optimizer.step()
    return ws


def random_images(ae: Run, vae: Run, data: Dataset) -> dict[str, Array]:
    """As many images as there are held-out digits, decoded from codes drawn in four ways."""
    rng, n = np.random.default_rng(1), len(data.test.images)
    codes = ae.encode(data.train.images).astype(np.float64)
    noise = rng.standard_normal((n, codes.shape[1]))
    return {
        "autoencoder, N(0, 1)": ae.decode(noise),
        "autoencoder, codes' mean and spread": ae.decode(codes.mean(axis=0) + codes.std(axis=0) * noise),
        "autoencoder, codes' covariance": ae.decode(rng.multivariate_normal(codes.mean(axis=0), np.cov(codes.T), n)),
        "VAE, prior N(0, 1)": vae.sample(n),
    }


def _models(data: Dataset, size: Size) -> tuple[Autoencoder, VAE]:
    pixels = data.train.images.shape[1]
    return Autoencoder(pixels, size.hidden, size.latent), VAE(pixels, size.hidden, size.latent)


def _judged(sets: dict[str, Array], data: Dataset) -> list[Number]:
    """MMD² to held-out digits of each set, and how much farther each is than the VAE's samples."""
    rng, n = np.random.default_rng(2), len(data.test.images)
    held, real = drawn(rng, data.test.images), drawn(rng, data.train.images[-n:])
    width = median_distance(real, held)
    black = {name: drawn(rng, images) for name, images in sets.items()}
    *others, vae = black
    tests = {name: permutation_test(images, held, width, RELABELLINGS) for name, images in black.items()}
    genuine = permutation_test(real, held, width, RELABELLINGS)
    numbers = [Number("MMD² of as many training digits", genuine.mmd2)]
    numbers += [Number(f"MMD² of {name}", test.mmd2) for name, test in tests.items()]
    numbers += [Number("p of as many training digits", genuine.p)]
    # The VAE's samples are no digits either: 2,000 are enough to tell, and so their p is not asked to be large.
    numbers += [Number(f"p of {name}", tests[name].p, at_most=0.01) for name in others[:2]]
    numbers += [Number(f"p of {name}", tests[name].p) for name in (others[2], vae)]
    for name in others:
        farther = compare(black[name], black[vae], held, width)
        least = 4 * farther.standard_error if name != others[2] else None  # a fitted density may come near
        numbers.append(Number(f"farther than the VAE: {name}", farther.value, at_least=least))
    return numbers


def _draw(copies: Array, sets: dict[str, Array], shape: tuple[int, ...]) -> "Figure":
    """Originals above copies, (4, 8, D); and 32 samples of each kind."""
    blocks = {"autoencoder of 64 digits": copies, **{name: s[:32].reshape(4, 8, -1) for name, s in sets.items()}}
    figure = new_figure(9.5, 8)
    draw_blocks(figure, 3, 2, blocks, shape)
    height = shape[0] + shape[0] // 14
    rows = ("of the 64", "copies", "held out", "copies")
    figure.axes[0].set_yticks([height * (row + 0.5) for row in range(4)], rows)
    figure.axes[0].tick_params(length=0)
    return figure


SHOWN = (by_heart, memorise, random_images)
