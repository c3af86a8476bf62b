"""Helpers for tests with real processes: start them, watch them, and skip if a program is missing."""

import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

NNEXP = [str(Path(sys.executable).with_name("nnexp"))]


def needs(what, is_there):
    """Skip a test if something that it needs is missing; with NNEXP_CI nothing may be missing."""
    if not is_there:
        (pytest.fail if os.environ.get("NNEXP_CI") else pytest.skip)(f"no {what} here")


def wait_for(condition, seconds=240):
    """Wait until the condition holds, and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def free_port():
    """Return a free port below those that outgoing connections use."""
    while True:
        port = random.SystemRandom().randrange(10000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def is_up(server):
    """Return whether an MLflow server answers at this address."""
    try:
        with urllib.request.urlopen(f"{server}/health", timeout=30) as answer:
            return answer.read() == b"OK"
    except OSError:
        return False


@contextmanager
def started(*command, log=subprocess.DEVNULL, **options):
    """Start a process in its own process group, and end it at the latest with the block."""
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **options)
    try:
        yield process
    finally:
        kill_group(process)


def kill_group(process, number=signal.SIGKILL):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.wait(30)


def alive(group):
    """Return the processes of a group that have not ended, with their command lines."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile
            state, _, its_group = (place / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found[int(place.name)] = (place / "cmdline").read_text()
    return found


def statuses(store):
    """Return the statuses of a store's runs, oldest first."""
    with sqlite3.connect(store) as connection:
        rows = connection.execute("SELECT status FROM runs ORDER BY start_time, rowid").fetchall()
    connection.close()
    return [status for (status,) in rows]
