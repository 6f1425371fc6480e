"""Every op: its derivatives against two oracles, the contract of a pair, and that nothing is missing."""

import dataclasses
import inspect

import numpy as np
import op_cases
import pytest
from op_cases import CASES, Case, Sizes, blank, error, same

from npvae.ops import jit, reference

BACKENDS = {"reference": reference, "jit": jit}
SIZES = (Sizes(1, 1, 1, 1, 1), Sizes(1, 3, 2, 3, 2), Sizes(3, 1, 4, 4, 3), Sizes(4, 3, 5, 5, 3))
EVERY = pytest.mark.parametrize("case", CASES, ids=str)
BOTH = pytest.mark.parametrize("ops", BACKENDS.values(), ids=BACKENDS)


def rng_of(*key):
    """A generator that belongs to a test: what it draws does not depend on which tests run before."""
    return np.random.default_rng([ord(letter) for letter in "".join(map(str, key))])


# ── Oracles: the derivative of f(h), the outputs when one number is off by h; x is that number ─────────────────────
# Written again, and not taken from npvae.oracles: those are a product under test, and would judge what they belong to.


def complex_step(f, x, h=1e-30):
    return f(1j * h).imag / h


def central_difference(f, x):
    h = np.cbrt(np.finfo(float).eps) * max(1.0, abs(x))
    return (f(h) - f(-h)) / (2 * h)


def richardson(f, x):
    """Two central differences of error O(h^2), combined so that it cancels and O(h^4) is left."""
    h = 3e-4 * max(1.0, abs(x))  # no kink is as near as this
    wide, narrow = ((f(h) - f(-h)) / (2 * h) for h in (h, h / 2))
    return (4 * narrow - wide) / 3


ORACLES = pytest.mark.parametrize(
    "oracle, tolerance", [(complex_step, 1e-12), (central_difference, 1e-7), (richardson, 1e-9)]
)


def jacobian_by(oracle, case, ops, inputs):
    """By input: the derivatives of every output entry (rows) by every entry of that input (columns)."""
    if oracle is complex_step:
        inputs = inputs | {name: inputs[name] + 0j for name in case.differentiable(inputs)}
    columns = {}
    for name in case.differentiable(inputs):
        x, columns[name] = inputs[name], []
        for i in np.ndindex(x.shape):
            here = x[i]

            def moved(h, x=x, i=i, here=here):
                x[i] = here + h
                return np.ravel(case.forward(ops, inputs)[case.seeded])

            columns[name].append(oracle(moved, here.real))
            x[i] = here
    return {name: np.stack(parts, axis=-1) for name, parts in columns.items()}


def jacobian_by_backward(case, ops, inputs):
    """The same, row by row: what backward makes of a cotangent that is 1 at one output entry and 0 elsewhere."""
    outputs = case.forward(ops, inputs)
    rows = {name: [] for name in case.differentiable(inputs)}
    for unit in np.eye(np.size(outputs[case.seeded])):
        cotangent = unit.reshape(np.shape(outputs[case.seeded]))[()]
        gradients = case.backward(ops, case.arguments({f"d{case.seeded}": cotangent}, inputs, outputs))
        for name, row in rows.items():
            row.append(gradients[name].ravel())
    return {name: np.stack(row) for name, row in rows.items()}


def check_jacobian(case, ops, sizes, oracle, tolerance):
    """Every output entry by every input entry, each row measured against its own largest entry."""
    inputs = case.inputs(rng_of(case, sizes), sizes)
    expected = jacobian_by(oracle, case, ops, {name: value.copy() for name, value in inputs.items()})
    for name, rows in jacobian_by_backward(case, ops, inputs).items():
        assert max(map(error, rows, expected[name])) <= tolerance, name


@EVERY
@ORACLES
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_jacobian(case, sizes, oracle, tolerance):
    check_jacobian(case, reference, sizes, oracle, tolerance)


@ORACLES
@pytest.mark.parametrize("case, mutation", [(c, m) for c in CASES for m in c.mutations], ids=str)
def test_a_wrong_backward_is_caught(case, mutation, oracle, tolerance):
    broken = case.broken(reference, case.mutations[mutation])
    with pytest.raises(AssertionError):
        check_jacobian(case, broken, SIZES[-1], oracle, tolerance)


@EVERY
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_backward_is_the_adjoint_of_the_derivative(case, sizes):
    """<J u, v> = <u, J^T v> with J u from one complex step along u."""
    rng = rng_of(case, sizes)
    inputs = case.inputs(rng, sizes)
    outputs = case.forward(reference, inputs)
    v = case.cotangents(rng, outputs)
    gradients = case.backward(reference, case.arguments(v, inputs, outputs))
    u = {name: rng.standard_normal(inputs[name].shape) for name in case.differentiable(inputs)}
    moved = inputs | {name: inputs[name] + 1e-30j * u[name] for name in u}
    terms = np.concatenate([np.ravel(u[name] * gradients[name]) for name in u])
    forward = np.sum(v[f"d{case.seeded}"] * case.forward(reference, moved)[case.seeded]).imag / 1e-30
    assert abs(forward - terms.sum()) <= 1e-12 * np.abs(terms).sum()


@EVERY
def test_complex_numbers_without_imaginary_part_change_nothing(case):
    rng = rng_of(case)
    inputs = case.inputs(rng, SIZES[-1])
    outputs = case.forward(reference, inputs)
    arguments = case.arguments(case.cotangents(rng, outputs), inputs, outputs)

    def widened(values):
        return {k: v + 0j if isinstance(v, np.ndarray) and k != "target" else v for k, v in values.items()}

    for real, other in (
        (outputs, case.forward(reference, widened(inputs))),
        (case.backward(reference, arguments), case.backward(reference, widened(arguments))),
    ):
        for name, value in other.items():
            assert np.iscomplexobj(value), name
            assert error(value.real, real[name]) <= 1e-14 and not np.any(value.imag), name


# ── The contract of a pair, on any backend ───────────────────────────────────────────────────────────────────────


def check_contract(case: Case, ops, sizes, dtype=np.float64):
    """`out` is filled, whatever it held, and returned; inputs are not touched; a call has one result."""
    rng = rng_of(case, sizes)
    inputs = case.inputs(rng, sizes, dtype)
    before = {name: value.copy() for name, value in inputs.items()}
    outputs = case.forward(ops, inputs)
    if case.buffers:
        buffers = blank(outputs, case.buffers)
        again = case.forward(ops, inputs, out=buffers)
        assert all(again[name] is buffers[name] for name in buffers), "out was not returned"
        assert all(same(again[name], outputs[name]) for name in outputs), "out changes the result"
    assert all(same(inputs[name], before[name]) for name in inputs), "forward wrote to its inputs"

    arguments = case.arguments(case.cotangents(rng, outputs), inputs, outputs)
    before = {name: np.copy(value) for name, value in arguments.items()}
    first = case.backward(ops, arguments)
    assert all(same(arguments[name], before[name]) for name in arguments), "backward wrote to its inputs"
    buffers = blank({**inputs, **outputs}, case.gradients)
    second = case.backward(ops, arguments, out=buffers)
    assert all(second[name] is buffers[name] for name in buffers), "out was not returned"
    assert all(same(second[name], first[name]) for name in first), "out changes the result"
    room = case.room(ops, inputs)
    if room is not None:
        third = case.backward(ops, arguments, scratch=np.full(room, np.nan, dtype))
        assert all(same(third[name], first[name]) for name in first), "scratch changes the result"
    for name in first:
        assert first[name].dtype == {**inputs, **outputs}[name].dtype, name


@EVERY
@BOTH
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_contract(case, ops, sizes):
    check_contract(case, ops, sizes)


def adds_to_out(case, backward, given):
    """A backward that accumulates."""
    kept = [np.array(a) for a in op_cases.as_tuple(given.get("out", ()))]
    result = backward(**given)
    for mine, old in zip(op_cases.as_tuple(result), kept, strict=False):
        mine += old
    return result


def forgets_out(case, backward, given):
    """A backward that returns arrays of its own."""
    return backward(**{name: value for name, value in given.items() if name != "out"})


def writes_to_an_input(case, backward, given):
    result = backward(**given)
    next(value for value in given.values() if isinstance(value, np.ndarray))[...] += 1
    return result


def remembers(case, backward, given, calls=[]):  # noqa: B006  (remembering is the point)
    """A backward whose result depends on how often it was called."""
    calls.append(None)
    result = backward(**given)
    for gradient in op_cases.as_tuple(result):
        gradient *= 1 + len(calls) * 1e-15
    return result


@EVERY
@pytest.mark.parametrize("mutation", [adds_to_out, forgets_out, writes_to_an_input, remembers])
def test_a_breach_of_contract_is_caught(case, mutation):
    with pytest.raises(AssertionError):
        check_contract(case, case.broken(reference, mutation), SIZES[-1])


@BOTH
@pytest.mark.parametrize("act", op_cases.ACTIVATIONS.values(), ids=op_cases.ACTIVATIONS)
def test_dense_without_dx(ops, act):
    case = next(case for case in CASES if case.settings == {"act": act})
    rng = rng_of(case)
    inputs = case.inputs(rng, SIZES[-1])
    outputs = case.forward(ops, inputs)
    arguments = case.arguments(case.cotangents(rng, outputs), inputs, outputs)
    expected = case.backward(ops, arguments)
    gradients = case.backward(ops, arguments, out=blank(inputs, ("W", "b")) | {"x": None})
    assert gradients["x"] is None
    assert same(gradients["W"], expected["W"]) and same(gradients["b"], expected["b"])


# ── Derivatives by what is an output too ─────────────────────────────────────────────────────────────────────────


def test_tied_dz_is_the_derivative_by_the_code():
    """Z as a variable of its own: y = z W^T."""
    rng = rng_of("dz")
    dy, x, W = rng.standard_normal((4, 5)), rng.standard_normal((4, 5)), rng.standard_normal((5, 3))
    z, _ = reference.tied_forward(x, W)
    dz, _ = reference.tied_backward(dy, x, W, z)
    for i in np.ndindex(z.shape):
        moved = z + 0j
        moved[i] += 1e-30j
        assert abs(np.sum(dy * (moved @ W.T)).imag / 1e-30 - dz[i]) <= 1e-12 * np.abs(dz).max()


def test_iwae_dlog_w_is_the_derivative_by_the_weight():
    """log_px moves log_w one for one."""
    rng = rng_of("dlog_w")
    log_px, rate = rng.standard_normal((4, 3)), rng.standard_normal((4, 3, 2))
    _, log_w = reference.iwae_forward(log_px, rate, 0.7)
    dlog_px, _, dlog_w = reference.iwae_backward(1.3, log_w, rate, 0.7)
    for i in np.ndindex(log_px.shape):
        moved = log_w + 0j
        moved[i] += 1e-30j
        derivative = 1.3 * reference.iwae_forward(moved, 0 * rate, 0.7)[0].imag / 1e-30
        assert abs(derivative - dlog_w[i]) <= 1e-12 and dlog_w[i] == dlog_px[i]


# ── Every op is complete ─────────────────────────────────────────────────────────────────────────────────────────


def names_of(module):
    endings = ("_forward", "_backward", "_scratch", "_step", "global_norm", "copy")
    return {name for name in vars(module) if name.endswith(endings) and not name.startswith("_")}


def missing(names, twins, cases):
    """What the ops among `names`, a backend's, lack: in words. `twins` are the names of the other backend."""
    endings = ("_forward", "_backward")
    forward, backward = ({name.removesuffix(end) for name in names if name.endswith(end)} for end in endings)
    tested = {case.op for case in cases}
    ops = forward | backward | tested
    have = {
        "forward": forward,
        "backward": backward,
        "case": tested,
        "mutation": {op for op in ops if all(case.mutations for case in cases if case.op == op)},
        "jit twin": {op for op in ops if {op + end for end in endings} <= twins},
    }
    return [f"{op} has no {what}" for op in sorted(ops) for what in have if op not in have[what]]


def test_every_op_is_complete():
    assert missing(names_of(reference), names_of(jit), CASES) == []
    for case in CASES:
        signature = inspect.signature(getattr(reference, f"{case.op}_backward"))
        assert ("scratch" in signature.parameters) == (case.scratch is not None)


def test_an_op_that_lacks_something_is_found():
    names, twins = names_of(reference), names_of(jit)
    bare = [dataclasses.replace(case, mutations={}) if case.name == "tied" else case for case in CASES]
    without = [case for case in CASES if case.op != "tied"]
    assert missing(names - {"tied_forward"}, twins, CASES) == ["tied has no forward"]
    assert missing(names - {"tied_backward"}, twins, CASES) == ["tied has no backward"]
    assert missing(names, twins - {"tied_forward"}, CASES) == ["tied has no jit twin"]
    assert missing(names, twins, without) == ["tied has no case"]
    assert missing(names, twins, bare) == ["tied has no mutation"]


def test_every_activation_has_a_case():
    codes = [case.settings["act"] for case in CASES if case.op == "dense"]
    assert codes == list(range(7)) == [getattr(reference, name) for name in (
        "IDENTITY", "RELU", "LEAKY_RELU", "TANH", "SIGMOID", "SOFTPLUS", "ELU"
    )]  # fmt: skip


@pytest.mark.parametrize("name", sorted(names_of(reference)))
def test_backends_have_the_same_names_and_signatures(name):
    assert names_of(jit) == names_of(reference)
    assert inspect.signature(getattr(jit, name)) == inspect.signature(getattr(reference, name))
