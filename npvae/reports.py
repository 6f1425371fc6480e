"""What a gradient check found: a verdict per tensor, findings about the whole, and words; a table when printed."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from npvae.checkpoint import write_atomically
from npvae.errors import InputError, check_choice
from npvae.flat import Array
from npvae.records import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OK, WRONG, UNDECIDED = "ok", "WRONG", "undecided"  # verdicts
COMPLEX_STEP, RICHARDSONS, BOTH = "complex step", "Richardson", "both"  # what a verdict rests on
ERRORS = ("error: complex", "central", "Richardson")  # the table's columns, by oracle


@dataclass(frozen=True)
class Diagnosis:
    """What explains a gradient: `kind` for programs, `text` for readers.

    score: how far the explanation is from the gradient, relative to the largest expected entry; None where it
    rests on which tensors are wrong and not on a fit.
    """

    kind: str
    text: str
    score: float | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Finding:
    """Something about the whole check and not about one tensor; `fatal` if it alone makes the check fail."""

    kind: str
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class TensorCheck:
    """One parameter array: its analytic gradient against the oracles at what was checked of it.

    entries, directions: how many were checked. Errors are max|analytic - oracle| / max|oracle| over those (absolute
    where the oracle is 0 throughout); complex_error is None where the loss takes no complex numbers. worst: the index
    of the entry that is furthest off, None if only directions show it. oracle: what the verdict rests on. tolerance:
    how much of its error is allowed; of Richardson's, ten times its own estimate besides. kinks: the share that was
    left out because the loss is bent there. verdict: "ok", "WRONG" or "undecided".
    """

    name: str
    shape: tuple[int, ...]
    entries: int
    directions: int
    complex_error: float | None
    central_error: float
    richardson_error: float
    worst: tuple[int, ...] | None
    oracle: str
    tolerance: float
    kinks: float
    verdict: str
    diagnosis: Diagnosis | None

    @property
    def ok(self) -> bool:
        """Whether this gradient is right."""
        return self.verdict == OK

    @property
    def error(self) -> float:
        """The error against the oracle that the verdict rests on."""
        trusted = self.complex_error is not None and self.oracle != RICHARDSONS
        return self.complex_error if trusted else self.richardson_error  # type: ignore[return-value]


@dataclass(frozen=True)
class Report:
    """What a check found; printed, it is a table, with the error of each tensor against each of the three oracles.

    tensors: what was found of each. findings: what is not about one tensor. diagnosis: all of it in a sentence.
    errors: by name, (analytic - expected) / max|expected|, NaN where not checked.
    """

    tensors: tuple[TensorCheck, ...]
    findings: tuple[Finding, ...]
    diagnosis: Diagnosis
    errors: Mapping[str, Array] = field(compare=False, repr=False)

    @property
    def ok(self) -> bool:
        """Whether every tensor agrees and nothing else is wrong; a NaN does not agree."""
        return all(check.ok for check in self.tensors) and not any(finding.fatal for finding in self.findings)

    @property
    def max_error(self) -> float:
        """The largest error against the complex step, or Richardson's where that cannot be trusted."""
        return float(np.max([check.error for check in self.tensors]))  # unlike max(), it lets a NaN through

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("tensor", "shape", "checked", *ERRORS, "where", "oracle", "verdict", "in words")
        ]
        rows += [_row(check) for check in self.tensors]
        widths = [max(len(row[column]) for row in rows) for column in range(9)]
        lines = [
            "  ".join(
                [f"{row[0]:<{widths[0]}}", *(f"{row[i]:>{widths[i]}}" for i in range(1, 7))]
                + [f"{row[i]:<{widths[i]}}" for i in (7, 8)] + [row[9]]
            ).rstrip()
            for row in rows
        ]  # fmt: skip
        found = [f"{'failed' if finding.fatal else 'note'}: {finding.text}" for finding in self.findings]
        return "\n".join([*lines, *found, f"{'ok' if self.ok else 'NOT OK'}: {self.diagnosis}"])

    def to_dict(self) -> dict[str, Any]:
        """All of it but the errors, as plain JSON values; a number that JSON lacks (NaN, inf) is None."""
        tensors = [
            {name: getattr(check, name) for name in check.__dataclass_fields__ if name != "diagnosis"}
            | {"ok": check.ok, "error": check.error, "diagnosis": check.diagnosis and vars(check.diagnosis)}
            for check in self.tensors
        ]
        return plain({
            "ok": self.ok,
            "max_error": self.max_error,
            "diagnosis": vars(self.diagnosis),
            "findings": [vars(finding) for finding in self.findings],
            "tensors": tensors,
        })  # fmt: skip

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def heatmap(self, name: str, path: str | Path) -> None:
        """Draw the error of the tensor called `name`, entry by entry, into the PNG file `path`.

        Colour is log10 of |analytic - expected| / max|expected|; grey was not checked. An array of more than two
        axes is drawn with the last as columns. Raises InputError for an unknown name or another kind of file, and the
        OSError that stopped the writing.
        """
        check_choice("tensor", name, self.errors)
        if Path(path).suffix != ".png":
            raise InputError(f"a heat map is written as .png, got {str(path)!r}")
        content = io.BytesIO()
        figure = _draw(name, self.errors[name])
        figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
        write_atomically(Path(path), content.getvalue())


# ── Drawing and writing ──────────────────────────────────────────────────────────────────────────────────────────────


def _row(check: TensorCheck) -> tuple[str, ...]:
    """A tensor's line in the table."""
    return (
        check.name,
        "x".join(map(str, check.shape)) or "scalar",
        f"{check.entries}" + (f"+{check.directions}" if check.directions else ""),
        *("-" if e is None else f"{e:.1e}" for e in (check.complex_error, check.central_error, check.richardson_error)),
        "" if check.worst is None else "[" + ",".join(map(str, check.worst)) + "]",
        check.oracle,
        check.verdict,
        "" if check.diagnosis is None else check.diagnosis.text,
    )


def _draw(name: str, errors: Array) -> "Figure":
    """The heat map of one tensor's errors."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    table = np.abs(errors).reshape(-1, errors.shape[-1] if errors.ndim else 1)
    with np.errstate(divide="ignore"):
        shown = np.ma.masked_invalid(np.clip(np.log10(table), -16, 1))  # log10 0 is -inf: it is drawn as 1e-16
    shown.mask = np.isnan(table)
    figure = Figure(figsize=(6, 5), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    colours = colormaps["magma"].with_extremes(bad="#bbbbbb")
    image = axes.imshow(shown, cmap=colours, vmin=-16, vmax=1, aspect="auto", interpolation="nearest")
    figure.colorbar(image, label="log10 |analytic - expected| / max|expected|")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=f"{name}: error of its gradient", xlabel="last axis", ylabel="first axis" if errors.ndim > 1 else "")
    return figure
