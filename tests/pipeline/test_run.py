"""The records of a run and a sweep in MLflow, read back with MLflow's own client."""

import io
import json
import logging
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

import nnexp
from nnexp.config.recorded import SCHEMA, RecordedConfig, read_config
from nnexp.dataset.load import load
from nnexp.network.engine import VERSION
from nnexp.network.weights import unpack, weights_sha256
from nnexp.pipeline import run as runner
from nnexp.pipeline import sweep as sweeper
from nnexp.pipeline.signals import Terminated
from nnexp.tracking.database import DatabaseWriter
from nnexp.training.train import train

pytestmark = pytest.mark.slow

PROVENANCE = {
    "nnexp.command",
    "nnexp.python",
    "nnexp.platform",
    "nnexp.cpu_features",
    "nnexp.lock_sha256",
    "nnexp.version.numpy",
    "nnexp.version.mlflow",
}


@pytest.fixture
def client(store):
    return MlflowClient(f"sqlite:///{store}")


@pytest.fixture
def record(asked):
    """`record(config, force=True)` trains and records one run."""
    return lambda config, **how: runner.run(config, asked(**how))


@pytest.fixture
def sweep(asked):
    return lambda configs, name=None, **how: sweeper.sweep(list(configs), asked(**how), name)


def trained(config):
    """Train without recording; return the result."""
    for progress in train(load(config.dataset), [config]):
        for _, result in progress.ended:
            return result


@pytest.fixture
def only(client):
    """All runs of the experiment, oldest first."""

    def found(experiment="nnexp"):
        experiment_id = client.get_experiment_by_name(experiment).experiment_id
        return client.search_runs([experiment_id], order_by=["attributes.start_time ASC"])

    return found


def artifact(client, run, name):
    return Path(client.download_artifacts(run.info.run_id, name)).read_bytes()


def names(client, run, path=None):
    return sorted(file.path for file in client.list_artifacts(run.info.run_id, path))


def test_a_run_is_recorded_as_the_contract_says(configure, client, only, record):
    config = configure("epochs=25", "log_every=10")
    done = record(config)
    (run,) = only()
    data, params, metrics = run.data, run.data.params, run.data.metrics
    assert run.info.run_id == done.run_id
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "gender lr=0.1 init=normal seed=0"
    assert params == config.params()
    assert set(metrics) == {"loss", "accuracy", "grad_norm", "prediction/Emily", "prediction/Frank"}
    for name in ("loss", "accuracy", "grad_norm"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == [0, 10, 20, 25]
        assert [point.value for point in history] == trained(config).curves[name].tolist()
    assert data.tags["nnexp.run_key"] == config.run_key(load(config.dataset).sha256, VERSION)
    assert data.tags["nnexp.weights_sha256"] == weights_sha256(trained(config).final.layers)
    assert data.tags["nnexp.outcome"] in ("converged", "finished")
    assert set(data.tags) >= PROVENANCE


def test_the_data_set_is_logged_as_the_runs_input(configure, only, record):
    record(configure("epochs=1", "figures=false", "model=false"))
    ((used,),) = (run.inputs.dataset_inputs for run in only())
    assert used.dataset.name == "gender"
    assert [tag.value for tag in used.tags] == ["training"]
    assert {c["name"] for c in json.loads(used.dataset.schema)["mlflow_colspec"]} == {
        "weight_lb",
        "height_in",
        "gender",
    }


def test_a_runs_artifacts_rebuild_its_config_and_its_network(configure, client, only, record):
    config = configure("epochs=20", "weights_every=10", "hidden=[3,2]")
    done = record(config)
    (run,) = only()
    assert set(names(client, run)) >= {
        "config.yaml",
        "equation.txt",
        "figures",
        "predictions.csv",
        "weights.npz",
    }
    assert {name.removeprefix("figures/") for name in names(client, run, "figures")} == {
        "curves.png",
        "decision_surface.png",
        "hidden_space.png",
        "network.png",
        "surface_over_training.gif",
        "surface_over_training.png",
        "weights.png",
    }
    assert read_config(artifact(client, run, "config.yaml"), "it") == RecordedConfig(config, SCHEMA, False)
    content = artifact(client, run, "weights.npz")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        assert arrays["W1"].shape == (3, 2)
        assert arrays["b3"].shape == (1,)
        assert arrays["kept_epochs"].tolist() == [0, 10, 20]
        assert arrays["W1_kept"][0].tolist() == arrays["W1_initial"].tolist()
        assert arrays["W1_kept"][2].tolist() == arrays["W1"].tolist()
    model, data = unpack(content), load(config.dataset)
    table = pd.read_csv(io.BytesIO(artifact(client, run, "predictions.csv")))
    assert table["name"].tolist() == ["Alice", "Bob", "Charlie", "Diana", "Emily", "Frank"]
    assert table["part"].tolist() == ["train"] * 4 + ["new"] * 2
    assert table["y_pred"].tolist() == model.outputs(np.vstack([data.X, data.X_new]))[:, 0].tolist()
    assert done.new_rows["label"] == table["label"].tolist()[4:]


def test_a_finished_run_is_run_again_only_by_force(configure, client, only, record):
    config = configure("epochs=50", "figures=false", "model=false")
    one = record(config)
    again = record(config)
    assert again.is_old
    assert replace(again, is_old=False) == one
    record(config, force=True)
    first, second = only()
    assert "nnexp.attempt" not in first.data.tags
    assert second.data.tags["nnexp.attempt"] == "2"
    for name in ("weights.npz", "config.yaml", "predictions.csv"):
        assert artifact(client, first, name) == artifact(client, second, name)
    assert first.data.tags["nnexp.weights_sha256"] == second.data.tags["nnexp.weights_sha256"]


def test_a_run_that_another_process_finishes_meanwhile_is_recorded_once(configure, only, record, monkeypatch):
    config = configure("epochs=50", "figures=false", "model=false")
    train_live, others = runner._train_live, []

    def overtaken(*args):
        monkeypatch.setattr(runner, "_train_live", train_live)
        others.append(record(config))
        return train_live(*args)

    monkeypatch.setattr(runner, "_train_live", overtaken)
    done = record(config)
    assert done == replace(others[0], is_old=True)
    assert {run.info.run_id: run.info.status for run in only()}[done.run_id] == "FINISHED"
    assert sorted(run.info.status for run in only()) == ["FINISHED", "KILLED"]


def test_a_loss_that_stops_being_finite_is_a_result(configure, only, record):
    line = ["dataset=line", "hidden=[]", "output_activation=identity", "learning_rate=5"]
    record(configure(*line))
    (run,) = only()
    assert run.info.status == "FINISHED"
    assert run.data.tags["nnexp.outcome"] == "diverged"
    assert np.isfinite(run.data.metrics["loss"])
    assert run.data.metrics["loss"] < 1e308
    assert nnexp.load_runs()["outcome"].tolist() == ["diverged"]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "KILLED", "interrupted"),
        (Terminated(), "KILLED", "terminated"),
        (SystemExit(0), "FAILED", "SystemExit"),
        (ZeroDivisionError("what went wrong"), "FAILED", "ZeroDivisionError: what went wrong"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_run_that_does_not_finish_is_recorded_with_the_reason(
    configure, client, only, monkeypatch, error, status, reason, record
):
    def failing(*args):
        raise error

    monkeypatch.setattr(runner.artifacts, "single_files", failing)
    with pytest.raises(type(error)):
        record(configure("epochs=5"))
    (run,) = only()
    assert run.info.status == status
    assert reason in run.data.tags["nnexp.reason"]
    if status == "FAILED":
        assert reason in artifact(client, run, "traceback.txt").decode()


def test_a_long_run_is_visible_while_it_trains(configure, client, only, monkeypatch, record):
    seen = []
    log = DatabaseWriter.log

    def watching(writer, run_id, some):
        log(writer, run_id, some)
        history = client.get_metric_history(run_id, "loss")
        seen.append((client.get_run(run_id).info.status, len(history)))

    monkeypatch.setattr(runner, "LIVE_SECONDS", 0.0)
    monkeypatch.setattr(DatabaseWriter, "log", watching)
    record(configure("epochs=200000", "log_every=1000", "figures=false", "model=false"))
    (run,) = only()
    assert len(seen) >= 2
    assert all(status == "RUNNING" for status, _ in seen)
    counts = [count for _, count in seen]
    assert counts == sorted(counts)
    assert counts[-1] == 201
    assert [p.step for p in client.get_metric_history(run.info.run_id, "loss")] == list(
        range(0, 200001, 1000)
    )


def test_a_sweep_is_a_parent_with_its_runs_nested_and_tagged(configure, client, only, sweep):
    base = ["epochs=20", "figures=false", "model=false"]
    configs = [configure(*base, f"seed={s}", f"learning_rate={r}") for s in (0, 1) for r in (0.1, 1.0)]
    done = sweep([*configs, configs[0]], "two rates")
    parent, *children = only()
    assert (parent.info.run_id, parent.info.status) == (done.sweep_id, "FINISHED")
    assert parent.info.run_name == "two rates: 4 runs over learning_rate, seed"
    assert parent.data.params == {"learning_rate": "0.1, 1.0", "seed": "0, 1"}
    # Under different names, so that a chart of `loss` shows only the runs.
    assert set(parent.data.metrics) == {"best_loss", "best_accuracy", "best_grad_norm"}
    assert (parent.data.tags["nnexp.runs"], parent.data.tags["nnexp.failed"]) == ("4", "0")
    assert "summary.csv" in names(client, parent)
    assert "learning_rate |" in parent.data.tags["mlflow.note.content"]
    assert len(children) == 4
    for child in children:
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == child.data.tags["nnexp.sweep_id"] == done.sweep_id
        assert names(client, child) == ["config.yaml", "weights.npz"]


def test_a_sweeps_parent_has_figures_and_its_best_and_worst_runs_have_the_artifacts_of_a_single_run(
    configure, client, only, record, sweep
):
    configs = [configure("epochs=20", f"seed={s}", f"learning_rate={r}") for s in (0, 1) for r in (0.1, 1.0)]
    sweep(configs)
    parent, *children = only()
    assert {name.removeprefix("figures/loss_") for name in names(client, parent, "figures")} == {
        "by_learning_rate.png",
        "curves.png",
        "over_seeds.png",
        "figures/solved_curves.png",
    }
    best, *_, worst = sorted(children, key=lambda child: child.data.metrics["loss"])
    for child in children:
        assert ("figures" in names(client, child)) == (child in (best, worst))
    (config,) = [c for c in configs if c.params() == best.data.params]
    record(replace(config, model=False), force=True)
    alone = only()[-1]
    files = [*names(client, alone, "figures"), "equation.txt", "predictions.csv", "weights.npz"]
    assert names(client, best, "figures") == names(client, alone, "figures")
    assert all(artifact(client, best, name) == artifact(client, alone, name) for name in files)


@pytest.mark.parametrize("is_ready", [False, True])
def test_compiling_is_told_as_a_stage_before_the_training(configure, monkeypatch, caplog, record, is_ready):
    caplog.set_level(logging.INFO, logger="nnexp")
    monkeypatch.setattr("nnexp.pipeline.session.engine.is_ready", lambda: is_ready)
    told = []
    monkeypatch.setattr("nnexp.pipeline.run.provenance", lambda: told.extend(caplog.messages) or {})
    record(configure("epochs=5", "figures=false", "model=false"))
    assert [message for message in told if message.startswith("compiling the engine")] == (
        [] if is_ready else ["compiling the engine, once on this machine: about twenty seconds"]
    )


def test_a_run_whose_weights_are_missing_does_not_stop_a_sweep(
    configure, client, only, monkeypatch, caplog, sweep
):
    def gone(*args):
        raise FileNotFoundError("weights.npz")

    caplog.set_level(logging.INFO, logger="nnexp")
    monkeypatch.setattr("nnexp.pipeline.artifacts.read_artifact", gone)
    sweep([configure("epochs=5", f"seed={s}") for s in (0, 1)])
    assert only()[0].info.status == "FINISHED"
    assert "no figures of the run" in caplog.text


def test_a_sweep_with_figures_false_has_no_figures(configure, client, only, sweep):
    sweep([configure("epochs=5", "figures=false", f"seed={s}") for s in (0, 1)])
    assert all("figures" not in names(client, run) for run in only())


def test_a_run_of_a_sweep_has_the_key_and_the_bits_of_a_single_run(configure, client, only, record, sweep):
    config = configure("epochs=20", "figures=false", "model=false", "seed=3")
    sweep([config, configure("epochs=20", "seed=4")], None)
    record(config, force=True)
    _, *children, alone = only()
    (child,) = (c for c in children if c.data.params["seed"] == "3")
    assert child.data.params == alone.data.params
    assert child.data.metrics == alone.data.metrics
    assert artifact(client, child, "weights.npz") == artifact(client, alone, "weights.npz")
    same = {"nnexp.run_key", "nnexp.weights_sha256", "nnexp.data_sha256", "nnexp.outcome"}
    assert {k: child.data.tags[k] for k in same} == {k: alone.data.tags[k] for k in same}


def test_a_point_that_fails_does_not_stop_the_others(configure, client, only, three_wide_fails, sweep):
    done = sweep([configure("epochs=5", f"hidden=[{h}]") for h in (2, 3, 4)], None)
    parent, *children = only()
    assert done.failures == [("gender lr=0.1 init=normal seed=0 hidden=[3]", "MemoryError: no room")]
    assert parent.info.status == "FAILED"
    assert sorted(child.info.status for child in children) == ["FAILED", "FINISHED", "FINISHED"]
    failed = next(child for child in children if child.info.status == "FAILED")
    assert "no room" in artifact(client, failed, "traceback.txt").decode()
    assert parent.data.tags["nnexp.failed"] == "1"


def test_an_interrupted_sweep_leaves_nothing_running(configure, only, monkeypatch, sweep):
    record, count = sweeper.child_record, iter(range(10))

    def interrupted(*args):
        if next(count) == 2:
            raise KeyboardInterrupt
        return record(*args)

    monkeypatch.setattr(sweeper, "child_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep([configure("epochs=5", f"seed={s}") for s in range(5)])
    parent, *children = only()
    assert parent.info.status == "KILLED"
    assert [child.info.status for child in children] in ([], ["FINISHED"] * 2)


def test_each_of_three_classes_has_its_own_prediction(configure, store, tmp_path, only, record):
    (tmp_path / "t.csv").write_text("a,y\n1,u\n2,v\n3,w\n1,u\n2,v\n3,w\n")
    (tmp_path / "new.csv").write_text("name,a\nfirst/one,1\n")
    own = ["dataset=csv", "dataset.path=t.csv", "dataset.features=[a]", "dataset.target=y"]
    record(
        configure(
            *own, "dataset.new_rows=new.csv", "output_activation=softmax", "loss=cross_entropy", "epochs=20"
        )
    )
    (run,) = only()
    predicted = {k: v for k, v in run.data.metrics.items() if k.startswith("prediction/")}
    assert set(predicted) == {f"prediction/first_one/{label}" for label in "uvw"}
    assert sum(predicted.values()) == pytest.approx(1)


def test_new_rows_and_classes_that_mlflow_would_name_alike_have_separate_metrics(
    configure, store, client, tmp_path, only, record
):
    (tmp_path / "t.csv").write_text("a,y\n1,u(1)\n2,u[1]\n3,w\n1,u(1)\n2,u[1]\n3,w\n")
    rows = {"O(2)": 1, "O[2]": 2, "O_2_": 3, "O_2_ 2": 4, "..": 5, "plain": 6}
    (tmp_path / "new.csv").write_text("name,a\n" + "".join(f"{name},{a}\n" for name, a in rows.items()))
    own = ["dataset=csv", "dataset.path=t.csv", "dataset.features=[a]", "dataset.target=y"]
    record(configure(*own, "dataset.new_rows=new.csv", "output_activation=softmax", "epochs=20"))
    (run,) = only()
    predicted = {k: v for k, v in run.data.metrics.items() if k.startswith("prediction/")}
    named = dict(zip(rows, ["O_2_ 3", "O_2_ 4", "O_2_", "O_2_ 2", "__", "plain"], strict=True))
    answers = pd.read_csv(io.BytesIO(artifact(client, run, "predictions.csv"))).set_index("name")
    of_class = {"u(1)": "u_1_", "u[1]": "u_1_ 2", "w": "w"}
    assert predicted == {
        f"prediction/{named[row]}/{label}": pytest.approx(answers.loc[row, f"y_pred_{text}"], abs=0)
        for row in rows
        for text, label in of_class.items()
    }
    assert all(MlflowClient().log_metric(run.info.run_id, name, 0.5) is None for name in predicted)


def test_a_new_row_with_too_long_a_name_for_a_metric_is_refused(nnexp, store, tmp_path):
    (tmp_path / "own.csv").write_text("size,y\n1,0\n2,0\n3,1\n4,1\n")
    own = ["dataset=csv", "dataset.path=own.csv", "dataset.features=[size]", "dataset.target=y"]
    for length, status in ((239, 0), (240, 2)):
        (tmp_path / "new.csv").write_text(f"name,size\n{'n' * length},2\n")
        ended = nnexp("train", *own, "dataset.new_rows=new.csv", "epochs=5", "figures=false", "model=false")
        assert ended.status == status
    assert "characters less, as MLflow names a metric prediction/" in ended.err
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)


def test_columns_of_the_data_set_with_our_names_are_kept_apart(configure, client, only, tmp_path, record):
    (tmp_path / "t.csv").write_text("name,part,label,y\n1,2,3,0\n4,5,6,1\n")
    own = ["dataset=csv", "dataset.path=t.csv", "dataset.features=[name,part,label]", "dataset.target=y"]
    record(configure(*own, "epochs=5"))
    (run,) = only()
    table = pd.read_csv(io.BytesIO(artifact(client, run, "predictions.csv")))
    assert list(table) == ["name_", "part_", "name", "part", "label", "y", "y_pred", "label_", "probability"]
    assert table["part"].tolist() == [2, 5]


def test_passwords_are_not_recorded(monkeypatch):
    from nnexp.config.text import masked
    from nnexp.pipeline import provenance

    secret = "tracking_uri=postgresql://me:hunter2@host/db"
    monkeypatch.setattr("sys.orig_argv", ["python", "/x/bin/nnexp", "train", secret])
    assert "hunter2" not in masked("nnexp train '++tracking_uri=\"http://me:hunter2@host\"'")
    assert provenance.command() == "nnexp train 'tracking_uri=postgresql://me:***@host/db'"
