"""Open the MLflow store: find it, create it safely, and refuse what is not one.

A database whose tables nnexp knows is read and written without MLflow, whose import takes seconds.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from nnexp.config.errors import Lost, RequestError
from nnexp.config.paths import default_store
from nnexp.config.run import RunConfig
from nnexp.config.text import first_line, masked, masked_value
from nnexp.tracking import tables
from nnexp.tracking.create import create_sqlite, fill
from nnexp.tracking.places import SQLITE, is_read_only, root_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from nnexp.tracking.reader import Reader

log = logging.getLogger("nnexp")

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

# Calls to a server at a time: nearly all the time is spent waiting for its answers.
CALLS_AT_ONCE = 8
# Seconds that a reader waits for a writer of an SQLite file.
BUSY_SECONDS = 60
# The longest name of a store's file, in bytes: the locks of its runs are beside it, under longer names.
MAX_STORE_NAME = 255 - len(f".{32 * '0'}.owner")
# The advisory lock under which one process creates a PostgreSQL store.
CREATION_LOCK = 0x6E6E657870


@dataclass(frozen=True)
class Store:
    """An open store.

    `artifact_root` is where nnexp keeps its artifacts (None: the server decides); `is_known` says whether it
    is a database whose tables nnexp knows.
    """

    uri: str
    artifact_root: str | None
    is_known: bool

    @cached_property
    def client(self) -> MlflowClient:
        """Return MLflow's own client, which takes seconds to import."""
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    @cached_property
    def reader(self) -> Reader:
        """The store's reader, chosen once."""
        if self.is_known:
            from nnexp.tracking.rows import DatabaseReader

            return DatabaseReader(self)
        from nnexp.tracking.client import ClientReader

        return ClientReader(self)

    @cached_property
    def engine(self) -> sa.Engine:
        """Return the engine for reading a database of known tables."""
        if not self.uri.startswith(SQLITE):
            return sa.create_engine(self.uri)
        # Opening a file takes no time; a pool would leave its connections to the garbage collector.
        arguments = {"timeout": BUSY_SECONDS, "factory": _Connection}
        return sa.create_engine(existing(self.uri), connect_args=arguments, poolclass=sa.NullPool)

    def each(self, ask: Callable[[_Item], _Answer], items: Iterable[_Item]) -> list[_Answer]:
        """Return the answer for each item, in their order; a server is asked several at a time."""
        if self.is_known:
            return list(map(ask, items))
        with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
            return list(pool.map(ask, items))

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a connection for reading a database of known tables.

        Raises StoreLost if the database has gone away, RequestError if what it holds cannot be read.
        """
        try:
            with self.engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            line = f"{masked(self.uri)} cannot be read: {first_line(error)}"
            if _is_gone(error):
                raise StoreLost(line) from error
            raise RequestError(f"{line}; nnexp doctor says more") from error


class _Connection(sqlite3.Connection):
    """A connection that closes its cursors when it is closed.

    Otherwise a query that was interrupted keeps the file locked until its cursor is collected, and the frames
    of the exception, which have it, may live as long as the process.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors = weakref.WeakSet[sqlite3.Cursor]()

    def cursor(self, *arguments: Any) -> Any:
        cursor = super().cursor(*arguments)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        for cursor in list(self._cursors):
            cursor.close()
        super().close()


def resolve_uri(tracking_uri: str | None) -> str:
    """Return the store's address: as given, else MLFLOW_TRACKING_URI, else the project's own.

    Raises RequestError if it is not a valid one.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{default_store()}"
    rule = RunConfig.__dataclass_fields__["tracking_uri"].metadata["rule"]
    try:
        rule.parse(uri)
    except ValueError:
        raise RequestError(f"tracking_uri={masked_value(uri)}: must be {rule.allowed}") from None
    if uri.startswith(SQLITE):
        # A link leads to the same store, whose locks and artifacts are beside the file itself.
        path = Path(os.path.realpath(uri.removeprefix(SQLITE)))
        try:
            str(path).encode()  # it is recorded, and SQLite opens it, as UTF-8
        except UnicodeEncodeError:
            where = f"{path.parent} has a name that is not UTF-8"
            raise RequestError(f"tracking_uri={uri}: {where}; choose another") from None
        return f"{SQLITE}{path}"
    return uri


def open_store(tracking_uri: str | None = None, *, create: bool = True) -> Store:
    """Open the store at this address; create it if it does not exist yet and `create` is true.

    Raises RequestError if it cannot be used as a store.
    """
    uri = resolve_uri(tracking_uri)
    if uri.startswith("http"):
        _reach(uri)
        return _answering(Store(uri, None, is_known=False))
    try:
        if uri.startswith(SQLITE):
            revisions = _sqlite_revisions(Path(uri.removeprefix(SQLITE)), create)
        else:
            revisions = _server_revisions(uri, create)
    except (sqlite3.DatabaseError, SQLAlchemyError, ImportError) as error:
        raise RequestError(f"tracking_uri={masked(uri)}: cannot be opened: {first_line(error)}") from error
    if revisions == [tables.REVISION]:
        return Store(uri, root_of(uri), is_known=True)
    _check_other_schema(uri, revisions)
    return _answering(Store(uri, root_of(uri), is_known=False))


class StoreLost(Lost):
    """The store went away: nothing can be recorded there any more, not even the failure."""


def _is_gone(error: DBAPIError) -> bool:
    """Return whether the database did not answer, as opposed to holding damaged data."""
    damage = ("malformed", "not a database", "decode", "JSON")
    return isinstance(error, OperationalError | InterfaceError) and not any(
        w in str(error.orig) for w in damage
    )


@contextmanager
def told_if_lost(store: Store) -> Iterator[None]:
    """Raise StoreLost if an error shows that the store has gone away.

    Raises RequestError if a server asks for a login or forbids the call; other errors pass through.
    """
    try:
        yield
    except Exception as error:
        if refusal := _refusal(store, error):
            raise refusal from error
        if not _is_loss(store, error):
            raise
        raise StoreLost(
            f"recording in {masked(store.uri)} failed: {_reason(store, error)}\n"
            "what is recorded is kept; when the store is back, the same command finishes the rest"
        ) from error


def _refusal(store: Store, error: Exception) -> RequestError | None:
    """Return the error to raise if a server asks for a login or forbids the call; None for any other."""
    if not store.uri.startswith("http"):
        return None
    from mlflow.exceptions import MlflowException

    status = error.get_http_status_code() if isinstance(error, MlflowException) else None
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if status == 401:
        what = f"refuses the password or the name {user!r}" if user else "asks for a login"
        return RequestError(
            f"tracking_uri={masked(store.uri)}: the server {what}: "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if status == 403:
        who = f"to {user!r} (MLFLOW_TRACKING_USERNAME)" if user else "without a login"
        return RequestError(f"tracking_uri={masked(store.uri)}: the server does not allow this {who}")
    return None


def _is_loss(store: Store, error: Exception) -> bool:
    """Return whether the error means that the store did not answer, which a refusal does not."""
    if isinstance(error, DBAPIError):
        return _is_gone(error)
    if not store.uri.startswith("http"):
        return False
    from mlflow.exceptions import MlflowException, RestException

    is_refusal = isinstance(error, RestException)
    return isinstance(error, MlflowException) and not is_refusal and error.error_code == "INTERNAL_ERROR"


def _reason(store: Store, error: Exception) -> str:
    if store.uri.startswith("http"):
        try:
            _reach(store.uri)
        except RequestError as unreachable:
            return str(unreachable.__cause__)
    return first_line(error)


def _answering(store: Store) -> Store:
    """Return the store once its client has answered. Raises RequestError."""
    from mlflow.exceptions import MlflowException

    try:
        store.client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        if refusal := _refusal(store, error):
            raise refusal from error
        where = f"tracking_uri={masked(store.uri)}"
        raise RequestError(f"{where}: cannot be opened: {first_line(error)}") from error
    return store


def _check_other_schema(uri: str, revisions: list[str]) -> None:
    """Raise RequestError for a store that MLflow would migrate, since its owner might be locked out."""
    from alembic.script import ScriptDirectory
    from mlflow import __version__
    from mlflow.store.db.utils import _get_alembic_config

    script = ScriptDirectory.from_config(_get_alembic_config(""))
    latest, older = script.get_current_head(), {revision.revision for revision in script.walk_revisions()}
    if revisions != [latest]:
        what = f"tracking_uri={masked(uri)}: its schema, {', '.join(revisions) or 'of no number'}, is "
        if revisions and set(revisions) <= older:
            what += f"older than this MLflow's ({__version__}): back the store up, then run\n"
            raise RequestError(f"{what}mlflow db upgrade {masked(uri)}")
        raise RequestError(
            f"{what}not one that this MLflow ({__version__}) knows: a newer one made it. Use that one; its "
            f"command mlflow db upgrade {masked(uri)} upgrades older stores, and none can be downgraded"
        )
    log.info(
        f"note: nnexp does not know the tables of MLflow's schema {latest}: recording through MLflow, slower"
    )


def _reach(uri: str) -> None:
    """Raise RequestError at once if a server cannot be reached; MLflow's client would retry for minutes."""
    address = urlsplit(uri)
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise RequestError(f"tracking_uri={masked(uri)}: cannot be reached: {error}") from error


def existing(uri: str) -> str:
    """Return an address with which SQLAlchemy does not create an SQLite file that is missing."""
    if not uri.startswith(SQLITE):
        return uri
    return f"{SQLITE}file:{quote(uri.removeprefix(SQLITE))}?mode=rw&uri=true"


def _sqlite_revisions(path: Path, create: bool) -> list[str]:
    """Return the migrations that an SQLite file is at; create the store if it is missing and `create`.

    Raises RequestError if there is no file, or if it is not a store.
    """
    if create:
        _check_name(path)
    if not os.path.exists(path):
        if not create:
            raise RequestError(f"no store at {path}: record a run first, with nnexp train")
        create_sqlite(path)
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except OSError as error:
        raise RequestError(f"tracking_uri={SQLITE}{path}: cannot be read: {error.strerror}") from error
    if what := _damage(path, head):
        raise RequestError(f"tracking_uri={SQLITE}{path}: the file {what}; move it away or choose another")
    for place in (path, path.parent):  # SQLite also writes a journal beside it
        if create and is_read_only(place):
            raise RequestError(
                f"tracking_uri={SQLITE}{path}: nothing can be recorded there: {place} is read-only"
            )
    with closing(connected(path)) as connection:
        tables_there = connection.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'")
        if tables_there.fetchone() is None:
            raise RequestError(f"tracking_uri={SQLITE}{path}: not an MLflow store; choose another")
        return [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]


def connected(path: Path) -> sqlite3.Connection:
    """Open an SQLite file that exists.

    Not read-only: the next process to open it must roll back what a killed writer left half done.
    """
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", timeout=BUSY_SECONDS, uri=True)


def _damage(path: Path, head: bytes) -> str:
    """Say what is wrong with an SQLite file, judged by its first 100 bytes and its size; empty if nothing is.

    Source: www.sqlite.org/fileformat, 1.3.
    """
    if not head:
        return "is empty"
    if head[:16] != b"SQLite format 3\x00" or len(head) < 100:
        return "is not an SQLite database"
    if any(path.with_name(f"{path.name}-{log}").exists() for log in ("journal", "wal")):
        return ""  # a process is writing, or was killed while writing: SQLite repairs that
    size, page = path.stat().st_size, int.from_bytes(head[16:18], "big")
    whole = int.from_bytes(head[28:32], "big") * (65536 if page == 1 else page)
    # The header's count of pages is valid only if both copies of the change counter agree.
    return f"is cut off: {size:,} of {whole:,} bytes" if head[24:28] == head[92:96] and size < whole else ""


def _check_name(path: Path) -> None:
    """Raise RequestError if the file's name is so long that the locks of its runs cannot be beside it."""
    if (length := len(os.fsencode(path.name))) > MAX_STORE_NAME:
        raise RequestError(
            f"tracking_uri={SQLITE}{path}: the file's name has {length} bytes, but may have {MAX_STORE_NAME}"
        )


def _server_revisions(uri: str, create: bool) -> list[str]:
    """Return the migrations that a database server's tables are at; one process fills an empty database.

    Raises RequestError if it is empty and `create` is false.
    """
    engine = sa.create_engine(uri, connect_args={"connect_timeout": 10}, poolclass=sa.NullPool)
    with closing(engine.connect()) as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            if not create:
                raise RequestError(f"no store at {masked(uri)}: record a run first, with nnexp train")
            connection.execute(sa.select(sa.func.pg_advisory_lock(CREATION_LOCK)))
            if not sa.inspect(connection).has_table("alembic_version"):
                fill(uri, root_of(uri))
            connection.rollback()
        rows = connection.execute(sa.text("SELECT version_num FROM alembic_version")).all()
    return [row[0] for row in rows]
