"""The command line: exit codes, what goes to which stream, and that real signals lose nothing."""

import csv
import errno
import hashlib
import json
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import npvae as nv
from npvae import cli, specimens

SMALL = ("--hidden", "12", "--latent", "2", "--epochs", "1", "--batch", "50")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """230 + 60 digits in a file, which is quicker to read than the embedded ones."""
    data = nv.datasets.load("mnist-small", rows=230)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    images, labels = data.train.images, data.train.labels
    np.savez(path, x_train=images, y_train=labels, x_test=data.test.images[:60], y_test=data.test.labels[:60])
    return path


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A run that no test may change, and one without a prior."""
    folder = tmp_path_factory.mktemp("runs")
    data = nv.datasets.load(digits)
    nv.train(nv.VAE(784, (12,), 2), data, epochs=2, batch=50, out=folder / "vae")
    nv.train(nv.Autoencoder(784, (12,), 2), data, epochs=1, out=folder / "ae", corruption="masking")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A run to spoil."""
    return shutil.copytree(trained / "vae", tmp_path / "run")


@pytest.fixture
def npvae(capfd, monkeypatch, tmp_path):
    """Call the command line in a folder of its own: arguments -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()

    def call(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take longer than everything else."""
    monkeypatch.setattr(cli.plots, "figures", lambda run, data: {})


def refused(result, *needles, code=2):
    """The exit code, and one line on stderr that says all this; nothing on stdout."""
    got, out, err = result
    assert (got, out) == (code, ""), err
    assert "Traceback" not in err
    assert err.startswith("npvae: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    for needle in needles:
        assert needle in err, err


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ── What it does ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_train_draws_and_says_what_came_out(npvae, digits, tmp_path):
    code, out, err = npvae("train", "--data", digits, *SMALL, "--out", "deep/run")
    assert (code, err) == (0, "")
    assert "test loss" in out
    assert "npvae sample deep/run" in out
    folder = tmp_path / "deep" / "run"
    pictures = sorted((folder / "figures").iterdir())
    assert len(pictures) >= 7
    assert all(path.suffix == ".png" and path.read_bytes().startswith(PNG) for path in pictures)
    assert all(path.name in out for path in pictures)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "metrics.csv", "checkpoint.safetensors", "figures"}
    history = nv.load(folder).history
    assert f"{history[-1]['test_loss']:.2f}" in out
    # plot makes the same pictures again, elsewhere if it is told so.
    code, out, err = npvae("plot", folder, "--out", "again")
    assert (code, err) == (0, "")
    assert sorted(out.split()) == sorted(f"again/{path.name}" for path in pictures)
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [path.name for path in pictures]


def test_json_is_one_object_with_the_final_figures(npvae, undrawn, digits):
    code, out, err = npvae("train", "--data", digits, *SMALL, "--epochs", 2, "--json", "--out", "run")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert out.count("\n") == 1
    assert figures == {"run": "run", **nv.load("run").history[-1]}
    assert figures["epoch"] == 2
    code, out, err = npvae("resume", "run", "--json")  # it is finished: nothing happens
    assert (code, err) == (0, "")
    assert json.loads(out) == figures


def test_patience_reports_the_parameters_that_are_kept(npvae, undrawn, digits):
    options = ("--data", digits, "--model", "ae", "--hidden", "64", "--rows", 20, "--batch", 20, "--lr", 0.02)
    code, out, _ = npvae("train", *options, "--epochs", 80, "--patience", 3, "--json", "--out", "run")
    assert code == 0
    figures = json.loads(out)
    assert figures["test_loss"] == min(row["test_loss"] for row in nv.load("run").history)
    assert figures["test_loss"] == json.loads(npvae("evaluate", "run", "--json")[1])["loss"]


def test_runs_are_numbered(npvae, undrawn, digits, tmp_path):
    for number in ("1", "2"):
        code, out, _ = npvae("train", "--data", digits, *SMALL)
        assert code == 0
        assert f"runs/{number}" in out
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["1", "2"]


def test_the_options_reach_the_run(npvae, undrawn, digits):
    given = {"epochs": 1, "batch": 40, "lr": 0.002, "optimizer": "sgd", "momentum": 0.5, "schedule": "cosine"}
    given |= {"lr_warmup": 3, "clip": 2.0, "beta": 0.5, "warmup": 1, "samples": 2, "binarize": "static"}
    given |= {"corruption": "gaussian", "corruption_level": 0.2, "patience": 2, "seed": 9, "backend": "reference"}
    given |= {"dtype": "float64"}
    model = {"hidden": "9,8", "latent": 3, "activation": "elu", "likelihood": "gaussian", "sigma": 0.5}
    model |= {"bound": "elbo", "free_bits": 0.1}
    arguments = [
        word for name, value in (given | model).items() for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    assert npvae("train", "--data", digits, "--rows", 100, "--rescale", "--out", "run", *arguments)[0] == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["settings"] == {**given, "weight_decay": None}
    assert config["model"] == {**model, "kind": "vae", "data": 784, "hidden": [9, 8]}
    assert config["data"]["origin"] == {"source": str(digits), "rows": 100, "rescale": True}
    assert npvae("train", "--data", digits, "--model", "linear", "--latent", 2, "--epochs", 1, "--out", "lin")[0] == 0
    assert nv.load("lin").model == nv.LinearAutoencoder(784, 2)
    assert npvae("train", "--data", digits, *SMALL, "--hidden", "", "--out", "flat")[0] == 0
    assert nv.load("flat").model == nv.VAE(784, (), 2)
    weights = ("--optimizer", "adamw", "--weight-decay", 0.2)
    assert npvae("train", "--data", digits, *SMALL, *weights, "--out", "adamw")[0] == 0
    assert nv.load("adamw").settings.weight_decay == 0.2


def test_sample(npvae, trained, tmp_path):
    folder = trained / "vae"
    code, out, err = npvae("sample", folder, "-n", 12, "--out", "some.npy")
    assert (code, out, err) == (0, "some.npy\n", "")
    images = np.load("some.npy", allow_pickle=False)
    assert np.array_equal(images, nv.load(folder).sample(12))
    npvae("sample", folder, "-n", 12, "--seed", 3, "--out", "others.npy")
    assert np.array_equal(np.load("others.npy"), nv.load(folder).sample(12, seed=3))
    assert npvae("sample", folder, "--out", tmp_path / "some.png")[0] == 0
    assert Path("some.png").read_bytes().startswith(PNG)


def test_pictures_go_into_the_run_by_default(npvae, run):
    for command, name in (("sample", "samples.png"), ("reconstruct", "reconstructions.png")):
        code, out, err = npvae(command, run)
        assert (code, out, err) == (0, f"{run / name}\n", "")
        assert (run / name).read_bytes().startswith(PNG)


def test_reconstruct(npvae, trained, digits):
    data = nv.datasets.load(digits)
    for name in ("vae", "ae"):
        loaded = nv.load(trained / name)
        assert npvae("reconstruct", trained / name, "-n", 60, "--out", "again.npy") == (0, "again.npy\n", "")
        expected = loaded.reconstruct(loaded.corrupt(data.test.images))
        assert np.allclose(np.load("again.npy"), expected, atol=1e-6)
    other = np.random.default_rng(0).random((40, 28, 28))
    np.save("unit.npy", other)
    assert npvae("reconstruct", trained / "vae", "-n", 4, "--data", "unit.npy", "--out", "some.npy")[0] == 0
    images = other[36:].reshape(4, 784).astype(np.float32)  # the last tenth is held out
    assert npvae("reconstruct", trained / "vae", "--data", "unit.npy", "--out", "all.npy")[0] == 0  # fewer than ten
    assert np.array_equal(np.load("all.npy"), np.load("some.npy"))
    assert np.allclose(np.load("some.npy"), nv.load(trained / "vae").reconstruct(images), atol=1e-6)


def test_evaluate(npvae, trained, digits):
    loaded, images = nv.load(trained / "vae"), nv.datasets.load(digits).test.images
    code, out, err = npvae("evaluate", trained / "vae", "--samples", 30, "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    expected = nv.evaluate(loaded, images, 30)._asdict()
    assert figures == {"run": str(trained / "vae"), **expected}
    assert figures["loss"] == loaded.history[-1]["test_loss"]
    code, out, err = npvae("evaluate", trained / "vae", "--samples", 30)
    assert (code, err) == (0, "")
    for name in ("loss", "reconstruction", "rate", "nll", "nll_se", "nll_se_image"):
        assert f"{expected[name]:.3f}" in out
    assert "30 importance samples" in out
    code, out, _ = npvae("evaluate", trained / "vae", "--json", "--images", 1, "--samples", 1)
    figures = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (code, figures["images"], figures["nll_se"], figures["nll_se_image"]) == (0, 1, None, None)
    code, out, _ = npvae("evaluate", trained / "ae", "--json")
    assert (code, json.loads(out)["nll"]) == (0, None)
    code, out, _ = npvae("evaluate", trained / "ae")
    assert "squared error" in out


def test_info(npvae):
    code, out, err = npvae("info", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert {name: facts[name] for name in ("npvae", "numpy", "numba", "matplotlib")} == {
        name: version(name) for name in ("npvae", "numpy", "numba", "matplotlib")
    }
    assert facts["backend"] in ("jit", "reference")
    assert facts["vector bits"] in (64, 128, 256, 512)
    assert facts["threads"] >= 1
    assert facts["cpu"]
    assert {"python", "platform", "data folder", "cache folder"} <= facts.keys()
    code, out, err = npvae("info")
    assert (code, err) == (0, "")
    assert all(name in out and str(fact) in out for name, fact in facts.items())


OPTIONS = {
    "train": "--data --rows --rescale --binarize --corruption --corruption-level --model --hidden --latent "
    "--activation --likelihood --sigma --bound --samples --beta --warmup --free-bits --epochs --batch --lr "
    "--optimizer --momentum --weight-decay --schedule --lr-warmup --clip --patience --seed --backend "
    "--dtype --out --json",
    "resume": "DIR --json",
    "sample": "DIR -n --seed --out",
    "reconstruct": "DIR -n --data --out",
    "evaluate": "DIR --samples --images --data --json",
    "plot": "DIR --out",
    "info": "--json",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_teaches(npvae, command):
    code, out, err = npvae(command, "--help")
    assert (code, err) == (0, "")
    words = out.replace(",", " ").split()
    assert [option for option in OPTIONS[command].split() if option not in words] == []
    assert f"\n  npvae {command}" in out, "an example"
    assert not any(len(line) > 120 for line in out.splitlines())


def test_the_commands_are_listed(npvae):
    code, out, err = npvae("--help")
    assert (code, err) == (0, "")
    assert all(any(line.split()[:1] == [command] for line in out.splitlines()) for command in OPTIONS)
    assert "\n  npvae train" in out
    assert npvae("--version") == (0, f"npvae {version('npvae')}\n", "")


def test_it_is_a_module_and_a_script():
    called = subprocess.run([sys.executable, "-m", "npvae", "--version"], capture_output=True, text=True, check=False)
    assert (called.returncode, called.stdout, called.stderr) == (0, f"npvae {version('npvae')}\n", "")
    called = subprocess.run(
        [sys.executable, "-m", "npvae", "train", "--epochs", "0"], capture_output=True, text=True, check=False
    )
    refused((called.returncode, called.stdout, called.stderr), "epochs")


# ── Bad usage ────────────────────────────────────────────────────────────────────────────────────────────────────────

BAD = (  # options of train, and what the message says
    ("--data mnist-smal", "'mnist-small'", "'mnist-smal'"),
    ("--data fashion-mnst", "'fashion-mnist'"),
    ("--data ./nothing.npy", "nothing.npy"),
    ("--model vea", "'vae'", "ae, linear"),
    ("--activation rellu", "'relu'", "tanh"),
    ("--likelihood bernouli", "'bernoulli'", "gaussian-pixel"),
    ("--bound elbow", "'elbo'", "iwae"),
    ("--optimizer adm", "'adam'", "sgd"),
    ("--schedule cos", "schedule", "cosine"),
    ("--corruption mask", "'masking'", "salt-and-pepper"),
    ("--backend jti", "'jit'", "reference"),
    ("--dtype float16", "float32", "float64"),
    ("--rows 0", "rows", "at least 1", "0"),
    ("--rows -5", "rows", "-5"),
    ("--rows 231", "231", "230"),
    ("--epochs 0", "epochs", "at least 1"),
    ("--batch -10", "batch", "-10"),
    ("--latent 0", "latent", "at least 1"),
    ("--latent -2", "latent", "-2"),
    ("--hidden 40,-3", "hidden", "-3"),
    ("--hidden 0", "hidden", "at least 1"),
    ("--samples 0", "samples"),
    ("--patience 0", "patience"),
    ("--warmup -1", "warmup"),
    ("--lr-warmup -1", "lr_warmup"),
    ("--lr 0", "lr", "above 0"),
    ("--lr nan", "lr", "nan"),
    ("--lr inf", "lr", "inf"),
    ("--beta -1", "beta"),
    ("--free-bits -1", "free_bits"),
    ("--clip 0", "clip"),
    ("--likelihood gaussian --sigma 0", "sigma", "above 0"),
    ("--optimizer sgd --momentum 1", "momentum", "below 1"),
    ("--corruption masking --corruption-level 1", "corruption"),
    ("--seed -1", "seed"),
    ("--seed 18446744073709551616", "seed", "2^64"),
    ("--hidden 1000000000", "GiB", "1000000000"),
    ("--hidden 400,1000000000,400", "GiB"),
    ("--latent 1000000000", "GiB"),
    ("--batch 1000000000", "GiB"),
    ("--samples 1000000000", "GiB"),
    ("--hidden 1000000000000000000000000", "GiB"),
    # What the model would ignore
    ("--model ae --beta 2", "beta", "Autoencoder"),
    ("--model ae --samples 2", "samples"),
    ("--model ae --warmup 2", "warmup"),
    ("--model ae --likelihood gaussian", "likelihood", "'ae'"),
    ("--model ae --bound iwae", "bound"),
    ("--model ae --sigma 1", "sigma"),
    ("--model ae --free-bits 1", "free_bits"),
    ("--model linear --hidden 4", "hidden", "'linear'"),
    ("--model linear --activation relu", "activation"),
    ("--model linear --beta 2", "beta"),
    ("--sigma 0.5", "sigma", "'bernoulli'", "'gaussian'"),
    ("--likelihood gaussian-learned --sigma 0.5", "sigma"),
    ("--bound iwae --free-bits 0.5", "free_bits", "'iwae'"),
    ("--momentum 0.5", "momentum", "'adam'"),
    ("--weight-decay 0.5", "weight_decay", "'adam'"),
    ("--optimizer adamw --momentum 0.5", "momentum", "'adamw'"),
    ("--corruption-level 0.5", "corruption_level", "corruption"),
)


@pytest.mark.parametrize("case", BAD, ids=[options for options, *_ in BAD])
def test_bad_options(npvae, digits, tmp_path, case):
    options, *needles = case
    small = () if "--model" in options else ("--hidden", "4", "--latent", "2")
    given = options.split()
    refused(npvae("train", "--data", digits, *small, "--epochs", 1, "--out", "run", *given), *needles)
    assert list(tmp_path.iterdir()) == [], "a refused training leaves nothing behind"


GRAMMAR = (
    ("train --latent 2.5", "--latent", "'2.5'"),
    ("train --rows 1e3", "--rows", "'1e3'"),
    ("train --epochs many", "--epochs", "'many'"),
    ("train --hidden 4,x", "--hidden", "'4,x'", "400,200"),
    ("train --hidden 4,,3", "--hidden", "'4,,3'"),
    ("train --hidden 4.5", "--hidden", "'4.5'"),
    ("train --lr fast", "--lr", "'fast'"),
    ("train --binarize statik", "--binarize", "static", "dynamic"),
    ("train --no-such-option", "--no-such-option"),
    ("trian", "'trian'", "train"),
    ("", "COMMAND"),
    ("sample", "DIR"),
    ("resume", "DIR"),
    ("sample x -n 2.5", "-n", "'2.5'"),
)


@pytest.mark.parametrize("case", GRAMMAR, ids=[words for words, *_ in GRAMMAR])
def test_bad_grammar(npvae, tmp_path, case):
    words, *needles = case
    code, out, err = npvae(*words.split())
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert "error: " in last
    assert [needle for needle in needles if needle not in last] == []
    assert list(tmp_path.iterdir()) == []


# ── Bad data ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def grey(seed=0, n=60):
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 6)).astype(np.float32)


def test_pixels_beyond_black_and_white_can_be_rescaled(npvae, undrawn):
    np.save("grey.npy", grey())
    train = ("train", "--data", "grey.npy", *SMALL)
    refused(npvae(*train, "--out", "run"), "[0, 1]", "[0, 255]", "--rescale")
    refused(npvae(*train, "--out", "run", "--likelihood", "gaussian", "--binarize", "dynamic"), "[0, 1]", "--rescale")
    assert not Path("run").exists()
    assert npvae(*train, "--out", "run", "--rescale")[0] == 0
    # What is measured later is rescaled likewise, and refused likewise.
    np.save("other.npy", grey(1))
    assert npvae("evaluate", "run", "--data", "other.npy", "--samples", 2)[0] == 0
    np.save("unit.npy", grey(1) / 255)
    assert npvae(*("train", "--data", "unit.npy", *SMALL, "--out", "unit"))[0] == 0
    for command in ("evaluate", "reconstruct"):
        refused(npvae(command, "unit", "--data", "other.npy"), "[0, 1]", "--rescale")


@pytest.mark.parametrize("value, named", ((np.nan, "1 NaN"), (np.inf, "1 infinite")))
def test_numbers_that_are_none(npvae, value, named):
    images = grey()
    images[7, 3, 5] = value
    np.save("bad.npy", images)
    refused(npvae("train", "--data", "bad.npy", *SMALL), named, "row 7, column 23")


def test_other_widths(npvae, trained, digits):
    np.save("small.npy", grey() / 255)
    for command in ("evaluate", "reconstruct"):
        refused(npvae(command, trained / "vae", "--data", "small.npy"), "784", "36")


def test_constant_images(npvae, undrawn):
    np.save("constant.npy", np.full((50, 6, 6), 0.5))
    for likelihood in ("gaussian-learned", "gaussian-optimal", "gaussian-pixel"):
        options = ("--likelihood", likelihood, "--out", "run")
        refused(npvae("train", "--data", "constant.npy", *SMALL, *options), "the same", "'gaussian'")
    refused(npvae("train", "--data", "constant.npy", *SMALL, "--rescale"), "0.5", "rescale")
    assert npvae("train", "--data", "constant.npy", *SMALL, "--likelihood", "gaussian", "--out", "run")[0] == 0


def test_no_images(npvae):
    np.save("none.npy", np.zeros((0, 6, 6)))
    refused(npvae("train", "--data", "none.npy"), "none.npy", "empty")
    np.save("one.npy", np.zeros((1, 6, 6)))
    refused(npvae("train", "--data", "one.npy"), "at least 2")


def test_files_that_are_no_data(npvae):
    np.save("objects.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    refused(npvae("train", "--data", "objects.npy"), "objects.npy")
    Path("cut").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 10, 28, 28) + b"\0" * 100)
    refused(npvae("train", "--data", "cut"), "cut", "7,840")
    Path("vast").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    refused(npvae("train", "--data", "vast"), "vast")
    Path("text.csv").write_text("1,2,3\n")
    refused(npvae("train", "--data", "text.csv"), "text.csv")
    Path("empty").mkdir()
    refused(npvae("train", "--data", "empty"), "empty", "PNG")


# ── Bad folders ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_another_runs_folder(npvae, run, digits):
    before = contents(run)
    refused(npvae("train", "--data", digits, *SMALL, "--out", run), f"npvae resume {run}", "another name")
    assert contents(run) == before


def test_a_file_in_the_folders_place(npvae, digits):
    Path("file").write_text("precious")
    for out in ("file", "file/run"):
        refused(npvae("train", "--data", digits, *SMALL, "--out", out), "file")
    assert Path("file").read_text() == "precious"


def test_a_read_only_disk(npvae, digits, monkeypatch):
    def mkdir(self, *arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    refused(npvae("train", "--data", digits, *SMALL, "--out", "run"), "Read-only file system", "run")


COMMANDS = ("sample", "reconstruct", "evaluate", "plot", "resume")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_run(npvae, tmp_path, command):
    refused(npvae(command, "nowhere"), "nowhere", "no run", "npvae train")
    refused(npvae(command, tmp_path), str(tmp_path), "no run")


@pytest.mark.parametrize("command", COMMANDS)
def test_damaged_files(npvae, run, trained, command):
    path = run / "checkpoint.safetensors"
    good = path.read_bytes()
    bad = {
        "cut short": (good[:-7], "cut short"),
        "trailing bytes": (good + b"12345", "too long"),
        "header of gigabytes": (struct.pack("<Q", 8 << 30) + good[8:], "8589934592"),
        "shapes": (good.replace(b'"shape":[230]', b'"shape":[231]'), "shape"),
        "another model": ((trained / "ae" / "checkpoint.safetensors").read_bytes(), "another model"),
        "empty": (b"", "cut short"),
    }
    for fault, (content, needle) in bad.items():
        assert content != good, fault
        path.write_bytes(content)
        before = contents(run)
        refused(npvae(command, run), str(path), needle)
        assert contents(run) == before
    path.write_bytes(good)
    for name, content in (("config.json", '{"model": {}}'), ("metrics.csv", "epoch\nx\n")):
        kept = (run / name).read_bytes()
        (run / name).write_text(content)
        refused(npvae(command, run), str(run / name))
        (run / name).write_bytes(kept)
    path.unlink()
    refused(npvae(command, run), str(path))


def test_metrics_that_are_gone(npvae, run):
    (run / "metrics.csv").unlink()
    refused(npvae("resume", run), "metrics.csv")
    assert npvae("sample", run, "-n", 2, "--out", "two.npy")[0] == 0
    assert npvae("evaluate", run, "--samples", 2)[0] == 0


def test_data_that_is_not_what_it_was(npvae, tmp_path, undrawn):
    np.save("images.npy", grey() / 255)
    assert npvae("train", "--data", "images.npy", *SMALL, "--out", "run")[0] == 0
    np.save("images.npy", grey(1) / 255)
    before = contents(Path("run"))
    for command in ("resume", "plot", "evaluate", "reconstruct"):
        refused(npvae(command, "run"), "images.npy", "same data")
    Path("images.npy").unlink()
    refused(npvae("resume", "run"), "images.npy")
    assert contents(Path("run")) == before


def test_a_run_finds_its_data_from_another_folder(npvae, undrawn, monkeypatch):
    np.save("images.npy", grey() / 255)
    assert npvae("train", "--data", "images.npy", *SMALL, "--out", "run")[0] == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert npvae("resume", "../run")[0] == 0
    assert npvae("evaluate", "../run", "--samples", 2)[0] == 0


def test_bad_wishes_of_a_good_run(npvae, run, trained):
    before = contents(run)
    refused(npvae("sample", run, "-n", 0), "n must be", "at least 1")
    refused(npvae("sample", run, "-n", 10**15), "needs", "GiB")
    refused(npvae("sample", run, "--seed", -1), "seed")
    refused(npvae("sample", run, "--out", "x.jpg"), ".png or .npy", "x.jpg")
    refused(npvae("sample", run, "--out", "nowhere/x.npy"), "nowhere")
    refused(npvae("reconstruct", run, "-n", 61), "60", "61")
    refused(npvae("reconstruct", run, "-n", 0), "at least 1")
    refused(npvae("reconstruct", run, "--out", "x"), ".png or .npy")
    refused(npvae("evaluate", run, "--images", 61), "60", "61")
    refused(npvae("evaluate", run, "--images", 0), "at least 1")
    refused(npvae("evaluate", run, "--samples", 0), "samples", "at least 1")
    refused(npvae("evaluate", run, "--data", "mnist-smal"), "'mnist-small'")
    refused(npvae("sample", trained / "ae"), "VAE")
    refused(npvae("evaluate", trained / "ae", "--samples", 10), "--samples", "Autoencoder")
    assert contents(run) == before


# ── Failing on the way ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_loss_that_is_not_finite(npvae, digits):
    result = npvae("train", "--data", digits, *SMALL, "--lr", 1e30, "--out", "run")
    refused(result, "step 1 ", "reconstruction ", "rate ", "run", "lr", code=1)
    assert np.isfinite(nv.load("run").theta).all()
    assert npvae("sample", "run", "-n", 3, "--out", "three.npy")[0] == 0
    assert np.isfinite(np.load("three.npy")).all()


def test_a_full_disk(npvae, undrawn, digits, monkeypatch):
    """It fills up while the second epoch's checkpoint is written: the first one's stays."""
    original, count = os.fsync, [0]

    def fsync(number):
        count[0] += 1
        if count[0] > limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(number)

    train = ("train", "--data", digits, *SMALL, "--epochs")
    limit = 10**6
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert npvae(*train, 1, "--out", "one")[0] == 0
        limit, count[0] = count[0] + 2, 0  # metrics.csv and its folder are the last that fit
        result = npvae(*train, 3, "--out", "run")
    refused(result, "No space left on device", "checkpoint.safetensors", "npvae resume run")
    assert nv.load("run").theta.tobytes() == nv.load("one").theta.tobytes()
    assert sorted(os.listdir("run")) == ["checkpoint.safetensors", "config.json", "metrics.csv"]  # noqa: PTH208
    assert npvae("resume", "run")[0] == 0
    assert npvae(*train, 3, "--out", "whole")[0] == 0
    assert sha_of_theta("run") == sha_of_theta("whole")


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_a_signal_while_pictures_are_drawn(npvae, digits, monkeypatch, number):
    """All is trained and kept by then; the pictures can be drawn again."""
    monkeypatch.setattr(cli.plots, "figures", lambda run, data: signal.raise_signal(number))
    before = signal.getsignal(signal.SIGTERM)
    result = npvae("train", "--data", digits, *SMALL, "--out", "run")
    refused(result, "npvae resume run", code=128 + number)
    assert len(nv.load("run").history) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_threads_other_than_the_first_leave_signals_alone(npvae, run):
    """Python lets no other set a handler: Ctrl-C and SIGTERM are the main thread's then."""
    before, codes = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["sample", str(run), "--out", "samples.png"])))
    thread.start()
    thread.join()
    assert codes == [0] and signal.getsignal(signal.SIGTERM) is before


def test_too_little_memory(npvae, digits, monkeypatch):
    def load(*_, **__):
        raise MemoryError("cannot allocate 4.2 GiB")

    monkeypatch.setattr(cli.datasets, "load", load)
    refused(npvae("train", "--data", digits, *SMALL), "not enough memory: cannot allocate 4.2 GiB", "smaller model")


def test_a_signal_before_there_is_a_run(npvae, monkeypatch):
    monkeypatch.setattr(cli.datasets, "load", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    got = npvae("train", "--out", "run")
    refused(got, "SIGTERM", code=143)
    assert "npvae resume" not in got[2]


# ── Real signals to real processes ───────────────────────────────────────────────────────────────────────────────────

# The command line, but that at a given step it says so and waits for a line, so that no clock decides when a signal
# comes: the parent sends it in between.
PAUSING = """
import sys
from npvae.cli import main
from npvae.optim import Adam

original, at = Adam.step, int(sys.argv[1])

def step(self):
    original(self)
    if self.steps == at:
        print("reached", flush=True)
        sys.stdin.readline()

Adam.step = step
sys.exit(main(sys.argv[2:]))
"""
PATIENCE = 300  # seconds after which a process counts as stuck, on however slow a machine


def signalled(number, at, *arguments):
    """Run a command and send it a signal in the midst of step `at`: exit code, stdout, stderr."""
    command = [sys.executable, "-c", PAUSING, str(at), *map(str, arguments)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        try:
            assert process.stdout.readline() == "reached\n"
            process.send_signal(number)
            out, err = process.communicate("\n", timeout=PATIENCE)
        finally:
            process.kill()
    return process.returncode, out, err


def sha_of_theta(folder):
    theta = safetensors.numpy.load_file(Path(folder) / "checkpoint.safetensors")["theta"]
    return hashlib.sha256(theta.tobytes()).hexdigest()


def metrics(folder):
    with (Path(folder) / "metrics.csv").open(newline="") as file:
        return [{name: text for name, text in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_interrupted_three_times_and_resumed(npvae, undrawn, digits):
    options = ("--data", digits, *SMALL, "--batch", 23, "--epochs", 4, "--seed", 6)  # ten steps an epoch
    assert npvae("train", *options, "--out", "whole")[0] == 0
    at = sorted(random.Random(1).sample(range(1, 40), 3))
    assert len({step // 10 for step in at}) > 1
    for step, command in zip(at, (("train", *options, "--out", "run"), *[("resume", "run")] * 2), strict=True):
        refused(signalled(signal.SIGINT, step, *command), "SIGINT", "npvae resume run", code=130)
        state = safetensors.numpy.load_file("run/checkpoint.safetensors")
        assert step <= state["optimizer.steps"] < 40
        assert 10 * state["train.epoch"] + state["train.cursor"] // 23 == state["optimizer.steps"]
    assert npvae("resume", "run")[0] == 0
    assert sha_of_theta("run") == sha_of_theta("whole")
    assert metrics("run") == metrics("whole")
    assert len(metrics("run")) == 4


def test_terminated(npvae, digits):
    """SIGTERM from outside, once the terminal shows that training is under way."""
    master, slave = os.openpty()
    options = [*SMALL, "--data", str(digits), "--epochs", "1000000", "--out", "run"]
    command = [sys.executable, "-m", "npvae", "train", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, text=True) as process:
        os.close(slave)
        shown, deadline = b"", time.monotonic() + PATIENCE
        try:
            while b" left " not in shown:
                assert select.select([master], [], [], deadline - time.monotonic())[0], shown
                shown += os.read(master, 4096)
            process.terminate()
            try:  # until it has no terminal any more
                while chunk := os.read(master, 4096):
                    shown += chunk
            except OSError:
                pass
            assert process.wait(PATIENCE) == 143
            assert process.stdout.read() == ""
        finally:
            process.kill()
            os.close(master)
    assert b"steps/s" in shown
    assert b"SIGTERM" in shown.splitlines()[-1]
    assert shown.splitlines()[-1].endswith(b"npvae resume run")
    assert nv.load("run").settings.epochs == 1_000_000


# ── gradcheck ────────────────────────────────────────────────────────────────────────────────────────────────────────

THEIRS = """
import numpy as np
X = np.arange(6.0).reshape(2, 3) / 5

class Right:
    def params(self):
        return {"W": np.ones((3, 2)), "b": np.zeros(2)}
    def loss(self, params):
        return ((X @ params["W"] + params["b"]) ** 2).sum()
    def gradients(self, params):
        dy = 2 * (X @ params["W"] + params["b"])
        return {"W": X.T @ dy, "b": dy.sum(0)}

class Wrong(Right):
    sizes = {"B": 2, "D": 3}
    def gradients(self, params):
        return {name: g / 3 for name, g in super().gradients(params).items()}

class Raises(Right):
    def loss(self, params):
        return nothing

class Slashed:
    def params(self):
        return {"a/b": np.arange(3.0)}
    def loss(self, params):
        return (params["a/b"] ** 2).sum()
    def gradients(self, params):
        return {"a/b": 1e-310 * params["a/b"]}
"""


@pytest.fixture
def theirs(tmp_path):
    (tmp_path / "theirs.py").write_text(THEIRS)
    return tmp_path


def test_gradcheck_of_somebodys_code(npvae, theirs):
    code, out, err = npvae("gradcheck", "theirs.py:Right")
    assert (code, err) == (0, "")
    assert out.endswith("ok: every gradient is right\n")
    code, out, err = npvae("gradcheck", "theirs.py:Wrong")
    assert (code, err) == (1, "")
    assert out.endswith("NOT OK: the whole gradient: 1/3 of what it should be (1/D)\n")


def test_gradcheck_in_json_with_a_heat_map(npvae, theirs):
    code, out, err = npvae("gradcheck", "theirs.py:Wrong", "--json", "--heatmap", "W", "--out", "w.png")
    assert (code, err) == (1, "w.png\n")
    said = json.loads(out)
    assert (said["ok"], said["diagnosis"]["kind"]) == (False, "factor")
    assert [tensor["name"] for tensor in said["tensors"]] == ["W", "b"]
    assert (theirs / "w.png").read_bytes().startswith(PNG)
    assert npvae("gradcheck", "theirs.py:Slashed", "--heatmap", "a/b")[::2] == (1, "a.b.png\n")
    assert (theirs / "a.b.png").read_bytes().startswith(PNG)
    assert npvae("gradcheck", "theirs.py:Right", "--heatmap", "b")[0] == 0
    assert (theirs / "b.png").read_bytes().startswith(PNG)


TALKS = """
import math
import numpy as np
print("imported")

class Check:
    def __init__(self):
        print("made")
    def params(self):
        print("asked")
        return {"w": np.array([0.001, 0.5])}
    def loss(self, params):
        print("called")
        return sum(math.log(w) for w in params["w"])  # raises a step away from 0.001
    def gradients(self, params):
        print("called too")
        return {"w": 1 / params["w"]}
"""


@pytest.mark.parametrize("json_", [["--json"], []])
def test_gradcheck_keeps_apart_what_their_code_prints(npvae, theirs, json_):
    (theirs / "talks.py").write_text(TALKS)
    code, out, err = npvae("gradcheck", "talks.py:Check", *json_)
    assert code == 0
    assert set(err.splitlines()) == {"imported", "made", "asked", "called", "called too"}
    if json_:
        assert json.loads(out)["ok"]
    else:
        assert out.startswith("tensor ") and "called" not in out


def test_gradcheck_refuses_in_a_line(npvae, theirs):
    refused(npvae("gradcheck", "theirs.py:Nobody"), "it has X, Right, Wrong")
    refused(npvae("gradcheck", "nowhere.py:Right"), "there is no file")
    refused(npvae("gradcheck", "theirs.py:Raises"), "loss(params) raised NameError at theirs.py:21")
    refused(npvae("gradcheck", "theirs.py"), "it lacks params, loss, gradients")
    refused(npvae("gradcheck", "theirs.py:Right", "--heatmap", "w"), "unknown tensor 'w'")
    refused(npvae("gradcheck", "theirs.py:Right", "--heatmap", "W", "--out", "w.pdf"), ".png")
    refused(npvae("gradcheck", "theirs.py:Right", "--out", "w.png"), "--heatmap")
    refused(npvae("gradcheck", "--heatmap", "W"), "path/to/module.py")


@pytest.fixture
def few_checks(monkeypatch):
    """Two ops in place of all ops and models; the second is wrong on one backend."""
    from npvae import selfcheck

    def checks():
        report = nv.check_function(lambda p: (p["x"] ** 2).sum(), lambda p: {"x": 2 * p["x"]}, {"x": np.ones(2)})
        wrong = nv.check_function(lambda p: (p["x"] ** 2).sum(), lambda p: {"x": p["x"] * 1}, {"x": np.ones(2)})
        for name in ("one", "other"):
            for backend in ("jit", "reference"):
                yield selfcheck.Checked(name, backend, wrong if (name, backend) == ("other", "jit") else report)

    monkeypatch.setattr(cli, "selfcheck", checks)


def test_gradcheck_of_npvae_says_what_is_wrong(npvae, few_checks):
    code, out, err = npvae("gradcheck")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].split() == ["largest", "error", "jit", "reference"]
    assert lines[1].split()[0] == "one" and "WRONG" not in lines[1]
    assert lines[2].split()[:3] == ["other", "5.0e-01", "WRONG"]
    assert lines[3] == "4 checks of 4 arrays: 1 gradients are not right"
    assert lines[5] == "other, jit" and lines[-1] == "NOT OK: x: 1/2 of what it should be"
    code, out, err = npvae("gradcheck", "--json")
    said = json.loads(out)
    assert (code, said["ok"]) == (1, False)
    assert [(c["name"], c["backend"], c["ok"]) for c in said["checks"]] == [
        ("one", "jit", True), ("one", "reference", True), ("other", "jit", False), ("other", "reference", True)
    ]  # fmt: skip


def test_gradcheck_of_npvae_passes(npvae, monkeypatch):
    from npvae import selfcheck

    monkeypatch.setattr(selfcheck, "models", lambda: list(specimens.models())[-1:])  # all of them: test_selfcheck.py
    code, out, err = npvae("gradcheck")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].endswith("every gradient is right")
    assert "WRONG" not in out


def test_the_help_of_gradcheck_teaches_with_an_example_that_works(npvae, tmp_path):
    code, out, _ = npvae("gradcheck", "--help")
    assert code == 0
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip() == "class Check:")
    stop = next(i for i in range(start, len(lines)) if not lines[i].strip())
    shown = "\n".join(line[2:] for line in lines[start:stop])
    (tmp_path / "shown.py").write_text(f"import numpy as np\nX = np.eye(4, 3)\n{shown}\n")
    assert npvae("gradcheck", "shown.py:Check")[0] == 0
