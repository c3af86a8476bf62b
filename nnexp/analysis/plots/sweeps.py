"""Draw a sweep's results: a metric by the swept params, and its spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nnexp.analysis.plots import facets, style
from nnexp.analysis.samples import sign
from nnexp.analysis.summary import summarize

# The most that can be read: rows of dots, cells with numbers in them, panels of dots, dots in one of these.
MAX_ROWS, MAX_NUMBERS, MAX_SLICES, MAX_DOTS = 24, 60, 6, 5000
# On an axis of named places, the total width of the items side by side at one place; places are 1 apart.
SPREAD = 0.5


@style.styled
def sweep_lines(
    table: pd.DataFrame,
    x: str,
    line: str | None = None,
    panels: Sequence[str] = (),
    metric: str = "loss",
    loss: str = "",
) -> Figure:
    """Draw a summary's median with its 95% interval over the values of `x`.

    There is a line for each value of `line` and a panel for each combination of the values of `panels`. A
    cross at the top marks values where half of the runs or more diverged. With more than MAX_LINES lines
    there are no intervals. `table` is the result of `summary.summarize` by these params.
    """
    places = facets.Levels.of(table, x)
    levels = None if line is None else facets.Levels.of(table, line)
    looks: list[dict[str, Any]] = (
        [{"color": style.COLORS[0], "marker": "o"}] if levels is None else facets.styles(levels)
    )
    texts, title = ([], "") if levels is None else (levels.texts, style.plain(levels.name))
    is_many = levels is not None and levels.are_many
    right = facets.key_width(levels, texts, title)
    room = style.Room(right=right, top=0.75 if panels else 0.45)
    parts = list(facets.groups(table, panels))
    figure, axes = style.grid(len(parts), room, 3.2 if len(parts) < 4 else 2.1)
    drawn: dict[int, Any] = {}
    for ax, (key, part) in zip(axes, parts, strict=True):
        codes = np.zeros(len(part), dtype=int) if levels is None else levels.codes(part[levels.name])
        for i, look in enumerate(looks):
            if (rows := part[codes == i]).empty:
                continue
            at = _places(ax, places, rows[x], (i - (len(looks) - 1) / 2) / max(1, len(looks)))
            order = np.argsort(at)
            drawn[i] = _medians(ax, at[order], rows.iloc[order], look, places.is_numeric, not is_many)
            lost = at[~np.isfinite(rows["median"])]
            above = ax.get_xaxis_transform()
            ax.plot(lost, np.full(len(lost), 0.97), "x", color=look["color"], transform=above)
        _mark_places(ax, places)
        if panels:
            facets.panel_title(ax, panels, key)
    ends = ["median", "median_high", "median_low"]
    seen = [part.loc[:, ends].to_numpy(dtype=float).ravel() for _, part in parts]
    below = facets.scale_alike(axes, facets.panel_kinds(panels, [key for key, _ in parts]), seen)
    style.label_below(axes, style.plain(x))
    style.label_left(axes, style.measured(metric, loss) + ("\n(0 is below)" if below else ""))
    interval = ", 95% interval" if table["median_low"].notna().any() and not is_many else ""
    lost = "; x: half or more diverged" if np.isinf(table["median"]).any() else ""
    names = ", ".join([x, *([line] if line else []), *panels])
    style.heading(figure, f"{metric} by {names}: median{interval}{lost}")
    shown = sorted(drawn)
    labels = [texts[i] for i in shown] if texts else []
    facets.draw_key(figure, axes, levels, [drawn[i] for i in shown], labels, title, room)
    return figure


def _places(ax: Axes, places: facets.Levels, column: pd.Series, shift: float) -> Any:
    """Return the x coordinates of the values: numbers at their value, others one after the other.

    `shift` moves items of the same value apart, so that none hides another.
    """
    if not places.is_numeric or len(places.values) < 2:
        return places.codes(column) + SPREAD * shift
    numbers = column.to_numpy(dtype=float)
    values = np.array(places.values, dtype=float)
    if places.is_log:
        return numbers * np.min(values[1:] / values[:-1]) ** (0.25 * shift)
    return numbers + 0.25 * shift * np.min(np.diff(values))


def _mark_places(ax: Axes, places: facets.Levels) -> None:
    """Set the scale and the ticks of the x axis."""
    n = len(places.values)
    if not places.is_numeric or n < 2:
        ax.set_xlim(-0.6, n - 0.4)
        style.named_ticks(
            ax.xaxis, range(n), _short(places, style.inner_width(ax) / 6), style.inner_width(ax)
        )
        return
    if places.is_log:
        ax.set_xscale("log")
    few = n <= 8 and _has_room(places, style.inner_width(ax))
    if few:
        style.named_ticks(ax.xaxis, places.values, places.texts, style.inner_width(ax))
    elif places.is_log:
        style.log_ticks(ax.xaxis, places.values[0], places.values[-1])
    else:
        ax.xaxis.set_major_locator(style.ticks(6))


def _short(levels: facets.Levels, inches: float) -> list[str]:
    """Return the values as text, each cut to this width."""
    return [style.fitted(word, inches, style.SMALL) for word in levels.words]


def _has_room(places: facets.Levels, inches: float) -> bool:
    """Return whether ticks at all values have room for their labels without overlap."""
    values = np.array(places.values, dtype=float)
    numbers = np.log(values) if places.is_log else values
    gaps = np.diff(numbers) / (numbers[-1] - numbers[0]) * 0.9 * inches
    return bool((gaps > style.widest(places.texts) + 0.08).all())


def _medians(
    ax: Axes, at: Any, rows: pd.DataFrame, look: dict[str, Any], joined: bool, interval: bool
) -> Any:
    """Draw the medians, joined by a line and with intervals if asked; return the legend handle."""
    middle = style.drawable(rows["median"])
    low, high = style.drawable(rows["median_low"]), style.drawable(rows["median_high"])
    error = np.nan_to_num(np.abs(np.stack([middle - low, high - middle])))
    drawn = look if joined else look | {"linestyle": ""}
    if not drawn["marker"] and len(at) < 2:
        drawn = drawn | {"marker": "o"}
    if interval and np.any(error > 0):
        return ax.errorbar(at, middle, yerr=error, capsize=3, markersize=5, elinewidth=1, **drawn)
    return ax.plot(at, middle, markersize=5, **drawn)[0]


@style.styled
def heat_map(
    table: pd.DataFrame, x: str, y: str, panels: Sequence[str] = (), metric: str = "loss", loss: str = ""
) -> Figure:
    """Draw a summary's median by two params: a cell for each pair of values.

    There is a panel for each combination of the values of `panels`. Colours are logarithmic if medians span
    decades. The cell with the lowest median (for accuracy the highest) is framed. `table` is the result of
    `summary.summarize` by these params.
    """
    columns, rows = facets.Levels.of(table, x), facets.Levels.of(table, y)
    parts = list(facets.groups(table, panels))
    texts = _short(rows, 1.6)
    kinds = facets.panel_kinds(panels, [key for key, _ in parts])
    shared = len(set(kinds)) == 1
    gap = 0.35 + style.widest(texts) + (0.0 if shared else 0.75)
    room = style.Room(
        left=0.55 + style.widest(texts), right=1.15, top=0.75 if panels else 0.5, between=(gap, 0.95)
    )
    height = min(4.5, max(1.3, 0.38 * len(rows.values)))
    figure, axes = style.grid(len(parts), room, height)
    pooled = style.norm_of(style.drawable(table["median"]))
    for ax, (key, part) in zip(axes, parts, strict=True):
        cells = np.full((len(rows.values), len(columns.values)), np.nan)
        cells[rows.codes(part[y]), columns.codes(part[x])] = style.drawable(part["median"])
        norm = pooled if shared else style.norm_of(cells)
        image = ax.imshow(cells, cmap=style.SEQUENTIAL, norm=norm, aspect="auto", origin="lower")
        _number(ax, cells, norm)
        _frame_best(ax, cells, metric)
        ax.grid(False)
        style.named_ticks(ax.xaxis, range(len(columns.values)), _short(columns, 1.6), style.inner_width(ax))
        every = max(1, -(-len(texts) // max(1, int(height / 0.17))))
        ax.set_yticks(range(len(texts))[::every], texts[::every])
        if panels:
            facets.panel_title(ax, panels, key)
        if not shared:
            style.colorbar(figure, image, [ax], "")
    if shared:
        style.colorbar(figure, image, axes[: min(3, len(axes))], style.measured(metric, loss))
    style.label_below(axes, style.plain(x))
    style.label_left(axes, style.plain(y))
    best = "highest" if metric.endswith("accuracy") else "lowest"
    style.heading(figure, f"median {metric} by {x} and {y}; the {best} is framed")
    return figure


def _number(ax: Axes, cells: Any, norm: Any) -> None:
    """Write the median into each cell, if the cells are few and wide enough."""
    texts = {at: f"{cells[at]:.2g}" if np.isfinite(cells[at]) else "–" for at in np.ndindex(cells.shape)}
    if (
        cells.size > MAX_NUMBERS
        or style.widest(list(texts.values())) > style.inner_width(ax) / cells.shape[1] - 0.06
    ):
        return
    shades = matplotlib.colormaps[style.SEQUENTIAL](norm(cells))
    for (i, j), text in texts.items():
        light = np.isfinite(cells[i, j]) and shades[i, j, :3] @ (0.299, 0.587, 0.114) < 0.55
        ax.text(
            j, i, text, ha="center", va="center", fontsize=style.SMALL, color="white" if light else "black"
        )


def _frame_best(ax: Axes, cells: Any, metric: str) -> None:
    """Frame the cell with the lowest median, for accuracy the highest."""
    if np.isfinite(cells).any():
        best = np.nanargmax(cells) if metric.endswith("accuracy") else np.nanargmin(cells)
        i, j = np.unravel_index(best, cells.shape)
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=style.COLORS[1], lw=2.5))


@style.styled
def over_seeds(
    runs: pd.DataFrame,
    by: Sequence[str],
    metric: str = "loss",
    over: str = "seed",
    loss: str = "",
    table: pd.DataFrame | None = None,
) -> Figure:
    """Draw the metric of every run as a dot, in a row for each group of `by`, with the median as a bar.

    Of more than MAX_ROWS groups only the best are drawn, and of more than MAX_DOTS runs in a row so many of
    evenly spaced ranks. A single group is drawn as the share of runs at or below each value. `table` is the
    result of `summary.summarize` by these params, if it is known.
    """
    n = f"{len(runs):,} {facets.unit(runs)}" if not by else f"{runs[over].nunique():,} {over}s"
    if (count := facets.count(runs, by)) == 1:
        return _shares(runs, metric, loss, f"{metric} over {n}")
    title = f"{metric} over {n}, by {', '.join(by)}"
    table = summarize(runs, by, metric) if table is None else table
    if count > MAX_ROWS:
        worth = ((sign(metric) or 1) * table["median"]).fillna(np.inf)
        table = table.loc[worth.sort_values(kind="stable").index[:MAX_ROWS]]
        runs = runs.merge(table[list(by)], on=list(by))
        title += f": the best {MAX_ROWS} of {count:,}"
    keys = table[list(by)].itertuples(index=False, name=None)
    medians = dict(zip(map(_key, keys), style.drawable(table["median"]), strict=True))
    parts = list(facets.groups(runs, by))
    levels = [facets.Levels.of(runs, name) for name in by]
    texts = [", ".join(p.word(value) for p, value in zip(levels, key, strict=True)) for key, _ in parts]
    labels = [style.fitted(text, 2.6, style.SMALL) for text in texts]
    right = 0.9 if (runs["outcome"] == "diverged").any() else 0.25
    room = style.Room(left=0.35 + style.widest(labels), right=right)
    figure, (ax,) = style.grid(1, room, 0.24 * len(parts) + 0.2)
    everything = []
    for i, (key, rows) in enumerate(parts):
        values, _ = _dots(rows, metric)
        everything.append(values)
        look: dict[str, Any] = {"color": style.COLORS[0], "alpha": 0.6, "markeredgewidth": 0, "markersize": 5}
        ax.plot(values, np.full(len(values), i), "o", **look)
        if np.isfinite(middle := medians[key]):
            ax.plot([middle] * 2, [i - 0.36, i + 0.36], color=style.COLORS[1], lw=2.2)
        diverged = int((rows["outcome"] == "diverged").sum())
        if diverged:
            ax.annotate(
                f"{diverged} diverged",
                (1.01, i),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=style.SMALL,
            )
    _x_of_metric(ax, np.concatenate(everything), metric, loss)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(False, axis="x")
    style.heading(figure, title)
    return figure


def _key(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values of a group as `facets.groups` has them: None for a missing one."""
    return tuple(None if style.is_missing(value) else value for value in values)


def _shares(runs: pd.DataFrame, metric: str, loss: str, title: str) -> Figure:
    """Draw the share of runs at or below each value, with a dot for each run, or for MAX_DOTS of them."""
    figure, (ax,) = style.grid(1, style.Room(), 3.2)
    values, shares = _dots(runs, metric)
    ax.step(values, shares, where="post", color=style.COLORS[0], lw=1)
    ax.plot(values, shares, "o", color=style.COLORS[0], markersize=4)
    _x_of_metric(ax, values, metric, loss)
    ax.set(ylabel=f"share of {facets.unit(runs)} at or below", ylim=(0, 1.03))
    style.heading(figure, title)
    return figure


def _x_of_metric(ax: Axes, values: Any, metric: str, loss: str) -> None:
    """Scale and label an x axis that shows the metric."""
    below = style.scale(ax, "x", values)
    ax.set_xlabel(style.measured(metric, loss) + (" (0 is left of the axis)" if below else ""))


def _dots(rows: pd.DataFrame, metric: str) -> tuple[Any, Any]:
    """Return the finite values of the runs that did not diverge, sorted, and the share at or below each.

    Of more than MAX_DOTS values, as many of evenly spaced ranks.
    """
    values = style.drawable(rows.loc[rows["outcome"] != "diverged", metric])
    values = np.sort(values[np.isfinite(values)])
    shown = _evenly(len(values))
    return values[shown], (shown + 1) / max(1, len(values))


def _evenly(n: int) -> Any:
    """Return evenly spaced positions among n, with the first and the last: all, or MAX_DOTS."""
    return np.linspace(0, max(0, n - 1), min(n, MAX_DOTS)).round().astype(int)


@style.styled
def slices(runs: pd.DataFrame, params: Sequence[str], metric: str = "loss", loss: str = "") -> Figure:
    """Draw the metric of every run against each param on its own: a dot for each run, a star for the best.

    It suits a search in which no two runs have a param's value in common. Of more than MAX_SLICES params only
    the first are drawn, and of more than MAX_DOTS runs so many of evenly spaced ranks by the metric.
    """
    shown, n = list(params)[:MAX_SLICES], len(runs)
    runs = runs[runs["outcome"] != "diverged"]
    if len(runs) > MAX_DOTS:
        runs = runs.sort_values(metric, kind="stable").iloc[_evenly(int(runs[metric].notna().sum()))]
    figure, axes = style.grid(len(shown), style.Room(), 2.1)
    values = style.drawable(runs[metric])
    best = np.nanargmax(values) if metric.endswith("accuracy") else np.nanargmin(values)
    for ax, name in zip(axes, shown, strict=True):
        places = facets.Levels.of(runs, name)
        at = _places(ax, places, runs[name], 0.0)
        ax.plot(
            at,
            values,
            "o",
            color=style.COLORS[0],
            alpha=0.4 if len(runs) < 500 else 0.15,
            markeredgewidth=0,
            markersize=4,
        )
        ax.plot(at[best], values[best], "*", color=style.COLORS[1], markeredgecolor="white", markersize=15)
        _mark_places(ax, places)
        ax.set_xlabel(style.plain(name))
    below = facets.scale_alike(axes, [None] * len(axes), [values] * len(axes))
    style.label_left(axes, style.measured(metric, loss) + ("\n(0 is below)" if below else ""))
    style.heading(
        figure, f"{metric} of {len(runs):,} of {n:,} {facets.unit(runs)} by each param; the star is the best"
    )
    return figure
