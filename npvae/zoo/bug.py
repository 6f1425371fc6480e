"""A bug: the lines that are wrong, what they do to whoever runs them, and who is to find them."""

import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.abc import ExecutionLoader
from pathlib import Path
from types import ModuleType

PLAIN = Path(__file__).with_name("plain.py")


@dataclass(frozen=True)
class Bug:
    """One mistake in `plain.py`.

    name: what it is. story: how it comes about, and what it leads to. symptom: what is seen from outside. patches:
    (right text, wrong text) pairs, each right text occurring once. killer: who is to find it, "gradient" or a
    witness. kind: the diagnosis that names it. words: what that has to say besides, such as the layer or the factor.
    """

    name: str
    story: str
    symptom: str
    patches: tuple[tuple[str, str], ...]
    killer: str
    kind: str
    words: str = ""

    def source(self) -> str:
        """`plain.py` with this bug in it."""
        text = plain_source()
        for right, wrong in self.patches:
            if text.count(right) != 1:
                raise AssertionError(f"{self.name}: occurs {text.count(right)} times, not once: {right}")
            text = text.replace(right, wrong)
        return text


class TextLoader(ExecutionLoader):
    """Imports a text as if it were a file. Tracebacks show its lines, because Python asks the loader for them."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_filename(self, fullname: str) -> str:
        """A name in tracebacks."""
        return f"{fullname}.py"

    def get_source(self, fullname: str) -> str:
        """The text, whatever the module's name."""
        return self.text


@cache
def plain_source() -> str:
    """The text of `plain.py`."""
    return PLAIN.read_text("utf-8")


def as_module(source: str, name: str) -> ModuleType:
    """Import `source` as a fresh module, which no other shares; it is not entered in sys.modules."""
    loader = TextLoader(source)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
