"""Draw a search: the best value so far, what mattered, each param on its own and all of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnexp.analysis.plots import style
from nnexp.analysis.search import trials
from nnexp.config.space import Dimension
from nnexp.tracking.searches import Searched

# The most params that get a panel or an axis of their own.
MAX_PARAMS = 9
# How trials are drawn by what became of them.
LOOKS = {"complete": ("o", style.COLORS[0]), "pruned": ("x", style.COLORS[4])}


def of_search(found: Searched, only: str | None = None) -> dict[str, Figure]:
    """Draw the figures of a search; empty if no trial has a finite value."""
    from nnexp.analysis.study import importances  # imports Optuna

    table = trials(found)
    table = table[np.isfinite(style.drawable(table["value"].astype(float)))]
    if table.empty:
        return {}
    shown = list(found.dimensions)
    shares = importances(found)
    shown.sort(key=lambda d: -shares.get(d.name, 0.0))
    shown = shown[:MAX_PARAMS]
    draw: dict[str, Callable[[], Figure]] = {"search_history": lambda: history(found, table)}
    if shares:
        draw["importances"] = lambda: important(found, shares)
    draw["search_slices"] = lambda: slices(found, table, shown)
    if len(shown) > 1:
        draw["parallel_coordinates"] = lambda: parallel(found, table, shown)
    return style.drawn(draw, only)


def _is_low(found: Searched) -> bool:
    return found.metric.endswith("loss")


@style.styled
def history(found: Searched, table: pd.DataFrame) -> Figure:
    """Draw each trial's value and the best so far of the completed ones; pruned trials where they ended."""
    states = [state for state in LOOKS if (table["state"] == state).any()]
    room = style.Room(right=style.legend_room(["best so far", *states], ""), top=0.45)
    figure, (ax,) = style.grid(1, room, 3.0)
    handles = []
    for state in states:
        marker, color = LOOKS[state]
        some = table[table["state"] == state]
        handles += ax.plot(some["trial"], some["value"], marker, color=color, markersize=4, alpha=0.6)
    done = table[table["state"] == "complete"]
    best = done["value"].cummin() if _is_low(found) else done["value"].cummax()
    handles += ax.step(done["trial"], best, where="post", color=style.COLORS[1], linewidth=1.8)
    style.scale(ax, "y", table["value"].to_numpy(dtype=float))
    ax.xaxis.set_major_locator(style.ticks(8, whole=True))
    ax.set(xlabel="trial", ylabel=style.plain(found.metric))
    style.legend(figure, handles, [*states, "best so far"], "", room)
    over = style.plain(found.settings.get("over", "seed"))
    style.heading(figure, f"{found.metric} of each trial, the median over {over}, and the best so far")
    return figure


@style.styled
def important(found: Searched, shares: Mapping[str, float]) -> Figure:
    """Draw each param's share in what tells good trials from the others."""
    largest = sorted(shares.items(), key=lambda item: item[1])[-MAX_PARAMS * 2 :]
    names = [style.plain(name, 30) for name, _ in largest]
    room = style.Room(left=max(map(style.width, names)) + 0.25)
    figure, (ax,) = style.grid(1, room, 0.4 + 0.28 * len(names))
    ax.barh(range(len(names)), [share for _, share in largest], color=style.COLORS[0], height=0.6)
    for i, (_, share) in enumerate(largest):
        ax.text(share, i, f" {share:.0%}", va="center", fontsize=style.SMALL)
    ax.set_yticks(range(len(names)), names)
    ax.set_xlim(0, 1.08)
    ax.set_xlabel("share")
    ax.grid(False, axis="y")
    style.heading(figure, f"what tells trials of good {found.metric} from the others (PED-ANOVA)")
    return figure


@style.styled
def slices(found: Searched, table: pd.DataFrame, shown: Sequence[Dimension]) -> Figure:
    """Draw the value of every trial against each param on its own; the star is the best completed trial."""
    figure, axes = style.grid(len(shown), style.Room(), 2.1)
    values = table["value"].to_numpy(dtype=float)
    worth = np.where(table["state"] == "complete", values if _is_low(found) else -values, np.inf)
    best = int(np.argmin(worth))
    for ax, d in zip(axes, shown, strict=True):
        at = _places(ax, d, table[d.name])
        for state, (marker, color) in LOOKS.items():
            some = (table["state"] == state).to_numpy()
            ax.plot(at[some], values[some], marker, color=color, markersize=4, alpha=0.6)
        ax.plot(at[best], values[best], "*", color=style.COLORS[1], markeredgecolor="white", markersize=15)
        style.scale(ax, "y", values)
        ax.set_xlabel(style.plain(d.name))
    style.label_left(axes, style.plain(found.metric))
    crosses = "; crosses ended early" if (table["state"] == "pruned").any() else ""
    style.heading(
        figure, f"{found.metric} of {len(table)} trials by each param; the star is the best{crosses}"
    )
    return figure


def _places(ax: Axes, d: Dimension, values: pd.Series) -> NDArray[np.float64]:
    """Return where the values are on a panel's x axis, and give it ticks."""
    if d.kind == "choice":
        at = np.array([d.choices.index(str(value)) for value in values], dtype=float)
        ax.set_xlim(-0.5, len(d.choices) - 0.5)
        texts = [style.plain(text, 20) for text in d.choices]
        style.named_ticks(ax.xaxis, range(len(texts)), texts, style.inner_width(ax))
        return at + 0.3 * (np.arange(len(at)) / max(1, len(at) - 1) - 0.5)
    if d.log:
        ax.set_xscale("log")
        style.log_ticks(ax.xaxis, d.low, d.high)
    else:
        ax.xaxis.set_major_locator(style.ticks(4, whole=d.kind == "int"))
    return values.to_numpy(dtype=float)


@style.styled
def parallel(found: Searched, table: pd.DataFrame, shown: Sequence[Dimension]) -> Figure:
    """Draw every completed trial as a line across all params, coloured by its value; the best lie on top."""
    done = table[table["state"] == "complete"]
    room = style.Room(left=0.6, right=1.15, bottom=0.65)
    figure, (ax,) = style.grid(1, room, 3.0)
    worth = done["value"].to_numpy(dtype=float)
    norm = style.norm_of(worth)
    colors = colormaps[f"{style.SEQUENTIAL}{'' if _is_low(found) else '_r'}"]
    at = np.column_stack([_shares(d, done[d.name]) for d in shown])
    for i in np.argsort(-worth if _is_low(found) else worth):
        ax.plot(range(len(shown)), at[i], color=colors(norm(worth[i])), alpha=0.6, linewidth=1.1)
    ax.set_xlim(-0.1, len(shown) - 1 + 0.35)
    ax.set_ylim(-0.03, 1.03)
    width = style.inner_width(ax) / len(shown)
    ax.set_xticks(range(len(shown)), [style.fitted(style.plain(d.name), width, style.SMALL) for d in shown])
    ax.set_yticks([])
    ax.grid(False)
    for i, d in enumerate(shown):
        ax.axvline(i, color="black", linewidth=0.8)
        for place, text in _marks(d):
            box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.8}
            ax.text(i + 0.03, place, style.plain(text, 14), fontsize=style.SMALL, va="center", bbox=box)
    image = ScalarMappable(norm, colors)
    style.colorbar(figure, image, [ax], style.plain(found.metric))
    style.heading(figure, f"completed trials by all params and {found.metric}")
    return figure


def _shares(d: Dimension, values: pd.Series) -> NDArray[np.float64]:
    """Return the values of a dimension as shares of its range, from 0 to 1."""
    if d.kind == "choice":
        at = np.array([d.choices.index(str(value)) for value in values], dtype=float)
        return at / max(1, len(d.choices) - 1)
    numbers, low, high = values.to_numpy(dtype=float), d.low, d.high
    if d.log:
        numbers, low, high = np.log(numbers), np.log(low), np.log(high)
    shares: NDArray[np.float64] = (numbers - low) / (high - low)
    return shares


def _marks(d: Dimension) -> list[tuple[float, str]]:
    """Return the labels of a dimension's axis and where they are."""
    if d.kind == "choice":
        return [(i / max(1, len(d.choices) - 1), text) for i, text in enumerate(d.choices)]
    middle = np.sqrt(d.low * d.high) if d.log else (d.low + d.high) / 2
    return [(0.0, f"{d.low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{d.high:.3g}")]
