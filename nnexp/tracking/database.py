"""Record runs in bulk in MLflow's own tables.

A chunk of runs is one transaction, and its artifacts are in place before its rows are written.
"""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import copysign, isfinite, isnan
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from nnexp.config.errors import RequestError
from nnexp.tracking.durable import flush
from nnexp.tracking.files import put
from nnexp.tracking.insert import insert, insert_new
from nnexp.tracking.labels import NAME
from nnexp.tracking.owner import Owner
from nnexp.tracking.places import SQLITE, has_room, is_read_only, local_path
from nnexp.tracking.reader import Experiment
from nnexp.tracking.runs import Ended, Ids, Point, RunRecord, fitted, given_way, identity, now, user
from nnexp.tracking.store import Store, existing
from nnexp.tracking.tables import DATASETS, INPUT_TAGS, INPUTS, LATEST_METRICS, METRICS, PARAMS, RUNS, TAGS

log = logging.getLogger("nnexp")

# A row of the metrics table: name, value, time, run, step, and whether the value is NaN.
MetricRow = tuple[str, float, int, str, int, bool]

# Seconds to wait for a locked SQLite file: in one attempt, after which the wait is reported, and in all.
TRY_SECONDS, LOCK_SECONDS = 5, 600
# SQLite's page cache in KiB, so large that the index pages that a chunk touches stay in memory.
CACHE_KIB = 8192


class DatabaseWriter:
    """A `Writer` of one experiment's runs into a database whose tables nnexp knows.

    `place` is where the experiment's artifacts are on this machine's disks, if its location does not say so.
    Raises RequestError if they cannot be written here, or their path is too long to record.
    """

    def __init__(self, store: Store, experiment: Experiment, place: Path | None = None) -> None:
        self._experiment = experiment
        place = place or local_path(experiment.artifact_location)
        if place is None:
            raise RequestError(
                f"experiment_name={experiment.name}: its artifacts are at {experiment.artifact_location}, "
                "which this database's server serves: give the server's address as tracking_uri"
            )
        if not has_room(store.uri, experiment.artifact_location):
            raise RequestError(
                f"experiment_name={experiment.name}: its artifacts would go to {place}, too long a path to "
                "record: choose another name"
            )
        there = next(path for path in (place, *place.parents) if path.exists())
        if is_read_only(there):
            raise RequestError(
                f"experiment_name={experiment.name}: its artifacts go to {place}, but {there} is read-only"
            )
        self._place = place
        self._engine = _engine(store)
        self._owner = Owner(store)
        self._ids = Ids()
        self._disregarded: dict[str, str] = {}

    def write(self, records: Sequence[RunRecord]) -> None:
        """Record whole runs in one transaction; leave out those that have FINISHED already.

        Of runs that have an id, those that are in the store are left out, too.
        """
        ids = [record.run_id for record in records if record.run_id is not None]
        with self.transaction() as connection:
            there = set(
                connection.execute(sa.select(RUNS.c.run_uuid).where(RUNS.c.run_uuid.in_(ids))).scalars()
            )
            finished = self._finished(connection, [r.tags for r in records])
            left = [r for r in records if r.status != "FINISHED" or identity(r.tags) not in finished]
            left = [record for record in left if record.run_id not in there]
            new = {record.run_id or self._ids.draw(): record for record in left}
            for run_id, record in new.items():
                self._put(run_id, record.files)
            flush(self._place, new)
            self._insert_runs(connection, new)
            done = {identity(r.tags)[0]: run_id for run_id, r in new.items() if r.status == "FINISHED"}
            self._supersede(connection, done)

    def stop(self) -> None:
        """Do nothing: a transaction is over in a moment."""

    def start(self, record: RunRecord) -> str:
        run_id = self._ids.draw()
        self._owner.hold(run_id)
        self._put(run_id, record.files)
        flush(self._place, [run_id])
        with self.transaction() as connection:
            self._insert_runs(connection, {run_id: record})
        return run_id

    def take(self, name: str) -> bool:
        return self._owner.take(name)

    def resume(self, run_id: str) -> None:
        r = RUNS.c
        has_ended = (r.run_uuid == run_id) & (r.status != "RUNNING") & (r.lifecycle_stage == "active")
        if not self._owner.take(run_id):
            raise Ended(run_id, "RUNNING")
        with self.transaction() as connection:
            again = sa.update(RUNS).where(has_ended).values(status="RUNNING", end_time=None)
            if not connection.execute(again).rowcount:
                raise Ended(run_id, *_how_ended(connection, run_id))

    def log(self, run_id: str, points: Iterable[Point]) -> None:
        with self.transaction() as connection:
            rows = _metric_rows(run_id, points, now())
            insert(connection, METRICS, rows)
            latest = _latest(rows)
            old = sa.delete(LATEST_METRICS).where(
                LATEST_METRICS.c.run_uuid == run_id, LATEST_METRICS.c.key.in_([row[0] for row in latest])
            )
            connection.execute(old)
            insert(connection, LATEST_METRICS, latest)

    def add(self, run_id: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
        self._put(run_id, files)
        flush(self._place, [run_id])
        with self.transaction() as connection:
            _set_tags(connection, run_id, tags)

    def finish(self, run_id: str, status: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> str:
        self._put(run_id, files)
        flush(self._place, [run_id])
        r = RUNS.c
        going_on = (r.run_uuid == run_id) & (r.status == "RUNNING") & (r.lifecycle_stage == "active")
        first = run_id
        with self.transaction() as connection:
            if status == "FINISHED":
                own = connection.execute(sa.select(TAGS.c.key, TAGS.c.value).where(TAGS.c.run_uuid == run_id))
                same = dict(own.tuples().all())
                first = self._finished(connection, [same]).get(identity(same), run_id)
                if first != run_id:
                    status, tags = "KILLED", {**tags, **given_way(first)}
                self._supersede(connection, {identity(same)[0]: first})
            end = sa.update(RUNS).where(going_on).values(status=status, end_time=now())
            is_ended = not connection.execute(end).rowcount
            if is_ended:
                how = _how_ended(connection, run_id)
            else:
                _set_tags(connection, run_id, tags)
        self._owner.release(run_id)
        if is_ended:
            raise Ended(run_id, *how)
        return first

    def disregard(self, runs: Mapping[str, str]) -> None:
        self._disregarded |= runs

    def adopt(self, old: str, new: str) -> None:
        t = TAGS.c
        links = t.key.in_(["mlflow.parentRunId", "nnexp.sweep_id"])
        with self.transaction() as connection:
            connection.execute(sa.update(TAGS).where(links, t.value == old).values(value=new))

    def settle(self, sweep_id: str | None) -> set[str]:
        """Return no ids: transactions leave nothing incomplete and nothing twice."""
        self._engine.dispose()  # with its page cache
        return set()

    def close(self) -> None:
        self._owner.close()
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Open a transaction in which no other process records runs in the experiment.

        While another process has an SQLite file locked, wait and say so.
        """
        with self._engine.connect() as connection:
            if self._engine.dialect.name != "sqlite":
                with connection.begin():
                    # Writers of one experiment take turns, so that each sees what the others have finished.
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(int(self._experiment.id))))
                    yield connection
                return
            _patiently(connection, "BEGIN IMMEDIATE")
            try:
                yield connection
                _patiently(connection, "COMMIT")
            except BaseException:
                # After a failed write SQLite has already rolled back by itself.
                if connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
                    connection.exec_driver_sql("ROLLBACK")
                raise

    def _finished(
        self, connection: sa.Connection, runs: Iterable[Mapping[str, str]]
    ) -> dict[tuple[str, int], str]:
        """Return, by identity, the ids of the given runs that are already FINISHED in the experiment.

        The runs are given by their tags; disregarded runs do not count.
        """
        attempts = TAGS.alias()
        query = (
            sa.select(RUNS.c.run_uuid, TAGS.c.value, attempts.c.value)
            .join(RUNS, RUNS.c.run_uuid == TAGS.c.run_uuid)
            .join(
                attempts,
                (attempts.c.run_uuid == RUNS.c.run_uuid) & (attempts.c.key == "nnexp.attempt"),
                isouter=True,
            )
            .where(
                TAGS.c.key == "nnexp.run_key",
                TAGS.c.value.in_(sa.bindparam("keys", expanding=True)),
                RUNS.c.status == "FINISHED",
                RUNS.c.lifecycle_stage == "active",
                RUNS.c.experiment_id == int(self._experiment.id),
            )
        )
        keys = [key for key, _ in map(identity, runs) if key]
        found = connection.execute(query, {"keys": keys}).all()
        return {
            identity({"nnexp.run_key": key, "nnexp.attempt": attempt or "1"}): run_id
            for run_id, key, attempt in found
            if run_id not in self._disregarded
        }

    def _supersede(self, connection: sa.Connection, new: Mapping[str, str]) -> None:
        """Set the disregarded runs with these keys to KILLED; `new` maps keys to the runs in their place."""
        for old in [old for old, key in self._disregarded.items() if key in new]:
            connection.execute(sa.update(RUNS).where(RUNS.c.run_uuid == old).values(status="KILLED"))
            _set_tags(connection, old, given_way(new[self._disregarded.pop(old)]))

    def _insert_runs(self, connection: sa.Connection, records: Mapping[str, RunRecord]) -> None:
        rows: dict[sa.TableClause, list[tuple[object, ...]]] = {
            table: [] for table in (RUNS, PARAMS, TAGS, INPUTS, INPUT_TAGS)
        }
        datasets = self._dataset_ids(connection, records.values())
        experiment = int(self._experiment.id)
        for run_id, record in records.items():
            who, end = record.tags.get("mlflow.user", user()), record.end_time
            head = (run_id, record.title, "UNKNOWN", "", "", who, record.status, record.start_time, end)
            rows[RUNS].append((*head, None, "", "active", _uri(self._experiment, run_id), experiment))
            rows[PARAMS] += [(key, value, run_id) for key, value in record.params.items()]
            rows[TAGS] += [(key, value, run_id) for key, value in fitted(record.tags).items()]
            rows[TAGS].append(("mlflow.runName", record.title, run_id))
            if record.data is not None:
                input_id = uuid.uuid4().hex
                source = datasets[record.data.name, record.data.digest]
                rows[INPUTS].append((input_id, "DATASET", source, "RUN", run_id, 0))
                rows[INPUT_TAGS].append((input_id, "mlflow.data.context", "training"))
        for table, some in rows.items():
            insert_new(connection, table, some)
        latest: list[MetricRow] = []
        insert_new(connection, METRICS, _all_points(records, latest))
        insert_new(connection, LATEST_METRICS, latest)

    def _dataset_ids(
        self, connection: sa.Connection, records: Iterable[RunRecord]
    ) -> dict[tuple[str, str], str]:
        """Return the ids, by name and digest, of the records' data sets; insert those that are missing."""
        ids = {}
        wanted = {(r.data.name, r.data.digest): r.data for r in records if r.data is not None}
        t, experiment = DATASETS.c, int(self._experiment.id)
        for (name, digest), data in wanted.items():
            here = (t.experiment_id == experiment) & (t.name == name) & (t.digest == digest)
            found = connection.scalar(sa.select(t.dataset_uuid).where(here))
            if found is None:
                found = uuid.uuid4().hex
                parts = (data.source_type, data.source, data.schema, data.profile)
                insert(connection, DATASETS, [(found, experiment, name, digest, *parts)])
            ids[name, digest] = found
        return ids

    def _put(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Write artifacts: those of a new run in one step, later ones each over its old version."""
        if files:
            put(self._place, run_id, files)


def _uri(experiment: Experiment, run_id: str) -> str:
    """Return where a run's artifacts are, as a URI."""
    return f"{experiment.artifact_location}/{run_id}/artifacts"


def _how_ended(connection: sa.Connection, run_id: str) -> tuple[str | None, str | None]:
    """Return the status of a run, None if it was deleted, and the reason."""
    r, t = RUNS.c, TAGS.c
    head = connection.execute(sa.select(r.status, r.lifecycle_stage).where(r.run_uuid == run_id)).first()
    if head is None or head.lifecycle_stage != "active":
        return None, None
    reason = connection.scalar(sa.select(t.value).where(t.run_uuid == run_id, t.key == "nnexp.reason"))
    return head.status, reason


def _set_tags(connection: sa.Connection, run_id: str, tags: Mapping[str, str]) -> None:
    old = (TAGS.c.run_uuid == run_id) & TAGS.c.key.in_(list(tags))
    connection.execute(sa.delete(TAGS).where(old))
    insert(connection, TAGS, [(key, value, run_id) for key, value in fitted(tags).items()])
    if NAME in tags:  # as in MLflow, this tag is also the run's name
        connection.execute(sa.update(RUNS).where(RUNS.c.run_uuid == run_id).values(name=tags[NAME]))


def _all_points(records: Mapping[str, RunRecord], latest: list[MetricRow]) -> Iterator[MetricRow]:
    """Yield the points of all runs, each as a row; append the last of each metric of a run to `latest`."""
    for run_id, record in records.items():
        rows = _metric_rows(run_id, record.points, record.end_time or now())
        latest += _latest(rows)
        yield from rows


def _metric_rows(run_id: str, points: Iterable[Point], timestamp: int) -> list[MetricRow]:
    """Return the points as rows of the metrics table.

    MLflow stores a NaN as a marked 0, and an infinity as the largest double.
    """
    rows = []
    for key, step, value in points:
        is_nan = isnan(value)
        if not isfinite(value):
            value = 0.0 if is_nan else copysign(sys.float_info.max, value)
        rows.append((key, value, timestamp, run_id, step, is_nan))
    return rows


def _latest(rows: Iterable[MetricRow]) -> list[MetricRow]:
    """Return the last point of each metric: the greatest step, then the greatest value, as in MLflow."""
    last: dict[str, MetricRow] = {}
    for row in rows:
        old = last.get(row[0])
        if old is None or (row[4], row[1]) > (old[4], old[1]):
            last[row[0]] = row
    return list(last.values())


def _engine(store: Store) -> sa.Engine:
    if not store.uri.startswith(SQLITE):
        return sa.create_engine(store.uri, pool_size=1)
    engine = sa.create_engine(
        existing(store.uri), connect_args={"timeout": TRY_SECONDS, "check_same_thread": False}, pool_size=1
    )

    def connect(connection, record) -> None:  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # the driver must not begin transactions itself
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")

    sa.event.listen(engine, "connect", connect)
    return engine


def _patiently(connection: sa.Connection, command: str) -> None:
    """Execute a command, waiting while another process holds an SQLite file's lock.

    Raises OperationalError after LOCK_SECONDS.
    """
    end, told = time.monotonic() + LOCK_SECONDS, False
    while True:
        try:
            connection.exec_driver_sql(command)
            return
        except OperationalError as error:
            if "locked" not in str(error.orig) or time.monotonic() > end:
                raise
            if not told:
                log.info("the store is locked by another process: waiting")
                told = True
