"""Find the finished members of populations by their run keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nnexp.tracking import members
from nnexp.tracking.members import Part
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store


class Index:
    """The finished members of populations by their run keys.

    Of the member at a position, `places[place[position]]` is the part and `row[position]` the row there.
    Members that were found elsewhere do not count, nor those of parts that lack one of the `needed` columns.
    """

    def __init__(self, store: Store, parents: Sequence[Detail], needed: Sequence[str] = ()) -> None:
        self.places: list[tuple[Detail, Part]] = []
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
                places.append(np.full(len(own), len(self.places)))
                self.places.append((parent, part))
        found = np.concatenate(keys) if keys else np.empty((0, 32), dtype=np.uint8)
        first = _first_words(found)
        order = np.argsort(first, kind="stable")
        self._first, self._keys = first[order], found[order]
        self.place, self.row = (
            np.concatenate(some)[order] if some else np.empty(0, dtype=np.int64) for some in (places, rows)
        )

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._keys)

    def find(self, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return for each run key, (points, 32), the position of a member that has it; -1: none has."""
        at = np.searchsorted(self._first, _first_words(keys))
        if not len(self):
            return np.full(len(keys), -1)
        at = np.minimum(at, len(self) - 1)
        return np.where((self._keys[at] == keys).all(axis=1), at, -1)


def find_member(store: Store, parents: Sequence[Detail], key: str) -> str | None:
    """Return the name of a finished member of these populations that has the run key; None if none has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for parent in parents:
        for _, table in members.read_members(store, parent, ["number", "run_key", "status"]):
            rows = table.filter(pc.equal(table["run_key"], pa.scalar(bytes.fromhex(key), pa.binary(32))))
            for row in rows.to_pylist():
                if row["status"] == "FINISHED":
                    return members.member_id(parent.run_id, row["number"])
    return None


def _first_words(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64).reshape(-1)
