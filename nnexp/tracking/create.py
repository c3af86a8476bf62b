"""Create a store: make MLflow's tables in an empty database.

MLflow's migrations take a hundred megabytes that a process does not give back, so an SQLite store is created
by a process of its own: `python -m nnexp.tracking.create FILE`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from nnexp.config.errors import RequestError
from nnexp.config.text import first_line
from nnexp.tracking.places import SQLITE, ensure_id, new_id, root_of


def create_sqlite(path: Path) -> None:
    """Create the store in another process, unless it exists by then. Raises RequestError."""
    if not path.parent.is_dir():
        raise RequestError(f"tracking_uri={SQLITE}{path}: there is no directory {path.parent}")
    # -P, as the working directory may have modules of the same names.
    command = [sys.executable, "-P", "-m", __name__, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode:
        why = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
        raise RequestError(f"tracking_uri={SQLITE}{path}: cannot be created: {why}")


def _create_here(path: Path) -> None:
    """Create the store under our own lock, in a temporary file that is renamed when it is complete.

    MLflow's own first migration must not be raced or killed: it can leave a file that never opens again. If
    our parent is killed, we go on and complete the store.
    """
    with FileLock(f"{path}.lock"):
        if path.exists():
            return
        half = path.with_name(f"{path.name}.creating")
        for left in (half, half.with_name(f"{half.name}-journal")):
            left.unlink(missing_ok=True)
        fill(f"{SQLITE}{half}", root_of(f"{SQLITE}{path}"))
        half.rename(path)


def fill(uri: str, artifact_root: str) -> None:
    """Make MLflow's tables in an empty database, and give it its id."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    id = new_id()
    made = SqlAlchemyStore(uri, f"{artifact_root}/{id}").engine
    with made.begin() as connection:
        ensure_id(connection, id)
    made.dispose()


if __name__ == "__main__":
    try:
        _create_here(Path(sys.argv[1]))
    except OSError as error:
        sys.exit(error.strerror)
    except Exception as error:
        sys.exit(first_line(error))
