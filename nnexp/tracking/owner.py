"""Who is still at work: a run that goes on belongs to a process, and its death is known, not guessed.

A run in a file is owned by holding a lock on a file of its own, one in PostgreSQL by an advisory lock of a
connection; the system gives both back when the process dies. A server has neither: there the owner says
every few seconds, in a tag, that it is alive.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock, Timeout

from nnexp.tracking.store import SQLITE, Store

HEARTBEAT_SECONDS, DEAD_SECONDS = 10.0, 60.0
OWNER, HEARTBEAT = "nnexp.owner", "nnexp.heartbeat"


class Owner:
    """Holds runs of one store for this process, until told otherwise or its death."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: dict[str, FileLock] = {}
        self._connection: sa.Connection | None = None

    def hold(self, run_id: str) -> None:
        """Own a run, before it is in the store."""
        if self._store.uri.startswith(SQLITE):
            lock = _file_lock(self._store, run_id)
            lock.acquire(timeout=0)
            self._files[run_id] = lock
        else:
            if self._connection is None:
                self._connection = sa.create_engine(self._store.uri, poolclass=sa.NullPool).connect()
            self._connection.execute(sa.select(sa.func.pg_advisory_lock(_number(run_id))))
            self._connection.commit()

    def release(self, run_id: str) -> None:
        """Give up a run that has ended."""
        lock = self._files.pop(run_id, None)
        if lock is not None:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
        elif self._connection is not None:
            self._connection.execute(sa.select(sa.func.pg_advisory_unlock(_number(run_id))))
            self._connection.commit()

    def close(self) -> None:
        """Give up all runs."""
        for run_id in list(self._files):
            self.release(run_id)
        if self._connection is not None:
            self._connection.close()


def is_owned(store: Store, run_id: str) -> bool:
    """Whether a process that is alive owns this run of a database."""
    if store.uri.startswith(SQLITE):
        lock = _file_lock(store, run_id)
        if not Path(lock.lock_file).exists():
            return False
        try:
            lock.acquire(timeout=0)
        except (Timeout, PermissionError):  # who may not take the lock cannot tell that nobody holds it
            return True
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
        return False
    with sa.create_engine(store.uri, poolclass=sa.NullPool).connect() as connection:
        # The lock, if it was free, ends with this connection.
        return not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_number(run_id))))


def _file_lock(store: Store, run_id: str) -> FileLock:
    """The file lies beside the store: a directory of its own could be removed by one who ends while
    another one begins."""
    return FileLock(f"{store.uri.removeprefix(SQLITE)}.{run_id}.owner")


def _number(run_id: str) -> int:
    """The run's advisory lock: 63 bits of a hash."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8], "big") >> 1


class Heartbeat:
    """Says every few seconds, in a tag of each run it is told of, that this process is alive."""

    def __init__(self, store: Store) -> None:
        self._store, self._held = store, set[str]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def tags(self) -> dict[str, str]:
        """What a run that this process is about to start carries."""
        return {OWNER: f"{_machine()} {os.getpid()}", HEARTBEAT: str(int(time.time()))}

    def hold(self, run_id: str) -> None:
        self._held.add(run_id)
        if not self._thread.is_alive():
            self._thread.start()

    def release(self, run_id: str) -> None:
        self._held.discard(run_id)

    def close(self) -> None:
        self._ended.set()

    def _beat(self) -> None:
        from mlflow.exceptions import MlflowException

        while not self._ended.wait(HEARTBEAT_SECONDS):
            for run_id in list(self._held):
                # A server that is away is told of by whoever records; a beat can wait for its return.
                with suppress(MlflowException):
                    self._store.client.set_tag(run_id, HEARTBEAT, str(int(time.time())))


def is_beating(tags: Mapping[str, str]) -> bool:
    """Whether the owner of a server's run is alive, by its tags."""
    machine, _, process = tags.get(OWNER, "").rpartition(" ")
    if machine == _machine() and process.isdigit():
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's process, alive
    beat = tags.get(HEARTBEAT, "")
    return beat.isdigit() and time.time() - int(beat) < DEAD_SECONDS


def _machine() -> str:
    """A name that two machines, or two containers with process numbers of their own, do not share."""
    name = socket.gethostname()
    with suppress(OSError):  # Linux only
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        name += f" {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    return name
