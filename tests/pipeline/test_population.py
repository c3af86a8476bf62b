"""Populations: each member is, to the bit, the run that the same point is as a run of its own."""

import math
import sqlite3
from contextlib import closing

import pytest

import nnexp as nn
from nnexp.tracking import members
from nnexp.tracking.find import get_sweep
from nnexp.tracking.store import open_store

QUICK = ["dataset=xor", "epochs=30", "log_every=10"]


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


def files(tmp_path):
    return sorted(tmp_path.rglob("part-*.parquet"))


def by_key(typed):
    """Record the sweep as runs and as a population; return the runs and the members by their run keys."""
    runs = nn.sweep(**typed, experiment_name="runs", figures=False).runs
    population = nn.sweep(**typed, experiment_name="table", record="table", curves=True, weights="all")
    rows = rows_of(population.sweep_id)
    history = nn.load_history(runs, ["loss", "accuracy", "grad_norm", "val_loss", "val_accuracy"])
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
    for name in ("loss", "accuracy", "grad_norm", "val_loss", "val_accuracy"):
        curve = [] if history is None else history[history["metric"] == name]["value"].tolist()
        ours = [v for v in row.get(f"curves.{name}") or [] if math.isfinite(v)]
        assert ours == curve, name


def flatten(network):
    return [*(w for W, _ in network.layers for w in W.ravel()), *(v for _, b in network.layers for v in b)]


SPACES = {
    "rates and seeds": {"dataset": "gender", "learning_rate": [0.1, 0.5], "seed": range(5), "epochs": 30},
    "optimizers, one without the swept key": {
        "dataset": "xor", "epochs": 30, "optimizer": ["sgd", "adam", "momentum"], "seed": [3, 1],
        "optimizer.beta1": [0.5, 0.9],
    },
    "patience, splits and shuffling": {
        "dataset": "gender", "validation_fraction": 0.3, "test_fraction": 0.25, "patience": [0, 5, 20],
        "log_every": 5, "epochs": [7, 40, 60], "seed": range(4), "shuffle": [True, False],
        "learning_rate": [0.1, 20],
    },
    "folds": {
        "dataset": "gender", "folds": 3, "fold": [0, 1, 2], "split_seed": [4, 5], "seed": [0, 1],
        "epochs": 20,
    },
    "rates that diverge": {
        "dataset": "line", "learning_rate": [0.001, 1, 100], "hidden": [], "activation": "identity",
        "output_activation": "identity", "epochs": [25, 100, 400], "seed": range(3), "log_every": 10,
    },
    "initialisations and their options": {
        "dataset": "gender", "init": ["normal", "zeros", "xavier"], "init.scale": [0.5, 2],
        "seed": [0, 7], "epochs": 12, "log_every": 5,
    },
    "networks and losses": {
        "dataset": ["xor", "alice"], "hidden": [[2], [], [3, 2]], "loss": ["mse", "bce"], "seed": [0, 1],
        "batch_size": [1, "full"], "epochs": 10, "optimizer.weight_decay": [0, 0.01],
    },
    "kept weights": {"dataset": "xor", "weights_every": 10, "epochs": [20, 25], "seed": [0, 1]},
    "values side by side": {
        "dataset": "xor", "zip": ["learning_rate", "epochs"], "learning_rate": [0.1, 0.2], "epochs": [20, 30],
        "seed": [0, 1], "exclude": "seed == 1 and learning_rate > 0.1",
    },
}  # fmt: skip


@pytest.mark.parametrize("typed", SPACES.values(), ids=SPACES)
def test_a_member_is_to_the_bit_the_run_of_the_same_point(store, typed):
    runs, rows = by_key(typed)
    assert runs.keys() == rows.keys()
    for key, (run, history) in runs.items():
        check_same(run, history, rows[key])
        network = nn.load_network(run["run_id"])
        assert rows[key]["weights.final"] == flatten(network.network)
        assert rows[key]["weights.initial"] == flatten(network.initial)
