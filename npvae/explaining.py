"""What a pass does, op by op: recorded while it runs, so that no second description can go astray.

A private workspace runs forward and backward with a backend that notes every call. Arrays are known by where they lie:
a view of the activations, of the parameters or of their gradients has the name that it has in these trees.
"""

import html
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npvae.diagrams import draw
from npvae.errors import InputError
from npvae.flat import Array, Tree, carve, leaves, sizes, zeros
from npvae.mlp import ACTIVATIONS
from npvae.ops import reference
from npvae.reports import plain
from npvae.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORWARD, BACKWARD = "forward", "backward"
ROOT = Path(__file__).parent.parent
NUMBERS = {number: name for name, number in ACTIVATIONS.items()}


class Operand(NamedTuple):
    """An array that an op read or wrote: its name in the workspace's trees, its shape and its norm at that time.

    gradient: the norm of the loss's derivative by it when backward was through; None where none is kept, as for x.
    final: of a derivative to which something was added later, its norm when backward was through.
    """

    name: str
    shape: tuple[int, ...]
    norm: float
    gradient: float | None = None
    final: float | None = None


class Step(NamedTuple):
    """One call of an op.

    formula: of a forward, what its docstring opens with; of a backward, the derivation above it. act: the activation
    in it, "" if it has none. parameters: how many numbers of theta it reads. source: where the op is defined in the
    reference; caller: the line that called it.
    """

    direction: str
    op: str
    formula: str
    act: str
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    parameters: int
    flops: int
    source: str
    caller: str


@dataclass(frozen=True)
class Explanation:
    """The steps of a pass in their order, a table when printed or shown in a notebook.

    loss: what the pass gave, in nats for a VAE. theta, acts: the two layouts, how many numbers each leaf holds.
    """

    title: str
    loss: float
    steps: tuple[Step, ...]
    theta: Mapping[str, int]
    acts: Mapping[str, int]

    def parts(self) -> list[tuple[str, list[Step]]]:
        """The steps down, and the steps up."""
        return [(name, [step for step in self.steps if step.direction == name]) for name in (FORWARD, BACKWARD)]

    def totals(self) -> str:
        """The loss, and the parameters and FLOPs of both directions, in words."""
        down, up = (sum(step.flops for step in steps) for _, steps in self.parts())
        counts = f"{sum(self.theta.values()):,} parameters, {down:,} FLOPs forward, {up:,} backward"
        return f"loss {self.loss:.6g}, {counts}"

    def rows(self, step: Step) -> list[tuple[str, ...]]:
        """The cells of a step under HEAD: a row for every array that it writes, then one for every parameter it reads.

        Parameters have their rows on the way down, where they are first read.
        """
        read = [one for one in step.reads if one.name in self.theta and step.direction == FORWARD]
        cells: list[tuple[str, ...]] = []
        for nth, one in enumerate((*step.writes, *read)):
            cells.append((
                step.op if nth == 0 else "",
                one.name if nth < len(step.writes) else f"  {one.name}",
                shape(one),
                f"{step.flops:,}" if nth == 0 else "",
                "" if nth < len(step.writes) else f"{math.prod(one.shape):,}",
                f"{one.norm:.4g}" + ("" if one.final is None else f" → {one.final:.4g}"),
                "" if one.gradient is None else f"{one.gradient:.4g}",
            ))  # fmt: skip
        return cells

    def notes(self) -> list[str]:
        """What is said below the cells of each step: formula, in full the first time; what it reads; the source."""
        told: set[str] = set()
        said = []
        for step in self.steps:
            text, gap = ("as above", ", ") if step.op in told else (step.formula, "\n")
            told.add(step.op)
            act = f"{gap}act: {step.act}" if step.act else ""
            reads = ", ".join(one.name + ("" if one.name in self.theta else f" {shape(one)}") for one in step.reads)
            said.append(f"{text}{act}\nreads {reads}\n{step.source}, called at {step.caller}")
        return said

    def __str__(self) -> str:
        rows = [HEAD, *(row for step in self.steps for row in self.rows(step))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]

        def line(row: tuple[str, ...]) -> str:
            cells = (f"{text:{side}{width}}" for side, text, width in zip(SIDES, row, widths, strict=True))
            return "  ".join(cells).rstrip()

        notes = iter(self.notes())
        table = [self.title, self.totals(), "", line(HEAD)]
        for direction, steps in self.parts():
            table.append(f"── {direction} ".ljust(sum(widths) + 2 * len(widths) - 2, "─"))
            for step in steps:
                table += map(line, self.rows(step))
                table += (f"    {note}" for note in next(notes).split("\n"))
        return "\n".join([*table, "", LEGEND])

    def _repr_html_(self) -> str:
        """The same table for a notebook: it needs nothing else, and scrolls by itself where it is too wide."""
        notes, sides = iter(self.notes()), ["right" if side == ">" else "left" for side in SIDES]

        def row(texts: tuple[str, ...], tag: str) -> str:
            pairs = zip(sides, map(html.escape, texts), strict=True)
            cells = (f'<{tag} style="text-align:{side}">{text}</{tag}>' for side, text in pairs)
            return f"<tr>{''.join(cells)}</tr>"

        wide = f'colspan="{len(HEAD)}" style="text-align:left"'
        lines = [f"<p>{html.escape(self.title)}<br>{html.escape(self.totals())}</p>", '<div style="overflow-x:auto">',
                 f'<table style="white-space:pre"><thead>{row(HEAD, "th")}</thead>']  # fmt: skip
        for direction, steps in self.parts():
            lines.append(f"<tbody><tr><th {wide}>{direction}</th></tr>")
            for step in steps:
                lines += [row(cells, "td") for cells in self.rows(step)]
                note = f'<pre style="margin:0 0 0.6em 2em">{html.escape(next(notes))}</pre>'
                lines.append(f"<tr><td {wide}>{note}</td></tr>")
            lines.append("</tbody>")
        return "\n".join([*lines, "</table></div>", f"<p>{html.escape(LEGEND)}</p>"])

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values; a number that JSON lacks (NaN, inf) is None."""
        steps = [
            step._asdict() | {"reads": [o._asdict() for o in step.reads], "writes": [o._asdict() for o in step.writes]}
            for step in self.steps
        ]
        everything: dict[str, Any] = plain({
            "title": self.title, "loss": self.loss, "theta": dict(self.theta), "acts": dict(self.acts), "steps": steps,
        })  # fmt: skip
        return everything

    def figure(self) -> "Figure":
        """The pass as a picture: boxes for arrays, arrows for ops, down at the left and up at the right, their width by
        FLOPs; below, the two layouts, every leaf as long as it has numbers.
        """
        return draw(self)


HEAD = ("op", "array", "shape", "FLOPs", "parameters", "norm", "norm of gradient")
SIDES = "<<<>>>>"
LEGEND = """\
d: the loss's derivative by what follows. a → b: the norm is a when the op has written, b when the shares are added.
A product counts 2 FLOPs for each multiplication with its addition, and of a layer the products alone are counted; any
other op counts 1 for each number of its largest array. A norm is the root of the sum of squares."""


def explain(ws: Workspace) -> Explanation:
    """The last forward of `ws`, and its backward, op by op: formula, shapes, parameters, FLOPs, norms, source.

    A private workspace on the same parameters makes the pass again, with the same batch and noise: `ws` is left as it
    is. A norm is the root of the sum of squares; that of a gradient is by the array that was written, when backward was
    through. FLOPs: a product counts 2 for each multiplication with its addition, and of a layer the products alone are
    counted; of any other op each number of its largest array counts once, which says how much there is to do, not how
    long an exponential takes. Raises InputError before the first forward.

    >>> import npvae as nv
    >>> ws = nv.Workspace(nv.VAE(data=6, hidden=(5,), latent=2), batch=4)
    >>> loss = ws.forward(np.eye(4, 6))
    >>> [step.op for step in nv.explain(ws).steps][:4]
    ['dense_forward', 'dense_forward', 'reparameterize_forward', 'dense_forward']
    >>> nv.explain(ws).steps[0].writes[0].name, nv.explain(ws).steps[0].flops  # 2 * 4 * 6 * 5
    ('encoder.0', 240)
    """
    if not isinstance(ws, Workspace):
        raise InputError(f"ws must be a Workspace, such as Workspace(model, batch=8), got {type(ws).__name__}")
    if ws.inputs is None:
        raise InputError("explain shows the last forward and its backward: call ws.forward(x) first")
    x, target, eps, beta = ws.inputs
    own = Workspace(ws.model, len(x), ws.samples, ws.dtype, ws.backend, theta=ws.theta)
    noise = () if eps is None else (eps.real, beta)
    own.forward(x.real, None if target is x else target.real, *noise)
    own.backward()  # now everything has its memory, by which it is known
    model: Any = own.model
    layout = model.scratch(own.ops, len(x), own.samples)
    scratch = carve(layout, zeros(sizes(layout)[0], own.dtype))
    recorder = Recorder(own, scratch)
    loss = model.forward(recorder, own.params, own.inputs, own.acts)
    model.backward(recorder, own.params, own.inputs, own.acts, own.grads, own.dacts, scratch)
    gradients = {name: norm(view) for tree in (own.grads, own.dacts) for name, view in leaves(tree)}

    def ended(one: Operand) -> Operand:
        final = gradients.get(one.name.removeprefix("d "))
        if one.name.startswith("d "):
            return one._replace(final=None if final == one.norm or math.isnan(one.norm) else final)
        return one._replace(gradient=final)

    steps = tuple(
        step._replace(reads=tuple(map(ended, step.reads)), writes=tuple(map(ended, step.writes)))
        for step in recorder.steps
    )
    counts = ({name: view.size for name, view in leaves(tree)} for tree in (own.params, own.acts))
    title = f"{ws.model!r}: {len(x)} images, {ws.samples} sample{'s' * (ws.samples > 1)} each, {ws.backend}, {ws.dtype}"
    return Explanation(title, float(np.real(loss)), steps, *counts)


def norm(a: Any) -> float:
    """The root of the sum of squares, in float64; of complex numbers, of their real parts."""
    return float(np.linalg.norm(np.asarray(a).real.astype(np.float64)))


class Recorder:
    """A backend that notes every forward and backward that is called on it."""

    def __init__(self, ws: Workspace, scratch: Tree) -> None:
        self._ops = ws.ops
        self.steps: list[Step] = []
        trees = (("", ws.params), ("", ws.acts), ("d ", ws.grads), ("d ", ws.dacts))
        known = [(prefix + name, view) for prefix, tree in trees for name, view in leaves(tree)]
        for name in ("target", "eps", "x"):  # x last: where the target is the input, it is called x
            known.append((name, getattr(ws.inputs, name)))
        self._names = {address(view): name for name, view in known if isinstance(view, np.ndarray) and view.size}
        self._parameters = {address(view) for _, view in leaves(ws.params)}
        for name, view in leaves(scratch):
            if hasattr(ws.acts, name):  # what is kept apart to be added to the derivative by that
                self._names[address(view)] = f"share of d {self._names[address(getattr(ws.acts, name))]}"

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._ops, name)
        if name.endswith((f"_{FORWARD}", f"_{BACKWARD}")):
            return self._noting(name, function)
        return function

    def _noting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        definition = getattr(reference, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(1)
            result = function(*args, **kwargs)
            given = inspect.signature(definition).bind(*args, **kwargs).arguments
            buffers = given.pop("out", None)
            given.pop("scratch", None)
            written = result if name.endswith(FORWARD) else buffers  # a forward may return a number besides
            outputs = [one for one in (written if isinstance(written, tuple) else (written,)) if one is not None]
            self.steps.append(Step(
                direction=FORWARD if name.endswith(FORWARD) else BACKWARD,
                op=name,
                formula=formula(definition),
                act=NUMBERS[given["act"]] if "act" in given else "",
                reads=tuple(self._operand(role, a) for role, a in given.items() if isinstance(a, np.ndarray)),
                writes=tuple(self._operand("loss" if np.ndim(one) == 0 else "", one) for one in outputs),
                parameters=sum(
                    a.size for a in given.values() if isinstance(a, np.ndarray) and address(a) in self._parameters
                ),
                flops=flops(name, given, outputs),
                source=f"{relative(definition.__code__.co_filename)}:{definition.__code__.co_firstlineno}",
                caller=f"{relative(frame.f_code.co_filename)}:{frame.f_lineno}",
            ))  # fmt: skip
            return result

        return call

    def _operand(self, role: str, a: Any) -> Operand:
        name = self._names.get(address(a)) if isinstance(a, np.ndarray) else None
        return Operand(name or role or "dropped", np.shape(a), norm(a))


def shape(one: Operand) -> str:
    """As it is written in tables: 64 × 784."""
    return " × ".join(map(str, one.shape)) or "a number"


def address(a: Array) -> int:
    """Where an array begins in memory."""
    return int(a.__array_interface__["data"][0])


def formula(definition: Callable[..., Any]) -> str:
    """Of a forward, the mathematics that its docstring opens with; of a backward, the derivation above it."""
    comment = inspect.getcomments(definition) if definition.__name__.endswith(BACKWARD) else None
    if comment is not None:
        return "\n".join(line.removeprefix("#").removeprefix(" ") for line in comment.rstrip().split("\n"))
    return " ".join((inspect.getdoc(definition) or "").split("\n\n")[0].split())


def flops(name: str, given: Mapping[str, Any], outputs: list[Any]) -> int:
    """How many operations on numbers a call makes; see `explain`."""
    if name.startswith(("dense", "tied")):
        each = 2 * len(given["x"]) * math.prod(given["W"].shape)  # of one product with W or of its size
        products = {"dense_forward": 1, "dense_backward": len(outputs) - 1, "tied_forward": 2, "tied_backward": 3}
        return int(each * products[name])  # dense_backward: dW, and dx where somebody wants it; db is no product
    return max(int(np.size(a)) for a in (*given.values(), *outputs))


def relative(path: str) -> str:
    """A file of the package by its path from the folder that the package is in; another, as it is."""
    return Path(path).relative_to(ROOT).as_posix() if Path(path).is_relative_to(ROOT) else path
