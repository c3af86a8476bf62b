"""Find which points of a population are recorded elsewhere in the experiment, and read what is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnexp.pipeline.population.rows import Contents, placed
from nnexp.pipeline.population.space import IntArray, Points, Space, groups
from nnexp.pipeline.session import Place
from nnexp.tracking import members
from nnexp.tracking.find import get_sweep
from nnexp.tracking.members import RECORD, Part, member_id
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store
from nnexp.training.shard import OUTCOMES

if TYPE_CHECKING:
    import pyarrow as pa

# The columns of a part that another population takes over.
RESULTS = ("status", "outcome", "reason", "attempt", "last_epoch", "weights_sha256")


class Index:
    """The finished members of populations by their run keys."""

    def __init__(self, store: Store, parents: Sequence[Detail], needed: Sequence[str] = ()) -> None:
        self._store = store
        self._places: list[tuple[Detail, Part]] = []
        keys, places, rows = [], [], []
        for parent in parents:
            columns = ["run_key", "status", "recorded_as", *needed]
            for part, table in members.read_members(store, parent, columns):
                if any(name not in table.column_names for name in needed):
                    continue
                is_done = np.array(table["status"].to_pylist()) == "FINISHED"
                own = np.flatnonzero(is_done & np.array(table["recorded_as"].is_null()))
                keys.append(members.hash_bytes(table["run_key"])[own])
                rows.append(own)
                places.append(np.full(len(own), len(self._places)))
                self._places.append((parent, part))
        found = np.concatenate(keys) if keys else np.empty((0, 32), dtype=np.uint8)
        first = _first_words(found)
        order = np.argsort(first, kind="stable")
        self._first, self._keys = first[order], found[order]
        self._place, self._row = (
            np.concatenate(some)[order] if some else np.empty(0, dtype=np.int64) for some in (places, rows)
        )

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._keys)

    def find(self, keys: NDArray[np.uint8]) -> IntArray:
        """Return for each run key, (points, 32), the position of a member that has it; -1: none has."""
        at = np.searchsorted(self._first, _first_words(keys))
        if not len(self):
            return np.full(len(keys), -1)
        at = np.minimum(at, len(self) - 1)
        return np.where((self._keys[at] == keys).all(axis=1), at, -1)

    def taken(self, space: Space, contents: Contents, points: Points, at: IntArray) -> Iterator[pa.Table]:
        """Yield rows for the points, which are recorded at these positions."""
        import pyarrow as pa

        names = [field.name for field in contents.schema() if field.name.startswith(_COPIED)]
        for i, some in groups(self._place[at]):
            parent, part = self._places[i]
            content = members.read_part(self._store, parent, part)
            if content is None:
                continue  # it was damaged a moment ago, so its points are trained
            table = members.from_bytes(content, [*RESULTS, "number", *names])
            table = table.take(pa.array(self._row[at[some]]))
            columns = {name: table[name].combine_chunks() for name in table.column_names}
            numbers = columns.pop("number").to_pylist()
            columns["recorded_as"] = pa.array([member_id(parent.run_id, number) for number in numbers])
            yield placed(space, contents, points.take(some), columns)


_COPIED = (members.METRIC, members.CURVE, members.WEIGHTS)


def _first_words(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64).reshape(-1)


class Known:
    """What is recorded in the experiment outside the population: finished runs, and other populations."""

    def __init__(self, place: Place, contents: Contents, but: str | None, is_again: bool) -> None:
        """Look at everything but this population; at nothing if all points are to be run again."""
        if is_again:
            place = replace(place, runs=[], parents=[])
        self._place = place
        found = [
            get_sweep(place.store, p.run_id) for p in place.parents if is_table(p.tags) and p.run_id != but
        ]
        needed = [f"{members.CURVE}{name}" for name in contents.curves]
        needed += [f.name for f in contents.schema() if f.name.startswith(members.WEIGHTS)]
        self._index = Index(place.store, [parent for parent in found if parent is not None], needed)
        # A run's curves and weights are not in columns, so a point that needs them is trained again.
        runs = [] if needed else [run for run in place.runs if run.status == "FINISHED"]
        self._runs = {bytes.fromhex(run.tags["nnexp.run_key"]): run.run_id for run in runs}

    def __len__(self) -> int:
        """Return the number of runs and members."""
        return len(self._index) + len(self._runs)

    def is_known(self, points: Points) -> NDArray[np.bool_]:
        """Return for each of the points whether it is recorded."""
        is_run = np.array([bytes(key) in self._runs for key in points.keys], dtype=np.bool_)
        return is_run | (self._index.find(points.keys) >= 0)

    def tables(self, space: Space, contents: Contents, points: Points) -> Iterator[pa.Table]:
        """Yield rows for those of the points that are recorded."""
        at = self._index.find(points.keys)
        in_index = np.flatnonzero(at >= 0)
        yield from self._index.taken(space, contents, points.take(in_index), at[in_index])
        in_runs = [i for i in np.flatnonzero(at < 0).tolist() if bytes(points.keys[i]) in self._runs]
        if in_runs:
            yield self._of_runs(space, contents, points.take(np.array(in_runs)))

    def _of_runs(self, space: Space, contents: Contents, points: Points) -> pa.Table:
        """Return rows for points that are recorded as runs."""
        import pyarrow as pa

        ids = [self._runs[bytes(key)] for key in points.keys]
        details = self._place.store.reader.details(list(dict.fromkeys(ids)))
        runs = [details[run_id].checked() for run_id in ids]
        ends = self._place.store.reader.points(list(details), ["loss"], None)
        last: dict[str, int] = {}
        for run_id, _, epoch, _ in ends:
            last[run_id] = max(last.get(run_id, 0), epoch)
        columns: dict[str, Any] = {
            "status": members.labels(np.zeros(len(runs), dtype=np.int8), members.STATUSES),
            "outcome": members.labels(
                np.array([OUTCOMES.index(run.tags["nnexp.outcome"]) for run in runs]), OUTCOMES
            ),
            "attempt": pa.array([int(run.tags.get("nnexp.attempt", "1")) for run in runs], pa.int32()),
            "last_epoch": pa.array([last[run.run_id] for run in runs], pa.int64()),
            "weights_sha256": pa.array(
                [bytes.fromhex(run.tags["nnexp.weights_sha256"]) for run in runs], pa.binary(32)
            ),
            "recorded_as": pa.array(ids, pa.string()),
        }
        for name in contents.metrics:
            columns[f"{members.METRIC}{name}"] = pa.array(
                [run.metrics.get(name) for run in runs], pa.float64()
            )
        return placed(space, contents, points, columns)


def is_table(tags: Any) -> bool:
    """Return whether the tags are those of a population's parent run."""
    return bool(tags.get(RECORD) == members.TABLE)
