"""Render a sweep's report as one HTML file that needs no network, no other file and no program but a browser.

Jinja2 escapes everything from the record, and a content security policy allows only the page's own script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from nnexp.analysis.report.findings import Findings
from nnexp.analysis.report.pictures import Picture
from nnexp.analysis.search import best_trials
from nnexp.analysis.summary import grouped_by, ranked
from nnexp.analysis.summary_table import is_numeric, readable, setting, significant
from nnexp.tracking.searches import Searched

HERE = Path(__file__).parent
# The columns of a summary that one reads at first; the other statistics are in a table that is folded.
FIRST = ("n", "diverged", "median", "solved", "val_solved", "test_solved", "epochs_to")
# Rows in the tables of the best and the worst runs, and of all settings, runs and failures, so that a browser
# can open the page.
FEW, MAX_ROWS = 5, 2000


@dataclass(frozen=True)
class Cell:
    """A cell's text and, if the text is not exact, the number by which the cell sorts."""

    text: str
    value: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    cells: Sequence[Cell]
    kind: str = ""  # "number", "interval", "id", or "prose" for text that may be long


@dataclass(frozen=True)
class Table:
    """A table of the report; `standing` has how each row stands, if anything is known."""

    columns: Sequence[Column]
    standing: Sequence[str | None] = ()

    @property
    def rows(self) -> Iterator[tuple[Cell, ...]]:
        """Return the cells row by row."""
        return zip(*(column.cells for column in self.columns), strict=True)

    def __len__(self) -> int:
        return len(self.columns[0].cells)


def page(found: Findings, pictures: Sequence[Picture], experiment: str = "") -> bytes:
    """Render the report as HTML in UTF-8; `experiment` is the text of the experiment's file, if any."""
    ends = found.best(FEW), found.worst(FEW), found.ranked(MAX_ROWS), found.failed.head(MAX_ROWS)
    best, worst, every, failed = found.named(*ends)
    text = _template().render(
        found=found,
        pictures=pictures,
        experiment=experiment,
        summary=None if found.summary is None else _summary(found.summary),
        trials=None if found.search is None else _trials(found, found.search),
        rest=None if found.summary is None else _rest(found.summary),
        best=_runs(found, best),
        worst=_runs(found, worst),
        all_runs=_runs(found, every),
        failures=_failures(failed),
        provenance=_provenance(found.parent.tags),
        **_own(),
    )
    return text.encode()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


@cache
def _own() -> dict[str, Any]:
    """Return the page's style and script, the digests by which its policy allows them, and the version."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return {
        "style": Markup(style),
        "script": Markup(script),
        "style_digest": _digest(style),
        "script_digest": _digest(script),
        "version": version("nnexp"),
    }


def _digest(text: str) -> str:
    """Return the SHA-256 of a text as a content security policy has it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _summary(table: pd.DataFrame) -> Table:
    """Make the table of a summary, the best rows of each data set first: what one reads at first."""
    table = ranked(table).head(MAX_ROWS)
    shown = readable(table)
    ends = zip(*(shown[name] for name in ("median", "median_low", "median_high")), strict=True)
    columns = []
    for name, texts in shown.items():
        if name in FIRST or name in grouped_by(table):
            columns.append(_column(name, texts, table[name]))
        if name == "median":
            bounds = [f"{low} to {high}" if low and low != high else "" for _, low, high in ends]
            columns.append(Column("95% interval", [Cell(text) for text in bounds], "interval"))
    return Table(columns, table["standing"].tolist())


def _trials(found: Findings, search: Searched) -> Table | None:
    """Make the table of a search's best trials; None if no trial was completed."""
    columns = best_trials(search, found.confirmed, "★")
    if not columns["trial"]:
        return None
    numbers = {"trial", found.metric}
    return Table(
        [
            Column(name, [Cell(str(text)) for text in texts], "number" if name in numbers else "")
            for name, texts in columns.items()
        ]
    )


def _rest(table: pd.DataFrame) -> Table:
    """Make the table of what a summary has besides: the other statistics."""
    table = ranked(table).head(MAX_ROWS)
    named = {
        name: texts for name, texts in readable(table).items() if name not in FIRST or name in ("n", "median")
    }
    kept = {name: texts for name, texts in named.items() if name not in ("median_low", "median_high")}
    return Table(
        [_column(name, texts, table[name]) for name, texts in kept.items()], table["standing"].tolist()
    )


def _runs(found: Findings, runs: pd.DataFrame) -> Table:
    """Make a table of runs: their names, settings, metrics, outcomes and ids."""
    settings = [_column(name, setting(runs[name].tolist()), runs[name]) for name in found.settings]
    metrics = [
        _column(name, [significant(value, 4) for value in runs[name]], runs[name]) for name in found.metrics
    ]
    named = settings or [_text(runs, "run_name")]
    return Table([*named, *metrics, _text(runs, "outcome"), _text(runs, "run_id", "id")])


def _failures(failed: pd.DataFrame) -> Table:
    """Make the table of runs that failed, with the reasons."""
    return Table([_text(failed, "run_name"), _text(failed, "reason", "prose"), _text(failed, "run_id")])


def _text(runs: pd.DataFrame, name: str, kind: str = "") -> Column:
    """Make a column of text."""
    cells = [Cell("" if value is None else str(value)) for value in runs[name]]
    return Column(name.replace("_", " "), cells, kind)


def _column(name: str, texts: Sequence[str], values: pd.Series) -> Column:
    """Make a column of texts; if the values are numbers, it sorts by them."""
    if not is_numeric(values):
        return Column(name, [Cell(text) for text in texts])
    return Column(name, [_cell(*pair) for pair in zip(texts, values.tolist(), strict=True)], "number")


def _cell(text: str, value: float) -> Cell:
    """Make a cell of a number; it carries the exact value if its text is rounded."""
    exact = repr(float(value))
    return Cell(text, "" if text in ("", exact, exact.removesuffix(".0")) else exact)


def _provenance(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that say where the sweep comes from, except those that the page shows elsewhere."""
    told = ("nnexp.question", "nnexp.command", "nnexp.sweep")
    kept = ("nnexp.", "mlflow.user", "mlflow.source.git")
    return {key: value for key, value in sorted(tags.items()) if key.startswith(kept) and key not in told}
