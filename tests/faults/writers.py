"""Several processes in one store: they make it at once, run the same sweep, hold locks, seem dead."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tests.faults.kills import check_part
from tests.faults.program import Fault, Trial, ended, expect, kill, last_line, start, told, typed, until
from tests.faults.standing import (
    ONE,
    ONE_EPOCHS,
    PART,
    PART_RUNS,
    Run,
    check_parents,
    networks_of,
    read_runs,
    table_of,
)

MAKERS, WRITERS = 16, 32
LOCKED = "the store is locked by another process: waiting"


def rows(n: int) -> list[Fault]:
    """Return the faults; with many trials, the writers and the held lock take a minute each."""
    few = max(1, n // 20)
    return [
        # First, since it only waits while others work.
        Fault("a write lock held by another program", locked, 1),
        Fault(f"{MAKERS} processes at once where there is no store", together, few),
        Fault("the same sweep by two processes at once", twice, few),
        Fault(f"{WRITERS} writers at once", many, 1),
        Fault("doctor --fix on a running sweep whose store is reached by a link", linked, few),
        Fault("a sweep that is stopped, taken over by another, and then continued", zombie, few),
    ]


def together(trial: Trial) -> str:
    """They make one store, and each records its run."""
    place = trial.place
    names = [f"seed {i}" for i in range(MAKERS)]
    running = [start(place, name, [*ONE, f"seed={i}"]) for i, name in enumerate(names)]
    failed = [
        f"{name}: exit status {status}: {last_line(place / f'{name}.err')}"
        for name, status in zip(names, map(ended, running), strict=True)
        if status
    ]
    expect(not failed, f"{len(failed)} of {MAKERS} failed: {failed}")
    runs = read_runs(place)
    networks_of(runs, MAKERS, ONE_EPOCHS)
    return f"{len(runs)} runs"


def twice(trial: Trial) -> str:
    """Each run is recorded once, with an undisturbed sweep's bits, and both print the same summary."""
    trial.with_store()
    running = {name: start(trial.place, name, PART) for name in ("one", "other")}
    for name, process in running.items():
        status = ended(process)
        expect(status == 0, f"{name}: exit status {status}: {last_line(trial.place / f'{name}.err')}")
    check_part(trial)
    summaries = {
        (parent.files / "summary.csv").read_bytes() for parent in check_parents(read_runs(trial.place))
    }
    expect(len(summaries) == 1, "the sweeps' summary.csv differ")
    tables = {table_of((trial.place / f"{name}.out").read_text(), PART_RUNS) for name in running}
    expect(len(tables) == 1, "the summaries that are printed differ")
    return f"{PART_RUNS} runs"


def many(trial: Trial) -> str:
    """None fails, and every run that one of them wrote is there once, complete and FINISHED.

    For as many seconds as trials are asked for, from 2 to 60.
    """
    store = trial.with_store()
    seconds = min(60, max(2, trial.n))
    command = [sys.executable, Path(__file__).with_name("writing.py"), store, str(WRITERS), str(seconds)]
    with (trial.place / "writers.err").open("wb") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
    expect(done.returncode == 0, f"exit status {done.returncode}: {last_line(trial.place / 'writers.err')}")
    names = done.stdout.split()
    runs = read_runs(trial.place, "writers")
    there = sorted(run.params["name"] for run in runs)
    expect(there == sorted(names), f"{len(names)} runs were written, and {len(there)} are there")
    for run in runs:
        whole = run.status == "FINISHED" and len(run.points["loss"]) == 3 and run.key is not None
        expect(whole, f"run {run.id} is {run.status}, with points {run.points}")
        text = (run.files / "a.txt").read_text()
        expect(text == run.params["name"], f"run {run.id} has the file of {text}")
    writers = {name.partition("-")[0] for name in names}
    expect(len(writers) == WRITERS, f"only {len(writers)} of {WRITERS} came to write")
    return f"{len(runs)} runs in {seconds} s"


def locked(trial: Trial) -> str:
    """The program says that it waits, and records its run when the lock is released.

    Held for 7 s, longer than one attempt at it; for 60 s where 100 trials are asked for.
    """
    store = trial.with_store()
    typed(trial.place, "before", [*ONE, "seed=1"])  # makes the experiment
    seconds = 60 if trial.n >= 100 else 7
    with closing(sqlite3.connect(store, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        running = start(trial.place, "waits", ONE)
        is_told = until(lambda: LOCKED in (trial.place / "waits.err").read_text(), running)
        expect(is_told, f"it did not wait: {last_line(trial.place / 'waits.err')}")
        time.sleep(max(0.0, seconds - (time.monotonic() - began)))
        expect(running.poll() is None, "it ended while the store was locked")
        holder.execute("ROLLBACK")
        held = time.monotonic() - began
    status = ended(running)
    said = told(trial.place, "waits")
    expect(status == 0, f"exit status {status}: {said[-300:]}")
    networks_of(read_runs(trial.place), 2, ONE_EPOCHS)
    return f"waited for {held:.0f} s"


def zombie(trial: Trial) -> str:
    """The second command completes the sweep; whatever the first still writes, every run is there once, and
    the first reports that it was ended, with status 1."""
    place = trial.place
    store = trial.with_store()
    running = start(place, "zombie", PART)
    try:
        until(lambda: is_begun(store), running)
        time.sleep(trial.random.uniform(0, 0.5))
        stop_between_writes(running, store)
        # Without its lock file, other processes take it for dead.
        owned = list(place.glob("mlflow.db.*.owner"))
        for file in owned:
            file.unlink()
        typed(place, "heir", PART)
        before = read_runs(place)
        kill(running, signal.SIGCONT)
        status = ended(running)
    finally:
        kill(running)
    after = read_runs(place)
    check_told_ended(trial, status, after)
    check_part(trial)
    expect([run.id for run in after] == [run.id for run in before], "the zombie recorded more runs")
    statuses = [run.status for run in after if "nnexp.sweep" in run.tags]
    return f"sweeps {', '.join(statuses)}"


def check_told_ended(trial: Trial, status: int, runs: Sequence[Run]) -> None:
    """Check that a process whose sweep was set to KILLED says so, and does not end normally."""
    said = told(trial.place, "zombie")
    killed = any("nnexp.sweep" in run.tags and run.status == "KILLED" for run in runs)
    right = status == 1 and "was set to KILLED by another command" in said if killed else status == 0
    expect(right, f"the zombie's exit status is {status}: {said[-300:]}")


def linked(trial: Trial) -> str:
    """doctor, on the file's own name, does not touch the sweep: it ends as FINISHED, with status 0."""
    place = trial.place
    trial.with_store()
    (place / "link.db").symlink_to("mlflow.db")
    running = start(place, "sweep", PART, {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/link.db"})
    until(lambda: any(place.glob("*.db.*.owner")), running)
    time.sleep(trial.random.uniform(0, 0.5))
    looks = 0
    while running.poll() is None or not looks:
        ended(start(place, "look", ["doctor", "--fix"]))
        looks += 1
    status = ended(running)
    expect(status == 0, f"exit status {status}: {last_line(place / 'sweep.err')}")
    check_part(trial)
    statuses = [run.status for run in read_runs(place) if "nnexp.sweep" in run.tags]
    expect(statuses == ["FINISHED"], f"its sweeps are {statuses}")
    return f"{looks} looks"


def is_begun(store: Path) -> bool:
    """Return whether the store has a sweep."""
    with closing(sqlite3.connect(store, timeout=60)) as connection:
        return bool(connection.execute("SELECT 1 FROM tags WHERE key = 'nnexp.sweep'").fetchone())


def stop_between_writes(process: subprocess.Popen[bytes], store: Path) -> None:
    """Stop the process at an instant at which it does not have the store locked."""

    def is_stopped() -> bool:
        kill(process, signal.SIGSTOP)
        # Until all its threads have stopped, one may still lock the store.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        with closing(sqlite3.connect(store, timeout=0.5, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return True
            except sqlite3.OperationalError:
                kill(process, signal.SIGCONT)
                return False

    until(is_stopped, process)
