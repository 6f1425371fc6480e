"""The workspace: whose memory it is, what it refuses, and that it replays."""

import os
import tracemalloc

import numpy as np
import pytest
from op_cases import error, same
from test_ops import rng_of
from test_vae import BACKENDS, LIKELIHOODS, Batch, fresh_gradients, vae_trial

from npvae import errors
from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.bounds import ELBO, IWAE
from npvae.errors import InputError, physical_memory
from npvae.flat import leaves, named
from npvae.ops import default_backend
from npvae.vae import VAE
from npvae.workspace import Workspace, check_seed

MODELS = {
    **{f"vae-{name}": VAE(5, (4,), 2, "tanh", p) for name, p in LIKELIHOODS.items()},
    "vae-iwae": VAE(5, (4,), 2, "tanh", bound=IWAE()),
    "vae-free-bits": VAE(5, (4,), 2, "tanh", bound=ELBO(0.1)),
    "ae": Autoencoder(5, (4,), 2, "tanh"),
    "linear": LinearAutoencoder(5, 2),
}
EVERY = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
BOTH = pytest.mark.parametrize("backend", BACKENDS)
SMALL = VAE(5, (4,), 2, "tanh", "gaussian-learned")


def images(rows, columns=5):
    return rng_of("images", rows).random((rows, columns))


def exact(model, batch=4, samples=1, **options):
    return Workspace(model, batch, samples, "float64", options.pop("backend", "reference"), **options)


# ── Defaults and seeds ───────────────────────────────────────────────────────────────────────────────────────────


def test_defaults():
    ws = Workspace(SMALL, batch=3)
    assert (ws.samples, ws.dtype, ws.seed, ws.batch, ws.model) == (1, np.float32, 0, 3, SMALL)
    assert ws.backend == default_backend() and ws.ops.__name__ == f"npvae.ops.{ws.backend}"
    assert ws.theta.dtype == np.float32 and ws.theta.ndim == 1
    loss = ws.forward(images(3))
    assert type(loss) is float and loss == ws.forward(images(3), eps=ws._inputs.eps.copy(), beta=1.0)


def test_the_backend_follows_the_environment(monkeypatch):
    for value, backend in (("1", "reference"), ("0", "jit"), ("", "jit")):
        monkeypatch.setenv("NUMBA_DISABLE_JIT", value)
        assert Workspace(SMALL, 1).backend == backend
    monkeypatch.delenv("NUMBA_DISABLE_JIT")
    assert Workspace(SMALL, 1).backend == "jit"
    assert Workspace(SMALL, 1, dtype="complex128").backend == "reference"


@EVERY
def test_a_seed_is_the_same_theta_in_every_precision(model):
    thetas = [Workspace(model, 1, dtype=d, backend="reference", seed=7).theta for d in ("float64", "float32")]
    assert same(thetas[0].astype(np.float32), thetas[1])
    assert same(thetas[0], exact(model, seed=7).theta)
    assert same(thetas[0], exact(model, batch=9, seed=7).theta)
    assert same(thetas[0].astype(complex), Workspace(model, 1, dtype="complex128", seed=7).theta)
    weights = np.concatenate([view.ravel() for _, view in leaves(exact(model, seed=7).params) if view.ndim == 2])
    others = np.concatenate([view.ravel() for _, view in leaves(exact(model, seed=8).params) if view.ndim == 2])
    assert (weights != others).all()


@BOTH
def test_noise_replays(backend):
    a, b = (exact(SMALL, samples=3, backend=backend, seed=4) for _ in range(2))
    losses = [a.forward(images(4)) for _ in range(3)]
    assert losses == [b.forward(images(4)) for _ in range(3)]
    assert len(set(losses)) == 3
    a.forward(images(4))
    drawn = a._inputs.eps.copy()
    assert np.array_equal(drawn, b.rng.standard_normal((4, 3, 2)))
    assert losses[0] != exact(SMALL, samples=3, theta=a.theta, seed=5).forward(images(4))


def test_given_noise_leaves_the_generator_alone():
    ws = exact(SMALL)
    ws.forward(images(4), eps=np.zeros((4, 1, 2)))
    ws.backward()
    ws.encode(images(4))
    assert ws.rng.random() == exact(SMALL).rng.random()


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1, np.int64(3)])
def test_seeds(seed):
    assert check_seed(seed) == seed
    Workspace(SMALL, 1, seed=seed)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", None, True])
def test_no_seeds(seed):
    with pytest.raises(InputError, match=r"^seed must be"):
        Workspace(SMALL, 1, seed=seed)


# ── Memory ───────────────────────────────────────────────────────────────────────────────────────────────────────


@EVERY
def test_trees_are_views_of_the_vectors(model):
    ws = exact(model)
    ws.forward(images(4))
    ws.backward()
    for tree, vector in ((ws.params, ws.theta), (ws.grads, ws.dtheta)):
        vector[:] = np.arange(vector.size)
        assert np.array_equal(np.concatenate([view.ravel() for view in named(tree).values()]), vector)
        for view in named(tree).values():
            view[:] = -1
        assert (vector == -1).all()
    assert list(named(ws.params)) == list(named(ws.grads))
    assert [v.shape for v in named(ws.acts).values()] == [v.shape for v in named(ws.dacts).values()]


def test_named_paths():
    ws = exact(SMALL)
    assert list(named(ws.params)) == [
        "encoder.0.W", "encoder.0.b", "encoder.1.W", "encoder.1.b",
        "decoder.0.W", "decoder.0.b", "decoder.1.W", "decoder.1.b", "likelihood.logvar",
    ]  # fmt: skip
    assert list(named(exact(LinearAutoencoder(5, 2)).params)) == ["W"]
    assert list(named(ws.acts)) == ["encoder.0", "encoder.1", "z", "decoder.0", "decoder.1", "log_px", "rate"]
    named(ws.params)["likelihood.logvar"][0] = 3
    assert ws.theta[-1] == 3


def test_gradients_are_allocated_at_the_first_backward():
    ws = exact(SMALL)
    ws.forward(images(4))
    assert not any(hasattr(ws, name) for name in ("dtheta", "grads", "dacts"))
    ws.backward()
    assert ws.dtheta.shape == ws.theta.shape and ws.grads.encoder[0].W.base is not None
    first = ws.dtheta
    ws.forward(images(2))
    ws.backward()
    assert ws.dtheta is first


@BOTH
@EVERY
def test_a_partial_batch_is_that_of_an_exact_workspace(model, backend):
    """Bit for bit in the same memory, whatever larger batch was there before."""
    samples = 1 if model.noise(1, 1) is None else 3
    big, x = exact(model, 4, samples, backend=backend), images(3)
    eps = None if samples == 1 else rng_of("eps").standard_normal((3, 3, 2))
    big.forward(images(4))
    big.backward()
    buffer = big.acts[0][0] if isinstance(big.acts[0], tuple) else big.acts[0]
    fresh_gradients(big, Batch(x, None, eps, 1.0))
    fitting = exact(model, 3, samples, theta=big.theta, backend=backend)
    fresh_gradients(fitting, Batch(x, None, eps, 1.0))
    assert big.forward(x, eps=eps) == fitting.forward(x, eps=eps)
    assert same(big.dtheta, fitting.dtheta)
    for mine, other in ((big.acts, fitting.acts), (big.dacts, fitting.dacts)):
        assert all(same(a, b) for (_, a), (_, b) in zip(leaves(mine), leaves(other), strict=True))
    small = big.acts[0][0] if isinstance(big.acts[0], tuple) else big.acts[0]
    assert np.shares_memory(small, buffer) and small.shape[0] == 3


def test_no_memory_is_asked_for_after_the_first_steps():
    """But for what ops need inside: nothing that grows with the parameters."""
    ws, x = Workspace(VAE(400, (300,), 10), 4, backend="reference"), images(4, 400)
    for _ in range(2):
        ws.forward(x)
        ws.backward()
    tracemalloc.start()
    ws.forward(x)
    ws.backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < ws.theta.nbytes / 10


@BOTH
def test_theta_is_shared_with_other_workspaces(backend):
    ws = exact(SMALL, backend=backend)
    wide = exact(SMALL, batch=2, samples=5, theta=ws.theta, backend=backend)
    assert wide.theta is ws.theta
    ws.params.decoder[0].W[0, 0] = 3
    assert wide.params.decoder[0].W[0, 0] == 3
    before = ws.theta.copy()
    wide.forward(images(2))
    wide.backward()
    assert same(ws.theta, before)
    assert error(wide.encode(images(3)), ws.encode(images(3))) <= 1e-14


@BOTH
def test_inputs_are_copied(backend):
    ws, x, target = exact(SMALL, backend=backend), images(4), images(4) + 0.5
    eps = rng_of("eps").standard_normal((4, 1, 2))
    kept = [a.copy() for a in (x, target, eps)]
    ws.forward(x, target, eps)
    ws.backward()
    gradient = ws.dtheta.copy()
    assert all(same(a, b) for a, b in zip((x, target, eps), kept, strict=True))
    ws.forward(x, target, eps)
    for a in (x, target, eps):
        a[:] = np.nan
    ws.backward()
    assert same(ws.dtheta, gradient)


@BOTH
def test_the_target_of_an_earlier_forward_is_forgotten(backend):
    ws, x, eps = exact(SMALL, backend=backend), images(4), np.zeros((4, 1, 2))
    plain = ws.forward(x, eps=eps)
    assert ws.forward(x, images(4) + 1, eps) != plain
    assert ws.forward(x, eps=eps) == ws.forward(x, x, eps) == plain


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int64, np.uint8, bool])
def test_other_real_numbers_are_copied_into_the_workspace(dtype):
    ws, x = exact(SMALL), (images(4) > 0.5).astype(dtype)
    eps = np.ones((4, 1, 2), np.float32)
    expected = ws.forward(x.astype(float), eps=eps.astype(float))
    assert ws.forward(x, eps=eps) == expected
    assert ws.forward(x, eps=eps.astype(int)) == expected
    assert ws.forward(np.asfortranarray(x), x[::-1][::-1], eps) == expected
    assert ws.encode(x).dtype == np.float64 and same(ws.encode(x), ws.encode(x.astype(float)))


# ── Refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["x", "target"])
@pytest.mark.parametrize(
    "wrong, says",
    [
        (np.ones((3, 4)), r"must be an array \(B, 5\), got \(3, 4\) of float64"),
        (np.ones(5), r"must be an array \(B, 5\)"),
        (np.ones((1, 3, 5)), r"must be an array \(B, 5\)"),
        ([[1.0] * 5] * 3, r"must be an array \(B, 5\), got list"),
        (np.ones((3, 5), complex), "must hold real numbers, got complex128"),
        (np.ones((3, 5), object), "must hold real numbers, got object"),
        (np.full((3, 5), "1"), "must hold real numbers, got <U1"),
        (np.ones((0, 5)), "must have 1 to 4 rows, the workspace's batch, got 0"),
        (np.ones((5, 5)), "must have 1 to 4 rows, the workspace's batch, got 5"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(name, wrong, says):
    ws = exact(SMALL)
    arguments = {"x": images(3)} | {name: wrong}
    with pytest.raises(InputError, match=f"^{name} {says}"):
        ws.forward(**arguments)


def test_a_target_of_other_rows_is_refused():
    with pytest.raises(InputError, match=r"^target must have as many rows as x, 3, got 2"):
        exact(SMALL).forward(images(3), images(2))


@pytest.mark.parametrize(
    "eps",
    [np.ones((3, 2)), np.ones((4, 2, 2)), np.ones((3, 1, 2)), np.ones((3, 2, 2), complex), np.ones((3, 2, 2), object)],
)
def test_noise_that_does_not_fit_is_refused(eps):
    with pytest.raises(InputError, match=r"^eps must be \(B, K, Z\) = \(3, 2, 2\) of real numbers"):
        exact(SMALL, samples=2).forward(images(3), eps=eps)


@pytest.mark.parametrize("beta", ["1", None, 1j, np.ones(1)])
def test_a_weight_that_is_no_number_is_refused(beta):
    with pytest.raises(InputError, match=r"^beta must be a number, got "):
        exact(SMALL).forward(images(3), beta=beta)


@pytest.mark.parametrize("eps", [[[[1.0, 1.0]]] * 3, "eps", 1.0])
def test_noise_that_is_no_array_is_refused(eps):
    with pytest.raises(InputError, match=r"^eps must be \(B, K, Z\)"):
        exact(SMALL).forward(images(3), eps=eps)


@pytest.mark.parametrize("model", [Autoencoder(5, (4,), 2), LinearAutoencoder(5, 2)])
def test_autoencoders_take_no_noise_and_no_samples(model):
    with pytest.raises(InputError, match="takes no eps and no beta"):
        exact(model).forward(images(3), eps=np.ones((3, 1, 2)))
    with pytest.raises(InputError, match="takes no eps and no beta"):
        exact(model).forward(images(3), beta=0.5)
    with pytest.raises(InputError, match="samples must be 1"):
        exact(model, samples=2)


def test_complex_numbers_need_the_reference():
    with pytest.raises(InputError, match="need backend='reference'"):
        Workspace(SMALL, 1, dtype="complex128", backend="jit")
    loss = Workspace(SMALL, 3, dtype="complex128").forward(images(3))
    assert type(loss) is complex and loss.imag == 0


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"batch": 0}, "batch must be a whole number"),
        ({"batch": 2.5}, "batch must be a whole number"),
        ({"samples": -1}, "samples must be a whole number"),
        ({"dtype": "float16"}, "unknown dtype 'float16'.*Did you mean 'float"),
        ({"dtype": "flaot64"}, "unknown dtype 'flaot64'.*Did you mean 'float64'"),  # which NumPy does not know
        ({"dtype": object}, "unknown dtype 'object'"),
        ({"backend": "jitt"}, "unknown backend 'jitt'.*Did you mean 'jit'"),
        ({"model": "vae"}, "model must be a VAE"),
        ({"model": VAE}, "model must be a VAE"),
        ({"theta": np.zeros(3)}, "theta must be a vector of"),
        ({"theta": [0.0]}, "theta must be a vector of"),
        ({"theta": np.zeros(exact(SMALL).theta.size, np.float64)}, "theta must be a vector of .* float32"),
    ],
)
def test_a_workspace_that_makes_no_sense_is_refused(wrong, says):
    with pytest.raises(InputError, match=says):
        Workspace(**{"model": SMALL, "batch": 2} | wrong)


@pytest.mark.parametrize(
    "absurd",
    [
        {"model": VAE(784, (10**9,))},
        {"model": VAE(784, latent=10**12)},
        {"model": LinearAutoencoder(10**8, 10**6)},
        {"model": SMALL, "batch": 10**12},
        {"model": SMALL, "samples": 10**12},
        {"model": VAE(5, bound=IWAE()), "batch": 10**6, "samples": 10**6},
        {"model": SMALL, "batch": 10**40},
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_asked_for(absurd):
    tracemalloc.start()
    with pytest.raises(InputError, match=r"training .* needs .* GiB, this machine has"):
        Workspace(**{"batch": 2} | absurd)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_the_limit_is_what_training_needs(monkeypatch):
    """Parameters, gradients and two moments; activations and theirs; x and target: refused at one byte less."""
    ws = exact(SMALL, 7)
    count, acts = ws.theta.size, sum(view.size for view in named(ws.acts).values())
    needed = 8 * (4 * count + 2 * acts + 2 * 7 * 5)
    monkeypatch.setattr(errors, "physical_memory", lambda: needed)
    exact(SMALL, 7)
    monkeypatch.setattr(errors, "physical_memory", lambda: needed - 1)
    with pytest.raises(InputError, match="a smaller batch or fewer samples"):
        exact(SMALL, 7)


def test_physical_memory(monkeypatch):
    assert 2**28 < physical_memory() <= 2**63

    def unknown(name):
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown, raising=False)
    assert physical_memory() == 2**63


def test_backward_and_terms_need_a_forward():
    ws = exact(SMALL)
    for use in (ws.backward, lambda: ws.terms):
        with pytest.raises(InputError, match="call forward first"):
            use()
    ws.forward(images(3))
    ws.backward()
    ws.encode(images(3))  # its activations are those of encode now
    for use in (ws.backward, lambda: ws.terms):
        with pytest.raises(InputError, match="call forward first"):
            use()
    ws.forward(images(3))
    ws.decode(np.zeros((3, 2)))
    with pytest.raises(InputError, match="call forward first"):
        ws.backward()


@BOTH
def test_a_refused_forward_changes_nothing(backend):
    ws = exact(SMALL, backend=backend)
    ws.forward(images(4), eps=np.ones((4, 1, 2)))
    ws.backward()
    expected = ws.dtheta.copy()
    refused = (
        {"x": np.ones((2, 3))},
        {"x": images(2), "target": images(3)},
        {"x": images(2), "target": np.ones((2, 3))},
        {"x": images(2), "eps": np.ones(3)},
    )
    for arguments in refused:
        with pytest.raises(InputError):
            ws.forward(**arguments)
        ws.backward()
        assert same(ws.dtheta, expected), arguments
        assert len(ws.acts.z) == 4, arguments


# ── Values ───────────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@EVERY
def test_a_nan_in_an_image_shows_in_the_loss(model, dtype, backend):
    ws, x = Workspace(model, 4, 1, dtype, backend), images(4)
    assert np.isfinite(ws.forward(x))
    x[2, 3] = np.nan
    assert np.isnan(ws.forward(x))
    assert np.isnan(ws.forward(images(4), target=x))
    assert np.isfinite(ws.forward(images(4)))


@BOTH
@EVERY
def test_encode_and_decode_take_any_number(model, backend):
    """Batch by batch or all at once; none, too."""
    ws = exact(model, 4, 2 if model.noise(1, 1) else 1, backend=backend)
    x, z = images(11), rng_of("z").standard_normal((11, 2))
    single = exact(model, 1, theta=ws.theta, backend=backend)
    codes, pictures = ws.encode(x), ws.decode(z)
    assert codes.shape == (11, 2) and pictures.shape == (11, 5)
    assert error(codes, np.concatenate([single.encode(row[None]) for row in x])) <= 1e-14
    assert error(pictures, np.concatenate([single.decode(row[None]) for row in z])) <= 1e-14
    for n in (0, 1, 4, 5, 8):
        assert error(ws.encode(x[:n]), codes[:n]) <= 1e-14 and ws.encode(x[:n]).shape == (n, 2)
        assert error(ws.decode(z[:n]), pictures[:n]) <= 1e-14 and ws.decode(z[:n]).shape == (n, 5)
    kept = codes.copy()
    ws.encode(x[::-1])
    assert same(codes, kept)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_encode_and_decode_answer_in_the_workspaces_dtype(dtype):
    ws = Workspace(SMALL, 3, dtype=dtype, backend="reference")
    for n in (0, 2):
        assert ws.encode(images(4)[:n]).dtype == dtype == ws.decode(np.zeros((n, 2), np.float32)).dtype


@pytest.mark.parametrize("wrong", [np.ones((3, 4)), np.ones(5), np.ones((3, 5), complex), [[1.0] * 5]])
def test_encode_and_decode_refuse_what_does_not_fit(wrong):
    with pytest.raises(InputError, match=r"^x must be an array \(n, 5\) of real numbers"):
        exact(SMALL).encode(wrong)
    with pytest.raises(InputError, match=r"^z must be an array \(n, 2\) of real numbers"):
        exact(SMALL).decode(wrong)


def test_terms_are_those_of_the_last_forward():
    drawn = vae_trial("gaussian", "iwae", samples=3)
    ws = drawn.workspace()
    ws.forward(*drawn.batch)
    assert ws.terms == {
        "reconstruction": pytest.approx(-ws.acts.log_px.mean(), rel=1e-14),
        "rate": pytest.approx(ws.acts.rate.sum(axis=-1).mean(), rel=1e-14),
    }
    assert all(type(value) is float for value in ws.terms.values())
    first = ws.terms
    ws.forward(drawn.batch.x[:1])
    assert ws.terms != first
    autoencoder = exact(LinearAutoencoder(5, 2))
    assert autoencoder.forward(images(4)) == pytest.approx(autoencoder.terms["reconstruction"], rel=1e-14)
    assert autoencoder.terms["rate"] == 0
