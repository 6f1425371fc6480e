"""The implementation that the zoo spoils is right: it is npvae's own model, written as people write it."""

import numpy as np
import pytest

import npvae as nv
from npvae.zoo import plain

B, D, H, Z, K = 6, 7, 5, 3, 4


def moved(model, seed=1):
    """No bias is 0."""
    rng = np.random.default_rng(seed)
    for value in model.p.values():
        value += 0.3 * rng.standard_normal(value.shape)
    return model


def put(tree, p):
    """Copy the plain parameters into npvae's tree, or compare the gradients by giving a tree of them."""
    pairs = [
        (tree.encoder[0].W, p["W1"]), (tree.encoder[0].b, p["b1"]),
        (tree.encoder[1].W, np.hstack([p["W2"], p["W3"]])), (tree.encoder[1].b, np.hstack([p["b2"], p["b3"]])),
        (tree.decoder[0].W, p["W4"]), (tree.decoder[0].b, p["b4"]),
        (tree.decoder[1].W, p["W5"]), (tree.decoder[1].b, p["b5"]),
    ]  # fmt: skip
    return pairs


def workspace(p, bound, samples=K):
    vae = nv.VAE(data=D, hidden=(H,), latent=Z, activation="tanh", bound=bound)
    ws = nv.Workspace(vae, batch=B, samples=samples, dtype="float64", backend="reference")
    for view, value in put(ws.params, p):
        view[:] = value
    return ws


@pytest.mark.parametrize("iwae", [False, True])
@pytest.mark.parametrize("beta", [1.0, 0.6])
def test_loss_and_gradients_are_those_of_npvae(iwae, beta):
    rng = np.random.default_rng(0)
    model = moved(plain.VAE(D, H, Z, K, beta, iwae))
    ws = workspace(model.p, nv.IWAE() if iwae else nv.ELBO())
    x, eps = rng.random((B, D)), rng.standard_normal((B, K, Z))
    assert model.forward(x, eps) == pytest.approx(ws.forward(x, eps=eps, beta=beta), rel=1e-12)
    assert np.max(np.abs(model.raw)) < plain.LIMIT  # npvae clips nothing
    ws.backward()
    for ours, theirs in put(ws.grads, model.backward()):
        assert np.max(np.abs(ours - theirs)) <= 1e-12 * np.max(np.abs(ours))


def test_the_linear_autoencoder_is_that_of_npvae():
    x = np.random.default_rng(0).random((B, D))
    model = plain.LinearAE(D, Z)
    ws = nv.Workspace(nv.LinearAutoencoder(data=D, latent=Z), batch=B, dtype="float64", backend="reference")
    ws.params.W[:] = model.p["W"]
    assert model.forward(x) == pytest.approx(ws.forward(x), rel=1e-12)
    ws.backward()
    assert np.max(np.abs(ws.grads.W - model.backward()["W"])) <= 1e-12 * np.max(np.abs(ws.grads.W))


def test_an_epoch_is_that_of_npvae():
    """Three batches, the last one smaller, under Adam: the same parameters and the same mean loss."""
    images, batch = np.random.default_rng(0).random((14, D)), 6
    model = moved(plain.VAE(D, H, Z, K))
    ws = workspace(model.p, nv.ELBO())
    model.rng, rng = np.random.default_rng(3), np.random.default_rng(3)
    loss = model.epoch(images, batch, lr=0.01)
    order, total, adam = rng.permutation(14), 0.0, None
    for start in range(0, 14, batch):
        x = images[order[start : start + batch]]
        total += ws.forward(x, eps=rng.standard_normal((len(x), K, Z))) * len(x)
        ws.backward()
        adam = adam or nv.Adam(ws, lr=0.01)
        adam.step()
    assert loss == pytest.approx(total / 14, rel=1e-12)
    for ours, theirs in put(ws.params, model.p):
        assert np.max(np.abs(ours - theirs)) <= 1e-12 * np.max(np.abs(ours))


def test_the_examples_show_what_a_check_has_to_see():
    """Sizes that are told apart, noise that repeats, no parameter at 0, and a clip that is at work on some entries."""
    for check in (plain.elbo(), plain.iwae(), plain.square()):
        assert check.loss(check.params()) == check.loss(check.params())
        model = check.model
        assert check.x.shape == (5, 7) and (model.K, model.beta) == (3, 0.65)
        clipped = np.abs(model.raw) > plain.LIMIT
        assert clipped.any() and not clipped.all(axis=0).any()
        assert np.min(np.abs(np.abs(model.raw) - plain.LIMIT)) > 0.05  # and none is at the bend
        assert all(np.all(value) for value in check.params().values())
        assert sum(check.terms(check.params()).values()) == check.loss(check.params())
        assert {name: value.shape for name, value in check.gradients(check.params()).items()} == {
            name: value.shape for name, value in check.params().items()
        }
    linear = plain.linear()
    linear.loss(linear.params())
    assert linear.gradients(linear.params())["W"].shape == (7, 4)
    assert set(linear.terms(linear.params())) == {"encoding", "decoding"}
