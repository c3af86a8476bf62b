"""Train trials side by side, epoch by epoch, and let a judge end some of them early.

A trial is some runs of one setting. All trials that still train have completed the same epochs when the judge
is asked, in their order, so that its verdicts do not depend on time. A run that is ended has the bits of a
run that was configured for as many epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnexp.config.run import RunConfig
from nnexp.training.checks import check
from nnexp.training.columns import Columns, IntArray
from nnexp.training.distribute import EndedPoint, Training
from nnexp.training.plan import Point
from nnexp.training.shard import DIVERGED, PRUNED, Shard
from nnexp.training.train import MAX_SHARD, Failure, groups_of, shards_of

# Given a trial, the completed epochs and the metric of each of its runs (nan if diverged): whether to end it.
Judge = Callable[[int, int, list[float]], bool]


@dataclass(frozen=True, eq=False)
class _Group:
    """Runs that train as one shard, by their positions among all points."""

    members: list[int]
    configs: list[RunConfig]  # of a run that was ended early, with as many epochs
    shard: Shard


def train_judged(
    points: Sequence[Point],
    trials: Sequence[Sequence[int]],
    metric: str,
    judge: Judge,
) -> Training[EndedPoint]:
    """Train the points on the CPU; yield several times a second (epochs trained, runs that ended).

    `trials` are the positions of each trial's runs. The judge is asked about a trial at every recorded epoch
    before its last, unless a run of it has failed. The runs of a trial end together.
    """
    return _Judged(points, trials, metric).run(judge)


class _Judged:
    """The runs in training, and the trials that have not ended."""

    def __init__(self, points: Sequence[Point], trials: Sequence[Sequence[int]], metric: str) -> None:
        self._points, self._metric = points, metric
        self._waiting = {trial: list(runs) for trial, runs in enumerate(trials)}
        self._failed: set[int] = set()
        self._groups = self._grouped(range(len(points)))

    def run(self, judge: Judge) -> Training[EndedPoint]:
        for epoch in _epochs(self._points):
            for group in list(self._groups):
                for failure in self._advance(group, epoch):
                    yield self._done, failure
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
                for some in shards_of(dataset, columns, MAX_SHARD):
                    members = [group[k] for k in some]
                    shard = Shard(dataset, columns.take(some))
                    groups.append(_Group([own[i] for i in members], [configs[i] for i in members], shard))
        return groups

    def _advance(self, group: _Group, epoch: int) -> Iterator[list[EndedPoint]]:
        """Train a group up to the epoch; yield the failures, a few times a second.

        A shard that raises is halved, and its halves are trained from the beginning, until the run that does
        it is alone.
        """
        try:
            for _ in group.shard.advance(epoch):
                yield []
        except (Exception, SystemExit) as error:
            self._groups.remove(group)
            left = [run for run in group.members if any(run in runs for runs in self._waiting.values())]
            if len(left) == 1:
                yield [(self._points[left[0]], Failure.of(error))]
                self._fail(left[0])
                return
            half = len(left) // 2
            for smaller in (*self._grouped(left[:half]), *self._grouped(left[half:])):
                self._groups.append(smaller)
                yield from self._advance(smaller, epoch)

    def _fail(self, run: int) -> None:
        """Take a run that failed out of its trial."""
        for trial, runs in self._waiting.items():
            if run in runs:
                runs.remove(run)
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


def _epochs(points: Sequence[Point]) -> list[int]:
    """Return the epochs at which any run is recorded or ends."""
    found = {point.config.epochs for point in points}
    for epochs, every in {(point.config.epochs, point.config.log_every) for point in points}:
        found.update(range(every, epochs + 1, every))
    return sorted(found)
