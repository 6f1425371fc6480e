"""What wrong gradients say together: which layers they belong to, and which of them is the cause.

Backward runs from the loss to the input, so a gradient that is wrong spoils those of the layers before it: the wrong
array nearest to the loss is the cause, and what is right around it says what kind of cause. The arrays must come in
the order of the forward pass; an array of two axes followed by one of its last length is a layer, W and its bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np

from npvae.diagnosis import FIT, Evidence, explain, misfit
from npvae.flat import Array
from npvae.reports import Diagnosis, Finding


@dataclass(frozen=True)
class Layer:
    """A W (in, out) and its b (out,), by name; no b, if it has none."""

    W: str
    b: str | None
    shape: tuple[int, ...]

    @property
    def names(self) -> list[str]:
        """Its arrays."""
        return [self.W] if self.b is None else [self.W, self.b]


def layers(arrays: Mapping[str, Array]) -> list[Layer]:
    """The layers among arrays in forward order.

    >>> [(l.W, l.b) for l in layers({"W1": np.ones((3, 2)), "b1": np.ones(2), "W2": np.ones((2, 3))})]
    [('W1', 'b1'), ('W2', None)]
    """
    found, items = [], [*arrays.items(), ("", np.empty(0))]
    for (name, a), (after, bias) in pairwise(items):
        if a.ndim == 2:
            own = bias.ndim in (1, 2) and bias.shape[-1:] == a.shape[1:] and bias.size == a.shape[1] and bool(after)
            found.append(Layer(name, after if own else None, a.shape))
    return found


@dataclass(frozen=True)
class Code:
    """Where an encoder ends: the layers that put out mu and log sigma, which may be one layer's two halves."""

    mu: Layer
    logvar: Layer
    encoder: tuple[str, ...]  # all arrays up to there
    decoder: tuple[str, ...]  # all after


def code(found: Sequence[Layer], names: Sequence[str]) -> Code | None:
    """The layers of the code: one twice as wide as the next is deep, or two alike, as wide as the next is deep."""

    def split(mu: Layer, logvar: Layer) -> Code:
        last = names.index(logvar.names[-1]) + 1
        return Code(mu, logvar, tuple(names[:last]), tuple(names[last:]))

    for one, after in pairwise(found):
        if one.shape[1] == 2 * after.shape[0]:
            return split(one, one)
    for mu, logvar, after in zip(found, found[1:], found[2:], strict=False):
        if mu.shape == logvar.shape and mu.shape[1] == after.shape[0] and mu.shape[0] != mu.shape[1]:
            return split(mu, logvar)
    return None


def diagnose(evidence: Mapping[str, Evidence], findings: Sequence[Finding]) -> tuple[dict[str, Diagnosis], Diagnosis]:
    """A diagnosis of every wrong array, and one of all together."""
    wrong = {name: explain(e) for name, e in evidence.items() if e.wrong}
    wrong |= _exchanged(wrong, evidence)
    fatal = next((finding for finding in findings if finding.fatal), None)
    if not wrong:
        if fatal is not None:
            return wrong, Diagnosis(fatal.kind, fatal.text)
        return wrong, Diagnosis("right", "every gradient is right")
    found = layers({name: e.analytic for name, e in evidence.items()})
    names = list(evidence)
    where = code(found, names)
    shift = next((f for f in findings if f.kind in ("gradient-random", "loss-random")), None)
    changes = next((f for f in findings if f.kind == "mutation"), None)

    cause = _cause(wrong, found, names)
    wrong |= _of_cause(cause, wrong, where, evidence, random=shift is not None)
    for name in names[: names.index(cause.names[0])]:
        if name in wrong and wrong[name].kind == "unknown":
            wrong[name] = replace(wrong[name], kind="downstream", text=f"follows from {cause.W}, nearer to the loss")
    if changes is not None:  # the oracles' loss does not run backward, so what it changes makes the gradient wrong
        return wrong, Diagnosis(changes.kind, changes.text)
    return wrong, _together(cause, wrong, where, evidence, shift)


def _exchanged(wrong: Mapping[str, Diagnosis], evidence: Mapping[str, Evidence]) -> dict[str, Diagnosis]:
    """Arrays of one shape that hold each other's gradients."""
    found = {}
    for one, other in combinations([name for name in wrong if wrong[name].kind == "unknown"], 2):
        pairs = [(evidence[one], evidence[other]), (evidence[other], evidence[one])]
        if all(
            a.analytic.shape == b.analytic.shape and misfit(a.analytic[b.known], b.pair[1]) <= FIT for a, b in pairs
        ):
            found |= {
                a.name: Diagnosis("exchanged", f"it is the gradient of {b.name}, and the reverse") for a, b in pairs
            }
    return found


def _cause(wrong: Mapping[str, Diagnosis], found: Sequence[Layer], names: Sequence[str]) -> Layer:
    """The layer of the last wrong array; an array outside any layer stands for itself."""
    last = max(wrong, key=names.index)
    alone = Layer(last, None, ())
    return next((layer for layer in found if last in layer.names), alone)


def _of_cause(
    cause: Layer, wrong: Mapping[str, Diagnosis], where: Code | None, evidence: Mapping[str, Evidence], *, random: bool
) -> dict[str, Diagnosis]:
    """What the layer that is the cause suffers from, if its arrays did not explain themselves."""
    alone = _units(cause, evidence)
    if alone:
        text = f"only unit {alone} of the layer is wrong: a clamp, a mask or a slice that backward does not share"
        return {name: replace(wrong[name], kind="unit", text=text) for name in cause.names}
    open_ = [name for name in cause.names if name in wrong and wrong[name].kind in ("unknown", "part")]
    before = list(evidence)[: list(evidence).index(cause.names[0])]
    if not open_ or len(open_) < sum(name in wrong for name in cause.names):
        return {}
    if random or (where is not None and _is_noise(cause, wrong, where, evidence)):
        kind, text = (
            "noise",
            "not that of the noise of the forward pass: drawn anew, or another row's"
            + ("" if random else "; or sigma's derivative by its logarithm is another function of sigma"),
        )
    elif cause.b is None:
        return {}
    elif cause.b not in wrong:
        kind, text = (
            "input",
            "its bias is right, so it is not what flows back: it is multiplied with another input "
            "than the layer's (a value before its activation, another layer's)",
        )
    elif cause.W not in wrong:
        kind, text = "bias", "the layer's W is right, so it is not what flows back: the bias is summed wrongly"
    elif before and not any(name in wrong for name in before):
        kind, text = (
            "rows",
            "the layers before it are right, so it is not what flows back: its sums over the batch leave rows out, or "
            "count some twice",
        )
    elif where is not None and cause in (where.mu, where.logvar):
        if not all(name in wrong for name in (*where.mu.names, *where.logvar.names)):
            return {}
        kind, text = (
            "activation",
            "the decoder is right and mu and log sigma are wrong: what flows back to the code is (an activation's "
            "derivative missing in what is handed down, or W for its transpose)",
        )
        open_ = [*where.mu.names, *where.logvar.names]
    else:
        kind, text = (
            "activation",
            "all that is nearer to the loss is right, all of this layer wrong: what flows back "
            "to it is (its activation's derivative missing, twice or of another layer, W for its transpose, or "
            "a path from it left out)",
        )
    return {name: replace(wrong[name], kind=kind, text=text) for name in open_}


def _units(cause: Layer, evidence: Mapping[str, Evidence]) -> str:
    """The units of a layer that are wrong in W and in b, if they are fewer than half of them; else ""."""
    if cause.b is None or not all(evidence[name].known.all() for name in cause.names):
        return ""
    W, b = (_off(evidence[name]) for name in cause.names)
    units, b = W.any(axis=0), b.reshape(-1)
    if not np.array_equal(units, b) or not units.any() or 2 * np.count_nonzero(units) >= len(units):
        return ""
    return ", ".join(map(str, np.flatnonzero(units)))


def _off(e: Evidence) -> Array:
    """Where an array is wrong, as a mask."""
    wrong: Array = e.known & ~(np.abs(e.analytic - e.expected) <= FIT * np.max(np.abs(e.pair[1]), initial=0.0))
    return wrong


def _is_noise(cause: Layer, wrong: Mapping[str, Diagnosis], where: Code, evidence: Mapping[str, Evidence]) -> bool:
    """Whether all after the code is right, and of the code mu's part right and log sigma's wrong by no factor."""
    if cause != where.logvar or any(name in wrong for name in where.decoder):
        return False
    if where.mu != where.logvar:
        return not any(name in wrong for name in where.mu.names)
    return all(_half_wrong(evidence[name]) for name in cause.names)


def _half_wrong(e: Evidence) -> bool:
    """Whether entries are wrong in the second half of the last axis alone."""
    middle = e.analytic.shape[-1] // 2
    wrong = _off(e)
    return bool(wrong[..., middle:].any() and not wrong[..., :middle].any())


def _together(
    cause: Layer,
    wrong: Mapping[str, Diagnosis],
    where: Code | None,
    evidence: Mapping[str, Evidence],
    shift: Finding | None,
) -> Diagnosis:
    """All of it in a sentence."""
    named = next(wrong[name] for name in reversed(list(evidence)) if name in wrong and name in cause.names)
    kinds = {(d.kind, d.text) for d in wrong.values()}
    if len(kinds) == 1 and len(wrong) == len(evidence) and len(wrong) > 1:
        return replace(
            named,
            text=f"the whole gradient is {named.text}" if named.kind == "factor" else f"every tensor: {named.text}",
        )
    place = _places(wrong, where, evidence)
    if shift is not None:
        named = Diagnosis("noise", shift.text)
        return replace(named, text=f"{place}: {named.text}" if place else named.text)
    blamed = " and ".join(name for name in cause.names if name in wrong)
    return replace(named, text=f"{place + ', from ' if place else ''}{blamed}: {named.text}")


def _places(wrong: Mapping[str, Diagnosis], where: Code | None, evidence: Mapping[str, Evidence]) -> str:
    """Which side of the code is wrong, if it is one."""
    encoder, decoder = groups(where, list(evidence))
    if not encoder or not decoder or len(wrong) < 2:
        return ""
    if not any(name in wrong for name in decoder):
        return "only the encoder is wrong, the decoder is right"
    if not any(name in wrong for name in encoder):
        return "only the decoder is wrong, the encoder is right"
    return ""


def groups(where: Code | None, names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The arrays of the encoder and of the decoder: by their names, else by the code's place."""
    first = [name for name in names if name.lower().startswith("enc")]
    second = [name for name in names if name.lower().startswith("dec")]
    if first and second:
        return first, second
    return (where.encoder, where.decoder) if where is not None else ((), ())
