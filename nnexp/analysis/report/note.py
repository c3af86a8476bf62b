"""Write a sweep's description in Markdown, which MLflow's UI shows on the parent run."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence

import pandas as pd

from nnexp.analysis.report.findings import Findings
from nnexp.analysis.summary_table import is_numeric, marked, significant
from nnexp.tracking.members import split_member

# MLflow's limit on the length of a tag.
MAX_NOTE = 8000
# Limits of a description: rows of the summary, best settings, best runs and ranges; characters of one of
# these, and of the question or the command.
MAX_ROWS, MAX_BEST, MAX_RUNS, MAX_RANGES, MAX_LINE, MAX_TEXT = 30, 12, 3, 8, 150, 800
# A space that is as wide as a digit.
FIGURE_SPACE = "\u2007"
# Columns of the summary that are only in its file.
LEFT_OUT = ("iqm", "std", "min", "max")


def begun(question: str, command: str, ranges: Mapping[str, str]) -> str:
    """Write the description of a sweep that begins: the question, the command, the ranges."""
    return _paragraphs(_asked(question), _typed(command, ranges))


def note(found: Findings, artifacts: Collection[str], experiment_id: str) -> str:
    """Write the description of a sweep that has ended, in at most MAX_NOTE characters.

    If it would be longer, rows of its table are left out. The UI folds a description after a few lines, so
    the answer comes first.
    """
    runs = f"#/experiments/{experiment_id}/runs"
    total, *others = (f"{n:,} {kind}" for kind, n in found.counts.items())
    counts = f"**{total}**: {', '.join(others)}"
    settings: Iterable[str] = [f"- {escaped(found.verdict, MAX_TEXT)}"]
    if found.search is None:
        settings = [*_best_settings(found), *_best_by_words(found)]
    best = "\n".join([*settings, *_best_runs(found, runs)])
    data = escaped(found.data, MAX_TEXT)
    typed = _typed(found.command, found.ranges)
    links = (f"[{name}]({runs}/{found.parent.run_id}/artifacts/{name})" for name in artifacts)
    files = f"Artifacts: {', '.join(links)}" if artifacts else ""
    parts = [_asked(found.question), counts, best, data, typed, files]
    room = MAX_NOTE - len(_paragraphs(*parts)) - 2
    table = "" if found.summary is None else _table(found, found.summary, room)
    return _paragraphs(*parts[:-1], table, files)


def _asked(question: str) -> str:
    """Return the question as a paragraph; empty if there is none."""
    return f"**Question:** {escaped(question, MAX_TEXT)}" if question else ""


def _typed(command: str, ranges: Mapping[str, str]) -> str:
    """Return the command as a code block, and the ranges as a list."""
    code = textwrap.indent(command, "    ", lambda line: True)  # no text can end an indented block
    shown = list(ranges.items())[:MAX_RANGES]
    lines = [f"- **{escaped(key, MAX_LINE // 4)}**: {escaped(values)}" for key, values in shown]
    if len(ranges) > len(shown):
        lines.append(f"- and {len(ranges) - len(shown)} more")
    return _paragraphs("Typed:", _cut(code, MAX_TEXT), "\n".join(lines))


def _best_settings(found: Findings) -> Iterable[str]:
    """Yield a line for the best setting of each data set and loss function, with its rivals."""
    for answer in found.answers[:MAX_BEST]:
        of = f"{answer.of}: " * bool(answer.of)
        line = f"{of}{answer.setting} has the {found.superlative}: {answer.median}"
        if answer.rivals:
            rivals = "; ".join(setting for setting, _ in answer.rivals)
            line += f". Rivals: {rivals} ({answer.open})"
        yield f"- {escaped(line, MAX_TEXT)}"


def _best_by_words(found: Findings) -> Iterable[str]:
    """Yield a line for the best numbers of each choice of the swept words."""
    for words, numbers, middle in found.by_words[:MAX_BEST]:
        yield f"- {escaped(f'{words}: {numbers} is best, median {middle}', MAX_TEXT)}"


def _best_runs(found: Findings, runs: str) -> Iterable[str]:
    """Yield a line for each best run, with a link to it, or a member's name, which has no page."""
    (best,) = found.named(found.best(1).head(MAX_RUNS))
    for row in best[["run_name", "run_id", *found.metrics]].to_dict("records"):
        values = ", ".join(f"{name} {significant(row[name], 3)}" for name in found.metrics)
        if split_member(row["run_id"]) is not None:
            yield f"- Best network: {escaped(row['run_name'])}, {row['run_id']}: {values}"
        else:
            yield f"- Best run: [{escaped(row['run_name'])}]({runs}/{row['run_id']}): {values}"


def _table(found: Findings, summary: pd.DataFrame, room: int) -> str:
    """Return the summary as a table of at most `room` characters.

    The best rows come first.
    """
    summary = summary.sort_values("rank", kind="stable", ignore_index=True)
    columns = {
        name: _padded([name, *texts], name in summary and is_numeric(summary[name]))
        for name, texts in marked(summary, "★").items()
        if name not in LEFT_OUT
    }
    head, *rows = ["| " + " | ".join(row) + " |" for row in zip(*columns.values(), strict=True)]
    head += "\n" + "|---" * len(columns) + "|"
    shown: list[str] = []
    room -= len(head) + MAX_LINE
    for row in rows[:MAX_ROWS]:
        room -= len(row) + 1
        if room < 0:
            break
        shown.append(row)
    rest = f"\n\nThe {len(shown)} rows with the {found.superlative}, of {len(rows)}; all are in summary.md."
    return "\n".join([head, *shown]) + (rest if len(shown) < len(rows) else "")


def _padded(texts: Sequence[str], are_numbers: bool) -> list[str]:
    """Escape and pad the cells of a column: a space before each, and numbers aligned to the right.

    The UI's own style leaves no space between columns.
    """
    width = max(map(len, texts)) if are_numbers else 0
    return [f"&ensp;{escaped(text).rjust(width, FIGURE_SPACE)}" for text in texts]


def escaped(text: str, most: int = MAX_LINE) -> str:
    """Escape Markdown and HTML in a text; return it on one line, cut to at most `most` characters."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore within a word has no meaning in Markdown.
    line = re.sub(r"[\\`*\[\]|~@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", line)
    if len(line) <= most:
        return line
    whole = re.match(rf"(?:\\.|&\w+;|[^\\&]){{0,{most}}}", line[: most - 1])
    assert whole is not None  # it matches the empty text too
    return whole[0] + "…"


def _cut(text: str, most: int) -> str:
    """Cut a text to at most `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _paragraphs(*parts: str) -> str:
    """Join the parts that are not empty by blank lines."""
    return "\n\n".join(part for part in parts if part)
