"""Loss and gradients against three independent witnesses, which differentiate the same models by themselves.

HIPS autograd is among the test tools; PyTorch and JAX answer where they are installed. Each runs in a process of its
own, so that neither its threads nor its warnings are the tests'.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import witnesses
from op_cases import error
from test_vae import BACKENDS, CHOSEN, LIKELIHOODS, fresh_gradients, trial, vae_trial

from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.bounds import ELBO
from npvae.flat import named
from npvae.mlp import ACTIVATIONS
from npvae.vae import VAE

BOUNDS = {"elbo": "elbo", "free-bits": "free bits that bind", "iwae": "iwae"}
SAMPLES = 3


def trials():
    """Every question by its name."""
    drawn = {"linear": trial(LinearAutoencoder(5, 2))}
    for activation in ("tanh", "relu"):
        drawn[f"deep {activation}"] = trial(Autoencoder(5, (4, 3), 2, activation))
    for likelihood in LIKELIHOODS:
        for name, bound in BOUNDS.items():
            activation, hidden = CHOSEN[likelihood, bound, SAMPLES]
            question = f"vae {likelihood} {name} {activation}"
            drawn[question] = vae_trial(likelihood, bound, SAMPLES, activation, hidden)
    return drawn


TRIALS = trials()


def arrays_of(drawn):
    """What a witness is told."""
    model, batch = drawn.model, drawn.batch
    vae = isinstance(model, VAE)
    return named(drawn.workspace().params) | {
        "x": batch.x,
        "target": batch.target,
        "eps": batch.eps if vae else np.empty(0),
        "beta": np.array(batch.beta),
        "free_bits": np.array(model.bound.free_bits if vae and isinstance(model.bound, ELBO) else 0.0),
        "sigma": np.array(getattr(model.likelihood, "sigma", 1.0) if vae else 1.0),
    }


@pytest.fixture(scope="module", params=list(witnesses.ANSWERS))
def answers(request, tmp_path_factory):
    """The witness's name and all its answers."""
    witness = request.param
    if witness != "autograd" and importlib.util.find_spec(witness) is None:
        pytest.skip(f"{witness} is not installed: pip install {witness}, and it is asked too")
    folder = tmp_path_factory.mktemp(witness)
    questions = {f"{question}/{name}": a for question, drawn in TRIALS.items() for name, a in arrays_of(drawn).items()}
    np.savez(folder / "questions.npz", **questions)
    script = Path(witnesses.__file__)
    command = [sys.executable, script, witness, folder / "questions.npz", folder / "answers.npz"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    with np.load(folder / "answers.npz") as stored:
        return witness, dict(stored)


def check_answer(question, backend, answer):
    drawn = TRIALS[question]
    ws = drawn.workspace(backend)
    assert ws.forward(*drawn.batch) == pytest.approx(answer[f"{question}/loss"], rel=1e-10)
    fresh_gradients(ws, drawn.batch)
    for name, gradient in named(ws.grads).items():
        assert error(gradient, answer[f"{question}/{name}"]) <= 1e-10, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("question", TRIALS)
def test_witnesses_agree(answers, question, backend):
    check_answer(question, backend, answers[1])


def test_a_gradient_that_is_off_is_caught(answers):
    """By a billionth, in one entry of any tensor."""
    for question, drawn in TRIALS.items():
        for name in named(drawn.workspace().params):
            answer = {key: value.copy() for key, value in answers[1].items()}
            wrong = answer[f"{question}/{name}"]
            wrong.flat[np.abs(wrong).argmax()] += 1e-9 * (np.abs(wrong).max() or 1)
            with pytest.raises(AssertionError, match=name):
                check_answer(question, "reference", answer)


def test_every_activation_is_asked():
    assert {question.split()[-1] for question in TRIALS if question.startswith("vae")} == set(ACTIVATIONS)
