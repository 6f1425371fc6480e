"""A run: a trained model, what made it, and the folder that keeps both.

config.json             every setting, the model, the data, the versions
metrics.csv             a row per epoch
checkpoint.safetensors  the parameters, and all that resuming needs
figures/                the pictures
"""

import csv
import hashlib
import io
import json
import math
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from npvae import datasets, noise
from npvae.checkpoint import load_tensors, write_atomically
from npvae.datasets import Dataset, Origin
from npvae.errors import InputError, check_choice, check_memory, check_real, check_whole
from npvae.flat import Array, sizes, zeros
from npvae.models import describe, make_model
from npvae.noise import Purpose, stream
from npvae.ops import BACKENDS, default_backend
from npvae.vae import VAE
from npvae.workspace import Model, Workspace, check_seed

CONFIG, METRICS, CHECKPOINT, FIGURES = "config.json", "metrics.csv", "checkpoint.safetensors", "figures"

COLUMNS = (
    "epoch", "seconds", "train_loss", "train_reconstruction", "train_rate", "test_loss", "test_reconstruction",
    "test_rate", "active_units",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How a model is trained. None means: what suits the model; `completed` fills it in and checks everything.

    epochs, batch: passes over the data and images per step. lr, optimizer ("adam", "adamw", "rmsprop", "sgd"),
    momentum (sgd), weight_decay (adamw), schedule ("constant", "step", "cosine"), lr_warmup (steps), clip (largest
    gradient norm). beta: weight of the rate, reached linearly after `warmup` epochs. samples: K per image.
    binarize: "dynamic" (redrawn every pass), "static" (once, by the seed) or "none". corruption ("none", "masking",
    "gaussian", "salt-and-pepper") of the input at corruption_level; the target stays clean. patience: stop after so
    many epochs without a better test loss, which is at beta 1 and without free bits, and keep the best. seed, backend,
    dtype: see Workspace.
    """

    epochs: int = 40
    batch: int = 100
    lr: float = 1e-3
    optimizer: str = "adam"
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str = "constant"
    lr_warmup: int = 0
    clip: float | None = None
    beta: float | None = None
    warmup: int | None = None
    samples: int | None = None
    binarize: str | None = None
    corruption: str = "none"
    corruption_level: float | None = None
    patience: int | None = None
    seed: int = 0
    backend: str | None = None
    dtype: str = "float32"

    def completed(self, model: Model) -> "Settings":
        """The settings with every None that has a default replaced by it; InputError for what makes no sense."""
        filled = asdict(self)
        # Here None is "not given" and no longer "the default": what the model would ignore is refused.
        for name, owner in (("momentum", "sgd"), ("weight_decay", "adamw")):
            if filled[name] is not None and self.optimizer != owner:
                raise InputError(f"{name} means nothing to the optimizer {self.optimizer!r}: leave it out")
        for name in ("beta", "warmup", "samples"):
            if filled[name] is not None and not isinstance(model, VAE):
                raise InputError(f"{name} means nothing to {type(model).__name__}, which has no noise: leave it out")
        if self.corruption_level is not None and self.corruption == "none":
            raise InputError("corruption_level means nothing without a corruption: choose one or leave it out")
        bernoulli = isinstance(model, VAE) and model.p_x.name == "bernoulli"
        defaults = {
            "beta": 1.0 if isinstance(model, VAE) else None,
            "warmup": 0 if isinstance(model, VAE) else None,
            "samples": 1 if isinstance(model, VAE) else None,
            "binarize": "dynamic" if bernoulli else "none",
            "backend": default_backend(),
            "momentum": 0.9 if self.optimizer == "sgd" else None,
            "weight_decay": 0.01 if self.optimizer == "adamw" else None,
            "corruption_level": None if self.corruption == "none" else 0.3,
        }
        filled |= {name: value for name, value in defaults.items() if filled[name] is None}
        wholes = {"epochs": 1, "batch": 1, "samples": 1, "lr_warmup": 0, "warmup": 0, "patience": 1}
        for name, least in wholes.items():
            if filled[name] is not None:
                filled[name] = check_whole(name, filled[name], least)
        reals = {"lr": True, "beta": False, "clip": True, "momentum": False, "weight_decay": False}
        for name, open_ in reals.items():
            if filled[name] is not None:
                filled[name] = check_real(name, filled[name], 0.0, open_=open_)
        check_choice("optimizer", self.optimizer, ("adam", "adamw", "rmsprop", "sgd"))
        check_choice("schedule", self.schedule, ("constant", "step", "cosine"))
        check_choice("binarize", filled["binarize"], noise.BINARIZATIONS)
        check_choice("backend", filled["backend"], BACKENDS)
        check_choice("dtype", self.dtype, ("float32", "float64"))
        check_choice("corruption", self.corruption, noise.CORRUPTIONS)
        if self.corruption != "none":
            level = noise.check_corruption(self.corruption, filled["corruption_level"])
            filled["corruption_level"] = level
        filled["seed"] = check_seed(self.seed)
        return Settings(**filled)


class Run:
    """A model with its parameters, its settings and its history; `folder` is None for a run kept in memory alone.

    theta: the parameters as a vector. history: a dict per epoch, keyed by COLUMNS. data: what it was trained on,
    {"origin", "shape", "digest"}, see `datasets.Dataset`. ws: a workspace that measures, on the same parameters.
    """

    def __init__(
        self, model: Model, settings: Settings, data: dict[str, Any], theta: Array, folder: Path | None
    ) -> None:
        self.model, self.settings, self.data, self.theta, self.folder = model, settings, data, theta, folder
        self.history: list[dict[str, float]] = []
        self.ws = Workspace(
            model.evaluation() if isinstance(model, VAE) else model,
            batch=max(250 // (settings.samples or 1), 1),
            samples=settings.samples or 1,
            dtype=settings.dtype,
            backend=settings.backend,
            theta=theta,
        )

    @property
    def seed(self) -> int:
        """The seed that the run was trained with, the default of all its drawings."""
        return self.settings.seed

    def encode(self, x: Array) -> Array:
        """x (n, D) -> codes (n, Z), for a VAE the posterior means. InputError if they are not finite images."""
        self._check_form(x)
        return self.ws.encode(x)

    def decode(self, z: Array) -> Array:
        """Codes (n, Z) -> images (n, D), for a VAE the means E[x|z]."""
        return self.ws.decode(z)

    def reconstruct(self, x: Array) -> Array:
        """x (n, D) -> what the decoder makes of its code, (n, D)."""
        return self.decode(self.encode(x))

    def sample(self, n: int, seed: int | None = None) -> Array:
        """n images (n, D) from the prior: z ~ N(0, 1), decoded. InputError for an autoencoder, which has no prior."""
        model = self._vae("sample")
        rng = stream(self.seed if seed is None else check_seed(seed), Purpose.SAMPLE)
        each = 8 * model.latent + 2 * self.theta.itemsize * model.data  # decode collects its parts, then joins them
        check_memory(f"drawing {n} images", check_whole("n", n) * each, "draw fewer at a time, with several seeds")
        return self.decode(rng.standard_normal((n, model.latent)))

    def rates(self, x: Array) -> Array:
        """KL(q(z|x) || p(z)) per latent, (Z,), in nats, averaged over x (n, D) as it is evaluated."""
        model = self._vae("the rate")
        self.check(x)
        x = self.corrupt(self.binarize(x))
        total = np.zeros(model.latent)
        for start in range(0, len(x), self.ws.batch):
            self.ws.encode(x[start : start + self.ws.batch])
            total += self.ws.ops.gaussian_kl_forward(self.ws.acts.stats).sum(axis=(0, 1))
        return total / len(x)

    def corrupt(self, x: Array) -> Array:
        """What the model sees of x (n, D): x itself unless the run is a denoising one."""
        rng = stream(self.seed, Purpose.EVALUATE_CORRUPT)
        return noise.corrupt(rng, x, self.settings.corruption, self.settings.corruption_level or 0.0)

    def binarize(self, x: Array) -> Array:
        """x (n, D) as it is evaluated: black and white, from a fixed seed, if the run was trained so."""
        if self.settings.binarize == "none":
            return x
        return noise.binarize(stream(self.seed, Purpose.EVALUATE_BINARIZE), x)

    def check(self, images: Array) -> None:
        """Raise InputError unless images (n, D) are what this model was made to reconstruct."""
        self._check_form(images)
        if isinstance(self.model, VAE):
            self.model.p_x.check(images)
        if self.settings.binarize != "none" and (images.min() < 0 or images.max() > 1):
            raise InputError("binarisation needs pixels in [0, 1]: rescale them (--rescale) or say binarize 'none'")

    def _check_form(self, images: Array) -> None:
        """Raise InputError unless these are finite images (n, D): what an encoder can see, corrupted or not."""
        if not isinstance(images, np.ndarray) or images.dtype.kind not in "fiub":
            came = type(images).__name__
            raise InputError(f"images must be an array of real numbers (n, {self.model.data}), got {came}")
        if images.ndim != 2 or images.shape[1] != self.model.data or not len(images):
            raise InputError(f"the model takes images (n, {self.model.data}) with n of at least 1, got {images.shape}")
        if not np.isfinite(images).all():
            row, column = np.argwhere(~np.isfinite(images))[0]
            raise InputError(f"images must be finite: there is {images[row, column]} in row {row}, column {column}")

    def dataset(self, data: Dataset | str | PathLike[str] | None = None) -> Dataset:
        """What the run was trained on, loaded again from where it came, or as given.

        InputError if it is no longer the same, or if it was made from arrays and is not given.
        """
        origin = self.data["origin"]
        if data is None and origin is None:
            raise InputError("the run was trained on arrays: give them again, as data=datasets.from_arrays(...)")
        if data is None:
            data = datasets.load(**origin)
        elif not isinstance(data, Dataset):
            data = datasets.load(**{**(origin or {}), "source": data})
        if data.digest() != self.data["digest"]:
            raise InputError(f"{data.name} does not hold the images that the run was trained on: give the same data")
        return data

    def fingerprint(self) -> Array:
        """SHA-256 of model, settings and data, as 32 bytes: what ties a checkpoint to its run."""
        text = json.dumps([describe(self.model), asdict(self.settings), self.data["digest"]], sort_keys=True)
        return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)

    @property
    def final(self) -> dict[str, float]:
        """The metrics of the parameters that a finished run keeps: its last epoch's, or with patience its best's."""
        if self.settings.patience is None:
            return self.history[-1]
        return min(self.history, key=lambda row: row["test_loss"])

    def _vae(self, what: str) -> VAE:
        if not isinstance(self.model, VAE):
            raise InputError(f"{what} needs a VAE: {type(self.model).__name__} has no p(z)")
        return self.model

    # ── The folder ───────────────────────────────────────────────────────────────────────────────────────────────

    def write_config(self) -> None:
        """Write config.json, where the run has a folder."""
        if self.folder is not None:
            versions = {name: version(name) for name in ("npvae", "numpy", "numba", "matplotlib")}
            config = {
                "model": describe(self.model),
                "settings": asdict(self.settings),
                "data": self.data,
                "versions": {"python": platform.python_version(), **versions},
                "platform": platform.platform(),
            }
            write_atomically(self.folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())

    def write_metrics(self) -> None:
        """Write metrics.csv, where the run has a folder."""
        if self.folder is not None:
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for row in self.history:  # two of the columns are counts
                writer.writerow({**row, **{name: int(row[name]) for name in ("epoch", "active_units")}})
            write_atomically(self.folder / METRICS, text.getvalue().encode())


def load(folder: str | PathLike[str]) -> Run:
    """The run kept in a folder, ready to sample, reconstruct, encode and decode.

    Raises InputError if there is none, or if its checkpoint is damaged or another model's.
    """
    run = read_config(Path(folder))
    path = Path(folder) / CHECKPOINT
    tensors, _ = load_tensors(path)
    adopt(run, tensors)
    epoch = tensors.get("train.epoch")
    if epoch is None or epoch.shape != () or epoch.dtype != np.int64:
        raise InputError(f"{path} does not say how many epochs it has seen: restore it from a copy, or train again")
    read_metrics(run, int(epoch))
    return run


def adopt(run: Run, tensors: dict[str, Array]) -> None:
    """Copy a checkpoint's theta into the run; InputError if it is not this run's."""
    theta, mark = tensors.get("theta", np.empty(0)), tensors.get("run.sha256", np.empty(0))
    if theta.shape != run.theta.shape or theta.dtype != run.theta.dtype or not np.array_equal(mark, run.fingerprint()):
        raise InputError(
            f"{run.folder}/{CHECKPOINT} is the checkpoint of another model, or of other settings or data, than "
            f"{CONFIG} describes: put the files of one run together again"
        )
    run.theta[:] = theta


def read_config(folder: Path) -> Run:
    """The run that config.json describes, its parameters as they were initialised."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} holds no run: there is no {CONFIG} in it. Runs are made by `npvae train --out`")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        options = dict(config["model"])
        model = make_model(options.pop("kind"), **options)
        settings = Settings(**config["settings"]).completed(model)
        origin, shape, digest = (config["data"][name] for name in ("origin", "shape", "digest"))
        shape = tuple(check_whole("shape", length) for length in shape)
        if math.prod(shape) != model.data or not isinstance(digest, str):
            raise InputError(f"shape {shape} is not that of {model.data} pixels, or the digest is no text")
        data = {"origin": None if origin is None else Origin(**origin)._asdict(), "shape": shape, "digest": digest}
        theta = zeros(sizes(model.params())[0], settings.dtype)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, MemoryError) as error:
        raise InputError(f"{path} is not a configuration that npvae wrote: {error!r}") from error
    return Run(model, settings, data, theta, folder)


def read_metrics(run: Run, epochs: int) -> None:
    """Fill `history` with the rows of the first `epochs` epochs: one written after the checkpoint is not yet true."""
    assert run.folder is not None
    path = run.folder / METRICS
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
    except FileNotFoundError:
        rows = []
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(f"{path} is not a table that npvae wrote: {error!r}") from error
    run.history = [row for row in rows if row["epoch"] <= epochs]
