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
from npvae.flat import Array, leaves
from npvae.mlp import ACTIVATIONS
from npvae.ops import reference
from npvae.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORWARD, BACKWARD = "forward", "backward"
ROOT = Path(__file__).parent.parent
NUMBERS = {number: name for name, number in ACTIVATIONS.items()}


class Operand(NamedTuple):
    """An array that an op read or wrote: its name in the workspace's trees, its shape and its norm at that time.

    gradient: the norm of the loss's derivative by it when backward was through; None where none is kept, as for x.
    """

    name: str
    shape: tuple[int, ...]
    norm: float
    gradient: float | None = None


class Step(NamedTuple):
    """One call of an op. source: where the op is defined in the reference; caller: the line that called it."""

    direction: str
    op: str
    formula: str
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

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table, a row for every array that is written; what all rows of a step share is in its first.

        op, what is written, shape, parameters, FLOPs, norm, norm of the gradient, where the op is defined and called.
        """
        cells: list[tuple[str, ...]] = []
        for step in self.steps:
            for nth, one in enumerate(step.writes):
                first = nth == 0
                cells.append((
                    step.op if first else "",
                    one.name,
                    " × ".join(map(str, one.shape)) or "a number",
                    f"{step.parameters:,}" if first and step.parameters else "",
                    f"{step.flops:,}" if first else "",
                    f"{one.norm:.4g}",
                    "" if one.gradient is None else f"{one.gradient:.4g}",
                    f"{step.source}, called at {step.caller}" if first else "",
                ))  # fmt: skip
        return cells

    def __str__(self) -> str:
        rows = [HEAD, *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
        align = [str.ljust] * 3 + [str.rjust] * 4 + [str.ljust]
        lines = [
            "  ".join(side(text, width) for side, text, width in zip(align, row, widths, strict=True)).rstrip()
            for row in rows
        ]
        table, body = [self.title, f"loss {self.loss:.6g}, {self.totals()}", "", lines[0]], iter(lines[1:])
        for direction, steps in self.parts():
            table.append(f"── {direction} " + "─" * (len(lines[0]) - len(direction) - 4))
            for step in steps:
                for nth, _ in enumerate(step.writes):
                    table.append(next(body))
                    if nth == 0:
                        table += [f"    {line}" for line in step.formula.split("\n")]
        return "\n".join(table)

    def parts(self) -> list[tuple[str, list[Step]]]:
        """The steps down, and the steps up."""
        return [(name, [step for step in self.steps if step.direction == name]) for name in (FORWARD, BACKWARD)]

    def totals(self) -> str:
        """The parameters and the FLOPs of both directions, in words."""
        down, up = (sum(step.flops for step in steps) for _, steps in self.parts())
        return f"{sum(self.theta.values()):,} parameters, {down:,} FLOPs forward, {up:,} backward"

    def _repr_html_(self) -> str:
        """The table for a notebook: self-contained."""
        cells = iter(self.rows())
        head = "".join(f"<th>{html.escape(name)}</th>" for name in HEAD)
        lines = [f"<table><caption>{html.escape(self.title)}<br>loss {self.loss:.6g}, {self.totals()}</caption>",
                 f"<thead><tr>{head}</tr></thead>"]  # fmt: skip
        for direction, steps in self.parts():
            lines.append(f'<tbody><tr><th colspan="{len(HEAD)}" style="text-align:left">{direction}</th></tr>')
            for step in steps:
                for nth, _ in enumerate(step.writes):
                    row = [html.escape(text) for text in next(cells)]
                    if nth == 0:
                        row[0] = f"<code>{row[0]}</code><pre style='margin:0'>{html.escape(step.formula)}</pre>"
                    sides = ["left"] * 3 + ["right"] * 4 + ["left"]
                    both = zip(sides, row, strict=True)
                    lines.append(
                        "<tr>" + "".join(f'<td style="text-align:{side}">{text}</td>' for side, text in both) + "</tr>"
                    )
            lines.append("</tbody>")
        return "\n".join([*lines, "</table>"])

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        steps = [
            step._asdict() | {"reads": [o._asdict() for o in step.reads], "writes": [o._asdict() for o in step.writes]}
            for step in self.steps
        ]
        return {"title": self.title, "loss": self.loss, "theta": dict(self.theta), "acts": dict(self.acts),
                "steps": steps}  # fmt: skip

    def figure(self) -> "Figure":
        """The pass as a picture: boxes for arrays, arrows for ops, down at the left and up at the right, their width by
        FLOPs; below, the two layouts, every leaf as long as it has numbers.
        """
        return draw(self)


HEAD = ("op", "writes", "shape", "parameters", "FLOPs", "norm", "norm of gradient", "source")


def explain(ws: Workspace) -> Explanation:
    """The last forward of `ws`, and its backward, op by op: formula, shapes, parameters, FLOPs, norms, source.

    A private workspace on the same parameters makes the pass again, with the same batch and noise: `ws` is left as it
    is. A norm is the root of the sum of squares; that of a gradient is by the array that was written, when backward was
    through. FLOPs: a product counts 2 for each multiplication with its addition; of any other op each number of its
    largest array counts once, which says how much there is to do, not how long an exponential takes. Raises InputError
    before the first forward.

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
    again = (x.real, None if target is x else target.real, *(() if eps is None else (eps, beta)))
    own.forward(*again)
    own.backward()  # now everything has its memory, by which it is known
    recorder = Recorder(own)
    own.ops = recorder  # type: ignore[assignment]  # it stands in for a module
    loss = float(np.real(own.forward(*again)))
    own.backward()
    gradients = {name: norm(view) for name, view in leaves(own.dacts)}
    steps = tuple(
        step._replace(writes=tuple(one._replace(gradient=gradients.get(one.name)) for one in step.writes))
        for step in recorder.steps
    )
    sizes = ({name: view.size for name, view in leaves(tree)} for tree in (own.params, own.acts))
    title = f"{ws.model!r}: {len(x)} images, {ws.samples} sample{'s' * (ws.samples > 1)} each, {ws.backend}, {ws.dtype}"
    return Explanation(title, loss, steps, *sizes)


def norm(a: Any) -> float:
    """The root of the sum of squares, in float64; of complex numbers, of their real parts."""
    return float(np.linalg.norm(np.asarray(a).real.astype(np.float64)))


class Recorder:
    """A backend that notes every forward and backward that is called on it."""

    def __init__(self, ws: Workspace) -> None:
        self._ops = ws.ops
        self.steps: list[Step] = []
        trees = (("", ws.params), ("", ws.acts), ("d ", ws.grads), ("d ", ws.dacts))
        self._parameters = {name for name, _ in leaves(ws.params)}
        known = [(prefix + name, view) for prefix, tree in trees for name, view in leaves(tree)]
        for name in ("target", "eps", "x"):  # x last: where the target is the input, it is called x
            known.append((name, getattr(ws.inputs, name)))
        self._names = {address(view): name for name, view in known if isinstance(view, np.ndarray) and view.size}

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
                formula=formula(definition, given),
                reads=tuple(self._operand(role, a) for role, a in given.items() if isinstance(a, np.ndarray)),
                writes=tuple(self._operand("loss" if np.ndim(one) == 0 else "", one) for one in outputs),
                parameters=sum(a.size for a in given.values() if self._is_parameter(a)),
                flops=flops(name, given, outputs),
                source=f"{relative(definition.__code__.co_filename)}:{definition.__code__.co_firstlineno}",
                caller=f"{relative(frame.f_code.co_filename)}:{frame.f_lineno}",
            ))  # fmt: skip
            return result

        return call

    def _operand(self, role: str, a: Any) -> Operand:
        name = self._names.get(address(a), "") if isinstance(a, np.ndarray) else ""
        return Operand(name or role or "scratch", np.shape(a), norm(a))

    def _is_parameter(self, a: Any) -> bool:
        name = self._names.get(address(a), "") if isinstance(a, np.ndarray) else ""
        return name in self._parameters


def address(a: Array) -> int:
    """Where an array begins in memory."""
    return int(a.__array_interface__["data"][0])


def formula(definition: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """Of a forward, the mathematics that its docstring opens with; of a backward, the derivation above it."""
    comment = inspect.getcomments(definition) if definition.__name__.endswith(BACKWARD) else None
    if comment is not None:
        return "\n".join(line.removeprefix("#").removeprefix(" ") for line in comment.rstrip().split("\n"))
    text = " ".join((inspect.getdoc(definition) or "").split("\n\n")[0].split())
    return text + (f" act: {NUMBERS[given['act']]}" if "act" in given else "")


def flops(name: str, given: Mapping[str, Any], outputs: list[Any]) -> int:
    """How many operations on numbers a call makes; see `explain`."""
    if name.startswith(("dense", "tied")):
        each = 2 * len(given["x"]) * math.prod(given["W"].shape)  # of one product with W or of its size
        products = {"dense_forward": 1, "dense_backward": len(outputs) - 1, "tied_forward": 2, "tied_backward": 3}
        return int(each * products[name])  # dense_backward: dW, and dx where somebody wants it; db is no product
    return max(int(np.size(a)) for a in (*given.values(), *outputs))


def relative(path: str) -> str:
    """A file of the package by its path from the folder that the package is in."""
    return Path(path).relative_to(ROOT).as_posix()
