"""What is read of a store: the shapes of its rows, and what a reader of it promises.

There are two readers, one chosen for a store as its writer is: rows.py reads a database whose tables nnexp
knows, client.py any other store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from nnexp.config.errors import RequestError
from nnexp.config.text import printable, shortened

if TYPE_CHECKING:
    from nnexp.tracking.experiments import Experiment

# Runs a server sends at a time.
PAGE = 1000
# Milliseconds until the year 2255; pandas' own time ends soon after.
MAX_TIME = 9_000_000_000_000

# What a verb takes: a trained network, a sweep, or either.
Kind = Literal["run", "sweep", "any"]
# By metric, its recorded points: completed epochs and values, in the order of the epochs.
Curves = Mapping[str, list[tuple[int, float]]]

# A run's name, status, artifact_uri and experiment_id; its params, last metrics and tags.
Parts = tuple[Sequence[Any], Iterable[Any], Iterable[Any], Iterable[Any]]


class ExperimentRow(NamedTuple):
    """An experiment as the store has it."""

    experiment_id: str
    name: str
    lifecycle_stage: str
    artifact_location: str


@dataclass(frozen=True)
class Found:
    """A recorded run in short: its id, its status and some of its tags."""

    run_id: str
    status: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Detail:
    """All of one recorded run but its curves and artifacts."""

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
    """A sweep, or a run that is no sweep's, in a list. Its start is in milliseconds since 1970; `best` is the
    loss that a run ended with, or that of a sweep's best run. None is what the record does not have."""

    run_id: str
    name: str
    status: str
    start_time: int | None
    experiment: str
    is_sweep: bool
    best: float | None


@dataclass(frozen=True)
class Row:
    """A run of ours: a trained network or a sweep. Those that were deleted in MLflow are not active."""

    run_id: str
    status: str
    is_active: bool
    experiment_id: str
    artifact_uri: str
    tags: Mapping[str, str]

    def detail(self) -> Detail:
        """The run as those who read its artifacts take it."""
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
        """The run, its texts fit to be printed. Raises RequestError for values of other types than these."""
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
    """Reads a store: what was deleted in MLflow is not there, unless said otherwise."""

    def experiment(self, id: str) -> ExperimentRow:
        """The experiment of this id, deleted or not."""

    def experiment_named(self, name: str) -> ExperimentRow | None:
        """The experiment of this name, deleted or not; None where there is none."""

    def experiments(self) -> list[ExperimentRow]:
        """All experiments; of a database those too that were deleted."""

    def runs_with(self, experiment: Experiment, tag: str, others: Sequence[str]) -> list[Found]:
        """The runs of the experiment that have this tag, oldest first, with it and those of `others`."""

    def parts(self, run_id: str) -> Parts | None:
        """A run, of whatever types the store holds; None where there is none by this id."""

    def curve(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """A metric of one run over completed epochs. Raises RequestError where there is other than
        numbers."""

    def networks(self, experiment: Experiment, tag_names: Sequence[str]) -> list[Network]:
        """The trained networks of the experiment, with these tags, and maybe others."""

    def points(
        self, run_ids: Sequence[str], metrics: Sequence[str], epochs: Sequence[int] | None
    ) -> list[tuple[Any, ...]]:
        """(run id, metric, epoch, value) of these runs; of a database, only those at these epochs."""

    def evidence(self, run_ids: Sequence[str]) -> tuple[dict[str, Detail], dict[str, Curves]]:
        """All that is recorded of these runs but their artifacts."""

    def times(self, run_ids: Sequence[str]) -> dict[str, tuple[int, int | None]]:
        """When these runs began and ended, in milliseconds since 1970."""

    def heads(
        self, runs: Sequence[Found], tags: Sequence[str]
    ) -> Iterable[tuple[str, str | None, Mapping[str, str]]]:
        """Of each run its id, where its artifacts lie (None: to look would take too long), and those of
        these tags that it has."""

    def entries(self, kind: Kind, most: int, experiment: Experiment | None) -> Iterator[Entry]:
        """The newest sweeps and runs that are no sweep's, the newest first."""

    def beginning(self, typed: str) -> dict[str, bool]:
        """The ids that begin so, and whether each is a sweep's."""

    def all_runs(self, experiments: Sequence[Experiment], tags: Sequence[str]) -> list[Row]:
        """Every run of ours, oldest first, with these tags, and maybe others; of a database those too that
        were deleted."""


# --- What a database holds is of whatever type was put there.


def detail_of(run_id: str, parts: Parts) -> Detail:
    """A run, its texts fit to be printed. Raises RequestError."""
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
    """A text of the record, fit to be printed. Raises RequestError."""
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
