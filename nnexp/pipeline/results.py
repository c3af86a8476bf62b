"""Define what the Python API returns: a recorded run, sweep or rerun, read from the store on demand."""

from __future__ import annotations

import base64
import html
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nnexp.analysis import plots
from nnexp.analysis.report.pictures import MAX_ASKED, drawn_metrics, epochs_to_draw
from nnexp.analysis.report.write import check_path, write_page
from nnexp.analysis.summary import deciding, finished, mixed, overall, summarize, varying
from nnexp.analysis.summary_table import marked
from nnexp.config.errors import RequestError
from nnexp.config.run import NOT_RESULT, RunConfig
from nnexp.dataset.load import Dataset
from nnexp.network.weights import Model
from nnexp.pipeline.artifacts import read_back, without_test_rows
from nnexp.pipeline.identity import run_name
from nnexp.pipeline.rerun.subject import Subjects, find_run, kept_in
from nnexp.tracking.experiments import get_experiment
from nnexp.tracking.find import get_run, get_sweep, read_model
from nnexp.tracking.read import read_history, read_runs
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store
from nnexp.tracking.view import CHARTS

log = logging.getLogger("nnexp")

# How many rows of a summary a notebook shows.
MAX_ROWS = 50


class Run:
    """A recorded run: one trained network.

    Attributes
    ----------
    run_id : str
        The id that the MLflow UI and every verb of the command line take.
    name : str
        The run's name, such as `xor lr=0.5 init=normal seed=3`.
    loss, accuracy : float
        The last values; the last finite ones if the run diverged. `accuracy` is None for a regression.
    metrics : dict
        The last value of every metric, such as `val_loss`, `test_loss` or `best_epoch`.
    epochs : int
        The number of epochs for which the network was trained; with patience, the best epoch.
    outcome : str
        `converged`, `diverged` or `finished`.
    params : dict
        Every key that can change the result, with its typed value. Raises RequestError if the data set cannot
        be found any more.
    history : pandas.DataFrame
        The run's curves.
    network : Model
        The trained network.

    Examples
    --------
    >>> import nnexp
    >>> run = nnexp.train(dataset="and", seed=1, epochs=100, figures=False, model=False)
    >>> run.name, run.epochs, run.params["learning_rate"]
    ('and lr=0.1 init=normal seed=1', 100, 0.1)
    >>> list(run.history.columns)
    ['run_id', 'metric', 'epoch', 'value']
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self._record = store, get_run(store, run_id)
        self.run_id = run_id
        self.name = self._record.name
        self.loss = self._record.metrics.get("loss", math.nan)
        self.accuracy = self._record.metrics.get("accuracy")
        self.metrics = dict(self._record.metrics)
        self.outcome = self._record.tags["nnexp.outcome"]

    @property
    def epochs(self) -> int:
        return int(self.history["epoch"].max())

    @property
    def params(self) -> dict[str, Any]:
        leaves = self._trained[0].leaves()
        return {key: value for key, value in leaves.items() if key not in NOT_RESULT and value is not None}

    @cached_property
    def history(self) -> pd.DataFrame:
        """The run's curves, as `nnexp.load_history` returns them: columns run_id, metric, epoch, value."""
        metrics = [name for name in CHARTS if name in self._record.metrics]
        return read_history(self.store, pd.DataFrame({"run_id": [self.run_id]}), metrics)

    @cached_property
    def network(self) -> Model:
        """The trained network; `network.predict` takes a DataFrame with the features among its columns."""
        return read_model(self.store, self._record)

    def figure(self, name: str = "curves") -> Figure:
        """Draw a figure of the run.

        Parameters
        ----------
        name
            `curves` or `weights`; with two inputs also `decision_surface` and, if weights were kept while
            training, `surface_over_training`; for a tiny network also `network`.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        RequestError
            If the run has no figure of this name, or its data set cannot be found any more.
        """
        config, dataset = self._trained
        run = read_back(self.store, self.run_id, config, dataset, self.outcome)
        title = f"{run_name(config, dataset)}, {self.outcome}"
        shown = without_test_rows(dataset, config)
        return plots.of_run(run.model, shown, run.epochs, run.curves, title, run.kept, name)[name]

    @cached_property
    def _trained(self) -> tuple[RunConfig, Dataset]:
        """The run's configuration and data set. Raises RequestError if the data set cannot be found."""
        subject = Subjects(kept_in(self.store)).subject(find_run(self.store, self.run_id))
        if subject.data.dataset is None:
            raise RequestError(f"run {self.run_id}: {subject.data.changed}")
        return subject.config, subject.data.dataset

    def __repr__(self) -> str:
        """Return one line: `<run 1f0c…: xor lr=0.5 init=normal seed=3, loss 0.0003, converged>`."""
        return f"<run {self.run_id}: {self.name}, loss {self.loss:.4g}, {self.outcome}>"

    def _repr_html_(self) -> str:
        values = {"run_id": self.run_id, "loss": f"{self.loss:.4g}"}
        if self.accuracy is not None:
            values["accuracy"] = f"{self.accuracy:.3g}"
        values |= {"epochs": str(self.epochs), "outcome": self.outcome}
        return _titled(self.name, pd.DataFrame([values]), self.figure())


class Sweep:
    """A recorded sweep: many trained networks.

    Attributes
    ----------
    sweep_id : str
        The id that the MLflow UI and every verb of the command line take.
    name : str
        The sweep's title.
    runs : pandas.DataFrame
        One row per run, as `nnexp.load_runs` returns them.
    history : pandas.DataFrame
        The curves of all runs.
    best : Run
        The run with the lowest last `val_loss` if there is a validation split, else the lowest last `loss`.
    failures : list of (str, str)
        The name of each run that failed, and the reason.

    Examples
    --------
    >>> import nnexp
    >>> sweep = nnexp.sweep(dataset="and", learning_rate=[0.1, 1], seed=range(3), epochs=100)
    >>> sweep.name, len(sweep), sweep.failures
    ('sweep: 6 runs over learning_rate, seed', 6, [])
    >>> sweep.best.params["learning_rate"]
    1.0
    """

    def __init__(self, store: Store, sweep_id: str, failures: Sequence[tuple[str, str]]) -> None:
        found = get_sweep(store, sweep_id)
        if found is None:
            raise RequestError(f"no sweep {sweep_id!r} in this store")
        self.store: Store = store
        self._record: Detail = found
        self.sweep_id = sweep_id
        self.name = found.name
        self.failures = list(failures)

    @cached_property
    def runs(self) -> pd.DataFrame:
        place = get_experiment(self.store, self._record.experiment_id)
        return read_runs(self.store, place, self.sweep_id)

    @cached_property
    def history(self) -> pd.DataFrame:
        """All curves of all runs, as `nnexp.load_history` returns them: run_id, metric, epoch, value."""
        return read_history(self.store, self.runs, [name for name in CHARTS if name in self.runs])

    @cached_property
    def best(self) -> Run:
        """The run with the lowest last `val_loss`, or `loss` if there is no validation split.

        Raises RequestError if every run failed or diverged.
        """
        runs = finished(self.runs)
        runs = runs[runs["outcome"] != "diverged"]
        if runs.empty:
            raise RequestError(f"sweep {self.sweep_id}: none of its runs finished without diverging")
        order = [deciding(runs), "run_name", "run_key"]
        return Run(self.store, str(runs.sort_values(order)["run_id"].iloc[0]))

    def summary(
        self,
        by: Sequence[str] | None = None,
        metric: str | None = None,
        *,
        rank: str = "median",
        threshold: float | None = None,
    ) -> pd.DataFrame:
        """Summarise the runs, one row per group.

        Parameters
        ----------
        by
            Params to group by; if None, all that vary except the seed.
        metric
            The metric whose last value is summarised; if None, `val_loss` if there is a validation split,
            else `loss`.
        rank
            What ranks the groups: `median`, `iqm`, `mean` or `solved`.
        threshold
            If given, adds the column `epochs_to`: the median number of epochs until the metric reaches it.

        Returns
        -------
        pandas.DataFrame
            As `nnexp.summarize` returns it: counts, median, iqm, mean, intervals, shares, rank, standing.

        Raises
        ------
        RequestError
            If a param or the metric is unknown, or if no run finished.
        """
        done = self._finished()
        by = varying(done) if by is None else by
        metric = deciding(done) if metric is None else metric
        history = None if threshold is None else read_history(self.store, done, [metric])
        table = summarize(done, by, metric, rank=rank, history=history, threshold=threshold)
        if others := mixed(done, by):
            log.info(f"note: each row mixes different {', '.join(others)}; add them to by")
        return table

    def figure(
        self, name: str | None = None, *, by: Sequence[str] | None = None, metric: str | None = None
    ) -> Figure:
        """Draw a figure of the sweep.

        Parameters
        ----------
        name
            A figure that the sweep records, such as `loss_curves` or `loss_heat_map`; if None, a figure of
            the summary.
        by
            Params to group the summary by; if None, all that vary except the seed.
        metric
            The metric whose last value is drawn; if None, `val_loss` if there is a validation split, else
            `loss`.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        RequestError
            If the sweep has no figure of this name, if a param or the metric is unknown, or if no run
            finished.
        """
        done = self._finished()
        metric = deciding(done) if metric is None else metric
        if name is None:
            return plots.of_summary(done, varying(done) if by is None else by, metric)
        if by is not None:
            raise RequestError("by is only for the figure of the summary, which has no name: give name or by")
        history = None
        if self.store.is_known or len(done) <= MAX_ASKED:
            history = read_history(self.store, done, drawn_metrics(done, metric), epochs_to_draw(done))
        return plots.of_sweep(done, history, metric, name)[name]

    def report(self, path: str | PathLike[str] = "report.html") -> Path:
        """Write the sweep's report: one HTML file that loads no other file.

        Parameters
        ----------
        path
            The file; its name must end in .html.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        RequestError
            If the file cannot be written.
        """
        path = Path(path)
        check_path("report", path)
        write_page(self.store, self._record, path, "report")
        return path

    def _finished(self) -> pd.DataFrame:
        done = finished(self.runs)
        if done.empty:
            raise RequestError(f"sweep {self.sweep_id}: none of its runs finished")
        return done

    def __len__(self) -> int:
        return len(finished(self.runs))

    def __repr__(self) -> str:
        """Return one line: `<sweep 1f0c…: sweep: 120 runs over learning_rate, init, seed>`."""
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"<sweep {self.sweep_id}: {self.name}{failed}>"

    def _repr_html_(self) -> str:
        table = overall(self.runs)
        if table is None:
            return html.escape(repr(self))
        shown = pd.DataFrame(marked(table)).head(MAX_ROWS)
        more = f" ({len(table)} rows; sweep.summary() has all)" if len(table) > MAX_ROWS else ""
        return _titled(f"{self.name}{more}", shown, self.figure())


@dataclass(frozen=True, repr=False)
class Rerun:
    """A recorded run that was trained again and compared bit by bit.

    Attributes
    ----------
    verdict : str
        `identical` or `differs`.
    difference : str or None
        The first difference; None if there is none.
    causes : tuple of str
        The likely causes, the likeliest first.
    notes : tuple of str
        Further remarks.
    run_id : str
        The run that was trained again.
    recorded_as : str or None
        The id of the rerun's own record; None if nothing was trained or the store cannot be written to.

    Examples
    --------
    >>> import nnexp
    >>> run = nnexp.train(dataset="and", seed=1, epochs=100, figures=False, model=False)
    >>> again = nnexp.rerun(run)
    >>> again.verdict, again.difference, again.causes
    ('identical', None, ())
    """

    run_id: str
    verdict: str
    difference: str | None
    causes: tuple[str, ...]
    notes: tuple[str, ...]
    recorded_as: str | None

    def __repr__(self) -> str:
        """Return one line: `<rerun of 1f0c…: identical>`."""
        return f"<rerun of {self.run_id}: {self.verdict}{f': {self.difference}' if self.difference else ''}>"


def _titled(title: str, table: pd.DataFrame, figure: Figure) -> str:
    """Return a heading, a table and a figure as HTML, with all texts escaped."""
    source = f"data:image/png;base64,{base64.b64encode(plots.png(figure)).decode()}"
    rows = table.to_html(index=False, border=0, escape=True)
    return f'<p><b>{html.escape(title)}</b></p>{rows}<img src="{source}" alt="{html.escape(title)}">'
