"""Every witness passes the right code, names the mistakes it knows, and admits that it knows no name for others."""

import numpy as np
import pytest

from npvae.zoo import loss_witnesses, plain, testimony, training_witnesses
from npvae.zoo.bug import as_module, plain_source

WITNESSES = loss_witnesses.WITNESSES | training_witnesses.WITNESSES

KL = "kl = 0.5 * np.sum(self.mu**2 + np.exp(self.logvar) - self.logvar - 1, axis=1)"
LOG_PX = "log_px = np.sum("
DRAW = "self.rng.standard_normal((B, K, self.mu.shape[1]))"
UPDATE = "self.p[name] -= lr * mean / (np.sqrt(square) + tiny)"

# witness, right text, wrong text, the kind that is to come out of it; "": the witness knows no name for this.
MISTAKES = {
    "rate halved": ("rate", KL, KL.replace("0.5", "0.25"), "factor 1/2"),
    "rate without sigma": ("rate", KL, "kl = 0.5 * np.sum(self.mu**2, axis=1)", "sigma missing"),
    "rate off by a little": ("rate", KL, KL.replace("0.5", "0.6"), ""),
    "pixels summed up D times": ("pixels", LOG_PX, "log_px = t.shape[1] * np.sum(", "D times"),
    "pixels with the wrong sign": ("pixels", LOG_PX, "log_px = -np.sum(", "wrong sign"),
    "pixels off by a little": ("pixels", LOG_PX, "log_px = 1.1 * np.sum(", ""),
    "white pixels forgotten": ("pixels", "t * np.log(self.y) + ", "", "one pixel value missing"),
    "weights off by a little": ("samples", "np.mean(w, axis=1)", "np.mean(w, axis=1) ** 0.9", ""),
    "a loss averaged twice": ("images", "sum(self.parts.values())", "sum(self.parts.values()) / B", ""),
    "weights of a wrong density": ("evidence-iwae", "rate = 0.5 *", "rate = 0.6 *", ""),
    "the bound below the evidence": (
        "evidence",
        "self.beta * np.mean(kl)",
        "self.beta * 1.1 * np.mean(kl)",
        "no bound",
    ),
    "noise with half its spread": ("sampler", DRAW, f"0.5 * {DRAW}", ""),
    "noise off its mean": ("sampler", DRAW, f"0.2 + {DRAW}", ""),
    "steps twice as long": ("adam", UPDATE, UPDATE.replace("lr", "2 * lr"), ""),
    "an epoch's sum": ("epoch-mean", "return total / len(images)", "return total", ""),
    "images seen twice": (
        "epoch-rows",
        "self.rng.permutation(len(images))",
        "np.repeat(np.arange(len(images)), 2)",
        "rows repeated",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_a_mistake_is_called(name):
    witness, right, wrong, kind = MISTAKES[name]
    assert plain_source().count(right) == 1
    said = WITNESSES[witness](as_module(plain_source().replace(right, wrong), "wrong"))
    assert (said.killer, said.ok, said.kind) == (witness, False, kind), said.text


@pytest.mark.parametrize("witness", WITNESSES)
def test_the_right_code_passes(witness):
    said = WITNESSES[witness](plain)
    assert said.ok, said.text
    assert (said.killer, said.kind) == (witness, "")
    assert said.text


@pytest.mark.parametrize("kind", training_witnesses.ADAM)
def test_the_known_mistakes_of_adam_differ(kind):
    grads = [np.array([3e-4, -1e-4]), np.array([1e-4, 2e-4])]
    right, wrong = (training_witnesses.adam_moves(grads, 0.1, mistake, place=1) for mistake in ("", kind))
    assert np.max(np.abs(right - wrong)) > 1e-4


def test_the_first_step_of_adam_is_the_rate_long():
    """Whatever the gradient: m = g and v = g^2 after the correction (Kingma & Ba 2015, section 2.1)."""
    moved = training_witnesses.adam_moves([np.array([1.0, -100.0])], lr=0.1)
    np.testing.assert_allclose(moved, [-0.1, 0.1], rtol=1e-7)


def test_the_known_mistakes_of_a_rate_differ():
    mu, sigma = np.array([0.5, -1.0, 0.2]), np.array([0.7, 1.3, 0.9])
    values = loss_witnesses.rates(mu, sigma)
    right = np.sum(mu**2 + sigma**2 - 1 - 2 * np.log(sigma)) / 2
    assert values["factor 2"] == pytest.approx(2 * right)
    assert set(values) == set(loss_witnesses.RATES)
    everything = np.sort([right, *values.values()])
    assert np.min(np.diff(everything)) > 1e-3


def test_the_grid_integrates_to_rounding():
    """Moments of a standard normal: 1, 0, 1, 3 (the reason why ten is far enough out)."""
    grid = loss_witnesses.Grid(testimony.away_from_start(plain.VAE(3, 4, 1)), np.ones(3))
    moments = [grid.mean(grid.eps**k) for k in (0, 1, 2, 4)]
    np.testing.assert_allclose(moments, [1, 0, 1, 3], rtol=0, atol=1e-12)
