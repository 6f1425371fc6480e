"""The loop: shuffled mini-batches, validation, checkpoints; interrupted anywhere, it goes on as if it had not been.

All that a step depends on is in the checkpoint (parameters, moments, step, permutation, cursor, running sums) or is
a function of (seed, epoch, step): the noise. So a resumed run ends with the same bits as one that never stopped.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from npvae import datasets, noise
from npvae.checkpoint import expect_tensors, load_tensors, save_tensors
from npvae.datasets import Dataset
from npvae.errors import DivergenceError, InputError, check_choice
from npvae.evaluation import measure
from npvae.flat import Array
from npvae.noise import Purpose, stream
from npvae.optim import SGD, Adam, AdamW, Optimizer, RMSProp, make_schedule
from npvae.progress import Progress
from npvae.runs import CHECKPOINT, COLUMNS, CONFIG, METRICS, Run, Settings, adopt, read_config, read_metrics
from npvae.vae import VAE
from npvae.workspace import Model, Workspace

ADVICE = "Train again under another name, with a smaller lr or a clip of 1"

Callback = Callable[[Run, dict[str, float]], None]


class Interrupted(KeyboardInterrupt):  # it is what Ctrl-C raises, with the checkpoint written
    """SIGINT or SIGTERM came; `number` says which.

    `run` is what was being trained, the checkpoint in its folder written; None if the signal did not wait for a step.
    """

    def __init__(self, number: int, run: Run | None = None) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number, self.run = number, run


def train(
    model: Model,
    data: Dataset | str | PathLike[str] = "mnist-small",
    *,
    out: str | PathLike[str] | None = None,
    callbacks: tuple[Callback, ...] = (),
    watched: bool | None = None,
    **settings: Any,
) -> Run:
    """Train a model on images and return the run.

    data: a Dataset, or what `datasets.load` takes. out: the folder for the run, None to keep it in memory alone.
    callbacks: plain functions of (run, row of metrics), called after every epoch. watched: whether to show progress
    on stderr, by default if that is a terminal. settings: see `runs.Settings`.

    In metrics, train_loss is what was minimised, beta and free bits included, averaged over the epoch's steps;
    test_loss is minus the bound at beta 1 without free bits, with the data binarised and all noise from a fixed seed.

    Raises InputError for what makes no sense, DivergenceError when the loss becomes NaN or infinite, Interrupted
    after SIGINT or SIGTERM, once the step is done and the checkpoint written (see `resume`).
    """
    for name in settings:
        check_choice("setting", name, Settings.__dataclass_fields__)
    if not isinstance(callbacks, tuple | list) or not all(callable(callback) for callback in callbacks):
        raise InputError(f"callbacks must be a tuple of functions such as (f,), got {callbacks!r}")
    if out is not None and not str(out):
        raise InputError("out must name a folder, got ''")
    folder = None if out is None else Path(out)
    if folder is not None:
        _check_free(folder)
    images = data if isinstance(data, Dataset) else datasets.load(data)
    completed = Settings(**settings).completed(model)
    ws = _workspace(model, completed)
    origin = None if images.origin is None else images.origin._asdict()
    kept = {"origin": origin, "shape": images.shape, "digest": images.digest()}
    run = Run(model, completed, kept, ws.theta, folder)
    run.check(images.train.images)
    run.check(images.test.images)
    if isinstance(model, VAE):
        model.p_x.check_training(images.train.images)
        model.initialize_from(ws.params, images.train.images)
    trainer = Trainer(run, ws, images)
    if folder is not None:  # not before all is checked: a refused training leaves no folder behind
        _make_folder(folder)
        trainer.save()  # before the configuration, which makes the folder a run: one that has it can be resumed
        run.write_config()
    trainer.fit(callbacks, watched)
    return run


def resume(
    folder: str | PathLike[str],
    data: Dataset | str | PathLike[str] | None = None,
    *,
    callbacks: tuple[Callback, ...] = (),
    watched: bool | None = None,
) -> Run:
    """Go on with the run in a folder from its last checkpoint to its last epoch, and return it.

    data: what the run was trained on, if it is not where it was, or was made from arrays. Raises InputError if
    there is no run, if its files are damaged or not of one run, or if the data is not what it was; otherwise as
    `train`.
    """
    run = read_config(Path(folder))
    images = run.dataset(data)
    trainer = Trainer(run, _workspace(run.model, run.settings, run.theta), images)
    trainer.restore()
    trainer.fit(callbacks, watched)
    return run


class Trainer:
    """The state of a training: everything that its next step depends on."""

    def __init__(self, run: Run, ws: Workspace, data: Dataset) -> None:
        self.run, self.ws, self.data = run, ws, data
        settings = run.settings
        self.images = np.ascontiguousarray(data.train.images)
        if settings.binarize == "static":
            self.images = noise.binarize(stream(run.seed, Purpose.STATIC_BINARIZE), self.images)
        self.steps_per_epoch = math.ceil(len(self.images) / settings.batch)
        self.total = settings.epochs * self.steps_per_epoch
        self.optimizer = _make_optimizer(ws, settings, self.total)
        self.batch = _Batch(ws, self.images, settings)
        self.epoch = 0  # epochs completed
        self.cursor = 0  # rows of the current epoch that are done
        self.permutation = np.arange(len(self.images))
        self.sums = np.zeros(3)  # loss, reconstruction and rate of those rows
        self.best = np.array([np.inf, 0.0])  # the best test loss and its epoch, where patience asks for it
        self.best_theta = np.zeros_like(ws.theta) if settings.patience else np.zeros(0, ws.dtype)
        self.stopped = False
        self.seconds = 0.0

    # ── The loop ─────────────────────────────────────────────────────────────────────────────────────────────────

    def fit(self, callbacks: tuple[Callback, ...], watched: bool | None) -> None:
        """Train to the last epoch, or until patience runs out."""
        progress = Progress(self.total, self.optimizer.steps, watched)
        # A loss that is not finite is an error of its own, said once: NumPy's warnings on the way to it add nothing.
        with signals() as caught, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            try:
                while self.epoch < self.run.settings.epochs and not self.stopped:
                    start, before = time.monotonic(), self.seconds
                    for loss in self._steps():
                        self.seconds = before + time.monotonic() - start
                        if caught:
                            self._interrupt(caught)
                        progress.update(self.optimizer.steps, f"epoch {self.epoch + 1}  loss {loss:.2f}")
                    row = self._close_epoch(before + time.monotonic() - start)
                    progress.say(describe_row(row, self.run.settings.epochs))
                    for callback in callbacks:
                        callback(self.run, row)
                    if caught:
                        self._interrupt(caught)
            finally:
                progress.close()

    def _steps(self) -> Iterator[float]:
        """The rest of the current epoch, step by step."""
        run, ws, settings = self.run, self.ws, self.run.settings
        if self.cursor == 0:
            self.permutation = stream(run.seed, Purpose.SHUFFLE, self.epoch).permutation(len(self.images))
        while self.cursor < len(self.images):
            index = self.permutation[self.cursor : self.cursor + settings.batch]
            step = self.optimizer.steps
            x, target, eps = self.batch.draw(index, self.epoch, step)
            loss = ws.forward(x, target, eps, self._beta(step))
            terms = ws.terms
            if not math.isfinite(loss.real):
                self._diverged(step, loss.real, terms)
            ws.backward()
            self.optimizer.step()
            if isinstance(run.model, VAE):
                run.model.remember(ws.params, ws.acts, self.optimizer.steps)
            self.cursor += len(index)
            self.sums += len(index) * np.array([loss.real, terms["reconstruction"], terms["rate"]])
            yield loss.real

    def _beta(self, step: int) -> float:
        """The weight of the rate: grown linearly over the warm-up's steps (Sonderby et al. 2016), then constant."""
        settings = self.run.settings
        grown = min(step / (settings.warmup * self.steps_per_epoch), 1.0) if settings.warmup else 1.0
        return (1.0 if settings.beta is None else settings.beta) * grown

    def _close_epoch(self, seconds: float) -> dict[str, float]:
        """Validate, write metrics and the checkpoint, and turn the page."""
        run, start = self.run, time.monotonic()
        train = self.sums / len(self.images)
        test = measure(run, run.ws, self.data.test.images)
        if not math.isfinite(test.loss):
            self._diverged(self.optimizer.steps, test.loss, {"reconstruction": test.reconstruction, "rate": test.rate})
        self.seconds = seconds + time.monotonic() - start
        self.epoch, self.cursor, self.sums[:] = self.epoch + 1, 0, 0
        measured = (test.loss, test.reconstruction, test.rate, test.active_units)
        values = (self.epoch, round(self.seconds, 3), *train, *measured)
        row = dict(zip(COLUMNS, map(float, values), strict=True))
        run.history.append(row)
        self._watch_patience(test.loss)
        run.write_metrics()  # before the checkpoint: resume drops rows that the checkpoint does not know of
        self.save()
        return row

    def _watch_patience(self, loss: float) -> None:
        patience = self.run.settings.patience
        if patience is None:
            return
        if loss < self.best[0]:
            self.best[:] = loss, self.epoch
            self.best_theta[:] = self.ws.theta
        elif self.epoch - self.best[1] >= patience:
            self.stopped = True
        if self.stopped or self.epoch == self.run.settings.epochs:
            self.ws.theta[:] = self.best_theta

    def _interrupt(self, caught: list[int]) -> None:
        self.save()
        raise Interrupted(caught[0], self.run)

    def _diverged(self, step: int, loss: float, terms: dict[str, float]) -> None:
        raise DivergenceError(
            f"the loss became {loss} at step {step} (epoch {self.epoch + 1}): reconstruction "
            f"{terms['reconstruction']}, rate {terms['rate']}.{self._kept()} {ADVICE}"
        )

    def _kept(self) -> str:
        return "" if self.run.folder is None else f" The last good checkpoint is kept in {self.run.folder}."

    # ── The checkpoint ───────────────────────────────────────────────────────────────────────────────────────────

    def _tensors(self) -> dict[str, Array]:
        """All the state, as named arrays; the vectors are the live ones."""
        return {
            "theta": self.ws.theta,
            "run.sha256": self.run.fingerprint(),
            **{f"optimizer.{name}": vector for name, vector in self.optimizer.state.items()},
            "optimizer.steps": np.array(self.optimizer.steps, np.int64),
            "train.epoch": np.array(self.epoch, np.int64),
            "train.cursor": np.array(self.cursor, np.int64),
            "train.permutation": self.permutation.astype(np.int64),
            "train.sums": self.sums,
            "train.stopped": np.array(self.stopped),
            "best.loss": self.best,
            "best.theta": self.best_theta,
        }

    def save(self) -> None:
        """Write the checkpoint, where the run has a folder; DivergenceError instead of one that is not finite."""
        for name, vector in {"theta": self.ws.theta, **self.optimizer.state}.items():
            if not np.isfinite(vector).all():
                raise DivergenceError(
                    f"after step {self.optimizer.steps} (epoch {self.epoch + 1}) {name} is no longer finite."
                    f"{self._kept()} {ADVICE}"
                )
        if self.run.folder is not None:
            save_tensors(self.run.folder / CHECKPOINT, self._tensors(), {"seconds": repr(self.seconds)})

    def restore(self) -> None:
        """Take up the state of the folder's checkpoint; InputError if it is damaged or of another run."""
        assert self.run.folder is not None
        path = self.run.folder / CHECKPOINT
        tensors, metadata = load_tensors(path)
        adopt(self.run, tensors)
        expect_tensors(path, tensors, {name: (a.shape, a.dtype) for name, a in self._tensors().items()})
        for name, vector in self.optimizer.state.items():
            vector[:] = tensors[f"optimizer.{name}"]
        self.permutation = tensors["train.permutation"]
        if not np.array_equal(np.sort(self.permutation), np.arange(len(self.images))):
            raise InputError(f"{path} does not hold an order of the {len(self.images)} images: it is damaged")
        self.optimizer.steps, self.epoch = int(tensors["optimizer.steps"]), int(tensors["train.epoch"])
        self.cursor, self.stopped = int(tensors["train.cursor"]), bool(tensors["train.stopped"])
        done = self.epoch * self.steps_per_epoch + math.ceil(self.cursor / self.run.settings.batch)
        if not (0 <= self.epoch <= self.run.settings.epochs and 0 <= self.cursor <= len(self.images)) or (
            self.optimizer.steps != done
        ):
            raise InputError(
                f"{path} is damaged: step {self.optimizer.steps} is not epoch {self.epoch}, row {self.cursor} of "
                f"{len(self.images)}. Restore it from a copy, or train again"
            )
        self.sums, self.best, self.best_theta = tensors["train.sums"], tensors["best.loss"], tensors["best.theta"]
        try:
            self.seconds = float(metadata.get("seconds", 0))
        except ValueError:
            self.seconds = 0.0  # a clock time, which nothing depends on
        read_metrics(self.run, self.epoch)
        known = [row["epoch"] for row in self.run.history]
        if known != list(range(1, self.epoch + 1)):
            raise InputError(
                f"{self.run.folder / METRICS} should have a row for each of the {self.epoch} epochs that the "
                f"checkpoint has seen, it has {len(known)}: restore it from a copy, or train again"
            )


class _Batch:
    """What a step sees, in memory that every step uses again."""

    def __init__(self, ws: Workspace, images: Array, settings: Settings) -> None:
        self.images, self.settings = images, settings
        rows = min(settings.batch, len(images))
        shape, noise_shape = (rows, images.shape[1]), ws.model.noise(rows, ws.samples)
        corrupted = settings.corruption != "none"
        self.target = np.empty(shape, images.dtype)
        self.x = np.empty(shape, images.dtype) if corrupted else self.target
        self.eps = None if noise_shape is None else np.empty(noise_shape, ws.dtype)
        self.room = noise.make_room(shape if corrupted or settings.binarize == "dynamic" else (0,))

    def draw(self, index: Array, epoch: int, step: int) -> tuple[Array, Array | None, Array | None]:
        """x, target and eps of the images at `index`; the target is None where it is x, eps where there is no noise."""
        rows, settings, seed = len(index), self.settings, self.settings.seed
        x, target, room = self.x[:rows], self.target[:rows], noise.Room(*(part[:rows] for part in self.room))
        np.take(self.images, index, axis=0, out=target, mode="clip")  # "raise" would gather elsewhere first
        if settings.binarize == "dynamic":
            noise.binarize(stream(seed, Purpose.BINARIZE, epoch, step), target, target, room)
        eps = None if self.eps is None else noise.normal(stream(seed, Purpose.EPS, epoch, step), self.eps[:rows])
        if settings.corruption == "none":
            return x, None, eps
        rng, level = stream(seed, Purpose.CORRUPT, epoch, step), settings.corruption_level or 0.0
        return noise.corrupt(rng, target, settings.corruption, level, x, room), target, eps


def describe_row(row: dict[str, float], epochs: int) -> str:
    """A row of metrics in one line."""
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  {row['seconds']:.0f} s  train {row['train_loss']:.2f}  "
        f"test {row['test_loss']:.2f} (reconstruction {row['test_reconstruction']:.2f}, rate {row['test_rate']:.2f})  "
        f"active {row['active_units']:.0f}"
    )


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them; a second one raises Interrupted at once.

    Only the main thread of a program hears signals: elsewhere the list stays empty.
    """
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        if caught:
            raise Interrupted(number)
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: a handler that was not Python's


def _workspace(model: Model, settings: Settings, theta: Array | None = None) -> Workspace:
    """The workspace that is trained: with parameters of its own, drawn by the seed, or with those given."""
    samples = settings.samples or 1
    return Workspace(model, settings.batch, samples, settings.dtype, settings.backend, settings.seed, theta)


def _check_free(folder: Path) -> None:
    held = [name for name in (CONFIG, METRICS, CHECKPOINT) if (folder / name).exists()]
    if CONFIG in held:
        raise InputError(f"{folder} holds another run: go on with it by `npvae resume {folder}`, or give another name")
    if held:
        raise InputError(f"{folder} holds {' and '.join(held)} without {CONFIG}: move that away, or give another name")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"out must be a folder: {folder} cannot be made, a file is in its place") from error


def _make_optimizer(ws: Workspace, settings: Settings, total: int) -> Optimizer:
    schedule = make_schedule(settings.schedule, settings.lr, total, settings.lr_warmup)
    if settings.optimizer == "sgd":
        return SGD(ws, schedule, settings.momentum or 0.0, settings.clip)
    if settings.optimizer == "adamw":
        return AdamW(ws, schedule, settings.weight_decay or 0.0, clip=settings.clip)
    if settings.optimizer == "rmsprop":
        return RMSProp(ws, schedule, clip=settings.clip)
    return Adam(ws, schedule, clip=settings.clip)
