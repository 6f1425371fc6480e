"""What wrong gradients say together: on npvae's own models with one op spoilt, and on somebody's code."""

import broken
import numpy as np
import pytest

import npvae as nv
from npvae.ops import jit, reference
from npvae.relations import code, groups, layers

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


def test_a_unit_that_is_wrong_alone():
    def change(g):
        g["W4"][:, 2], g["b4"][2] = np.arange(6.0), 7.0
        return g

    report = spoilt(change)
    assert report.diagnosis.kind == "unit" and "unit 2" in report.diagnosis.text


def test_rows_that_are_lost_in_one_layer_alone():
    def change(g):
        rng = np.random.default_rng(0)
        return g | {"W4": rng.standard_normal(g["W4"].shape), "b4": rng.standard_normal(g["b4"].shape)}

    report = spoilt(change)
    assert report.diagnosis.kind == "rows"
    assert [check.name for check in report.tensors if not check.ok] == ["W4", "b4"]


def test_a_code_that_is_wrong_as_a_whole():
    """dz without the last activation's derivative: neither mu's terms nor log sigma's are of their kind."""

    def change(g):
        rng = np.random.default_rng(0)
        return {k: rng.standard_normal(v.shape) if k in broken.ENCODER.split() else v for k, v in g.items()}

    report = spoilt(change)
    assert report.diagnosis.kind == "activation" and "what flows back to the code" in report.diagnosis.text


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


def test_groups_by_name_or_by_the_code():
    assert groups(None, ["Enc.W", "dec.W", "sigma"]) == (["Enc.W"], ["dec.W"])
    assert groups(None, ["W1", "W2"]) == ((), ())
