import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import npvae as nv
from npvae import mosaics, plots
from npvae.errors import InputError

RNG = np.random.default_rng(0)


class FakeRun:
    """The face of a run on a linear model; it keeps what it was asked to decode."""

    def __init__(self, model, epochs=3, corrupt=False, seed=0):
        self.model, self.seed, self.corrupted = model, seed, corrupt
        rng = np.random.default_rng(seed)
        self.W = rng.standard_normal((model.data, model.latent)) / np.sqrt(model.data)
        self.history = history(epochs, rate=isinstance(model, nv.VAE))
        self.decoded = []

    def encode(self, x):
        return x @ self.W

    def decode(self, z):
        self.decoded.append(z)
        return 1 / (1 + np.exp(-z @ self.W.T))

    def reconstruct(self, x):
        return self.decode(self.encode(x))

    def sample(self, n):
        assert isinstance(self.model, nv.VAE)
        return self.decode(np.random.default_rng(self.seed).standard_normal((n, self.model.latent)))

    def rates(self, x):
        assert isinstance(self.model, nv.VAE)
        return np.arange(self.model.latent) / 10

    def corrupt(self, x):
        return 1 - x if self.corrupted else x


def history(epochs, rate=True):
    rows = []
    for epoch in range(1, epochs + 1):
        kl = 3.0 * epoch if rate else 0.0
        row = {"epoch": epoch, "seconds": 0.5 * epoch, "active_units": 3}
        for split, extra in (("train", 0.0), ("test", 2.0)):
            row |= {f"{split}_reconstruction": 100.0 / epoch + extra, f"{split}_rate": kl}
            row[f"{split}_loss"] = row[f"{split}_reconstruction"] + kl
        rows.append(row)
    return rows


def dataset(n=30, shape=(4, 4), classes=3):
    images = np.random.default_rng(1).random((n, *shape), np.float32)
    labels = None if classes is None else np.arange(n) % classes
    return nv.datasets.from_arrays(images, images, train_labels=labels, test_labels=labels)


def texts(figure):
    """All the words in a figure."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        found += [label.get_text() for label in axes.get_xticklabels() + axes.get_yticklabels()]
        legend = axes.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    return [text for text in found if text]


def tiles(figure, h, w, seams=True):
    """The images in a mosaic, (r, c, h, w, 3)."""
    canvas = figure.axes[0].images[0].get_array()
    y, x = (h + -(-h // 14), w + -(-w // 14)) if seams else (h, w)
    r, c = -(-canvas.shape[0] // y), -(-canvas.shape[1] // x)
    cut = [[canvas[i * y : i * y + h, j * x : j * x + w] for j in range(c)] for i in range(r)]
    return np.array(cut)


def grey(images, h, w):
    return np.repeat(np.asarray(images, np.float32).reshape(*images.shape[:-1], h, w, 1), 3, axis=-1)


def png(figure, folder):
    (path,) = plots.save({"figure": figure}, folder)
    return path.read_bytes()


def overlaps(figure):
    """Pairs of visible texts whose boxes meet once drawn, and texts that stick out of the figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    items = list(figure.texts)
    for axes in figure.axes:
        items += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            items += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [(t.get_text(), t.get_window_extent()) for t in items if t.get_text() and t.get_visible()]
    wrong = [(a, b) for i, (a, p) in enumerate(boxes) for b, q in boxes[:i] if p.overlaps(q)]
    whole = figure.bbox
    wrong += [a for a, p in boxes if p.x0 < 0 or p.y0 < 0 or p.x1 > whole.x1 + 1 or p.y1 > whole.y1 + 1]
    return wrong


# ── Curves and bars ──────────────────────────────────────────────────────────────────────────────────────────────


def test_losses_apart():
    rows = history(4)
    figure = plots.loss_curves(rows)
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch"] * 3
    assert all("nats" in axes.get_ylabel() for axes in figure.axes)
    for axes, term in zip(figure.axes, ("loss", "reconstruction", "rate"), strict=True):
        for line, split in zip(axes.lines, ("train", "test"), strict=True):
            assert line.get_xdata().tolist() == [1, 2, 3, 4]
            assert line.get_ydata().tolist() == [row[f"{split}_{term}"] for row in rows]
            assert line.get_label().startswith(split)
    assert not overlaps(figure)


def test_losses_of_an_autoencoder():
    figure = plots.loss_curves(history(4, rate=False))
    assert len(figure.axes) == 1
    assert "squared error" in figure.axes[0].get_ylabel()


@pytest.mark.parametrize("rate", [True, False])
def test_one_epoch_has_markers(rate, tmp_path):
    figure = plots.loss_curves(history(1, rate))
    assert all(line.get_marker() != "None" and line.get_markersize() > 2 for a in figure.axes for line in a.lines)
    assert png(figure, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("epochs", [1, 3])
def test_losses_that_are_not_finite(value, epochs, tmp_path):
    rows = history(epochs)
    rows[-1] |= {"train_loss": value, "test_rate": value}
    figure = plots.loss_curves(rows)
    assert np.isnan(figure.axes[0].lines[0].get_ydata()[-1])
    assert png(figure, tmp_path)


def test_no_epochs():
    with pytest.raises(InputError, match="no epochs"):
        plots.loss_curves([])


def test_rates_descend():
    figure = plots.rate_per_latent([0.005, 2.0, 0.5])
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [2.0, 0.5, 0.005]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "0"]
    assert "2 of 3" in axes.get_title() and "2.5 nats" in axes.get_title()
    assert len({bar.get_facecolor() for bar in axes.patches}) == 2  # active and not
    assert "nats" in axes.get_ylabel()


@pytest.mark.parametrize("count", [1, 20, 30, 31, 60, 500])
def test_rates_are_readable(count):
    assert not overlaps(plots.rate_per_latent(RNG.random(count)))


def test_rates_that_are_not_finite(tmp_path):
    figure = plots.rate_per_latent([np.nan, 1.0, np.inf])
    assert "1 of 3" in figure.axes[0].get_title() and "2 not finite" in figure.axes[0].get_title()
    assert png(figure, tmp_path)


def test_rates_of_a_wrong_shape():
    with pytest.raises(InputError, match=r"\(Z,\)"):
        plots.rate_per_latent(np.ones((2, 2)))


# ── Codes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_codes_in_the_plane():
    z, labels = RNG.standard_normal((60, 2)), np.repeat([3, 7, 9], 20)
    z += labels[:, None]
    figure = plots.code_scatter(z, labels)
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), z)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")
    for text, label in zip(axes.texts, (3, 7, 9), strict=True):
        assert text.get_text() == str(label)
        np.testing.assert_allclose(text.get_position(), np.median(z[labels == label], axis=0))
    colours = axes.collections[0].get_facecolors()
    assert len(np.unique(colours, axis=0)) == 3
    assert (colours[labels == 7] == colours[20]).all()


def test_codes_without_labels():
    figure = plots.code_scatter(RNG.standard_normal((60, 2)), None)
    assert not figure.axes[0].texts
    assert len(np.unique(figure.axes[0].collections[0].get_facecolors(), axis=0)) == 1


def test_codes_on_principal_directions():
    z = RNG.standard_normal((500, 5)) * [1, 10, 0, 4, 0.1] + 100
    figure = plots.code_scatter(z, None)
    (axes,) = figure.axes
    offsets = axes.collections[0].get_offsets()
    _, s, directions = np.linalg.svd(z - z.mean(axis=0))
    np.testing.assert_allclose(np.abs(offsets), np.abs((z - z.mean(axis=0)) @ directions[:2].T), atol=1e-9)
    for label, share in zip((axes.get_xlabel(), axes.get_ylabel()), s**2 / (s**2).sum(), strict=False):
        assert f"{share:.0%} of the variance" in label
    # Where the codes turn round, the picture does too: signs are not left to chance.
    assert offsets[:, 0][z[:, 1].argmax()] > 0


def test_codes_of_one_latent():
    z, labels = RNG.standard_normal((90, 1)), np.arange(90) % 3
    figure = plots.code_scatter(z, labels)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0", "1", "2"]
    assert len(figure.axes[0].patches) == 3
    assert len(plots.code_scatter(z, None).axes[0].patches) == 1


@pytest.mark.parametrize("latent", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("labelled", [True, False])
def test_few_codes(latent, n, labelled, tmp_path):
    z = RNG.standard_normal((n, latent)).astype(np.float32)
    assert png(plots.code_scatter(z, np.arange(n) if labelled else None), tmp_path)


@pytest.mark.parametrize("latent", [1, 2, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_codes_that_are_not_finite(latent, value, tmp_path):
    z = RNG.standard_normal((9, latent))
    z[4, 0] = value
    figure = plots.code_scatter(z, np.arange(9) % 2)
    assert "8 images (1 not finite)" in figure.axes[0].get_title()
    assert png(figure, tmp_path)
    assert png(plots.code_scatter(np.full((3, latent), value), [0, 0, 1]), tmp_path)


def test_codes_that_coincide_are_named_apart():
    assert not overlaps(plots.code_scatter(0.01 * RNG.standard_normal((400, 2)), np.arange(400) % 10))


def test_many_classes(tmp_path):
    assert png(plots.code_scatter(RNG.standard_normal((200, 3)), np.arange(200) % 37), tmp_path)


def test_codes_of_a_wrong_shape():
    with pytest.raises(InputError, match=r"\(n, Z\)"):
        plots.code_scatter(np.ones(3), None)
    with pytest.raises(InputError, match=r"\(3,\)"):
        plots.code_scatter(np.ones((3, 2)), [1, 2])


# Machado, Oliveira & Fernandes 2009, table 1, severity 1: what dichromats see, in linear RGB.
EYES = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colours, eye):
    """CIELAB of sRGB colours as an eye sees them."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(eye).T, 0, 1)
    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("colours", [plots.CLASSES, (plots.TRAIN, plots.TEST), (plots.TRAIN, plots.IDLE)])
def test_colours_stay_apart(eye, colours):
    points = lab(colours, EYES[eye])
    distances = np.linalg.norm(points[:, None] - points, axis=2)[np.triu_indices(len(points), 1)]
    assert distances.min() > 17
    assert lab(colours, np.eye(3))[:, 0].max() < 85  # and from the white page


# ── Images ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_reconstructions():
    a, b, c = RNG.random((3, 6, 20))
    figure = mosaics.reconstructions(a, b, (5, 4))
    np.testing.assert_array_equal(tiles(figure, 5, 4), grey(np.stack([a, b]), 5, 4))
    assert {"original", "reconstruction"} <= set(texts(figure))
    figure = mosaics.reconstructions(a, b, (5, 4), seen=c)
    np.testing.assert_array_equal(tiles(figure, 5, 4), grey(np.stack([a, c, b]), 5, 4))
    with pytest.raises(InputError, match="differ"):
        mosaics.reconstructions(a, b[:3], (5, 4))


def test_sample_grid():
    images = RNG.random((7, 20))
    figure = mosaics.sample_grid(images, (5, 4), "seven samples")
    assert "seven samples" in texts(figure)
    drawn = tiles(figure, 5, 4).reshape(9, 5, 4, 3)
    np.testing.assert_array_equal(drawn[:7], grey(images, 5, 4))
    assert (drawn[7:] == 1).all()


def test_interpolation():
    images = RNG.random((2, 5, 20))
    figure = mosaics.interpolation(images, (5, 4))
    np.testing.assert_array_equal(tiles(figure, 5, 4), grey(images, 5, 4))
    assert {"0%", "100%"} <= set(texts(figure))


def test_traversal():
    images = RNG.random((2, 7, 784))
    figure = mosaics.traversal(images, (28, 28), [5, 0], [1.5, 0.25])
    np.testing.assert_array_equal(tiles(figure, 28, 28), grey(images, 28, 28))
    assert {"z[5]  1.50 nats", "z[0]  0.25 nats", "−3", "−2", "0", "3"} <= set(texts(figure))
    with pytest.raises(InputError, match="one per row"):
        mosaics.traversal(images, (28, 28), [5], [1.5, 0.25])


def test_manifold_is_a_map():
    images = RNG.random((3, 3, 20))
    figure = mosaics.manifold(images, (5, 4))
    assert not overlaps(figure)
    np.testing.assert_array_equal(tiles(figure, 5, 4, seams=False), grey(images[::-1], 5, 4))  # z[1] grows upwards
    n = 20
    axes = mosaics.manifold(np.ones((n, n, 784)), (28, 28)).axes[0]
    # The middle of the map is the prior's median, and ticks stand where their value's quantile is drawn.
    ticks = {label.get_text(): spot for label, spot in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
    assert ticks["0"] == pytest.approx(n * 28 / 2 - 0.5)
    assert (ticks["1"] + 0.5) / (n * 28) == pytest.approx(NormalDist().cdf(1))
    heights = {label.get_text(): spot for label, spot in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    assert heights["2"] < heights["−2"]  # rows of an image count downwards


def test_colour_images():
    images = RNG.random((4, 3 * 2 * 3))
    drawn = tiles(mosaics.sample_grid(images, (3, 2, 3), "colour"), 3, 2)
    np.testing.assert_array_equal(drawn.reshape(4, 3, 2, 3), images.reshape(4, 3, 2, 3).astype(np.float32))


def test_other_numbers_of_channels_stand_side_by_side():
    images = RNG.random((1, 3 * 2 * 2))
    drawn = tiles(mosaics.sample_grid(images, (3, 2, 2), "two channels"), 3, 4)[0, 0, :, :, 0]
    stack = images.reshape(3, 2, 2).astype(np.float32)
    np.testing.assert_array_equal(drawn, np.concatenate([stack[..., 0], stack[..., 1]], axis=1))


@pytest.mark.parametrize(("shape", "h", "w"), [((16,), 4, 4), ((15,), 1, 15), ((3, 5), 3, 5), ((7, 1), 7, 1)])
def test_shapes(shape, h, w, tmp_path):
    images = RNG.random((2, 3, h * w))
    figure = mosaics.interpolation(images, shape)
    np.testing.assert_array_equal(tiles(figure, h, w), grey(images, h, w))
    assert png(figure, tmp_path)


@pytest.mark.parametrize("shape", [(28, 28), (784,), (1, 785), (40, 8), (8, 40), (120, 100), (5, 5, 3)])
@pytest.mark.parametrize("columns", [1, 10])
def test_mosaics_are_readable(shape, columns):
    size = int(np.prod(shape))
    images = RNG.random((3, columns, size), np.float32)
    for figure in (
        mosaics.reconstructions(*images[:2], shape, images[2]),
        mosaics.interpolation(images, shape, title="A title of many words that has to be broken in two or more lines"),
        mosaics.traversal(images, shape, [1, 10, 100], [1, 2, 3]),
        mosaics.sample_grid(images[0], shape, "A title of many words that has to be broken in two or even more lines"),
    ):
        assert not overlaps(figure)
        assert max(figure.get_size_inches()) < 13
    assert not overlaps(mosaics.manifold(np.ones((20, 20, size), np.float32), shape))


def test_an_image_pixel_is_a_whole_number_of_figure_pixels():
    figure = mosaics.reconstructions(*RNG.random((2, 10, 784)), (28, 28))
    axes = figure.axes[0]
    box, canvas = axes.get_window_extent(), axes.images[0].get_array()
    assert box.width / canvas.shape[1] == pytest.approx(3) and box.height / canvas.shape[0] == pytest.approx(3)
    assert box.x0 == pytest.approx(round(box.x0)) and box.y0 == pytest.approx(round(box.y0))


def test_limits():
    images = np.array([[-10.0, 0, 5, 10, 20, 10]])
    drawn = tiles(mosaics.sample_grid(images, (2, 3), "limits", limits=(0, 10)), 2, 3)[0, 0, :, :, 0]
    np.testing.assert_array_equal(drawn.ravel(), [0, 0, 0.5, 1, 1, 1])
    assert (tiles(mosaics.sample_grid(images, (2, 3), "none", limits=(3, 3)), 2, 3) == 0).all()


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_seen(shape, value, tmp_path):
    images = np.full((1, 6), 0.5, np.float32)
    images[0, 0] = value
    figure = mosaics.sample_grid(images, shape, "broken")
    drawn = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(drawn[0, 0], to_rgb(mosaics.ALARM), rtol=1e-6)
    assert (drawn[0, 1] == 0.5).all()
    assert png(figure, tmp_path)


def test_images_of_a_wrong_shape():
    with pytest.raises(InputError, match="shape must be"):
        mosaics.sample_grid(np.ones((2, 6)), (4, 4), "")
    with pytest.raises(InputError, match=r"\(n, D\)"):
        mosaics.sample_grid(np.ones(6), (2, 3), "")
    with pytest.raises(InputError, match="columns"):
        mosaics.interpolation(np.ones((2, 6)), (2, 3))
    with pytest.raises(InputError, match="not empty"):
        mosaics.sample_grid(np.ones((0, 6)), (2, 3), "")
    with pytest.raises(InputError, match="no images to draw"):
        mosaics.reconstructions(np.ones((0, 6)), np.ones((0, 6)), (2, 3))


# ── A run ────────────────────────────────────────────────────────────────────────────────────────────────────────

COMMON = {"loss", "reconstructions", "interpolation", "codes"}
OF_A_VAE = COMMON | {"samples", "traversal", "rates"}


def test_figures_of_a_vae():
    run, data = FakeRun(nv.VAE(data=16, latent=12)), dataset()
    made = plots.figures(run, data)
    assert made.keys() == OF_A_VAE
    assert all(isinstance(figure, Figure) for figure in made.values())
    # Originals of each class come first; the rest of the ten take turns.
    chosen = np.arange(10)
    np.testing.assert_array_equal(tiles(made["reconstructions"], 4, 4)[0], grey(data.test.images[chosen], 4, 4))
    rows = [text for text in texts(made["traversal"]) if text.startswith("z[")]
    assert rows == [f"z[{i}]  {i / 10:.2f} nats" for i in range(11, 1, -1)]
    assert any("label 0" in text for text in texts(made["traversal"]))
    assert tiles(made["samples"], 4, 4).shape[:2] == (8, 8)


def test_figures_of_two_latents():
    run = FakeRun(nv.VAE(data=16, latent=2))
    made = plots.figures(run, dataset())
    assert made.keys() == OF_A_VAE | {"manifold"}
    z = run.decoded[-1].reshape(20, 20, 2)
    assert (np.diff(z[0, :, 0]) > 0).all() and (np.diff(z[:, 0, 1]) > 0).all()
    assert z[0, 0, 0] == pytest.approx(NormalDist().inv_cdf(0.025))


@pytest.mark.parametrize("model", [nv.Autoencoder(data=16, latent=5), nv.LinearAutoencoder(data=16, latent=2)])
def test_figures_of_an_autoencoder(model):
    made = plots.figures(FakeRun(model, corrupt=True), dataset())
    assert made.keys() == COMMON
    assert len(made["loss"].axes) == 1
    assert tiles(made["reconstructions"], 4, 4).shape[0] == 3  # with what it saw in the middle


def test_traversal_moves_one_latent():
    run, data = FakeRun(nv.VAE(data=16, latent=3)), dataset()
    plots.figures(run, data)
    z = next(z for z in run.decoded if len(z) == 3 * 13).reshape(3, 13, 3)
    code = run.encode(data.test.images[:1])[0]
    for row, latent in zip(z, (2, 1, 0), strict=True):
        np.testing.assert_allclose(row[:, latent], np.linspace(-3, 3, 13))
        still = [i for i in range(3) if i != latent]
        np.testing.assert_allclose(row[:, still], np.tile(code[still], (13, 1)))


@pytest.mark.parametrize(
    ("model", "arc"),
    [
        (nv.VAE(data=16, latent=6), True),
        (nv.VAE(data=16, latent=2), False),
        (nv.Autoencoder(data=16, latent=6), False),
    ],
)
def test_interpolation_goes_between_classes(model, arc):
    run, data = FakeRun(model), dataset()
    made = plots.figures(run, data)
    assert any(("arc" in text) is arc for text in texts(made["interpolation"]) if text.startswith("Interpolation"))
    z = next(z for z in run.decoded if len(z) == 5 * 11).reshape(5, 11, -1)
    codes, labels = run.encode(data.test.images), data.test.labels
    for path in z:
        ends = [int(np.abs(codes - end).sum(axis=1).argmin()) for end in path[[0, -1]]]
        np.testing.assert_allclose(path[[0, -1]], codes[ends], rtol=1e-6)
        assert labels[ends[0]] != labels[ends[1]]
        assert np.allclose(path[5], path[[0, -1]].mean(axis=0)) is not arc


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("classes", [None, 1, 4])
@pytest.mark.parametrize(("latent", "shape"), [(1, (4, 4)), (3, (6,)), (4, (2, 3, 3))])
def test_small_test_sets(n, classes, latent, shape):
    run = FakeRun(nv.VAE(data=int(np.prod(shape)), latent=latent), epochs=1)
    made = plots.figures(run, dataset(n, shape, classes) if n > 1 else one_image(shape, classes))
    assert ("interpolation" in made) is (n > 1)
    assert made.keys() >= OF_A_VAE - {"interpolation"}


def one_image(shape, classes):
    return nv.datasets.Dataset("one", (data := dataset(2, shape, classes)).train, first(data.test), data.shape)


def first(split):
    return nv.datasets.Split(split.images[:1], None if split.labels is None else split.labels[:1])


def test_untrained_run():
    assert "loss" not in plots.figures(FakeRun(nv.VAE(data=16, latent=3), epochs=0), dataset())


def test_grey_range_is_that_of_the_data():
    data = dataset()
    wider = data._replace(test=data.test._replace(images=data.test.images * 255))
    made = plots.figures(FakeRun(nv.Autoencoder(data=16, latent=2)), wider)
    drawn = tiles(made["reconstructions"], 4, 4)[0]
    images = wider.test.images[:10].astype(np.float64)
    low, high = wider.test.images.min(), wider.test.images.max()
    np.testing.assert_allclose(drawn, grey((images - low) / (np.float64(high) - low), 4, 4), rtol=1e-6)


def test_a_model_that_diverged(tmp_path):
    run = FakeRun(nv.VAE(data=16, latent=2))
    run.W[:] = np.nan
    run.rates = lambda x: np.full(2, np.nan)
    assert len(plots.save(plots.figures(run, dataset()), tmp_path)) == 8


def test_saved_bytes_are_the_runs(tmp_path):
    data = dataset()
    for folder in ("a", "b"):
        paths = plots.save(plots.figures(FakeRun(nv.VAE(data=16, latent=2)), data), tmp_path / folder / "figures")
        assert [path.parent for path in paths] == [tmp_path / folder / "figures"] * 8
    stems = {path.stem for path in paths}
    assert stems == OF_A_VAE | {"manifold"}
    assert {path.name for path in paths[0].parent.iterdir()} == {f"{stem}.png" for stem in stems}
    for path in paths:
        content = path.read_bytes()
        assert content == (tmp_path / "a" / "figures" / path.name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert b"tEXt" not in content and b"tIME" not in content


def test_save_at_120_dpi(tmp_path):
    figure = plots.loss_curves(history(2))
    width, height = figure.get_size_inches()
    header = png(figure, tmp_path)[16:24]
    sizes = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
    assert sizes == (round(width * 120), round(height * 120))


def test_nobody_waits_for_matplotlib(tmp_path):
    code = f"""
import sys
import numpy as np
import npvae.mosaics as mosaics
import npvae.plots as plots
assert "matplotlib" not in sys.modules
figures = {{
    "rates": plots.rate_per_latent([1.0]),
    "codes": plots.code_scatter(np.eye(3), [0, 1, 2]),
    "samples": mosaics.sample_grid(np.eye(4), (2, 2), "title"),
}}
plots.save(figures, __import__("pathlib").Path({str(tmp_path)!r}))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
