"""Detect when the process that owns a RUNNING run has died.

In an SQLite file the owner holds a lock on a file of the run's own, in PostgreSQL an advisory lock of a
connection; the system releases both when the process dies. A server has neither. There the run's tags name
its process, which is checked if it is on this machine. For other machines the owner renews a heartbeat tag
every few seconds, by the server's clock.
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
    """The locks by which this process owns runs of one store, until it releases them or dies."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: dict[str, FileLock] = {}
        self._connection: sa.Connection | None = None

    def hold(self, run_id: str) -> None:
        """Take ownership of a run, before it is in the store."""
        if self._store.uri.startswith(SQLITE):
            lock = _file_lock(self._store, run_id)
            lock.acquire(timeout=0)
            self._files[run_id] = lock
        else:
            connection = self._connected()
            connection.execute(sa.select(sa.func.pg_advisory_lock(_number(run_id))))
            connection.commit()

    def take(self, name: str) -> bool:
        """Take a name for this process; return whether no other live process has it."""
        if self._store.uri.startswith(SQLITE):
            try:
                self.hold(name)
            except Timeout:
                return False
            return True
        connection = self._connected()
        taken = bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_number(name)))))
        connection.commit()
        return taken

    def _connected(self) -> sa.Connection:
        """Return the connection whose advisory locks are this process's."""
        if self._connection is None:
            self._connection = sa.create_engine(self._store.uri, poolclass=sa.NullPool).connect()
        return self._connection

    def release(self, run_id: str) -> None:
        """Release a run that has ended."""
        lock = self._files.pop(run_id, None)
        if lock is not None:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
        elif self._connection is not None:
            self._connection.execute(sa.select(sa.func.pg_advisory_unlock(_number(run_id))))
            self._connection.commit()

    def close(self) -> None:
        """Release all runs."""
        for run_id in list(self._files):
            self.release(run_id)
        if self._connection is not None:
            self._connection.close()


def is_owned(store: Store, run_id: str) -> bool:
    """Return whether a live process owns this run of a database."""
    if store.uri.startswith(SQLITE):
        lock = _file_lock(store, run_id)
        if not Path(lock.lock_file).exists():
            return False
        try:
            lock.acquire(timeout=0)
        except (Timeout, PermissionError):  # without permission we cannot tell whether it is free
            return True
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
        return False
    with sa.create_engine(store.uri, poolclass=sa.NullPool).connect() as connection:
        # If the lock was free, it is ours now, until this connection closes.
        return not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_number(run_id))))


def _file_lock(store: Store, run_id: str) -> FileLock:
    """Return the run's lock, on a file beside the store.

    The locks have no directory of their own, because a process that ends could remove it while another one
    begins.
    """
    return FileLock(f"{store.uri.removeprefix(SQLITE)}.{run_id}.owner")


def _number(run_id: str) -> int:
    """Return the number of the run's advisory lock: 63 bits of a hash of its id."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8], "big") >> 1


class Heartbeat:
    """A thread that marks this process's runs on a server as alive, in a tag, every few seconds."""

    def __init__(self, store: Store) -> None:
        self._store, self._held = store, set[str]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def tags(self) -> dict[str, str]:
        """Return the owner and heartbeat tags of a run that this process is about to start."""
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
                # The writer reports a server that is away; a beat can wait for its return.
                with suppress(MlflowException):
                    self._store.client.set_tag(run_id, HEARTBEAT, str(int(_time_of(self._store))))


def is_beating(store: Store, tags: Mapping[str, str]) -> bool:
    """Return whether the owner of a server's run is alive, judged by the run's tags.

    If the process can be checked on this machine, it decides; else the age of its last heartbeat does.
    """
    machine, *process = tags.get(OWNER, "").rsplit(" ", 2)
    if machine == _machine() and len(process) == 2 and process[0].isdigit():
        alive = _is_alive(int(process[0]), process[1])
        if alive is not None:
            return alive
    beat = tags.get(HEARTBEAT, "")
    return beat.isdigit() and _time_of(store) - int(beat) < DEAD_SECONDS


def _is_alive(process: int, began: str) -> bool | None:
    """Return whether the process with this number and start time runs on this machine; None if unknown."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs as another user
    now = _began(process)
    return None if UNKNOWN in (began, now or UNKNOWN) else began == now


def _began(process: int) -> str:
    """Return when a process began, in ticks since boot, because process numbers are reused.

    The answer is "dead" if only the process's exit status is left, and empty if the system does not say.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()  # Linux only
    except OSError:
        return ""
    return "dead" if fields[0] in "ZX" else fields[19]


def _time_of(store: Store) -> float:
    """Return the seconds since 1970 by the server's clock, one for all clients; by ours if it shows none."""
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
    """Return a name that no two machines share, nor two containers with process numbers of their own."""
    name = socket.gethostname()
    with suppress(OSError):  # Linux only
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        name += f" {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    return name
