"""Train, sweep and rerun from Python, in the same way as on the command line.

Keyword arguments are the keys of the command line. A run that one of them recorded is found by the other, and
not run again.
"""

from __future__ import annotations

import logging
from itertools import compress
from typing import TYPE_CHECKING, Any

from hydra.types import RunMode

from nnexp.config import compose
from nnexp.config.errors import RequestError
from nnexp.config.overrides import parse, plain_errors
from nnexp.config.request import Request
from nnexp.config.text import shortened
from nnexp.pipeline import run as runner
from nnexp.pipeline import sweep as sweeper
from nnexp.pipeline.keywords import typed
from nnexp.pipeline.points import experiment_of, kept, one_run, sweep_points, typed_grid
from nnexp.pipeline.population.space import space_of
from nnexp.pipeline.population.sweep import PopulationResult, population
from nnexp.pipeline.rerun import again
from nnexp.pipeline.rerun.subject import Subjects, find_run, kept_in
from nnexp.pipeline.results.rerun import Rerun
from nnexp.pipeline.results.run import Run
from nnexp.pipeline.results.sweep import Sweep
from nnexp.pipeline.search.results import Search
from nnexp.tracking.find import get_sweep
from nnexp.tracking.named import whole_id
from nnexp.tracking.searches import find_search
from nnexp.tracking.store import open_store

if TYPE_CHECKING:
    from optuna import Study

log = logging.getLogger("nnexp")


def train(**keys: Any) -> Run:
    """Train and record one run, or return the recorded one if it has been run before.

    Parameters
    ----------
    **keys
        Any key of `nnexp train`, such as `dataset="xor"`, `learning_rate=0.5` or `hidden=[4, 4]`; keys that
        are not given have their defaults. A mapping gives a group's options:
        `optimizer={"name": "adam", "beta1": 0.8}`, or `**{"optimizer.beta1": 0.8}`. `dataset` may be a
        DataFrame; then `target` names the column to predict, and `features` default to all other columns.
        Strings are taken literally.

    Returns
    -------
    Run
        The recorded run, with its curves, its network and its figures.

    Raises
    ------
    RequestError
        If a key or a value is wrong; then nothing is run or recorded.

    Examples
    --------
    >>> import nnexp
    >>> run = nnexp.train(dataset="xor", learning_rate=0.5, epochs=5000, figures=False, model=False)
    >>> run.outcome, f"{run.loss:.4g}"
    ('converged', '0.0002886')
    >>> run.history.tail(1)[["metric", "epoch"]].values.tolist()
    [['loss', 5000]]

    A table of your own:

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"length": [1.0, 2, 8, 9], "species": ["a", "a", "b", "b"]})
    >>> run = nnexp.train(dataset=frame, target="species", epochs=500, figures=False, model=False)
    >>> run.network.predict(pd.DataFrame({"length": [1.5, 8.5]}))["label"].tolist()
    ['a', 'b']
    """
    overrides, source = typed(keys, sweeps=False)
    config, request = one_run(overrides, source)
    _refuse_plan(request)
    done = runner.run(config, request, source)
    assert done is not None  # only a plan is none
    if done.is_old:
        log.info("this run is already recorded and is not run again; force=True runs it again")
    return Run(open_store(config.tracking_uri, create=False), done.run_id)


def sweep(**keys: Any) -> Sweep:
    """Train and record every combination of the given values, except for runs that are already recorded.

    Parameters
    ----------
    **keys
        As for `train`. A list, a range or an array gives several values; for a key whose value is itself a
        list, such as `hidden`, give a list of lists: `hidden=[[2], [4, 4]]`.
        `zip=["learning_rate", "epochs"]` takes these ranges side by side instead of combining them,
        `exclude="init == 'ones' and seed > 3"` leaves points out, `force=True` runs recorded points again,
        `record="table"` records a population, whose networks are rows of one table instead of runs, and
        `name`, `question` and `tags` describe the sweep. `experiment` takes the ranges from an
        experiment's file.

    Returns
    -------
    Sweep
        The recorded sweep. A run that fails does not stop the others; it is listed in `failures`.

    Raises
    ------
    RequestError
        If a key or a value is wrong; then nothing is run or recorded.

    Examples
    --------
    >>> import nnexp
    >>> sweep = nnexp.sweep(dataset="xor", learning_rate=[0.1, 1], seed=range(3), epochs=2000)
    >>> len(sweep.runs)
    6
    >>> sweep.summary(by=["learning_rate"])[["learning_rate", "n"]].values.tolist()
    [[0.1, 3.0], [1.0, 3.0]]
    >>> sweep.best.params["learning_rate"]
    1.0
    """
    overrides, source = typed(keys, sweeps=True)
    with typed_grid(overrides) as (loader, config, grid):
        name = experiment_of(config)
        if is_table := config.record == "table":
            space, request = space_of(loader, config, grid, source)
            first = space.configs[0]
        else:
            configs, request = sweep_points(loader, config, grid, source)
            first = configs[0]
    _refuse_plan(request)
    done: sweeper.Sweep | PopulationResult | None
    if is_table:
        done = population(space, request, name)
    else:
        configs = list(compress(configs, kept(configs, request.exclude)))
        done = sweeper.sweep(configs, request, name, source)
    assert done is not None  # only a plan is none
    return Sweep(open_store(first.tracking_uri, create=False), done.sweep_id, done.failures)


def search(**keys: Any) -> Search:
    """Search for the best values of keys with Optuna, and record every trial, or go on with such a search.

    Parameters
    ----------
    **keys
        As for `sweep`: a list, a range or an array gives the values to choose from. A distribution of Optuna
        gives a range: `learning_rate=optuna.distributions.FloatDistribution(1e-3, 1, log=True)`. The values
        of the seed (`search.over`) are those that a trial is judged over. `search` gives the sampler's name,
        or a mapping with its settings: `search={"name": "tpe", "trials": 50, "pruner": "hyperband"}`.

    Returns
    -------
    Search
        The recorded search, with its trials, its best and what they tell.

    Raises
    ------
    RequestError
        If a key, a value or a range is wrong; then nothing is run or recorded.

    Examples
    --------
    >>> import nnexp
    >>> from optuna.distributions import FloatDistribution
    >>> found = nnexp.search(
    ...     dataset="xor", learning_rate=FloatDistribution(0.1, 5, log=True), hidden=[[2], [4]],
    ...     seed=range(5), epochs=200, search={"trials": 20}, figures=False,
    ... )
    >>> len(found.trials), found.trials["state"].unique().tolist()
    (20, ['complete'])
    """
    overrides, source = typed(keys, sweeps=True)
    with compose.loading() as loader:
        with plain_errors():
            parse(overrides)
            config = loader.load_configuration("config", overrides, RunMode.MULTIRUN, from_shell=False)
        from nnexp.pipeline.search import loop, plan  # imports Optuna

        name = config.hydra.runtime.choices.get("experiment")
        asked = plan.planned(loader, config, overrides, name, source)
        _refuse_plan(asked.request)
        done = loop.search(asked)
    assert done is not None  # only a plan is none
    return Search(open_store(asked.config.tracking_uri, create=False), done.search_id, done.failures)


def load_study(search: str, *, tracking_uri: str | None = None) -> Study:
    """Load a recorded search as a study of Optuna, for Optuna's own plots and dashboard.

    Parameters
    ----------
    search
        The search: its id, the beginning of its id, or `last`.
    tracking_uri
        The store; if None, MLFLOW_TRACKING_URI or the default store.

    Returns
    -------
    optuna.Study
        The trials that have ended, in their order. The user attribute `run_keys` has the keys of a trial's
        runs, which are in the column `run_key` of `nnexp.load_runs`.

    Raises
    ------
    RequestError
        If there is no such search.

    Examples
    --------
    >>> import nnexp
    >>> from optuna.distributions import FloatDistribution
    >>> rate = FloatDistribution(0.1, 5)
    >>> few = {"trials": 3, "confirm": 0}
    >>> found = nnexp.search(dataset="and", learning_rate=rate, epochs=50, search=few, figures=False)
    >>> study = nnexp.load_study(found.sweep_id)
    >>> len(study.trials), study.direction.name
    (3, 'MINIMIZE')
    """
    store = open_store(tracking_uri, create=False)
    parent = get_sweep(store, whole_id(store, search, "sweep"))
    found = None if parent is None else find_search(store, parent)
    if parent is None or found is None:
        raise RequestError(f"{shortened(search)!r} is not the id of a search; nnexp search records one")
    from nnexp.analysis.study import study_of  # imports Optuna

    return study_of(found, parent.name)


def rerun(run: str | Run, *, tracking_uri: str | None = None) -> Rerun:
    """Train a recorded run again, compare it bit by bit, and record the verdict.

    Parameters
    ----------
    run
        A run, its id, the beginning of its id, or `last`.
    tracking_uri
        The store; if None, MLFLOW_TRACKING_URI or the default store.

    Returns
    -------
    Rerun
        The verdict, `identical` or `differs`, and what differs.

    Raises
    ------
    RequestError
        If there is no such run, or if it cannot be trained again.

    Examples
    --------
    >>> import nnexp
    >>> run = nnexp.train(dataset="and", epochs=100, figures=False, model=False)
    >>> nnexp.rerun(run.run_id).verdict
    'identical'
    """
    if isinstance(run, Run):
        store, run_id = run.store, run.run_id
    else:
        store = open_store(tracking_uri, create=False)
        run_id = whole_id(store, run, "run")
    subject = Subjects(kept_in(store)).subject(find_run(store, run_id))
    ((subject, trained, verdict),) = again.verify([subject])
    new_id = None if trained is None else again.record_run(store, subject, trained, verdict)
    word = "identical" if verdict.is_identical else "differs"
    return Rerun(run_id, word, verdict.difference, verdict.causes, verdict.notes, new_id)


def _refuse_plan(request: Request) -> None:
    if request.plan:
        raise RequestError("plan=true only prints what there is to do: use it with nnexp train")
