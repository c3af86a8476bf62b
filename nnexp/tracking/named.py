"""What people call a recorded run: its id, the beginning of it, or `last`; and the list to choose from."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from itertools import islice

from nnexp.config.errors import RequestError
from nnexp.config.text import on_one_line, shortened
from nnexp.tracking.experiments import Experiment
from nnexp.tracking.reader import Entry, Kind
from nnexp.tracking.store import Store

log = logging.getLogger("nnexp")

NONE_THERE = {
    "run": "no run of its own{}; nnexp train records one",
    "sweep": "no sweep{}; nnexp train -m records one",
    "any": "no run{}; nnexp train records one",
}
# Milliseconds until the year 2255.
MAX_TIME = 9_000_000_000_000
# So many of the ids that begin alike are named.
NAMED = 3


def whole_id(store: Store, typed: str, kind: Kind = "any") -> str:
    """The id that is meant; what is the beginning of none is returned as it is, for the caller to refuse.

    Raises RequestError where it is the beginning of several, or `last` and there is none.
    """
    if typed == "last":
        newest = get_newest(store, kind)
        log.info(f"last is {newest.run_id}: {newest.name}")
        return newest.run_id
    if not re.fullmatch("[0-9a-f]{1,31}", typed):
        return typed
    found = store.reader.beginning(typed)
    alike = [run_id for run_id, is_sweep in found.items() if kind == "any" or is_sweep == (kind == "sweep")]
    alike = alike or list(found)
    if len(alike) > 1:
        more = ", …" * (len(alike) > NAMED)
        raise RequestError(
            f"{typed}: {len(alike)} ids begin so: {', '.join(alike[:NAMED])}{more}; type more of it"
        )
    return alike[0] if alike else typed


def get_newest(store: Store, kind: Kind, experiment: Experiment | None = None) -> Entry:
    """The newest sweep, run of its own, or either. Raises RequestError where there is none."""
    found = entries(store, kind, 1, experiment)
    if not found:
        where = " in this store" if experiment is None else f" in experiment {experiment.name!r}"
        raise RequestError(f"there is {NONE_THERE[kind].format(where)}")
    return found[0]


def entries(store: Store, kind: Kind, most: int, experiment: Experiment | None = None) -> list[Entry]:
    """The newest sweeps and runs that are no sweep's, so many at most, the newest first."""
    return [_shown(entry) for entry in islice(store.reader.entries(kind, most, experiment), most)]


def _shown(entry: Entry) -> Entry:
    """The entry, fit to be printed, whatever types the record has: for a wrong one the rest is listed."""
    name, status, experiment = (
        on_one_line(shortened(str(text))) for text in (entry.name, entry.status, entry.experiment)
    )
    time, best = entry.start_time, entry.best
    return replace(
        entry,
        name=name,
        status=status,
        experiment=experiment,
        start_time=time if isinstance(time, int) and 0 <= time < MAX_TIME else None,
        best=best if isinstance(best, int | float) else None,
    )
