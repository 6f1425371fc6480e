"""The machine that compiled code runs on, as Numba and LLVM see it."""

from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core.registry import cpu_target

from npvae.ops.compiling import VECTOR_BITS
from npvae.ops.threads import get_threads


def vector_registers() -> tuple[int, int]:
    """Bits of a vector register, and how many there are, on the processor that Numba compiles for.

    NUMBA_CPU_NAME may name another than the host's, so the compiler is asked: how does it add sixteen numbers at once?
    NPVAE_VECTOR_BITS (512, 256 or 128) overrules the answer.
    """
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    if numba.config.CPU_NAME and not numba.config.CPU_FEATURES:
        features = ""  # Numba adds the host's, which the named one need not have
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features or "", opt=2)
    add = "define void @f(ptr %p) { %v = load <16 x float>, ptr %p %w = fadd <16 x float> %v, %v "
    assembly = machine.emit_assembly(llvm.parse_assembly(add + "store <16 x float> %w, ptr %p ret void }"))
    widest = 512 if "zmm" in assembly else 256 if "ymm" in assembly else 128
    bits = int(VECTOR_BITS or widest)
    return bits, 32 if bits == 512 or not triple.startswith(("x86", "i")) else 16


def host() -> dict[str, Any]:
    """CPU, bits of a vector register and threads."""
    return {"cpu": llvm.get_host_cpu_name(), "vector bits": vector_registers()[0], "threads": get_threads()}
