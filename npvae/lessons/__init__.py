"""The lecture on autoencoders and variational autoencoders, executable: a module for every claim, in its order.

Each module opens with the claim and its derivation, and has a function `lesson(quick)` that measures it; SHOWN are
the functions in which the claim can be seen. Everything is computed anew, with fixed seeds, on digits that are inside
the package.

>>> import npvae as nv
>>> outcome = nv.lessons.run("loss", quick=True)
>>> outcome.holds, outcome.numbers[0].tolerance
(True, 'at most 1e-12')
"""

import inspect
import time
import traceback
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType

from npvae.errors import check_choice
from npvae.lessons.outcome import Findings, Number, Outcome, nothing

__all__ = ["NAMES", "Findings", "Number", "Outcome", "describe", "module", "run"]

NAMES = (
    "autoencoder",
    "pca",
    "not_pca",
    "deep",
    "denoise",
    "cannot_generate",
    "pixel_gaussian",
    "marginal",
    "divergence",
    "elbo",
    "loss",
    "collapse",
    "reparameterization",
    "generate",
)


def run(name: str, quick: bool = False, out: str | PathLike[str] | None = None) -> Outcome:
    """Run a lesson and return what it found; `out` is the folder for its figure and its numbers, None for nowhere.

    quick: smaller models and fewer images, for the same claim. What cannot be measured, as no norm of NaN can, is no
    claim that holds: such an outcome has no numbers, and says why and where. InputError if there is no such lesson.
    """
    title, claim, _ = describe(name)
    start = time.perf_counter()
    try:
        findings: Findings = module(name).lesson(quick)
    except (ArithmeticError, ValueError) as error:  # a loss that diverged, a decomposition or an axis of what is NaN
        place = traceback.extract_tb(error.__traceback__)[-1]  # a mistake in the lesson would end here too
        findings = nothing(f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})")
    outcome = Outcome(name, title, claim, quick, time.perf_counter() - start, findings)
    if out is not None:
        outcome.save(Path(out))
    return outcome


def module(name: str) -> ModuleType:
    """The module of a lesson; InputError if there is no such lesson."""
    return import_module(f"npvae.lessons.{check_choice('lesson', name, NAMES)}")


def describe(name: str) -> tuple[str, str, str]:
    """A lesson's title, claim and derivation: the first, the second and the other paragraphs of its docstring.

    The derivation has formulas in TeX: between $ and $ in a line of text, between $$ and $$ on lines of their own.
    """
    title, claim, derivation = inspect.cleandoc(module(name).__doc__ or "").split("\n\n", 2)
    return title.rstrip("."), " ".join(claim.split()), derivation
