"""Assign the params of a sweep to the parts of a figure: x axis, lines and panels, ordered and labelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnexp.analysis.plots import style
from nnexp.analysis.summary import summarize

# There are only so many distinguishable colours for lines, and only so many panels can be read at once.
MAX_LINES, MAX_PANELS = len(style.COLORS), 6


@dataclass(frozen=True)
class Levels:
    """The distinct values of a param, in order."""

    name: str
    values: list[Any]

    @classmethod
    def of(cls, frame: pd.DataFrame, name: str) -> Levels:
        """Collect the values of a column."""
        return cls(name, style.in_order(frame[name].unique().tolist()))

    @property
    def words(self) -> list[str]:
        """Return the values as text; numbers have the fewest digits, 3 to 6, that tell them apart."""
        for digits in (3, 4, 5, 6):
            texts = [style.value_text(value, digits) for value in self.values]
            if len(set(texts)) == len(texts):
                break
        return texts

    @property
    def texts(self) -> list[str]:
        """Return the words as matplotlib draws them literally, at most 30 characters each."""
        return [style.plain(text, 30) for text in self.words]

    def word(self, value: Any) -> str:
        """Return one value as text."""
        return self.words[self.values.index(None if style.is_missing(value) else value)]

    @property
    def are_many(self) -> bool:
        """Return whether there are more values than distinguishable lines."""
        return len(self.values) > MAX_LINES

    @property
    def is_numeric(self) -> bool:
        """Return whether all values are numbers."""
        return style.is_numeric(self.values)

    @property
    def is_log(self) -> bool:
        """Return whether the values are numbers that a logarithmic axis suits."""
        return self.is_numeric and style.is_log_like(self.values)

    def codes(self, column: pd.Series) -> NDArray[np.int64]:
        """Return the position of each of the column's values among the levels."""
        place = {value: i for i, value in enumerate(self.values)}
        codes, values = pd.factorize(column)
        # A missing value has the code -1, which is the last place here.
        places = np.array([*(place[value] for value in values.tolist()), place.get(None, -1)])
        return places[codes]


def key_width(levels: Levels | None, labels: Sequence[str], title: str) -> float:
    """Return the inches beside the panels for what `draw_key` draws there."""
    if levels is None:
        return 0.25
    return 1.15 if levels.are_many else style.legend_room(labels, title)


def draw_key(
    figure: Figure,
    axes: Sequence[Axes],
    levels: Levels | None,
    handles: Sequence[Any],
    labels: Sequence[str],
    title: str,
    room: style.Room,
) -> None:
    """Say which line is which, by a legend or, of many lines, a colour bar; without levels draw nothing."""
    if levels is None:
        return
    if levels.are_many:
        image = ScalarMappable(norm_of_levels(levels), style.SEQUENTIAL)
        style.colorbar(figure, image, axes, style.plain(levels.name))
    else:
        style.legend(figure, handles, labels, title, room)


class Arrangement(NamedTuple):
    """The params of a figure: of its x axis, its lines and its panels."""

    x: str
    line: str | None
    panels: list[str]


def arrangement(frame: pd.DataFrame, by: Sequence[str]) -> Arrangement | None:
    """Choose the params for the x axis, the lines and the panels; None if there would be too many panels.

    The x axis gets the numeric param with the most values; if none is numeric, the param with the most
    values, but the data set only if nothing else varies. Of the others, the lines get the param that leaves
    the fewest panels.
    """
    levels = {name: Levels.of(frame, name) for name in by}
    x = max(by, key=lambda name: (levels[name].is_numeric, name != "dataset", len(levels[name].values)))
    rest = [name for name in by if name != x]
    line = line_of(frame, rest)
    panels = [name for name in rest if name != line]
    return Arrangement(x, line, panels) if count(frame, panels) <= MAX_PANELS else None


def by_line(runs: pd.DataFrame, line: str | None) -> tuple[pd.DataFrame, Levels]:
    """Return the runs and the levels of their lines; without a param for these, all runs are one line."""
    if line is None:
        line = "all runs"
        runs = runs.assign(**{line: line})
    return runs, Levels.of(runs, line)


def line_of(frame: pd.DataFrame, names: Sequence[str]) -> str | None:
    """Return the param to draw as lines: the one that leaves the fewest panels; None if none is suitable.

    It has at most MAX_LINES values, or any number of numeric ones, as colours can show their order. The data
    set is never drawn as lines, because losses of two data sets do not compare.
    """
    levels = [Levels.of(frame, name) for name in names if name != "dataset"]
    few = [p for p in levels if len(p.values) <= MAX_LINES or p.is_numeric]
    if not few:
        return None
    return min(few, key=lambda p: count(frame, [name for name in names if name != p.name])).name


def is_square(frame: pd.DataFrame, found: Arrangement) -> bool:
    """Return whether x and line are both numbers or both words, with at least 3 values each.

    Then neither of them suits the lines, and a heat map shows them better.
    """
    assert found.line is not None
    x, line = Levels.of(frame, found.x), Levels.of(frame, found.line)
    return min(len(x.values), len(line.values)) > 2 and x.is_numeric == line.is_numeric


def best_groups(frame: pd.DataFrame, by: Sequence[str], metric: str, most: int) -> tuple[pd.DataFrame, str]:
    """Return the runs of the best groups, with a column that names the group, and its name.

    At most `most` groups are chosen by rank, the same number from every data set.
    """
    table = summarize(frame, by, metric).sort_values("rank", kind="stable")
    table = table[table["used"] > 0]
    if "dataset" in by:
        table = table.groupby("dataset").head(max(1, most // frame["dataset"].nunique()))
    chosen = table.head(most)[list(by)]
    named = f"the best {len(chosen)} of {count(frame, by)}: {', '.join(by)}"
    rows = chosen.itertuples(index=False, name=None)
    chosen[named] = [", ".join(style.value_text(value, 4) for value in values) for values in rows]
    return frame.merge(chosen, on=list(by)), named


def unit(runs: pd.DataFrame) -> str:
    """Return what a figure calls the rows: networks if they were read from the columns of a population."""
    return "networks" if "network" in runs else "runs"


def count(frame: pd.DataFrame, names: Sequence[str]) -> int:
    """Count the combinations of the params' values that occur."""
    return 1 if not names else int(frame.groupby(list(names), dropna=False).ngroups)


def groups(frame: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Yield (values, rows) for every combination of the params' values that occurs, in order."""
    if not names:
        yield (), frame
        return
    levels = [Levels.of(frame, name) for name in names]
    codes = [pd.Series(p.codes(frame[p.name]), index=frame.index) for p in levels]
    for key, rows in frame.groupby(codes, sort=True):
        places: Any = key if isinstance(key, tuple) else (key,)
        yield tuple(p.values[int(i)] for p, i in zip(levels, places, strict=True)), rows


def panel_title(ax: Axes, names: Sequence[str], values: Sequence[Any]) -> None:
    """Title a panel with its params' values; leave out the params' names if there is no room for them."""
    named = [str(v) if n == "dataset" else words([n], [v]) for n, v in zip(names, values, strict=True)]
    text, room = ", ".join(named), style.inner_width(ax)
    if style.width(style.plain(text, 200), style.SMALL) > room:
        text = ", ".join(map(style.value_text, values))
    ax.set_title(style.fitted(text, room, style.SMALL), loc="left", fontsize=style.SMALL)


def words(names: Sequence[str], values: Sequence[Any]) -> str:
    """Return params with their values as text: `init=he, hidden=[4]`."""
    return ", ".join(f"{name}={style.value_text(value)}" for name, value in zip(names, values, strict=True))


def loss_name(runs: pd.DataFrame) -> str:
    """Return the name of the runs' loss function, or an empty text if they differ in it or have none."""
    names: Any = runs["params.loss"].dropna().unique() if "params.loss" in runs else ()
    return str(names[0]) if len(names) == 1 else ""


def styles(levels: Levels) -> list[dict[str, Any]]:
    """Return a line style for each value: colour, marker and dash if they are few, else a colour scale."""
    n = len(levels.values)
    if n <= MAX_LINES:
        looks = zip(style.COLORS, style.MARKERS, style.DASHES, strict=True)
        return [{"color": c, "marker": m, "linestyle": d} for c, m, d in looks][:n]
    norm = norm_of_levels(levels)
    shades = matplotlib.colormaps[style.SEQUENTIAL](norm(np.array(levels.values, dtype=float)))
    return [{"color": tuple(shade), "marker": "", "linestyle": "-"} for shade in shades]


def norm_of_levels(levels: Levels) -> Normalize:
    """Return the colour scale from the lowest to the highest value; logarithmic if that suits the values."""
    low, high = float(levels.values[0]), float(levels.values[-1])
    return LogNorm(low, high) if levels.is_log else Normalize(low, high)


def panel_kinds(names: Sequence[str], keys: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return each panel's kind; panels of one kind share their y axis.

    The kind is the data set, because losses of two data sets do not compare; else all panels are of one kind.
    """
    return [key[names.index("dataset")] if "dataset" in names else None for key in keys]


def scale_alike(axes: Sequence[Axes], kinds: Sequence[Any], values: Sequence[NDArray[np.float64]]) -> bool:
    """Give the panels of one kind the same y axis, which fits their values.

    Returns whether some values cannot be shown, as they are 0 or less and the axis is logarithmic.
    """
    is_below = False
    for kind in dict.fromkeys(kinds):
        alike = [i for i, other in enumerate(kinds) if other == kind]
        pooled = style.drawable(np.concatenate([values[i] for i in alike]))
        for i in alike:
            is_below |= style.scale(axes[i], "y", pooled)
            positive = axes[i].get_yscale() == "log"
            shown = pooled[pooled > 0] if positive else pooled[np.isfinite(pooled)]
            if len(shown):
                axes[i].set_ylim(*with_margin(float(shown.min()), float(shown.max()), positive))
    return is_below


def with_margin(low: float, high: float, is_log: bool) -> tuple[float, float]:
    """Return the ends of an axis that shows the values from low to high with a small margin."""
    if is_log:
        margin = (high / low) ** 0.06
        return low / margin, high * margin
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin
