"""A PostgreSQL server for the tests that need one."""

import glob
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psycopg2

from tests.real import free_port, started, wait_for


class Postgres:
    """A PostgreSQL server on loopback whose data are in `directory`."""

    def __init__(self, stack, programs, directory):
        # The server refuses to run as root.
        who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if who:
            shutil.chown(directory, "postgres", "postgres")
        data, how = f"{directory}/data", {**who, "cwd": directory}
        init = [programs / "initdb", "--auth=trust", "--username=nnexp", "--encoding=UTF8", "--no-sync", data]
        subprocess.run(init, check=True, capture_output=True, **how)
        self._port = free_port()
        options = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        serve = [programs / "postgres", "-D", data, "-p", str(self._port)]
        serve += [part for option in options for part in ("-c", option)]
        self._process = stack.enter_context(started(*serve, **how))
        wait_for(self._answers)

    def uri(self, database):
        return f"postgresql://nnexp@127.0.0.1:{self._port}/{database}"

    def ask(self, question, database="postgres"):
        """Execute a statement in its own transaction; return its rows."""
        with closing(psycopg2.connect(self.uri(database))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(question)
                return cursor.fetchall() if cursor.description else []

    def stop(self):
        # A fast, orderly shutdown, since a killed server leaves its shared memory behind.
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def _answers(self):
        with suppress(psycopg2.OperationalError):
            return self.ask("SELECT 1")


def find_initdb():
    """Return the newest `initdb` of this machine, or None."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    return found[-1] if found else shutil.which("initdb")


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Start a server, and stop it at the end of the block; there must be an `initdb`."""
    # Not in pytest's directory, which other users cannot enter.
    with ExitStack() as stack, tempfile.TemporaryDirectory() as directory:
        server = Postgres(stack, Path(find_initdb()).parent, directory)
        yield server
        server.stop()
