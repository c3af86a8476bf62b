"""Choose the figures that suit what varies in a set of runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nnexp.analysis.plots import facets
from nnexp.analysis.plots.medians import median_curves
from nnexp.analysis.plots.solved import solved_curves
from nnexp.analysis.plots.style import drawable, drawn
from nnexp.analysis.plots.sweeps import heat_map, over_seeds, slices, sweep_lines
from nnexp.analysis.summary import finished, summarize, varying

# More groups than this come from a search over random points, not from a grid.
MAX_GROUPS = 200


def of_sweep(
    runs: pd.DataFrame,
    history: pd.DataFrame | None,
    metric: str = "loss",
    only: str | None = None,
    table: pd.DataFrame | None = None,
    curved: pd.DataFrame | None = None,
) -> dict[str, Figure]:
    """Draw the figures of a sweep; see `plots.of_sweep`."""
    runs, draw = finished(runs), dict[str, Callable[[], Figure]]()
    if metric in runs and _is_drawn(runs, metric):
        draw = _drawings(runs, history, metric, table, runs if curved is None else curved)
    return drawn({re.sub(r"[^\w.-]", "_", name): figure for name, figure in draw.items()}, only)


def _drawings(
    runs: pd.DataFrame,
    history: pd.DataFrame | None,
    metric: str,
    summary: pd.DataFrame | None,
    curved: pd.DataFrame,
) -> dict[str, Callable[[], Figure]]:
    """Return a function that draws each figure of a sweep, by the figure's name."""
    by, loss = varying(runs), facets.loss_name(runs)
    table = summarize(runs, by, metric) if summary is None else summary
    draw = dict[str, Callable[[], Figure]]()
    if facets.count(runs, by) < len(runs):
        draw[f"{metric}_over_seeds"] = lambda: over_seeds(runs, by, metric, loss=loss, table=table)
    if history is not None and (history["metric"] == metric).any():
        draw[f"{metric}_curves"] = lambda: _over_training(median_curves, curved, history, by, metric)
        rows = "val_" if metric.startswith("val_") else ""
        if (history["metric"] == f"{rows}accuracy").any():
            draw["solved_curves"] = lambda: _over_training(
                solved_curves, curved, history, by, f"{rows}accuracy"
            )
    found = _found(runs, by)
    if found is not None:
        x, line, panels = found
        draw[f"{metric}_by_{x}"] = lambda: sweep_lines(table, x, line, panels, metric=metric, loss=loss)
        if line is not None:
            draw[f"{metric}_heat_map"] = lambda: heat_map(table, x, line, panels, metric, loss)
    elif by:
        draw[f"{metric}_slices"] = lambda: slices(runs, by, metric, loss)
    return draw


def of_summary(runs: pd.DataFrame, by: Sequence[str], metric: str = "loss", over: str = "seed") -> Figure:
    """Draw a summary as one figure; see `plots.of_summary`."""
    table = summarize(runs, by, metric)
    by = list(table.columns[: len(by)])  # as column names: the param `loss` is params.loss
    runs, loss = finished(runs), facets.loss_name(runs)
    found = _found(runs, by)
    if found is None:
        return over_seeds(runs, by, metric, over, loss, table)
    if found.line is not None and facets.is_square(runs, found):
        return heat_map(table, found.x, found.line, found.panels, metric, loss)
    return sweep_lines(table, *found, metric=metric, loss=loss)


def _is_drawn(runs: pd.DataFrame, metric: str) -> bool:
    """Return whether any run that did not diverge has a value that can be drawn."""
    return bool(np.isfinite(drawable(runs.loc[runs["outcome"] != "diverged", metric])).any())


def _found(runs: pd.DataFrame, by: Sequence[str]) -> facets.Arrangement | None:
    """Return which param is which part of the figure; None if nothing varies or there are too many groups.

    There are too many for lines if the values were drawn at random.
    """
    if not by or facets.count(runs, by) > MAX_GROUPS:
        return None
    return facets.arrangement(runs, by)


def _over_training(
    draw: Callable[..., Figure], runs: pd.DataFrame, history: pd.DataFrame, by: Sequence[str], metric: str
) -> Figure:
    """Draw the curves of all groups, or of the best ones if all would take too many panels."""
    line = facets.line_of(runs, by)
    panels = [name for name in by if name != line]
    if facets.count(runs, panels) <= facets.MAX_PANELS:
        return draw(runs, history, line, panels, metric)
    best, named = facets.best_groups(runs, by, metric, facets.MAX_LINES)
    return draw(best, history, named, [], metric)
