"""What a factor may be: a sign, a simple fraction, a size of the problem or two of them."""

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import product

NAMED = 1e-8  # relative: how near a factor must be to the number that it is called, if it is known so well
HARDLY = 0.1  # what is known no better than this has no name
HUGE = 1e300  # what exploded by more, or vanished, did so by no factor that has a name
PLAIN = 1e-6  # as near to 1, 2 or 1/2, or nearer than is known, it is likelier to be that than a quotient of sizes
CHANCE = 0.02  # a name that a number has by chance more often than this is none
SPREAD = 7.0  # sizes and their inverses are spread over the logarithms from minus this to this, or so
SMALL = 1e-4  # what is off 1 by less is better told by the difference


def name_factor(c: float, scales: Mapping[str, float], near: float = NAMED, guessed: bool = False) -> str | None:
    """A factor in words, with what it may be; None if it is none that has a name. near: relative, how well it is known.

    The number is that of the name: of two factors that are known unlike well, the same is said. guessed: the scales are
    not what somebody called the sizes of the problem. There are many, any number is a quotient of two of them or near
    one, and only a size itself or its inverse is worth a guess.

    >>> name_factor(1 / 16, {"B": 16})
    '1/16 of what it should be (1/B)'
    >>> name_factor(-1.0, {})
    'the negative of what it should be'
    >>> name_factor(5.0, {"W.shape[0]": 5, "b.shape[0]": 10}, guessed=True)
    '5 times what it should be, which may be W.shape[0]'
    """
    size, sign = abs(c), "minus " if c < 0 else ""
    if not 1 / HUGE < size < HUGE or near >= HARDLY:
        return None
    if abs(c + 1) <= near:
        return "the negative of what it should be"
    plain = min(abs(size - each) / each for each in (1, 2, 0.5)) <= max(PLAIN, near)
    tiers = [] if plain else _combinations(scales)[: 1 if guessed else None]
    likely = (tier for tier in tiers if near * len(tier) <= CHANCE * SPREAD)
    matches = ([(name, value) for name, value in tier if abs(value - size) <= near * size] for tier in likely)
    named = next(filter(None, matches), [])
    fraction = _fraction(named[0][1], NAMED) if named else _fraction(size, near)
    if fraction is None and not named:
        return None
    number = f"{sign}{named[0][1]:.6g}" if fraction is None else f"{sign}{fraction}"
    said = f"{number} {'of' if fraction is not None and size < 1 else 'times'} what it should be"
    names = " or ".join(sign + name for name, _ in named[:2])
    return said if not named else f"{said}, which may be {names}" if guessed else f"{said} ({names})"


def count_factor(c: float, near: float) -> str:
    """A factor without a name in words, in as many digits as are known: near 1, what it is off by."""
    number = f"{c:.{max(1 - math.ceil(math.log10(near)), 2)}g}"
    if abs(c - 1) < SMALL or float(number) == 1:
        number = f"1 {'+' if c > 1 else '-'} {abs(c - 1):.3g}"
    return f"{number} times what it should be"


def _fraction(size: float, near: float) -> Fraction | None:
    """The simple fraction that a number is; not 1, and none that it may be near to by chance."""
    fraction = Fraction(size).limit_denominator(9) if size >= 1 else 1 / Fraction(1 / size).limit_denominator(9)
    least = min(fraction.numerator, fraction.denominator)
    by_chance = near * max(size, 1 / size) * least**2  # about as often is a number so near to so simple a fraction
    simple = abs(fraction - size) <= near * size and fraction != 1 and by_chance <= CHANCE
    return fraction if simple else None


def _combinations(scales: Mapping[str, float]) -> list[list[tuple[str, float]]]:
    """Named sizes and their inverses; twice and half of them; products and quotients of two: simplest first."""
    plain = [(name, float(value)) for name, value in scales.items() if value not in (0, 1, 2)]
    single = [*plain, *((f"1/{name}", 1 / value) for name, value in plain)]
    doubled = [(f"2 {name}", 2 * v) for name, v in plain] + [(f"{name}/2", v / 2) for name, v in plain]
    doubled += [(f"2/{name}", 2 / v) for name, v in plain] + [(f"1/(2 {name})", 0.5 / v) for name, v in plain]
    pairs = [(m, n) for i, m in enumerate(plain) for n in plain[i:]]
    two = [(f"{m} {n}", v * w) for (m, v), (n, w) in pairs] + [
        (f"1/({m} {n})", (1 / v) * (1 / w)) for (m, v), (n, w) in pairs
    ]
    two += [(f"{m}/{n}", v / w) for (m, v), (n, w) in product(plain, plain) if v != w]
    return [single, doubled, two]
