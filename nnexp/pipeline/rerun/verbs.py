"""Carry out `nnexp rerun` and `nnexp bundle`; the command line prints the results."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from nnexp.config.endings import check_ending
from nnexp.config.errors import RequestError
from nnexp.config.recorded import SCHEMA
from nnexp.dataset.load import Source
from nnexp.network import engine
from nnexp.pipeline import bundle as bundles
from nnexp.pipeline.bundle import Bundle
from nnexp.pipeline.networks import as_run
from nnexp.pipeline.provenance import lock_file
from nnexp.pipeline.rerun import again, table
from nnexp.pipeline.rerun.subject import Subject, Subjects, find_run, find_sweep, kept_in, lack
from nnexp.pipeline.rerun.variation import Variation, is_other, settled
from nnexp.pipeline.rerun.verdict import Verdict, is_prediction, weights_hash
from nnexp.tracking.evidence import Evidence
from nnexp.tracking.find import find_artifact, get_any, get_sweep, recorded_keys
from nnexp.tracking.members import METRIC, damage
from nnexp.tracking.named import whole_id
from nnexp.tracking.population import (
    Member,
    Population,
    get_network,
    is_population,
    points_asked,
    population_of,
)
from nnexp.tracking.reader import Detail
from nnexp.tracking.searches import SEARCH_FILE, SEARCH_KEY
from nnexp.tracking.store import Store, open_store
from nnexp.tracking.whole import tell
from nnexp.training.shard import Trained

log = logging.getLogger("nnexp")


@dataclass(frozen=True)
class Forecast:
    """Whether runs could be trained again, for a dry run."""

    total: int  # how many runs, or members, were examined
    unit: str  # runs or members
    cannot: list[str]  # why some of them cannot be trained again
    doubts: Counter[str]  # reasons why runs may come out differently, with the number of runs


@dataclass(frozen=True)
class Rerun:
    """A recorded run trained again, and the verdict. `trained` is None if it could not be trained."""

    store: Store
    subject: Subject
    trained: Trained | None
    verdict: Verdict

    @property
    def extent(self) -> Counter[str]:
        """The number of points, curves and predictions that were compared."""
        return _extent([self.subject.evidence])

    def record(self) -> str | None:
        """Record the rerun beside the run; return its id, None if nothing was trained or recorded."""
        if self.trained is None:
            return None
        return again.record_run(self.store, self.subject, self.trained, self.verdict)


@dataclass(frozen=True)
class Reruns:
    """The verdicts on many runs; `extent` counts what was compared of the identical ones."""

    verdicts: list[Verdict]
    extent: Counter[str]
    seconds: float

    @property
    def differ(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if not verdict.is_identical]


@dataclass(frozen=True)
class SweepRerun:
    """A recorded sweep whose runs were trained again."""

    store: Store
    found: Detail
    runs: Reruns

    def record(self) -> str | None:
        """Record the verdicts beside the sweep; return the record's id, None if the store refuses it."""
        return again.record_sweep(self.store, self.found, self.runs.verdicts)


@dataclass(frozen=True)
class PopulationRerun:
    """A recorded population whose members were trained again."""

    store: Store
    found: Detail
    compared: table.Compared

    def record(self) -> str | None:
        """Record the verdict beside the population; return the record's id, None if the store refuses it."""
        return again.record_population(self.store, self.found, self.compared)


@dataclass(frozen=True)
class Written:
    """An archive that was written, the number of runs, or of a population's networks, and its bytes."""

    path: Path
    runs: int
    unit: str  # run or network
    size: int


def one(run_id: str, changes: Sequence[str], dry_run: bool) -> Forecast | Rerun | Variation:
    """Carry out `nnexp rerun RUN_ID [key=value …]`. Raises RequestError.

    If the keys make another run, a Variation is returned that is not trained yet.
    """
    store = open_store(create=False)
    run_id = whole_id(store, run_id, "run")
    evidence = find_run(store, run_id)
    subjects, moved = Subjects(kept_in(store)), None
    if changes:
        from nnexp.pipeline.points import variation  # imports Hydra, which a plain rerun does not need

        was = subjects.subject(evidence)
        moved, request = variation(was.config, changes)
        moved = settled(moved)
        dry_run = dry_run or request.plan
        if is_other(was, moved) or request.labels:
            return Variation(was, moved, request, dry_run)
        if moved.experiment_name != was.config.experiment_name:
            name = f"experiment_name={moved.experiment_name}"
            raise RequestError(
                f"{name}: a plain rerun is recorded beside its run; only a variation may be elsewhere"
            )
    if dry_run:
        return _forecast([[evidence]], subjects)
    ((subject, trained, verdict),) = again.verify([subjects.subject(evidence, moved)])
    return Rerun(store, subject, trained, verdict)


def sweep(sweep_id: str, dry_run: bool) -> Forecast | SweepRerun | PopulationRerun:
    """Carry out `nnexp rerun --sweep SWEEP_ID`. Raises RequestError."""
    store = open_store(create=False)
    sweep_id = whole_id(store, sweep_id, "sweep")
    subjects = Subjects(kept_in(store))
    parent = get_sweep(store, sweep_id)
    if parent is not None and is_population(parent):
        members = population_of(store, parent)
        if dry_run:
            return _forecast_of_members(members, subjects)
        return PopulationRerun(store, parent, table.verify(members, subjects))
    found, evidence = find_sweep(store, sweep_id)
    if dry_run:
        return _forecast([evidence], subjects)
    return SweepRerun(store, found, _verified([evidence], subjects))


def bundle(there: Bundle, dry_run: bool) -> Forecast | Reruns | table.Compared:
    """Carry out `nnexp rerun --bundle FILE` on the open bundle, without a store. Raises RequestError."""
    subjects = Subjects(there.kept(), only_kept=True)
    if (found := there.population()) is not None:
        return _forecast_of_members(found, subjects) if dry_run else table.verify(found, subjects)
    return (_forecast if dry_run else _verified)(there.groups(), subjects)


def write_bundle(some_id: str, out: Path | None) -> Written:
    """Carry out `nnexp bundle RUN_ID|SWEEP_ID`. Raises RequestError."""
    if out is not None:
        check_ending("--out", out, ".zip")
    store = open_store(create=False)
    some_id = whole_id(store, some_id)
    sweep = get_sweep(store, some_id)
    if sweep is not None and is_population(sweep):
        return _write_population(store, population_of(store, sweep), out)
    if sweep is not None:
        _, evidence = find_sweep(store, some_id)
        lacking = {one.run_id: what for one in evidence if (what := lack(one))}
        tell(lacking, "it is left out")
        evidence = [one for one in evidence if one.run_id not in lacking]
    else:
        run = get_network(store, some_id)
        evidence = [as_run(store, run) if isinstance(run, Member) else find_run(store, some_id)]
    if not evidence:
        raise RequestError(f"sweep {some_id}: none of its runs has all that a rerun needs")
    found = sweep or evidence[0]
    subjects, data = Subjects(kept_in(store)), dict[str, Source]()
    evidence = _without_deleted_sweeps(store, evidence)
    ready = [subjects.subject(one) for one in evidence]
    for subject in ready:
        data |= _source_of(subject)
    altered = sum(any(doubt.startswith("weights:") for doubt in _doubts(subject)) for subject in ready)
    if altered:
        log.info(
            f"note: weights.npz of {altered} of the runs is missing, or is not the file that was recorded"
        )
    more = _code(store, get_sweep(store, found.tags.get("nnexp.sweep_id", "")) or found)
    out = out or Path(f"{found.run_id}.zip")
    parents = _parents(store, sweep, evidence)
    size = bundles.write(out, found.name, evidence, data, more, parents)
    return Written(out, len(evidence), "run", size)


def _write_population(store: Store, found: Population, out: Path | None) -> Written:
    """Write a population into an archive: its parts that are whole, and its data sets."""
    parent = found.parent
    files = {"config.yaml": found.find("config.yaml") or b""}
    for revisions in found.parts().values():
        newest = found.newest(revisions)
        if newest is None:
            log.info(f"note: {damage(parent, revisions, is_lost=True)}")
        else:
            files[newest[0].name] = newest[1]
    data = dict[str, Source]()
    for _, subject in table.subjects_of(found, Subjects(kept_in(store))):
        if isinstance(subject, Subject):  # else its part is damaged, as was said
            data |= _source_of(subject)
    out = out or Path(f"{parent.run_id}.zip")
    one = bundles.Parent(**vars(parent), keys=b"", files=files)
    size = bundles.write(out, parent.name, [], data, _code(store, parent), [one])
    return Written(out, points_asked(store, parent), "network", size)


def _source_of(subject: Subject) -> dict[str, Source]:
    """Return the bytes of a subject's data set by their hash. Raises RequestError if they have changed."""
    if subject.data.dataset is None:
        run_id = subject.evidence.run_id
        raise RequestError(f"run {run_id}: {subject.data.changed}, and the record keeps no copy")
    assert subject.data.dataset.source is not None  # it was just read
    return {subject.data_sha256: subject.data.dataset.source}


def _code(store: Store, holder: Detail) -> dict[str, bytes]:
    """Return what an archive keeps of the code with which a run or a sweep was recorded."""
    more = {}
    if (diff := find_artifact(store, holder, "git.diff")) is not None:
        more["git.diff"] = diff
    lock = lock_file()
    if hashlib.sha256(lock).hexdigest() == holder.tags.get("nnexp.lock_sha256"):
        more[bundles.LOCK] = lock
    else:
        log.info("note: requirements.lock has changed since this was recorded, and is left out")
    return more


def _parents(store: Store, sweep: Detail | None, evidence: Sequence[Evidence]) -> list[bundles.Parent]:
    """Return the sweep that is bundled, if it is one, and the other sweeps that its runs belong to."""
    own = [one.own_tags for one in evidence]
    named = dict.fromkeys(tags["nnexp.sweep_id"] for tags in own if "nnexp.sweep_id" in tags)
    first = [] if sweep is None else [sweep.run_id]
    sweeps = [get_any(store, sweep_id) for sweep_id in dict.fromkeys([*first, *named])]
    keys = {s.run_id: "".join(f"{key}\n" for key in recorded_keys(store, s)).encode() for s in sweeps}
    search = {s.run_id: find_artifact(store, s, SEARCH_FILE) for s in sweeps if SEARCH_KEY in s.tags}
    return [bundles.Parent(**vars(s), keys=keys[s.run_id], search=search.get(s.run_id)) for s in sweeps]


def _without_deleted_sweeps(store: Store, evidence: Sequence[Evidence]) -> list[Evidence]:
    """Return the runs; those of a deleted sweep become single runs."""
    named = {one.tags["nnexp.sweep_id"] for one in evidence if "nnexp.sweep_id" in one.tags}
    gone = {sweep_id for sweep_id in named if get_sweep(store, sweep_id) is None}

    def alone(tags: Mapping[str, str]) -> dict[str, str]:
        return {key: tags[key] for key in tags if key not in ("nnexp.sweep_id", "mlflow.parentRunId")}

    return [
        replace(one, tags=alone(one.tags), own_tags=alone(one.own_tags))
        if one.tags.get("nnexp.sweep_id") in gone
        else one
        for one in evidence
    ]


def _verified(groups: Iterable[Sequence[Evidence]], subjects: Subjects) -> Reruns:
    """Train many runs again and judge them. A run that cannot be trained again has a verdict, too."""
    began, verdicts, extent = time.monotonic(), list[Verdict](), Counter[str]()
    for evidence in groups:
        some = _judged(evidence, subjects)
        verdicts += some
        extent += _extent([one for one, verdict in zip(evidence, some, strict=True) if verdict.is_identical])
    return Reruns(verdicts, extent, time.monotonic() - began)


def _judged(evidence: Sequence[Evidence], subjects: Subjects) -> list[Verdict]:
    """Return the verdicts on these runs, in their order."""
    ready, verdicts = [], {}
    for one in evidence:
        try:
            ready.append(subjects.subject(one))
        except RequestError as error:
            reason = str(error).removeprefix(f"run {one.run_id}: ")
            verdicts[one.run_id] = Verdict(one.run_id, one.name, f"it cannot be trained again: {reason}")
    verdicts |= {verdict.run_id: verdict for _, _, verdict in again.verify(ready)}
    return [verdicts[one.run_id] for one in evidence]


def _extent(evidence: Sequence[Evidence]) -> Counter[str]:
    """Count the points, curves and predictions of these runs; of members, the last metrics."""
    metrics = [(metric, curve) for one in evidence for metric, curve in one.curves.items()]
    curves = [curve for metric, curve in metrics if not is_prediction(metric)]
    found = Counter(points=sum(map(len, curves)), curves=len(curves), predictions=len(metrics) - len(curves))
    for row in (one.row for one in evidence if one.row is not None):
        found["hashes of weights"] += 1
        found["last metrics"] += sum(name.startswith(METRIC) for name in row)
    return found


# --- Dry runs.


def _forecast(groups: Iterable[Sequence[Evidence]], subjects: Subjects) -> Forecast:
    """Find out which runs cannot be trained again, and which may come out differently."""
    total, cannot, doubts = 0, list[str](), Counter[str]()
    for one in chain.from_iterable(groups):
        total += 1
        try:
            subject = subjects.subject(one)
        except RequestError as error:
            cannot.append(str(error))
            continue
        doubts.update(_doubts(subject))
        if subject.data.dataset is None:
            cannot.append(f"run {one.run_id}: {subject.data.changed}, and the record keeps no copy")
    return Forecast(total, "runs", cannot, doubts)


def _forecast_of_members(found: Population, subjects: Subjects) -> Forecast:
    """Find out which members cannot be trained again, and which may come out differently."""
    total, cannot, doubts = 0, list[str](), Counter[str]()
    for count, subject in table.subjects_of(found, subjects):
        total += count
        if isinstance(subject, str):
            cannot.append(subject)
            continue
        doubts.update(dict.fromkeys(_doubts(subject), count))
        if subject.data.dataset is None:
            cannot += [f"{count:,} members: {subject.data.changed}, and the record keeps no copy"]
    return Forecast(total, "members", cannot, doubts)


def _doubts(subject: Subject) -> Iterator[str]:
    """Yield the reasons why the run may come out differently, or why it cannot be compared."""
    evidence, recorded_engine = subject.evidence, subject.evidence.tags.get("nnexp.engine")
    if subject.data.changed is not None:
        yield f"data: {subject.data.changed}"
    if subject.data.note is not None:
        yield f"data: would be {subject.data.note}"
    if recorded_engine != engine.VERSION:
        yield f"engine: recorded by version {recorded_engine}, but this is version {engine.VERSION}"
    if subject.was.is_migrated:
        yield f"config: schema {subject.was.schema}, migrated to {SCHEMA}"
    is_altered = weights_hash(evidence.weights) != evidence.tags.get("nnexp.weights_sha256")
    if evidence.row is None and is_altered:
        yield "weights: weights.npz is missing, or is not the file that was recorded"
