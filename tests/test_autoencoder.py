"""The autoencoders: derivatives, and what they compute."""

from types import SimpleNamespace

import numpy as np
import pytest
from numba import config
from op_cases import error
from test_vae import BACKENDS, Batch, check_gradients, fresh_gradients, trial

from npvae import datasets
from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.errors import InputError
from npvae.mlp import ACTIVATIONS
from npvae.workspace import Workspace


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("hidden", [(), (4,), (5, 3)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients(activation, hidden, denoise, backend):
    drawn = trial(Autoencoder(5, hidden, 2, activation), denoise=denoise)
    check_gradients(drawn.workspace(backend), drawn.batch)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 4])
def test_linear_gradients(rows, denoise, backend):
    """W is read twice, by the encoder and by the decoder; dz, which tied_forward also reads, is checked below."""
    drawn = trial(LinearAutoencoder(5, 2), rows=rows, denoise=denoise)
    check_gradients(drawn.workspace(backend), drawn.batch, apart=("z",))


def test_linear_dz_is_the_derivative_by_the_code():
    drawn = trial(LinearAutoencoder(5, 2))
    ws = drawn.workspace()
    fresh_gradients(ws, drawn.batch)
    exact = np.empty(ws.acts.z.shape)
    for i in np.ndindex(exact.shape):
        z = ws.acts.z + 0j
        z[i] += 1e-30j
        exact[i] = np.sum((z @ ws.params.W.T - drawn.batch.target) ** 2).imag / 1e-30 / 3
    assert error(ws.dacts.z, exact) <= 1e-12


def test_a_forgotten_use_of_the_tied_matrix_is_caught():
    drawn = trial(LinearAutoencoder(5, 2))
    ws = drawn.workspace()
    ops = ws.ops

    def decoder_alone(dy, x, W, z, out, scratch):
        ops.tied_backward(dy, x, W, z, out=out, scratch=scratch)
        out[1][:] = dy.T @ z

    ws.ops = SimpleNamespace(**vars(ops) | {"tied_backward": decoder_alone})
    with pytest.raises(AssertionError, match=r"^W"):
        check_gradients(ws, drawn.batch, apart=("z",))


@pytest.mark.parametrize("kind", [Autoencoder, LinearAutoencoder])
def test_float32_jit_gradient_is_the_float64_reference(kind):
    rows = 2 if config.DISABLE_JIT else 64
    digits = datasets.load("mnist-small", rows=64).train.images[:rows]
    hidden = {"hidden": (10 if config.DISABLE_JIT else 100,)} if kind is Autoencoder else {}
    model = kind(data=784, latent=20, **hidden)
    narrow = Workspace(model, rows, backend="jit", seed=2)
    exact = Workspace(model, rows, 1, "float64", "reference", theta=narrow.theta.astype(np.float64))
    for ws in (narrow, exact):
        fresh_gradients(ws, Batch(digits, None, None, 1.0))
    assert narrow.dtheta.dtype == np.float32
    off = np.linalg.norm(narrow.dtheta - exact.dtheta) / np.linalg.norm(exact.dtheta)
    assert off <= 1e-5


# ── What they compute ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("model", [Autoencoder(5, (4,), 2, "tanh"), LinearAutoencoder(5, 2)])
def test_loss_is_the_squared_error_by_hand(model):
    drawn = trial(model)
    ws, (x, target, _, _) = drawn.workspace(), drawn.batch
    loss = ws.forward(*drawn.batch)
    if isinstance(model, LinearAutoencoder):
        y = x @ ws.params.W @ ws.params.W.T
    else:
        (e0, e1), (d0, d1) = ws.params.encoder, ws.params.decoder
        code = np.tanh(x @ e0.W + e0.b) @ e1.W + e1.b
        y = np.tanh(code @ d0.W + d0.b) @ d1.W + d1.b
        assert ws.params.likelihood == ()
    assert loss == pytest.approx(np.sum((y - target) ** 2) / 3, rel=1e-14)
    assert ws.terms == {"reconstruction": pytest.approx(loss, rel=1e-14), "rate": 0.0}
    codes = ws.encode(x)
    assert codes.shape == (3, 2)
    assert error(ws.decode(codes), y) <= 1e-14


def test_linear_weights_start_as_a_projection():
    """N(0, 1/D): W'W is the identity but for a standard error of sqrt(1/D), here 1 %."""
    W = Workspace(LinearAutoencoder(10_000, 3), 1, dtype="float64", backend="reference").params.W
    assert np.abs(W.T @ W - np.eye(3)).max() < 0.05


@pytest.mark.parametrize("kind", [Autoencoder, LinearAutoencoder])
@pytest.mark.parametrize("wrong", [{"data": 0}, {"data": 1.5}, {"latent": 0}, {"latent": "2"}])
def test_what_makes_no_sense_is_refused(kind, wrong):
    with pytest.raises(InputError, match=r"(data|latent) must be a whole number"):
        kind(**{"data": 4, "latent": 2} | wrong)


def test_an_autoencoder_checks_its_layers():
    assert Autoencoder(4, [3]).hidden == (3,)
    with pytest.raises(InputError, match="hidden must be a whole number"):
        Autoencoder(4, (0,))
    with pytest.raises(InputError, match="Did you mean 'tanh'"):
        Autoencoder(4, activation="tahn")
