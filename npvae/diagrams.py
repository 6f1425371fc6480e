"""An explanation as a picture: arrays as boxes, ops as arrows as wide as the root of their FLOPs, layouts as bars."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from npvae.mosaics import new_figure
from npvae.plots import TEST, TRAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from npvae.explaining import Explanation, Operand, Step

WIDTH, HEIGHT = 0.29, 0.46  # of a box: of the picture's width, and of the distance from box to box
# What a leaf belongs to, by the beginning of its name; each part in two tones that alternate. Okabe & Ito 2008.
TONES = {"encoder": ("#009E73", "#66C5AB"), "decoder": ("#CC79A7", "#E0AFCA"), "": ("#999999", "#C2C2C2")}


@dataclass(frozen=True, eq=False)
class Arrow:
    """An arrow of an op from row to row of the boxes, 0 on top. `stub`: nobody wants what it would lead to."""

    step: "Step"
    start: int
    end: int
    stub: bool = False


def draw(explained: "Explanation") -> "Figure":
    """The picture of `Explanation.figure`."""
    boxes = boxed(explained)
    figure = new_figure(10.5, 3.2 + 0.95 * len(boxes))
    passing, layouts = figure.subplots(2, 1, height_ratios=(len(boxes) + 0.4, 1.7))
    for row, one in enumerate(boxes):
        _box(passing, row, one)
    _draw_arrows(passing, arrows_of(explained), max(step.flops for step in explained.steps))
    words = {"fontsize": 11, "weight": "bold"}
    passing.text(0, -0.55, "forward reads down", color=TRAIN, ha="left", **words)
    passing.text(1, -0.55, "backward reads up", color=TEST, ha="right", **words)
    passing.text(0.5, -0.55, "arrows as wide as the root of what they compute", fontsize=9, ha="center")
    passing.set(xlim=(0, 1), ylim=(len(boxes) - 0.4, -0.8))
    passing.set_title(f"{explained.title}\n{explained.totals()}", fontsize=10, wrap=True)
    passing.set_axis_off()
    _bar(layouts, 1, "theta, dtheta", explained.theta)
    _bar(layouts, 0, "acts, dacts", explained.acts)
    layouts.set(xlim=(0, 1), ylim=(-0.5, 1.75))
    layouts.set_title("Two layouts: one flat buffer per role, carved into views, each as long as it has numbers",
                      fontsize=10)  # fmt: skip
    layouts.set_axis_off()
    return figure


# ── What is drawn ────────────────────────────────────────────────────────────────────────────────────────────────


def boxed(explained: "Explanation") -> list["Operand"]:
    """The arrays that have boxes: images, activations in the order of their layout, and at the end the loss."""
    known = {one.name: one for step in explained.down for one in step.reads}
    known |= {one.name: one for step in explained.down for one in step.writes}
    return [known[name] for name in ("target", "x", *explained.acts, "loss") if name in known]


def arrows_of(explained: "Explanation") -> list[Arrow]:
    """The arrows of every step: from what it reads to what it writes, backward between the derivatives.

    Of two arrays that a forward writes, the upper is made on the way to the lower. Backward begins at the last box.
    """
    at = {one.name: row for row, one in enumerate(boxed(explained))}
    last, arrows = len(at) - 1, []
    for step in explained.down:
        rows = sorted(at[one.name] for one in step.writes if one.name in at)
        arrows += [Arrow(step, at[one.name], rows[0]) for one in step.reads if rows and one.name in at]
        arrows += [Arrow(step, start, end) for start, end in pairwise(rows)]
    of = {f"{kind}{name}": row for name, row in at.items() for kind in ("d ", "share of d ")}
    for step in explained.up:
        starts = [of[one.name] for one in step.reads if one.name in of] or [last]
        ends = [of[one.name] for one in step.writes if one.name in of]
        unwanted = [at[one.name] for one in step.reads if one.name in at and at[one.name] not in starts]
        arrows += [Arrow(step, start, end, stub=not ends) for start in starts for end in ends or unwanted]
    return arrows


def lanes_of(arrows: list[Arrow]) -> dict[Arrow, int]:
    """A lane for each arrow that passes other boxes: the innermost where it meets no other, the shortest first."""
    lanes: dict[Arrow, int] = {}
    for arrow in sorted((a for a in arrows if abs(a.start - a.end) > 1), key=lambda a: abs(a.start - a.end)):
        low, high = sorted((arrow.start, arrow.end))
        taken = {
            lane for other, lane in lanes.items()
            if other.step.direction == arrow.step.direction
            and min(other.start, other.end) <= high and low <= max(other.start, other.end)
        }  # fmt: skip
        lanes[arrow] = next(lane for lane in range(len(arrows)) if lane not in taken)
    return lanes


def short(number: int) -> str:
    """80,281,600 -> 80.3M.

    >>> short(80_281_600), short(999_600), short(50_176), short(640)
    ('80.3M', '1M', '50.2K', '640')
    """
    for unit, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "K")):
        if number >= 0.9995 * unit:  # what three digits round up to it
            return f"{number / unit:.3g}{letter}"
    return str(number)


# ── How it is drawn ──────────────────────────────────────────────────────────────────────────────────────────────


def _box(axes: Any, row: int, one: "Operand") -> None:
    from matplotlib.patches import Rectangle

    corner = (0.5 - WIDTH / 2, row - HEIGHT / 2)
    axes.add_patch(Rectangle(corner, WIDTH, HEIGHT, facecolor="white", edgecolor=_tone(one.name, 0), linewidth=2.2))
    gradient = "" if one.gradient is None else f"   norm of gradient {one.gradient:.3g}"
    axes.text(
        0.5,
        row,
        f"{one.name}   {one.dimensions}\nnorm {one.norm:.3g}{gradient}",
        ha="center",
        va="center",
        fontsize=8.5,
    )


def _draw_arrows(axes: Any, arrows: list[Arrow], most: int) -> None:
    """Every arrow with the name of its op; FLOPs stand once, beside an arrow between neighbours if there is one."""
    lanes = lanes_of(arrows)
    counted: set[int] = set()
    for arrow in sorted(arrows, key=lambda a: a in lanes):
        step = arrow.step
        words = step.op.removesuffix(f"_{step.direction}") + (", no dx" if arrow.stub else "")
        if id(step) not in counted:
            words += f", {short(step.flops)} FLOPs"
            counted.add(id(step))
        width = 0.8 + 9 * (step.flops / most) ** 0.5  # the root: next to a product all else would be a hair
        if arrow in lanes:
            _around(axes, arrow, width, lanes[arrow], words)
        else:
            _between(axes, arrow, width, words)


def _between(axes: Any, arrow: Arrow, width: float, words: str) -> None:
    """From a box to its neighbour; a stub ends half way."""
    from matplotlib.patches import FancyArrowPatch

    sign, side, colour = (1, -1, TRAIN) if arrow.end > arrow.start else (-1, 1, TEST)
    x = 0.5 + side * 0.42 * WIDTH
    start, end = arrow.start + sign * HEIGHT / 2, arrow.end - sign * HEIGHT / 2
    end = (start + end) / 2 if arrow.stub else end
    style = f"simple,tail_width={width},head_width={width + 6},head_length={6 + width / 2}"
    axes.add_patch(FancyArrowPatch((x, start), (x, end), arrowstyle=style, mutation_scale=1, color=colour, linewidth=0,
                                   shrinkA=0, shrinkB=0))  # fmt: skip
    axes.text(x + side * 0.016, (arrow.start + arrow.end) / 2, words, fontsize=8.5, color=colour, va="center",
              ha="right" if side < 0 else "left")  # fmt: skip


def _around(axes: Any, arrow: Arrow, width: float, lane: int, words: str) -> None:
    """Past other boxes, in a lane: forward at the left, backward at the right."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    sign, side, colour = (1, -1, TRAIN) if arrow.end > arrow.start else (-1, 1, TEST)
    edge, x = 0.5 + side * WIDTH / 2, 0.5 + side * (0.35 + 0.034 * lane)
    shift = sign * min(0.05 * (lane + 1), 0.9 * HEIGHT / 2)  # so that those that meet at a box do not lie on each other
    start, end = arrow.start + shift, arrow.end - shift
    path = Path([(edge, start), (x, start), (x, end), (edge, end)])
    axes.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=9 + width, linewidth=width, color=colour,
                                   shrinkA=0, shrinkB=0))  # fmt: skip
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # lines that cross go on behind the words
    axes.text(x + side * 0.006, (arrow.start + arrow.end) / 2, words, fontsize=8.5, color=colour, va="center",
              rotation=90, ha="right" if side < 0 else "left", bbox=ground)  # fmt: skip


def _bar(axes: Any, y: float, name: str, leaves: Mapping[str, int]) -> None:
    """The leaves of a layout, one after the other; those with room have their names."""
    total, start = sum(leaves.values()), 0
    for i, (leaf, count) in enumerate(leaves.items()):
        axes.barh(y, count / total, left=start / total, height=0.42, color=_tone(leaf, i % 2), edgecolor="white",
                  linewidth=0.4)  # fmt: skip
        if count / total > 0.0095 * len(leaf):
            axes.text((start + count / 2) / total, y, leaf, ha="center", va="center", fontsize=8.5)
        start += count
    axes.text(0, y + 0.33, f"{name}: {total:,} numbers", fontsize=9, ha="left", va="bottom")


def _tone(leaf: str, which: int) -> str:
    return next(tones for part, tones in TONES.items() if leaf.startswith(part))[which]
