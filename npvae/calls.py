"""What the calls themselves show: of a loss, of the same loss for complex numbers, and of its gradients."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from npvae.errors import InputError
from npvae.flat import Array
from npvae.probing import RICHARDSON, Function, largest
from npvae.reports import Diagnosis, Finding

Values = Mapping[str, Array]
Terms = Callable[[str, Array], dict[str, Array]]  # of an array's name and flat indices (n,): each term's slopes (n,)

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
    if a.ndim and a.shape[1:] in (x.shape, x.shape[1:] if x.shape[:1] == (1,) else None):
        return a.sum(axis=0).reshape(x.shape), Diagnosis("shape", f"{said}: the sum over the first axis is missing")
    if a.size == x.size:
        return a.reshape(x.shape), Diagnosis("shape", said)
    return np.full(x.shape, np.nan), Diagnosis("shape", said)


def same(a: Any, b: Any) -> bool:
    """Bit for bit; NaN is the same as NaN."""
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())


def scalar(value: Any) -> Any:
    """An array of one number as that number; whatever else as it is."""
    return value.reshape(())[()] if isinstance(value, np.ndarray) and value.size == 1 else value


def as_number(loss: Any) -> float:
    """The loss as a float, or InputError."""
    loss = scalar(loss)
    if isinstance(loss, int | float | np.floating | np.integer):
        return float(loss)
    raise InputError(f"loss must return a real number, got {type(loss).__name__}: {loss!r:.60}")
