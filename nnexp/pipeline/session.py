"""Open the store for one command and manage its running run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np

from nnexp.config.errors import Lost
from nnexp.config.run import RunConfig
from nnexp.network import engine
from nnexp.pipeline.identity import numbered
from nnexp.pipeline.signals import Terminated, interruptible, raise_if_interrupted, uninterrupted
from nnexp.tracking.experiments import ensure_experiment
from nnexp.tracking.find import find_runs, get_sweep
from nnexp.tracking.labels import NAME
from nnexp.tracking.members import RECORD, TABLE
from nnexp.tracking.owner import HEARTBEAT, OWNER
from nnexp.tracking.reader import Detail, Experiment, Found
from nnexp.tracking.runs import Ended, RunRecord, Writer, identity
from nnexp.tracking.searches import SEARCH_KEY
from nnexp.tracking.store import Store, StoreLost, open_store, told_if_lost
from nnexp.tracking.whole import missing, tell
from nnexp.tracking.write import end_dead, open_writer, settled
from nnexp.training.plan import Point
from nnexp.training.train import Failure

log = logging.getLogger("nnexp")


@dataclass(frozen=True)
class Place:
    """The store and experiment that one command records in, and the runs and sweeps already there."""

    store: Store
    experiment: Experiment
    writer: Writer
    runs: list[Found]
    parents: list[Found]

    def recorded(self, in_tables: Collection[str] = ()) -> dict[str, tuple[set[str], int]]:
        """Return, by run key, the statuses of its runs and the number of its last attempt.

        Of the keys `in_tables` the members of populations count, too.
        """
        by_key: dict[str, tuple[set[str], int]] = {}
        for run in self.runs:
            key, attempt = identity(run.tags)
            statuses, last = by_key.get(key, (set(), 1))
            by_key[key] = {*statuses, run.status}, max(last, attempt)
        for key in _in_tables(self.store, self.parents, in_tables):
            statuses, last = by_key.get(key, (set(), 1))
            by_key[key] = {*statuses, "FINISHED"}, last
        return by_key

    def find_member(self, key: str) -> str | None:
        """Return the name of a finished member of a population that has this run key; None if none has."""
        found = _populations(self.store, self.parents)
        if not found:
            return None
        from nnexp.tracking.index import find_member  # imports pyarrow

        return find_member(self.store, found, key)

    def renamed(self, points: Sequence[Point]) -> list[Point]:
        """Return the points; the name of a point that is recorded already ends in a number, `… #2`."""
        times = Counter(run.tags["nnexp.run_key"] for run in self.runs)
        return [replace(point, name=numbered(point.name, times[point.key] + 1)) for point in points]


@contextmanager
def opened(config: RunConfig, keys: Collection[str] | None) -> Iterator[Place]:
    """Open the store and the experiment for a command that asks for runs of these keys, or of any.

    Sets runs whose process has died to KILLED. A finished run whose record is incomplete has the status LOST
    here, and may be recorded again.
    """
    store = open_store(config.tracking_uri)
    with told_if_lost(store):
        experiment = ensure_experiment(store, config.experiment_name)
        with open_writer(store, experiment) as writer:
            runs, parents = _found(store, experiment)
            runs = settled(writer, runs)
            if end_dead(store, writer, [*runs, *parents]):
                runs, parents = _found(store, experiment)
            wanted = None if keys is None else frozenset(keys)
            done = [
                run
                for run in runs
                if run.status == "FINISHED" and (wanted is None or run.tags["nnexp.run_key"] in wanted)
            ]
            lacking = missing(store, done)
            tell(lacking, "it does not count as recorded")
            lost = lacking | missing(store, [run for run in parents if run.status in ("FINISHED", "FAILED")])
            writer.disregard({run.run_id: run.tags["nnexp.run_key"] for run in runs if run.run_id in lost})
            runs, parents = (
                [replace(run, status="LOST") if run.run_id in lost else run for run in some]
                for some in (runs, parents)
            )
            place = Place(store, experiment, writer, runs, parents)
            del keys, wanted, runs, parents, done  # which may take much memory
            yield place


def _in_tables(store: Store, parents: Sequence[Found], keys: Collection[str]) -> list[str]:
    """Return those of the run keys that finished members of populations have."""
    found = _populations(store, parents)
    if not found or not keys:
        return []
    from nnexp.tracking.index import Index

    asked = sorted(keys)
    digests = np.frombuffer(bytes.fromhex("".join(asked)), np.uint8).reshape(-1, 32)
    at = Index(store, found).find(digests)
    return [asked[i] for i in np.flatnonzero(at >= 0).tolist()]


def _populations(store: Store, parents: Sequence[Found]) -> list[Detail]:
    """Return those of the sweeps that are populations."""
    found = [get_sweep(store, parent.run_id) for parent in parents if parent.tags.get(RECORD) == TABLE]
    return [parent for parent in found if parent is not None]


def _found(store: Store, experiment: Experiment) -> tuple[list[Found], list[Found]]:
    """Find the runs and the sweeps recorded in the experiment."""
    ours = [OWNER, HEARTBEAT, "nnexp.sweep_id", "nnexp.attempt", "nnexp.reason"]
    runs = find_runs(store, experiment, "nnexp.run_key", ours)
    keys = ["nnexp.sweep_key", SEARCH_KEY, "nnexp.outcome", RECORD]
    return runs, find_runs(store, experiment, "nnexp.sweep", [*ours, *keys])


class TrainingError(Exception):
    """Wrap the failure that ended training."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def tell_of_compiling() -> None:
    """Log that the engine is compiled first, if it has to be."""
    if not engine.is_ready():
        log.info("compiling the engine, once on this machine: about twenty seconds")


@contextmanager
def going_on(place: Place, record: RunRecord, old: str | None = None) -> Iterator[str]:
    """Start a RUNNING run and yield its id; on an exception mark it FAILED or KILLED and re-raise.

    With `old`, the run of that id goes on instead, under the record's name and with its tags. The reason is
    recorded too. The caller records a normal end. If the store itself is lost, nothing can be marked: the
    next command finds that this process has died.
    """
    writer = place.writer
    with uninterrupted():
        if old is None:
            run_id = writer.start(replace(record, status="RUNNING"))
        else:
            run_id = old
            writer.resume(old)
            writer.add(old, {}, {**record.tags, NAME: record.title})
    try:
        with interruptible(), told_if_lost(place.store):
            raise_if_interrupted()
            yield run_id
    except (StoreLost, Ended):
        raise
    except BaseException as error:
        is_killed = isinstance(error, KeyboardInterrupt | Terminated)
        failure = error.failure if isinstance(error, TrainingError) else Failure.of(error)
        files = {} if is_killed else {"traceback.txt": failure.traceback.encode()}
        reason = failure.reason
        if is_killed:
            is_typed = isinstance(error, KeyboardInterrupt)
            reason = "interrupted (Ctrl-C)" if is_typed else "terminated (SIGTERM)"
        with uninterrupted(), suppress(Ended):
            writer.finish(run_id, "KILLED" if is_killed else "FAILED", files, {"nnexp.reason": reason})
        raise


@contextmanager
def what_is_left() -> Iterator[None]:
    """On any error but Lost, log that the same command resumes the sweep."""
    try:
        yield
    except Lost:
        raise
    except BaseException:
        log.info("what is recorded is kept; the same command finishes the rest")
        raise
