"""What wrong gradients say together: which layers they belong to, and which of them is the cause.

Backward runs from the loss to the input, so a gradient that is wrong spoils those of the layers before it: the wrong
array nearest to the loss is the cause, and what is right around it says what kind of cause. The layers must come in
the order of the forward pass; where their shapes fit the reverse alone, nothing is said of before and after.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from npvae.diagnosis import explain, explains, multiple, one_term
from npvae.evidence import FIT, Evidence, misfit
from npvae.flat import Array
from npvae.layering import Code, Layer, code, forward_order, groups, is_backwards, layers
from npvae.probing import FLOOR
from npvae.reports import Diagnosis, Finding

# ── The cause ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Scene:
    """Everything about all arrays: what each one's own explanation is, and where the cause must be."""

    evidence: Mapping[str, Evidence]
    params: Mapping[str, Array]
    wrong: Mapping[str, Diagnosis]
    layers: Sequence[Layer]
    code: Code | None
    cause: Layer  # of the wrong array nearest to the loss

    def right(self, names: Sequence[str]) -> bool:
        """Whether all of these arrays are known to be right, and by slopes that show it."""
        return all(self.tells(name) and name not in self.wrong for name in names)

    def tells(self, name: str) -> bool:
        """Whether an array is evidence of anything. One whose slopes are 0 (of dead units, before a layer of zeros,
        before what subtracts the mean) would be right whatever flows back; of an undecided one nothing is known.
        """
        e = self.evidence[name]
        return not e.undecided and e.scale > FLOOR * max(other.scale for other in self.evidence.values())

    def around(self, layer: Layer) -> tuple[list[str], list[str]]:
        """The arrays before a layer, and those after it."""
        names = list(self.evidence)
        return names[: names.index(layer.names[0])], names[names.index(layer.names[-1]) + 1 :]

    def flowing(self, layer: Layer) -> Array | None:
        """The loss's derivative by a layer's output, summed over the rows: what the layers it feeds send back.

        With y' = y W' + b', dy = dy' W'^T, so the sum over the rows is db' W'^T. None if the layers that it feeds are
        not known, have no bias, or are wrong themselves. Of the layer of mu it is what z sends back, without the rate.
        """
        i, code = self.layers.index(layer), self.code
        fed = self.layers[i + 1 : i + 2]
        if code is not None and layer in (code.mu, code.logvar):
            fed = self.layers[self.layers.index(code.logvar) + 1 :][:1]
        elif code is not None and fed == [code.mu] and code.mu != code.logvar:
            fed = [code.mu, code.logvar]
        parts = [
            self.evidence[f.b].analytic.reshape(-1) @ f.upright(self.params[f.W]).T
            for f in fed
            if f.b and self.right([f.b])
        ]
        return sum(parts[1:], parts[0]) if fed and len(parts) == len(fed) else None


def derivative_missing(scene: Scene) -> Diagnosis | None:
    """The bias's gradient is what flows back to the layer's output, as if there were no activation."""
    b = scene.cause.b
    back = scene.flowing(scene.cause) if b in scene.wrong and not _is_code(scene) else None
    if back is None or b is None:
        return None
    score = misfit(scene.evidence[b].analytic.reshape(-1), back)
    text = "the derivative of its activation is missing: its bias's gradient is what flows back to its output"
    return Diagnosis("activation", text, score) if score <= scene.evidence[b].fit else None


def term_of_the_rate(scene: Scene) -> Diagnosis | None:
    """The decoder is right; mu's bias has two terms, what z sends back and the rate's, and one of them is off."""
    mu = scene.code.mu if scene.code is not None and scene.right(scene.code.decoder) else None
    back = scene.flowing(mu) if mu is not None and mu.b in scene.wrong else None
    if back is None or mu is None or mu.b is None:
        return None
    e = scene.evidence[mu.b]
    a, b = e.analytic.reshape(-1)[: len(back)], e.expected.reshape(-1)[: len(back)]
    return one_term(replace(e, analytic=a, expected=b, terms={"reconstruction": back, "rate": b - back}))


def noise(scene: Scene) -> Diagnosis | None:
    """The decoder is right, and so is mu's part of the code; log sigma's is wrong, and by no factor."""
    code = scene.code
    if code is None or not _is_code(scene) or not scene.right(code.decoder):
        return None
    hidden, _ = scene.around(code.mu)
    if hidden and scene.right(hidden):  # what flows back to the code is right then
        return None
    if code.mu == code.logvar:
        W, *b = (scene.evidence[name].off for name in code.mu.names)
        alone = all(map(_half_wrong, [code.mu.upright(W), *(off.reshape(-1) for off in b)]))
    else:
        whole = set(scene.cause.names) <= set(scene.wrong) and _is_whole(scene)
        alone = whole and (scene.right(code.mu.names) or scene.right(code.logvar.names))
    who = "mu's part is right and log sigma's is not"
    if scene.cause != code.logvar:  # the first of two layers, as which mu is expected
        who = f"{code.logvar.W}'s part is right and this one's is not. If this is log sigma"
    text = (
        f"{who}: backward's noise may not be forward's (drawn anew, or another row's), "
        "or the path through sigma or the rate's derivative by it may be wrong"
    )
    return Diagnosis("noise", text) if alone else None


def exchanged(scene: Scene) -> Diagnosis | None:
    """What is wrong of the layer holds another's gradient, and that one its own."""
    for other in scene.layers:
        if other == scene.cause or other.shape != scene.cause.shape:
            continue
        pairs = zip(scene.cause.names, other.names, strict=False)
        wrong = [pair for pair in pairs if not scene.wrong.keys().isdisjoint(pair)]
        if all(_holds(scene, a, b) and _holds(scene, b, a) for a, b in wrong):
            return Diagnosis("exchanged", f"the gradients of {wrong[0][0]} and {wrong[0][1]} are exchanged")
    return None


def unit_alone(scene: Scene) -> Diagnosis | None:
    """W and its bias are wrong in the same units, fewer than half of them."""
    if scene.cause.b is None or scene.cause.W not in scene.wrong or scene.cause.b not in scene.wrong:
        return None
    W, b = (scene.evidence[name] for name in scene.cause.names)
    units: Array = np.any(scene.cause.upright(W.off), axis=0)
    if not (W.known.all() and np.array_equal(units, b.off.reshape(-1)) and 2 * np.count_nonzero(units) < len(units)):
        return None
    which = ", ".join(map(str, np.flatnonzero(units)))
    text = f"only unit {which} of the layer is wrong: perhaps a clamp, a mask or a slice that backward does not share"
    return Diagnosis("unit", text)


def code_as_a_whole(scene: Scene) -> Diagnosis | None:
    """The decoder is right, and mu and log sigma, of two layers, are both wrong."""
    code = scene.code
    if code is None or code.mu == code.logvar or not _is_code(scene) or not scene.right(code.decoder):
        return None
    if any(scene.right([name]) for name in (*code.mu.names, *code.logvar.names)):
        return None
    text = (
        "mu and log sigma are wrong: what flows back to the code may be, by the derivative of an activation left out "
        "on the way, by W where W^T belongs or by a path left out, or all of the encoder may be changed afterwards"
    )
    return Diagnosis("activation", text)


# What may be wrong with a W whose layer gets the right derivative; and with W and b both.
MADE = (
    "made with something else than the layer's input (a value before its activation or its dropout, another layer's), "
    "with rows left out or counted twice, without the term of a second use of the matrix or of a penalty on it, or "
    "changed afterwards"
)
SUMS = (
    "its own sums may leave rows out, count some twice or take another derivative than is handed down, or its "
    "gradients may lack a penalty's or be changed afterwards"
)


def other_input(scene: Scene) -> Diagnosis | None:
    """W is wrong and its bias right."""
    W, b = scene.cause.W, scene.cause.b
    if b is None or not scene.right([b]) or scene.wrong[W].kind != "unknown" or not scene.evidence[W].known.any():
        return None
    return Diagnosis("input", f"its bias is right, so most likely what flows back is: it may be {MADE}")


def bias_alone(scene: Scene) -> Diagnosis | None:
    """A bias is wrong and its W right."""
    W, b = scene.cause.W, scene.cause.b
    if b is None or not scene.right([W]) or scene.wrong[b].kind != "unknown":
        return None
    text = "it may be summed over the rows wrongly, made from other values, or changed afterwards"
    return Diagnosis("bias", f"the layer's W is right, so most likely what flows back is: {text}")


def rows_lost(scene: Scene) -> Diagnosis | None:
    """A layer is wrong, and the layers before it, which get their derivatives through it, are right."""
    before, _ = scene.around(scene.cause)
    if not before or not scene.right(before) or scene.cause not in scene.layers:
        return None
    both = scene.cause.b in scene.wrong
    text = "the layers before it are right, so most likely what flows back is: "
    return Diagnosis("rows", text + SUMS) if both else Diagnosis("input", f"{text}it may be {MADE}")


def flows_back_wrong(scene: Scene) -> Diagnosis | None:
    """A layer is wrong as a whole."""
    cause = scene.cause
    silent = [name for name in cause.names if name not in scene.wrong]
    if cause.b is None or any(map(scene.tells, silent)) or _is_code(scene):
        return None
    i, (before, after) = scene.layers.index(cause), scene.around(cause)
    whole = f"wrong ({silent[0]} shows nothing: its slopes are 0 or undecided)" if silent else "wrong as a whole"
    others = f", or it may be {MADE}" if cause.b in silent else f", or {SUMS}"
    if not scene.wrong.keys().isdisjoint(before):  # its own sums do not spoil those
        others = ", or its gradients and those before it may be changed afterwards"
    if i == len(scene.layers) - 1:
        text = f"the layer nearest to the loss is {whole}: the loss's derivative by its output may be{others}"
        return Diagnosis("activation", text)
    text = f"{'all that is nearer to the loss is right and ' if scene.right(after) else ''}this layer is {whole}"
    square = scene.layers[i + 1].shape[0] == scene.layers[i + 1].shape[1]  # else W does not fit
    return Diagnosis(
        "activation",
        f"{text}: what flows back to it may be, by the derivative of its activation (another layer's, of another "
        f"value, or twice), by a mask or a path left out{' or by W where W^T belongs' if square else ''}{others}",
    )


# The first fit numbers, or account for a part that is right: they explain what is wrong in a part of an array too. The
# others take arrays as wholes, and know less of one than "right but for row 2" does.
OF_PARTS = (exchanged, unit_alone, derivative_missing, term_of_the_rate, noise)
OF_WHOLES = (code_as_a_whole, other_input, bias_alone, rows_lost, flows_back_wrong)
MISTAKEN = ("shape", "transposed", "missing", "kind")  # of what was returned: shared memory does not explain these
OF_ANY_ORDER = (exchanged, unit_alone, other_input, bias_alone)


def _holds(scene: Scene, one: str, other: str) -> bool:
    """Whether the gradient of one array is what the other's should be."""
    a, b = scene.evidence[one].analytic, scene.evidence[other]
    return a.size == b.analytic.size and b.misses(a.reshape(b.analytic.shape)) <= FIT


def _is_whole(scene: Scene) -> bool:
    """Whether what is wrong of the cause is so as a whole. Inputs that are 0 in all the rows concerned (units that ReLU
    has shut off) have a gradient of 0 in W, which is right; W then is wrong in the others, for every output.
    """
    W, b = scene.cause.W, scene.cause.b
    kinds = {name: scene.wrong[name].kind for name in scene.cause.names if name in scene.wrong}
    if kinds == {W: "part", b: "unknown"}:
        return bool(scene.cause.upright(scene.evidence[W].off).any(axis=0).all())
    return set(kinds.values()) == {"unknown"}


def _is_code(scene: Scene) -> bool:
    return scene.code is not None and scene.cause in (scene.code.mu, scene.code.logvar)


def _half_wrong(off: Array) -> bool:
    """Whether entries are off in the second half of the last axis alone."""
    middle = off.shape[-1] // 2
    return bool(off[..., middle:].any() and not off[..., :middle].any())


# ── All together ─────────────────────────────────────────────────────────────────────────────────────────────────────


def diagnose(
    evidence: Mapping[str, Evidence], params: Mapping[str, Array], findings: Sequence[Finding]
) -> tuple[dict[str, Diagnosis], Diagnosis]:
    """A diagnosis of every wrong array, and one of all together."""
    wrong = {name: explain(e) for name, e in evidence.items() if e.wrong}
    wrong |= _best_known(evidence, wrong)
    if not wrong:
        fatal = next((finding for finding in findings if finding.fatal), None)
        right = Diagnosis("right", "every gradient is right")
        return wrong, right if fatal is None else Diagnosis(fatal.kind, fatal.text)
    found = layers({name: e.analytic for name, e in evidence.items()})
    evidence = {name: evidence[name] for name in forward_order(evidence, found)}
    names = list(evidence)
    last = max(wrong, key=names.index)
    cause = next((layer for layer in found if last in layer.names), Layer(last, None, ()))
    backwards = is_backwards(found)
    scene = Scene(evidence, params, wrong, found, None if backwards else code(found, names), cause)

    of_cause = [name for name in cause.names if name in wrong]
    kinds = {wrong[name].kind for name in of_cause}
    anew = next((finding for finding in findings if finding.kind == "gradient-random"), None)
    if kinds <= {"unknown", "part", "entry"}:
        hypotheses = OF_PARTS + (OF_WHOLES if _is_whole(scene) else ())
        asked = (hypothesis for hypothesis in hypotheses if not backwards or hypothesis in OF_ANY_ORDER)
        of_layer = next((d for hypothesis in asked if (d := hypothesis(scene)) is not None), None)
        if anew is not None:
            of_layer = Diagnosis("noise", "two calls at the same parameters differ: the noise is redrawn")
        if of_layer is not None:
            wrong |= dict.fromkeys(of_cause, of_layer)
    for name in [] if backwards else names[: names.index(cause.names[0])]:
        if name in wrong and wrong[name].kind == "unknown":  # not shown, only likely: the cause may be one of two
            text = f"nothing of its own is known: it may follow from {cause.W}, nearer to the loss"
            wrong[name] = replace(wrong[name], kind="downstream", text=text)
    changes = next((finding for finding in findings if finding.kind in ("mutation", "overlap", "constant")), None)
    together = _together(replace(scene, wrong=wrong), anew)
    if changes is not None and changes.kind == "overlap" and together.kind in MISTAKEN:
        return wrong, replace(together, text=f"{together.text}; and {changes.text}")
    if changes is not None:  # backward then runs through other parameters than the loss did: no wonder that it is wrong
        return wrong, Diagnosis(changes.kind, changes.text)
    if backwards and together.kind == "unknown":
        text = f"{together.text}; params seem to come backwards: give them in the order of the forward pass"
        return wrong, replace(together, text=text)
    return wrong, together


def _best_known(evidence: Mapping[str, Evidence], wrong: Mapping[str, Diagnosis]) -> dict[str, Diagnosis]:
    """Of arrays that are off by a factor, those that the factor known best explains: it is theirs too."""
    known = {name: found for name, d in wrong.items() if d.kind == "factor" and (found := multiple(evidence[name]))}
    best = min(known, key=lambda name: known[name][1], default="")
    alike = [name for name in known if explains(evidence[name], known[best][0]) is not None]
    return {name: replace(wrong[name], text=wrong[best].text) for name in alike}


def _together(scene: Scene, anew: Finding | None) -> Diagnosis:
    """All of it in a sentence."""
    wrong, names = scene.wrong, list(scene.evidence)
    encoder, decoder = groups(scene.code, names)
    cause = wrong[next(name for name in reversed(names) if name in wrong and name in scene.cause.names)]
    if anew is not None:
        cause = Diagnosis("noise", anew.text)
    alike = [name for name in names if name in wrong and wrong[name].text == cause.text]
    place = ""
    if encoder and len(wrong) > 1 and scene.right(decoder):
        place = "only the encoder is wrong, the decoder is right; "
    if decoder and len(wrong) > 1 and scene.right(encoder):
        place = "only the decoder is wrong, the encoder is right; "
    if anew is not None:
        blamed = ""
    elif alike == names and len(names) > 1:
        blamed = "the whole gradient: "
    elif decoder and alike == list(decoder):
        blamed = "all of the decoder: "
    elif encoder and alike == list(encoder):
        blamed = "all of the encoder: "
    else:
        blamed = ", ".join(alike[:6]) + (f" and {len(alike) - 6} more" if len(alike) > 6 else "") + ": "
    return replace(cause, text=place + blamed + cause.text)
