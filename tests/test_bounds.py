"""The bounds: how K samples are combined, and what a loss is made of."""

import numpy as np
import pytest
from test_vae import vae_trial

from npvae.bounds import ELBO, IWAE, terms
from npvae.errors import InputError
from npvae.flat import Shape
from npvae.vae import VAE
from npvae.workspace import Workspace


def weights_of(ws, beta=1.0):
    return ws.acts.log_px - beta * ws.acts.rate.sum(axis=-1)


def test_iwae_of_one_sample_is_log_px_minus_the_sampled_rate():
    drawn = vae_trial("gaussian", "iwae")
    ws = drawn.workspace()
    loss = ws.forward(*drawn.batch)
    assert loss == pytest.approx(-weights_of(ws, 0.7).mean(), rel=1e-14)
    assert np.array_equal(ws.acts.log_w, weights_of(ws, 0.7))


def test_iwae_is_the_log_of_the_mean_weight():
    drawn = vae_trial("gaussian", "iwae", samples=4)
    ws = drawn.workspace()
    loss = ws.forward(*drawn.batch)
    assert loss == pytest.approx(-np.log(np.exp(weights_of(ws, 0.7)).mean(axis=1)).mean(), rel=1e-13)
    ws.backward()
    normalised = np.exp(ws.acts.log_w) / np.exp(ws.acts.log_w).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ws.dacts.log_px, -normalised / 3, rtol=1e-13)
    np.testing.assert_allclose(ws.dacts.rate, np.broadcast_to(0.7 * normalised[..., None] / 3, (3, 4, 3)), rtol=1e-13)


def test_sampled_rate_is_the_log_ratio_of_the_densities():
    drawn = vae_trial("gaussian", "iwae", samples=2)
    ws = drawn.workspace()
    ws.forward(*drawn.batch)
    mu, logvar = np.split(ws.acts.stats, 2, axis=-1)
    log_q = -0.5 * (np.log(2 * np.pi) + logvar + (ws.acts.z - mu) ** 2 / np.exp(logvar))
    log_p = -0.5 * (np.log(2 * np.pi) + ws.acts.z**2)
    np.testing.assert_allclose(ws.acts.rate, log_q - log_p, rtol=1e-11, atol=1e-13)


def test_sampled_rate_averages_to_the_closed_form():
    """For every image and latent, within 4.5 standard errors of 10,000 samples."""
    drawn = vae_trial("gaussian", "iwae")
    K = 10_000
    sampled = Workspace(drawn.model, 3, K, "float64", "reference", theta=drawn.theta, seed=2)
    sampled.forward(drawn.batch.x)
    closed = Workspace(VAE(5, (4,), 3, "tanh", "gaussian"), 3, 1, "float64", "reference", theta=drawn.theta)
    closed.forward(drawn.batch.x)
    standard_error = sampled.acts.rate.std(axis=1) / np.sqrt(K)
    assert (standard_error < 0.05).all()
    assert (np.abs(sampled.acts.rate.mean(axis=1) - closed.acts.rate[:, 0]) <= 4.5 * standard_error).all()


def test_layouts_have_the_rate_per_image_or_per_sample():
    assert ELBO().rate(4, 3, 2) == Shape((4, 1, 2), wide=True)
    assert IWAE().rate(4, 3, 2) == Shape((4, 3, 2), wide=True)
    assert ELBO().log_w(4, 3) == () and IWAE().log_w(4, 3) == Shape((4, 3), wide=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bound", [ELBO(), IWAE()])
def test_densities_and_their_seeds_are_float64(bound, dtype):
    ws = Workspace(VAE(5, (4,), 3, bound=bound), 3, 2, dtype, "reference")
    ws.forward(np.ones((3, 5)))
    ws.backward()
    for tree in (ws.acts, ws.dacts):
        assert tree.log_px.dtype == tree.rate.dtype == np.float64
        assert bound == ELBO() or tree.log_w.dtype == np.float64
        assert tree.z.dtype == dtype


def test_terms_are_unweighted_means():
    log_px, rate = np.array([[-1.0, -2.0], [-3.0, -6.0]]), np.array([[[1.0, 2.0]], [[3.0, 6.0]]])
    assert terms(log_px, rate) == {"reconstruction": 3.0, "rate": 6.0}
    assert terms(log_px + 5j, rate + 5j) == {"reconstruction": 3.0, "rate": 6.0}


@pytest.mark.parametrize("wrong", [-0.1, np.nan, np.inf, "1", None, True])
def test_free_bits_must_be_a_number(wrong):
    with pytest.raises(InputError, match="free_bits must be a number of at least 0"):
        ELBO(wrong)
