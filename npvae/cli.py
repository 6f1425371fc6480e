"""The command line: `main`, and the commands that study. Results go to stdout, everything else to stderr."""

import argparse
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from npvae import adapters, datasets, lessons, plots
from npvae.arguments import parser
from npvae.checking import check_function
from npvae.checkpoint import write_atomically
from npvae.commands import (
    data_of,
    evaluate_command,
    first,
    model_of,
    plot_command,
    reconstruct_command,
    resume_command,
    sample_command,
    train_command,
    write_json,
)
from npvae.errors import DivergenceError, InputError, check_choice
from npvae.explaining import explain
from npvae.lessons.page import write_page
from npvae.models import OPTIONS
from npvae.ops import default_backend
from npvae.progress import Progress
from npvae.runs import CONFIG, load
from npvae.selfcheck import Checked, count, selfcheck
from npvae.training import Interrupted
from npvae.vae import VAE
from npvae.warmup import warmup
from npvae.workspace import Workspace
from npvae.zoo import report as zoo

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
        path = Path(options.out or f"{options.heatmap.replace('/', '.')}.png")
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
    if options.name is None and options.json:
        listed = [(name, *lessons.describe(name)[:2]) for name in lessons.NAMES]
        write_json({"lessons": [{"lesson": name, "title": title, "claim": claim} for name, title, claim in listed]})
        return False
    if options.name is None:
        width = max(map(len, lessons.NAMES))
        print("\n".join(f"{name:<{width}}  {lessons.describe(name)[0]}" for name in lessons.NAMES))
        return False
    check_choice("lesson", options.name, (*lessons.NAMES, "all"))
    make_folder(Path(options.out))  # before minutes are spent
    if options.name == "all":
        return all_lessons(options)
    outcome = lessons.run(options.name, options.quick, options.out)
    if options.json:
        write_json(outcome.to_dict())
    else:
        print(f"{outcome}\n{options.out}: {options.name}.png, {options.name}.json")
    return not outcome.holds


def make_folder(path: Path) -> None:
    """Make the folder of --out; InputError if it cannot be one."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out must be a folder, or a place where one can be made, got {path}: {error}") from error


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
    explained = explain(pass_of_run(options) if options.run is not None else pass_of_model(options))
    if options.json:
        write_json(explained.to_dict())
    elif path is None:
        print(explained)
    else:
        if path.suffix == ".png":
            plots.save({path.stem: explained.figure()}, path.parent)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, f"{PAGE}{explained._repr_html_()}\n</body>\n</html>\n".encode())
        print(path)


def pass_of_run(options: argparse.Namespace) -> Workspace:
    """A workspace after a forward as the run was trained: binarised, corrupted, with its samples and its beta."""
    default = parser().parse_args(["explain"])
    for name in ("model", "latent", *OPTIONS["vae"], "rescale"):
        if getattr(options, name) != getattr(default, name):
            raise InputError(f"--{name.replace('_', '-')} is of a new model: leave it out, or leave out {options.run}")
    run = load(options.run)
    images = first(data_of(run, options.data).test.images, options.batch, 64)
    run.check(images)
    images = run.binarize(images)
    seen = run.corrupt(images)
    samples = run.settings.samples or 1 if options.samples is None else options.samples
    ws = Workspace(run.model, len(images), samples, run.settings.dtype, options.backend, theta=run.theta)
    beta = 1.0 if run.settings.beta is None else run.settings.beta
    ws.forward(seen, None if seen is images else images, beta=beta)
    return ws


def pass_of_model(options: argparse.Namespace) -> Workspace:
    """A workspace after a forward of a new model."""
    data = datasets.load(options.data or "mnist-small", rescale=options.rescale)
    images = first(data.test.images, options.batch, 64)
    model = model_of(options, data)
    if isinstance(model, VAE):
        model.p_x.check(images)
    samples = 1 if options.samples is None else options.samples
    ws = Workspace(model, len(images), samples, backend=options.backend)
    ws.forward(images)
    return ws


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
