"""A comparison as people read it; programs take csv or json, which have every column and digit."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from nnexp.analysis.summary_table import setting, significant
from nnexp.analysis.tables import Columns, as_text

# The statistics that stand with their interval, and those that only csv and json have.
INTERVALS = ("difference", "effect", "improvement")
FOR_PROGRAMS = ("paired", "p", *(f"{name}_{end}" for name in INTERVALS for end in ("low", "high")))


def as_table(table: pd.DataFrame, style: str = "table") -> str:
    """The result of `compare.pairs` or `compare.effects` as text."""
    if style in ("csv", "json"):
        return as_text(table, style)
    columns = readable(table)
    return as_text(
        columns, style, left=[name for name in columns if name in ("setting", "other", "param", "value")]
    )


def readable(table: pd.DataFrame) -> Columns:
    """The table as texts, column by column: intervals beside their statistics, few digits."""
    columns: Columns = {}
    for name, values in ((str(name), column.tolist()) for name, column in table.items()):
        if name in FOR_PROGRAMS:
            continue
        if name in INTERVALS:
            ends = zip(values, table[f"{name}_low"].tolist(), table[f"{name}_high"].tolist(), strict=True)
            columns[name] = [_within(name, *one) for one in ends]
        elif name == "n":
            columns[name] = [str(value) for value in values]
        elif name == "best":
            columns[name] = [f"{value:.0%}" for value in values]
        elif name.startswith("p_"):
            columns[name] = ["" if math.isnan(value) else _p(value) for value in values]
        elif name.endswith("epochs"):
            columns[name] = ["never" if math.isinf(value) else f"{value:.15g}" for value in values]
        elif name.endswith("median"):
            columns[name] = ["diverged" if math.isinf(value) else significant(value, 3) for value in values]
        else:
            columns[name] = setting(values)
    return columns


def _within(name: str, value: float, low: float, high: float) -> str:
    """A statistic with its interval: `-0.021 (-0.13 to 0.004)`, `65% (43-82)`."""
    if name == "improvement":
        text = f"{value:.0%}"
        return text if math.isnan(low) else f"{text} ({100 * low:.0f}-{100 * high:.0f})"
    texts: list[Any] = [significant(one, 2) for one in (value, low, high)]
    return texts[0] if math.isnan(low) else f"{texts[0]} ({texts[1]} to {texts[2]})"


def _p(value: float) -> str:
    """A p value: `0.012`, `<0.001`."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"
