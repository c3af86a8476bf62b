"""Stores that share a directory for their artifacts: doctor runs on both while sweeps record into both."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa

from tests.faults.program import End, Fault, Missing, Trial, driven, ended, expect, kill, start, told
from tests.faults.standing import weights_hash

# Every directory of a run counts as old, so that its age does not protect it.
OLD = "from nnexp.pipeline import doctor\ndoctor._is_old = lambda path: path.is_dir()"
# As every age will do, doctor may find a directory whose row is about to be written; repairing sees the row.
IN_USE = "files of a run that is not in the store; left alone, since it is in use"
# Few runs, since doctor reads the weights of all of them.
SWEEP = ("train", "-m", "seed=range(20)", "figures=false")
SWEEP_RUNS = 20
LEFTOVER = "01a201ed0afc7000a94f7af062d203b7"


def rows(n: int) -> list[Fault]:
    return [
        Fault("doctor --fix on two SQLite stores of one directory, beside their sweeps", files),
        Fault("doctor --fix on two databases of one PostgreSQL, beside their sweeps", databases),
    ]


def files(trial: Trial) -> str:
    """No file is lost or moved; files that a kill left are moved aside only by the doctor of their own store.
    One store is a copy of the other."""
    paths = [trial.place / "one.db", trial.place / "other.db"]
    for path in paths:
        shutil.copy(trial.empty_store, path)
    return beside_sweeps(trial, [f"sqlite:///{path}" for path in paths])


def databases(trial: Trial) -> str:
    """The same as for two SQLite stores."""
    from nnexp.tracking.experiments import ensure_experiment
    from nnexp.tracking.store import open_store
    from tests.postgres import find_initdb, postgres_server

    if find_initdb() is None:
        raise Missing("PostgreSQL")
    with postgres_server() as server:
        server.ask("CREATE DATABASE one")
        one = replace(open_store(server.uri("one")), artifact_root=(trial.place / "mlartifacts").as_uri())
        ensure_experiment(one, "nnexp")
        one.engine.dispose()
        server.ask("CREATE DATABASE other TEMPLATE one")
        return beside_sweeps(trial, [server.uri("one"), server.uri("other")])


def beside_sweeps(trial: Trial, uris: Sequence[str]) -> str:
    """Type `doctor --fix` on both stores in turn while sweeps run in both, and check every file."""
    calls, sweeps = min(100, 10 * trial.n), dict.fromkeys(uris, 0)
    running = {uri: begin(trial, uri, 0) for uri in uris}
    try:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(lambda: [end for _ in range(calls // 10) for end in fixed(trial, uris, 5)])
            while not future.done():
                for uri, process in running.items():
                    if process.poll() is not None:
                        sweeps[uri] += finished(trial, uri, process)
                        running[uri] = begin(trial, uri, sweeps[uri])
                time.sleep(0.1)
            ends = future.result()
        for uri, process in running.items():
            sweeps[uri] += finished(trial, uri, process)
    finally:
        for process in running.values():
            kill(process)
    wrong = [(end.status, end.out[-300:], end.err[-300:]) for end in ends if not is_as_expected(end)]
    expect(not wrong, f"{len(wrong)} of {len(ends)} doctors ended otherwise: {wrong[:1]}")
    expect(not list(trial.place.rglob("*.aside")), "files were moved aside")
    for uri in uris:
        check_files(uri, sweeps[uri])
    check_leftover(trial, uris)
    return f"{len(ends)} doctors, {sum(sweeps.values())} sweeps of {SWEEP_RUNS} runs"


def is_as_expected(end: End) -> bool:
    """Return whether a doctor found nothing, or only files that it saw to be in use and left alone."""
    found = re.search(r"(\d+) found, 0 of them repaired", end.out)
    return end.status == 0 or (found is not None and int(found[1]) == end.out.count(IN_USE))


def fixed(trial: Trial, uris: Sequence[str], times: int = 1) -> list[End]:
    """Type `doctor --fix` so many times on each store in turn, in a directory where nothing else writes."""
    place = trial.place / "typed"
    place.mkdir(exist_ok=True)
    commands = [(["doctor", "--fix"], {"MLFLOW_TRACKING_URI": uri}) for uri in uris]
    return driven(place, commands * times, OLD)


def begin(trial: Trial, uri: str, i: int) -> subprocess.Popen[bytes]:
    """Start the next sweep in a store: like the others, but longer."""
    return start(trial.place, name_of(uri), [*SWEEP, f"epochs={100 + i}"], {"MLFLOW_TRACKING_URI": uri})


def finished(trial: Trial, uri: str, process: subprocess.Popen[bytes]) -> int:
    """Wait for the sweep, check that it ended well, and return 1."""
    status = ended(process)
    expect(status == 0, f"a sweep's exit status is {status}: {told(trial.place, name_of(uri))[-300:]}")
    return 1


def name_of(uri: str) -> str:
    return uri.rpartition("/")[2]


def check_files(uri: str, sweeps: int) -> None:
    """Check that every run of so many sweeps is FINISHED and has its final weights."""
    engine = sa.create_engine(uri, poolclass=sa.NullPool)
    with engine.connect() as connection:
        runs = connection.execute(sa.text("SELECT run_uuid, status, artifact_uri FROM runs")).all()
        tags = sa.text("SELECT run_uuid, value FROM tags WHERE key = 'nnexp.weights_sha256'")
        hashes = dict(connection.execute(tags).tuples().all())
    counts = len(hashes), len(runs), {status for _, status, _ in runs}
    expect(counts == (sweeps * SWEEP_RUNS, sweeps * (SWEEP_RUNS + 1), {"FINISHED"}), f"{uri}: {counts}")
    for run_id, _, location in runs:
        place = Path(unquote(urlsplit(location).path))
        own = "config.yaml" if run_id in hashes else "run_keys.txt"
        expect((place / own).is_file(), f"{uri}: run {run_id} has lost {own}")
        if run_id in hashes:
            same = weights_hash((place / "weights.npz").read_bytes()) == hashes[run_id]
            expect(same, f"{uri}: run {run_id} has other weights")


def check_leftover(trial: Trial, uris: Sequence[str]) -> None:
    """Check that files in the second store's directory that none of its rows names are moved only by its own
    doctor, and not deleted."""
    engine = sa.create_engine(uris[1], poolclass=sa.NullPool)
    with engine.connect() as connection:
        any_run = sa.text("SELECT artifact_uri FROM runs ORDER BY run_uuid")
        run = Path(unquote(urlsplit(str(connection.scalar(any_run))).path)).parent
    left = run.with_name(LEFTOVER)
    shutil.copytree(run, left)
    content = sorted(path.read_bytes() for path in left.rglob("*") if path.is_file())
    fixed(trial, uris[:1])
    expect(left.exists(), "another store's doctor moved the files that a kill left")
    fixed(trial, uris[1:])
    expect(not left.exists(), "the files that a kill left were not moved aside")
    (moved,) = trial.place.rglob(LEFTOVER)
    kept = sorted(path.read_bytes() for path in moved.rglob("*") if path.is_file())
    expect(kept == content, "the files moved aside were changed")
