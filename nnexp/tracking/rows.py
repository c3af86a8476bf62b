"""Read a database whose tables nnexp knows, in a few queries, without MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from nnexp.tracking.reader import (
    DECIDING,
    PAGE,
    Curves,
    Detail,
    Entry,
    Experiment,
    Found,
    Kind,
    deciding,
    wrong_value,
)
from nnexp.tracking.store import Store
from nnexp.tracking.tables import EXPERIMENTS, LATEST_METRICS, MAX_NAMED, METRICS, PARAMS, RUNS, TAGS, chunks
from nnexp.tracking.view import BEST


class DatabaseReader:
    """A `Reader` that reads the tables."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def experiment(self, id: str) -> Experiment:
        (found,) = self._experiments(EXPERIMENTS.c.experiment_id == int(id))
        return found

    def experiment_named(self, name: str) -> Experiment | None:
        e = EXPERIMENTS.c
        return next(iter(self._experiments((e.name == name) & (e.workspace == "default"))), None)

    def experiments(self) -> list[Experiment]:
        return self._experiments(sa.true())

    def _experiments(self, where: sa.ColumnElement[bool]) -> list[Experiment]:
        e = EXPERIMENTS.c
        is_deleted = e.lifecycle_stage == "deleted"
        query = sa.select(e.experiment_id, e.name, e.artifact_location, is_deleted).where(where)
        with self._store.reading() as connection:
            return [Experiment(str(id), *others) for id, *others in connection.execute(query)]

    def runs_with(self, experiment: Experiment, tag: str, others: Sequence[str] = ()) -> list[Found]:
        r, t = RUNS.c, TAGS.c
        # One query, so that status and tags are of the same moment, even if another process records.
        query = (
            sa.select(r.run_uuid, r.status, t.key, t.value)
            .join(TAGS, t.run_uuid == r.run_uuid)
            .where(having(experiment, tag), t.key.in_([tag, *others]))
            .order_by(r.start_time, r.run_uuid)
        )
        tags_of: dict[tuple[str, str], dict[str, str]] = {}
        with self._store.reading() as connection:
            for run_id, status, key, value in connection.execute(query):
                tags_of.setdefault((run_id, status), {})[key] = value
        return [Found(run_id, status, tags) for (run_id, status), tags in tags_of.items()]

    def details(self, run_ids: Sequence[str]) -> dict[str, Detail]:
        r = RUNS.c
        is_active = r.lifecycle_stage == "active"
        found = [self._details(r.run_uuid.in_(some) & is_active, sa.true()) for some in chunks(run_ids)]
        return {run.run_id: run for runs in found for run in runs}

    def networks(self, experiment: Experiment, tag_names: Sequence[str]) -> Iterator[list[Detail]]:
        with self._store.reading() as connection:
            found = connection.execute(sa.select(RUNS.c.run_uuid).where(having(experiment, "nnexp.run_key")))
            run_ids = sorted(found.scalars())
        for some in chunks(run_ids):
            yield self._details(RUNS.c.run_uuid.in_(some), TAGS.c.key.in_(tag_names))

    def _details(self, here: sa.ColumnElement[bool], tagged: sa.ColumnElement[bool]) -> list[Detail]:
        """Return the runs that satisfy a condition, with the tags that satisfy another."""
        r, m = RUNS.c, LATEST_METRICS.c
        ids = sa.select(r.run_uuid).where(here)
        metrics: dict[str, dict[str, float]] = {}
        with self._store.reading() as connection:
            # A run's texts come as one JSON object, which is read several times faster than one row per text.
            # Metrics do not, as SQLite's JSON has only 15 of a double's 17 digits.
            is_sqlite = connection.dialect.name == "sqlite"
            gather = sa.func.json_group_object if is_sqlite else sa.func.json_object_agg
            shared: dict[str, str] = {}  # most texts repeat from run to run; each is kept once

            def read(text: Any) -> dict[str, str]:
                pairs = json.loads(text) if is_sqlite else text
                return {shared.setdefault(k, k): shared.setdefault(v, v) for k, v in pairs.items()}

            texts = []
            for t, are_asked in ((PARAMS.c, sa.true()), (TAGS.c, tagged)):
                query = sa.select(t.run_uuid, gather(t.key, t.value)).where(t.run_uuid.in_(ids), are_asked)
                rows = connection.execute(query.group_by(t.run_uuid))
                texts.append({run_id: read(text) for run_id, text in rows})
            params, tags = texts
            latest = sa.select(m.run_uuid, m.key, m.value, m.is_nan).where(m.run_uuid.in_(ids))
            for run_id, key, value, is_nan in connection.execute(latest):
                metrics.setdefault(run_id, {})[shared.setdefault(key, key)] = math.nan if is_nan else value
            experiment = sa.cast(r.experiment_id, sa.Text)
            heads = sa.select(
                r.run_uuid, r.name, r.status, r.artifact_uri, experiment, r.start_time, r.end_time
            ).where(here)
            found = []
            for *head, start, end in connection.execute(heads):
                parts = [some.get(head[0], {}) for some in (params, metrics, tags)]
                found.append(Detail(*(*head, *parts, start, end)))
        return found

    def curves(self, run_ids: Sequence[str], metrics: Sequence[str] | None = None) -> dict[str, Curves]:
        m = METRICS.c
        curves: dict[str, dict[str, list[tuple[int, float]]]] = {run_id: {} for run_id in run_ids}
        query = sa.select(m.run_uuid, m.key, m.step, m.value, m.is_nan).order_by(m.run_uuid, m.key, m.step)
        if metrics is not None:
            query = query.where(m.key.in_(metrics))
        with self._store.reading() as connection:
            for some in chunks(run_ids):
                for run_id, key, step, value, is_nan in connection.execute(query.where(m.run_uuid.in_(some))):
                    if not isinstance(step, int):
                        raise wrong_value(run_id, step, "a step")
                    if not isinstance(value, int | float):
                        raise wrong_value(run_id, value, "a number")
                    curves[run_id].setdefault(key, []).append((step, math.nan if is_nan else value))
        return dict(curves)

    def points(
        self, run_ids: Sequence[str], metrics: Sequence[str], epochs: Sequence[int] | None
    ) -> Iterator[tuple[Any, ...]]:
        t = METRICS.c
        are_asked = t.key.in_(list(metrics)) & (t.is_nan == sa.false())
        query = sa.select(t.run_uuid, t.key, t.step, t.value).where(are_asked)
        if epochs is not None:
            query = query.where(t.step.in_(list(epochs)))
        # For few runs, or few of their points, use the index.
        is_sparse = len(run_ids) <= MAX_NAMED or epochs is not None
        queries = [query.where(t.run_uuid.in_(some)) for some in chunks(run_ids)] if is_sparse else [query]
        wanted = set(run_ids)
        with self._store.reading() as connection:
            for some in queries:
                for row in connection.execute(some):
                    if is_sparse or row[0] in wanted:
                        yield tuple(row)

    def heads(
        self, runs: Sequence[Found], tags: Sequence[str]
    ) -> list[tuple[str, str | None, Mapping[str, str]]]:
        r, t = RUNS.c, TAGS.c
        found: list[tuple[str, str | None, Mapping[str, str]]] = []
        with self._store.reading() as connection:
            for some in chunks([run.run_id for run in runs]):
                there: dict[str, dict[str, str]] = {}
                query = sa.select(t.run_uuid, t.key).where(t.run_uuid.in_(some), t.key.in_(tags))
                for run_id, key in connection.execute(query):
                    there.setdefault(run_id, {})[key] = ""
                places = sa.select(r.run_uuid, r.artifact_uri).where(r.run_uuid.in_(some))
                found += [(run_id, uri, there.get(run_id, {})) for run_id, uri in connection.execute(places)]
        return found

    def entries(self, kind: Kind, most: int, experiment: Experiment | None) -> Iterator[Entry]:
        r, e, m = RUNS.c, EXPERIMENTS.c, LATEST_METRICS.c
        (sweep, of_sweep), (key, of_key), (child, of_child) = map(
            _tag, ("nnexp.sweep", "nnexp.run_key", "nnexp.sweep_id")
        )
        is_sweep, is_alone = sweep.c.key.isnot(None), key.c.key.isnot(None) & child.c.key.is_(None)
        values = [
            sa.select(m.value)
            .where(m.run_uuid == r.run_uuid, m.key == sa.case((is_sweep, f"{BEST}{metric}"), else_=metric))
            .scalar_subquery()
            for metric in DECIDING
        ]
        query = (
            sa.select(r.run_uuid, r.name, r.status, r.start_time, e.name, is_sweep, *values)
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
        with self._store.reading() as connection:
            for *head, is_of_sweep, val_loss, loss in connection.execute(query).all():
                found = {"val_loss": val_loss, "loss": loss}
                if is_of_sweep and val_loss is None and loss is None:
                    found = _best_of(connection, head[0])
                run_id, name, status, start_time, experiment_name = head
                metric, best = deciding(found)
                yield Entry(
                    run_id, name, status, start_time, experiment_name, bool(is_of_sweep), metric, best
                )

    def beginning(self, typed: str) -> dict[str, bool]:
        sweep, of_sweep = _tag("nnexp.sweep")
        query = (
            sa.select(RUNS.c.run_uuid, sweep.c.key.isnot(None))
            .join(sweep, of_sweep, isouter=True)
            .where(RUNS.c.lifecycle_stage == "active", RUNS.c.run_uuid.like(f"{typed}%"))
            .order_by(RUNS.c.run_uuid)
            .limit(PAGE)
        )
        with self._store.reading() as connection:
            return {run_id: bool(is_sweep) for run_id, is_sweep in connection.execute(query).all()}

    def all_runs(self, experiments: Sequence[Experiment], tags: Sequence[str]) -> list[Detail]:
        r, t = RUNS.c, TAGS.c
        heads = sa.select(r.run_uuid, r.status, r.artifact_uri, r.experiment_id, r.lifecycle_stage)
        values: dict[str, dict[str, str]] = {}
        with self._store.reading() as connection:
            tagged = sa.select(t.run_uuid, t.key, t.value).where(t.key.in_(tags))
            for run_id, key, value in connection.execute(tagged):
                values.setdefault(run_id, {})[key] = str(value)
            rows = connection.execute(heads.order_by(r.start_time, r.run_uuid)).all()
        return [
            Detail(run_id, "", status, str(uri), str(id), {}, {}, values[run_id], is_active=stage == "active")
            for run_id, status, uri, id, stage in rows
            if values.get(run_id, {}).keys() & {"nnexp.run_key", "nnexp.sweep"}
        ]


def having(experiment: Experiment, tag: str) -> sa.ColumnElement[bool]:
    """Return the condition that a run is of the experiment, not deleted, and has this tag."""
    tagged = sa.select(TAGS.c.run_uuid).where(TAGS.c.key == tag)
    r = RUNS.c
    return (r.experiment_id == int(experiment.id)) & (r.lifecycle_stage == "active") & r.run_uuid.in_(tagged)


def _tag(key: str) -> tuple[sa.TableClause, Any]:
    """Return an alias of the tags' table, and the condition that joins a run's tag of this key."""
    tags: Any = TAGS.alias()
    return tags, (tags.c.run_uuid == RUNS.c.run_uuid) & (tags.c.key == key)


def _best_of(connection: sa.Connection, sweep_id: str) -> dict[str, float]:
    """Return the lowest of each loss of a sweep's own runs, for a sweep that is running or was stopped."""
    r, m = RUNS.c, LATEST_METRICS.c
    (child, of_child), (outcome, of_outcome) = _tag("nnexp.sweep_id"), _tag("nnexp.outcome")
    query = (
        sa.select(m.key, sa.func.min(m.value))
        .join(RUNS, r.run_uuid == m.run_uuid)
        .join(child, of_child)
        .join(outcome, of_outcome)
        .where(m.key.in_(DECIDING), child.c.value == sweep_id, outcome.c.value != "diverged")
        .group_by(m.key)
    )
    return {str(metric): value for metric, value in connection.execute(query).all()}
