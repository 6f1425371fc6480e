import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import npvae as nv
from benchmarks import __main__ as command
from benchmarks import (
    contest,
    epoch,
    machine,
    matmul,
    memory,
    ops,
    peaks,
    peers,
    pictures,
    results,
    scaling,
    startup,
    statistics,
    step,
)
from benchmarks.contest import Cell, Pace, Timing, compete
from benchmarks.options import Options
from benchmarks.peers import numpy_plain, ours
from benchmarks.problem import Problem
from benchmarks.serve import Session
from benchmarks.tables import cell_table, lower_bound, report
from benchmarks.workers import Worker, WorkerError, cores
from npvae.errors import InputError
from npvae.ops import load_backend, reference

SMALL = Problem(data=784, hidden=(6,), latent=3, batch=4)
PROBLEMS = (SMALL, Problem(hidden=(6, 5), latent=2, batch=3, samples=4, bound="iwae"))
QUICK = Timing(rounds=3, seconds=0.01)


class Inline:
    """A worker without a process of its own."""

    def __init__(self, name):
        self.name, self.session = name, Session()

    def ask(self, do, **arguments):
        answer = self.session.handle({"do": do, **json.loads(json.dumps(arguments))})
        if "error" in answer:
            raise WorkerError(answer["error"], answer.get("missing", False))
        return answer

    def settle(self):
        pass


def contend(cell, names, timing=QUICK):
    workers = {name: Inline(name) for name in names}
    return compete(cell, workers, {name: name.title() for name in names}, names[0], timing, Pace(timing.rounds))


# ── Statistics ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("n", "k"), [(6, 1), (8, 1), (9, 2), (11, 2), (15, 4), (20, 6), (30, 10), (101, 41)])
def test_interval_of_a_median(n, k):
    """The ranks that tables of the sign test give for 95 %."""
    values = np.random.default_rng(n).permutation(np.arange(1, n + 1))
    found = statistics.summarize(values)
    assert (found.low, found.high) == (k, n + 1 - k)
    missed = 2 * sum(math.comb(n, i) for i in range(k)) / 2**n
    assert found.coverage == pytest.approx(1 - missed) and missed <= 0.05
    assert found.median == np.median(values)


@pytest.mark.parametrize(("n", "coverage"), [(1, 0.0), (2, 0.5), (3, 0.75), (5, 0.9375)])
def test_interval_of_a_few_values(n, coverage):
    found = statistics.summarize(range(n))
    assert (found.low, found.high, found.coverage) == (0, n - 1, coverage)


def test_interval_holds_the_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = np.exp(rng.standard_normal((2000, 15)))  # skew, as times are; its median is 1
    held = [found.low <= 1 <= found.high for found in map(statistics.summarize, draws)]
    assert np.mean(held) == pytest.approx(statistics.summarize(draws[0]).coverage, abs=0.015)


def test_nothing_to_summarise():
    with pytest.raises(ValueError, match="no values"):
        statistics.summarize([])


def test_a_slow_round_cancels_in_ratios():
    own, slow = np.array([1.0, 1.5, 3.0]), np.array([1.0, 10.0, 2.0])
    assert statistics.ratios(2 * own * slow, own * slow) == pytest.approx([2, 2, 2])
    records = {"a": {"values": [1, 10, 2]}, "b": {"values": [3, 30, 6]}, "c": {"status": "missing"}}
    contest.summarise(records, "a")
    assert records["b"]["ratio"] == 3 and records["b"]["ratio_interval"] == [3, 3]
    assert records["a"]["median"] == 2 and records["a"]["interval"] == [1, 10]
    assert records["c"] == {"status": "missing"}


# ── The problem and who computes it ──────────────────────────────────────────────────────────────────────────────────


def test_problem_has_npvaes_layout():
    for problem in (*step.PROBLEMS, *PROBLEMS):
        model = nv.VAE(data=problem.data, hidden=problem.hidden, latent=problem.latent)
        ws = nv.Workspace(model, 1, backend="reference")
        assert problem.parameters == ws.theta.size
        for (W, b), (_, w, v) in zip(problem.layers(ws.theta), triples(nv.named(ws.params)), strict=True):
            assert W.shape == w.shape and np.shares_memory(W, w) and np.shares_memory(b, v)
        np.testing.assert_array_equal(problem.flatten(problem.layers(ws.theta)), ws.theta)
        assert Problem.from_json(json.loads(json.dumps(problem.to_json()))) == problem


def triples(named):
    names = list(named)
    return [(W, named[W], named[b]) for W, b in zip(names[::2], names[1::2], strict=True)]


def test_flops_of_a_step():
    layers = ((784, 400), (400, 40), (20, 400), (400, 784))
    assert Problem().flops == 2 * 128 * (3 * sum(i * o for i, o in layers) - 784 * 400)
    assert Problem(samples=5, bound="iwae").flops > 3 * Problem().flops
    assert Problem().name == "784-400-20 B=128" and step.PROBLEMS[-1].name == "784-200-200-50 B=100 K=50"


def test_batches_are_digits():
    given = step.arrays(Problem(batch=16))
    assert given["x"].shape == (8, 16, 784) and given["eps"].shape == (8, 16, 1, 20)
    assert set(np.unique(given["x"])) == {0, 1} and 0.05 < given["x"].mean() < 0.25
    assert {array.dtype for array in given.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(given["theta"], step.arrays(Problem(batch=128))["theta"])


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.bound)
def test_plain_numpy_has_the_references_gradient(problem):
    given = {name: array.astype(np.float64) for name, array in step.arrays(problem).items()}
    plain = numpy_plain.make("numpy", problem, given, tune=False).answer()
    exact = ours.make("reference", problem, given, tune=False, dtype="float64").answer()
    for name in exact:
        assert contest.l2(plain[name], exact[name]) < 1e-9, name


@pytest.mark.parametrize(("problem", "name"), list(product(PROBLEMS, ("jit", "reference", "numpy"))))
def test_contestants_are_right(problem, name):
    given = step.arrays(problem)
    contestant = peers.make(name, problem.to_json(), given)
    errors = step.check_of(problem, given)(contestant.answer())
    assert all(error <= most for error, most in errors.values()), errors
    theta = contestant.theta()
    np.testing.assert_array_equal(theta, given["theta"])  # answering leaves no trace
    contestant.run(2)
    assert not np.array_equal(contestant.theta(), theta)
    contestant.reset()
    np.testing.assert_array_equal(contestant.theta(), theta)


def test_every_peer_has_its_module():
    assert peers.OURS in peers.PEERS
    for peer in peers.PEERS.values():
        assert (machine.ROOT / "benchmarks" / "peers" / f"{peer.module}.py").is_file()


# ── Validation ───────────────────────────────────────────────────────────────────────────────────────────────────────


def spoil(monkeypatch, name, change):
    """Contestants whose `name` is changed."""
    kept = getattr(numpy_plain.Plain, name)
    monkeypatch.setattr(numpy_plain.Plain, name, lambda self, *given: change(kept(self, *given)))


WRONG = {
    "gradient": ("loss_and_gradient", lambda found: (found[0], 2 * found[1])),
    "loss": ("loss_and_gradient", lambda found: (found[0] * 1.001, found[1])),
    "worst tensor": ("loss_and_gradient", lambda found: (found[0], np.r_[found[1][:-784], 1.002 * found[1][-784:]])),
    "gradient off by inf": ("loss_and_gradient", lambda found: (found[0], np.nan * found[1])),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_contestant_is_refused(monkeypatch, what):
    spoil(monkeypatch, *WRONG[what])
    cell = contend(step.cell_of(SMALL), ["reference", "numpy"])
    record = cell["contestants"]["numpy"]
    assert record["status"] == "refused" and what in record["reason"]
    assert "values" not in record and "times" not in record
    assert cell["contestants"]["reference"]["status"] == "timed"


@pytest.mark.parametrize(("name", "value"), [("LR", 1.01e-3), ("BETA1", 0.89), ("BETA2", 0.99), ("EPSILON", 1e-4)])
def test_another_adam_is_refused(monkeypatch, name, value):
    problem = Problem(hidden=(50,), batch=64)
    given = step.arrays(problem)
    check = step.check_of(problem, given)
    right = check(numpy_plain.make("numpy", problem, given, tune=False).answer())
    monkeypatch.setattr(numpy_plain, name, value)
    wrong = check(numpy_plain.make("numpy", problem, given, tune=False).answer())
    assert right["update"][0] < step.LARGEST["update"] < wrong["update"][0]
    assert wrong["gradient"] == right["gradient"]


@pytest.mark.parametrize("shape", [(), (3,), (SMALL.parameters + 1,)])
def test_an_answer_of_another_shape_is_refused(shape):
    check = step.check_of(SMALL, step.arrays(SMALL))
    errors = check({"loss": np.array(1.0), "gradient": np.zeros(shape), "update": np.zeros(shape)})
    assert errors["gradient"][0] == errors["worst tensor"][0] == math.inf


# ── A contest ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_contest():
    cell = contend(step.cell_of(SMALL), ["jit", "reference", "numpy"])
    assert cell["name"] == SMALL.name and cell["flops"] == SMALL.flops and cell["parameters"] == SMALL.parameters
    for name, record in cell["contestants"].items():
        assert record["status"] == "timed" and record["label"] == name.title()
        assert len(record["values"]) == 3 and min(record["values"]) > 0 and record["times"] >= 1
        assert record["interval"][0] <= record["median"] <= record["interval"][1]
        assert record["errors"].keys() == step.LARGEST.keys()
    assert cell["contestants"]["jit"]["ratio"] == 1
    json.dumps(cell, allow_nan=False)


@pytest.mark.parametrize("name", ["torch", "torch-compiled", "jax", "autograd"])
def test_a_missing_peer_is_named(monkeypatch, name):
    package = peers.PEERS[name].package
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, f"{package}.numpy", None)
    monkeypatch.delitem(sys.modules, f"benchmarks.peers.{peers.PEERS[name].module}", raising=False)
    cell = contend(step.cell_of(SMALL), ["numpy", name])
    record = cell["contestants"][name]
    assert record["status"] == "missing" and package in record["reason"]
    assert cell["contestants"]["numpy"]["status"] == "timed"
    assert f"{name.title()}: missing" in cell_table(cell)


def test_a_peer_that_fails_later_is_named(monkeypatch):
    kept, calls = numpy_plain.Plain.run, []

    def run(self, times):
        calls.append(times)
        if len(calls) > 6:
            raise FloatingPointError("it broke")
        kept(self, times)

    monkeypatch.setattr(numpy_plain.Plain, "run", run)
    cell = contend(step.cell_of(SMALL), ["reference", "numpy"])
    record = cell["contestants"]["numpy"]
    assert record["status"] == "failed" and "it broke" in record["reason"] and "values" not in record
    assert "median" in cell["contestants"]["reference"]


def test_rounds_interleave():
    heard = []

    class Fake(Inline):
        def ask(self, do, **arguments):
            if do == "burst":
                heard.append(self.name)
                return {"seconds": 1.0}
            return {"notes": {}}

    names = ["a", "b", "c"]
    cell = Cell("cell", "maker", {}, lambda answer: {})
    timing, original = Timing(rounds=8, seconds=1.0), contest.read_arrays
    try:
        contest.read_arrays = lambda path: {}
        compete(cell, {n: Fake(n) for n in names}, dict(zip(names, names, strict=True)), "a", timing, Pace(8))
    finally:
        contest.read_arrays = original
    rounds = np.reshape(heard[-24:], (8, 3)).tolist()
    assert all(sorted(one) == names for one in rounds)
    assert len(set(map(tuple, rounds))) > 2  # the order changes


def test_a_process_of_its_own():
    worker = Worker("numpy", 1)
    try:
        found = worker.ask("call", module="os", function="getenv", key="OPENBLAS_NUM_THREADS")
        assert found == {"result": "1"}
        with pytest.raises(WorkerError, match="no_such_module") as error:
            worker.ask("call", module="no_such_module", function="f")
        assert error.value.missing
        with pytest.raises(WorkerError, match="TypeError: str expected") as error:
            worker.ask("call", module="os", function="getenv", key=7)
        assert not error.value.missing
        worker.ask("call", module="builtins", function="print")  # to stderr, not among the answers
        assert worker.ask("memory").keys() == {"peak", "now"}
        with pytest.raises(WorkerError, match="exit code 7"):
            worker.ask("call", module="os", function="_exit", status=7)
        with pytest.raises(WorkerError, match="its process ended"):
            worker.ask("memory")
    finally:
        worker.close()


# ── The other benchmarks ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", matmul.KINDS)
def test_products(kind):
    wanted = matmul.Product(kind, 5, 7, 3)
    M, K, N = wanted.shape
    assert wanted.flops == 2 * M * K * N == 2 * 5 * 7 * 3 and wanted.bytes == 4 * (M * K + K * N + M * N)
    cell = contend(matmul.cell_of(wanted), ["jit", "numpy"])
    assert {record["status"] for record in cell["contestants"].values()} == {"timed"}


def test_a_wrong_product_is_refused(monkeypatch):
    monkeypatch.setattr(np, "matmul", lambda a, b, out: out.fill(1))
    cell = contend(matmul.cell_of(matmul.Product("y = x W", 5, 7, 3)), ["numpy"])
    assert cell["contestants"]["numpy"]["status"] == "refused"


@pytest.mark.parametrize("name", ["dense 400×40 backward", "reparameterize forward", "iwae forward", "elbo backward"])
def test_ops(name):
    cell = contend(ops.cell_of(name), ["jit", "reference"])
    assert {record["status"] for record in cell["contestants"].values()} == {"timed"}, cell
    assert cell["bytes"] > 0 and cell["flops"] > 0


def test_every_op_is_there():
    named = {name.split(" ")[0] for name in ops.every()}
    pairs = {name.removesuffix("_forward") for name in vars(reference) if name.endswith("_forward")}
    assert pairs <= named
    assert all(hasattr(load_backend("reference"), f"{rule}_step") for rule in ("adam", "rmsprop", "sgd"))


def test_plan_of_scaling():
    names = [name for name, _, _ in scaling.plan(2)]
    assert names[:4] == ["threads 1, B=128", "threads 2, B=128", "threads 1, B=512", "threads 2, B=512"]
    assert len(names) == len(set(names)) == 4 + len(scaling.BATCHES) + len(scaling.WIDTHS)
    assert scaling.counts(12) == [1, 2, 3, 4, 8, 12] and scaling.counts(1) == [1]


def test_memory_of_a_step(tmp_path):
    session = Session()
    np.savez(tmp_path / "given.npz", **step.arrays(SMALL))
    session.do_load("benchmarks.peers", "reference", SMALL.to_json(), str(tmp_path / "given.npz"))
    assert 0 < session.do_trace()["peak"] < 10e6
    if sys.platform == "linux":
        held = session.do_memory()
        assert 0 < held["now"] <= held["peak"]
    assert len(set(memory.CELLS)) == 4


def one_round(monkeypatch, benchmark, names):
    """The cells of a benchmark of few rounds, on a small problem."""
    monkeypatch.setattr(benchmark, "Problem", lambda: SMALL)
    monkeypatch.setattr(machine, "describe", lambda threads: {})
    return benchmark.run(Options(rounds=2, seconds=0.01, peers=names, quick=True))["cells"]


MEASURES = pytest.mark.parametrize(
    ("benchmark", "place"), [(startup, "benchmarks.startup"), (memory, "benchmarks.memory")], ids=("startup", "memory")
)


@MEASURES
def test_who_is_measured_answers(monkeypatch, benchmark, place):
    cells = one_round(monkeypatch, benchmark, ("reference", "numpy"))
    assert [cell["name"] for cell in cells] == list(benchmark.CELLS)
    for cell in cells:
        for record in cell["contestants"].values():
            assert (
                record["status"] == "timed" and record["median"] > 0 and record["errors"].keys() == step.LARGEST.keys()
            )
            assert 0 < record["errors"]["gradient"] < step.LARGEST["gradient"]


@MEASURES
def test_a_wrong_answer_is_not_measured(monkeypatch, benchmark, place):
    """The reference that all are compared with is of another start: all are refused."""
    kept = step.check_of
    other = {**step.arrays(SMALL), "theta": step.arrays(SMALL)["theta"] * 1.001}
    monkeypatch.setattr(f"{place}.check_of", lambda problem, given: kept(problem, other))
    for cell in one_round(monkeypatch, benchmark, ("numpy",)):
        record = cell["contestants"]["numpy"]
        assert record["status"] == "refused" and "gradient off by" in record["reason"] and "values" not in record


@pytest.mark.skipif(cores() < 2, reason="there is one processor")
def test_a_start_keeps_to_its_processors(monkeypatch):
    kept = []
    monkeypatch.setattr(startup, "restrict", lambda process, threads: kept.append((os.getpgid(process), threads)))
    given = step.arrays(SMALL)
    monkeypatch.setattr(startup, "read_arrays", lambda path: {})
    verdict, times = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "given.npz", **given)
        verdict, times = startup.start("numpy", SMALL, Path(folder) / "given.npz", 1, folder, lambda answer: {})
    assert verdict == {"status": "timed", "errors": {}} and kept == [(os.getpgid(0), 1)]
    assert 0 < times["import"] + times["first"] + times["second"] < times["process"]


def test_an_epoch():
    problem = Problem(hidden=(6,), latent=3, batch=16)
    cell = epoch.cell_of(problem, rows=40)  # the last batch has 8 rows
    made = contend(cell, ["jit", "reference", "numpy"])
    for record in made["contestants"].values():
        assert record["status"] == "timed" or "epoch off by" in record["reason"], record
        assert record["errors"].keys() == {*step.LARGEST, "epoch"}
        assert record["errors"]["epoch"] < 0.1  # of so few digits
    for name in ("jit", "reference"):  # which draw the same numbers
        assert made["contestants"][name]["status"] == "timed" and made["contestants"][name]["errors"]["epoch"] < 1e-5


@pytest.mark.parametrize("name", ["torch", "torch-compiled", "jax"])
def test_a_missing_peer_of_an_epoch_is_named(monkeypatch, name):
    package = peers.PEERS[name].package
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"benchmarks.peers.{peers.PEERS[name].module}", raising=False)
    cell = contend(epoch.cell_of(SMALL, rows=20), ["reference", name])
    assert cell["contestants"][name]["status"] == "missing" and package in cell["contestants"][name]["reason"]
    assert cell["contestants"]["reference"]["status"] == "timed"


# ── Results ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def described():
    return machine.describe(1)


def test_machine(described):
    assert described["cpu"] and described["cores"] == cores() and described["threads"] == 1
    assert described["vector_bits"] in (64, 128, 256, 512)
    assert described["libraries"]["numpy"] == np.__version__ and "torch" in described["libraries"]
    assert described["memory"] is None or described["memory"] > 2**28
    assert described["python"].endswith(sys.version.split()[0])
    json.dumps(described, allow_nan=False)


def test_settings_that_matter_are_kept(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setattr(machine, "call", lambda *a, **b: None)
    assert machine.describe(1)["environment"]["OPENBLAS_CORETYPE"] == "Haswell"


def record(label, seconds, own):
    made = {"label": label, "status": "timed", "values": [seconds] * 7, "median": seconds, "coverage": 0.98}
    return made | {"interval": [0.95 * seconds, 1.06 * seconds], "ratio": seconds / own,
                   "ratio_interval": [0.94 * seconds / own, 1.05 * seconds / own]}  # fmt: skip


def synthetic(benchmark, cells):
    """A result as a benchmark leaves it."""
    loop = {"found": 48, "expected": 24, "lanes": 16}
    limits = {"fma": 3.5e11, "triad": 2.5e10, "update": {"652824": 1.1e11}, "fma_instructions": loop}
    described = {"cpu": "A processor", "cores": 2, "threads": 2}
    return {"schema": results.SCHEMA, "benchmark": benchmark, "options": {"rounds": 7}, "machine": described,
            "peaks": limits, "cells": cells}  # fmt: skip


def synthetic_step():
    speeds = dict(zip(peers.PEERS, (1.0, 4.2, 1.9, 1.45, 1.6, 1.2, 5.5), strict=True))
    cells = []
    for problem in step.PROBLEMS[:5]:
        base = 1e-4 + problem.batch * 2e-5
        named = {n: record(peers.PEERS[n].label, base * f * (1 + 0.3 / problem.batch), base) for n, f in speeds.items()}
        named["jax"] = {"label": "JAX jit", "status": "missing", "reason": "no module named jax"}
        facts = {"flops": problem.flops, "parameters": problem.parameters, "problem": problem.to_json()}
        cells.append({"name": problem.name, "unit": "s", **facts, "contestants": named})
    return synthetic("step", cells)


def synthetic_products():
    cells = []
    for wanted in matmul.PRODUCTS:
        base = wanted.flops / 2e11 + 2e-6
        named = {"jit": record("npvae", base, base), "numpy": record("NumPy", 1.3 * base, base)}
        cells.append({"name": wanted.name, "unit": "s", "flops": wanted.flops, "bytes": wanted.bytes,
                      "contestants": named})  # fmt: skip
    return synthetic("matmul", cells)


def synthetic_ops():
    cells = []
    for i, name in enumerate(ops.every()):
        facts = {"flops": 10**6 * (i + 1), "bytes": 4 * 10**5 + 10**4 * i}
        cells.append({"name": name, "unit": "s", **facts, "contestants": {"jit": record("npvae jit", 1e-4, 1e-4)}})
    return synthetic("ops", cells)


def test_table():
    text = report(synthetic_step())
    assert "A processor, 2 of 2 cores, 7 rounds" in text and "350 GFLOP/s" in text
    block = text.split("\n\n")[2].splitlines()
    head = "784-400-20 B=16 µs interval ratio interval GFLOP/s of the limit"
    assert block[0].split() == head.split()
    assert block[-1] == "  JAX jit: missing, no module named jax"
    ends = {len(line) for line in block[:-1]}
    assert len(ends) == 1  # the columns are aligned
    torch = next(line for line in block if "PyTorch eager" in line).split()
    assert torch[2:6] == ["620", "589–658", "1.48", "1.39–1.55"]


def test_limits_of_a_step():
    limits = {"fma": 1e11, "triad": 1e10, "update": {"1000": 2.8e10}}
    cell = {"unit": "s", "flops": 10**9, "parameters": 1000}
    assert lower_bound(cell, limits) == pytest.approx(1e-2 + 1e-6)
    assert lower_bound(cell | {"parameters": 7}, limits) is None  # not measured at that size
    assert lower_bound({"unit": "s", "flops": 10**9}, limits | {"update": {}}) == pytest.approx(1e-2)
    assert lower_bound({"unit": "s", "flops": 1, "bytes": 2.8e10}, limits) == pytest.approx(1)
    assert lower_bound({"unit": "MiB"}, limits) is None and lower_bound(cell, None) is None


def test_a_peak_that_the_compiler_changed_is_not_trusted():
    made = synthetic("matmul", [])
    assert "trusted" not in report(made)
    made["peaks"]["fma_instructions"]["found"] = 12
    assert "not to be trusted" in report(made)


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="there is no machine code to look at")
def test_the_loop_of_multiply_adds_is_as_written():
    found = peaks.instructions()
    lanes, count, _ = peaks.registers()
    assert found["expected"] == count and found["lanes"] == lanes
    if machine.platform.machine().lower() in ("x86_64", "amd64") and lanes >= 8:
        assert found["found"] > 0 and found["found"] % count == 0


def test_results_are_read_back(tmp_path, monkeypatch, described):
    monkeypatch.setattr(machine, "describe", lambda threads: described)
    cells = [contend(step.cell_of(SMALL), ["reference", "numpy"])]
    made = results.result("step", Options(rounds=3), cells)
    path = results.write(made, tmp_path / "results")
    assert path == tmp_path / "results" / "step.json" and [p.name for p in path.parent.iterdir()] == ["step.json"]
    found = results.read(path.parent, "step")
    assert found == json.loads(json.dumps(made))
    assert found.keys() == {"schema", "benchmark", "options", "machine", "peaks", "cells"}
    assert "Reference" in report(found)
    with pytest.raises(InputError, match="python -m benchmarks ops"):
        results.read(path.parent, "ops")
    path.write_text('{"schema": 0}')
    with pytest.raises(InputError, match="schema"):
        results.read(path.parent, "step")


def size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", content[16:24])


def test_pictures(tmp_path):
    for made in (synthetic_step(), synthetic_products(), synthetic_ops()):
        results.write(made, tmp_path)
    drawn, lacking = pictures.draw_all(tmp_path, tmp_path / "pictures")
    assert not lacking
    assert [path.name for path in drawn] == ["ratios.png", "roofline.png"]
    assert [size(path) for path in drawn] == [(960, 588), (960, 696)]


def test_names_at_the_ends_of_lines_stand_apart():
    figure = pictures.ratios(synthetic_step())
    figure.draw_without_rendering()
    labels = {peer.label for name, peer in peers.PEERS.items() if name != "jax"}  # which was not there
    texts = [text for text in figure.axes[0].texts if text.get_text() in labels]
    assert {text.get_text() for text in texts} == labels
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(step, "run", lambda options: synthetic_step() | {"options": {"rounds": options.rounds}})
    assert command.main(["step", "--quick", "--out", str(tmp_path)]) == 0
    assert "PyTorch compiled" in capsys.readouterr().out
    assert results.read(tmp_path, "step")["options"] == {"rounds": 3}
    plot = ["plot", "--out", str(tmp_path), "--pictures", str(tmp_path)]
    assert command.main(plot) == 0
    assert (tmp_path / "ratios.png").is_file() and not (tmp_path / "roofline.png").exists()
    assert "no roofline.png" in (said := capsys.readouterr().err) and "python -m benchmarks matmul" in said
    (tmp_path / "step.json").write_text('{"schema": 1')
    assert command.main(plot) == 2 and "step.json is not JSON" in capsys.readouterr().err
    (tmp_path / "step.json").unlink()
    assert command.main(plot) == 2
    assert command.main(["step", "--peers", "tensorflow"]) == 2
    assert "unknown peer 'tensorflow'" in capsys.readouterr().err
    assert command.main(["step", "--rounds", "0"]) == 2
    with pytest.raises(SystemExit, match="2"):
        command.main(["stepp"])


def test_options():
    options = Options(peers=("torch", "jax"), only="b=128")
    assert options.choose(list(peers.PEERS)) == ["jit", "torch", "jax"]
    assert options.wants("784-400-20 B=128") and not options.wants("784-400-20 B=16")
    assert Options().choose(("jit", "numpy")) == ["jit", "numpy"]


def test_help_teaches():
    environment = os.environ | {"COLUMNS": "120"}
    shown = subprocess.run([sys.executable, "-m", "benchmarks", "--help"], cwd=machine.ROOT, env=environment,
                           capture_output=True, text=True, check=True, timeout=60).stdout  # fmt: skip
    assert all(name in shown for name in (*command.NAMES, "--quick", "--threads", 'pip install -e ".[bench]"'))


def test_a_peers_process_loads_no_other_contestant():
    others = "{'npvae', 'numba', 'torch', 'jax'}"
    code = f"import benchmarks.serve, benchmarks.peers, sys; print({others} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=machine.ROOT, capture_output=True, text=True, check=True,
                           timeout=60).stdout  # fmt: skip
    assert shown.strip() == "set()"
