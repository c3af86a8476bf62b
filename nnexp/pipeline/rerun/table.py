"""Train a population again, a part at a time, and compare it with its record column by column."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nnexp.config.grid import Axis, Grid, Range
from nnexp.config.keys import KeyTemplate
from nnexp.config.recorded import read_config
from nnexp.config.request import Executor
from nnexp.pipeline.population.lots import lots
from nnexp.pipeline.population.rows import Contents, Rows
from nnexp.pipeline.population.space import COLUMNS, Cell, Points, Space
from nnexp.pipeline.progress import Meter
from nnexp.pipeline.provenance import provenance
from nnexp.pipeline.rerun.subject import Subject, Subjects
from nnexp.pipeline.rerun.verdict import Verdict, apart, likely_causes
from nnexp.pipeline.session import tell_of_compiling
from nnexp.tracking import members
from nnexp.tracking.members import CURVE, METRIC, PARAM, WEIGHTS, Part
from nnexp.tracking.population import Population
from nnexp.training.lots import Failed, Lot, execute_lots

# How many of the members that differ get a verdict of their own; the others are only counted.
MOST_VERDICTS = 1000
Bools = NDArray[np.bool_]


@dataclass
class Compared:
    """A population that was trained again.

    `members` counts those that were compared, `differ` those of them that differ; `verdicts` are on the first
    of these. `damaged` names each part whose newest revision is damaged, and what follows from that.
    """

    members: int = 0
    differ: int = 0
    verdicts: list[Verdict] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    extent: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def is_identical(self) -> bool:
        """Return whether every member that is recorded was compared and is the same."""
        return not self.differ and not self.damaged

    def difference(self) -> str | None:
        """Return what differs, in words; None if nothing does."""
        if self.differ:
            return f"{self.differ:,} of {self.members:,} members, the first {self.verdicts[0].run_id}"
        return self.damaged[0] if self.damaged else None


def verify(found: Population, subjects: Subjects) -> Compared:
    """Train all finished members again and compare them. Raises RequestError if a data set is missing."""
    began, result = time.monotonic(), Compared()
    tell_of_compiling()
    total = int(found.parent.tags.get("nnexp.runs", "0"))
    with Meter("rerun", total, "members") as meter:
        for revisions in found.parts().values():
            newest = found.newest(revisions)
            if newest is None or newest[0] != revisions[0]:
                result.damaged.append(members.damage(found.parent, revisions, newest is None))
            if newest is not None:
                part, content = newest
                _compare(found, subjects, part, members.from_bytes(content), result)
                meter.update(result.members)
    result.seconds = time.monotonic() - began
    return result


def subjects_of(found: Population, subjects: Subjects) -> Iterator[tuple[int, Subject | str]]:
    """Yield how many members could be trained again as each subject, or why so many cannot."""
    for revisions in found.parts().values():
        newest = found.newest(revisions)
        if newest is None:
            yield 1, members.damage(found.parent, revisions, is_lost=True)
            continue
        part, content = newest
        table = members.from_bytes(content, lambda name: not name.startswith((CURVE, WEIGHTS)))
        table = table.filter(pc.equal(table["status"].cast("string"), "FINISHED")).combine_chunks()
        if len(table):
            cells, cell = _cells(found, subjects, part, table, table.schema.metadata)
            yield from zip(np.bincount(cell).tolist(), cells, strict=True)


def _compare(found: Population, subjects: Subjects, part: Part, table: pa.Table, result: Compared) -> None:
    """Train the finished members of a part again, and add what differs to the result."""
    notes = table.schema.metadata
    table = table.filter(pc.equal(table["status"].cast("string"), "FINISHED")).combine_chunks()
    if not len(table):
        return
    cells, cell = _cells(found, subjects, part, table, notes)
    for subject in cells:
        result.notes |= {} if subject.data.note is None else {subject.data.note: None}
    is_there = np.array([subject.data.dataset is not None for subject in cells])[cell]
    differs = _Difference(len(table))
    differs.add(~is_there, lambda i: "the data set")
    trained = np.flatnonzero(is_there)
    if len(trained):
        old = table.take(pa.array(trained)) if len(trained) < len(table) else table
        new = _again(cells, cell[trained], old)
        for name in _in_order(new.column_names):
            if name in old.column_names:
                _add(differs, name, old[name], new[name], trained)
    result.members += len(table)
    metrics = [name for name in table.column_names if name.startswith(METRIC)]
    result.extent["hashes of weights"] += len(table)
    result.extent["last metrics"] += sum(len(table) - table[name].null_count for name in metrics)
    at = np.flatnonzero(differs.is_any)
    result.differ += len(at)
    here = provenance()
    for i in at[: max(0, MOST_VERDICTS - len(result.verdicts))].tolist():
        (row,) = table.slice(i, 1).to_pylist()
        member = found.as_member(part, row, notes)
        subject = cells[cell[i]]
        causes = [f"data: {subject.data.changed}"] * (subject.data.changed is not None)
        was = read_config(member.config, member.run_id)
        causes += likely_causes(member.evidence(), was, differs.hash_of.get(i, ""), here)
        text = f"{differs.text[i]} ({part.name})"
        result.verdicts.append(Verdict(member.run_id, member.name, text, tuple(causes)))


class _Difference:
    """The first difference of each row, found column by column."""

    def __init__(self, rows: int) -> None:
        self.is_any: Bools = np.zeros(rows, dtype=np.bool_)
        self.text: dict[int, str] = {}
        self.hash_of: dict[int, str] = {}  # the weights' hash now, of some rows that differ

    def add(self, is_other: Bools, text: Any) -> None:
        """Add the rows that differ in one more column; `text` says how one of them does."""
        for i in np.flatnonzero(is_other & ~self.is_any)[:MOST_VERDICTS].tolist():
            self.text[i] = text(i)
        self.is_any |= is_other


def _cells(
    found: Population, subjects: Subjects, part: Part, table: pa.Table, notes: Mapping[bytes, bytes]
) -> tuple[list[Subject], NDArray[np.intp]]:
    """Return one subject for the members that differ only in their numbers, and which one each belongs to."""
    code = np.zeros(len(table), dtype=np.intp)
    for name in table.column_names:
        if name.startswith(PARAM) and not _is_number(table, name):
            texts = table[name].to_pandas().map(repr)
            of_name = np.unique(texts, return_inverse=True)[1]
            code = np.unique(code * (int(of_name.max()) + 1) + of_name, return_inverse=True)[1]
    _, first, code = np.unique(code, return_index=True, return_inverse=True)
    rows = [table.slice(i, 1).to_pylist()[0] for i in first.tolist()]
    return [subjects.subject(found.as_member(part, row, notes).evidence()) for row in rows], code


def _is_number(table: pa.Table, name: str) -> bool:
    """Return whether a param is one of those that a batch takes as a column of numbers."""
    key = name.removeprefix(PARAM)
    return key in COLUMNS and not (key == "split_seed" and table[name].null_count)


def _again(subjects: Sequence[Subject], cell: NDArray[np.intp], table: pa.Table) -> pa.Table:
    """Train these members again; return the columns of their results."""
    axes, values, at = list[Axis](), dict[str, list[Any]](), dict[int, Any]()
    for name in table.column_names:
        if name.startswith(PARAM) and _is_number(table, name):
            key = name.removeprefix(PARAM)
            encoded = table[name].combine_chunks().dictionary_encode()
            values[key] = encoded.dictionary.to_pylist()
            at[len(axes)] = encoded.indices.fill_null(0).to_numpy()
            axes.append(Axis((Range(key, values[key]),)))
    used, of_cell = np.unique(cell, return_inverse=True)
    cells = []
    for subject in (subjects[i] for i in used):
        dataset, version = subject.data.dataset, subject.evidence.tags.get("nnexp.engine", "")
        assert dataset is not None  # as the caller has found
        template = KeyTemplate(subject.config, subject.data_sha256, version, values)
        cells.append(Cell(subject.config, dataset, template, is_first=True))
    space = Space(Grid(tuple(axes)), list(at), values, cells, None)
    points = Points(table["number"].to_numpy(), of_cell, at, np.zeros((len(table), 0), dtype=np.uint8))
    points = replace(points, keys=space.run_keys(points))
    rows = Rows(space, _contents(table), points, 1)
    for _, ended in execute_lots(_lots(space, points, table), Executor("inline")):
        for lot, answer in ended:
            if isinstance(answer, Failed):
                rows.fail(lot.rows[answer.runs], answer.failure)
            else:
                rows.add(lot.dataset, lot.columns, lot.rows, answer)
    return rows.table()


def _lots(space: Space, points: Points, table: pa.Table) -> Iterator[Lot]:
    has_curves = any(name.startswith(CURVE) for name in table.column_names)
    for dataset, rows, columns in lots(space, points):
        yield Lot(None, rows, dataset, columns, has_curves, f"{WEIGHTS}initial" in table.column_names)


def _contents(table: pa.Table) -> Contents:
    """Return which results the part records."""
    names = table.column_names
    metrics, curves = (
        [n.removeprefix(kind) for n in names if n.startswith(kind)] for kind in (METRIC, CURVE)
    )
    weights = "all" if f"{WEIGHTS}initial" in names else "final" if f"{WEIGHTS}final" in names else "none"
    return Contents({}, metrics, curves, weights)


def _in_order(names: Sequence[str]) -> list[str]:
    """Return the columns of results in the order in which training makes them."""
    starts = [f"{WEIGHTS}initial", CURVE, f"{WEIGHTS}kept", f"{WEIGHTS}final", METRIC]
    starts += ["last_epoch", "weights_sha256", "outcome", "status", "run_key"]
    return [name for start in starts for name in names if name.startswith(start)]


def _add(differs: _Difference, name: str, old: Any, new: Any, rows: NDArray[np.intp]) -> None:
    """Add the rows whose values in this column differ."""
    position = {row: i for i, row in enumerate(rows.tolist())} if len(rows) < len(differs.is_any) else None
    kind = old.type
    if pa.types.is_fixed_size_binary(kind):
        is_other = (members.hash_bytes(old) != members.hash_bytes(new)).any(axis=1)
    elif pa.types.is_floating(kind) or pa.types.is_integer(kind):
        was, now = old.to_numpy(), new.to_numpy()
        is_other = (was != now) & ~(np.isnan(was) & np.isnan(now))
    elif pa.types.is_list(kind):
        same = old.equals(new)
        is_other = np.zeros(len(old), bool) if same else _lists_differ(old.to_pylist(), new.to_pylist())
    else:
        was, now = (column.cast("string").fill_null("") for column in (old, new))
        is_other = pc.not_equal(was, now).to_numpy()
    whole = np.zeros(len(differs.is_any), dtype=np.bool_)
    whole[rows] = is_other

    def text(row: int) -> str:
        i = row if position is None else position[row]
        return _words(name, old[i].as_py(), new[i].as_py())

    differs.add(whole, text)
    if name == "weights_sha256":
        for i in np.flatnonzero(differs.is_any[rows])[:MOST_VERDICTS].tolist():
            differs.hash_of[int(rows[i])] = (new[i].as_py() or b"").hex()


def _lists_differ(old: Sequence[Any], new: Sequence[Any]) -> Bools:
    """Return which lists differ; nan is equal to itself."""
    return np.array([str(was) != str(now) for was, now in zip(old, new, strict=True)])


def _words(name: str, old: Any, new: Any) -> str:
    """Say how two values of a column differ."""
    short = name.removeprefix(METRIC)
    if isinstance(old, float) and isinstance(new, float):
        return f"{short} is {apart(new, old)}"
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"{short} has {len(new)} values, recorded {len(old)}"
        i = next(i for i, pair in enumerate(zip(old, new, strict=True)) if str(pair[0]) != str(pair[1]))
        return _words(f"{short}[{i}]", old[i], new[i])
    shown = [value.hex()[:16] + "…" if isinstance(value, bytes) else repr(value) for value in (new, old)]
    return f"{short} is {shown[0]}, recorded {shown[1]}"
