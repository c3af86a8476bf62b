"""Write and read the archive of a run or a sweep, with all that a rerun needs; reading it needs no store.

Its members are SHA256SUMS, with the hash of every other member; bundle.json, which names its runs and sweeps;
requirements.lock; git.diff if something was not committed; data/…, the data sets; for each run
runs/ID/run.json (name, params, tags, times), config.yaml, weights.npz and metrics.csv (metric, epoch, value);
for each sweep that a run belongs to sweeps/ID/run.json, run_keys.txt and, of a search, search.json. The same
record gives the same bytes. Format 1 had no sweeps and no times; it had a sweep's tags among those of its
runs. The archive of a population has format 3 and no runs: sweeps/ID/ has its config.yaml and
members/part-….parquet.

An archive may come from anyone: archive.py reads it within bounds, and this module checks its content. Its
runs are read in groups, so that memory holds only one group at a time.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnexp.config.errors import RequestError
from nnexp.config.text import on_one_line, printable, shortened
from nnexp.dataset.load import Source
from nnexp.pipeline.archive import FREE_TEXT, RATIO, SUMS, TEXTS, Archive
from nnexp.pipeline.rerun.subject import Kept
from nnexp.tracking.evidence import Evidence, data_files, kept_data
from nnexp.tracking.population import Population
from nnexp.tracking.reader import MAX_TIME, Detail
from nnexp.tracking.runs import now

FORMAT, OF_POPULATION = 2, 3
HEAD, LOCK = "bundle.json", "requirements.lock"
# The names that members may have.
_NAME = re.compile(
    rf"{HEAD}|{re.escape(LOCK)}|git\.diff|data/[0-9a-f]{{16}}/(table|new_rows)\.csv"
    r"|runs/[0-9a-f]{32}/(run\.json|config\.yaml|weights\.npz|metrics\.csv)"
    r"|sweeps/[0-9a-f]{32}/(run\.json|run_keys\.txt|search\.json|config\.yaml|members/part-[0-9]{6,12}\.[0-9]{3,9}"
    r"\.[0-9a-f]{16}\.parquet)"
)
# The members of a run.
PARTS = ("run.json", "config.yaml", "weights.npz", "metrics.csv")
COLUMNS = ["metric", "epoch", "value"]
# bundle.json has at most MAX_HEAD bytes, and MAX_NAMED more for each member.
MAX_HEAD, MAX_NAMED = 2**16, 128
# The most bytes of the run.json of all sweeps together.
MAX_SWEEPS = 16 * 2**20
# Runs are read in groups of so many bytes. A text's bytes count ten times, as it grows when it is parsed.
GROUP_BYTES, TEXT_WEIGHT = 64 * 2**20, 10
# The earliest time that ZIP has, given to all members, so that the bytes do not depend on the time.
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Parent(Detail):
    """A sweep's record, without its figures and its report."""

    keys: bytes  # its run_keys.txt; of a population, which has none, empty
    search: bytes | None = None  # its search.json, if it is one
    files: Mapping[str, bytes] = field(default_factory=dict)  # of a population: config.yaml and its parts


def write(
    path: Path,
    what: str,
    evidence: Sequence[Evidence],
    data: Mapping[str, Source],
    more: Mapping[str, bytes],
    sweeps: Sequence[Parent] = (),
) -> int:
    """Write the archive and return its size in bytes. Raises RequestError.

    `more`: requirements.lock and git.diff. In the archive of a sweep, that sweep is the first of `sweeps`.
    """
    of_runs = not any(sweep.files for sweep in sweeps)
    head = {"format": FORMAT if of_runs else OF_POPULATION, "what": what}
    head["runs"] = [one.run_id for one in evidence]
    members = {HEAD: _json({**head, "sweeps": [sweep.run_id for sweep in sweeps]}), **more}
    for sweep in sweeps:
        members[f"sweeps/{sweep.run_id}/run.json"] = _json(
            {**_said(sweep, sweep.tags), "status": sweep.status}
        )
        files = sweep.files or {"run_keys.txt": sweep.keys}
        if sweep.search is not None:
            files = {**files, "search.json": sweep.search}
        members |= {f"sweeps/{sweep.run_id}/{name}": content for name, content in files.items()}
    for sha256, source in data.items():
        members |= data_files(sha256, source)
    for one in evidence:
        run = f"runs/{one.run_id}/"
        members[f"{run}run.json"] = _json(_said(one, one.own_tags))
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
    """Return the compression to use; none if the content compresses so well that reading would refuse it."""
    is_long = len(content) > FREE_TEXT // RATIO
    is_odd = is_long and len(content) > RATIO * 3 // 4 * len(zlib.compress(content))
    return zipfile.ZIP_STORED if is_odd else zipfile.ZIP_DEFLATED


def _said(run: Detail, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return what a run.json says of a run or a sweep."""
    times = [run.start_time, run.end_time]
    return {"name": run.name, "params": run.params, "tags": tags, "times": times}


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
    """Open an archive, check every member's hash, and yield its content. Raises RequestError."""
    with _plainly(path):
        file = zipfile.ZipFile(path)
    with file:
        with _plainly(path):
            bundle = Bundle(path, Archive(file, _NAME))
        yield bundle


class Bundle:
    """The content of an open archive. All texts are escaped so that they can be printed, as those of a store.

    `what` is the recorded name of the run or sweep.
    """

    def __init__(self, path: Path, archive: Archive) -> None:
        """Read and check bundle.json and the sweeps. Raises ValueError."""
        if archive.size(HEAD) > MAX_HEAD + MAX_NAMED * len(archive.names):
            raise ValueError(f"{HEAD} has {archive.size(HEAD):,} bytes, more than its runs need")
        head = _mapping(archive, HEAD)
        self.format = head.get("format")
        if self.format not in (1, FORMAT, OF_POPULATION):
            shown = shortened(repr(head.get("format")))
            raise ValueError(f"its format is {shown}, but this nnexp reads 1 to {OF_POPULATION}")
        self.what = on_one_line(_text(head.get("what"), f"{HEAD}: what"))
        is_population = self.format == OF_POPULATION
        if (head.get("runs") == []) is not is_population:
            raise ValueError(f"{HEAD}: runs: is empty, so there is nothing to compare")
        self.run_ids = _ids(head.get("runs"), "runs", archive.names)
        self.path, self._archive = path, archive
        ids = _ids(head.get("sweeps", []), "sweeps", archive.names)
        if sum(archive.size(f"sweeps/{id_}/run.json") for id_ in ids) > MAX_SWEEPS:
            raise ValueError("the run.json of its sweeps are larger than any that nnexp writes")
        if is_population and len(ids) != 1:
            raise ValueError(f"{HEAD}: sweeps: must name one population")
        self.sweeps = {id_: self._parent(id_) for id_ in ids}
        self._data: dict[str, Source | None] = {}

    def groups(self) -> Iterator[list[Evidence]]:
        """Yield the runs in their order, in groups of about GROUP_BYTES. Raises RequestError."""
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

    def population(self) -> Population | None:
        """Return the population that is in the archive; None if it has runs."""
        if self.format != OF_POPULATION:
            return None
        (parent,) = self.sweeps.values()
        above = f"sweeps/{parent.run_id}/"

        def find(name: str) -> bytes | None:
            return self.find(name if name.startswith("data/") else f"{above}{name}")

        def names(directory: str) -> list[str]:
            if directory == "data":
                there = [name.rpartition("/")[0] for name in self._archive.names if name.startswith("data/")]
                return sorted(set(there))
            there = [name.removeprefix(above) for name in self._archive.names if name.startswith(above)]
            return sorted(name for name in there if name.startswith(f"{directory}/"))

        return Population(parent, find, names)

    def kept(self) -> Kept:
        """Return a function that finds a run's data set in the archive; each data set is read once."""

        def kept(evidence: Evidence) -> Source | None:
            sha256 = evidence.tags.get("nnexp.data_sha256", "")
            if sha256 not in self._data:
                self._data[sha256] = kept_data(self.find, sha256)
            return self._data[sha256]

        return kept

    def find(self, name: str) -> bytes | None:
        """Return a member that belongs to no run, or None if there is none. Raises RequestError."""
        with _plainly(self.path):
            return self._archive.find(name)

    def _parent(self, sweep_id: str) -> Parent:
        run = self._detail(f"sweeps/{sweep_id}/run.json", sweep_id)
        if self.format == OF_POPULATION:
            return Parent(**vars(run), keys=b"")
        keys = self._archive.read(f"sweeps/{sweep_id}/run_keys.txt")
        if not re.fullmatch(rb"([0-9a-f]{64}\n)*", keys):
            raise ValueError(f"sweeps/{sweep_id}/run_keys.txt: must be a list of run keys, one per line")
        search = self._archive.find(f"sweeps/{sweep_id}/search.json")
        return Parent(**vars(run), keys=keys, search=search)

    def _detail(self, member: str, run_id: str) -> Detail:
        """Read a run.json."""
        said = _mapping(self._archive, member)
        status = said.get("status", "FINISHED")  # a run's is not written, as only finished runs are
        if status not in ("RUNNING", "FINISHED", "FAILED", "KILLED"):
            raise ValueError(f"{member}: status: is not the status of a sweep")
        name = on_one_line(_text(said.get("name"), f"{member}: name"))
        params = _texts(said.get("params"), f"{member}: params")
        tags = _texts(said.get("tags"), f"{member}: tags")
        return Detail(run_id, name, status, "", "", params, {}, tags, *_times(said.get("times"), member))

    def _evidence(self, run_id: str) -> Evidence:
        directory = f"runs/{run_id}/"
        run = self._detail(f"{directory}run.json", run_id)
        sweep = run.tags.get("nnexp.sweep_id")
        if sweep is not None and sweep not in self.sweeps and self.format == FORMAT:
            raise ValueError(f"{directory}run.json: names a sweep that is not in the archive")
        of_sweep = self.sweeps[sweep].tags if sweep in self.sweeps else {}
        return Evidence(
            **vars(run) | {"tags": {**of_sweep, **run.tags}},
            own_tags=run.tags,
            curves=_curves(self._archive.read(f"{directory}metrics.csv"), f"{directory}metrics.csv"),
            config=self._archive.find(f"{directory}config.yaml"),
            weights=self._archive.find(f"{directory}weights.npz"),
        )


@contextmanager
def _plainly(path: Path) -> Iterator[None]:
    """Turn the errors of reading an archive into RequestError with a plain message."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
        # RuntimeError: it is encrypted, or its JSON is nested too deeply.
        raise RequestError(f"{path}: was not written by nnexp bundle, or is damaged: {error}") from None
    except ValueError as error:
        raise RequestError(f"{path}: cannot be used: {on_one_line(shortened(str(error), 300))}") from None


# --- Checks of the content. Each raises ValueError, naming the place.


def _mapping(archive: Archive, name: str) -> dict[str, Any]:
    values = json.loads(archive.read(name))
    if not isinstance(values, dict):
        raise ValueError(f"{name}: is not a mapping")
    return values


def _ids(values: Any, key: str, names: set[str]) -> list[str]:
    """Return the ids of the runs or sweeps. Raises ValueError unless they are just those in the archive."""
    there = {name.split("/")[1] for name in names if name.startswith(f"{key}/")}
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{HEAD}: {key}: is not a list of ids")
    if len(set(values)) < len(values):
        raise ValueError(f"{HEAD}: {key}: has an id twice")
    if odd := sorted(there ^ set(values)):
        raise ValueError(f"{HEAD}: {key}: {odd[0][:80]!r} must be both listed and in the archive")
    return values


def _times(values: Any, member: str) -> tuple[int, int | None]:
    """Return when a run began and ended, None if it did not end; both are now if they are not known."""
    where = f"{member}: times"
    if values is None:
        return now(), now()
    if not isinstance(values, list) or len(values) != 2:
        raise ValueError(f"{where}: must be two times, of the beginning and the end")
    for time in values if values[1] is not None else values[:1]:
        if isinstance(time, bool) or not isinstance(time, int) or not 0 <= time < MAX_TIME:
            raise ValueError(f"{where}: {shortened(repr(time), 40)} is not a time in milliseconds since 1970")
    return values[0], values[1]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: is not a text")
    return printable(value)


def _texts(values: Any, where: str) -> dict[str, str]:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: is not a mapping")
    return {printable(key): _text(value, f"{where}: {key[:80]!r}") for key, value in values.items()}


def _curves(content: bytes, where: str) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=""))
    try:
        if next(rows, None) != COLUMNS:
            raise ValueError(f"{where}: its first row must be {','.join(COLUMNS)}")
        for row in rows:
            if len(row) != len(COLUMNS) or not re.fullmatch(r"-?[0-9]{1,18}", row[1]):
                raise ValueError(f"{where}, line {rows.line_num}: is not a point of a curve")
            metric = row[0] if row[0].isprintable() else on_one_line(row[0])
            curves.setdefault(metric, []).append((int(row[1]), float(row[2])))
    except csv.Error as error:
        raise ValueError(f"{where}, line {rows.line_num}: {error}") from None
    return curves
