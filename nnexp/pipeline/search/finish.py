"""End a search: read its runs back, draw its figures, and record what it found on its parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nnexp.pipeline.search.plan import Planned
from nnexp.pipeline.session import Place
from nnexp.pipeline.sweep import finish_parent, found_of
from nnexp.tracking.searches import Searched


def finish(
    place: Place,
    parent: str,
    asked: Planned,
    searched: Searched,
    failures: Sequence[tuple[str, str]],
    stopped: bool,
) -> None:
    """Record the results of a search, and end its parent run."""
    keys = [key for trial in searched.trials for key in (*trial.keys, *trial.confirmed)]
    found = replace(found_of(place, parent, len(set(keys))), search=searched)
    pictures = []
    if asked.config.figures:
        from nnexp.analysis.report.pictures import search_pictures

        pictures = search_pictures(searched)
    finish_parent(place, found, failures, stopped, pictures)
