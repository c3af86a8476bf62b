"""Faults of a server: a real MLflow server that dies and comes back, and one behind a faulty proxy."""

from __future__ import annotations

import http.client
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copy
from signal import SIGCONT, SIGKILL, SIGSTOP
from urllib.parse import urlsplit

from tests.faults.kills import known_of
from tests.faults.program import (
    Fault,
    Trial,
    ended,
    expect,
    kill,
    last_line,
    start,
    struck,
    told,
    typed,
    until,
)
from tests.faults.standing import EPOCHS, FEW, FEW_RUNS, check_same, networks_of, read_runs
from tests.faults.writers import check_told_ended
from tests.real import free_port, is_up

# How long the program waits for a server: MLflow's own settings, shortened.
HASTE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
CREATE = "/api/2.0/mlflow/runs/create"
# A sweep that ends when it has been examined.
WAITS = """
import time
from pathlib import Path
from nnexp.cli import main as cli
from nnexp.pipeline import sweep as sweeper
finish = sweeper.finish_parent
def waiting(*arguments):
    while not Path("looked").exists():
        time.sleep(0.05)
    finish(*arguments)
sweeper.finish_parent = waiting
cli.main()
"""
AHEAD = """
import time
from nnexp.cli import main as cli
from nnexp.tracking import owner
here = time.time
time.time = lambda: here() + {seconds}
{more}
cli.main()
"""
LOST = "what is recorded is kept; when the store is back, the same command finishes the rest"


def rows(n: int) -> list[Fault]:
    few = max(1, n // 20)
    return [
        Fault("a server that is killed and restarted while a sweep runs", killed, few),
        Fault("a server with nnexp's app that is killed and restarted while a sweep runs", killed_app, few),
        Fault("kill -9 of a sweep that a server with nnexp's app records", killed_client, few),
        Fault("a server that answers 503 for a while", stutters, few),
        Fault("a server that answers 503 from some request on", refuses, few),
        Fault("a server that hangs from some request on", hangs, few),
        Fault("a server that drops the reply to a create", drops, few),
        Fault("doctor --fix by a client whose clock is 90 s ahead, while a sweep runs", ahead, few),
        Fault("a sweep on a server that is stopped, taken over by another, and then continued", zombie, few),
    ]


class Server:
    """An MLflow server on loopback, on the store of a directory, which also keeps the artifacts."""

    def __init__(self, place: Path, app: str | None = None) -> None:
        self.place, self._port = place, free_port()
        self._app = [] if app is None else ["--app-name", app]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", *self._app, "--backend-store-uri"]
        command += [
            f"sqlite:///{self.place}/mlflow.db",
            "--artifacts-destination",
            str(self.place / "served"),
        ]
        command += ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        # Without it MLflow starts five more processes, for jobs that nobody asks for.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.place / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.place, start_new_session=True
            )
        expect(until(lambda: is_up(self.uri), self._process), "the MLflow server does not start")

    def kill(self) -> None:
        if self._process is not None:
            kill(self._process)
            self._process.wait()

    def finished(self, trial: Trial) -> int:
        """Count the trial's FINISHED runs in the database behind the server."""
        return len([run for run in read_runs(self.place, trial.place.name) if run.status == "FINISHED"])


_shared: list[Server] = []
_starting = threading.Lock()


def shared(trial: Trial) -> Server:
    """Return the server that all trials share that do not disturb it, each with its own experiment.

    It is slow to start; `stop` ends it.
    """
    with _starting:
        if not _shared:
            place = trial.place.parent / "server"
            place.mkdir()
            copy(trial.empty_store, place / "mlflow.db")
            _shared.append(Server(place))
            _shared[0].start()
    return _shared[0]


def stop() -> None:
    """End the server that trials share."""
    for server in _shared:
        server.kill()


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, except those for which `spoils`, given their path and number, returns a
    fault: "503", "hang", or "drop" the reply."""

    daemon_threads, request_queue_size = True, 64

    def __init__(self, server: Server, spoils: Callable[[str, int], str]) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.target, self.spoils = urlsplit(server.uri), spoils
        self.seen, self.spoilt, self.ended = 0, 0, threading.Event()
        self._lock = threading.Lock()
        self.uri = f"http://127.0.0.1:{self.server_port}"

    def fault(self, path: str) -> str:
        with self._lock:
            self.seen += 1
            fault = self.spoils(path, self.seen)
            self.spoilt += bool(fault)
            return fault

    def handle_error(self, request: object, address: object) -> None:
        """Ignore errors of clients that were killed or have hung up."""


class Passing(BaseHTTPRequestHandler):
    """One request on its way to the server and back."""

    server: Proxy

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault(urlsplit(self.path).path)
        if fault == "hang":
            self.server.ended.wait()
            return
        if fault == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        target = self.server.target
        with closing(http.client.HTTPConnection(str(target.hostname), target.port, timeout=300)) as way:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
            way.request(self.command, self.path, body, headers)
            answer = way.getresponse()
            content = answer.read()
        if fault == "drop":
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() in ("content-type", "content-disposition"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

    def log_message(self, *arguments: object) -> None:
        """Do not log requests."""


@contextmanager
def between(server: Server, spoils: Callable[[str, int], str]) -> Iterator[Proxy]:
    proxy = Proxy(server, spoils)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        proxy.shutdown()
        proxy.server_close()


def few(trial: Trial) -> list[str]:
    """Return the sweep's command, in the trial's own experiment."""
    return [*FEW, f"experiment_name={trial.place.name}"]


def check_once(trial: Trial, server: Server) -> None:
    """Check that every run of FEW is there once, none RUNNING, each with an undisturbed sweep's bits.

    Runs that were half-written when the server was lost are there too, as KILLED.
    """
    runs = [run for run in read_runs(server.place, trial.place.name) if run.status != "KILLED"]
    check_same(networks_of(runs, FEW_RUNS, EPOCHS), known_of(trial).networks)


def on(uri: str) -> dict[str, str]:
    return {**HASTE, "MLFLOW_TRACKING_URI": uri}


def lost(trial: Trial, running: subprocess.Popen[bytes]) -> None:
    """Check that the sweep ends with status 1 and says that the store was lost."""
    status = ended(running)
    said = told(trial.place, "first")
    expect(status == 1 and LOST in said, f"first: exit status {status}: {said[-300:]}")


def again(trial: Trial, server: Server) -> None:
    typed(trial.place, "again", few(trial), environment=on(server.uri))
    check_once(trial, server)


def killed(trial: Trial) -> str:
    """Exit status 1 and advice; once the server is back, the same command completes the sweep: each run once,
    none RUNNING, with an undisturbed sweep's bits."""
    trial.with_store()
    server = Server(trial.place)
    try:
        server.start()
        running = start(trial.place, "first", few(trial), on(server.uri))
        enough = trial.random.randrange(FEW_RUNS // 2)
        until(lambda: server.finished(trial) > enough, running)
        server.kill()
        lost(trial, running)
        server.start()
        left = server.finished(trial)
        again(trial, server)
    finally:
        server.kill()
    return f"{left} runs"


def killed_app(trial: Trial) -> str:
    """Exit status 1 and advice, unless the sweep was over; once the server is back, the same command
    completes it: each run once, none RUNNING, with an undisturbed sweep's bits."""

    def strike(server: Server, running: subprocess.Popen[bytes]) -> None:
        time.sleep(2 * trial.random.random())
        server.kill()
        status, said = ended(running), told(trial.place, "first")
        expect(status == 0 or (status == 1 and LOST in said), f"first: exit status {status}: {said[-300:]}")
        server.start()

    return _struck_app(trial, strike)


def killed_client(trial: Trial) -> str:
    """The same command completes the sweep: each run once, none RUNNING, with an undisturbed sweep's bits."""
    return _struck_app(trial, lambda server, running: struck(running, SIGKILL, 2 * trial.random.random()))


def _struck_app(trial: Trial, strike: Callable[[Server, subprocess.Popen[bytes]], object]) -> str:
    """Strike a sweep on a server with nnexp's app when it has begun; type it again, and check the record."""
    trial.with_store()
    server = Server(trial.place, "nnexp")
    try:
        server.start()
        running = start(trial.place, "first", few(trial), on(server.uri))
        until(lambda: read_runs(server.place, trial.place.name), running)
        strike(server, running)
        left = server.finished(trial)
        again(trial, server)
    finally:
        server.kill()
    return f"{left} runs"


def stutters(trial: Trial) -> str:
    """The sweep goes on and is completed: exit status 0, each run once, none RUNNING."""
    server, begin = shared(trial), trial.random.randrange(5, 60)
    with between(server, lambda path, i: "503" * (begin <= i < begin + 2)) as proxy:
        typed(trial.place, "first", few(trial), environment=on(proxy.uri))
        check_once(trial, server)
        return f"{proxy.spoilt} of {proxy.seen} requests, from the {begin}th on"


def refuses(trial: Trial) -> str:
    """Exit status 1 and advice; once the server answers, the same command completes the sweep: each run once,
    none RUNNING."""
    return _goes_away(trial, "503", {})


def hangs(trial: Trial) -> str:
    """The same as for a server that answers 503, after MLflow's timeout."""
    patience = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    return _goes_away(trial, "hang", patience)


def _goes_away(trial: Trial, how: str, patience: dict[str, str]) -> str:
    server, begin = shared(trial), trial.random.randrange(12, 60)
    with between(server, lambda path, i: how * (i >= begin)) as proxy:
        lost(trial, start(trial.place, "first", few(trial), {**on(proxy.uri), **patience}))
    left = server.finished(trial)
    again(trial, server)
    return f"from the {begin}th request on: {left} runs"


def drops(trial: Trial) -> str:
    """Runs that the server made without the program's knowledge are deleted in the end: exit status 0, each
    run once, none RUNNING."""
    server, creates = shared(trial), iter(range(1000))
    unlucky = {trial.random.randrange(1, FEW_RUNS) for _ in range(3)}

    def spoils(path: str, number: int) -> str:
        return "drop" if path == CREATE and next(creates) in unlucky else ""

    with between(server, spoils) as proxy:
        typed(trial.place, "first", few(trial), environment=on(proxy.uri))
        expect(proxy.spoilt == len(unlucky), f"{proxy.spoilt} replies were dropped, not {len(unlucky)}")
        check_once(trial, server)
        return f"{proxy.spoilt} replies of {proxy.seen}"


def zombie(trial: Trial) -> str:
    """A second command completes the sweep; when the first has ended too, every run is there once, none is
    RUNNING, and the first has reported that it was ended, with status 1."""
    place, server = trial.place, shared(trial)
    running = start(place, "zombie", few(trial), on(server.uri))
    try:
        enough = trial.random.randrange(FEW_RUNS // 2)
        until(lambda: server.finished(trial) > enough, running)
        kill(running, SIGSTOP)
        give_up(trial, server)
        typed(place, "heir", few(trial), environment=on(server.uri))
        kill(running, SIGCONT)
        status = ended(running)
    finally:
        kill(running)
    check_told_ended(trial, status, read_runs(server.place, place.name))
    check_once(trial, server)
    sweeps = [run for run in read_runs(server.place, place.name) if "nnexp.sweep" in run.tags]
    return f"sweeps {', '.join(run.status for run in sweeps)}"


def ahead(trial: Trial) -> str:
    """doctor --fix, on the sweep's machine or as if on another, does not touch the sweep: it ends as
    FINISHED, with status 0."""
    place, server = trial.place, shared(trial)
    running = start(place, "sweep", few(trial), on(server.uri), WAITS)
    until(lambda: server.finished(trial) > 0, running)
    for name, more in (("here", ""), ("elsewhere", "owner._machine = lambda: 'elsewhere'")):
        code = AHEAD.format(seconds=90, more=more)
        ended(start(place, name, ["doctor", "--fix"], on(server.uri), code))
        told(place, name)
    (place / "looked").touch()
    status = ended(running)
    expect(status == 0, f"exit status {status}: {last_line(place / 'sweep.err')}")
    check_once(trial, server)
    sweeps = [run.status for run in read_runs(server.place, place.name) if "nnexp.sweep" in run.tags]
    expect(sweeps == ["FINISHED"], f"its sweeps are {sweeps}")
    return "2 looks"


def give_up(trial: Trial, server: Server) -> None:
    """Make the running sweep look as if its process, on another machine, had been silent for an hour."""
    ours = [run.id for run in read_runs(server.place, trial.place.name) if run.status == "RUNNING"]
    silent = {"nnexp.owner": "elsewhere 1", "nnexp.heartbeat": str(int(time.time()) - 3600)}
    with closing(sqlite3.connect(server.place / "mlflow.db", timeout=60)) as connection, connection:
        for key, value in silent.items():
            for run in ours:
                connection.execute(
                    "UPDATE tags SET value = ? WHERE key = ? AND run_uuid = ?", [value, key, run]
                )
