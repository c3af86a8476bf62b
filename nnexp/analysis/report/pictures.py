"""Draw a sweep's figures from the store, for its record and its report."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nnexp.analysis.summary import deciding
from nnexp.tracking.read import read_history
from nnexp.tracking.searches import Searched
from nnexp.tracking.store import Store
from nnexp.training.shard import log_epochs

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Points drawn of each curve for few runs and for many runs, and of all curves together: figures need no more,
# and reading points takes time.
FINEST, COARSEST, MAX_POINTS = 60, 12, 200_000
# More runs than this are not asked of a server, because it returns one run's curve at a time.
MAX_ASKED = 100


@dataclass(frozen=True)
class Picture:
    """A figure: its name, a description in words, and the PNG."""

    name: str
    words: str
    png: bytes

    @property
    def title(self) -> str:
        """Return the name as words."""
        return self.name.replace("_", " ")

    @property
    def source(self) -> str:
        """Return the PNG as a data URL, for an HTML page."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def sweep_pictures(store: Store, runs: pd.DataFrame, metric: str | None = None) -> list[Picture]:
    """Draw the figures of a sweep; `runs` is the result of `summary.finished`.

    They are of the metric, by default of the one that `summarize` chooses.

    There are no curves if reading them from a server would take too long.
    """
    from nnexp.analysis import plots  # matplotlib takes long to import, and is not always needed

    metric = metric or deciding(runs)
    history = None
    if store.is_known or len(runs) <= MAX_ASKED:
        history = read_history(store, runs, drawn_metrics(runs, metric), epochs_to_draw(runs))
    figures = plots.of_sweep(runs, history, metric)
    return [Picture(name, in_words(figure), plots.png(figure)) for name, figure in figures.items()]


def search_pictures(found: Searched) -> list[Picture]:
    """Draw the figures of a search, from its trials."""
    from nnexp.analysis import plots
    from nnexp.analysis.plots.search import of_search

    return [Picture(name, in_words(figure), plots.png(figure)) for name, figure in of_search(found).items()]


def drawn_metrics(runs: pd.DataFrame, metric: str) -> list[str]:
    """Return the metrics whose curves the figures need: this one, that of the other rows, the accuracy."""
    is_val = metric.startswith("val_")
    other = metric.removeprefix("val_") if is_val else f"val_{metric}"
    return [
        name
        for name in dict.fromkeys([metric, other, "val_accuracy" if is_val else "accuracy"])
        if name in runs
    ]


def epochs_to_draw(runs: pd.DataFrame) -> list[int]:
    """Choose evenly spaced epochs at which the runs have points, including each run's first and last."""
    most = int(np.clip(MAX_POINTS // max(1, len(runs)), COARSEST, FINEST))
    chosen: set[int] = set()
    for epochs, every in runs[["epochs", "log_every"]].drop_duplicates().itertuples(index=False):
        points = log_epochs(int(epochs), int(every), [int(epochs)])
        at = np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))
        chosen.update(points[at].tolist())
    return sorted(chosen)


def in_words(figure: Figure) -> str:
    """Describe a figure for people who cannot see it: its heading, axes, panels and legend."""
    axes = figure.axes
    measured, along = (
        ", ".join(dict.fromkeys(filter(None, labels)))
        for labels in ([ax.get_ylabel() for ax in axes], [ax.get_xlabel() for ax in axes])
    )
    told = {
        "": "; ".join(text.get_text() for text in figure.texts),
        "axes: ": " against ".join(filter(None, [measured, along])),
        "panels: ": "; ".join(filter(None, [ax.get_title(loc="left") for ax in axes])),
        "key: ": "; ".join(_key(legend) for legend in figure.legends),
    }
    words = ". ".join(kind + " ".join(text.split()) for kind, text in told.items() if text)
    return words.replace(r"\$", "$")  # matplotlib needs the backslash to draw a literal dollar


def _key(legend: Legend) -> str:
    """Return the title and the labels of a legend."""
    return (
        f"{legend.get_title().get_text()} {', '.join(text.get_text() for text in legend.get_texts())}".strip()
    )
