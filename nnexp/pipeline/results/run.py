"""Define a recorded run: one trained network."""

from __future__ import annotations

import base64
import html
import math
from functools import cached_property
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nnexp.analysis import plots
from nnexp.analysis.diagnosis import Diagnosis, Siblings
from nnexp.config.run import NOT_RESULT
from nnexp.network.weights import Model
from nnexp.pipeline.artifacts import Whole, run_figures
from nnexp.pipeline.diagnose import config_and_data, diagnosis_of, read_run, siblings_of
from nnexp.pipeline.networks import as_run, network_of
from nnexp.tracking.population import Member, get_network
from nnexp.tracking.read import read_history
from nnexp.tracking.store import Store
from nnexp.tracking.view import CHARTS


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
        self.store, self._record = store, get_network(store, run_id)
        self.run_id = run_id
        self.name = self._record.name
        self.loss = self._record.metrics.get("loss", math.nan)
        self.accuracy = self._record.metrics.get("accuracy")
        self.metrics = dict(self._record.metrics)
        self.outcome = self._record.tags["nnexp.outcome"]

    @property
    def epochs(self) -> int:
        if isinstance(self._record, Member):
            return int(self._record.row["last_epoch"])
        return int(self.history["epoch"].max())

    @property
    def params(self) -> dict[str, Any]:
        leaves = config_and_data(self.store, self.run_id)[0].leaves()
        return {key: value for key, value in leaves.items() if key not in NOT_RESULT and value is not None}

    @cached_property
    def history(self) -> pd.DataFrame:
        """The run's curves, as `nnexp.load_history` returns them: columns run_id, metric, epoch, value.

        A member of a population is trained again for them.
        """
        metrics = [name for name in CHARTS if name in self._record.metrics]
        if isinstance(self._record, Member):
            again = as_run(self.store, self._record).curves
            points = [(m, e, v) for m in sorted(metrics) for e, v in again[m]]
            table = pd.DataFrame(points, columns=["metric", "epoch", "value"])
            return table.assign(run_id=self.run_id)[["run_id", "metric", "epoch", "value"]]
        return read_history(self.store, pd.DataFrame({"run_id": [self.run_id]}), metrics)

    @cached_property
    def network(self) -> Model:
        """The trained network; `network.predict` takes a DataFrame with the features among its columns."""
        return network_of(self.store, self._record)

    def figure(self, name: str = "curves") -> Figure:
        """Draw a figure of the run.

        Parameters
        ----------
        name
            `curves` or `weights`; with two inputs also `decision_surface` and, if weights were kept while
            training, `surface_over_training`; for a tiny network also `network`; with hidden neurons
            `hidden_space`, for a run that did not solve its task beside one of the same setting that did.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        RequestError
            If the run has no figure of this name, or its data set cannot be found any more.
        """
        return self.figures(name)[name]

    def figures(self, only: str | None = None) -> dict[str, Figure]:
        """Draw all figures of the run, or the one of this name; return them by name. Raises RequestError."""
        solved = None
        if only in (None, "hidden_space") and (beside := self.siblings.example) is not None:
            solved = read_run(self.store, get_network(self.store, beside))
        return run_figures(self._whole, solved, only)

    def diagnosis(self) -> Diagnosis:
        """Say what is known of a network that did not solve its task: wrong rows, idle neurons, a plateau.

        Returns
        -------
        Diagnosis
            `wrong`, a DataFrame of the rows that it gets wrong; `dead`, `saturated` and `twins`, names of
            hidden neurons; `loss`, `grad_norm`, `epochs` and `plateau`; `texts()`, all of it in words.

        Raises
        ------
        RequestError
            If the data set cannot be found any more.

        Examples
        --------
        >>> import nnexp
        >>> run = nnexp.train(dataset="xor", init="ones", epochs=500, figures=False, model=False)
        >>> run.diagnosis().twins
        (('h1', 'h2'),)
        """
        return diagnosis_of(self._whole)

    @cached_property
    def siblings(self) -> Siblings:
        """The runs of its setting in its sweep or experiment: `n`, `solved`, and an `example` that solved."""
        return siblings_of(self.store, self._record)

    @cached_property
    def _whole(self) -> Whole:
        return read_run(self.store, self._record)

    def __repr__(self) -> str:
        """Return one line: `<run 1f0c…: xor lr=0.5 init=normal seed=3, loss 0.0003, converged>`."""
        return f"<run {self.run_id}: {self.name}, loss {self.loss:.4g}, {self.outcome}>"

    def _repr_html_(self) -> str:
        values = {"run_id": self.run_id, "loss": f"{self.loss:.4g}"}
        if self.accuracy is not None:
            values["accuracy"] = f"{self.accuracy:.3g}"
        values |= {"epochs": str(self.epochs), "outcome": self.outcome}
        return titled(self.name, pd.DataFrame([values]), self.figure())


def titled(title: str, table: pd.DataFrame, figure: Figure) -> str:
    """Return a heading, a table and a figure as HTML, with all texts escaped."""
    source = f"data:image/png;base64,{base64.b64encode(plots.png(figure)).decode()}"
    rows = table.to_html(index=False, border=0, escape=True)
    return f'<p><b>{html.escape(title)}</b></p>{rows}<img src="{source}" alt="{html.escape(title)}">'
