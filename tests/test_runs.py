"""Runs in memory and in folders: what is loaded is what was trained, and nothing else is loaded."""

import copy
import json
import math
import shutil
import struct

import numpy as np
import pytest

import npvae as nv
from npvae import plots
from npvae.checkpoint import load_tensors, save_tensors
from npvae.datasets import Split
from npvae.runs import Settings

MODELS = {
    "vae": nv.VAE(784, (12,), 3),
    "pixel": nv.VAE(784, (12,), 3, "tanh", "gaussian-pixel"),
    "optimal": nv.VAE(784, (), 3, likelihood="gaussian-optimal", bound=nv.IWAE()),
    "ae": nv.Autoencoder(784, (12,), 3),
    "linear": nv.LinearAutoencoder(784, 3),
}


@pytest.fixture(scope="module")
def digits():
    data = nv.datasets.load("mnist-small", rows=120)
    return data._replace(test=Split(data.test.images[:40], data.test.labels[:40]))


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Runs of every kind, in folders that no test may change."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: nv.train(model, digits, epochs=2, batch=50, out=folder / name, seed=4) for name, model in MODELS.items()
    }


@pytest.fixture
def folder(trained, tmp_path):
    """A folder to spoil, with a VAE's run of two epochs."""
    return shutil.copytree(trained["vae"].folder, tmp_path / "run")


# ── What a run does ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", MODELS)
def test_loaded_is_what_was_trained(trained, digits, name):
    run, loaded = trained[name], nv.load(str(trained[name].folder))
    assert (loaded.model, loaded.settings, loaded.history) == (run.model, run.settings, run.history)
    assert loaded.theta.tobytes() == run.theta.tobytes()
    assert loaded.theta.dtype == run.theta.dtype
    x = digits.test.images
    for a, b in ((run, loaded), (loaded, run)):
        assert np.array_equal(a.encode(x), b.encode(x))
        assert np.array_equal(a.reconstruct(x), b.reconstruct(x))
    assert loaded.data == {**run.data, "shape": tuple(run.data["shape"])}
    assert loaded.dataset(digits) is digits


@pytest.mark.parametrize("name", MODELS)
def test_shapes(trained, digits, name):
    run, x = trained[name], digits.train.images[:7]
    z = run.encode(x)
    assert z.shape == (7, 3)
    assert run.decode(z).shape == (7, 784)
    assert np.array_equal(run.reconstruct(x), run.decode(z))
    assert np.isfinite(run.reconstruct(x)).all()
    assert np.allclose(run.encode(x[:2]), z[:2], rtol=1e-5, atol=1e-5)


def test_encode_and_decode_are_the_network_in_numpy(trained, digits):
    run, x = trained["vae"], digits.test.images.astype(np.float64)
    p = {name: view.astype(np.float64) for name, view in nv.named(run.ws.params).items()}
    h = np.maximum(x @ p["encoder.0.W"] + p["encoder.0.b"], 0)
    stats = h @ p["encoder.1.W"] + p["encoder.1.b"]
    assert np.allclose(run.encode(digits.test.images), stats[:, :3], rtol=1e-4, atol=1e-5)
    h = np.maximum(stats[:, :3] @ p["decoder.0.W"] + p["decoder.0.b"], 0)
    mean = 1 / (1 + np.exp(-(h @ p["decoder.1.W"] + p["decoder.1.b"])))
    assert np.allclose(run.reconstruct(digits.test.images), mean, rtol=1e-4, atol=1e-5)


def test_samples(trained):
    run = trained["vae"]
    images = run.sample(300)
    assert images.shape == (300, 784)
    assert (images >= 0).all()
    assert (images <= 1).all()
    assert np.array_equal(images[:5], run.sample(5)) or np.allclose(images[:5], run.sample(5), atol=1e-6)
    assert np.array_equal(run.sample(5), run.sample(5, seed=4))  # the run's own seed
    assert not np.allclose(run.sample(5), run.sample(5, seed=5), atol=1e-3)


def test_samples_are_decodings_of_the_prior(trained, monkeypatch):
    run, codes = trained["vae"], []
    monkeypatch.setattr(run, "decode", lambda z: codes.append(z) or z)
    run.sample(20_000)
    (z,) = codes
    assert z.shape == (20_000, 3)
    assert np.abs(z.mean(axis=0)).max() < 4 / math.sqrt(20_000)
    assert np.abs(np.cov(z.T) - np.eye(3)).max() < 4 * math.sqrt(2 / 20_000)


def test_rates_are_the_validations(trained, digits):
    run = trained["vae"]
    rates = run.rates(digits.test.images)
    assert rates.shape == (3,)
    assert (rates > 0).all()
    assert rates.sum() == pytest.approx(run.history[-1]["test_rate"], rel=1e-6)


def test_what_a_model_has_not_is_refused(trained, digits):
    for name in ("ae", "linear"):
        with pytest.raises(nv.InputError, match="sample needs a VAE"):
            trained[name].sample(3)
        with pytest.raises(nv.InputError, match="needs a VAE"):
            trained[name].rates(digits.test.images)


def test_bad_arguments_are_refused(trained, digits):
    run, x = trained["vae"], digits.test.images
    for n in (0, -1, 2.5):
        with pytest.raises(nv.InputError, match="n must be"):
            run.sample(n)
    with pytest.raises(nv.InputError, match="seed"):
        run.sample(3, seed=-1)
    for images in (x[:, :10], x[0], x[:0], x.tolist(), x.astype(complex)):
        with pytest.raises(nv.InputError):
            run.encode(images)
        with pytest.raises(nv.InputError):
            run.reconstruct(images)
    with pytest.raises(nv.InputError, match="3"):
        run.decode(np.zeros((2, 4)))
    with pytest.raises(nv.InputError, match=r"\[0, 255\]|\[0, 2"):
        run.check(x * 255)


def test_settings_have_the_documented_defaults():
    settings = Settings().completed(MODELS["vae"])
    assert (settings.epochs, settings.batch, settings.lr, settings.optimizer) == (40, 100, 1e-3, "adam")
    assert (settings.binarize, settings.beta, settings.samples, settings.seed) == ("dynamic", 1.0, 1, 0)
    assert Settings().completed(MODELS["pixel"]).binarize == "none"
    assert Settings(optimizer="sgd").completed(MODELS["vae"]).momentum == 0.9
    assert Settings(optimizer="adamw").completed(MODELS["vae"]).weight_decay == 0.01
    assert Settings(corruption="masking").completed(MODELS["ae"]).corruption_level == 0.3
    for name, model in MODELS.items():  # reading a configuration completes it a second time
        assert settings.completed(MODELS["vae"]) == settings
        assert Settings().completed(model).completed(model) == Settings().completed(model), name


def test_final_metrics_are_those_of_the_parameters_kept(digits):
    run = nv.train(nv.Autoencoder(784, (64,), 16), digits, epochs=30, batch=120, lr=0.05, patience=3)
    assert run.final["test_loss"] == nv.evaluate(run, digits.test.images).loss
    plain = nv.train(nv.Autoencoder(784, (64,), 16), digits, epochs=2)
    assert plain.final is plain.history[-1]


# ── Damaged folders ──────────────────────────────────────────────────────────────────────────────────────────────────


def refused(folder, data, *needles):
    """Load and resume both refuse the folder, by one line that names the file, and leave it as it is."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for attempt in (lambda: nv.load(folder), lambda: nv.resume(folder, data)):
        with pytest.raises(nv.InputError) as error:
            attempt()
        message = str(error.value)
        assert "\n" not in message
        for needle in (str(folder), *needles):
            assert needle in message, message
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_no_run(digits, tmp_path):
    refused(tmp_path, digits, "holds no run", "npvae train")
    with pytest.raises(nv.InputError, match="holds no run"):
        nv.load(tmp_path / "nowhere")


def test_a_damaged_configuration(folder, digits):
    path = folder / "config.json"
    good = path.read_text()
    for text in ("", "{", "[]", "3", "null", '"x"', good[: len(good) // 2], good + "}", "[" * 100_000, "{}"):
        path.write_text(text)
        refused(folder, digits, "config.json")
    path.write_bytes(b"\xff\xfe\x00")
    refused(folder, digits, "config.json")


def places(node, path=()):
    if path:
        yield path
    if isinstance(node, dict):
        for key, child in node.items():
            yield from places(child, (*path, key))


def test_any_entry_of_the_configuration_may_be_spoilt(folder, digits):
    """Whatever stands in place of a value, or if it is gone: an InputError, or a value that means the same."""
    path = folder / "config.json"
    good = json.loads(path.read_text())
    theta = nv.load(folder).theta.copy()
    refusals = 0
    for place in [place for place in places(good) if place[0] in ("model", "settings", "data")]:
        for wrong in (None, -1, 2.5, "x", [], {}, True, 10**30, "gone"):
            config = copy.deepcopy(good)
            node = config
            for key in place[:-1]:
                node = node[key]
            if wrong == "gone":
                del node[place[-1]]
            else:
                node[place[-1]] = wrong
            path.write_text(json.dumps(config))
            try:
                assert np.array_equal(nv.load(folder).theta, theta)
            except nv.InputError as error:
                refusals += 1
                assert "\n" not in str(error)
    assert refusals > 150


@pytest.mark.parametrize(
    "change",
    ({"activation": "tanh"}, {"latent": 2}, {"hidden": [13]}, {"likelihood": "gaussian"}, {"bound": "iwae"}),
    ids=str,
)
def test_a_checkpoint_of_another_model(folder, digits, change):
    """Even where the shapes are the same."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model"] |= change
    if "bound" in change:
        del config["model"]["free_bits"]
    path.write_text(json.dumps(config))
    refused(folder, digits, "another model")


def test_the_checkpoint_of_another_run(folder, trained, digits):
    for name in ("ae", "linear", "pixel"):
        shutil.copy(trained[name].folder / "checkpoint.safetensors", folder / "checkpoint.safetensors")
        refused(folder, digits, "another model")


def test_a_damaged_checkpoint(folder, digits):
    path = folder / "checkpoint.safetensors"
    good = path.read_bytes()
    (header,) = struct.unpack("<Q", good[:8])
    bad = {
        "empty": b"",
        "cut short": good[:-1],
        "cut in half": good[: len(good) // 2],
        "cut in the header": good[: 8 + header // 2],
        "trailing bytes": good + b"\0",
        "header of gigabytes": struct.pack("<Q", 8 << 30) + good[8:],
        "header of exabytes": struct.pack("<Q", 2**64 - 1) + good[8:],
        "not JSON": good[:8] + b"x" * header + good[8 + header :],
        "shapes that do not multiply to their bytes": good.replace(b'"shape":[120]', b'"shape":[121]'),
    }
    for fault, content in bad.items():
        assert content != good, fault
        path.write_bytes(content)
        refused(folder, digits, "checkpoint.safetensors", "restore it from a copy")
    path.unlink()
    refused(folder, digits, "checkpoint.safetensors")


@pytest.mark.parametrize("name", ("theta", "run.sha256", "train.epoch"))
def test_a_checkpoint_that_lacks_what_loading_needs(folder, digits, name):
    path = folder / "checkpoint.safetensors"
    tensors, metadata = load_tensors(path)
    for wrong in (None, np.zeros(3), np.zeros((2, 2), np.int64), np.array(np.nan, np.float32)):
        spoilt = {key: value for key, value in tensors.items() if key != name}
        save_tensors(path, spoilt if wrong is None else {**spoilt, name: wrong}, metadata)
        refused(folder, digits, "checkpoint.safetensors")


SPOILT = {
    "optimizer.steps": (-1, 5, 7),
    "train.epoch": (-1, 1, 3),
    "train.cursor": (-50, 50, 121),
    "train.permutation": (np.zeros(120, np.int64), np.arange(1, 121)),
    "train.sums": (np.zeros(4),),
    "optimizer.mean": (np.zeros(3, np.float32), None),
    "unknown": (np.zeros(3),),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_state_that_no_training_has_is_not_resumed(folder, digits, name):
    path = folder / "checkpoint.safetensors"
    tensors, metadata = load_tensors(path)
    for wrong in SPOILT[name]:
        spoilt = dict(tensors)
        if wrong is None:
            del spoilt[name]
        else:
            spoilt[name] = np.array(wrong, np.int64) if isinstance(wrong, int) else wrong
        save_tensors(path, spoilt, metadata)
        with pytest.raises(nv.InputError, match=r"checkpoint\.safetensors|metrics\.csv"):
            nv.resume(folder, digits)


def test_a_clock_that_is_no_number_does_not_matter(folder, digits):
    path = folder / "checkpoint.safetensors"
    tensors, _ = load_tensors(path)
    for metadata in ({}, {"seconds": "x"}, {"seconds": ""}):
        save_tensors(path, tensors, metadata)
        assert np.array_equal(nv.resume(folder, digits).theta, tensors["theta"])


def test_damaged_metrics(folder, digits):
    path = folder / "metrics.csv"
    good = path.read_text()
    for text in (
        good.replace("test_loss", "test_los"),
        good.replace("\n1,", "\nx,", 1),
        good.rsplit(",", 3)[0],
        good + "3",
        "epoch\n" + "1" * 200_000 + "," + '"' * 200_000,
        "\n\n\n",
    ):
        assert text != good
        path.write_text(text)
        with pytest.raises(nv.InputError, match=r"metrics\.csv"):
            nv.resume(folder, digits)
    path.write_bytes(b"\xff" * 30)
    refused(folder, digits, "metrics.csv")


@pytest.mark.parametrize("fault", ("gone", "empty", "a row short", "out of order"))
def test_metrics_with_rows_missing_are_not_gone_on_with(folder, digits, fault):
    """Their figures could not be made again. Sampling needs none of them."""
    path = folder / "metrics.csv"
    head, *rows = path.read_text().splitlines()
    path.unlink()
    if fault != "gone":
        kept = {"empty": [], "a row short": rows[1:], "out of order": rows[::-1]}[fault]
        path.write_text("\n".join([head, *kept, ""]))
    with pytest.raises(nv.InputError, match=r"metrics\.csv"):
        nv.resume(folder, digits)
    assert nv.load(folder).sample(2).shape == (2, 784)


def test_more_samples_than_memory_are_refused(trained):
    with pytest.raises(nv.InputError, match=r"drawing 1000000000 images needs .* GiB"):
        trained["vae"].sample(10**9)


@pytest.mark.parametrize("corruption", ("masking", "gaussian", "salt-and-pepper"))
@pytest.mark.parametrize("model", (nv.VAE(784, (8,), 2), nv.Autoencoder(784, (8,), 2)), ids=("vae", "ae"))
def test_what_a_denoising_model_sees_may_leave_the_range(digits, model, corruption):
    """Only what is to be reconstructed must be in [0, 1]."""
    run = nv.train(model, digits, epochs=1, corruption=corruption, corruption_level=0.9, binarize="static")
    seen = run.corrupt(run.binarize(digits.test.images))
    assert run.reconstruct(seen).shape == seen.shape
    assert plots.figures(run, digits)["reconstructions"]
