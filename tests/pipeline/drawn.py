"""Compare the networks of a sweep recorded as runs with the same recorded as a population, bit for bit.

Spaces of points are drawn over every key; used by test_population.py and the fault matrix.
"""

from __future__ import annotations

import math
import random
import sqlite3
from contextlib import closing
from typing import Any

import numpy as np

import nnexp as nn
from nnexp.network.reference import flatten
from nnexp.tracking import members
from nnexp.tracking.find import get_sweep
from nnexp.tracking.store import open_store

CURVES = ("loss", "accuracy", "grad_norm", "val_loss", "val_accuracy")


def sweep_ids():
    """Return the ids of all recorded sweeps, oldest first."""
    with closing(sqlite3.connect("mlflow.db")) as connection:
        query = "SELECT run_uuid FROM tags WHERE key = 'nnexp.sweep' ORDER BY run_uuid"
        return [row[0] for row in connection.execute(query)]


def rows_of(sweep_id):
    """Return the rows of a population, as dicts, in the order of their numbers."""
    store = open_store(create=False)
    parent = get_sweep(store, sweep_id)
    return [row for _, table in members.read_members(store, parent) for row in table.to_pylist()]


def by_key(typed):
    """Record the sweep as runs and as a population; return the runs and the members by their run keys."""
    runs = nn.sweep(**typed, experiment_name="runs", figures=False).runs
    table = {"record": "table", "curves": True, "weights": "all", "figures": False}
    population = nn.sweep(**typed, **table, experiment_name="table")
    rows = rows_of(population.sweep_id)
    history = nn.load_history(runs, CURVES)
    of_run = dict(list(history.groupby("run_id")))
    return (
        {run["run_key"]: (run, of_run.get(run["run_id"])) for run in runs.to_dict("records")},
        {row["run_key"].hex(): row for row in rows},
    )


def check_same(run, history, row):
    """Check that a member has all that the run has, and nothing else."""
    assert row["status"] == run["status"]
    assert row["outcome"] == run["outcome"]
    assert row["weights_sha256"].hex() == run["weights_sha256"]
    metrics = {k.removeprefix("metrics."): v for k, v in row.items() if k.startswith("metrics.")}
    theirs = {k: run.get(k, math.nan) for k in metrics}
    assert {k: v for k, v in metrics.items() if v is not None} == {
        k: v for k, v in theirs.items() if not math.isnan(v)
    }
    others = {k for k in run if k.startswith(("val_", "test_", "prediction/")) or k in ("loss", "accuracy")}
    assert not {k for k in others - metrics.keys() - {"test_fraction"} if not math.isnan(run[k])}
    for name in CURVES:
        curve = [] if history is None else history[history["metric"] == name]["value"].tolist()
        ours = [v for v in row.get(f"curves.{name}") or [] if math.isfinite(v)]
        assert ours == curve, name


def same_bits(ours, theirs):
    """Return whether these numbers are the same; a nan, of a network that diverged, is one."""
    return np.array(ours).tobytes() == np.array(theirs).tobytes()


def check_space(typed):
    """Check a whole space of points; return how many there are."""
    runs, rows = by_key(typed)
    assert runs.keys() == rows.keys()
    for key, (run, history) in runs.items():
        check_same(run, history, rows[key])
        if run["status"] == "FINISHED":
            network = nn.load_network(run["run_id"])
            for name, theirs in (("final", network.network), ("initial", network.initial)):
                assert same_bits(rows[key][f"weights.{name}"], flatten(theirs.layers))
    return len(rows)


def drawn_space(rng: random.Random, table: str) -> dict[str, Any]:
    """Draw a small grid over every key that can change a result; `table` is a CSV file with three classes."""
    kind = rng.choice(["gender", "xor", "alice", "line", "flowers"])
    typed: dict[str, Any] = {"dataset": kind}
    if kind == "flowers":
        typed = {
            "dataset": "csv",
            "dataset.path": table,
            "target": "species",
            "center": rng.choice(["mean", "standardize", "none"]),
        }
    outputs = {"line": ["identity"], "flowers": ["sigmoid", "softmax"]}.get(
        kind, ["sigmoid", "tanh", "softmax"]
    )
    output = typed["output_activation"] = rng.choice(outputs)
    losses = {"sigmoid": ["mse", "bce"], "softmax": ["mse", "cross_entropy"]}
    typed["loss"] = rng.sample(losses.get(output, ["mse"]), 1 + (output in losses and rng.random() < 0.3))
    optimizer = rng.choice(["sgd", "momentum", "adam", "adamw"])
    typed["optimizer"] = optimizer
    if rng.random() < 0.3:
        typed["optimizer"] = ["sgd", optimizer]
    if optimizer == "momentum":
        typed["optimizer.momentum"] = [0.5, rng.random()]
    if optimizer.startswith("adam"):
        typed[f"optimizer.{rng.choice(['beta1', 'beta2', 'epsilon'])}"] = [0.5, rng.random() * 0.9 + 1e-6]
    if rng.random() < 0.4:
        typed["optimizer.weight_decay"] = [0, rng.random() / 10]
    typed["init"] = rng.sample(["normal", "uniform", "ones", "zeros", "xavier", "he"], rng.choice([1, 1, 2]))
    if set(typed["init"]) & {"normal", "uniform", "xavier", "he"}:
        typed["init.scale"] = [rng.random() + 0.1 for _ in range(rng.choice([1, 2]))]
    if rng.random() < 0.2:
        typed["init"] = ["constant", "normal"]
        typed["init.ulps"] = [0, 2 ** rng.randrange(52)]
    typed["hidden"] = rng.sample([[], [1], [2], [3, 2], [5]], rng.choice([1, 2]))
    typed["activation"] = rng.choice(["sigmoid", "tanh", "relu", "identity"])
    typed["learning_rate"] = [10 ** rng.uniform(-3, 2) for _ in range(rng.choice([1, 2]))]
    typed["epochs"] = rng.sample(range(1, 60), rng.choice([1, 2, 3]))
    typed["log_every"] = rng.choice([1, 5, 7, 10])
    typed["weights_every"] = rng.choice([0, 0, 4])
    typed["seed"] = rng.sample(range(2**32), 2)
    typed["batch_size"] = rng.choice([1, "full"] if kind == "alice" else [1, 2, "full", [1, 2]])
    typed["shuffle"] = rng.choice([False, True])
    if kind not in ("alice", "xor"):  # which have too few rows to hold any out
        split = rng.choice(["none", "fraction", "folds"])
        if split == "fraction":
            typed["validation_fraction"] = rng.choice([0.2, 0.3])
        if split == "folds":
            typed |= {"folds": 2, "fold": [0, 1]}
        if split != "none" and rng.random() < 0.6:
            typed["patience"] = [0, rng.randrange(1, 40)]
        if rng.random() < 0.4 and (kind, split) != ("gender", "folds"):  # whose folds may have but one row
            typed["test_fraction"] = 0.25
        if rng.random() < 0.4:
            typed["split_seed"] = rng.sample(range(100), rng.choice([1, 2]))
    return typed
