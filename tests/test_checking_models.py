"""The gradient check of models: it passes what is right, finds what is wrong, and leaves the workspace as it was."""

import math

import numpy as np
import pytest

import npvae as nv
from npvae.ops import jit, reference

B, D = 5, 7
SMALL = {"data": D, "hidden": (6, 4), "latent": 3, "activation": "tanh"}
LIKELIHOODS = ("bernoulli", "gaussian", "gaussian-learned", "gaussian-optimal", "gaussian-pixel")
MODELS = {
    **{f"elbo {name}": nv.VAE(**SMALL, likelihood=name) for name in LIKELIHOODS},
    **{f"iwae {name}": nv.VAE(**SMALL, likelihood=name, bound=nv.IWAE()) for name in LIKELIHOODS},
    "free bits": nv.VAE(**SMALL, bound=nv.ELBO(free_bits=0.05)),
    "relu": nv.VAE(**{**SMALL, "activation": "relu"}),
    "ae": nv.Autoencoder(**SMALL),
    "linear": nv.LinearAutoencoder(data=D, latent=3),
}
BACKENDS = {"reference": reference, "jit": jit}


def batch(seed=1):
    return np.random.default_rng(seed).random((B, D))


def workspace(model, **options):
    samples = 3 if isinstance(model, nv.VAE) else 1
    ws = nv.Workspace(model, batch=B, **{"samples": samples, "dtype": "float64", "seed": 2} | options)
    ws.theta += 0.1 * np.random.default_rng(3).standard_normal(ws.theta.shape).astype(ws.dtype)  # no bias is 0
    return ws


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_passes(name, backend):
    ws = workspace(MODELS[name], backend=backend)
    beta = 0.7 if isinstance(ws.model, nv.VAE) else 1.0
    report = nv.gradcheck(ws, batch(), target=batch(2), beta=beta)
    assert report.ok, str(report)
    assert report.max_error < 1e-12
    assert max(check.central_error for check in report.tensors) < 1e-6
    expected = {name: view.shape for name, view in nv.named(ws.params).items()}
    assert {check.name: check.shape for check in report.tensors} == expected
    assert all(check.entries == min(100, math.prod(check.shape)) for check in report.tensors)


def test_a_float32_workspace_is_checked_in_double():
    report = nv.gradcheck(workspace(MODELS["elbo bernoulli"], dtype="float32"), batch().astype(np.float32))
    assert report.ok
    assert report.max_error < 1e-12


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_the_workspace_is_left_as_it_was(dtype):
    ws = workspace(MODELS["iwae gaussian-learned"], dtype=dtype)
    ws.forward(batch(4)[:3])
    ws.backward()
    named = {
        "theta": ws.theta,
        "dtheta": ws.dtheta,
        **{f"acts.{name}": view for name, view in nv.named(ws.acts).items()},
        **{f"dacts.{name}": view for name, view in nv.named(ws.dacts).items()},
    }
    before = {name: view.tobytes() for name, view in named.items()}
    state, terms, x = repr(ws.rng.bit_generator.state), ws.terms, batch()
    assert nv.gradcheck(ws, x).ok
    assert {name: view.tobytes() for name, view in named.items()} == before
    assert (repr(ws.rng.bit_generator.state), ws.terms) == (state, terms)
    assert np.array_equal(x, batch())
    ws.backward()  # still the derivative of the forward before
    assert ws.dtheta.tobytes() == before["dtheta"]


def test_the_same_workspace_gives_the_same_report():
    ws = workspace(MODELS["elbo bernoulli"])
    assert nv.gradcheck(ws, batch()) == nv.gradcheck(ws, batch())


def halved(original):
    """A backward that gives half of what it should."""

    def backward(*arguments, out, **options):
        result = original(*arguments, out=out, **options)
        for array in out if isinstance(out, tuple) else (out,):
            if array is not None:
                array *= 0.5
        return result

    return backward


BROKEN = {  # op: the tensors whose gradients it spoils, and one that it leaves alone
    "gaussian_kl_backward": ("elbo bernoulli", "encoder.", "decoder."),
    "reparameterize_backward": ("elbo bernoulli", "encoder.", "decoder."),
    "log_ratio_backward": ("iwae bernoulli", "encoder.", "decoder."),
    "gaussian_backward": ("elbo gaussian-learned", "likelihood.", None),
    "squared_error_backward": ("ae", "encoder.", None),
    "tied_backward": ("linear", "W", None),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", BROKEN)
def test_a_wrong_gradient_is_found_and_named(monkeypatch, op, backend):
    name, spoilt, sound = BROKEN[op]
    monkeypatch.setattr(BACKENDS[backend], op, halved(getattr(BACKENDS[backend], op)))
    report = nv.gradcheck(workspace(MODELS[name], backend=backend), batch())
    assert not report.ok
    assert report.max_error > 1e-3
    lines = str(report).splitlines()
    assert len(lines) == 1 + len(report.tensors) + len(report.findings) + 1
    for check, line in zip(report.tensors, lines[1:], strict=False):
        assert line.split()[0] == check.name
        wrong = check.complex_error > check.tolerance
        assert (" WRONG " in line) == wrong == (not check.ok)
        assert (" ok" in line) == (not wrong)
        if check.name.startswith(spoilt):
            assert wrong, line
            assert check.central_error > 1e-3, "both oracles see it"
            assert all(0 <= i < n for i, n in zip(check.worst, check.shape, strict=True))
        elif sound and check.name.startswith(sound):
            assert not wrong, line


def test_one_wrong_entry_is_found_where_it_is(monkeypatch):
    original = reference.dense_backward

    def backward(dy, x, W, y, act, out, scratch):
        original(dy, x, W, y, act, out=out, scratch=scratch)
        if W.shape == (6, 4):
            out[1][4, 2] += 1e-3

    monkeypatch.setattr(reference, "dense_backward", backward)
    report = nv.gradcheck(workspace(MODELS["elbo bernoulli"], backend="reference"), batch())
    assert [(check.name, check.worst) for check in report.tensors if check.complex_error > check.tolerance] == [
        ("encoder.1.W", (4, 2))
    ]


@pytest.mark.parametrize("which", (0, -1))
def test_nan_is_not_ok(which):
    ws = workspace(MODELS["elbo bernoulli"], backend="reference")
    ws.theta[which] = np.nan
    with np.errstate(invalid="ignore"):
        report = nv.gradcheck(ws, batch())
    assert not report.ok
    assert math.isnan(report.max_error)
    assert "nan" in str(report)
    assert "WRONG" in str(report)


def test_a_nan_in_one_gradient_alone_is_not_ok(monkeypatch):
    original = reference.dense_backward

    def backward(dy, x, W, y, act, out, scratch):
        original(dy, x, W, y, act, out=out, scratch=scratch)
        if W.shape == (4, 6):
            out[2][1] = np.nan

    monkeypatch.setattr(reference, "dense_backward", backward)
    report = nv.gradcheck(workspace(MODELS["ae"], backend="reference"), batch())
    assert not report.ok
    assert math.isnan(report.max_error)
    spoilt = [check.name for check in report.tensors if not check.complex_error <= check.tolerance]
    assert spoilt == ["decoder.1.b"]


def test_entries_are_spread_from_the_first_to_the_last(monkeypatch):
    """A fault in the very first or the very last entry is among the few that are checked."""
    original = reference.dense_backward
    for corner in ((0, 0), (6, 5)):

        def backward(dy, x, W, y, act, out, scratch, corner=corner):
            original(dy, x, W, y, act, out=out, scratch=scratch)
            if W.shape == (7, 6):
                out[1][corner] += 1

        monkeypatch.setattr(reference, "dense_backward", backward)
        report = nv.gradcheck(workspace(MODELS["ae"], backend="reference"), batch(), entries=3)
        assert report.tensors[0].entries == 3
        assert report.tensors[0].worst == corner
        assert not report.ok


def test_bad_input_is_refused():
    ws = workspace(MODELS["elbo bernoulli"])
    for x in (batch()[:, :6], batch()[:0], [[1.0] * D], batch()[0], batch().astype(object)):
        with pytest.raises(nv.InputError):
            nv.gradcheck(ws, x)
    for entries in (0, 1.5, -1):
        with pytest.raises(nv.InputError, match="entries"):
            nv.gradcheck(ws, batch(), entries=entries)


def test_a_model_is_not_a_workspace():
    with pytest.raises(nv.InputError, match="ws must be a Workspace"):
        nv.gradcheck(nv.VAE(4, (3,), 2), np.eye(4))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_right_model_with_a_large_constant_passes(backend, monkeypatch):
    """The complex step knows every slope, and no difference any: the loss is not called constant for it."""
    forward = nv.Workspace.forward
    monkeypatch.setattr(nv.Workspace, "forward", lambda *given: forward(*given) + 1e15)
    report = nv.gradcheck(workspace(MODELS["elbo gaussian"], backend=backend), batch())
    assert report.ok and report.max_error < 1e-12, str(report)
    assert not any(check.central_error < 1e-3 for check in report.tensors)


@pytest.mark.parametrize("size", [1e5, 1e6])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_of_inputs_that_are_not_normalised_passes(backend, size):
    """A step of 1e-2 in a weight of 1e-6 saturates every tanh."""
    rng = np.random.default_rng(0)
    model = nv.VAE(data=6, hidden=(5,), latent=2, activation="tanh", likelihood="gaussian")
    ws = nv.Workspace(model, batch=4, backend=backend)
    ws.params.encoder[0].W[:] /= size
    report = nv.gradcheck(ws, size * rng.random((4, 6)), rng.random((4, 6)))
    assert report.ok and report.findings == (), str(report)
    assert max(check.richardson_error for check in report.tensors) < 1e-8


def test_a_full_size_relu_model_passes():
    """On any way through its parameters some of 128,000 units are switched: that is no noise of its loss."""
    rng = np.random.default_rng(0)
    x = rng.random((128, 784)) * (rng.random((128, 784)) > 0.8)
    ws = nv.Workspace(nv.VAE(784, (500,), 20), batch=128, seed=0, backend="reference")
    report = nv.gradcheck(ws, x, entries=2)
    assert report.ok and report.findings == (), report
    assert report.max_error < 1e-12 and max(check.richardson_error for check in report.tensors) < 1e-6
