"""Pictures of a run: arrays in, matplotlib Figures out; `figures` makes all that apply, `save` writes them as PNGs.

Curves, bars and codes are drawn here, images side by side in `mosaics`.

Nothing here touches pyplot, so there is no global state, no window, and nothing to close. Numbers that are not finite
are left out of curves and bars, and are painted in a colour among the pixels, so that they are seen and stop nothing.

n images · D numbers per image · Z latent · shape: of one image, (h, w), (h, w, 3) or (D,)
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from npvae.checkpoint import write_atomically
from npvae.codes import interpolate, quantiles, traverse
from npvae.datasets import Dataset
from npvae.errors import InputError
from npvae.flat import Array
from npvae.mosaics import DPI, UNIT, interpolation, manifold, new_figure, reconstructions, sample_grid, traversal
from npvae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from npvae.runs import Run

ACTIVE = 0.01  # nats of KL above which a latent counts as used
TRAIN, TEST, IDLE = "#0072B2", "#D55E00", "#999999"  # Okabe & Ito 2008, "Color universal design"
# Petroff 2021, "Accessible color sequences for data visualization": ten that stay at least 17 apart in CIELAB for
# normal, protan, deutan and tritan eyes (matplotlib's own ten: 5). The classes are named in the picture all the same.
CLASSES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip


# ── Curves and bars ──────────────────────────────────────────────────────────────────────────────────────────────


def loss_curves(history: Sequence[Mapping[str, float]]) -> "Figure":
    """The loss by epoch, its reconstruction term and its rate in panels of their own, train against test.

    history: a row per epoch with the columns of metrics.csv; nats per image. Where every rate is 0 (autoencoders)
    there is one panel, the squared error. Raises InputError if there is no epoch.
    """
    from matplotlib.ticker import MaxNLocator

    if not history:
        raise InputError("history has no epochs to draw: train for at least one")
    epochs = [row["epoch"] for row in history]
    panels = [("loss", "Loss: squared error", "squared error per image")]
    if any(row["train_rate"] != 0 or row["test_rate"] != 0 for row in history):
        panels = [
            ("loss", "Loss: minus the bound", "nats per image"),
            ("reconstruction", "Reconstruction: −log p(x|z)", "nats per image"),
            ("rate", "Rate: KL of q(z|x) from p(z)", "nats per image"),
        ]
    figure = new_figure(4.6 * len(panels) + 0.6 / len(panels), 3.9)
    for axes, (term, title, unit) in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
        for split, colour, marker, line in (("train", TRAIN, "o", "-"), ("test", TEST, "s", "--")):
            values = _finite([row[f"{split}_{term}"] for row in history])
            size = 5 if len(history) <= 10 else 3 if len(history) <= 60 else 0
            label = f"{split}, {values[-1]:.2f} at the end"
            axes.plot(epochs, values, line, color=colour, marker=marker, markersize=size, linewidth=1.6, label=label)
        axes.set(title=title, xlabel="epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(history) == 1:
            axes.set_xticks(epochs)
            axes.margins(y=0.4)  # room for the legend
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        _open(axes)
    return figure


def rate_per_latent(rates: npt.ArrayLike) -> "Figure":
    """The KL that each latent carries, (Z,) in nats, in descending order; latents above ACTIVE nats are counted."""
    values = _finite(rates)
    if values.ndim != 1 or not values.size:
        raise InputError(f"rates must be (Z,), one KL per latent, got shape {values.shape}")
    order = np.argsort(-values, kind="stable")
    active = values[order] > ACTIVE
    figure = new_figure(min(max(6.0, 1.5 + 0.32 * values.size), 12.0), 4.0)
    axes = figure.subplots()
    axes.bar(range(values.size), values[order], color=np.where(active, TRAIN, IDLE), width=0.8)
    if values.size <= 60:
        size = 10 if values.size <= 30 else 7
        axes.set_xticks(range(values.size), [str(i) for i in order], fontsize=size)
        axes.set_xlabel("latent, by its index")
    else:
        axes.set_xlabel("latents, from the one that says most to the one that says least")
    room = 0.7 + max(0, 8 - values.size) / 2  # a few bars need not be wide
    axes.set_xlim(-room, values.size - 1 + room)
    axes.set_ylabel("mean KL (nats per image)")
    unknown = np.isnan(values).sum()
    axes.set_title(
        f"{active.sum()} of {values.size} latents active (KL above {ACTIVE} nats), {np.nansum(values):.1f} nats in all"
        + (f"; {unknown} not finite" if unknown else ""),
        fontsize=11,
        wrap=True,
    )
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    _open(axes)
    return figure


# ── Codes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def code_scatter(codes: npt.ArrayLike, labels: npt.ArrayLike | None) -> "Figure":
    """Where the images lie in code space: codes (n, Z), coloured by labels (n,), each class named at its median.

    Z = 2 is drawn as it is, Z > 2 on the first two principal directions, Z = 1 as a histogram per class. Codes that
    are not finite are left out, and counted in the title.
    """
    z = np.asarray(codes, np.float64)
    if z.ndim != 2 or not z.shape[1]:
        raise InputError(f"codes must be (n, Z), got shape {z.shape}")
    if labels is not None and np.shape(labels) != (len(z),):
        raise InputError(f"labels must be ({len(z)},), one per code, got shape {np.shape(labels)}")
    finite = np.isfinite(_finite(z)).all(axis=1)
    z, lost = z[finite], int(np.count_nonzero(~finite))
    kinds = np.zeros(len(z), np.int64) if labels is None else np.asarray(labels)[finite]
    groups = [(label, kinds == label) for label in np.unique(kinds)]
    colours = [TRAIN if labels is None else CLASSES[i % len(CLASSES)] for i in range(len(groups))]
    title = f"Codes of {len(z):,} images" + (f" ({lost:,} not finite)" if lost else "")
    if labels is not None:
        title += ", coloured by label"
    if z.shape[1] == 1:
        return _strips(z[:, 0], groups, colours, title, named=labels is not None)

    names = ["z[0]", "z[1]"]
    if z.shape[1] > 2:
        z, shares = _principal(z)
        names = [f"{nth} principal direction ({share:.0%} of the variance)"
                 for nth, share in zip(("first", "second"), shares, strict=True)]  # fmt: skip
    figure = new_figure(7.6, 6.4)
    axes = figure.subplots()
    paint = np.empty(len(z), "<U7")
    for (_, members), colour in zip(groups, colours, strict=True):
        paint[members] = colour
    # All at once, in the images' order: class after class, the last would hide the first.
    axes.scatter(z[:, 0], z[:, 1], s=min(max(22_000 / max(len(z), 1), 4), 40), c=paint, alpha=0.75, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(title=title, xlabel=names[0], ylabel=names[1])
    if labels is not None and groups:
        medians = np.array([np.median(z[members], axis=0) for _, members in groups])
        spots = _apart(medians, 0.055 * float(np.ptp(z, axis=0).max()))
        for (label, _), colour, spot in zip(groups, colours, spots, strict=True):
            box = {"boxstyle": "circle,pad=0.22", "facecolor": "white", "edgecolor": colour, "linewidth": 2.2}
            axes.text(spot[0], spot[1], str(label), weight="bold", ha="center", va="center", bbox=box)
    _open(axes)
    return figure


def _principal(z: Array) -> tuple[Array, Array]:
    """(n, Z) -> the coordinates (n, 2) along the directions of greatest variance, and their shares of it (2,)."""
    centred = z - z.mean(axis=0) if len(z) else z
    s, directions = np.linalg.svd(centred.T @ centred, hermitian=True)[1:]  # (Z,Z), however many images there are
    top = directions[:2]
    top *= np.sign(top[[0, 1], np.abs(top).argmax(axis=1)])[:, None]  # the SVD leaves the signs open
    return centred @ top.T, s[:2] / (s.sum() or 1.0)


def _strips(z: Array, groups: list[tuple[Any, Any]], colours: list[str], title: str, *, named: bool) -> "Figure":
    """A histogram of z (n,) for each group, one above the other."""
    figure = new_figure(7.6, min(max(3.0, 1.2 + 0.5 * len(groups)), 12.0))
    axes = figure.subplots()
    edges = np.histogram_bin_edges(z, 60)
    counts = [np.histogram(z[members], edges)[0] for _, members in groups]
    tallest = max((count.max() for count in counts), default=1)
    for row, (count, colour) in enumerate(zip(counts, colours, strict=True)):
        axes.stairs(row + 0.9 * count / tallest, edges, baseline=row, fill=True, color=colour)
    axes.set_yticks([row + 0.3 for row in range(len(groups))], [str(label) for label, _ in groups] if named else [])
    axes.tick_params(axis="y", length=0)
    axes.set(title=title, xlabel="z[0]", ylabel="label" if named else "images")
    _open(axes)
    return figure


def _apart(points: Array, distance: float) -> Array:
    """(m, 2) moved as little as a simple push needs until no two are closer than `distance`, or nearly so."""
    points = points.copy()
    for _ in range(200):
        gaps = points[:, None] - points
        lengths = np.hypot(gaps[..., 0], gaps[..., 1])
        np.fill_diagonal(lengths, np.inf)
        i, j = np.unravel_index(lengths.argmin(), lengths.shape)
        if not lengths[i, j] < distance:
            break
        away = gaps[i, j] / lengths[i, j] if lengths[i, j] > 0 else np.array([math.cos(i), math.sin(i)])
        push = 0.51 * (distance - lengths[i, j]) * away
        points[i] += push
        points[j] -= push
    return points


# ── A run ────────────────────────────────────────────────────────────────────────────────────────────────────────


def figures(run: "Run", data: Dataset) -> dict[str, "Figure"]:
    """All pictures that apply to this run, by file stem, of the first 10,000 test images.

    "loss" (after an epoch), "reconstructions", "interpolation" (of two images or more) and "codes"; for a VAE also
    "samples", "traversal", "rates", and "manifold" when Z = 2. Where there are labels, reconstructions show every
    class and interpolations go between classes. The same run and data give the same pictures.
    """
    x, labels = data.test.images[:10_000], data.test.labels
    labels = None if labels is None else labels[:10_000]
    shape, codes = data.shape, run.encode(x)
    low, high = float(x.min()), float(x.max())
    limits = UNIT if low >= 0 and high <= 1 else (low, high)
    chosen = _assorted(x, labels)
    seen = run.corrupt(x[chosen])
    corrupted = None if np.array_equal(seen, x[chosen]) else seen

    made = {"loss": loss_curves(run.history)} if run.history else {}
    made["reconstructions"] = reconstructions(x[chosen], run.reconstruct(seen), shape, corrupted, limits=limits)
    pairs = list(zip(chosen[::2], chosen[1::2], strict=False))
    if labels is not None:
        pairs = [(a, b) for a, b in pairs if labels[a] != labels[b]] or pairs
    if pairs:
        round_ = isinstance(run.model, VAE) and run.model.latent > 2
        path = np.stack([interpolate(codes[a], codes[b], 11, spherical=round_) for a, b in pairs])
        title = f"Interpolation between the codes of test images, {'along an arc' if round_ else 'in a straight line'}"
        made["interpolation"] = interpolation(decoded(run, path), shape, title=title, limits=limits)
    if isinstance(run.model, VAE):
        title = "Samples from the prior: z ~ N(0, I), decoded to the mean of p(x|z)"
        made["samples"] = sample_grid(run.sample(64), shape, title, limits=limits)
        rates = run.rates(x)
        latents = np.argsort(-_finite(rates), kind="stable")[:10]
        path = traverse(codes[0], latents, 13)
        of = "" if labels is None else f" (label {labels[0]})"
        title = f"Traversal: each row moves one latent of the first test image's code{of}; most active on top"
        made["traversal"] = traversal(decoded(run, path), shape, latents, rates[latents], title=title, limits=limits)
        made["rates"] = rate_per_latent(rates)
        if run.model.latent == 2:
            made["manifold"] = manifold(decoded(run, quantiles(20)), shape, limits=limits)
    made["codes"] = code_scatter(codes, labels)
    return made


def save(figures: Mapping[str, "Figure"], folder: Path) -> list[Path]:
    """Write each figure to folder/<stem>.png; figures of the same run give the same bytes.

    The folder is made if need be. Raises the OSError that stopped it: every file is then whole, or as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for stem, figure in figures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})  # which would name a version
        paths.append(folder / f"{stem}.png")
        write_atomically(paths[-1], content.getvalue())
    return paths


def _assorted(x: Array, labels: Array | None) -> Array:
    """The indices of up to ten images, of as many classes as there are: the first of each class, then the second."""
    if labels is None:
        return np.arange(min(len(x), 10))
    turn = np.zeros(len(x), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    return np.lexsort((labels, turn))[:10]


def decoded(run: "Run", z: Array) -> Array:
    """Codes (r, c, Z) -> images (r, c, D)."""
    return run.decode(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:2], -1)


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _finite(values: npt.ArrayLike) -> Array:
    """As float64, with NaN for what is infinite or so large that its square, or an axis, would be."""
    array = np.asarray(values, np.float64)
    return np.where(np.abs(array) < 1e100, array, np.nan)


def _open(axes: Any) -> None:
    """Leave the axes open at the top and the right."""
    axes.spines[["top", "right"]].set_visible(False)
