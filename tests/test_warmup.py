"""`npvae warmup`: what it says, and that nothing is left to compile after it."""

import os
import re
import subprocess
import sys

import pytest
from numba import config
from test_compiling import block, copy, run  # noqa: F401, a fixture

from npvae import cli
from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.bounds import ELBO, IWAE
from npvae.errors import InputError
from npvae.likelihoods import LIKELIHOODS
from npvae.mlp import ACTIVATIONS
from npvae.optim import SGD, Adam, AdamW, RMSProp
from npvae.vae import VAE
from npvae.warmup import OPTIMIZERS, models, summary, warmup

compiled = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled")

COUNTS = re.compile(r"(\d+) kernels compiled in \d+\.\d s, (\d+) loaded from the cache\n")


def npvae(*arguments, **environment):
    """The command line in a process of its own: exit code, stdout, stderr."""
    command = [sys.executable, "-m", "npvae", *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def python(code, folder):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_choice_is_among_the_models():
    chosen = models()
    vaes = [model for model in chosen if isinstance(model, VAE)]
    assert {model.activation for model in vaes} == set(ACTIVATIONS)
    assert {model.p_x.name for model in vaes} == set(LIKELIHOODS)
    assert {type(model.bound) for model in vaes} == {ELBO, IWAE}
    assert {bool(model.bound.free_bits) for model in vaes if isinstance(model.bound, ELBO)} == {True, False}
    assert {type(model) for model in chosen} == {VAE, Autoencoder, LinearAutoencoder}
    assert set(OPTIMIZERS) == {Adam, AdamW, RMSProp, SGD} and len(chosen) >= len(OPTIMIZERS)


# Work of every size, and all that is done with a trained model.
USE = """
import numpy as np, npvae as nv
from npvae.likelihoods import LIKELIHOODS
from npvae.ops import compiling
data = nv.datasets.load("mnist-small", rows=210)
sizes = {"hidden": (30,), "latent": 3}
kinds = [nv.VAE(784, **sizes, likelihood=name) for name in LIKELIHOODS]
kinds += [nv.VAE(784, **sizes, bound=nv.IWAE()), nv.VAE(784, (), 2, bound=nv.ELBO(free_bits=0.5))]
kinds += [nv.Autoencoder(784, **sizes), nv.LinearAutoencoder(784, 3)]
optimizers = {"adam": {}, "sgd": {}, "rmsprop": {"clip": 1.0}, "adamw": {}}
for i, model in enumerate(kinds):
    for dtype in DTYPES:
        name = list(optimizers)[i % 4]
        run = nv.train(model, data, epochs=1, batch=100, dtype=dtype, optimizer=name, **optimizers[name])
        if isinstance(model, nv.VAE):
            run.sample(3)
            nv.evaluate(run, data.test.images[:20], 7)
        run.reconstruct(data.test.images[:3])
ws = nv.Workspace(nv.VAE(784, (400,), 20), 128, dtype=DTYPES[0])
ws.forward(np.ones((128, 784)))
ws.backward()
nv.set_threads(1)
ws.backward()
print(*compiling.census()[:2])
"""


@compiled
def test_nothing_is_left_to_compile(tmp_path):
    """The process that is looked at is the one after: it has loaded what it needed."""
    code, out, err = npvae("warmup", "--dtype", "all")
    assert code == 0, err
    compiled_, loaded = map(int, COUNTS.match(out).groups())
    assert compiled_ + loaded > 40
    left, found = python(f"DTYPES = 'float32', 'float64'\n{USE}", tmp_path).split()
    assert left == "0" and int(found) > 40
    code, out, _ = npvae("warmup")  # float32 alone, which was among them
    assert code == 0
    again, of_one = map(int, COUNTS.match(out).groups())
    assert again == 0 and 20 < of_one < compiled_ + loaded


@compiled
def test_what_is_said(capfd):
    assert cli.main(["warmup"]) == 0
    out, err = capfd.readouterr()
    counts, cache = out.splitlines()
    assert COUNTS.fullmatch(f"{counts}\n") and cache.startswith("cache: ")
    lines = err.splitlines()
    assert len(lines) == len(models())
    for line, model in zip(lines, models(), strict=True):
        assert re.fullmatch(rf"float32  {summary(model)}, (Adam|AdamW|SGD|RMSProp)  \d+\.\d s", line)


@compiled
def test_what_a_warmup_counts():
    """In a process that has all of it, nothing."""
    warmup()
    told = []
    result = warmup("float32", told.append)
    assert (result.compiled, result.loaded) == (0, 0) and result.seconds > 0
    assert len(told) == len(models())
    assert warmup().folder == result.folder


def test_an_unknown_dtype_is_refused(capfd):
    for wrong in ("float16", "complex128", ""):
        with pytest.raises(InputError, match=r"^unknown dtype .*: expected one of float32, float64, all"):
            warmup(wrong)
    assert cli.main(["warmup", "--dtype", "flaot64"]) == 2
    assert "Did you mean 'float64'?" in capfd.readouterr().err


def test_there_is_nothing_to_do_where_nothing_is_compiled(monkeypatch, capfd):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert cli.main(["warmup"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and "nothing to compile" in err and "NUMBA_DISABLE_JIT" in err


@compiled
def test_it_says_so_where_nothing_can_be_kept(copy):  # noqa: F811
    """Before it begins."""
    code = "import sys; from npvae import cli; sys.exit(cli.main(['warmup']))"
    said = run(code, copy, status=2, **block(copy))
    assert said.startswith("npvae: what is compiled could not be kept") and "NUMBA_CACHE_DIR" in said
