"""Carry out a search: ask for a batch of trials, train and record their runs, tell what they gave, again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from nnexp.analysis.statistics import median
from nnexp.config.run import RunConfig
from nnexp.network.engine.cuda.device import Device
from nnexp.pipeline.identity import run_key
from nnexp.pipeline.search import confirm
from nnexp.pipeline.search.finish import finish
from nnexp.pipeline.search.plan import Planned, search_record
from nnexp.pipeline.search.study import Proposals, Verdicts, worst
from nnexp.pipeline.session import Place, going_on, opened, tell_of_compiling, what_is_left
from nnexp.pipeline.signals import uninterrupted
from nnexp.pipeline.sweep import run_points
from nnexp.tracking.find import SWEEP_KEYS, get_sweep
from nnexp.tracking.reader import Found
from nnexp.tracking.searches import SEARCH_FILE, SEARCH_KEY, Searched, Trial, find_search
from nnexp.training.devices import device_name, open_device
from nnexp.training.distribute import EndedPoint, Training, execute
from nnexp.training.judged import train_judged
from nnexp.training.plan import Plan, Point, plan
from nnexp.training.pools import pools
from nnexp.training.shard import Trained

log = logging.getLogger("nnexp")

# How many runs are asked for at once if no trial depends on what others gave: many train faster together.
RUNS_AHEAD = 1024


@dataclass(frozen=True)
class Done:
    """A search that has ended: its parent run, its record, and (run name, reason) of each run that failed."""

    search_id: str
    searched: Searched
    failures: list[tuple[str, str]]


def search(asked: Planned) -> Done | None:
    """Carry out a search, or what is left of it; return None if only the plan was asked for.

    The same search goes on with the very trial that it would have asked for. Raises RequestError before
    anything is recorded.
    """
    request = asked.request
    with opened(asked.config, asked.corner_keys) as place:
        same = [parent for parent in place.parents if parent.tags.get(SEARCH_KEY) == asked.key]
        before = _recorded(place, same, asked)
        left = asked.trials - sum(trial.state != "asked" for trial in before.trials)
        log.info(f"{asked}: {asked.trials - max(0, left):,} done")
        if request.plan:
            return None
        complete = [p for p in same if p.status == "FINISHED" and p.tags.get("nnexp.outcome") == "complete"]
        if left <= 0 and complete and _is_whole(place, before, asked):
            return Done(complete[-1].run_id, before, [])
        # Both raise RequestError if what they need is unavailable.
        device = open_device(request.device, request.executor)
        if request.executor.name != "inline":
            pools(request.executor)
        record = search_record(asked, device_name(device))
        with what_is_left(), going_on(place, record) as parent:
            for old in same:
                place.writer.adopt(old.run_id, parent)
                place.writer.add(old.run_id, {}, {"nnexp.superseded_by": parent})
            going = _Search(place, parent, asked, before, device)
            going.run()
            place.writer.settle(parent)
            finish(place, parent, asked, going.searched, going.failures, going.stopped)
        return Done(parent, going.searched, going.failures)


def _is_whole(place: Place, searched: Searched, asked: Planned) -> bool:
    """Return whether every run of the search is recorded, and the best trials are confirmed."""
    finished = {key for key, (statuses, _) in place.recorded().items() if "FINISHED" in statuses}
    needed = {key for t in searched.trials if t.state != "failed" for key in (*t.keys, *t.confirmed)}
    best = confirm.chosen(searched, asked.search.confirm)
    return needed <= finished and all(searched.trials[i].confirmed for i in best)


def _recorded(place: Place, same: Sequence[Found], asked: Planned) -> Searched:
    """Return the record of the search so far, with the trials of whichever parent has most."""
    best = asked.begun
    for parent in same:
        detail = get_sweep(place.store, parent.run_id)
        found = None if detail is None else find_search(place.store, detail)
        if found is not None and len(found.trials) > len(best.trials):
            best = replace(best, trials=found.trials, optuna=found.optuna)
    return best


class _Search:
    """A search that is going on."""

    def __init__(
        self, place: Place, parent: str, asked: Planned, before: Searched, device: Device | None
    ) -> None:
        self._place, self._parent, self._asked, self._device = place, parent, asked, device
        self.searched = before
        self.failures: list[tuple[str, str]] = []
        self.stopped = False
        self._recorded = place.recorded()
        # The metric of each finished run by its key, nan if it diverged; and of its trials by their runs.
        self._values: dict[str, float] = {}
        self._trial_of: dict[tuple[str, ...], int] = {}

    def run(self) -> None:
        """Train all trials that are left, and confirm the best."""
        asked = self._asked
        told = [trial for trial in self.searched.trials if trial.state != "asked"]
        self._again(told)
        proposals = Proposals(asked.space, asked.search, self.searched.metric, asked.key)
        while not self.stopped and len(told) < asked.trials:
            batch = [trial for trial in self.searched.trials[len(told) :] if trial.state == "asked"]
            if not batch:
                batch = self._next(proposals, told)
            batch = batch[: asked.trials - len(told)]
            self._write([*told, *batch])
            done = self._train(batch, told)
            if self.stopped:
                return
            told += done
            self._write(told)
        if not self.stopped:
            self._confirm()

    def _next(self, proposals: Proposals, told: Sequence[Trial]) -> list[Trial]:
        """Ask for the next batch of trials, or for several if neither the sampler nor a pruner learns."""
        asked = self._asked
        batch = [Trial(params) for params in proposals.after(told)]
        if proposals.learns or asked.search.pruner != "none":
            return batch
        enough = min(asked.trials - len(told), RUNS_AHEAD // len(asked.space.over))
        while len(batch) < enough:
            batch += [Trial(params) for params in proposals.after([*told, *batch])]
        return batch

    def _write(self, trials: Sequence[Trial]) -> None:
        """Record the trials on the parent."""
        self.searched = replace(self.searched, trials=tuple(trials))
        keys = dict.fromkeys(key for trial in trials for key in (*trial.keys, *trial.confirmed))
        files = {
            SEARCH_FILE: self.searched.content(),
            SWEEP_KEYS: ("\n".join(keys) + "\n").encode(),
        }
        with uninterrupted():
            self._place.writer.add(self._parent, files, {})

    def _again(self, told: Sequence[Trial]) -> None:
        """Note which trials there have been, and train those of their runs that were lost meanwhile."""
        runs = [t for t in told if t.state != "excluded"]
        points = self._asked.points([t.params for t in runs])
        lost = []
        for number, (trial, own) in enumerate(zip(runs, points, strict=True)):
            self._trial_of.setdefault(tuple(point.key for point in own), number)
            ended = [_shortened(point, trial.epochs) for point in own] if trial.state == "pruned" else own
            lost += ended if trial.state != "failed" else []
        self._train_all([lost])

    def _train(self, batch: Sequence[Trial], told: Sequence[Trial]) -> list[Trial]:
        """Train a batch of trials; return them with what became of them."""
        asked = self._asked
        kept = asked.kept([trial.params for trial in batch])
        left = [i for i, is_kept in enumerate(kept) if is_kept]
        points = dict(zip(left, asked.points([batch[i].params for i in left]), strict=True))
        # A trial whose runs another trial has had is not run again.
        first: dict[int, int] = {}
        new = []
        for i, own in points.items():
            first[i] = self._trial_of.setdefault(tuple(point.key for point in own), len(told) + i)
            if first[i] == len(told) + i:
                new.append(i)
        if asked.search.pruner == "none":
            self._train_all([points[i] for i in new])
            found = {i: self._told(batch[i], points[i]) for i in new}
        else:
            found = self._train_pruned({i: batch[i] for i in new}, points, told)
        if self.stopped:
            return []
        result = list[Trial]()
        for i, trial in enumerate(batch):
            if i not in points:
                result.append(replace(trial, state="excluded"))
            elif i in found:
                result.append(found[i])
            else:
                result.append(replace([*told, *result][first[i]], params=trial.params, confirmed=()))
        return result

    def _train_all(self, trials: Sequence[Sequence[Point]]) -> None:
        """Train the points that are not recorded; note the values of all."""
        points = list({point.key: point for own in trials for point in own}.values())
        self._read(points)
        todo = plan([p for p in points if p.key not in self._values], self._recorded, "none")
        self._run(todo, lambda some: execute(some, self._asked.request.executor, self._device))

    def _train_pruned(
        self, batch: dict[int, Trial], points: dict[int, list[Point]], told: Sequence[Trial]
    ) -> dict[int, Trial]:
        """Train trials side by side, and end those that the pruner condemns."""
        asked, order = self._asked, list(batch)
        metric, low = self.searched.metric, worst(self.searched.metric)
        config = asked.config
        judge = Verdicts(
            asked.space.dimensions, asked.search, metric, asked.key, config.epochs, config.log_every,
            told, list(batch.values()),
        )  # fmt: skip
        flat = [point for i in order for point in points[i]]
        ends = np.cumsum([0, *(len(points[i]) for i in order)])
        trials = [list(range(ends[k], ends[k + 1])) for k in range(len(order))]
        condemned: dict[int, int] = {}

        def is_over(trial: int, epoch: int, values: list[float]) -> bool:
            value = float(median([low if np.isnan(v) else v for v in values]))
            if not judge(trial, epoch, value):
                return False
            condemned[trial] = epoch
            return True

        if flat:
            todo = Plan(len(flat), 0, [], flat, 1, 0.0)
            longest = max(point.config.epochs for point in flat)
            at = judge.at(longest, {point.config.log_every for point in flat})
            executor, device = asked.request.executor, self._device
            self._run(todo, lambda some: train_judged(some, trials, metric, is_over, at, executor, device))
        found = {}
        for k, i in enumerate(order):
            own = points[i]
            if k in condemned:
                own = [_shortened(point, condemned[k]) for point in own]
            curve, rungs = judge.noted(k)
            state = "pruned" if k in condemned else "complete"
            found[i] = replace(self._told(batch[i], own, state), curve=curve, rungs=rungs)
        return found

    def _run(self, todo: Plan, train: Callable[[Sequence[Point]], Training[EndedPoint]]) -> None:
        """Train and record points; note their values and failures."""
        if not todo.todo:
            self.failures += [(point.name, "failed before") for point in todo.failed]
            return
        tell_of_compiling()
        todo = replace(todo, todo=self._place.renamed(todo.todo))
        training = self._noting(train(todo.todo))
        self.stopped |= run_points(
            self._place, self._parent, todo, training, self._asked.request, self.failures
        )

    def _noting(self, training: Training[EndedPoint]) -> Training[EndedPoint]:
        """Yield what a training yields, noting the value of each run; a pruned run is that of its epochs."""
        with closing(training):
            for epochs_done, some in training:
                ended: list[EndedPoint] = []
                for point, result in some:
                    if isinstance(result, Trained):
                        point = _shortened(point, result.config.epochs)
                        last = float(result.curves[self.searched.metric][-1])
                        self._values[point.key] = np.nan if result.outcome == "diverged" else last
                    ended.append((point, result))
                yield epochs_done, ended

    def _read(self, points: Sequence[Point]) -> None:
        """Note the values of those points that are recorded."""
        asked = {point.key for point in points} - self._values.keys()
        there = {
            run.run_id: run.tags["nnexp.run_key"] for run in self._place.runs if run.status == "FINISHED"
        }
        ids = [run_id for run_id, key in there.items() if key in asked]
        for run_id, run in self._place.store.reader.details(ids).items() if ids else ():
            value = run.metrics.get(self.searched.metric, np.nan)
            is_diverged = run.tags.get("nnexp.outcome") == "diverged"
            self._values[there[run_id]] = np.nan if is_diverged else float(value)

    def _told(self, trial: Trial, points: Sequence[Point], state: str = "complete") -> Trial:
        """Return a trial with its value: the median over its runs, diverged ones as the worst."""
        keys, epochs = tuple(point.key for point in points), points[0].config.epochs
        if any(key not in self._values for key in keys):
            return replace(trial, state="failed", keys=keys, epochs=epochs)
        low = worst(self.searched.metric)
        values = [low if np.isnan(self._values[key]) else self._values[key] for key in keys]
        return replace(trial, state=state, value=float(median(values)), keys=keys, epochs=epochs)

    def _confirm(self) -> None:
        """Run the best trials again on fresh seeds."""
        trials = list(self.searched.trials)
        chosen = confirm.chosen(self.searched, self._asked.search.confirm)
        points = confirm.points(self._asked, [trials[i].params for i in chosen])
        for i, own in zip(chosen, points, strict=True):
            trials[i] = replace(trials[i], confirmed=tuple(point.key for point in own))
        self._write(trials)
        self._train_all(points)


def _shortened(point: Point, epochs: int) -> Point:
    """Return the point of a run that was ended after so many epochs."""
    if point.config.epochs == epochs:
        return point
    config: RunConfig = replace(point.config, epochs=epochs)
    return replace(point, config=config, key=run_key(config, point.dataset))
