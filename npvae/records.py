"""Results as JSON can say them."""

import math
from collections.abc import Mapping
from typing import Any


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same in dicts and lists at every depth; a number that JSON lacks (NaN, inf) becomes None.

    >>> plain({"loss": math.inf, "norms": (1.5, math.nan)})
    {'loss': None, 'norms': [1.5, None]}
    """
    return {key: _plain(value) for key, value in record.items()}


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
