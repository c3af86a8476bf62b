"""What a rerun needs of a record: its configuration, and the data set's very bytes, wherever they are now."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from nnexp.config.errors import RequestError
from nnexp.config.recorded import RecordedConfig, read_config
from nnexp.config.run import DatasetConfig, RunConfig
from nnexp.dataset import load as datasets
from nnexp.dataset.load import FRAME, Dataset, Source, locate
from nnexp.tracking.evidence import Evidence, kept_data, read_evidence, runs_of
from nnexp.tracking.find import MAX_BYTES, get_any, get_run, get_sweep
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store
from nnexp.tracking.whole import missing_tag, tell
from nnexp.training.checks import check

log = logging.getLogger("nnexp")

# The copy of its data that a record keeps, None where it keeps none.
Kept = Callable[[Evidence], Source | None]


@dataclass(frozen=True)
class Data:
    """The data set of a recorded run, None where its bytes are nowhere; what about it has changed since, and
    what else there is to say."""

    dataset: Dataset | None
    changed: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Subject:
    """A recorded run that can be trained again."""

    evidence: Evidence
    was: RecordedConfig
    config: RunConfig  # what is trained: as recorded, but for where the data lie
    data: Data

    @property
    def data_sha256(self) -> str:
        """Of the bytes that the run learned from."""
        return self.evidence.tags.get("nnexp.data_sha256", "")


def find_run(store: Store, run_id: str) -> tuple[Detail, Evidence]:
    """A finished run of the store. Raises RequestError."""
    found = get_any(store, run_id)
    if "nnexp.sweep" in found.tags:
        raise RequestError(f"{run_id} is a sweep: nnexp rerun --sweep {run_id}")
    run = get_run(store, run_id)
    if run.status != "FINISHED":
        raise RequestError(f"run {run_id} did not finish ({run.status.lower()}): there is nothing to compare")
    return run, read_evidence(store, [run_id])[0]


def find_sweep(store: Store, sweep_id: str) -> tuple[Detail, list[Evidence]]:
    """A sweep of the store, and its finished runs. Raises RequestError."""
    sweep = get_sweep(store, sweep_id)
    if sweep is None:
        raise RequestError(f"no sweep {sweep_id!r} in this store")
    run_ids, missing = runs_of(store, sweep)
    if missing:
        log.info(f"note: {missing} runs of this sweep are not recorded as finished")
    if not run_ids:
        raise RequestError(f"sweep {sweep_id} has no finished run: there is nothing to compare")
    return sweep, _that_count(read_evidence(store, run_ids))


def _that_count(evidence: list[Evidence]) -> list[Evidence]:
    """The runs without those that lack something where another one of their key does not: they are named."""
    lacks = {one.run_id: what for one in evidence if (what := lack(one))}
    whole = {one.key for one in evidence if one.run_id not in lacks}
    left_out = {one.run_id: lacks[one.run_id] for one in evidence if one.run_id in lacks and one.key in whole}
    tell(left_out, "it is left out, as another run has its key")
    return [one for one in evidence if one.run_id not in left_out]


def lack(evidence: Evidence) -> str:
    """What a run's record lacks for it to be trained again, in words; empty where it lacks nothing."""
    return missing_tag(evidence.tags) or ("" if evidence.config else "its config.yaml is not there")


def kept_in(store: Store) -> Kept:
    """The copies that the store's records keep: a sweep's runs have theirs at their parent."""

    def kept(evidence: Evidence) -> Source | None:
        sweep_id = evidence.tags.get("nnexp.sweep_id")
        holder = get_any(store, evidence.run_id) if sweep_id is None else get_sweep(store, sweep_id)
        if holder is None:
            return None  # the sweep was deleted
        return kept_data(store, holder, evidence.tags["nnexp.data_sha256"])

    return kept


class Subjects:
    """Makes subjects of evidence, and reads each data set once. With `only_kept` no file outside the record
    is looked at."""

    def __init__(self, kept: Kept, only_kept: bool = False) -> None:
        self._kept, self._only_kept = kept, only_kept
        self._found: dict[tuple[DatasetConfig, str], Data] = {}

    def subject(self, evidence: Evidence, moved: RunConfig | None = None) -> Subject:
        """The run as it is recorded, or with its data where `moved` has them. Raises RequestError."""
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
        """The data set that the run learned from: the file, if it still is the same, else the copy."""
        path, copy, file = locate(config.path, config.name), self._kept(evidence), None
        missing = "it learned from a DataFrame"
        if not self._only_kept and config.path != FRAME:
            try:
                _check_plain(config)
                file = datasets.read_source(config)
            except RequestError as error:
                missing = str(error)
        changed = []
        if file is not None and file.sha256 != sha256:
            changed.append(
                f"{path} has other bytes (SHA-256 {file.sha256[:12]}…) than the run learned from "
                f"({sha256[:12]}…)"
            )
        if copy is not None and copy.sha256 != sha256:
            changed.append(f"the copy of {path.name} that the record keeps has other bytes than it had")
        source = next((s for s in (file, copy) if s is not None and s.sha256 == sha256), None)
        if source is None and not changed:
            where = (
                "the archive keeps no copy" if self._only_kept else f"{missing}, and the record keeps no copy"
            )
            raise RequestError(
                f"run {evidence.run_id}: its data are not there: {where}; dataset.path=FILE says where"
            )
        note = None
        if source is copy is not None and not self._only_kept and config.path != FRAME:
            note = f"trained on the copy of {path.name} that the record keeps" + (
                "" if changed else f": {missing}"
            )
        dataset = None if source is None else datasets.load(config, source)
        return Data(dataset, "; ".join(changed) or None, note)


def _check_plain(config: DatasetConfig) -> None:
    """Refuse what a record may name as a data set and would never end, such as a device or a pipe."""
    for recorded in filter(None, (config.path, config.new_rows)):
        path = locate(recorded, config.name)
        if os.path.exists(path) and not (path.is_file() and path.stat().st_size <= MAX_BYTES):
            raise RequestError(f"{path}: is no file of at most {MAX_BYTES:,} bytes")
