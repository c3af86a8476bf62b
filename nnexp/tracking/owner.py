"""Who is still at work: a run that goes on belongs to a process, and its death is known, not guessed.

A run in a file is owned by holding a lock on a file of its own, one in PostgreSQL by an advisory lock of a
connection; the system gives both back when the process dies. A server has neither: there the run names its
process, which is asked on its own machine; for others the owner says every few seconds, in a tag, by the
server's clock, that it is alive.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock, Timeout

from nnexp.tracking.places import SQLITE
from nnexp.tracking.store import Store

HEARTBEAT_SECONDS, DEAD_SECONDS = 10.0, 60.0
OWNER, HEARTBEAT = "nnexp.owner", "nnexp.heartbeat"
UNKNOWN = "-"


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
        process = f"{os.getpid()} {_began(os.getpid()) or UNKNOWN}"
        return {OWNER: f"{_machine()} {process}", HEARTBEAT: str(int(_time_of(self._store)))}

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
                    self._store.client.set_tag(run_id, HEARTBEAT, str(int(_time_of(self._store))))


def is_beating(store: Store, tags: Mapping[str, str]) -> bool:
    """Whether the owner of a server's run is alive, by its tags: as the process itself shows where it can be
    asked, else by its last heartbeat."""
    machine, *process = tags.get(OWNER, "").rsplit(" ", 2)
    if machine == _machine() and len(process) == 2 and process[0].isdigit():
        alive = _is_alive(int(process[0]), process[1])
        if alive is not None:
            return alive
    beat = tags.get(HEARTBEAT, "")
    return beat.isdigit() and _time_of(store) - int(beat) < DEAD_SECONDS


def _is_alive(process: int, began: str) -> bool | None:
    """Whether this machine's process of this number, which began then, goes on; None where that is not to be
    learned."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    now = _began(process)
    return None if UNKNOWN in (began, now or UNKNOWN) else began == now


def _began(process: int) -> str:
    """When a process began, in ticks since its machine did, as its number may be given to a later one. "dead"
    where only its exit status is left, empty where the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()  # Linux only
    except OSError:
        return ""
    return "dead" if fields[0] in "ZX" else fields[19]


def _time_of(store: Store) -> float:
    """Seconds since 1970 by the server's clock, one for all its clients; by ours if it shows none."""
    if store.uri.startswith("http"):
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        creds = get_default_host_creds(store.uri)
        answer = http_request(creds, "/health", "GET", raise_on_status=False)
        with suppress(KeyError, ValueError):
            return parsedate_to_datetime(answer.headers["Date"]).timestamp()
    elif not store.uri.startswith(SQLITE):
        with sa.create_engine(store.uri, poolclass=sa.NullPool).connect() as connection:
            return float(connection.scalar(sa.text("SELECT extract(epoch FROM now())")) or 0)
    return time.time()


def _machine() -> str:
    """A name that two machines, or two containers with process numbers of their own, do not share."""
    name = socket.gethostname()
    with suppress(OSError):  # Linux only
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        name += f" {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    return name
