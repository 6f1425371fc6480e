"""The two pictures of the README, drawn from results: who takes how much longer, and how near the machine's limits."""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks import results
from benchmarks.peers import OURS
from npvae.checkpoint import write_atomically
from npvae.errors import InputError
from npvae.mosaics import DPI, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito 2008; a marker each besides, for those who see no colours.
STYLES = {
    "reference": ("#999999", "v"),
    "numpy": ("#56B4E9", "s"),
    "torch": ("#D55E00", "o"),
    "torch-compiled": ("#E69F00", "D"),
    "jax": ("#009E73", "^"),
    "autograd": ("#CC79A7", "X"),
}
INK, OURS_COLOUR, ROOF = "#222222", "#0072B2", "#555555"


def draw_all(folder: Path, pictures: Path) -> tuple[list[Path], list[str]]:
    """Draw ratios.png and roofline.png from the results in a folder: those drawn, and what the others lack."""
    drawn, lacking = [], []
    for name, draw, needed in (("ratios", ratios, ["step"]), ("roofline", roofline, ["matmul", "ops"])):
        try:
            figure = draw(*(results.read(folder, benchmark) for benchmark in needed))
        except InputError as error:
            lacking.append(f"no {name}.png: {error}")
        else:
            pictures.mkdir(parents=True, exist_ok=True)
            drawn.append(save(figure, pictures / f"{name}.png"))
    return drawn, lacking


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    write_atomically(path, content.getvalue())
    return path


# ── How much longer the others take ──────────────────────────────────────────────────────────────────────────────────


def ratios(step: results.Result) -> "Figure":
    """Time of a step by ours, against the batch, a line for every peer; only the cells of 784-400-20."""
    from matplotlib.ticker import NullLocator

    cells = sorted((c for c in step["cells"] if c["name"].startswith("784-400-20 ")), key=lambda c: batch(c))
    figure = new_figure(8.0, 4.9)
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ends, low, high = [], 0.95, 1.05
    for name, (colour, marker) in STYLES.items():
        points = [(batch(c), c["contestants"].get(name, {})) for c in cells]
        points = [(x, record) for x, record in points if "ratio" in record]
        if not points:
            continue
        x = np.array([b for b, _ in points])
        y = np.array([record["ratio"] for _, record in points])
        span = np.array([record["ratio_interval"] for _, record in points]).T
        errors = np.maximum([y - span[0], span[1] - y], 0)
        axes.errorbar(x, y, errors, color=colour, marker=marker, markersize=6, linewidth=1.8, capsize=3)
        low, high = min(low, *span[0]), max(high, *span[1])
        ends.append((x[-1], y[-1], points[0][1]["label"], colour))
    axes.axhline(1, color=OURS_COLOUR, linewidth=2.2)
    ends.append((batch(cells[-1]) if cells else 1, 1.0, "npvae jit", OURS_COLOUR))
    axes.set_ylim(low / 1.1, high * 1.1)
    ticks = [t for t in (0.25, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32) if low / 1.1 <= t <= high * 1.1]
    axes.set_yticks(ticks, [f"{t:g}×" for t in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks([batch(c) for c in cells], [str(batch(c)) for c in cells])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("batch")
    axes.set_title("Time of a training step, divided by npvae's", loc="left", fontsize=13, weight="bold")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    label_ends(axes, ends, low / 1.1, high * 1.1)
    figure.supxlabel(footnote(step, "784-400-20 Bernoulli VAE, float32, forward + backward + Adam"), fontsize=8, x=0.01,
                     ha="left", color=ROOF)  # fmt: skip
    return figure


def label_ends(axes: Any, ends: list[tuple[float, float, str, str]], low: float, high: float) -> None:
    """Each line's name to the right of its end, pushed apart where they would overlap."""
    from matplotlib.colors import to_rgb

    ends = sorted(ends, key=lambda end: end[1])
    gap = 0.062 * np.log(high / low)
    at = np.log([end[1] for end in ends])
    for _ in range(200):
        for i in range(1, len(at)):
            overlap = gap - (at[i] - at[i - 1])
            if overlap > 0:
                at[i - 1], at[i] = at[i - 1] - overlap / 2, at[i] + overlap / 2
    for (x, y, name, colour), spot in zip(ends, np.exp(at), strict=True):
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "alpha": 0.6, "shrinkA": 0, "shrinkB": 4}
        ink = [0.72 * part for part in to_rgb(colour)]  # light colours are hard to read as text
        axes.annotate(name, (x, y), (1.04, spot), textcoords=axes.get_yaxis_transform(), color=ink, fontsize=11,
                      va="center", weight="bold", annotation_clip=False, arrowprops=arrow)  # fmt: skip


def batch(cell: dict[str, Any]) -> int:
    """The batch of a cell of a training step."""
    return int(cell["problem"]["batch"])


# ── How near the machine's limits ────────────────────────────────────────────────────────────────────────────────────

NAMED = (
    "bernoulli forward", "bernoulli backward", "adam", "sgd", "global norm", "reparameterize forward",
    "gaussian_kl backward", "128×784×400 y = x W", "784×128×400 dW = xᵀ dy", "128×400×784 dx = dy Wᵀ",
    "128×20×400 y = x W", "128×400×40 y = x W", "16×784×400 y = x W", "2048×784×400 y = x W",
)  # fmt: skip
LAYERS = ("dense", "tied")


class Point(NamedTuple):
    """A cell in the picture: operations per byte, GFLOP/s."""

    intensity: float
    speed: float
    name: str


def points(cells: list[dict[str, Any]], contestant: str) -> list[Point]:
    """The cells in which this contestant was timed."""
    found = [(cell, cell["contestants"].get(contestant, {}).get("median")) for cell in cells]
    return [Point(c["flops"] / c["bytes"], c["flops"] / median / 1e9, c["name"]) for c, median in found if median]


def roofline(matmul: results.Result, ops: results.Result) -> "Figure":
    """Operations per second against operations per byte (Williams, Waterman & Patterson 2009), and the two limits."""
    if not (matmul["peaks"] and ops["peaks"]):
        raise InputError("the results of matmul and ops say nothing of the machine's peaks: run both benchmarks again")
    products, passes = points(matmul["cells"], OURS), points(ops["cells"], OURS)
    series = (
        ("products by NumPy's BLAS", points(matmul["cells"], "numpy"), STYLES["numpy"], "none"),
        ("npvae: products", products, (OURS_COLOUR, "o"), OURS_COLOUR),
        ("npvae: whole layers", [p for p in passes if p.name.startswith(LAYERS)], ("#E69F00", "D"), "#E69F00"),
        ("npvae: other ops", [p for p in passes if not p.name.startswith(LAYERS)], ("#D55E00", "^"), "#D55E00"),
    )
    intensities = [p.intensity for _, found, _, _ in series for p in found] or [1.0]
    low, high = min(intensities) / 2, max(intensities) * 1.6
    fma = max(matmul["peaks"]["fma"], ops["peaks"]["fma"])

    figure = new_figure(8.0, 5.8)
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    x = np.geomspace(low, high, 400)
    cache, memory = max(ops["peaks"]["update"].values()), ops["peaks"]["triad"]
    for rate, line in ((cache, "-"), (memory, "--")):
        axes.plot(x, np.minimum(fma, x * rate) / 1e9, line, color=ROOF, linewidth=1.6)
    top = axes.annotate(f"multiply-adds: {fma / 1e9:.0f} GFLOP/s", (high, fma / 1e9), (0, 5), ha="right",
                        textcoords="offset points", color=ROOF, fontsize=9)  # fmt: skip
    for label, found, (colour, marker), face in series:
        axes.scatter([p.intensity for p in found], [p.speed for p in found], s=36, marker=marker, facecolors=face,
                     edgecolors=colour, linewidths=1.3, label=label, zorder=3)  # fmt: skip
    axes.set_xlabel("operations per byte that has to be read or written")
    axes.set_ylabel("GFLOP/s")
    axes.set_title("How near the machine's limits", loc="left", fontsize=13, weight="bold")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(loc="lower right", frameon=False, fontsize=10)
    note = footnote(ops, "float32, 784-400-20, B = 128; an exponential counts as one operation")
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left", color=ROOF)
    figure.draw_without_rendering()  # from here on it is known where things are
    taken = [legend.get_window_extent(), top.get_window_extent()]
    for rate, where in ((cache, "cache, at the size of theta"), (memory, "memory")):
        taken.append(name_slope(axes, rate / 1e9, low, fma / 1e9, f"{where}: {rate / 1e9:.0f} GB/s"))
    name_points(axes, [p for p in products + passes if p.name in NAMED], products + passes, taken)
    return figure


def name_slope(axes: Any, rate: float, low: float, top: float, text: str) -> Any:
    """Write along the limit y = rate x, near its lower end; returns the box that it covers."""
    x = low * (top / rate / low) ** 0.08
    (left, bottom), (right, upper) = axes.transData.transform([(x, rate * x), (2 * x, 2 * rate * x)])
    angle = math.degrees(math.atan2(upper - bottom, right - left))
    words = axes.annotate(text, (x, rate * x), (-5, 5), textcoords="offset points", rotation=angle,
                          rotation_mode="anchor", color=ROOF, fontsize=9)  # fmt: skip
    return words.get_window_extent()


def name_points(axes: Any, named: list[Point], every: list[Point], taken: list[Any]) -> None:
    """Write names beside points, each where it covers nothing that is taken and no point; else not at all."""
    spots = axes.transData.transform([(p.intensity, p.speed) for p in every]) if every else np.empty((0, 2))
    ceiling = max((box.y0 for box in taken), default=axes.bbox.y1)  # the highest of the limits' names
    places = [(8, -3, "left"), (-8, -3, "right"), (0, 9, "center"), (0, -16, "center"), (8, -15, "left"),
              (8, 9, "left"), (-8, 9, "right"), (-8, -15, "right"), (14, -28, "left"), (-14, 22, "right")]  # fmt: skip
    for point in sorted(named, key=lambda p: NAMED.index(p.name)):
        short = point.name.split(" ")[0] if "×" in point.name else point.name.replace("_", " ")
        for dx, dy, side in places:
            text = axes.annotate(short, point[:2], (dx, dy), textcoords="offset points", ha=side, fontsize=8.5,
                                 color=INK)  # fmt: skip
            box = text.get_window_extent()
            inside = axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1 and axes.bbox.y0 < box.y0 and box.y1 < ceiling
            free = not any(box.overlaps(other) for other in taken) and not any(box.contains(*spot) for spot in spots)
            if inside and free:
                taken.append(box)
                break
            text.remove()


def footnote(made: results.Result, what: str) -> str:
    """What was measured, on what."""
    machine = made["machine"]
    return f"{what}. {machine['cpu']}, {machine['threads']} threads, {made['options']['rounds']} rounds"
