"""Write a table (a mapping of names to columns, such as a DataFrame) as text for people or programs."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import tabulate

from nnexp.config.text import on_one_line, printable
from nnexp.dataset.table import finite

# Make columns no wider than their names need.
tabulate.MIN_PADDING = 0
# The most characters of a cell in a table for people; csv and json have the whole text.
MAX_CELL = 100
# Columns by their names.
Columns = dict[str, list[Any]]


class HasColumns(Protocol):
    """An object with named columns, such as a dict or a DataFrame."""

    def items(self) -> Iterable[tuple[Any, Any]]: ...


def as_text(table: HasColumns, style: str = "table", left: Collection[str] | None = None) -> str:
    """Write the table for people (`table`), or as csv, markdown or json (records).

    NaN is empty, or null in JSON. `left` names the columns that are aligned to the left in a table for
    people; by default all that are not numbers.
    """
    names = [str(name) for name, _ in table.items()]
    columns = [[_known(value) for value in values] for _, values in table.items()]
    rows = list(zip(*columns, strict=True))
    if style == "json":
        records = [dict(zip(names, map(_json, row), strict=True)) for row in rows]
        return printable(json.dumps(records, indent=2, ensure_ascii=False))
    if style == "csv":
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([map(_inert, row) for row in [names, *rows]])
        return lines.getvalue().rstrip("\n")

    def escaped(text: str) -> str:
        if style == "markdown":
            return _in_markdown(text)
        line = on_one_line(text)
        return line if len(line) <= MAX_CELL else line[: MAX_CELL - 1] + "…"

    def is_left(name: str, column: Sequence[Any]) -> bool:
        return not _is_numeric(column) if left is None else name in left

    return tabulate.tabulate(
        [[escaped(_short(value)) for value in row] for row in rows],
        headers=[escaped(name) for name in names],
        tablefmt="github" if style == "markdown" else "simple",
        disable_numparse=True,
        colalign=["left" if is_left(*named) else "right" for named in zip(names, columns, strict=True)]
        if rows
        else None,
    )


def apart(columns: Columns, taken: Iterable[str], suffix: str = "_") -> Columns:
    """Return the columns, with the suffix added to names that are taken."""
    names = set(taken)
    return {f"{name}{suffix}" if name in names else name: values for name, values in columns.items()}


def _inert(value: Any) -> Any:
    """Return the value as a cell of a CSV file.

    A text that a spreadsheet would compute as a formula gets an apostrophe before it, which marks it as text.
    """
    if not isinstance(value, str):
        return value
    is_formula = re.match(r"[=+@-]", value) and finite(value) is None and len(value) > 1
    return printable(f"'{value}" if is_formula else value)


def _in_markdown(text: str) -> str:
    """Escape the text for a cell of a Markdown table, so that it makes no markup, links or cells."""
    text = on_one_line(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("|", "\\|").replace("](", "]\\(")


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _json(value: Any) -> Any:
    """Return the value, or None if JSON cannot write it."""
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
