"""The lesson on reparameterisation with the library broken on purpose: its claim does not hold then."""

import numpy as np
from test_lessons import failing

from npvae.ops import default_backend, load_backend

USED = {default_backend(), "reference"}  # a VAE is trained on the one, derivatives are exact on the other


def replace(monkeypatch, name, wrong):
    for backend in USED:
        ops = load_backend(backend)
        monkeypatch.setattr(ops, name, wrong(getattr(ops, name)))


def test_a_variance_for_a_deviation(monkeypatch):
    """z = mu + sigma^2 eps is differentiable too, and not distributed as the divergence thinks."""

    def squared(forward):
        def wrong(stats, eps, out=None):
            mu, logvar = np.split(np.asarray(stats), 2, axis=-1)
            return forward(np.concatenate([mu, 2 * logvar], axis=-1), eps, out=out)

        return wrong

    replace(monkeypatch, "reparameterize_forward", squared)
    assert "√n sup|Fₙ − F| of the codes, worst latent" in failing("reparameterization")


def test_a_factor_in_the_path_of_sigma(monkeypatch):
    def scaled(backward):
        def wrong(dz, stats, eps, out=None):
            return backward(dz, stats, (2 * eps).astype(eps.dtype), out=out)

        return wrong

    replace(monkeypatch, "reparameterize_backward", scaled)
    assert "mean of pathwise, furthest from exact" in failing("reparameterization")


def test_noise_redrawn_in_backward(monkeypatch):
    """The lesson redraws it on purpose, to show the bias; if the library does, its own derivatives have it."""
    rng = np.random.default_rng(0)

    def redrawn(backward):
        def wrong(dz, stats, eps, out=None):
            return backward(dz, stats, rng.standard_normal(eps.shape).astype(eps.dtype), out=out)

        return wrong

    replace(monkeypatch, "reparameterize_backward", redrawn)
    assert failing("reparameterization") >= {"mean of pathwise, furthest from exact", "σ of the codes after training"}
