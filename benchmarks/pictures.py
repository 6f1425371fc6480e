"""The two pictures of the README, drawn from results: who takes how much longer, and how near the machine's limits."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import results
from benchmarks.peers import OURS
from npvae.checkpoint import write_atomically
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


def draw_all(folder: Path, pictures: Path) -> list[Path]:
    """Draw ratios.png and roofline.png from the results in a folder."""
    drawn = {
        "ratios": ratios(results.read(folder, "step")),
        "roofline": roofline(results.read(folder, "matmul"), results.read(folder, "ops")),
    }
    pictures.mkdir(parents=True, exist_ok=True)
    return [save(figure, pictures / f"{name}.png") for name, figure in drawn.items()]


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
    axes.set_title("Time of a training step, by npvae's", loc="left", fontsize=13, weight="bold")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    label_ends(axes, ends, low / 1.1, high * 1.1)
    figure.supxlabel(footnote(step, "784-400-20 Bernoulli VAE, float32, forward + backward + Adam"), fontsize=8, x=0.01,
                     ha="left", color=ROOF)  # fmt: skip
    return figure


def label_ends(axes: Any, ends: list[tuple[float, float, str, str]], low: float, high: float) -> None:
    """Each line's name to the right of its end, pushed apart where they would overlap."""
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
        axes.annotate(name, (x, y), (1.04, spot), textcoords=axes.get_yaxis_transform(), color=colour, fontsize=11,
                      va="center", weight="bold", annotation_clip=False, arrowprops=arrow)  # fmt: skip


def batch(cell: dict[str, Any]) -> int:
    """The batch of a cell of a training step."""
    return int(cell["problem"]["batch"])


# ── How near the machine's limits ────────────────────────────────────────────────────────────────────────────────────


def roofline(matmul: results.Result, ops: results.Result) -> "Figure":
    """Operations per second against operations per byte (Williams, Waterman & Patterson 2009), and the two limits."""
    figure = new_figure(8.0, 5.6)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    peaks = ops["peaks"]
    fma = max(matmul["peaks"]["fma"], peaks["fma"])
    resident = max(peaks["update"].values(), default=0.0)
    points = [point(c, OURS, c["name"].split(" ", 1)) for c in matmul["cells"]]
    points += [point(c, OURS, None) for c in ops["cells"]]
    others = [point(c, "numpy", None) for c in matmul["cells"]]
    found = [p for p in points if p]
    span = np.array([min([p[0] for p in found], default=0.1) / 2, max([p[0] for p in found], default=100) * 2])
    x = np.geomspace(*span, 200)
    for rate, name in ((resident, "cache"), (peaks["triad"], "memory")):
        if rate:
            axes.plot(x, np.minimum(fma, x * rate) / 1e9, color=ROOF, linewidth=1.6, linestyle="-" if name == "cache" else "--")
            spot = span[0] * 1.15
            axes.annotate(f"{name} {rate / 1e9:.0f} GB/s", (spot, spot * rate / 1e9), (0, 6), textcoords="offset points",
                          rotation=0, color=ROOF, fontsize=9)  # fmt: skip
    axes.annotate(f"multiply-add peak {fma / 1e9:.0f} GFLOP/s", (span[1], fma / 1e9), (-2, 5), ha="right",
                  textcoords="offset points", color=ROOF, fontsize=9)  # fmt: skip
    numpy_points = np.array([p[:2] for p in others if p]).reshape(-1, 2)
    axes.scatter(*numpy_points.T, s=34, facecolors="none", edgecolors=STYLES["numpy"][0], linewidths=1.4, marker="s",
                 label="products by NumPy's BLAS")  # fmt: skip
    products = np.array([p[:2] for p in points[: len(matmul["cells"])] if p]).reshape(-1, 2)
    axes.scatter(*products.T, s=34, color=OURS_COLOUR, label="npvae: products", zorder=3)
    passes = [(p, c["name"]) for p, c in zip(points[len(matmul["cells"]) :], ops["cells"], strict=True) if p]
    layers = np.array([p[:2] for p, name in passes if name.startswith(("dense", "tied"))]).reshape(-1, 2)
    axes.scatter(*layers.T, s=38, color="#E69F00", marker="D", label="npvae: whole layers", zorder=3)
    others_ = [(p, name) for p, name in passes if not name.startswith(("dense", "tied"))]
    axes.scatter(*np.array([p[:2] for p, _ in others_]).reshape(-1, 2).T, s=38, color="#D55E00", marker="^",
                 label="npvae: everything else", zorder=3)  # fmt: skip
    axes.set_xlim(*span)
    named = [(p, name) for p, name in others_ if name in NAMED]
    named += [(p, f"{c['name'].split(' ')[0]}") for p, c in zip(points, matmul["cells"], strict=False)
              if p and c["name"] in NAMED]  # fmt: skip
    place(figure, axes, named)
    axes.set_xlabel("operations per byte that has to be read or written")
    axes.set_ylabel("GFLOP/s")
    axes.set_title("Where the time of a step can go", loc="left", fontsize=13, weight="bold")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=10)
    figure.supxlabel(footnote(ops, "float32, 784-400-20, B = 128; an exponential counts as one operation"), fontsize=8,
                     x=0.01, ha="left", color=ROOF)  # fmt: skip
    return figure


NAMED = (
    "bernoulli forward", "bernoulli backward", "adam", "sgd", "global norm", "reparameterize forward",
    "gaussian_kl backward", "128×784×400 y = x W", "784×128×400 dW = xᵀ dy", "128×400×784 dx = dy Wᵀ",
    "128×20×400 y = x W", "128×400×40 y = x W", "16×784×400 y = x W", "2048×784×400 y = x W",
)  # fmt: skip


def point(cell: dict[str, Any], name: str, _: Any) -> tuple[float, float] | None:
    """Operations per byte and GFLOP/s of a contestant, None if it was not timed."""
    record = cell["contestants"].get(name, {})
    if "median" not in record:
        return None
    return cell["flops"] / cell["bytes"], cell["flops"] / record["median"] / 1e9


def place(figure: "Figure", axes: Any, named: list[tuple[tuple[float, float], str]]) -> None:
    """Write names beside points, each where it covers no other name if there is such a place."""
    figure.draw_without_rendering()
    taken: list[Any] = []
    for (x, y), name in sorted(named, key=lambda item: item[0]):
        for dx, dy, ha in ((7, -3, "left"), (-7, -3, "right"), (0, 8, "center"), (0, -15, "center"), (7, -14, "left"),
                           (7, 8, "left"), (-7, 8, "right"), (-7, -14, "right")):  # fmt: skip
            text = axes.annotate(name, (x, y), (dx, dy), textcoords="offset points", ha=ha, fontsize=8.5, color=INK)
            box = text.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined,unused-ignore]
            if not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:
            continue
        taken.append(box)


def footnote(made: results.Result, what: str) -> str:
    """What was measured, on what."""
    machine = made["machine"]
    return f"{what}. {machine['cpu']}, {machine['threads']} threads, {made['options']['rounds']} rounds"
