"""Define what `nnexp.search` returns: a recorded search, read from the store on demand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

from nnexp.analysis.plots.search import of_search
from nnexp.analysis.search import confirmed, trials, verdict
from nnexp.config.errors import RequestError
from nnexp.pipeline.results.sweep import Sweep
from nnexp.tracking.searches import Searched, find_search

# The figures of a search itself; None is the first of them.
_FIGURES = (None, "search_history", "importances", "search_slices", "parallel_coordinates")


class Search(Sweep):
    """A recorded search: a sweep whose points are trials that Optuna asked for.

    Attributes
    ----------
    trials : pandas.DataFrame
        One row per trial that has ended, in their order: trial, state (`complete`, `pruned`, `failed` or
        `excluded`), epochs, value, and the params of the space.
    confirmed : pandas.DataFrame
        The best trials on fresh seeds, the best first: trial, n, median, its 95% interval low and high, and
        standing (`best`; `tied`, not to be told from it; `worse`).
    verdict : str
        What the search found, in one sentence.
    importances : dict
        Each param's share in what tells good trials from the others.

    Examples
    --------
    >>> import nnexp
    >>> rates, seeds = [0.1, 1, 5], range(5)
    >>> found = nnexp.search(dataset="and", learning_rate=rates, seed=seeds, epochs=100, search="grid")
    >>> found.trials["learning_rate"].sort_values().tolist()
    ['0.1', '1', '5']
    >>> int(found.confirmed["trial"].iloc[0]) in range(3)
    True
    """

    @cached_property
    def _found(self) -> Searched:
        found = find_search(self.store, self._record)
        if found is None:
            raise RequestError(f"sweep {self.sweep_id} is not a search")
        return found

    @property
    def trials(self) -> pd.DataFrame:
        return trials(self._found)

    @cached_property
    def confirmed(self) -> pd.DataFrame:
        return confirmed(self._found, self.runs)

    @property
    def verdict(self) -> str:
        return verdict(self._found, self.confirmed)

    @cached_property
    def importances(self) -> dict[str, float]:
        from nnexp.analysis.study import importances  # imports Optuna

        return importances(self._found)

    def figure(
        self, name: str | None = None, *, by: Sequence[str] | None = None, metric: str | None = None
    ) -> Figure:
        """Draw a figure: as of a sweep, or one of the search itself.

        Parameters
        ----------
        name
            `search_history` (also if None), `importances`, `search_slices` or `parallel_coordinates`; or a
            figure of a sweep.
        by, metric
            As for a sweep.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        RequestError
            If there is no figure of this name.
        """
        if name not in _FIGURES or by is not None or metric is not None:
            return super().figure(name, by=by, metric=metric)
        name = name or "search_history"
        return of_search(self._found, name)[name]
