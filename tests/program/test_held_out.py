"""Runs with held-out rows and patience, through everything that reads a record: of one network, the best."""

import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
from numpy.random import RandomState

import nnexp as package
from nnexp.analysis import plots
from nnexp.pipeline import artifacts
from nnexp.pipeline import run as runner
from nnexp.pipeline.diagnose import config_and_data

pytestmark = pytest.mark.slow

# Networks that soon learn their few training rows too well, so that val_loss rises.
KEYS = {
    "dataset.path": "noisy.csv",
    "dataset.target": "y",
    "hidden": [6],
    "activation": "tanh",
    "output_activation": "identity",
    "learning_rate": 0.05,
    "epochs": 100,
    "log_every": 5,
    "patience": 10,
    "validation_fraction": 0.3,
    "test_fraction": 0.2,
    "split_seed": 0,
    "weights_every": 5,
    "figures": False,
    "model": False,
}


def typed(**changes):
    def text(value):
        return {"True": "true", "False": "false"}.get(str(value), str(value))

    return ["dataset=csv", *(f"{key}={text(value)}" for key, value in {**KEYS, **changes}.items())]


@pytest.fixture
def table(store, tmp_path):
    """The table of KEYS, beside the store."""
    rng = RandomState(0)
    rows = [f"r{i},{a},{b},{int(a + b + 2 * e > 0)}" for i, (a, b, e) in enumerate(rng.normal(size=(40, 3)))]
    (tmp_path / "noisy.csv").write_text("\n".join(["name,a,b,y", *rows]) + "\n")
    return pd.read_csv(tmp_path / "noisy.csv")


@pytest.fixture
def run(table):
    return package.train(dataset="csv", **KEYS)


def points(tmp_path, run_id, metric):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        query = "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step"
        return connection.execute(query, (run_id, metric)).fetchall()


def test_weights_predictions_and_last_metrics_are_of_the_best_epoch(run, table, nnexp, tmp_path):
    best, trained = int(run.metrics["best_epoch"]), int(run.metrics["trained_epochs"])
    assert 0 < best < trained == best + 10 < 100
    val_loss = run.history.query("metric == 'val_loss'").set_index("epoch")["value"]
    assert val_loss.idxmin() == val_loss.index[-1] == run.epochs == best

    file = next(tmp_path.glob("mlartifacts/**/predictions.csv"))
    answers = pd.read_csv(file)
    assert answers["part"].value_counts().to_dict() == {"train": 20, "validation": 12, "test": 8}
    error = (answers["y_pred"] - answers["y"]) ** 2
    for part, metric in (("train", "loss"), ("validation", "val_loss"), ("test", "test_loss")):
        assert run.metrics[metric] == pytest.approx(error[answers["part"] == part].mean(), abs=1e-12)
    right = (answers["y_pred"] >= 0.5) == answers["y"]
    assert run.metrics["test_accuracy"] == right[answers["part"] == "test"].mean()
    np.testing.assert_allclose(run.network.outputs(table[["a", "b"]].to_numpy())[:, 0], answers["y_pred"])

    for metric in ("test_loss", "test_accuracy", "best_epoch", "trained_epochs"):
        assert [step for step, _ in points(tmp_path, run.run_id, metric)] == [best]
    shown = nnexp("show", run.run_id).out
    for text in (
        f"best_epoch                 {best}",
        "test_loss",
        "test_accuracy",
        "split_seed",
        "patience",
    ):
        assert text in shown


def test_the_command_says_how_many_epochs_it_trained_and_what_the_other_rows_say(run, nnexp):
    ended = nnexp("train", *typed())
    loss = f"-> {run.loss:.4g} in {run.epochs} epochs, the best of {run.epochs + 10}, "
    assert loss in ended.out
    for rows in ("val", "test"):
        values = f"{run.metrics[f'{rows}_loss']:.4g}, {rows}_accuracy {run.metrics[f'{rows}_accuracy']:.3g}"
        assert f"{rows}_loss {values}" in ended.out
    assert "is already recorded" in ended.err


def test_it_reruns_identical_from_the_store_and_from_a_bundle_elsewhere(run, nnexp, tmp_path, monkeypatch):
    assert "verdict: identical" in nnexp("rerun", run.run_id).out
    assert nnexp("bundle", run.run_id, "--out", "run.zip").status == 0
    (tmp_path / "noisy.csv").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert "identical" in nnexp("rerun", "--bundle", "run.zip").out
    assert nnexp("import", "run.zip").status == 0
    assert package.load_runs()["best_epoch"].tolist() == [run.epochs]
    assert "verdict: identical" in nnexp("rerun", run.run_id).out


@pytest.mark.parametrize("metric", ["best_epoch", "test_loss"])
def test_a_rerun_tells_an_edited_value_that_is_recorded_once(run, nnexp, tmp_path, metric):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE metrics SET value = value + 1 WHERE key = ?", (metric,))
    ended = nnexp("rerun", run.run_id)
    assert ended.status == 1
    assert f"{metric} at epoch {run.epochs} is " in ended.out


def test_a_rerun_with_other_patience_is_a_variation(run, nnexp):
    ended = nnexp("rerun", run.run_id, "patience=0", "optimizer=adamw")
    assert ended.status == 0
    runs = package.load_runs()
    assert sorted(runs["patience"]) == [0, 10]
    assert runs.set_index("patience")["best_epoch"].isna().tolist() == [False, True]


def test_a_sweep_over_folds_records_the_runs_that_it_would_record_alone(table, nnexp):
    changes = {"validation_fraction": 0, "folds": 4}
    sweep = package.sweep(dataset="csv", fold=range(4), **{**KEYS, **changes})
    assert len(sweep) == 4
    assert "4 of 4 runs are identical" in nnexp("rerun", "--sweep", sweep.sweep_id).out
    alone = package.train(dataset="csv", fold=2, force=True, **{**KEYS, **changes})
    as_one = sweep.runs.set_index("fold").loc[2]
    for metric, value in alone.metrics.items():
        assert as_one[metric] == value
    ended = nnexp("summarize", "--by", "learning_rate", "--over", "fold", "--metric", "val_loss")
    assert ended.out.splitlines()[0].split()[-1] == "val_solved"
    page = sweep.report("report.html").read_text()
    assert "test_loss" in page
    assert "test_accuracy" in page


def test_a_sweep_on_worker_processes_records_the_same(table, run):
    sweep = package.sweep(dataset="csv", executor="processes", seed=[0, 1], force=True, **KEYS)
    first, again = (of_seed for _, of_seed in sweep.runs.query("seed == 0").iterrows())
    assert first["run_id"] == run.run_id
    assert first["weights_sha256"] == again["weights_sha256"]
    assert {metric: again[metric] for metric in run.metrics} == run.metrics


def test_a_run_that_is_seen_while_it_trains_has_no_point_after_its_best(table, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "LIVE_SECONDS", 0.0)
    monkeypatch.setattr("nnexp.training.shard.CHUNK_STEPS", 1)
    monkeypatch.setattr("nnexp.training.shard.CHUNK_SECONDS", 1e-9)
    run = package.train(dataset="csv", **KEYS)
    assert [step for step, _ in points(tmp_path, run.run_id, "val_loss")] == [*range(0, run.epochs + 1, 5)]
    assert run.metrics["trained_epochs"] == run.epochs + 10


def test_figures_do_not_show_test_rows(run, table, monkeypatch):
    seen = []
    drawn = plots.of_run
    monkeypatch.setattr(
        plots, "of_run", lambda model, dataset, *more: seen.append(dataset) or drawn(model, dataset, *more)
    )
    run.figure("decision_surface")
    package.train(dataset="csv", **{**KEYS, "figures": True, "seed": 1})
    answers = artifacts.predictions(run.network, *config_and_data(run.store, run.run_id))
    shown = [name for name, part in zip(answers["name"], answers["part"], strict=True) if part != "test"]
    assert [list(dataset.names) for dataset in seen] == [shown] * 2
    assert all(len(dataset.X) == len(dataset.y) == 32 for dataset in seen)


def test_a_served_model_is_the_best_network(table):
    from nnexp.tracking.store import open_store

    run = package.train(dataset="csv", **{**KEYS, "model": True})
    import mlflow

    (model,) = open_store(None).client.search_logged_models(["1"])
    answers = mlflow.pyfunc.load_model(f"models:/{model.model_id}").predict(table[["a", "b"]])
    assert answers["y_pred"].tolist() == run.network.outputs(table[["a", "b"]].to_numpy())[:, 0].tolist()
    assert {metric.key: metric.value for metric in model.metrics} == run.metrics
