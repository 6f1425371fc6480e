"""What the figures were measured on: processor, caches, memory, system, libraries, settings."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.workers import ROOT, THREAD_VARIABLES, call, cores

PACKAGES = ("npvae", "numpy", "numba", "llvmlite", "torch", "jax", "jaxlib", "autograd", "scipy", "threadpoolctl")

# Settings that change what is measured; thread counts are set by the benchmark itself.
VARIABLES = (
    "OPENBLAS_CORETYPE", "OPENBLAS_THREAD_TIMEOUT", "MKL_ENABLE_INSTRUCTIONS", "KMP_AFFINITY", "KMP_BLOCKTIME",
    "OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES",
    "NUMBA_DISABLE_JIT", "NUMBA_THREADING_LAYER", "NUMBA_OPT", "NPVAE_VECTOR_BITS", "XLA_FLAGS", "JAX_ENABLE_X64",
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "TORCHINDUCTOR_MAX_AUTOTUNE", "LD_PRELOAD", "MALLOC_ARENA_MAX",
)  # fmt: skip


def describe(threads: int) -> dict[str, Any]:
    """Everything that somebody needs who wants the same figures; None for what this system does not tell."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": threads,
        "vector_bits": call(threads, "benchmarks.machine", "vector_bits"),
        "caches": caches(),
        "memory": memory(),
        "os": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": {name: installed(name) for name in PACKAGES},
        "blas": call(threads, "benchmarks.machine", "blas"),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "thread_variables": list(THREAD_VARIABLES),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """The processor's name for people."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def vector_bits() -> int:
    """Bits of the widest vector register, as the compiler under npvae sees it."""
    from npvae.ops.host import host

    return int(host()["vector bits"])


def caches() -> dict[str, int] | None:
    """Bytes of each cache that the first processor uses, by name: L1d, L1i, L2, L3."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with suppress(OSError, ValueError):
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
            found[f"L{level}{suffix}"] = int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
    return found or None


def memory() -> int | None:
    """Bytes of the machine's memory."""
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def installed(name: str) -> str | None:
    """The version of a package, None if it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def blas() -> list[dict[str, Any]]:
    """The BLAS under NumPy: its kernels and number of threads, or what NumPy was built with if threadpoolctl is
    not installed."""
    import numpy as np

    try:
        from threadpoolctl import threadpool_info  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        built = np.show_config(mode="dicts")
        return [{"built_with": built["Build Dependencies"]["blas"].get("name")}] if built else []
    keys = ("user_api", "internal_api", "version", "num_threads", "threading_layer", "architecture")
    return [{key: pool.get(key) for key in keys} for pool in threadpool_info()]


def commit() -> str | None:
    """The commit that is checked out, with a + where files differ from it."""
    name = output("git", "rev-parse", "HEAD")
    return name and name + ("+" if output("git", "status", "--porcelain", "--untracked-files=no") else "")


def output(*command: str) -> str | None:
    """What a command prints, None if it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
