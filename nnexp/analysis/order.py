"""The order in which people count: numbers by size, [2] before [16], and what is missing last."""

from __future__ import annotations

import re
from typing import Any


def natural(text: str) -> tuple[str, list[int], str]:
    """The sort key of a text with numbers: what comes before the first, then the numbers, [] before [2]."""
    return re.split(r"[0-9\]]", text, maxsplit=1)[0], [int(n) for n in re.findall(r"[0-9]+", text)], text


def sort_key(value: Any) -> tuple[Any, ...]:
    """The sort key of a param's value, whatever its type."""
    if value is None or value != value:
        return (2,)
    if isinstance(value, str):
        return (1, *natural(value))
    return 0, value
