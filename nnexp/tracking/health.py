"""Query the content of a store, sound or damaged, for `nnexp doctor`."""

from __future__ import annotations

import csv
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain, count
from pathlib import Path

import sqlalchemy as sa

from nnexp.tracking.members import RECORD
from nnexp.tracking.owner import HEARTBEAT, OWNER
from nnexp.tracking.reader import Detail, Experiment
from nnexp.tracking.store import Store, connected
from nnexp.tracking.tables import LATEST_METRICS, METRICS, PARAMS, RUNS, TAGS
from nnexp.tracking.whole import NEEDED_TAGS

# The most faults that SQLite lists.
MOST = 20
# Tables whose rows belong to a run.
OF_RUNS = tuple(table.name for table in (PARAMS, TAGS, METRICS, LATEST_METRICS))
# Each run that has points, found by a step through an index, if it is not in the store.
_POINTS_OF_NOTHING = f"""
    WITH RECURSIVE of(run) AS (
        SELECT min(run_uuid) FROM {METRICS.name}
        UNION ALL SELECT (SELECT min(run_uuid) FROM {METRICS.name} WHERE run_uuid > run) FROM of
        WHERE run IS NOT NULL
    )
    SELECT run FROM of WHERE run IS NOT NULL AND run NOT IN (SELECT run_uuid FROM {RUNS.name})
"""
_TAGS = ["nnexp.run_key", "nnexp.attempt", "nnexp.sweep", "nnexp.sweep_id", *NEEDED_TAGS]
_TAGS += [OWNER, HEARTBEAT, RECORD, "nnexp.runs"]


def file_faults(path: Path) -> list[str]:
    """Return the faults in an SQLite file: in its pages, and in indexes that do not match their tables.

    That is SQLite's `integrity_check` of all tables but one: nearly all rows are points of curves, whose
    indexes are compared with them in less time. The order of those indexes is not checked.
    """

    def run(check: Callable[[sqlite3.Connection], list[str]]) -> list[str]:
        with closing(connected(path)) as connection:
            try:
                connection.execute("BEGIN")  # since another process may be recording
                return check(connection)
            except sqlite3.DatabaseError as error:
                return [str(error)]

    # Two at a time, first those that take longest.
    checks: list[Callable[[sqlite3.Connection], list[str]]] = [
        partial(_faults_of_points, of_key=True),
        partial(_faults_of_points, of_key=False),
        _faults_of_pages,
        _faults_of_other_tables,
    ]
    with ThreadPoolExecutor(2) as pool:
        return list(dict.fromkeys(chain(*pool.map(run, checks))))[:MOST]


def _faults_of_pages(connection: sqlite3.Connection) -> list[str]:
    return _told(connection, [f"PRAGMA quick_check({MOST})"])


def _faults_of_other_tables(connection: sqlite3.Connection) -> list[str]:
    names = [name for name in _tables(connection) if name != METRICS.name]
    return _told(connection, [f"PRAGMA integrity_check({_quoted(name)})" for name in names])


def _told(connection: sqlite3.Connection, queries: Sequence[str]) -> list[str]:
    """Return what SQLite's own checks find."""
    found = (str(text) for query in queries for (text,) in connection.execute(query))
    return [text for text in found if text != "ok"]


def _faults_of_points(connection: sqlite3.Connection, of_key: bool) -> list[str]:
    """Compare the index of the points' primary key with their table, or their other indexes: has it each row
    once, with the row's values?"""
    table, faults = METRICS.name, list[str]()
    if table not in _tables(connection):
        return []  # it is not a store, which is told elsewhere
    indexes = connection.execute(f"PRAGMA index_list({table})").fetchall()
    rows = connection.execute(f"SELECT count(*), sum(rowid) FROM {table} NOT INDEXED").fetchone()
    for _, name, _, origin, is_partial in indexes:
        if (origin == "pk") != of_key:
            continue
        columns = [column for *_, column in connection.execute(f"PRAGMA index_info({_quoted(name)})")]
        if is_partial or None in columns:
            # Of some rows, or of expressions: MLflow makes none.
            faults += _told(connection, [f"PRAGMA integrity_check({table})"])
            continue
        pairs = [(f"t.{_quoted(column)}", f"i.{_quoted(column)}") for column in columns]
        differs = " OR ".join(f"{own} IS NOT {other}" for own, other in pairs)
        same = connection.execute(
            f"SELECT count(*), sum(i.rowid), total({differs}) FROM {table} i INDEXED BY {_quoted(name)} "
            f"CROSS JOIN {table} t NOT INDEXED WHERE t.rowid = i.rowid"
        ).fetchone()
        if same != (*rows, 0):
            faults.append(f"index {name} does not match its table {table}")
    return faults


def _quoted(name: str) -> str:
    """Return a name of a table, a column or an index as SQL."""
    return '"' + name.replace('"', '""') + '"'


def rows_of_nothing(path: Path) -> Counter[str]:
    """Count, by table, the rows that refer to a row that is missing."""
    with closing(connected(path)) as connection:
        if connection.execute(_POINTS_OF_NOTHING).fetchone():
            return Counter(row[0] for row in connection.execute("PRAGMA foreign_key_check"))
        names = [name for name in _tables(connection) if name != METRICS.name]
        checks = (connection.execute(f"PRAGMA foreign_key_check({_quoted(name)})") for name in names)
        return Counter(row[0] for row in chain(*checks))


def _tables(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return [str(name) for (name,) in found.fetchall()]


def all_runs(store: Store, experiments: Sequence[Experiment]) -> list[Detail]:
    """Return every run of nnexp, oldest first."""
    return store.reader.all_runs(experiments, _TAGS)


def all_ids(store: Store) -> set[str]:
    """Return the ids of all runs of a database, including those not made by nnexp."""
    with store.reading() as connection:
        return set(connection.execute(sa.select(RUNS.c.run_uuid)).scalars())


def has_run(connection: sa.Connection, run_id: str) -> bool:
    """Return whether the database has a run with this id."""
    return connection.scalar(sa.select(RUNS.c.run_uuid).where(RUNS.c.run_uuid == run_id)) is not None


def running_ids(store: Store, experiment: Experiment) -> list[str]:
    """Return the ids of an experiment's RUNNING runs."""
    r = RUNS.c
    query = sa.select(r.run_uuid).where(r.experiment_id == int(experiment.id), r.status == "RUNNING")
    with store.reading() as connection:
        return list(connection.execute(query).scalars())


def move_rows_of_nothing(path: Path, table: str, aside: Path) -> None:
    """Move a table's rows that belong to no run into a new CSV file in the directory `aside`."""
    of_nothing = f"FROM {table} WHERE run_uuid NOT IN (SELECT run_uuid FROM runs)"
    with closing(connected(path)) as connection, connection:
        connection.execute("BEGIN IMMEDIATE")
        found = connection.execute(f"SELECT * {of_nothing}")
        aside.mkdir(exist_ok=True)
        names = (aside / f"{table}.{i}.csv" for i in count(1))
        with next(name for name in names if not name.exists()).open("x", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(column[0] for column in found.description)
            rows.writerows(found)
            file.flush()
            os.fsync(file.fileno())
        connection.execute(f"DELETE {of_nothing}")
