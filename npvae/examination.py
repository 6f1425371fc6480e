"""All that is asked of a loss and its gradients: of the calls themselves, then of every array; and what follows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from npvae.calls import Problem, fit, is_constant, is_steady, look_at_complex_loss, look_at_gradients, look_at_loss
from npvae.diagnosis import place
from npvae.errors import check_whole
from npvae.evidence import Evidence
from npvae.flat import Array
from npvae.probing import (
    AFFORDABLE,
    COMPLEX,
    HALF,
    KINKS,
    RICHARDSON,
    SAMPLES,
    SINGLE,
    Budget,
    Judged,
    Probes,
    directions,
    is_complex_safe,
    joined,
    judge,
    largest,
    locate,
    oracle,
    probe,
    strata,
    verdict,
)
from npvae.relations import diagnose
from npvae.reports import (
    BOTH,
    COMPLEX_STEP,
    OK,
    RICHARDSONS,
    UNDECIDED,
    WRONG,
    Diagnosis,
    Report,
    TensorCheck,
)

Progress = Callable[[int, int], None]


class Examined(NamedTuple):
    """An array: its gradient as it was given, and what the oracles say of it."""

    name: str
    gradient: Array
    misfit: Diagnosis | None
    own: float  # the tolerance of the precision in which it was handed over; 0 for float64
    probes: list[Probes]  # entries, then directions if there are any


def examine(problem: Problem, entries: int | None, seed: int = 0, progress: Progress | None = None) -> Report:
    """Ask everything, and return a Report."""
    with np.errstate(all="ignore"):  # a loss that overflows says so by what it returns
        return _examine(problem, entries, seed, progress or (lambda done, total: None))


def _examine(problem: Problem, entries: int | None, seed: int, progress: Progress) -> Report:
    rng, budget = np.random.default_rng(seed), Budget(perf_counter())
    if entries is not None:
        check_whole("entries", entries)
    here = look_at_loss(problem)
    real = problem.real
    if here is None:
        return unexamined(problem)
    exact = look_at_complex_loss(problem, here)
    looked = look_at_gradients(problem, here, rng)
    if looked is None:
        return unexamined(problem)
    raw, history = looked
    fitted = {name: fit(raw.get(name), x) for name, x in real.params.items()}

    def ask(name: str, where: Array) -> Probes:
        before = perf_counter()
        probes = probe(real, exact, name, fitted[name][0], where, here)
        budget.took(perf_counter() - before, len(where))
        return probes

    sizes = {name: x.size for name, x in real.params.items()}
    along, sample = look_along(sizes, entries, ask, budget, rng)
    examined = []
    for done, name in enumerate(sizes):
        probes = [ask(name, strata(sizes[name], sample, rng))]
        probes += [along[name]] if name in along else []
        own = {"float32": SINGLE, "float16": HALF}.get(np.asarray(raw.get(name)).dtype.name, 0.0)
        examined.append(Examined(name, *fitted[name], own, probes))
        progress(done + 1, len(sizes))
    if not is_steady(problem, here, "in the end"):
        return unexamined(problem)
    return conclude(problem, examined, history)


def look_along(
    sizes: Mapping[str, int],
    entries: int | None,
    ask: Callable[[str, Array], Probes],
    budget: Budget,
    rng: np.random.Generator,
) -> tuple[dict[str, Probes], int]:
    """How many entries of every array to check; and, of the arrays with more, the probes along random directions.

    entries: as many as were asked for; None: all of a small model, or what the budget allows.
    """
    if entries is not None:
        return {name: ask(name, directions(size, rng)) for name, size in sizes.items() if size > entries}, entries
    count = sum(sizes.values())
    if count <= AFFORDABLE:
        ask(max(sizes, key=lambda name: sizes[name]), np.arange(min(count, 1)))  # to see how long it takes
        if budget.allows(count, perf_counter()):
            return {}, AFFORDABLE
    ways = {name: directions(size, rng) for name, size in sizes.items() if size > SAMPLES[-1]}
    found = {name: ask(name, v[:1]) for name, v in ways.items()}
    if budget.allows(len(ways) + len(sizes), perf_counter()):  # the others, and still an entry of every array
        found = {name: joined(found[name], ask(name, v[1:])) for name, v in ways.items()}
    fits = (n for n in SAMPLES if budget.allows(sum(min(n, size) for size in sizes.values()), perf_counter()))
    return found, next(fits, SAMPLES[-1])


# ── What follows ─────────────────────────────────────────────────────────────────────────────────────────────────────


def conclude(problem: Problem, examined: list[Examined], history: Mapping[str, Any]) -> Report:
    """Verdicts, diagnoses, and what they say together."""
    judged, trusted = {}, {}
    rough = [p.central[np.isfinite(p.central)] for one in examined for p in one.probes]
    overall = max(map(largest, rough), default=0.0)
    for one in examined:
        trusted[one.name] = all(map(is_complex_safe, one.probes))
        judged[one.name] = [judge(p, trusted[one.name], overall, one.own) for p in one.probes]
    unsafe = [one.name for one in examined if not trusted[one.name] and one.probes[0].exact is not None]
    if unsafe:
        told = problem.other or "the complex step, which the differences contradict (is the loss complex-safe?)"
        kind, of = ("losses-differ", ":") if problem.other else ("not-complex-safe", ", is not believed of")
        problem.find(kind, f"{told}{of} {', '.join(unsafe)}", fatal=bool(problem.other))
    every = [group for groups in judged.values() for group in groups]
    share, crossed = (
        sum(np.count_nonzero(mask) for mask in masks) / max(sum(mask.size for mask in masks), 1)
        for masks in ([group.kinks for group in every], [group.crossed for group in every])
    )
    if share > 0:
        text = f"{100 * share:.3g} % of what was to be checked was left out: the loss is bent there (ReLU, a clamp)"
        advice = ". That is too much: move the parameters off the kinks" if share > KINKS else ""
        problem.find("kinks", text + advice, fatal=share > KINKS)
    if crossed > 0:
        text = f"{100 * crossed:.3g} % of what was checked lies on a kink of the loss (ReLU, a clamp)"
        problem.find("kinks-crossed", f"{text}: there the complex step judges alone", fatal=False)
    if not any(p.central.any() for one in examined for p in one.probes) and is_constant(problem.real):
        text = "the loss is the same wherever it was looked at: does it read the parameters that it is given?"
        problem.find("constant", f"{text} If so, it is saturated")

    checks, clues = [], {}
    for one in examined:
        groups, safe = judged[one.name], trusted[one.name]
        said = verdict(groups)
        idle = is_idle(one) and problem.real.noise == 0  # beside noise, what is 0 may be something
        said = OK if idle else said
        if one.misfit is not None and not (idle and one.misfit.kind == "missing"):
            said = WRONG
        clue, worst = gather(problem, one, groups, said, safe, history.get(one.name))
        clues[one.name] = clue
        checks.append(describe(one, groups, said, safe, worst, idle))
    diagnoses, together = diagnose(clues, problem.real.params, problem.findings)
    unsure = [check.name for check in checks if check.verdict == UNDECIDED]
    if unsure and together.kind == "right":
        together = Diagnosis("undecided", f"nothing is known to be wrong, but this is undecided: {', '.join(unsure)}")
    checks = [replace(check, diagnosis=diagnoses.get(check.name, check.diagnosis)) for check in checks]
    errors = {
        clue.name: (clue.analytic - clue.expected) / (judged[clue.name][0].scale or 1.0) for clue in clues.values()
    }
    return Report(tuple(checks), tuple(problem.findings), together, errors)


def gather(
    problem: Problem, one: Examined, groups: list[Judged], said: str, trusted: bool, again: Any
) -> tuple[Evidence, tuple[int, ...] | None]:
    """What `diagnose` needs to know of an array; and the index of its worst entry, if that is known."""
    x, entries, found = problem.real.params[one.name], one.probes[0].where, one.misfit
    expected, terms = np.full(x.size, np.nan), {}
    expected[entries] = groups[0].expected
    off = np.where(groups[0].kinks, -1.0, np.abs(one.probes[0].analytic - oracle(one.probes[0], trusted)))
    worst = int(entries[np.argmax(off)]) if len(entries) else None  # argmax takes a NaN for the largest
    bent = groups[0].wrong & ~one.probes[0].smooth & np.isfinite(one.probes[0].analytic)
    if found is None and bent.any() and np.array_equal(bent, groups[0].wrong):
        text = "where the loss is bent, it is neither slope nor between them"
        found = Diagnosis("kink", f"{text}: {places(entries[bent], x.shape)}")
    coarse = not trusted and any(finding.kind == "single" for finding in problem.findings)
    if said == WRONG and found is None and len(groups) > 1 and np.isfinite(one.gradient).all() and not coarse:
        start = worst if groups[0].wrong.any() else None
        worst, found = locate(problem.real, problem.exact if trusted else None, one.name, one.gradient, start)
        if found is None and start is None:  # the entries that are known say nothing of those that are wrong
            seen = f"at none of the {len(entries)} entries looked at: ask for more"
            found = Diagnosis("unseen", f"wrong at {places([worst], x.shape)} and elsewhere, but {seen}")
    if said == WRONG and problem.terms is not None:
        for term, values in problem.terms(one.name, entries).items():
            terms[term] = np.full(x.size, np.nan)
            terms[term][entries] = values
    readable = one.misfit is not None and one.misfit.kind != "missing" and np.isfinite(one.gradient).all()
    if found is not None and readable and verdict(groups) == WRONG:
        found = Diagnosis(found.kind, f"{found.text}; and the numbers are wrong too")
    sizes = {f"{name}.shape[{i}]": n for name, p in problem.real.params.items() for i, n in enumerate(p.shape)}
    doubt = np.zeros(x.size)
    doubt[entries] = 0.0 if trusted else np.where(np.isfinite(groups[0].expected), one.probes[0].doubt, 0.0)
    clue = Evidence(
        name=one.name,
        analytic=one.gradient,
        expected=expected.reshape(x.shape),
        wrong=said == WRONG,
        undecided=said == UNDECIDED,
        doubt=doubt.reshape(x.shape),
        coarse=coarse,
        again=None if again is None else fit(again, x)[0],
        param=x,
        terms={term: values.reshape(x.shape) for term, values in terms.items()},
        scales=problem.scales or sizes,
        guessed=not problem.scales,
        found=found,
    )
    return clue, None if worst is None else tuple(int(i) for i in np.unravel_index(worst, x.shape))


def describe(
    one: Examined, groups: list[Judged], said: str, trusted: bool, worst: tuple[int, ...] | None, idle: bool
) -> TensorCheck:
    """An array's part of the report; `diagnosis` says what there is to say of one that is not wrong."""
    probes = sum(group.kinks.size for group in groups)
    kinks, crossed = ([getattr(group, kind) for group in groups] for kind in ("kinks", "crossed"))
    left_out, acquitted = (sum(map(np.count_nonzero, masks)) for masks in (kinks, crossed))
    exact = [group.complex_error for group in groups if group.complex_error is not None]
    words = None
    if idle:
        words = Diagnosis("no-effect", "the loss does not depend on it, or its slope is 0 there")
    elif said == UNDECIDED:
        words = Diagnosis("undecided", "its slopes are lost in the rounding of the loss")
        if left_out == probes:
            words = Diagnosis("undecided", "the loss is bent wherever it was looked at")
        if not all(np.isfinite(p.value).all() for p in one.probes):
            words = Diagnosis("undecided", "the loss is not finite around it")
    elif left_out:
        words = Diagnosis("kinks", f"{left_out} of {probes} left out: the loss is bent there, {bends(one, kinks)}")
    elif acquitted:
        text = f"{acquitted} of {probes} on a kink, {bends(one, crossed)}: the complex step, which takes a side, judges"
        words = Diagnosis("kinks-crossed", text)
    alone = trusted and all(group.acquitted.all() for group in groups)  # with no doubt but rounding
    believed = BOTH if trusted and said == WRONG else COMPLEX_STEP if alone else RICHARDSONS
    return TensorCheck(
        name=one.name,
        shape=one.gradient.shape,
        entries=len(one.probes[0].where),
        directions=sum(len(p.where) for p in one.probes[1:]),
        complex_error=float(np.max(exact)) if exact else None,
        central_error=float(np.max([group.central_error for group in groups])),
        richardson_error=float(np.max([group.richardson_error for group in groups])),
        worst=worst,
        oracle=believed,
        tolerance=max(RICHARDSON if believed == RICHARDSONS else COMPLEX, one.own),
        kinks=left_out / max(probes, 1),
        verdict=said,
        diagnosis=words,
    )


def bends(one: Examined, masks: Sequence[Array]) -> str:
    """Which probes of an array, of entries and of directions, the masks hold."""
    said = [f"at {places(one.probes[0].where[masks[0]], one.gradient.shape)}"] if masks[0].any() else []
    along = sum(np.count_nonzero(mask) for mask in masks[1:])
    return " and ".join([*said, *([f"along {along} random direction{'s' if along > 1 else ''}"] if along else [])])


def places(indices: Sequence[int] | Array, shape: tuple[int, ...]) -> str:
    """The first of flat indices as they are written in code."""
    said = ", ".join(place(np.array(np.unravel_index(i, shape))) for i in indices[:4])
    return said + (f" and {len(indices) - 4} more" if len(indices) > 4 else "")


def is_idle(one: Examined) -> bool:
    """Whether neither the gradient nor any oracle knows of the array: at |x| the central difference is 0 as well."""
    if one.gradient.any() or not all(p.smooth.all() for p in one.probes):
        return False
    return not any(slopes.any() for p in one.probes for slopes in (p.central, p.value, p.exact) if slopes is not None)


def unexamined(problem: Problem) -> Report:
    """Of a loss that is not the same in every call: every array undecided."""
    nan, checks = math.nan, []
    for name, x in problem.real.params.items():
        checks.append(TensorCheck(name, x.shape, 0, 0, None, nan, nan, None, "none", nan, 0.0, UNDECIDED, None))
    _, together = diagnose({}, {}, problem.findings)
    errors = {name: np.full(x.shape, nan) for name, x in problem.real.params.items()}
    return Report(tuple(checks), tuple(problem.findings), together, errors)
