"""Define what is read from a store: the types of its rows, and the interface of a reader.

There are two readers, chosen for a store like its writer: rows.py reads a database whose tables nnexp knows,
client.py any other store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from nnexp.config.errors import RequestError
from nnexp.config.text import printable, shortened

if TYPE_CHECKING:
    from nnexp.tracking.experiments import Experiment

# How many runs a server sends at a time.
PAGE = 1000
# Milliseconds until the year 2255; pandas' own time ends soon after.
MAX_TIME = 9_000_000_000_000

# What a verb takes: a trained network, a sweep, or either.
Kind = Literal["run", "sweep", "any"]
# The recorded points of each metric: (completed epochs, value), in the order of the epochs.
Curves = Mapping[str, list[tuple[int, float]]]

# A run's name, status, artifact_uri and experiment_id; its params, last metrics and tags.
Parts = tuple[Sequence[Any], Iterable[Any], Iterable[Any], Iterable[Any]]


class ExperimentRow(NamedTuple):
    """An experiment as the store records it."""

    experiment_id: str
    name: str
    lifecycle_stage: str
    artifact_location: str


@dataclass(frozen=True)
class Found:
    """The id, the status and some of the tags of a recorded run."""

    run_id: str
    status: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Detail:
    """The record of one run, without its curves and artifacts."""

    run_id: str
    name: str
    status: str
    artifact_uri: str
    experiment_id: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """A sweep or a single run in a list.

    Its start is in milliseconds since 1970; `best` is the last loss of the run, or of a sweep's best run.
    Values that the record does not have are None.
    """

    run_id: str
    name: str
    status: str
    start_time: int | None
    experiment: str
    is_sweep: bool
    best: float | None


@dataclass(frozen=True)
class Row:
    """A run of nnexp: a trained network or a sweep. Those that were deleted in MLflow are not active."""

    run_id: str
    status: str
    is_active: bool
    experiment_id: str
    artifact_uri: str
    tags: Mapping[str, str]

    def detail(self) -> Detail:
        """Return the run as a Detail, for reading its artifacts."""
        return Detail(self.run_id, "", self.status, self.artifact_uri, self.experiment_id, {}, {}, self.tags)


@dataclass(frozen=True)
class Network:
    """A recorded run without its curves; times in milliseconds."""

    run_id: str
    name: str
    status: str
    start_time: int
    end_time: int | None
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]

    def checked(self) -> Network:
        """Return the run, its texts escaped for printing. Raises RequestError for values of wrong types."""
        texts = [self.name, self.status, *self.tags.values(), *self.params.values()]
        times = [self.start_time, self.start_time if self.end_time is None else self.end_time]
        if not (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(value, int | float) for value in self.metrics.values())
            and all(isinstance(time, int) and 0 <= time < MAX_TIME for time in times)
        ):
            raise RequestError(f"run {shortened(self.run_id)}: its record holds values of the wrong type")
        if all(map(str.isprintable, [*texts, *self.params, *self.metrics])):
            return self
        return Network(
            self.run_id,
            printable(self.name),
            printable(self.status),
            self.start_time,
            self.end_time,
            {printable(key): printable(value) for key, value in self.params.items()},
            {key: printable(value) for key, value in self.tags.items()},
            {printable(key): value for key, value in self.metrics.items()},
        )


class Reader(Protocol):
    """The interface of a store's reader. What was deleted in MLflow is left out, unless stated otherwise."""

    def experiment(self, id: str) -> ExperimentRow:
        """Return the experiment with this id, deleted or not."""

    def experiment_named(self, name: str) -> ExperimentRow | None:
        """Return the experiment of this name, deleted or not; None if there is none."""

    def experiments(self) -> list[ExperimentRow]:
        """Return all experiments; from a database also the deleted ones."""

    def runs_with(self, experiment: Experiment, tag: str, others: Sequence[str]) -> list[Found]:
        """Return the experiment's runs that have this tag, oldest first, with it and those of `others`."""

    def parts(self, run_id: str) -> Parts | None:
        """Return a run, with values of whatever types the store holds; None if there is none with this id."""

    def curve(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Return a run's metric as (completed epochs, value).

        Raises RequestError if a value is not a number.
        """

    def networks(self, experiment: Experiment, tag_names: Sequence[str]) -> list[Network]:
        """Return the trained networks of the experiment, with these tags, and maybe others."""

    def points(
        self, run_ids: Sequence[str], metrics: Sequence[str], epochs: Sequence[int] | None
    ) -> list[tuple[Any, ...]]:
        """Return (run id, metric, epoch, value) of these runs; from a database, only those at `epochs`."""

    def evidence(self, run_ids: Sequence[str]) -> tuple[dict[str, Detail], dict[str, Curves]]:
        """Return the records of these runs, by id, and their curves, without their artifacts."""

    def times(self, run_ids: Sequence[str]) -> dict[str, tuple[int, int | None]]:
        """Return when these runs began and ended, in milliseconds since 1970."""

    def heads(
        self, runs: Sequence[Found], tags: Sequence[str]
    ) -> Iterable[tuple[str, str | None, Mapping[str, str]]]:
        """Return each run's id, the location of its artifacts, and those of these tags that it has.

        The location is None if reading it would take too long.
        """

    def entries(self, kind: Kind, most: int, experiment: Experiment | None) -> Iterator[Entry]:
        """Yield the sweeps and single runs, the newest first."""

    def beginning(self, typed: str) -> dict[str, bool]:
        """Return the ids that begin with what was typed, and whether each is a sweep's."""

    def all_runs(self, experiments: Sequence[Experiment], tags: Sequence[str]) -> list[Row]:
        """Return every run of nnexp, oldest first, with these tags, and maybe others.

        From a database also the deleted ones.
        """


# --- Checks of types, since a database holds whatever was put there.


def detail_of(run_id: str, parts: Parts) -> Detail:
    """Return a run, its texts escaped for printing. Raises RequestError for values of wrong types."""
    head, params, metrics, tags = parts
    name, status, artifact_uri, experiment_id = (text_of(run_id, text) for text in head)
    return Detail(
        run_id,
        name,
        status,
        artifact_uri,
        experiment_id,
        {text_of(run_id, key): text_of(run_id, value) for key, value in params},
        {text_of(run_id, key): number_of(run_id, value) for key, value in metrics},
        {text_of(run_id, key): text_of(run_id, value) for key, value in tags},
    )


def text_of(run_id: str, value: object) -> str:
    """Return a text of the record, escaped for printing. Raises RequestError if it is not text."""
    if not isinstance(value, str):
        raise RequestError(f"run {run_id}: its record holds {shortened(repr(value))} where a text belongs")
    return value if value.isprintable() else printable(value)


def number_of(run_id: str, value: object) -> float:
    if not isinstance(value, int | float):
        raise RequestError(f"run {run_id}: its record holds {shortened(repr(value))} where a number belongs")
    return value


def whole_of(run_id: str, value: object) -> int:
    if not isinstance(value, int):
        raise RequestError(f"run {run_id}: its record holds {shortened(repr(value))} where a step belongs")
    return value
