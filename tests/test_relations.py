"""What wrong gradients say together: on npvae's own models with one op spoilt, and on somebody's code."""

import broken
import numpy as np
import pytest

import npvae as nv
from npvae.evidence import Evidence
from npvae.layering import code, forward_order, groups, layers
from npvae.ops import jit, reference
from npvae.relations import diagnose

B, D, Z = 6, 7, 3
BACKENDS = {"reference": reference, "jit": jit}


def workspace(backend, **options):
    vae = nv.VAE(**{"data": D, "hidden": (6, 4), "latent": Z, "activation": "tanh"} | options)
    ws = nv.Workspace(vae, batch=B, samples=2, dtype="float64", seed=2, backend=backend)
    ws.theta += 0.2 * np.random.default_rng(3).standard_normal(ws.theta.shape)
    return ws


def images():
    return np.random.default_rng(4).random((B, D))


def logvar_scaled(factor):
    def change(right):
        def backward(drate, stats, out=None):
            dstats = right(drate, stats, out=out)
            dstats[..., Z:] *= factor
            return dstats

        return backward

    return change


def redrawn(right):
    return lambda dz, stats, eps, out=None: right(dz, stats, np.ascontiguousarray(eps[::-1]), out=out)


def zeroed(right):
    def backward(*arguments, out):
        right(*arguments, out=out)
        out[...] = 0

    return backward


OPS = {  # op, what spoils it: (kind, words of the diagnosis, of all together; tensors that are right)
    ("reparameterize_backward", redrawn): ("noise", "only the encoder is wrong, the decoder is right", "decoder"),
    ("gaussian_kl_backward", zeroed): ("term", "the term of the rate is missing", "decoder"),
    ("reparameterize_backward", zeroed): ("term", "the term of the reconstruction is missing", "decoder"),
    ("gaussian_kl_backward", logvar_scaled(-1)): ("part-term", "columns 3 to 5 (the second half)", "decoder"),
    ("bernoulli_backward", zeroed): ("forgotten", "all of the decoder: forgotten", ""),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op, spoil", OPS)
def test_a_spoilt_op_of_a_model_is_named(monkeypatch, op, spoil, backend):
    kind, words, right = OPS[op, spoil]
    monkeypatch.setattr(BACKENDS[backend], op, spoil(getattr(BACKENDS[backend], op)))
    report = nv.gradcheck(workspace(backend), images(), beta=0.7)
    assert not report.ok
    if words.startswith("columns"):
        assert report.diagnosis.kind == kind and "the entries" not in report.diagnosis.text
    else:
        assert (report.diagnosis.kind, words in report.diagnosis.text) == (kind, True), report.diagnosis
    assert all(check.ok for check in report.tensors if right and check.name.startswith(right))


def test_the_seeds_factor_is_that_of_the_whole_decoder(monkeypatch):
    right = reference.elbo_backward

    def backward(*arguments, out):
        right(*arguments, out=out)
        out[0][...] *= B

    monkeypatch.setattr(reference, "elbo_backward", backward)
    report = nv.gradcheck(workspace("reference"), images())
    assert report.diagnosis.kind == "factor"
    assert report.diagnosis.text == "all of the decoder: 6 times what it should be (B)"
    encoder = [check.diagnosis for check in report.tensors if check.name.startswith("encoder")]
    assert {d.text for d in encoder} == {
        "the term of the reconstruction is 6 times what it should be (B), the rest is right"
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_whose_loss_is_another_one(monkeypatch, backend):
    """The complex step is the reference's: where a backend's own loss differs, it is that which is said."""
    ops = BACKENDS[backend]
    right = ops.gaussian_kl_forward

    def forward(stats, out=None):
        rate = right(stats, out=out)
        if stats.dtype.kind == "f":
            rate *= 1.5
        return rate

    monkeypatch.setattr(ops, "gaussian_kl_forward", forward)
    report = nv.gradcheck(workspace(backend), images())
    assert not report.ok
    assert [finding.kind for finding in report.findings if finding.fatal] == ["losses-differ"]


def spoilt(change, params=None):
    """Somebody's VAE, its gradients changed."""
    right = broken.make_gradients()
    return nv.check_function(broken.loss, lambda p: change(right(p)), params or broken.params())


def test_gradients_that_are_exchanged():
    report = spoilt(lambda g: g | {"Wm": g["Wv"], "Wv": g["Wm"], "bm": g["bv"], "bv": g["bm"]})
    assert report.diagnosis.kind == "exchanged" and "Wv and Wm" in report.diagnosis.text


def test_weights_that_are_exchanged_and_biases_that_are_not():
    report = spoilt(lambda g: g | {"Wm": g["Wv"], "Wv": g["Wm"]})
    assert report.diagnosis.kind == "exchanged" and "Wv and Wm" in report.diagnosis.text
    report = spoilt(lambda g: g | {"bm": g["bv"], "bv": g["bm"]})
    assert report.diagnosis.kind == "exchanged" and "bv and bm" in report.diagnosis.text
    assert spoilt(lambda g: g | {"Wm": g["Wv"].copy()}).diagnosis.kind == "input"


def test_gradients_that_are_exchanged_as_far_as_they_are_known():
    rng = np.random.default_rng(0)
    right = {name: rng.standard_normal((6, 3)) for name in ("Wm", "Wv")}
    given = {"Wm": right["Wv"] + 0.001, "Wv": right["Wm"] - 0.001}
    clues = {name: Evidence(name, given[name], b, doubt=np.full((6, 3), 0.002)) for name, b in right.items()}
    _, together = diagnose(clues, {name: np.ones((6, 3)) for name in right}, [])
    assert (together.kind, together.text) == ("exchanged", "Wv: the gradients of Wv and Wm are exchanged")


CHANGES = {  # of every array that the change concerns, alike; what it is, and words of the diagnosis
    "decay": (
        lambda g, p: g + 0.01 * p,
        "decay",
        "0.01 times the parameter is added: weight decay that the loss does not",
    ),
    "clipping": (lambda g, p: np.clip(g, -0.05, 0.05), "clipped", "clipped at 0.05"),
    "rounding": (lambda g, p: np.round(g, 4), "rounded", "rounded to 4 decimals"),
    "anything": (lambda g, p: np.cbrt(g), "activation", "W5, b5: the layer nearest to the loss is wrong as a whole"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_done_to_all_gradients_is_not_blamed_on_the_last_layer(change):
    change, kind, words = CHANGES[change]
    p = broken.params()
    report = spoilt(lambda g: {name: change(g[name], p[name]) for name in g})
    assert report.diagnosis.kind == kind and words in report.diagnosis.text
    assert "all that is nearer" not in str(report)
    if kind in ("decay", "rounded"):
        assert report.diagnosis.text.startswith("the whole gradient: ")


@pytest.mark.parametrize("name", ["Wm", "Wv", "W1", "W5"])
def test_weight_decay_of_one_layer_is_named(name):
    report = spoilt(lambda g: g | {name: g[name] + 0.01 * broken.params()[name]})
    assert (report.diagnosis.kind, report.diagnosis.text[:4]) == ("decay", f"{name}: ")
    assert [check.name for check in report.tensors if not check.ok] == [name]


def test_one_factor_is_that_of_all_however_well_it_is_known():
    """In single precision every array knows it differently well; one of them hardly."""

    def evidence(name, near, seed):
        b = np.random.default_rng(seed).standard_normal((5, 4))
        off = near * np.max(np.abs(b)) * np.random.default_rng(seed + 1).uniform(-1, 1, b.shape)
        return Evidence(name, (b + off / 3) / 16, b, doubt=np.full(b.shape, near * np.max(np.abs(b))), scales={"B": 16})

    clues = {name: evidence(name, near, i) for i, (name, near) in enumerate(zip("WVU", (1e-3, 1e-6, 0.1), strict=True))}
    wrong, together = diagnose(clues, {name: np.ones((5, 4)) for name in clues}, [])
    assert together.text == "the whole gradient: 1/16 of what it should be (1/B)"
    assert len({d.text for d in wrong.values()}) == 1


def test_a_unit_that_is_wrong_alone():
    def change(g):
        g["W4"][:, 2], g["b4"][2] = np.arange(6.0), 7.0
        return g

    report = spoilt(change)
    assert report.diagnosis.kind == "unit" and "unit 2" in report.diagnosis.text


@pytest.mark.parametrize("layer", ["2", "4", "5"])
def test_rows_that_are_lost_in_one_layer_alone(layer):
    def change(g):
        rng = np.random.default_rng(0)
        return g | {name: rng.standard_normal(g[name].shape) for name in (f"W{layer}", f"b{layer}")}

    report = spoilt(change)
    assert report.diagnosis.kind == "rows"
    assert [check.name for check in report.tensors if not check.ok] == [f"W{layer}", f"b{layer}"]


@pytest.mark.parametrize("layer", ["1", "2", "m", "3", "5"])
@pytest.mark.parametrize(
    "where, kind, words",
    [
        (np.s_[1, 2], "entry", "wrong in one entry alone, [1, 2]"),
        (np.s_[1], "part", "right but for row 1"),
        (np.s_[:, 2], "part", "right but for column 2"),
    ],
)
def test_what_is_known_of_a_part_is_said_in_every_layer(layer, where, kind, words):
    """That the layers before it are right, or its bias, says less: a whole that is wrong would explain that too."""

    def change(g):
        part = g[f"W{layer}"][where]
        g[f"W{layer}"][where] += np.random.default_rng(0).standard_normal(np.shape(part))
        return g

    assert spoilt(change).diagnosis == nv.Diagnosis(kind, f"W{layer}: {words}")


def test_what_is_wrong_in_part_where_a_layers_rows_could_be_lost():
    """Its bias is wrong as a whole, W in a column: together they are no rows left out."""

    def change(g):
        g["W4"][:, 2] += np.arange(6.0) ** 2
        return g | {"b4": np.random.default_rng(0).standard_normal(6)}

    report = spoilt(change)
    said = {check.name: check.diagnosis.kind for check in report.tensors if not check.ok}
    assert said == {"W4": "part", "b4": "unknown"}


def test_what_only_may_follow_is_not_said_to():
    def change(g):
        rng = np.random.default_rng(0)
        return g | {name: rng.standard_normal(g[name].shape) for name in ("W1", "W4", "b4")}

    report = spoilt(change)
    said = {check.name: check.diagnosis for check in report.tensors if not check.ok}
    assert said["W1"].kind == "downstream" and "it may follow from W4" in said["W1"].text


def backwards_params():
    return dict(reversed(two_layers().items()))


def test_nothing_is_said_of_before_and_after_where_params_come_backwards():
    """Their shapes fit no other order; the layers behind the one that is wrong are not before it."""
    no_derivative = changing("dh", lambda dh, a: dh / (1 - np.tanh(a) ** 2))
    found = said_of(no_derivative, backwards_params())
    assert found.kind == "unknown" and found.text.startswith("b1: no explanation fits")
    assert found.text.endswith("give them in the order of the forward pass")
    assert said_of(no_derivative, two_layers()).text.startswith("W1, b1: the derivative of its activation is missing")
    vae = dict(reversed(broken.params().items()))
    report = nv.check_function(broken.loss, broken.make_gradients("noise of another row"), vae)
    assert not any(word in str(report) for word in ("decoder", "flows back", "nearer", "follow"))


def test_what_is_known_of_one_layer_needs_no_order():
    found = said_of(changing("g", lambda g, p: g | {"b2": g["b2"] ** 3}), backwards_params())
    assert found.kind == "bias"


# ── Where several explanations remain ────────────────────────────────────────────────────────────────────────────────

ROWS, TARGET = np.random.default_rng(20).standard_normal((7, 5)), np.random.default_rng(21).standard_normal((7, 3))


def two_layers(**changes):
    """W1 (5, 6), b1, W2 (6, 3), b2 of a network; what is named otherwise is replaced, what is None left out."""
    rng = np.random.default_rng(22)
    p = {"W1": rng.standard_normal((5, 6)), "b1": rng.standard_normal(6), "W2": rng.standard_normal((6, 3)),
         "b2": rng.standard_normal(3)} | changes  # fmt: skip
    return {name: a for name, a in p.items() if a is not None}


def squares(p, act, mask=1.0):
    """The loss, its derivative by the output, and what is made on the way."""
    a = ROWS @ p["W1"] + p.get("b1", 0)
    h = act(a) * mask
    r = h @ p["W2"] + p.get("b2", 0) - TARGET
    return (r**2).sum() / 2, r, h, a


def relu(a):
    return a * (a.real > 0)


def backward(p, r, h, dh):
    g = {"W1": ROWS.T @ dh, "b1": dh.sum(0), "W2": h.T @ r, "b2": r.sum(0)}
    return {name: g[name] for name in p}


def said_of(change, params, act=np.tanh, mask=1.0):
    """What is said of a gradient whose r, h, dh or result `change` changes."""

    def gradients(p):
        _, r, h, a = squares(p, act, mask)
        r, h = change("r", r, a), change("h", h, a)
        dh = change("dh", r @ p["W2"].T * mask * (1 - np.tanh(a) ** 2 if act is np.tanh else a > 0), a)
        return change("g", backward(p, r, h, dh), p)

    report = nv.check_function(lambda p: squares(p, act, mask)[0], gradients, params)
    assert not report.ok
    return report.diagnosis


def changing(what, how):
    return lambda name, value, other: how(value, other) if name == what else value


UNMOVED = changing("r", lambda r, a: np.abs(r))


def test_a_gradient_that_is_0_anyway_shows_nothing():
    """Of dead units, and before a layer of zeros, it is right whatever flows back."""
    dead = said_of(UNMOVED, two_layers(b1=np.full(6, -50.0)), relu)
    assert dead.text.startswith("b2: the layer nearest to the loss is wrong (W2 shows nothing: its slopes are 0 or")
    assert "the loss's derivative by its output may be" in dead.text
    zeros = said_of(UNMOVED, two_layers(W2=np.zeros((6, 3))))
    assert zeros.text.startswith("W2, b2: the layer nearest to the loss is wrong as a whole: the loss's derivative by")
    for found in (dead, zeros):
        assert found.kind == "activation" and "right" not in found.text


def test_a_bias_before_what_subtracts_the_mean_shows_nothing():
    """Its gradient is 0 but for rounding; W's lacks the term of the variance."""
    params = {"W": two_layers()["W1"][:, :3], "c": np.ones(3), "scale": np.array([0.5, 1.0, 2.0])}

    def normalised(p):
        a = ROWS @ p["W"] + p["c"]
        a = a - a.mean(0)
        s = np.sqrt((a**2).mean(0) + 1e-5)
        return a / s, s

    def gradients(p):
        n, s = normalised(p)
        d = (n * p["scale"] - TARGET) * p["scale"] / s
        da = d - d.mean(0)
        return {"W": ROWS.T @ da, "c": da.sum(0), "scale": ((n * p["scale"] - TARGET) * n).sum(0)}

    report = nv.check_function(lambda p: ((normalised(p)[0] * p["scale"] - TARGET) ** 2).sum() / 2, gradients, params)
    assert [check.name for check in report.tensors if not check.ok] == ["W"]
    assert "its bias is right" not in str(report)
    assert "c shows nothing" in report.diagnosis.text and "by its output may be" in report.diagnosis.text


@pytest.mark.parametrize(
    "undecided, words", [(False, "its bias is right"), (True, "b shows nothing: its slopes are 0 or")]
)
def test_an_undecided_gradient_shows_nothing(undecided, words):
    rng = np.random.default_rng(0)
    W, other, b = rng.standard_normal((4, 3)), rng.standard_normal((4, 3)), rng.standard_normal(3)
    clues = {"W": Evidence("W", other, W), "b": Evidence("b", b, b, wrong=False, undecided=undecided)}
    assert words in diagnose(clues, {"W": W, "b": b}, [])[1].text


FIRST_LAYER = {  # what is wrong with its own gradients alone: words that the diagnosis must not lack
    "a row lost": (changing("g", lambda g, p: g | own(p, np.s_[1:])), "leave rows out"),
    "a row twice": (changing("g", lambda g, p: g | own(p, [0, *range(7)])), "count some twice"),
    "a penalty's derivative": (
        changing("g", lambda g, p: g | {name: g[name] + 0.1 * np.sign(p[name]) for name in ("W1", "b1")}),
        "changed afterwards",
    ),
}


def own(p, rows):
    """The first layer's own sums over some of the rows."""
    _, r, _, a = squares(p, np.tanh)
    dh = (r @ p["W2"].T * (1 - np.tanh(a) ** 2))[rows]
    return {"W1": ROWS[rows].T @ dh, "b1": dh.sum(0)}


@pytest.mark.parametrize("what", FIRST_LAYER)
def test_what_spoils_the_first_layer_alone(what):
    """Nothing before it tells whether what flows back to it is wrong."""
    change, words = FIRST_LAYER[what]
    text = said_of(change, two_layers()).text
    assert text.startswith("W1, b1: all that is nearer to the loss is right and this layer is wrong as a whole: ")
    assert "what flows back to it may be, by" in text and words in text


@pytest.mark.parametrize("mask", [1.0, (np.arange(42).reshape(7, 6) % 3 > 0) / 0.7])
def test_another_input_of_a_layer_without_a_bias(mask):
    """The value before the activation, or before dropout: no rows are lost, and nothing tells."""
    change = changing("h", lambda h, a: a if np.ndim(mask) == 0 else np.tanh(a))
    found = said_of(change, two_layers(b1=None, b2=None), mask=mask)
    assert found.kind == "input" and found.text.startswith("W2: the layers before it are right, so most likely")
    for words in ("it may be", "before its activation or its dropout", "rows left out or counted twice"):
        assert words in found.text


@pytest.mark.parametrize("term", [0, 1])
def test_a_matrix_that_is_used_twice(term):
    """One of its two terms is missing, and the loss's terms are not given."""
    params = {"W": two_layers()["W1"], "b": np.ones(6), "c": np.ones(5)}

    def forward(p):
        h = np.tanh(ROWS @ p["W"] + p["b"])
        return h, h @ p["W"].T + p["c"] - ROWS

    def gradients(p):
        h, r = forward(p)
        dh = r @ p["W"] * (1 - h**2)
        return {"W": (ROWS.T @ dh, r.T @ h)[term], "b": dh.sum(0), "c": r.sum(0)}

    report = nv.check_function(lambda p: (forward(p)[1] ** 2).sum() / 2, gradients, params)
    assert "it may be" in report.diagnosis.text and "a second use of the matrix" in report.diagnosis.text


def test_a_bias_of_other_values():
    """Cast to whole numbers: it is summed over the rows as it should be."""
    found = said_of(changing("g", lambda g, p: g | {"b2": g["b2"].astype(int)}), two_layers())
    assert found.kind == "bias" and "may be summed over the rows wrongly, made from other values" in found.text


def test_what_flows_back_to_a_layer_is_not_asserted():
    """W and b are made from another derivative than the layer hands down, which is right."""
    found = said_of(changing("g", lambda g, p: g | {"W2": g["W2"] ** 3, "b2": g["b2"] ** 3}), two_layers())
    assert (
        found.kind == "rows" and "most likely" in found.text and "another derivative than is handed down" in found.text
    )


def test_a_code_that_is_wrong_as_a_whole():
    """dz without the last activation's derivative: neither mu's terms nor log sigma's are of their kind."""

    def change(g):
        rng = np.random.default_rng(0)
        return {k: rng.standard_normal(v.shape) if k in broken.ENCODER.split() else v for k, v in g.items()}

    report = spoilt(change)
    assert report.diagnosis.kind == "activation" and "what flows back to the code" in report.diagnosis.text


@pytest.mark.parametrize(
    "first, words",
    [("v", "Wv, bv: mu's part is right and log sigma's is not: "), ("m", "Wm, bm: Wv's part is right and this one's")],
)
def test_one_of_mu_and_log_sigma(first, words):
    """Which of two layers is log sigma, nobody says: it is expected to be the second."""

    def change(g, *hidden):
        rng, layers = np.random.default_rng(0), (*hidden, first)
        return g | {name: rng.standard_normal(g[name].shape) for i in layers for name in (f"W{i}", f"b{i}")}

    report = spoilt(lambda g: change(g, "1", "2"))
    assert report.diagnosis.kind == "noise" and words in report.diagnosis.text
    report = spoilt(change)
    assert report.diagnosis.kind == "rows", "what the noise spoils flows back to the hidden layers"


def test_a_layer_of_the_code_whose_bias_is_right():
    report = spoilt(lambda g: g | {"Wv": np.random.default_rng(0).standard_normal(g["Wv"].shape)})
    assert (report.diagnosis.kind, report.diagnosis.text[:4]) == ("input", "Wv: ")


def test_the_decoder_alone():
    def change(g):
        return {k: 2 * v if k in ("W3", "b3", "W5") else v for k, v in g.items()}

    assert spoilt(change).diagnosis.text.startswith("only the decoder is wrong, the encoder is right; ")


def test_many_alike_are_counted():
    report = spoilt(lambda g: {k: 2 * v if k not in ("W4", "W1") else v for k, v in g.items()})
    assert report.diagnosis.text == "b1, W2, b2, Wm, bm, Wv and 6 more: 2 times what it should be"


def test_the_cause_may_be_outside_of_any_layer():
    report = nv.check_function(
        lambda p: (p["v"] ** 2).sum() * p["s"],
        lambda p: {"v": 2 * p["v"] * p["s"], "s": np.array(np.pi)},
        {"v": np.arange(1.0, 4), "s": np.array(1.5)},
    )
    assert (report.diagnosis.kind, report.tensors[1].ok) == ("unknown", False)


def test_layers_and_the_code():
    found = layers(
        {"W": np.ones((4, 6)), "b": np.ones((1, 6)), "V": np.ones((3, 5)), "c": np.ones(4), "U": np.ones((5, 5))}
    )
    assert [(layer.W, layer.b, layer.names) for layer in found] == [
        ("W", "b", ["W", "b"]), ("V", None, ["V"]), ("U", None, ["U"])
    ]  # fmt: skip
    fused = code(found, ["W", "b", "V", "c", "U"])
    assert fused.mu == fused.logvar == found[0]
    assert (fused.encoder, fused.decoder) == (("W", "b"), ("V", "c", "U"))
    assert code(layers({"W": np.ones((4, 4)), "V": np.ones((4, 4)), "U": np.ones((4, 4))}), ["W", "V", "U"]) is None
    assert code([], []) is None


def pairs(shapes):
    return [(layer.W, layer.b, layer.shape) for layer in layers({name: np.ones(s) for name, s in shapes.items()})]


@pytest.mark.parametrize(
    "first, second, b, c",
    [("W1", "W2", "b1", "b2"), ("We", "Wd", "be", "bd"), ("enc.weight", "dec.weight", "enc.bias", "dec.bias"),
     ("kernel_0", "kernel_1", "bias_0", "bias_1"), ("Weights1", "Weights2", "Biases1", "Biases2")],
)  # fmt: skip
def test_names_pair_what_the_order_does_not(first, second, b, c):
    """Of layers of one size, whose biases fit each other's place."""
    shapes = {first: (4, 4), second: (4, 4), c: 4, b: 4}
    assert pairs(shapes) == [(first, b, (4, 4)), (second, c, (4, 4))]
    assert pairs({"U": (4, 4)} | shapes)[0] == ("U", None, (4, 4)), "the array behind it is another's"


def test_weights_may_be_out_in():
    shapes = {"l1.weight": (6, 4), "l1.bias": 6, "l2.weight": (5, 6), "l2.bias": (5, 1), "l3.weight": (5, 5), "c": 5}
    assert pairs(shapes) == [
        ("l1.weight", "l1.bias", (4, 6)), ("l2.weight", "l2.bias", (6, 5)), ("l3.weight", "c", (5, 5))
    ]  # fmt: skip
    assert all(layer.turned for layer in layers({name: np.ones(s) for name, s in shapes.items()}))
    assert pairs({"W": (3, 2), "b": 2, "V": (2, 7), "c": 2}) == [("W", "b", (3, 2)), ("V", None, (2, 7))]
    assert pairs({"W": (3, 2), "b": ()}) == [("W", None, (3, 2))]


def test_a_bias_is_taken_for_what_follows_its_matrix():
    found = layers({"W1": np.ones((4, 6)), "W2": np.ones((6, 5)), "s": np.ones(1), "b1": np.ones(6), "b2": np.ones(5)})
    assert forward_order(["W1", "W2", "s", "b1", "b2"], found) == ["W1", "b1", "W2", "b2", "s"]


def test_groups_by_name_or_by_the_code():
    assert groups(None, ["Enc.W", "dec.W", "sigma"]) == (["Enc.W"], ["dec.W"])
    assert groups(None, ["W1", "W2"]) == ((), ())
