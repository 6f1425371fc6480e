"""Somebody's code as the command line is told of it: path/to/module.py:name, and three functions behind it.

What `name` stands for has

    params()            a dict of the parameters by name, float arrays, in the order of the forward pass
    loss(params)        the loss there, a number: the same number every time it is asked
    gradients(params)   a dict of the loss's derivatives by each of them; called right after loss(params)

and may have terms(params) and sizes, see `check_function`. It may be an object, a class (made without arguments), a
function that returns the object, or, if there is no `name`, the module itself.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from npvae.errors import InputError

THREE = ("params", "loss", "gradients")


class Adapter(NamedTuple):
    """Arguments of `check_function`."""

    params: Any
    loss: Callable[[Any], Any]
    gradients: Callable[[Any], Any]
    terms: Callable[[Any], Any] | None
    sizes: Any


def load(target: str) -> Adapter:
    """The adapter that `target` names. Its module is run, with its folder first among those that imports look in.

    Raises InputError if there is no such file or name, if one of the three functions is missing, or if the code
    raises; then, and whenever its functions are called, the message says where.
    """
    path, _, name = target.rpartition(":") if not target.endswith(".py") else (target, "", "")
    file = Path(path or target)
    if file.suffix != ".py" or not file.is_file():
        raise InputError(f"expected path/to/module.py or path/to/module.py:name, and there is no file {str(file)!r}")
    found = guarded(target, "importing it", lambda: _import(file))()
    if name:
        named = vars(found).items()
        public = [key for key, value in named if not key.startswith("_") and not isinstance(value, ModuleType)]
        if name not in public:
            raise InputError(f"{file} has no {name!r}: it has {', '.join(public) or 'nothing'}")
        found = getattr(found, name)
    if isinstance(found, type) or (callable(found) and not all(hasattr(found, each) for each in THREE)):
        found = guarded(target, f"{name}()", found)()
    missing = [each for each in THREE if not callable(getattr(found, each, None))]
    if missing:
        raise InputError(
            f"{target} must have the functions params(), loss(params) and gradients(params): "
            f"it lacks {', '.join(missing)}"
        )
    terms = getattr(found, "terms", None)
    return Adapter(
        guarded(target, "params()", found.params)(),
        guarded(target, "loss(params)", found.loss),
        guarded(target, "gradients(params)", found.gradients),
        None if terms is None else guarded(target, "terms(params)", terms),
        getattr(found, "sizes", None),
    )


def guarded(target: str, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; what it raises becomes an InputError that says where it was raised."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (Exception, SystemExit) as error:  # a script that ends itself was not checked
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
            at = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
            raise InputError(f"{target}: {what} raised {type(error).__name__}{at}: {error}") from error

    return call


def _import(file: Path) -> Any:
    before = sys.modules.get(file.stem)
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None  # it ends in .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
        if before is not None:
            sys.modules[file.stem] = before
    return module
