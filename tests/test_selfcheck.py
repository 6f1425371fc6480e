"""npvae's check of itself: it leaves nothing out, passes, and sees an op that is wrong."""

import numpy as np
import pytest
from op_cases import CASES

from npvae import selfcheck as module
from npvae.likelihoods import LIKELIHOODS
from npvae.mlp import ACTIVATIONS
from npvae.ops import BACKENDS, jit, reference
from npvae.selfcheck import count, selfcheck
from npvae.specimens import BOUNDS, OPS, SIZES, models
from npvae.vae import VAE
from npvae.workspace import Workspace


def test_every_op_that_is_declared_is_swept():
    assert [case.declared for case in CASES] == list(OPS)


def test_every_likelihood_bound_activation_and_model_is_there():
    vaes = [model for _, model in models() if isinstance(model, VAE)]
    assert {(m.p_x.name, m.bound) for m in vaes} == {(n, b) for n in LIKELIHOODS for b in BOUNDS.values()}
    assert {m.activation for m in vaes} == set(ACTIVATIONS)
    assert {type(m).__name__ for _, m in models()} == {"VAE", "Autoencoder", "LinearAutoencoder"}


def test_everything_passes():
    checked = list(selfcheck())
    assert len(checked) == count() == len(BACKENDS) * (len(OPS) + len(list(models())))
    assert [(c.name, c.backend, str(c.report)) for c in checked if not c.report.ok] == []
    assert max(c.report.max_error for c in checked) < 1e-12
    assert all(c.report.diagnosis.kind == "right" for c in checked)


@pytest.mark.parametrize("backend", ["reference", "jit"])
def test_a_wrong_op_is_seen_alone_and_in_models(monkeypatch, backend):
    ops = {"reference": reference, "jit": jit}[backend]
    right = ops.gaussian_kl_backward

    def backward(drate, stats, out=None):
        dstats = right(drate, stats, out=out)
        dstats[..., stats.shape[-1] // 2 :] *= 2
        return dstats

    few = [item for item in models() if item[0].startswith(("vae bernoulli", "linear"))]
    monkeypatch.setattr(module, "models", lambda: few)
    monkeypatch.setattr(module, "OPS", [op for op in OPS if op.name in ("gaussian_kl", "log_ratio")])
    monkeypatch.setattr(ops, "gaussian_kl_backward", backward)
    wrong = {(c.name, c.backend) for c in selfcheck() if not c.report.ok}
    elbos = {name for name, _ in few if "elbo" in name}
    assert len(elbos) == 2  # the third bound, the importance-weighted one, has another rate
    assert wrong == {(name, backend) for name in {"gaussian_kl", *elbos}}


def test_free_bits_bind_and_do_not():
    """Else one of the clamp's two sides would go unchecked."""
    sides = set()
    B, K, D, _, Z = SIZES
    x, target = np.random.default_rng(1).random((2, B, D))
    for _, model in models():
        if isinstance(model, VAE) and getattr(model.bound, "free_bits", 0):
            ws = Workspace(model, B, K, "float64", "reference")
            ws.theta += 0.1 * np.random.default_rng(2).standard_normal(ws.theta.shape)
            ws.forward(x, target, eps=np.zeros((B, K, Z)))
            above = ws.acts.rate.mean(axis=(0, 1)) > model.bound.free_bits
            assert above.any()
            sides |= set(above.tolist())
    assert sides == {True, False}
