"""Sort values in natural order: numbers by size, [2] before [16], missing values last."""

from __future__ import annotations

import re
from typing import Any


def natural(text: str) -> tuple[str, list[int], str]:
    """Return the sort key of a text: the text before its first number, then its numbers, then the whole text.

    [] sorts before [2].
    """
    return re.split(r"[0-9\]]", text, maxsplit=1)[0], [int(n) for n in re.findall(r"[0-9]+", text)], text


def sort_key(value: Any) -> tuple[Any, ...]:
    """Return the sort key of a param's value of any type: numbers first, then texts, then missing values."""
    if value is None or value != value:
        return (2,)
    if isinstance(value, str):
        return (1, *natural(value))
    return 0, value
