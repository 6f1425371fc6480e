"""Somebody's code, found by path and name."""

import numpy as np
import pytest

import npvae as nv
from npvae import adapters

SOURCE = """
import numpy as np
import helper_of_theirs

class Right:
    sizes = {"B": 5}
    def params(self):
        return {"w": np.arange(3.0)}
    def loss(self, params):
        return helper_of_theirs.square(params["w"]).sum()
    def gradients(self, params):
        return {"w": 2 * params["w"]}
    def terms(self, params):
        return {"all": self.loss(params)}

made = Right()

def make():
    return made

class Two:
    def params(self): ...
    def loss(self, params): ...

class Raises(Right):
    def params(self):
        raise KeyError("w")

class Fails(Right):
    def loss(self, params):
        return 1 / 0

params, loss, gradients = made.params, made.loss, made.gradients
"""


@pytest.fixture
def module(tmp_path):
    (tmp_path / "helper_of_theirs.py").write_text("def square(a):\n    return a**2\n")
    path = tmp_path / "theirs.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("name", [":Right", ":made", ":make", ""])
def test_a_class_an_object_a_function_or_the_module(module, name):
    code = adapters.load(f"{module}{name}")
    assert code.params["w"].tolist() == [0, 1, 2]
    assert nv.check_function(code.loss, code.gradients, code.params).ok
    if name:
        assert code.sizes == {"B": 5} and code.terms(code.params) == {"all": 5.0}
    else:
        assert code.sizes is None and code.terms is None


@pytest.mark.parametrize(
    "name, words",
    [
        (":Wrong", "has no 'Wrong': it has Right, made, make, Two"),
        (":np", "has no 'np'"),
        (":_hidden", "has no '_hidden'"),
        (":Two", "it lacks gradients"),
        (":Raises", "params\\(\\) raised KeyError at theirs.py:27: 'w'"),
    ],
)
def test_what_does_not_fit(module, name, words):
    with pytest.raises(nv.InputError, match=words):
        adapters.load(f"{module}{name}")


def test_what_raises_later_says_where(module):
    code = adapters.load(f"{module}:Fails")
    with pytest.raises(nv.InputError, match=r"loss\(params\) raised ZeroDivisionError at theirs.py:31"):
        nv.check_function(code.loss, code.gradients, code.params)


def test_what_cannot_be_imported(tmp_path):
    for source, words in (("1 +", "SyntaxError"), ("import nothing_of_that_name", "ModuleNotFoundError")):
        (tmp_path / "bad.py").write_text(source)
        with pytest.raises(nv.InputError, match=f"importing it raised {words}"):
            adapters.load(str(tmp_path / "bad.py"))
    for target in ("nowhere.py:x", "nowhere", str(tmp_path), f"{tmp_path}:x", ""):
        with pytest.raises(nv.InputError, match="there is no file"):
            adapters.load(target)


def test_complex_numbers_that_raise_are_no_failure(module):
    module.write_text(
        SOURCE.replace(
            'return helper_of_theirs.square(params["w"]).sum()', "return float(np.dot(params['w'], params['w']))"
        )
    )
    code = adapters.load(f"{module}:Right")
    report = nv.check_function(code.loss, code.gradients, code.params)
    assert report.ok and [f.kind for f in report.findings] == ["not-complex-safe"]
    assert np.isfinite(report.max_error)


def test_a_module_that_ends_the_process_was_not_checked(tmp_path):
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(nv.InputError, match="SystemExit"):
        adapters.load(f"{tmp_path / 'ends.py'}:Check")


def test_a_module_may_hold_dataclasses(tmp_path):
    code = "from __future__ import annotations\nfrom dataclasses import dataclass\nimport numpy as np\n"
    code += "@dataclass\nclass Check:\n    size: int = 3\n    def params(self): return {'w': np.ones(self.size)}\n"
    code += "    def loss(self, p): return (p['w'] ** 2).sum()\n    def gradients(self, p): return {'w': 2 * p['w']}\n"
    (tmp_path / "held.py").write_text(code)
    adapters.load(f"{tmp_path / 'held.py'}:Check")
