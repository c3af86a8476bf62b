"""What the network learns from: a table's features and target, split and centred."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from nnexp.config.errors import RequestError
from nnexp.config.paths import PROJECT
from nnexp.config.run import COLUMN, DatasetConfig
from nnexp.dataset.table import Table, finite, parse_table, read_bytes, row_names

Array = NDArray[np.float64]

# The articles shift weight and height by round numbers near the mean "to make the numbers look nice".
ARTICLES_SHIFT = {"weight_lb": 135.0, "height_in": 66.0}


# Beyond the largest a number's square, or a sum of such, is no finite number; below the smallest it has lost
# digits, or is 0, unless the number is first multiplied by this power of 2, which costs no digit.
LARGEST, SMALLEST, RAISED = 1e150, 1e-150, 2.0**600


# The path of a data set that is no file: a DataFrame, whose bytes are in the record.
FRAME = "<DataFrame>"


@dataclass(frozen=True)
class Source:
    """A data set's bytes: those of its table and, where it has any, of its new rows."""

    table: bytes
    new_rows: bytes | None = None

    @property
    def sha256(self) -> str:
        """Of the table's bytes; with new rows, of the two files' digests."""
        content = self.table
        if self.new_rows is not None:
            content = b"".join(hashlib.sha256(part).digest() for part in (self.table, self.new_rows))
        return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, eq=False)  # one is itself only, so that results for it can be kept
class Dataset:
    """Raw values: X (n, features); y (n,), the class index or the number to predict."""

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
        """One line for people: what was read."""
        kind = (
            "classes " + ", ".join(f"{label}={i}" for i, label in enumerate(self.classes))
            if self.classes
            else "regression"
        )
        return f"{self.name}: {len(self.X)} rows, {', '.join(self.features)} -> {self.target} ({kind})"

    def light(self) -> Dataset:
        """The data set without its source, which training elsewhere does without."""
        return replace(self, source=None)


@dataclass(frozen=True)
class Prepared:
    """What a network sees: inputs (X - shift) / scale, and y as its output layer is compared with it."""

    X: Array  # (n_train, features)
    y: Array  # (n_train, outputs)
    X_val: Array  # (n_val, features), n_val may be 0
    y_val: Array
    val_rows: NDArray[np.int64]  # which rows of the data set are validation rows
    shift: Array  # (features,)
    scale: Array


def read_source(config: DatasetConfig) -> Source:
    """The bytes that the data set's paths lead to now. Raises RequestError."""
    if config.path == FRAME:
        raise RequestError(f"dataset.path={FRAME}: stands for a DataFrame, which is no file")
    paths = [config.path] + ([] if config.new_rows is None else [config.new_rows])
    return Source(*(read_bytes(locate(path, config.name)) for path in paths))


def load(config: DatasetConfig, source: Source | None = None) -> Dataset:
    """Read and check the data set, from these bytes or else from its paths. Raises RequestError."""
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
    """A data set of the project lies in the project; a path of one's own is as in any command.

    Raises RequestError for one that could not be recorded.
    """
    if name != "csv":
        return PROJECT / path
    if path == FRAME:
        return Path(path)
    place = Path(path).absolute()
    try:
        str(place).encode()
    except UnicodeEncodeError:
        raise RequestError(f"dataset.path={path}: {place.parent} has a name that is not UTF-8") from None
    return place


def settled(config: DatasetConfig, dataset: Dataset) -> DatasetConfig:
    """The same data set as it is recorded: its features by name, its paths such that they hold wherever a
    later command is typed."""
    config = replace(config, features=dataset.features)
    if config.name != "csv":
        return config
    new_rows = None if config.new_rows is None else str(locate(config.new_rows, config.name))
    return replace(config, path=str(locate(config.path, config.name)), new_rows=new_rows)


def _all_but_the_target(table: Table, target: str) -> tuple[str, ...]:
    """The features where none are listed; the column `name` names the rows. Raises RequestError."""
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
    """The classes (none for a regression) and y."""
    if config.classes is not None:
        cells = table.column(config.target, present=config.classes)
        return config.classes, _class_indices(table, config.target, cells, config.classes)
    cells = table.column(config.target, otherwise="; if it is a label, list it in dataset.classes")
    numbers = [finite(cell) for cell in cells]
    _check_labels(table, config.target, cells, numbers)
    if None in numbers:
        classes = tuple(sorted(set(cells)))
        return classes, _class_indices(table, config.target, cells, classes)
    if set(numbers) <= {0.0, 1.0}:  # however they are written: 1, 1.0
        return ("0", "1"), np.array([float(number == 1.0) for number in numbers])
    return (), table.numbers(config.target)


def _class_indices(table: Table, target: str, cells: list[str], classes: tuple[str, ...]) -> Array:
    """Which of the classes each cell names. Labels are text: 1234 and 01234 are two.

    A cell that is no class as text is the class that is the same number or truth value, as the command line
    and YAML write those in their own way: 1.10 comes as 1.1, True as true. Raises RequestError for a cell of
    no class, and for two different texts of one class.
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
    """The number that a label is, to its last digit, or the truth value; any other label as it is."""
    try:
        if finite(label) is not None:
            return Decimal(label)
    except InvalidOperation:  # an exponent beyond all bounds
        return label
    return label.lower() if label.lower() in ("true", "false") else label


def _check_labels(table: Table, target: str, cells: list[str], numbers: list[float | None]) -> None:
    """Refuse a target that is neither labels nor numbers."""
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
        raise RequestError(f"{where}: every row has a label of its own; a class must repeat")


@lru_cache(maxsize=1024)
def prepare(dataset: Dataset, center: str, fraction: float, seed: int, softmax: bool) -> Prepared:
    """Split off the validation rows, centre by what the training rows say, encode y.

    The validation rows are drawn by RandomState([seed, 1]): from the seed, and apart from the weights'
    draws, so that one seed means one split whatever the initialisation. Raises RequestError.
    """
    n = len(dataset.X)
    n_val = max(1, round(fraction * n)) if fraction > 0 else 0
    if n_val >= n:
        raise RequestError(
            f"validation_fraction={fraction:g} of the {n} rows of {dataset.name} leaves none to train on"
        )
    order = RandomState([seed, 1]).permutation(n) if n_val else np.arange(n)
    train, val = np.sort(order[n_val:]), np.sort(order[:n_val])
    shift, scale = centring(center, dataset.X[train], dataset.features)
    y = encode(dataset, softmax)
    return Prepared(
        X=(dataset.X[train] - shift) / scale,
        y=y[train],
        X_val=(dataset.X[val] - shift) / scale,
        y_val=y[val],
        val_rows=val,
        shift=shift,
        scale=scale,
    )


def centring(center: str, X: Array, features: tuple[str, ...]) -> tuple[Array, Array]:
    """(shift, scale), each of shape (features,), learned on the training rows X. Raises RequestError."""
    none, one = np.zeros(X.shape[1]), np.ones(X.shape[1])
    if center == "none":
        return none, one
    if center == "articles":
        if not set(features) <= set(ARTICLES_SHIFT):
            raise RequestError(
                "dataset.center=articles is the shift of the articles' table (135 lb, 66 in); "
                f"for {', '.join(features)} use mean, none or standardize"
            )
        return np.array([ARTICLES_SHIFT[name] for name in features]), one
    for name, column in zip(features, X.T, strict=True):
        if np.abs(column).max() > LARGEST:
            raise RequestError(
                f"dataset.center={center}: column {name!r} has values beyond {LARGEST:g}, "
                "whose squares overflow"
            )
    # fsum is exact, so that a sum's order and the machine's vector width cannot show
    mean = np.array([math.fsum(column) for column in X.T]) / len(X)
    if center == "mean":
        return mean, one
    # A column of one value has that value as its mean, which the rounded sum may miss, and no spread.
    constant = X.max(axis=0) == X.min(axis=0)
    shift = np.where(constant, X[0] + 0.0, mean)
    return shift, np.where(constant, 1.0, _deviation(X - shift))


def _deviation(distances: Array) -> Array:
    """The root of the mean square of each column of (n, features) distances from the mean.

    It is above 0 for any column that is not 0 throughout, as it is what the inputs are divided by.
    """
    factor = np.where(np.abs(distances).max(axis=0) < SMALLEST, RAISED, 1.0)
    squares = [math.fsum(column) / len(distances) for column in ((distances * factor) ** 2).T]
    return np.maximum(np.sqrt(squares) / factor, np.nextafter(0.0, 1.0))


def encode(dataset: Dataset, softmax: bool) -> Array:
    """y of shape (n, outputs): one column, or one a class for softmax and for more than two classes."""
    if not softmax and len(dataset.classes) <= 2:
        return dataset.y[:, None].copy()
    one_hot: Array = np.eye(len(dataset.classes))[dataset.y.astype(int)]
    return one_hot
