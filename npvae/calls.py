"""What the calls themselves show: of a loss, of the same loss for complex numbers, and of its gradients."""

import math
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import numpy as np

from npvae.errors import InputError
from npvae.flat import Array
from npvae.oracles import EPS, JITTER, POINTS, ROUNDING, Line, noise_level, value
from npvae.probing import RICHARDSON, Function, largest
from npvae.reports import Diagnosis, Finding

Values = Mapping[str, Array]
Terms = Callable[[str, Array], dict[str, Array]]  # of an array's name and flat indices (n,): each term's slopes (n,)

ELSEWHERE = 1e-3  # how far, relative to an array's size, parameters are moved to see what a call leaves for the next
BENDS = 1e-9  # relative to the same, no more is what looks like noise where ReLU bends the loss; float32's is 1e-8
ADDRESS = r" at 0x[0-9a-fA-F]+"
COARSE = 1e-11  # a loss with more noise than this, relative to what it is made of, was not computed in float64


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
    """The loss where nothing is moved; None if calls differ there, so that no difference means anything."""
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
        return first
    noise, magnitude = roughness(problem.real, first)
    if not is_steady(problem, first, "a few calls later"):
        return None
    if noise > ROUNDING * EPS * magnitude:
        problem.real = problem.real._replace(noise=noise)
    if noise > COARSE * magnitude:
        text = f"the loss has {max(math.log10(magnitude / noise), 0.0):.0f} digits that do not jump from step to step"
        why = "computed in single precision or from large numbers that cancel? Compute it in float64. Or it is steep"
        problem.find("single", f"{text}: {why}", fatal=False)
    return first


def roughness(real: Function, here: float) -> tuple[float, float]:
    """The noise of the loss, and the size of what it is made of: rounding in float64 is some EPS times that.

    The noise is measured on the way in a random direction, and not read off the steps of the loss: code in float32 may
    add a term in float64 that has none, and a loss of a billion has them in float64. Where there is more than rounding
    on one way there may be a kink, and where the loss stands still it shows nothing: then two others are tried, and the
    one in the middle is taken.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(3):
        phi = way(real, rng)
        noise, magnitude, moves = roughness_along(phi, here, JITTER)
        if ROUNDING * EPS * magnitude < noise <= BENDS * magnitude:
            # A large ReLU network is bent on every way so long, and not on one of a 64th; rounding is the same on it.
            noise = min(noise, roughness_along(phi, here, JITTER / 64)[0])
        if moves and noise <= ROUNDING * EPS * magnitude:
            return noise, magnitude
        found.append((noise, magnitude))
    return sorted(found)[1]


def roughness_along(phi: Line, here: float, length: float) -> tuple[float, float, bool]:
    """The same along one way, and whether every step moves the loss.

    The loss is made of what the parameters contribute, also where that cancels: `here`, and its slope by their size.
    Steps over which it stands still are lengthened until it moves, and steps of a second length are taken besides: a
    loss may climb by one rounding in every step, which looks smooth. What is a number of float32 at every step is off
    by as much as these are apart.
    """
    values = [0.0]
    length /= 8
    while max(values) == min(values) and length < ELSEWHERE:
        length *= 8
        values = [value(phi, i * length) for i in range(POINTS)]
    others = [value(phi, i * 1.618 * length) for i in range(POINTS)]
    slope = (max(values) - min(values)) / ((POINTS - 1) * length)
    noise, moves = max(noise_level(values), noise_level(others)), len({*values, *others}) > len(values)
    most = max(map(abs, values))
    if most and all(each == float(np.float32(each)) for each in [*values, *others]):
        noise = max(noise, float(np.spacing(np.float32(most))))
    return noise, abs(here) + slope, moves


def way(real: Function, rng: np.random.Generator) -> Line:
    """phi(t) = loss where all parameters are t times a random step further on."""
    step = somewhere(real.params, rng)

    def phi(t: float) -> float:
        with moved(real.params, step, t):
            return as_number(real.loss())

    return phi


def is_constant(real: Function) -> bool:
    """Whether the loss is the same wherever the parameters are, and not only as far as a step of the oracles leads.

    A coarse loss (float16, two decimals) and a large one stand still over those, though they depend on all.
    """
    phi = way(real, np.random.default_rng(0))
    return value(phi, 0.0) == value(phi, 1.0) == value(phi, -1.0)


def somewhere(params: Values, rng: np.random.Generator) -> dict[str, Array]:
    """A random step for every array, as large as the array's largest entry."""
    return {name: (np.max(np.abs(x), initial=0.0) or 1.0) * rng.standard_normal(x.shape) for name, x in params.items()}


@contextmanager
def moved(params: Values, step: Values, t: float) -> Iterator[None]:
    """Meanwhile, the parameters are t times the step further on."""
    kept = {name: x.copy() for name, x in params.items()}
    for name, x in params.items():
        x += t * step[name]
    try:
        yield
    finally:
        for name, x in params.items():
            x[...] = kept[name]


def look_at_complex_loss(problem: Problem, here: float) -> Function | None:
    """The loss of complex numbers, if there is one and it is the same loss."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # a cast that drops the imaginary part
        try:
            complex_loss = problem.exact.loss()
        except Exception as error:  # whatever somebody's code does with a kind of number it was not written for
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            problem.find("not-complex-safe", f"the loss takes no complex numbers ({reason:.100})", fatal=False)
            return None
    array = np.asarray(complex_loss)
    if not isinstance(complex_loss, complex | np.complexfloating | np.ndarray) or array.dtype.kind != "c":
        problem.find("not-complex-safe", "the loss of complex numbers is a real one", fatal=False)
        return None
    off = abs(complex(complex_loss).real - here)
    if off > RICHARDSON * max(abs(here), 1.0):
        text = problem.other or "the loss of complex numbers is another one"
        problem.find("losses-differ" if problem.other else "not-complex-safe", text, fatal=bool(problem.other))
        return None
    return problem.exact


def is_steady(problem: Problem, here: float, when: str) -> bool:
    """Whether the loss is still what it was `here`; if not, no difference of two losses means anything."""
    now = as_number(problem.real.loss())
    if now == here or (math.isnan(now) and math.isnan(here)):
        return True
    problem.find(
        "drift",
        f"the loss depends on how often it was called: at the same parameters it is {here!r} at first and {now!r} "
        f"{when}; keep nothing from one call for the next (a running mean, a counter, a generator)",
    )
    return False


def look_at_gradients(
    problem: Problem, here: float, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The gradients at the parameters, right after those elsewhere; and again, of those that a second call changes.

    What a call leaves behind for the next shows: the first is then wrong, and always the same way. If it is another
    one every time, something is drawn anew. None if the loss is another one after these calls.
    """
    params = problem.real.params
    step = somewhere(params, rng)

    def after_elsewhere() -> dict[str, Any]:
        # There it may be undefined; what gradients returns was looked at where it is not.
        with suppress(ValueError, ArithmeticError), moved(params, step, ELSEWHERE):
            problem.gradients()
        return snapshot(problem.gradients())

    first, second = after_elsewhere(), snapshot(problem.gradients())
    problem.findings += overlaps(problem.gradients(), params)
    if not is_steady(problem, here, "after its gradients were asked for"):
        return None
    changed = [name for name in first | second if not same(first.get(name), second.get(name))]
    extra = [name for name in first if name not in params]
    if extra:
        problem.find("extra", f"gradients returns what is no parameter: {', '.join(map(str, extra))}", fatal=False)
    if changed:
        names = ", ".join(map(str, changed))
        third, fourth = after_elsewhere(), snapshot(problem.gradients())
        if all(same(first.get(name), third.get(name)) for name in changed):
            problem.find("stale", f"the gradient depends on the call before: {names}")
            return first, {name: second.get(name) for name in changed}
        if all(_grows_evenly(*(call.get(name) for call in (first, second, third, fourth))) for name in changed):
            text = "the gradient grows by the same with every call, as if it were added to that of the call before"
            problem.find("accumulated", f"{text}: {names}")
            return first, {name: second.get(name) for name in changed}
        problem.find(
            "gradient-random", f"the noise is redrawn between forward and backward: two calls differ in {names}"
        )
    return first, {}


def _grows_evenly(first: Any, second: Any, third: Any, fourth: Any) -> bool:
    """Whether two pairs of calls at the same parameters differ by the same."""
    given = [np.asarray(call) for call in (first, second, third, fourth)]
    if any(a.dtype.kind not in "fiub" or a.shape != given[0].shape for a in given):
        return False
    a, b, c, d = (call.astype(np.float64) for call in given)
    one, other = b - a, d - c
    return bool(np.allclose(one, other, rtol=1e-6, atol=1e-9 * largest(one)))


def snapshot(gradients: Mapping[str, Any]) -> dict[str, Any]:
    """Copies: the next call may reuse the memory."""
    return {name: None if g is None else as_array(f"gradients: {name}", g) for name, g in gradients.items()}


def as_array(what: str, value: Any) -> Array:
    """A copy, or InputError for lists of different lengths."""
    try:
        return np.array(value)
    except ValueError:
        raise InputError(f"{what} must be an array, got a {type(value).__name__} of parts that do not fit") from None


def overlaps(gradients: Mapping[str, Any], params: Values) -> list[Finding]:
    """Gradients that share memory with each other or with a parameter: to change one is to change the other."""
    arrays = {f"the gradient of {name}": g for name, g in gradients.items() if isinstance(g, np.ndarray)}
    given = {f"the parameter {name}": x for name, x in params.items()}
    return returned_views([*shared(arrays), *shared(arrays, given)])


def returned_views(pairs: Collection[str]) -> list[Finding]:
    """What is to be said of pairs of `shared`, if there are any, one of each being a gradient."""
    return [Finding("overlap", f"memory is shared by {'; '.join(pairs)}: return copies")] if pairs else []


def shared(arrays: Values, others: Values | None = None) -> list[str]:
    """Which of some arrays, or of them and others, lie in the same memory, as pairs in words."""
    pairs = combinations(arrays.items(), 2) if others is None else product(arrays.items(), others.items())
    return [
        f"{one} and {other}" for (one, a), (other, b) in pairs if np.may_share_memory(a, b) and np.shares_memory(a, b)
    ]


def fit(given: Any, x: Array) -> tuple[Array, Diagnosis | None]:
    """A gradient as float64 of x's shape; and what was wrong with what was given, if something was.

    What has another shape is summed over its first axis, transposed or reshaped if that makes it fit, so that its
    numbers can be looked at all the same.
    """
    if given is None:
        return np.zeros(x.shape), Diagnosis("missing", "no gradient is returned for it")
    a = np.asarray(given)
    if a.dtype.kind not in "fiub":
        return np.full(x.shape, np.nan), Diagnosis("kind", f"not real numbers but {a.dtype}")
    a = a.astype(np.float64)
    if a.shape == x.shape:
        return a, None
    said = f"of shape {a.shape}, not {x.shape}"
    if a.shape == x.shape[::-1] and a.ndim == 2:
        return a.T.copy(), Diagnosis("transposed", f"{said}: the transpose")
    if a.shape == (1, *x.shape):
        return a.reshape(x.shape), Diagnosis("shape", f"{said}: its first axis, of length 1, is one too many")
    if a.ndim and a.shape[1:] in (x.shape, x.shape[1:] if x.shape[:1] == (1,) else None):
        return a.sum(axis=0).reshape(x.shape), Diagnosis("shape", f"{said}: the sum over the first axis is missing")
    if a.size == x.size:
        return a.reshape(x.shape), Diagnosis("shape", said)
    return np.full(x.shape, np.nan), Diagnosis("shape", said)


def same(a: Any, b: Any) -> bool:
    """Bit for bit; NaN is the same as NaN. Of objects what is printed is compared, but for the addresses in that."""
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.hasobject or b.dtype.hasobject:
        return re.sub(ADDRESS, "", repr(a.tolist())) == re.sub(ADDRESS, "", repr(b.tolist()))
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())


def scalar(value: Any) -> Any:
    """An array of one number as that number; whatever else as it is."""
    return value.reshape(())[()] if isinstance(value, np.ndarray) and value.size == 1 else value


def as_number(loss: Any) -> float:
    """The loss as a float, or InputError."""
    loss = scalar(loss)
    if isinstance(loss, int | float | np.floating | np.integer) and not isinstance(loss, bool):
        try:
            return float(loss)
        except OverflowError as error:
            raise InputError(f"loss must return a number that a float can hold, got {str(loss)[:20]}...") from error
    raise InputError(f"loss must return a real number, got {type(loss).__name__}: {loss!r:.60}")
