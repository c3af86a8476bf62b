"""Define rules for values: each says in words what is allowed, and parses a value to a plain Python type."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a value may be: `allowed` says it in words, `parse` raises ValueError for any other value."""

    allowed: str
    parse: Callable[[Any], Any]


def number(above: float = -math.inf, at_least: float = -math.inf, below: float = math.inf) -> Rule:
    """Allow finite numbers within the bounds; parse them as float."""
    bounds = [f"> {above:g}"] * (above > -math.inf) + [f">= {at_least:g}"] * (at_least > -math.inf)
    bounds += [f"< {below:g}"] * (below < math.inf)

    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        if abs(value) > sys.float_info.max:
            raise ValueError
        number = float(value) + 0.0  # -0.0 becomes 0.0, so that equal values are written alike
        if not (math.isfinite(number) and above < number < below and number >= at_least):
            raise ValueError
        return number

    return Rule(", ".join(["a finite number", *bounds]), parse)


def whole(at_least: int, at_most: int = 2**63 - 1, also: str | int | None = None) -> Rule:
    """Allow whole numbers within the bounds (1e3 is one), and the word or number `also` if given."""

    def parse(value: Any) -> int | str:
        if isinstance(value, bool):  # true == 1
            raise ValueError
        if also is not None and value == also:
            return also
        if isinstance(value, float) and value.is_integer():  # epochs=1e3
            value = int(value)
        if not isinstance(value, int):
            raise ValueError
        if not at_least <= value <= at_most:
            raise ValueError
        return value

    top = f", at most {at_most}" if at_most < 2**63 - 1 else ""
    words = f"a whole number >= {at_least}{top}"
    return Rule(words + (f", or {also}" if also is not None else ""), parse)


def flag() -> Rule:
    """Allow true and false."""

    def parse(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Rule("true or false", parse)


def one_of(*names: str) -> Rule:
    """Allow the given names."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return Rule(", ".join(names), parse)


def list_of(rule: Rule, allowed: str, min_length: int = 0) -> Rule:
    """Allow lists of at least `min_length` items that the rule allows; parse them as tuples."""

    def parse(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) < min_length:
            raise ValueError
        return tuple(rule.parse(item) for item in value)

    return Rule(allowed, parse)


def text(
    allowed: str,
    pattern: str = r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+",
    number: bool = False,
    truth: bool = False,
) -> Rule:
    """Allow text that is not blank and matches the whole pattern.

    With `number` or `truth`, a number or a truth value is also allowed, and becomes text.
    """

    def parse(value: Any) -> str:
        if truth and isinstance(value, bool):
            value = str(value).lower()
        if number and isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip() or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return Rule(allowed, parse)


def optional(rule: Rule, otherwise: str) -> Rule:
    """Allow null as well, which stays None; `otherwise` says in words what null means."""

    def parse(value: Any) -> Any:
        return None if value is None else rule.parse(value)

    return Rule(f"{rule.allowed}; null: {otherwise}", parse)
