"""Draw the share of networks that have solved their task, over training."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnexp.analysis import survival
from nnexp.analysis.plots import facets, style
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
    runs, levels = facets.by_line(runs, line)
    keyed, title = None if line is None else levels, style.plain(levels.name, 60)
    lined = list(facets.groups(runs, panels))
    right = facets.key_width(keyed, levels.texts, title)
    room = style.Room(right=right, top=0.75 if panels else 0.45)
    figure, axes = style.grid(len(lined), room, 3.2 if len(lined) == 1 else 2.1)
    looks = [look | {"marker": ""} for look in facets.styles(levels)]
    ends = survival.ends(history, metric)
    for ax, (key, rows) in zip(axes, lined, strict=True):
        for look, part in zip(looks, parts_of(rows, levels), strict=True):
            found = survival.times_of(part, ends)
            if found.empty:
                continue
            curve = survival.curve(found)
            ax.step(curve["epoch"], curve["share"], where="post", **look)
            if not levels.are_many:
                low, high = curve["low"], curve["high"]
                ax.fill_between(
                    curve["epoch"], low, high, step="post", color=look["color"], alpha=0.14, linewidth=0
                )
            ax.plot([survival.median_epoch(found)], [0.5], "o", color=look["color"], markersize=4)
        if panels:
            facets.panel_title(ax, panels, key)
        ax.set_ylim(-0.03, 1.03)
        ax.xaxis.set_major_locator(style.ticks(4, whole=True))
    style.label_below(axes, "completed epochs")
    style.label_left(axes, "share solved")
    band = "" if levels.are_many else ", 95% band"
    style.heading(figure, f"share of runs with {metric} 1 while training{band}; dots: median")
    lines = [Line2D([], [], **look) for look in looks]
    facets.draw_key(figure, axes, keyed, lines, levels.texts, title, room)
    return figure
