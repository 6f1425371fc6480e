"""What a lesson finds: numbers with the tolerance they are held to, a figure, and whether the claim holds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from npvae.checkpoint import write_atomically
from npvae.mosaics import new_figure
from npvae.plots import save
from npvae.records import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CHANCE = 4.5  # standard errors that chance exceeds once in 150,000, for each number that is compared


class Number(NamedTuple):
    """One number of a claim. It holds if it lies within its bounds; without bounds it is reported as it came.

    >>> Number("largest principal angle", 3e-7, at_most=1e-5, unit="rad").holds
    True
    >>> print(Number("largest principal angle", float("nan"), at_most=1e-5).holds, Number("raw pixels", 0.94).holds)
    False None
    """

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the value is within its bounds, None where it has none; NaN is within none."""
        if self.at_most is None and self.at_least is None:
            return None
        least, most = self.at_least, self.at_most
        return bool((most is None or self.value <= most) and (least is None or self.value >= least))

    @property
    def measured(self) -> str:
        """The value with its unit."""
        return f"{self.value:.4g} {self.unit}".rstrip()

    @property
    def tolerance(self) -> str:
        """The bounds in words."""
        low, high = (None if bound is None else f"{bound:.4g}" for bound in (self.at_least, self.at_most))
        if low and high:
            return f"exactly {low}" if self.at_least == self.at_most else f"{low} to {high}"
        return f"at least {low}" if low else f"at most {high}" if high else ""

    @property
    def verdict(self) -> str:
        """The answer in a word."""
        return {True: "holds", False: "FAILS", None: "reported"}[self.holds]


class Findings(NamedTuple):
    """What the function `lesson` of a lesson returns; alt says in words what the figure shows."""

    numbers: tuple[Number, ...]
    figure: "Figure"
    alt: str


def nothing(reason: str) -> Findings:
    """What is found where the computation breaks off: no number, and why, in place of the picture."""
    figure = new_figure(8, 2)
    figure.text(0.5, 0.5, reason, ha="center", va="center", wrap=True, parse_math=False)
    return Findings((), figure, f"Nothing was measured. {reason}")


@dataclass(frozen=True)
class Outcome:
    """A lesson that was run: a table when printed."""

    name: str
    title: str
    claim: str
    quick: bool
    seconds: float
    findings: Findings

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The numbers of the claim."""
        return self.findings.numbers

    @property
    def holds(self) -> bool:
        """Whether the claim holds: every number that has a tolerance is within it, and there is one."""
        verdicts = [number.holds for number in self.numbers]
        return True in verdicts and False not in verdicts

    def __str__(self) -> str:
        rows = [("", "measured", "tolerance", "")]
        rows += [(one.name, one.measured, one.tolerance, one.verdict) for one in self.numbers]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        table = ["  ".join(f"{text:<{width}}" for text, width in zip(row, (*widths, 0), strict=True)) for row in rows]
        table = table if self.numbers else [self.findings.alt]
        end = "The claim holds." if self.holds else "The claim DOES NOT HOLD."
        return "\n".join([f"{self.name}: {self.title}", self.claim, "", *(line.rstrip() for line in table), "", end])

    def line(self) -> str:
        """The outcome in a line: as one of many."""
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return f"{self.name:<20} {verdict:<14} {self.seconds:5.1f} s  {self.title}"

    def to_dict(self) -> dict[str, Any]:
        """All of it but the figure as plain JSON values; a number that JSON lacks (NaN, inf) becomes None."""
        numbers = [
            {
                "name": one.name,
                "value": one.value,
                "unit": one.unit,
                "tolerance": {"at_least": one.at_least, "at_most": one.at_most},
                "verdict": one.verdict,
            }
            for one in self.numbers
        ]
        return plain({
            "lesson": self.name,
            "title": self.title,
            "claim": self.claim,
            "quick": self.quick,
            "seconds": round(self.seconds, 2),
            "holds": self.holds,
            "numbers": numbers,
            "alt": self.findings.alt,
        })  # fmt: skip

    def save(self, folder: Path) -> list[Path]:
        """Write <name>.png and <name>.json into a folder, which is made if need be; return their paths."""
        paths = save({self.name: self.findings.figure}, folder)
        paths.append(folder / f"{self.name}.json")
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(paths[-1], text.encode())
        return paths
