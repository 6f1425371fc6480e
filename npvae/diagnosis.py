"""What explains a wrong gradient: hypotheses about one array, each a small pure function.

A hypothesis looks at the `Evidence` of a wrong gradient and returns a Diagnosis if it explains every entry that is
known, else None; `explain` takes the first that does: whether all is finite, which the others take for granted, then
the simplest. None fires on what another one explains: an exact fit of so many numbers does not happen by chance, so
how well they fit decides nothing between them. What only shows in the arrays together (which layers are wrong, which
right) is for `relations`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from npvae.evidence import FIT, Evidence, cosine, misfit
from npvae.factors import NAMED, count_factor, name_factor
from npvae.flat import Array
from npvae.probing import largest
from npvae.reports import Diagnosis

EXACT = 1e-9  # where few known numbers are looked for among many, chance would find 1e-6
ENOUGH = 8  # as many known entries, where only a sample is known
ALIKE = 0.99  # cosine: what is wrong by so little is no other formula, as far as a loss of few digits can tell
POWERS = 20  # of ten, by which no wrong formula is off
ALMOST = 0.05  # of the largest entry: a number that is smaller, or known no better, is like any other
DIGITS = 1e-4  # what agrees to so much, and is off by no rule, was computed with fewer digits


def not_finite(e: Evidence) -> Diagnosis | None:
    """It holds NaN or inf."""
    bad = np.argwhere(~np.isfinite(e.analytic))
    if not len(bad):
        return None
    return Diagnosis("not-finite", f"{len(bad)} of {e.analytic.size} entries are not finite, first {place(bad[0])}")


def forgotten(e: Evidence) -> Diagnosis | None:
    """It is 0 throughout, and the loss varies."""
    b = e.expected[e.known]
    if e.analytic.any() or not b.any():
        return None
    return Diagnosis("forgotten", "forgotten: zero throughout, though the loss depends on it", 0.0)


def unfounded(e: Evidence) -> Diagnosis | None:
    """The loss does not vary, and it is not 0."""
    b = e.expected[e.known]
    if not len(b) or b.any():
        return None
    return Diagnosis("unfounded", "not zero, though the loss does not depend on it")


def factor(e: Evidence) -> Diagnosis | None:
    """It is a multiple of what it should be."""
    found = multiple(e)
    if found is None or (score := explains(e, found[0])) is None:
        return None
    c, near = found
    named = name_factor(c, e.scales, near, e.guessed)
    if np.count_nonzero(e.pair[1]) < 2 and named is None:  # one number is a multiple of any other
        return None
    return Diagnosis("factor", named or count_factor(c, near), score)


def multiple(e: Evidence) -> tuple[float, float] | None:
    """Of what it should be, the multiple that it is nearest to, and how well that is known, relative to it; None if
    either is 0. The doubts are of entries apart: they add up as the errors of independent measurements do.
    """
    a, b = e.pair
    size, scale = largest(a), e.scale
    if not size or not scale:
        return None
    a, b = a / size, b / scale  # no overflow below
    weighed = b * e.weights
    c = float(weighed @ a / (weighed @ b)) * (size / scale)
    return c, max(NAMED, float(np.linalg.norm(weighed * e.doubts) / scale / (weighed @ b)))


def explains(e: Evidence, c: float) -> float | None:
    """How far it is from c times what it should be, if that is near."""
    score = e.misses(e.analytic / c) if c else math.inf
    return score if score <= e.fit else None


def decayed(e: Evidence) -> Diagnosis | None:
    """A multiple of the parameter is added to it."""
    if e.param is None:
        return None
    (a, b), x = e.pair, e.param[e.known]
    if np.count_nonzero(x) < 2:  # one number is a multiple of any other
        return None
    if not e.scale or largest(a) <= FIT * e.scale:  # where next to nothing is left, all is missing
        return None
    size = largest(x)
    weighed = x / size * e.weights
    c = float(weighed @ (a - b) / (weighed @ (x / size))) / size
    score = e.misses(e.analytic - c * e.param)
    if not score <= e.fit:
        return None
    times = f"{abs(c):.3g} times the parameter"
    text = f"{times} is added: weight decay that the loss does not have"
    return Diagnosis("decay", text if c > 0 else f"{times} is missing: weight decay that the loss has", score)


def clipped(e: Evidence) -> Diagnosis | None:
    """Some entries are cut off at one size, which they should exceed, and the others are right."""
    a, b = e.pair
    most, over = largest(a), e.off[e.known]
    if np.count_nonzero(over) < 2:
        return None
    cut = np.all(np.abs(a[over]) >= most * (1 - EXACT)) and np.all(b[over] * np.sign(a[over]) > most)
    return Diagnosis("clipped", f"clipped at {most:.6g}, which some of its entries exceed", 0.0) if cut else None


def rounded(e: Evidence) -> Diagnosis | None:
    """It has no more than some decimals, and is as near as they allow."""
    a, b = e.pair
    if np.count_nonzero(a) < 2 or largest(a) > 1 / EXACT:
        return None
    for decimals in range(1, 9):
        left = np.round(a, decimals)
        if left.any() and np.all(np.abs(left - a) <= EXACT * 10.0**-decimals):
            near = largest(a - b) <= 0.5001 * 10.0**-decimals
            return Diagnosis("rounded", f"rounded to {decimals} decimals") if near else None
    return None


def transposed(e: Evidence) -> Diagnosis | None:
    """It is square, and the transpose of what it should be."""
    if e.analytic.ndim != 2 or e.analytic.shape[0] != e.analytic.shape[1]:
        return None
    score = e.misses(e.analytic.T)
    return Diagnosis("transposed", "the transpose of what it should be", score) if score <= e.fit else None


def permuted(e: Evidence) -> Diagnosis | None:
    """It holds the right numbers in the wrong places."""
    a, b, known, fit = e.analytic, e.expected, e.known, e.fit
    scale = e.scale
    rough = largest(e.doubts) > fit * scale
    telling = (e.doubts <= ALMOST * scale) & (np.abs(b[known]) > ALMOST * scale)
    if np.count_nonzero(telling) < ENOUGH if rough else not _is_permutation(a, b[known], scale, fit):
        return None
    orders = {"the numbers are right and in the other order: its transpose was reshaped": a}
    if a.ndim == 2:
        orders = {next(iter(orders)): a.reshape(a.shape[::-1]).T}
    orders |= {"the last axis is reversed": a[..., ::-1], "the first axis is reversed": a[::-1]}
    for text, back in orders.items():
        score = e.misses(back)
        if score <= fit:
            return Diagnosis("permuted", text, score)
    if rough:  # in some order or other such numbers are near any
        return None
    if known.all() and a.ndim == 2:
        for text, x, y in (
            ("its rows are right and in another order", a, b),
            ("its columns are right and in another order", a.T, b.T),
        ):
            if _same_rows(x, y, fit * scale):
                return Diagnosis("permuted", text, 0.0)
    return Diagnosis("permuted", "the numbers are right and in other places", 0.0)


def _is_permutation(a: Array, b: Array, scale: float, fit: float) -> bool:
    """Whether the values b are those of a, or, if there are fewer, all among them."""
    every = np.sort(a, axis=None)
    if a.size == b.size:
        return a.size > 1 and misfit(every, np.sort(b)) <= fit
    sought = b[np.abs(b) > fit * scale]
    if len(np.unique(sought)) < ENOUGH:
        return False
    right = np.clip(np.searchsorted(every, sought), 1, every.size - 1)
    off = np.minimum(np.abs(every[right] - sought), np.abs(every[right - 1] - sought))
    return bool(np.all(off <= EXACT * scale))


def _same_rows(a: Array, b: Array, near: float) -> bool:
    """Whether every row of b is one of a's, each used once."""
    left = list(range(len(a)))
    for row in b:
        match = next((i for i in left if np.max(np.abs(a[i] - row)) <= near), None)
        if match is None:
            return False
        left.remove(match)
    return True


def stale(e: Evidence) -> Diagnosis | None:
    """It was right only when it was asked for a second time, or the second was the sum of both."""
    if e.again is None:
        return None
    score = e.misses(e.again)
    if score <= e.fit:
        return Diagnosis("stale", "made from what the previous call left behind: asked again, it is right", score)
    score = e.misses(e.again - e.analytic)
    text = "added to the gradient of the previous call: it is not reset"
    return Diagnosis("accumulated", text, score) if score <= e.fit else None


def one_term(e: Evidence) -> Diagnosis | None:
    """One of its terms is missing, or off by a factor, the others are right."""
    terms = {name: term[e.known] for name, term in e.terms.items() if np.any(term[e.known])}
    a, b = e.pair
    if len(terms) < 2 or len(b) < len(terms) + 1:
        return None
    columns = np.array(list(terms.values())).T
    if not np.isfinite(columns).all():  # of a term that is not defined around here
        return None
    of_expected = misfit(columns.sum(axis=1), b) <= e.fit
    c, _, rank, _ = np.linalg.lstsq(columns, a if of_expected else b, rcond=1e-10)
    score = misfit(columns @ c, a if of_expected else b)
    off = np.abs(c - 1) > NAMED
    if not score <= e.fit or rank < len(terms) or off.sum() != 1:
        return None
    (which,) = np.flatnonzero(off)
    name, weight = list(terms)[which], float(c[which]) if of_expected else 1 / float(c[which])
    if abs(weight) <= e.fit:
        return Diagnosis("term", f"the term of the {name} is missing", score)
    text = name_factor(weight, e.scales, guessed=e.guessed) or f"{weight:.6g} times what it should be"
    return Diagnosis("term", f"the term of the {name} is {text}, the rest is right", score)


def one_part(e: Evidence) -> Diagnosis | None:
    """It is wrong in one entry, in some rows or in some columns, and right elsewhere."""
    a, b = e.analytic, e.expected
    if a.ndim == 0 or e.coarse:  # of a loss of few digits, what is not seen to be wrong need not be right
        return None
    telling = e.known & ((a != 0) | (b != 0))  # a dead unit's zeros are right whatever is wrong
    wrong = e.off
    if np.count_nonzero(wrong) == 1 and e.known.all() and a.size > 2:
        return Diagnosis("entry", f"wrong in one entry alone, {place(np.argwhere(wrong)[0])}")
    best: tuple[float, str, Array] | None = None
    for axis in range(a.ndim):
        others = tuple(i for i in range(a.ndim) if i != axis)
        some, looked_at = wrong.any(axis=others), telling.any(axis=others)
        share = int(np.count_nonzero(some)) / max(int(np.count_nonzero(looked_at)), 1)
        ends = np.flatnonzero(some)
        if not len(ends) or (share > 0.5 and e.known.all()) or (best and share >= best[0]):
            continue
        if not e.known.all():  # a sample: no more is claimed than a half whose other half is right
            middle = a.shape[axis] // 2
            side = slice(None, middle) if ends[-1] < middle else slice(middle, None)
            sound = looked_at & ~some
            if (ends[0] < middle) == (ends[-1] >= middle) or np.count_nonzero(sound[side]) or len(ends) < 4:
                continue
            some = np.zeros_like(some)
            some[side] = True
        best = (
            share,
            _span(np.flatnonzero(some), a, axis),
            np.moveaxis(np.broadcast_to(some, [a.shape[i] for i in (*others, axis)]), -1, axis),
        )
    if best is None:
        return None
    _, text, inside = best
    part = replace(
        e,
        analytic=a[inside],
        expected=b[inside],
        doubt=np.broadcast_to(e.doubt, b.shape)[inside],
        again=None,
        param=None,
        terms={name: term[inside] for name, term in e.terms.items()},
    )
    inner = first(part, INSIDE)
    if inner is None:
        return Diagnosis("part", f"right but for {text}")
    return Diagnosis(f"part-{inner.kind}", f"right but for {text}, there {inner.text}", inner.score)


def _span(indices: Array, a: Array, axis: int) -> str:
    """Rows or columns in words."""
    what = (
        "entries" if a.ndim == 1 else ("column", "row")[axis == 0] + "s" if a.ndim == 2 else f"indices of axis {axis}"
    )
    first, last, size = int(indices[0]), int(indices[-1]), a.shape[axis]
    if len(indices) == 1:
        return f"{what} {first}".replace("rows ", "row ").replace("columns ", "column ").replace("entries ", "entry ")
    if last - first + 1 == len(indices):
        half = " (the second half)" if (first, last) == (size // 2, size - 1) else ""
        half = " (the first half)" if (first, last) == (0, size // 2 - 1) else half
        return f"{what} {first} to {last}{half}"
    return f"{what} {', '.join(map(str, indices[:4]))}" + (f" and {len(indices) - 4} more" if len(indices) > 4 else "")


def fewer_digits(e: Evidence) -> Diagnosis | None:
    """It agrees to a few digits: something was computed in single precision, or a formula is approximate."""
    score = misfit(*e.pair)
    if score > DIGITS:
        return None
    return Diagnosis(
        "digits", f"right to {-math.log10(score):.0f} digits and no more: single precision somewhere?", score
    )


def coarse(e: Evidence) -> Diagnosis | None:
    """The loss has few digits, and the gradient is nearly right: to look for a cause would be to invent one."""
    alike = cosine(*e.pair)
    if not e.coarse or not alike > ALIKE:
        return None
    return Diagnosis("coarse", f"nearly right (cosine {alike:.4f}), and the loss has too few digits to say what is off")


def beyond(e: Evidence) -> Diagnosis | None:
    """It exploded or vanished, and is no multiple of what it should be, or has lost the digits that would show it."""
    a, b = e.pair
    if not largest(a) or not largest(b):
        return None
    power = math.log10(largest(a)) - math.log10(largest(b))
    if not abs(power) > POWERS:
        return None
    what = "exploded" if power > 0 else "vanished"
    return Diagnosis(what, f"{what}: its largest entry is 10^{power:.0f} times what the largest should be")


def unknown(e: Evidence) -> Diagnosis:
    """Nothing fits: what can be said all the same."""
    a, b = e.pair
    sizes = largest(a), largest(b)
    if not all(sizes) or not np.isfinite(a).all():
        return Diagnosis("unknown", "no explanation fits")
    ratio = sizes[0] / sizes[1] * float(np.linalg.norm(a / sizes[0]) / np.linalg.norm(b / sizes[1]))
    return Diagnosis(
        "unknown",
        f"no explanation fits: cosine to what it should be {cosine(a, b):.3f}, ratio of the norms {ratio:.3g}, "
        f"{100 * np.mean(e.off[e.known]):.0f} % of the entries are off",
    )


HYPOTHESES = (
    not_finite, forgotten, unfounded, stale, factor, transposed, permuted, one_term, decayed, clipped, rounded,
    one_part, fewer_digits, coarse, beyond,
)  # fmt: skip
INSIDE = (forgotten, factor, one_term)  # of a part that is wrong


def explain(e: Evidence) -> Diagnosis:
    """The first hypothesis that explains every known entry; what is known besides if there is none."""
    if e.found is not None:
        return e.found
    seen = e.off.any() or not np.isfinite(e.analytic).all()
    return (first(e, HYPOTHESES) if seen else None) or unknown(e)


def first(e: Evidence, hypotheses: Sequence[Callable[[Evidence], Diagnosis | None]]) -> Diagnosis | None:
    """What the first hypothesis that explains it says."""
    return next((found for hypothesis in hypotheses if (found := hypothesis(e)) is not None), None)


def place(index: Array) -> str:
    """An index as it is written in code."""
    return "[" + ", ".join(str(int(i)) for i in np.atleast_1d(index)) + "]"
