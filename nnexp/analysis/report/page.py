"""A sweep's report: one HTML file that needs nothing else, neither a network nor a program.

Jinja2 escapes all that comes from the record, and a policy in the page lets no script run but its own.
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
from nnexp.analysis.summary import best_rows
from nnexp.analysis.summary_table import is_numeric, readable, setting, significant

HERE = Path(__file__).parent
# Rows of the best and of the worst runs; of all runs, so that a page stays one that a browser opens.
FEW, MAX_ROWS = 5, 2000


@dataclass(frozen=True)
class Cell:
    """A text and, where it is not the whole of it, the number by which it sorts."""

    text: str
    value: str = ""


@dataclass(frozen=True)
class Column:
    name: str
    cells: Sequence[Cell]
    kind: str = ""  # number, or prose, which may be long


@dataclass(frozen=True)
class Table:
    columns: Sequence[Column]
    best: Sequence[int] = ()

    @property
    def rows(self) -> Iterator[tuple[Cell, ...]]:
        return zip(*(column.cells for column in self.columns), strict=True)

    def __len__(self) -> int:
        return len(self.columns[0].cells)


def page(found: Findings, pictures: Sequence[Picture]) -> bytes:
    """The report as UTF-8."""
    text = _template().render(
        found=found,
        pictures=pictures,
        summary=None if found.summary is None else _summary(found.summary),
        best=_runs(found, found.best(FEW)),
        worst=_runs(found, found.worst(FEW)),
        all_runs=_runs(found, found.done.head(MAX_ROWS)),
        failures=_failures(found),
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
    """The page's style and script, with the digests by which its policy knows them."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return {
        "style": Markup(style),
        "script": Markup(script),
        "style_digest": _digest(style),
        "script_digest": _digest(script),
        "version": version("nnexp"),
    }


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _summary(table: pd.DataFrame) -> Table:
    columns = [_column(name, texts, table[name]) for name, texts in readable(table).items()]
    return Table(columns, best_rows(table))


def _runs(found: Findings, runs: pd.DataFrame) -> Table:
    """Some runs: their names, their settings, their metrics, how they ended, their ids."""
    settings = [_column(name, setting(runs[name].tolist()), runs[name]) for name in found.settings]
    metrics = [
        _column(name, [significant(value, 4) for value in runs[name]], runs[name]) for name in found.metrics
    ]
    return Table(
        [_text(runs, "run_name"), *settings, *metrics, _text(runs, "outcome"), _text(runs, "run_id")]
    )


def _failures(found: Findings) -> Table:
    failed = found.failed
    return Table([_text(failed, "run_name"), _text(failed, "reason", "prose"), _text(failed, "run_id")])


def _text(runs: pd.DataFrame, name: str, kind: str = "") -> Column:
    cells = [Cell("" if value is None else str(value)) for value in runs[name]]
    return Column(name.replace("_", " "), cells, kind)


def _column(name: str, texts: Sequence[str], values: pd.Series) -> Column:
    """Texts that sort by the values, where these are numbers."""
    if not is_numeric(values):
        return Column(name, [Cell(text) for text in texts])
    return Column(name, [_cell(*pair) for pair in zip(texts, values.tolist(), strict=True)], "number")


def _cell(text: str, value: float) -> Cell:
    exact = repr(float(value))
    return Cell(text, "" if text in ("", exact, exact.removesuffix(".0")) else exact)


def _provenance(tags: Mapping[str, str]) -> dict[str, str]:
    """What is recorded of where the sweep comes from, but for what the page tells by itself."""
    told = ("nnexp.question", "nnexp.command", "nnexp.sweep")
    kept = ("nnexp.", "mlflow.user", "mlflow.source.git")
    return {key: value for key, value in sorted(tags.items()) if key.startswith(kept) and key not in told}
