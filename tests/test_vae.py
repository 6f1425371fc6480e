"""The model's derivatives, by every parameter and every intermediate, and its identities.

`check_gradients` is the check that other tests of models use; that it can fail is tested here too.
"""

import dataclasses
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from numba import config
from op_cases import Array, as_tuple, error
from test_ops import rng_of

import npvae.vae
from npvae import datasets
from npvae.bounds import ELBO, IWAE
from npvae.errors import InputError
from npvae.flat import carve, leaves
from npvae.likelihoods import Bernoulli, Gaussian, GaussianLearned, GaussianOptimal, GaussianPixel
from npvae.mlp import ACTIVATIONS
from npvae.vae import VAE
from npvae.workspace import Workspace

STEP = 1e-30
BACKENDS = ("reference", "jit")
LIKELIHOODS = {p.name: p for p in (Bernoulli(), Gaussian(0.7), GaussianLearned(), GaussianOptimal(), GaussianPixel())}
BOUNDS = ("elbo", "free bits that bind", "free bits that do not bind", "iwae")
HIDDEN = ((4,), (5, 3), ())


class Batch(NamedTuple):
    """The arguments of Workspace.forward."""

    x: Array
    target: Array | None
    eps: Array | None
    beta: float


# ── The check ────────────────────────────────────────────────────────────────────────────────────────────────────


def fresh_gradients(ws, batch):
    """Forward, then backward into buffers that held NaN; nothing may be left of it."""
    ws.forward(*batch)
    ws.backward()  # allocates
    for buffer in (ws.dtheta, *ws._dacts, ws._scratch):
        buffer[:] = np.nan
    ws.backward()
    assert np.isfinite(ws.dtheta).all(), "a parameter's derivative was not filled"
    for name, view in leaves(ws.dacts):
        assert np.isfinite(view).all(), f"dacts.{name} was not filled"


def oracle_of(ws):
    """A complex workspace with the same parameters, on the reference."""
    return Workspace(ws.model, ws.batch, ws.samples, "complex128", theta=ws.theta.astype(np.complex128))


def by_parameters(ws, batch):
    """Derivatives of the loss by every entry of theta, by the complex step."""
    oracle, exact = oracle_of(ws), np.empty(ws.theta.size)
    for i in range(exact.size):
        here = oracle.theta[i]
        oracle.theta[i] = here + STEP * 1j
        exact[i] = oracle.forward(*batch).imag / STEP
        oracle.theta[i] = here
    return exact


def by_intermediate(ws, batch, name):
    """Derivatives of the loss by every entry of an intermediate: it is moved as soon as an op has written it."""
    oracle = oracle_of(ws)
    ops, moved = oracle.ops, SimpleNamespace(leaf=None, entry=0)

    def moving(forward):
        def moving_forward(*inputs, **options):
            result = forward(*inputs, **options)
            for out in as_tuple(options.get("out", ())):
                if np.may_share_memory(out, moved.leaf):
                    moved.leaf.flat[moved.entry] += STEP * 1j
            return result

        return moving_forward

    oracle.forward(*batch)  # there are views of as many rows now
    moved.leaf = dict(leaves(oracle.acts))[name]
    oracle.ops = SimpleNamespace(**{f: moving(op) if f.endswith("_forward") else op for f, op in vars(ops).items()})
    exact = np.empty(moved.leaf.shape)
    for moved.entry in range(exact.size):
        exact.flat[moved.entry] = oracle.forward(*batch).imag / STEP
    return exact


def check_gradients(ws, batch, apart=("log_w",)):
    """Every derivative that `ws` computes, but dacts of the names in `apart`: ops that write them also read them.

    And that the pass which the oracle differentiates is that of `ws`.
    """
    oracle, loss = oracle_of(ws), ws.forward(*batch)
    assert loss == pytest.approx(oracle.forward(*batch).real, rel=1e-13), "loss"
    for (name, view), (_, expected) in zip(leaves(ws.acts), leaves(oracle.acts), strict=True):
        assert error(view, expected.real) <= 1e-12, f"acts.{name}"
    fresh_gradients(ws, batch)
    exact = carve(ws.model.params(), by_parameters(ws, batch))
    for (name, gradient), (_, expected) in zip(leaves(ws.grads), leaves(exact), strict=True):
        assert error(gradient, expected) <= 1e-12, name
    for name, gradient in leaves(ws.dacts):
        if name not in apart:
            assert error(gradient, by_intermediate(ws, batch, name)) <= 1e-12, f"dacts.{name}"


class Trial(NamedTuple):
    """A model with parameters and a batch."""

    model: Any
    samples: int
    theta: Array
    batch: Batch

    def workspace(self, backend="reference", rows=4):
        """With room for one row more than the batch has."""
        return Workspace(self.model, rows, self.samples, "float64", backend, theta=self.theta.copy())


def trial(model, samples=1, rows=3, beta=0.7, denoise=True):
    """Parameters and images drawn at random; the biases and log sigma^2 are no zeros here."""
    rng = rng_of(model, samples, rows)
    theta = Workspace(model, 1, samples, "float64", "reference").theta
    theta[:] = 0.5 * rng.standard_normal(theta.size)
    shape, D = model.noise(rows, samples), model.data
    eps = None if shape is None else rng.standard_normal(shape)
    target = rng.random((rows, D)) if denoise else None
    return Trial(model, samples, theta, Batch(rng.random((rows, D)), target, eps, 1.0 if eps is None else beta))


def vae_trial(likelihood="bernoulli", bound="elbo", samples=1, activation="tanh", hidden=(4,), **others):
    """`bound` is one of BOUNDS."""
    model = VAE(5, hidden, 3, activation, LIKELIHOODS[likelihood], IWAE() if bound == "iwae" else ELBO())
    return with_free_bits(trial(model, samples, **others), bound)


def with_free_bits(drawn, bound):
    """The trial, under BOUNDS' free bits put where some of the latents, at most half, or none fall below them."""
    if not bound.startswith("free bits"):
        return drawn
    ws = drawn.workspace()
    ws.forward(*drawn.batch)
    rates = np.sort(ws.acts.rate.mean(axis=(0, 1)))
    gap = np.diff(rates[: len(rates) // 2 + 1]).argmax()
    low, high = rates[gap : gap + 2]
    assert rates[0] > 1e-6 and high > 1.01 * low
    free_bits = (low + high) / 2 if bound == "free bits that bind" else rates[0] / 2
    return drawn._replace(model=dataclasses.replace(drawn.model, bound=ELBO(free_bits)))


SWEEP = [(likelihood, bound, samples) for likelihood in LIKELIHOODS for bound in BOUNDS for samples in (1, 3)]
CHOSEN = {  # each combination with another activation and depth
    case: (tuple(ACTIVATIONS)[i % len(ACTIVATIONS)], HIDDEN[i % len(HIDDEN)]) for i, case in enumerate(SWEEP)
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("likelihood, bound, samples", SWEEP)
def test_gradients(likelihood, bound, samples, backend):
    drawn = vae_trial(likelihood, bound, samples, *CHOSEN[likelihood, bound, samples])
    check_gradients(drawn.workspace(backend), drawn.batch)


@pytest.mark.parametrize("bound", ["elbo", "iwae"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_under_every_activation(activation, bound):
    drawn = vae_trial("gaussian-learned", bound, 2, activation, (5, 3))
    check_gradients(drawn.workspace(), drawn.batch)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("rows, denoise", [(1, True), (4, False), (4, True)])
@pytest.mark.parametrize("bound", ["elbo", "iwae"])
def test_gradients_of_other_batches(bound, rows, denoise, beta):
    drawn = vae_trial("bernoulli", bound, 2, rows=rows, beta=beta, denoise=denoise)
    check_gradients(drawn.workspace(), drawn.batch)


def test_gradients_of_several_activations_and_bounds_differ():
    """A sweep that tried the same model over and over would prove little."""
    gradients = []
    for case, chosen in CHOSEN.items():
        drawn = vae_trial(*case, *chosen)
        ws = drawn.workspace()
        fresh_gradients(ws, drawn.batch)
        gradients.append(np.linalg.norm(ws.dtheta))
    assert len({f"{norm:.6g}" for norm in gradients}) == len(SWEEP)
    assert {activation for activation, _ in CHOSEN.values()} == set(ACTIVATIONS)


@pytest.mark.parametrize("samples", [1, 3])
def test_dlog_w_is_dlog_px(samples):
    """log_px moves log_w one for one, and nothing else."""
    drawn = vae_trial("gaussian", "iwae", samples)
    ws = drawn.workspace()
    fresh_gradients(ws, drawn.batch)
    assert np.array_equal(ws.dacts.log_w, ws.dacts.log_px)
    assert ws.dacts.log_w.sum() == pytest.approx(-1, abs=1e-14)


def test_a_clamped_latent_has_no_rate_to_differentiate():
    drawn = vae_trial("bernoulli", "free bits that bind", 3)
    ws = drawn.workspace()
    fresh_gradients(ws, drawn.batch)
    clamped = ws.acts.rate.mean(axis=(0, 1)) < ws.model.bound.free_bits
    assert clamped.sum() == 1
    assert (ws.dacts.rate[..., clamped] == 0).all()
    np.testing.assert_allclose(ws.dacts.rate[..., ~clamped], 0.7 / 3, rtol=1e-14)


# ── The check can fail ───────────────────────────────────────────────────────────────────────────────────────────


def dropping(width):
    """NumPy, but that adding arrays of that many columns leaves the first as it is."""
    return SimpleNamespace(**vars(np) | {"add": lambda a, b, out: a if b.shape[-1] == width else np.add(a, b, out=out)})


@pytest.mark.parametrize(
    "width, bound",
    [
        pytest.param(3, "iwae", id="the rate's share of dz"),
        pytest.param(6, "iwae", id="the sampled rate's share of dstats"),
        pytest.param(6, "elbo", id="the closed form's share of dstats"),
    ],
)
def test_a_sum_left_out_is_caught(monkeypatch, width, bound):
    drawn = vae_trial("gaussian", bound, 2)
    monkeypatch.setattr(npvae.vae, "np", dropping(0))
    check_gradients(drawn.workspace(), drawn.batch)
    monkeypatch.setattr(npvae.vae, "np", dropping(width))
    with pytest.raises(AssertionError, match=r"^encoder\.0\.W"):
        check_gradients(drawn.workspace(), drawn.batch)


def noise_of_another_row(vae, *a):
    ops, p, inputs, *rest = a
    VAE.backward(vae, ops, p, inputs._replace(eps=inputs.eps[::-1].copy()), *rest)


def beta_ignored(vae, *a):
    ops, p, inputs, *rest = a
    VAE.backward(vae, ops, p, inputs._replace(beta=1.0), *rest)


def input_for_target(vae, *a):
    ops, p, inputs, *rest = a
    VAE.backward(vae, ops, p, inputs._replace(target=inputs.x), *rest)


def accumulates(vae, *a):
    dp = a[4]
    before = [view.copy() for _, view in leaves(dp)]
    VAE.backward(vae, *a)
    for (_, view), old in zip(leaves(dp), before, strict=True):
        view += old


def sums_the_batch(vae, *a):
    VAE.backward(vae, *a)
    for _, view in leaves(a[4]):
        view *= len(a[2].x)


def forgets_a_bias(vae, *a):
    kept = a[4].decoder[0].b.copy()
    VAE.backward(vae, *a)
    a[4].decoder[0].b[:] = kept


def forgets_the_rate(vae, *a):
    VAE.backward(vae, *a)
    a[5].rate[:] = np.nan


def dz_of_the_decoder_alone(vae, *a):
    VAE.backward(vae, *a)
    a[5].z[:] -= a[6].z


MUTANTS = (
    noise_of_another_row, beta_ignored, input_for_target, accumulates, sums_the_batch, forgets_a_bias,
    forgets_the_rate, dz_of_the_decoder_alone,
)  # fmt: skip


@pytest.mark.parametrize("backward", MUTANTS, ids=lambda backward: backward.__name__)
def test_a_wrong_backward_is_caught(backward):
    right = vae_trial("gaussian", "iwae", 2)
    check_gradients(right.workspace(), right.batch)
    mutant = type("Mutant", (VAE,), {"backward": backward})
    drawn = right._replace(model=mutant(5, (4,), 3, "tanh", Gaussian(0.7), IWAE()))
    with pytest.raises(AssertionError):
        check_gradients(drawn.workspace(), drawn.batch)


# ── float32 ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def digits():
    return datasets.load("mnist-small", rows=64).train.images


@pytest.mark.parametrize("bound", ["elbo", "free bits", "iwae"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_float32_jit_gradient_is_the_float64_reference(digits, likelihood, bound):
    """On real digits, at the size of a real model; the parameters are a start of training, noise in the biases."""
    rows, hidden, samples = (2, 10, 2) if config.DISABLE_JIT else (64, 100, 5)
    samples = samples if bound == "iwae" else 1
    model = VAE(784, (hidden,), 20, "relu", LIKELIHOODS[likelihood], IWAE() if bound == "iwae" else ELBO())
    narrow = Workspace(model, rows, samples, "float32", "jit", seed=3)
    model.initialize_from(narrow.params, digits)
    rng = rng_of("float32", likelihood)
    for name, view in leaves(narrow.params):
        if name.endswith("b"):
            view += 0.1 * rng.standard_normal(view.shape, np.float32)
    if bound == "free bits":  # that half of the latents fall below
        narrow.forward(digits[:rows])
        model = dataclasses.replace(model, bound=ELBO(float(np.median(narrow.acts.rate.mean(axis=(0, 1))))))
        narrow = Workspace(model, rows, samples, "float32", "jit", theta=narrow.theta)
    exact = Workspace(model, rows, samples, "float64", "reference", theta=narrow.theta.astype(np.float64))
    eps = rng.standard_normal(model.noise(rows, samples), np.float32)
    losses = []
    for ws in (narrow, exact):  # the same noise
        losses.append(ws.forward(digits[:rows], eps=eps))
        fresh_gradients(ws, Batch(digits[:rows], None, eps, 1.0))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    if bound == "free bits":
        assert (exact.dacts.rate[0, 0] == 0).sum() == 10
    assert narrow.dtheta.dtype == np.float32
    off = np.linalg.norm(narrow.dtheta - exact.dtheta) / np.linalg.norm(exact.dtheta)
    assert off <= (5e-5 if bound == "iwae" else 1e-5)


# ── Identities ───────────────────────────────────────────────────────────────────────────────────────────────────


def loss_of(drawn, **changes):
    """The loss, and the workspace that gave it."""
    ws = drawn.workspace()
    return ws.forward(**drawn.batch._asdict() | changes), ws


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_loss_is_reconstruction_plus_weighted_rate(likelihood):
    drawn = vae_trial(likelihood, samples=3)
    loss, ws = loss_of(drawn)
    terms = ws.terms
    assert loss == pytest.approx(terms["reconstruction"] + 0.7 * terms["rate"], rel=1e-14)
    assert terms["reconstruction"] == pytest.approx(-ws.acts.log_px.mean(), rel=1e-14)
    assert terms["rate"] == pytest.approx(ws.acts.rate.sum() / 3, rel=1e-14)


def test_elbo_averages_its_samples():
    drawn = vae_trial("gaussian", samples=3)
    loss, _ = loss_of(drawn)
    apart = [loss_of(drawn._replace(samples=1), eps=drawn.batch.eps[:, k : k + 1])[0] for k in range(3)]
    assert loss == pytest.approx(np.mean(apart), rel=1e-14)
    assert np.ptp(apart) > 1e-3


def test_optimal_sigma_is_the_best_of_all_fixed_ones():
    drawn = vae_trial("gaussian-optimal", samples=2)
    loss, ws = loss_of(drawn)
    residual = drawn.batch.target[:, None] - ws.acts.y
    sigma = np.sqrt(np.mean(residual**2))
    assert ws.acts.likelihood.logvar[0] == pytest.approx(2 * np.log(sigma), rel=1e-13)
    theta = drawn.theta[:-1]  # without the stored log sigma^2

    def fixed(sigma):
        model = dataclasses.replace(drawn.model, likelihood=Gaussian(sigma))
        return loss_of(drawn._replace(model=model, theta=theta))[0]

    assert loss == pytest.approx(fixed(sigma), rel=1e-13)
    assert min(fixed(0.99 * sigma), fixed(1.01 * sigma)) > loss + 1e-4


def test_fixed_sigma_of_root_half_is_squared_error_up_to_a_constant():
    drawn = vae_trial("gaussian")
    drawn = drawn._replace(model=dataclasses.replace(drawn.model, likelihood=Gaussian(np.sqrt(0.5))))
    loss, ws = loss_of(drawn)
    squared = np.sum((drawn.batch.target - ws.acts.y[:, 0]) ** 2, axis=-1).mean()
    mu, logvar = np.split(ws.acts.stats, 2, axis=-1)
    kl = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum() / len(mu)
    assert loss == pytest.approx(squared + 0.7 * kl + 5 / 2 * np.log(np.pi), rel=1e-13)


def test_free_bits_are_paid_by_every_latent_below_them():
    free, ws = loss_of(vae_trial(bound="free bits that bind"))
    plain, _ = loss_of(vae_trial())
    below = np.maximum(ws.model.bound.free_bits - ws.acts.rate.mean(axis=(0, 1)), 0)
    assert free - plain == pytest.approx(0.7 * below.sum(), rel=1e-10)
    same, _ = loss_of(vae_trial(bound="free bits that do not bind"))
    assert same == plain


# ── Around the pass ──────────────────────────────────────────────────────────────────────────────────────────────


def test_layers_are_mirrored_and_the_last_is_linear():
    ws = Workspace(VAE(7, (6, 4), 3, "relu"), 2, 5, "float64", "reference")
    assert [layer.W.shape for layer in ws.params.encoder] == [(7, 6), (6, 4), (4, 6)]
    assert [layer.W.shape for layer in ws.params.decoder] == [(3, 4), (4, 6), (6, 7)]
    ws.forward(np.ones((2, 7)))
    assert ws.acts.stats.shape == (2, 1, 6) and ws.acts.z.shape == (2, 5, 3)
    assert ws.acts.y.shape == (2, 5, 7) and np.shares_memory(ws.acts.logits, ws.acts.decoder[-1])
    assert ws.acts.decoder[0].shape == (10, 4)  # images times samples
    assert ws.acts.rate.shape == (2, 1, 3) and ws.acts.log_px.shape == (2, 5)
    assert min(ws.acts.y.min(), ws.acts.stats.min()) < 0  # which no ReLU puts out


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_encode_and_decode_are_the_halves_of_the_pass(likelihood):
    drawn = vae_trial(likelihood)
    ws = drawn.workspace()
    ws.forward(drawn.batch.x, eps=np.zeros((3, 1, 3)))
    mu, y = ws.acts.stats[:, 0, :3].copy(), ws.acts.y[:, 0].copy()
    mean = 1 / (1 + np.exp(-y)) if likelihood == "bernoulli" else y[:, :5]
    np.testing.assert_allclose(ws.encode(drawn.batch.x), mu, rtol=1e-14)
    np.testing.assert_allclose(ws.decode(mu), mean, rtol=1e-14)


def test_first_bias_is_the_logit_of_the_mean_image():
    images = np.zeros((9, 4), np.float32)
    images[:, 1] = 1
    images[:3, 2] = 1
    images[:, 3] = 0.25
    model = VAE(4, (3,), 2)
    ws = Workspace(model, 2, dtype="float64", backend="reference")
    before = ws.theta.copy()
    model.initialize_from(ws.params, images)
    bias = ws.params.decoder[-1].b
    np.testing.assert_allclose(bias, np.log([0.5 / 9.5, 9.5 / 0.5, 3.5 / 6.5, 2.75 / 7.25]), rtol=1e-13)
    assert np.count_nonzero(before != ws.theta) == 4
    gaussian = VAE(4, (3,), 2, likelihood="gaussian")
    gaussian.initialize_from(ws.params, 1 - images)
    np.testing.assert_allclose(bias[0], np.log(0.5 / 9.5), rtol=1e-13)  # left alone


def test_likelihood_starts_at_one_and_weights_at_their_scale():
    model = VAE(300, (200,), 10, likelihood="gaussian-learned")
    params = Workspace(model, 1, seed=5, dtype="float64", backend="reference").params
    assert params.likelihood.logvar[0] == 0
    assert params.encoder[0].W.std() == pytest.approx(np.sqrt(2 / 300), rel=0.02)
    assert params.decoder[1].W.std() == pytest.approx(np.sqrt(2 / 500), rel=0.02)


def test_remember_averages_and_evaluation_reads_it():
    model = VAE(4, (3,), 2, likelihood="gaussian-optimal")
    ws = Workspace(model, 5, dtype="float64", backend="reference", seed=1)
    rng, seen = rng_of("remember"), []
    for step in range(1, 6):
        ws.forward(rng.random((5, 4)))
        seen.append(np.exp(ws.acts.likelihood.logvar[0]))
        model.remember(ws.params, ws.acts, step)
    stored = ws.params.likelihood.logvar[0]
    assert np.exp(stored) == pytest.approx(np.mean(seen), rel=1e-13)
    measuring = Workspace(model.evaluation(), 5, theta=ws.theta, dtype="float64", backend="reference")
    assert isinstance(measuring.model.likelihood, GaussianLearned)
    x, eps = rng.random((5, 4)), rng.standard_normal((5, 1, 2))
    loss = measuring.forward(x, eps=eps)
    fixed = VAE(4, (3,), 2, likelihood=Gaussian(np.exp(stored / 2)))
    other = Workspace(fixed, 5, theta=ws.theta[:-1].copy(), dtype="float64", backend="reference")
    assert loss == pytest.approx(other.forward(x, eps=eps), rel=1e-13)
    assert loss != pytest.approx(ws.forward(x, eps=eps), rel=1e-6)


def test_only_the_optimal_sigma_is_remembered():
    drawn = vae_trial("gaussian-learned")
    ws = drawn.workspace()
    ws.forward(*drawn.batch)
    ws.model.remember(ws.params, ws.acts, 1)
    assert np.array_equal(ws.theta, drawn.theta)


def test_evaluation_drops_free_bits_and_takes_another_bound():
    model = VAE(4, (3,), 2, likelihood="gaussian", bound=ELBO(0.5))
    assert model.evaluation() == VAE(4, (3,), 2, likelihood="gaussian")
    assert model.evaluation(IWAE()).bound == IWAE()
    assert VAE(4, bound=IWAE()).evaluation() == VAE(4, bound=IWAE())


def test_descriptions_are_compared_by_what_they_say():
    assert VAE(4, likelihood="gaussian") == VAE(4, likelihood=Gaussian(1.0)) != VAE(4, likelihood=Gaussian(2.0))
    assert VAE(4, [3, 2]) == VAE(4, (3, 2)) != VAE(4, (2, 3))


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"data": 0}, "data must be a whole number"),
        ({"data": 2.5}, "data must be a whole number"),
        ({"latent": -1}, "latent must be a whole number"),
        ({"latent": True}, "latent must be a whole number"),
        ({"hidden": (3, 0)}, "hidden must be a whole number"),
        ({"hidden": 400}, "hidden must be a tuple"),
        ({"activation": "rellu"}, "Did you mean 'relu'"),
        ({"likelihood": "gausian"}, "Did you mean 'gaussian'"),
        ({"likelihood": 3}, "unknown likelihood"),
        ({"bound": "elbo"}, "bound must be ELBO"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, says):
    with pytest.raises(InputError, match=says):
        VAE(**{"data": 4} | wrong)
