"""Threads: how many there are, that no result depends on them, and what may enter them from where.

What could end a process or wait for ever runs in a process of its own. Under NUMBA_DISABLE_JIT=1 parts are done one
after another, on smaller arrays.
"""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numba import config
from op_cases import CASES, same
from test_jit import outcome

import npvae as nv
from npvae.errors import InputError
from npvae.ops import jit, matmul, threads

UNCOMPILED = bool(config.DISABLE_JIT)
LAYERS = pytest.mark.parametrize("layer", ["omp"] if UNCOMPILED else ["omp", "workqueue"])
compiled = pytest.mark.skipif(UNCOMPILED, reason="there is no pool")
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

DATA, HIDDEN, LATENT, BATCH = (7, (5,), 2, 3) if UNCOMPILED else (70, (33, 41), 5, 20)


def python(code, **environment):
    """What `code`, run in a process of its own next to the tests, prints."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=here, timeout=300
        )
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"hangs: {hung}")
    assert run.returncode == 0, (run.returncode, run.stderr)
    return run.stdout.strip()


@pytest.fixture(autouse=True)
def as_before():
    yield
    nv.set_threads(threads.max_threads())


# ── How many ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_there_are_unless_told_otherwise():
    assert python("import npvae as nv; print(nv.get_threads())", NUMBA_NUM_THREADS="3") == "3"
    assert nv.get_threads() == threads.max_threads() == config.NUMBA_NUM_THREADS


def test_what_is_set_is_used():
    nv.set_threads(1)
    assert nv.get_threads() == threads.parts(10**12) == 1
    code = """
import npvae as nv
from npvae.ops import threads
assert threads.parts(threads.SMALL) == 4
for count in (1, 3, 4, 2):
    nv.set_threads(count)
    assert nv.get_threads() == threads.parts(threads.SMALL) == count
    assert threads.parts(threads.SMALL - 1) == threads.parts(0) == 1
    with threads.cut_all():
        assert threads.parts(0) == count
from npvae.ops.host import host
print(host()["threads"])
"""
    assert python(code, NUMBA_NUM_THREADS="4") == "2"


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2", None, np.float64(1)])
def test_other_numbers_are_refused(wrong):
    before = nv.get_threads()
    with pytest.raises(InputError, match=r"^threads must be a whole number of at least 1, got "):
        nv.set_threads(wrong)
    assert nv.get_threads() == before


def test_no_more_than_there_are():
    most, before = threads.max_threads(), nv.get_threads()
    with pytest.raises(InputError, match=f"^threads must be 1 to {most}, got {most + 1}: .* NUMBA_NUM_THREADS"):
        nv.set_threads(most + 1)
    assert nv.get_threads() == before
    nv.set_threads(np.int64(most))
    assert type(nv.get_threads()) is int


def test_numba_is_not_imported_before_it_is_needed():
    code = "import sys, npvae as nv; print('numba' in sys.modules, nv.get_threads() > 0, 'numba' in sys.modules)"
    assert python(code) == "False True True"


# ── The same bits ────────────────────────────────────────────────────────────────────────────────────────────────


def of_ops():
    """One number for the bits of all ops, and of the updates."""
    bits = hashlib.sha256()
    for dtype in (np.float32, np.float64):
        for case in CASES:
            for result in outcome(case, dtype):
                bits.update(np.asarray(result).tobytes())
        rng = np.random.default_rng(0)
        n = 1000 if UNCOMPILED else 150_001
        theta, dtheta, first, second = (rng.random(n).astype(dtype) for _ in range(4))
        norm = jit.global_norm(dtheta)
        jit.sgd_step(theta, dtheta, first, 0.1, 0.9, 1 / norm)
        jit.rmsprop_step(theta, dtheta, second, 0.1, 0.9, 1e-8, 1.0)
        jit.adam_step(theta, dtheta, first, second, 0.1, 0.9, 0.99, 1e-8, 3, 1.0)
        for result in (theta, first, second, norm):
            bits.update(np.asarray(result).tobytes())
    return bits.hexdigest()


def trained(steps=3, dtype="float32", seed=0):
    """The parameters of a VAE after so many steps."""
    model = nv.VAE(DATA, HIDDEN, LATENT, "tanh", bound=nv.IWAE())
    ws = nv.Workspace(model, BATCH, samples=2, dtype=dtype, backend="jit", seed=seed)
    x = np.random.default_rng(seed).random((BATCH, DATA))
    optimizer = nv.Adam(ws, clip=1.0)
    for _ in range(steps):
        ws.forward(x)
        ws.backward()
        optimizer.step()
    return ws.theta


def of_training():
    return hashlib.sha256(trained().tobytes() + trained(dtype="float64").tobytes()).hexdigest()


@pytest.mark.parametrize("what", ["of_ops", "of_training"])
def test_bits_do_not_depend_on_the_threads(what):
    """Nor on the process, nor on the run."""
    nv.set_threads(1)
    expected = globals()[what]()
    code = f"""
import test_threads as t
from npvae.ops import threads
with threads.cut_all():
    for count in (1, 2, 4, 3, 4):
        t.nv.set_threads(count)
        print(threads.parts(0), t.{what}())
"""
    assert python(code, NUMBA_NUM_THREADS="4").split("\n") == [f"{count} {expected}" for count in (1, 2, 4, 3, 4)]


@pytest.mark.parametrize("kernel", ["bernoulli", "reparameterize_backward", "adam"])
def test_a_part_that_is_not_done_would_show(kernel):
    """Or the test above would prove nothing: the last of three parts is left out."""
    code = f"""
import test_threads as t
from npvae.ops import kernels
right = t.of_ops()
whole = kernels.{kernel}
work = next(c.cell_contents for c in whole.__closure__ if c.cell_contents.__name__ == "{kernel}")
def most(parts, *arguments):
    for part in range(2):
        work(part, 3, *arguments)
setattr(kernels, "{kernel}", most)
assert t.of_ops() != right
setattr(kernels, "{kernel}", lambda parts, *arguments: [work(part, 3, *arguments) for part in (2, 0, 1)])
assert t.of_ops() == right
"""
    python(code)


# ── Entered from several threads of Python ───────────────────────────────────────────────────────────────────────


def several(count=2, steps=5 if UNCOMPILED else 50):
    """Train in `count` threads of Python at once, all work cut: the results are those of one after another."""
    with threads.cut_all():
        trained(1)  # compiles
        expected = [trained(steps, seed=seed) for seed in range(count)]
        results, start = [None] * count, threading.Barrier(count)

        def work(seed):
            start.wait()
            results[seed] = trained(steps, seed=seed)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for result, serial in zip(results, expected, strict=True):
        assert same(result, serial)


def test_several_threads_of_python():
    several()


def products(seed, times, results):
    """How many of so many products are wrong."""
    rng = np.random.default_rng(seed)
    shapes = ((8, 5), (12, 5)) if UNCOMPILED else ((128, 400), (784, 400))
    a, b = (rng.integers(-3, 4, shape).astype(np.float32) for shape in shapes)
    expected, out = a @ b.T, np.empty((len(a), len(b)), np.float32)
    for _ in range(times):
        results.append(np.array_equal(matmul.product_nt(a, b, out), expected))


def test_threads_of_python_do_not_share_what_a_product_packs():
    """Numba lets go of Python's lock while its pool works, a second product would begin before the first is done."""
    results, times = [], 5 if UNCOMPILED else 60
    workers = [threading.Thread(target=products, args=(seed, times, results)) for seed in range(2)]
    with threads.cut_all():
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(results) == 2 * times and all(results)


@LAYERS
def test_several_threads_of_python_on_any_layer(layer):
    """Numba's workqueue would abort if two entered it at once."""
    code = """
import test_threads, numba
test_threads.several(3)
print(test_threads.nv.get_threads(), test_threads.UNCOMPILED or numba.threading_layer())
"""
    found = python(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="4")
    assert found == f"4 {UNCOMPILED or layer}"


# ── After a fork ─────────────────────────────────────────────────────────────────────────────────────────────────


@fork
@LAYERS
def test_a_child_works_on_with_one_thread(layer):
    """Its parent's threads stayed behind: an attempt to use them would end it or wait for ever."""
    code = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: it knows of the threads
import test_threads as t
from npvae.ops import threads
with threads.cut_all():
    expected = t.of_training()
    for _ in range(2):
        child = os.fork()
        if not child:
            try:
                assert t.nv.get_threads() == threads.parts(0) == threads.max_threads() == 1
                assert t.of_training() == expected
                t.nv.set_threads(1)
                try:
                    t.nv.set_threads(2)
                except t.InputError as error:
                    assert "fork" in str(error) and "spawn" in str(error)
                else:
                    raise AssertionError("a child has no more than one")
                grandchild = os.fork()
                if not grandchild:
                    os._exit(t.of_training() != expected)
                assert os.waitpid(grandchild, 0)[1] == 0
                assert t.of_training() == expected
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        assert t.of_training() == expected
        status = os.waitpid(child, 0)[1]
        assert status == 0, status
        assert t.nv.get_threads() == threads.parts(0) == 4
        assert t.of_training() == expected
"""
    python(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="4")


@fork
@LAYERS
@compiled
@pytest.mark.parametrize("before", [True, False], ids=("pool started", "pool not started"))
def test_worker_processes_by_fork(layer, before):
    code = f"""
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import test_threads as t
from npvae.ops import threads
with threads.cut_all():
    if {before}:
        t.of_training()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = [pool.apply_async(t.of_training) for _ in range(4)]
        results = {{result.get(120) for result in results}}
        assert set(pool.starmap(t.nv.get_threads, [()] * 4)) == {{1}}
    print(*results, t.of_training())
"""
    first, second = python(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="4").split()
    assert first == second == of_training()


@compiled
def test_worker_processes_by_spawn():
    """These have threads of their own."""
    code = """
import multiprocessing
import test_threads as t
if __name__ == "__main__":
    t.of_training()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(t.nv.get_threads), pool.apply(t.of_training) == t.of_training())
"""
    assert python(code, NUMBA_NUM_THREADS="4") == "4 True"
