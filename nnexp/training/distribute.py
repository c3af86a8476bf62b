"""Train the points of a sweep in this process, or distribute them among workers.

Results are yielded as they come; a shard whose worker dies is trained again."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures import Executor as Pool
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from nnexp.config.request import Executor
from nnexp.config.run import RunConfig
from nnexp.dataset.load import Dataset
from nnexp.network.engine.cuda.device import Device
from nnexp.training.devices import cuda
from nnexp.training.plan import Point
from nnexp.training.pools import Opened, is_loss, pools
from nnexp.training.shard import Trained
from nnexp.training.train import Failure, train

# The runs of a shard: enough to be worth sending, few enough to give every worker several shards.
SHARD_RUNS, SHARDS_A_WORKER = 256, 4
# How often a shard that runs alone may lose its worker before it is halved or, if it is one run, fails.
ALLOWED_LOSSES = 2
POLL_SECONDS = 0.2

Item = TypeVar("Item")
# Yields, several times a second, the epochs trained so far and the runs that ended.
Training = Generator[tuple[int, list[Item]], None, None]
EndedPoint = tuple[Point, Trained | Failure]


class Task(Protocol[Item]):
    """Runs that one worker trains together; `Item` is what is told of each that has ended."""

    @property
    def epochs(self) -> int:
        """The epochs of all its runs."""

    def __len__(self) -> int:
        """Return the number of runs."""

    def submit(self, pool: Pool, on_cuda: bool) -> Future[Any]:
        """Give the task to a worker, which trains on its CUDA device or on its CPU."""

    def results(self, answer: Any) -> list[Item]:
        """Return the worker's answer."""

    def failed(self, failure: Failure) -> list[Item]:
        """Return that all its runs have failed."""

    def halves(self) -> list[Task[Item]]:
        """Return two tasks with half of the runs each."""


@dataclass(frozen=True)
class PointsTask:
    """Points of one data set."""

    points: list[Point]

    @property
    def epochs(self) -> int:
        return sum(point.config.epochs for point in self.points)

    def __len__(self) -> int:
        return len(self.points)

    def submit(self, pool: Pool, on_cuda: bool) -> Future[Any]:
        configs = [point.config for point in self.points]
        return pool.submit(train_shard, self.points[0].dataset.light(), configs, on_cuda)

    def results(self, answer: list[Trained | Failure]) -> list[EndedPoint]:
        return list(zip(self.points, answer, strict=True))

    def failed(self, failure: Failure) -> list[EndedPoint]:
        return [(point, failure) for point in self.points]

    def halves(self) -> list[Task[EndedPoint]]:
        half = len(self.points) // 2
        return [PointsTask(self.points[:half]), PointsTask(self.points[half:])]


def execute(
    points: Sequence[Point], executor: Executor, device: Device | None = None
) -> Training[EndedPoint]:
    """Return a generator that trains the points; close it to stop early. None is the CPU.

    Raises RequestError at once if the executor is unavailable, and Lost if it is lost during the work.
    """
    groups: dict[Dataset, list[Point]] = {}
    for point in points:
        groups.setdefault(point.dataset, []).append(point)
    if executor.name == "inline" or not points:
        return _execute_here(groups, device)
    opened, workers = pools(executor)
    return Distributed(opened, workers, iter(_shards(groups, workers)), device is not None).run()


def _execute_here(groups: Mapping[Dataset, list[Point]], device: Device | None) -> Training[EndedPoint]:
    before = 0
    for dataset, members in groups.items():
        for progress in train(dataset, [point.config for point in members], device):
            yield before + progress.epochs_done, [(members[i], result) for i, result in progress.ended]
        before += sum(point.config.epochs for point in members)


def _shards(groups: Mapping[Dataset, list[Point]], workers: int) -> list[PointsTask]:
    """Cut the points into shards for one worker each; points that can train as one batch stay together."""
    total = sum(map(len, groups.values()))
    size = min(SHARD_RUNS, max(32, -(-total // (workers * SHARDS_A_WORKER))))
    shards = []
    for members in groups.values():
        members = sorted(members, key=lambda p: (p.config.hidden, p.config.optimizer.name, p.config.epochs))
        shards += [PointsTask(members[i : i + size]) for i in range(0, len(members), size)]
    return shards


def train_shard(dataset: Dataset, configs: list[RunConfig], on_cuda: bool) -> list[Trained | Failure]:
    """Train in a worker, on_cuda or on its CPU; return the result of each configuration, in their order."""
    results: dict[int, Trained | Failure] = {}
    for progress in train(dataset, configs, cuda() if on_cuda else None):
        results.update(progress.ended)
    return [results[i] for i in range(len(configs))]


class Distributed(Generic[Item]):
    """Train tasks on a `concurrent.futures` executor; train a task again if its worker dies.

    If several tasks were running when the pool broke, it is not known which one broke it, so each of them is
    then trained alone. A task that breaks the pool twice while alone is halved; a single run is a failure.
    The tasks are taken from `tasks` when workers are free.
    """

    def __init__(
        self,
        opened: Opened,
        workers: int,
        tasks: Iterator[Task[Item]],
        on_cuda: bool,
    ) -> None:
        self._opened, self._workers, self._tasks = opened, workers, tasks
        self._on_cuda = on_cuda
        # Tasks, and how often each has lost its worker while it ran alone.
        self._waiting: deque[tuple[Task[Item], int]] = deque()
        self._suspects: deque[tuple[Task[Item], int]] = deque()
        self._done = 0

    def run(self) -> Training[Item]:
        while self._is_any_waiting() or self._suspects:
            with self._opened() as (pool, check):
                yield from self._run_until_broken(pool, check)

    def _is_any_waiting(self) -> bool:
        """Return whether a task waits, after taking the next one if none did."""
        if not self._waiting:
            self._waiting.extend((task, 0) for task in islice(self._tasks, 1))
        return bool(self._waiting)

    def _run_until_broken(self, pool: Pool, check: Callable[[], None]) -> Training[Item]:
        running: dict[Future[Any], tuple[Task[Item], int]] = {}
        is_whole = True
        while running or (is_whole and (self._is_any_waiting() or self._suspects)):
            if self._suspects and not running:
                is_whole = _submit(pool, self._suspects, running, self._on_cuda)
            # Two for each worker, so that none waits for its next; suspects run alone.
            while (
                is_whole
                and not self._suspects
                and len(running) < 2 * self._workers
                and self._is_any_waiting()
            ):
                is_whole = _submit(pool, self._waiting, running, self._on_cuda)
            finished, _ = wait(running, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
            ended: list[Item] = []
            lost = []
            for future in finished:
                task, losses = running.pop(future)
                error = CancelledError() if future.cancelled() else future.exception()
                if error is not None and is_loss(error):
                    lost.append((task, losses))
                    continue
                ended += task.results(future.result()) if error is None else task.failed(Failure.of(error))
                self._done += task.epochs
            if lost:
                lost += running.values()
                ended += self._suspect(lost)
            yield self._done, ended
            if lost:
                return
            check()

    def _suspect(self, lost: list[tuple[Task[Item], int]]) -> list[Item]:
        """Set tasks that lost their worker aside, to be tried alone; return those that failed even alone."""
        if len(lost) > 1:
            self._suspects.extend(lost)
            return []
        ((task, losses),) = lost
        if losses + 1 < ALLOWED_LOSSES:
            self._suspects.append((task, losses + 1))
        elif len(task) > 1:
            self._suspects.extend((half, losses) for half in task.halves())
        else:
            reason = "WorkerLost: the process that trained this run died, and again when it ran alone"
            self._done += task.epochs
            return task.failed(Failure(reason, reason))
        return []


def _submit(
    pool: Pool,
    tasks: deque[tuple[Task[Item], int]],
    running: dict[Future[Any], tuple[Task[Item], int]],
    on_cuda: bool,
) -> bool:
    """Submit the first task. Return False if the pool is broken and did not take it."""
    task, _ = tasks[0]
    # A worker started here ignores Ctrl-C from its first instant on; its parent handles it.
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        future = task.submit(pool, on_cuda)
    except Exception as error:
        if is_loss(error):
            return False
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
    running[future] = tasks.popleft()
    return True
