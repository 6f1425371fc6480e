"""The oracles on functions of one number whose slope is known, smooth, bent and noisy."""

import math

import numpy as np
import pytest

from npvae.errors import InputError
from npvae.oracles import (
    EPS,
    JITTER,
    POINTS,
    Slope,
    central_difference,
    closer,
    complex_step,
    is_kink,
    noise_level,
    richardson,
    value,
)

SMOOTH = {  # phi, phi'(0)
    "exp": (np.exp, 1.0),
    "sin 3t": (lambda t: np.sin(3 * t), 3.0),
    "odd power": (lambda t: (0.3 + t) ** 5, 5 * 0.3**4),
    "flat": (lambda t: t * t * t, 0.0),
    "constant": (lambda t: 7.0 + 0 * t, 0.0),
    "steep tanh": (lambda t: np.tanh(40 * t + 0.2), 40 * (1 - np.tanh(0.2) ** 2)),
    "pole near by": (lambda t: 1 / (0.1 + t), -100.0),
    "large offset": (lambda t: 1e6 + np.cos(t - 1), np.sin(1)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions(name):
    phi, slope = SMOOTH[name]
    scale = max(1.0, abs(slope))
    assert abs(complex_step(phi) - slope) <= 4 * EPS * scale
    # Its own error: h^2 phi'''/6 with h = 6e-6, largest for the pole (phi''' = -6e4), and eps |phi|/h.
    assert abs(central_difference(phi, 1.0) - slope) <= 1e-6 * scale + EPS * abs(phi(0.0)) / 6e-6
    found = richardson(phi, float(phi(0.0)), 1.0, 1e-10)
    assert not found.kink
    assert abs(found.value - slope) <= 10 * found.error
    assert found.error <= 1e-9 * scale + 1e-13 * abs(phi(0.0)) * 100


def test_the_step_grows_with_what_is_moved():
    """A parameter of a million: with a step made for 1 nothing but rounding would be left."""
    x = 1e6

    def phi(t):
        return math.sin((x + t) * 1e-6)

    slope = 1e-6 * math.cos(1.0)
    assert abs(central_difference(phi, x) - slope) <= 1e-9 * slope
    assert abs(central_difference(phi, 1.0) - slope) > 1e-7 * slope
    found = richardson(phi, phi(0.0), x, 1e-10 * slope)
    assert abs(found.value - slope) <= 1e-11 * slope


@pytest.mark.parametrize("left, right", [(0.0, 1.0), (-1.0, 1.0), (0.01, 1.0), (3.0, 2.9)])
def test_a_kink_is_found_with_both_slopes(left, right):
    found = richardson(lambda t: 5 + np.sin(t) * 0.1 + (right * t if t > 0 else left * t), 5.0, 1.0, 1e-9)
    assert found.kink
    # The last step is h = 2^-22: the sine's bend is h/20 of it and the rounding of 5 is eps 5/h.
    assert abs(found.left - (left + 0.1)) <= 1e-8
    assert abs(found.right - (right + 0.1)) <= 1e-8


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("distance", [1e-5, 1e-4, 1e-3, 1e-2])
def test_a_kink_at_a_distance_is_stepped_short_of(distance, sign):
    at = sign * distance
    found = richardson(lambda t: 1 + t * t + max(t - at, 0.0), 1 + max(-at, 0.0), 1.0, 1e-9)
    slope = 1.0 if at < 0 else 0.0
    assert not found.kink
    assert abs(found.value - slope) <= 1e-8
    assert abs(found.value - slope) <= 10 * found.error


def test_wherever_a_kink_is_no_wrong_slope_is_believed():
    """Found, or stepped short of, or the error is said: at 2,000 distances from 1e-10 to 1e-2."""
    rng, kinks = np.random.default_rng(0), 0
    for at in 10 ** rng.uniform(-10, -2, 2000) * rng.choice([-1, 1], 2000):
        found = richardson(lambda t, at=at: 3 + max(t - at, 0.0), 3 + max(-at, 0.0), 1.0, 1e-9)
        kinks += found.kink
        slope = 1.0 if at < 0 else 0.0
        assert found.kink or abs(found.value - slope) <= 10 * found.error, at
        assert not (found.kink and abs(at) > 1e-5), at
    assert kinks > 500  # those within the last step, 2e-7, are about 40 % of them


def test_a_bend_of_the_second_derivative_is_no_kink():
    found = richardson(lambda t: t * abs(t), 0.0, 1.0, 1e-6)
    assert not found.kink
    assert abs(found.value) <= 10 * found.error
    assert found.error <= 1e-5


def test_noise_is_no_kink_and_is_said():
    rng = np.random.default_rng(0)
    for _ in range(50):
        found = richardson(lambda t: 2 * t + 1e-6 * rng.standard_normal(), 0.0, 1.0, 1e-9)
        assert not found.kink
        # At best the first steps are used: noise / h = 1e-6 / 2e-3.
        assert found.error >= 1e-5
        assert abs(found.value - 2) <= 10 * found.error


def test_an_infinite_slope_is_neither_smooth_nor_a_kink():
    found = richardson(lambda t: math.copysign(math.sqrt(abs(t)), t), 0.0, 1.0, 1e-9)
    assert not found.kink
    assert found.error > 0.1


def test_single_precision_is_allowed_for():
    """A loss of float32 is off by 1e-7 / h: told so, the extrapolation accepts that at once and says how much it is."""

    def phi(t):
        return float(np.float32(math.exp(t)))

    found = richardson(phi, 1.0, 1.0, 1e-10, noise=float(np.finfo(np.float32).eps))
    assert abs(found.value - 1) <= 10 * found.error
    assert 1e-6 < found.error < 1e-2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite(value):
    found = richardson(lambda t: value if t > 0 else 0.0, 0.0, 1.0, 1e-9)
    assert math.isnan(found.value) and math.isnan(found.error) and not found.kink


def test_a_step_to_where_nothing_is_defined_is_followed_by_shorter_ones():
    found = richardson(lambda t: np.log(0.001 + t) if t > -0.001 else math.nan, math.log(0.001), 1.0, 1e-7)
    assert abs(found.value - 1000) <= 10 * found.error
    assert found.error <= 1e-4
    assert math.isnan(richardson(lambda t: 1.0, math.nan, 1.0, 1e-9).value)


@pytest.mark.parametrize("scale", [1e3, 1e5, 1e6, 1e8])
def test_a_function_that_saturates_within_the_first_steps(scale):
    """Beyond saturation the slopes grow like 1/h, and so do their errors: the first is not the best."""
    slope = scale * (1 - math.tanh(0.3) ** 2)
    found = richardson(lambda t: math.tanh(scale * t + 0.3), math.tanh(0.3), 1.0, 1e-10 * slope)
    assert not found.kink
    assert abs(found.value - slope) <= 10 * found.error
    assert found.error <= (2e-8 + 1e-13 * scale) * slope  # eps/h, and 50 times that, with h a tenth of 1/scale


def test_a_slope_that_grows_with_every_step_is_not_believed():
    """A jump: no step is the right one, and the error is as large as the slope."""
    found = richardson(lambda t: math.copysign(1.0, t), 0.0, 1.0, 1e-9)
    assert not found.kink and 10 * found.error >= abs(found.value)


@pytest.mark.parametrize("period", [2.0**-k for k in range(15)])
def test_a_wave_whose_period_divides_the_first_steps(period):
    """sin and a straight line: at all multiples of the period it is the line alone."""
    k = 2 * math.pi / period
    found = richardson(lambda t: math.sin(k * t) + t, 0.0, 512.0, 1e-10 * k)
    assert not found.kink
    assert abs(found.value - (k + 1)) <= 1e-9 * k


@pytest.mark.parametrize("width", [1e-3, 1e-4, 1e-5])
def test_a_bump_narrower_than_the_first_steps(width):
    found = richardson(lambda t: t / width * math.exp(-((t / width) ** 2)), 0.0, 1.0, 1e-10 / width)
    assert not found.kink
    assert abs(found.value * width - 1) <= 1e-9


@pytest.mark.parametrize("width", [10.0**-k for k in range(6, 12)])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_what_is_narrower_than_every_step_is_found_by_who_looks_for_it(width, offset):
    def phi(t):
        return offset + math.sin(t) + t * math.exp(-((t / width) ** 2))

    far = richardson(phi, offset, 1.0, 1e-10)
    assert abs(far.value - 1) <= 1e-9
    found = closer(phi, offset, 1.0, far, other=2.0, noise=0.0, scale=1.0)
    # eps (1 + offset)/h with h a tenth of the width, twelvefold by the extrapolation.
    assert abs(found.value - 2) <= found.error <= 12 * 50 * EPS * (1 + offset) / (width / 10)
    # What is so narrow was taken for noise.
    assert closer(phi, offset, 1.0, far, other=2.0, noise=1e-6, scale=1.0) == found
    # Of another slope that nothing inside explains, the first is kept; so is it where the shorter steps show a third.
    for function, other in ((math.sin, 2.0), (math.sin, 1.0 + 1e-9), (phi, 3.0)):
        assert closer(function, function(0.0), 1.0, far, other, noise=0.0, scale=1.0) == far


def test_what_cannot_be_seen_convicts_nobody():
    """Of 1e-8 beside a loss of 1, steps below 1e-5 show nothing: where bends may be so near, that is said."""
    far = richardson(lambda t: 1 + 1e-8 * t, 1.0, 1.0, 1e-17)
    assert abs(far.value - 1e-8) <= 10 * far.error < 1e-8 and far.step < 1e-5
    for other in (0.0, 2e-8):
        seen = closer(lambda t: 1 + 1e-8 * t, 1.0, 1.0, far, other, noise=0.0, scale=1e-5)
        hidden = closer(lambda t: 1 + 1e-8 * t, 1.0, 1.0, far, other, noise=0.0, scale=1e-7)
        assert seen == far and hidden == far._replace(error=abs(other - far.value))
    # A loss of 0 that stands still has no rounding either: the search ends all the same.
    still = richardson(lambda t: 0.0, 0.0, 1.0, 1e-10)
    assert closer(lambda t: 0.0, 0.0, 1.0, still, other=1.0, noise=0.0, scale=1e-12) == still


def test_the_central_difference_may_be_handed_over():
    calls = []

    def phi(t):
        calls.append(t)
        return math.exp(t)

    near = central_difference(phi, 1.0)
    calls.clear()
    found = richardson(phi, 1.0, 1.0, 1e-10, central=near)
    assert found == richardson(math.exp, 1.0, 1.0, 1e-10) and min(map(abs, calls)) > 1e-4
    # One that contradicts all steps is never agreed with: what is left between them is the error.
    assert richardson(math.exp, 1.0, 1.0, 1e-10, central=5.0).error < 1e-6  # shorter steps than its own decide
    assert richardson(lambda t: t, 0.0, 1.0, 1e-10, central=math.nan).value == 1


def test_what_cannot_be_computed_is_not_a_number():
    def phi(t):
        if t > 2:
            raise InputError("no number")
        if t > 1:
            try:
                return math.log(-1)
            except ValueError as error:
                raise InputError("theirs raised ValueError") from error
        return 1 / t if t >= 0 else math.exp(-1e3 * t)

    assert value(phi, 0.5) == 2
    assert all(math.isnan(value(phi, t)) for t in (-1.0, 0.0, 1.5))
    with pytest.raises(InputError, match="no number"):
        value(phi, 3.0)
    assert math.isnan(central_difference(phi, 1.5e5))  # h = 0.9: exp(900) overflows


@pytest.mark.parametrize("sigma", [1e-12, 1e-7, 1.0])
def test_noise_is_measured(sigma):
    """Of 200 estimates from nine values each, the middle one is right to a fifth; what is smooth does not count."""
    rng = np.random.default_rng(0)
    line = np.exp(np.arange(POINTS) * JITTER)
    estimates = [noise_level(line + sigma * rng.standard_normal(POINTS)) for _ in range(200)]
    # Five correlated differences: an estimate's own standard error is below 40 %, the median's 1.25 * 40 % / sqrt(200).
    assert abs(np.median(estimates) / sigma - 1) <= 0.2
    assert noise_level(line) <= 4 * EPS
    assert noise_level([0.0, math.nan] * 4) == noise_level([0.0, math.inf] * 4) == 0


def test_is_kink():
    assert is_kink([5.0, 1.0, 1.0, 1.1], above=0.5)
    assert is_kink([1.0, 1.0, 1.0, 0.3, 0.0], above=0.5)  # between the last two steps
    assert not is_kink([1.0, 1.0, 1.0], above=2.0)
    assert not is_kink([1.0, -1.0, 1.0], above=0.5)
    assert not is_kink([1.0, 2.0, 4.0, 8.0], above=0.5)
    assert not is_kink([1.0] * 3 + [0.0] * 6, above=0.5)  # long ago
    assert Slope(1.0, 0.0) == (
        1.0,
        0.0,
        False,
        pytest.approx(math.nan, nan_ok=True),
        pytest.approx(math.nan, nan_ok=True),
        pytest.approx(math.nan, nan_ok=True),
    )
