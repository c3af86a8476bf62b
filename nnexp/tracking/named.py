"""What people call a recorded run: its id, the beginning of it, or `last`; and the list to choose from."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import sqlalchemy as sa

from nnexp.config.errors import RequestError
from nnexp.config.text import on_one_line, shortened
from nnexp.tracking.experiments import Experiment
from nnexp.tracking.find import PAGE
from nnexp.tracking.store import Store
from nnexp.tracking.tables import EXPERIMENTS, LATEST_METRICS, RUNS, TAGS
from nnexp.tracking.view import BEST

log = logging.getLogger("nnexp")

# What a verb takes: a trained network, a sweep, or either.
Kind = Literal["run", "sweep", "any"]
NONE_THERE = {
    "run": "no run of its own{}; nnexp train records one",
    "sweep": "no sweep{}; nnexp train -m records one",
    "any": "no run{}; nnexp train records one",
}
# Milliseconds until the year 2255.
MAX_TIME = 9_000_000_000_000
# So many of the ids that begin alike are named.
NAMED = 3


@dataclass(frozen=True)
class Entry:
    """A sweep, or a run that is no sweep's, in a list. Its start is in milliseconds since 1970; `best` is the
    loss that a run ended with, or that of a sweep's best run. None is what the record does not have."""

    run_id: str
    name: str
    status: str
    start_time: int | None
    experiment: str
    is_sweep: bool
    best: float | None


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
    found = _beginning(store, typed)
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
    find = _database_entries if store.is_known else _server_entries
    return [_shown(entry) for entry in islice(find(store, kind, most, experiment), most)]


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


# --- Of a database.


def _tag(key: str) -> tuple[sa.TableClause, Any]:
    """Another look at the tags, and how a run's tag of this key is joined."""
    tags: Any = TAGS.alias()
    return tags, (tags.c.run_uuid == RUNS.c.run_uuid) & (tags.c.key == key)


def _database_entries(store: Store, kind: Kind, most: int, experiment: Experiment | None) -> Iterator[Entry]:
    r, e, m = RUNS.c, EXPERIMENTS.c, LATEST_METRICS.c
    (sweep, of_sweep), (key, of_key), (child, of_child) = map(
        _tag, ("nnexp.sweep", "nnexp.run_key", "nnexp.sweep_id")
    )
    is_sweep, is_alone = sweep.c.key.isnot(None), key.c.key.isnot(None) & child.c.key.is_(None)
    named = sa.case((is_sweep, f"{BEST}loss"), else_="loss")
    best = sa.select(m.value).where(m.run_uuid == r.run_uuid, m.key == named).scalar_subquery()
    query = (
        sa.select(r.run_uuid, r.name, r.status, r.start_time, e.name, is_sweep, best)
        .join(EXPERIMENTS, e.experiment_id == r.experiment_id)
        .join(sweep, of_sweep, isouter=True)
        .join(key, of_key, isouter=True)
        .join(child, of_child, isouter=True)
        .where(r.lifecycle_stage == "active", e.lifecycle_stage == "active")
        .where({"run": is_alone, "sweep": is_sweep}.get(kind, is_alone | is_sweep))
        .order_by(r.start_time.desc(), r.run_uuid.desc())
        .limit(most)
    )
    if experiment is not None:
        query = query.where(r.experiment_id == int(experiment.id))
    with store.reading() as connection:
        for row in connection.execute(query).all():
            run_id, name, status, start_time, experiment_name, is_of_sweep, loss = row
            entry = Entry(run_id, name, status, start_time, experiment_name, bool(is_of_sweep), loss)
            if entry.is_sweep and entry.best is None:
                entry = replace(entry, best=_best_of(connection, entry.run_id))
            yield entry


def _best_of(connection: sa.Connection, sweep_id: str) -> float | None:
    """The lowest loss of a sweep's own runs, for one that goes on or was stopped."""
    r, m = RUNS.c, LATEST_METRICS.c
    (child, of_child), (outcome, of_outcome) = _tag("nnexp.sweep_id"), _tag("nnexp.outcome")
    query = (
        sa.select(sa.func.min(m.value))
        .join(RUNS, r.run_uuid == m.run_uuid)
        .join(child, of_child)
        .join(outcome, of_outcome)
        .where(m.key == "loss", child.c.value == sweep_id, outcome.c.value != "diverged")
    )
    best: float | None = connection.scalar(query)
    return best


def _beginning(store: Store, typed: str) -> dict[str, bool]:
    """The ids that begin so, and whether each is a sweep's."""
    if not store.is_known:
        ids = _experiment_ids(store, None)
        found = store.client.search_runs(ids, f"attributes.run_id LIKE '{typed}%'", max_results=PAGE)
        return {run.info.run_id: "nnexp.sweep" in run.data.tags for run in found}
    sweep, of_sweep = _tag("nnexp.sweep")
    query = (
        sa.select(RUNS.c.run_uuid, sweep.c.key.isnot(None))
        .join(sweep, of_sweep, isouter=True)
        .where(RUNS.c.lifecycle_stage == "active", RUNS.c.run_uuid.like(f"{typed}%"))
        .order_by(RUNS.c.run_uuid)
        .limit(PAGE)
    )
    with store.reading() as connection:
        return {run_id: bool(is_sweep) for run_id, is_sweep in connection.execute(query).all()}


# --- Of a server.


def _experiment_ids(store: Store, experiment: Experiment | None) -> list[str]:
    if experiment is not None:
        return [experiment.id]
    return [found.experiment_id for found in store.client.search_experiments()]


def _server_entries(store: Store, kind: Kind, most: int, experiment: Experiment | None) -> Iterator[Entry]:
    """A server is asked for one page of runs after the other, those of sweeps between them, until there are
    enough."""
    experiments: Sequence[Any] = store.client.search_experiments()
    name_of = {found.experiment_id: found.name for found in experiments}
    token = None
    while True:
        page = store.client.search_runs(
            _experiment_ids(store, experiment),
            max_results=PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        for run in page:
            info, tags = run.info, run.data.tags
            is_sweep = "nnexp.sweep" in tags
            is_alone = "nnexp.run_key" in tags and "nnexp.sweep_id" not in tags
            if (is_sweep and kind != "run") or (is_alone and kind != "sweep"):
                best = run.data.metrics.get(f"{BEST}loss" if is_sweep else "loss")
                head = (info.run_id, info.run_name, info.status, info.start_time)
                yield Entry(*head, name_of.get(info.experiment_id, info.experiment_id), is_sweep, best)
        token = page.token
        if not token:
            return
