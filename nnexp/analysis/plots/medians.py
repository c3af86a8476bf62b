"""Draw the median curves of a metric over the training of a sweep's networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from nnexp.analysis.plots import facets, style


@style.styled
def median_curves(
    runs: pd.DataFrame,
    history: pd.DataFrame,
    line: str | None,
    panels: Sequence[str] = (),
    metric: str = "loss",
    over: str = "seed",
) -> Figure:
    """Draw the median of a metric, with the band between its quartiles, against completed epochs.

    There is a line for each value of `line` and a panel for each combination of the values of `panels`. If
    the history has the same metric of the other rows, training beside validation, its medians are dotted. The
    legend counts diverged runs; medians leave them out. With more than MAX_LINES lines there are no bands.
    `runs` is as `load_runs` returns it, `history` as `load_history` does.
    """
    runs, levels = facets.by_line(runs, line)
    keyed = None if line is None else levels
    lined = list(facets.groups(runs, panels))
    labels, title = _labels(runs, levels), style.plain(levels.name, 60)
    room = style.Room(right=facets.key_width(keyed, labels, title), top=0.75 if panels else 0.45)
    figure, axes = style.grid(len(lined), room, 3.2 if len(lined) == 1 else 2.1)
    points, other = (history[history["metric"] == name] for name in (metric, partner(metric)))
    looks, seen, handles = facets.styles(levels), [], {}
    for ax, (key, rows) in zip(axes, lined, strict=True):
        shown = []
        for i, part in enumerate(parts_of(rows, levels)):
            done = part.loc[part["outcome"] != "diverged", "run_id"]
            epochs, low, middle, high = _band(points[points["run_id"].isin(done)])
            if not len(epochs):
                continue
            look = looks[i] | {"marker": "o" if len(epochs) < style.MARKED else "", "markersize": 3}
            (handles[i],) = ax.plot(epochs, middle, **look, zorder=3)
            if not levels.are_many:
                ax.fill_between(epochs, low, high, color=looks[i]["color"], alpha=0.14, linewidth=0)
            beside, _, dotted, _ = _band(other[other["run_id"].isin(done)])
            if len(beside):
                ax.plot(beside, dotted, ":", color=looks[i]["color"], linewidth=1, zorder=2)
            shown += [low, middle, high, dotted]
        seen.append(np.concatenate(shown) if shown else np.empty(0))
        if panels:
            facets.panel_title(ax, panels, key)
    below = facets.scale_alike(axes, facets.panel_kinds(panels, [key for key, _ in lined]), seen)
    for ax in axes:
        ax.xaxis.set_major_locator(style.ticks(4, whole=True))
    style.label_below(axes, "completed epochs")
    style.label_left(
        axes, style.measured(metric, facets.loss_name(runs)) + ("\n(0 is below)" if below else "")
    )
    style.heading(figure, _what_is_shown(metric, runs, over, levels.are_many, not other.empty))
    lost = [Line2D([], [], **look) for look in looks]  # for values all of whose runs diverged
    lines = [handles.get(i, lost[i]) for i in range(len(lost))]
    facets.draw_key(figure, axes, keyed, lines, labels, title, room)
    return figure


def parts_of(rows: pd.DataFrame, levels: facets.Levels) -> list[pd.DataFrame]:
    """Split the rows by the levels' values, in order."""
    codes = levels.codes(rows[levels.name])
    return [rows[codes == i] for i in range(len(levels.values))]


def _labels(runs: pd.DataFrame, levels: facets.Levels) -> list[str]:
    """Return the lines' labels, each with the number of runs that diverged, if any."""
    diverged = [int((part["outcome"] == "diverged").sum()) for part in parts_of(runs, levels)]
    return [f"{text} ({n} diverged)" if n else text for text, n in zip(levels.texts, diverged, strict=True)]


def partner(metric: str) -> str:
    """Return the metric of the other rows: `val_loss` of `loss`, and the other way round."""
    return metric.removeprefix("val_") if metric.startswith("val_") else f"val_{metric}"


def _what_is_shown(metric: str, runs: pd.DataFrame, over: str, is_many: bool, has_other: bool) -> str:
    """Return the heading of the figure."""
    n = runs[over].nunique() if over in runs else len(runs)
    dotted = f"; dotted: {partner(metric)}" if has_other else ""
    if n < 2:
        return f"{metric} while training{dotted}"
    band = "" if is_many else ", quartiles"
    return f"{metric} while training: median over {n} {over}s{band}{dotted}"


def _band(points: pd.DataFrame) -> tuple[NDArray[np.float64], ...]:
    """Return (epochs, first quartile, median, third quartile) of the runs, each of shape (epochs,)."""
    if points.empty:
        return tuple(np.empty(0) for _ in range(4))
    values = pd.Series(style.drawable(points["value"].to_numpy()), dtype=float)
    found = values.groupby(points["epoch"].to_numpy()).quantile(np.array([0.25, 0.5, 0.75])).unstack()
    return found.index.to_numpy(dtype=float), *(found[q].to_numpy() for q in (0.25, 0.5, 0.75))
