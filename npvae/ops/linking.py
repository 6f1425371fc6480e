"""How one compiled function calls another without holding a copy of it.

Numba links whatever a function calls into it, and a loop whose turns are shared out becomes four functions, each of
which holds the one before: a matrix product would be optimised and translated five times, a second or two in all. So
the work is called by a name instead, which LLVM looks up when it loads the caller, be it from the compiler or from the
cache. Until then the work has to be compiled and its address told to LLVM, which ends the process over a name that it
does not know; that is why nothing but the caller's own `compile` may see to it.
"""

import hashlib
from typing import Any

import llvmlite.binding as llvm
from numba import types
from numba.core import cgutils, sigutils
from numba.extending import intrinsic


class Named:
    """Compiled work(part, parts, *arguments) that others call by a name, one for each combination of types.

    `call`(part, parts, arguments) is what they write.
    """

    def __init__(self, work: Any, name: str) -> None:
        self.work, self.name = work, name
        self.known: dict[str, Any] = {}  # what was compiled, by the name that it is called by

        @intrinsic
        def call(typing_context: Any, part: Any, parts: Any, arguments: Any) -> Any:
            name = self.name_for((part, parts, *arguments))
            callee = self.known[name].fndesc  # a KeyError here would be a lost process later

            def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
                kind = context.call_conv.get_function_type(callee.restype, callee.argtypes)
                address = cgutils.get_or_insert_function(build.module, kind, name)
                given = [*values[:2], *cgutils.unpack_tuple(build, values[2], len(arguments))]
                status, _ = context.call_conv.call_function(build, address, callee.restype, callee.argtypes, given)
                with cgutils.if_unlikely(build, status.is_error):
                    context.call_conv.return_status_propagate(build, status)
                return context.get_dummy_value()

            return types.void(part, parts, arguments), generate

        self.call = call

    def name_for(self, arguments: tuple[Any, ...]) -> str:
        """What it is called for arguments of these types: the same in every process."""
        return f"{self.name} {hashlib.sha256(str(arguments).encode()).hexdigest()}"

    def publish(self, arguments: tuple[Any, ...]) -> None:
        """Compile it for arguments of these types, or load it from the cache, and tell LLVM its address."""
        self.work.compile(arguments)
        compiled, name = self.work.overloads[arguments], self.name_for(arguments)
        llvm.add_symbol(name, compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))
        self.known[name] = compiled

    def publish_before(self, caller: Any) -> None:
        """Do so whenever `caller`(parts, *arguments) is about to be compiled or loaded."""
        compile_for = caller.compile

        def compile_both(signature: Any) -> Any:
            (parts, arguments), _ = sigutils.normalize_signature(signature)
            self.publish((types.int64, parts, *arguments))
            return compile_for(signature)

        caller.compile = compile_both
