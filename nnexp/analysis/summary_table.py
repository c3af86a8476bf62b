"""Format a summary for people: round it to what its intervals support, and mark the best rows.

The formats for programs, csv and json, have every digit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from nnexp.analysis.summary import best_rows, grouped_by, scale
from nnexp.analysis.tables import Columns, as_text

# More digits than these are noise, however narrow the interval.
MOST_DIGITS = 6
# A spread below this share of the mean is rounding: the values are all the same.
ROUNDING = 1e-12
# The columns that are left out on a narrow terminal, in this order.
LEAST_NEEDED = (
    *("max", "min", "median", "std", "diverged", "solved", "val_solved", "test_solved", "epochs_to"),
    *("ci95_high", "ci95_low"),
)
# The most characters of a param's value; tables.MAX_CELL limits all other cells.
MAX_SETTING = 40


def readable(table: pd.DataFrame, metric: str = "loss") -> Columns:
    """Return a table of `summary.summarize` as texts, by column; without `diverged` if no run did.

    Mean, interval and spread are rounded to the second digit of the interval's half-width, the other
    statistics to three digits. Intervals are cut off at the bounds of the metric: a loss is not below 0, an
    accuracy not above 1.
    """
    values: dict[str, list[Any]] = {str(name): column.tolist() for name, column in table.items()}
    means = values["mean"]
    places = [_places(mean, high - mean) for mean, high in zip(means, values["ci95_high"], strict=True)]
    low, high, _ = scale(metric)
    columns: Columns = {}
    for name, column in values.items():
        if name in ("mean", "ci95_low", "ci95_high"):
            within = (min(max(value, low), high) if math.isfinite(value) else value for value in column)
            columns[name] = [_rounded(value, p) for value, p in zip(within, places, strict=True)]
        elif name == "std":
            columns[name] = [
                "0" if spread <= ROUNDING * abs(mean) else _rounded(spread, p)
                for spread, mean, p in zip(column, means, places, strict=True)
            ]
        elif name in ("min", "median", "max"):
            columns[name] = [significant(value, 3) for value in column]
        elif name in ("solved", "val_solved", "test_solved", "diverged"):
            columns[name] = [_share(value) for value in column]
        elif name == "epochs_to":
            columns[name] = ["never" if math.isinf(value) else f"{value:.15g}" for value in column]
        else:
            columns[name] = setting(column)
    if not any(values["diverged"]):
        del columns["diverged"]
    return columns


def as_table(table: pd.DataFrame, metric: str = "loss", style: str = "table") -> str:
    """Return the summary as text: rounded, best rows marked by *; csv and json with all digits, unmarked."""
    return as_text(table, style) if style in ("csv", "json") else _text(marked(table, metric), table, style)


def fitted(table: pd.DataFrame, metric: str, width: int) -> tuple[list[str], list[str]]:
    """Fit the summary to a width; return its lines, of which two are the header, and the columns left out."""
    columns = marked(table, metric)
    left_out = []
    lines = _text(columns, table).splitlines()
    for name in LEAST_NEEDED:
        if len(lines[0]) <= width:
            break
        if name in columns:
            del columns[name]
            left_out.append(name)
            lines = _text(columns, table).splitlines()
    return [line if len(line) <= width else line[: width - 1] + "…" for line in lines], left_out


def marked(table: pd.DataFrame, metric: str = "loss", mark: str = "*") -> Columns:
    """Return `readable` with a first column that marks the best rows and has no name, if there are any."""
    best = best_rows(table, metric)
    marks: Columns = {"": [mark if i in best else "" for i in range(len(table))]} if best else {}
    return marks | readable(table, metric)


def _text(columns: Columns, table: pd.DataFrame, style: str = "table") -> str:
    """Format columns as text, with numbers aligned to the right and words to the left."""
    words = [name for name in grouped_by(table) if not is_numeric(table[name])]
    return as_text(columns, style, left=["", *words])


def is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def setting(column: Sequence[Any]) -> list[str]:
    """Return a param's values as typed; shorten numbers and long texts, but keep different ones different."""
    if not all(isinstance(value, float) for value in column):
        return _abbreviated([_word(value) for value in column])
    for digits in range(4, 17):
        texts = [_word(f"{value:.{digits}g}" if math.isfinite(value) else value) for value in column]
        if len(set(texts)) == len({repr(value) for value in column}):
            return texts
    return [_word(value) for value in column]


def _abbreviated(texts: Sequence[str]) -> list[str]:
    """Shorten long texts to the part where they begin to differ, and number them if they are then equal."""
    long = list(dict.fromkeys(text for text in texts if len(text) > MAX_SETTING))
    differ = (i for i, letters in enumerate(zip(*long, strict=False)) if len(set(letters)) > 1)
    start = max(0, next(differ, 0) - MAX_SETTING // 2)
    shown: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for text in long:
        part = "…" * (start > 0) + text[start:]
        part = part if len(part) <= MAX_SETTING else part[: MAX_SETTING - 1] + "…"
        taken[part] += 1
        shown[text] = part if taken[part] == 1 else f"{part} #{taken[part]}"
    return [shown.get(text, text) for text in texts]


def _word(value: Any) -> str:
    if value is None or value != value:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def significant(value: float, digits: int) -> str:
    """Return the value with so many significant digits: 0.0450, 1230, 7.8e-05; "" if it is not a number."""
    if not math.isfinite(value):
        return "" if math.isnan(value) else str(value)
    return _rounded(value, digits - 1 - _exponent(value) if value else 0)


def _places(mean: float, half: float) -> int:
    """Return the number of decimal places that the interval of a mean supports."""
    if not math.isfinite(mean) or mean == 0 == half:
        return 0
    most = MOST_DIGITS - 1 - _exponent(max(abs(mean), half) if math.isfinite(half) else mean)
    if not math.isfinite(half) or half <= ROUNDING * abs(mean):  # one run, or runs that agree
        return min(most, 3 - _exponent(mean))
    return min(most, 1 - _exponent(half))


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def _rounded(value: float, places: int) -> str:
    """Round to decimal places, which may be negative; write very small and large values with an exponent."""
    if not math.isfinite(value):
        return "" if math.isnan(value) else str(value)
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e7:
        return f"{round(value, places) + 0.0:.{max(places, 0)}f}"
    digits = places + _exponent(value)
    return f"{value:.{digits}e}" if digits >= 0 else "0"


def _share(value: float) -> str:
    """Return a share as a percentage; only none is 0%, and only all is 100%. "" if there is no share."""
    if math.isnan(value):
        return ""
    if 0 < value < 0.001:
        return "<0.1%"
    if 0.999 < value < 1:
        return ">99.9%"
    return f"{100 * value:.1f}".removesuffix(".0") + "%"
