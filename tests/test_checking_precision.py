"""How much the gradient check sees: of what is small or cancels, in few digits, and in ten seconds."""

import math

import numpy as np
import pytest
from losses import PARAMS, A, cubes, cubes_gradients, kinds, scaled

import npvae as nv
from npvae import examination


@pytest.mark.parametrize("size", [1, 1e-6, 1e-12, 1e6])
@pytest.mark.parametrize("loss", ["complex", "float"])
def test_a_small_tensor_is_measured_by_itself(size, loss):
    """Down to a gradient 1e-12 of the other; there a loss of floats, whose differences round at 1e-14, is undecided."""

    def both(p):
        total = (p["w"] ** 2).sum() + size * (p["b"] ** 2).sum()
        return float(total) if loss == "float" else total

    def gradients(p):
        return {"w": 2 * p["w"], "b": 2 * size * p["b"]}

    lost = size == 1e-12 and loss == "float"
    for factor in (1, 2):
        found = nv.check_function(both, scaled(gradients, factor, "b"), PARAMS).tensors[1]
        assert found.ok == (factor == 1 and not lost)
        assert found.verdict == "undecided" or not lost


def test_what_cancels_in_single_precision_is_not_called_wrong():
    """Labels in equal numbers, and a layer of zeros: the bias's gradient is 0, and in float32 1e-8 of it is left."""
    x, y, single = np.random.default_rng(0).standard_normal((30, 5)), np.eye(3)[np.arange(30) % 3], np.float32

    def loss(p):
        s = x @ p["W"] + p["b"]
        return (np.log(np.exp(s).sum(1)) - (s * y).sum(1)).mean()

    def slopes(p):
        e = np.exp((x @ p["W"] + p["b"]).astype(single))
        g = (e / e.sum(1, keepdims=True) - y.astype(single)) / single(30)
        return {"W": x.astype(single).T @ g, "b": g.sum(0)}

    report = nv.check_function(loss, slopes, {"W": np.zeros((5, 3)), "b": np.zeros(3)})
    assert 0 < np.max(np.abs(slopes({"W": np.zeros((5, 3)), "b": np.zeros(3)})["b"])) < 1e-7
    assert [check.verdict for check in report.tensors] == ["ok", "undecided"]


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


@pytest.mark.parametrize("rows", [3, 5, 7, 11, 12, 33, 60, 101])
def test_a_gradient_of_zero_where_all_cancels_is_right(rows):
    """The complex step sees what rounding leaves of a mean that is subtracted."""
    x = np.random.default_rng(rows).standard_normal((rows, 4))
    loss, derivative = centred(x)
    report = nv.check_function(loss, lambda p: {"w": x.T @ derivative(p), "b": np.zeros(3)}, PARAMS)
    assert report.ok, str(report)


def test_a_gradient_of_zero_that_the_complex_step_contradicts_is_undecided():
    """Beside 2e8 no difference shows 3e-7, and as rounding it may pass; 0 has none."""
    params = {"a": 100 * PARAMS["w"], "b": PARAMS["b"]}

    def loss(p):
        return 1e6 * (p["a"] ** 2).sum() + 1e-7 * (p["b"] ** 3).sum()

    for factor, verdict in ((1, "ok"), (0, "undecided")):
        report = nv.check_function(loss, lambda p, f=factor: {"a": 2e6 * p["a"], "b": f * 3e-7 * p["b"] ** 2}, params)
        assert [c.verdict for c in report.tensors] == ["ok", verdict] and report.ok == (verdict == "ok")


def test_what_the_complex_step_does_not_acquit_rests_on_richardson():
    """An error between the two tolerances: nobody convicts it, and the report says whose tolerance let it pass."""
    for factor, oracle, most in ((1, "complex step", 1e-11), (1 + 5e-10, "Richardson", 1e-9)):
        check = nv.check_function(cubes, scaled(cubes_gradients, factor, "w"), PARAMS).tensors[0]
        assert (check.verdict, check.oracle, check.tolerance) == ("ok", oracle, most) and check.error <= most


@pytest.mark.parametrize("floats", [True, False])
def test_a_sample_of_zeros_is_right(floats):
    """Of 3,000 entries the largest alone counts, and no sample meets it."""
    w = np.random.default_rng(0).standard_normal(3000)

    def loss(p):
        return float(p["w"].real.max() ** 2) if floats else p["w"][np.argmax(p["w"].real)] ** 2

    def slope(p, factor=2):
        at = np.arange(3000) == np.argmax(p["w"])
        return {"w": factor * at * p["w"]}

    report = nv.check_function(loss, slope, {"w": w})
    assert report.ok and not report.errors["w"][np.isfinite(report.errors["w"])].any(), str(report)
    assert nv.check_function(loss, lambda p: slope(p, 2.1), {"w": w}).tensors[0].verdict == "WRONG"


# ── Losses of few digits ──────────────────────────────────────────────────────────────────────────────────────────────

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


@pytest.mark.parametrize("coarse", [np.float16, lambda loss: np.round(loss, 2), lambda loss: loss + 1e15])
def test_a_coarse_loss_is_not_called_constant(coarse):
    report = nv.check_function(lambda p: coarse(net(p)), net_gradients, NET)
    assert {c.verdict for c in report.tensors} == {"undecided"} and "constant" not in kinds(report)


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


@pytest.mark.parametrize("wrong", [["W"], ["b"], ["W", "b"]])
@pytest.mark.parametrize("factor", [0.0, 0.05, 2.0])
def test_in_single_precision_too_what_is_forgotten_is_found(wrong, factor):
    """A loss that stands still over a step of 1e-8 says nothing; it does not say that 0 is right."""
    rng, single = np.random.default_rng(0), np.float32
    x, y = rng.standard_normal((32, 6)).astype(single), rng.standard_normal((32, 4)).astype(single)
    params = {"W": 0.3 * rng.standard_normal((6, 4)), "b": 0.1 * rng.standard_normal(4)}

    def output(p):
        return np.tanh(x @ p["W"].real.astype(single) + p["b"].real.astype(single))

    def slopes(p):
        h = output(p)
        dy = 2 * (h - y) * (1 - h * h) / h.size
        return {"W": x.T @ dy, "b": dy.sum(0)}

    def loss(p):
        return np.square(output(p) - y).mean()

    assert {c.verdict for c in nv.check_function(loss, slopes, params).tensors} == {"undecided"}
    report = nv.check_function(loss, scaled(slopes, factor, *wrong), params)
    assert [c.name for c in report.tensors if c.verdict == "WRONG"] == wrong, str(report)
    assert all("alone" not in str(c.diagnosis) and "not depend" not in str(c.diagnosis) for c in report.tensors)


@pytest.mark.parametrize("params, slope, offset", [([0.1, 0.2], 0.01, 500), ([1.0, 2.0], 1.0, 1e5), ([0.01], 0.1, 1e4)])
def test_a_loss_that_stands_still_in_single_precision_convicts_and_acquits_nobody(params, slope, offset):
    """It climbs by one rounding or none over all steps that noise is measured by, and is no less rounded."""

    def loss(p):
        return np.float32(np.float32(slope) * p["w"].real.astype(np.float32).sum() + np.float32(offset))

    w = np.array(params)
    for factor in (0, 1):
        report = nv.check_function(loss, lambda p, f=factor: {"w": np.full(w.shape, f * slope)}, {"w": w})
        assert factor == 0 or report.tensors[0].verdict == "undecided", str(report)
        assert not report.ok


def test_a_gradient_handed_over_in_half_precision():
    for factor, right in ((1, True), (1.1, False)):

        def halved(p, factor=factor):
            return {name: (factor * g).astype(np.float16) for name, g in cubes_gradients(p).items()}

        report = nv.check_function(cubes, halved, PARAMS)
        assert report.ok == right and {check.tolerance for check in report.tensors} == {1e-2}


# ── Large arrays and slow losses ──────────────────────────────────────────────────────────────────────────────────────

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


@pytest.mark.parametrize("power", [160, 200, 300])
def test_an_exploded_entry_of_a_large_array_is_found_where_it_is(power):
    """The squares of such numbers are beyond what a float holds, and those of all others are 0 beside them."""

    def gradients(p):
        g = waves_gradients(p)
        g["w"][13, 7] *= 10.0**power
        return g

    report = nv.check_function(waves, gradients, LARGE)
    assert report.tensors[0].worst == (13, 7) and report.diagnosis.text == "w: wrong in one entry alone, [13, 7]"


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
    (False, 2, 16, 2, 1220), (False, 10, 8, 2, 710), (False, 18, 4, 2, 450), (False, 30, 2, 2, 330),
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


@pytest.mark.parametrize("milliseconds, entries", [(0.1, (1200, 600, 9)), (10, (16, 16, 9)), (60, (2, 2, 2))])
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


def test_who_asks_for_entries_gets_them(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(examination, "perf_counter", lambda: next(clock) * 1000.0)
    for entries, expected in ((None, (1, 1)), (30, (30, 2))):
        report = nv.check_function(waves, waves_gradients, LARGE, entries=entries)
        assert {(c.entries, c.directions) for c in report.tensors} == {expected}
