"""Draw the share of networks that have solved their task, over training."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnexp.analysis import survival
from nnexp.analysis.plots import style
from nnexp.analysis.plots.facets import MAX_LINES, Levels, groups, norm_of_levels, panel_title, styles
from nnexp.analysis.plots.medians import parts_of


@style.styled
def solved_curves(
    runs: pd.DataFrame,
    history: pd.DataFrame,
    line: str | None,
    panels: Sequence[str] = (),
    metric: str = "accuracy",
) -> Figure:
    """Draw the share of runs that have reached an accuracy of 1 against completed epochs, with its 95% band.

    It is Kaplan and Meier's estimate: see `survival`. There is a line for each value of `line` and a panel
    for each combination of the values of `panels`; with more than MAX_LINES lines there are no bands. A dot
    is the median time to solve.
    """
    named = "all runs" if line is None else line
    runs = runs.assign(**({named: "all runs"} if line is None else {}))
    levels = Levels.of(runs, named)
    is_many = len(levels.values) > MAX_LINES
    title = "" if line is None else style.plain(line, 60)
    right = 0.25 if line is None else 1.15 if is_many else style.legend_room(levels.texts, title)
    lined = list(groups(runs, panels))
    room = style.Room(right=right, top=0.75 if panels else 0.45)
    figure, axes = style.grid(len(lined), room, 3.2 if len(lined) == 1 else 2.1)
    looks = [look | {"marker": ""} for look in styles(levels)]
    for ax, (key, rows) in zip(axes, lined, strict=True):
        for look, part in zip(looks, parts_of(rows, levels), strict=True):
            found = survival.times(part, history, metric)
            if found.empty:
                continue
            curve = survival.curve(found)
            ax.step(curve["epoch"], curve["share"], where="post", **look)
            if not is_many:
                low, high = curve["low"], curve["high"]
                ax.fill_between(
                    curve["epoch"], low, high, step="post", color=look["color"], alpha=0.14, linewidth=0
                )
            ax.plot([survival.median_epoch(found)], [0.5], "o", color=look["color"], markersize=4)
        if panels:
            panel_title(ax, panels, key)
        ax.set_ylim(-0.03, 1.03)
        ax.xaxis.set_major_locator(style.ticks(4, whole=True))
    style.label_below(axes, "completed epochs")
    style.label_left(axes, "share solved")
    band = "" if is_many else ", 95% band"
    style.heading(figure, f"share of runs with {metric} 1 while training{band}; dots: median")
    if line is not None and is_many:
        style.colorbar(
            figure, ScalarMappable(norm_of_levels(levels), style.SEQUENTIAL), axes, style.plain(line)
        )
    elif line is not None:
        style.legend(figure, [Line2D([], [], **look) for look in looks], levels.texts, title, room)
    return figure
