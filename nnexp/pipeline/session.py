"""The work of one command in a store: where it records, what is there, and how a run that goes on ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from nnexp.config.run import RunConfig
from nnexp.network import engine
from nnexp.pipeline.artifacts import numbered
from nnexp.pipeline.progress import Terminated, interruptible, raise_if_interrupted, say, uninterrupted
from nnexp.tracking.find import Found, find_runs
from nnexp.tracking.owner import HEARTBEAT, OWNER
from nnexp.tracking.runs import RunRecord, Writer, identity
from nnexp.tracking.store import Experiment, Store, StoreLost, ensure_experiment, open_store, told_if_lost
from nnexp.tracking.write import end_dead, open_writer, settled
from nnexp.training.plan import Point
from nnexp.training.train import Failure


@dataclass(frozen=True)
class Place:
    """Where the runs of one command are recorded, and what is there already."""

    store: Store
    experiment: Experiment
    writer: Writer
    runs: list[Found]
    parents: list[Found]

    def recorded(self) -> dict[str, tuple[set[str], int]]:
        """By key: the statuses of its runs and its last attempt."""
        by_key: dict[str, tuple[set[str], int]] = {}
        for run in self.runs:
            key, attempt = identity(run.tags)
            statuses, last = by_key.get(key, (set(), 1))
            by_key[key] = {*statuses, run.status}, max(last, attempt)
        return by_key

    def renamed(self, points: Sequence[Point]) -> list[Point]:
        """The points, those that are recorded already under names that say how often, `… #2`."""
        times = Counter(run.tags["nnexp.run_key"] for run in self.runs)
        return [replace(point, name=numbered(point.name, times[point.key] + 1)) for point in points]


@contextmanager
def opened(config: RunConfig) -> Iterator[Place]:
    """The store and the experiment of a command. Runs whose process died are set to KILLED."""
    store = open_store(config.tracking_uri)
    with told_if_lost(store):
        experiment = ensure_experiment(store, config.experiment_name)
        with open_writer(store, experiment) as writer:
            runs, parents = _found(store, experiment)
            runs = settled(writer, runs)
            if end_dead(store, writer, [*runs, *parents]):
                runs, parents = _found(store, experiment)
            yield Place(store, experiment, writer, runs, parents)


def _found(store: Store, experiment: Experiment) -> tuple[list[Found], list[Found]]:
    """The networks and the sweeps that are recorded."""
    ours = [OWNER, HEARTBEAT, "nnexp.sweep_id", "nnexp.attempt", "nnexp.reason"]
    runs = find_runs(store, experiment, "nnexp.run_key", ours)
    return runs, find_runs(store, experiment, "nnexp.sweep", [*ours, "nnexp.sweep_key", "nnexp.outcome"])


class TrainingError(Exception):
    """Training raised; carries what."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def tell_of_compiling() -> None:
    if not engine.is_ready():
        say("compiling the engine, once for this machine: some ten seconds")


@contextmanager
def going_on(place: Place, record: RunRecord) -> Iterator[str]:
    """A run that goes on. Whatever stops the work is recorded on it before it goes on its way: FAILED or
    KILLED, and why; its end in good order is the caller's to record. Where the store is lost, the next
    command finds that this process is dead."""
    writer = place.writer
    with uninterrupted():
        run_id = writer.start(replace(record, status="RUNNING"))
    try:
        with interruptible(), told_if_lost(place.store):
            raise_if_interrupted()
            yield run_id
    except StoreLost:
        raise
    except BaseException as error:
        is_killed = isinstance(error, KeyboardInterrupt | Terminated)
        failure = error.failure if isinstance(error, TrainingError) else Failure.of(error)
        files = {} if is_killed else {"traceback.txt": failure.traceback.encode()}
        reason = _signal(error) if is_killed else failure.reason
        with uninterrupted():
            writer.finish(run_id, "KILLED" if is_killed else "FAILED", files, {"nnexp.reason": reason})
        raise


def _signal(error: BaseException) -> str:
    return "interrupted (Ctrl-C)" if isinstance(error, KeyboardInterrupt) else "terminated (SIGTERM)"
