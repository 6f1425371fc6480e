"""Where a gradient is looked at, what the oracles say there, and the verdict that follows.

A *probe* is a flat index into a parameter array, or a direction through all of it. Of an array that is small enough
every entry is one; of a larger one a stratified sample of entries, and a few random directions: a direction sees any
error of the array, be it in one entry of a million, because the analytic slope along it is <gradient, direction>.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from npvae.flat import Array
from npvae.oracles import EPS, Line, Slope, central_difference, closer, complex_step, is_residue, richardson
from npvae.reports import OK, UNDECIDED, WRONG, Diagnosis

AFFORDABLE = 2000  # entries in all parameters together that are checked one by one: some seconds for a tiny net
DIRECTIONS = 2  # otherwise, of each array; 1 if the loss is slow
SAMPLES = (16, 8, 4, 2, 1)  # and as many of its entries, the first number with which
BUDGET = 9.0  # the check is expected to take no more seconds, judged by how long the probes before took

# Tolerances. All are relative to the largest expected entry of the same array, so that a small array's error does not
# hide behind a large one's. A right formula in float64 is off by 1e-15 to 1e-12, a wrong one by 1e-3 or more: between
# them there is room for each oracle's own precision, and none hides a factor of the array. It may hide one of an entry
# that is smaller than the array's largest by as much as the tolerance.
COMPLEX = 1e-11  # the complex step has no error but rounding
SINGLE, HALF = 1e-5, 1e-2  # a gradient that is handed over as float32 or float16 has no more digits
RICHARDSON = 1e-9  # and ten times its own estimate besides, of which no more is accepted than
RESOLVED = 1e-5  # or the gradient is undecided
DOUBT = 10.0
# Of a batch of thousands, ReLU's bends lie as near as a thousandth of a parameter's size: too many to be seen as kinks,
NARROW = 1e-4  # they look smooth from farther away, with another slope. In noise nobody can look
KINKS = 0.01  # the share of all probes that may be left out
# An array whose true gradient is 0 by cancellation (a bias before something that subtracts the mean) has a gradient
# made of rounding, which is as large as eps times what cancelled. That was no larger than the gradients elsewhere, but
# for a few sums: so much, relative to the largest expected entry of all arrays, is taken for 0.
FLOOR = 64 * EPS
# A gradient that is exactly 0 has no rounding. Where a tanh is 1 it has lost eps, no more: 0 for more was forgotten.
NOTHING = EPS


class Function(NamedTuple):
    """A loss of arrays that may be moved in place: private copies of parameters, and what computes from them."""

    params: dict[str, Array]
    loss: Callable[[], Any]
    noise: float = 0.0  # how far the loss is off by more than the rounding of float64

    def line(self, name: str, where: "int | Array") -> Line:
        """phi(t) = loss at params[name] + t e_i for a flat index i, or + t v for a direction v of the array's shape."""
        x = self.params[name]
        v: Any = where.reshape(x.shape) if isinstance(where, np.ndarray) else 1.0
        part = x if isinstance(where, np.ndarray) else x.reshape(-1)[where : where + 1]
        assert np.shares_memory(part, x) or x.size == 0, "a copy would be moved in place of the parameter"
        kept = part.copy()

        def phi(t: Any) -> Any:
            part[...] = kept + t * v
            try:
                return self.loss()
            finally:
                part[...] = kept

        return phi

    def size(self, name: str, where: "int | Array") -> float:
        """The magnitude of what a probe moves: of the entry or, along a unit vector, of the whole array; at least 1."""
        moved = self._moved(name, where)
        return max(1.0, moved) if math.isfinite(moved) else 1.0

    def scale(self, name: str, where: "int | Array") -> float:
        """On what scale the loss may change there: of what is moved or, if it is 0, of the array; if that is 0 too, of
        the smallest of the others.
        """
        others = (size for other in self.params.values() if (size := largest(other.real)))
        return self._moved(name, where) or largest(self.params[name].real) or min(others, default=1.0)

    def _moved(self, name: str, where: "int | Array") -> float:
        """|x_i|, or the length of all of x."""
        x = self.params[name].real
        return float(np.linalg.norm(x) if isinstance(where, np.ndarray) else abs(x.reshape(-1)[where]))


def directions(size: int, rng: np.random.Generator) -> Array:
    """Random unit vectors (DIRECTIONS, size)."""
    v = rng.standard_normal((DIRECTIONS, size))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    return v


def strata(size: int, entries: int, rng: np.random.Generator) -> Array:
    """Flat indices (n,): all, or one from each of `entries` equal strata, the first and the last entry among them."""
    if size <= entries:
        return np.arange(size)
    edges = np.linspace(0, size, entries + 1).astype(np.int64)
    chosen = rng.integers(edges[:-1], edges[1:])
    chosen[0] = 0
    if entries > 1:
        chosen[-1] = size - 1
    return chosen


class Budget:
    """How many more probes the time allows, by how long those before took. start: when the check began."""

    def __init__(self, start: float) -> None:
        self.start, self.seconds, self.probes = start, 0.0, 0

    def took(self, seconds: float, probes: int) -> None:
        """Count some probes in."""
        self.seconds, self.probes = self.seconds + seconds, self.probes + probes

    def allows(self, probes: int, now: float) -> bool:
        """Whether so many more are expected to fit."""
        return now - self.start + probes * self.seconds / max(self.probes, 1) <= BUDGET


class Probes(NamedTuple):
    """Probes of one kind (entries or directions) in one array, and all slopes there, each of shape (n,)."""

    where: Any  # (n,) flat indices or (n, size) directions
    analytic: Array
    central: Array
    exact: Array | None  # complex step, where there is one
    slopes: tuple[Slope, ...]

    @property
    def value(self) -> Array:
        """Richardson's slopes."""
        return np.array([slope.value for slope in self.slopes])

    @property
    def doubt(self) -> Array:
        """Ten times their own estimate of error."""
        return DOUBT * np.array([slope.error for slope in self.slopes])

    @property
    def smooth(self) -> Array:
        """Where there is no kink."""
        return np.array([not slope.kink for slope in self.slopes], bool)


def joined(some: Probes, more: Probes) -> Probes:
    """Probes of the same kind in the same array, as one."""
    both = None if some.exact is None or more.exact is None else np.concatenate([some.exact, more.exact])
    where, analytic, central = (np.concatenate(pair) for pair in zip(some[:3], more[:3], strict=True))
    return Probes(where, analytic, central, both, some.slopes + more.slopes)


def along(gradient: Array, where: Any) -> Array:
    """The slopes that a gradient implies at probes: its entries, or its products with directions."""
    flat = gradient.reshape(-1)
    return flat[where] if where.ndim == 1 else np.array([v @ flat for v in where])


def probe(real: Function, exact: Function | None, name: str, gradient: Array, where: Any, here: float) -> Probes:
    """Ask all oracles. here: the loss where nothing is moved.

    Where the complex step contradicts Richardson's extrapolation, that looks closer; without one, where the gradient
    does.
    """
    lines = [(real.line(name, _one(i)), real.size(name, _one(i))) for i in where]
    central = np.array([central_difference(phi, size) for phi, size in lines])
    scale = largest(central)
    slopes = [
        richardson(phi, here, size, RICHARDSON / DOUBT * scale, real.noise, float(near))
        for (phi, size), near in zip(lines, central, strict=True)
    ]
    analytic = along(gradient, where)
    steps = None if exact is None else np.array([complex_step(exact.line(name, _one(i))) for i in where])
    if exact is not None and steps is not None:  # one that says 0 may be right where what cancels leaves rounding
        for k in np.flatnonzero((analytic == 0) & (steps != 0)):
            if is_residue(exact.line(name, _one(where[k])), steps[k], real.size(name, _one(where[k]))):
                steps[k] = 0.0
    others = analytic if steps is None else steps
    for i, (phi, size) in enumerate(lines):
        off = abs(others[i] - slopes[i].value) > RICHARDSON * scale + DOUBT * slopes[i].error
        if off and math.isfinite(others[i]) and not slopes[i].kink:
            narrow = real.scale(name, _one(where[i])) * (NARROW if real.noise == 0 else 1.0)
            slopes[i] = closer(phi, here, size, slopes[i], float(others[i]), real.noise, narrow)
    return Probes(where, analytic, central, steps, tuple(slopes))


def _one(i: Any) -> Any:
    return i if isinstance(i, np.ndarray) else int(i)


def largest(a: npt.ArrayLike) -> float:
    """max|a|, NaN if it holds one, 0 if it is empty."""
    return float(np.max(np.abs(a), initial=0.0))


class Judged(NamedTuple):
    """What follows for probes of one kind. Arrays are (n,)."""

    scale: float  # the largest expected slope; of all arrays, if this one's is not above rounding
    expected: Array  # by the oracle that is trusted; NaN at kinks and where no oracle is precise enough
    wrong: Array
    undecided: Array
    kinks: Array  # left out
    crossed: Array  # at a kink too, but acquitted by the complex step
    acquitted: Array  # by the complex step, or left out
    complex_error: float | None
    central_error: float
    richardson_error: float


def is_complex_safe(probes: Probes) -> bool:
    """Whether the complex step and Richardson's extrapolation agree wherever the loss is smooth."""
    if probes.exact is None:
        return False
    at = probes.smooth
    scale = max(largest(probes.exact[at]), largest(probes.value[at]))
    off = np.abs(probes.exact - probes.value)[at]
    return not np.any(off > RICHARDSON * scale + probes.doubt[at])  # of a NaN the verdict speaks, not this


def oracle(probes: Probes, trusted: bool) -> Array:
    """The slopes that are believed: the complex step's if it is trusted, else Richardson's, NaN at kinks."""
    return probes.exact if trusted and probes.exact is not None else np.where(probes.smooth, probes.value, np.nan)


def judge(probes: Probes, trusted: bool, overall: float, tolerance: float = 0.0) -> Judged:
    """The verdict. trusted: whether the complex step may acquit. overall: the largest slope of all arrays. tolerance:
    of the gradient's own precision, if that is less than float64's.

    Richardson's extrapolation convicts. Where it does not, a gradient is acquitted by the complex step, or by
    Richardson's if that is precise enough; else it is undecided. At a kink, which the complex step does not cross, a
    gradient that the complex step does not acquit is left out if it lies between the slopes to both sides. Where kinks
    are many, several may meet in one probe, and whoever takes a side at each leaves that range: of a layer of zeros
    before ReLU every row of the batch is bent, the gradient may be 0, and both slopes positive. There the size of the
    slopes is allowed for besides.
    """
    a, exact, value, doubt = probes.analytic, probes.exact, probes.value, probes.doubt
    kinks, believed = ~probes.smooth, oracle(probes, trusted)
    scale = largest(believed[np.isfinite(believed)])
    floor = FLOOR * overall
    acquitted = np.zeros(a.shape, bool)
    if trusted and exact is not None:
        least = np.where(a == 0, NOTHING * overall, floor)
        acquitted = (np.abs(a - exact) <= max(COMPLEX, tolerance) * scale + least) & np.isfinite(value)
    blurred = max(FLOOR, tolerance) * overall  # in few digits, what cancels to 0 leaves as much
    convicted = ~(np.abs(a - value) <= max(RICHARDSON, tolerance) * scale + blurred + doubt)
    # What is 0 as it was handed over may be taken for 0 where the loss shows no more than that beside the others.
    small = np.where((np.abs(a) <= floor) & (not trusted), RICHARDSON * overall, 0.0)
    resolved = doubt <= DOUBT * np.maximum(RESOLVED * scale, small)
    ends = np.array([(slope.left, slope.right) for slope in probes.slopes]).reshape(-1, 2)
    low, high = ends.min(axis=1, initial=math.inf), ends.max(axis=1, initial=-math.inf)
    many = np.count_nonzero(kinks) > max(KINKS * kinks.size, 1)
    spare = max(RICHARDSON, tolerance) * scale + floor + doubt + (np.abs(low) + np.abs(high) if many else 0.0)
    excused = (a >= low - spare) & (a <= high + spare)

    unknown = ~np.isfinite(value) & np.isfinite(a)
    wrong = np.where(kinks, ~acquitted & ~excused, convicted & ~unknown) | ~np.isfinite(a)
    left_out = kinks & ~acquitted & excused & ~wrong
    undecided = ~wrong & ~left_out & ~acquitted & ~(resolved & ~kinks)

    if not (wrong & resolved).any():  # of a coarse loss, what convicts has to do to explain
        resolved = resolved | (doubt <= largest(doubt[wrong & np.isfinite(doubt)]))
    shown = overall if scale <= COMPLEX * overall else scale
    seen = ~left_out
    return Judged(
        scale=shown,
        expected=np.where(seen & (resolved | trusted), believed, np.nan),
        wrong=wrong,
        undecided=undecided,
        kinks=left_out,
        crossed=kinks & acquitted & ~wrong,
        acquitted=acquitted | left_out,
        complex_error=None if exact is None else relative(a[seen] - exact[seen], shown),
        central_error=relative((a - probes.central)[seen & probes.smooth], shown),
        richardson_error=relative((a - value)[seen & probes.smooth], shown),
    )


def relative(off: Array, scale: float) -> float:
    """max|off| / scale; max|off| where scale is 0; NaN if either holds one."""
    error = largest(off)
    return error / scale if scale > 0 or math.isnan(scale) else error


def verdict(groups: list[Judged]) -> str:
    """Of an array: wrong if any probe is; undecided if any is, or if all were left out."""
    if any(group.wrong.any() for group in groups):
        return WRONG
    if any(group.undecided.any() for group in groups) or all(
        group.kinks.all() and group.kinks.size for group in groups
    ):
        return UNDECIDED
    return OK


def locate(
    real: Function, exact: Function | None, name: str, gradient: Array, start: int | None
) -> tuple[int, Diagnosis | None]:
    """The flat index of a wrong entry of an array of which a sample was checked; and, if the entry, its row or its
    column is all that is wrong, that.

    start: the index, if it is known. Else the array is halved again and again: a direction through half of it tells
    whether that half is wrong.
    """
    here, rng = float(real.loss()), np.random.default_rng(0)
    flat, index = gradient.reshape(-1), np.arange(gradient.size)

    def is_wrong(mask: Array) -> bool:
        v = np.where(mask, rng.choice([-1.0, 1.0], flat.size), 0.0)
        v /= np.linalg.norm(v) or 1.0
        if exact is not None:
            slope, doubt = complex_step(exact.line(name, v)), 0.0
        else:
            found = richardson(real.line(name, v), here, real.size(name, v), 0.0, real.noise)
            slope, doubt = found.value, DOUBT * found.error
        each = flat * v
        size = largest(each) or 1.0  # the squares of an exploded gradient are beyond what a float holds
        return bool(abs(slope - each.sum()) > RICHARDSON * size * np.linalg.norm(each / size) + doubt)

    low, high = (0, flat.size) if start is None else (start, start + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_wrong((index >= low) & (index < middle)) else (middle, high)
    where = [int(i) for i in np.unravel_index(low, gradient.shape)]
    parts = [("entry", f"wrong in one entry alone, {where}", index == low)]
    for axis, what in enumerate(("row", "column") if gradient.ndim == 2 else ()):
        inside = np.indices(gradient.shape)[axis].reshape(-1) == where[axis]
        parts.append(("part", f"wrong in {what} {where[axis]} alone", inside))
    return low, next((Diagnosis(kind, text) for kind, text, inside in parts if not is_wrong(~inside)), None)
