"""A training step asks for no memory: what it needs was there before it, but for what Python itself boxes.

Held with compiled kernels, and with ops that do nothing, which leaves what stands around them: the models, the
workspace, the optimisers, the loop. NumPy's own temporaries are traced too, the buffers inside of its loops included.
"""

import gc
import os
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

import npvae as nv
from npvae import noise, training
from npvae.likelihoods import LIKELIHOODS
from npvae.ops import reference
from npvae.training import Trainer

LIMIT = 16 * 1024  # bytes
PLANTED = 20 * 1024

UNCOMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
compiled = pytest.mark.skipif(UNCOMPILED, reason="kernels that run as Python box every number they touch")
KERNELS = pytest.mark.parametrize("kernels", [pytest.param("jit", marks=compiled), "none"])


def peak_of(step):
    """How many bytes a step asks for at most, at a time, beyond what was there before it."""
    step()
    step()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        step()  # what one step leaves for the next is known now
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        step()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        gc.enable()


def idle(name):
    """An op that does nothing and returns what it should."""
    returned = {
        "elbo_forward": lambda out: 0.0,
        "iwae_forward": lambda out: (0.0, out),
        "global_norm": lambda out: 3.0,
    }.get(name, lambda out: out)
    return lambda *arguments, out=None, scratch=None: returned(out)


IDLE = SimpleNamespace(
    **{
        name: idle(name)
        for name in vars(reference)
        if name.endswith(("_forward", "_backward", "_step", "_norm", "copy"))
    },
    **{name: getattr(reference, name) for name in vars(reference) if name.endswith("_scratch")},
)


def workspace(kernels, model, batch, samples=1, dtype="float32"):
    ws = nv.Workspace(model, batch, samples, dtype, "jit" if kernels == "jit" else "reference")
    if kernels == "none":
        ws.ops = IDLE
    return ws


def step_of(ws, optimizer, given=True, denoise=False, **options):
    """forward, backward, step: on noise that is given or drawn, on a target of its own or none."""
    rng = np.random.default_rng(3)
    x = rng.random((ws.batch, ws.model.data)).astype(ws.dtype)
    target = x + ws.dtype.type(0.1) if denoise else None
    shape = ws.model.noise(ws.batch, ws.samples)
    eps = rng.standard_normal(shape).astype(ws.dtype) if given and shape is not None else None
    ws.forward(x, target, eps)
    ws.backward()  # gradients are allocated here, and an optimiser's moments with it
    opt = optimizer(ws, **options)

    def step():
        ws.forward(x, target, eps)
        ws.backward()
        opt.step()

    return step


# ── A step by hand ───────────────────────────────────────────────────────────────────────────────────────────────

OPTIMIZERS = {
    "adam": (nv.Adam, {"lr": 1e-4, "clip": 1.0}),
    "adamw": (nv.AdamW, {"lr": nv.linear_warmup(nv.cosine(1e-4, 100), 10)}),
    "sgd": (nv.SGD, {"lr": 1e-9, "clip": 1.0}),
    "rmsprop": (nv.RMSProp, {"lr": 1e-5}),
}


@KERNELS
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_the_usual_vae(name, kernels):
    optimizer, options = OPTIMIZERS[name]
    ws = workspace(kernels, nv.VAE(784, (400,), 20), 128)
    assert peak_of(step_of(ws, optimizer, **options)) < LIMIT


@KERNELS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_that_draws_its_noise(dtype, kernels):
    ws = workspace(kernels, nv.VAE(784, (400,), 20), 128, dtype=dtype)
    assert peak_of(step_of(ws, nv.Adam, given=False, lr=1e-4)) < LIMIT


@KERNELS
def test_a_step_under_importance_weights(kernels):
    ws = workspace(kernels, nv.VAE(784, (200, 200), 50, bound=nv.IWAE()), 20, 50)
    assert peak_of(step_of(ws, nv.Adam, lr=1e-4, clip=1.0)) < LIMIT


@KERNELS
@pytest.mark.parametrize("bound", [nv.ELBO(0.1), nv.IWAE()], ids=["elbo", "iwae"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_step_under_every_likelihood(likelihood, bound, kernels):
    """With 3,000 samples in all: an array of one number each would be 24 kB."""
    ws = workspace(kernels, nv.VAE(30, (20,), 4, "tanh", likelihood, bound), 60, 50)
    assert peak_of(step_of(ws, nv.SGD, lr=1e-9, clip=1.0)) < LIMIT


@KERNELS
@pytest.mark.parametrize("activation", ["relu", "leaky-relu", "tanh", "sigmoid", "softplus", "elu"])
def test_a_step_of_a_denoising_autoencoder(activation, kernels):
    ws = workspace(kernels, nv.Autoencoder(100, (60,), 10, activation), 200)
    assert peak_of(step_of(ws, nv.RMSProp, denoise=True, lr=1e-5, clip=1.0)) < LIMIT


@KERNELS
def test_a_step_of_the_linear_autoencoder(kernels):
    ws = workspace(kernels, nv.LinearAutoencoder(200, 50), 200)
    assert peak_of(step_of(ws, nv.Adam, lr=1e-4, clip=1.0)) < LIMIT


@KERNELS
def test_the_terms_of_the_loss(kernels):
    ws = workspace(kernels, nv.VAE(30, (20,), 4, bound=nv.IWAE()), 60, 50)
    ws.forward(np.zeros((60, 30)))
    assert peak_of(lambda: ws.terms) < LIMIT


# ── A step of the loop ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def grey():
    return nv.datasets.from_arrays(np.random.default_rng(4).random((700, 784), np.float32))


def step_of_training(monkeypatch, kernels, model, data, **settings):
    """The next step of a training, from gathering the images to the running sums of the metrics."""
    trainers = []
    monkeypatch.setattr(Trainer, "fit", lambda trainer, *_: trainers.append(trainer))
    nv.train(model, data, **{"backend": "jit" if kernels == "jit" else "reference"} | settings)
    [trainer] = trainers
    if kernels == "none":
        trainer.ws.ops = IDLE
    steps = trainer._steps()
    return lambda: next(steps)


LOOPS = {
    "elbo": (nv.VAE(784, (400,), 20), {"batch": 128, "clip": 1.0, "schedule": "cosine", "lr_warmup": 3, "warmup": 2}),
    "float64": (nv.VAE(784, (40,), 20), {"batch": 128, "dtype": "float64", "optimizer": "adamw"}),
    "static": (nv.VAE(784, (40,), 20, bound=nv.ELBO(0.1)), {"batch": 128, "binarize": "static"}),
    "iwae": (nv.VAE(784, (200, 200), 50, bound=nv.IWAE()), {"batch": 20, "samples": 50, "optimizer": "rmsprop"}),
    "optimal": (nv.VAE(784, (40,), 20, likelihood="gaussian-optimal"), {"batch": 128, "optimizer": "sgd"}),
    "denoising vae": (nv.VAE(784, (40,), 20), {"batch": 128, "corruption": "masking"}),
    "masking": (nv.Autoencoder(784, (40,), 20), {"batch": 128, "corruption": "masking"}),
    "salt": (nv.Autoencoder(784, (40,), 20), {"batch": 128, "corruption": "salt-and-pepper"}),
    "gaussian": (nv.Autoencoder(784, (40,), 20), {"batch": 128, "corruption": "gaussian", "dtype": "float64"}),
    "linear": (nv.LinearAutoencoder(784, 20), {"batch": 128, "clip": 1.0}),
}


@KERNELS
@pytest.mark.parametrize("name", LOOPS)
def test_a_step_of_training(grey, monkeypatch, name, kernels):
    model, settings = LOOPS[name]
    step = step_of_training(monkeypatch, kernels, model, grey, **settings)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # as the loop has it
        assert peak_of(step) < LIMIT


@KERNELS
def test_the_last_batch_of_an_epoch_is_smaller_and_no_exception(grey, monkeypatch, kernels):
    """630 images are four batches of 150 and one of 30: the fourth step and the fifth, measured."""
    step = step_of_training(monkeypatch, kernels, nv.VAE(784, (40,), 20), grey, batch=150)
    assert len(grey.train.images) == 630
    assert peak_of(step) < LIMIT
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LIMIT


# ── Where the memory lies ────────────────────────────────────────────────────────────────────────────────────────


def starts_at(vector):
    return vector.ctypes.data % 64


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_every_buffer_starts_at_a_cache_line(dtype):
    ws = nv.Workspace(nv.VAE(7, (5,), 3, likelihood="gaussian-optimal"), 3, 3, dtype, "reference")
    ws.forward(np.ones((3, 7)))
    ws.backward()
    buffers = [ws.theta, ws.dtheta, *ws._acts, *ws._dacts, ws._scratch, ws._input, ws._eps]
    for optimizer in (nv.SGD, nv.RMSProp, nv.Adam, nv.AdamW):
        buffers += optimizer(ws).state.values()
    assert len(buffers) == 9 + 1 + 1 + 2 + 2
    assert [starts_at(buffer) for buffer in buffers] == [0] * len(buffers)
    assert starts_at(ws.params.encoder[0].W) == 0 and starts_at(ws.acts.encoder[0]) == 0


# ── The measure itself ───────────────────────────────────────────────────────────────────────────────────────────


def planting(function):
    """The same function, which asks for 20 kB besides."""

    def planted(*arguments, **options):
        np.empty(PLANTED, np.uint8)
        return function(*arguments, **options)

    return planted


@pytest.mark.parametrize("op", ["dense_forward", "gaussian_kl_backward", "global_norm", "adam_step"])
def test_a_planted_allocation_is_caught(op):
    ws = workspace("none", nv.VAE(30, (20,), 4), 5)
    assert peak_of(step_of(ws, nv.Adam, clip=1.0)) < LIMIT
    ws.ops = SimpleNamespace(**vars(IDLE) | {op: planting(getattr(IDLE, op))})
    assert peak_of(step_of(ws, nv.Adam, clip=1.0)) > LIMIT


@pytest.mark.parametrize("place, name", [(noise, "binarize"), (noise, "normal"), (training, "stream")])
def test_an_allocation_planted_in_the_loop_is_caught(grey, monkeypatch, place, name):
    monkeypatch.setattr(place, name, planting(getattr(place, name)))
    step = step_of_training(monkeypatch, "none", nv.VAE(784, (40,), 20), grey, batch=128)
    assert peak_of(step) > LIMIT
