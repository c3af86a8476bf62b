"""Define the space of a search: its dimensions, its corners, and the overrides that set a trial's values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product
from typing import Any, Literal

from nnexp.config.errors import RequestError

# A value of a dimension: a number, or the text of a choice.
Value = float | int | str
# The most combinations of choices that are tried before a search begins, and the largest grid.
MAX_CORNERS, MAX_GRID = 64, 1_000_000


@dataclass(frozen=True)
class Dimension:
    """A key with its range, or several keys that move side by side.

    `settings` has for each of `choices` the overrides that make it; numbers have bounds instead.
    """

    name: str
    kind: Literal["float", "int", "choice"]
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()
    settings: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

    def overrides(self, value: Value) -> list[str]:
        """Return the overrides that set this value."""
        if self.kind == "choice":
            return list(self.settings[self.choices.index(str(value))])
        return [f"{self.name}={value!r}"]

    def plain(self, value: Any) -> Value:
        """Return a sampled value as it is typed: 0.3 for the third step of 0.1, not 0.30000000000000004."""
        if self.kind == "choice":
            return str(value)
        if self.kind == "int":
            return int(value)
        if self.step is None:
            return float(value)
        steps = round((float(value) - self.low) / self.step)
        return float(Decimal(str(self.low)) + steps * Decimal(str(self.step)))

    def values(self) -> list[Value]:
        """Return the values that a grid takes. Raises RequestError for an interval."""
        if self.kind == "choice":
            return list(self.choices)
        if self.step is None:
            raise RequestError(
                f"{self.name}: an interval has too many values for search=grid: list some, or take a range()"
            )
        n = round((self.high - self.low) / self.step) + 1
        return [self.plain(self.low + i * self.step) for i in range(n)]

    def __str__(self) -> str:
        """Return the range as it can be typed."""
        if self.kind == "choice":
            return ", ".join(self.choices)
        ends = f"{self.low:.12g} to {self.high:.12g}"
        step = f" by {self.step:.12g}" if self.step and (self.kind, self.step) != ("int", 1) else ""
        return ends + step + (", log" if self.log else "")


@dataclass(frozen=True)
class Space:
    """What a search varies.

    `fixed` are the overrides that all runs share, `over` those of each run of a trial, one for each value of
    the key that trials are judged over.
    """

    dimensions: tuple[Dimension, ...]
    fixed: tuple[str, ...]
    over: tuple[tuple[str, ...], ...]

    def overrides(self, params: Mapping[str, Value]) -> list[str]:
        """Return the overrides of a trial, without those of its runs."""
        return [*self.fixed, *(text for d in self.dimensions for text in d.overrides(params[d.name]))]

    def corners(self) -> list[dict[str, Value]]:
        """Return trials at every choice and both ends of every range, combined if there are few of them."""
        ends: list[list[Value]] = [
            list(d.choices) if d.kind == "choice" else [d.plain(d.low), d.plain(d.high)]
            for d in self.dimensions
        ]
        names = [d.name for d in self.dimensions]
        if math.prod(map(len, ends)) <= MAX_CORNERS:
            return [dict(zip(names, values, strict=True)) for values in product(*ends)]
        first: list[Value] = [values[0] for values in ends]
        found = [[*first[:i], value, *first[i + 1 :]] for i, values in enumerate(ends) for value in values]
        found.append([values[-1] for values in ends])
        return [dict(zip(names, values, strict=True)) for values in found]

    def inner(self) -> dict[str, Value]:
        """Return a trial within the ranges, where an interval has no whole number."""
        share = (5**0.5 - 1) / 2
        return {
            d.name: d.choices[0] if d.kind == "choice" else d.plain(d.low + share * (d.high - d.low))
            for d in self.dimensions
        }

    def grid(self) -> list[dict[str, Value]]:
        """Return every combination. Raises RequestError if there is no end of them, or too many."""
        values = [d.values() for d in self.dimensions]
        if (n := math.prod(map(len, values))) > MAX_GRID:
            raise RequestError(f"search=grid: {n:,} combinations are more than {MAX_GRID:,}")
        names = [d.name for d in self.dimensions]
        return [dict(zip(names, some, strict=True)) for some in product(*values)]
