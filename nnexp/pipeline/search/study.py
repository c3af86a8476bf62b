"""Ask Optuna: which trials come next, and which end early.

A study is rebuilt from the trials before each batch, and the sampler's random state follows from search.seed
and the number of trials, so that an interrupted search asks for the same trials as one that was not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Sequence
from itertools import count, takewhile

import numpy as np
import optuna
from optuna.trial import TrialState

from nnexp.analysis.study import STATES, curve, direction, distributions, frozen, quietly
from nnexp.config.errors import RequestError
from nnexp.config.request import Search
from nnexp.config.space import Dimension, Space, Value
from nnexp.tracking.searches import Trial

VERSION = optuna.__version__
# Samplers that keep more in the study than its trials: all batches are asked for anew, one after another.
_KEEP = ("cmaes", "qmc")
# Samplers whose trials depend only on their number.
_BLIND = ("grid", "random")
# At each rung hyperband and successive halving let one trial of KEPT go on. The first rung comes after more
# than 1/MOST_TIMES of the epochs, so that there are at most four.
KEPT, MOST_TIMES = 4, 256


def worst(metric: str) -> float:
    """Return the value of a trial that diverged."""
    return np.inf if metric.endswith("loss") else -np.inf


def check_sampler(name: str) -> None:
    """Raise RequestError if what the sampler needs is not installed."""
    if name == "gp" and importlib.util.find_spec("torch") is None:
        raise RequestError("search=gp needs PyTorch, which is not installed; search=tpe needs nothing more")


class Proposals:
    """The trials that a sampler asks for, batch after batch."""

    def __init__(self, space: Space, search: Search, metric: str, key: str) -> None:
        self._search, self._metric, self._key = search, metric, key
        self._dimensions = {d.name: d for d in space.dimensions}
        self._distributions = distributions(space.dimensions)
        self._grid = space.grid() if search.name == "grid" else []
        self._kept: optuna.Study | None = None
        self._asked: list[optuna.trial.Trial] = []

    @property
    def learns(self) -> bool:
        """Return whether the next trials depend on what those before them gave."""
        return self._search.name not in _BLIND

    def after(self, trials: Sequence[Trial]) -> list[dict[str, Value]]:
        """Return the params of the rest of the batch that these trials have begun, or of the next one.

        Fewer trials than a batch are left if a search ended there and is to go on: it goes on with the same.
        """
        whole = len(trials) // self._search.batch * self._search.batch
        return self._batch(trials[:whole])[len(trials) - whole :]

    def _batch(self, trials: Sequence[Trial]) -> list[dict[str, Value]]:
        if self._search.name == "grid":
            order = np.random.RandomState(self._search.seed).permutation(len(self._grid))
            return [self._grid[i] for i in order[len(trials) : len(trials) + self._search.batch]]
        with quietly():
            study = self._replayed(trials) if self._search.name in _KEEP else self._rebuilt(trials)
            self._asked = [study.ask(self._distributions) for _ in range(self._search.batch)]
        return [
            {name: self._dimensions[name].plain(value) for name, value in trial.params.items()}
            for trial in self._asked
        ]

    def _rebuilt(self, trials: Sequence[Trial]) -> optuna.Study:
        """Return a study of these trials whose sampler begins anew."""
        study = optuna.create_study(
            study_name=self._key,
            direction=direction(self._metric),
            sampler=self._sampler(len(trials)),
            pruner=optuna.pruners.NopPruner(),
        )
        if self.learns:
            study.add_trials([frozen(trial, self._distributions) for trial in trials])
        return study

    def _replayed(self, trials: Sequence[Trial]) -> optuna.Study:
        """Return the study that has asked for these trials, batch by batch, and knows what became of them."""
        if self._kept is None:
            self._kept = self._rebuilt([])
        batch, study = self._search.batch, self._kept
        while (n := len(study.get_trials(deepcopy=False))) < len(trials) or self._asked:
            if not self._asked:
                study.sampler = self._sampler(n)
                self._asked = [study.ask(self._distributions) for _ in range(batch)]
                n += batch
            for asked, trial in zip(self._asked, trials[n - batch : n], strict=True):
                plain = {name: self._dimensions[name].plain(value) for name, value in asked.params.items()}
                if plain != trial.params:
                    raise RequestError(
                        f"search={self._search.name}: Optuna {VERSION} asks for other trials than the Optuna "
                        "that began this search: use that one, or begin another search with search.seed"
                    )
                for epoch, value in curve(trial).items():
                    asked.report(value, epoch)
                _tell(study, asked, trial)
            self._asked = []
        study.sampler = self._sampler(len(trials))
        return study

    def _sampler(self, told: int) -> optuna.samplers.BaseSampler:
        """Return the sampler of the batch after so many trials."""
        search = self._search
        seed = int(np.random.SeedSequence([search.seed, told]).generate_state(1)[0])
        if search.name == "random":
            return optuna.samplers.RandomSampler(seed)
        if search.name == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        if search.name == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        if search.name == "qmc":  # one sequence, whose points are numbered
            return optuna.samplers.QMCSampler(seed=search.seed, scramble=True)
        pruned = search.pruner != "none"
        return optuna.samplers.CmaEsSampler(
            seed=seed, consider_pruned_trials=pruned, warn_independent_sampling=False
        )


class Verdicts:
    """A pruner's verdicts on the trials of one batch, given the trials before it."""

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        search: Search,
        metric: str,
        key: str,
        epochs: int,
        log_every: int,
        before: Sequence[Trial],
        batch: Sequence[Trial],
    ) -> None:
        known, first = distributions(dimensions), first_rung(epochs, log_every)
        self._first = None if search.pruner == "median" else first
        with quietly():
            self._study = optuna.create_study(
                study_name=key,
                direction=direction(metric),
                sampler=optuna.samplers.RandomSampler(0),
                pruner=_pruner(search.pruner, first, epochs),
            )
            self._study.add_trials([frozen(trial, known) for trial in before])
            for trial in batch:
                self._study.enqueue_trial(dict(trial.params))
            self._trials = [self._study.ask(known) for _ in batch]

    def __call__(self, trial: int, epoch: int, value: float) -> bool:
        """Report a trial's value at an epoch; return whether it is to end there."""
        asked = self._trials[trial]
        asked.report(value, epoch)
        return asked.should_prune()

    def at(self, longest: int, steps: Collection[int]) -> list[int]:
        """Return the epochs at which a trial may be ended, of those that are recorded every so many `steps`.

        Those are the pruner's rungs, or all for one without.
        """
        if self._first is None:
            return sorted({epoch for step in steps for epoch in range(step, longest, step)})
        rungs = list(takewhile(longest.__gt__, (self._first * KEPT**i for i in count())))
        return sorted({-(-rung // step) * step for step in steps for rung in rungs})

    def noted(self, trial: int) -> tuple[dict[int, float], dict[str, float]]:
        """Return a trial's values by epoch, and what the pruner noted on it."""
        found = self._study.get_trials(deepcopy=False)[self._trials[trial].number]
        notes = {k: float(v) for k, v in found.system_attrs.items() if k.startswith("completed_rung_")}
        return dict(found.intermediate_values), notes


def first_rung(epochs: int, log_every: int) -> int:
    """Return the epochs at the first rung, which are recorded."""
    return log_every * (epochs // (MOST_TIMES * log_every) + 1)


def _pruner(name: str, first: int, epochs: int) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner()
    if name == "successive_halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=KEPT)
    return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=epochs, reduction_factor=KEPT)


def _tell(study: optuna.Study, asked: optuna.trial.Trial, trial: Trial) -> None:
    state = STATES[trial.state]
    study.tell(asked, trial.value if state == TrialState.COMPLETE else None, state)
