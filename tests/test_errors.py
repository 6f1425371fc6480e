"""What is raised at the public boundary, and what it says."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from npvae.errors import DivergenceError, InputError, check_choice, check_real, check_whole


def test_kinds():
    assert issubclass(InputError, ValueError) and issubclass(DivergenceError, ArithmeticError)
    assert not issubclass(InputError, DivergenceError) and not issubclass(DivergenceError, InputError)


def test_choice():
    assert check_choice("colour", "red", ["red", "green"]) == "red"
    with pytest.raises(InputError) as caught:
        check_choice("colour", "gren", {"red": 1, "green": 2})
    assert str(caught.value) == "unknown colour 'gren': expected one of red, green. Did you mean 'green'?"
    for wrong in ("zzz", None, 3, [3]):
        with pytest.raises(InputError, match=r"unknown colour .*: expected one of red, green$"):
            check_choice("colour", wrong, ["red", "green"])


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(7)])
def test_whole_numbers(value):
    number = check_whole("n", value)
    assert number == value and type(number) is int


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, np.float64(3), "3", None, True, np.array([3]), 1j, Fraction(4, 2)])
def test_no_whole_numbers(value):
    with pytest.raises(InputError, match=r"^n must be a whole number of at least 1, got "):
        check_whole("n", value)


def test_least_whole_number():
    assert check_whole("n", 0, least=0) == 0
    with pytest.raises(InputError, match="at least 3, got 2"):
        check_whole("n", 2, least=3)


@pytest.mark.parametrize("value", [0.0, 0.5, 0, np.float32(0.5), Fraction(1, 4)])
def test_real_numbers(value):
    number = check_real("r", value, 0.0, 1.0)
    assert number == value and type(number) is float


@pytest.mark.parametrize("value", [-1e-9, 1.0, np.nan, np.inf, -np.inf, "0.5", None, False, 0.5j, Decimal("0.5")])
def test_no_real_numbers(value):
    with pytest.raises(InputError, match=r"^r must be a number of at least 0\.0 and below 1\.0, got "):
        check_real("r", value, 0.0, 1.0)


def test_infinity_is_never_a_number():
    with pytest.raises(InputError, match=r"^r must be a number of at least 0\.0, got inf$"):
        check_real("r", np.inf, 0.0)
    with pytest.raises(InputError, match=r"^r must be a number of at least 0\.0, got 1000"):
        check_real("r", 10**400, 0.0)  # no float is that large


def test_open_interval():
    assert check_real("r", 1e-300, 0.0, open_=True) == 1e-300
    with pytest.raises(InputError, match=r"^r must be a number above 0\.0, got 0$"):
        check_real("r", 0, 0.0, open_=True)
