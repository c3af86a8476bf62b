"""Which param of a sweep is which part of a figure: its lines, its panels, their order and their words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from numpy.typing import NDArray

from nnexp.analysis.plots.style import (
    COLORS,
    DASHES,
    MARKERS,
    SEQUENTIAL,
    SMALL,
    drawable,
    fitted,
    in_order,
    inner_width,
    is_log_like,
    is_missing,
    is_numeric,
    plain,
    scale,
    value_text,
    width,
)

# As many lines as there are colours that can be told apart, and as many panels as can be read at once.
MAX_LINES, MAX_PANELS = len(COLORS), 6


@dataclass(frozen=True)
class Levels:
    """A param's values, in order."""

    name: str
    values: list[Any]

    @classmethod
    def of(cls, frame: pd.DataFrame, name: str) -> Levels:
        return cls(name, in_order(frame[name].tolist()))

    @property
    def words(self) -> list[str]:
        """The values in words, numbers with as few digits as tell them apart."""
        for digits in (3, 4, 5, 6):
            texts = [value_text(value, digits) for value in self.values]
            if len(set(texts)) == len(texts):
                break
        return texts

    @property
    def texts(self) -> list[str]:
        """The words as a figure takes them."""
        return [plain(text, 30) for text in self.words]

    def word(self, value: Any) -> str:
        return self.words[self.values.index(None if is_missing(value) else value)]

    @property
    def is_numeric(self) -> bool:
        return is_numeric(self.values)

    @property
    def is_log(self) -> bool:
        return self.is_numeric and is_log_like(self.values)

    def codes(self, column: pd.Series) -> NDArray[np.int64]:
        """Where each of the column's values stands."""
        place = {value: i for i, value in enumerate(self.values)}
        return np.array([place[None if is_missing(v) else v] for v in column.tolist()], dtype=np.int64)


class Arrangement(NamedTuple):
    """The params of a figure by their parts."""

    x: str
    line: str | None
    panels: list[str]


def arrangement(frame: pd.DataFrame, by: Sequence[str]) -> Arrangement | None:
    """The numeric param with most values along x, or any where none is numeric; of the others the one that
    leaves fewest as lines, the rest as panels. None where there would be too many."""
    levels = {name: Levels.of(frame, name) for name in by}
    x = max(by, key=lambda name: (levels[name].is_numeric, name != "dataset", len(levels[name].values)))
    rest = [name for name in by if name != x]
    line = line_of(frame, rest)
    panels = [name for name in rest if name != line]
    return Arrangement(x, line, panels) if count(frame, panels) <= MAX_PANELS else None


def line_of(frame: pd.DataFrame, names: Sequence[str]) -> str | None:
    """The param that is best drawn as lines: the one that leaves fewest panels, of those with few values;
    numbers may be many, as colours can have an order too. Losses of two data sets are not compared."""
    levels = [Levels.of(frame, name) for name in names if name != "dataset"]
    few = [p for p in levels if len(p.values) <= MAX_LINES or p.is_numeric]
    if not few:
        return None
    return min(few, key=lambda p: count(frame, [name for name in names if name != p.name])).name


def is_square(frame: pd.DataFrame, found: Arrangement) -> bool:
    """Whether x and line are of one kind, with several values each, so that neither is the other's line."""
    assert found.line is not None
    x, line = Levels.of(frame, found.x), Levels.of(frame, found.line)
    return min(len(x.values), len(line.values)) > 2 and x.is_numeric == line.is_numeric


def best_groups(frame: pd.DataFrame, by: Sequence[str], metric: str, most: int) -> tuple[pd.DataFrame, str]:
    """The runs of the groups with the best mean, of every data set as many, with a column that names the
    group; and that column's name."""
    kept = frame[frame["outcome"] != "diverged"]
    means = kept.groupby(list(by), dropna=False)[metric].mean().dropna()
    means = means.sort_values(ascending=not metric.endswith("accuracy"))
    if "dataset" in by:
        each = max(1, most // frame["dataset"].nunique())
        means = means.groupby(level="dataset").head(each).head(most)
    chosen = means.head(most).reset_index()[list(by)]
    named = f"the best {len(chosen)} of {count(frame, by)}: {', '.join(by)}"
    rows = chosen.itertuples(index=False, name=None)
    chosen[named] = [", ".join(value_text(value, 4) for value in values) for values in rows]
    return frame.merge(chosen, on=list(by)), named


def count(frame: pd.DataFrame, names: Sequence[str]) -> int:
    """How many combinations of the params' values there are."""
    return 1 if not names else int(frame.groupby(list(names), dropna=False).ngroups)


def groups(frame: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """(values, rows) of every combination of the params' values that there is, in order."""
    if not names:
        yield (), frame
        return
    levels = [Levels.of(frame, name) for name in names]
    codes = [pd.Series(p.codes(frame[p.name]), index=frame.index) for p in levels]
    for key, rows in frame.groupby(codes, sort=True):
        places: Any = key if isinstance(key, tuple) else (key,)
        yield tuple(p.values[int(i)] for p, i in zip(levels, places, strict=True)), rows


def panel_title(ax: Axes, names: Sequence[str], values: Sequence[Any]) -> None:
    """Which values a panel is of; where there is no room for the params' names, without them."""
    named = [str(v) if n == "dataset" else words([n], [v]) for n, v in zip(names, values, strict=True)]
    text, room = ", ".join(named), inner_width(ax)
    if width(plain(text, 200), SMALL) > room:
        text = ", ".join(map(value_text, values))
    ax.set_title(fitted(text, room, SMALL), loc="left", fontsize=SMALL)


def words(names: Sequence[str], values: Sequence[Any]) -> str:
    """`init=he, hidden=[4]`."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in zip(names, values, strict=True))


def loss_name(runs: pd.DataFrame) -> str:
    """The loss function of the runs, or nothing where they differ in it."""
    names: Any = runs["params.loss"].dropna().unique() if "params.loss" in runs else ()
    return str(names[0]) if len(names) == 1 else ""


def styles(levels: Levels) -> list[dict[str, Any]]:
    """A look for each of the values: colour, marker and dash where they are few, else colours in order."""
    n = len(levels.values)
    if n <= MAX_LINES:
        looks = zip(COLORS, MARKERS, DASHES, strict=True)
        return [{"color": c, "marker": m, "linestyle": d} for c, m, d in looks][:n]
    norm = norm_of_levels(levels)
    shades = matplotlib.colormaps[SEQUENTIAL](norm(np.array(levels.values, dtype=float)))
    return [{"color": tuple(shade), "marker": "", "linestyle": "-"} for shade in shades]


def norm_of_levels(levels: Levels) -> Normalize:
    low, high = float(levels.values[0]), float(levels.values[-1])
    return LogNorm(low, high) if levels.is_log else Normalize(low, high)


def panel_kinds(names: Sequence[str], keys: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Which of the panels share their y axis: all, but losses of two data sets are not compared."""
    return [key[names.index("dataset")] if "dataset" in names else None for key in keys]


def scale_alike(axes: Sequence[Axes], kinds: Sequence[Any], values: Sequence[NDArray[np.float64]]) -> bool:
    """Give the panels of one kind one y axis, which fits the values in them; whether some values, 0 or less,
    are off it."""
    is_below = False
    for kind in dict.fromkeys(kinds):
        alike = [i for i, other in enumerate(kinds) if other == kind]
        pooled = drawable(np.concatenate([values[i] for i in alike]))
        for i in alike:
            is_below |= scale(axes[i], "y", pooled)
            positive = axes[i].get_yscale() == "log"
            shown = pooled[pooled > 0] if positive else pooled[np.isfinite(pooled)]
            if len(shown):
                axes[i].set_ylim(*with_margin(float(shown.min()), float(shown.max()), positive))
    return is_below


def with_margin(low: float, high: float, is_log: bool) -> tuple[float, float]:
    """The ends of an axis that shows the values low to high with a little room."""
    if is_log:
        margin = (high / low) ** 0.06
        return low / margin, high * margin
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin
