"""All that is asked of a loss and its gradients: of the calls themselves, then of every array at its probes."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from npvae.diagnosis import Evidence
from npvae.errors import InputError, check_whole
from npvae.flat import Array
from npvae.probing import (
    AFFORDABLE,
    COMPLEX,
    DIRECTIONS,
    RICHARDSON,
    SAMPLE,
    SINGLE,
    Function,
    Judged,
    Probes,
    centrals,
    choose,
    is_complex_safe,
    judge,
    largest,
    locate,
    oracle,
    probe,
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
    Finding,
    Report,
    TensorCheck,
)

Values = Mapping[str, Array]
Terms = Callable[[str, Array], dict[str, Array]]  # of an array's name and flat indices (n,): each term's slopes (n,)
Progress = Callable[[int, int], None]

KINKS = 0.01  # the share of all probes that may be left out
ELSEWHERE = 1e-3  # how far, relative to an array's size, parameters are moved to see what a call leaves for the next


@dataclass
class Problem:
    """A loss, its gradients and what is known about them.

    real, exact: the loss of float64 and of complex128 copies. gradients: those of `real` as it stands, by name.
    terms: the parts of the gradient. scales: what factors may be called. other: what it means if `exact` does not
    compute the same loss; "" if they are the same code.
    """

    real: Function
    exact: Function
    gradients: Callable[[], Mapping[str, Any]]
    terms: Terms | None = None
    scales: Mapping[str, float] = field(default_factory=dict)
    other: str = ""
    findings: list[Finding] = field(default_factory=list)

    def find(self, kind: str, text: str, *, fatal: bool = True) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, text, fatal))


class Examined(NamedTuple):
    """An array: its gradient as it was given, and what the oracles say of it."""

    name: str
    gradient: Array
    single: bool  # whether it was handed over in single precision
    misfit: Diagnosis | None
    probes: list[Probes]  # entries, then directions if there are any


def examine(problem: Problem, entries: int | None, seed: int = 0, progress: Progress | None = None) -> Report:
    """Ask everything, and return a Report."""
    with np.errstate(all="ignore"):  # a loss that overflows says so by what it returns
        return _examine(problem, entries, seed, progress or (lambda done, total: None))


def _examine(problem: Problem, entries: int | None, seed: int, progress: Progress) -> Report:
    rng = np.random.default_rng(seed)
    count = sum(x.size for x in problem.real.params.values())
    if entries is None:
        entries = max(count, 1) if count <= AFFORDABLE else SAMPLE
    check_whole("entries", entries)
    here = look_at_loss(problem)
    real = problem.real
    exact = look_at_complex_loss(problem, here) if here is not None else None
    raw, history = look_at_gradients(problem, rng)
    if here is None:
        return unexamined(problem)

    chosen = {name: choose(x.shape, entries, DIRECTIONS, rng) for name, x in real.params.items()}
    rough = {name: [centrals(real, name, where) for where in both] for name, both in chosen.items()}
    overall = [max(largest(r[kind][np.isfinite(r[kind])]) for r in rough.values()) for kind in (0, 1)]
    examined = []
    for done, (name, x) in enumerate(real.params.items()):
        gradient, misfit = fit(raw.get(name), x)
        probes = [
            probe(real, exact, name, gradient, where, central, here)
            for where, central in zip(chosen[name], rough[name], strict=True)
            if len(where) or not x.size
        ]
        single = np.asarray(raw.get(name)).dtype in (np.float32, np.float16)
        examined.append(Examined(name, gradient, single, misfit, probes))
        progress(done + 1, len(real.params))
    return conclude(problem, examined, overall, history)


# ── The calls ────────────────────────────────────────────────────────────────────────────────────────────────────────


def look_at_loss(problem: Problem) -> float | None:
    """The loss where nothing is moved; None if two calls differ, so that no difference means anything."""
    first, second = as_number(problem.real.loss()), as_number(problem.real.loss())
    if math.isfinite(first - second) and first != second:
        problem.find(
            "loss-random",
            f"the loss is not deterministic, two calls give {first!r} and {second!r}: draw the noise once and pass it "
            "in, or make the generator anew from a seed in every call",
        )
        return None
    if not math.isfinite(first):
        problem.find("not-finite", f"the loss is {first}")
    elif is_blurred(problem.real, first):
        problem.real = problem.real._replace(eps=float(np.finfo(np.float32).eps))
        problem.find("single", "the loss is computed in single precision: compute it in float64", fatal=False)
    return first


def is_blurred(real: Function, here: float) -> bool:
    """Whether the loss sees parameters a thousandth larger and not those larger by a part in a billion."""
    kept, seen = {name: x.copy() for name, x in real.params.items()}, []
    for factor in (1 + 2.0**-30, 1 + 2.0**-10):
        for name, x in real.params.items():
            x[...] = kept[name] * factor
        seen.append(as_number(real.loss()) != here)
    for name, x in real.params.items():
        x[...] = kept[name]
    return seen == [False, True]


def look_at_complex_loss(problem: Problem, here: float) -> Function | None:
    """The loss of complex numbers, if there is one and it is the same loss."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # a cast that drops the imaginary part
        try:
            value = problem.exact.loss()
        except Exception as error:  # whatever somebody's code does with a kind of number it was not written for
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            problem.find("not-complex-safe", f"the loss takes no complex numbers ({reason:.100})", fatal=False)
            return None
    if not isinstance(value, complex | np.complexfloating | np.ndarray) or np.asarray(value).dtype.kind != "c":
        problem.find("not-complex-safe", "the loss of complex numbers is a real one", fatal=False)
        return None
    off = abs(complex(value).real - here)
    if off > RICHARDSON * max(abs(here), 1.0):
        text = problem.other or "the loss of complex numbers is another one"
        problem.find("losses-differ" if problem.other else "not-complex-safe", text, fatal=bool(problem.other))
        return None
    return problem.exact


def look_at_gradients(problem: Problem, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """The gradients at the parameters, right after those elsewhere; and again, of those that a second call changes.

    What a call leaves behind for the next shows: the first is then wrong, and always the same way. If it is another
    one every time, something is drawn anew.
    """
    kept = {name: x.copy() for name, x in problem.real.params.items()}
    step = {
        name: ELSEWHERE * (np.max(np.abs(x), initial=0.0) or 1.0) * rng.standard_normal(x.shape)
        for name, x in kept.items()
    }

    def after_elsewhere() -> dict[str, Any]:
        for name, x in problem.real.params.items():
            x += step[name]
        problem.gradients()
        for name, x in problem.real.params.items():
            x[...] = kept[name]
        return snapshot(problem.gradients())

    first, second = after_elsewhere(), snapshot(problem.gradients())
    problem.findings += overlaps(problem.gradients(), problem.real.params)
    changed = [name for name in first if not same(first[name], second.get(name))]
    extra = [name for name in first if name not in kept]
    if extra:
        problem.find("extra", f"gradients returns what is no parameter: {', '.join(extra)}", fatal=False)
    if changed:
        names = ", ".join(changed)
        third, fourth = after_elsewhere(), snapshot(problem.gradients())
        if all(same(first[name], third.get(name)) for name in changed):
            problem.find("stale", f"the gradient depends on the call before: {names}")
            return first, {name: second[name] for name in changed}
        if all(_grows_evenly(*(call[name] for call in (first, second, third, fourth))) for name in changed):
            problem.find("accumulated", f"the gradient is added to that of the call before: {names}")
            return first, {name: second[name] for name in changed}
        problem.find(
            "gradient-random", f"the noise is redrawn between forward and backward: two calls differ in {names}"
        )
    return first, {}


def _grows_evenly(first: Any, second: Any, third: Any, fourth: Any) -> bool:
    """Whether two pairs of calls at the same parameters differ by the same."""
    one, other = (np.asarray(b, np.float64) - np.asarray(a, np.float64) for a, b in ((first, second), (third, fourth)))
    return bool(np.allclose(one, other, rtol=1e-6, atol=1e-9 * largest(one)))


def snapshot(gradients: Mapping[str, Any]) -> dict[str, Any]:
    """Copies: the next call may reuse the memory."""
    return {name: None if value is None else np.array(value) for name, value in gradients.items()}


def overlaps(gradients: Mapping[str, Any], params: Values) -> list[Finding]:
    """Gradients that share memory with each other or with a parameter: to change one is to change the other."""
    arrays = {f"the gradient of {name}": g for name, g in gradients.items() if isinstance(g, np.ndarray)}
    given = {f"the parameter {name}": x for name, x in params.items()}
    pairs = [
        f"{one} and {other}"
        for (one, a), (other, b) in combinations((arrays | given).items(), 2)
        if not (one in given and other in given) and np.may_share_memory(a, b) and np.shares_memory(a, b)
    ]
    return [Finding("overlap", f"memory is shared by {'; '.join(pairs)}")] if pairs else []


def fit(given: Any, x: Array) -> tuple[Array, Diagnosis | None]:
    """A gradient as float64 of x's shape; and what was wrong with what was given, if something was.

    What has another shape is summed over its first axis, transposed or reshaped if that makes it fit, so that its
    numbers can be looked at all the same.
    """
    if given is None:
        return np.zeros(x.shape), Diagnosis("missing", "gradients returns nothing for it")
    a = np.asarray(given)
    if a.dtype.kind not in "fiub":
        return np.full(x.shape, np.nan), Diagnosis("kind", f"not real numbers but {a.dtype}")
    a = a.astype(np.float64)
    if a.shape == x.shape:
        return a, None
    said = f"of shape {a.shape}, not {x.shape}"
    if a.shape == x.shape[::-1] and a.ndim == 2:
        return a.T.copy(), Diagnosis("transposed", f"{said}: the transpose")
    if a.ndim and a.shape[1:] == x.shape:
        return a.sum(axis=0), Diagnosis("shape", f"{said}: the sum over the first axis is missing")
    if a.size == x.size:
        return a.reshape(x.shape), Diagnosis("shape", said)
    return np.full(x.shape, np.nan), Diagnosis("shape", said)


def same(a: Any, b: Any) -> bool:
    """Bit for bit; NaN is the same as NaN."""
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())


def as_number(loss: Any) -> float:
    """The loss as a float, or InputError."""
    if isinstance(loss, np.ndarray) and loss.size == 1:
        loss = loss.reshape(())[()]
    if isinstance(loss, int | float | np.floating | np.integer):
        return float(loss)
    raise InputError(f"loss must return a real number, got {type(loss).__name__}: {loss!r:.60}")


# ── What follows ─────────────────────────────────────────────────────────────────────────────────────────────────────


def conclude(problem: Problem, examined: list[Examined], overall: list[float], history: Mapping[str, Any]) -> Report:
    """Verdicts, diagnoses, and what they say together."""
    judged, trusted = {}, {}
    for one in examined:
        trusted[one.name] = all(map(is_complex_safe, one.probes))
        judged[one.name] = [
            judge(p, trusted[one.name], g, SINGLE if one.single else 0.0)
            for p, g in zip(one.probes, overall, strict=False)
        ]
    unsafe = [one.name for one in examined if not trusted[one.name] and one.probes[0].exact is not None]
    if unsafe:
        told = problem.other or "the loss is not complex-safe, its complex step is not believed"
        problem.find(
            "losses-differ" if problem.other else "not-complex-safe",
            f"{told}: {', '.join(unsafe)}",
            fatal=bool(problem.other),
        )
    every = [group for groups in judged.values() for group in groups]
    share = sum(np.count_nonzero(group.kinks) for group in every) / max(sum(group.kinks.size for group in every), 1)
    if share > 0:
        text = f"{100 * share:.2g} % of what was to be checked was left out: the loss is bent there (ReLU, a clamp)"
        advice = ". That is too much: move the parameters off the kinks" if share > KINKS else ""
        problem.find("kinks", text + advice, fatal=share > KINKS)
    if all(not values.any() for one in examined for values in (p.central for p in one.probes)):
        problem.find("constant", "the loss depends on no parameter: does it read those that it is given?")

    checks, clues = [], {}
    for one in examined:
        groups, safe = judged[one.name], trusted[one.name]
        said = verdict(groups)
        idle = is_idle(one)
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
    return Report(tuple(checks), tuple(problem.findings), together, COMPLEX, errors)


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
        at = ", ".join(str([int(k) for k in np.unravel_index(i, x.shape)]) for i in entries[bent][:4])
        found = Diagnosis("kink", f"where the loss is bent, it is neither slope nor between them: {at}")
    if said == WRONG and found is None and len(groups) > 1 and np.isfinite(one.gradient).all():
        start = worst if groups[0].wrong.any() else None
        worst, found = locate(problem.real, problem.exact if trusted else None, one.name, one.gradient, start)
    if said == WRONG and problem.terms is not None:
        for term, values in problem.terms(one.name, entries).items():
            terms[term] = np.full(x.size, np.nan)
            terms[term][entries] = values
    if found is not None and one.misfit is not None and verdict(groups) == WRONG and found.kind != "missing":
        found = Diagnosis(found.kind, f"{found.text}; and the numbers are wrong too")
    sizes = {f"{name}.shape[{i}]": n for name, p in problem.real.params.items() for i, n in enumerate(p.shape)}
    clue = Evidence(
        name=one.name,
        analytic=one.gradient,
        expected=expected.reshape(x.shape),
        wrong=said == WRONG,
        again=None if again is None else np.asarray(again, np.float64),
        terms={term: values.reshape(x.shape) for term, values in terms.items()},
        scales=problem.scales or sizes,
        found=found,
    )
    return clue, None if worst is None else tuple(int(i) for i in np.unravel_index(worst, x.shape))


def describe(
    one: Examined, groups: list[Judged], said: str, trusted: bool, worst: tuple[int, ...] | None, idle: bool
) -> TensorCheck:
    """An array's part of the report; `diagnosis` says what there is to say of one that is not wrong."""
    probes = sum(group.kinks.size for group in groups)
    kinks = sum(int(np.count_nonzero(group.kinks)) for group in groups)
    exact = [group.complex_error for group in groups if group.complex_error is not None]
    words = None
    if idle:
        words = Diagnosis("no-effect", "the loss does not depend on it")
    elif said == UNDECIDED:
        words = Diagnosis("undecided", "its slopes are lost in the rounding of the loss")
        if kinks == probes:
            words = Diagnosis("undecided", "the loss is bent wherever it was looked at")
        if not all(np.isfinite(p.value).all() for p in one.probes):
            words = Diagnosis("undecided", "the loss is not finite around it")
    elif kinks:
        words = Diagnosis("kinks", f"{kinks} of {probes} left out: the loss is bent there")
    return TensorCheck(
        name=one.name,
        shape=one.gradient.shape,
        entries=len(one.probes[0].where),
        directions=sum(len(p.where) for p in one.probes[1:]),
        complex_error=float(np.max(exact)) if exact else None,
        central_error=float(np.max([group.central_error for group in groups])),
        richardson_error=float(np.max([group.richardson_error for group in groups])),
        worst=worst,
        oracle=RICHARDSONS if not trusted else BOTH if said == WRONG else COMPLEX_STEP,
        kinks=kinks / max(probes, 1),
        verdict=said,
        diagnosis=words,
    )


def is_idle(one: Examined) -> bool:
    """Whether neither the loss nor the gradient knows of the array."""
    return not one.gradient.any() and all(not p.central.any() and not p.value.any() for p in one.probes)


def unexamined(problem: Problem) -> Report:
    """Of a loss that is not deterministic: every array undecided."""
    nan, checks = math.nan, []
    for name, x in problem.real.params.items():
        checks.append(TensorCheck(name, x.shape, 0, 0, None, nan, nan, None, "none", 0.0, UNDECIDED, None))
    _, together = diagnose({}, {}, problem.findings)
    errors = {name: np.full(x.shape, nan) for name, x in problem.real.params.items()}
    return Report(tuple(checks), tuple(problem.findings), together, COMPLEX, errors)
