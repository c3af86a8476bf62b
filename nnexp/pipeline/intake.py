"""Carry out `nnexp import`: put the runs of a bundle into a store, as they were recorded, with their own ids.

An inconsistent bundle is refused before anything is recorded. Whether its numbers are right, only
`nnexp rerun` can show.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from nnexp.config.errors import RequestError
from nnexp.config.recorded import read_config
from nnexp.config.run import MAX_PARAM
from nnexp.pipeline import bundle as bundles
from nnexp.pipeline.artifacts import data_input
from nnexp.pipeline.bundle import Bundle, Parent
from nnexp.pipeline.rerun.subject import Subject, Subjects
from nnexp.pipeline.rerun.verdict import key_of, twice, weights_hash
from nnexp.pipeline.signals import uninterrupted
from nnexp.tracking.evidence import data_files
from nnexp.tracking.experiments import ensure_experiment
from nnexp.tracking.find import SWEEP_KEYS, get_sweep
from nnexp.tracking.labels import DESCRIPTION
from nnexp.tracking.members import DIRECTORY, PART, from_bytes
from nnexp.tracking.population import CONFIG, Population, is_population
from nnexp.tracking.reader import Experiment
from nnexp.tracking.runs import RunRecord, Writer
from nnexp.tracking.searches import SEARCH_FILE, SEARCH_KEY, parsed
from nnexp.tracking.store import Store, open_store, told_if_lost
from nnexp.tracking.tables import MAX_NAME, MAX_TAG, RUNS, TAGS, chunks
from nnexp.tracking.write import open_writer

# The names of params, tags and metrics that MLflow accepts.
_KEY = re.compile(r"[\w.:/ -]{1,250}")
# MLflow's own tags that are kept: who made a run, from which code, and its description.
_ORIGIN = re.compile(r"mlflow\.(user|source\.[\w.]+|note\.content)")
# The tags of which each run or sweep has one that says what it is.
_KEYS = ("nnexp.run_key", "nnexp.rerun_key", "nnexp.sweep_key", SEARCH_KEY)
# Tags that are dropped: they name the process that recorded a run, or runs that are not in the archive.
_LEFT = {"nnexp.owner", "nnexp.heartbeat", "nnexp.rerun_by", "nnexp.rerun_verdict", "nnexp.superseded_by"}
IMPORTED = "nnexp.imported"


@dataclass(frozen=True)
class Imported:
    """The result of an import."""

    what: str  # the recorded name of the run or sweep
    experiment: str  # the name of the experiment that it was imported into
    total: int  # how many runs, or members of a population, the bundle has
    new: int  # how many of them were not in the store before
    left_out: list[str]  # the ids of those left out, as the experiment has the same run under another id
    sweep_id: str | None  # its first sweep, None if it has none
    run_id: str | None  # its first run, None if it has a population


def bring(path: Path, experiment_name: str | None) -> Imported:
    """Carry out `nnexp import BUNDLE`. Raises RequestError."""
    with bundles.opened(path) as there:
        if there.format == 1:
            raise RequestError(
                f"{path}: was written by an older nnexp, without sweep and times; nnexp rerun --bundle can "
                "verify it; to import it, bundle the record again"
            )
        data, keys, name = _checked(there)
        store = open_store()
        if not store.is_known:
            raise RequestError(
                "a server assigns its own ids, but imported runs keep theirs: set MLFLOW_TRACKING_URI to "
                "a database"
            )
        with told_if_lost(store):
            known = _known(store, keys)
            experiment = ensure_experiment(store, experiment_name or name)
            with open_writer(store, experiment) as writer:
                _write(writer, there, data, known)
                left = set(there.run_ids) - _known(store, keys)
                _describe(store, experiment, writer, there, known)
        new = len(there.run_ids) - len((known | left) & set(there.run_ids))
        if (found := there.population()) is not None:
            total = int(found.parent.tags.get("nnexp.runs", "0"))
            new = 0 if found.parent.run_id in known else total
            return Imported(there.what, experiment.name, total, new, [], found.parent.run_id, None)
        sweep_id = next(iter(there.sweeps), None)
        total, first = len(there.run_ids), next(iter(there.run_ids))
        return Imported(there.what, experiment.name, total, new, sorted(left), sweep_id, first)


# --- Checks.


def _checked(there: Bundle) -> tuple[dict[str, dict[str, bytes]], dict[str, str], str]:
    """Check all runs and sweeps. Raises RequestError for anything that nnexp does not record like this.

    Returns the files of data and uncommitted changes, by the id of each sweep and single run; the key of each
    sweep and run, by id; and the name of the experiment that they were recorded in.
    """
    files: dict[str, dict[str, bytes]] = {}
    keys = {sweep_id: _key_of(parent) for sweep_id, parent in there.sweeps.items()}
    kept, name = there.kept(), ""
    subjects = Subjects(kept, only_kept=True)
    for parent in there.sweeps.values():
        _check_texts(f"sweep {parent.run_id}", parent.name, parent.params, parent.tags)
        if "nnexp.sweep" not in parent.tags:
            raise RequestError(f"sweep {parent.run_id}: has no tag nnexp.sweep, so it is not a sweep")
        if SEARCH_KEY in parent.tags:
            parsed(parent.run_id, parent.search)
    for one in chain.from_iterable(there.groups()):
        subject = subjects.subject(one)
        _check_run(subject)
        keys[one.run_id] = one.key
        name = name or subject.was.config.experiment_name
        source = kept(one)
        assert source is not None  # the subject has its data
        own = files.setdefault(one.own_tags.get("nnexp.sweep_id", one.run_id), {})
        own |= data_files(subject.data_sha256, source)
    if (found := there.population()) is not None:
        name = _check_population(found)
        own = files.setdefault(found.parent.run_id, {})
        for sha256, source in found.data.items():
            own |= data_files(sha256, source)
    if (diff := there.find("git.diff")) is not None:
        files.setdefault([*there.sweeps, *there.run_ids][0], {})["git.diff"] = diff
    return files, keys, name


def _check_population(found: Population) -> str:
    """Raise RequestError unless a population is consistent; return the name of its experiment.

    Its parts must be whole, have the numbers that their names say, and of each the first member the key of
    its configuration. The data sets must be there.
    """
    sweep, name = f"sweep {found.parent.run_id}", ""
    if not is_population(found.parent) or not found.parent.tags.get("nnexp.runs", "").isdecimal():
        raise RequestError(f"{sweep}: its tags are not those of a population")
    for number, revisions in found.parts().items():
        newest = found.newest(revisions)
        if newest is None or len(revisions) > 1:
            what = "is there twice" if newest else "does not have the hash in its name"
            raise RequestError(f"{sweep}: {revisions[0].name} {what}")
        part, content = newest
        try:
            table = from_bytes(content)
            numbers = table["number"].to_numpy()
            (row,) = table.slice(0, 1).to_pylist()
            member = found.as_member(part, row, table.schema.metadata)
        except (pa.ArrowException, KeyError, ValueError, TypeError, AttributeError) as error:
            raise RequestError(f"{sweep}: {part.name}: is not a part of a population: {error}") from None
        if (numbers // PART != number).any() or (np.diff(numbers) <= 0).any():
            raise RequestError(f"{sweep}: {part.name}: its numbers are not those of part {number}")
        was, tags = read_config(member.config, member.run_id).config, member.tags
        if was.run_key(tags["nnexp.data_sha256"], tags["nnexp.engine"]) != tags["nnexp.run_key"]:
            raise RequestError(f"member {member.run_id}: its configuration does not match its key")
        if set(table["data_sha256"].unique().to_pylist()) - found.data.keys():
            raise RequestError(f"{sweep}: the archive lacks a data set of {part.name}")
        name = name or was.experiment_name
    if not name:
        raise RequestError(f"{sweep}: has no members")
    return name


def _check_run(subject: Subject) -> None:
    one, run = subject.evidence, f"run {subject.evidence.run_id}"
    _check_texts(run, one.name, one.params, one.own_tags)
    tags, was = one.own_tags, subject.was
    if subject.data.dataset is None:
        raise RequestError(f"{run}: {subject.data.changed}")
    if not ({"nnexp.run_key", "nnexp.rerun_key"} & tags.keys() and "nnexp.sweep" not in tags):
        raise RequestError(f"{run}: its tags are not those of one trained network")
    if tags.get("nnexp.outcome") not in ("converged", "diverged", "finished", "pruned"):
        raise RequestError(f"{run}: its tag nnexp.outcome is not one of a finished run")
    if not was.is_migrated and one.key != key_of(one, was):
        raise RequestError(f"{run}: config.yaml does not match the run's key")
    if weights_hash(one.weights) != tags.get("nnexp.weights_sha256"):
        raise RequestError(f"{run}: weights.npz is missing, or is not the file that was recorded")
    if "loss" not in one.curves:
        raise RequestError(f"{run}: metrics.csv has no loss")
    if (double := next(twice(one), None)) is not None:
        raise RequestError(f"{run}: {double}")
    for metric in one.curves:
        _check_key(run, metric)


def _check_texts(run: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
    for text, most in ((name, MAX_NAME), *((v, MAX_PARAM) for v in params.values())):
        if len(text) > most:
            raise RequestError(f"{run}: its name, or a param, has more than {most:,} characters")
    if any(len(text) > MAX_TAG for text in tags.values()):
        raise RequestError(f"{run}: a tag has more than {MAX_TAG:,} characters")
    for key in (*params, *tags):
        _check_key(run, key)


def _check_key(run: str, key: str) -> None:
    """Raise RequestError unless MLflow accepts the key as the name of a param, a tag or a metric."""
    if not _KEY.fullmatch(key) or posixpath.normpath(key) != key or key.startswith(("/", "..")):
        raise RequestError(f"{run}: {key[:80]!r} is not a name that MLflow accepts")


def _key_of(parent: Parent) -> str:
    return parent.tags.get("nnexp.sweep_key") or parent.tags.get(SEARCH_KEY, "")


def _known(store: Store, keys: Mapping[str, str]) -> set[str]:
    """Return which of these ids the store already has. Raises RequestError if it has another run with one.

    `keys`: the key of each run or sweep, by id.
    """
    known = set[str]()
    r, t = RUNS.c, TAGS.c
    keyed = (t.run_uuid == r.run_uuid) & t.key.in_(_KEYS)
    query = sa.select(r.run_uuid, r.lifecycle_stage, t.value).join(TAGS, keyed, isouter=True)
    for some in chunks(list(keys)):
        with store.reading() as connection:
            rows = connection.execute(query.where(r.run_uuid.in_(some))).all()
        for run_id, stage, key in rows:
            if stage != "active":
                raise RequestError(f"run {run_id} was deleted in this store: restore it there first")
            if key != keys[run_id]:
                raise RequestError(f"run {run_id}: this store has another run with this id")
            known.add(run_id)
    return known


# --- Recording.


def _write(writer: Writer, there: Bundle, data: Mapping[str, dict[str, bytes]], known: set[str]) -> None:
    """Record what the store does not have: first the sweeps, then their runs in groups."""
    sweeps = [
        RunRecord(
            parent.name,
            parent.params,
            _tags(parent.tags, there),
            files=_files(there, parent, data.get(sweep_id, {})),
            status="KILLED" if parent.status == "RUNNING" else parent.status,
            start_time=parent.start_time,
            end_time=parent.end_time,
            run_id=sweep_id,
        )
        for sweep_id, parent in there.sweeps.items()
        if sweep_id not in known
    ]
    with uninterrupted():
        writer.write(sweeps)
    subjects = Subjects(there.kept(), only_kept=True)
    for evidence in there.groups():
        new = [subjects.subject(one) for one in evidence if one.run_id not in known]
        with uninterrupted():
            writer.write([_record(there, subject, data.get(subject.evidence.run_id, {})) for subject in new])


def _files(there: Bundle, parent: Parent, more: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return the artifacts that a sweep's record needs, and those of `more`; a population's one at a time."""
    found = there.population()
    if found is None:
        search = {} if parent.search is None else {SEARCH_FILE: parent.search}
        return {SWEEP_KEYS: parent.keys, **search, **more}
    return _Read(found.find, [CONFIG, *found.names(DIRECTORY)], more)


class _Read(Mapping[str, bytes]):
    """The artifacts of these names, each read when it is asked for, and those of `more`."""

    def __init__(
        self, find: Callable[[str], bytes | None], names: Sequence[str], more: Mapping[str, bytes]
    ) -> None:
        self._find, self._names, self._more = find, names, more

    def __getitem__(self, name: str) -> bytes:
        content = self._more.get(name) or self._find(name)
        if content is None:
            raise KeyError(name)
        return content

    def __iter__(self) -> Iterator[str]:
        return chain(self._names, self._more)

    def __len__(self) -> int:
        return len(self._names) + len(self._more)


def _record(there: Bundle, subject: Subject, more: Mapping[str, bytes]) -> RunRecord:
    one, dataset = subject.evidence, subject.data.dataset
    assert one.config is not None  # `_checked` has checked all three
    assert one.weights is not None
    assert dataset is not None
    return RunRecord(
        one.name,
        one.params,
        _tags(one.own_tags, there),
        points=[(metric, epoch, value) for metric, curve in one.curves.items() for epoch, value in curve],
        files={"config.yaml": one.config, "weights.npz": one.weights, **more},
        data=data_input(dataset),
        start_time=one.start_time,
        end_time=one.end_time,
        run_id=one.run_id,
    )


def _tags(tags: Mapping[str, str], there: Bundle) -> dict[str, str]:
    """Return the tags that hold in another store, and a tag with the bundle's file name."""
    kept = {
        key: value
        for key, value in tags.items()
        if key not in _LEFT and (not key.startswith("mlflow.") or _ORIGIN.fullmatch(key))
    }
    if tags.get("mlflow.parentRunId") in there.sweeps:
        kept["mlflow.parentRunId"] = tags["mlflow.parentRunId"]
    return {**kept, IMPORTED: there.path.name[:MAX_NAME]}


def _describe(store: Store, experiment: Experiment, writer: Writer, there: Bundle, known: set[str]) -> None:
    """Write new descriptions of the imported sweeps, whose links lead to this store."""
    from nnexp.analysis.report.findings import Findings  # imports pandas
    from nnexp.analysis.report.note import note

    for sweep_id in there.sweeps.keys() - known:
        record = get_sweep(store, sweep_id)
        assert record is not None  # it was just written
        found = Findings.read(store, record)
        with uninterrupted():
            writer.add(sweep_id, {}, {DESCRIPTION: note(found, (), experiment.id)})
