"""The commands that train a run and use one; `cli` has the others."""

import argparse
import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from npvae import datasets, mosaics, plots
from npvae.checkpoint import write_atomically
from npvae.datasets import Dataset
from npvae.errors import InputError, check_whole
from npvae.evaluation import evaluate
from npvae.flat import Array
from npvae.models import OPTIONS, make_model
from npvae.progress import Progress
from npvae.records import plain
from npvae.runs import FIGURES, Run, Settings, load, read_config
from npvae.training import resume, train
from npvae.vae import VAE
from npvae.workspace import Model


def train_command(options: argparse.Namespace) -> None:
    """npvae train."""
    data = datasets.load(options.data, rescale=options.rescale, rows=options.rows)
    model = model_of(options, data)
    settings = {name: getattr(options, name) for name in Settings.__dataclass_fields__ if hasattr(options, name)}
    claimed = free_folder() if options.out is None else None
    options.out = options.out if claimed is None else str(claimed)
    try:
        run = train(model, data, out=options.out, **settings)
    finally:
        if claimed is not None:
            with suppress(OSError):  # it holds a run, unless the run was refused
                claimed.rmdir()
    finish(run, data, options.json)


def resume_command(options: argparse.Namespace) -> None:
    """npvae resume."""
    data = read_config(Path(options.run)).dataset(options.data)
    finish(resume(options.run, data), data, options.json)


def finish(run: Run, data: Dataset, as_json: bool) -> None:
    """Draw the pictures and say what came out."""
    assert run.folder is not None
    drawn = plots.save(plots.figures(run, data), run.folder / FIGURES)
    last = run.final
    if as_json:
        write_json({"run": str(run.folder), **last})
        return
    used = f"{last['active_units']:.0f} of {run.model.latent} latents in use"
    if isinstance(run.model, VAE):
        print(
            f"test loss {last['test_loss']:.2f} nats per image (reconstruction {last['test_reconstruction']:.2f}, "
            f"rate {last['test_rate']:.2f}), {used}"
        )
    else:
        print(f"test squared error {last['test_loss']:.3f} per image, {used}")
    print(f"{run.folder}/{FIGURES}: {', '.join(path.name for path in drawn)}")
    print(f"next: npvae {'sample' if isinstance(run.model, VAE) else 'reconstruct'} {run.folder}")


def sample_command(options: argparse.Namespace) -> None:
    """npvae sample."""
    run = load(options.run)
    images = run.sample(options.n, options.seed)
    path = options.out or Path(options.run) / "samples.png"
    title = "Samples from the prior, decoded to E[x|z]"
    write_images(path, images, lambda: mosaics.sample_grid(images, run.data["shape"], title))


def reconstruct_command(options: argparse.Namespace) -> None:
    """npvae reconstruct."""
    run = load(options.run)
    data = data_of(run, options.data)
    originals = first(data.test.images, options.n, 10)
    run.check(originals)
    seen = run.corrupt(originals)
    images = run.reconstruct(seen)
    shown = None if run.settings.corruption == "none" else seen
    path = options.out or Path(options.run) / "reconstructions.png"
    write_images(path, images, lambda: mosaics.reconstructions(originals, images, data.shape, shown))


def evaluate_command(options: argparse.Namespace) -> None:
    """npvae evaluate."""
    run = load(options.run)
    if options.samples is not None and not isinstance(run.model, VAE):
        raise InputError(f"--samples means nothing to {type(run.model).__name__}, which has no p(x): leave it out")
    samples = 500 if options.samples is None else options.samples
    images = data_of(run, options.data).test.images
    images = first(images, options.images, len(images))
    progress = Progress(len(images), unit="images")
    result = evaluate(run, images, samples, lambda done, total: progress.update(done, ""))
    progress.close()
    if options.json:
        write_json({"run": options.run, **result._asdict()})
        return
    print(f"{result.images} test images, per image:")
    if result.nll is None:
        print(f"  squared error  {result.reconstruction:9.3f}")
        return
    print(
        f"  -ELBO          {result.loss:9.3f} nats\n"
        f"  reconstruction {result.reconstruction:9.3f} nats\n"
        f"  rate           {result.rate:9.3f} nats, {result.active_units} of {run.model.latent} latents active\n"
        f"  -log p(x)      {result.nll:9.3f} nats, {result.samples} importance samples; standard error "
        f"{result.nll_se:.3f} across images, {result.nll_se_image:.3f} per image"
    )


def plot_command(options: argparse.Namespace) -> None:
    """npvae plot."""
    run = load(options.run)
    for path in plots.save(plots.figures(run, run.dataset(options.data)), options.out or Path(options.run) / FIGURES):
        print(path)


# ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def free_folder() -> Path:
    """Make the first of runs/1, runs/2, ... that does not exist: made here, no other training takes it."""
    number = 1
    while True:
        folder = Path("runs") / str(number)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def model_of(options: argparse.Namespace, data: Dataset) -> Model:
    """The model that the options describe, for these images."""
    named = {name: getattr(options, name) for name in ("latent", *OPTIONS["vae"])}
    return make_model(options.model, data.train.images.shape[1], **named)


def data_of(run: Run, other: str | None) -> Dataset:
    """The data that the run was trained on, or `other`, rescaled if that was."""
    if other is None:
        return run.dataset()
    origin = run.data["origin"]
    return datasets.load(other, rescale=origin is not None and origin["rescale"])


def first(images: Array, n: int | None, usual: int) -> Array:
    """The first `n` of images (m, D), if there are so many; when None the usual number, or as many as there are."""
    if n is not None and check_whole("the number of images", n) > len(images):
        raise InputError(f"there are {len(images)} test images, {n} were asked for")
    return images[: usual if n is None else n]


def write_images(path: str | Path, images: Array, draw: Callable[[], Any]) -> None:
    """Write images (n, D) as a picture (.png) or as an array (.npy), and say where."""
    path = Path(path)
    if path.suffix == ".npy":
        write_atomically(path, npy_bytes(images))
    elif path.suffix == ".png":
        plots.save({path.stem: draw()}, path.parent)
    else:
        raise InputError(f"--out must end in .png or .npy, got {path}")
    print(path)


def npy_bytes(array: Array) -> bytes:
    """An array as the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_json(values: dict[str, Any]) -> None:
    """One JSON object on stdout; a number that JSON lacks (NaN, inf) becomes null."""
    print(json.dumps(plain(values), allow_nan=False))
