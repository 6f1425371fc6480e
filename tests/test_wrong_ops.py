"""The tests of ops can fail: whichever function is replaced by a wrong one, they see red."""

import inspect
import re
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import test_op_values
import test_updates
from op_cases import CASES
from test_jit import compare
from test_ops import SIZES, check_jacobian, complex_step, names_of
from test_vae import check_gradients, trial, vae_trial

from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.ops import jit, reference, updates

BACKENDS = pytest.mark.parametrize("ops", (reference, jit), ids=("reference", "jit"))
FUNCTIONS = sorted(name for name in names_of(reference) if not name.endswith(("_scratch", "copy")))  # these compute


def returns_its_input(function):
    """For an update, which returns nothing: does nothing."""
    return lambda *arguments, **named: next(iter((*arguments, *named.values())))


def off(change):
    """What a function returns is changed, in place where it is an array; theta, where an update returns nothing."""

    def changed(value):
        if isinstance(value, tuple):
            return tuple(map(changed, value))
        if isinstance(value, np.ndarray):
            value[...] = change(value)
            return value
        return None if value is None else change(value)

    def wrong(function):
        def wrongly(*arguments, **named):
            result = function(*arguments, **named)
            return changed(arguments[0] if result is None else result)

        return wrongly

    return wrong


WRONG = {
    "returns its input": returns_its_input,
    "off by a millionth": off(lambda value: value * (1 + 1e-6)),
    "off by a constant": off(lambda value: value + 1e-6),
}


def red(check, *arguments, **named):
    """Whether a check fails, by an assertion or because it cannot go on."""
    try:
        with np.errstate(all="ignore"):
            check(*arguments, **named)
    except Exception:
        return True
    return False


def sweeps(name, ops):
    """The checks of the sweeps that call the function, by what they are."""
    if name == "global_norm":
        yield "value", lambda: test_updates.test_global_norm(ops, np.float64, 1e-14)
    for rule, (_, step, _) in test_updates.RULES.items():
        if step == name:
            check = test_updates.test_steps_are_the_published_algorithm
            yield rule, lambda check=check, rule=rule: check(ops, np.float64, 1e-14, rule, 37)
    for case in CASES:
        if name in (f"{case.op}_forward", f"{case.op}_backward"):
            yield f"{case}: agreement", lambda case=case: compare(case, np.float64, SIZES[-1], seed=6)
            if ops is reference:
                yield f"{case}: Jacobian", lambda case=case: check_jacobian(case, ops, SIZES[-1], complex_step, 1e-12)


@BACKENDS
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_sweeps_see_red(name, wrong, ops, monkeypatch):
    """Every one of them, but that a derivative says nothing of a constant."""
    checks = dict(sweeps(name, ops))
    assert checks and not [what for what, check in checks.items() if red(check)]
    monkeypatch.setattr(ops, name, WRONG[wrong](getattr(ops, name)))
    blind = {what for what in checks if "Jacobian" in what and name.endswith("_forward") and "constant" in wrong}
    assert {what for what, check in checks.items() if not red(check)} <= blind


# ── Tests of values, each with each function that it names ───────────────────────────────────────────────────────


def calls(test):
    """What pytest calls a test of values with, from its marks and its module's."""
    of_module = getattr(inspect.getmodule(test), "pytestmark", None)
    axes = []
    for mark in [*getattr(test, "pytestmark", []), *([of_module.mark] if of_module else [])]:
        names, values = [name.strip() for name in mark.args[0].split(",")], mark.args[1]
        axes.append([dict(zip(names, value if len(names) > 1 else (value,), strict=True)) for value in values])
    for chosen in product(*axes):
        named = {name: value for part in chosen for name, value in part.items()}
        yield named | ({"rng": np.random.default_rng(1)} if "rng" in inspect.signature(test).parameters else {})


VALUES = [
    (test, name)
    for module in (test_op_values, test_updates)
    for test in vars(module).values()
    if getattr(test, "__name__", "").startswith("test_")
    for name in sorted(set(re.findall(r"ops\.(\w+)", inspect.getsource(test))) & set(FUNCTIONS))
]


def test_no_update_is_left_out():
    public = {name for name, value in vars(updates).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert public - set(FUNCTIONS) == {"blocks"}  # which the rules go through


def test_every_function_is_named_by_a_test_of_values():
    """But for backwards, whose values are derivatives."""
    named = {name for _, name in VALUES} | {step for _, step, _ in test_updates.RULES.values()}
    assert named >= {name for name in FUNCTIONS if not name.endswith("_backward")}


@pytest.mark.parametrize("test, name", VALUES, ids=lambda value: getattr(value, "__name__", value))
def test_no_test_passes_when_the_function_it_names_returns_its_input(test, name):
    green = []
    for named in calls(test):
        ops = named["ops"]
        named["ops"] = SimpleNamespace(**vars(ops) | {name: returns_its_input(getattr(ops, name))})
        if not red(test, **named):
            green.append(named | {"ops": ops.__name__})
    assert green == []


# ── Models ───────────────────────────────────────────────────────────────────────────────────────────────────────

MODELS = {
    "elbo": (vae_trial("bernoulli", "elbo", 2), ("log_w",)),
    "iwae": (vae_trial("gaussian-learned", "iwae", 2), ("log_w",)),
    "optimal": (vae_trial("gaussian-optimal", "iwae", 2), ("log_w",)),
    "pixel": (vae_trial("gaussian-pixel", "elbo", 2), ("log_w",)),
    "deep": (trial(Autoencoder(5, (4,), 2, "tanh")), ("log_w",)),
    "linear": (trial(LinearAutoencoder(5, 2)), ("z",)),
}


@BACKENDS
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.endswith(("_forward", "_backward"))])
def test_models_see_red(name, ops, monkeypatch):
    """Those that call the function, all of them, and no others."""
    called, right, half = set(), getattr(ops, name), off(lambda value: value / 2)
    found = set()
    for model, (drawn, apart) in MODELS.items():

        def wrong(*arguments, model=model, **named):
            called.add(model)
            return half(right)(*arguments, **named)

        monkeypatch.setattr(ops, name, wrong)
        if red(check_gradients, drawn.workspace(ops.__name__.rpartition(".")[2]), drawn.batch, apart):
            found.add(model)
    assert found == called != set()
