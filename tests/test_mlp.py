"""Dense layers in a row, apart from any model."""

from itertools import pairwise

import numpy as np
import pytest
from op_cases import error
from test_ops import BACKENDS, rng_of

from npvae.errors import InputError
from npvae.flat import carve, leaves, named, sizes
from npvae.mlp import ACTIVATIONS, MLP, check_architecture

BY_HAND = {
    "identity": lambda a: a,
    "relu": lambda a: np.maximum(a, 0),
    "leaky-relu": lambda a: np.where(a > 0, a, 0.01 * a),
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "softplus": lambda a: np.log1p(np.exp(a)),
    "elu": lambda a: np.where(a > 0, a, np.expm1(a)),
}


def built(mlp, rows, dtype=np.float64, fill=0.0):
    """Parameters and activations of an MLP, filled."""
    trees = []
    for layout in (mlp.params(), mlp.acts(rows)):
        trees.append(carve(layout, np.full(sizes(layout)[0], fill, dtype)))
    return trees


def drawn(mlp, rows, rng):
    p, h = built(mlp, rows)
    for _, view in leaves(p):
        view[:] = rng.standard_normal(view.shape)
    return p, h, rng.standard_normal((rows, mlp.widths[0]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_is_the_formula(activation, backend):
    mlp = MLP((4, 3, 5, 2), activation)
    p, h, x = drawn(mlp, 6, rng_of(activation))
    result = mlp.forward(BACKENDS[backend], p, x, h)
    act = BY_HAND[activation]
    first = act(x @ p[0].W + p[0].b)
    second = act(first @ p[1].W + p[1].b)
    for mine, expected in zip(h, (first, second, second @ p[2].W + p[2].b), strict=True):
        assert error(mine, expected) <= 1e-14
    assert result is h[-1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("widths", [(4, 2), (4, 3, 2), (4, 3, 5, 2)])
def test_backward_is_the_complex_step(widths, activation, backend):
    """With a random derivative by the result; every entry of the parameters, of the input and of h."""
    ops, mlp, rng = BACKENDS[backend], MLP(widths, activation), rng_of(activation, widths)
    p, h, x = drawn(mlp, 3, rng)
    mlp.forward(ops, p, x, h)
    seed = rng.standard_normal(h[-1].shape)
    dp, dh = built(mlp, 3, fill=np.nan)
    dh[-1][:] = seed
    dx, scratch = np.full_like(x, np.nan), np.full(mlp.scratch(ops, 3), np.nan)
    mlp.backward(ops, p, x, h, dp, dh, scratch, dx)
    assert np.array_equal(dh[-1], seed)

    count = sizes(mlp.params())[0]
    theta = np.concatenate([view.ravel() for _, view in leaves(p)]) + 0j
    inputs = np.concatenate([theta, x.ravel()])
    exact = np.empty(inputs.size)
    _, complex_h = built(mlp, 3, np.complex128)
    for i in range(inputs.size):
        inputs[i] += 1e-30j
        moved = carve(mlp.params(), inputs[:count])
        y = mlp.forward(BACKENDS["reference"], moved, inputs[count:].reshape(x.shape), complex_h)
        exact[i] = np.sum(seed * y).imag / 1e-30
        inputs[i] = inputs[i].real
    for (name, gradient), (_, expected) in zip(leaves(dp), leaves(carve(mlp.params(), exact[:count])), strict=True):
        assert error(gradient, expected) <= 1e-12, name
    assert error(dx, exact[count:].reshape(x.shape)) <= 1e-12

    for i in range(len(h) - 1):  # the layers above h[i] are an MLP too
        above, entries = MLP(widths[i + 1 :], activation), np.empty(h[i].shape)
        _, room = built(above, 3, np.complex128)
        for j in np.ndindex(entries.shape):
            moved_h = h[i] + 0j
            moved_h[j] += 1e-30j
            y = above.forward(BACKENDS["reference"], p[i + 1 :], moved_h, room)
            entries[j] = np.sum(seed * y).imag / 1e-30
        assert error(dh[i], entries) <= 1e-12, i


def test_backward_without_room_for_dx_gives_the_same_gradients():
    ops, mlp, rng = BACKENDS["reference"], MLP((4, 3, 2), "tanh"), rng_of("dx")
    p, h, x = drawn(mlp, 3, rng)
    mlp.forward(ops, p, x, h)
    both = []
    for dx in (None, np.empty_like(x)):
        dp, dh = built(mlp, 3, fill=np.nan)
        dh[-1][:] = 1
        mlp.backward(ops, p, x, h, dp, dh, np.empty(mlp.scratch(ops, 3)), dx)
        both.append(named(dp))
    assert all(np.array_equal(both[0][name], both[1][name]) and np.isfinite(both[0][name]).all() for name in both[0])


def test_scratch_is_enough_for_the_widest_layer():
    for ops in BACKENDS.values():
        for widths in ((4, 9, 2), (9, 4, 2), (2, 4, 9)):
            layers = pairwise(widths)
            assert MLP(widths, "relu").scratch(ops, 5) == max(ops.dense_scratch(5, i, o) for i, o in layers)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_initial_weights_have_their_variance(activation):
    """He's 2/in under a rectifier, Glorot's 2/(in + out) elsewhere and in the last layer.

    The variance of n normal weights has a standard error of sqrt(2/n) of itself (less, for uniform ones): here
    n = 60,000 and 3 % are more than five of them.
    """
    mlp = MLP((300, 200, 300), activation)
    p, _ = built(mlp, 1, fill=np.nan)
    mlp.initialize(p, rng_of("initialize"))
    rectified = activation in ("relu", "leaky-relu", "elu")
    assert p[0].W.var() == pytest.approx(2 / 300 if rectified else 2 / 500, rel=0.03)
    assert p[1].W.var() == pytest.approx(2 / 500, rel=0.03)
    assert (np.abs(p[0].W).max() > np.sqrt(6 / 500)) == rectified  # a uniform draw has an edge
    assert np.abs(p[1].W).max() <= np.sqrt(6 / 500)
    assert not p[0].b.any() and not p[1].b.any()
    assert abs(np.corrcoef(p[0].W.ravel(), p[1].W.T.ravel())[0, 1]) < 0.02  # five standard errors


def test_activations_keep_their_variance_on_the_way_down():
    """What He's initialisation is for: without its 2 five layers of ReLU would lose a factor of 32."""
    mlp = MLP((400,) * 7, "relu")
    p, h = built(mlp, 200)
    mlp.initialize(p, rng_of("depth"))
    mlp.forward(BACKENDS["reference"], p, rng_of("x").standard_normal((200, 400)), h)
    assert 0.5 < np.mean(h[4] ** 2) / np.mean(h[0] ** 2) < 2


def test_architecture_is_checked():
    assert check_architecture(4, [3, 2], 1, "relu") == {"data": 4, "hidden": (3, 2), "latent": 1}
    plain = check_architecture(np.int64(4), (np.int32(3),), np.uint8(1), "tanh")
    assert plain == {"data": 4, "hidden": (3,), "latent": 1}
    assert {type(number) for number in (plain["data"], *plain["hidden"], plain["latent"])} == {int}
    for wrong in ((0, (), 1), (4, (), 0), (4, (3, 0), 1), (4, (3.5,), 1), (4, "32", 1), (4, 3, 1), (4, None, 1)):
        with pytest.raises(InputError, match=r"must be a (whole number|tuple)"):
            check_architecture(*wrong, "relu")
    with pytest.raises(InputError, match=r"expected one of identity, relu.*Did you mean 'softplus'"):
        check_architecture(4, (), 1, "soft-plus")
