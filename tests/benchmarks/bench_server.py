"""Measure a sweep on an MLflow server with PostgreSQL behind it: by MLflow's calls, and by nnexp's app.

Run by hand, as it takes minutes: `.venv/bin/python -m tests.benchmarks.bench_server`. It writes server.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.postgres import postgres_server
from tests.real import NNEXP, free_port, is_up, started, wait_for

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
APPS = {"MLflow's calls, eight at a time": [], "nnexp's app": ["--app-name", "nnexp"]}


def seconds(uri: str, runs: int, experiment: str) -> float:
    """Return the seconds of a whole sweep of so many runs with curves of 101 points."""
    sweep = ["train", "-m", f"seed=range({runs})", "figures=false", f"experiment_name={experiment}"]
    begun = time.monotonic()
    subprocess.run([*NNEXP, *sweep, f"tracking_uri={uri}"], check=True, capture_output=True)
    return time.monotonic() - begun


def measured(place: Path) -> dict[str, tuple[float, float]]:
    """Return, for each app, the seconds of a sweep of RUNS runs, and the milliseconds of a further run."""
    found = {}
    with ExitStack() as stack:
        postgres = stack.enter_context(postgres_server())
        uris = {}
        for i, (name, app) in enumerate(APPS.items()):
            postgres.ask(f"CREATE DATABASE bench{i}")
            port = free_port()
            command = [sys.executable, "-m", "mlflow", "server", *app, "--port", str(port)]
            command += ["--backend-store-uri", postgres.uri(f"bench{i}"), "--workers", "1"]
            command += ["--artifacts-destination", str(place / str(i))]
            quick = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            stack.enter_context(started(*command, env=quick, cwd=place))
            uris[name] = f"http://127.0.0.1:{port}"
            wait_for(lambda uri=uris[name]: is_up(uri))
        for name, uri in uris.items():
            few = seconds(uri, 10, "few")
            many = seconds(uri, RUNS, "many")
            found[name] = many, 1000 * (many - few) / (RUNS - 10)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        found = measured(Path(place))
    text = (
        f"A sweep of {RUNS:,} runs with curves of 101 points, on this machine's {os.cpu_count()} cores.\n\n"
    )
    text += "| on an MLflow server, PostgreSQL behind it | seconds | ms a run, without the start |\n"
    text += "|---|---|---|\n"
    for name, (whole, each) in found.items():
        text += f"| {name} | {whole:.1f} | {each:.2f} |\n"
    (_, calls), (_, app) = found.values()
    text += f"\nnnexp's app takes {app / calls:.3f} of the time a run.\n"
    print(text)
    if RUNS >= 1000:
        Path(__file__).with_name("server.md").write_text(text)


if __name__ == "__main__":
    main()
