"""Load a data set: read a table, choose its features and its target, and check them."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnexp.config.errors import RequestError
from nnexp.config.groups import shipped_files
from nnexp.config.paths import SHIPPED
from nnexp.config.run import COLUMN, DatasetConfig
from nnexp.dataset.table import Table, finite, listed, parse_table, read_bytes, row_names

Array = NDArray[np.float64]


# The path of a data set that is a DataFrame; its bytes are in the record.
FRAME = "<DataFrame>"


@dataclass(frozen=True)
class Source:
    """A data set's bytes: its table and, if there are any, its new rows."""

    table: bytes
    new_rows: bytes | None = None

    @property
    def sha256(self) -> str:
        """The hash of the table's bytes or, with new rows, of the two files' digests."""
        content = self.table
        if self.new_rows is not None:
            content = b"".join(hashlib.sha256(part).digest() for part in (self.table, self.new_rows))
        return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, eq=False)  # one is itself only, so that results for it can be kept
class Dataset:
    """A data set's raw values: X (n, features); y (n,), the class index or the number to predict."""

    name: str
    names: tuple[str, ...]  # of the rows
    X: Array
    y: Array
    features: tuple[str, ...]
    target: str
    classes: tuple[str, ...]  # empty for a regression
    new_names: tuple[str, ...]
    X_new: Array  # (new rows, features)
    sha256: str  # of its source
    source: Source | None  # None where it was left behind, see `light`

    def __str__(self) -> str:
        """Describe the data set in one line: its rows, features and target."""
        named = (label if label == str(i) else f"{label}={i}" for i, label in enumerate(self.classes))
        kind = f"classes {', '.join(named)}" if self.classes else "regression"
        return f"{self.name}: {len(self.X)} rows, {listed(self.features, 8)} -> {self.target} ({kind})"

    def light(self) -> Dataset:
        """Return the data set without its source, which training in another process does not need."""
        return replace(self, source=None)


def read_source(config: DatasetConfig) -> Source:
    """Read the bytes at the data set's paths. Raises RequestError."""
    if config.path == FRAME:
        raise RequestError(f"dataset.path={FRAME}: stands for a DataFrame, which is not a file")
    paths = [config.path] + ([] if config.new_rows is None else [config.new_rows])
    return Source(*(read_bytes(locate(path, config.name)) for path in paths))


def load(config: DatasetConfig, source: Source | None = None) -> Dataset:
    """Read and check the data set, from `source` or, if it is None, from its paths. Raises RequestError."""
    source = source or read_source(config)
    table = parse_table(locate(config.path, config.name), source.table)
    classes, y = _target(table, config)
    features = config.features or _all_but_the_target(table, config.target)
    otherwise = ", or list the other columns in dataset.features"
    X = np.column_stack([table.numbers(name, otherwise) for name in features])
    new_names: tuple[str, ...] = ()
    X_new = np.empty((0, X.shape[1]))
    if config.new_rows is not None and source.new_rows is not None:
        new = parse_table(locate(config.new_rows, config.name), source.new_rows)
        X_new = np.column_stack([new.numbers(name) for name in features])
        new_names = row_names(new)
        _refuse_twice(new, new_names)
    return Dataset(
        name=Path(config.path).stem.strip("<>") if config.name == "csv" else config.name,
        names=row_names(table),
        X=X,
        y=y,
        features=features,
        target=config.target,
        classes=classes,
        new_names=new_names,
        X_new=X_new,
        sha256=source.sha256,
        source=source,
    )


def locate(path: str, name: str) -> Path:
    """Return the path of a data set's file: a shipped one where it is shipped, others as they are given.

    Raises RequestError if the path cannot be recorded.
    """
    if path in shipped_files(name):
        return SHIPPED / path
    if path == FRAME:
        return Path(path)
    place = Path(path).absolute()
    try:
        str(place).encode()
    except UnicodeEncodeError:
        raise RequestError(f"dataset.path={path}: {place.parent} has a name that is not UTF-8") from None
    return place


def settled(config: DatasetConfig, dataset: Dataset) -> DatasetConfig:
    """Return the data set as it is recorded: features listed by name, paths that hold in any directory."""

    def held(path: str) -> str:
        return path if path in shipped_files(config.name) else str(locate(path, config.name))

    new_rows = None if config.new_rows is None else held(config.new_rows)
    return replace(config, features=dataset.features, path=held(config.path), new_rows=new_rows)


def _all_but_the_target(table: Table, target: str) -> tuple[str, ...]:
    """Return all columns but the target and the column `name`, which names the rows. Raises RequestError."""
    features = tuple(name for name in table.header if name not in (target, "name"))
    if not features:
        raise RequestError(f"{table.path}: there is no column to learn from beside the target {target!r}")
    for name in features:
        try:
            COLUMN.parse(name)
        except ValueError:
            raise RequestError(
                f"{table.path}: column {table.header.index(name) + 1} is called {name!r}: name it, "
                "or list the columns to learn from in dataset.features"
            ) from None
    return features


def _refuse_twice(table: Table, names: tuple[str, ...]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise RequestError(f"{table.path}: column 'name' has {name!r} {count} times")


def _target(table: Table, config: DatasetConfig) -> tuple[tuple[str, ...], Array]:
    """Return the classes (none for a regression) and y."""
    if config.classes is not None:
        cells = table.column(config.target, present=config.classes)
        return config.classes, _class_indices(table, config.target, cells, config.classes)
    cells = table.column(config.target, otherwise="; if it is a label, list it in dataset.classes")
    numbers = [finite(cell) for cell in cells]
    _check_labels(table, config.target, cells, numbers)
    if None in numbers:
        classes = tuple(sorted(set(cells)))
        return classes, _class_indices(table, config.target, cells, classes)
    if set(numbers) <= {0.0, 1.0}:  # in any spelling: 1, 1.0
        return ("0", "1"), np.array([float(number == 1.0) for number in numbers])
    return (), table.numbers(config.target)


def _class_indices(table: Table, target: str, cells: list[str], classes: tuple[str, ...]) -> Array:
    """Return the index of each cell's class. Labels are text: 1234 and 01234 are two labels.

    A cell that does not equal a class as text belongs to the class that is the same number or truth value,
    since the command line and YAML spell those in their own way: 1.10 becomes 1.1, True becomes true. Raises
    RequestError for a cell without a class, and for two different texts of one class.
    """
    same = Counter(map(_value, classes))
    index_of = {_value(label): i for i, label in enumerate(classes) if same[_value(label)] == 1}
    index_of |= {label: i for i, label in enumerate(classes)}
    spelling: dict[int, str] = {}
    indices = []
    for row, cell in enumerate(cells, 1):
        where = f"{table.path}: column {target!r}, row {row}: {cell!r}"
        index = index_of[cell] if cell in index_of else index_of.get(_value(cell))
        if index is None:
            hint = "" if finite(cell) is None else "; quotes keep a number as it is written"
            raise RequestError(f"{where} is not one of dataset.classes={','.join(classes)}{hint}")
        if (other := spelling.setdefault(index, cell)) != cell:
            raise RequestError(
                f"{where} and {other!r} are two labels, and dataset.classes has only {classes[index]!r} "
                "for both: list each as it is written, in quotes"
            )
        indices.append(float(index))
    return np.array(indices)


def _value(label: str) -> Decimal | str:
    """Return the exact number or the truth value that a label spells; any other label unchanged."""
    try:
        if finite(label) is not None:
            return Decimal(label)
    except InvalidOperation:  # an exponent beyond all bounds
        return label
    return label.lower() if label.lower() in ("true", "false") else label


def _check_labels(table: Table, target: str, cells: list[str], numbers: list[float | None]) -> None:
    """Raise RequestError if a target is neither labels nor numbers, or if its labels cannot be classes."""
    where = f"{table.path}: column {target!r}"
    if None in numbers and any(number is not None for number in numbers):
        i = numbers.index(None)
        raise RequestError(
            f"{where}, row {i + 1}: {cells[i]!r} is text where other rows have numbers; "
            "if they are all labels, list them in dataset.classes"
        )
    values = set(cells if None in numbers else numbers)
    if len(values) == 1:
        raise RequestError(
            f"{where} has one class only, {cells[0]!r}, in {len(cells)} row{'s' * (len(cells) > 1)}: "
            "there is nothing to tell apart"
        )
    if None in numbers and len(values) == len(cells) > 2:
        raise RequestError(f"{where}: every row has a different label; a class must repeat")
