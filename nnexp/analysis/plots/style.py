"""Define what all figures share: style, colours, literal text, and a layout that leaves room for the text.

The colours are Okabe and Ito's palette, which colour-blind readers can tell apart; what differs in colour
also differs in marker or dash. The layout is computed once, in inches, which takes half the time of a layout
that draws everything twice.
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
# Colour maps: for ordered values, dark blue to yellow; for signed values, vermilion below zero, blue above.
SEQUENTIAL = "viridis"
SIGNED = LinearSegmentedColormap.from_list("signed", [COLORS[1], "#FFFFFF", COLORS[0]])

# Formats of picture files, each with the metadata that is left out (matplotlib's version, the time), so that
# the same figure makes the same file.
KINDS = {"png": ["Software"], "svg": ["Date", "Creator"], "pdf": ["CreationDate", "Creator", "Producer"]}
# Start from matplotlib's defaults, not the user's matplotlibrc, so that the same numbers make the same file.
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

# Mark every point of a line with fewer points than this: a single point would not show as a line.
MARKED = 20
# Values whose ratio reaches SPANS get a logarithmic axis.
SPANS = 10.0
# An axis computes ratios of what it shows, and its margins are powers of these: beyond LARGEST and below
# SMALLEST they overflow.
LARGEST, SMALLEST = 1e100, 1e-100


class NotebookFigure(Figure):
    """A figure that a notebook shows as it is recorded, regardless of matplotlib's settings there."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    return saved(figure, "png")


def check_suffix(file: Path, option: str = "--plot") -> None:
    """Raise RequestError, naming the option, unless the name ends in one of KINDS: .png, .svg or .pdf."""
    if file.suffix.removeprefix(".").lower() not in KINDS:
        raise RequestError(f"{option} {file}: the name must end in {', '.join(f'.{kind}' for kind in KINDS)}")


@styled
def saved(figure: Figure, suffix: str) -> bytes:
    """Return the figure as a picture file; the same figure gives the same bytes.

    Parameters
    ----------
    figure : Figure
        The figure.
    suffix : str
        The format, one of KINDS: `png`, `svg` or `pdf`, in lower or upper case.

    Returns
    -------
    bytes
        The content of the file.
    """
    buffer = io.BytesIO()
    kind = suffix.lower()
    # Stronger compression costs more time than the space is worth.
    how: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}
    figure.savefig(buffer, format=kind, metadata=dict.fromkeys(KINDS[kind]), **how)
    return buffer.getvalue()


def drawn(draw: Mapping[str, Callable[[], Figure]], only: str | None) -> dict[str, Figure]:
    """Draw all figures, or the one of this name. Raises RequestError if there is none."""
    if only is None:
        return {name: figure() for name, figure in draw.items()}
    if only not in draw:
        raise unknown("figure", only, draw)
    return {only: draw[only]()}


# --- Text.


@lru_cache(maxsize=1)
def _font() -> FT2Font:
    """Load the figures' font, which comes with matplotlib."""
    return get_font(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf")


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    """Return the code points that the font has."""
    return frozenset(_font().get_charmap())


def plain(text: object, longest: int = 40) -> str:
    """Prepare text from data or a record so that matplotlib draws it literally.

    It becomes one line of at most `longest` characters. No dollar begins a formula, no leading underscore
    hides it from a legend, and a replacement character stands for each character that the font lacks.
    """
    line = " ".join(str(text).split())
    line = "".join(c if ord(c) in _drawable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    if len(line) > longest:
        line = line[: longest - 1] + "…"
    return (" " if line.startswith("_") else "") + line.replace("$", r"\$")


@lru_cache(maxsize=4096)
def width(text: str, size: float = SIZE) -> float:
    """Return the width of the text as drawn, in inches."""
    font = _font()
    font.set_size(size, 72)
    font.set_text(text.replace(r"\$", "$"))
    pixels, _ = font.get_width_height()
    return float(pixels) / 64 / 72


def fitted(text: object, inches: float, size: float = SIZE) -> str:
    """Prepare text as `plain` does, cut to a width in inches."""
    line = plain(text, 200)
    longest = len(line)
    while longest > 4 and width(line, size) > inches:
        longest = min(longest - 1, int(longest * inches / width(line, size)) + 1)
        line = plain(text, longest)
    return line


def widest(texts: Sequence[str], size: float = SMALL) -> float:
    """Return the width of the widest text, in inches; 0 if there is none."""
    return max((width(text, size) for text in texts), default=0.0)


def value_text(value: object, digits: int = 6) -> str:
    """Return a param's value as text for people: 0.1, true, [4], or `none` if a run has no such param."""
    if is_missing(value):
        return "none"
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    return f"{value:.{digits}g}" if isinstance(value, float | np.floating) else str(value)


def measured(metric: str, loss: str = "") -> str:
    """Return the metric's name with its loss function or unit, as far as known."""
    if metric in ("loss", "val_loss", "test_loss"):
        return plain(f"{metric} ({loss})" if loss else metric)
    if metric in ("accuracy", "val_accuracy", "test_accuracy"):
        return f"{metric} (share of rows)"
    return plain(f"{metric} (s)" if metric == "seconds" else metric)


def in_order(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values in natural order: numbers by size, [4] before [16], None (missing) last."""
    distinct = list(dict.fromkeys(None if is_missing(value) else value for value in values))
    known = [value for value in distinct if value is not None]
    if is_numeric(known):
        return sorted(known) + [None] * (None in distinct)
    return sorted(known, key=lambda value: natural(value_text(value))) + [None] * (None in distinct)


def is_missing(value: object) -> bool:
    """Return whether a value is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_numeric(values: Sequence[object]) -> bool:
    """Return whether all values are numbers; true and false are not."""
    return all(
        isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)
        for value in values
    )


# --- Layout, all in inches.


@dataclass(frozen=True)
class Room:
    """The space around the panels of a figure and between them, in inches."""

    left: float = 0.9
    right: float = 0.25
    bottom: float = 0.6
    top: float = 0.45
    between: tuple[float, float] = (0.8, 0.95)  # columns, rows


def grid(n: int, room: Room, height: float, wide: float | None = None) -> tuple[Figure, list[Axes]]:
    """Make a figure of n panels of this height, in rows of at most three.

    Unless told, it is 8 inches wide, or 10 with three columns.
    """
    columns = n if n <= 3 else 2 if n == 4 else 3
    return lattice(-(-n // columns), columns, room, height, wide or (8.0 if columns < 3 else 10.0), n)


def lattice(
    rows: int, columns: int, room: Room, height: float, wide: float, n: int | None = None
) -> tuple[Figure, list[Axes]]:
    """Make a figure with rows and columns of panels; only the first n panels exist, or all if n is None."""
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
    """Add the figure's title, at its left."""
    wide, high = figure.get_size_inches()
    line = fitted(text, wide - 0.3)
    figure.text(0.15 / wide, 1 - 0.1 / high, line, va="top", fontsize=SIZE, fontweight="bold")


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str, room: Room) -> None:
    """Add the legend of the lines at the right of the panels, in the space of `room.right`."""
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
    """Return the width that `legend` takes at the right, in inches."""
    return max(widest(labels) + 0.65, width(title, SMALL) + 0.2) + 0.15


# --- Axes.


def drawable(values: ArrayLike) -> NDArray[np.float64]:
    """Return the values as floats; those that no axis can show become NaN, which leaves a gap, or 0."""
    numbers = np.asarray(values, dtype=float)
    with np.errstate(invalid="ignore"):
        shown = np.where(np.abs(numbers) <= LARGEST, numbers, np.nan)
        return np.where(np.abs(shown) < SMALLEST, 0.0, shown)


def spans_decades(values: ArrayLike) -> bool:
    """Return whether the positive values span so much that a logarithmic axis shows them best."""
    positive = _positive(values)
    return len(positive) > 1 and float(positive.max()) / SPANS >= float(positive.min())


def _positive(values: ArrayLike) -> NDArray[np.float64]:
    """Return the drawable values above 0, flat."""
    numbers = drawable(values).ravel()
    return numbers[numbers > 0]


def is_log_like(values: Sequence[float]) -> bool:
    """Return whether sorted distinct values suit a logarithmic axis.

    They do if they are positive, span decades, and are spaced more evenly by ratio than by difference.
    """
    numbers = np.asarray(values, dtype=float)
    if len(numbers) < 2 or not (numbers > 0).all() or not spans_decades(numbers):
        return False
    steps, ratios = np.diff(numbers), np.diff(np.log(numbers))
    return bool(len(numbers) == 2 or steps.std() / steps.mean() > ratios.std() / ratios.mean())


def scale(ax: Axes, which: str, values: ArrayLike) -> bool:
    """Make the axis, "x" or "y", logarithmic if the values span decades, and give it few plain ticks.

    Returns whether some values cannot be shown, as they are 0 or less and the axis is logarithmic.
    """
    if not spans_decades(values):
        axis_of(ax, which).set_major_locator(ticks())
        return False
    positive = _positive(values)
    ax.set(**{f"{which}scale": "log"})
    log_ticks(axis_of(ax, which), float(positive.min()), float(positive.max()))
    return bool((drawable(values) <= 0).any())


def ticks(most: int = 5, whole: bool = False) -> MaxNLocator:
    """Return a locator of a few ticks at round numbers."""
    return MaxNLocator(most, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=2)


def axis_of(ax: Axes, which: str) -> Axis:
    """Return the axis "x" or "y"."""
    return ax.xaxis if which == "x" else ax.yaxis


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Give a logarithmic axis a few plain ticks: at 1, 2 and 5 times powers of 10, or at powers alone."""
    decades = math.log10(high) - math.log10(low)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.5 else (1.0,), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def named_ticks(axis: Axis, places: Sequence[float], texts: Sequence[str], inches: float) -> None:
    """Add a tick for each text or, if there is no room, for every second one, every third one, …"""
    every = max(1, math.ceil(sum(width(text, SMALL) + 0.12 for text in texts) / inches))
    axis.set_ticks(list(places)[::every], list(texts)[::every])
    axis.set_minor_locator(NullLocator())


def norm_of(values: ArrayLike) -> Normalize:
    """Return the colour scale of the values; logarithmic if they span decades and are all positive."""
    numbers = drawable(values).ravel()
    numbers = numbers[np.isfinite(numbers)]
    if spans_decades(numbers) and (numbers > 0).all():
        return LogNorm(float(numbers.min()), float(numbers.max()))
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
    return Normalize(low, high) if high > low else Normalize(low - 0.5, high + 0.5)


def colorbar(figure: Figure, image: Any, beside: Sequence[Axes], label: str) -> None:
    """Add the colour bar, at the right of the first row of these axes."""
    wide, _ = figure.get_size_inches()
    boxes = [ax.get_position() for ax in beside]
    right = max(box.x1 for box in boxes)
    cax = figure.add_axes((right + 0.15 / wide, boxes[0].y0, 0.16 / wide, boxes[0].height))
    figure.colorbar(image, cax=cax, label=label)
    if isinstance(image.norm, LogNorm):
        log_ticks(cax.yaxis, float(image.norm.vmin or 1), float(image.norm.vmax or 1))
    cax.grid(False)


def inner_width(ax: Axes) -> float:
    """Return the width of the axes, in inches."""
    figure = ax.get_figure(root=True)
    return float(ax.get_position().width * figure.get_size_inches()[0]) if figure else 0.0


def label_left(axes: Sequence[Axes], text: str) -> None:
    """Label the y axis on the first panel of each row."""
    left = min(ax.get_position().x0 for ax in axes)
    for ax in axes:
        if ax.get_position().x0 == left:
            ax.set_ylabel(text)


def label_below(axes: Sequence[Axes], text: str) -> None:
    """Label the x axis on the last panel of each column."""
    lowest = {ax.get_position().x0: ax for ax in axes}
    for ax in lowest.values():
        ax.set_xlabel(text)
