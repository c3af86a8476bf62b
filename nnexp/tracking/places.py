"""Where a store's artifacts lie: ROOT/ID/EXPERIMENT/RUN/artifacts, so that no two stores share a directory.

The id is the store's own: a tag of its experiments. Beside ROOT/ID, a file ROOT/ID.store names the database
that the place belongs to. A database that was copied without its artifacts, or beside the original, finds
another one named there, or nothing, and never records into the original's place.

An experiment that an older nnexp or MLflow itself has made keeps its directory, which other stores may share.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import sqlalchemy as sa

from nnexp.config.errors import RequestError
from nnexp.config.paths import default_store
from nnexp.config.text import masked
from nnexp.tracking.tables import EXPERIMENT_TAGS, EXPERIMENTS, MAX_URI

if TYPE_CHECKING:
    from nnexp.tracking.experiments import Experiment
    from nnexp.tracking.store import Store

log = logging.getLogger("nnexp")

SQLITE = "sqlite:///"
# The tag of an experiment that tells the store's id.
STORE_ID = "nnexp.store"
# An artifact's directory of more parts than this is looked for where it is recorded only.
MAX_PARTS = 100
# The longest name of a file, in bytes, on every file system in use.
MAX_FILE_NAME = 255


# --- Addresses and directories.


def file_of(uri: str) -> Path | None:
    """The file of an SQLite store, None for any other. Links to it are resolved."""
    return Path(os.path.realpath(uri.removeprefix(SQLITE))) if uri.startswith(SQLITE) else None


def root_of(uri: str) -> str:
    """The directory, as a URI, in which a database has its artifacts: beside an SQLite file, so that a store
    is one place wherever a command is typed; else where the default store has them."""
    file = file_of(uri) or default_store()
    return "file://" + quote(str(file.parent / "mlartifacts"))


def local_path(uri: str) -> Path | None:
    """The directory of an artifact location on this machine's disks, None for any other."""
    address = urlsplit(uri)
    if address.scheme == "file" and not address.netloc:
        return Path(unquote(address.path))
    return Path(uri) if not address.scheme else None


def place_of(uri: str, location: str) -> Path | None:
    """The directory of an artifact location of this store on this machine's disks, None for any other.

    MLflow records absolute locations. Of a store that was moved or copied, what lies beside its file counts:
    the recorded path's last parts, as many as are found there; then the recorded path.
    """
    place, file = local_path(location), file_of(uri)
    if place is None or file is None or place.is_relative_to(file.parent / "mlartifacts"):
        return place
    parts = place.parts[1:]
    if ".." in parts or len(parts) > MAX_PARTS:
        return place
    for i in range(len(parts) - 1):
        candidate = file.parent.joinpath(*parts[i:])
        if os.path.isdir(candidate):
            if not os.path.isdir(place):
                _tell(f"note: {Path('/', *parts[:i])} is not here: its artifacts are read from {file.parent}")
            return candidate
    return place


def place_for(uri: str, root: str, name: str) -> str:
    """Choose where a new experiment's artifacts go: below `root`, in a directory of its name, or of the
    name's hash where a file system or the database's column has no room for it. Raises RequestError."""
    has_room = len(name.encode()) <= MAX_FILE_NAME
    room = MAX_URI - len(f"/{'0' * 32}/artifacts")  # for a run's own directory
    location = f"{root}/{quote(name)}"
    if has_room and (uri.startswith(SQLITE) or len(location) <= room):
        return location
    location = f"{root}/name-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    if not uri.startswith(SQLITE) and len(location) > room:
        raise RequestError(
            f"tracking_uri={masked(uri)}: its artifacts would go to {root}, too long a path to be recorded "
            "there"
        )
    return location


@cache
def _tell(line: str) -> None:
    """Say it once."""
    log.info(line)


# --- The id of a store.


def new_id() -> str:
    return uuid.uuid4().hex


def find_id(connection: sa.Connection) -> str | None:
    """The store's id, None where it has none."""
    return next(filter(_is_id, _ids(connection)), None)


def ensure_id(connection: sa.Connection, new: str) -> str:
    """The store's id; `new` where it has none. The tag goes to the first experiment, so that of two processes
    at once one finds it there."""
    if (found := find_id(connection)) is None:
        t = EXPERIMENT_TAGS
        connection.execute(sa.delete(t).where(t.c.key == STORE_ID, t.c.value.in_(_ids(connection))))
        first = (
            "SELECT :key, :value, experiment_id FROM experiments WHERE true ORDER BY experiment_id LIMIT 1"
        )
        put = f"INSERT INTO experiment_tags (key, value, experiment_id) {first} ON CONFLICT DO NOTHING"
        connection.execute(sa.text(put), {"key": STORE_ID, "value": new})
        found = find_id(connection) or new
    return found


def _ids(connection: sa.Connection) -> list[str]:
    """The tags that tell the store's id, as they stand: of the first experiment first."""
    t = EXPERIMENT_TAGS.c
    query = sa.select(t.value).where(t.key == STORE_ID).order_by(t.experiment_id)
    return list(connection.execute(query).scalars())


def _is_id(value: object) -> bool:
    """Whether it is one as `new_id` draws them, and so a directory's name that leads nowhere else."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) is not None


def own_root(store: Store) -> str:
    """The place, as a URI, that is this database's own. It is given an id where it has none yet."""
    with store.engine.begin() as connection:
        return f"{store.artifact_root}/{ensure_id(connection, new_id())}"


# --- Whose a place is.


def claim(store: Store, experiment: Experiment) -> Experiment:
    """The experiment, with the directory that its artifacts are to be written to.

    Where nnexp chose it, it is in the store's own place: for an SQLite file beside it, wherever it was
    recorded. A place that belongs to another database is left to it, and this one takes a new id. The
    database is told, for those who record through MLflow. Raises RequestError.
    """
    if store.uri.startswith("http"):
        return experiment
    with store.reading() as connection:
        id, recorded = find_id(connection), _location(connection, experiment)
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
        t = EXPERIMENTS.c
        with store.engine.begin() as connection:
            moved = sa.update(EXPERIMENTS).where(t.experiment_id == int(experiment.id))
            connection.execute(moved.values(artifact_location=where))
    return replace(experiment, artifact_location=where)


def aside_of(store: Store, place: Path) -> Path | None:
    """Where what does not belong into this directory of an experiment can be moved. None unless the directory
    is in the place that only this database records into, and no link leads there."""
    with store.reading() as connection:
        id = find_id(connection)
    if id is None or id not in place.parts:
        return None
    i = place.parts.index(id)
    root, below = Path(*place.parts[:i]), place.parts[i + 1 :]
    is_plain = os.path.realpath(place) == os.path.join(os.path.realpath(root), id, *below)
    try:
        is_own = is_plain and _owner(root / f"{id}.store") == _name(store)
    except OSError:  # nobody has recorded there yet, or it is not ours to read
        return None
    return Path(root, f"{id}.aside", *below) if is_own else None


def _location(connection: sa.Connection, experiment: Experiment) -> str:
    t = EXPERIMENTS.c
    query = sa.select(t.artifact_location).where(t.experiment_id == int(experiment.id))
    return str(connection.execute(query).scalar_one())


def _is_taken(store: Store, root: Path, id: str) -> bool:
    """Take the place for this database unless it is another one's; whether it is this one's."""
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
    """The database that the file names, which may be in the making. Raises OSError."""
    name = ""
    for _ in range(10):
        if name := marker.read_text(encoding="utf-8", errors="replace"):
            break
        time.sleep(0.05)
    return name


def _name(store: Store) -> str:
    """What tells a database from its copies: of a file the name beside its artifacts, in PostgreSQL the
    server and the number that the database has there."""
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
