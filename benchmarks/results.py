"""The result of a benchmark as a file of JSON.

{"schema": 1, "benchmark": "step", "options": {...}, "machine": {...}, "peaks": {...} or null, "cells": [
    {"name": "784-400-20 B=128", "unit": "s", ..., "contestants": {
        "jit": {"label": "npvae jit", "status": "timed", "notes": {...}, "errors": {"gradient": 1e-7, ...},
                "values": [one per round], "median": ..., "interval": [low, high], "coverage": 0.96,
                "ratio": 1.0, "ratio_interval": [1.0, 1.0]},
        "jax": {"label": "JAX jit", "status": "missing", "reason": "ModuleNotFoundError: No module named 'jax'"}}}]}

A status is "timed", "missing" (not installed), "failed" (with its error) or "refused" (its answer was wrong). A ratio
is the contestant's value by ours of the same round.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.options import Options
from npvae.checkpoint import write_atomically
from npvae.errors import InputError

SCHEMA = 1
Result = dict[str, Any]


def result(benchmark: str, options: Options, cells: list[Any], peaks: dict[str, Any] | None = None) -> Result:
    """All that is kept of a benchmark."""
    described = machine.describe(options.threads)
    return {
        "schema": SCHEMA,
        "benchmark": benchmark,
        "options": asdict(options),
        "machine": described,
        "peaks": peaks,
        "cells": cells,
    }


def write(made: Result, folder: Path) -> Path:
    """Write folder/<benchmark>.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{made['benchmark']}.json"
    write_atomically(path, (json.dumps(made, indent=1, allow_nan=False) + "\n").encode())
    return path


def read(folder: Path, benchmark: str) -> Result:
    """The result that `write` wrote; InputError if there is none, or one of another schema."""
    path = folder / f"{benchmark}.json"
    if not path.is_file():
        raise InputError(f"{path} is not there: run `python -m benchmarks {benchmark}` first")
    try:
        made = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): run `python -m benchmarks {benchmark}` again") from error
    if not isinstance(made, dict) or made.get("schema") != SCHEMA:
        raise InputError(f"{path} is not of schema {SCHEMA}: run `python -m benchmarks {benchmark}` again")
    return made
