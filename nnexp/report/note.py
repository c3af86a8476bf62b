"""A sweep's description, in Markdown, as MLflow's UI shows it on the parent run."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping

import pandas as pd

from nnexp.readable import marked, significant
from nnexp.report.findings import Findings

# MLflow's limit on a tag.
MAX_NOTE = 8000
# What a description has room for: rows of the summary, best runs, and the characters of the rest.
MAX_ROWS, MAX_BEST, MAX_LINE, MAX_TEXT = 30, 8, 200, 1500
# Columns of the summary that stay in its file.
LEFT_OUT = ("std", "min", "median", "max")


def begun(question: str, command: str, ranges: Mapping[str, str]) -> str:
    """What is known of a sweep when it begins: the question, the command, the ranges."""
    lines = [f"- **{escaped(key)}**: {escaped(values)}" for key, values in list(ranges.items())[:MAX_ROWS]]
    asked = f"**Question:** {escaped(question, MAX_TEXT)}" if question else ""
    code = textwrap.indent(_cut(command, MAX_TEXT), "    ", lambda line: True)  # no text ends such a block
    return _paragraphs(asked, code, "\n".join(lines))


def note(found: Findings, artifacts: Iterable[str], experiment_id: str) -> str:
    """The description of a sweep that has ended, at most MAX_NOTE characters; what is too long ends between
    two rows of its table."""
    runs = f"#/experiments/{experiment_id}/runs"
    head = begun(found.question, found.command, found.ranges)
    counts = "**" + ", ".join(f"{n:,} {kind}" for kind, n in found.counts.items()) + "**"
    best = "\n".join(_best(found, runs))
    links = (f"[{name}]({runs}/{found.parent.run_id}/artifacts/{name})" for name in artifacts)
    files = f"Artifacts: {', '.join(links)}"
    room = MAX_NOTE - len(_paragraphs(head, counts, best, files)) - 2
    table = "" if found.summary is None else _table(found.summary, room)
    return _paragraphs(head, counts, best, table, files)


def _best(found: Findings, runs: str) -> Iterable[str]:
    """A line a best run, which links to it."""
    best = found.best(1).head(MAX_BEST)
    for row in best[["run_name", "run_id", *found.metrics]].to_dict("records"):
        values = ", ".join(f"{name} {significant(row[name], 3)}" for name in found.metrics)
        yield f"- Best run: [{escaped(row['run_name'])}]({runs}/{row['run_id']}): {values}"


def _table(summary: pd.DataFrame, room: int) -> str:
    """The summary, of which at most `room` characters; of more rows than fit, those with the lowest mean."""
    if len(summary) > MAX_ROWS:
        summary = summary.sort_values(["diverged", "mean"], kind="stable", ignore_index=True)
    columns = {name: texts for name, texts in marked(summary, mark="★").items() if name not in LEFT_OUT}
    rows = ["| " + " | ".join(map(escaped, row)) + " |" for row in zip(*columns.values(), strict=True)]
    head = "| " + " | ".join(map(escaped, columns)) + " |\n" + "|---" * len(columns) + "|"
    shown: list[str] = []
    room -= len(head) + MAX_LINE
    for row in rows[:MAX_ROWS]:
        room -= len(row) + 1
        if room < 0:
            break
        shown.append(row)
    rest = f"\n\nThe {len(shown)} rows with the lowest mean loss, of {len(rows)}; all are in summary.md."
    return "\n".join([head, *shown]) + (rest if len(shown) < len(rows) else "")


def escaped(text: str, most: int = MAX_LINE) -> str:
    """The text on one line, at most so long, with nothing in it that Markdown or HTML would take for more."""
    line = _cut(" ".join(text.split()), most)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore within a word is one.
    return re.sub(r"[\\`*\[\]|~@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", line)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
