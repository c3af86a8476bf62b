"""Find a recorded run by what was typed: its id, the beginning of it, or `last`; list the newest runs."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from itertools import islice

from nnexp.config.errors import RequestError
from nnexp.config.text import on_one_line, shortened
from nnexp.tracking.reader import MAX_TIME, Entry, Experiment, Kind
from nnexp.tracking.store import Store

log = logging.getLogger("nnexp")

NONE_THERE = {
    "run": "no run of its own{}; nnexp train records one",
    "sweep": "no sweep{}; nnexp train -m records one",
    "any": "no run{}; nnexp train records one",
}
# How many of the ids with the same beginning an error names.
NAMED = 3


def whole_id(store: Store, typed: str, kind: Kind = "any") -> str:
    """Return the id that is meant. A text that begins no id is returned unchanged, for the caller to refuse.

    A member's is SWEEP_ID/NUMBER, and its sweep may be given in the same ways.

    Raises RequestError if several ids begin with it, or if it is `last` and there is no run.
    """
    head, slash, number = typed.partition("/")
    if slash and re.fullmatch("0|[1-9][0-9]{0,17}", number) and kind != "sweep":
        return f"{whole_id(store, head, 'sweep')}/{number}"
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
            f"{typed}: {len(alike)} ids begin like this: {', '.join(alike[:NAMED])}{more}; type more of it"
        )
    return alike[0] if alike else typed


def get_newest(store: Store, kind: Kind, experiment: Experiment | None = None) -> Entry:
    """Return the newest sweep, single run, or either. Raises RequestError if there is none."""
    found = entries(store, kind, 1, experiment)
    if not found:
        where = " in this store" if experiment is None else f" in experiment {experiment.name!r}"
        raise RequestError(f"there is {NONE_THERE[kind].format(where)}")
    return found[0]


def entries(store: Store, kind: Kind, most: int, experiment: Experiment | None = None) -> list[Entry]:
    """Return at most `most` sweeps and single runs, the newest first."""
    return [_shown(entry) for entry in islice(store.reader.entries(kind, most, experiment), most)]


def _shown(entry: Entry) -> Entry:
    """Return the entry with its texts escaped for printing, leaving out values of a wrong type."""
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
