"""The gradient check itself: it passes what is right, and finds what is wrong."""

import math
import re

import numpy as np
import pytest

import npvae as nv
from npvae import examination
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
        wrong = check.complex_error > report.tolerance
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
    assert [(check.name, check.worst) for check in report.tensors if check.complex_error > report.tolerance] == [
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
    spoilt = [check.name for check in report.tensors if not check.complex_error <= report.tolerance]
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


# ── Anybody's code ───────────────────────────────────────────────────────────────────────────────────────────────────

A = np.random.default_rng(0).standard_normal((5, 4))
PARAMS = {
    "w": np.random.default_rng(1).standard_normal((4, 3)),
    "b": np.random.default_rng(2).standard_normal(3),
}


def cubes(p):
    return ((A @ p["w"] + p["b"]) ** 3).sum()


def cubes_gradients(p):
    d = 3 * (A @ p["w"] + p["b"]) ** 2
    return {"w": A.T @ d, "b": d.sum(0)}


def norm(p):  # a loss that takes floats alone, and has kinks
    return float(np.abs(A @ p["w"] + p["b"]).sum())


def norm_gradients(p):
    d = np.sign(A @ p["w"] + p["b"])
    return {"w": A.T @ d, "b": d.sum(0)}


def kinds(report):
    return [finding.kind for finding in report.findings]


def scaled(gradients, factor, *names):
    return lambda p: {k: g * (factor if k in names else 1) for k, g in gradients(p).items()}


def test_a_right_gradient_of_a_complex_safe_loss():
    report = nv.check_function(cubes, cubes_gradients, PARAMS)
    assert report.ok and report.findings == () and report.max_error < 1e-14
    assert all(c.oracle == "complex step" and c.diagnosis is None and c.kinks == 0 for c in report.tensors)
    assert all(c.richardson_error < 1e-10 and c.central_error < 1e-7 for c in report.tensors)


@pytest.mark.parametrize("loss", [norm, lambda p: np.float64(norm(p)), lambda p: np.abs(A @ p["w"] + p["b"]).sum()])
def test_a_loss_of_floats_is_checked_by_richardson_alone(loss):
    report = nv.check_function(loss, norm_gradients, PARAMS)
    assert report.ok
    assert report.max_error < 1e-10
    assert kinds(report) == ["not-complex-safe"]
    assert all(c.complex_error is None and c.oracle == "Richardson" for c in report.tensors)
    wrong = nv.check_function(loss, scaled(norm_gradients, 1 + 1e-7, "w"), PARAMS)
    assert [c.verdict for c in wrong.tensors] == ["WRONG", "ok"]


def test_the_complex_step_never_convicts_alone():
    """abs drops the imaginary part: the complex step says 0, Richardson's extrapolation knows better."""

    def loss(p):
        return np.abs(p["w"]).sum() + (p["b"] ** 2).sum()

    report = nv.check_function(loss, lambda p: {"w": np.sign(p["w"]), "b": 2 * p["b"]}, PARAMS)
    assert report.ok
    assert [(c.oracle, c.tolerance) for c in report.tensors] == [("Richardson", 1e-9), ("complex step", 1e-11)]
    assert kinds(report) == ["not-complex-safe"] and "w" in report.findings[0].text
    assert report.max_error < 1e-10


def test_the_complex_step_acquits_nothing_that_it_does_not_see():
    """A path that both `.real` and the gradient forget."""
    report = nv.check_function(
        lambda p: (p["w"].real ** 2).sum() + (p["b"] ** 2).sum(), lambda p: {"w": 0 * p["w"], "b": 2 * p["b"]}, PARAMS
    )
    assert [c.verdict for c in report.tensors] == ["WRONG", "ok"]
    assert report.tensors[0].complex_error == 0
    assert report.diagnosis.kind == "forgotten"


def test_another_loss_for_complex_numbers_is_not_believed():
    def loss(p):
        return cubes(p) + (1 if np.iscomplexobj(p["w"]) else 0)

    report = nv.check_function(loss, cubes_gradients, PARAMS)
    assert report.ok and kinds(report) == ["not-complex-safe"]


@pytest.mark.parametrize("size", [1, 1e-6, 1e-12, 1e6])
@pytest.mark.parametrize("loss", ["complex", "float"])
def test_a_small_tensor_is_measured_by_itself(size, loss):
    """Down to a gradient 1e-12 of the other; there a loss of floats, whose differences round at 1e-14, is undecided."""

    def both(p):
        total = (p["w"] ** 2).sum() + size * (p["b"] ** 2).sum()
        return float(total) if loss == "float" else total

    def gradients(p):
        return {"w": 2 * p["w"], "b": 2 * size * p["b"]}

    assert nv.check_function(both, gradients, PARAMS).ok
    wrong = nv.check_function(both, scaled(gradients, 2, "b"), PARAMS)
    lost = size == 1e-12 and loss == "float"  # and below any use: 2 of 1e-12 is as near 0 as its half
    assert wrong.ok == lost


def centred(x):
    """A loss with a bias before a mean is subtracted, and its derivative by what that is added to."""

    def loss(p):
        y = x @ p["w"] + p["b"]
        return (np.tanh(y - y.mean(0)) ** 3).sum()

    def derivative(p):
        y = x @ p["w"] + p["b"]
        t = np.tanh(y - y.mean(0))
        d = 3 * t**2 * (1 - t**2)
        return d - d.mean(0)

    return loss, derivative


def test_a_gradient_that_cancels_to_nothing_may_be_rounding():
    loss, derivative = centred(A)

    def gradients(p):
        d = derivative(p)
        return {"w": A.T @ d, "b": d.sum(0)}

    assert 0 < np.max(np.abs(gradients(PARAMS)["b"])) < 1e-14
    report = nv.check_function(loss, gradients, PARAMS)
    assert report.ok and report.max_error < 1e-13
    assert nv.check_function(
        lambda p: float(loss(p).real) if not np.iscomplexobj(p["b"]) else 1 / 0, gradients, PARAMS
    ).ok
    for off in (1e-3, 1e-9, 1e-12):
        assert not nv.check_function(loss, lambda p, off=off: gradients(p) | {"b": np.full(3, off)}, PARAMS).ok


def relu_sum(p):
    return (np.maximum(p["b"], 0) + 0.1 * np.tanh(p["b"])).sum() + (p["w"] ** 2).sum()


def relu_gradients(p):
    return {"w": 2 * p["w"], "b": (p["b"] > 0) + 0.1 * (1 - np.tanh(p["b"]) ** 2)}


@pytest.mark.parametrize("floats", [True, False])
def test_kinks_are_left_out_and_counted(floats):
    """One entry of 300 lies on a kink, where 0 and 1 are both right; another value is not excused by it."""
    loss = (lambda p: float(relu_sum(p))) if floats else relu_sum
    params = {"w": PARAMS["w"], "b": np.where(np.arange(300) == 7, 0.0, np.random.default_rng(0).standard_normal(300))}
    for subgradient, kinks in ((0, 1), (1, 1)):
        report = nv.check_function(loss, lambda p, s=subgradient: relu_gradients(p) | {
            "b": relu_gradients(p)["b"] + s * (np.arange(300) == 7)}, params)  # fmt: skip
        left_out = report.tensors[1].kinks * 300
        assert report.ok
        if left_out:  # the complex step takes one of the two sides, and acquits whoever takes the same
            assert left_out == pytest.approx(kinks)
            assert report.tensors[1].diagnosis.kind == "kinks"
            assert kinds(report)[-1] == "kinks" and not report.findings[-1].fatal
            assert "1 of 300 left out: the loss is bent there, at [7]" in str(report)
        else:
            assert not floats and kinds(report) == ["kinks-crossed"] and not report.findings[-1].fatal
            assert "0.321 % of what was checked lies on a kink" in str(report)  # 1 of 312
            assert "1 of 300 on a kink, at [7]: the complex step" in str(report)
    wrong = nv.check_function(loss, lambda p: relu_gradients(p) | {
        "b": relu_gradients(p)["b"] + 5.0 * (np.arange(300) == 7)}, params)  # fmt: skip
    assert wrong.tensors[1].verdict == "WRONG" and wrong.tensors[1].worst == (7,)
    assert wrong.diagnosis.kind in ("kink", "entry")
    assert "[7]" in wrong.diagnosis.text


@pytest.mark.parametrize("count", [20, 300])
@pytest.mark.parametrize("value, verdict", [(-1, "ok"), (0.5, "ok"), (1, "ok"), (1.001, "WRONG"), (-2.9, "WRONG")])
def test_at_a_kink_a_gradient_lies_between_the_slopes(value, verdict, count):
    w = np.where(np.arange(count) == 7, 0.0, np.random.default_rng(0).standard_normal(count))
    report = nv.check_function(
        lambda p: np.abs(p["w"]).sum() + (p["w"] ** 2).sum(),
        lambda p: {"w": np.where(p["w"] == 0, value, np.sign(p["w"]) + 2 * p["w"])},
        {"w": w},
    )
    assert report.tensors[0].verdict == verdict
    assert verdict == "ok" or (report.tensors[0].worst == (7,) and report.diagnosis.kind == "kink")


def test_kinks_along_directions_are_counted_too():
    """Every entry lies on a kink, and so does every direction; what the complex step sees is right all the same."""
    zeros = {"b": np.zeros(3000)}
    report = nv.check_function(lambda p: (p["b"] * (p["b"].real > 0)).sum(), lambda p: {"b": np.zeros(3000)}, zeros)
    assert report.ok and report.tensors[0].kinks == 0
    assert "18 of 18 on a kink, at [0], " in str(report) and "and 12 more and along 2 random directions" in str(report)
    assert "100 % of what was checked" in str(report)


def test_too_many_kinks_fail():
    params = {"w": PARAMS["w"], "b": np.zeros(3)}
    report = nv.check_function(lambda p: float(relu_sum(p)), relu_gradients, params)
    assert not report.ok
    assert report.tensors[1].kinks == 1 and report.tensors[1].verdict == "undecided"
    assert report.findings[-1].kind == "kinks" and report.findings[-1].fatal


def test_a_wrong_gradient_of_a_bent_loss_is_not_excused():
    """All of a ReLU network's kinks are near: none excuses a factor."""
    report = nv.check_function(norm, scaled(norm_gradients, 1.001, "w", "b"), PARAMS)
    assert all(c.verdict == "WRONG" and c.kinks == 0 for c in report.tensors)


def test_a_loss_that_ignores_a_tensor():
    def loss(p):
        return (p["w"] ** 2).sum()

    for gradients in (lambda p: {"w": 2 * p["w"], "b": 0 * p["b"]}, lambda p: {"w": 2 * p["w"]}):
        report = nv.check_function(loss, gradients, PARAMS)
        assert report.ok
        assert report.tensors[1].diagnosis == nv.Diagnosis("no-effect", "the loss does not depend on it")
    report = nv.check_function(loss, lambda p: {"w": 2 * p["w"], "b": 1e-3 * p["b"]}, PARAMS)
    assert report.diagnosis.kind == "unfounded" and not report.ok


def test_zeros_on_a_kink_are_no_array_that_the_loss_ignores():
    """At |w| = 0 the central difference and Richardson's are 0 too."""
    params = {"w": np.zeros(3), "v": np.ones(400)}
    for root in (np.sqrt, lambda square: float(np.sqrt(square.sum()))):

        def loss(p, root=root):
            return np.sum(root(p["w"] ** 2)) + (p["v"] ** 2).sum()

        report = nv.check_function(loss, lambda p: {"w": 0 * p["w"], "v": 2 * p["v"]}, params)
        assert [c.verdict for c in report.tensors] == ["undecided", "ok"] and not report.ok
        assert report.tensors[0].diagnosis.text == "the loss is bent wherever it was looked at"


def test_a_gradient_of_zero_that_the_complex_step_contradicts_is_undecided():
    """Beside 2e8 no difference shows 3e-7, and as rounding it may pass; 0 has none."""
    params = {"a": 100 * PARAMS["w"], "b": PARAMS["b"]}

    def loss(p):
        return 1e6 * (p["a"] ** 2).sum() + 1e-7 * (p["b"] ** 3).sum()

    for factor, verdict in ((1, "ok"), (0, "undecided")):
        report = nv.check_function(loss, lambda p, f=factor: {"a": 2e6 * p["a"], "b": f * 3e-7 * p["b"] ** 2}, params)
        assert [c.verdict for c in report.tensors] == ["ok", verdict] and report.ok == (verdict == "ok")


@pytest.mark.parametrize("rows", [3, 5, 7, 11, 12, 33])
def test_a_gradient_of_zero_where_all_cancels_is_right(rows):
    """The complex step sees what rounding leaves of a mean that is subtracted."""
    x = np.random.default_rng(rows).standard_normal((rows, 4))
    loss, derivative = centred(x)
    report = nv.check_function(loss, lambda p: {"w": x.T @ derivative(p), "b": np.zeros(3)}, PARAMS)
    assert report.ok, str(report)


@pytest.mark.parametrize("coarse", [np.float16, lambda loss: np.round(loss, 2), lambda loss: loss + 1e15])
def test_a_coarse_loss_is_not_called_constant(coarse):
    report = nv.check_function(lambda p: coarse(net(p)), net_gradients, NET)
    assert {c.verdict for c in report.tensors} == {"undecided"} and "constant" not in kinds(report)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_right_model_with_a_large_constant_passes(backend, monkeypatch):
    """The complex step knows every slope, and no difference any: the loss is not called constant for it."""
    forward = nv.Workspace.forward
    monkeypatch.setattr(nv.Workspace, "forward", lambda *given: forward(*given) + 1e15)
    report = nv.gradcheck(workspace(MODELS["elbo gaussian"], backend=backend), batch())
    assert report.ok and report.max_error < 1e-12, str(report)
    assert not any(check.central_error < 1e-3 for check in report.tensors)


def test_a_loss_that_ignores_everything():
    report = nv.check_function(lambda p: 3.0, lambda p: {"w": 0 * p["w"], "b": 0 * p["b"]}, PARAMS)
    assert not report.ok and kinds(report)[-1] == "constant" == report.diagnosis.kind


def test_an_all_zero_gradient_where_the_loss_varies():
    report = nv.check_function(cubes, lambda p: {k: 0 * v for k, v in p.items()}, PARAMS)
    assert not report.ok and report.diagnosis.text.startswith("the whole gradient: forgotten")


def test_noise_in_the_loss_and_noise_in_the_gradient():
    rng = np.random.default_rng(0)
    report = nv.check_function(lambda p: cubes(p) + rng.standard_normal(), cubes_gradients, PARAMS)
    assert not report.ok and report.diagnosis.kind == "loss-random"
    assert all(c.verdict == "undecided" and c.entries == 0 for c in report.tensors)
    assert "nan" in str(report)
    report = nv.check_function(cubes, lambda p: scaled(cubes_gradients, rng.random(), "b")(p), PARAMS)
    assert not report.ok and kinds(report) == ["gradient-random"] and report.diagnosis.kind == "noise"
    assert "two calls differ in b" in report.diagnosis.text


def drifting(after, change):
    """A loss and its gradients, both multiplied by a state that every call of either changes once `after` were made."""
    calls = []

    def state(kind):
        calls.append(kind)
        return 1 + 0.01 * change(calls[after:])

    return (
        lambda p: float(cubes(p)) * state("loss"),
        lambda p: {name: g * state("gradients") for name, g in cubes_gradients(p).items()},
    )


@pytest.mark.parametrize(
    "after, change, when",
    [
        (10, len, "a few calls later"),
        (100, len, "in the end"),
        (0, lambda calls: calls.count("gradients"), "after its gradients were asked for"),
    ],
)
def test_a_state_that_drifts_is_not_called_noise(after, change, when):
    report = nv.check_function(*drifting(after, change), PARAMS)
    assert not report.ok and report.diagnosis.kind == "drift"
    assert "how often it was called" in report.diagnosis.text and when in report.diagnosis.text
    assert "noise" not in str(report) and "single" not in kinds(report)
    assert all(c.verdict == "undecided" for c in report.tensors)


@pytest.mark.parametrize("period", [2, 3, 4])
@pytest.mark.parametrize("other", ["rows", "text", "nothing", "objects", "left out"])
def test_a_gradient_that_is_another_thing_in_every_call(other, period):
    """Of another shape or kind, or not there: said in words, and nothing of it is computed with."""
    calls = []

    def gradients(p):
        calls.append(1)
        g = cubes_gradients(p)
        w = 2 * g["w"]
        others = {"rows": w[:2], "text": w.astype(str), "nothing": None, "objects": np.array([1, "a", None], object)}
        if other == "left out":
            return g if len(calls) % period else {"b": g["b"]}
        return g | {"w": w if len(calls) % period else others[other]}

    report = nv.check_function(cubes, gradients, PARAMS)
    assert not report.ok and {"stale", "gradient-random"} & set(kinds(report))


def test_objects_are_compared_by_what_they_are():
    report = nv.check_function(
        cubes, lambda p: {name: g.astype(object) for name, g in cubes_gradients(p).items()}, PARAMS
    )
    assert kinds(report) == [] and report.diagnosis.text == "the whole gradient: not real numbers but object"
    report = nv.check_function(cubes, lambda p: {name: (2 * x for x in p[name]) for name in p}, PARAMS)
    assert kinds(report) == [] and report.diagnosis.text == "the whole gradient: not real numbers but object"


def test_what_changes_its_parameters_is_found():
    def spoils(p):
        g = cubes_gradients(p)
        p["b"] += 1
        return g

    before = {k: v.tobytes() for k, v in PARAMS.items()}
    report = nv.check_function(cubes, spoils, PARAMS)
    assert not report.ok and all(c.ok for c in report.tensors)
    assert report.diagnosis.kind == "mutation" and "gradients changes" in report.diagnosis.text

    def loss(p):
        p["w"] *= 2
        return cubes(p)

    report = nv.check_function(loss, lambda p: cubes_gradients({**p, "w": 2 * p["w"]}) | {}, PARAMS)
    assert "mutation" in kinds(report)
    assert {k: v.tobytes() for k, v in PARAMS.items()} == before


def test_memory_that_is_shared_is_found():
    buffer = np.zeros(12)

    def gradients(p):
        buffer[:] = 2 * p["w"].ravel()
        return {"w": buffer.reshape(4, 3), "b": buffer[9:]}

    report = nv.check_function(lambda p: (p["w"] ** 2).sum(), gradients, PARAMS)
    assert "memory is shared by the gradient of w and the gradient of b" in str(report)
    report = nv.check_function(lambda p: (p["w"] ** 2).sum() / 2, lambda p: {"w": p["w"], "b": 0 * p["b"]}, PARAMS)
    assert kinds(report) == ["overlap"] and not report.ok and all(c.ok for c in report.tensors)
    assert "the gradient of w and the parameter w: return copies" in report.findings[0].text
    report = nv.check_function(lambda p: (p["w"] ** 2).sum(), lambda p: {"w": p["w"], "b": 0 * p["b"]}, PARAMS)
    assert report.tensors[0].verdict == "WRONG" and report.diagnosis.kind == "overlap"


def test_parameters_that_overlap_are_found():
    """The loss of views of one array has another derivative than that of copies: each number counts twice."""
    theta = np.arange(1.0, 10)
    views = {"W": theta[:6].reshape(2, 3), "V": theta[3:].reshape(3, 2), "b": theta[:1]}

    def check(params):
        return nv.check_function(
            lambda p: sum((a**2).sum() for a in p.values()), lambda p: {name: 2 * a for name, a in p.items()}, params
        )

    report = check(views)
    assert kinds(report) == ["overlap"] == [report.diagnosis.kind] and not report.ok
    assert "memory is shared by the parameters W and V; W and b: " in report.diagnosis.text
    assert check({"W": theta[:6].reshape(2, 3), "V": theta[6:], "even": np.arange(9.0)[::2]}).ok


@pytest.mark.parametrize(
    "given, kind, words",
    [
        (lambda g: g["w"].T, "transposed", "(3, 4), not (4, 3): the transpose"),
        (lambda g: -g["w"].T, "transposed", "the transpose; and the numbers are wrong too"),
        (lambda g: np.stack([g["w"], 0 * g["w"]]), "shape", "sum over the first axis is missing"),
        (lambda g: g["w"].reshape(2, 6), "shape", "of shape (2, 6), not (4, 3)"),
        (lambda g: g["w"][:2], "shape", "of shape (2, 3), not (4, 3)"),
        (lambda g: g["w"] + 0j, "kind", "not real numbers but complex128"),
        (lambda g: None, "missing", "no gradient is returned for it"),
        (lambda g: "much", "kind", "not real numbers but <U4"),
    ],
)
def test_a_gradient_of_another_shape_or_kind(given, kind, words):
    report = nv.check_function(cubes, lambda p: cubes_gradients(p) | {"w": given(cubes_gradients(p))}, PARAMS)
    assert [c.verdict for c in report.tensors] == ["WRONG", "ok"]
    assert report.diagnosis.kind == kind and words in report.diagnosis.text


def test_single_precision_is_named():
    def blurred(p):
        return np.float32(((A.astype(np.float32) @ p["w"].astype(np.float32) + p["b"].astype(np.float32)) ** 3).sum())

    report = nv.check_function(blurred, cubes_gradients, PARAMS)
    assert not report.ok and "single" in kinds(report) and report.diagnosis.kind == "undecided"
    wrong = nv.check_function(blurred, scaled(cubes_gradients, 0.5, "w"), PARAMS)
    assert wrong.tensors[0].verdict == "WRONG"
    floats = nv.check_function(
        cubes, lambda p: {k: g.astype(np.float32) for k, g in cubes_gradients(p).items()}, PARAMS
    )
    assert floats.ok and 1e-9 < floats.max_error < 1e-6 and {c.tolerance for c in floats.tensors} == {1e-5}
    assert not nv.check_function(
        cubes, lambda p: {k: (g * 1.001).astype(np.float32) for k, g in cubes_gradients(p).items()}, PARAMS
    ).ok


NET = {
    "W1": np.random.default_rng(8).standard_normal((8, 6)) / 3,
    "b1": np.random.default_rng(9).standard_normal(6) / 9,
    "W2": np.random.default_rng(10).standard_normal((6, 8)) / 3,
    "b2": np.random.default_rng(11).standard_normal(8) / 9,
}
ROWS = np.random.default_rng(12).random((16, 8))


def net(p, cast=lambda name, a: a, finish=lambda loss, p: loss):
    """A loss of floats; `cast` is told of every parameter and of the hidden layer."""
    q = {name: cast(name, v) for name, v in p.items()}
    x = ROWS.astype(q["W1"].dtype)
    h = cast("h", np.tanh(x @ q["W1"] + q["b1"]))
    r = h @ q["W2"] + q["b2"] - x
    return finish(float((r**2).sum() / len(x)), p)


def net_gradients(p, decay=0.0):
    h = np.tanh(ROWS @ p["W1"] + p["b1"])
    r = 2 * (h @ p["W2"] + p["b2"] - ROWS) / len(ROWS)
    da = r @ p["W2"].T * (1 - h * h)
    g = {"W1": ROWS.T @ da, "b1": da.sum(0), "W2": h.T @ r, "b2": r.sum(0)}
    return {name: a + decay * p[name] for name, a in g.items()}


def cast(*names):
    return lambda name, a: a.astype(np.float32) if name in names else a


def decayed(loss, p):  # in double precision, whatever the loss was computed in
    return loss + sum((v**2).sum() for v in p.values()) / 2000


IN_SINGLE = {  # how a loss may be in single precision without saying so: what `net` is given, and the decay
    "all parameters": ({"cast": cast(*NET)}, 0.0),
    "and a term in double": ({"cast": cast(*NET), "finish": decayed}, 0.001),
    "some parameters": ({"cast": cast("W1", "W2")}, 0.0),
    "a buffer": ({"cast": cast("h")}, 0.0),
    "the loss": ({"finish": lambda loss, p: np.float32(loss)}, 0.0),
    "large numbers cancel": ({"finish": lambda loss, p: (loss + 1e9) - 1e9}, 0.0),
}


@pytest.mark.parametrize("how", IN_SINGLE)
def test_a_loss_of_few_digits_convicts_nothing_that_is_right(how):
    options, decay = IN_SINGLE[how]

    def loss(p):
        return net(p, **options)

    report = nv.check_function(loss, lambda p: net_gradients(p, decay), NET)
    assert "single" in kinds(report) and "float64" in str(report)
    assert not any(c.verdict == "WRONG" for c in report.tensors), str(report)
    wrong = nv.check_function(loss, lambda p: scaled(lambda q: net_gradients(q, decay), 1.5, "W1")(p), NET)
    assert [c.name for c in wrong.tensors if c.verdict == "WRONG"] == ["W1"]
    assert wrong.diagnosis.kind == "factor" and wrong.diagnosis.text[:8] in ("W1: 3/2 ", "W1: 1.5 ")


def test_a_loss_of_few_digits_is_told_of_no_cause():
    """Three parts in a hundred off, by no rule: more than the loss leaves open, too little to be another formula."""
    off = {name: 1 + 0.03 * np.random.default_rng(13).standard_normal(v.shape) for name, v in NET.items()}

    def gradients(p):
        return {name: g * (off[name] if name in ("W2", "b2") else 1) for name, g in net_gradients(p).items()}

    report = nv.check_function(lambda p: net(p, cast(*NET)), gradients, NET)
    assert {c.name for c in report.tensors if c.verdict == "WRONG"} == {"W2", "b2"}
    assert report.diagnosis.kind == "coarse" and "too few digits" in report.diagnosis.text


def test_a_large_loss_in_double_is_not_called_single():
    """Beside 1e9 its steps are as coarse as those of float32; it is no less double precision."""
    report = nv.check_function(lambda p: net(p, finish=lambda loss, p: loss + 1e9), net_gradients, NET)
    assert kinds(report) == ["not-complex-safe"]
    assert {c.verdict for c in report.tensors} == {"undecided"}
    wrong = nv.check_function(
        lambda p: net(p, finish=lambda loss, p: loss + 1e9), scaled(net_gradients, 1.5, "W1"), NET
    )
    assert [c.verdict for c in wrong.tensors] == ["WRONG", *["undecided"] * 3]
    report = nv.check_function(lambda p: cubes(p) + 1e9, cubes_gradients, PARAMS)
    assert report.ok and report.findings == ()


def test_a_loss_of_zero_at_its_minimum_is_not_called_single():
    def loss(p):
        return sum(((p[name] - PARAMS[name]) ** 2).sum() for name in p)

    report = nv.check_function(loss, lambda p: {name: 2 * (p[name] - PARAMS[name]) for name in p}, PARAMS)
    assert "single" not in kinds(report)


def test_a_loss_that_is_not_finite_is_not_ok():
    with np.errstate(all="ignore"):
        report = nv.check_function(lambda p: cubes(p) * np.inf, cubes_gradients, PARAMS)
    assert not report.ok and "not-finite" in kinds(report)

    def edge(p):  # finite here, and nowhere to the right
        return cubes(p) + (0.0 if p["b"][0].real <= PARAMS["b"][0] else np.inf)

    report = nv.check_function(edge, cubes_gradients, PARAMS)
    assert report.tensors[1].verdict == "undecided" and "not finite around" in report.tensors[1].diagnosis.text


@pytest.mark.parametrize("log", [np.log, math.log], ids=["NaN", "raises"])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_loss_that_is_not_defined_a_step_away(log, factor):
    """ln w at w = 0.001: Richardson's first step leads to where numpy.log is NaN and math.log raises."""

    def loss(p):
        return sum(log(float(w)) for w in p["w"])

    with np.errstate(all="ignore"):
        report = nv.check_function(loss, lambda p: {"w": factor / p["w"]}, {"w": np.array([1e-3, 0.5])})
    assert report.ok == (factor == 1)
    assert report.tensors[0].verdict == ("ok" if factor == 1 else "WRONG")


def test_what_a_loss_raises_where_it_is_checked_is_raised():
    with pytest.raises(ValueError, match="math domain error"):
        nv.check_function(lambda p: math.log(p["w"][0]), lambda p: {"w": 1 / p["w"]}, {"w": np.array([-1.0])})

    def loss(p):  # not even a number a step away
        return 3.0 if p["b"][0].real == PARAMS["b"][0] else "much"

    with pytest.raises(nv.InputError, match="loss must return a real number"):
        nv.check_function(loss, cubes_gradients, PARAMS)


def test_shapes_at_the_edge():
    params = {"scalar": np.array(2.0), "deep": np.ones((2, 1, 2)), "empty": np.ones((0, 3))}
    report = nv.check_function(
        lambda p: p["scalar"] ** 2 + (p["deep"] ** 2).sum(),
        lambda p: {"scalar": 2 * p["scalar"], "deep": 2 * p["deep"], "empty": p["empty"] * 1},
        params,
    )
    assert report.ok, str(report)
    assert [c.entries for c in report.tensors] == [1, 4, 0]
    assert [c.worst for c in report.tensors] == [(), (0, 0, 0), None]
    assert "extra" in kinds(nv.check_function(cubes, lambda p: cubes_gradients(p) | {"c": A}, PARAMS))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_are_copied_into_double_precision(dtype):
    seen = set()

    def loss(p):
        seen.update(v.dtype.name for v in p.values())
        return cubes(p)

    given = {k: v.astype(dtype) for k, v in PARAMS.items()}
    assert nv.check_function(loss, cubes_gradients, given).ok
    assert seen == {"float64", "complex128"}


# ── Functions with more to them than the first steps see ──────────────────────────────────────────────────────────────


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


WAVE = 2 * np.pi
STEEP = {  # loss, gradient and where: it saturates, repeats or ends within the first steps
    "tanh of a million": (lambda w: np.tanh(1e6 * w), lambda w: 1e6 * (1 - np.tanh(1e6 * w) ** 2), [1e-6, -5e-7]),
    "tanh at a million": (lambda w: np.tanh(w - 1e6 - 0.3), lambda w: 1 - np.tanh(w - 1e6 - 0.3) ** 2, [1e6]),
    "wave at 300": (lambda w: np.sin(WAVE * w), lambda w: WAVE * np.cos(WAVE * w), [300.3]),
    "short wave": (lambda w: np.sin(512 * WAVE * w), lambda w: 512 * WAVE * np.cos(512 * WAVE * w), [0, 0.25, 0.5]),
    "bump of 1e-4": (lambda w: 1e4 * w * np.exp(-((1e4 * w) ** 2)), lambda w: 1e4 + 0 * w, [0]),
    "bump of 1e-5": (lambda w: 1e5 * w * np.exp(-((1e5 * w) ** 2)), lambda w: 1e5 + 0 * w, [0]),
}


@pytest.mark.parametrize("floats", [True, False])
@pytest.mark.parametrize("name", STEEP)
def test_what_the_first_steps_do_not_see(name, floats):
    function, derivative, w = STEEP[name]
    params = {"w": np.array(w, float), "v": np.ones(3)}

    def loss(p):
        total = function(p["w"]).sum() + (p["v"] ** 2).sum()
        return float(total) if floats else total

    for factor, verdict in ((1, "ok"), (0, "WRONG"), (1.001, "WRONG")):
        report = nv.check_function(loss, lambda p, f=factor: {"w": f * derivative(p["w"]), "v": 2 * p["v"]}, params)
        assert [c.verdict for c in report.tensors] == [verdict, "ok"], str(report)
        assert report.ok == (factor == 1) and kinds(report) == ["not-complex-safe"] * floats


# ── Large arrays ─────────────────────────────────────────────────────────────────────────────────────────────────────

LARGE = {
    "w": np.random.default_rng(3).standard_normal((70, 40)),
    "b": np.random.default_rng(4).standard_normal(40),
}


def waves(p):
    return (np.sin(p["w"]).sum(0) * np.cos(p["b"])).sum()


def waves_gradients(p):
    return {"w": np.cos(p["w"]) * np.cos(p["b"]), "b": -np.sin(p["w"]).sum(0) * np.sin(p["b"])}


@pytest.mark.parametrize("floats", [True, False])
@pytest.mark.parametrize(
    "where, words",
    [
        ((50, 13), "wrong in one entry alone, [50, 13]"),
        (np.s_[50], "wrong in row 50 alone"),
        (np.s_[:, 13], "wrong in column 13 alone"),
        (np.s_[:, 20:], "columns 20 to 39 (the second half), there 1.01 times"),
    ],
)
def test_a_fault_in_a_large_array_is_found_where_it_is(where, words, floats):
    def gradients(p):
        g = waves_gradients(p)
        g["w"][where] *= 1.01
        return g

    loss = (lambda p: float(waves(p))) if floats else waves
    report = nv.check_function(loss, gradients, LARGE)
    assert report.tensors[0].entries == 16 and report.tensors[0].directions == 2
    assert [c.verdict for c in report.tensors] == ["WRONG", "ok"]
    assert words in report.diagnosis.text
    inside = np.zeros((70, 40), bool)
    inside[where] = True
    assert inside[report.tensors[0].worst]
    assert nv.check_function(loss, waves_gradients, LARGE).ok


def test_what_no_checked_entry_shows_is_explained_by_none():
    """Two columns are off, of which two entries know nothing: what is right there is no evidence."""

    def gradients(p):
        g = waves_gradients(p)
        g["w"][:, 13:15] *= 1.01
        return g

    report = nv.check_function(waves, gradients, LARGE, entries=2)
    check = report.tensors[0]
    assert (check.verdict, check.diagnosis.kind) == ("WRONG", "unseen")
    assert f"wrong at {list(check.worst)} and elsewhere, but at none of the 2 entries" in check.diagnosis.text
    assert check.worst[1] in (13, 14)


FULL = {"We": (784, 500), "be": 500, "Wc": (500, 40), "bc": 40, "Wd": (20, 500), "bd": 500, "Wx": (500, 784), "bx": 784}


@pytest.mark.parametrize("bent, milliseconds, entries, along, most", [
    (False, 2, 16, 2, 1220), (False, 10, 8, 2, 710), (False, 18, 4, 2, 450), (False, 30, 1, 2, 330),
    (False, 50, 1, 1, 200), (True, 2, 16, 2, 1520), (True, 5, 8, 2, 960), (True, 14, 1, 2, 450),
])  # fmt: skip
def test_a_full_size_model_is_checked_in_ten_seconds(monkeypatch, bent, milliseconds, entries, along, most):
    """784-500-20, and a loss of floats alone, smooth or bent everywhere; by a clock that only the loss moves."""
    rng, calls = np.random.default_rng(0), []
    params = {name: 0.05 * rng.standard_normal(shape) for name, shape in FULL.items()}

    def loss(p):
        calls.append(milliseconds)
        return float(sum(np.abs(v).sum() if bent else v.ravel() @ v.ravel() for v in p.values()))

    monkeypatch.setattr(examination, "perf_counter", lambda: sum(calls) / 1000)
    report = nv.check_function(loss, lambda p: {k: np.sign(v) if bent else 2 * v for k, v in p.items()}, params)
    assert report.ok
    assert {(check.entries, check.directions) for check in report.tensors} == {(entries, along)}
    assert len(calls) <= most and len(calls) * milliseconds <= 10_000


@pytest.mark.parametrize("milliseconds, entries", [(0.1, (1200, 600, 9)), (10, (16, 16, 9)), (60, (1, 1, 1))])
def test_a_small_model_whose_loss_is_slow_is_checked_in_ten_seconds(monkeypatch, milliseconds, entries):
    rng, calls = np.random.default_rng(0), []
    params = {name: rng.standard_normal(shape) for name, shape in (("W", (40, 30)), ("V", (30, 20)), ("b", 9))}

    def loss(p):
        calls.append(milliseconds)
        return float(sum(v.ravel() @ v.ravel() for v in p.values()))

    monkeypatch.setattr(examination, "perf_counter", lambda: sum(calls) / 1000)
    report = nv.check_function(loss, lambda p: {k: 2 * v for k, v in p.items()}, params)
    assert report.ok and tuple(check.entries for check in report.tensors) == entries, str(report)
    # What is not looked at entry by entry is along a direction.
    assert all(c.directions or c.entries == math.prod(c.shape) for c in report.tensors)
    assert len(calls) * milliseconds <= 10_000
    wrong = nv.check_function(loss, lambda p: {k: (2 + (k == "b")) * v for k, v in p.items()}, params)
    assert [c.verdict for c in wrong.tensors] == ["ok", "ok", "WRONG"]


def test_a_full_size_relu_model_passes():
    """On any way through its parameters some of 128,000 units are switched: that is no noise of its loss."""
    rng = np.random.default_rng(0)
    x = rng.random((128, 784)) * (rng.random((128, 784)) > 0.8)
    ws = nv.Workspace(nv.VAE(784, (500,), 20), batch=128, seed=0, backend="reference")
    report = nv.gradcheck(ws, x, entries=2)
    assert report.ok and report.findings == (), report
    assert report.max_error < 1e-12 and max(check.richardson_error for check in report.tensors) < 1e-6


def test_who_asks_for_entries_gets_them(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(examination, "perf_counter", lambda: next(clock) * 1000.0)
    for entries, expected in ((None, (1, 1)), (30, (30, 2))):
        report = nv.check_function(waves, waves_gradients, LARGE, entries=entries)
        assert {(c.entries, c.directions) for c in report.tensors} == {expected}


def test_progress_is_told():
    told = []
    nv.check_function(cubes, cubes_gradients, PARAMS, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_terms_may_be_gradients():
    def terms(p):
        return {"sum": {"w": np.ones((4, 3))}, "squares": {"w": 4 * p["w"], "b": p["b"]}}

    report = nv.check_function(
        lambda p: p["w"].sum() + (p["w"] ** 2).sum() + (p["b"] ** 2).sum() / 2,
        lambda p: {"w": 1 + 4 * p["w"], "b": p["b"].copy()}, PARAMS, terms=terms,
    )  # fmt: skip
    assert report.diagnosis.kind == "term" and "the term of the squares is 2 times" in report.diagnosis.text


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"params": [1.0]}, "params must be a dict"),
        ({"params": {}}, "params must be a dict"),
        ({"params": {"w": [1.0]}}, "params must map names to arrays"),
        ({"params": {"w": np.arange(3)}}, "must hold real numbers"),
        ({"params": {"w": np.ones(2) + 0j}}, "must hold real numbers"),
        ({"loss": 3.0}, "loss must be a function, got float"),
        ({"gradients": cubes_gradients(PARAMS)}, "gradients must be a function, got dict"),
        ({"terms": {}}, "terms must be a function"),
        ({"gradients": lambda p: {"w": [[1.0], [1.0, 2.0]]}}, "gradients: w must be an array, got a list of parts"),
        ({"sizes": "B"}, "sizes must be a dict such as {'B': 16, 'D': 784}, got 'B'"),
        ({"sizes": [16]}, "sizes must be a dict"),
        ({"sizes": {"B": None}}, "sizes must map names to numbers such as 'B': 16, got 'B': None"),
        ({"sizes": {"B": "16"}}, "sizes must map"),
        ({"sizes": {"B": [16]}}, "sizes must map"),
        ({"sizes": {"B": math.nan}}, "sizes must map"),
        ({"sizes": {"B": True}}, "sizes must map"),
        ({"sizes": {1: 16}}, "sizes must map"),
        ({"loss": lambda p: "much"}, "loss must return a real number"),
        ({"loss": lambda p: p["b"]}, "loss must return a real number"),
        ({"loss": lambda p: True}, "loss must return a real number, got bool"),
        ({"loss": lambda p: np.True_}, "loss must return a real number, got bool"),
        ({"loss": lambda p: 10**400}, "loss must return a number that a float can hold, got 1000000"),
        (
            {"params": {"w": np.ones((0, 3)), "b": np.ones(0)}},
            "params holds no number: w of shape (0, 3), b of shape (0,)",
        ),
        ({"gradients": lambda p: [1]}, "gradients must return a dict"),
        ({"entries": 0}, "entries"),
        ({"terms": lambda p: 1, "gradients": lambda p: {}}, "terms must return a dict"),
        ({"terms": lambda p: {"a": {"w": np.ones(2)}}, "gradients": lambda p: {}}, "must be real numbers of shape"),
        ({"terms": lambda p: {"a": {"w": "x"}}, "gradients": lambda p: {}}, "must be real numbers of shape"),
        ({"terms": lambda p: {"a": {"w": [[1], 1]}}, "gradients": lambda p: {}}, "terms: a of w must be an array"),
    ],
)
def test_what_check_function_refuses(changes, words):
    given = {"loss": cubes, "gradients": cubes_gradients, "params": PARAMS} | changes
    with pytest.raises(nv.InputError, match=re.escape(words)):
        nv.check_function(**given)


# ── An op ────────────────────────────────────────────────────────────────────────────────────────────────────────────

X, W = np.random.default_rng(5).standard_normal((4, 3)), np.random.default_rng(6).standard_normal((3, 2))


def test_a_pair():
    report = nv.check_pair(lambda x, W: x @ W, lambda dy, x, W: {"x": dy @ W.T, "W": x.T @ dy}, {"x": X, "W": W})
    assert report.ok and [c.name for c in report.tensors] == ["x", "W"]
    wrong = nv.check_pair(lambda x, W: x @ W, lambda dy, x, W: (dy @ W.T, x.T @ dy * 2), {"x": X, "W": W})
    assert [c.ok for c in wrong.tensors] == [True, False] and wrong.diagnosis.kind == "factor"


def test_a_pair_of_several_outputs_with_settings_and_an_input_without_derivative():
    def forward(x, scale, n):
        return scale * x**n, x.sum()

    def backward(dy, ds, x, scale, n, y, out=None):
        assert np.array_equal(y, scale * x**n)
        return dy * scale * n * x ** (n - 1) + ds

    given = {"x": X, "scale": np.arange(3)}
    options = {"outputs": ("y", "s"), "gradients": ("x",), "settings": {"n": 3}}
    assert nv.check_pair(forward, backward, given, **options).ok
    wrong = nv.check_pair(forward, lambda dy, ds, x, scale, n, y: dy * scale * n * x ** (n - 1), given, **options)
    assert not wrong.ok


def test_a_pair_that_changes_what_it_is_given():
    def backward(dy, x, W):
        dW = x.T @ dy
        dy *= 2
        return dy @ W.T / 2, dW

    report = nv.check_pair(lambda x, W: x @ W, backward, {"x": X, "W": W})
    assert not report.ok and all(c.ok for c in report.tensors)
    assert report.findings[0].kind == "mutation" and "dy" in report.findings[0].text

    def forward(x):
        x *= x
        return x

    squares = nv.check_pair(forward, lambda dy, x: 2 * dy * x, {"x": X})
    assert not squares.ok and all(c.ok for c in squares.tensors)
    assert [f.text for f in squares.findings] == ["forward changes what it is given: x"]


def test_a_pair_that_returns_what_it_was_given():
    """Or a view of it: who adds to the one changes the other."""
    copy = nv.check_pair(lambda x: x * 1.0, lambda dy, x: dy.copy(), {"x": X})
    assert copy.ok and kinds(copy) == []
    returned = {
        "the gradient of x and dy": lambda dy, x: dy,
        "the gradient of x and y": lambda dy, y: y[::-1],
        "the gradient of x and the parameter x": lambda dy, x: x.T.T,
    }
    for said, backward in returned.items():
        report = nv.check_pair(lambda x: x * 1.0, backward, {"x": X})
        assert kinds(report) == ["overlap"] == [report.diagnosis.kind] and not report.ok
        assert f"memory is shared by {said}: return copies" in report.diagnosis.text
    fixed = {"mask": np.ones(X.shape)}
    report = nv.check_pair(lambda x, mask: x * mask, lambda dy, mask: mask, {"x": X}, settings=fixed)
    assert "the gradient of x and mask" in report.diagnosis.text


def test_a_pair_whose_gradient_is_missing_blames_nobody_else():
    report = nv.check_pair(lambda x, W: x @ W, lambda dy, x, W: {"x": dy @ W.T}, {"x": X, "W": W})
    assert report.diagnosis.text == "W: no gradient is returned for it"


def test_a_pair_whose_exact_forward_is_another_function():
    def backward(dy, x, W):
        return dy @ W.T, x.T @ dy

    pair = (lambda x, W: x @ W, backward, {"x": X, "W": W})
    assert nv.check_pair(*pair, exact=lambda x, W: x @ W).ok
    for exact in (lambda x, W: 2 * x @ W, lambda x, W: x.real @ W):  # at the same point, and in its slopes alone
        report = nv.check_pair(*pair, exact=exact)
        assert not report.ok and kinds(report) == ["losses-differ"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"gradients": ("x", "V")}, "'V', which is no input"),
        ({"forward": X}, "forward must be a function, got ndarray"),
        ({"backward": 3}, "backward must be a function, got int"),
        ({"exact": "x"}, "exact must be a function, got str"),
        ({"backward": min}, "backward must say what its arguments are called"),
        (
            {"backward": lambda dy, x, /, W: dy},
            "backward is called by the names of its parameters: let dy, x be passed by",
        ),
        ({"forward": lambda x, W, /: x @ W}, "forward is called by the names of its parameters: let x, W be passed by"),
        ({"forward": lambda x: x}, "forward must take x, W: .*unexpected keyword argument 'W'"),
        ({"forward": lambda x, W, b: x}, "forward must take x, W: missing a required argument: 'b'"),
        ({"inputs": {"x": np.ones((0, 3)), "W": np.ones((3, 0))}}, "inputs holds no number"),
        ({"backward": lambda g, x, W: g}, "backward must take dy"),
        ({"backward": lambda dy, mask: dy}, "got mask"),
        ({"outputs": ("y", "z")}, "forward returns 1 arrays, outputs names 2"),
        ({"backward": lambda dy, x: dy @ W.T}, "backward returns 1 arrays, gradients names 2"),
        ({"inputs": {"x": X, "W": [1]}}, "inputs must map names to arrays"),
        ({"inputs": {"x": X, "W": np.eye(3, dtype=int)}}, "must hold real numbers"),
    ],
)
def test_what_check_pair_refuses(changes, words):
    given = {"forward": lambda x, W: x @ W, "backward": lambda dy, x, W: (dy @ W.T, x.T @ dy)}
    with pytest.raises(nv.InputError, match=words):
        nv.check_pair(**given | {"inputs": {"x": X, "W": W}} | changes)


def test_a_loss_may_be_an_array_of_one_number_and_one_entry_be_checked():
    report = nv.check_function(lambda p: np.array([cubes(p)]), cubes_gradients, PARAMS, entries=1)
    assert report.ok and [(c.entries, c.directions) for c in report.tensors] == [(1, 2), (1, 2)]


@pytest.mark.parametrize(
    "layout", [np.asfortranarray, lambda w: np.ascontiguousarray(w.T).T], ids=["Fortran", "transposed"]
)
def test_parameters_may_lie_in_memory_as_they_like(layout):
    w = layout(np.random.default_rng(0).standard_normal((4, 3)))
    assert nv.check_function(lambda p: (p["w"] ** 2).sum(), lambda p: {"w": 2 * p["w"]}, {"w": w}).ok
    assert not nv.check_function(lambda p: (p["w"] ** 2).sum(), lambda p: {"w": 0 * p["w"]}, {"w": w}).ok
    pair = (lambda x: x**2), (lambda dy, x: 2 * dy * x)
    assert nv.check_pair(*pair, {"x": w}).ok
    assert not nv.check_pair(pair[0], lambda dy, x: 0 * x, {"x": w}).ok
