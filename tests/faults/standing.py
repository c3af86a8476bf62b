"""Read the content of a store with sqlite3, NumPy and hashes, without nnexp's own readers."""

from __future__ import annotations

import hashlib
import io
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from tests.faults.program import expect

# The sweep that is disturbed, the number of its runs, and the epochs at which each has a point.
RATES, LENGTH = "0.05,0.1,0.2,0.5,1", ("epochs=200", "log_every=20")
SWEEP = ("train", "-m", f"learning_rate={RATES}", "seed=range(400)", *LENGTH)
RUNS, EPOCHS = 2000, range(0, 201, 20)
# A part of it, without figures, and a small sweep that is also recorded over HTTP.
PART, PART_RUNS = ("train", "-m", f"learning_rate={RATES}", "seed=range(60)", *LENGTH, "figures=false"), 300
FEW, FEW_RUNS = ("train", "-m", "learning_rate=0.1", "seed=range(16)", *LENGTH, "figures=false"), 16
# One very short run, and the epochs at which it has a point.
ONE, ONE_EPOCHS = ("train", "epochs=5", "figures=false", "model=false"), (0, 5)

Points = dict[str, list[tuple[int, float, int]]]


@dataclass(frozen=True)
class Run:
    """A run as it is in the tables. Points are (epoch, value, is NaN), by metric."""

    id: str
    status: str
    seconds: float | None  # None while it is running
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
    """The content of a finished run, which must have the same bits however often its sweep was disturbed."""

    params: dict[str, str]
    points: Points
    outcome: str
    config: bytes
    weights: bytes


@dataclass(frozen=True)
class Undisturbed:
    """An undisturbed sweep: how long it took, what it printed and recorded."""

    seconds: float
    recording_seconds: float  # the part of them from the start of its parent run on
    seconds_from_nothing: float  # the same without an existing store
    table: str
    summary: bytes
    networks: dict[str, Network]


def table_of(printed: str, runs: int) -> str:
    """Return a sweep's summary as it is printed, without the sweep's id."""
    table, found, _ = printed.partition(f"\n{runs} runs, recorded as sweep ")
    expect(bool(found), "no summary was printed")
    return table


def left_behind(place: Path) -> str:
    """Describe what a fault left in the store; read a copy, since reading rolls back half-written rows."""
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
    on_disk = len([path for path in place.glob("mlartifacts/*/*/*") if path.name[0] != "."])
    more = on_disk - runs - len(parents)
    words = [f"{runs} runs", f"{more} more on disk"] if more else [f"{runs} runs"]
    words += [f"sweep {status}" for (status,) in parents] or ["no sweep"]
    return ", ".join([*words, *["half a write"] * half_written])


def read_runs(place: Path, experiment: str = "nnexp") -> list[Run]:
    """Read an experiment's runs, oldest first, without deleted ones, after checking that the database is
    sound: its pages, its keys, and that no row belongs to nothing."""
    with closing(sqlite3.connect(place / "mlflow.db", timeout=60)) as connection:
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
            "SELECT run_uuid, status, (runs.end_time - runs.start_time) / 1000.0, artifact_uri FROM runs "
            "JOIN experiments USING (experiment_id) WHERE experiments.name = ? "
            "AND runs.lifecycle_stage = 'active' ORDER BY runs.start_time, run_uuid"
        )
        runs = {
            id_: Run(id_, status, seconds, files_of(place, uri), {}, {}, {}, {}, [])
            for id_, status, seconds, uri in connection.execute(heads, [experiment])
        }
        ours = [row for row in connection.execute("SELECT run_uuid, key, value FROM tags") if row[0] in runs]
        for id_, key, value in ours:
            runs[id_].tags[key] = value
        ours = [
            row for row in connection.execute("SELECT run_uuid, key, value FROM params") if row[0] in runs
        ]
        for id_, key, value in ours:
            runs[id_].params[key] = value
        points = "SELECT run_uuid, key, step, value, is_nan FROM {} ORDER BY step"
        for table in ("metrics", "latest_metrics"):
            for id_, key, *point in connection.execute(points.format(table)):
                if id_ in runs:
                    kept = runs[id_].points if table == "metrics" else runs[id_].latest
                    kept.setdefault(key, []).append(tuple(point))
        inputs = (
            "SELECT destination_id, digest FROM inputs JOIN datasets ON dataset_uuid = source_id "
            "JOIN input_tags USING (input_uuid) WHERE input_tags.name = 'mlflow.data.context'"
        )
        for id_, digest in connection.execute(inputs):
            if id_ in runs:
                runs[id_].data.append(digest)
    return list(runs.values())


def files_of(place: Path, uri: str) -> Path:
    """Return where a run's artifacts are: beside the database, or where a server of the place keeps them."""
    address = urlsplit(uri)
    path = unquote(address.path)
    return place / "served" / path.lstrip("/") if address.scheme == "mlflow-artifacts" else Path(path)


def networks_of(runs: Sequence[Run], total: int, epochs: Sequence[int]) -> dict[str, Network]:
    """Return the trained networks by key, after checking their number, that each is FINISHED once and
    complete, and that no other run is RUNNING."""
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
    """Read a FINISHED run, after checking that it has its params, all points, its data set and its files."""
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
    # Where it was recorded is not part of the network, and differs between the experiments of a server.
    lines = (run.files / "config.yaml").read_bytes().splitlines()
    config = b"\n".join(line for line in lines if not line.startswith(b"experiment_name: "))
    return Network(run.params, run.points, run.tags["nnexp.outcome"], config, weights)


@cache
def weights_hash(file: bytes) -> str:
    """Return the SHA-256 over W1, b1, W2, b2, … of an .npz file as little-endian doubles in row order."""
    digest = hashlib.sha256()
    with np.load(io.BytesIO(file), allow_pickle=False) as arrays:
        for i in takewhile(lambda i: f"W{i}" in arrays, count(1)):
            for name in (f"W{i}", f"b{i}"):
                digest.update(np.ascontiguousarray(arrays[name], dtype="<f8").tobytes())
    return digest.hexdigest()


def check_same(networks: Mapping[str, Network], others: Mapping[str, Network]) -> None:
    """Check that params, points, outcome, config.yaml and weights.npz equal those of the other networks."""
    different = [key for key, network in networks.items() if network != others.get(key)]
    expect(not different, f"{len(different)} runs differ from undisturbed ones: {different[:3]}")


def check_parents(runs: Sequence[Run]) -> list[Run]:
    """Return the FINISHED sweeps, oldest first, after checking that each FINISHED run belongs to one."""
    parents = [run for run in runs if "nnexp.sweep" in run.tags and run.status == "FINISHED"]
    ids = {parent.id for parent in parents}
    for run in runs:
        if run.key is not None:
            links = {run.tags.get("mlflow.parentRunId"), run.tags.get("nnexp.sweep_id")}
            expect(len(links) == 1 and links <= ids, f"run {run.id} is of {links}, no sweep that FINISHED")
    expect(bool(parents), "no sweep FINISHED")
    return parents
