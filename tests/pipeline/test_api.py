"""nnexp from Python: the same runs as on the command line, and the objects that calls return."""

import doctest
import logging
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton

import nnexp as package
from nnexp.pipeline.results.rerun import Rerun
from nnexp.pipeline.results.run import Run
from nnexp.pipeline.results.sweep import Sweep
from nnexp.pipeline.search.results import Search
from nnexp.tracking.find import get_run, read_artifact
from nnexp.tracking.store import open_store
from tests.conftest import FLOWERS, QUICK

pytestmark = pytest.mark.slow

FAST = {"epochs": 30, "log_every": 10, "figures": False, "model": False}


@pytest.fixture
def flowers(tmp_path):
    """A table as a DataFrame; the file flowers.csv has the bytes that it is written as."""
    (tmp_path / "flowers.csv").write_text(FLOWERS)
    frame = pd.read_csv(tmp_path / "flowers.csv")
    frame.to_csv(tmp_path / "flowers.csv", index=False, lineterminator="\n")
    return frame


PUBLIC = [getattr(package, name) for name in package.__all__ if name != "__version__"]


@pytest.mark.parametrize("public", [*PUBLIC, Run, Sweep, Search, Rerun], ids=lambda p: p.__name__)
@pytest.mark.usefixtures("blank_pictures")
def test_every_public_function_and_class_has_examples_and_they_print_what_they_show(public, store):
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(public, public.__name__):
        runner.run(example)
    done = runner.summarize()
    assert (done.failed, done.attempted > 0) == (0, True)


def ids():
    return package.load_runs()["run_id"].tolist()


# --- The same runs as on the command line.


def test_a_run_that_the_command_line_recorded_is_found_and_not_run_again(nnexp, store):
    typed = nnexp("train", *QUICK, "dataset=xor", "optimizer=adam", "optimizer.beta1=0.8", "hidden=[3]")
    run = package.train(dataset="xor", optimizer={"name": "adam", "beta1": 0.8}, hidden=[3], **FAST)
    assert f"recorded as {run.run_id}" in typed.out
    assert ids() == [run.run_id]


def test_a_run_that_python_recorded_is_found_by_the_command_line(nnexp, store):
    run = package.train(dataset="xor", learning_rate=0.5, seed=3, **FAST)
    typed = nnexp("train", *QUICK, "dataset=xor", "learning_rate=0.5", "seed=3")
    assert f"recorded as {run.run_id}" in typed.out
    assert "is already recorded" in typed.err


def test_a_sweep_that_the_command_line_recorded_is_found_and_not_run_again(nnexp, store):
    typed = nnexp(
        "train", "-m", *QUICK, "dataset=xor", "learning_rate=0.1,0.5", "seed=range(2)", "hidden=[2],[]"
    )
    sweep = package.sweep(dataset="xor", learning_rate=[0.1, 0.5], seed=range(2), hidden=[[2], []], **FAST)
    assert f"recorded as sweep {sweep.sweep_id}" in typed.out
    assert len(sweep) == len(ids()) == 8


def test_a_sweep_that_python_recorded_is_found_by_the_command_line(nnexp, store):
    sweep = package.sweep(
        dataset="xor",
        learning_rate=np.array([0.1, 0.5]),
        exclude="learning_rate > 0.2 and seed > 0",
        seed=range(2),
        **FAST,
    )
    typed = nnexp(
        "train",
        "-m",
        *QUICK,
        "dataset=xor",
        "learning_rate=0.1,0.5",
        "seed=0,1",
        'exclude="learning_rate > 0.2 and seed > 0"',
    )
    assert f"3 runs, recorded as sweep {sweep.sweep_id}" in typed.out


def test_zipped_ranges_move_side_by_side(store):
    sweep = package.sweep(
        dataset="xor",
        learning_rate=[0.1, 0.5],
        epochs=[20, 10],
        zip=["learning_rate", "epochs"],
        figures=False,
    )
    assert dict(zip(sweep.runs["learning_rate"], sweep.runs["epochs"], strict=True)) == {0.1: 20, 0.5: 10}


def test_force_runs_recorded_points_again(store):
    first = package.train(dataset="xor", **FAST)
    assert package.train(dataset="xor", force=True, **FAST).run_id != first.run_id


def test_an_experiment_is_a_sweep(store):
    with pytest.raises(
        package.RequestError, match=r"experiment=real_tables is a sweep: nnexp\.sweep runs it"
    ):
        package.train(experiment="real_tables", **FAST)
    few = {"dataset": "wine", "activation": "relu", "optimizer": ["sgd", "adam"], "learning_rate": 0.1}
    sweep = package.sweep(experiment="real_tables", seed=0, name="two optimizers", **few, **FAST)
    assert (len(sweep), sweep.name) == (2, "two optimizers")


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("learning_rate=-1", {"learning_rate": -1}),
        ("dataset=iris", {"dataset": "iris"}),
        ("lr=1", {"lr": 1}),
        ("hidden=4", {"hidden": 4}),
        ("loss=bce output_activation=tanh", {"loss": "bce", "output_activation": "tanh"}),
        ("experiment_name=a/b", {"experiment_name": "a/b"}),
        ("zip=[seed]", {"zip": ["seed"]}),
    ],
)
def test_errors_have_the_messages_of_the_command_line(typed, keys, nnexp, store):
    ended = nnexp("train", *typed.split())
    with pytest.raises(package.RequestError) as refused:
        package.train(**keys)
    assert (ended.status, ended.err) == (2, f"nnexp: {refused.value}\n")


def test_a_wrong_point_is_named_and_nothing_is_recorded(store):
    with pytest.raises(
        package.RequestError, match="point 2 of 2: learning_rate=-1: must be a finite number, > 0"
    ):
        package.sweep(learning_rate=[0.1, -1])
    with pytest.raises(package.RequestError, match="unknown experiment 'nnexp'"):
        package.load_runs()


def test_plan_is_refused_in_python(store):
    for call in (package.train, package.sweep):
        with pytest.raises(package.RequestError, match="plan=true only prints what there is to do"):
            call(plan=True)


def test_the_store_and_the_experiment_are_keys(tmp_path):
    uri = f"sqlite:///{tmp_path}/other.db"
    run = package.train(dataset="xor", tracking_uri=uri, experiment_name="mine", **FAST)
    assert package.load_runs("mine", tracking_uri=uri)["run_id"].tolist() == [run.run_id]
    assert len(run.history)


# --- DataFrames.


def test_a_run_on_a_frame_has_the_key_of_a_run_on_the_same_csv_file(flowers, nnexp, store):
    typed = nnexp(
        "train",
        *QUICK,
        "dataset=csv",
        "dataset.path=flowers.csv",
        "dataset.target=species",
        "output_activation=softmax",
        "loss=cross_entropy",
    )
    run = package.train(
        dataset=flowers, target="species", output_activation="softmax", loss="cross_entropy", **FAST
    )
    assert f"recorded as {run.run_id}" in typed.out


def test_a_run_on_a_frame_is_rerun_without_it(flowers, nnexp, store, tmp_path):
    keys = {"output_activation": "softmax", "loss": "cross_entropy"} | FAST
    run = package.train(dataset=flowers, target="species", features=["width", "length"], **keys)
    assert run.params["dataset.features"] == ("width", "length")
    (tmp_path / "flowers.csv").unlink()
    again = package.rerun(run.run_id)
    assert (again.verdict, again.difference, again.notes) == ("identical", None, ())
    assert nnexp("rerun", run.run_id).status == 0
    assert "learning_rate" in nnexp("rerun", run.run_id, "learning_rate=0.5").out


def test_a_sweep_on_a_frame_records_one_data_set_and_can_be_rerun(flowers, store):
    keys = {"output_activation": "softmax", "loss": "cross_entropy"} | FAST
    sweep = package.sweep(
        dataset=flowers, target="species", features=[["length"], ["length", "width"]], **keys
    )
    assert sweep.runs["data_sha256"].nunique() == 1
    assert package.rerun(sweep.best).verdict == "identical"


def test_new_rows_of_a_frame_are_predicted(flowers, store):
    new = pd.DataFrame({"name": ["mine"], "length": [1.5], "width": [0.4]})
    run = package.train(dataset=flowers[flowers["species"] != "c"], target="species", new_rows=new, **FAST)
    runs = package.load_runs()
    predicted = run.network.predict(new)
    assert runs["prediction/mine"].tolist() == predicted["y_pred"].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {},
            "dataset.target is not given: it must be one of the columns of <DataFrame>: "
            "length, width, species",
        ),
        ({"target": "kind"}, "<DataFrame>: no column 'kind'; it has length, width, species"),
    ],
)
def test_errors_in_a_frame_are_named(change, message, flowers, store):
    with pytest.raises(package.RequestError) as refused:
        package.train(dataset=flowers, **change)
    assert str(refused.value) == message


def test_a_missing_cell_of_a_frame_is_named(flowers, store):
    flowers.loc[3, "width"] = None
    with pytest.raises(
        package.RequestError, match="<DataFrame>: column 'width', row 4: the value is missing"
    ):
        package.train(dataset=flowers, target="species")


def test_the_path_of_a_frame_cannot_be_typed(nnexp, store):
    ended = nnexp("train", "dataset=csv", "dataset.path='<DataFrame>'", "dataset.target=y")
    assert (ended.status, ended.err) == (
        2,
        "nnexp: dataset.path=<DataFrame>: stands for a DataFrame, which is not a file\n",
    )


# --- What is returned.


def test_a_run_has_its_numbers_its_curves_its_network_and_its_figures(store):
    run = package.train(dataset="xor", learning_rate=0.5, seed=3, **FAST)
    runs = package.load_runs()
    assert (run.run_id, run.loss, run.outcome) == tuple(runs.loc[0, ["run_id", "loss", "outcome"]])
    assert run.epochs == 30
    assert run.params["learning_rate"] == 0.5
    assert list(run.history.columns) == ["run_id", "metric", "epoch", "value"]
    assert run.history.query("metric == 'loss'")["value"].iloc[-1] == run.loss
    backwards = pd.DataFrame({"x2": [0.0], "other": ["?"], "x1": [1.0]})
    assert (
        run.network.predict(backwards)["y_pred"].tolist()
        == run.network.outputs(np.array([[1.0, 0.0]]))[0].tolist()
    )
    assert run.figure("curves")._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(package.RequestError, match=r"unknown figure 'curve'\. Did you mean curves"):
        run.figure("curve")


def test_a_runs_figure_equals_the_recorded_one(store):
    run = package.train(dataset="xor", **FAST | {"figures": True, "weights_every": 10})
    opened = open_store()
    for name in ("curves", "weights", "decision_surface", "surface_over_training", "network"):
        kept = read_artifact(opened, get_run(opened, run.run_id), f"figures/{name}.png")
        assert run.figure(name)._repr_png_() == kept


def test_a_sweep_has_its_runs_its_summary_its_best_its_figures_and_its_report(store, tmp_path):
    sweep = package.sweep(
        dataset="xor", learning_rate=[0.1, 5], init=["normal", "ones"], seed=range(3), **FAST
    )
    assert len(sweep.runs) == 12
    pd.testing.assert_frame_equal(sweep.summary(by=["init"]), package.summarize(sweep.runs, ["init"]))
    assert list(sweep.summary().columns[:2]) == ["init", "learning_rate"]
    assert "epochs_to" in sweep.summary(threshold=0.1)
    assert sweep.best.loss == sweep.runs["loss"].min()
    assert set(sweep.history["metric"]) >= {"loss", "accuracy"}
    for figure in (sweep.figure(), sweep.figure(by=["init"]), sweep.figure("loss_curves")):
        assert figure.axes
    with pytest.raises(package.RequestError, match="unknown figure 'curves'"):
        sweep.figure("curves")
    assert sweep.report("report.html").read_text().startswith("<!")
    with pytest.raises(package.RequestError, match=r"report report\.txt: the name must end in \.html, \.htm"):
        sweep.report("report.txt")


def test_a_run_that_fails_does_not_stop_the_others(three_wide_fails, store):
    sweep = package.sweep(dataset="xor", hidden=[[2], [3]], **FAST)
    assert len(sweep) == 1
    ((name, reason),) = sweep.failures
    assert "hidden=[3]" in name
    assert "no room" in reason
    assert repr(sweep).endswith(", 1 failed>")


def test_results_are_shown_as_a_line_and_in_a_notebook_as_html(store):
    run = package.train(dataset="xor", name="<b>mine", **FAST)
    sweep = package.sweep(dataset="xor", seed=range(2), **FAST)
    again = package.rerun(run)
    assert repr(run) == f"<run {run.run_id}: <b>mine, loss {run.loss:.4g}, finished>"
    assert repr(sweep) == f"<sweep {sweep.sweep_id}: sweep: 2 runs over seed>"
    assert repr(again) == f"<rerun of {run.run_id}: identical>"
    for shown in (run, sweep):
        assert "<table" in shown._repr_html_()
        assert "data:image/png;base64," in shown._repr_html_()
    assert "&lt;b&gt;mine" in run._repr_html_()


def test_a_rerun_says_what_differs(store):
    run = package.train(dataset="xor", **FAST)
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE metrics SET value = 0.5 WHERE key = 'loss' AND step = 10")
    again = package.rerun(run.run_id)
    assert again.verdict == "differs"
    assert again.difference.startswith("loss at epoch 10 is ")
    assert again.recorded_as is not None


# --- The package.


def test_dir_lists_the_public_names_and_nothing_is_imported_before_use():
    code = "import sys, nnexp; print(*dir(nnexp)); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, modules = done.stdout.splitlines()
    assert set(names.split()) >= {
        "train",
        "sweep",
        "rerun",
        "summarize",
        "load_runs",
        "load_history",
        "load_network",
    }
    assert set(names.split()) >= {"RequestError", "__version__"}
    assert not {"hydra", "mlflow", "pandas", "numpy", "numba", "matplotlib"} & set(modules.split())
    assert all(hasattr(package, name) for name in names.split())
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        package.trian  # noqa: B018


def test_calls_are_quiet_and_log_to_nnexp(store, capfd, caplog):
    caplog.set_level(logging.INFO, logger="nnexp")
    log = logging.getLogger("nnexp")
    log.handlers, log.propagate = [], True  # as the command line, in another test, has left it
    for _ in range(2):
        package.train(dataset="xor", **FAST)
    sweep = package.sweep(dataset="xor", seed=range(2), **FAST)
    package.rerun(sweep.best)
    assert capfd.readouterr() == ("", "")
    assert "this run is already recorded and is not run again; force=True runs it again" in caplog.messages


def test_a_call_leaves_hydras_global_state_unchanged(store):
    Singleton._instances.pop(GlobalHydra, None)
    before = set(Singleton._instances)
    with pytest.raises(package.RequestError):
        package.train(learning_rate=-1)
    package.train(dataset="xor", **FAST)
    package.sweep(dataset="xor", seed=range(2), **FAST)
    assert not GlobalHydra.instance().is_initialized()
    assert {kind.__name__ for kind in set(Singleton._instances) - before} <= {
        "GlobalHydra",
        "Plugins",
        "ConfigStore",
    }


APP = """
import hydra
import nnexp
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.2", config_path=None)
def app(config):
    run = nnexp.train(dataset="xor", epochs=config.epochs, figures=False, model=False)
    sweep = nnexp.sweep(dataset="xor", seed=range(2), epochs=config.epochs, figures=False)
    assert GlobalHydra.instance().is_initialized() and hydra.version.getbase().release == (1, 2)
    print(run.epochs, len(sweep), HydraConfig.get().job.name)

app()
"""


def test_calls_work_within_another_hydra_app(store, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    command = [sys.executable, "app.py", "+epochs=20", "hydra.run.dir=.", "hydra.output_subdir=null"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.endswith("\n20 2 app\n"), done.stderr  # after what the app logs, as Hydra sets it up
