"""All killers on all bugs: who finds what, what they call it, and the exercise."""

import difflib
import zlib
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from npvae.checking import check_function
from npvae.errors import InputError, check_whole
from npvae.reports import Report
from npvae.zoo import loss_witnesses, training_witnesses
from npvae.zoo.bug import PLAIN, Bug, as_module, plain_source
from npvae.zoo.testimony import Testimony, passed
from npvae.zoo.wrong_gradients import WRONG_GRADIENTS
from npvae.zoo.wrong_losses import WRONG_LOSSES

BUGS = {bug.name: bug for bug in (*WRONG_GRADIENTS, *WRONG_LOSSES)}
CHECKS = ("elbo", "iwae", "square", "linear")  # the functions of plain.py that return something to check


def check(module: ModuleType, name: str) -> Report:
    """The gradient check of one of `CHECKS`."""
    made = getattr(module, name)()
    return check_function(made.loss, made.gradients, made.params(), terms=made.terms, sizes=made.sizes)


def gradient(module: ModuleType) -> Testimony:
    """Every gradient is the derivative of its loss: three oracles on every entry of the three models."""
    for name in CHECKS:
        report = check(module, name)
        if not report.ok:
            return Testimony("gradient", False, report.diagnosis.kind, f"{name}: {report.diagnosis.text}")
    return passed("gradient", "every gradient is the derivative of its loss")


KILLERS: dict[str, Callable[[Any], Testimony]] = {
    "gradient": gradient,
    **loss_witnesses.WITNESSES,
    **training_witnesses.WITNESSES,
}


def ask(killer: str, module: ModuleType) -> Testimony:
    """What a killer says of a module. Code that raises an exception is found out by it."""
    with np.errstate(all="ignore"):  # wrong code divides by 0 as it likes
        try:
            return KILLERS[killer](module)
        except Exception as error:
            return Testimony(killer, False, "raises", f"raises {type(error).__name__}: {error}")


class Case(NamedTuple):
    """A bug and what all killers say of it, in the order of KILLERS."""

    bug: Bug
    testimonies: tuple[Testimony, ...]

    @property
    def found(self) -> tuple[Testimony, ...]:
        """What was said against it."""
        return tuple(testimony for testimony in self.testimonies if not testimony.ok)

    @property
    def killed(self) -> bool:
        """Whether the killer that is to find it does."""
        return self.bug.killer in {testimony.killer for testimony in self.found}

    @property
    def diagnosis(self) -> str:
        """What a user reads first: the words of the first killer that speaks against it."""
        return self.found[0].text if self.found else ""

    @property
    def named(self) -> bool:
        """Whether those words call it what it is."""
        return bool(self.found) and self.found[0].kind == self.bug.kind


@cache
def case(name: str) -> Case:
    """Run all killers on the bug called `name`."""
    bug = BUGS[name]
    return Case(bug, tuple(ask(killer, as_module(bug.source(), name)) for killer in KILLERS))


class Survey(NamedTuple):
    """All bugs, and what is said of the code without one; a table when printed."""

    correct: tuple[Testimony, ...]
    cases: tuple[Case, ...]

    @property
    def ok(self) -> bool:
        """Whether every bug is killed and the correct code left alone."""
        return all(case.killed for case in self.cases) and all(testimony.ok for testimony in self.correct)

    def __str__(self) -> str:
        rows = [("bug", "killed by", "named", "diagnosis")]
        for one in self.cases:
            killers = ", ".join(testimony.killer for testimony in one.found) if one.killed else "SURVIVES"
            rows.append((one.bug.name, killers, "yes" if one.named else "no", one.diagnosis))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*(f"{row[i]:<{widths[i]}}" for i in range(3)), row[3]]).rstrip() for row in rows]
        accused = [f"correct code accused by {said.killer}: {said.text}" for said in self.correct if not said.ok]
        return "\n".join([*lines, *(accused or ["correct code: nothing found, as it should be"]), self.totals()])

    def totals(self) -> str:
        """How many are killed, by whom, and named."""
        total, killed = len(self.cases), sum(one.killed for one in self.cases)
        seen = sum(one.found[:1] != () and one.found[0].killer == "gradient" for one in self.cases)
        named = sum(one.named for one in self.cases)
        return (
            f"{killed} of {total} bugs killed, {seen} by the gradient check, the others by statistics and identities "
            f"alone; {named} named correctly ({named / total:.0%})"
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "ok": self.ok,
            "bugs": len(self.cases),
            "killed": sum(one.killed for one in self.cases),
            "named": sum(one.named for one in self.cases),
            "correct": [testimony._asdict() for testimony in self.correct],
            "cases": [
                {
                    "bug": one.bug.name,
                    "story": one.bug.story,
                    "killer": one.bug.killer,
                    "kind": one.bug.kind,
                    "killed": one.killed,
                    "named": one.named,
                    "found": [testimony._asdict() for testimony in one.found],
                }
                for one in self.cases
            ],
        }


def survey() -> Survey:
    """Run all killers on the correct code and on every bug."""
    correct = as_module(plain_source(), PLAIN.stem)
    return Survey(tuple(ask(killer, correct) for killer in KILLERS), tuple(case(name) for name in BUGS))


# ── The exercise ─────────────────────────────────────────────────────────────────────────────────────────────────────

# In an order that says nothing: neighbours in the list of bugs are alike.
EXERCISES = sorted(BUGS, key=lambda name: zlib.crc32(name.encode()))

HEADER = """\
# Exercise {number} of {total}: one thing in this file is wrong, in one place or in a few that belong together. Find it.
# What is seen from outside: {symptom}.
#
#   npvae gradcheck --exercise {number} > exercise.py      this file
#   npvae gradcheck exercise.py:elbo                 its gradient against its loss; so for :iwae, :square, :linear
#   npvae gradcheck --exercise {number} --solution         the answer
#
# A gradient check that passes does not say that the loss is right, nor what happens between the steps.

"""


def exercise(number: int) -> str:
    """Exercise `number`, from 1: a file of Python with one bug in it. InputError if there are not so many."""
    bug = _chosen(number)
    return HEADER.format(number=number, total=len(EXERCISES), symptom=bug.symptom) + bug.source()


def solution(number: int) -> str:
    """What is wrong in exercise `number`: the lines, the story, and what all killers say."""
    bug = _chosen(number)
    difference = list(difflib.unified_diff(plain_source().splitlines(), bug.source().splitlines(), n=0, lineterm=""))
    lines = [line for line in difference[2:] if not line.startswith("@@")]
    said = [f"{testimony.killer}: {testimony.text}" for testimony in case(bug.name).found]
    parts = [f"Exercise {number}: {bug.name}", bug.story, "\n".join(lines), "Found by\n" + "\n".join(said)]
    module = as_module(bug.source(), bug.name)
    failing = [report for name in CHECKS if not (report := check(module, name)).ok] if bug.killer == "gradient" else []
    return "\n\n".join([*parts, *(str(report) for report in failing[:1])])


def _chosen(number: int) -> Bug:
    if check_whole("the number of an exercise", number) > len(EXERCISES):
        raise InputError(f"there are {len(EXERCISES)} exercises, numbered from 1; got {number}")
    return BUGS[EXERCISES[number - 1]]
