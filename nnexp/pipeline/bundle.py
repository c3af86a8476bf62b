"""One archive of a run or a sweep with all that a rerun needs: written from a store, read without one.

What is in it: SHA256SUMS, of every other member; bundle.json, which says of what it is; requirements.lock;
git.diff where something was not committed; data/…, the data sets; and for each run runs/ID/run.json (name,
params, tags, times), config.yaml, weights.npz and metrics.csv (metric, epoch, value); and for each sweep that
a run is of sweeps/ID/run.json and run_keys.txt. The same record gives the same bytes. Format 1 had no sweeps
and no times, and a sweep's tags among those of its runs.

An archive may come from anyone: archive.py reads it within bounds, and what it says is checked here. Its runs
are read some at a time, so that it takes no more memory than they do.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnexp.config.errors import RequestError
from nnexp.config.text import on_one_line, printable, shortened
from nnexp.dataset.load import Source
from nnexp.pipeline.archive import FREE_TEXT, RATIO, SUMS, TEXTS, Archive
from nnexp.pipeline.rerun.subject import Kept
from nnexp.tracking.evidence import Evidence, data_file
from nnexp.tracking.runs import now

FORMAT = 2
HEAD, LOCK = "bundle.json", "requirements.lock"
# The only names there can be.
_NAME = re.compile(
    rf"{HEAD}|{re.escape(LOCK)}|git\.diff|data/[0-9a-f]{{16}}/(table|new_rows)\.csv"
    r"|runs/[0-9a-f]{32}/(run\.json|config\.yaml|weights\.npz|metrics\.csv)"
    r"|sweeps/[0-9a-f]{32}/(run\.json|run_keys\.txt)"
)
# Of a run.
PARTS = ("run.json", "config.yaml", "weights.npz", "metrics.csv")
COLUMNS = ["metric", "epoch", "value"]
# bundle.json names the runs, each of which has members.
MAX_HEAD, MAX_NAMED = 2**16, 128
# The run.json of all sweeps together.
MAX_SWEEPS = 16 * 2**20
# What is read of the runs at a time: so many bytes, of which a text counts ten times, as it grows in memory.
GROUP_BYTES, TEXT_WEIGHT = 64 * 2**20, 10
# Milliseconds until the year 2255.
MAX_TIME = 9_000_000_000_000
# ZIP has no time before this; all members have it, so that time does not show.
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Parent:
    """A sweep, as the runs that it recorded need it: all but its figures and its report."""

    run_id: str
    name: str
    status: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    keys: bytes  # its run_keys.txt


# When a run or a sweep began and ended, by id, in milliseconds since 1970.
Times = Mapping[str, tuple[int, int | None]]


def write(
    path: Path,
    what: str,
    evidence: Sequence[Evidence],
    data: Mapping[str, Source],
    more: Mapping[str, bytes],
    sweeps: Sequence[Parent] = (),
    times: Times | None = None,
) -> int:
    """Write the archive; its size in bytes. `more` is requirements.lock and git.diff; the first of the sweeps
    is the one that the archive is of, if it is of one. Raises RequestError."""
    head = {"format": FORMAT, "what": what, "runs": [one.run_id for one in evidence]}
    members = {HEAD: _json({**head, "sweeps": [sweep.run_id for sweep in sweeps]}), **more}
    times = times or {}
    for sweep in sweeps:
        said = {"name": sweep.name, "status": sweep.status, "params": sweep.params, "tags": sweep.tags}
        members[f"sweeps/{sweep.run_id}/run.json"] = _json({**said, "times": times.get(sweep.run_id)})
        members[f"sweeps/{sweep.run_id}/run_keys.txt"] = sweep.keys
    for sha256, source in data.items():
        members[data_file(sha256, "table")] = source.table
        if source.new_rows is not None:
            members[data_file(sha256, "new_rows")] = source.new_rows
    for one in evidence:
        run = f"runs/{one.run_id}/"
        said = {"name": one.name, "params": one.params, "tags": one.own_tags or one.tags}
        members[f"{run}run.json"] = _json({**said, "times": times.get(one.run_id)})
        members[f"{run}metrics.csv"] = _metrics(one)
        for name, content in (("config.yaml", one.config), ("weights.npz", one.weights)):
            if content is not None:
                members[run + name] = content
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(members.items())]
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in [(SUMS, "".join(lines).encode()), *sorted(members.items())]:
                info = zipfile.ZipInfo(name, _TIME)
                info.compress_type, info.external_attr = _compression(content), (stat.S_IFREG | 0o644) << 16
                info.create_system = 3  # Unix, whose permissions these are
                archive.writestr(info, content)
        return path.stat().st_size
    except OSError as error:
        raise RequestError(f"--out {path}: cannot be written: {error.strerror}") from None


def _compression(content: bytes) -> int:
    """What compresses so well that it would not be believed is stored as it is."""
    is_long = len(content) > FREE_TEXT // RATIO
    is_odd = is_long and len(content) > RATIO * 3 // 4 * len(zlib.compress(content))
    return zipfile.ZIP_STORED if is_odd else zipfile.ZIP_DEFLATED


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _metrics(one: Evidence) -> bytes:
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    rows.writerow(COLUMNS)
    for metric, curve in sorted(one.curves.items()):
        rows.writerows((metric, epoch, repr(value)) for epoch, value in curve)
    return lines.getvalue().encode()


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The archive, every member's hash checked, while it is open. Raises RequestError."""
    with _plainly(path):
        file = zipfile.ZipFile(path)
    with file:
        with _plainly(path):
            bundle = Bundle(path, Archive(file, _NAME))
        yield bundle


class Bundle:
    """What an open archive holds. All texts in it are fit to be printed, as those of a store are.

    `what` is the recorded name of the run or sweep.
    """

    def __init__(self, path: Path, archive: Archive) -> None:
        """Raises ValueError."""
        if archive.size(HEAD) > MAX_HEAD + MAX_NAMED * len(archive.names):
            raise ValueError(f"{HEAD} has {archive.size(HEAD):,} bytes, more than its runs need")
        head = _mapping(archive, HEAD)
        self.format = head.get("format")
        if self.format not in (1, FORMAT):
            raise ValueError(
                f"its format is {shortened(repr(head.get('format')))}, and this nnexp knows 1 to {FORMAT}"
            )
        self.what = on_one_line(_text(head.get("what"), f"{HEAD}: what"))
        if head.get("runs") == []:
            raise ValueError(f"{HEAD}: runs: names none, so there is nothing to compare")
        self.run_ids = _ids(head.get("runs"), "runs", archive.names)
        self.path, self._archive = path, archive
        self.times: dict[str, tuple[int, int | None]] = {}  # of what has been read
        ids = _ids(head.get("sweeps", []), "sweeps", archive.names)
        if sum(archive.size(f"sweeps/{id_}/run.json") for id_ in ids) > MAX_SWEEPS:
            raise ValueError("its sweeps have more to tell than any of ours")
        self.sweeps = {id_: self._parent(id_) for id_ in ids}
        self._data: dict[str, Source | None] = {}

    def groups(self) -> Iterator[list[Evidence]]:
        """The runs in their order, so many at a time as memory holds. Raises RequestError."""
        group, size = list[Evidence](), 0
        for run_id in self.run_ids:
            sizes = {part: self._archive.size(f"runs/{run_id}/{part}") for part in PARTS}
            more = sum(n * (TEXT_WEIGHT if part.endswith(TEXTS) else 1) for part, n in sizes.items())
            if group and size + more > GROUP_BYTES:
                yield group
                group, size = [], 0
            with _plainly(self.path):
                group.append(self._evidence(run_id))
            size += more
        yield group

    def kept(self) -> Kept:
        """The copies of data sets in the archive, each of which is read once."""

        def kept(evidence: Evidence) -> Source | None:
            sha256 = evidence.tags.get("nnexp.data_sha256", "")
            if sha256 not in self._data:
                with _plainly(self.path):
                    table, new_rows = (
                        self._archive.find(data_file(sha256, part)) for part in ("table", "new_rows")
                    )
                self._data[sha256] = None if table is None else Source(table, new_rows)
            return self._data[sha256]

        return kept

    def begun(self, run_id: str) -> int:
        """When a run that was read began, in milliseconds since 1970; now where it is not known."""
        return self.times[run_id][0] if run_id in self.times else now()

    def ended(self, run_id: str) -> int | None:
        return self.times[run_id][1] if run_id in self.times else now()

    def find(self, name: str) -> bytes | None:
        """A member that belongs to no run, None where there is none by this name. Raises RequestError."""
        with _plainly(self.path):
            return self._archive.find(name)

    def _parent(self, sweep_id: str) -> Parent:
        said, name, params, tags = self._said(f"sweeps/{sweep_id}/run.json", sweep_id)
        keys = self._archive.read(f"sweeps/{sweep_id}/run_keys.txt")
        if not re.fullmatch(rb"([0-9a-f]{64}\n)*", keys):
            raise ValueError(f"sweeps/{sweep_id}/run_keys.txt: is no list of keys, one a line")
        status = said.get("status")
        if status not in ("RUNNING", "FINISHED", "FAILED", "KILLED"):
            raise ValueError(f"sweeps/{sweep_id}/run.json: status: is none of a sweep")
        return Parent(sweep_id, name, status, params, tags, keys)

    def _said(self, member: str, run_id: str) -> tuple[dict[str, Any], str, dict[str, str], dict[str, str]]:
        """What a run.json says: all of it, its name, params and tags."""
        said = _mapping(self._archive, member)
        if (times := said.get("times")) is not None:
            self.times[run_id] = _times(times, f"{member}: times")
        name = on_one_line(_text(said.get("name"), f"{member}: name"))
        params = _texts(said.get("params"), f"{member}: params")
        return said, name, params, _texts(said.get("tags"), f"{member}: tags")

    def _evidence(self, run_id: str) -> Evidence:
        run = f"runs/{run_id}/"
        _, name, params, tags = self._said(f"{run}run.json", run_id)
        sweep = tags.get("nnexp.sweep_id")
        if sweep is not None and sweep not in self.sweeps and self.format == FORMAT:
            raise ValueError(f"{run}run.json: names a sweep that is not there")
        of_sweep = self.sweeps[sweep].tags if sweep in self.sweeps else {}
        return Evidence(
            run_id,
            name,
            params,
            {**of_sweep, **tags},
            _curves(self._archive.read(f"{run}metrics.csv"), f"{run}metrics.csv"),
            self._archive.find(f"{run}config.yaml"),
            self._archive.find(f"{run}weights.npz"),
            tags,
        )


@contextmanager
def _plainly(path: Path) -> Iterator[None]:
    """What reading an archive raises is a RequestError, in plain words."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
        # RuntimeError: it is encrypted, or its JSON is nested without end.
        raise RequestError(f"{path}: is no archive of nnexp bundle, or was damaged: {error}") from None
    except ValueError as error:
        raise RequestError(f"{path}: cannot be used: {on_one_line(shortened(str(error), 300))}") from None


# --- What may stand in it. Each raises ValueError for anything else, and names the place.


def _mapping(archive: Archive, name: str) -> dict[str, Any]:
    values = json.loads(archive.read(name))
    if not isinstance(values, dict):
        raise ValueError(f"{name}: is no mapping")
    return values


def _ids(values: Any, key: str, names: set[str]) -> list[str]:
    """The ids of the runs, or the sweeps: each is there once, and none is there besides."""
    there = {name.split("/")[1] for name in names if name.startswith(f"{key}/")}
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{HEAD}: {key}: is no list of ids")
    if len(set(values)) < len(values):
        raise ValueError(f"{HEAD}: {key}: names one twice")
    if odd := sorted(there ^ set(values)):
        raise ValueError(f"{HEAD}: {key}: {odd[0][:80]!r} is not both named and there")
    return values


def _times(values: Any, where: str) -> tuple[int, int | None]:
    """When a run began and, if it did, ended."""
    if not isinstance(values, list) or len(values) != 2:
        raise ValueError(f"{where}: must be two, of the beginning and the end")
    for time in values if values[1] is not None else values[:1]:
        if isinstance(time, bool) or not isinstance(time, int) or not 0 <= time < MAX_TIME:
            raise ValueError(f"{where}: {shortened(repr(time), 40)} is no time in milliseconds since 1970")
    return values[0], values[1]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: is no text")
    return printable(value)


def _texts(values: Any, where: str) -> dict[str, str]:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: is no mapping")
    return {printable(key): _text(value, f"{where}: {key[:80]!r}") for key, value in values.items()}


def _curves(content: bytes, where: str) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=""))
    try:
        if next(rows, None) != COLUMNS:
            raise ValueError(f"{where}: its first row must be {','.join(COLUMNS)}")
        for row in rows:
            if len(row) != len(COLUMNS) or not re.fullmatch(r"-?[0-9]{1,18}", row[1]):
                raise ValueError(f"{where}, line {rows.line_num}: is no point of a curve")
            metric = row[0] if row[0].isprintable() else on_one_line(row[0])
            curves.setdefault(metric, []).append((int(row[1]), float(row[2])))
    except csv.Error as error:
        raise ValueError(f"{where}, line {rows.line_num}: {error}") from None
    return curves
