"""exp, log and their kin as arithmetic alone, so that LLVM turns a loop which calls them into vector instructions.

libm computes one number per call; these compute as many as a vector register holds. One source serves float32 and
float64, compiled or as Python on NumPy scalars. Each function goes the three steps of Tang 1989, "Table-driven
implementation of the exponential function in IEEE floating-point arithmetic", but has a polynomial instead of a table:

1. Reduction. Every a is n ln 2 + r with n whole and |r| <= ln(2)/2, so that e^a = 2^n e^r. Every x > 0 is 2^k (1 + f)
   with sqrt(1/2) <= 1 + f < sqrt(2), so that log x = k ln 2 + log(1 + f).
2. Approximation on that short interval, with leading terms that are exact and polynomials P and Q that need not be:
       e^r - 1 = r + r^2 P(r)
       log(1 + f) = 2 artanh s = 2 s + s^3 Q(s^2),   s = f / (2 + f),   and 2 s = f - s f
   The series of artanh has odd powers alone and |s| < 0.172, so that few terms of it are enough.
3. Reconstruction. 2^n is written straight into the bits of a number.

Subtracting n ln 2 from a cancels most digits, and what was rounded before would show. So ln 2 is the sum of a high part
of so few bits that its product with n is exact, and a low part with the digits that follow (Cody & Waite 1980,
"Software manual for the elementary functions", ch. 6). A compiler that may reorder sums would undo this: under FUSED it
may fuse a product with a sum and nothing else; even the sign of a zero is kept.

P and Q have the least greatest error, relative to e^r - 1 and to log(1 + f), among the polynomials of their degree:
they come from Remez' exchange in numbers of 200 bits (Muller 2016, "Elementary functions", 3rd ed., ch. 3) and were
then rounded. That error is 2^-26.2 and 2^-30.2 for float32, 2^-55.6 and 2^-59.5 for float64.

There are no branches: a condition chooses between two values that have both been computed, which vectors can do. An
argument is clamped before it is used, so that nothing overflows on the way; a NaN fails every comparison and comes
through. An ulp is the distance between neighbouring numbers at the exact result (Muller et al. 2018, "Handbook of
floating-point arithmetic", 2nd ed., sec. 2.3). The errors stated are the greatest found, rounded up, with and without
fused products: in float32 among all numbers from 2^-26 to 2^8 and each thousandth of the others, in float64 among
millions.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from npvae.ops.compiling import kernel

FUSED = frozenset(("contract",))

# What only the functions of this file call needs neither an entry from Python nor a place in the cache.
INSIDE: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
part: Any = njit(error_model="numpy", fastmath=set(FUSED), **INSIDE)

LOG2_E = 1.4426950408889634
LN2_HIGH = 0.693145751953125  # 15 bits, which leave 9 to n in float32; it needs 8 there, 11 in float64
LN2_LOW = 1.4286068203094173e-06  # ln 2 - LN2_HIGH
SQRT2_LESS_1 = 0.41421356


class Format(NamedTuple):
    """What depends on the width of a number."""

    magic: Any  # 1.5 2^p + b: adding it rounds to a whole n, and the last bits of the sum are then n + b
    lift: Any  # so many powers of 2 higher, every e^a <= 1 that is not 0 is a normal number
    unlift: Any  # 2^-lift
    lowest: Any  # e^a is 0 from here down
    highest: Any  # e^a overflows above
    largest: Any  # finite number
    tiny: Any  # a itself is the nearest to e^a - 1 and log(1 + a) below
    exp: tuple[Any, ...]  # P, the highest power first
    log: tuple[Any, ...]  # Q


def format_for(dtype: Any, p: int, b: int, lowest: float, highest: float, exp: Any, log: Any) -> Format:
    """The constants for numbers of p bits after the point and an exponent stored as e = n + b."""
    return Format(
        magic=dtype(1.5 * 2**p + b),
        lift=dtype((b + 1) // 2),
        unlift=dtype(2.0 ** -((b + 1) // 2)),
        lowest=dtype(lowest),
        highest=dtype(highest),
        largest=np.finfo(dtype).max,
        tiny=dtype(2.0 ** -(p + 1)),
        exp=tuple(dtype(c) for c in exp),
        log=tuple(dtype(c) for c in log),
    )


# fmt: off
SINGLE = format_for(
    np.float32, 23, 127, -104.0, 88.72283,
    exp=(0.0013882517, 0.0083665475, 0.0416672, 0.16666543, 0.49999997),
    log=(0.2987107, 0.39977568, 0.66666776),
)
DOUBLE = format_for(
    np.float64, 52, 1023, -746.0, 709.782712893384,
    exp=(
        2.5053775199311496e-08, 2.7626092768172244e-07, 2.75574076867299e-06, 2.480150514284773e-05,
        0.00019841269718711433, 0.0013888888931667001, 0.008333333333389733, 0.041666666666576466,
        0.16666666666666588, 0.5000000000000006,
    ),
    log=(
        0.14795630154264144, 0.15314084196441077, 0.18183562942542703, 0.22222198601146237, 0.2857142874210216,
        0.3999999999941602, 0.6666666666666734,
    ),
)
# fmt: on


@part
def format_of(a: Any) -> Any:
    """The constants for the dtype of a: the compiler sees one of the two returns."""
    if isinstance(a, np.float32):
        return SINGLE
    return DOUBLE


@part
def polynomial(x: Any, coefficients: Any) -> Any:
    """Horner's rule."""
    total = coefficients[0]
    for c in coefficients[1:]:
        total = total * x + c
    return total


# ── Bits ─────────────────────────────────────────────────────────────────────────────────────────────────────────
# From the top: a sign, e and m, of 1, 8 and p = 23 bits or 1, 11 and p = 52. The number is 2^(e - b) (1 + m / 2^p),
# with b = 127 or 1023; where e = 0 it is denormal, 2^(1 - b) m / 2^p.


@part
def power_of_two(shifted: Any) -> Any:
    """2^n from n + magic, if it is a normal number: e = n + b is moved into its place, and the rest falls off."""
    if isinstance(shifted, np.float32):
        return np.int32(np.float32(shifted).view(np.int32) << 23).view(np.float32)
    return np.int64(np.float64(shifted).view(np.int64) << 52).view(np.float64)


@part
def exponent(x: Any) -> Any:
    """The whole k for which sqrt(1/2) <= x 2^-k < sqrt(2), x normal: e and m together grow as x does."""
    if isinstance(x, np.float32):
        above = np.int32(np.float32(x).view(np.int32) - np.int32(0x3F3504F3))  # less the bits of sqrt(1/2)
        return np.float32(np.int32(above >> 23))
    return np.float64((np.float64(x).view(np.int64) - np.int64(0x3FE6A09E667F3BCD)) >> 52)


# ── Exponentials ─────────────────────────────────────────────────────────────────────────────────────────────────


@part
def reduced(a: Any, magic: Any) -> Any:
    """(n + magic, e^r - 1), where a = n ln 2 + r."""
    number = type(a)
    shifted = a * number(LOG2_E) + magic
    n = shifted - magic
    r = (a - n * number(LN2_HIGH)) - n * number(LN2_LOW)
    return shifted, r + r * r * polynomial(r, format_of(a).exp)


@kernel(FUSED)
def exp(a: Any) -> Any:
    """e^a = 2^n e^r. At most 1.1 ulp in float32, 1.1 in float64."""
    number, form = type(a), format_of(a)
    x = form.lowest if a < form.lowest else a
    shifted, rest = reduced(form.highest if x > form.highest else x, form.magic)
    n = shifted - form.magic
    shifted = n * number(0.5) + form.magic  # 2^n in two factors: a denormal e^a is rounded once, by the last one
    e = (number(1) + rest) * power_of_two(shifted) * power_of_two(n - (shifted - form.magic) + form.magic)
    return number(np.inf) if a > form.highest else e


@kernel(FUSED)
def exp_of_minus_abs(a: Any) -> Any:
    """e^-|a|, where n <= 0, so that 2^n may be 2^(n + lift) 2^-lift. At most 1.1 ulp in float32, 1.1 in float64."""
    number, form = type(a), format_of(a)
    x = -abs(a)
    shifted, rest = reduced(form.lowest if x < form.lowest else x, form.magic + form.lift)
    return (number(1) + rest) * power_of_two(shifted) * form.unlift


@part
def expm1_between(a: Any) -> Any:
    """e^a - 1 = 2^n (e^r - 1) + (2^n - 1) for -64 <= a <= highest. Halved on the way, for 2^n may overflow."""
    number, form = type(a), format_of(a)
    shifted, rest = reduced(a, form.magic - number(1))
    half = power_of_two(shifted)
    y = number(2) * (half * rest + (half - number(0.5)))
    return a if abs(a) < form.tiny else y


@kernel(FUSED)
def expm1(a: Any) -> Any:
    """e^a - 1, which does not cancel near 0. At most 1.8 ulp in float32, 2.3 in float64."""
    number, form = type(a), format_of(a)
    x = number(-64) if a < -64 else a
    y = expm1_between(form.highest if x > form.highest else x)
    return number(np.inf) if a > form.highest else y


@kernel(FUSED)
def tanh(a: Any) -> Any:
    """(e^a - e^-a) / (e^a + e^-a) = -m / (2 + m), m = e^-2a - 1. At most 2.6 ulp in float32, 2.6 in float64."""
    number = type(a)
    x = -abs(a)
    m = expm1_between(number(2) * (number(-32) if x < -32 else x))
    return np.copysign(m / (number(2) + m), a)


@kernel(FUSED)
def sigmoid(a: Any) -> Any:
    """1 / (1 + e^-a), left of zero e^a / (1 + e^a). At most 2.5 ulp in float32, 2.3 in float64."""
    one = type(a)(1)
    e = exp_of_minus_abs(a)
    return (one if a > 0 else e) / (one + e)


# ── Logarithms ───────────────────────────────────────────────────────────────────────────────────────────────────


@part
def log_of(k: Any, f: Any) -> Any:
    """log(2^k (1 + f)) = k ln 2 + f - s (f - s^2 Q(s^2))."""
    number = type(f)
    s = f / (number(2) + f)
    square = s * s
    rest = s * (f - square * polynomial(square, format_of(f).log)) - k * number(LN2_LOW)
    return k * number(LN2_HIGH) + (f - rest)


@kernel(FUSED)
def log1p(a: Any) -> Any:
    """log(1 + a) = log(x + c): x is 1 + a rounded, c what that lost. At most 1.6 ulp in float32, 1.5 in float64."""
    number, form = type(a), format_of(a)
    one = number(1)
    b = form.tiny - one if a <= -1 else a  # the least number above -1
    b = form.largest if b > form.largest else b
    x = one + b
    c = one - (x - b) if b > 1 else b - (x - one)  # exact (Dekker 1971), the larger term being subtracted first
    k = exponent(x)
    scale = power_of_two(number(2) - k + form.magic)  # 4 2^-k, because 2^-k may be denormal
    y = log_of(k, number(0.25) * ((x * scale - number(4)) + c * scale))
    y = a if abs(a) < form.tiny or a > form.largest else y
    return number(-np.inf if a == -1 else np.nan) if a <= -1 else y


@kernel(FUSED)
def softplus_of_minus_abs(a: Any) -> Any:
    """log(1 + e^-|a|), the part of softplus that bends. At most 1.9 ulp in float32, 1.8 in float64."""
    number = type(a)
    e = exp_of_minus_abs(a)
    far = e > number(SQRT2_LESS_1)  # there 1 + e = 2 (1 + (e - 1)/2)
    return log_of(number(1 if far else 0), number(0.5) * (e - number(1)) if far else e)


@kernel(FUSED)
def softplus(a: Any) -> Any:
    """log(1 + e^a) = max(a, 0) + log(1 + e^-|a|). At most 1.9 ulp in float32, 1.8 in float64."""
    tail = softplus_of_minus_abs(a)
    return a + tail if a > 0 else tail
