"""Train trials side by side, epoch by epoch, and let a judge end some of them early.

A trial is some runs of one setting. All trials that still train have completed the same epochs when the judge
is asked, in their order, so that its verdicts depend neither on time nor on who trains. A run that is ended
has the bits of a run that was configured for as many epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor as Pool
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from nnexp.config.request import Executor
from nnexp.config.run import RunConfig
from nnexp.network.engine.cuda.device import Device
from nnexp.training.checks import check
from nnexp.training.columns import Columns, IntArray
from nnexp.training.distribute import Distributed, EndedPoint, Task, Training
from nnexp.training.plan import Point
from nnexp.training.pools import Opened, kept, pools
from nnexp.training.shard import DIVERGED, PRUNED, Shard
from nnexp.training.train import DEVICE_SHARD, MAX_SHARD, Failure, groups_of, shards_of

# Given a trial, the completed epochs and the metric of each of its runs (nan if diverged): whether to end it.
Judge = Callable[[int, int, list[float]], bool]


@dataclass(frozen=True, eq=False)
class _Group:
    """Runs that train as one shard, by their positions among all points."""

    members: list[int]
    configs: list[RunConfig]  # of a run that was ended early, with as many epochs
    shard: Shard


# A group that has been trained up to an epoch, or why it could not be.
_Advanced = tuple[_Group, Failure | None]
# Given groups and an epoch, trains them up to it; yields several times a second those that are there.
_Train = Callable[[Sequence[_Group], int], Iterator[list[_Advanced]]]


def train_judged(
    points: Sequence[Point],
    trials: Sequence[Sequence[int]],
    metric: str,
    judge: Judge,
    at: Sequence[int],
    executor: Executor,
    device: Device | None = None,
) -> Training[EndedPoint]:
    """Return a generator that trains the points; close it to stop early. None is the CPU.

    `trials` are the positions of each trial's runs. The judge is asked about a trial `at` these epochs, if it
    is recorded there and goes on, unless a run of it has failed. The runs of a trial end together. Workers
    train from one such epoch to the next, and send the runs' state back. Raises RequestError at once if the
    executor is unavailable, and Lost if it is lost during the work.
    """
    if executor.name == "inline":
        most = MAX_SHARD if device is None else DEVICE_SHARD
        return _Judged(points, trials, metric, at, most, device).run(judge, _train_here)
    opened, workers = pools(executor)
    most = min(MAX_SHARD, -(-len(points) // workers))
    return _judged_there(_Judged(points, trials, metric, at, most), judge, opened, workers)


def _train_here(groups: Sequence[_Group], epoch: int) -> Iterator[list[_Advanced]]:
    for group in groups:
        try:
            for _ in group.shard.advance(epoch):
                yield []
        except (Exception, SystemExit) as error:
            yield [(group, Failure.of(error))]
        else:
            yield [(group, None)]


def _judged_there(judged: _Judged, judge: Judge, opened: Opened, workers: int) -> Training[EndedPoint]:
    def train(again: Opened, groups: Sequence[_Group], epoch: int) -> Iterator[list[_Advanced]]:
        tasks: list[Task[_Advanced]] = [_Stretch(group, epoch, judged.halves) for group in groups]
        for _, advanced in Distributed(again, workers, iter(tasks), False).run():
            yield advanced

    with kept(opened) as again:
        yield from judged.run(judge, partial(train, again))


@dataclass(frozen=True, eq=False)
class _Stretch:
    """A group that a worker trains up to an epoch."""

    group: _Group
    until: int
    halved: Callable[[_Group], list[_Group]]

    @property
    def epochs(self) -> int:
        return len(self) * (self.until - self.group.shard.epoch)

    def __len__(self) -> int:
        return len(self.group.members)

    def submit(self, pool: Pool, on_cuda: bool) -> Future[Any]:
        return pool.submit(advanced, self.group.shard, self.until)

    def results(self, answer: Shard) -> list[_Advanced]:
        return [(replace(self.group, shard=answer), None)]

    def failed(self, failure: Failure) -> list[_Advanced]:
        return [(self.group, failure)]

    def halves(self) -> list[Task[_Advanced]]:
        return [replace(self, group=group) for group in self.halved(self.group)]


def advanced(shard: Shard, until: int) -> Shard:
    """Train in a worker up to `until` completed epochs."""
    for _ in shard.advance(until):
        pass
    return shard


class _Judged:
    """The runs in training, and the trials that have not ended."""

    def __init__(
        self,
        points: Sequence[Point],
        trials: Sequence[Sequence[int]],
        metric: str,
        at: Sequence[int],
        most: int,
        device: Device | None = None,
    ) -> None:
        self._points, self._metric, self._most, self._device = points, metric, most, device
        self._stops = sorted({*at, *(point.config.epochs for point in points)})
        self._waiting = {trial: list(runs) for trial, runs in enumerate(trials)}
        self._failed: set[int] = set()
        self._groups = self._grouped(range(len(points)))

    def run(self, judge: Judge, train: _Train) -> Training[EndedPoint]:
        for epoch in self._stops:
            for failures in self._advance(epoch, train):
                yield self._done, failures
            ended: list[EndedPoint] = []
            for trial, runs in list(self._waiting.items()):
                if self._are_over(runs, epoch):
                    ended += self._ended(trial)
                elif self._is_judged(trial, epoch) and judge(trial, epoch, self._values(runs)):
                    ended += self._ended(trial, early=True)
            yield self._done, ended
            if not self._waiting:
                return

    @property
    def _done(self) -> int:
        return sum(group.shard.epochs_done for group in self._groups)

    def _grouped(self, runs: Sequence[int]) -> list[_Group]:
        """Make shards of these runs."""
        groups = []
        for dataset in dict.fromkeys(self._points[i].dataset for i in runs):
            own = [i for i in runs if self._points[i].dataset is dataset]
            configs = [self._points[i].config for i in own]
            prepared = [check(dataset, config) for config in configs]
            for group in groups_of(configs, prepared):
                columns = Columns.of([configs[k] for k in group], [prepared[k] for k in group])
                for some in shards_of(dataset, columns, self._most):
                    members = [group[k] for k in some]
                    shard = Shard(dataset, columns.take(some), self._device)
                    groups.append(_Group([own[i] for i in members], [configs[i] for i in members], shard))
        return groups

    def halves(self, group: _Group) -> list[_Group]:
        """Return the runs of a group that have not ended, at their beginning, as two groups."""
        left = self._left(group)
        half = len(left) // 2
        return [*self._grouped(left[:half]), *self._grouped(left[half:])]

    def _left(self, group: _Group) -> list[int]:
        waiting = {run for runs in self._waiting.values() for run in runs}
        return [run for run in group.members if run in waiting]

    def _advance(self, epoch: int, train: _Train) -> Iterator[list[EndedPoint]]:
        """Train all groups up to the epoch; yield the runs that failed, a few times a second.

        A group that raises is halved, and its halves are trained from the beginning, until the run that does
        it is alone.
        """
        todo = [group for group in self._groups if group.shard.is_behind(epoch)]
        done = [group for group in self._groups if not group.shard.is_behind(epoch)]
        while todo:
            again: list[_Group] = []
            for some in train(todo, epoch):
                failures: list[EndedPoint] = []
                for group, failure in some:
                    if failure is None:
                        done.append(group)
                    elif len(left := self._left(group)) > 1:
                        again += self.halves(group)
                    else:
                        failures += [(self._points[run], failure) for run in left]
                        self._fail(left)
                yield failures
            todo = again
        self._groups = sorted(done, key=lambda group: group.members)  # not in the order of time

    def _fail(self, failed: Sequence[int]) -> None:
        """Take runs that failed out of their trials."""
        for trial, runs in self._waiting.items():
            if not set(runs).isdisjoint(failed):
                self._waiting[trial] = [run for run in runs if run not in failed]
                self._failed.add(trial)

    def _parts(self, runs: Sequence[int]) -> Iterator[tuple[_Group, list[int], IntArray]]:
        """Yield the groups of these runs, with the runs of each and their positions in it."""
        for group in self._groups:
            if own := [run for run in runs if run in group.members]:
                yield group, own, np.array([group.members.index(run) for run in own])

    def _are_over(self, runs: Sequence[int], epoch: int) -> bool:
        """Return whether all these runs have ended by themselves."""
        return all((group.shard.ends[at] <= epoch).all() for group, _, at in self._parts(runs))

    def _is_judged(self, trial: int, epoch: int) -> bool:
        """Return whether a trial is recorded at this epoch, and whole."""
        every = self._points[self._waiting[trial][0]].config.log_every
        return epoch % every == 0 and trial not in self._failed

    def _values(self, runs: Sequence[int]) -> list[float]:
        return [
            value
            for group, _, at in self._parts(runs)
            for value in group.shard.measured(self._metric)[at].tolist()
        ]

    def _ended(self, trial: int, early: bool = False) -> list[EndedPoint]:
        """Return the results of a trial that ends now, early or by itself."""
        result: list[EndedPoint] = []
        for group, runs, at in self._parts(self._waiting.pop(trial)):
            if early:
                group.shard.shorten(at)
            ended = group.shard.ended(at)
            if early:
                ended = replace(ended, outcome=np.where(ended.outcome == DIVERGED, DIVERGED, PRUNED))
                for k in at.tolist():
                    group.configs[k] = replace(group.configs[k], epochs=group.shard.epoch)
            trained = group.shard.trained(ended, group.configs)
            result += zip([self._points[run] for run in runs], trained, strict=True)
        return result
