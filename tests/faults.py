"""Does the store survive what happens to programs? Kill the real one, at random instants, and look.

A store that is right after most kills is wrong now and then, and nobody notices. So the program is killed
many times, at instants drawn by a seed over a whole sweep (imports, the making of the store, composition,
training, artifacts, rows, the end of the parent), and after each the same command is typed again. What must
then stand there is read with sqlite3, NumPy and hashes, by none of nnexp's own readers, and compared with
sweeps that nothing disturbed.

usage: python tests/faults.py [--trials N] [--seed SEED]    (make test-faults N=100 SEED=0)

One line a trial: its seed, its instant, what the fault left. At the end a table; exit status 1 unless all of
it is as expected. The directory of a trial that is not is kept: the store, and what each command printed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from statistics import fmean
from urllib.parse import unquote, urlsplit

import numpy as np

NNEXP = Path(sys.executable).with_name("nnexp")
# The sweep that is disturbed, the number of its runs, and the epochs at which each has a point.
RATES, LENGTH = "0.02,0.05,0.1,0.15,0.2,0.3,0.4,0.5,0.7,1", ("epochs=200", "log_every=20")
SWEEP = ("train", "-m", f"learning_rate={RATES}", "seed=range(200)", *LENGTH)
RUNS, EPOCHS = 2000, range(0, 201, 20)
# The part of it that two processes train at once, and the runs that sixteen do.
PART, PART_RUNS = ("train", "-m", "learning_rate=0.05,0.1,0.2,0.5,1", "seed=range(100)", *LENGTH), 500
ONE, PROCESSES, ONE_EPOCHS = ("train", "epochs=5", "figures=false", "model=false"), 16, (0, 5)
# Sweeps and trials at a time, and how long any command may take before it hangs.
AT_ONCE, HANGS_SECONDS = 2, 600

# Said of a fault that came when there was nothing left to disturb.
TOO_LATE = "too late"

Points = dict[str, list[tuple[int, float, int]]]


class Unexpected(Exception):
    """What is there is not what must be there."""


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unexpected(otherwise)


@dataclass(frozen=True)
class Run:
    """A run as it stands in the tables. Points are (epoch, value, is NaN), by metric."""

    id: str
    status: str
    seconds: float | None  # None while it goes on
    files: Path
    tags: dict[str, str]
    params: dict[str, str]
    points: Points
    latest: Points
    data: list[str]

    @property
    def key(self) -> str | None:
        return self.tags.get("nnexp.run_key")


@dataclass(frozen=True)
class Network:
    """What a finished run says: the same, to the bit, however often its sweep was disturbed."""

    params: dict[str, str]
    points: Points
    outcome: str
    config: bytes
    weights: bytes


@dataclass(frozen=True)
class Undisturbed:
    """A sweep that nothing happened to: how long it took, what it printed and recorded."""

    seconds: float
    recording_seconds: float  # of them, from the start of its parent run on
    table: str
    summary: bytes
    networks: dict[str, Network]


@dataclass(frozen=True)
class Trial:
    """One trial of a fault: an empty directory, when it is to happen, what is to come out nevertheless."""

    place: Path
    seconds: float
    undisturbed: Undisturbed


def start(place: Path, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """The program in a session of its own, on the store of `place`; it prints to NAME.out and NAME.err."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"}
    with (place / f"{name}.out").open("wb") as out, (place / f"{name}.err").open("wb") as err:
        return subprocess.Popen(
            [NNEXP, *arguments], cwd=place, env=environment, stdout=out, stderr=err, start_new_session=True
        )


def ended(process: subprocess.Popen[bytes]) -> int:
    """The process's exit status, once it has ended."""
    try:
        return process.wait(HANGS_SECONDS)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Unexpected(f"a command went on for {HANGS_SECONDS} s") from None
        raise


def struck(process: subprocess.Popen[bytes], number: signal.Signals, seconds: float) -> int:
    """Send the signal to the process and its children so long from now; its exit status."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, number)
        return ended(process)


def typed(place: Path, name: str, arguments: Sequence[str]) -> str:
    """What the command prints, whose exit status must be 0."""
    status = ended(start(place, name, arguments))
    expect(status == 0, f"{name}: exit status {status}: {last_line(place / f'{name}.err')}")
    return (place / f"{name}.out").read_text()


def last_line(file: Path) -> str:
    return (file.read_text().strip().splitlines() or ["nothing said"])[-1]


def table_of(printed: str, runs: int) -> str:
    """A sweep's summary as it is printed, without the sweep's id."""
    table, found, _ = printed.partition(f"\n{runs} runs, recorded as sweep ")
    expect(bool(found), "no summary was printed")
    return table


def left_behind(place: Path) -> str:
    """What a fault left in the store, looked at in a copy: to look is to roll back what was half written."""
    store = place / "mlflow.db"
    if not store.exists():
        return "half a store" if store.with_name("mlflow.db.creating").exists() else "no store"
    half_written = store.with_name("mlflow.db-journal").exists()
    with tempfile.TemporaryDirectory(dir=place) as copy:
        for file in place.glob("mlflow.db*"):
            shutil.copy(file, copy)
        with closing(sqlite3.connect(Path(copy, "mlflow.db"))) as connection:
            parents = connection.execute(
                "SELECT status FROM runs JOIN tags USING (run_uuid) WHERE key = 'nnexp.sweep'"
            ).fetchall()
            (runs,) = connection.execute("SELECT count(*) FROM tags WHERE key = 'nnexp.run_key'").fetchone()
    on_disk = len([path for path in place.glob("mlartifacts/*/*") if path.name[0] != "."])
    more = on_disk - runs - len(parents)
    words = [f"{runs} runs", f"{more} more on disk"] if more else [f"{runs} runs"]
    words += [f"sweep {status}" for (status,) in parents] or ["no sweep"]
    return ", ".join([*words, *["half a write"] * half_written])


def read_runs(place: Path) -> list[Run]:
    """All runs, oldest first, of a database that must be sound: pages, keys, and that no row is alone."""
    with closing(sqlite3.connect(place / "mlflow.db")) as connection:
        answers = connection.execute("PRAGMA integrity_check").fetchall()
        expect(answers == [("ok",)], f"integrity_check: {answers[:3]}")
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        expect(not broken, f"{len(broken)} rows belong to nothing, one in {broken[:1]}")
        for what, alone in {
            "inputs of no run": "inputs WHERE destination_id NOT IN (SELECT run_uuid FROM runs)",
            "inputs of no data": "inputs WHERE source_id NOT IN (SELECT dataset_uuid FROM datasets)",
            "input tags of no input": "input_tags WHERE input_uuid NOT IN (SELECT input_uuid FROM inputs)",
        }.items():
            (rows,) = connection.execute(f"SELECT count(*) FROM {alone}").fetchone()
            expect(rows == 0, f"{rows} {what}")
        heads = (
            "SELECT run_uuid, status, (end_time - start_time) / 1000.0, artifact_uri FROM runs "
            "ORDER BY start_time, run_uuid"
        )
        runs = {
            id_: Run(id_, status, seconds, Path(unquote(urlsplit(uri).path)), {}, {}, {}, {}, [])
            for id_, status, seconds, uri in connection.execute(heads)
        }
        for id_, key, value in connection.execute("SELECT run_uuid, key, value FROM tags"):
            runs[id_].tags[key] = value
        for id_, key, value in connection.execute("SELECT run_uuid, key, value FROM params"):
            runs[id_].params[key] = value
        points = "SELECT run_uuid, key, step, value, is_nan FROM {} ORDER BY step"
        for id_, key, *point in connection.execute(points.format("metrics")):
            runs[id_].points.setdefault(key, []).append(tuple(point))
        for id_, key, *point in connection.execute(points.format("latest_metrics")):
            runs[id_].latest.setdefault(key, []).append(tuple(point))
        inputs = (
            "SELECT destination_id, digest FROM inputs JOIN datasets ON dataset_uuid = source_id "
            "JOIN input_tags USING (input_uuid) WHERE input_tags.name = 'mlflow.data.context'"
        )
        for id_, digest in connection.execute(inputs):
            runs[id_].data.append(digest)
    return list(runs.values())


def networks_of(runs: Sequence[Run], total: int, epochs: Sequence[int]) -> dict[str, Network]:
    """The trained networks by key: so many, each FINISHED once and whole, and no other run RUNNING."""
    running = [run.id for run in runs if run.status == "RUNNING"]
    expect(not running, f"RUNNING: {running[:3]}")
    children = [run for run in runs if run.key is not None]
    odd = [(run.id, run.status) for run in children if run.status != "FINISHED"]
    expect(not odd, f"{len(odd)} runs have not finished: {odd[:3]}")
    networks = {str(run.key): network_of(run, epochs) for run in children}
    expect(len(children) == len(networks), f"{len(children)} runs FINISHED for {len(networks)} keys")
    expect(len(networks) == total, f"{len(networks)} keys of {total} FINISHED")
    names = {tuple(sorted(network.params)) for network in networks.values()}
    expect(len(names) == 1 and names != {()}, f"{len(names)} sets of params")
    return networks


def network_of(run: Run, epochs: Sequence[int]) -> Network:
    """A FINISHED run, which must have its params, all its points, its data set and its files."""
    curves = {"loss", "accuracy", "grad_norm"}
    steps = {metric: [step for step, _, _ in points] for metric, points in run.points.items()}
    expected = {metric: list(epochs) for metric in curves}
    expected |= {f"prediction/{name}": [epochs[-1]] for name in ("Emily", "Frank")}
    expect(steps == expected, f"run {run.id}: points at {steps}")
    last = {metric: points[-1:] for metric, points in run.points.items()}
    expect(run.latest == last, f"run {run.id}: latest metrics are {run.latest}, points end at {last}")
    expect(run.data == [run.tags["nnexp.data_sha256"][:12]], f"run {run.id}: data sets {run.data}")
    weights = (run.files / "weights.npz").read_bytes()
    digest = weights_hash(weights)
    told = run.tags.get("nnexp.weights_sha256")
    expect(digest == told, f"run {run.id}: weights hash to {digest}, tag says {told}")
    config = (run.files / "config.yaml").read_bytes()
    return Network(run.params, run.points, run.tags["nnexp.outcome"], config, weights)


@cache
def weights_hash(file: bytes) -> str:
    """SHA-256 over W1, b1, W2, b2, … of an .npz file as little-endian doubles in row order."""
    digest = hashlib.sha256()
    with np.load(io.BytesIO(file), allow_pickle=False) as arrays:
        for i in takewhile(lambda i: f"W{i}" in arrays, count(1)):
            for name in (f"W{i}", f"b{i}"):
                digest.update(np.ascontiguousarray(arrays[name], dtype="<f8").tobytes())
    return digest.hexdigest()


def check_same(networks: Mapping[str, Network], others: Mapping[str, Network]) -> None:
    """Params, points, outcome, config.yaml and weights.npz are those of the same keys elsewhere."""
    different = [key for key, network in networks.items() if network != others.get(key)]
    expect(not different, f"{len(different)} runs differ from undisturbed ones: {different[:3]}")


def check_parents(runs: Sequence[Run]) -> list[Run]:
    """The sweeps that FINISHED, oldest first: each FINISHED run is one's."""
    parents = [run for run in runs if "nnexp.sweep" in run.tags and run.status == "FINISHED"]
    ids = {parent.id for parent in parents}
    for run in runs:
        if run.key is not None:
            links = {run.tags.get("mlflow.parentRunId"), run.tags.get("nnexp.sweep_id")}
            expect(len(links) == 1 and links <= ids, f"run {run.id} is of {links}, no sweep that FINISHED")
    expect(bool(parents), "no sweep FINISHED")
    return parents


def check_repaired(trial: Trial) -> None:
    """Type the same command again: all is as if nothing had happened. A third time changes not a byte."""
    place, undisturbed = trial.place, trial.undisturbed
    table = table_of(typed(place, "again", SWEEP), RUNS)
    runs = read_runs(place)
    check_same(networks_of(runs, RUNS, EPOCHS), undisturbed.networks)
    last = check_parents(runs)[-1]
    expect(table == undisturbed.table, "the summary that is printed differs from an undisturbed sweep's")
    summary = (last.files / "summary.csv").read_bytes()
    expect(summary == undisturbed.summary, "summary.csv differs from an undisturbed sweep's")
    before = (place / "mlflow.db").read_bytes(), sorted(place.glob("mlartifacts/*/*"))
    table = table_of(typed(place, "third", SWEEP), RUNS)
    expect(table == undisturbed.table, "the third time, another summary is printed")
    after = (place / "mlflow.db").read_bytes(), sorted(place.glob("mlartifacts/*/*"))
    expect(before == after, "the third time, the store was written to")


def killed(trial: Trial) -> str:
    """SIGKILL leaves a store that the same command completes."""
    return _killed(trial, start(trial.place, "first", SWEEP))


def killed_recording(trial: Trial) -> str:
    """So does SIGKILL between artifacts and rows, and in the middle of them; here the clock starts there."""
    running = start(trial.place, "first", SWEEP)
    end = time.monotonic() + HANGS_SECONDS
    while not any(trial.place.glob("mlartifacts/*/*")) and running.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    return _killed(trial, running)


def _killed(trial: Trial, running: subprocess.Popen[bytes]) -> str:
    status = struck(running, signal.SIGKILL, trial.seconds)
    expect(status in (0, -signal.SIGKILL), f"first: exit status {status}")
    left = left_behind(trial.place)
    check_repaired(trial)
    return left if status else f"{TOO_LATE}, {left}"


def terminated(trial: Trial) -> str:
    """After SIGTERM the exit status says so, and the same command completes the sweep."""
    return _interrupted(trial, signal.SIGTERM)


def interrupted(trial: Trial) -> str:
    """After Ctrl-C the exit status says so, and the same command completes the sweep."""
    return _interrupted(trial, signal.SIGINT)


def _interrupted(trial: Trial, number: signal.Signals) -> str:
    """128 + the signal, no traceback, and nothing RUNNING. But a signal can come too early or too late.

    Before nnexp's first line and after its last, Python itself dies of it (-number, which a shell shows as
    128 + number too): then nothing is recorded yet, or all is, and printed. Once the sweep has ended, it may
    as well be the success that it is: 0.
    """
    running = start(trial.place, "first", SWEEP)
    status = struck(running, number, trial.seconds)
    left = left_behind(trial.place)
    said = (trial.place / "first.err").read_text()
    if status == 128 + number:
        expect("Traceback" not in said, "a traceback was printed")
        expect("RUNNING" not in left, f"it left {left}")
    elif not (status == -number and left == "no store"):
        allowed = (0, -number)
        expect(status in allowed, f"exit status {status}: {last_line(trial.place / 'first.err')}")
        expect(left == f"{RUNS} runs, sweep FINISHED", f"exit status {status}, and it left {left}")
        printed = table_of((trial.place / "first.out").read_text(), RUNS)
        expect(printed == trial.undisturbed.table, f"exit status {status}, and another summary is printed")
    check_repaired(trial)
    return f"exit status {status}, {left}" if status else f"{TOO_LATE}, {left}"


def sixteen(trial: Trial) -> str:
    """Processes that start at once where there is no store make one, and each records its run."""
    names = [f"seed {i}" for i in range(PROCESSES)]
    running = [start(trial.place, name, [*ONE, f"seed={i}"]) for i, name in enumerate(names)]
    failed = [
        f"{name}: exit status {status}: {last_line(trial.place / f'{name}.err')}"
        for name, status in zip(names, map(ended, running), strict=True)
        if status
    ]
    expect(not failed, f"{len(failed)} of {PROCESSES} failed: {failed}")
    runs = read_runs(trial.place)
    networks_of(runs, PROCESSES, ONE_EPOCHS)
    return f"{len(runs)} runs"


def twice(trial: Trial) -> str:
    """A sweep that two processes train at once is recorded once, and both say the same of it."""
    running = {name: start(trial.place, name, PART) for name in ("one", "other")}
    for name, process in running.items():
        status = ended(process)
        expect(status == 0, f"{name}: exit status {status}: {last_line(trial.place / f'{name}.err')}")
    runs = read_runs(trial.place)
    check_same(networks_of(runs, PART_RUNS, EPOCHS), trial.undisturbed.networks)
    summaries = {(parent.files / "summary.csv").read_bytes() for parent in check_parents(runs)}
    expect(len(summaries) == 1, "the sweeps' summary.csv differ")
    tables = {table_of((trial.place / f"{name}.out").read_text(), PART_RUNS) for name in running}
    expect(len(tables) == 1, "the summaries that are printed differ")
    return f"{PART_RUNS} runs"


def leave_alone(base: Path) -> Undisturbed:
    """As many sweeps at once as there will be trials, which must agree; the mean of their seconds."""
    places = [base / f"undisturbed {i}" for i in range(AT_ONCE)]

    def run(place: Path) -> Undisturbed:
        place.mkdir()
        began = time.monotonic()
        printed = typed(place, "sweep", SWEEP)
        seconds = time.monotonic() - began
        runs = read_runs(place)
        (parent,) = check_parents(runs)
        networks, summary = networks_of(runs, RUNS, EPOCHS), (parent.files / "summary.csv").read_bytes()
        return Undisturbed(seconds, parent.seconds or 0.0, table_of(printed, RUNS), summary, networks)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        sweeps = list(pool.map(run, places))
    first = sweeps[0]
    for sweep in sweeps[1:]:
        check_same(sweep.networks, first.networks)
        same = (sweep.table, sweep.summary) == (first.table, first.summary)
        expect(same, "two undisturbed sweeps have different summaries")
    for place in places:
        shutil.rmtree(place)
    return replace(
        first,
        seconds=fmean(sweep.seconds for sweep in sweeps),
        recording_seconds=fmean(sweep.recording_seconds for sweep in sweeps),
    )


@dataclass(frozen=True)
class Fault:
    """A row of the table: what happens, one trial of it, how many trials, how many of them at once, and in
    how many seconds it happens at some instant.

    The trial returns what it left, in a few words, and raises where that, or what came of it, is not as
    expected.
    """

    name: str
    trial: Callable[[Trial], str]
    trials: int
    at_once: int = AT_ONCE
    seconds: float = 0.0


def tried(fault: Fault, base: Path, seed: int, undisturbed: Undisturbed) -> tuple[int, int]:
    """Do the fault's trials, print a line for each; how many went as expected, how many came too late."""

    def run(i: int) -> tuple[bool, bool, str]:
        own_seed = f"{seed} {fault.trial.__name__} {i}"
        instant = random.Random(own_seed).random()
        place = base / own_seed.replace(" ", "-")
        place.mkdir()
        at = f", at {instant:.3f} of {fault.seconds:.1f} s" if fault.seconds else ""
        try:
            left = fault.trial(Trial(place, instant * fault.seconds, undisturbed))
        except Exception as error:
            reason = str(error) if isinstance(error, Unexpected) else f"{type(error).__name__}: {error}"
            return False, False, f"{own_seed}{at}: NOT AS EXPECTED: {reason}; kept in {place}"
        shutil.rmtree(place)
        return True, left.startswith(TOO_LATE), f"{own_seed}{at}: {left}"

    went_well = came_late = 0
    with ThreadPoolExecutor(fault.at_once) as pool:
        for is_well, is_late, line in pool.map(run, range(fault.trials)):
            print(line, flush=True)
            went_well += is_well
            came_late += is_late
    return went_well, came_late


def faults(n: int, whole: float, recording: float) -> list[Fault]:
    """What is tried: `n` kills, and fewer of what takes longer or shows less. A sweep takes `whole` seconds,
    the last of them for its `recording`."""
    return [
        Fault("SIGKILL during a sweep", killed, n, seconds=whole),
        Fault("SIGKILL while a sweep is recorded", killed_recording, max(1, n // 10), seconds=recording),
        Fault("SIGTERM during a sweep", terminated, max(1, n // 5), seconds=whole),
        Fault("Ctrl-C during a sweep", interrupted, max(1, n // 5), seconds=whole),
        Fault(f"{PROCESSES} processes at once where there is no store", sixteen, max(1, n // 50), 1),
        Fault("one sweep by two processes at once", twice, max(1, n // 50), 1),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill nnexp at random instants and look at what it left.")
    parser.add_argument("--trials", type=int, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="nnexp-faults-"))
    warm = base / "warm"
    warm.mkdir()
    typed(warm, "sweep", ["train", "-m", "seed=1,2", "epochs=20"])  # compiles the engine
    whole = leave_alone(base)
    print(
        f"a sweep of {RUNS} runs, {AT_ONCE} such at once, undisturbed: {whole.seconds:.1f} s, "
        f"{whole.recording_seconds:.1f} s of them recording",
        flush=True,
    )
    rows, all_well = ["| fault | n/N as expected |", "|---|---|"], True
    for fault in faults(asked.trials, whole.seconds, whole.recording_seconds):
        went_well, came_late = tried(fault, base, asked.seed, whole)
        late = f" ({came_late} came {TOO_LATE})" if came_late else ""
        rows.append(f"| {fault.name}{late} | {went_well}/{fault.trials} |")
        all_well = all_well and went_well == fault.trials
    print("\n" + "\n".join(rows))
    if all_well:
        shutil.rmtree(base)
    sys.exit(0 if all_well else 1)


if __name__ == "__main__":
    main()
