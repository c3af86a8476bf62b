"""Query the content of a store, sound or damaged, for `nnexp doctor`."""

from __future__ import annotations

import csv
import os
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from itertools import count
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
_TAGS = ["nnexp.run_key", "nnexp.attempt", "nnexp.sweep", "nnexp.sweep_id", *NEEDED_TAGS]
_TAGS += [OWNER, HEARTBEAT, RECORD, "nnexp.runs"]


def file_faults(path: Path) -> list[str]:
    """Return the faults that SQLite finds in its file."""
    with closing(connected(path)) as connection:
        try:
            found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({MOST})")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
    return [] if found == ["ok"] else found


def rows_of_nothing(path: Path) -> Counter[str]:
    """Count, by table, the rows that refer to a row that is missing."""
    with closing(connected(path)) as connection:
        return Counter(row[0] for row in connection.execute("PRAGMA foreign_key_check"))


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
