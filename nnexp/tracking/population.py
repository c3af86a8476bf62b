"""Read a population: all of its members as a frame of runs, and a single one as the record of a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import yaml

from nnexp.config.errors import RequestError
from nnexp.config.recorded import plain_values, read_config
from nnexp.config.run import GROUPS, key_names
from nnexp.config.text import shortened
from nnexp.dataset.load import Source
from nnexp.tracking import members
from nnexp.tracking.evidence import Evidence, kept_data
from nnexp.tracking.find import (
    find_artifact,
    find_runs,
    get_run,
    get_sweep,
    list_artifacts,
    recorded_keys,
)
from nnexp.tracking.members import METRIC, PARAM, PART, Part
from nnexp.tracking.reader import Detail, Experiment
from nnexp.tracking.store import Store
from nnexp.tracking.tables import MAX_NAME
from nnexp.tracking.whole import NEEDED_TAGS

CONFIG = "config.yaml"
# The tag of a run that was made of a member: SWEEP_ID/NUMBER.
MEMBER = "nnexp.member"


@dataclass(frozen=True, kw_only=True)
class Member(Detail):
    """A member of a population as the record of a run, whose id is SWEEP_ID/NUMBER.

    `row` has the member's values by column, `config` its whole configuration as config.yaml would have it.
    """

    parent: Detail
    part: Part
    row: Mapping[str, Any]
    config: bytes

    def evidence(self) -> Evidence:
        """Return what a rerun is compared with."""
        mine = {field.name: getattr(self, field.name) for field in fields(Detail)}
        shared = {key: value for key, value in self.parent.tags.items() if key not in NEEDED_TAGS}
        mine["tags"] = {**shared, **self.tags}
        return Evidence(**mine, own_tags=self.tags, curves={}, config=self.config, weights=None, row=self.row)


def get_network(store: Store, id: str) -> Detail:
    """Return a trained network: a run, or a member of a population. Raises RequestError if there is none."""
    named = members.split_member(id)
    return get_run(store, id) if named is None else get_population(store, named[0]).member(named[1])


def get_population(store: Store, sweep_id: str) -> Population:
    """Return the population with this id. Raises RequestError if there is none."""
    sweep = get_sweep(store, sweep_id)
    if sweep is None:
        raise RequestError(f"no sweep {shortened(sweep_id)!r} in this store")
    if not is_population(sweep):
        raise RequestError(f"sweep {sweep_id} has no members: each of its runs has an id of its own")
    return population_of(store, sweep)


def population_of(store: Store, sweep: Detail) -> Population:
    """Return the population with this parent run."""
    return Population(sweep, partial(find_artifact, store, sweep), partial(list_artifacts, store, sweep))


def populations(store: Store, experiment: Experiment) -> list[Population]:
    """Return the populations of an experiment, oldest first."""
    found = find_runs(store, experiment, members.RECORD)
    details = store.reader.details([run.run_id for run in found])
    return [population_of(store, details[run.run_id].checked()) for run in found if run.run_id in details]


def points_asked(store: Store, sweep: Detail) -> int:
    """Return how many different points a sweep asked for. Raises RequestError if its record has lost them."""
    if is_population(sweep):
        return int(sweep.tags.get("nnexp.runs", "0"))
    return len(set(recorded_keys(store, sweep)))


def is_population(sweep: Detail) -> bool:
    """Return whether a sweep is recorded as a table."""
    return sweep.tags.get(members.RECORD) == members.TABLE


@dataclass(frozen=True)
class Population:
    """A recorded population, in a store or in an archive. Its parts are read when they are asked for.

    `find` returns the bytes of its artifact of a name, if there is one, `names` the artifacts in a directory.
    """

    parent: Detail
    find: Callable[[str], bytes | None]
    names: Callable[[str], list[str]]

    def parts(self) -> dict[int, list[Part]]:
        """Return the parts by their numbers; of each the newest revision comes first."""
        return members.parts_of(self.names(members.DIRECTORY))

    def newest(self, revisions: Sequence[Part]) -> tuple[Part, bytes] | None:
        """Return the newest of a part's revisions that is whole, with its bytes; None if none is."""
        found = ((part, self.find(part.name)) for part in revisions)
        whole = ((part, content) for part, content in found if content and part.is_whole(content))
        return next(whole, None)

    @cached_property
    def fixed(self) -> dict[str, Any]:
        """What all members share, nested as in config.yaml, with `schema`. Raises RequestError."""
        content = self.find(CONFIG)
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
                values[key] = int(value) if key == "batch_size" and value.isdecimal() else value
            elif value is not None or group == "dataset":  # an option that the chosen one does not have
                values.setdefault(group, {})[option] = value
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()

    @cached_property
    def data(self) -> dict[str, Source]:
        """The copies of the data sets that the record keeps, by their hashes."""
        found = [kept_data(self.find, place.rpartition("/")[2]) for place in self.names("data")]
        return {source.sha256: source for source in found if source is not None}

    def member(self, number: int) -> Member:
        """Return one member. Raises RequestError if there is none of this number, or its part is damaged."""
        import pyarrow.compute as pc

        name = members.member_id(self.parent.run_id, number)
        parts = self.parts()
        revisions, last = parts.get(number // PART, []), max(parts, default=-1)
        if number // PART > last:
            raise RequestError(f"no member {name}: none of so high a number is recorded")
        found = self.newest(revisions)
        if found is None:
            what = "is missing" if not revisions else f"{revisions[0].name} is damaged"
            raise RequestError(f"no member {name}: its part {what}; nnexp doctor says more")
        part, content = found
        table = members.from_bytes(content)
        rows = table.filter(pc.equal(table["number"], number))
        if not len(rows):
            is_high = part.number == last and number > (pc.max(table["number"]).as_py() or 0)
            why = "none of so high a number is recorded" if is_high else "it was left out, or repeats another"
            raise RequestError(f"no member {name}: {why}")
        return self.as_member(part, rows.to_pylist()[0], table.schema.metadata)

    def as_member(self, part: Part, row: Mapping[str, Any], notes: Mapping[bytes, bytes]) -> Member:
        """Return the row of a part, which has these notes, as the record of a run."""
        config, parent = self.config(row), self.parent
        name = members.member_id(parent.run_id, row["number"])
        was = read_config(config, f"member {name}: its configuration")
        tags = {
            "nnexp.run_key": row["run_key"].hex(),
            "nnexp.sweep_id": parent.run_id,
            "nnexp.engine": parent.tags.get("nnexp.engine", ""),
            "nnexp.data_sha256": row["data_sha256"],
        }
        if row["status"] == "FINISHED":
            tags |= {"nnexp.outcome": row["outcome"], "nnexp.weights_sha256": row["weights_sha256"].hex()}
        if row["reason"]:
            tags["nnexp.reason"] = row["reason"]
        if row["attempt"] > 1:
            tags["nnexp.attempt"] = str(row["attempt"])
        values = {c.removeprefix(METRIC): v for c, v in row.items() if c.startswith(METRIC) and v is not None}
        params = was.config.params()
        started, ended = (int(notes.get(note, b"0")) for note in (b"nnexp.started", b"nnexp.ended"))
        return Member(
            name,
            str(names(parent, params)),
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


def names(parent: Detail, texts: Mapping[str, Any]) -> Any:
    """Join the texts of params to names, each text either one for all members or a column."""
    import pyarrow.compute as pc

    first = {"dataset": "", "learning_rate": "lr=", "init": "init=", "seed": "seed="}
    also = [key for key in key_names() if key in parent.params and key in texts and key not in first]
    shown = dict(texts)
    if shown["dataset"] == "csv" and isinstance(shown["dataset.path"], str):
        shown["dataset"] = Path(shown["dataset.path"]).stem.strip("<>")
    if isinstance(shown["learning_rate"], str):
        shown["learning_rate"] = f"{float(shown['learning_rate']):g}"
    parts = [
        pc.binary_join_element_wise(prefix, shown[key], "")
        for key, prefix in (first | {k: f"{k}=" for k in also if not k.startswith("dataset.")}).items()
    ]
    joined = pc.binary_join_element_wise(*parts, " ", null_handling="skip")
    return pc.utf8_slice_codeunits(joined, 0, MAX_NAME)
