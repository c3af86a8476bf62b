"""Pictures of runs: DataFrame or network in, matplotlib Figure out. Nothing is shown or saved here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from nnexp.analysis.plots.curves import curves
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

__all__ = ["check_suffix", "of_run", "of_summary", "of_sweep", "png", "saved", "surface_animation"]


def of_run(
    model: Model,
    dataset: Dataset,
    epochs: ArrayLike,
    values: Mapping[str, ArrayLike],
    title: str,
    kept: Mapping[int, Layers] | None = None,
    only: str | None = None,
) -> dict[str, Figure]:
    """One run's figures by name: its curves and weights, with two inputs its surface, and over training too
    where more weights were `kept` by epoch than the first and the last; a tiny network is drawn.

    `only` draws the figure of this name; raises RequestError where there is none such.
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
    return drawn(draw, only)


def of_sweep(
    runs: pd.DataFrame, history: pd.DataFrame | None, metric: str = "loss", only: str | None = None
) -> dict[str, Figure]:
    """A sweep's figures by name: those that suit what varies in it besides the seed.

    `runs` as of `load_runs`, `history` as of `load_history`; its epochs may be thinned, as they are drawn
    as they come, and without it there are no curves. Empty where no run has a value of the metric. `only`
    draws the figure of this name; raises RequestError where there is none such.
    """
    from nnexp.analysis.plots import choice  # imports pandas, which a run alone does without

    return choice.of_sweep(runs, history, metric, only)


def of_summary(runs: pd.DataFrame, by: Sequence[str], metric: str = "loss", over: str = "seed") -> Figure:
    """What a summary by these params says, in one figure: lines where one param is a number, a heat map
    for two numbers or two words, else every run's value by group. Raises RequestError as `summarize`."""
    from nnexp.analysis.plots import choice

    return choice.of_summary(runs, by, metric, over)
