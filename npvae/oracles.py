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

The last two are no better than the loss is: `noise` says how far it is off what it would be without rounding. And
three steps may be blind to what happens inside them: a wave whose period divides them all, a bump or a tanh narrower
than they are. So no slope is believed further than shorter steps agree with it, the central difference's first.

Where ReLU or a clamp bends the loss, no difference across the bend is a derivative. Such a kink is a property of the
loss alone, and is found as one: the step is halved until the differences behave as a smooth function's do; if they
never do, and the slopes to the right and to the left keep a distance that does not shrink with the step, it is a kink.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from npvae.errors import InputError

Line = Callable[[Any], Any]  # phi

STEP = 1e-30  # its square is lost beside anything, so Im phi(ih)/h is phi'(0) to the last bit
HAIR, LASTING = 2.0**-40, 1e-3  # on so short a way rounding changes, and a slope by no more than this part of it
EPS = float(np.finfo(float).eps)
CENTRAL = EPS ** (1 / 3)  # h^2 from the series and eps/h from rounding are then equally large
# Richardson's first step, so that the h^6 that is left is below 1e-12 even of a steep function. It has few bits, to be
# added to a parameter without rounding; but it is no power of 2, as a period is more likely to be.
REACH = 181 * 2.0**-15
LEVELS = 16  # steps; the last, 2e-7, is where rounding (eps/h) would cost more than a kink is likely. There are more
SHORTER = [REACH * 2.0**-k for k in range(LEVELS, LEVELS + 34, 3)]  # steps for who looks closer: 8e-8 to 1e-17
CLEAR = 1e-4  # where they lead somewhere: as long as rounding is below this part of the slope (a tanh of a million t)
ROUNDING = 50  # times eps |loss| is what the rounding of a loss of thousands of terms may come to in a difference
JITTER, POINTS = 2.0**-22, 9  # steps of a few float32 roundings: over eight of them nothing but noise bends a loss
STEADY = 0.2  # the jump of a kink is the same at one step and the next; that of noise doubles
# Steps that a kink is looked for in. One in all of them is there to stay, another may yet be stepped short of.
RECENT = 6


class Slope(NamedTuple):
    """phi'(0) by Richardson's extrapolation.

    error: its own estimate of how far off it may be. kink: whether the loss is bent at 0 (or too near to step short
    of it); the slopes to the left and to the right are then the ones that are known, and `error` is theirs. step: the
    shortest that was taken; what is narrower was not seen.
    """

    value: float
    error: float
    kink: bool = False
    left: float = math.nan
    right: float = math.nan
    step: float = math.nan


def complex_step(phi: Line) -> float:
    """Im phi(ih)/h. `phi` must take and return complex numbers."""
    return float(phi(STEP * 1j).imag / STEP)


def is_residue(phi: Line, slope: float, size: float) -> bool:
    """Whether the complex step's slope is what rounding left of terms that cancel: a hair further on it is another.

    size: the magnitude of what is moved. The step is another one too: what cancels is often a multiple of it.
    """
    again = phi(HAIR * size + STEP * 1.37j).imag / (STEP * 1.37)
    return bool(abs(again - slope) > LASTING * abs(slope))


def central_difference(phi: Line, size: float) -> float:
    """(phi(h) - phi(-h))/2h with h = cbrt(eps) size; `size` is the magnitude of what is moved."""
    h = CENTRAL * size
    return float((value(phi, h) - value(phi, -h)) / (2 * h))


class Step(NamedTuple):
    """What phi(-h), phi(0) and phi(h) say: the slopes to both sides, and how far rounding may put them off."""

    h: float
    left: float
    right: float
    blur: float

    @property
    def slope(self) -> float:
        """The central difference: phi'(0), but for h^2 and even powers."""
        return (self.left + self.right) / 2

    @property
    def bend(self) -> float:
        """What is between the sides: h phi''(0) and odd powers, or the jump of a kink."""
        return self.right - self.left


def take(phi: Line, here: float, h: float, size: float, noise: float) -> Step | None:
    """One step; None if phi is not finite there."""
    up, down = value(phi, h), value(phi, -h)
    if not math.isfinite(up - down):
        return None
    rounding = EPS * (max(abs(up), abs(down)) + size * abs(up - down) / (2 * h))
    return Step(h, (here - down) / h, (up - here) / h, (rounding + noise) / h)


def extrapolate(a: Step, b: Step, c: Step) -> tuple[float, float, float]:
    """Of steps h, h/2 and h/4: the slope, how far it moved last, and the jump, which is 0 for a smooth phi.

    What moved last is the error before the last step: too large for a smooth phi, right where rounding rules.
    """
    ab, bc = (4 * b.slope - a.slope) / 3, (4 * c.slope - b.slope) / 3  # h^2 removed
    jump = (8 * (2 * c.bend - b.bend) - (2 * b.bend - a.bend)) / 7  # h and h^3 removed
    return (16 * bc - ab) / 15, abs(bc - ab), jump  # h^2 and h^4 removed


def richardson(
    phi: Line,
    here: float,
    size: float,
    wanted: float,
    noise: float = 0.0,
    central: float | None = None,
    reach: float = REACH,
) -> Slope:
    """Extrapolate from the first three steps, each half of the one before, that agree to `wanted` and rounding.

    here: phi(0). size: the magnitude of what is moved. noise: of phi, beyond the rounding of float64. central: the
    central difference, if it is known. The three must agree with it as well, as long as it is the shorter step. Where
    no three agree, the best three are taken with the error that they and shorter steps show, unless the slopes to the
    left and right say that phi has a kink. A step to where phi is not finite says nothing: shorter ones are taken.
    reach: the first step, for what has the size 1.

    >>> slope = richardson(math.exp, 1.0, 1.0, 1e-10)
    >>> abs(slope.value - 1) < 1e-12, slope.kink
    (True, False)
    >>> bent = richardson(abs, 0.0, 1.0, 1e-10)
    >>> bent.kink, bent.left, bent.right
    (True, -1.0, 1.0)
    """
    near = central_difference(phi, size) if central is None else central
    short = CENTRAL * size
    size = math.ldexp(1.0, math.ceil(math.log2(size)))  # x + h is then exact more often
    h, best, kink = reach * size, Slope(math.nan, math.inf), False
    steps: list[Step] = []
    jumps: list[float] = []
    for level in count(1) if math.isfinite(here) else ():
        step, h = take(phi, here, h, size, noise), h / 2
        steps = [] if step is None else [*steps, step]
        if step is None and level < LEVELS:
            jumps, best = [], Slope(math.nan, math.inf)
        elif step is not None and len(steps) >= 3:
            found, moved, jump = extrapolate(*steps[-3:])
            jumps.append(jump)
            rounding = ROUNDING * step.blur
            error = max(moved, abs(jump)) + step.blur  # a kink shows in either
            if 4 * step.h > short and math.isfinite(near):
                # All that is between them but h^2 and the rounding of `near`.
                square = abs(steps[-2].slope - step.slope) * (short / step.h) ** 2
                error = max(error, abs(found - near) - square - rounding * step.h / short)
            if error <= wanted + rounding:
                return Slope(found, error, step=step.h if math.isnan(near) else min(step.h, short))
            best = best._replace(error=max(best.error, abs(best.value - found) - rounding))
            if error < best.error:
                best = Slope(found, error)
            if level == LEVELS:
                kink = is_kink(jumps, wanted + rounding)
            if level >= LEVELS:
                stays = lasts(jumps[-RECENT:], wanted + rounding)
                kink = kink or stays
                if stays or rounding > CLEAR * abs(step.slope):
                    break
        elif level >= LEVELS:
            break
    if not jumps:
        return Slope(math.nan, math.nan)
    if kink:  # what is bent besides is so by half from one step to the next
        last, (_, left, right, blur) = steps[-2:]
        error = max(abs(last.left - left), abs(last.right - right)) + blur
        return Slope(steps[-1].slope, error, True, left, right, 2 * h)
    return best._replace(step=2 * h)


def closer(phi: Line, here: float, size: float, slope: Slope, other: float, noise: float, scale: float) -> Slope:
    """`slope`, or what shorter steps lead to, if that is what somebody else says: something is inside its own.

    other: the slope of the complex step or of the gradient that is checked. Steps are shortened as long as rounding
    leaves a tenth of what is between the two to be seen. Once they show as much, extrapolation begins anew from there.
    Noise is overlooked, as what is too narrow for the steps by which it was measured looks like it; but a loss that
    then stands still says nothing, and what is found has to be the other's but for a thousandth. scale: how wide the
    narrowest may be that is to be expected there. If that cannot be seen, `slope` is not known to better than `other`.

    >>> def bump(t):
    ...     return t * math.exp(-((t * 1e8) ** 2))
    >>> far = richardson(bump, 0.0, 1.0, 1e-10)
    >>> near = closer(bump, 0.0, 1.0, far, other=1.0, noise=0.0, scale=1.0)
    >>> abs(far.value) < 1e-9, abs(near.value - 1) < 1e-6
    (True, True)
    """
    between, seen = abs(other - slope.value), slope.step
    for h in SHORTER:
        step = take(phi, here, h * size, size, 0.0)
        if step is None or ROUNDING * step.blur > between / 10:
            break
        if noise == 0:
            seen = step.h
        if abs(step.slope - slope.value) > between / 10:
            found = richardson(phi, here, size, 0.0, 0.0, math.nan, reach=h)
            if abs(found.value - other) <= between / 10 and not noise:
                return found
            if abs(found.value - other) <= between / 1000 and found.value != 0:
                return found
            break
    return slope if seen <= scale else slope._replace(error=max(slope.error, between))


def is_kink(jumps: list[float], above: float) -> bool:
    """Whether right minus left slope, extrapolated to h = 0, is the same over three steps in a row, and not small.

    The last few steps are looked at, not the last three alone: a bend between two of the last steps is one to the
    steps before. A smooth function has no such steps, or it would have been extrapolated from them.
    """
    recent = jumps[-RECENT:]
    return any(lasts(recent[i : i + 3], above) for i in range(len(recent) - 2))


def lasts(jumps: list[float], above: float) -> bool:
    """Whether right minus left slope is the same at all these steps, and not small."""
    return min(map(abs, jumps)) > above and max(jumps) - min(jumps) <= STEADY * max(map(abs, jumps))


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
