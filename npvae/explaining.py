"""What a pass does, op by op: recorded while it runs, so that no second description can go astray.

Forward and backward run once more, into memory of their own, on a backend that notes every call. Arrays are known by
where they lie: a view of the activations, of the parameters or of their gradients has the name that it has in these
trees.
"""

import html
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npvae.diagrams import draw
from npvae.errors import InputError
from npvae.flat import Array, Tree, carve, leaves, sizes, zeros
from npvae.mlp import ACTIVATIONS
from npvae.ops import reference
from npvae.records import plain
from npvae.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORWARD, BACKWARD = "forward", "backward"
ROOT = Path(__file__).parent.parent
NUMBERS = {number: name for name, number in ACTIVATIONS.items()}


class Operand(NamedTuple):
    """An array that an op read or wrote: its name in the workspace's trees, its shape and its norm at that time.

    gradient: the norm of the loss's derivative by it when backward was through; None where no op has one, as for x.
    final: of a derivative to which something was added later, its norm when backward was through.
    """

    name: str
    shape: tuple[int, ...]
    norm: float
    gradient: float | None = None
    final: float | None = None

    @property
    def dimensions(self) -> str:
        """The shape as it is written in tables: 64 × 784."""
        return " × ".join(map(str, self.shape)) or "a number"


class Step(NamedTuple):
    """One call of an op.

    formula: of a forward, what its docstring opens with; of a backward, the derivation above it. given: the numbers
    that it takes besides arrays, such as beta, and the name of its activation. parameters: how many numbers of theta
    it reads. source: where the op is defined in the reference; caller: the line that called it.
    """

    direction: str
    op: str
    formula: str
    given: Mapping[str, float | str]
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

    @property
    def down(self) -> list[Step]:
        """The steps of the forward pass."""
        return [step for step in self.steps if step.direction == FORWARD]

    @property
    def up(self) -> list[Step]:
        """The steps of the backward pass."""
        return [step for step in self.steps if step.direction == BACKWARD]

    def totals(self) -> str:
        """The loss, and the parameters and FLOPs of both directions, in words."""
        down, up = (sum(step.flops for step in steps) for steps in (self.down, self.up))
        counts = f"{sum(self.theta.values()):,} parameters, {down:,} FLOPs forward, {up:,} backward"
        return f"loss {self.loss:.6g}, {counts}"

    def told(self) -> Iterator[tuple[Step, list[tuple[str, ...]], str]]:
        """Each step with the cells of its rows under HEAD, and what is said below them.

        An array has a row where it is written; inputs and parameters, which no op writes, where they are first read. A
        formula stands in full the first time.
        """
        shown: set[str] = set()  # the names of ops and arrays
        for step in self.steps:
            first = [one for one in step.reads if one.name not in shown]
            rows = [_cells(one.name, one) for one in step.writes]
            rows += [_cells(f"  {one.name}", one, self.theta.get(one.name)) for one in first]
            rows[0] = (step.op, *rows[0][1:3], f"{step.flops:,}", *rows[0][4:])
            given = ", ".join(f"{name} {a if isinstance(a, str) else f'{a:g}'}" for name, a in step.given.items())
            reads = ", ".join(f"{one.name} {one.dimensions}" for one in step.reads)
            formula = "as above" if step.op in shown else step.formula
            notes = (formula, given, f"reads {reads}", f"{step.source}, called at {step.caller}")
            yield step, rows, "\n".join(filter(None, notes))
            shown |= {step.op, *(one.name for one in (*step.reads, *step.writes))}

    def __str__(self) -> str:
        told = list(self.told())
        every = [HEAD, *(row for _, rows, _ in told for row in rows)]
        widths = [max(len(row[column]) for row in every) for column in range(len(HEAD))]

        def line(row: tuple[str, ...]) -> str:
            cells = (f"{text:{side}{width}}" for side, text, width in zip(SIDES, row, widths, strict=True))
            return "  ".join(cells).rstrip()

        table = [self.title, self.totals(), "", line(HEAD)]
        for direction in (FORWARD, BACKWARD):
            table.append(f"── {direction} ".ljust(sum(widths) + 2 * len(widths) - 2, "─"))
            for _, rows, note in (one for one in told if one[0].direction == direction):
                table += [*map(line, rows), *(f"    {text}" for text in note.split("\n"))]
        return "\n".join([*table, "", LEGEND])

    def _repr_html_(self) -> str:
        """The same table for a notebook: it needs nothing else, and scrolls by itself where it is too wide."""

        def row(texts: tuple[str, ...], tag: str = "td") -> str:
            styles = (f"text-align:{'right' if side == '>' else 'left'};padding:0 0.5em" for side in SIDES)
            pairs = zip(styles, map(html.escape, texts), strict=True)
            return "<tr>" + "".join(f'<{tag} style="{style}">{text}</{tag}>' for style, text in pairs) + "</tr>"

        wide = f'colspan="{len(HEAD)}" style="text-align:left;padding:0 0.5em"'
        lines = [f"<p>{html.escape(self.title)}<br>{html.escape(self.totals())}</p>", '<div style="overflow-x:auto">',
                 f'<table style="white-space:pre;font-size:0.85em"><thead>{row(HEAD, "th")}</thead>']  # fmt: skip
        told = list(self.told())
        for direction in (FORWARD, BACKWARD):
            lines.append(f"<tbody><tr><th {wide}>{direction}</th></tr>")
            for _, rows, note in (one for one in told if one[0].direction == direction):
                said = f'<pre style="margin:0 0 0.6em 1.4em">{html.escape(note)}</pre>'
                lines += [*map(row, rows), f"<tr><td {wide}>{said}</td></tr>"]
            lines.append("</tbody>")
        return "\n".join([*lines, "</table></div>", f"<p>{html.escape(LEGEND)}</p>"])

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values; a number that JSON lacks (NaN, inf) is None."""
        return plain(vars(self))

    def figure(self) -> "Figure":
        """The pass as a picture: boxes for images and activations, arrows for ops, down at the left and up at the
        right, their width by FLOPs; below, the two layouts, every leaf as long as it has numbers.
        """
        return draw(self)


HEAD = ("op", "array", "shape", "FLOPs", "parameters", "norm", "norm of gradient")
SIDES = "<<<>>>>"
LEGEND = """\
Set in: what is read and no op has written. d: the loss's derivative by what follows. a → b: the norm is a when the op
has written, b when the shares are added. dropped: a derivative that nobody uses. A norm is the root of the sum of
squares. FLOPs: a product counts 2 for each multiplication with its addition, and of a layer the products alone are
counted; any other op counts 1 for each number of its largest array, which is how much there is to do, not how long an
exponential takes. Formulas and lines are those of the reference, whose numbers every backend has to give."""


def explain(ws: Workspace) -> Explanation:
    """The last forward of `ws`, and its backward, op by op: formula, shapes, parameters, FLOPs, norms, source.

    The pass is made again on the same parameters, batch and noise, in memory of its own: `ws` is left as it is. What
    is printed ends with how norms and FLOPs are counted. Of complex numbers all is said of the real parts, the others
    being a complex step's. Raises InputError before the first forward.

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

    def fresh(layout: Tree) -> Tree:
        narrow, wider = sizes(layout)
        return carve(layout, zeros(narrow, ws.dtype), zeros(wider, reference.wide(ws.dtype)))

    model: Any = ws.model
    count = len(ws.inputs.x)
    acts, dacts, scratch = map(fresh, (*[model.acts(count, ws.samples)] * 2, model.scratch(ws.ops, count, ws.samples)))
    grads = fresh(model.params())
    recorder = Recorder(ws, acts, grads, dacts, scratch)
    loss = model.forward(recorder, ws.params, ws.inputs, acts)
    model.backward(recorder, ws.params, ws.inputs, acts, grads, dacts, scratch)

    seen = {one.name for step in recorder.steps for one in (*step.reads, *step.writes)}
    ended = {f"d {name}": norm(view) for tree in (grads, dacts) for name, view in leaves(tree) if f"d {name}" in seen}

    def end(one: Operand) -> Operand:
        final = ended.get(one.name)
        same = final == one.norm or math.isnan(one.norm)
        return one._replace(gradient=ended.get(f"d {one.name}"), final=None if same else final)

    steps = tuple(
        step._replace(reads=tuple(map(end, step.reads)), writes=tuple(map(end, step.writes))) for step in recorder.steps
    )
    drawn = "" if ws.inputs.eps is None else f", {ws.samples} sample{'s' * (ws.samples > 1)} each"
    title = f"{ws.model!r}: {count} image{'s' * (count > 1)}{drawn}, {ws.backend}, {ws.dtype}"
    layouts = ({name: view.size for name, view in leaves(tree)} for tree in (ws.params, acts))
    return Explanation(title, float(np.real(loss)), steps, *layouts)


class Recorder:
    """A backend that notes every forward and backward that is called on it."""

    def __init__(self, ws: Workspace, acts: Tree, grads: Tree, dacts: Tree, scratch: Tree) -> None:
        self._ops = ws.ops
        self.steps: list[Step] = []
        self._parameters = {address(view) for _, view in leaves(ws.params)}
        self._names = {
            address(view): prefix + name
            for prefix, tree in (("", ws.params), ("", acts), ("d ", grads), ("d ", dacts))
            for name, view in leaves(tree)
        }
        for name in ("target", "eps", "x"):  # x last: where the target is the input, it is called x
            view = getattr(ws.inputs, name)
            if view is not None:
                self._names[address(view)] = name
        for name, view in leaves(scratch):
            if hasattr(acts, name):  # what is kept apart, to be added to the derivative by that
                self._names[address(view)] = f"share of d {self._names[address(getattr(acts, name))]}"

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._ops, name)
        return self._noting(name, function) if name.endswith((f"_{FORWARD}", f"_{BACKWARD}")) else function

    def _noting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        definition = getattr(reference, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1)
            result = function(*args, **kwargs)
            taken = inspect.signature(definition).bind(*args, **kwargs).arguments
            for room in ("out", "scratch"):
                taken.pop(room, None)
            arrays = {role: a for role, a in taken.items() if isinstance(a, np.ndarray)}
            given = {role: NUMBERS[a] if role == "act" else float(a) for role, a in taken.items() if role not in arrays}
            outputs = [one for one in (result if isinstance(result, tuple) else (result,)) if one is not None]
            self.steps.append(Step(
                direction=FORWARD if name.endswith(FORWARD) else BACKWARD,
                op=name,
                formula=formula(definition),
                given=given,
                reads=tuple(self._operand(role, a) for role, a in arrays.items()),
                writes=tuple(self._operand("loss" if np.ndim(one) == 0 else "dropped", one) for one in outputs),
                parameters=sum(a.size for a in arrays.values() if address(a) in self._parameters),
                flops=flops(name, arrays, outputs),
                source=f"{relative(definition.__code__.co_filename)}:{definition.__code__.co_firstlineno}",
                caller=f"{relative(caller.f_code.co_filename)}:{caller.f_lineno}",
            ))  # fmt: skip
            return result

        return call

    def _operand(self, role: str, a: Any) -> Operand:
        name = self._names.get(address(a), role) if isinstance(a, np.ndarray) else role
        return Operand(name, np.shape(a), norm(a))


def norm(a: Any) -> float:
    """The root of the sum of squares, in float64; of complex numbers, of their real parts."""
    return float(np.linalg.norm(np.asarray(a).real.astype(np.float64)))


def _cells(name: str, one: Operand, parameters: int | None = None) -> tuple[str, ...]:
    """The cells of an array under HEAD."""
    return (
        "",
        name,
        one.dimensions,
        "",
        "" if parameters is None else f"{parameters:,}",
        f"{one.norm:.4g}" + ("" if one.final is None else f" → {one.final:.4g}"),
        "" if one.gradient is None else f"{one.gradient:.4g}",
    )


def address(a: Array) -> int:
    """Where an array begins in memory."""
    return int(a.ctypes.data)


def formula(definition: Callable[..., Any]) -> str:
    """Of a forward, the mathematics that its docstring opens with; of a backward, the derivation above it."""
    comment = inspect.getcomments(definition) if definition.__name__.endswith(BACKWARD) else None
    if comment is not None:
        return "\n".join(line.removeprefix("#").removeprefix(" ") for line in comment.rstrip().split("\n"))
    return " ".join((inspect.getdoc(definition) or "").split("\n\n")[0].split())


def flops(name: str, arrays: Mapping[str, Array], outputs: list[Any]) -> int:
    """How many operations on numbers a call makes; see LEGEND."""
    if name.startswith(("dense", "tied")):
        each = 2 * len(arrays["x"]) * arrays["W"].size  # of one product with W or of its size
        products = {"dense_forward": 1, "dense_backward": len(outputs) - 1, "tied_forward": 2, "tied_backward": 3}
        return each * products[name]  # dense_backward: dW, and dx where somebody wants it; db is no product
    return max(int(np.size(a)) for a in (*arrays.values(), *outputs))


def relative(path: str) -> str:
    """A file of the package by its path from the folder that the package is in; another, as it is."""
    return Path(path).relative_to(ROOT).as_posix() if Path(path).is_relative_to(ROOT) else path
