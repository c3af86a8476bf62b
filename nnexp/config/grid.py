"""Hold a grid by its axes, so that a grid of any size takes no more memory than its ranges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import overload


@dataclass(frozen=True)
class Range:
    """The values of one key: numbers, or else overrides in Hydra's grammar."""

    key: str
    numbers: Sequence[int | float] | None
    overrides: Sequence[str] = ()

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self.overrides if self.numbers is None else self.numbers)

    def __getitem__(self, i: int) -> str:
        """Return an override that sets the key to the value at this position."""
        return self.overrides[i] if self.numbers is None else f"{self.key}={self.numbers[i]}"

    def __iter__(self) -> Iterator[str]:
        """Yield an override for each value."""
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True)
class Axis:
    """One range of a grid, or several of the same length that are taken side by side."""

    ranges: tuple[Range, ...]

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self.ranges[0])

    def __getitem__(self, i: int) -> list[str]:
        """Return the overrides at this position."""
        return [values[i] for values in self.ranges]


@dataclass(frozen=True, eq=False)
class Grid(Sequence[list[str]]):
    """Every combination of the values of the axes, as lists of overrides; the last axis varies fastest."""

    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the number of values of each axis."""
        return tuple(map(len, self.axes))

    def __len__(self) -> int:
        """Return the number of points."""
        return math.prod(self.shape)

    @overload
    def __getitem__(self, i: int) -> list[str]: ...
    @overload
    def __getitem__(self, i: slice) -> list[list[str]]: ...
    def __getitem__(self, i: int | slice) -> list[str] | list[list[str]]:
        """Return the overrides of one point, or of several."""
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        left, parts = range(len(self))[i], list[list[str]]()
        for axis in reversed(self.axes):
            left, at = divmod(left, len(axis))
            parts.append(axis[at])
        return list(chain.from_iterable(reversed(parts)))

    def __iter__(self) -> Iterator[list[str]]:
        """Yield the overrides of each point."""
        values = [[axis[i] for i in range(len(axis))] for axis in self.axes]
        return (list(chain.from_iterable(point)) for point in product(*values))
