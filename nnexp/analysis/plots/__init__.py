"""Draw runs and sweeps: DataFrame or network in, matplotlib Figure out. Nothing is shown or saved here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from nnexp.analysis.plots.curves import curves
from nnexp.analysis.plots.hidden import has_hidden_space, hidden_space
from nnexp.analysis.plots.style import check_suffix, drawn, png, saved
from nnexp.analysis.plots.surfaces import (
    decision_surface,
    has_surface,
    surface_animation,
    surface_over_training,
)
from nnexp.analysis.plots.weights import drawn_network, is_tiny, weights
from nnexp.dataset.load import Dataset
from nnexp.network.reference import Layers
from nnexp.network.weights import Model

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "check_suffix",
    "of_comparison",
    "of_run",
    "of_summary",
    "of_sweep",
    "png",
    "saved",
    "surface_animation",
]


def of_run(
    model: Model,
    dataset: Dataset,
    epochs: ArrayLike,
    values: Mapping[str, ArrayLike],
    title: str,
    kept: Mapping[int, Layers] | None = None,
    only: str | None = None,
    beside: tuple[Model, str] | None = None,
) -> dict[str, Figure]:
    """Draw the figures of one run.

    Parameters
    ----------
    model : Model
        The trained network.
    dataset : Dataset
        The data it was trained on.
    epochs : array of shape (points,)
        The completed epochs at which the curves were recorded.
    values : mapping of str to array of shape (points,)
        The curves by metric: `loss`, `val_loss`, `accuracy`, `val_accuracy`, `grad_norm`.
    title : str
        The heading of every figure.
    kept : mapping of int to Layers, optional
        The weights by epoch, if more of them were kept than the first and the last.
    only : str, optional
        Draw only the figure of this name.
    beside : tuple of Model and str, optional
        Another network of the same data set, and its name, whose hidden space is drawn beside this one's.

    Returns
    -------
    dict of str to Figure
        The figures by name: `curves` and `weights`; with two inputs also `decision_surface`, and with `kept`
        weights `surface_over_training`; for a tiny network also `network`, its neurons and edges; with hidden
        neurons `hidden_space`, the rows as the last hidden layer sees them.

    Raises
    ------
    RequestError
        If there is no figure named `only`.
    """
    draw: dict[str, Callable[[], Figure]] = {
        "curves": lambda: curves(epochs, values, title, model.network.loss),
        "weights": lambda: weights(model, title),
    }
    if has_surface(model):
        draw["decision_surface"] = lambda: decision_surface(model, dataset, title)
        if kept and len(kept) > 1:
            draw["surface_over_training"] = lambda: surface_over_training(model, dataset, kept, title)
    if is_tiny(model):
        draw["network"] = lambda: drawn_network(model, title)
    if has_hidden_space(model):
        named = [(model, "this run"), *([] if beside is None else [beside])]
        draw["hidden_space"] = lambda: hidden_space(named, dataset, title)
    return drawn(draw, only)


def of_sweep(
    runs: pd.DataFrame,
    history: pd.DataFrame | None,
    metric: str = "loss",
    only: str | None = None,
    table: pd.DataFrame | None = None,
    curved: pd.DataFrame | None = None,
) -> dict[str, Figure]:
    """Draw the figures that suit what varies in a sweep besides the seed.

    Parameters
    ----------
    runs : DataFrame
        The runs, as `load_runs` returns them.
    history : DataFrame or None
        Their curves, as `load_history` returns them, or only some of their epochs; None for no curves.
    metric : str
        The metric to draw.
    only : str, optional
        Draw only the figure of this name.
    table : DataFrame, optional
        The summary of the metric by all params that vary, if it is known.
    curved : DataFrame, optional
        Those of the runs whose curves the history has, with their `run_id`, if it has not all.

    Returns
    -------
    dict of str to Figure
        The figures by name. Empty if no finished run that did not diverge has a finite value of the metric.

    Raises
    ------
    RequestError
        If there is no figure named `only`.
    """
    from nnexp.analysis.plots import choice  # imports pandas, which the figures of one run do not need

    return choice.of_sweep(runs, history, metric, only, table, curved)


def of_summary(runs: pd.DataFrame, by: Sequence[str], metric: str = "loss", over: str = "seed") -> Figure:
    """Draw the summary of the runs by these params as one figure.

    Parameters
    ----------
    runs : DataFrame
        The runs, as `load_runs` returns them.
    by : sequence of str
        The params to group by.
    metric : str
        The metric to draw.
    over : str
        The param that is to vary within the groups.

    Returns
    -------
    Figure
        A heat map for two numbers or two words with at least 3 values each; else lines over one param; the
        value of every run by group if nothing varies, or if there are too many groups or panels.

    Raises
    ------
    RequestError
        If a name in `by` is not a param of the runs, or `metric` is not one of their metrics.
    """
    from nnexp.analysis.plots import choice

    return choice.of_summary(runs, by, metric, over)


def of_comparison(parts: Mapping[str, pd.DataFrame], metric: str, over: str = "seed") -> Figure:
    """Draw how the first of the parts differs from each other one, seed by seed.

    Parameters
    ----------
    parts : mapping of str to DataFrame
        The finished runs of each setting, by its name.
    metric : str
        The metric to draw.
    over : str
        The param by which runs are paired.

    Returns
    -------
    Figure
        A panel for each part but the first.
    """
    from nnexp.analysis.plots.differences import differences

    return differences(parts, metric, over)
