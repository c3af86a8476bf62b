"""Format a summary for people: round it to what its intervals support, and mark the best rows.

The formats for programs, csv and json, have every digit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from nnexp.analysis.summary import comparable, grouped_by, incomparable
from nnexp.analysis.tables import Columns, as_text

# More digits than these are noise, however narrow the interval.
MOST_DIGITS = 6
# A spread below this share of the mean is rounding: the values are all the same.
ROUNDING = 1e-12
# What only csv and json have: the table for people says it in other columns, or by marks.
FOR_PROGRAMS = ("used", "iqm_low", "iqm_high", "rank", "standing", "seeds_needed")
# What is left out where a terminal is narrow, in this order.
LEAST_NEEDED = (
    *("max", "min", "std", "mean", "iqm", "networks", "diverged"),
    *("epochs_to", "test_solved", "val_solved", "solved", "median_high", "median_low"),
)
# How a row stands, as marks.
MARKS = {"best": "*", "tied": "~"}
# A param's value is shown so long at most, and any cell of a table for people (tables.MAX_CELL).
MAX_SETTING = 40


def readable(table: pd.DataFrame) -> Columns:
    """A table of `summary.summarize` as texts, column by column.

    Median, iqm and their intervals have the digits that two digits of the interval's half-width allow, a mean
    those that its standard error allows, the other statistics three of their own. Shares stand with their
    intervals. There is no `networks` where all runs of each row have different weights, and no `diverged`
    where no run did.
    """
    values: dict[str, list[Any]] = {str(name): column.tolist() for name, column in table.items()}
    columns: Columns = {}
    for name, column in values.items():
        if name in FOR_PROGRAMS or name.endswith(("solved_low", "solved_high", "to_low", "to_high")):
            continue
        if name in ("median", "iqm"):
            low, high = values[f"{name}_low"], values[f"{name}_high"]
            halves = [(upper - lower) / 2 for lower, upper in zip(low, high, strict=True)]
            for of in (name, f"{name}_low", f"{name}_high"):
                if of in FOR_PROGRAMS:
                    continue
                rounded = zip(values[of], column, halves, strict=True)
                columns[of] = [_statistic(value, middle, half) for value, middle, half in rounded]
        elif name in ("median_low", "median_high"):
            continue
        elif name in ("mean", "std"):
            columns[name] = [_of_mean(*one) for one in zip(column, *_means(values), strict=True)]
        elif name in ("min", "max"):
            columns[name] = [significant(value, 3) for value in column]
        elif name in ("solved", "val_solved", "test_solved"):
            ends = zip(column, values[f"{name}_low"], values[f"{name}_high"], strict=True)
            columns[name] = [_share_within(*one) for one in ends]
        elif name == "epochs_to":
            ends = zip(column, values["epochs_to_low"], values["epochs_to_high"], strict=True)
            columns[name] = [_epochs_within(*one) for one in ends]
        elif name in ("n", "networks", "diverged"):
            columns[name] = [str(int(value)) for value in column]
        else:
            columns[name] = setting(column)
    if values["networks"] == values["n"]:
        del columns["networks"]
    if not any(values["diverged"]):
        del columns["diverged"]
    return columns


def _means(values: dict[str, list[Any]]) -> tuple[list[float], list[float]]:
    """The means and the half-widths that their standard errors give, for the digits of mean and std."""
    halves = [
        2 * std / math.sqrt(n) if n else math.nan
        for std, n in zip(values["std"], values["used"], strict=True)
    ]
    return values["mean"], halves


def _of_mean(value: float, mean: float, half: float) -> str:
    """A mean or a standard deviation, with the digits that the mean's standard error allows."""
    return "0" if abs(value) <= ROUNDING * abs(mean) else _rounded(value, _places(mean, half))


def _statistic(value: float, middle: float, half: float) -> str:
    """A median or an interquartile mean, or an end of its interval; in words where runs diverged.

    Losses of two modes have intervals over decades, so each number has two digits of its own at least.
    """
    if math.isinf(value):
        return "diverged"
    if not math.isfinite(half):
        return significant(value, 3)
    return _rounded(value, max(_places(middle, half), 1 - _exponent(value)))


def _share_within(value: float, low: float, high: float) -> str:
    """A share with its interval: `65% (43-82)`."""
    if math.isnan(low):
        return _share(value)
    return f"{_share(value)} ({100 * low:.0f}-{100 * high:.0f})"


def _epochs_within(value: float, low: float, high: float) -> str:
    """A number of epochs with its interval: `510 (480-600)`, `never`."""
    text, *ends = ("never" if math.isinf(one) else f"{one:.15g}" for one in (value, low, high))
    return text if math.isnan(low) else f"{text} ({'-'.join(ends)})"


def as_table(table: pd.DataFrame, style: str = "table") -> str:
    """The summary as text: readable and with marks; for csv and json every column and digit, no marks."""
    return as_text(table, style) if style in ("csv", "json") else _text(marked(table), table, style)


def fitted(table: pd.DataFrame, width: int) -> tuple[list[str], list[str]]:
    """The summary's lines, the first two its header, none longer than the width; the columns that were left
    out for it."""
    columns = marked(table)
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


def marked(table: pd.DataFrame, best: str = MARKS["best"]) -> Columns:
    """`readable`, after a column without a name: `*` in the best rows, `~` in those that cannot be told from
    them.

    There is no such column if no row has a standing.
    """
    marks = MARKS | {"best": best}
    standing = table["standing"].tolist()
    shown: Columns = {"": [marks.get(one, "") for one in standing]} if any(standing) else {}
    return shown | readable(table)


def open_question(table: pd.DataFrame) -> str:
    """Say how many seeds would tell the best row from all others, of rows that compare with each other.

    Empty if it is told from all others.
    """
    tied = table[table["standing"] == "tied"]
    if tied.empty:
        return ""
    needed = sorted(tied["seeds_needed"].tolist())
    numbers = [f"{n:,.0f}" if math.isfinite(n) else "more than 10,000" for n in (needed[0], needed[-1])]
    span = numbers[0] if numbers[0] == numbers[1] else f"{numbers[0]} to {numbers[1]}"
    about = "about " * math.isfinite(needed[0])
    return f"not separable with {int(tied['n'].min())} seeds; {about}{span} would be needed"


def open_questions(table: pd.DataFrame) -> list[str]:
    """Say what the runs do not tell, a line for each data set and loss function where it is something."""
    by = incomparable(grouped_by(table))
    lines = []
    for part in comparable(table):
        rows = table.iloc[part]
        if said := open_question(rows):
            rivals = int((rows["standing"] == "tied").sum())
            of = "".join(f"{name}={rows[name].iloc[0]}: " for name in by)
            lines.append(f"{of}the best (*) and {rivals} row{'s' * (rivals > 1)} (~) are {said}")
    return lines


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
