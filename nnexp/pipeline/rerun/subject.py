"""Find what a rerun needs of a record: its configuration, and the bytes of its data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nnexp.config.errors import RequestError
from nnexp.config.recorded import RecordedConfig, read_config
from nnexp.config.run import DatasetConfig, RunConfig
from nnexp.dataset import load as datasets
from nnexp.dataset.load import FRAME, Dataset, Source, locate
from nnexp.tracking import find
from nnexp.tracking.evidence import Evidence, kept_data, read_evidence
from nnexp.tracking.experiments import get_experiment
from nnexp.tracking.population import Member, get_network
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store
from nnexp.tracking.whole import missing_tag, tell
from nnexp.training.checks import check

log = logging.getLogger("nnexp")

# Returns the copy of the data that a run's record keeps, or None if it keeps none.
Kept = Callable[[Evidence], Source | None]


@dataclass(frozen=True)
class Data:
    """The data set of a recorded run, if its bytes were found."""

    dataset: Dataset | None  # None if its bytes exist nowhere any more
    changed: str | None = None  # what has changed since the run was recorded
    note: str | None = None  # a remark for the user


@dataclass(frozen=True)
class Subject:
    """A recorded run that can be trained again."""

    evidence: Evidence
    was: RecordedConfig
    config: RunConfig  # what to train: as recorded, except for the data's path
    data: Data

    @property
    def data_sha256(self) -> str:
        """The hash of the data set that the run was trained on."""
        return self.evidence.tags.get("nnexp.data_sha256", "")


def find_run(store: Store, run_id: str) -> Evidence:
    """Return a finished run of the store, or member of a population. Raises RequestError if there is none."""
    found = find.get_sweep(store, run_id)
    if found is not None:
        raise RequestError(f"{run_id} is a sweep: nnexp rerun --sweep {run_id}")
    run = get_network(store, run_id)
    if run.status != "FINISHED":
        raise RequestError(f"run {run_id} did not finish ({run.status.lower()}): there is nothing to compare")
    return run.evidence() if isinstance(run, Member) else read_evidence(store, [run_id])[0]


def find_sweep(store: Store, sweep_id: str) -> tuple[Detail, list[Evidence]]:
    """Return a sweep of the store and its finished runs. Raises RequestError if there is none."""
    sweep = find.get_sweep(store, sweep_id)
    if sweep is None:
        raise RequestError(f"no sweep {sweep_id!r} in this store")
    keys = set(find.recorded_keys(store, sweep))
    found = find.find_runs(store, get_experiment(store, sweep.experiment_id), "nnexp.run_key")
    done = [run for run in found if run.status == "FINISHED" and run.tags["nnexp.run_key"] in keys]
    if missing := len(keys - {run.tags["nnexp.run_key"] for run in done}):
        log.info(f"note: {missing} runs of this sweep are not recorded as finished")
    if not done:
        raise RequestError(f"sweep {sweep_id} has no finished run: there is nothing to compare")
    return sweep, _that_count(read_evidence(store, [run.run_id for run in done]))


def _that_count(evidence: list[Evidence]) -> list[Evidence]:
    """Leave out, and log, each incomplete run if another run with the same key is complete."""
    lacks = {one.run_id: what for one in evidence if (what := lack(one))}
    whole = {one.key for one in evidence if one.run_id not in lacks}
    left_out = {one.run_id: lacks[one.run_id] for one in evidence if one.run_id in lacks and one.key in whole}
    tell(left_out, "it is left out, as another run has its key")
    return [one for one in evidence if one.run_id not in left_out]


def lack(evidence: Evidence) -> str:
    """Return what a run's record lacks for a rerun, in words; empty if it is complete."""
    return missing_tag(evidence.tags) or ("" if evidence.config else "its config.yaml is missing")


def kept_in(store: Store) -> Kept:
    """Return a function that finds the copy of its data that a run's record keeps.

    The copy for a sweep's runs is kept on the sweep's parent.
    """

    def kept(evidence: Evidence) -> Source | None:
        sweep_id = evidence.tags.get("nnexp.sweep_id")
        holder = evidence if sweep_id is None else find.get_sweep(store, sweep_id)
        if holder is None:
            return None  # the sweep was deleted
        return kept_data(partial(find.find_artifact, store, holder), evidence.tags["nnexp.data_sha256"])

    return kept


class Subjects:
    """Make subjects from evidence; each data set is read only once.

    With `only_kept`, only the copies in the records are used, no other files.
    """

    def __init__(self, kept: Kept, only_kept: bool = False) -> None:
        self._kept, self._only_kept = kept, only_kept
        self._found: dict[tuple[DatasetConfig, str], Data] = {}

    def subject(self, evidence: Evidence, moved: RunConfig | None = None) -> Subject:
        """Return the run as it is recorded, or with the data paths of `moved`. Raises RequestError."""
        if evidence.config is None or missing_tag(evidence.tags):
            raise RequestError(f"run {evidence.run_id}: {lack(evidence)}")
        was = read_config(evidence.config, f"run {evidence.run_id}: config.yaml")
        config = moved or was.config
        at = config.dataset, evidence.tags.get("nnexp.data_sha256", "")
        if at not in self._found:
            self._found[at] = self._data(evidence, *at)
        data = self._found[at]
        if data.dataset is not None:
            check(data.dataset, config)
        return Subject(evidence, was, config, data)

    def _data(self, evidence: Evidence, config: DatasetConfig, sha256: str) -> Data:
        """Return the data set that the run was trained on: the file if it is unchanged, else the copy."""
        path, copy, file = locate(config.path, config.name), self._kept(evidence), None
        missing = "it was trained on a DataFrame"
        if not self._only_kept and config.path != FRAME:
            try:
                _check_plain(config)
                file = datasets.read_source(config)
            except RequestError as error:
                missing = str(error)
        changed = []
        if file is not None and file.sha256 != sha256:
            changed.append(
                f"{path} has other bytes (SHA-256 {file.sha256[:12]}…) than the run was trained on "
                f"({sha256[:12]}…)"
            )
        if copy is not None and copy.sha256 != sha256:
            changed.append(f"the copy of {path.name} that the record keeps was altered")
        source = next((s for s in (file, copy) if s is not None and s.sha256 == sha256), None)
        if source is None and not changed:
            where = (
                "the archive keeps no copy" if self._only_kept else f"{missing}, and the record keeps no copy"
            )
            raise RequestError(
                f"run {evidence.run_id}: its data set is missing: {where}; name it with dataset.path=FILE"
            )
        note = None
        if source is copy is not None and not self._only_kept and config.path != FRAME:
            note = f"trained on the copy of {path.name} that the record keeps" + (
                "" if changed else f": {missing}"
            )
        dataset = None if source is None else datasets.load(config, source)
        return Data(dataset, "; ".join(changed) or None, note)


def _check_plain(config: DatasetConfig) -> None:
    """Raise RequestError if a path is not a plain file of limited size: a pipe, say, might never end."""
    for recorded in filter(None, (config.path, config.new_rows)):
        path = locate(recorded, config.name)
        if os.path.exists(path) and not (path.is_file() and path.stat().st_size <= find.MAX_BYTES):
            raise RequestError(f"{path}: is not a file of at most {find.MAX_BYTES:,} bytes")
