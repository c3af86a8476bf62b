"""Read the records of finished runs, many at once, with everything that a rerun is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnexp.config.errors import RequestError
from nnexp.dataset.load import Source
from nnexp.tracking.find import find_artifact, get_sweep
from nnexp.tracking.reader import Curves, Detail
from nnexp.tracking.store import Store
from nnexp.tracking.whole import NEEDED_TAGS


@dataclass(frozen=True, kw_only=True)
class Evidence(Detail):
    """One finished run as it is recorded.

    `config` and `weights` are the artifacts' bytes, None if they are missing. `tags` include the provenance,
    which for a sweep's runs is that of their parent; `own_tags` do not. Of a member of a population, `row`
    has the values of its columns: besides the last metrics, only the curves and weights that were asked for.
    """

    own_tags: Mapping[str, str]
    curves: Curves
    config: bytes | None
    weights: bytes | None
    row: Mapping[str, Any] | None = None

    @property
    def last_epoch(self) -> int:
        """The completed epochs of the network."""
        return int(self.row["last_epoch"]) if self.row is not None else self.curves["loss"][-1][0]

    @property
    def key(self) -> str:
        """The run's key. A rerun has it in another tag, so that it does not count as a run of its own."""
        return self.tags.get("nnexp.run_key") or self.tags.get("nnexp.rerun_key", "")


def data_file(sha256: str, part: str) -> str:
    """Return the name of the artifact that keeps a data set: `part` is table or new_rows.

    A single run has it, or a sweep's parent for all of the sweep's runs.
    """
    return f"data/{sha256[:16]}/{part}.csv"


def data_files(sha256: str, source: Source) -> dict[str, bytes]:
    """Return a data set's bytes as artifacts."""
    files = {data_file(sha256, "table"): source.table}
    return files if source.new_rows is None else {**files, data_file(sha256, "new_rows"): source.new_rows}


def kept_data(find: Callable[[str], bytes | None], sha256: str) -> Source | None:
    """Return the copy of a data set that is kept, or None; `find` returns the file of a name, if any."""
    table, new_rows = (find(data_file(sha256, part)) for part in ("table", "new_rows"))
    return None if table is None else Source(table, new_rows)


def read_evidence(store: Store, run_ids: Sequence[str]) -> list[Evidence]:
    """Read the records of these runs, in their order. Raises RequestError if one is not there."""
    details = store.reader.details(run_ids)
    if gone := set(run_ids) - details.keys():
        raise RequestError(f"no run {gone.pop()!r} in this store")
    curves = store.reader.curves(run_ids)
    runs = [details[run_id].checked() for run_id in run_ids]
    configs = store.each(lambda run: find_artifact(store, run, "config.yaml"), runs)
    weights = store.each(lambda run: find_artifact(store, run, "weights.npz"), runs)
    parents = {sweep_id: get_sweep(store, sweep_id) for sweep_id in {_sweep_of(run) for run in runs}}
    result = []
    for run, config, packed in zip(runs, configs, weights, strict=True):
        parent = parents[_sweep_of(run)]
        # Tags that describe a result must be the run's own, not its parent's.
        shared = {} if parent is None else {k: v for k, v in parent.tags.items() if k not in NEEDED_TAGS}
        whole = vars(run) | {"tags": {**shared, **run.tags}, "own_tags": run.tags}
        result.append(Evidence(**whole, curves=curves[run.run_id], config=config, weights=packed))
    return result


def _sweep_of(run: Detail) -> str:
    return run.tags.get("nnexp.sweep_id", "")
