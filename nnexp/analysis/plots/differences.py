"""Draw how two settings differ, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nnexp.analysis import statistics
from nnexp.analysis.compare import by_shared_seed
from nnexp.analysis.plots import style
from nnexp.analysis.plots.facets import MAX_PANELS


@style.styled
def differences(parts: Mapping[str, pd.DataFrame], metric: str, over: str = "seed") -> Figure:
    """Draw the metric of the first part minus that of each other one, in a panel each, at most MAX_PANELS.

    Where both have the same seeds, there is a dot for each seed, from the lowest difference to the highest,
    with the median difference and its 95% interval; else the values of both, one beside the other. Runs that
    diverged are counted, as they have no value to draw.
    """
    first, *others = parts
    others = others[:MAX_PANELS]
    figure, axes = style.grid(len(others), style.Room(top=0.75), 2.6)
    for ax, other in zip(axes, others, strict=True):
        table = by_shared_seed({first: parts[first], other: parts[other]}, metric, over)
        if table is None:
            for i, name in enumerate((first, other)):
                values = style.drawable(parts[name].loc[parts[name]["outcome"] != "diverged", metric])
                spread = i + 0.3 * (np.arange(len(values)) / max(1, len(values) - 1) - 0.5)
                ax.plot(spread, values, "o", color=style.COLORS[i], markersize=4)
            style.scale(ax, "y", np.concatenate([line.get_ydata() for line in ax.lines]))
            ax.set_xticks(
                [0, 1],
                [style.fitted(name, style.inner_width(ax) / 2.2, style.SMALL) for name in (first, other)],
            )
            ax.set_title("no shared seeds", loc="left", fontsize=style.SMALL)
            continue
        apart = (table[first] - table[other]).to_numpy(dtype=float)
        kept = np.sort(apart[np.isfinite(apart)])
        ax.axhline(0, color="black", linewidth=1, linestyle="--")
        low, high = (float(end) for end in statistics.median_interval(kept))
        if np.isfinite([low, high]).all():
            ax.axhspan(low, high, color=style.COLORS[1], alpha=0.15, linewidth=0)
        if len(kept):
            ax.axhline(float(np.median(kept)), color=style.COLORS[1], linewidth=1.5)
        ax.plot(np.arange(1, len(kept) + 1), kept, "o", color=style.COLORS[0], markersize=4)
        lost = f" ({len(apart) - len(kept)} diverged)" if len(kept) < len(apart) else ""
        title = f"minus {style.plain(other, 60)}{lost}"
        ax.set_title(
            style.fitted(title, style.inner_width(ax), style.SMALL), loc="left", fontsize=style.SMALL
        )
        ax.set_xticks([])
    style.label_below(axes, f"{over}s, by their difference")
    style.label_left(axes, style.plain(metric))
    style.heading(figure, f"{metric} of {style.plain(first, 60)} by {over}: median difference, 95% interval")
    return figure
