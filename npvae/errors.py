"""What can go wrong by the user's hand, and the helpers that say so.

Everything here is raised once, at the public boundary. A message names the argument, says what was expected,
what came, and what to do; the command line prints it without a traceback.
"""

import os
from collections.abc import Collection
from difflib import get_close_matches
from numbers import Integral, Real


class InputError(ValueError):
    """Something given to npvae cannot be used as it is: exit code 2 on the command line."""


class DivergenceError(ArithmeticError):
    """The loss became NaN or infinite while training: exit code 1 on the command line."""


def check_choice(what: str, name: object, known: Collection[str]) -> str:
    """Return `name` if it is one of `known`; otherwise list what is known and suggest the nearest.

    >>> check_choice("activation", "rellu", ["relu", "tanh"])
    Traceback (most recent call last):
    npvae.errors.InputError: unknown activation 'rellu': expected one of relu, tanh. Did you mean 'relu'?
    """
    if isinstance(name, str) and name in known:
        return name
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f". Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown {what} {name!r}: expected one of {', '.join(known)}{hint}")


def check_whole(what: str, value: object, least: int = 1) -> int:
    """Return `value` as an int of at least `least`; fractions, text and booleans are refused.

    >>> check_whole("latent", 2.5)
    Traceback (most recent call last):
    npvae.errors.InputError: latent must be a whole number of at least 1, got 2.5
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least:
        return int(value)
    raise InputError(f"{what} must be a whole number of at least {least}, got {value!r}")


def check_real(what: str, value: object, least: float, below: float = float("inf"), *, open_: bool = False) -> float:
    """Return `value` as a finite float in [least, below), or in (least, below) if `open_`.

    >>> check_real("lr", -1, 0.0, open_=True)
    Traceback (most recent call last):
    npvae.errors.InputError: lr must be a number above 0.0, got -1
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # a whole number of more than 308 digits
            number = float("inf")
        if (number > least if open_ else number >= least) and number < below:
            return number
    bound = f"above {least}" if open_ else f"of at least {least}"
    limit = "" if below == float("inf") else f" and below {below}"
    raise InputError(f"{what} must be a number {bound}{limit}, got {value!r}")


def check_memory(what: str, wanted: int, advice: str) -> None:
    """Raise InputError if `what` takes more bytes than this machine has: before any of them is asked for."""
    held = physical_memory()
    if wanted > held:
        raise InputError(f"{what} needs {wanted / 2**30:.1f} GiB, this machine has {held / 2**30:.1f}: {advice}")


def physical_memory() -> int:
    """The machine's memory in bytes; where the system does not say, more than anything wants."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63
