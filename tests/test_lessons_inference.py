"""The lessons on inference can fail: with the library broken on purpose, the number that should see it does."""

import numpy as np
import pytest
from test_lessons import failing

from npvae import cli, lessons
from npvae.ops import jit, reference


def halved(forward):
    """Half of the divergence."""
    return lambda stats, out=None: np.multiply(forward(stats, out=out), 0.5, out=out)


def without_logvar(forward):
    """log q(z|x) - log p(z) that forgets the log of sigma^2."""

    def wrong(stats, z, eps, out=None):
        return np.add(forward(stats, z, eps, out=out), 0.5 * reference.halves(stats)[1], out=out)

    return wrong


def unnormalised(forward):
    """A density without its 2 pi."""

    def wrong(mean, target, logvar, out=None):
        return np.add(forward(mean, target, logvar, out=out), 0.5 * mean.shape[-1] * np.log(2 * np.pi), out=out)

    return wrong


def as_if_sigma_were_logvar(backward):
    """dlogvar without its 1/2."""

    def wrong(dz, stats, eps, out=None):
        dstats = backward(dz, stats, eps, out=out)
        reference.halves(dstats)[1][...] *= 2
        return dstats

    return wrong


def backwards(backward):
    """The way to the code with the wrong sign."""

    def wrong(dz, stats, eps, out=None):
        dstats = backward(dz, stats, eps, out=out)
        dstats *= -1
        return dstats

    return wrong


def broken(monkeypatch, op, mistake):
    for ops in (reference, jit):
        monkeypatch.setattr(ops, op, mistake(getattr(ops, op)))


BREAKS = (
    ("loss", "gaussian_kl_forward", halved, "closed form of KL off the integral"),
    ("loss", "gaussian_forward", unnormalised, "loss at s² = ½ off MSE + KL + (D/2) log π"),
    ("loss", "reparameterize_backward", as_if_sigma_were_logvar, "its gradient off that of MSE + KL, relative"),
    ("divergence", "reparameterize_backward", as_if_sigma_were_logvar, "both gradients by hand off numeric ones"),
    ("marginal", "log_ratio_forward", without_logvar, "samples of Q off the grid"),
    ("elbo", "gaussian_kl_forward", halved, "trained VAE, three rules: log P(X) off KL + ELBO"),
)


@pytest.mark.parametrize("lesson, op, mistake, number", BREAKS)
def test_a_broken_library_is_seen(lesson, op, mistake, number, monkeypatch):
    broken(monkeypatch, op, mistake)
    monkeypatch.setattr(lessons.module("loss"), "BETAS", (1.0,))  # the rest would only take time
    assert number in failing(lesson)


def test_a_climb_of_the_elbo_the_wrong_way_is_seen(monkeypatch):
    """Broken after the training, which would not come to an end worth looking at."""
    module = lessons.module("elbo")
    trained = module.trained_plane

    def trained_then_broken(quick):
        plane = trained(quick)
        broken(monkeypatch, "reparameterize_backward", backwards)
        return plane

    monkeypatch.setattr(module, "trained_plane", trained_then_broken)
    assert "share of it that the climb leaves" in failing("elbo")


def doubled_logvar(backward):
    """The divergence's pull on log sigma^2 twice as strong."""

    def wrong(drate, stats, out=None):
        dstats = backward(drate, stats, out=out)
        reference.halves(dstats)[1][...] *= 2
        return dstats

    return wrong


@pytest.mark.parametrize(
    "op, mistake",
    [("reparameterize_backward", as_if_sigma_were_logvar), ("gaussian_kl_backward", doubled_logvar)],
)
def test_a_wrong_gradient_under_which_the_elbo_still_climbs_is_seen(op, mistake, monkeypatch):
    broken(monkeypatch, op, mistake)
    assert "the gradient that Q climbs by off a numeric one, relative" in failing("elbo")


def test_a_broken_library_exits_with_1(monkeypatch, tmp_path, capsys):
    broken(monkeypatch, "reparameterize_backward", as_if_sigma_were_logvar)
    assert cli.main(["lesson", "divergence", "--quick", "--out", str(tmp_path)]) == 1
    assert "The claim DOES NOT HOLD." in capsys.readouterr().out
