"""A table, a mapping of names to columns such as a DataFrame, as text for people or programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import tabulate

# A header needs no more room than its name.
tabulate.MIN_PADDING = 0
# Columns by their names.
Columns = dict[str, list[Any]]


class HasColumns(Protocol):
    """What has names and columns, such as a dict or a DataFrame."""

    def items(self) -> Iterable[tuple[Any, Any]]: ...


def as_text(table: HasColumns, style: str = "table", left: Collection[str] | None = None) -> str:
    """The table for people (`table`), or as csv, markdown or json (records).

    What is not a number stays empty, or null in JSON. `left` names the columns that stand to the left, for
    people; unless told, all that are not numbers.
    """
    names = [str(name) for name, _ in table.items()]
    columns = [[_known(value) for value in values] for _, values in table.items()]
    rows = list(zip(*columns, strict=True))
    if style == "json":
        records = [dict(zip(names, map(_json, row), strict=True)) for row in rows]
        return json.dumps(records, indent=2, ensure_ascii=False)
    if style == "csv":
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([names, *rows])
        return lines.getvalue().rstrip("\n")

    def is_left(name: str, column: Sequence[Any]) -> bool:
        return not _is_numeric(column) if left is None else name in left

    return tabulate.tabulate(
        [[_short(value) for value in row] for row in rows],
        headers=names,
        tablefmt="github" if style == "markdown" else "simple",
        disable_numparse=True,
        colalign=["left" if is_left(*named) else "right" for named in zip(names, columns, strict=True)]
        if rows
        else None,
    )


def apart(columns: Columns, taken: Iterable[str], suffix: str = "_") -> Columns:
    """The columns, with the suffix on those whose names are taken."""
    names = set(taken)
    return {f"{name}{suffix}" if name in names else name: values for name, values in columns.items()}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _json(value: Any) -> Any:
    """The value, or null where JSON has no word for it."""
    return None if isinstance(value, float) and math.isinf(value) else value


def _is_numeric(column: Sequence[Any]) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool)
        for value in column
        if value is not None
    )


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
