"""npvae's check of itself: it leaves nothing out, passes, and sees an op that is wrong."""

import numpy as np
import pytest
from op_cases import CASES, Sizes

from npvae.likelihoods import LIKELIHOODS
from npvae.mlp import ACTIVATIONS
from npvae.ops import BACKENDS, jit, reference
from npvae.selfcheck import count, selfcheck
from npvae.specimens import BOUNDS, OPS, models
from npvae.vae import VAE


def test_every_op_is_a_specimen_as_the_tests_declare_it():
    """The tests' declaration and the package's own say the same of every op."""

    def said(op, name):
        return name, op.variant, op.outputs, op.gradients, dict(op.settings)

    ours = [said(op, op.name) for op in OPS]
    theirs = [said(case, case.op) for case in CASES]
    assert sorted(map(str, ours)) == sorted(map(str, theirs))
    for op in OPS:
        (case,) = (c for c in CASES if (c.op, c.variant) == (op.name, op.variant))
        drawn = op.draw(np.random.default_rng(0))
        assert list(drawn) == list(case.draw(np.random.default_rng(0), Sizes(4, 3, 5, 6, 3)))


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

    monkeypatch.setattr(ops, "gaussian_kl_backward", backward)
    wrong = {(c.name, c.backend) for c in selfcheck() if not c.report.ok}
    elbos = {name for name, model in models() if isinstance(model, VAE) and "iwae" not in name}
    assert wrong == {(name, backend) for name in {"gaussian_kl", *elbos}}
