"""Faults that end a program early: signals at random instants, and points that raise, exit or crash."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.faults.program import (
    TOO_LATE,
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
from tests.faults.standing import (
    EPOCHS,
    FEW,
    FEW_RUNS,
    LENGTH,
    ONE,
    ONE_EPOCHS,
    PART,
    PART_RUNS,
    RUNS,
    SWEEP,
    Undisturbed,
    check_parents,
    check_same,
    left_behind,
    networks_of,
    read_runs,
    table_of,
)
from tests.real import alive

# The seed of the point of FEW that misbehaves; deadly.py kills the same one.
BAD_SEED = 2
SPOILED = """
import os, signal, sys
from nnexp.cli import main as cli
from nnexp.training import train

class Spoiled(train.Shard):
    def __init__(self, dataset, columns, device):
        if {seed} in columns.seed:
            {what}
        super().__init__(dataset, columns, device)

train.Shard = Spoiled
cli.main()
"""
DEADLY = """
from tests.training import deadly
from nnexp.cli import main as cli
from nnexp.training import distribute as sweep
sweep.train_shard = deadly.train_shard
cli.main()
"""
# After a power failure the disk has the state of the last sync; the file POWER lists what that was.
POWER = """
import json, os
from pathlib import Path
from nnexp.cli import main as cli
from nnexp.tracking import durable

def listed():
    files = (Path(d, f) for d, _, names in os.walk("mlartifacts") for f in names)
    return {str(file): file.stat().st_mtime_ns for file in files}

def syncfs(place):
    there = listed()
    Path("disk.half").write_text(json.dumps(there))
    os.replace("disk.half", "disk")
    return True

durable._syncfs = lambda: syncfs
cli.main()
"""


def rows(n: int, known: Undisturbed) -> list[Fault]:
    """Return the faults: `n` kills, and fewer trials of faults that take longer or show less."""
    some, few = max(1, n // 4), max(1, n // 10)
    whole, recording = known.seconds, known.recording_seconds
    return [
        Fault("kill -9 in the making of the store", killed_creating, some, seconds=4),
        Fault("kill -9 during a sweep", killed, n, seconds=known.seconds_from_nothing),
        Fault("kill -9 between a sweep's artifacts and its rows", killed_recording, some, seconds=recording),
        Fault("the power fails during a sweep", power_failed, some, seconds=recording),
        Fault("kill -9 of a worker", worker_killed, few, seconds=2),
        Fault("SIGTERM during a sweep", terminated, some, seconds=whole),
        Fault("Ctrl-C during a sweep", interrupted, some, seconds=whole),
        Fault("Ctrl-C twice during a sweep", interrupted_twice, some, seconds=whole),
        Fault("files of finished runs that are empty or gone", files_lost, few),
        Fault("an exception in a point", raises, few),
        Fault("sys.exit(0) in a point", exits, few),
        Fault("a segfault in a point, in a worker", crashes_worker, few),
        Fault("a segfault in a point, in the sweep's own process", crashes, few),
        Fault("a loss that diverges", diverges, few),
    ]


def check_repaired(trial: Trial) -> None:
    """Type the same command again, and check that everything is as if nothing had happened."""
    known = known_of(trial)
    table = table_of(typed(trial.place, "again", SWEEP), RUNS)
    runs = read_runs(trial.place)
    check_same(networks_of(runs, RUNS, EPOCHS), known.networks)
    last = check_parents(runs)[-1]
    expect(table == known.table, "the summary that is printed differs from an undisturbed sweep's")
    summary = (last.files / "summary.csv").read_bytes()
    expect(summary == known.summary, "summary.csv differs from an undisturbed sweep's")


def check_unchanged(place: Path, table: str) -> None:
    """Type the command a third time, and check that it changes no byte."""
    before = (place / "mlflow.db").read_bytes(), sorted(place.glob("mlartifacts/*/*/*"))
    expect(
        table == table_of(typed(place, "third", SWEEP), RUNS), "the third time, another summary is printed"
    )
    after = (place / "mlflow.db").read_bytes(), sorted(place.glob("mlartifacts/*/*/*"))
    expect(before == after, "the third time, the store was written to")


def known_of(trial: Trial) -> Undisturbed:
    assert isinstance(trial.known, Undisturbed)
    return trial.known


def killed_creating(trial: Trial) -> str:
    """The same command makes the store and records its run. If the first had begun to record one, that is
    KILLED."""
    place = trial.place
    running = start(place, "first", ONE)
    until((place / "mlflow.db.lock").exists, running)
    status = struck(running, signal.SIGKILL, trial.seconds)
    left = left_behind(place)
    typed(place, "again", ONE)
    runs = read_runs(place)
    ended = [run for run in runs if run.status != "KILLED"]
    expect(len(runs) <= len(ended) + 1, f"{left} became {[run.status for run in runs]}")
    networks_of(ended, 1, ONE_EPOCHS)
    return left if status else f"{TOO_LATE}, {left}"


def killed(trial: Trial) -> str:
    """The same command completes the sweep, which then equals an undisturbed one: runs, points, weights,
    summary. Typed once more, the command changes no byte. One sweep in four begins without a store."""
    if trial.random.random() < 0.75:
        trial.with_store()
    left = _killed(trial, start(trial.place, "first", SWEEP))
    check_unchanged(trial.place, known_of(trial).table)
    return left


def killed_recording(trial: Trial) -> str:
    """The same command completes the sweep as if undisturbed."""
    trial.with_store()
    running = start(trial.place, "first", SWEEP)
    until(lambda: any(trial.place.glob("mlartifacts/*/*/*")), running)
    return _killed(trial, running)


def power_failed(trial: Trial) -> str:
    """Every FINISHED run has its files, although files that were not synced are empty or missing; the same
    command completes the sweep as if undisturbed."""
    place = trial.place
    trial.with_store()
    running = start(place, "first", SWEEP, code=POWER)
    until(lambda: any(place.glob("mlartifacts/*/*")), running)
    status = struck(running, signal.SIGKILL, trial.seconds)
    left = left_behind(place)
    on_disk = json.loads((place / "disk").read_text()) if (place / "disk").exists() else {}
    lost = 0
    for file in sorted(place.glob("mlartifacts/**/*")):
        if file.is_file() and on_disk.get(str(file.relative_to(place))) != file.stat().st_mtime_ns:
            file.write_bytes(b"") if lost % 2 else file.unlink()
            lost += 1
    for run in read_runs(place):
        needed = ("config.yaml", "weights.npz") if run.key is not None else ("run_keys.txt",)
        empty = [name for name in needed if not whole(run.files / name)]
        expect(not empty, f"run {run.id} is {run.status}, and {empty} is empty or gone")
    check_repaired(trial)
    return f"{left}; {lost} files lost" if status else f"{TOO_LATE}, {left}; {lost} files lost"


def whole(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def files_lost(trial: Trial) -> str:
    """Doctor names each run; the same command, also with retry=failed, trains only those again, with the same
    bits."""
    place = trial.place
    trial.with_store()
    for name, more in (("first", []), ("failed", ["retry=failed"])):
        typed(place, name, [*FEW, *more])
        runs = [run for run in read_runs(place) if run.key is not None and run.status == "FINISHED"]
        victims = trial.random.sample(runs, 3)
        (victims[0].files / "weights.npz").write_bytes(b"")
        (victims[1].files / "config.yaml").unlink()
        shutil.rmtree(victims[2].files)
        ended(start(place, "doctor", ["doctor"]))
        said = (place / "doctor.out").read_text()
        missed = [run.id for run in victims if run.id not in said]
        expect(not missed, f"doctor does not name {missed}: {said[-300:]}")
    typed(place, "again", FEW)
    networks = [run for run in read_runs(place) if run.status != "KILLED"]
    check_same(networks_of(networks, FEW_RUNS, EPOCHS), known_of(trial).networks)
    expect("nothing is wrong" in typed(place, "sound", ["doctor"]), "doctor finds something still")
    return "6 trained again"


def _killed(trial: Trial, running: subprocess.Popen[bytes]) -> str:
    status = struck(running, signal.SIGKILL, trial.seconds)
    expect(status in (0, -signal.SIGKILL), f"first: exit status {status}")
    left = left_behind(trial.place)
    check_repaired(trial)
    return left if status else f"{TOO_LATE}, {left}"


def worker_killed(trial: Trial) -> str:
    """The sweep goes on without the worker: exit status 0, every run recorded once, with the bits of an
    undisturbed sweep."""
    trial.with_store()
    running = start(trial.place, "sweep", [*PART, "executor=processes", "executor.workers=2"])
    until(lambda: workers_of(running), running)
    time.sleep(trial.seconds)
    victims = workers_of(running)[:1]
    for pid in victims:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(pid, signal.SIGKILL)
    status = ended(running)
    expect(status == 0, f"exit status {status}: {last_line(trial.place / 'sweep.err')}")
    told(trial.place, "sweep")
    check_part(trial)
    return "a worker died" if victims else TOO_LATE


def check_part(trial: Trial, place: Path | None = None) -> None:
    """Check that all of PART is recorded once, with an undisturbed sweep's bits, by default in the trial."""
    runs = read_runs(place or trial.place)
    check_same(networks_of(runs, PART_RUNS, EPOCHS), known_of(trial).networks)
    check_parents(runs)


def check_few(trial: Trial) -> None:
    """Check that all of FEW is recorded once, with an undisturbed sweep's bits."""
    runs = read_runs(trial.place)
    check_same(networks_of(runs, FEW_RUNS, EPOCHS), known_of(trial).networks)
    check_parents(runs)


def terminated(trial: Trial) -> str:
    """Exit status 143, no traceback, nothing RUNNING; the same command completes the sweep as if
    undisturbed."""
    return _interrupted(trial, signal.SIGTERM)


def interrupted(trial: Trial) -> str:
    """Exit status 130, no traceback, nothing RUNNING; the same command completes the sweep as if
    undisturbed."""
    return _interrupted(trial, signal.SIGINT)


def _interrupted(trial: Trial, number: signal.Signals) -> str:
    """Check for exit status 128 + the signal, no traceback, nothing RUNNING, unless it came too early or
    late.

    Before nnexp's first line and after its last, Python itself dies of it (-number, which a shell shows as
    128 + number too): then nothing is recorded yet, or all is, and printed. Once the sweep has ended, it may
    as well be the success that it is: 0.
    """
    trial.with_store()
    running = start(trial.place, "first", SWEEP)
    status = struck(running, number, trial.seconds)
    left = left_behind(trial.place)
    if status == 128 + number:
        told(trial.place, "first")
        expect("RUNNING" not in left, f"it left {left}")
    elif not (status == -number and left == "0 runs, no sweep"):
        allowed = (0, -number)
        expect(status in allowed, f"exit status {status}: {last_line(trial.place / 'first.err')}")
        expect(left == f"{RUNS} runs, sweep FINISHED", f"exit status {status}, and it left {left}")
        printed = table_of((trial.place / "first.out").read_text(), RUNS)
        expect(printed == known_of(trial).table, f"exit status {status}, and another summary is printed")
    check_repaired(trial)
    return f"exit status {status}, {left}" if status else f"{TOO_LATE}, {left}"


def interrupted_twice(trial: Trial) -> str:
    """The process dies of the interrupt; the same command completes the sweep as if undisturbed."""
    trial.with_store()
    running = start(trial.place, "first", SWEEP)
    try:
        running.wait(trial.seconds)
    except subprocess.TimeoutExpired:
        kill(running, signal.SIGINT)
        time.sleep(trial.random.uniform(0, 0.3))
        if running.poll() is None:
            kill(running, signal.SIGINT)
    status = ended(running)
    expect(status in (0, 130, -signal.SIGINT), f"first: exit status {status}")
    left = left_behind(trial.place)
    check_repaired(trial)
    return f"exit status {status}, {left}" if status else f"{TOO_LATE}, {left}"


def workers_of(parent: subprocess.Popen[bytes]) -> list[int]:
    """Return the worker processes of this process."""
    return [pid for pid, command in alive(parent.pid).items() if "spawn_main" in command]


def raises(trial: Trial) -> str:
    """The point is recorded as FAILED with its traceback and reported, and the exit status is 1; the others
    are recorded; retry=failed completes the sweep."""
    return _spoiled(trial, SPOILED.format(seed=BAD_SEED, what="raise MemoryError('no room')"), FEW, "no room")


def exits(trial: Trial) -> str:
    """As for an exception: the point is FAILED, the exit status is 1, and the others are recorded."""
    return _spoiled(trial, SPOILED.format(seed=BAD_SEED, what="sys.exit(0)"), FEW, "SystemExit")


def crashes_worker(trial: Trial) -> str:
    """The point is FAILED because its process died, and the exit status is 1; other workers train the
    others."""
    sweep = (*FEW, "executor=processes", "executor.workers=2")
    return _spoiled(trial, DEADLY, sweep, "WorkerLost")


def _spoiled(trial: Trial, code: str, sweep: tuple[str, ...], reason: str) -> str:
    place = trial.place
    trial.with_store()
    status = ended(start(place, "first", sweep, code=code))
    said = told(place, "first")
    expect(status == 1 and reason in said, f"first: exit status {status}: {said[-300:]}")
    runs = [run for run in read_runs(place) if run.key is not None]
    failed = [run for run in runs if run.status == "FAILED"]
    expect(len(failed) == 1 and len(runs) == FEW_RUNS, f"{len(failed)} of {len(runs)} runs FAILED")
    expect(reason in failed[0].tags["nnexp.reason"], f"its reason is {failed[0].tags['nnexp.reason']}")
    expect(reason in (failed[0].files / "traceback.txt").read_text(), "its traceback is not kept")
    typed(place, "again", [*FEW, "retry=failed"])
    runs = [run for run in read_runs(place) if run.status != "FAILED"]
    check_same(networks_of(runs, FEW_RUNS, EPOCHS), known_of(trial).networks)
    return f"1 FAILED, {FEW_RUNS - 1} FINISHED"


def crashes(trial: Trial) -> str:
    """The process dies of the signal; the next command sets the sweep to KILLED and completes it."""
    place = trial.place
    trial.with_store()
    code = SPOILED.format(seed=BAD_SEED, what="os.kill(os.getpid(), signal.SIGSEGV)")
    status = ended(start(place, "first", FEW, code=code))
    expect(status == -signal.SIGSEGV, f"first: exit status {status}")
    left = left_behind(place)
    typed(place, "again", FEW)
    check_few(trial)
    statuses = [run.status for run in read_runs(place) if "nnexp.sweep" in run.tags]
    expect(statuses == ["KILLED", "FINISHED"], f"the sweeps are {statuses}")
    return left


def diverges(trial: Trial) -> str:
    """The run is FINISHED with the outcome diverged, and all its points are finite; the others of its
    sweep do not diverge."""
    place = trial.place
    trial.with_store()
    wild = ("dataset=line", "hidden=[]", "output_activation=identity", "figures=false")
    typed(place, "sweep", ["train", "-m", "learning_rate=0.01,5", "seed=range(8)", *wild, *LENGTH])
    runs = [run for run in read_runs(place) if run.key is not None]
    outcomes = {run.params["learning_rate"]: run.tags["nnexp.outcome"] for run in runs}
    expect(len(runs) == 16 and outcomes["5.0"] == "diverged", f"{len(runs)} runs, outcomes {outcomes}")
    expect(outcomes["0.01"] != "diverged", "a run of a small learning rate diverged")
    expect({run.status for run in runs} == {"FINISHED"}, "not all have FINISHED")
    values = [point for run in runs for points in run.points.values() for point in points]
    odd = [point for point in values if point[2] or abs(point[1]) > 1e308]
    expect(not odd, f"points that are not finite: {odd[:3]}")
    return "8 diverged, 8 did not"
