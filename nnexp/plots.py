"""Pictures of runs: DataFrame or network in, matplotlib figure out. Nothing is shown or saved here.

Colours are Okabe and Ito's, which stay apart for colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from nnexp.dataset import Dataset
from nnexp.tracking.weights import Model

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


def curves(epochs: ArrayLike, values: Mapping[str, ArrayLike], title: str) -> Figure:
    """Loss (log scale) and, below it, accuracy where there is one, against completed epochs."""
    names = [name for name in ("accuracy", "val_accuracy") if name in values]
    figure = Figure(figsize=(7, 5 if names else 3.5), layout="constrained")
    axes = figure.subplots(2 if names else 1, sharex=True, squeeze=False)[:, 0]
    for name, color in (("loss", COLORS[0]), ("val_loss", COLORS[1])):
        if name in values:
            axes[0].plot(epochs, values[name], color=color, label=name)
    axes[0].set(title=title, ylabel="loss", yscale="log")
    for name, color in zip(names, COLORS, strict=False):
        axes[1].plot(epochs, values[name], color=color, label=name, drawstyle="steps-post")
    if names:
        axes[1].set(ylabel="accuracy", ylim=(-0.05, 1.05))
    axes[-1].set_xlabel("completed epochs")
    for ax in axes:
        _tidy(ax)
        ax.legend(frameon=False)
    return figure


def decision_surface(model: Model, dataset: Dataset, title: str) -> Figure:
    """A two-input, one-output network's answer over the plane, with the rows and new rows on it."""
    points = np.vstack([dataset.X, dataset.X_new])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.25 * np.where(high > low, high - low, 1.0)
    grid = [np.linspace(a, b, 200) for a, b in zip(low - margin, high + margin, strict=True)]
    plane = np.stack(np.meshgrid(*grid), axis=-1)
    y_pred = model.outputs(plane.reshape(-1, 2))[:, -1].reshape(200, 200)
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    ax = figure.subplots()
    low_y, high_y = (0.0, 1.0) if dataset.classes else (float(y_pred.min()), float(y_pred.max()))
    image = ax.pcolormesh(grid[0], grid[1], y_pred, cmap="PuOr_r", vmin=low_y, vmax=high_y, rasterized=True)
    if dataset.classes and y_pred.min() < 0.5 < y_pred.max():
        ax.contour(grid[0], grid[1], y_pred, levels=[0.5], colors="black", linewidths=1)
    for i, label in enumerate(dataset.classes or ("rows",)):
        rows = dataset.X[dataset.y == i] if dataset.classes else dataset.X
        ax.scatter(
            rows[:, 0], rows[:, 1], marker=MARKERS[i], color=COLORS[i], edgecolor="white", s=90, label=label
        )
    if len(dataset.X_new):
        new = dataset.X_new
        ax.scatter(new[:, 0], new[:, 1], marker="*", color="black", edgecolor="white", s=180, label="new")
        for name, row in zip(dataset.new_names, dataset.X_new, strict=True):
            outline = [withStroke(linewidth=3, foreground="black")]  # legible on any part of the surface
            ax.annotate(
                name, row, xytext=(8, 6), textcoords="offset points", color="white", path_effects=outline
            )
    ax.set(title=title, xlabel=dataset.features[0], ylabel=dataset.features[1])
    ax.legend(frameon=False, title=dataset.target, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4)
    what = f"output (1 is {dataset.classes[-1]})" if dataset.classes else dataset.target
    figure.colorbar(image, ax=ax, label=what)
    return figure


def sweep_lines(table: pd.DataFrame, x: str, line: str | None, panel: str | None, metric: str) -> Figure:
    """A summary's mean with its 95% interval over the values of `x`; a line each value of `line`, side by
    side for each value of `panel`. The table is `summary.summarize` by these params."""
    panels = [None] if panel is None else sorted(table[panel].unique(), key=str)
    figure = Figure(figsize=(5.5 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, value in zip(axes, panels, strict=True):
        part = table if panel is None else table[table[panel] == value]
        lines = [None] if line is None else sorted(part[line].unique(), key=str)
        for i, name in enumerate(lines):
            rows = (part if line is None else part[part[line] == name]).sort_values(x)
            style = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}
            # Markers of several lines at one value stand side by side, so that none hides another.
            shift = 1.03 ** (i - (len(lines) - 1) / 2)
            error = [rows["mean"] - rows["ci95_low"], rows["ci95_high"] - rows["mean"]]
            ax.errorbar(
                rows[x] * shift,
                rows["mean"],
                yerr=error,
                capsize=3,
                label=None if line is None else f"{line} {name}",
                **style,
            )
        ax.set(xlabel=x, xscale="log", title="" if panel is None else f"{panel} {value}")
        ax.set_xticks(sorted(part[x].unique()), [f"{v:g}" for v in sorted(part[x].unique())])
        ax.xaxis.set_minor_locator(LogLocator(subs=[]))
        ax.xaxis.set_minor_formatter(NullFormatter())
        _tidy(ax)
    axes[0].set_ylabel(f"{metric}, mean and 95% interval")
    if line is not None:
        axes[-1].legend(frameon=False)
    return figure


def predictions(runs: pd.DataFrame, names: Sequence[str]) -> Figure:
    """The output for each new row, a dot a seed, against the 0.5 that divides the classes."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    for name, color, marker in zip(names, COLORS, MARKERS, strict=False):
        ax.plot(runs["seed"], runs[f"prediction/{name}"], marker, color=color, label=name)
    ax.axhline(0.5, color="black", linewidth=1, linestyle="--")
    ax.set(xlabel="seed", ylabel="output", ylim=(-0.02, 1.02))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, loc="center right")
    _tidy(ax)
    return figure


def _tidy(ax: Axes) -> None:
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
