"""Choose where artifacts go: ROOT/ID/EXPERIMENT/RUN/artifacts, so that no two stores share a directory.

ID is the store's own, kept in a tag of its experiments. Beside ROOT/ID, the file ROOT/ID.store names the
database that owns the place. A database that was copied, without its artifacts or beside the original, finds
another database named there, or none, and never records into the original's place.

An experiment that an older nnexp or MLflow itself made keeps its directory, which other stores may share.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import uuid
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import sqlalchemy as sa

from nnexp.config.errors import RequestError
from nnexp.config.paths import default_store
from nnexp.config.text import masked
from nnexp.tracking.tables import EXPERIMENT_TAGS, MAX_URI

log = logging.getLogger("nnexp")

SQLITE = "sqlite:///"
# The tag of an experiment that holds the store's id.
STORE_ID = "nnexp.store"
# A recorded path with more parts than this is not looked for beside the store's file.
MAX_PARTS = 100
# The longest file name, in bytes, that every file system in use takes.
MAX_FILE_NAME = 255


def file_of(uri: str) -> Path | None:
    """Return the file of an SQLite store, with links resolved; None for any other store."""
    return Path(os.path.realpath(uri.removeprefix(SQLITE))) if uri.startswith(SQLITE) else None


def root_of(uri: str) -> str:
    """Return the directory, as a URI, in which a database keeps its artifacts.

    It is beside an SQLite file, so that a store is one place wherever a command is typed; else where the
    default store keeps them.
    """
    file = file_of(uri) or default_store()
    return "file://" + quote(str(file.parent / "mlartifacts"))


def local_path(uri: str) -> Path | None:
    """Return the directory of an artifact location on this machine's disks; None for any other location."""
    address = urlsplit(uri)
    if address.scheme == "file" and not address.netloc:
        return Path(unquote(address.path))
    return Path(uri) if not address.scheme else None


def place_of(uri: str, location: str) -> Path | None:
    """Return the directory of this store's artifact location on this machine's disks; None for any other.

    MLflow records absolute locations, but a store may have been moved or copied. So what is beside its file
    comes first: the recorded path's last parts, as many as are found there. Otherwise the recorded path
    counts.
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


class Places:
    """Finds where the artifacts of many runs are, as `place_of` does, but looks once for each experiment."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._unmoved: dict[str, str | None] = {}  # the recorded directory, where nothing else comes first

    def of(self, run_id: str, location: str) -> str | None:
        """Return the directory of a run's artifacts on this machine's disks; None for any other location."""
        above, _, below = location.partition(f"/{run_id}/")
        if below == "artifacts":
            if above not in self._unmoved:
                place = place_of(self._uri, above)
                is_there = place is not None and place == local_path(above)
                self._unmoved[above] = str(place) if is_there else None
            if (found := self._unmoved[above]) is not None:
                return f"{found}/{run_id}/artifacts"
        place = place_of(self._uri, location)
        return None if place is None else str(place)


def place_for(uri: str, root: str, name: str) -> str:
    """Choose where a new experiment's artifacts go, below `root`.

    The directory has the experiment's name, or the name's hash if the file system or the database's column
    has no room for the name. Raises RequestError if the column has no room for that either.
    """
    location = f"{root}/{quote(name)}"
    if not has_room(uri, location):
        location = f"{root}/name-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    if not has_room(uri, location):
        raise RequestError(
            f"tracking_uri={masked(uri)}: its artifacts would go to {root}, too long a path to record there"
        )
    return location


def has_room(uri: str, location: str) -> bool:
    """Return whether the file system and the database take the location of an experiment's artifacts."""
    name = unquote(location.rpartition("/")[2])
    is_short = uri.startswith(SQLITE) or len(f"{location}/{'0' * 32}/artifacts") <= MAX_URI
    return is_short and len(name.encode()) <= MAX_FILE_NAME


def is_read_only(place: Path) -> bool:
    """Return whether this process may not write to a file or a directory."""
    return not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


@cache
def _tell(line: str) -> None:
    """Log a line, the first time only."""
    log.info(line)


def new_id() -> str:
    """Draw a new store's id."""
    return uuid.uuid4().hex


def find_id(connection: sa.Connection) -> str | None:
    """Return the store's id; None if it has none."""
    return next(filter(_is_id, _ids(connection)), None)


def ensure_id(connection: sa.Connection, new: str) -> str:
    """Return the store's id, which becomes `new` if there is none.

    The tag goes to the first experiment, so that of two processes at once one finds the other's tag there.
    """
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
    """Return the values of the tags for the store's id, unchecked, those of the first experiment first."""
    t = EXPERIMENT_TAGS.c
    query = sa.select(t.value).where(t.key == STORE_ID).order_by(t.experiment_id)
    return list(connection.execute(query).scalars())


def _is_id(value: object) -> bool:
    """Return whether it is an id as `new_id` draws it, and so a safe name for a directory."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) is not None
