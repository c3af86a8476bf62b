"""Serve the MLflow UI on this machine only."""

from __future__ import annotations

import logging
import os
import socket
import sys

from nnexp.config.errors import RequestError
from nnexp.config.text import masked
from nnexp.tracking.experiments import ensure_experiment, find_experiment, own_root
from nnexp.tracking.store import open_store, resolve_uri
from nnexp.tracking.view import page

log = logging.getLogger("nnexp")

HOST = "127.0.0.1"


def serve(port: int, name: str | None) -> None:
    """Replace this process by MLflow's server.

    Raises RequestError if the port is taken or if there is no experiment of this name.
    """
    uri = resolve_uri(None)
    if uri.startswith("http"):
        print(f"this store is a server and has its own UI: {masked(uri)}")
        return
    store = open_store()
    experiment = ensure_experiment(store, "nnexp") if name is None else find_experiment(store, name)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RequestError(f"--port {port}: {error.strerror}; choose another port") from error
    log.info(f"the MLflow UI: http://{HOST}:{port}{page(experiment.id)}  (stop it with Ctrl-C)")
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "nnexp"]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--allowed-hosts", f"localhost:{port},{HOST}:{port}"]
    # Artifacts recorded through the server go where nnexp itself would put them.
    command += ["--no-serve-artifacts", "--default-artifact-root", own_root(store)]
    # The URI may hold a password. Every user of the machine can read a process's arguments, but not its
    # environment.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": store.uri}
    # Else MLflow starts five more processes, for jobs that evaluate language models.
    os.execve(sys.executable, command, {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
