"""The machine that compiled code runs on, as Numba and LLVM see it."""

from typing import Any

import llvmlite.binding as llvm
import numba


def host() -> dict[str, Any]:
    """CPU, bits of a vector register and threads."""
    features = llvm.get_host_cpu_features()
    widths = {"avx512f": 512, "avx2": 256, "avx": 256, "sse2": 128, "neon": 128}
    bits = max((width for feature, width in widths.items() if features.get(feature)), default=64)
    return {"cpu": llvm.get_host_cpu_name(), "vector bits": bits, "threads": numba.get_num_threads()}
