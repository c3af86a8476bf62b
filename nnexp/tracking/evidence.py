"""Read the records of finished runs, many at once, with everything that a rerun is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nnexp.dataset.load import Source
from nnexp.tracking.experiments import get_experiment
from nnexp.tracking.find import find_artifact, find_runs, get_sweep, recorded_keys
from nnexp.tracking.reader import Curves, Detail
from nnexp.tracking.store import Store
from nnexp.tracking.whole import NEEDED_TAGS


@dataclass(frozen=True)
class Evidence:
    """One finished run as it is recorded.

    `config` and `weights` are the artifacts' bytes, None if they are missing. `tags` include the provenance,
    which for a sweep's runs is that of their parent.
    """

    run_id: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    curves: Curves
    config: bytes | None
    weights: bytes | None
    own_tags: Mapping[str, str] = field(default_factory=dict)  # without those of its sweep

    @property
    def key(self) -> str:
        """The run's key. A rerun has it in another tag, so that it does not count as a run of its own."""
        return self.tags.get("nnexp.run_key") or self.tags.get("nnexp.rerun_key", "")


def data_file(sha256: str, part: str) -> str:
    """Return the name of the artifact that keeps a data set: `part` is table or new_rows.

    A single run has it, or a sweep's parent for all of the sweep's runs.
    """
    return f"data/{sha256[:16]}/{part}.csv"


def kept_data(store: Store, holder: Detail, sha256: str) -> Source | None:
    """Return the copy of a data set that a record keeps, or None if it keeps none."""
    table = find_artifact(store, holder, data_file(sha256, "table"))
    if table is None:
        return None
    return Source(table, find_artifact(store, holder, data_file(sha256, "new_rows")))


def runs_of(store: Store, sweep: Detail) -> tuple[list[str], int]:
    """Return the ids of a sweep's finished runs, recorded by any sweep, and how many have not finished."""
    keys = set(recorded_keys(store, sweep))
    found = find_runs(store, get_experiment(store, sweep.experiment_id), "nnexp.run_key")
    finished = [run for run in found if run.status == "FINISHED" and run.tags["nnexp.run_key"] in keys]
    return [run.run_id for run in finished], len(keys - {run.tags["nnexp.run_key"] for run in finished})


def read_evidence(store: Store, run_ids: Sequence[str]) -> list[Evidence]:
    """Read the records of these runs, in their order."""
    details, curves = store.reader.evidence(run_ids)
    parents: dict[str, Mapping[str, str]] = {}
    runs = [details[run_id] for run_id in run_ids]
    configs = store.each(lambda run: find_artifact(store, run, "config.yaml"), runs)
    weights = store.each(lambda run: find_artifact(store, run, "weights.npz"), runs)
    result = []
    for run, config, packed in zip(runs, configs, weights, strict=True):
        sweep_id = run.tags.get("nnexp.sweep_id", "")
        if sweep_id and sweep_id not in parents:
            parent = get_sweep(store, sweep_id)
            tags = {} if parent is None else parent.tags
            # Tags that describe a result must be the run's own, not its parent's.
            parents[sweep_id] = {key: value for key, value in tags.items() if key not in NEEDED_TAGS}
        result.append(
            Evidence(
                run.run_id,
                run.name,
                run.params,
                {**parents.get(sweep_id, {}), **run.tags},
                curves.get(run.run_id, {}),
                config,
                packed,
                run.tags,
            )
        )
    return result


def times_of(store: Store, run_ids: Sequence[str]) -> dict[str, tuple[int, int | None]]:
    """Return when these runs began and ended, in milliseconds since 1970."""
    return store.reader.times(run_ids)
