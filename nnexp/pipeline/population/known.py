"""Find which points of a population are recorded elsewhere in the experiment, and read what is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnexp.pipeline.population.rows import Contents, placed
from nnexp.pipeline.population.space import IntArray, Points, Space, groups
from nnexp.pipeline.session import Place
from nnexp.tracking import members
from nnexp.tracking.find import get_sweep
from nnexp.tracking.index import Index
from nnexp.tracking.members import RECORD, TABLE, member_id
from nnexp.tracking.store import Store
from nnexp.training.shard import OUTCOMES

if TYPE_CHECKING:
    import pyarrow as pa

# The columns of a part that another population takes over.
RESULTS = ("status", "outcome", "reason", "attempt", "last_epoch", "weights_sha256")


_COPIED = (members.METRIC, members.CURVE, members.WEIGHTS)


class Known:
    """What is recorded in the experiment outside the population: finished runs, and other populations."""

    def __init__(self, place: Place, contents: Contents, but: str | None, is_again: bool) -> None:
        """Look at everything but this population; at nothing if all points are to be run again."""
        if is_again:
            place = replace(place, runs=[], parents=[])
        self._place = place
        found = [
            get_sweep(place.store, p.run_id)
            for p in place.parents
            if p.tags.get(RECORD) == TABLE and p.run_id != but
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
        is_member = self._index.find(points.keys) >= 0
        if not self._runs:
            return is_member
        return is_member | np.array([bytes(key) in self._runs for key in points.keys], dtype=np.bool_)

    def tables(self, space: Space, contents: Contents, points: Points) -> Iterator[pa.Table]:
        """Yield rows for those of the points that are recorded."""
        at = self._index.find(points.keys)
        in_index = np.flatnonzero(at >= 0)
        found = points.take(in_index)
        yield from _taken(self._index, self._place.store, space, contents, found, at[in_index])
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


def _taken(
    index: Index, store: Store, space: Space, contents: Contents, points: Points, at: IntArray
) -> Iterator[pa.Table]:
    """Yield rows for the points, which are recorded at these positions."""
    import pyarrow as pa

    names = [field.name for field in contents.schema() if field.name.startswith(_COPIED)]
    for i, some in groups(index.place[at]):
        parent, part = index.places[i]
        content = members.read_part(store, parent, part)
        if content is None:
            continue  # it was damaged a moment ago, so its points are trained
        table = members.from_bytes(content, [*RESULTS, "number", *names])
        table = table.take(pa.array(index.row[at[some]]))
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        numbers = columns.pop("number").to_pylist()
        columns["recorded_as"] = pa.array([member_id(parent.run_id, number) for number in numbers])
        yield placed(space, contents, points.take(some), columns)
