"""Give Optuna what was recorded of a search: a study, for its own plots, and the importance of each param."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from nnexp.config.space import Dimension
from nnexp.tracking.searches import Searched, Trial

# The states of trials that have ended, as Optuna has them.
STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "excluded": TrialState.FAIL,
}


def direction(metric: str) -> Literal["minimize", "maximize"]:
    """Return whether Optuna is to minimize or maximize the metric."""
    return "minimize" if metric.endswith("loss") else "maximize"


def distributions(dimensions: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of each dimension."""
    return {d.name: _distribution(d) for d in dimensions}


def _distribution(d: Dimension) -> BaseDistribution:
    if d.kind == "choice":
        return CategoricalDistribution(d.choices)
    if d.kind == "int":
        return IntDistribution(int(d.low), int(d.high), log=d.log, step=int(d.step or 1))
    return FloatDistribution(d.low, d.high, log=d.log, step=d.step)


def frozen(trial: Trial, known: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """Return a trial as Optuna keeps it."""
    state = STATES[trial.state]
    return optuna.create_trial(
        state=state,
        value=trial.value if state == TrialState.COMPLETE else None,
        params=dict(trial.params),
        distributions=dict(known),
        intermediate_values=curve(trial),
        system_attrs=dict(trial.rungs),
    )


def curve(trial: Trial) -> dict[int, float]:
    """Return the values that a pruned trial is ranked by: its curve, or its last value."""
    return dict(trial.curve) if trial.curve or trial.value is None else {trial.epochs: trial.value}


def study_of(found: Searched, name: str) -> optuna.Study:
    """Return a study of a recorded search, for Optuna's own plots; its trials carry their run keys."""
    known = distributions(found.dimensions)
    with quietly():
        study = optuna.create_study(study_name=name, direction=direction(found.metric))
        for trial in found.trials:
            if trial.state in STATES:
                kept = frozen(trial, known)
                kept.user_attrs = {"run_keys": list(trial.keys)}
                study.add_trial(kept)
    return study


def importances(found: Searched) -> dict[str, float]:
    """Return how much each dimension decides whether a trial is among the best, as shares of 1.

    It is PED-ANOVA (Watanabe et al. 2023, Quantifying and visualizing hyperparameter importance). The module
    that Optuna has it in imports scikit-learn, which takes a second.

    It is empty for fewer than ten completed trials, and for a single dimension.
    """
    good = [t.value for t in found.trials if t.state == "complete" and np.isfinite(t.value or 0)]
    if len(good) < 10 or len(found.dimensions) < 2 or len(set(good)) < 2:
        return {}
    with quietly():
        shares = optuna.importance.get_param_importances(study_of(found, "importances"))
    return {name: float(share) for name, share in shares.items() if np.isfinite(share)}


@contextmanager
def quietly() -> Iterator[None]:
    """Keep Optuna from logging, and from warning that a part of it is experimental."""
    level: Any = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
