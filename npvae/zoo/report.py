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
CHECKS = ("elbo", "iwae", "linear", "square")  # the functions of plain.py that return something to check
DECODER = ("W4", "b4", "W5", "b5")

# Diagnoses that give the place and a short list of what it may be.
NARROWED = (
    "activation",
    "noise",
    "rows",
    "input",
    "bias",
    "unit",
    "closed-form",
    "importance-weights",
    "importance-rate",
)


def check(module: ModuleType, name: str) -> Report:
    """The gradient check of one of `CHECKS`."""
    made = getattr(module, name)()
    return check_function(made.loss, made.gradients, made.params(), terms=made.terms, sizes=made.sizes)


def failing(module: ModuleType) -> tuple[dict[str, Report], str]:
    """The reports of the checks that fail, by name; and what was raised by one that could not be made, else "".

    Some mistakes raise an exception unless a layer is square: where something does, a square model is checked too.
    """
    reports, raised = {}, ""
    for name in CHECKS:
        if name == "square" and not raised:
            continue
        try:
            reports[name] = check(module, name)
        except Exception as error:
            raised = raised or f"{name} raises {type(error).__name__}: {error}"
    return {name: report for name, report in reports.items() if not report.ok}, raised


def gradient(module: ModuleType) -> Testimony:
    """Every gradient is the derivative of its loss, at every entry of small models."""
    reports, raised = failing(module)
    if reports:
        name, report = next(iter(reports.items()))
        kind, text = only_one_bound(list(reports), report) or (report.diagnosis.kind, report.diagnosis.text)
        exact = kind not in NARROWED or report.diagnosis.score is not None  # a score is that of a fit, not of a guess
        return Testimony("gradient", False, kind, f"{name}: {text}", exact)
    return Testimony("gradient", False, "raises", raised) if raised else passed("gradient", "every gradient is right")


def only_one_bound(names: list[str], report: Report) -> tuple[str, str] | None:
    """What follows, where the gradient explains nothing by itself, from one bound being wrong and the other right."""
    if report.diagnosis.kind not in ("activation", "noise", "unknown") or report.diagnosis.score is not None:
        return None
    decoder = any(one.name in DECODER and not one.ok for one in report.tensors)
    if names == ["iwae"] and decoder:
        return "importance-weights", "the ELBO is right and here the decoder is wrong too: the importance weights are"
    if names == ["iwae"]:
        return "importance-rate", "the ELBO is right and here the encoder is wrong: log q(z|x) - log p(z), or its path"
    if names == ["elbo"] and not decoder:
        return "closed-form", "the importance-weighted bound is right and here the encoder is wrong: the closed-form KL"
    return None


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
    def named(self) -> str:
        """Whether those words call it what it is: "yes", "narrowed" to a place and a few candidates, or "no"."""
        if not self.found or self.found[0].kind != self.bug.kind or self.bug.words not in self.found[0].text:
            return "no"
        return "yes" if self.found[0].exact else "narrowed"


@cache
def case(name: str) -> Case:
    """Run all killers on the bug called `name`."""
    module = as_module(BUGS[name].source(), name)
    return Case(BUGS[name], tuple(ask(killer, module) for killer in KILLERS))


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
            rows.append((one.bug.name, killers, one.named, one.diagnosis))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*(f"{row[i]:<{widths[i]}}" for i in range(3)), row[3]]).rstrip() for row in rows]
        accused = [f"correct code accused by {said.killer}: {said.text}" for said in self.correct if not said.ok]
        return "\n".join([*lines, *(accused or ["correct code: nothing found, as it should be"]), self.totals()])

    def totals(self) -> str:
        """How many are killed, by whom, and named."""
        total, killed = len(self.cases), sum(one.killed for one in self.cases)
        seen = sum(one.found[:1] != () and one.found[0].killer == "gradient" for one in self.cases)
        named, narrowed = (sum(one.named == how for one in self.cases) for how in ("yes", "narrowed"))
        return (
            f"{killed} of {total} bugs killed, {seen} by the gradient check, the others by statistics and identities "
            f"alone; {named} named ({named / total:.0%}), {narrowed} more narrowed to a place and a few candidates"
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "ok": self.ok,
            "bugs": len(self.cases),
            "killed": sum(one.killed for one in self.cases),
            "named": sum(one.named == "yes" for one in self.cases),
            "narrowed": sum(one.named == "narrowed" for one in self.cases),
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


def survey(progress: Callable[[int, int], None] | None = None) -> Survey:
    """Run all killers on the correct code and on every bug; `progress` is told how many bugs are done, of how many."""
    correct, cases = as_module(plain_source(), PLAIN.stem), []
    for name in BUGS:
        cases.append(case(name))
        if progress is not None:
            progress(len(cases), len(BUGS))
    return Survey(tuple(ask(killer, correct) for killer in KILLERS), tuple(cases))


# ── The exercise ─────────────────────────────────────────────────────────────────────────────────────────────────────

# In an order that says nothing: neighbours in the list of bugs are alike.
EXERCISES = sorted(BUGS, key=lambda name: zlib.crc32(name.encode()))

HEADER = """\
# Exercise {number} of {total}: one thing in this file is wrong, in one place or in a few that belong together. Find it.
# What is seen from outside: {symptom}.
#
# This file:                      npvae gradcheck --exercise {number} > exercise.py
# Its gradients and its losses:   npvae gradcheck exercise.py:elbo       so for :iwae, :square, :linear
# The answer:                     npvae gradcheck --exercise {number} --solution
#
# Gradients that are right do not say that the loss is, nor what happens between the steps.

"""


def exercise(number: int) -> str:
    """Exercise `number`, from 1: a file of Python with one bug in it. InputError if there are not so many."""
    bug = _chosen(number)
    return HEADER.format(number=number, total=len(EXERCISES), symptom=bug.symptom) + bug.source().rstrip("\n")


def solution(number: int) -> str:
    """What is wrong in exercise `number`: the lines, the story, and what all killers say."""
    bug = _chosen(number)
    difference = list(difflib.unified_diff(plain_source().splitlines(), bug.source().splitlines(), n=0, lineterm=""))
    lines = [line for line in difference[2:] if not line.startswith("@@")]
    said = [f"{testimony.killer}: {testimony.text}" for testimony in case(bug.name).found]
    parts = [f"Exercise {number}: {bug.name}", bug.story, "\n".join(lines), "Found by\n" + "\n".join(said)]
    reports, _ = failing(as_module(bug.source(), bug.name))
    return "\n\n".join([*parts, *(f"The check of {name}\n{report}" for name, report in list(reports.items())[:1])])


def _chosen(number: int) -> Bug:
    if check_whole("the number of an exercise", number) > len(EXERCISES):
        raise InputError(f"there are {len(EXERCISES)} exercises, numbered from 1; got {number}")
    return BUGS[EXERCISES[number - 1]]
