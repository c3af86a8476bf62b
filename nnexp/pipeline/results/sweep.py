"""Define a recorded sweep: many trained networks."""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from nnexp.analysis import plots
from nnexp.analysis.report.findings import Findings
from nnexp.analysis.report.pictures import sweep_figures
from nnexp.analysis.report.write import check_path, write_page
from nnexp.analysis.summary import deciding, finished, mixed, overall, summarize, varying
from nnexp.analysis.summary_table import marked
from nnexp.config.errors import RequestError
from nnexp.pipeline.promote import chosen, of_population
from nnexp.pipeline.results.run import Run, titled
from nnexp.tracking.experiments import get_experiment
from nnexp.tracking.find import get_sweep
from nnexp.tracking.population import get_population
from nnexp.tracking.read import read_history, read_runs
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store
from nnexp.tracking.view import CHARTS

log = logging.getLogger("nnexp")

# How many rows of a summary a notebook shows.
MAX_ROWS = 50


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
        if name is not None and by is not None:
            raise RequestError("by is only for the figure of the summary, which has no name: give name or by")
        if name is not None:
            return self.figures(name, metric)[name]
        done = self._finished()
        return plots.of_summary(done, varying(done) if by is None else by, metric or deciding(done))

    def figures(self, only: str | None = None, metric: str | None = None) -> dict[str, Figure]:
        """Draw all figures that the sweep records, or the one of this name, by a metric; return them by name.

        Raises RequestError.
        """
        found = Findings.read(self.store, self._record, metric)
        if found.summary is None:
            raise self._none()
        return sweep_figures(self.store, found, only)

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

    def promote(
        self, best: int | None = None, worst: int | None = None, where: str | None = None
    ) -> list[Run]:
        """Make members of a population runs of their own, with curves, weights, figures and a model.

        Parameters
        ----------
        best, worst
            How many of the best and of the worst members, by the metric that a summary chooses.
        where
            Only members that satisfy this condition, such as `"learning_rate > 0.1"`.

        Returns
        -------
        list of Run
            The runs, the best first.

        Raises
        ------
        RequestError
            If the sweep is not recorded as a table, if nothing is chosen, or if a member, trained again, is
            not the network that was recorded.
        """
        found = get_population(self.store, self.sweep_id)
        done = of_population(self.store, found, chosen(found, best, worst, where))
        for one in done:
            if one.run_id is None:
                raise RequestError(f"member {one.member_id}: {one.reason}")
        return [Run(self.store, one.run_id) for one in done if one.run_id is not None]

    def _finished(self) -> pd.DataFrame:
        done = finished(self.runs)
        if done.empty:
            raise self._none()
        return done

    def _none(self) -> RequestError:
        return RequestError(f"sweep {self.sweep_id}: none of its runs finished")

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
        return titled(f"{self.name}{more}", shown, self.figure())
