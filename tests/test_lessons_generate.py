"""The lessons on what can be generated, with the library broken on purpose: their claims do not hold then.

And what they show in code: an autoencoder written by hand, blends.
"""

import numpy as np
import pytest
from test_lessons import failing

import npvae as nv
from npvae import cli
from npvae.lessons import cannot_generate, pixel_gaussian
from npvae.lessons.digits import digits, drawn, tiled
from npvae.ops import default_backend, load_backend


@pytest.fixture
def free_codes(monkeypatch):
    """The KL's backward says nothing: codes lie where they like, as an autoencoder's."""

    def backward(drate, stats, out=None):
        out[:] = 0
        return out

    monkeypatch.setattr(load_backend(default_backend()), "gaussian_kl_backward", backward)


@pytest.fixture
def means_forgotten(monkeypatch):
    """The KL's backward forgets that mu has a share: codes lie where they like, only their sigma is held to 1."""
    ops = load_backend(default_backend())
    whole = ops.gaussian_kl_backward

    def backward(drate, stats, out=None):
        whole(drate, stats, out)[..., : stats.shape[-1] // 2] = 0
        return out

    monkeypatch.setattr(ops, "gaussian_kl_backward", backward)


@pytest.fixture
def copies(monkeypatch):
    """The generator is a memory of its training images."""
    images = digits(quick=True).train.images
    monkeypatch.setattr(nv.Run, "sample", lambda run, n, seed=0: images[:n] * np.float32(0.99))


def test_denoising_without_a_target(monkeypatch):
    """Asked for its input, an autoencoder learns to keep the noise."""
    forward = nv.Workspace.forward
    monkeypatch.setattr(nv.Workspace, "forward", lambda ws, x, target=None: forward(ws, x))
    assert {name.split(":")[0] for name in failing("denoise")} >= {"gaussian", "salt-and-pepper", "super-resolution"}


@pytest.mark.usefixtures("free_codes")
def test_a_vae_without_its_rate_generates_no_better():
    assert "farther than the VAE: autoencoder, codes' mean and spread" in failing("cannot_generate")


@pytest.mark.usefixtures("means_forgotten")
def test_a_vae_whose_codes_are_not_at_the_prior_is_no_better_than_a_gaussian():
    assert "Gaussian farther than the VAE" in failing("pixel_gaussian")


@pytest.mark.usefixtures("copies")
def test_a_memory_is_found_out():
    assert failing("generate") == {"samples nearest to a training digit (0.667 by chance)"}


@pytest.mark.usefixtures("means_forgotten")
def test_on_the_command_line(capsys, tmp_path):
    assert cli.main(["lesson", "generate", "--quick", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "the one over the other" in said and "The claim DOES NOT HOLD." in said


def test_by_heart_needs_only_different_images():
    images = np.random.default_rng(0).random((9, 12)).astype(np.float32)
    ws = cannot_generate.by_heart(images)
    np.testing.assert_allclose(ws.decode(ws.encode(images)), images, atol=1e-12)
    halfway = ws.decode(np.sort(ws.encode(images), axis=0)[3:5].mean(axis=0, keepdims=True))
    order = np.argsort(ws.encode(images)[:, 0])
    np.testing.assert_allclose(halfway[0], images[order[3:5]].mean(axis=0), atol=1e-7)


def test_a_fitted_gaussian_has_the_moments_of_its_images():
    images = np.random.default_rng(0).random((6, 9))
    fitted = pixel_gaussian.fit(images)
    np.testing.assert_allclose(fitted.mean, images.mean(axis=0))
    np.testing.assert_allclose(fitted.axes @ fitted.axes.T, np.cov(images.T), atol=1e-14)
    assert fitted.axes.shape == (9, 5)
    weights = np.array([2.0, -1.5, 0.25, 0.25, 0, 0])
    points = np.stack([weights @ images, images[0] + 1])
    inside, outside = pixel_gaussian.distance_to_blends(points, images)
    assert inside < 1e-14 < 0.01 < outside


def test_drawn_is_white_as_often_as_it_is_grey():
    """Frequencies of 4,000 draws, to 4 standard errors; what is beyond black and white is black or white."""
    greys = np.array([-0.5, 0.0, 0.3, 1.0, 1.5])
    white = drawn(np.random.default_rng(0), np.tile(greys, (4_000, 1)))
    assert set(np.unique(white)) == {0, 1}
    np.testing.assert_array_equal(white.mean(axis=0)[[0, 1, 3, 4]], [0, 0, 1, 1])
    assert abs(white[:, 2].mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4_000)


def test_tiles_lie_side_by_side():
    images = np.random.default_rng(0).random((2, 3, 14 * 14))
    picture = tiled(images, (14, 14))
    assert picture.shape == (29, 44)
    np.testing.assert_array_equal(picture[15:, 30:], images[1, 2].reshape(14, 14))
    assert (picture[14] == 1).all() and (picture[:, 14] == 1).all()
