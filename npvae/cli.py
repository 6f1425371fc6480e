"""The command line. Results go to stdout, everything else to stderr; nothing here computes."""

import argparse
import io
import json
import math
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from npvae import datasets, mosaics, noise, plots
from npvae.checkpoint import write_atomically
from npvae.datasets import Dataset
from npvae.errors import DivergenceError, InputError, check_whole
from npvae.evaluation import evaluate
from npvae.likelihoods import LIKELIHOODS
from npvae.mlp import ACTIVATIONS
from npvae.models import BOUNDS, KINDS, OPTIONS, make_model
from npvae.ops import BACKENDS, default_backend
from npvae.progress import Progress
from npvae.runs import CONFIG, FIGURES, Run, Settings, load
from npvae.training import Interrupted, resume, train
from npvae.vae import VAE

FAILED, BAD_INPUT = 1, 2  # exit codes; a signal gives 128 + its number

DESCRIPTION = """\
Train, continue, sample and measure variational autoencoders whose every gradient is written by hand.

  npvae train --out runs/first              train the default VAE on 10,000 digits, draw what it learned
  npvae sample runs/first                   new digits from the prior
  npvae evaluate runs/first --samples 5000  the bound, and a tighter estimate of -log p(x)
  npvae COMMAND --help                      every option of a command"""

TRAIN = """\
Train a model on images and keep it in a folder with its settings, metrics and pictures.

  npvae train                                             784-400-20 VAE, Bernoulli, 40 epochs, into runs/1
  npvae train --latent 2 --out runs/plane                 two latents: the pictures show the whole manifold
  npvae train --bound iwae --samples 5 --hidden 200,200   importance-weighted bound
  npvae train --likelihood gaussian-learned --warmup 10   grey pixels, one learned sigma, KL weight grown slowly
  npvae train --model ae --corruption masking             denoising autoencoder
  npvae train --data photos/ --likelihood gaussian-optimal   your own folder of PNGs

Ctrl-C finishes the step, writes the checkpoint and says how to go on."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 failed, 2 bad usage or input, 128 + signal."""
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    restore = hear_sigterm()
    try:
        command(options)
    except KeyboardInterrupt as stop:
        print(f"npvae: {str(stop) or 'interrupted'}{going_on(options)}", file=sys.stderr)
        return 128 + (stop.number if isinstance(stop, Interrupted) else signal.SIGINT)
    except DivergenceError as error:
        print(f"npvae: {error}", file=sys.stderr)
        return FAILED
    except MemoryError as error:
        print(f"npvae: not enough memory: {error}. A smaller model or batch needs less", file=sys.stderr)
        return BAD_INPUT
    except InputError as error:
        print(f"npvae: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"npvae: {error}. What was written before is untouched{going_on(options)}", file=sys.stderr)
        return BAD_INPUT
    finally:
        restore()
    return 0


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def train_command(options: argparse.Namespace) -> None:
    """npvae train."""
    data = datasets.load(options.data, rescale=options.rescale, rows=options.rows)
    named = {name: getattr(options, name) for name in ("latent", *OPTIONS["vae"])}
    model = make_model(options.model, data.train.images.shape[1], **named)
    settings = {name: getattr(options, name) for name in Settings.__dataclass_fields__ if hasattr(options, name)}
    options.out = options.out or free_folder()
    run = train(model, data, out=options.out, **settings)
    finish(run, data, options.json)


def resume_command(options: argparse.Namespace) -> None:
    """npvae resume."""
    run = resume(options.run)
    finish(run, run.dataset(), options.json)


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
    originals = data.test.images[:10] if options.n is None else first(data.test.images, options.n)
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
    images = images if options.images is None else first(images, options.images)
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
    for path in plots.save(plots.figures(run, run.dataset()), options.out or Path(options.run) / FIGURES):
        print(path)


def info_command(options: argparse.Namespace) -> None:
    """npvae info."""
    from npvae.ops.host import host  # Numba takes a while to import

    facts = {
        "npvae": version("npvae"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "numba", "matplotlib")},
        "platform": platform.platform(),
        "backend": default_backend(),
        **host(),
        "data folder": os.environ.get("NPVAE_DATA_HOME", "not set (NPVAE_DATA_HOME)"),
        "cache folder": str(datasets.cache_folder()),
    }
    if options.json:
        write_json(facts)
    else:
        print("\n".join(f"{name:<14}{fact}" for name, fact in facts.items()))


# ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def going_on(options: argparse.Namespace) -> str:
    """How to take up the run that a command was training, if it got so far as to have a folder."""
    training = options.command in (train_command, resume_command)
    folder = (options.out if options.command is train_command else options.run) if training else None
    return f". To go on: npvae resume {folder}" if folder and (Path(folder) / CONFIG).exists() else ""


def hear_sigterm() -> Callable[[], Any]:
    """Make SIGTERM an exception, as SIGINT is one, and return what undoes that. While it trains, `fit` hears both."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    return lambda: signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def free_folder() -> Path:
    """The first of runs/1, runs/2, ... that does not exist."""
    number = 1
    while (Path("runs") / str(number)).exists():
        number += 1
    return Path("runs") / str(number)


def data_of(run: Run, other: str | None) -> Dataset:
    """The data that the run was trained on, or `other`, rescaled if that was."""
    if other is None:
        return run.dataset()
    origin = run.data["origin"]
    return datasets.load(other, rescale=origin is not None and origin["rescale"])


def first(images: Any, n: int) -> Any:
    """The first `n` of images (m, D); InputError if there are fewer."""
    if check_whole("the number of images", n) > len(images):
        raise InputError(f"there are {len(images)} test images, {n} were asked for")
    return images[:n]


def write_images(path: str | Path, images: Any, draw: Callable[[], Any]) -> None:
    """Write images (n, D) as a picture (.png) or as an array (.npy), and say where."""
    path = Path(path)
    if path.suffix == ".npy":
        write_atomically(path, npy_bytes(images))
    elif path.suffix == ".png":
        plots.save({path.stem: draw()}, path.parent)
    else:
        raise InputError(f"--out must end in .png or .npy, got {path}")
    print(path)


def npy_bytes(array: Any) -> bytes:
    """An array as the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_json(values: dict[str, Any]) -> None:
    """One JSON object on stdout; a number that JSON lacks (NaN, inf) becomes null."""
    lossless = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    print(json.dumps(lossless, allow_nan=False))


# ── Arguments ────────────────────────────────────────────────────────────────────────────────────────────────────────


def parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    top = argparse.ArgumentParser(
        "npvae", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"npvae {version('npvae')}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, call: Callable[[argparse.Namespace], None], brief: str, text: str) -> Any:
        added = commands.add_parser(
            name, help=brief, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        added.set_defaults(command=call)
        return added

    add_train_options(command("train", train_command, "train a model and keep it in a folder", TRAIN))

    going_on = command("resume", resume_command, "go on with an interrupted run", RESUME)
    going_on.add_argument("run", metavar="DIR", help="the run's folder")
    going_on.add_argument("--json", action="store_true", help="print one JSON object with the final figures")

    sampling = command("sample", sample_command, "new images from the prior", SAMPLE)
    sampling.add_argument("run", metavar="DIR", help="the run's folder")
    sampling.add_argument("-n", type=int, default=64, help="how many (64)")
    sampling.add_argument("--seed", type=int, help="of the codes (the run's)")
    sampling.add_argument("--out", metavar="FILE", help=".png or .npy (DIR/samples.png)")

    again = command("reconstruct", reconstruct_command, "test images through the model", RECONSTRUCT)
    again.add_argument("run", metavar="DIR", help="the run's folder")
    again.add_argument("-n", type=int, help="how many test images (10, or as many as there are)")
    again.add_argument("--data", metavar="NAME|PATH", help="other images than the run's")
    again.add_argument("--out", metavar="FILE", help=".png or .npy (DIR/reconstructions.png)")

    measuring = command("evaluate", evaluate_command, "the bound and an estimate of -log p(x)", EVALUATE)
    measuring.add_argument("run", metavar="DIR", help="the run's folder")
    measuring.add_argument("--samples", type=int, metavar="K", help="importance samples per image (500)")
    measuring.add_argument("--images", type=int, metavar="N", help="only the first N test images (all)")
    measuring.add_argument("--data", metavar="NAME|PATH", help="other images than the run's")
    measuring.add_argument("--json", action="store_true", help="print one JSON object with the figures")

    drawing = command("plot", plot_command, "draw a run's pictures again", PLOT)
    drawing.add_argument("run", metavar="DIR", help="the run's folder")
    drawing.add_argument("--out", metavar="DIR", type=Path, help=f"where to (the run's {FIGURES}/)")

    telling = command("info", info_command, "versions, threads, vector width, folders", INFO)
    telling.add_argument("--json", action="store_true", help="print one JSON object")
    return top


RESUME = """\
Go on from a run's last checkpoint to its last epoch. The result is that of a run never interrupted, bit for bit.

  npvae resume runs/1"""
SAMPLE = """\
Draw codes z ~ N(0, 1) and decode them: images that nobody drew. Needs a VAE: an autoencoder has no prior.

  npvae sample runs/1                                  64 images into runs/1/samples.png
  npvae sample runs/1 -n 1000 --seed 7 --out new.npy   1,000 others as an array (n, D)"""
RECONSTRUCT = """\
Encode and decode test images: originals above reconstructions, what a denoising model saw between them.

  npvae reconstruct runs/1                          10 test images into runs/1/reconstructions.png
  npvae reconstruct runs/1 -n 500 --out again.npy   500 reconstructions as an array (n, D)"""
EVALUATE = """\
Measure a run on its test images: minus the bound at beta 1, its two terms, and the importance-weighted estimate of
-log p(x) (Burda et al. 2016), with its standard error across images and, by the delta method, per image. Pixels are
binarised as in training; all noise comes from the run's seed, so the figures repeat.

  npvae evaluate runs/1 --samples 5000 --images 100   a tight estimate on the first 100 test images
  npvae evaluate runs/1 --json                        the figures as one JSON object"""
PLOT = """\
Draw: loss curves, originals and reconstructions, samples, interpolation, traversals, codes, KL per latent, and the
manifold when there are two latents.

  npvae plot runs/1 --out pictures"""
INFO = """\
Show what npvae runs on.

  npvae info --json   the same as one JSON object"""


def add_train_options(train: argparse.ArgumentParser) -> None:
    """The options of `npvae train`; one left out is absent, so that each default stands in one place."""
    defaults = Settings()
    absent = argparse.SUPPRESS

    data = train.add_argument_group("data")
    data.add_argument(
        "--data", default="mnist-small", metavar="NAME|PATH",
        help="mnist-small (10,000 digits inside the package), mnist, fashion-mnist (downloaded if need be), "
        "or a path: .npy, .npz, IDX, a folder of PNGs (mnist-small)",
    )  # fmt: skip
    data.add_argument("--rows", type=int, metavar="N", help="train on the first N images (all)")
    data.add_argument("--rescale", action="store_true", help="map the pixels' range to [0, 1]")
    data.add_argument(
        "--binarize", default=absent, choices=noise.BINARIZATIONS,
        help="black and white pixels: redrawn every pass, once, or left grey (dynamic under bernoulli, else none)",
    )  # fmt: skip
    data.add_argument("--corruption", default=absent, metavar="KIND",
                      help=f"denoise: {', '.join(noise.CORRUPTIONS)}; the target stays clean (none)")  # fmt: skip
    data.add_argument("--corruption-level", default=absent, type=float, metavar="X",
                      help="share of pixels hit, or the Gaussian's sigma (0.3)")  # fmt: skip

    model = train.add_argument_group("model")
    model.add_argument("--model", default="vae", metavar="KIND", help=f"{', '.join(KINDS)} (vae)")
    model.add_argument("--hidden", type=widths, metavar="W,W", help="widths of the encoder's hidden layers (400)")
    model.add_argument("--latent", type=int, metavar="Z", help="latents (20)")
    model.add_argument("--activation", metavar="NAME", help=f"{', '.join(ACTIVATIONS)} (relu)")
    model.add_argument("--likelihood", metavar="NAME", help=f"{', '.join(LIKELIHOODS)} (bernoulli)")
    model.add_argument("--sigma", type=float, metavar="X", help="of the likelihood gaussian (1)")

    objective = train.add_argument_group("objective")
    objective.add_argument("--bound", metavar="NAME", help=f"{', '.join(BOUNDS)} (elbo)")
    objective.add_argument("--samples", default=absent, type=int, metavar="K", help="codes drawn per image (1)")
    objective.add_argument("--beta", default=absent, type=float, metavar="X", help="weight of the KL (1)")
    objective.add_argument("--warmup", default=absent, type=int, metavar="EPOCHS",
                           help="epochs over which beta grows from 0 (0)")  # fmt: skip
    objective.add_argument("--free-bits", type=float, metavar="X", help="nats per latent that cost nothing (0)")

    steps = train.add_argument_group("optimisation")
    steps.add_argument("--epochs", default=absent, type=int, metavar="N", help=f"passes ({defaults.epochs})")
    steps.add_argument("--batch", default=absent, type=int, metavar="N", help=f"images per step ({defaults.batch})")
    steps.add_argument("--lr", default=absent, type=float, metavar="X", help=f"learning rate ({defaults.lr})")
    steps.add_argument("--optimizer", default=absent, metavar="NAME", help="adam, adamw, rmsprop, sgd (adam)")
    steps.add_argument("--momentum", default=absent, type=float, metavar="X", help="of sgd (0.9)")
    steps.add_argument("--weight-decay", default=absent, type=float, metavar="X", help="of adamw (0.01)")
    steps.add_argument("--schedule", default=absent, metavar="NAME",
                       help="constant; step: a tenth after each third; cosine: down to 0 (constant)")  # fmt: skip
    steps.add_argument("--lr-warmup", default=absent, type=int, metavar="STEPS",
                       help="steps over which the rate grows to its value (0)")  # fmt: skip
    steps.add_argument("--clip", default=absent, type=float, metavar="X", help="largest gradient norm (none)")
    steps.add_argument("--patience", default=absent, type=int, metavar="N",
                       help="stop after N epochs without a better test loss, keep the best (never)")  # fmt: skip

    run = train.add_argument_group("run")
    run.add_argument("--seed", default=absent, type=int, metavar="N", help="of everything random (0)")
    run.add_argument("--backend", default=absent, metavar="NAME", help=f"{', '.join(BACKENDS)} ({default_backend()})")
    run.add_argument("--dtype", default=absent, metavar="NAME", help="float32, float64 (float32)")
    run.add_argument("--out", type=Path, metavar="DIR", help="folder for the run (runs/1, runs/2, ...)")
    run.add_argument("--json", action="store_true", help="print one JSON object with the final figures")


def widths(text: str) -> tuple[int, ...]:
    """'400,200' -> (400, 200), '' -> ()."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 400,200, got {text!r}") from None
