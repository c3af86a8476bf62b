"""Turn a grid into columns: compose and validate once what differs in kind, and numbers by their range."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from numpy.typing import NDArray
from omegaconf import DictConfig

from nnexp.config.errors import RequestError
from nnexp.config.grid import Axis, Grid, Range
from nnexp.config.keys import KeyTemplate
from nnexp.config.request import Request
from nnexp.config.run import RunConfig, checked, rules
from nnexp.dataset import load as datasets
from nnexp.dataset.load import Dataset, Source
from nnexp.network import engine
from nnexp.pipeline.artifacts import check_names
from nnexp.pipeline.points import excluded, refuse_other_places, sweep_points
from nnexp.tracking.members import PART
from nnexp.training.checks import check

if TYPE_CHECKING:
    import pandas as pd

IntArray = NDArray[np.int64]
Bools = NDArray[np.bool_]

# The keys whose values go to a batch as one column. Other keys change the network, the data or the files.
COLUMNS = frozenset({"seed", "learning_rate", "epochs", "patience", "split_seed"})
COLUMNS |= frozenset(key for key in rules() if key.startswith(("init.", "optimizer.")))


@dataclass(frozen=True, eq=False)
class Cell:
    """What the points share that differ only in their numbers on the inner axes."""

    config: RunConfig  # of the first of them
    dataset: Dataset
    template: KeyTemplate
    is_first: bool  # no earlier cell has the same points

    def has(self, key: str) -> bool:
        """Return whether its points have this key of an inner axis; an option may lack it."""
        return key in self.template.varied


@dataclass(frozen=True, eq=False)
class Points:
    """Some points of a space as columns, without repeated and excluded ones."""

    numbers: IntArray  # their positions in the grid
    cell: IntArray
    at: Mapping[int, IntArray]  # their positions on the inner axes
    keys: NDArray[np.uint8]  # (points, 32)

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.numbers)

    def take(self, which: IntArray | Bools) -> Points:
        """Return those of the points."""
        at = {j: positions[which] for j, positions in self.at.items()}
        return Points(self.numbers[which], self.cell[which], at, self.keys[which])


class Space:
    """The points of a grid by their numbers: cells, and inner axes whose values are plain numbers."""

    def __init__(
        self,
        grid: Grid,
        inner: Sequence[int],
        values: Mapping[str, Sequence[Any]],
        cells: Sequence[Cell],
        exclude: str | None,
        figures: bool = False,
    ) -> None:
        self.grid, self.cells, self.exclude = grid, cells, exclude
        self.figures = figures  # whether figures of all its points are asked for
        self.values = values  # the validated values of each key on an inner axis
        self._inner = {j: [values.key for values in grid.axes[j].ranges] for j in inner}
        lengths = grid.shape
        self._strides = [math.prod(lengths[j + 1 :]) for j in range(len(lengths))]
        self.axis_of = {key: j for j, keys in self._inner.items() for key in keys}
        self._is_first = np.array([cell.is_first for cell in cells])
        self._new = {j: self._first_values(j) for j in inner}

    def __len__(self) -> int:
        """Return the number of points of the grid, with the repeated and excluded ones."""
        return len(self.grid)

    @cached_property
    def configs(self) -> list[RunConfig]:
        """The configuration of the first point of each cell."""
        return [cell.config for cell in self.cells]

    @cached_property
    def leaves(self) -> list[dict[str, Any]]:
        """The keys of each cell with their values; those of inner axes have their first value."""
        return [config.leaves() for config in self.configs]

    @cached_property
    def varied(self) -> list[str]:
        """The keys whose values differ between the points, in reading order."""
        keys = dict.fromkeys(key for leaves in self.leaves for key in leaves)
        return [
            key
            for key in keys
            if key in self.axis_of
            or any(leaves.get(key) != self.leaves[0].get(key) for leaves in self.leaves)
        ]

    def digest(self, *asked: Any) -> str:
        """Return the hash of all that decides the points and their numbers, and of what else is asked for."""
        axes = [[keys, [_written(self.values[key]) for key in keys]] for keys in self._inner.values()]
        cells = [[cell.template.texts, cell.template.varied] for cell in self.cells]
        shape = [[len(axis), j in self._inner] for j, axis in enumerate(self.grid.axes) if len(axis) > 1]
        return hashlib.sha256(json.dumps([shape, axes, cells, self.exclude, asked]).encode()).hexdigest()

    def points(self, start: int, stop: int) -> Points:
        """Return the points of the numbers from `start` up to `stop`, but for repeated and excluded ones."""
        found = self._chosen(start, stop)
        return replace(found, keys=self.run_keys(found))

    def numbers(self, start: int, stop: int) -> IntArray:
        """Return the numbers of these points."""
        return self._chosen(start, stop).numbers

    @cached_property
    def count(self) -> int:
        """The number of points, without repeated and excluded ones."""
        if self.exclude is not None:
            return sum(len(self._chosen(start, start + PART)) for start in range(0, len(self), PART))
        return self.distinct

    @cached_property
    def distinct(self) -> int:
        """The number of points without the repeated ones, counted without listing them."""
        return sum(
            math.prod(
                len(self.grid.axes[j]) if is_first is None else int(is_first[kind[i]].sum())
                for j, (kind, is_first) in self._new.items()
            )
            for i in np.flatnonzero(self._is_first)
        )

    def _chosen(self, start: int, stop: int) -> Points:
        """Return the points between these numbers, but for repeated and excluded ones, without their keys."""
        found = self._distinct(start, stop)
        if self.exclude is None or not len(found):
            return found
        return found.take(~excluded(self._frame(found), self.exclude))

    def _distinct(self, start: int, stop: int) -> Points:
        """Return the points between these numbers without the repeated ones, and without their keys."""
        numbers = np.arange(start, min(stop, len(self)))
        at = {j: self._at(j, numbers) for j in self._inner}
        cell = np.zeros(len(numbers), dtype=np.int64)
        for j, axis in enumerate(self.grid.axes):
            if j not in self._inner:
                cell = cell * len(axis) + self._at(j, numbers)
        is_new = self._is_first[cell]
        for j, (kind, is_first) in self._new.items():
            if is_first is not None:
                is_new &= is_first[kind[cell], at[j]]
        return Points(numbers, cell, at, np.zeros((len(numbers), 0), dtype=np.uint8)).take(is_new)

    def _frame(self, points: Points) -> pd.DataFrame:
        """Return the keys of points as a table, as a condition of `exclude` names them."""
        import pandas as pd  # takes long to import

        columns = {}
        for key in dict.fromkeys(key for leaves in self.leaves for key in leaves):
            values, which = self.column(points, key)
            there = values if (which >= 0).all() else [*values, np.nan]
            columns[key] = pd.Series(there).take(which).to_numpy()
        return pd.DataFrame(columns)

    def column(self, points: Points, key: str) -> tuple[Sequence[Any], IntArray]:
        """Return distinct values of a key, and for each point which of them it has; -1: it lacks the key."""
        j = self.axis_of.get(key)
        if j is None:
            values = list(dict.fromkeys(leaves[key] for leaves in self.leaves if key in leaves))
            index = {value: i for i, value in enumerate(values)}
            of_cell = [index[leaves[key]] if key in leaves else -1 for leaves in self.leaves]
            return values, np.array(of_cell, dtype=np.int64)[points.cell]
        used, which = np.unique(points.at[j], return_inverse=True)
        has = np.array([cell.has(key) for cell in self.cells])[points.cell]
        return [self.values[key][i] for i in used.tolist()], np.where(has, which, -1)

    def _at(self, j: int, numbers: IntArray) -> IntArray:
        """Return the positions on an axis of the points with these numbers."""
        return numbers // self._strides[j] % len(self.grid.axes[j])

    def run_keys(self, points: Points) -> NDArray[np.uint8]:
        """Compute the run keys of points, (points, 32)."""
        keys = np.empty((len(points), 32), dtype=np.uint8)
        columns = {key: self.column(points, key) for key in self.axis_of}
        for i, members in groups(points.cell):
            own = {key: (values, which[members]) for key, (values, which) in columns.items()}
            keys[members] = self.cells[i].template.digests(own, len(members))
        return keys

    def _first_values(self, j: int) -> tuple[IntArray, Bools | None]:
        """Return which kind a cell is for this axis, and for a kind whether each position has a new value.

        A kind is which keys of the axis the cell has. None: all are new for all kinds.
        """
        kinds = [tuple(key for key in self._inner[j] if cell.has(key)) for cell in self.cells]
        places = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
        if all(any(isinstance(self.values[key], range) for key in kind) for kind in places):
            return np.zeros(len(kinds), dtype=np.int64), None
        is_first = np.zeros((len(places), len(self.grid.axes[j])), dtype=np.bool_)
        for kind, row in zip(places, is_first, strict=True):
            seen = dict[tuple[Any, ...], int]()
            for i in range(len(row)):
                row[i] = seen.setdefault(tuple(self.values[key][i] for key in kind), i) == i
        return np.array([places[kind] for kind in kinds]), is_first


def groups(codes: IntArray) -> list[tuple[int, IntArray]]:
    """Return each code with the positions that have it."""
    order = np.argsort(codes, kind="stable")
    found, starts = np.unique(codes[order], return_index=True)
    return list(zip(found.tolist(), np.split(order, starts[1:]), strict=True)) if len(codes) else []


def _written(values: Sequence[Any]) -> Any:
    """Return the values for a hash: those of a long range by its bounds."""
    return repr(values) if isinstance(values, range) else list(values)


def space_of(
    loader: ConfigLoaderImpl, config: DictConfig, grid: Grid, source: Source | None = None
) -> tuple[Space, Request]:
    """Compose and validate a grid, and its one request. Raises RequestError, naming the point."""
    if not len(grid):
        raise RequestError("the sweep has no points: one of its ranges is empty")
    inner = [j for j, axis in enumerate(grid.axes) if _is_inner(axis)]
    firsts = Grid(tuple(_first_of(axis) if j in inner else axis for j, axis in enumerate(grid.axes)))
    numbers = _numbers_of(grid, inner)
    configs, request = sweep_points(loader, config, firsts, source, numbers, len(grid))
    values = {
        of_key.key: _validated(grid, j, of_key.key, of_key.numbers)
        for j in inner
        for of_key in grid.axes[j].ranges
        if of_key.numbers is not None  # as `_is_inner` has found
    }
    cells = _cells(configs, values, numbers, len(grid), source)
    figures = any(config.figures for config in configs)
    return Space(grid, inner, values, cells, request.exclude, figures), request


def _is_inner(axis: Axis) -> bool:
    """Return whether an axis has several values, all of them plain numbers of keys of COLUMNS."""
    return len(axis) > 1 and all(
        of_key.numbers is not None and of_key.key in COLUMNS for of_key in axis.ranges
    )


def _first_of(axis: Axis) -> Axis:
    """Return the axis with its first value alone."""
    return Axis(tuple(Range(of_key.key, None, [of_key[0]]) for of_key in axis.ranges))


def _numbers_of(grid: Grid, inner: Sequence[int]) -> list[int]:
    """Return the number of the first point of each cell."""
    lengths = grid.shape
    numbers = np.zeros(1, dtype=np.int64)
    for j, length in enumerate(lengths):
        steps = np.arange(1 if j in inner else length) * math.prod(lengths[j + 1 :])
        numbers = (numbers[:, None] + steps).reshape(-1)
    return numbers.tolist()


def _validated(grid: Grid, j: int, key: str, numbers: Sequence[int | float]) -> Sequence[Any]:
    """Return the values of a key on an axis as its rule parses them.

    Raises RequestError, naming the point.
    """
    rule, step = rules()[key], math.prod(grid.shape[j + 1 :])

    def parsed(i: int) -> Any:
        try:
            return checked(key, numbers[i], rule)
        except RequestError as error:
            raise RequestError(f"point {i * step + 1} of {len(grid)}: {error}") from error

    if (
        isinstance(numbers, range)
        and isinstance(parsed(0), int)
        and isinstance(parsed(len(numbers) - 1), int)
    ):
        return numbers  # what lies between two allowed whole numbers is allowed
    return [parsed(i) for i in range(len(numbers))]


def _cells(
    configs: Sequence[RunConfig],
    values: Mapping[str, Sequence[Any]],
    numbers: Sequence[int],
    total: int,
    source: Source | None,
) -> list[Cell]:
    """Return the cells, checked for their values and their data. Raises RequestError, naming the point."""
    refuse_other_places(configs)
    loaded = {c: datasets.load(c, source) for c in dict.fromkeys(config.dataset for config in configs)}
    settled = {c: datasets.settled(c, dataset) for c, dataset in loaded.items()}
    # What does not go together does not for the largest of these.
    largest = {key: max(values[key]) for key in ("epochs", "patience") if key in values}
    cells, seen = list[Cell](), set[Any]()
    for config, number in zip(configs, numbers, strict=True):
        dataset = loaded[config.dataset]
        try:
            check(dataset, RunConfig.from_mapping({**config.nested(), **largest}))
            check_names(dataset)
        except RequestError as error:
            raise RequestError(f"point {number + 1} of {total}: {error}") from error
        # A population's networks have neither figures nor models.
        alone = replace(config, dataset=settled[config.dataset], figures=False, model=False)
        template = KeyTemplate(alone, dataset.sha256, engine.VERSION, values)
        same = (template.texts, *template.varied)
        cells.append(Cell(alone, dataset, template, same not in seen))
        seen.add(same)
    return cells
