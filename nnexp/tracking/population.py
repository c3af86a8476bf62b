"""Read a population: all of its members as a frame of runs, and a single one as the record of a run."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from nnexp.config.errors import RequestError
from nnexp.config.recorded import plain_values, read_config
from nnexp.config.run import GROUPS, NOT_RESULT, key_names
from nnexp.dataset.load import Source
from nnexp.tracking import members
from nnexp.tracking.evidence import kept_data
from nnexp.tracking.find import find_artifact, get_any, get_run, get_sweep, list_artifacts
from nnexp.tracking.members import CURVE, METRIC, PARAM, PART, WEIGHTS, Part
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

CONFIG = "config.yaml"
# What a frame has of every member when only some columns are asked for.
LEAN = ("status", "outcome", "network")


@dataclass(frozen=True, kw_only=True)
class Member(Detail):
    """A member of a population as the record of a run, whose id is SWEEP_ID/NUMBER.

    `row` has the member's values by column, `config` its whole configuration as config.yaml would have it.
    """

    parent: Detail
    part: Part
    row: Mapping[str, Any]
    config: bytes

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """The trained weights in the order of `network.flatten`; None if they are not recorded."""
        found = self.row.get(f"{WEIGHTS}final")
        return None if found is None else np.array(found, dtype=float)


def is_population(sweep: Detail) -> bool:
    """Return whether a sweep is recorded as a table."""
    return sweep.tags.get(members.RECORD) == members.TABLE


@dataclass(frozen=True)
class Population:
    """A recorded population. Its parts are read when they are asked for."""

    store: Store
    parent: Detail

    @cached_property
    def fixed(self) -> dict[str, Any]:
        """What all members share, nested as in config.yaml, with `schema`. Raises RequestError."""
        content = find_artifact(self.store, self.parent, CONFIG)
        if content is None:
            raise RequestError(f"sweep {self.parent.run_id}: its artifact {CONFIG} is missing")
        return plain_values(content, f"sweep {self.parent.run_id}: {CONFIG}")

    def config(self, row: Mapping[str, Any]) -> bytes:
        """Return the config.yaml of the member with this row. Raises RequestError."""
        values = copy.deepcopy(self.fixed)
        for column, value in row.items():
            if not column.startswith(PARAM):
                continue
            key = column.removeprefix(PARAM)
            group, _, option = key.partition(".")
            if key in GROUPS:
                values.setdefault(group, {})["name"] = value
            elif not option:
                values[key] = _plain(key, value)
            elif value is not None or group == "dataset":
                values.setdefault(group, {})[option] = _plain(key, value)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()

    def data_of(self, config: bytes, key: str) -> str:
        """Return the hash of the data set of a member with this configuration and run key.

        It is that of the copy with which the configuration has this key; empty if there is none.
        """
        was = read_config(config, f"sweep {self.parent.run_id}: {CONFIG}").config
        engine = self.parent.tags.get("nnexp.engine", "")
        return next((sha256 for sha256 in self.data if was.run_key(sha256, engine) == key), "")

    @cached_property
    def data(self) -> dict[str, Source]:
        """The copies of the data sets that the record keeps, by their hashes."""
        places = list_artifacts(self.store, self.parent, "data")
        found = [
            kept_data(lambda name: find_artifact(self.store, self.parent, name), place.rpartition("/")[2])
            for place in places
        ]
        return {source.sha256: source for source in found if source is not None}

    def member(self, number: int) -> Member:
        """Return one member. Raises RequestError if there is none of this number, or its part is damaged."""
        import pyarrow.compute as pc

        name = members.member_id(self.parent.run_id, number)
        revisions = members.list_parts(self.store, self.parent).get(number // PART, [])
        found = members.newest_whole(self.store, self.parent, revisions)
        if found is None:
            what = "is missing" if not revisions else f"{revisions[0].name} is damaged"
            raise RequestError(f"no member {name}: its part {what}; nnexp doctor says more")
        part, content = found
        table = members.from_bytes(content)
        rows = table.filter(pc.equal(table["number"], number))
        if not len(rows):
            raise RequestError(f"no member {name}: this point was left out, or repeats another one")
        return self.as_member(part, rows.to_pylist()[0], table.schema.metadata)

    def as_member(self, part: Part, row: Mapping[str, Any], notes: Mapping[bytes, bytes]) -> Member:
        """Return the row of a part, which has these notes, as the record of a run."""
        config, parent = self.config(row), self.parent
        key = row["run_key"].hex()
        name = members.member_id(parent.run_id, row["number"])
        was = read_config(config, f"member {name}: its configuration")
        tags = {
            "nnexp.run_key": key,
            "nnexp.sweep_id": parent.run_id,
            "nnexp.engine": parent.tags.get("nnexp.engine", ""),
            "nnexp.data_sha256": self.data_of(config, key),
        }
        if row["status"] == "FINISHED":
            tags |= {"nnexp.outcome": row["outcome"], "nnexp.weights_sha256": row["weights_sha256"].hex()}
        if row["reason"]:
            tags["nnexp.reason"] = row["reason"]
        if row["attempt"] > 1:
            tags["nnexp.attempt"] = str(row["attempt"])
        values = {c.removeprefix(METRIC): v for c, v in row.items() if c.startswith(METRIC) and v is not None}
        varied = [column.removeprefix(PARAM) for column in row if column.startswith(PARAM)]
        params = was.config.params()
        started, ended = (int(notes.get(note, b"0")) for note in (b"nnexp.started", b"nnexp.ended"))
        return Member(
            name,
            _name(params, varied),
            row["status"],
            parent.artifact_uri,
            parent.experiment_id,
            params,
            values,
            tags,
            started,
            ended,
            parent=parent,
            part=part,
            row=row,
            config=config,
        ).checked()

    def frame(self, only: Collection[str] | None = None) -> pd.DataFrame:
        """Return the members as `load_runs` returns runs, in the order of their numbers.

        With `only`, the columns are those of LEAN, every param that varies, and the named ones that there
        are; texts are categories. `network` is a number that members with the same weights share.
        """
        import pandas as pd
        import pyarrow as pa

        there = self._columns()
        wanted = None if only is None else _wanted(only, there)
        read = list(members.read_members(self.store, self.parent, wanted))
        if not read:
            return pd.DataFrame(columns=["run_id", "status", "outcome", "run_key"], dtype=object)
        table = pa.concat_tables([part for _, part in read], promote_options="default").combine_chunks()
        notes = [(len(part), part.schema.metadata) for _, part in read]
        return _frame(self, table, notes, only)

    def _columns(self) -> list[str]:
        """Return the columns of the first part that is whole."""
        import pyarrow.parquet as pq
        import pyarrow as pa

        for revisions in members.list_parts(self.store, self.parent).values():
            found = members.newest_whole(self.store, self.parent, revisions)
            if found is not None:
                return list(pq.read_schema(pa.BufferReader(found[1])).names)
        return []
