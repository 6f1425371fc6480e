"""An explanation as a picture: arrays as boxes, ops as arrows between them, and the two layouts as bars."""

import math
from typing import TYPE_CHECKING, Any

from npvae.mosaics import new_figure
from npvae.plots import TEST, TRAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from npvae.explaining import Explanation, Step

WIDTH = 0.26  # of a box, of the picture's width
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00")  # Okabe & Ito 2008


def draw(explained: "Explanation") -> "Figure":
    """The picture of `Explanation.figure`."""
    down = explained.parts()[0][1]
    boxes = ["x", *dict.fromkeys(one.name for step in down for one in step.writes)]
    boxes.sort(key="loss".__eq__)  # at the end, where backward begins
    figure = new_figure(10.5, 2.6 + 0.95 * len(boxes))
    passing, layouts = figure.subplots(2, 1, height_ratios=(len(boxes), 1.7))
    at = {name: len(boxes) - 1 - row for row, name in enumerate(boxes)}
    most = max(step.flops for step in explained.steps)
    lanes = {"forward": 0, "backward": 0}
    for step in explained.steps:
        width = 0.8 + 7 * math.sqrt(step.flops / most)
        # The longest first: it takes the outer lane, and the shorter one does not cross it.
        longest_first = sorted(_arrows(step, at), key=lambda pair: -abs(at[pair[0]] - at[pair[1]]))
        for nth, (start, end) in enumerate(longest_first):
            far = abs(at[start] - at[end]) > 1
            lane = lanes[step.direction] if far else None
            lanes[step.direction] += far
            _arrow(passing, step, at[start], at[end], width, lane, label=nth == 0 or not far)
    norms = {one.name: one for step in explained.steps for one in (*step.reads, *step.writes)}
    norms |= {one.name: one for step in down for one in step.writes}  # these know their gradients
    for name, y in at.items():
        one = norms[name]
        shape = " × ".join(map(str, one.shape)) or "a number"
        gradient = "" if one.gradient is None else f"   norm of gradient {one.gradient:.3g}"
        text = f"{name}   {shape}\nnorm {one.norm:.3g}{gradient}"
        box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "black"}
        passing.text(0.5, y, text, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
    passing.text(0.02, len(boxes) - 0.45, "forward reads down", color=TRAIN, fontsize=11, ha="left", weight="bold")
    passing.text(0.98, len(boxes) - 0.45, "backward reads up", color=TEST, fontsize=11, ha="right", weight="bold")
    passing.set(xlim=(0, 1), ylim=(-0.6, len(boxes) - 0.2))
    passing.set_title(explained.title.split(": ")[0], fontsize=10, wrap=True)
    passing.set_axis_off()
    for row, (name, leaves) in enumerate((("theta, dtheta", explained.theta), ("acts, dacts", explained.acts))):
        _bar(layouts, 1 - row, name, dict(leaves))
    layouts.set(xlim=(0, 1), ylim=(-0.5, 1.75))
    layouts.set_title("Two layouts: one flat buffer per role, carved into views", fontsize=10)
    layouts.set_axis_off()
    return figure


def _arrows(step: "Step", at: dict[str, int]) -> list[tuple[str, str]]:
    """Between which boxes a step stands: from what it reads to what it writes; backward, from the one's derivative."""
    reads = [one.name.removeprefix("d ") for one in step.reads]
    writes = [one.name.removeprefix("d ") for one in step.writes]
    if step.direction == "backward":
        seeds = [one.name.removeprefix("d ") for one in step.reads if one.name.startswith("d ")] or ["loss"]
        if set(writes) == {"scratch"}:  # a share, which is added to the derivative by what was read
            writes = [name for name in reads if name in at and name not in seeds]
        return [(seed, name) for seed in seeds for name in writes if seed in at and name in at and seed != name]
    return [(start, end) for end in writes for start in reads if start in at and end in at and start != end]


def _arrow(axes: Any, step: "Step", start: int, end: int, width: float, lane: int | None, *, label: bool) -> None:
    """An arrow at the left for forward, at the right for backward: between neighbours, or around others in a lane."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    forward = step.direction == "forward"
    side, colour = (-1, TRAIN) if forward else (1, TEST)
    name = step.op.removesuffix(f"_{step.direction}") + (f", {step.flops:,} FLOPs" if step.flops >= 1000 else "")
    style: dict[str, Any] = {
        "arrowstyle": "-|>", "mutation_scale": 9 + width, "linewidth": width, "color": colour, "alpha": 0.75,
        "shrinkA": 0, "shrinkB": 0, "zorder": 2,
    }  # fmt: skip
    middle = (start + end) / 2
    if lane is None:
        x, gap = 0.5 + side * WIDTH / 2, 0.27 if end < start else -0.27
        axes.add_patch(FancyArrowPatch((x, start - gap), (x, end + gap), **style))
        if label:
            axes.text(x + side * 0.02, middle, name, fontsize=8.5, color=colour, va="center",
                      ha="right" if forward else "left")  # fmt: skip
        return
    x, edge = 0.5 + side * (0.35 + 0.03 * lane), 0.5 + side * 0.15
    shift = 0.06 * (lane + 1)  # so that lanes that begin or end at one box do not lie on each other
    path = Path([(edge, start - shift), (x, start - shift), (x, end + shift), (edge, end + shift)])
    axes.add_patch(FancyArrowPatch(path=path, **style))
    if label:
        axes.text(x + side * 0.006, middle, name, fontsize=8.5, color=colour, va="center", rotation=90,
                  ha="right" if forward else "left")  # fmt: skip


def _bar(axes: Any, y: float, name: str, leaves: dict[str, int]) -> None:
    """The leaves of a layout, one after the other, each as long as it has numbers; those with room have their names."""
    total, start = sum(leaves.values()) or 1, 0
    for i, (leaf, count) in enumerate(leaves.items()):
        share = count / total
        axes.barh(y, share, left=start / total, height=0.42, color=COLOURS[i % len(COLOURS)], edgecolor="white",
                  linewidth=0.4)  # fmt: skip
        if share > 0.012 * len(leaf):
            axes.text((start + count / 2) / total, y, leaf, ha="center", va="center", fontsize=8.5, color="white")
        start += count
    axes.text(0, y + 0.33, f"{name}: {total:,} numbers", fontsize=9, ha="left", va="bottom", color="black")
