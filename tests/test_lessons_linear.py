"""The lessons on linear autoencoders with the library broken on purpose: their claims do not hold then."""

import numpy as np
import pytest
from test_lessons import failing

from npvae import cli, lessons
from npvae.mlp import ACTIVATIONS
from npvae.ops import default_backend, load_backend, reference


def one_term(kept):
    """tied_backward with the derivative through the encoder alone, or through the decoder alone."""

    def wrong(dy, x, W, z, out, scratch=None):
        dz, dW = out
        np.matmul(dy, W, out=dz)
        np.matmul(*((x.T, dz) if kept == "encoder" else (dy.T, z)), out=dW)
        return dz, dW

    return wrong


def test_the_encoders_term_alone_does_not_find_the_subspace(monkeypatch):
    """Any orthonormal W is stationary: S (1 - W W') W = 0."""
    monkeypatch.setattr(reference, "tied_backward", one_term("encoder"))
    assert failing("pca") >= {
        "Gaussian: angle to its own principal subspace",
        "its samples: angle to the SVD's subspace",
        "digits: angle to the SVD's subspace",
        "digits: error off PCA's, relative",
        "digits: gradient off its formula, relative",
    }


def test_the_decoders_term_alone_is_seen_in_the_gradient(monkeypatch):
    """It is Oja's rule, which ends in the right subspace: only the formula of the gradient tells."""
    monkeypatch.setattr(reference, "tied_backward", one_term("decoder"))
    assert "digits: gradient off its formula, relative" in failing("pca")


def test_not_pca_with_one_term(monkeypatch):
    monkeypatch.setattr(reference, "tied_backward", one_term("encoder"))
    assert failing("not_pca") >= {"two starts: W Wᵀ off each other", "digits: W Wᵀ off the projector U Uᵀ"}


@pytest.mark.parametrize("factor", [1.25])
def test_a_factor_in_the_gradient_of_a_layer(monkeypatch, factor):
    """The weights of the penalty and of the error are no longer those of the prediction."""
    right = reference.dense_backward

    def wrong(*args, out, **kwargs):
        right(*args, out=out, **kwargs)
        out[1][:] *= factor
        return out

    monkeypatch.setattr(reference, "dense_backward", wrong)
    assert failing("not_pca") >= {
        "L2, Gaussian: singular values off √(1 − λ/σ²)",
        "L2, Gaussian: loss off the prediction, relative",
        "L2, digits: singular values off √(1 − λ/σ²)",
        "L2, digits: loss off the prediction, relative",
    }


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, which overflows
@pytest.mark.parametrize("name, layer", [("not_pca", "dense_backward"), ("pca", "tied_backward")])
def test_descent_that_diverges(monkeypatch, name, layer):
    """Eight times as long a step: what is learned is infinite, and no linear algebra can say how far off it is."""
    right = getattr(reference, layer)

    def wrong(*args, out, **kwargs):
        right(*args, out=out, **kwargs)
        out[1][:] *= 8
        return out

    monkeypatch.setattr(reference, layer, wrong)
    assert not lessons.run(name, quick=True).holds


def test_the_command_line_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(reference, "tied_backward", one_term("decoder"))
    assert cli.main(["lesson", "pca", "--quick", "--out", str(tmp_path)]) == 1
    assert "The claim DOES NOT HOLD." in capsys.readouterr().out


def test_depth_without_a_function_between_layers_gains_nothing(monkeypatch):
    """Several linear layers are one, and of these PCA is the best."""
    monkeypatch.setitem(ACTIVATIONS, "relu", reference.IDENTITY)
    assert failing("deep") >= {"2 numbers: PCA's error is larger by", "8 numbers: PCA's error is larger by"}


def test_an_autoencoder_whose_code_does_not_learn(monkeypatch, capsys, tmp_path):
    """The decoder's derivative does not reach the encoder; and the command line says so."""
    ops = load_backend(default_backend())
    right = ops.dense_backward

    def wrong(dy, x, W, y, act, out=None, scratch=None):
        right(dy, x, W, y, act, out=out, scratch=scratch)
        if out[0] is not None:
            out[0][:] = 0
        return out

    monkeypatch.setattr(ops, "dense_backward", wrong)
    assert cli.main(["lesson", "autoencoder", "--quick", "--out", str(tmp_path)]) == 1
    assert "FAILS" in capsys.readouterr().out
