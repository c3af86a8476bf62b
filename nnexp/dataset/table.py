"""Read and check a CSV file; every error names the file, the column and the row.

Rows count from 1 below the header.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnexp.config.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-"})


@dataclass(frozen=True)
class Table:
    """A CSV file as text: its path, its header, and rows of the header's length."""

    path: Path
    header: list[str]
    rows: list[list[str]]
    content: bytes

    def column(self, name: str, present: Collection[str] = (), otherwise: str = "") -> list[str]:
        """Return a column's cells. Raises RequestError if the column is absent or a value is missing.

        A text in `present` counts as a value even if it looks like a missing one, such as `none`. `otherwise`
        is added to the error, as another way to mend it.
        """
        if name not in self.header:
            raise RequestError(f"{self.path}: no column {name!r}; it has {listed(self.header)}")
        cells = [row[self.header.index(name)].strip() for row in self.rows]
        for i, cell in enumerate(cells, 1):
            if cell.lower() in MISSING and cell not in present:
                raise RequestError(
                    f"{self.path}: column {name!r}, row {i}: the value is missing ({cell!r}): "
                    f"fill it in or delete the row{otherwise}"
                )
        return cells

    def numbers(self, name: str, otherwise: str = "") -> Array:
        """Return a column as finite numbers, of shape (rows,). Raises RequestError for any other cell.

        `otherwise` is added to the error, as another way to mend it.
        """
        values = []
        for i, cell in enumerate(self.column(name, otherwise=otherwise), 1):
            value = finite(cell)
            if value is None:
                raise RequestError(
                    f"{self.path}: column {name!r}, row {i}: {cell!r} is not a finite number: "
                    f"write it as one; of categories, make a column of 0 and 1 for each{otherwise}"
                )
            values.append(value)
        return np.array(values)


def listed(names: Sequence[str], most: int = 30) -> str:
    """List the names; if there are more than `most`, the first ones and how many there are."""
    more = [f"… ({len(names)} in all)"] * (len(names) > most)
    return ", ".join([*names[:most], *more])


def read_table(path: Path) -> Table:
    """Read a CSV file. Raises RequestError."""
    return parse_table(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes. Raises RequestError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None


def parse_table(path: Path, content: bytes) -> Table:
    """Parse a CSV file: UTF-8, commas, a header, one value per column in each row.

    Raises RequestError, naming the path.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RequestError(
            f"{path}: line {line} is not UTF-8 (byte {content[error.start]:#04x}): save the file as UTF-8"
        ) from None
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise RequestError(f"{path}: not a CSV file: {error}") from None
    if not rows:
        raise RequestError(f"{path}: the file is empty; it must have a header and rows")
    header, *rows = [[cell.strip() for cell in row] for row in rows]
    _check_header(path, header)
    if not rows:
        raise RequestError(f"{path}: there are no rows below the header")
    for i, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise RequestError(
                f"{path}: row {i} has {len(row)} values where the header has {len(header)} columns"
            )
    return Table(path, header, rows, content)


def from_frame(frame: pd.DataFrame) -> bytes:
    """Return a DataFrame as the bytes of a CSV file, without its index; the same values give the same bytes.

    It is what `frame.to_csv(index=False)` writes: a number has the fewest digits that identify it, and a
    missing value is empty. Raises RequestError for text that UTF-8 cannot encode.
    """
    cells = [list(map(str, frame.columns))]
    columns = [_cells(frame.iloc[:, i]) for i in range(frame.shape[1])]
    lines = io.StringIO(newline="")
    csv.writer(lines, lineterminator="\n").writerows([*cells, *zip(*columns, strict=True)])
    try:
        return lines.getvalue().encode()
    except UnicodeEncodeError as error:
        wrong = error.object[error.start : error.end]
        raise RequestError(f"the DataFrame holds {wrong!r}, which UTF-8 cannot write") from None


def _cells(column: pd.Series) -> list[str]:
    missing = column.isna().tolist()
    return ["" if none else _cell(value) for value, none in zip(column.tolist(), missing, strict=True)]


def _cell(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value)


def _check_header(path: Path, header: list[str]) -> None:
    if len(header) == 1:
        for delimiter, name in {";": "semicolons", "\t": "tabs", "|": "bars"}.items():
            if delimiter in header[0]:
                raise RequestError(f"{path}: the columns are separated by {name}; they must be by commas")
    for name, count in Counter(header).items():
        if count > 1:
            raise RequestError(f"{path}: the header has the column {name!r} {count} times")


def row_names(table: Table) -> tuple[str, ...]:
    """Return the rows' names: the column `name` if there is one, else row 1, row 2, …"""
    if "name" not in table.header:
        return tuple(f"row {i}" for i in range(1, len(table.rows) + 1))
    cells = [row[table.header.index("name")] for row in table.rows]
    return tuple(cell or f"row {i}" for i, cell in enumerate(cells, 1))


def finite(cell: str) -> float | None:
    """Return the cell's number, or None if it is not a finite number."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None
