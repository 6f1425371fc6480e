"""The cache of compiled kernels: when it is read, when not, and what happens where there can be none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config

import npvae
from npvae.ops import compiling

PACKAGE = Path(npvae.__file__).parent
compiles = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="the same compiled, in processes of their own")
WIDTHS = ("", "128", "256", "512")
FILES = sorted(path.name for path in (PACKAGE / "ops").glob("*.py"))


def run(code, folder, status=0, **environment):
    """What `code`, run in a process that keeps what it compiles in `folder`/cache, prints; or says as it fails."""
    env = {**os.environ, "PYTHONPATH": str(folder), "NUMBA_DISABLE_JIT": "0", "NUMBA_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**env, **environment}, capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == status, done.stderr
    return (done.stderr if status else done.stdout).strip()


def kept(folder):
    """The compiled files in a cache, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.nbc")}


@pytest.fixture
def copy(tmp_path):
    """A folder with the package in it, to be changed."""
    shutil.copytree(PACKAGE, tmp_path / "npvae", ignore=shutil.ignore_patterns("__pycache__", "*.xz"))
    return tmp_path


# ── When it is read ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FILES)
def test_a_change_in_any_file_of_kernels_changes_the_fingerprint(name, tmp_path):
    shutil.copytree(PACKAGE / "ops", tmp_path / "ops")
    before = compiling.fingerprint(tmp_path / "ops")
    assert before == compiling.FINGERPRINT
    path = tmp_path / "ops" / name
    path.write_bytes(path.read_bytes() + b"\n# changed\n")
    after = compiling.fingerprint(tmp_path / "ops")
    assert after != before
    path.write_bytes(path.read_bytes().replace(b"# changed", b"# chanced"))
    assert compiling.fingerprint(tmp_path / "ops") not in (before, after)


LEAKY = """
import numpy as np
from npvae.ops import compiling, threads
from npvae.ops.activation import activate_backward
from npvae.ops.reference import LEAKY_RELU
one, y, da = np.ones((1, 1)), -np.ones((1, 1)), np.empty((1, 1))
activate_backward(1, one, y, LEAKY_RELU, da)
print(da[0, 0], *compiling.census()[:2])
"""


@compiles
def test_a_constant_of_another_file_is_no_longer_the_old_one(copy):
    """And what has not changed is loaded: nothing is compiled twice, nothing written."""
    leak, compiled, loaded = run(LEAKY, copy).split()
    before = kept(copy)
    assert leak == "0.01" and int(compiled) == len(before) > 0 and loaded == "0"
    again = run(LEAKY, copy).split()
    assert again[:2] == ["0.01", "0"] and int(again[2]) > 0
    assert kept(copy) == before

    path = copy / "npvae" / "ops" / "reference.py"
    source = path.read_text("utf-8")
    assert source.count("\nLEAK = 0.01") == 1
    path.write_text(source.replace("\nLEAK = 0.01", "\nLEAK = 0.25"), "utf-8")
    assert run(LEAKY, copy).split() == ["0.25", compiled, "0"]
    assert run(LEAKY, copy).split() == ["0.25", *again[1:]]


CLOSURES = """
import numpy as np
from npvae.ops.compiling import census, parallel

@parallel()
def first(part, parts, out):
    out[part] += 1

@parallel()
def second(part, parts, out):
    out[part] += 2

x, y, one, two = (np.zeros(2) for _ in range(4))
first(2, x)
second(2, y)
first(1, one)
second(1, two)
print(*x, *y, *one, *two, *census()[:2])
"""


@compiles
def test_two_kernels_of_one_decorator_are_told_apart(tmp_path):
    """What `parallel` makes of them has the same file, line, name and signature."""
    (tmp_path / "closures.py").write_text(CLOSURES)
    results = "1.0 1.0 2.0 2.0 1.0 0.0 2.0 0.0"
    assert run("import closures", tmp_path) == f"{results} 4 0"
    before = kept(tmp_path)
    assert run("import closures", tmp_path) == f"{results} 0 4"
    assert kept(tmp_path) == before and len(before) == 4


@compiles
@pytest.mark.parametrize("lost", ["first", "launcher.locals.launch"])
def test_work_and_what_calls_it_are_kept_apart(lost, copy):
    """Either may be missing in the cache: the one is compiled anew, and the other finds it by its name."""
    (copy / "closures.py").write_text(CLOSURES)
    fresh = run("import closures", copy).rsplit(maxsplit=2)[0]
    gone = [path for path in kept(copy) if lost in path.name]
    for path in gone:
        path.unlink()
    assert gone and run("import closures", copy) == f"{fresh} {len(gone)} {4 - len(gone)}"


HELD = """
import numpy as np
from npvae.ops.compiling import COMPILED
from npvae.ops.matmul import product
from npvae.ops.threads import set_threads
set_threads(2)
product(np.ones((99, 99)), np.ones((99, 99)), np.empty((99, 99)))
def code(name):
    return "".join(code for each in COMPILED if each.py_func.__name__ == name for code in each.inspect_asm().values())

print(*(code(name).count("vfmadd") + code(name).count("fmla") for name in ("compute", "launch")), len(code("launch")))
"""


@compiles
def test_what_launches_work_holds_no_copy_of_it(tmp_path):
    work, launch, length = map(int, run(HELD, tmp_path, PYTHONPATH=str(PACKAGE.parent)).split())
    assert work > 30 and launch == 0 < length  # multiply-adds, of 8 x 3 accumulators at least


@compiles
def test_work_that_was_not_published_is_not_called_by_a_name():
    """LLVM would end the process over it."""
    from numba import njit, types

    from npvae.ops.linking import Named

    named = Named(njit(lambda part, parts, x: None), "work")
    call = named.call
    with pytest.raises(KeyError, match=r"^'work "):
        njit(lambda parts, x: call(0, parts, (x,)))(2, 1.0)
    named.publish((types.int64, types.int64, types.float64))
    assert njit(lambda parts, x: call(0, parts, (x,)))(2, 1.0) is None


@compiles
def test_the_width_of_a_vector_is_part_of_the_key(tmp_path):
    code = "from npvae.ops import compiling, tile; print(tile.BITS, compiling.FINGERPRINT)"
    found = [run(code, tmp_path, PYTHONPATH=str(PACKAGE.parent), NPVAE_VECTOR_BITS=bits).split() for bits in WIDTHS]
    assert [bits for bits, _ in found[1:]] == list(WIDTHS[1:])
    assert len({fingerprint for _, fingerprint in found}) == len(WIDTHS)


@compiles
@pytest.mark.parametrize("wrong", ["64", "wide", "512 "])
def test_a_width_that_no_vector_has_is_refused(wrong, tmp_path):
    says = f"npvae: the environment variable NPVAE_VECTOR_BITS must be 128, 256 or 512, got {wrong!r}"
    command = "import sys; from npvae import cli; sys.exit(cli.main(['info']))"
    environment = {"PYTHONPATH": str(PACKAGE.parent), "NPVAE_VECTOR_BITS": wrong}
    assert run(command, tmp_path, status=2, **environment).startswith(says)
    code = "import npvae as nv; nv.Workspace(nv.VAE(5, (4,), 2), 1)"  # importing alone is fine
    error = run(code, tmp_path, status=1, **environment)
    assert "load_backend" in error and error.splitlines()[-1].startswith(f"npvae.errors.InputError: {says[7:]}")


# ── Where there can be none ──────────────────────────────────────────────────────────────────────────────────────


def block(folder):
    """The environment in which Numba finds nowhere to keep what it compiles of a package in `folder`.

    A file stands wherever Numba would make a folder, which stops the superuser too.
    """
    for place in (folder, folder / "npvae" / "ops"):
        (place / "__pycache__").touch()
    (folder / "file").touch()
    return dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), str(folder / "file" / "below"))


@compiles
def test_works_where_nothing_can_be_cached(copy):
    (copy / "probe.py").write_text("def double(x):\n    return 2 * x\n")
    code = """
import numba, numpy as np, probe
try:
    numba.njit(cache=True)(probe.double)
except RuntimeError as error:
    assert "no locator" in str(error)
else:
    raise SystemExit("this place can be cached in: the test proves nothing")
from npvae.ops import compiling, jit
norm = jit.global_norm(np.array([3.0, 4.0]))
compiled, loaded, folder = compiling.census()
assert compiled > 0 and loaded == 0 and folder is None
print(jit.__file__, norm)
"""
    assert run(code, copy, **block(copy)) == f"{copy / 'npvae' / 'ops' / 'jit.py'} 5.0"


@compiles
@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files there")
def test_works_where_the_disk_is_full(copy):
    code = """
import resource, numpy as np
from npvae.ops import jit
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
print(jit.global_norm(np.array([3.0, 4.0])))
"""
    assert run(code, copy) == "5.0"
