"""Every model's gradient where it is used: at initialisation and after training, small and at full size.

The reconstruction's share (beta 0) and the rate's (the difference to beta 1) are compared apart, so that neither hides
behind the other. A tiny net is checked entry by entry; a full one along random directions, tensor by tensor: one wrong
entry among n shows in the derivative along such a direction as 1/sqrt(n) of what it is off by. The gradients of both
backends are held against one oracle, the reference's complex step.
"""

import numpy as np
import pytest
from numba import config
from test_ops import rng_of
from test_vae import (
    BACKENDS,
    BOUNDS,
    CHOSEN,
    LIKELIHOODS,
    STEP,
    Batch,
    Trial,
    by_parameters,
    fresh_gradients,
    oracle_of,
    with_free_bits,
)

from npvae import datasets
from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.bounds import ELBO, IWAE
from npvae.flat import carve, leaves
from npvae.optim import Adam
from npvae.vae import VAE
from npvae.workspace import Workspace

ROWS, SAMPLES = 4, 3  # of the batch that is checked
TRAINED = pytest.mark.parametrize("steps", [0, 50], ids=["at initialisation", "after 50 steps"])


def drawn_after(model, images, steps, samples=1):
    """Parameters as the default initialisation and so many steps of Adam leave them, and a batch to check."""
    ws = Workspace(model, len(images), samples, "float64", seed=4)
    if isinstance(model, VAE):
        model.initialize_from(ws.params, images)
    optimizer = Adam(ws)
    for _ in range(steps):
        ws.forward(images)
        ws.backward()
        optimizer.step()
    rng, shape = rng_of(model, samples, steps), model.noise(ROWS, samples)
    eps = None if shape is None else rng.standard_normal(shape)
    return Trial(model, samples, ws.theta, Batch(images[:ROWS], images[-ROWS:], eps, 1.0))


def shares(gradient, ws, batch):
    """gradient(ws, batch), arrays by tensor, of the reconstruction and of the rate; of a loss that has no rate."""
    if not isinstance(ws.model, VAE):
        return {"loss": gradient(ws, batch)}
    reconstruction, both = gradient(ws, batch._replace(beta=0.0)), gradient(ws, batch)
    return {"reconstruction": reconstruction, "rate": {name: both[name] - reconstruction[name] for name in both}}


def check_apart(drawn, oracle, gradient, tolerance):
    """Both backends' shares against the oracle's.

    A difference keeps the rounding of what was subtracted. That matters where importance weights are all but 0 and 1,
    so that no rate moves the decoder.
    """
    exact = shares(oracle, drawn.workspace(), drawn.batch)
    for backend in BACKENDS:
        for share, tensors in shares(gradient, drawn.workspace(backend), drawn.batch).items():
            for name, result in tensors.items():
                expected = exact[share][name]
                rounding = 1e-14 * np.abs(exact["reconstruction"][name]).max() if share == "rate" else 0
                off = np.abs(result - expected).max()
                assert off <= tolerance * np.abs(expected).max() + rounding, (backend, share, name)


def by_name(ws, vector):
    return dict(leaves(carve(ws.model.params(), vector)))


def entries_of(ws, batch):
    fresh_gradients(ws, batch)
    return by_name(ws, ws.dtheta.copy())


# ── Tiny nets, every entry ───────────────────────────────────────────────────────────────────────────────────────


def check_entries(drawn):
    check_apart(drawn, lambda ws, batch: by_name(ws, by_parameters(ws, batch)), entries_of, 1e-11)


def tiny_images():
    return rng_of("tiny").random((8, 5))


@TRAINED
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_entry_of_a_tiny_vae(likelihood, bound, steps):
    activation, hidden = CHOSEN[likelihood, bound, SAMPLES]
    model = VAE(5, hidden, 3, activation, LIKELIHOODS[likelihood], IWAE() if bound == "iwae" else ELBO())
    check_entries(with_free_bits(drawn_after(model, tiny_images(), steps, SAMPLES), bound))


@TRAINED
@pytest.mark.parametrize("model", [Autoencoder(5, (4, 3), 2, "tanh"), LinearAutoencoder(5, 2)], ids=["deep", "linear"])
def test_every_entry_of_a_tiny_autoencoder(model, steps):
    check_entries(drawn_after(model, tiny_images(), steps))


# ── Full-size nets, along directions ─────────────────────────────────────────────────────────────────────────────

HIDDEN = 10 if config.DISABLE_JIT else 400
DIRECTIONS = 2


def directions_of(ws, name, view):
    """Vectors to move a tensor along, N(0, 1) in its entries."""
    return rng_of(name, ws.model).standard_normal((DIRECTIONS, *view.shape))


def along(ws, batch):
    """The derivatives of the loss along each tensor's directions, by the complex step."""
    oracle, exact = oracle_of(ws), {}
    for name, view in leaves(oracle.params):
        exact[name] = np.empty(DIRECTIONS)
        for k, u in enumerate(directions_of(ws, name, view)):
            view.imag = STEP * u
            exact[name][k] = oracle.forward(*batch).imag / STEP
        view.imag = 0
    return exact


def projected(ws, batch):
    """The same from the gradient that backward computes."""
    gradients = entries_of(ws, batch).items()
    return {name: np.array([np.vdot(u, g) for u in directions_of(ws, name, g)]) for name, g in gradients}


def check_directions(drawn):
    check_apart(drawn, along, projected, 1e-9)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("mnist-small", rows=16).train.images.astype(np.float64)


@TRAINED
@pytest.mark.parametrize("bound", ["elbo", "free bits that bind", "iwae"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_directions_of_a_full_vae(digits, likelihood, bound, steps):
    model = VAE(784, (HIDDEN,), 20, "relu", LIKELIHOODS[likelihood], IWAE() if bound == "iwae" else ELBO())
    samples = SAMPLES if bound == "iwae" else 1
    check_directions(with_free_bits(drawn_after(model, digits, steps, samples), bound))


@TRAINED
@pytest.mark.parametrize("model", [Autoencoder(784, (HIDDEN,), 20), LinearAutoencoder(784, 20)], ids=["deep", "linear"])
def test_directions_of_a_full_autoencoder(digits, model, steps):
    check_directions(drawn_after(model, digits, steps))


# ── The checks can fail ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("check, data", [(check_entries, 5), (check_directions, 784)])
@pytest.mark.parametrize("share", ["reconstruction", "rate"])
def test_a_share_that_is_wrong_by_a_millionth_is_caught(monkeypatch, digits, check, data, share):
    """On one entry of one tensor."""
    images = tiny_images() if data == 5 else digits
    drawn = drawn_after(VAE(data, (20 if data == 784 else 4,), 3), images, 0)
    check(drawn)
    backward = VAE.backward

    def wrong(vae, *a):
        backward(vae, *a)
        if share == "reconstruction" or a[2].beta != 0:
            gradient = a[4].encoder[0].W
            gradient[np.unravel_index(np.abs(gradient).argmax(), gradient.shape)] *= 1 + 1e-6

    monkeypatch.setattr(VAE, "backward", wrong)
    with pytest.raises(AssertionError, match=rf"{share}.*encoder\.0\.W"):
        check(drawn)
