"""Draw a sweep's figures from the store, for its record and its report."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nnexp.analysis.report.findings import Findings
from nnexp.analysis.summary import varying
from nnexp.tracking.members import member_id
from nnexp.tracking.read import read_history
from nnexp.tracking.searches import Searched
from nnexp.tracking.store import Store
from nnexp.training.shard import log_epochs

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Points drawn of each curve for few runs and for many runs, and of the curves of one metric together: figures
# need no more, and reading points takes time.
FINEST, COARSEST, MAX_POINTS = 60, 12, 100_000
# More runs than this are not asked of a server, because it returns one run's curve at a time.
MAX_ASKED = 100
# Curves of more runs than this are not drawn.
MAX_CURVED = MAX_POINTS // COARSEST


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


def sweep_pictures(store: Store, found: Findings) -> list[Picture]:
    """Draw the figures of a sweep, see `sweep_figures`, and describe each in words."""
    from nnexp.analysis import plots  # matplotlib takes long to import, and is not always needed

    figures = sweep_figures(store, found)
    return [Picture(name, in_words(figure), plots.png(figure)) for name, figure in figures.items()]


def sweep_figures(store: Store, found: Findings, only: str | None = None) -> dict[str, Figure]:
    """Draw all figures of a sweep, or the one of this name, by the metric of its summary.

    There are no curves if reading them from a server would take too long. They are of at most MAX_CURVED of
    the runs, as many of each setting. Raises RequestError if there is no figure `only`.
    """
    from nnexp.analysis import plots

    runs, history = found.done, None
    curved = _some(found, runs)
    if found.population is not None or store.is_known or len(runs) <= MAX_ASKED:
        metrics, epochs = drawn_metrics(runs, found.metric), epochs_to_draw(curved)
        history = read_history(store, curved, metrics, epochs, as_categories=True)
    return plots.of_sweep(runs, history, found.metric, only, found.summary, curved)


def _some(found: Findings, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose curves are drawn, the first few of each setting; members with their ids."""
    by = varying(runs)
    if by and len(runs) > MAX_CURVED:
        settings = runs.groupby(by, dropna=False, observed=True, sort=False)
        runs = settings.head(max(1, MAX_CURVED // settings.ngroups))
    some = runs.head(MAX_CURVED)
    if found.population is None:
        return some
    return some.assign(run_id=[member_id(found.parent.run_id, number) for number in some["number"].tolist()])


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
