"""The command line. Results go to stdout, everything else to stderr; nothing here computes."""

import argparse
import io
import json
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from npvae import adapters, datasets, lessons, mosaics, plots
from npvae.arguments import parser
from npvae.checking import check_function
from npvae.checkpoint import write_atomically
from npvae.datasets import Dataset
from npvae.errors import DivergenceError, InputError, check_whole
from npvae.evaluation import evaluate
from npvae.explaining import explain
from npvae.lessons.page import write_page
from npvae.models import OPTIONS, make_model
from npvae.ops import default_backend
from npvae.progress import Progress
from npvae.reports import plain
from npvae.runs import CONFIG, FIGURES, Run, Settings, load, read_config
from npvae.selfcheck import Checked, count, selfcheck
from npvae.training import Interrupted, resume, train
from npvae.vae import VAE
from npvae.warmup import warmup
from npvae.workspace import Workspace
from npvae.zoo import report as zoo

MODEL = {"model": "vae"}  # the options of a model that are not None when they are left out
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>npvae explain</title>
</head>
<body style="font-family:sans-serif">
"""
FAILED, BAD_INPUT = 1, 2  # exit codes; a signal gives 128 + its number


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 failed (a wrong gradient included), 2 bad usage or input,
    128 + signal.
    """
    options = parser().parse_args(arguments)
    restore = hear_sigterm()
    try:
        failed = COMMANDS[options.command](options)
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
    return FAILED if failed else 0


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def train_command(options: argparse.Namespace) -> None:
    """npvae train."""
    data = datasets.load(options.data, rescale=options.rescale, rows=options.rows)
    named = {name: getattr(options, name) for name in ("latent", *OPTIONS["vae"])}
    model = make_model(options.model, data.train.images.shape[1], **named)
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
    for path in plots.save(plots.figures(run, run.dataset(options.data)), options.out or Path(options.run) / FIGURES):
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


def gradcheck_command(options: argparse.Namespace) -> bool:
    """npvae gradcheck; whether something is wrong."""
    if options.zoo or options.exercise is not None or options.solution:
        return visit_zoo(options)
    if options.out is not None and options.heatmap is None:
        raise InputError("--out is where --heatmap TENSOR draws: leave it out, or say which tensor")
    if options.target is None:
        if options.heatmap is not None:
            raise InputError("--heatmap draws the error of your code: say which, path/to/module.py:name")
        return check_npvae(options.json)
    with redirect_stdout(sys.stderr):  # what their code prints is no part of the report
        code = adapters.load(options.target)
        progress = Progress(len(code.params) if isinstance(code.params, dict) else 1, unit="tensors")
        report = check_function(
            code.loss, code.gradients, code.params, terms=code.terms, sizes=code.sizes,
            progress=lambda done, total: progress.update(done, ""),
        )  # fmt: skip
        progress.close()
    if options.heatmap is not None:
        path = Path(options.out or f"{options.heatmap}.png")
        report.heatmap(options.heatmap, path)
        print(path, file=sys.stderr)
    print(report.to_json() if options.json else report)
    return not report.ok


def visit_zoo(options: argparse.Namespace) -> bool:
    """The report on all bugs, an exercise or its solution; whether a bug survives."""
    if options.target is not None or options.heatmap is not None:
        raise InputError("--zoo and --exercise bring their own code: leave out yours, and --heatmap")
    if options.zoo and (options.exercise is not None or options.solution):
        raise InputError("--zoo reports on all bugs, --exercise shows one: give one of them")
    if options.exercise is None and options.solution:
        raise InputError("--solution of which exercise? Say --exercise N --solution")
    if options.exercise is not None:
        if options.json:
            raise InputError("--exercise prints a file of Python, --json a report: give one of them")
        print(zoo.solution(options.exercise) if options.solution else zoo.exercise(options.exercise))
        return False
    progress = Progress(len(zoo.BUGS), unit="bugs")
    survey = zoo.survey(lambda done, total: progress.update(done, ""))
    progress.close()
    if options.json:
        write_json(survey.to_dict())
    else:
        print(survey)
    return not survey.ok


def check_npvae(as_json: bool) -> bool:
    """Every op and model; whether something is wrong."""
    progress, checked = Progress(count(), unit="checks"), []
    for one in selfcheck():
        checked.append(one)
        progress.update(len(checked), one.name)
    progress.close()
    wrong = [one for one in checked if not one.report.ok]
    if as_json:
        checks = [{"name": c.name, "backend": c.backend, **c.report.to_dict()} for c in checked]
        write_json({"ok": not wrong, "checks": checks})
    else:
        print(self_table(checked))
        for one in wrong:
            print(f"\n{one.name}, {one.backend}\n{one.report}")
    return bool(wrong)


def lesson_command(options: argparse.Namespace) -> bool:
    """npvae lesson; whether a claim does not hold."""
    if options.name is None:
        width = max(map(len, lessons.NAMES))
        print("\n".join(f"{name:<{width}}  {lessons.describe(name)[0]}" for name in lessons.NAMES))
        return False
    if options.name == "all":
        return all_lessons(options)
    outcome = lessons.run(options.name, options.quick, options.out)
    if options.json:
        write_json(outcome.to_dict())
    else:
        print(f"{outcome}\n{options.out}: {options.name}.png, {options.name}.json")
    return not outcome.holds


def all_lessons(options: argparse.Namespace) -> bool:
    """Every lesson in the lecture's order, and the page of them; whether a claim does not hold."""
    progress, outcomes = Progress(len(lessons.NAMES), unit="lessons"), []
    for name in lessons.NAMES:
        outcomes.append(lessons.run(name, options.quick, options.out))
        progress.update(len(outcomes), name)
        if not options.json:
            progress.close()
            print(outcomes[-1].line(), flush=True)
    page = write_page(outcomes, Path(options.out))
    holds = all(outcome.holds for outcome in outcomes)
    if options.json:
        write_json({"holds": holds, "page": str(page), "lessons": [outcome.to_dict() for outcome in outcomes]})
    else:
        print(page)
    return not holds


def explain_command(options: argparse.Namespace) -> None:
    """npvae explain."""
    path = None if options.out is None else Path(options.out)
    if path is not None and path.suffix not in (".png", ".html"):
        raise InputError(f"--out must end in .png or .html, got {path}")
    if path is not None and options.json:
        raise InputError("--out writes a picture or a page, --json prints: give one of them")
    if options.run is not None:
        run = load(options.run)
        given = [name for name in ("model", "latent", *OPTIONS["vae"]) if getattr(options, name) != MODEL.get(name)]
        if given:
            raise InputError(
                f"--{given[0].replace('_', '-')} is of a new model: leave it out, or leave out {options.run}"
            )
        images = first(data_of(run, options.data).test.images, options.batch)
        run.check(images)
        model, theta, images = run.model, run.theta, run.binarize(images)
        seen = run.corrupt(images)
        samples, dtype = options.samples or run.settings.samples or 1, run.settings.dtype
    else:
        images = first(datasets.load(options.data or "mnist-small").test.images, options.batch)
        named = {name: getattr(options, name) for name in ("latent", *OPTIONS["vae"])}
        model, theta, seen = make_model(options.model, images.shape[1], **named), None, images
        if isinstance(model, VAE):
            model.p_x.check(images)
        samples, dtype = options.samples or 1, "float32"
    ws = Workspace(model, len(images), samples, dtype, options.backend, theta=theta)
    ws.forward(seen, None if seen is images else images)
    explained = explain(ws)
    if options.json:
        write_json(explained.to_dict())
    elif path is None:
        print(explained)
    elif path.suffix == ".html":
        write_atomically(path, f"{PAGE}{explained._repr_html_()}\n</body>\n</html>\n".encode())
        print(path)
    else:
        plots.save({path.stem: explained.figure()}, path.parent)
        print(path)


def warmup_command(options: argparse.Namespace) -> None:
    """npvae warmup."""
    result = warmup(options.dtype, lambda line: print(line, file=sys.stderr))
    print(f"{result.compiled} kernels compiled in {result.seconds:.1f} s, {result.loaded} loaded from the cache")
    print(f"cache: {result.folder}")


# ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def going_on(options: argparse.Namespace) -> str:
    """How to take up the run that a command was training, if it got so far as to have a folder."""
    folder = {"train": "out", "resume": "run"}.get(options.command)
    folder = folder and getattr(options, folder)
    return f". To go on: npvae resume {folder}" if folder and (Path(folder) / CONFIG).exists() else ""


def hear_sigterm() -> Callable[[], Any]:
    """Make SIGTERM an exception, as SIGINT is one, and return what undoes that. While it trains, `fit` hears both."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    return lambda: signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def self_table(checked: list[Checked]) -> str:
    """A line for every op and model, with the largest error on each backend."""
    rows: dict[str, dict[str, str]] = {}
    for name, backend, report in checked:
        rows.setdefault(name, {})[backend] = f"{report.max_error:.1e}" + ("" if report.ok else " WRONG")
    backends = list(next(iter(rows.values())))
    width = max(map(len, rows))
    lines = [f"{'largest error':<{width}}" + "".join(f"  {backend:<14}" for backend in backends)]
    lines += [f"{name:<{width}}" + "".join(f"  {errors[b]:<14}" for b in backends) for name, errors in rows.items()]
    arrays = sum(len(report.tensors) for _, _, report in checked)
    wrong = sum(not check.ok for _, _, report in checked for check in report.tensors)
    said = f"{wrong} gradients are not right" if wrong else "every gradient is right"
    return "\n".join([*(line.rstrip() for line in lines), f"{len(checked)} checks of {arrays} arrays: {said}"])


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
    print(json.dumps(plain(values), allow_nan=False))


COMMANDS: dict[str, Callable[[argparse.Namespace], bool | None]] = {
    "train": train_command,
    "resume": resume_command,
    "sample": sample_command,
    "reconstruct": reconstruct_command,
    "evaluate": evaluate_command,
    "plot": plot_command,
    "gradcheck": gradcheck_command,
    "lesson": lesson_command,
    "explain": explain_command,
    "warmup": warmup_command,
    "info": info_command,
}
