"""The loop: what it computes, what it writes, and that stopping it anywhere changes nothing."""

import csv
import errno
import hashlib
import json
import math
import os
import random
import signal
import threading
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import npvae as nv
from npvae import noise, training
from npvae.datasets import Split
from npvae.optim import SGD, Adam, RMSProp
from npvae.runs import COLUMNS, Settings

ROWS, BATCH = 230, 50  # the last of the five batches has 30 images


def cut(data, rows, test):
    train = Split(data.train.images[:rows], data.train.labels[:rows])
    return data._replace(train=train, test=Split(data.test.images[:test], data.test.labels[:test]))


@pytest.fixture(scope="module")
def digits():
    return nv.datasets.load("mnist-small", rows=1000)


@pytest.fixture(scope="module")
def few(digits):
    return cut(digits, ROWS, 60)


def small(**options):
    return nv.VAE(**{"data": 784, "hidden": (16,), "latent": 3} | options)


def metrics(folder):
    """metrics.csv without its clock."""
    with (Path(folder) / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def sha_of_theta(folder):
    theta = safetensors.numpy.load_file(Path(folder) / "checkpoint.safetensors")["theta"]
    return hashlib.sha256(theta.tobytes()).hexdigest()


@pytest.fixture
def passes(monkeypatch):
    """What every training step saw: (x, target, eps, beta, loss) of each forward of the workspace that is trained."""
    seen, original = [], nv.Workspace.forward

    def forward(self, x, target=None, eps=None, beta=1.0):
        loss = original(self, x, target, eps, beta)
        if self.batch == BATCH:  # the workspace that measures has another
            seen.append((x.copy(), (x if target is None else target).copy(), eps.copy(), beta, loss))
        return loss

    monkeypatch.setattr(nv.Workspace, "forward", forward)
    return seen


# ── What is computed ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_same_seed_same_numbers(few):
    first, second, other = (nv.train(small(), few, epochs=2, batch=BATCH, seed=seed) for seed in (5, 5, 6))
    assert first.theta.tobytes() == second.theta.tobytes()
    for a, b in zip(first.history, second.history, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert not np.array_equal(first.theta, other.theta)
    assert first.history[0]["train_loss"] != other.history[0]["train_loss"]


def test_every_image_once_an_epoch_in_a_new_order(few, passes):
    run = nv.train(small(), few, epochs=2, batch=BATCH, binarize="none")
    assert [len(x) for x, *_ in passes] == [50, 50, 50, 50, 30] * 2
    epochs = [np.concatenate([x for x, *_ in passes[5 * e : 5 * e + 5]]) for e in (0, 1)]
    for epoch in epochs:
        assert sorted(map(bytes, epoch)) == sorted(map(bytes, few.train.images))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], few.train.images)
    for row, part in zip(run.history, (passes[:5], passes[5:]), strict=True):  # an average over images, not steps
        mean = math.fsum(len(x) * loss for x, _, _, _, loss in part) / ROWS
        assert row["train_loss"] == pytest.approx(mean, rel=1e-12)
        assert abs(mean - np.mean([loss for *_, loss in part])) > 1e-6 * mean


def test_metrics(few, tmp_path):
    run = nv.train(small(), few, epochs=2, batch=BATCH, out=tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert lines[0] == (
        "epoch,seconds,train_loss,train_reconstruction,train_rate,test_loss,test_reconstruction,test_rate,active_units"
    )
    assert len(lines) == 3
    for line, row in zip(lines[1:], run.history, strict=True):
        assert tuple(row) == COLUMNS
        assert list(map(float, line.split(","))) == list(row.values())
        for part in ("train", "test"):
            assert row[f"{part}_loss"] == pytest.approx(row[f"{part}_reconstruction"] + row[f"{part}_rate"], rel=1e-12)
            assert row[f"{part}_rate"] > 0
        assert row["active_units"] in range(4)
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert 0 < run.history[0]["seconds"] < run.history[1]["seconds"]


def test_beta_weighs_the_rate_in_training_and_not_in_validation(few):
    row = nv.train(small(), few, epochs=1, batch=BATCH, beta=4.0).history[0]
    assert row["train_loss"] == pytest.approx(row["train_reconstruction"] + 4 * row["train_rate"], rel=1e-12)
    assert row["test_loss"] == pytest.approx(row["test_reconstruction"] + row["test_rate"], rel=1e-12)
    assert row["train_rate"] > 0.01


def test_the_configuration_says_everything(few, tmp_path):
    model = small(likelihood=nv.Gaussian(0.7), activation="tanh", bound=nv.ELBO(free_bits=0.1))
    given = {"epochs": 1, "batch": 77, "lr": 0.002, "optimizer": "sgd", "momentum": 0.5, "schedule": "cosine"}
    given |= {"lr_warmup": 2, "clip": 3.0, "beta": 0.5, "warmup": 1, "samples": 2, "corruption": "gaussian"}
    given |= {"corruption_level": 0.2, "patience": 4, "seed": 2**64 - 1, "backend": "reference", "dtype": "float64"}
    run = nv.train(model, few, out=tmp_path / "run", **given)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"] == {**given, "weight_decay": None, "binarize": "none"}
    assert config["settings"].keys() == Settings.__dataclass_fields__.keys()
    described = {"kind": "vae", "data": 784, "hidden": [16], "latent": 3, "activation": "tanh", "sigma": 0.7}
    assert config["model"] == {**described, "likelihood": "gaussian", "bound": "elbo", "free_bits": 0.1}
    assert config["data"]["origin"] == {"source": "mnist-small", "rows": 1000, "rescale": False}
    assert config["data"]["shape"] == [28, 28]
    assert config["data"]["digest"] == run.data["digest"] != ""
    assert {name: config["versions"][name] for name in ("npvae", "numpy", "numba", "matplotlib")} == {
        name: version(name) for name in ("npvae", "numpy", "numba", "matplotlib")
    }
    assert config["versions"]["python"]
    assert config["platform"]
    loaded = nv.load(tmp_path / "run")
    assert (loaded.model, loaded.settings) == (run.model, run.settings)


def test_defaults_are_written_out(few, tmp_path):
    nv.train(small(), few, epochs=1, out=tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["backend"] in ("jit", "reference")
    assert [settings[name] for name in ("binarize", "beta", "warmup", "samples")] == ["dynamic", 1.0, 0, 1]
    nv.train(nv.Autoencoder(784, (8,), 2), few, epochs=1, out=tmp_path / "ae")
    settings = json.loads((tmp_path / "ae" / "config.json").read_text())["settings"]
    assert settings["binarize"] == "none"


def test_the_loss_falls_on_real_digits(digits):
    run = nv.train(small(hidden=(32,), latent=5), cut(digits, 1000, 200), epochs=8, batch=50, lr=4e-3)
    losses = [row["test_loss"] for row in run.history]
    start = 206.0  # what a decoder of the mean image alone gives is about 206 nats
    assert losses[-1] < 170 < losses[0] < start
    assert all(b < a + 1 for a, b in zip(losses[:-1], losses[1:], strict=True))  # no noisier than a nat
    assert run.history[-1]["test_rate"] > 5


@pytest.mark.parametrize("binarize", ("none", "static", "dynamic"))
def test_binarisation(few, passes, monkeypatch, binarize):
    measured, original = [], training.measure

    def measure(run, ws, images):
        measured.append(run.binarize(images))
        return original(run, ws, images)

    monkeypatch.setattr(training, "measure", measure)
    run = nv.train(small(), few, epochs=3, batch=BATCH, binarize=binarize, lr=1e-9)
    grey = few.train.images
    seeds = [noise.stream(0, noise.Purpose.SHUFFLE, epoch) for epoch in range(3)]
    epochs = []
    for number, rng in enumerate(seeds):  # undo the shuffling
        images = np.empty_like(grey)
        images[rng.permutation(ROWS)] = np.concatenate([x for x, *_ in passes[5 * number : 5 * number + 5]])
        epochs.append(images)
    if binarize == "none":
        assert all(np.array_equal(images, grey) for images in epochs)
    else:
        assert all(np.isin(images, (0, 1)).all() for images in epochs)
        assert np.array_equal(epochs[0], epochs[1]) == np.array_equal(epochs[1], epochs[2]) == (binarize == "static")
        between = (grey > 0.2) & (grey < 0.8)
        spread = np.sqrt((grey * (1 - grey))[between].sum())
        for images in epochs:  # white with the grey level's probability: within 4 standard deviations
            assert abs((images - grey)[between].sum()) < 4 * spread
            assert np.array_equal(images[grey == 0], grey[grey == 0])
            assert np.array_equal(images[grey == 1], grey[grey == 1])
    # Validation is binarised once and for all, whatever training does.
    assert np.isin(measured[0], (0, 1)).all() == (binarize != "none")
    assert all(np.array_equal(images, measured[0]) for images in measured)
    again = original(run, run.ws, few.test.images)
    assert again == original(run, run.ws, few.test.images)
    assert again.loss == run.history[-1]["test_loss"]


def test_beta_warms_up_linearly(few, passes):
    nv.train(small(), few, epochs=4, batch=BATCH, warmup=2, beta=3.0)
    assert [beta for *_, beta, _ in passes] == pytest.approx([3 * min(step / 10, 1) for step in range(20)], abs=1e-15)


def test_without_a_warm_up_beta_is_constant(few, passes):
    nv.train(small(), few, epochs=2, batch=BATCH, beta=0.5)
    assert {beta for *_, beta, _ in passes} == {0.5}


def test_free_bits_cost_what_they_say(few):
    row = nv.train(small(bound=nv.ELBO(free_bits=50.0)), few, epochs=1, batch=BATCH).history[0]
    # No latent reaches 50 nats, so each of the three costs exactly that; validation charges what it measures.
    assert row["train_loss"] == pytest.approx(row["train_reconstruction"] + 150, rel=1e-12)
    assert row["test_loss"] == pytest.approx(row["test_reconstruction"] + row["test_rate"], rel=1e-12)


def test_importance_weighting_is_tighter_than_the_average(few):
    row = nv.train(small(bound=nv.IWAE()), few, epochs=3, batch=BATCH, samples=5).history[-1]
    for part in ("train", "test"):  # Jensen's inequality, strict as long as the weights differ
        assert row[f"{part}_loss"] < row[f"{part}_reconstruction"] + row[f"{part}_rate"] - 0.01


def test_noise_is_new_at_every_step_and_the_same_for_a_seed(few, passes):
    nv.train(small(), few, epochs=2, batch=BATCH, samples=2)
    eps = np.concatenate([e for _, _, e, _, _ in passes])
    assert eps.shape == (2 * ROWS, 2, 3)
    assert len(np.unique(eps)) > 0.99 * eps.size
    assert abs(eps.mean()) < 4 / math.sqrt(eps.size)
    assert abs(eps.var() - 1) < 4 * math.sqrt(2 / eps.size)


def overfitting(digits, **settings):
    model = nv.Autoencoder(784, (64,), 16)
    return nv.train(model, cut(digits, 20, 50), batch=20, lr=0.02, **{"epochs": 80} | settings)


def test_early_stopping_keeps_the_best(digits, tmp_path):
    run = overfitting(digits, patience=3, out=tmp_path / "run")
    losses = [row["test_loss"] for row in run.history]
    best = int(np.argmin(losses))
    assert len(losses) < 80
    assert len(losses) - 1 - best == 3
    plain = overfitting(digits, epochs=best + 1)
    assert run.theta.tobytes() == plain.theta.tobytes()
    test = cut(digits, 20, 50).test.images
    for kept in (run, nv.load(tmp_path / "run")):
        assert nv.evaluate(kept, test).loss == losses[best] != losses[-1]


def test_patience_that_does_not_run_out_keeps_the_best_all_the_same(digits):
    losses = [row["test_loss"] for row in overfitting(digits).history]
    epochs = next(n for n in range(2, 80) if losses[n - 1] > losses[n - 2])  # it ends on a setback
    run = overfitting(digits, patience=50, epochs=epochs)
    losses = [row["test_loss"] for row in run.history]
    assert len(losses) == epochs
    assert min(losses) < losses[-1]
    assert nv.evaluate(run, cut(digits, 20, 50).test.images).loss == min(losses)


def test_callbacks(few):
    heard = []

    def first(run, row):
        heard.append(("first", run, row, len(run.history), run.theta.copy()))

    run = nv.train(
        small(), few, epochs=3, batch=BATCH, callbacks=(first, lambda run, row: heard.append(("second", run, row)))
    )
    assert [call[0] for call in heard] == ["first", "second"] * 3
    assert all(call[1] is run for call in heard)
    assert [call[2] for call in heard] == [row for row in run.history for _ in range(2)]
    assert [call[3] for call in heard[::2]] == [1, 2, 3]
    assert np.array_equal(heard[-2][4], run.theta)
    assert not np.array_equal(heard[0][4], run.theta)


def test_a_callback_that_raises_leaves_a_run_that_resumes(few, tmp_path):
    def stop(run, row):
        if row["epoch"] == 2:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        nv.train(small(), few, epochs=3, batch=BATCH, out=tmp_path / "run", callbacks=(stop,))
    resumed = nv.resume(tmp_path / "run", few)
    whole = nv.train(small(), few, epochs=3, batch=BATCH)
    assert resumed.theta.tobytes() == whole.theta.tobytes()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


MODELS = {
    **{name: small(likelihood=name) for name in ("bernoulli", "gaussian", "gaussian-learned")},
    **{name: small(likelihood=name) for name in ("gaussian-optimal", "gaussian-pixel")},
    "ae": nv.Autoencoder(784, (16, 8), 3, "elu"),
    "linear": nv.LinearAutoencoder(784, 3),
}


@pytest.mark.parametrize("bound", ("elbo", "iwae"))
@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains(few, name, bound):
    model, settings = MODELS[name], {}
    if bound == "iwae":
        if not isinstance(model, nv.VAE):
            model, settings = nv.Autoencoder(784, (), 3), {"corruption": "masking"}
        else:
            model, settings = small(likelihood=name, bound=nv.IWAE()), {"samples": 3}
    run = nv.train(model, few, epochs=3, batch=BATCH, lr=2e-3, **settings)
    values = np.array([list(row.values()) for row in run.history])
    assert np.isfinite(values).all()
    assert np.isfinite(run.theta).all()
    losses = [row["train_loss"] for row in run.history]
    assert losses[2] < losses[1] < losses[0]
    assert run.history[-1]["test_loss"] < run.history[0]["test_loss"]


def test_the_optimal_sigma_is_stored_for_evaluation(few, monkeypatch):
    """The plain mean of the steps' sigma^2, as long as they are no more than 100; validation goes by it."""
    variances, original = [], nv.Workspace.backward

    def backward(self):
        variances.append(float(np.exp(self.acts.likelihood.logvar[0])))
        original(self)

    monkeypatch.setattr(nv.Workspace, "backward", backward)
    run = nv.train(small(likelihood="gaussian-optimal"), few, epochs=4, batch=BATCH)
    assert len(variances) == 20
    variance = float(np.exp(run.ws.params.likelihood.logvar[0]))
    assert variance == pytest.approx(np.mean(variances), rel=1e-5)
    assert variance < 0.12
    # -log N(x; y, sigma^2) of 784 pixels: |x - y|^2 / (2 sigma^2) + 392 log(2 pi sigma^2)
    eps = noise.normal(noise.stream(0, noise.Purpose.EVALUATE_EPS, 0, 0), np.empty((60, 1, 3), np.float32))
    run.ws.forward(few.test.images, eps=eps)
    error = ((run.ws.acts.y[:, 0].astype(float) - few.test.images) ** 2).sum(axis=1).mean()
    expected = error / (2 * variance) + 392 * math.log(2 * math.pi * variance)
    assert run.history[-1]["test_reconstruction"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind, level", (("masking", 0.4), ("gaussian", 0.2), ("salt-and-pepper", 0.4)))
def test_denoising_sees_noise_and_is_asked_for_the_clean_image(few, passes, kind, level):
    nv.train(small(), few, epochs=1, batch=BATCH, binarize="none", corruption=kind, corruption_level=level)
    x, target = (np.concatenate([step[i] for step in passes]) for i in (0, 1))
    assert sorted(map(bytes, target)) == sorted(map(bytes, few.train.images))
    off = x - target
    if kind == "gaussian":
        assert off.std() == pytest.approx(level, rel=0.02)
        return
    struck = {"masking": np.isin(x, 0), "salt-and-pepper": np.isin(x, (0, 1))}[kind]
    assert struck[off != 0].all()
    grey = (target > 0) & (target < 1)
    assert (off[grey] != 0).mean() == pytest.approx(level, rel=0.05)
    if kind == "salt-and-pepper":
        assert (x[grey] == 1).mean() == pytest.approx(level / 2, rel=0.1)


def test_data_by_name_by_path_and_as_arrays(few, tmp_path):
    path = tmp_path / "digits.npz"
    np.savez(path, x_train=few.train.images, x_test=few.test.images)
    runs = [
        nv.train(small(), data, epochs=1, batch=BATCH)
        for data in (few, path, str(path), nv.datasets.from_arrays(few.train.images, few.test.images))
    ]
    assert len({run.theta.tobytes() for run in runs}) == 1
    assert len({run.data["digest"] for run in runs}) == 1
    with pytest.raises(nv.InputError, match="from_arrays"):
        nv.train(small(), few.train.images, epochs=1)
    with pytest.raises(nv.InputError, match="mnist-small"):
        nv.train(small(), "mnist-smal", epochs=1)


def test_the_default_data_is_the_embedded_one():
    run = nv.train(nv.LinearAutoencoder(784, 1), epochs=1, batch=5000)
    assert run.data["origin"] == {"source": "mnist-small", "rows": None, "rescale": False}


def test_nothing_is_written_without_a_folder(few, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    run = nv.train(small(), few, epochs=1, batch=BATCH)
    assert run.folder is None
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("file", ("config.json", "metrics.csv", "checkpoint.safetensors"))
def test_a_folder_with_another_run_is_refused(few, tmp_path, file):
    (tmp_path / file).write_text("precious")
    with pytest.raises(nv.InputError, match="npvae resume" if file == "config.json" else "without config.json"):
        nv.train(small(), few, epochs=1, out=tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(file, "precious")]


REFUSED = (
    ({"epochs": 0}, "epochs"),
    ({"epochs": 1.5}, "epochs"),
    ({"batch": -1}, "batch"),
    ({"batch": True}, "batch"),
    ({"lr": 0}, "lr"),
    ({"lr": math.nan}, "lr"),
    ({"lr": math.inf}, "lr"),
    ({"optimizer": "adamm"}, "'adam'"),
    ({"momentum": 0.5}, "momentum"),
    ({"optimizer": "sgd", "momentum": 1.5}, "momentum"),
    ({"optimizer": "sgd", "weight_decay": 0.1}, "weight_decay"),
    ({"optimizer": "adamw", "weight_decay": -0.1}, "weight_decay"),
    ({"schedule": "cosin"}, "'cosine'"),
    ({"lr_warmup": -1}, "lr_warmup"),
    ({"clip": 0}, "clip"),
    ({"beta": -1}, "beta"),
    ({"warmup": 0.5}, "warmup"),
    ({"samples": 0}, "samples"),
    ({"binarize": "statc"}, "'static'"),
    ({"corruption": "mask"}, "'masking'"),
    ({"corruption": "masking", "corruption_level": 1.5}, "corruption level"),
    ({"corruption_level": 0.5}, "corruption_level"),
    ({"patience": 0}, "patience"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**64}, "seed"),
    ({"backend": "jti"}, "'jit'"),
    ({"dtype": "float16"}, "dtype"),
    ({"dtype": "complex128"}, "dtype"),
    ({"epoch": 3}, "'epochs'"),
)


@pytest.mark.parametrize("settings, named", REFUSED, ids=[str(settings) for settings, _ in REFUSED])
def test_settings_that_make_no_sense(few, tmp_path, settings, named):
    with pytest.raises(nv.InputError, match=named):
        nv.train(small(), few, out=tmp_path / "run", **{"epochs": 1} | settings)
    assert not (tmp_path / "run").exists(), "a refused training leaves nothing behind"


@pytest.mark.parametrize("name", ("beta", "warmup", "samples"))
@pytest.mark.parametrize("model", (MODELS["ae"], MODELS["linear"]), ids=("ae", "linear"))
def test_settings_that_a_model_would_ignore(few, model, name):
    with pytest.raises(nv.InputError, match=name):
        nv.train(model, few, epochs=1, **{name: 1})


@pytest.mark.parametrize("split", ("train", "test"))
@pytest.mark.parametrize("fault, named", (("range", r"\[-1, 1\]"), ("width", "784"), ("nan", "row 7, column 11")))
def test_data_that_the_model_cannot_take(few, tmp_path, split, fault, named):
    images = getattr(few, split).images.copy()
    if fault == "range":
        images[7, 11] = -1
    elif fault == "nan":
        images[7, 11] = np.nan
    else:
        images = images[:, :783]
    data = few._replace(**{split: Split(images, None)})
    with pytest.raises(nv.InputError, match=named):
        nv.train(small(), data, epochs=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("likelihood", ("gaussian-learned", "gaussian-optimal", "gaussian-pixel"))
def test_constant_images_have_no_density_of_learned_width(likelihood):
    data = nv.datasets.from_arrays(np.full((30, 784), 0.5, np.float32))
    with pytest.raises(nv.InputError, match=r"the same.*gaussian"):
        nv.train(small(likelihood=likelihood), data, epochs=1)
    assert math.isfinite(nv.train(small(likelihood="gaussian"), data, epochs=1).history[0]["test_loss"])


# ── Stopped and gone on ──────────────────────────────────────────────────────────────────────────────────────────────


def stopped_at(steps, number, data, folder, model, settings):
    """Train; while each of these steps is taken a signal arrives, and every time the run is resumed."""
    pending, stops = sorted(steps), []
    with pytest.MonkeyPatch.context() as patch:
        for kind in (SGD, RMSProp, Adam):  # AdamW's step ends in Adam's

            def step(self, original=kind.step):
                original(self)
                if pending and self.steps == pending[0]:
                    del pending[0]
                    signal.raise_signal(number)

            patch.setattr(kind, "step", step)
        go = lambda: nv.train(model, data, out=folder, **settings)  # noqa: E731
        while True:
            try:
                return go(), stops
            except nv.Interrupted as stop:
                assert (stop.number, stop.run.folder) == (number, folder)
                with safetensors.safe_open(folder / "checkpoint.safetensors", "np") as file:
                    stops.append(int(file.get_tensor("optimizer.steps")))
            go = lambda: nv.resume(folder, data)  # noqa: E731


STOPS = (1, 5, 8, 11, 15)  # 5 and 15 are the last steps of their epochs, 15 of all
INTERRUPTED = {
    "adam": (small(), {}),
    "sgd": (small(), {"optimizer": "sgd", "lr": 1e-4, "clip": 100.0}),
    "rmsprop": (small(), {"optimizer": "rmsprop", "schedule": "step"}),
    "adamw": (small(), {"optimizer": "adamw", "schedule": "cosine", "lr_warmup": 7, "weight_decay": 0.1}),
    "patience": (small(), {"patience": 1, "lr": 0.03}),
    "static, warm-up": (small(bound=nv.ELBO(0.2)), {"binarize": "static", "warmup": 2, "beta": 2.0}),
    "gaussian-learned": (small(likelihood="gaussian-learned"), {}),
    "gaussian-optimal": (small(likelihood="gaussian-optimal"), {}),
    "iwae": (small(bound=nv.IWAE()), {"samples": 3}),
    "denoising": (nv.Autoencoder(784, (16,), 3), {"corruption": "salt-and-pepper"}),
    "linear": (nv.LinearAutoencoder(784, 3), {"corruption": "gaussian"}),
    "float64": (small(), {"dtype": "float64", "backend": "reference"}),
}


@pytest.mark.parametrize("case", INTERRUPTED)
def test_an_interrupted_run_ends_as_if_it_had_not_been(few, tmp_path, case):
    model, settings = INTERRUPTED[case]
    settings = {"epochs": 3, "batch": BATCH, "seed": 3} | settings
    whole = nv.train(model, few, out=tmp_path / "whole", **settings)
    resumed, stops = stopped_at(STOPS, signal.SIGINT, few, tmp_path / "stopped", model, settings)
    last = int(5 * whole.history[-1]["epoch"])  # early stopping may come first
    assert stops == [step for step in STOPS if step <= last]
    assert len(stops) >= 4
    assert resumed.theta.tobytes() == whole.theta.tobytes()
    assert sha_of_theta(tmp_path / "stopped") == sha_of_theta(tmp_path / "whole")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    files = [safetensors.numpy.load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "stopped")]
    assert files[0].keys() == files[1].keys()
    for name, tensor in files[0].items():
        assert tensor.tobytes() == files[1][name].tobytes(), name


def test_an_early_stop_is_reached_through_interruptions(digits, tmp_path):
    """Stopped in the epochs while patience counts: neither the count nor the best parameters are forgotten."""
    data, settings = cut(digits, 20, 50), {"epochs": 80, "batch": 20, "lr": 0.02, "patience": 4}
    model = nv.Autoencoder(784, (64,), 16)
    whole = nv.train(model, data, out=tmp_path / "whole", **settings)
    last = len(whole.history)
    assert last < 80
    at = [last - 4, last - 3, last - 1, last]
    resumed, stops = stopped_at(at, signal.SIGTERM, data, tmp_path / "stopped", model, settings)
    assert stops == at
    assert resumed.theta.tobytes() == whole.theta.tobytes()
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    again = nv.resume(tmp_path / "stopped", data)
    assert again.theta.tobytes() == whole.theta.tobytes()
    assert len(again.history) == last


def test_interrupted_without_a_folder(few):
    def stop(run, row):
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(nv.Interrupted, match="SIGTERM") as stopped:
        nv.train(small(), few, epochs=3, batch=BATCH, callbacks=(stop,))
    assert stopped.value.run.folder is None
    assert len(stopped.value.run.history) == 1
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_does_not_wait_for_the_step(few, tmp_path, monkeypatch):
    original, calls = nv.Workspace.backward, []

    def backward(self):
        calls.append(1)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        original(self)

    monkeypatch.setattr(nv.Workspace, "backward", backward)
    with pytest.raises(KeyboardInterrupt):
        nv.train(small(), few, epochs=1, batch=BATCH, out=tmp_path / "run")
    assert calls == [1]
    with safetensors.safe_open(tmp_path / "run" / "checkpoint.safetensors", "np") as file:
        assert file.get_tensor("optimizer.steps") == 0, "half a step was kept"


def test_training_outside_the_main_thread(few):
    """Where signals cannot be heard, training works without them."""
    result = []
    thread = threading.Thread(target=lambda: result.append(nv.train(small(), few, epochs=1, batch=BATCH)))
    thread.start()
    thread.join()
    assert result[0].theta.tobytes() == nv.train(small(), few, epochs=1, batch=BATCH).theta.tobytes()


def test_random_stops(few, tmp_path):
    """Three steps drawn by a seed, three times over."""
    settings = {"epochs": 4, "batch": 32, "corruption": "masking", "samples": 2}
    whole = nv.train(small(), few, **settings)
    rng = random.Random(2024)
    for attempt in range(3):
        at = sorted(rng.sample(range(1, 32), 3))
        folder = tmp_path / str(attempt)
        resumed, stops = stopped_at(at, signal.SIGINT, few, folder, small(), settings)
        assert stops == at
        assert resumed.theta.tobytes() == whole.theta.tobytes(), at


def test_resuming_a_finished_run_changes_nothing(few, tmp_path):
    nv.train(small(), few, epochs=2, batch=BATCH, out=tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    run = nv.resume(tmp_path / "run", few)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert len(run.history) == 2


def test_resume_needs_the_data_it_had(few, tmp_path):
    data = nv.datasets.from_arrays(few.train.images, few.test.images)
    nv.train(small(), data, epochs=1, batch=BATCH, out=tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    for split in ("train", "test"):
        images = getattr(data, split).images.copy()
        images[3, 300] += 0.25
        with pytest.raises(nv.InputError, match="same data"):
            nv.resume(tmp_path / "run", data._replace(**{split: Split(images, None)}))
    with pytest.raises(nv.InputError, match="from_arrays"):  # it has no name to load it by
        nv.resume(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before
    assert len(nv.resume(tmp_path / "run", data).history) == 1


def test_rows_of_metrics_that_the_checkpoint_does_not_know_are_dropped(few, tmp_path):
    """A power cut between the two writes leaves metrics one epoch ahead."""
    settings = {"epochs": 3, "batch": BATCH}
    whole = nv.train(small(), few, out=tmp_path / "whole", **settings)

    def cut_off(run, row):
        if row["epoch"] == 2:
            raise LookupError

    with pytest.raises(LookupError):
        nv.train(small(), few, out=tmp_path / "run", callbacks=(cut_off,), **settings)
    kept = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    nv.resume(tmp_path / "run", few)
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(kept)
    assert nv.load(tmp_path / "run").history == nv.resume(tmp_path / "run", few).history[:2]
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert len(whole.history) == 3


def test_a_run_killed_in_its_first_epoch_starts_again(few, tmp_path):
    """The checkpoint is there before the first step."""
    whole = nv.train(small(), few, epochs=1, batch=BATCH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adam, "step", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            nv.train(small(), few, epochs=1, batch=BATCH, out=tmp_path / "run")
    assert nv.load(tmp_path / "run").history == []
    assert nv.resume(tmp_path / "run", few).theta.tobytes() == whole.theta.tobytes()


def test_the_public_library_reads_the_checkpoint(few, tmp_path):
    run = nv.train(small(), few, epochs=1, batch=BATCH, out=tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.safetensors"
    with safetensors.safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    assert tensors["theta"].tobytes() == run.theta.tobytes()
    assert tensors["theta"].dtype == np.float32
    assert (int(tensors["optimizer.steps"]), int(tensors["train.epoch"]), int(tensors["train.cursor"])) == (5, 1, 0)
    assert sorted(tensors["train.permutation"]) == list(range(ROWS))
    assert {"optimizer.mean", "optimizer.square"} <= tensors.keys()
    assert metadata.keys() == {"seconds"}
    assert float(metadata["seconds"]) > 0
    # Two runs differ in their clocks alone.
    nv.train(small(), few, epochs=1, batch=BATCH, out=tmp_path / "twin")
    twin = safetensors.numpy.load_file(tmp_path / "twin" / "checkpoint.safetensors")
    assert {name: tensor.tobytes() for name, tensor in twin.items()} == {n: t.tobytes() for n, t in tensors.items()}


# ── What goes wrong on the way ───────────────────────────────────────────────────────────────────────────────────────


def test_a_step_too_large(few, tmp_path):
    with pytest.raises(nv.DivergenceError, match=r"at step 1 \(epoch 1\): reconstruction \S+, rate \S+\."):
        nv.train(small(), few, epochs=2, batch=BATCH, lr=1e30, out=tmp_path / "run")
    kept = nv.load(tmp_path / "run")
    assert np.isfinite(kept.theta).all()
    assert kept.history == []


@pytest.mark.parametrize("value", (math.nan, math.inf, -math.inf))
def test_a_loss_that_is_not_finite(few, tmp_path, monkeypatch, value):
    original = nv.Workspace.forward

    def forward(self, x, target=None, eps=None, beta=1.0):
        loss = original(self, x, target, eps, beta)
        count[0] += self.batch == BATCH
        return value if count[0] == 8 else loss

    first = nv.train(small(), few, epochs=1, batch=BATCH)
    count = [0]
    monkeypatch.setattr(nv.Workspace, "forward", forward)
    terms = rf"became {value} at step 7 \(epoch 2\): reconstruction [\d.]+, rate [\d.]+\."
    with pytest.raises(nv.DivergenceError, match=terms) as stopped:
        nv.train(small(), few, epochs=3, batch=BATCH, out=tmp_path / "run")
    assert str(tmp_path / "run") in str(stopped.value)
    assert "lr" in str(stopped.value)
    kept = nv.load(tmp_path / "run")  # the last epoch's end
    assert kept.theta.tobytes() == first.theta.tobytes()
    assert len(kept.history) == 1
    monkeypatch.undo()  # a cosmic ray: the run goes on from there
    whole = nv.train(small(), few, epochs=3, batch=BATCH)
    assert nv.resume(tmp_path / "run", few).theta.tobytes() == whole.theta.tobytes()


def test_parameters_spoilt_in_the_last_step_are_not_kept(few, tmp_path, monkeypatch):
    original = Adam.step

    def step(self):
        original(self)
        if self.steps == 10:
            self.ws.theta[5] = np.nan

    monkeypatch.setattr(Adam, "step", step)
    with pytest.raises(nv.DivergenceError, match="nan at step 10"):
        nv.train(small(), few, epochs=2, batch=BATCH, out=tmp_path / "run")
    assert np.isfinite(nv.load(tmp_path / "run").theta).all()
    assert len(nv.load(tmp_path / "run").history) == 1


# An epoch's end syncs metrics.csv, its folder, the checkpoint and its folder, and renames the two files.
@pytest.mark.parametrize("call, failing", (("fsync", 1), ("fsync", 3), ("replace", 1), ("replace", 2)))
def test_a_full_disk_leaves_the_previous_checkpoint(few, tmp_path, monkeypatch, call, failing):
    folder, armed = tmp_path / "run", []
    if call == "fsync":
        original, owner = os.fsync, os
    else:
        original, owner = Path.replace, Path

    def fail(*arguments):
        armed.append(1)
        if len(armed) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments)

    def arm(run, row):
        if row["epoch"] == 2:
            monkeypatch.setattr(owner, call, fail)

    with pytest.raises(OSError, match="No space left"):
        nv.train(small(), few, epochs=4, batch=BATCH, out=folder, callbacks=(arm,))
    monkeypatch.undo()
    two = nv.train(small(), few, epochs=2, batch=BATCH)
    kept = nv.load(folder)
    assert kept.theta.tobytes() == two.theta.tobytes()
    assert [row["epoch"] for row in kept.history] == [1, 2]
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.safetensors", "config.json", "metrics.csv"]
    whole = nv.train(small(), few, epochs=4, batch=BATCH)
    assert nv.resume(folder, few).theta.tobytes() == whole.theta.tobytes()


def test_arrays_have_to_be_given_again(tmp_path):
    data = nv.datasets.from_arrays(np.random.default_rng(0).random((40, 9)))
    run = nv.train(nv.VAE(9, (4,), 2), data, epochs=1, batch=BATCH, out=tmp_path / "run")
    with pytest.raises(nv.InputError, match="trained on arrays"):
        nv.resume(tmp_path / "run")
    assert nv.resume(tmp_path / "run", data).theta.tobytes() == run.theta.tobytes()
    np.save(tmp_path / "others.npy", np.random.default_rng(1).random((40, 9)))
    with pytest.raises(nv.InputError, match="does not hold the images that the run was trained on"):
        nv.resume(tmp_path / "run", tmp_path / "others.npy")


def test_a_run_needs_the_name_of_a_folder(few):
    with pytest.raises(nv.InputError, match="out must name a folder, got ''"):
        nv.train(small(), few, epochs=1, out="")


def test_a_signal_after_a_step_that_broke_the_parameters_keeps_the_checkpoint(few, tmp_path, monkeypatch):
    """The loss was finite, the update was not: it must not be written down."""
    original = nv.Adam.step

    def step(self):
        original(self)
        self.ws.theta[3] = np.inf
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(nv.Adam, "step", step)
    with pytest.raises(nv.DivergenceError):
        nv.train(small(), few, epochs=1, batch=BATCH, out=tmp_path / "run")
    assert np.isfinite(nv.load(tmp_path / "run").theta).all()


def test_a_moment_that_is_not_finite_is_not_written_down(few, tmp_path):
    """In float32 the square of such a gradient is infinite: the parameters would silently stand still."""
    model = small(likelihood=nv.Gaussian(1e-12))
    with pytest.raises(nv.DivergenceError, match="square is no longer finite"):
        nv.train(model, few, epochs=1, batch=BATCH, out=tmp_path / "run")
    assert np.isfinite(nv.load(tmp_path / "run").theta).all()


def test_numbers_of_numpy_are_numbers(few, tmp_path):
    model = nv.VAE(np.int64(784), (np.int32(8),), np.int16(2), bound=nv.ELBO(np.float32(0.5)))
    settings = {"epochs": np.int64(1), "batch": np.int64(BATCH), "lr": np.float32(1e-3), "seed": np.uint8(3)}
    run = nv.train(model, few, out=tmp_path / "run", **settings)
    assert nv.load(tmp_path / "run").theta.tobytes() == run.theta.tobytes()


def test_files_of_two_runs_are_not_mixed(few, tmp_path):
    for seed in (0, 1):
        nv.train(small(), few, epochs=1, batch=BATCH, seed=seed, out=tmp_path / str(seed))
    (tmp_path / "0" / "checkpoint.safetensors").replace(tmp_path / "1" / "checkpoint.safetensors")
    for use in (nv.load, lambda folder: nv.resume(folder, few)):
        with pytest.raises(nv.InputError, match="other settings"):
            use(tmp_path / "1")


@pytest.mark.parametrize("callbacks", (print, None, ("x",)))
def test_callbacks_are_functions(few, tmp_path, callbacks):
    with pytest.raises(nv.InputError, match="callbacks must be a tuple of functions"):
        nv.train(small(), few, epochs=1, out=tmp_path / "run", callbacks=callbacks)
    assert not (tmp_path / "run").exists()
