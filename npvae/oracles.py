"""Three ways to know a slope that share no mistake: complex step, central difference, Richardson's extrapolation.

All of them look at a function of one number, phi(t) = loss(x + t v), and ask for phi'(0); v is one entry of a
parameter array or a direction through all of it.

* The complex step (Squire & Trapp 1998, "Using complex variables to estimate derivatives of real functions") reads it
  off Im phi(ih)/h with h = 1e-30. No difference is taken, so nothing cancels: the error is the rounding of phi'. But
  it is right only where every operation of the loss carries an imaginary part (abs, a cast to float, `.real` do not),
  so it may acquit a gradient and never convicts one alone.
* The central difference (phi(h) - phi(-h))/2h with h = cbrt(machine epsilon) is what a reader can redo by hand, good
  for about nine digits.
* Richardson's extrapolation (Richardson 1911; Ridders 1982, "Accurate computation of F'(x) and F'(x)F''(x)") takes
  differences at h, h/2 and h/4, whose errors are a series in h^2, and removes its first two terms. It knows how far
  off it is, needs nothing but the loss as it stands, and is what convicts.

The last two are no better than the loss is: `noise` says how far it is off what it would be without rounding.

Where ReLU or a clamp bends the loss, no difference across the bend is a derivative. Such a kink is a property of the
loss alone, and is found as one: the step is halved until the differences behave as a smooth function's do; if they
never do, and the slopes to the right and to the left keep a distance that does not shrink with the step, it is a kink.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from npvae.errors import InputError

Line = Callable[[Any], Any]  # phi

STEP = 1e-30  # its square is lost beside anything, so Im phi(ih)/h is phi'(0) to the last bit
EPS = float(np.finfo(float).eps)
CENTRAL = EPS ** (1 / 3)  # h^2 from the series and eps/h from rounding are then equally large
REACH = 2.0**-7  # of Richardson's first step, so that the h^6 that is left is below 1e-12 even of a steep function
LEVELS = 16  # halvings at most: the last step, 2e-7, is where rounding (eps/h) would cost more than a kink is likely
ROUNDING = 50  # times eps |loss| is what the rounding of a loss of thousands of terms may come to in a difference
JITTER, POINTS = 2.0**-22, 9  # steps of a few float32 roundings: over eight of them nothing but noise bends a loss
STEADY = 0.2  # the jump of a kink is the same at one step and the next; that of noise doubles


class Slope(NamedTuple):
    """phi'(0) by Richardson's extrapolation.

    error: its own estimate of how far off it may be. kink: whether the loss is bent at 0 (or too near to step short
    of it); the slopes to the left and to the right are then the ones that are known.
    """

    value: float
    error: float
    kink: bool = False
    left: float = math.nan
    right: float = math.nan


def complex_step(phi: Line) -> float:
    """Im phi(ih)/h. `phi` must take and return complex numbers."""
    return float(phi(STEP * 1j).imag / STEP)


def central_difference(phi: Line, size: float) -> float:
    """(phi(h) - phi(-h))/2h with h = cbrt(eps) size; `size` is the magnitude of what is moved."""
    h = CENTRAL * size
    return float((value(phi, h) - value(phi, -h)) / (2 * h))


def richardson(phi: Line, here: float, size: float, wanted: float, noise: float = 0.0) -> Slope:
    """Extrapolate from the first three steps, each half of the one before, that agree to `wanted` and rounding.

    here: phi(0). size: the magnitude of what is moved. noise: of phi, beyond the rounding of float64. Where no three
    agree, the best three are taken with the error that they show, unless the slopes to the left and right say that
    phi has a kink. A step to where phi is not finite says nothing: shorter ones are taken.

    >>> slope = richardson(math.exp, 1.0, 1.0, 1e-10)
    >>> abs(slope.value - 1) < 1e-12, slope.kink
    (True, False)
    >>> bent = richardson(abs, 0.0, 1.0, 1e-10)
    >>> bent.kink, bent.left, bent.right
    (True, -1.0, 1.0)
    """
    size = math.ldexp(1.0, math.ceil(math.log2(size)))  # x + h is then exact more often
    h, best = REACH * size, Slope(math.nan, math.inf)
    slopes: list[float] = []  # central differences, one per step
    bends: list[float] = []  # right minus left slope: h phi'' and odd powers, or the jump of a kink
    jumps: list[float] = []
    for _ in range(LEVELS if math.isfinite(here) else 0):
        up, down = value(phi, h), value(phi, -h)
        if not math.isfinite(up - down):
            slopes, bends, jumps, best, h = [], [], [], Slope(math.nan, math.inf), h / 2
            continue
        slopes.append((up - down) / (2 * h))
        bends.append((up - here + (down - here)) / h)
        if len(slopes) >= 3:
            (a, b, c), (p, q, r) = slopes[-3:], bends[-3:]
            ab, bc = (4 * b - a) / 3, (4 * c - b) / 3  # h^2 removed
            jumps.append((8 * (2 * r - q) - (2 * q - p)) / 7)  # h and h^3 removed: 0 for a smooth phi
            blur = (EPS * (max(abs(up), abs(down)) + size * abs(c)) + noise) / h
            # The difference of the last two is the error before the last step: too large for a smooth phi, right
            # where rounding rules. A kink shows in either.
            error = max(abs(bc - ab), abs(jumps[-1])) + blur
            if error < best.error:
                best = Slope((16 * bc - ab) / 15, error)
            if error <= wanted + ROUNDING * blur:
                return Slope((16 * bc - ab) / 15, error)
        h /= 2
    if not jumps:
        return Slope(math.nan, math.nan)
    left, right = (here - down) / (2 * h), (up - here) / (2 * h)
    if is_kink(jumps, wanted + ROUNDING * blur):
        return Slope(slopes[-1], abs(jumps[-1]), True, left, right)
    return best


def is_kink(jumps: list[float], above: float) -> bool:
    """Whether right minus left slope, extrapolated to h = 0, is the same over three steps in a row, and not small.

    The last few steps are looked at, not the last three alone: a bend between two of the last steps is one to the
    steps before. A smooth function has no such steps, or it would have been extrapolated from them.
    """
    recent = jumps[-6:]
    runs = [recent[i : i + 3] for i in range(len(recent) - 2)]
    return any(min(map(abs, run)) > above and max(run) - min(run) <= STEADY * max(map(abs, run)) for run in runs)


def noise_level(values: Sequence[float]) -> float:
    """The standard deviation of what rounding adds to a function, from values of it a tiny step apart.

    Fourth differences of a smooth function are of the order of step^4, nothing; those of noise have 8!/(4!)^2 = 70
    times its variance (Hamming's difference table; Moré & Wild 2011, "Estimating computational noise"). 0 where the
    values are not finite.

    >>> values = [math.exp(1.618 * i * JITTER) for i in range(POINTS)]
    >>> noise_level(values) < 1e-15, 1e-8 < noise_level([float(np.float32(v)) for v in values]) < 1e-7
    (True, True)
    """
    fourth = np.diff(values, n=4)
    found = math.sqrt(float(np.mean(fourth**2)) / 70)
    return found if math.isfinite(found) else 0.0


def value(phi: Line, t: float) -> float:
    """phi(t); NaN if its code raises that it cannot be computed there, as math.log does where NumPy returns NaN."""
    try:
        return float(phi(t))
    except (ValueError, ArithmeticError) as error:
        # An adapter's InputError says what it was raised from; any other says that phi returns no number.
        if isinstance(error, InputError) and not isinstance(error.__cause__, ValueError | ArithmeticError):
            raise
        return math.nan
