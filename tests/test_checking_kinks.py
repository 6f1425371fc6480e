"""The gradient check where a loss is bent, steep, constant or not defined, and which oracle is believed there."""

import math

import numpy as np
import pytest
from losses import PARAMS, A, cubes, cubes_gradients, kinds, scaled

import npvae as nv


def norm(p):  # a loss that takes floats alone, and has kinks
    return float(np.abs(A @ p["w"] + p["b"]).sum())


def norm_gradients(p):
    d = np.sign(A @ p["w"] + p["b"])
    return {"w": A.T @ d, "b": d.sum(0)}


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


# ── Kinks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


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


def test_a_layer_of_zeros_before_relu_is_not_convicted():
    """Every row of the batch is bent there: both slopes may be positive, and 0 is right all the same."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 5)), rng.standard_normal((12, 2))
    params = {"W": np.zeros((5, 4)), "V": rng.standard_normal((4, 2))}

    def loss(p):
        return float(((np.maximum(x @ p["W"], 0) @ p["V"] - y) ** 2).sum())

    def slopes(p, at=0.0):
        h = x @ p["W"]
        dy = 2 * (np.maximum(h, 0) @ p["V"] - y)
        return {"W": x.T @ (dy @ p["V"].T * np.where(h > 0, 1, at)), "V": np.maximum(h, 0).T @ dy}

    for at in (0.0, 0.5, 1.0):
        report = nv.check_function(loss, lambda p, at=at: slopes(p, at), params)
        assert report.tensors[0].verdict == "undecided" and report.findings[-1].kind == "kinks" and not report.ok
    report = nv.check_function(loss, lambda p: {**slopes(p), "W": slopes(p)["W"] + 100}, params)
    assert report.tensors[0].verdict == "WRONG"


@pytest.mark.parametrize("size", [1e-7, 1e-8, 1e-9])
@pytest.mark.parametrize("floats", [True, False])
def test_bends_that_are_nearer_than_any_step_sees_convict_nobody(size, floats):
    """Parameters so small have bends as near, and rounding hides what a step does that is shorter: nobody knows."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((7, 5)), rng.standard_normal((7, 3))
        shapes = {"W": (5, 6), "b": (6,), "V": (6, 3)}
        params = {name: size * rng.standard_normal(shape) for name, shape in shapes.items()}

        def loss(p, x=x, y=y):
            h = x @ p["W"] + p["b"]
            total = (((h * (h.real > 0)) @ p["V"] - y) ** 2).sum()
            return float(total) if floats else total

        def slopes(p, x=x, y=y):
            h = x @ p["W"] + p["b"]
            dy = 2 * (np.maximum(h, 0) @ p["V"] - y)
            dh = dy @ p["V"].T * (h > 0)
            return {"W": x.T @ dh, "b": dh.sum(0), "V": np.maximum(h, 0).T @ dy}

        report = nv.check_function(loss, slopes, params)
        assert report.ok or floats, str(report)
        assert not any(check.verdict == "WRONG" for check in report.tensors), str(report)
        assert not nv.check_function(loss, scaled(slopes, 2.0, "W", "b", "V"), params).ok


def test_bends_that_are_too_many_to_be_seen_convict_nobody():
    """Of 2,000 rows ReLU's bends lie a thousandth of the parameters apart: from farther away the loss looks smooth."""
    x = np.random.default_rng(0).random((2000, 8))
    for size in (1e-2, 1e-3, 1e-4):
        for seed in range(3):
            ws = nv.Workspace(nv.VAE(8, (7,), 2), batch=2000, backend="reference", dtype="float64", seed=1)
            ws.theta[...] = size * np.random.default_rng(seed).standard_normal(ws.theta.shape)
            report = nv.gradcheck(ws, x, entries=8)
            assert report.ok, str(report)


def test_a_pole_that_is_nearer_than_any_step_convicts_nobody():
    params = {"w": np.array([1e-14, 1e-12])}
    report = nv.check_function(lambda p: (1e-14 / p["w"]).sum(), lambda p: {"w": -1e-14 / p["w"] ** 2}, params)
    assert report.ok
    report = nv.check_function(lambda p: float((1e-14 / p["w"]).sum()), lambda p: {"w": -1e-14 / p["w"] ** 2}, params)
    assert report.tensors[0].verdict == "undecided"


def test_a_wrong_gradient_of_a_bent_loss_is_not_excused():
    """All of a ReLU network's kinks are near: none excuses a factor."""
    report = nv.check_function(norm, scaled(norm_gradients, 1.001, "w", "b"), PARAMS)
    assert all(c.verdict == "WRONG" and c.kinks == 0 for c in report.tensors)


def test_zeros_on_a_kink_are_no_array_that_the_loss_ignores():
    """At |w| = 0 the central difference and Richardson's are 0 too."""
    params = {"w": np.zeros(3), "v": np.ones(400)}
    for root in (np.sqrt, lambda square: float(np.sqrt(square.sum()))):

        def loss(p, root=root):
            return np.sum(root(p["w"] ** 2)) + (p["v"] ** 2).sum()

        report = nv.check_function(loss, lambda p: {"w": 0 * p["w"], "v": 2 * p["v"]}, params)
        assert [c.verdict for c in report.tensors] == ["undecided", "ok"] and not report.ok
        assert report.tensors[0].diagnosis.text == "the loss is bent wherever it was looked at"


# ── Constant, not finite or not defined ───────────────────────────────────────────────────────────────────────────────


def test_a_loss_that_ignores_a_tensor():
    def loss(p):
        return (p["w"] ** 2).sum()

    for gradients in (lambda p: {"w": 2 * p["w"], "b": 0 * p["b"]}, lambda p: {"w": 2 * p["w"]}):
        report = nv.check_function(loss, gradients, PARAMS)
        assert report.ok
        assert report.tensors[1].diagnosis == nv.Diagnosis(
            "no-effect", "the loss does not depend on it, or its slope is 0 there"
        )
    report = nv.check_function(loss, lambda p: {"w": 2 * p["w"], "b": 1e-3 * p["b"]}, PARAMS)
    assert report.diagnosis.kind == "unfounded" and not report.ok


def test_a_loss_that_ignores_everything():
    report = nv.check_function(lambda p: 3.0, lambda p: {"w": 0 * p["w"], "b": 0 * p["b"]}, PARAMS)
    assert not report.ok and kinds(report)[-1] == "constant" == report.diagnosis.kind


STILL = {  # a loss that is 0, the gradient that forgets why, and where
    "all units dead": (lambda w: np.maximum(w, 0), np.ones_like, -1.0),
    "decay at 0": (lambda w: w**2, lambda w: 2 * w + 1, 0.0),
    "a cube": (lambda w: w**3, lambda w: 3 * w**2 + 1, 0.0),
}


@pytest.mark.parametrize("name", STILL)
def test_a_loss_of_zero_that_stands_still(name):
    """Nothing is rounded there: no step is too short to be looked at, and the search ends all the same."""
    function, wrong, at = STILL[name]
    report = nv.check_function(lambda p: function(p["w"]).sum(), lambda p: {"w": wrong(p["w"])}, {"w": np.full(3, at)})
    assert report.tensors[0].verdict == "WRONG"


def test_an_all_zero_gradient_where_the_loss_varies():
    report = nv.check_function(cubes, lambda p: {k: 0 * v for k, v in p.items()}, PARAMS)
    assert not report.ok and report.diagnosis.text.startswith("the whole gradient: forgotten")


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


# ── More than the first steps see ─────────────────────────────────────────────────────────────────────────────────────

WAVE = 2 * np.pi
STEEP = {  # loss, gradient and where: it saturates, repeats or ends within the first steps
    "tanh of a million": (lambda w: np.tanh(1e6 * w), lambda w: 1e6 * (1 - np.tanh(1e6 * w) ** 2), [1e-6, -5e-7]),
    "tanh at a million": (lambda w: np.tanh(w - 1e6 - 0.3), lambda w: 1 - np.tanh(w - 1e6 - 0.3) ** 2, [1e6]),
    "wave at 300": (lambda w: np.sin(WAVE * w), lambda w: WAVE * np.cos(WAVE * w), [300.3]),
    "short wave": (lambda w: np.sin(512 * WAVE * w), lambda w: 512 * WAVE * np.cos(512 * WAVE * w), [0, 0.25, 0.5]),
    "bump of 1e-4": (lambda w: 1e4 * w * np.exp(-((1e4 * w) ** 2)), lambda w: 1e4 + 0 * w, [0]),
    "wave of 1e-6": (lambda w: np.sin(1e6 * w), lambda w: 1e6 * np.cos(1e6 * w), [0.0, 1.7]),
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

    for factor, verdict in ((1, "ok"), (0, "WRONG"), (1.1, "WRONG")):
        report = nv.check_function(loss, lambda p, f=factor: {"w": f * derivative(p["w"]), "v": 2 * p["v"]}, params)
        assert [c.verdict for c in report.tensors] == [verdict, "ok"], str(report)
        assert report.ok == (factor == 1) and kinds(report) == ["not-complex-safe"] * floats


@pytest.mark.parametrize("floats", [True, False])
@pytest.mark.parametrize("steep", [1e7, 1e8])
def test_what_is_so_steep_that_it_looks_like_noise(steep, floats):
    params = {"w": np.array([0.3, 0.0])}

    def loss(p):
        total = np.tanh(steep * p["w"]).sum()
        return float(total) if floats else total

    for factor in (1, 1.01, 0):
        slope = {"w": factor * np.array([0.0, steep])}
        assert nv.check_function(loss, lambda p, slope=slope: slope, params).ok == (factor == 1)


def narrow(width):
    """sin and, at 0, a bump of slope 1 so wide; its derivative."""
    return (
        lambda t: np.sin(t + 0.3) + t * np.exp(-((t / width) ** 2)),
        lambda t: np.cos(t + 0.3) + (1 - 2 * (t / width) ** 2) * np.exp(-((t / width) ** 2)),
    )


@pytest.mark.parametrize("width", [1e-6, 1e-8, 1e-9, 1e-11])
def test_what_is_narrower_than_every_step_is_looked_for(width):
    """It is where the complex step, or else the gradient, says that it is; who forgot it is then wrong."""
    phi, slope = narrow(width)
    params = {"w": np.array([0.0, 1.0, 2.0])}
    whole = nv.check_function(lambda p: phi(p["w"]).sum(), lambda p: {"w": slope(p["w"])}, params)
    assert whole.ok and whole.tensors[0].complex_error < 1e-12, str(whole)
    without = nv.check_function(lambda p: phi(p["w"]).sum(), lambda p: {"w": np.cos(p["w"] + 0.3)}, params)
    assert without.tensors[0].verdict == "WRONG" and without.tensors[0].worst == (0,)
    floats = nv.check_function(lambda p: float(phi(p["w"]).sum()), lambda p: {"w": slope(p["w"])}, params)
    assert floats.tensors[0].verdict == ("ok" if width > 1e-7 else "undecided")  # its digits are lost in rounding
