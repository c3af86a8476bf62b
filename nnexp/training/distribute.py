"""Train the points of a sweep in this process, or distribute them among workers.

Results are yielded as they come; a shard whose worker dies is trained again."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures import Executor as Pool
from contextlib import AbstractContextManager

from nnexp.config.request import Executor
from nnexp.config.run import RunConfig
from nnexp.dataset.load import Dataset
from nnexp.network.engine.cuda.device import Device
from nnexp.training.devices import cuda
from nnexp.training.plan import Point
from nnexp.training.pools import Workers, is_loss, pools
from nnexp.training.shard import Trained
from nnexp.training.train import Failure, train

# The runs of a shard: enough to be worth sending, few enough to give every worker several shards.
SHARD_RUNS, SHARDS_A_WORKER = 256, 4
# How often a shard that runs alone may lose its worker before it is halved or, if it is one run, fails.
ALLOWED_LOSSES = 2
POLL_SECONDS = 0.2


Ended = list[tuple[Point, Trained | Failure]]
# Yields, several times a second, the epochs trained so far and the runs that ended.
Training = Generator[tuple[int, Ended], None, None]


def execute(points: Sequence[Point], executor: Executor, device: Device | None = None) -> Training:
    """Return a generator that trains the points; close it to stop early. None is the CPU.

    Raises RequestError at once if the executor is unavailable, and Lost if it is lost during the work.
    """
    groups: dict[Dataset, list[Point]] = {}
    for point in points:
        groups.setdefault(point.dataset, []).append(point)
    if executor.name == "inline" or not points:
        return _execute_here(groups, device)
    opened, workers = pools(executor)
    return _Distributed(opened, workers, _shards(groups, workers), device is not None).run()


def _execute_here(groups: Mapping[Dataset, list[Point]], device: Device | None) -> Training:
    before = 0
    for dataset, members in groups.items():
        for progress in train(dataset, [point.config for point in members], device):
            yield before + progress.epochs_done, [(members[i], result) for i, result in progress.ended]
        before += sum(point.config.epochs for point in members)


def _shards(groups: Mapping[Dataset, list[Point]], workers: int) -> list[list[Point]]:
    """Cut the points into shards for one worker each; points that can train as one batch stay together."""
    total = sum(map(len, groups.values()))
    size = min(SHARD_RUNS, max(32, -(-total // (workers * SHARDS_A_WORKER))))
    shards = []
    for members in groups.values():
        members = sorted(members, key=lambda p: (p.config.hidden, p.config.optimizer.name, p.config.epochs))
        shards += [members[i : i + size] for i in range(0, len(members), size)]
    return shards


def train_shard(dataset: Dataset, configs: list[RunConfig], on_cuda: bool) -> list[Trained | Failure]:
    """Train in a worker, on_cuda or on its CPU; return the result of each configuration, in their order."""
    results: dict[int, Trained | Failure] = {}
    for progress in train(dataset, configs, cuda() if on_cuda else None):
        results.update(progress.ended)
    return [results[i] for i in range(len(configs))]


Task = tuple[list[Point], int]  # a shard, and how often it has lost its worker while it ran alone


class _Distributed:
    """Train shards on a `concurrent.futures` executor; train a shard again if its worker dies.

    If several shards were running when the pool broke, it is not known which one broke it, so each of them is
    then trained alone. A shard that breaks the pool twice while alone is halved; a single run is a failure.
    """

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[Workers]],
        workers: int,
        shards: Sequence[list[Point]],
        on_cuda: bool,
    ) -> None:
        self._opened, self._workers = opened, workers
        self._waiting = deque((shard, 0) for shard in shards)
        self._suspects: deque[Task] = deque()
        self._on_cuda = on_cuda
        self._done = 0

    def run(self) -> Training:
        while self._waiting or self._suspects:
            with self._opened() as (pool, check):
                yield from self._run_until_broken(pool, check)

    def _run_until_broken(self, pool: Pool, check: Callable[[], None]) -> Training:
        running: dict[Future[list[Trained | Failure]], Task] = {}
        is_whole = True
        while running or (is_whole and (self._waiting or self._suspects)):
            if self._suspects and not running:
                is_whole = _submit(pool, self._suspects, running, self._on_cuda)
            # Two for each worker, so that none waits for its next; suspects run alone.
            while is_whole and self._waiting and not self._suspects and len(running) < 2 * self._workers:
                is_whole = _submit(pool, self._waiting, running, self._on_cuda)
            finished, _ = wait(running, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
            ended: Ended = []
            lost = []
            for future in finished:
                shard, losses = running.pop(future)
                error = CancelledError() if future.cancelled() else future.exception()
                if error is None:
                    ended += zip(shard, future.result(), strict=True)
                elif is_loss(error):
                    lost.append((shard, losses))
                else:
                    ended += [(point, Failure.of(error)) for point in shard]
            if lost:
                lost += running.values()
                ended += self._suspect(lost)
            self._done += sum(point.config.epochs for point, _ in ended)
            yield self._done, ended
            if lost:
                return
            check()

    def _suspect(self, lost: list[Task]) -> Ended:
        """Set shards that lost their worker aside, to be tried alone; return those that failed even alone."""
        if len(lost) > 1:
            self._suspects.extend(lost)
            return []
        ((shard, losses),) = lost
        if losses + 1 < ALLOWED_LOSSES:
            self._suspects.append((shard, losses + 1))
        elif len(shard) > 1:
            half = len(shard) // 2
            self._suspects.extend([(shard[:half], losses), (shard[half:], losses)])
        else:
            reason = "WorkerLost: the process that trained this run died, and again when it ran alone"
            return [(shard[0], Failure(reason, reason))]
        return []


def _submit(
    pool: Pool, tasks: deque[Task], running: dict[Future[list[Trained | Failure]], Task], on_cuda: bool
) -> bool:
    """Submit the first task. Return False if the pool is broken and did not take it."""
    shard, _ = tasks[0]
    # A worker started here ignores Ctrl-C from its first instant on; its parent handles it.
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        configs = [point.config for point in shard]
        future = pool.submit(train_shard, shard[0].dataset.light(), configs, on_cuda)
    except Exception as error:
        if is_loss(error):
            return False
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
    running[future] = tasks.popleft()
    return True
