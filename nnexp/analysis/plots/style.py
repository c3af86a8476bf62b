"""What all figures share: one style, colours, text that is drawn as it is, and as much room as it takes.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; what differs by colour differs by a
marker or a dash too. Room is measured in inches and set once, which takes half the time of laying out by
drawing twice.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from nnexp.analysis.order import natural
from nnexp.config.errors import RequestError, unknown

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
# Values in order, from dark blue to yellow; and signed ones, vermilion below zero and blue above.
SEQUENTIAL = "viridis"
SIGNED = LinearSegmentedColormap.from_list("signed", [COLORS[1], "#FFFFFF", COLORS[0]])

# Kinds of picture files, each with what matplotlib would write into it of its version and of the time.
KINDS = {"png": ["Software"], "svg": ["Date", "Creator"], "pdf": ["CreationDate", "Creator", "Producer"]}
# One style whatever the reader's own matplotlibrc says, so that the same numbers make the same file.
DPI, SIZE, SMALL = 110, 10.0, 8.5
STYLE: Any = {k: v for k, v in matplotlib.rcParamsDefault.items() if "backend" not in k}
STYLE |= {"font.size": SIZE, "axes.titlesize": SIZE, "axes.labelsize": SIZE, "legend.fontsize": SMALL}
STYLE |= {"xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "figure.dpi": DPI, "savefig.dpi": DPI}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}
STYLE |= {
    "figure.max_open_warning": 0,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "nnexp",
}
styled = matplotlib.rc_context(STYLE)

# With fewer points than this each is marked: one alone would be no line.
MARKED = 20
# A logarithmic axis is for values that span so much; beyond LARGEST an axis' own arithmetic overflows.
SPANS, LARGEST = 10.0, 1e300


class NotebookFigure(Figure):
    """A figure that a notebook shows as it is recorded, whatever matplotlib is set to there."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """The figure's PNG."""
    return saved(figure, "png")


def check_suffix(file: Path) -> None:
    """Raise RequestError unless the file's name says what kind of picture it is."""
    if file.suffix.removeprefix(".").lower() not in KINDS:
        raise RequestError(f"--plot {file}: the name must end in {', '.join(f'.{kind}' for kind in KINDS)}")


@styled
def saved(figure: Figure, suffix: str) -> bytes:
    """The figure as a file of one of KINDS; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    kind = suffix.lower()
    # Packing tighter takes longer than it saves room.
    how: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}
    figure.savefig(buffer, format=kind, metadata=dict.fromkeys(KINDS[kind]), **how)
    return buffer.getvalue()


def drawn(draw: Mapping[str, Callable[[], Figure]], only: str | None) -> dict[str, Figure]:
    """Draw all figures, or the one of this name. Raises RequestError where there is none such."""
    if only is None:
        return {name: figure() for name, figure in draw.items()}
    if only not in draw:
        raise unknown("figure", only, draw)
    return {only: draw[only]()}


# --- Text.


@lru_cache(maxsize=1)
def _font() -> FT2Font:
    """The font of the figures, which comes with matplotlib."""
    return get_font(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf")


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    return frozenset(_font().get_charmap())


def plain(text: object, longest: int = 40) -> str:
    """Text from data or a record such that matplotlib draws it as it is, on one line, and not too long: no
    dollar begins a formula, no underscore hides it from a legend, and what the font lacks is a mark."""
    line = " ".join(str(text).split())
    line = "".join(c if ord(c) in _drawable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    if len(line) > longest:
        line = line[: longest - 1] + "…"
    return (" " if line.startswith("_") else "") + line.replace("$", r"\$")


@lru_cache(maxsize=4096)
def width(text: str, size: float = SIZE) -> float:
    """How wide the text is drawn, in inches."""
    font = _font()
    font.set_size(size, 72)
    font.set_text(text.replace(r"\$", "$"))
    pixels, _ = font.get_width_height()
    return float(pixels) / 64 / 72


def fitted(text: object, inches: float, size: float = SIZE) -> str:
    """The text as `plain`, cut where it would be wider."""
    line = plain(text, 200)
    longest = len(line)
    while longest > 4 and width(line, size) > inches:
        longest = min(longest - 1, int(longest * inches / width(line, size)) + 1)
        line = plain(text, longest)
    return line


def widest(texts: Sequence[str], size: float = SMALL) -> float:
    return max((width(text, size) for text in texts), default=0.0)


def value_text(value: object, digits: int = 6) -> str:
    """A param's value for people: 0.1, true, [4], and none where a run has no such param."""
    if is_missing(value):
        return "none"
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    return f"{value:.{digits}g}" if isinstance(value, float | np.floating) else str(value)


def measured(metric: str, loss: str = "") -> str:
    """The metric with what it is measured in, as far as that is known."""
    if metric in ("loss", "val_loss"):
        return plain(f"{metric} ({loss})" if loss else metric)
    if metric in ("accuracy", "val_accuracy"):
        return f"{metric} (share of rows)"
    return plain(f"{metric} (s)" if metric == "seconds" else metric)


def in_order(values: Iterable[Any]) -> list[Any]:
    """The distinct values as people count: numbers by size, [4] before [16], and None for none last."""
    distinct = list(dict.fromkeys(None if is_missing(value) else value for value in values))
    known = [value for value in distinct if value is not None]
    if is_numeric(known):
        return sorted(known) + [None] * (None in distinct)
    return sorted(known, key=lambda value: natural(value_text(value))) + [None] * (None in distinct)


def is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_numeric(values: Sequence[object]) -> bool:
    """Whether all are numbers, true and false apart."""
    return all(
        isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)
        for value in values
    )


# --- Room. All in inches.


@dataclass(frozen=True)
class Room:
    """What stands around the panels of a figure, and between them."""

    left: float = 0.9
    right: float = 0.25
    bottom: float = 0.6
    top: float = 0.45
    between: tuple[float, float] = (0.8, 0.95)  # columns, rows


def grid(n: int, room: Room, height: float, wide: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of n panels in rows of at most three, each so high; 8 inches wide, or 10 for three."""
    columns = n if n <= 3 else 2 if n == 4 else 3
    return lattice(-(-n // columns), columns, room, height, wide or (8.0 if columns < 3 else 10.0), n)


def lattice(
    rows: int, columns: int, room: Room, height: float, wide: float, n: int | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of rows and columns of panels, of which the first n are there."""
    column, row = room.between
    high = room.top + rows * height + (rows - 1) * row + room.bottom
    each = max(0.5, (wide - room.left - room.right - (columns - 1) * column) / columns)
    figure = NotebookFigure(figsize=(wide, high))
    axes = []
    for i in range(rows * columns if n is None else n):
        y, x = divmod(i, columns)
        left, top = room.left + x * (each + column), high - room.top - y * (height + row)
        axes.append(figure.add_axes((left / wide, (top - height) / high, each / wide, height / high)))
    return figure, axes


def heading(figure: Figure, text: str) -> None:
    """The figure's title, at its left."""
    wide, high = figure.get_size_inches()
    line = fitted(text, wide - 0.3)
    figure.text(0.15 / wide, 1 - 0.1 / high, line, va="top", fontsize=SIZE, fontweight="bold")


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str, room: Room) -> None:
    """The key to the lines, at the right of the panels, where `room.right` has room for it."""
    wide, high = figure.get_size_inches()
    place = (1 - (room.right - 0.1) / wide, 1 - (room.top - 0.1) / high)
    figure.legend(
        handles,
        labels,
        title=title,
        loc="upper left",
        bbox_to_anchor=place,
        alignment="left",
        borderaxespad=0,
        title_fontsize=SMALL,
    )


def legend_room(labels: Sequence[str], title: str) -> float:
    """How much `legend` takes at the right."""
    return max(widest(labels) + 0.65, width(title, SMALL) + 0.2) + 0.15


# --- Axes.


def drawable(values: ArrayLike) -> NDArray[np.float64]:
    """The values as floats, those that no axis can show as NaN, which leaves a gap."""
    numbers = np.asarray(values, dtype=float)
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(numbers) <= LARGEST, numbers, np.nan)


def spans_decades(values: ArrayLike) -> bool:
    """Whether the positive values are best seen on a logarithmic axis."""
    positive = _positive(values)
    return len(positive) > 1 and float(positive.max()) / SPANS >= float(positive.min())


def _positive(values: ArrayLike) -> NDArray[np.float64]:
    numbers = drawable(values).ravel()
    return numbers[numbers > 0]


def is_log_like(values: Sequence[float]) -> bool:
    """Whether the distinct values, in order, are spaced more evenly by their ratios than by their
    differences."""
    numbers = np.asarray(values, dtype=float)
    if len(numbers) < 2 or not (numbers > 0).all() or not spans_decades(numbers):
        return False
    steps, ratios = np.diff(numbers), np.diff(np.log(numbers))
    return bool(len(numbers) == 2 or steps.std() / steps.mean() > ratios.std() / ratios.mean())


def scale(ax: Axes, which: str, values: ArrayLike) -> bool:
    """Make the axis, "x" or "y", logarithmic where the values span decades, and say whether some, 0 or
    less, are then off it. Ticks are few and plain."""
    if not spans_decades(values):
        axis_of(ax, which).set_major_locator(ticks())
        return False
    positive = _positive(values)
    ax.set(**{f"{which}scale": "log"})
    log_ticks(axis_of(ax, which), float(positive.min()), float(positive.max()))
    return bool((drawable(values) <= 0).any())


def ticks(most: int = 5, whole: bool = False) -> MaxNLocator:
    """A few ticks at round numbers."""
    return MaxNLocator(most, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=2)


def axis_of(ax: Axes, which: str) -> Axis:
    return ax.xaxis if which == "x" else ax.yaxis


def log_ticks(axis: Axis, low: float, high: float) -> None:
    decades = math.log10(high) - math.log10(low)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.5 else (1.0,), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def named_ticks(axis: Axis, places: Sequence[float], texts: Sequence[str], inches: float) -> None:
    """A tick for each of the texts, or where there is no room, for every other, every third, …"""
    every = max(1, math.ceil(sum(width(text, SMALL) + 0.12 for text in texts) / inches))
    axis.set_ticks(list(places)[::every], list(texts)[::every])
    axis.set_minor_locator(NullLocator())


def norm_of(values: ArrayLike) -> Normalize:
    """How the values become colours: by their logarithms where they span decades."""
    numbers = drawable(values).ravel()
    numbers = numbers[np.isfinite(numbers)]
    if spans_decades(numbers) and (numbers > 0).all():
        return LogNorm(float(numbers.min()), float(numbers.max()))
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
    return Normalize(low, high) if high > low else Normalize(low - 0.5, high + 0.5)


def colorbar(figure: Figure, image: Any, beside: Sequence[Axes], label: str) -> None:
    """The key to the colours, at the right of the first row of these axes."""
    wide, _ = figure.get_size_inches()
    boxes = [ax.get_position() for ax in beside]
    right = max(box.x1 for box in boxes)
    cax = figure.add_axes((right + 0.15 / wide, boxes[0].y0, 0.16 / wide, boxes[0].height))
    figure.colorbar(image, cax=cax, label=label)
    if isinstance(image.norm, LogNorm):
        log_ticks(cax.yaxis, float(image.norm.vmin or 1), float(image.norm.vmax or 1))
    cax.grid(False)


def inner_width(ax: Axes) -> float:
    """How wide the axes are, in inches."""
    figure = ax.get_figure(root=True)
    return float(ax.get_position().width * figure.get_size_inches()[0]) if figure else 0.0


def label_left(axes: Sequence[Axes], text: str) -> None:
    """The y axis' name, on the first panel of each row."""
    left = min(ax.get_position().x0 for ax in axes)
    for ax in axes:
        if ax.get_position().x0 == left:
            ax.set_ylabel(text)


def label_below(axes: Sequence[Axes], text: str) -> None:
    """The x axis' name, on the last panel of each column."""
    lowest = {ax.get_position().x0: ax for ax in axes}
    for ax in lowest.values():
        ax.set_xlabel(text)
