"""Imports run one way, heavy ones wait, and some things are nowhere: read from the sources, and from an interpreter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import npvae

ROOT = Path(npvae.__file__).parent
PARTS = (  # a module may import those on lines above its own
    "errors records",
    "flat ops",
    "noise checkpoint progress",
    "reports oracles factors layering",
    "probing",
    "evidence",
    "diagnosis",
    "relations calls",
    "examination",
    "datasets mlp",
    "likelihoods bounds",
    "vae",
    "autoencoder",
    "workspace",
    "optim checking models specimens",
    "runs warmup selfcheck adapters quadrature normal linear information",
    "evaluation zoo",
    "training",
    "codes",
    "mosaics filters mmd",
    "plots arguments",
    "diagrams",
    "explaining",
    "lessons commands",
    "cli",
    "__main__",
)
RANKS = {name: rank for rank, line in enumerate(PARTS) for name in line.split()}
PACKAGES = ("datasets", "lessons", "ops", "zoo")
INSIDE = {  # of a package, the same
    "ops": (
        "updates threads linking",
        "compiling",
        "reference elementary host",
        "activation tile",
        "kernels matmul",
        "jit",
        "__init__",
    ),
    "datasets": ("arrays streams", "download idx npy png", "known", "sources embed", "__init__"),
    "lessons": (
        "outcome mathml style",
        "digits plane parabola",
        # The lessons: none knows another.
        "autoencoder pca not_pca deep denoise cannot_generate pixel_gaussian marginal divergence elbo loss collapse "
        "reparameterization generate",
        "__init__",
        "page",
    ),
    "zoo": (
        "plain bug testimony",
        "loss_witnesses training_witnesses",
        "wrong_gradients",
        "wrong_losses",
        "report",
        "__init__",
    ),
}


def dotted(path):
    """npvae/ops/jit.py -> ("ops", "jit")."""
    return path.relative_to(ROOT).with_suffix("").parts


SOURCES = {dotted(path): ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}
MODULES = pytest.mark.parametrize("module", SOURCES, ids="/".join)


class Imports(ast.NodeVisitor):
    """Every import of a module: (dotted name, whether it runs when the module is imported)."""

    def __init__(self, tree):
        self.found, self.lazy = [], False
        self.visit(tree)

    def visit_FunctionDef(self, node):
        lazy, self.lazy = self.lazy, True
        self.generic_visit(node)
        self.lazy = lazy

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef  # noqa: N815

    def visit_If(self, node):
        if "TYPE_CHECKING" in ast.unparse(node.test):  # never run
            for branch in node.orelse:
                self.visit(branch)
        else:
            self.generic_visit(node)

    def visit_Import(self, node):
        self.found += [(alias.name, self.lazy) for alias in node.names]

    def visit_ImportFrom(self, node):
        assert node.level == 0, "relative imports hide where a name comes from"
        self.found += [(f"{node.module}.{alias.name}", self.lazy) for alias in node.names]


def own(name):
    """npvae.ops.jit.dense_forward -> ("ops", "jit"); None for what is not the package's."""
    first, *rest = name.split(".")
    if first != "npvae":
        return None
    for length in (2, 1):
        for tail in ((), ("__init__",)):
            if (*rest[:length], *tail) in SOURCES:
                return (*rest[:length], *tail)
    return ("__init__",)


def rank(module):
    """Where a module of the package stands."""
    name = module[0]
    assert name in RANKS, f"npvae/{name} has no place in the order of imports: give it one in {Path(__file__).name}"
    return RANKS[name]


def rank_inside(module):
    package, name = module
    for place, line in enumerate(INSIDE[package]):
        if name in line.split():
            return place
    pytest.fail(f"npvae/{package}/{name} has no place in the order of imports: give it one in {Path(__file__).name}")


@MODULES
def test_imports_run_one_way(module):
    for name, _ in Imports(SOURCES[module]).found:
        target = own(name)
        if target is None or module == ("__init__",):
            continue
        assert target != ("__init__",), f"{'/'.join(module)} imports {name}: the package itself imports everything"
        if target[0] == module[0]:
            assert rank_inside(target) < rank_inside(module), f"{'/'.join(module)} imports {name}"
        else:
            assert rank(target) < rank(module), f"{'/'.join(module)} imports {name}"


@MODULES
def test_every_module_has_a_place(module):
    if module != ("__init__",):
        rank(module)
    if len(module) > 1:
        rank_inside(module)


def test_every_place_has_a_module():
    assert set(RANKS) == {module[0] for module in SOURCES} - {"__init__"}
    for package, lines in INSIDE.items():
        names = {name for line in lines for name in line.split()}
        assert names == {module[1] for module in SOURCES if module[0] == package}


@MODULES
def test_numba_is_imported_in_ops_alone_and_matplotlib_when_it_draws(module):
    for name, lazy in Imports(SOURCES[module]).found:
        top = name.split(".")[0]
        assert top not in ("numba", "llvmlite") or module[0] == "ops", name
        assert top != "matplotlib" or lazy, name
        assert "pyplot" not in name, "pyplot keeps global state and figures alive: make a Figure"


@MODULES
def test_heavy_backends_are_imported_lazily(module):
    """What leads to Numba is imported inside functions, but by what is itself behind it."""
    behind = {
        ("ops", name) for name in ("jit", "kernels", "host", "compiling", "elementary", "activation", "tile", "matmul")
    }
    for name, lazy in Imports(SOURCES[module]).found:
        assert own(name) not in behind or lazy or module in behind, name


@MODULES
def test_what_is_nowhere(module):
    imported = {name.split(".")[0] for name, _ in Imports(SOURCES[module]).found}
    assert not imported & {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(SOURCES[module]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print" or module in {("cli",), ("commands",)}, f"line {node.lineno} prints"
            assert not called.endswith("plt.show") and called not in ("eval", "exec"), f"line {node.lineno}"
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle":
                    assert ast.unparse(keyword.value) == "False", f"line {node.lineno}"
                assert keyword.arg != "fastmath" or ast.unparse(keyword.value) != "True", f"line {node.lineno}"


def test_the_reader_of_imports_reads_them():
    """Or none of the above would mean anything."""
    source = """
import numpy, pickle
if TYPE_CHECKING:
    import matplotlib.figure
else:
    import json
class C:
    import csv
    def f(self):
        from npvae.ops import jit
try:
    from numba import njit
except ImportError:
    g = lambda: __import__("x")
"""
    assert Imports(ast.parse(source)).found == [
        ("numpy", False), ("pickle", False), ("json", False), ("csv", False), ("npvae.ops.jit", True),
        ("numba.njit", False),
    ]  # fmt: skip
    assert own("npvae.ops.jit") == own("npvae.ops.jit.dense_forward") == ("ops", "jit")
    assert own("npvae.noise") == own("npvae.noise.stream") == ("noise",)
    assert own("npvae.datasets.load") == own("npvae.datasets") == ("datasets", "__init__")
    assert own("npvae.VAE") == own("npvae") == ("__init__",) and own("numpy.linalg") is None
    with pytest.raises(AssertionError, match="npvae/unheard has no place"):
        rank(("unheard",))
    assert any(name == "numba.njit" for name, _ in Imports(SOURCES["ops", "compiling"]).found)


# ── The package as it is imported ────────────────────────────────────────────────────────────────────────────────


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return result.stdout


@pytest.mark.parametrize("module", ["npvae", "npvae.cli", "npvae.plots"])
def test_importing_waits_for_nothing_heavy(module):
    """Nor does a model on the reference."""
    code = (
        f"import sys, {module}, npvae\n"
        "ws = npvae.Workspace(npvae.VAE(5, (4,), 2), 2, backend='reference')\n"
        "ws.forward(__import__('numpy').ones((2, 5)))\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = ast.literal_eval(run(code))
    assert "npvae" in loaded and "numpy" in loaded
    assert not {"numba", "llvmlite", "matplotlib", "scipy", "PIL"} & set(loaded)


def test_public_names_hide_no_module():
    """Else importing the one would hide the other."""
    modules = {module[0] for module in SOURCES}
    public = set(npvae.__all__)
    assert public & modules == {"datasets", "lessons"}  # which are the modules
    assert run("import npvae; print(npvae.datasets.__name__)").strip() == "npvae.datasets"
    assert len(public) == len(npvae.__all__) and all(hasattr(npvae, name) for name in public)
