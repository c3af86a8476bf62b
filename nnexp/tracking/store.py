"""Open the MLflow store: find it, create it safely, refuse what is not one."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.exc import SQLAlchemyError

from nnexp.config import RequestError, RunConfig
from nnexp.dataset import PROJECT

SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Store:
    """An open store: its client, its address, where it is told to keep artifacts (None: as it likes)."""

    client: MlflowClient
    uri: str
    artifact_root: str | None

    @property
    def is_database(self) -> bool:
        return not self.uri.startswith("http")


def resolve_uri(tracking_uri: str | None) -> str:
    """The store's address: as given, else MLFLOW_TRACKING_URI, else the project's own.

    Raises RequestError.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{PROJECT / 'mlflow.db'}"
    rule = RunConfig.__dataclass_fields__["tracking_uri"].metadata["rule"]
    try:
        rule.parse(uri)
    except ValueError:
        raise RequestError(f"tracking_uri={masked(uri)}: must be {rule.allowed}") from None
    if uri.startswith(SQLITE):
        return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}"
    return uri


def masked(text: str) -> str:
    """The text, an address or a command line, without the passwords of the addresses in it."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


def open_store(tracking_uri: str | None = None, *, create: bool = True) -> Store:
    """The store at this address, created where it does not exist yet and `create` says so.

    Raises RequestError when it cannot be used as one.
    """
    uri = resolve_uri(tracking_uri)
    artifact_root = None
    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE))
        artifact_root = artifact_root_of(path)
        if not path.exists() and not create:
            raise RequestError(f"no store at {path}: record a run first, with nnexp train")
        _ensure_sqlite(path, artifact_root)
    elif uri.startswith("http"):
        _reach(uri)
    else:
        artifact_root = (PROJECT / "mlartifacts").as_uri()
    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"tracking_uri={masked(uri)}: cannot be opened: {reason}") from error
    return Store(client, uri, artifact_root)


def _reach(uri: str) -> None:
    """Refuse a server that is not there at once; MLflow's client would try again for minutes."""
    address = urlsplit(uri)
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise RequestError(f"tracking_uri={masked(uri)}: cannot be reached: {error}") from error


def artifact_root_of(database: Path) -> str:
    """Artifacts lie beside the database, so that a store is one place wherever a command is typed."""
    return "file://" + quote(str(database.parent / "mlartifacts"))


def _ensure_sqlite(path: Path, artifact_root: str) -> None:
    """Create the store under our own lock, in a file of its own that is renamed when it is whole.

    MLflow's own first migration is not safe to race or to kill: it can leave a file that never opens again.
    """
    if path.exists():
        _check_sqlite(path)
        return
    if not path.parent.is_dir():
        raise RequestError(f"tracking_uri={SQLITE}{path}: there is no directory {path.parent}")
    try:
        with FileLock(f"{path}.lock"):
            if path.exists():
                return
            half = path.with_name(f"{path.name}.creating")
            half.unlink(missing_ok=True)
            SqlAlchemyStore(f"{SQLITE}{half}", artifact_root).engine.dispose()
            half.rename(path)
    except OSError as error:
        raise RequestError(f"tracking_uri={SQLITE}{path}: cannot be created: {error.strerror}") from error


def _check_sqlite(path: Path) -> None:
    """Refuse a file that MLflow would fill or fail on."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise RequestError(f"tracking_uri={SQLITE}{path}: cannot be read: {error.strerror}") from error
    if head != b"SQLite format 3\x00":
        what = "is empty" if not head else "is not an SQLite database"
        raise RequestError(f"tracking_uri={SQLITE}{path}: the file {what}; move it away or name another")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            revisions = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
    except sqlite3.DatabaseError as error:
        raise RequestError(f"tracking_uri={SQLITE}{path}: cannot be opened: {error}") from error
    known = _get_latest_schema_revision()
    if revisions != [known]:  # opening it could migrate it, and lock out whoever made it
        raise RequestError(
            f"tracking_uri={SQLITE}{path}: its schema is {', '.join(revisions)}, this MLflow's {known}; "
            f"if that is newer, back the file up and run mlflow db upgrade {SQLITE}{path}"
        )


def experiment_id(store: Store, name: str) -> str:
    """The experiment of this name, created where there is none. Raises RequestError when it was deleted."""
    experiment = store.client.get_experiment_by_name(name)
    if experiment is None:
        location = None if store.artifact_root is None else f"{store.artifact_root}/{quote(name)}"
        try:
            created: str = store.client.create_experiment(name, location)
            return created
        except MlflowException as error:
            experiment = store.client.get_experiment_by_name(name)  # another process was quicker
            if experiment is None:
                raise RequestError(f"experiment_name={name}: {error.message}") from error
    if experiment.lifecycle_stage == "deleted":
        raise RequestError(
            f"experiment_name={name}: was deleted in this store; restore it (mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}) or name another"
        )
    found: str = experiment.experiment_id
    return found
