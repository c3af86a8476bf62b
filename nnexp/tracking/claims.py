"""Decide which place on the disks belongs to a database, and move aside what does not belong there."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from nnexp.config.errors import RequestError
from nnexp.tracking.places import SQLITE, STORE_ID, file_of, find_id, local_path, new_id
from nnexp.tracking.reader import Experiment
from nnexp.tracking.store import Store
from nnexp.tracking.tables import EXPERIMENT_TAGS, EXPERIMENTS


def claim(store: Store, experiment: Experiment) -> Experiment:
    """Return the experiment with the directory that its artifacts are to be written to.

    A directory that nnexp chose is in the store's own place: for an SQLite file beside it, wherever it was
    recorded. If that place belongs to another database, this one takes a new id. The database's row is
    updated as well, for those who record through MLflow. Raises RequestError if the place cannot be written
    to.
    """
    if store.uri.startswith("http"):
        return experiment
    with store.reading() as connection:
        t = EXPERIMENTS.c
        query = sa.select(t.artifact_location).where(t.experiment_id == int(experiment.id))
        id, recorded = find_id(connection), str(connection.execute(query).scalar_one())
    place = local_path(recorded)
    where = experiment.artifact_location
    if id is not None and place is not None and id in place.parts:
        above, _, below = recorded.partition(f"/{id}/")
        root = store.artifact_root if store.uri.startswith(SQLITE) else above
        where = f"{root}/{id}/{below}"
        if not _is_taken(store, Path(str(local_path(str(root)))), id):
            _change_id(store, id)
            return claim(store, experiment)
    if where != recorded:
        with store.engine.begin() as connection:
            moved = sa.update(EXPERIMENTS).where(t.experiment_id == int(experiment.id))
            connection.execute(moved.values(artifact_location=where))
    return replace(experiment, artifact_location=where)


def aside_of(store: Store, place: Path) -> Path | None:
    """Return where files that do not belong in this directory of an experiment can be moved.

    None unless the directory is in a place that only this database records into, and no link leads there.
    """
    with store.reading() as connection:
        id = find_id(connection)
    if id is None or id not in place.parts:
        return None
    i = place.parts.index(id)
    root, below = Path(*place.parts[:i]), place.parts[i + 1 :]
    is_plain = os.path.realpath(place) == os.path.join(os.path.realpath(root), id, *below)
    try:
        is_own = is_plain and _owner(root / f"{id}.store") == _name(store)
    except OSError:  # nothing is recorded there yet, or we may not read it
        return None
    return Path(root, f"{id}.aside", *below) if is_own else None


def _is_taken(store: Store, root: Path, id: str) -> bool:
    """Take the place for this database unless another one owns it; return whether this one owns it.

    Raises RequestError if the place cannot be written to.
    """
    marker, name = root / f"{id}.store", _name(store)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), marker.open("x", encoding="utf-8") as file:
            file.write(name)
        return _owner(marker) == name
    except OSError as error:
        raise RequestError(
            f"the artifacts go to {root}, which cannot be written to: {error.strerror}"
        ) from error


def _owner(marker: Path) -> str:
    """Return the database that the file names; wait if the file is just being written. Raises OSError."""
    name = ""
    for _ in range(10):
        if name := marker.read_text(encoding="utf-8", errors="replace"):
            break
        time.sleep(0.05)
    return name


def _name(store: Store) -> str:
    """Return what tells a database from its copies.

    For a file it is the name beside its artifacts, in PostgreSQL the server and the database's number there.
    """
    file = file_of(store.uri)
    if file is not None:
        return file.name
    number = "SELECT oid FROM pg_database WHERE datname = current_database()"
    with store.reading() as connection:
        server, database = connection.execute(
            sa.text(f"SELECT system_identifier, ({number}) FROM pg_control_system()")
        ).one()
    return f"postgresql {server} {database}"


def _change_id(store: Store, old: str) -> None:
    """Give the store a new id, unless another process has done so. Recorded runs stay where they are."""
    t, e, new = EXPERIMENT_TAGS.c, EXPERIMENTS.c, new_id()
    with store.engine.begin() as connection:
        changed = sa.update(EXPERIMENT_TAGS).where(t.key == STORE_ID, t.value == old).values(value=new)
        if connection.execute(changed).rowcount:
            moved = sa.func.replace(e.artifact_location, f"/{old}/", f"/{new}/")
            connection.execute(sa.update(EXPERIMENTS).values(artifact_location=moved))
