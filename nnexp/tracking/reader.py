"""Define what is read from a store: the types of its rows, and the interface of a reader.

There are two readers, chosen for a store like its writer: rows.py reads a database whose tables nnexp knows,
client.py any other store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self

from nnexp.config.errors import RequestError
from nnexp.config.text import printable, shortened

# How many runs a server sends at a time.
PAGE = 1000
# Milliseconds until the year 2255; pandas' own time ends soon after.
MAX_TIME = 9_000_000_000_000

# What a verb takes: a trained network, a sweep, or either.
Kind = Literal["run", "sweep", "any"]
# The recorded points of each metric: (completed epochs, value), in the order of the epochs.
Curves = Mapping[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Experiment:
    """An experiment of MLflow, in which runs are recorded."""

    id: str
    name: str
    artifact_location: str
    is_deleted: bool = False


@dataclass(frozen=True)
class Found:
    """The id, the status and some of the tags of a recorded run."""

    run_id: str
    status: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Detail:
    """The record of one run, without its curves and artifacts; times in milliseconds since 1970."""

    run_id: str
    name: str
    status: str
    artifact_uri: str
    experiment_id: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    start_time: int = 0
    end_time: int | None = None
    is_active: bool = True  # not deleted in MLflow

    def checked(self) -> Self:
        """Return the run, its texts escaped for printing.

        Raises RequestError for values of wrong types, since a database holds whatever was put there.
        """
        texts = [self.name, self.status, self.artifact_uri, self.experiment_id, *self.metrics]
        for some in (self.params, self.tags):
            texts += [*some.keys(), *some.values()]
        if odd := [text for text in texts if not isinstance(text, str)]:
            raise wrong_value(self.run_id, odd[0], "a text")
        if wrong := [value for value in self.metrics.values() if not isinstance(value, int | float)]:
            raise wrong_value(self.run_id, wrong[0], "a number")
        if all(map(str.isprintable, texts)):
            return self
        return replace(
            self,
            name=printable(self.name),
            status=printable(self.status),
            artifact_uri=printable(self.artifact_uri),
            experiment_id=printable(self.experiment_id),
            params={printable(key): printable(value) for key, value in self.params.items()},
            metrics={printable(key): value for key, value in self.metrics.items()},
            tags={printable(key): printable(value) for key, value in self.tags.items()},
        )


def wrong_value(run_id: str, value: object, belongs: str) -> RequestError:
    """Return the error for a value of a wrong type in a run's record."""
    return RequestError(f"run {run_id}: its record holds {shortened(repr(value))} where {belongs} belongs")


@dataclass(frozen=True)
class Entry:
    """A sweep or a single run in a list.

    Its start is in milliseconds since 1970; `best` is the last value of `metric` of the run, or of a sweep's
    best run: `val_loss` where it is recorded, which decides what is best there, else `loss`. Values that the
    record does not have are None.
    """

    run_id: str
    name: str
    status: str
    start_time: int | None
    experiment: str
    is_sweep: bool
    metric: str
    best: float | None


# The metrics that can decide what is best, the first of them that is recorded.
DECIDING = ("val_loss", "loss")


def deciding(values: Mapping[str, float | None]) -> tuple[str, float | None]:
    """Return the metric that decides, of those recorded, and its value."""
    found = [(metric, values[metric]) for metric in DECIDING if values.get(metric) is not None]
    return found[0] if found else ("loss", None)


class Reader(Protocol):
    """The interface of a store's reader. What was deleted in MLflow is left out, unless stated otherwise.

    Values have whatever types the store holds, except those of curves, which are checked.
    """

    def experiment(self, id: str) -> Experiment:
        """Return the experiment with this id, deleted or not."""

    def experiment_named(self, name: str) -> Experiment | None:
        """Return the experiment of this name, deleted or not; None if there is none."""

    def experiments(self) -> list[Experiment]:
        """Return all experiments; from a database also the deleted ones."""

    def runs_with(self, experiment: Experiment, tag: str, others: Sequence[str] = ()) -> list[Found]:
        """Return the experiment's runs that have this tag, oldest first, with it and those of `others`."""

    def details(self, run_ids: Sequence[str]) -> dict[str, Detail]:
        """Return the records of these runs, by id; an unknown id is left out."""

    def networks(self, experiment: Experiment, tag_names: Sequence[str]) -> Iterator[list[Detail]]:
        """Yield the trained networks of the experiment, some at a time, with these tags, and maybe others."""

    def curves(self, run_ids: Sequence[str], metrics: Sequence[str] | None = None) -> dict[str, Curves]:
        """Return the curves of these runs, by id: of these metrics, or of all.

        Raises RequestError if a value is not a number.
        """

    def points(
        self, run_ids: Sequence[str], metrics: Sequence[str], epochs: Sequence[int] | None
    ) -> Iterable[tuple[Any, ...]]:
        """Yield (run id, metric, epoch, value) of these runs; from a database, only those at `epochs`."""

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

    def all_runs(self, experiments: Sequence[Experiment], tags: Sequence[str]) -> list[Detail]:
        """Return every run of nnexp, oldest first, with these tags, and maybe others.

        From a database also the deleted ones. Names, params and metrics are left out.
        """
