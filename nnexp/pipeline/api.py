"""Train, sweep and rerun from Python, by the same path as the command line.

A keyword is a key of the command line. What one has recorded the other finds, and does not run again.
"""

from __future__ import annotations

import logging
from typing import Any

from nnexp.config.errors import RequestError
from nnexp.config.request import Request
from nnexp.pipeline import run as runner
from nnexp.pipeline import sweep as sweeper
from nnexp.pipeline.keywords import typed
from nnexp.pipeline.points import one_run, whole_sweep
from nnexp.pipeline.rerun import again
from nnexp.pipeline.rerun.subject import Subjects, find_run, kept_in
from nnexp.pipeline.results import Rerun, Run, Sweep
from nnexp.tracking.named import whole_id
from nnexp.tracking.store import open_store

log = logging.getLogger("nnexp")


def train(**keys: Any) -> Run:
    """Train and record one run, unless it is recorded: then that one is returned.

    Parameters
    ----------
    **keys
        Any key of `nnexp train`, such as `dataset="xor"`, `learning_rate=0.5` or `hidden=[4, 4]`; what is not
        given has its default. A mapping gives a group's options: `optimizer={"name": "adam", "beta1": 0.8}`,
        or `**{"optimizer.beta1": 0.8}`. `dataset` may be a DataFrame; then `target` names the column to
        predict, and `features` default to all others. Texts are taken as they are.

    Returns
    -------
    Run

    Raises
    ------
    RequestError
        If a key or a value is wrong; nothing is run or recorded then.

    Examples
    --------
    >>> import nnexp
    >>> run = nnexp.train(dataset="xor", learning_rate=0.5, epochs=5000, figures=False, model=False)
    >>> run.outcome, f"{run.loss:.4g}"
    ('converged', '0.0002886')
    >>> run.history.tail(1)[["metric", "epoch"]].values.tolist()
    [['loss', 5000]]

    A table of one's own:

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"length": [1.0, 2, 8, 9], "species": ["a", "a", "b", "b"]})
    >>> run = nnexp.train(dataset=frame, target="species", epochs=500, figures=False, model=False)
    >>> run.network.predict(pd.DataFrame({"length": [1.5, 8.5]}))["label"].tolist()
    ['a', 'b']
    """
    asked = typed(keys, sweeps=False)
    config, request = one_run(asked.overrides, asked.source)
    _refuse_plan(request)
    done = runner.run(config, request, asked.source)
    assert done is not None  # only a plan is none
    if done.is_old:
        log.info("this run was recorded before, and is not run again; force=True runs it again")
    return Run(open_store(config.tracking_uri, create=False), done.run_id)


def sweep(**keys: Any) -> Sweep:
    """Train and record every combination of several values, but for what is recorded.

    Parameters
    ----------
    **keys
        As for `train`. A list, a range or an array is several values; of a key whose value is a list, such as
        `hidden`, a list of lists is: `hidden=[[2], [4, 4]]`. `zip=["learning_rate", "epochs"]` takes ranges
        side by side, `exclude="init == 'ones' and seed > 3"` leaves points out, `force=True` runs again what
        is recorded, `name`, `question` and `tags` describe the sweep. `experiment` takes its ranges from an
        experiment's file.

    Returns
    -------
    Sweep
        A run that fails does not stop the others: `failures` has it.

    Raises
    ------
    RequestError
        If a key or a value is wrong; nothing is run or recorded then.

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
    asked = typed(keys, sweeps=True)
    configs, request, name = whole_sweep(asked.overrides, asked.source)
    _refuse_plan(request)
    done = sweeper.sweep(configs, request, name, asked.source)
    assert done is not None  # only a plan is none
    return Sweep(open_store(configs[0].tracking_uri, create=False), done.sweep_id, done.failures)


def rerun(run: str | Run, *, tracking_uri: str | None = None) -> Rerun:
    """Train a recorded run again, compare it to the bit, and record the verdict.

    Parameters
    ----------
    run
        A run, its id, the beginning of its id, or `last`.
    tracking_uri
        The store; MLFLOW_TRACKING_URI or the default store if None.

    Returns
    -------
    Rerun
        Its `verdict` is `identical` or `differs`.

    Raises
    ------
    RequestError
        If there is no such run, or it cannot be trained again.

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
    found, evidence = find_run(store, run_id)
    ((subject, trained, verdict),) = again.verify([Subjects(kept_in(store)).subject(evidence)])
    new_id = None if trained is None else again.record_run(store, found, subject, trained, verdict)
    word = "identical" if verdict.is_identical else "differs"
    return Rerun(run_id, word, verdict.difference, verdict.causes, verdict.notes, new_id)


def _refuse_plan(request: Request) -> None:
    if request.plan:
        raise RequestError("plan=true runs nothing, and only says what there is to do: nnexp train says it")
