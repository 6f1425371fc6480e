"""Compile ahead: one training step of small models that between them reach every kernel, which fills the cache."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.bounds import ELBO, IWAE
from npvae.errors import InputError, check_choice
from npvae.likelihoods import LIKELIHOODS
from npvae.mlp import ACTIVATIONS
from npvae.models import describe
from npvae.ops import default_backend
from npvae.ops.threads import cut_all
from npvae.optim import SGD, Adam, AdamW, RMSProp
from npvae.vae import VAE
from npvae.workspace import Model, Workspace

DTYPES = {"float32": ("float32",), "float64": ("float64",), "all": ("float32", "float64")}

DATA, HIDDEN, LATENT, BATCH = 6, (5,), 2, 4
BOUNDS = (ELBO(), ELBO(free_bits=0.1), IWAE())
OPTIMIZERS: tuple[Any, ...] = (Adam, SGD, RMSProp, AdamW)


class Warmup(NamedTuple):
    """How many kernels it compiled and loaded from the cache, one for each dtype; and where the cache lies."""

    compiled: int
    loaded: int
    seconds: float
    folder: Path


def warmup(dtype: str = "float32", report: Callable[[str], None] | None = None) -> Warmup:
    """Compile all that training, encoding and decoding in `dtype` need, and keep it in Numba's cache.

    dtype: "float32", "float64" or "all". report: is told, after each model, which it was and how long it took. Raises
    InputError where nothing is compiled, or could not be kept.
    """
    dtypes = DTYPES[check_choice("dtype", dtype, DTYPES)]
    if default_backend() != "jit":
        raise InputError("there is nothing to compile: the environment variable NUMBA_DISABLE_JIT is set, unset it")
    from npvae.ops import compiling  # Numba takes a while to import

    start = time.monotonic()
    compiled, loaded, folder = compiling.census()
    if folder is None:
        raise InputError(
            "what is compiled could not be kept: Numba finds no folder that it can write to, set the environment "
            "variable NUMBA_CACHE_DIR to one"
        )
    for name in dtypes:
        for model, optimizer in zip(models(), OPTIMIZERS * len(ACTIVATIONS), strict=False):
            before = time.monotonic()
            exercise(model, optimizer, name)
            if report:
                report(f"{name}  {summary(model)}, {optimizer.__name__}  {time.monotonic() - before:.1f} s")
    compiled_now, loaded_now, _ = compiling.census()
    return Warmup(compiled_now - compiled, loaded_now - loaded, time.monotonic() - start, folder)


def models() -> list[Model]:
    """A VAE of every activation, likelihood and bound there is, one of each kind of autoencoder."""
    likelihoods, activations = list(LIKELIHOODS), list(ACTIVATIONS)
    vaes = [
        VAE(DATA, HIDDEN, LATENT, activation, likelihoods[i % len(likelihoods)], BOUNDS[i % len(BOUNDS)])
        for i, activation in enumerate(activations)
    ]
    return [*vaes, Autoencoder(DATA, HIDDEN, LATENT), LinearAutoencoder(DATA, LATENT)]


def summary(model: Model) -> str:
    """What distinguishes a model here, in a few words."""
    known = describe(model)
    return " ".join(str(known[key]) for key in ("kind", "activation", "likelihood", "bound") if key in known)


def exercise(model: Model, optimizer: Any, dtype: str) -> None:
    """A training step, the same with its work shared out, encoding and decoding."""
    ws = Workspace(model, BATCH, 2 if isinstance(model, VAE) else 1, dtype)
    x = np.eye(BATCH, DATA)
    step = optimizer(ws, clip=1.0).step
    for shared in (nullcontext(), cut_all()):
        with shared:
            ws.forward(x)
            ws.backward()
            step()
            ws.decode(ws.encode(x))
