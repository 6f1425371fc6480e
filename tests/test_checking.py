"""The gradient check of anybody's code and of an op: how it is called, and what it finds about the calls."""

import math
import re

import numpy as np
import pytest
from losses import PARAMS, A, cubes, cubes_gradients, kinds, scaled

import npvae as nv


def test_a_right_gradient_of_a_complex_safe_loss():
    report = nv.check_function(cubes, cubes_gradients, PARAMS)
    assert report.ok and report.findings == () and report.max_error < 1e-14
    assert all(c.oracle == "complex step" and c.diagnosis is None and c.kinks == 0 for c in report.tensors)
    assert all(c.richardson_error < 1e-10 and c.central_error < 1e-7 for c in report.tensors)


def test_terms_may_be_gradients():
    def terms(p):
        return {"sum": {"w": np.ones((4, 3))}, "squares": {"w": 4 * p["w"], "b": p["b"]}}

    report = nv.check_function(
        lambda p: p["w"].sum() + (p["w"] ** 2).sum() + (p["b"] ** 2).sum() / 2,
        lambda p: {"w": 1 + 4 * p["w"], "b": p["b"].copy()}, PARAMS, terms=terms,
    )  # fmt: skip
    assert report.diagnosis.kind == "term" and "the term of the squares is 2 times" in report.diagnosis.text


def test_progress_is_told():
    told = []
    nv.check_function(cubes, cubes_gradients, PARAMS, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


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


# ── What is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── Findings about the calls ──────────────────────────────────────────────────────────────────────────────────────────


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


@pytest.mark.parametrize(
    "shape, given",
    [((3,), lambda d: d.sum(0, keepdims=True)), ((), lambda d: d.sum(keepdims=True).reshape(1)),
     ((1, 3), lambda d: d.sum(0, keepdims=True)[None])],
)  # fmt: skip
def test_a_sum_that_keeps_its_axis_is_not_missing(shape, given):
    """Such as d.sum(0, keepdims=True) for a bias."""
    rows, b = np.random.default_rng(1).standard_normal((6, 3)), np.full(shape, 0.5)
    report = nv.check_function(
        lambda p: ((rows + p["b"]) ** 2).sum(), lambda p: {"b": given(2 * (rows + p["b"]))}, {"b": b}
    )
    assert (
        report.diagnosis.text == f"b: of shape {(1, *shape)}, not {shape}: its first axis, of length 1, is one too many"
    )
    report = nv.check_function(
        lambda p: ((rows + p["b"]) ** 2).sum(), lambda p: {"b": 2 * (rows + p["b"])}, {"b": rows[:1]}
    )
    assert report.diagnosis.text == "b: of shape (6, 3), not (1, 3): the sum over the first axis is missing"


# ── An op ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

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


def test_a_pair_whose_backward_takes_not_every_output():
    """What flows back through the others is not checked, which is said; it is no mistake by itself."""
    pair = (lambda x: (np.tanh(x), x**2), lambda dy, y: dy * (1 - y**2), {"x": X})
    report = nv.check_pair(*pair, outputs=("y", "z"))
    assert [(f.text, f.fatal) for f in report.findings] == [
        ("backward takes no dz: what flows back through z is not checked", False)
    ]
    assert report.ok
    both = nv.check_pair(pair[0], lambda dy, dz, y, x: dy * (1 - y**2) + 2 * dz * x, pair[2], outputs=("y", "z"))
    assert both.ok and both.findings == ()


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


def test_a_pair_that_forgets_the_sum_and_returns_what_it_was_given():
    """The sum that is missing is the cause; that dy is returned as it came is said besides."""
    report = nv.check_pair(
        lambda x, W, b: x @ W + b,
        lambda dy, x, W: (dy @ W.T, x.T @ dy, dy),
        {"x": X, "W": W, "b": np.ones(2)},
    )
    shape = "b: of shape (4, 2), not (2,): the sum over the first axis is missing"
    assert report.diagnosis.text == f"{shape}; and memory is shared by the gradient of b and dy: return copies"
    assert report.diagnosis.kind == "shape"


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
