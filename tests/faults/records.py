"""Faults of a record: it is damaged or hostile, its data change, it is rerun elsewhere."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing

from nnexp.config.paths import CHECKOUT
from tests.faults.kills import check_few
from tests.faults.program import (
    HANGS_SECONDS,
    Cases,
    Fault,
    Trial,
    driven,
    ended,
    expect,
    last_line,
    start,
    told,
    typed,
)
from tests.faults.standing import FEW, FEW_RUNS, ONE

HOSTILE = CHECKOUT / "tests" / "program" / "hostile"
TABLE = "size,y\n1,0\n2,0\n3,1\n4,1\n"
OWN = (
    "dataset=csv",
    "dataset.path=own.csv",
    "dataset.features=[size]",
    "dataset.target=y",
    "dataset.center=mean",
)
# Settings that imitate another machine: they change how, and in which order, arithmetic is done.
ELSEWHERE = {
    "another hash seed": {"PYTHONHASHSEED": "4711"},
    "one thread": {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    "another BLAS kernel": {"OPENBLAS_CORETYPE": "Prescott"},
    "NumPy without its upper SIMD levels": {"NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3"},
    "the engine compiled for AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"},
    "the engine compiled for any x86-64": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}


def rows(n: int) -> list[Fault]:
    return [
        Fault("truncated or flipped weights", damaged),
        Fault("records made to do harm: pickles, targets, links, traversal, escapes", hostile),
        Fault("a data set that is changed after recording", data_changed),
        Fault(f"a rerun with {', '.join(ELSEWHERE)}", elsewhere),
    ]


def recorded(printed: str, word: str = "recorded as ") -> str:
    """Return the id that a command printed."""
    return printed.split(word)[1].split()[0]


def damaged(trial: Trial) -> Cases:
    """Refused in plain words, unless no weight is changed: then the answer is the same."""
    place = trial.place
    trial.with_store()
    run_id = recorded(typed(place, "one", ONE))
    (place / "rows.csv").write_text("weight_lb,height_in\n128,63\n")
    (weights,) = place.glob("mlartifacts/*/*/*/artifacts/weights.npz")
    good = weights.read_bytes()
    spoils = damages(good, trial.random, min(50, 8 * trial.n))
    # One run for each case, since one process reads them all.
    commands: list[tuple[list[str], Mapping[str, str]]] = []
    for i, content in enumerate([good, *spoils.values()]):
        copy = place / f"store-{i}"
        copy.mkdir()
        shutil.copytree(place / "mlartifacts", copy / "mlartifacts")
        (copy / weights.relative_to(place)).write_bytes(content)
        with closing(sqlite3.connect(shutil.copy(place / "mlflow.db", copy))) as connection, connection:
            moved = "UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)"
            connection.execute(moved, [f"{place}/mlartifacts", f"{copy}/mlartifacts"])
        commands.append(
            (["predict", run_id, "rows.csv"], {"MLFLOW_TRACKING_URI": f"sqlite:///{copy}/mlflow.db"})
        )
    answer, *ends = driven(place, commands)
    expect(answer.status == 0, f"the undamaged file is not read: {answer.err[-300:]}")
    wrong = []
    for name, end in zip(spoils, ends, strict=True):
        is_refused = end.status == 2 and "weights" in end.err and "Traceback" not in end.err
        if not is_refused and (end.status, end.out) != (0, answer.out):
            wrong.append(f"{name}: exit status {end.status}: {end.err[-200:]}{end.out[-200:]}")
    return Cases(len(spoils), wrong)


def damages(good: bytes, draw: random.Random, count: int) -> dict[str, bytes]:
    """Return the file cut off at several lengths, and with several bits flipped."""
    found = {"empty": b"", "but for its last byte": good[:-1]}
    for _ in range(count):
        length, bit = draw.randrange(len(good)), draw.randrange(8 * len(good))
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        found |= {f"cut off at {length} bytes": good[:length], f"bit {bit} flipped": bytes(flipped)}
    return found


def hostile(trial: Trial) -> Cases:
    """Refused or shown, without a traceback: nothing is executed, no file is written or changed.

    The cases are those of tests/program/hostile, which the test suite looks at more closely.
    """
    (trial.place / "store").mkdir()
    shutil.move(trial.with_store(), trial.place / "store" / "mlflow.db")
    done = subprocess.run(
        [sys.executable, HOSTILE / "drive.py", trial.place],
        capture_output=True,
        text=True,
        timeout=HANGS_SECONDS,
        check=False,
    )
    expect(done.returncode == 0, f"the driver: {done.stderr[-300:]}")
    results = {k: v for k, v in json.loads(done.stdout).items() if k not in ("good", "watch")}
    wrong = []
    for name, result in results.items():
        # A rerun exits with 1 if a record cannot be run again.
        odd = [
            command
            for command, end in result["ended"].items()
            if end["status"] not in ((0, 1, 2) if "rerun" in command else (0, 2)) or "Traceback" in end["err"]
        ]
        if result["seen"] or result["is_changed"] or odd:
            wrong.append(f"{name}: {result['seen'][:2]} {odd}")
    return Cases(len(results), wrong)


def data_changed(trial: Trial) -> str:
    """A rerun says that the data set has changed, with status 1; training treats it as other data, and runs
    again."""
    place = trial.place
    trial.with_store()
    (place / "own.csv").write_text(TABLE)
    run_id = recorded(typed(place, "one", [*ONE, *OWN]))
    expect("identical" in typed(place, "same", ["rerun", run_id]), "before, the rerun is not identical")
    (place / "own.csv").write_text(TABLE.replace("4,1", "5,1"))
    status = ended(start(place, "changed", ["rerun", run_id]))
    said = (place / "changed.out").read_text() + told(place, "changed")
    expect(status == 1 and "data" in said, f"the rerun: exit status {status}: {said[-300:]}")
    again = recorded(typed(place, "again", [*ONE, *OWN]))
    expect(again != run_id, "training took the changed data for the old")
    return "the data set" if "the data set" in said else last_line(place / "changed.out")


def elsewhere(trial: Trial) -> Cases:
    """In each of these environments every run of a sweep is identical: initial weights, curves, final
    weights, predictions."""
    place = trial.place
    trial.with_store()
    sweep_id = recorded(typed(place, "sweep", FEW), "recorded as sweep ")
    check_few(trial)
    wrong = []
    for name, change in ELSEWHERE.items():
        status = ended(start(place, "rerun", ["rerun", "--sweep", sweep_id], change))
        said = (place / "rerun.out").read_text() + told(place, "rerun")
        if status or f"{FEW_RUNS} of {FEW_RUNS} runs are identical" not in said:
            wrong.append(f"{name}: exit status {status}: {said[-200:]}")
    return Cases(len(ELSEWHERE), wrong)
