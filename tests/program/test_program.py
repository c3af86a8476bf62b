"""The real program in separate processes: what it prints, how it ends, what an interrupt leaves."""

import csv
import io
import json
import os
import signal
import subprocess
import time

import pytest
from mlflow import MlflowClient

import nnexp as package
from nnexp.cli import train as app
from nnexp.pipeline import signals
from nnexp.pipeline.signals import Terminated
from tests.real import NNEXP, statuses, wait_for

pytestmark = pytest.mark.slow


def test_a_run_prints_its_result_and_what_to_do_next(nnexp, store):
    ended = nnexp("train", "figures=false", "model=false")
    assert ended.status == 0
    assert "loss 0.3693 -> 0.002403 in 1000 epochs, converged, accuracy 1" in ended.out
    assert "Emily" in ended.out
    assert "nnexp show " in ended.out
    assert "4 rows, weight_lb, height_in -> gender (classes M=0, F=1)" in ended.err


def test_show_prints_all_of_a_run(nnexp, store):
    run_id = nnexp("train", "model=false", "figures=false").out.split("recorded as ")[1].split()[0]
    ended = nnexp("show", run_id)
    assert ended.status == 0
    for words in (
        "learning_rate              0.1",
        "h1 = sigmoid(1.76783*(weight_lb - 135)",
        "W2 =",
        "nnexp.engine",
    ):
        assert words in ended.out


def test_show_and_plot_say_why_a_run_did_not_solve_its_task_beside_a_seed_that_did(nnexp, store, tmp_path):
    nnexp("train", "-m", "dataset=xor", "learning_rate=0.5", "seed=7,8", "epochs=3000", "figures=false")
    seed_7, seed_8 = (run_id for run_id in package.load_runs().sort_values("seed")["run_id"])
    ended = nnexp("show", seed_8)
    assert ended.status == 0
    told = " ".join(ended.out.split())
    assert "why it did not solve the task this run xor lr=0.5 init=normal seed=7, which solved" in told
    assert "wrong training rows 1 of 4: row 1 0 of 4" in told
    assert f"1 of 2 runs of this setting solved it, such as {seed_7}" in told
    assert "did not solve" not in nnexp("show", seed_7).out

    drawn = nnexp("plot", seed_8)
    assert drawn.status == 0
    assert "why it did not solve the task" in drawn.out
    figures = {"curves", "weights", "decision_surface", "network", "hidden_space"}
    assert {file.stem for file in (tmp_path / seed_8).iterdir()} == figures
    assert nnexp("plot", seed_7, "hidden_space", "--out", "alone.svg").out == ""
    assert (tmp_path / "alone.svg").exists()
    assert nnexp("plot", "last", "loss_over_seeds").status == 0
    assert (tmp_path / "loss_over_seeds.png").exists()
    for wrong in (["nonsense"], ["curves", "--out", "x.gif"], ["--metric", "loss"]):
        assert nnexp("plot", seed_8, *wrong).status == 2


def test_predict_applies_a_network_to_new_rows(nnexp, store, tmp_path):
    run_id = nnexp("train", "model=false", "figures=false").out.split("recorded as ")[1].split()[0]
    (tmp_path / "rows.csv").write_text("who,height_in,weight_lb\nEmily,63,128\nFrank,68,155\n")
    ended = nnexp("predict", run_id, "rows.csv", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert [(row["who"], row["label"]) for row in rows] == [("Emily", "F"), ("Frank", "M")]
    assert float(rows[0]["y_pred"]) == pytest.approx(0.9461602289784368, abs=1e-12)
    (tmp_path / "rows.csv").write_text(ended.out)
    again = next(csv.DictReader(io.StringIO(nnexp("predict", run_id, "rows.csv", "--format", "csv").out)))
    assert again["label"] == again["label_predicted"] == "F"
    (tmp_path / "rows.csv").write_text("who,height_in\nEmily,63\n")
    assert "no column 'weight_lb'" in nnexp("predict", run_id, "rows.csv").err


def test_a_sweep_from_the_shell_is_summarised_by_each_format(nnexp, store, tmp_path):
    ended = nnexp("train", "-m", "dataset=xor", "seed=range(3)", "learning_rate=0.5,0.05", "epochs=50")
    assert ended.status == 0
    assert "6 runs, recorded as sweep" in ended.out
    sweep = ended.out.split("recorded as sweep ")[1].split()[0]
    table = nnexp("summarize", "--sweep", sweep)
    assert table.out.splitlines()[0].split()[:3] == ["learning_rate", "n", "median"]
    rows = json.loads(nnexp("summarize", "--by", "learning_rate", "--format", "json").out)
    assert [(row["learning_rate"], row["n"]) for row in rows] == [(0.05, 3), (0.5, 3)]
    for name, start in {
        "s.csv": "init,n,networks,used,diverged,median,",
        "s.json": "[\n  {",
        "s.MD": "| init",
        "s.txt": "init ",
    }.items():
        assert nnexp("summarize", "--by", "init", "--out", name).err.splitlines()[-1] == f"wrote {name}"
        assert (tmp_path / name).read_text().startswith(start)
    drawn = nnexp("summarize", "--by", "learning_rate", "--plot", "s.PNG")
    assert drawn.status == 0
    assert drawn.err.endswith("wrote s.PNG\n")
    assert drawn.out == nnexp("summarize", "--by", "learning_rate").out
    assert (tmp_path / "s.PNG").read_bytes().startswith(b"\x89PNG")
    mixed = nnexp("summarize", "--by", "init", "--format", "markdown")
    assert "mixes different learning_rate" in mixed.err
    assert mixed.out.startswith("| init")
    few = nnexp("summarize", "--where", "learning_rate > 0.1", "--threshold", "0.25", "--metric", "loss")
    assert "epochs_to" in few.out


def test_leaving_out_the_features_is_the_same_run_as_naming_all_columns(nnexp, store, tmp_path):
    (tmp_path / "t.csv").write_text("name,a,b,y\np,1,2,0\nq,3,4,1\nr,5,1,1\n")
    own = [
        "dataset=csv",
        "dataset.path=t.csv",
        "dataset.target=y",
        "epochs=5",
        "figures=false",
        "model=false",
    ]
    run_id = nnexp("train", *own).out.split("recorded as ")[1].split()[0]
    again = nnexp("train", *own, "dataset.features=[a,b]")
    assert "is already recorded" in again.err
    assert run_id in again.out
    runs = package.load_runs()
    assert runs["dataset.features"].tolist() == ['["a","b"]']
    assert "verdict: identical" in nnexp("rerun", run_id).out
    assert "verdict: identical" in nnexp("rerun", run_id, "dataset.features=null").out
    fewer = nnexp("train", *own, "dataset.features=[a]").out.split("recorded as ")[1].split()[0]
    back = nnexp("rerun", fewer, "dataset.features=null")
    assert ("a variation of" in back.out, run_id in back.out) == (True, True)
    swept = nnexp("train", "-m", *own, "dataset.features=null,[a,b],[b]")
    assert "1 of 3 points repeat other points" in swept.err
    assert "2 runs: 1 done, 1 new" in swept.err


def test_an_experiment_with_ranges_sweeps_without_m(nnexp, store):
    few = ["dataset=wine", "activation=relu", "optimizer=sgd,adam", "learning_rate=0.1", "seed=0"]
    ended = nnexp("train", "experiment=real_tables", "epochs=5", *few)
    assert "2 runs, recorded as sweep" in ended.out


def test_a_sweep_keeps_its_experiments_file_without_passwords_and_says_which_rows_are_for_what(
    nnexp, store, tmp_path
):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    text = "# @package _global_\n# How wide?\ntags:\n  password: hunter2\nepochs: 5\ndataset: xor\n"
    (tmp_path / "conf/experiment/wide.yaml").write_text(text)
    keys = ["validation_fraction=0.25", "split_seed=1", "figures=false"]
    nnexp("train", "-m", "experiment=wide", "hidden=[2],[3]", "seed=range(3)", *keys)
    (kept,) = tmp_path.rglob("artifacts/experiment.yaml")
    assert kept.read_text() == text.replace("hunter2", "***")
    report = (kept.parent / "report.html").read_text()
    assert "xor: 4 rows (3 training, 1 validation), 2 features -&gt; y (classes 0, 1)" in report
    assert "# How wide?" in report
    assert "hunter2" not in report


def test_equal_points_run_once_and_this_is_logged(nnexp, store):
    ended = nnexp("train", "-m", "figures=false", "seed=1,1,2,1", "epochs=5")
    assert "2 of 4 points repeat other points; each runs once" in ended.err
    assert "2 runs, recorded as sweep" in ended.out


def test_hydras_own_launcher_keeps_working(nnexp, store, tmp_path):
    ended = nnexp(
        "train", "-m", "hydra/launcher=basic", "seed=1,2", "epochs=5", "figures=false", "model=false"
    )
    assert ended.status == 0
    assert statuses(store) == ["FINISHED"] * 2


def test_hydras_flags_and_completion_work(nnexp, monkeypatch):
    assert "learning_rate: 0.3" in nnexp("train", "--cfg", "job", "learning_rate=0.3").out
    monkeypatch.setenv("COMP_LINE", "nnexp train learn")
    assert nnexp("-sc", "query=bash").out.split() == ["learning_rate="]
    monkeypatch.setenv("COMP_LINE", "nnexp train init=")
    assert "init=xavier" in nnexp("-sc", "query=bash").out


def test_nothing_is_left_in_the_directory_but_the_store(nnexp, store, tmp_path):
    nnexp("train", "-m", "figures=false", "seed=1,2", "epochs=5")
    nnexp("train", "epochs=5")
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", "mlflow.db.lock", "mlartifacts"}


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_an_interrupt_ends_at_once_with_the_run_recorded_as_killed(store, number, status):
    typed = [*NNEXP, "train", "epochs=2000000000", "log_every=100000", "figures=false", "model=false"]
    running = subprocess.Popen(typed, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: statuses(store) == ["RUNNING"])
    time.sleep(1.0)
    running.send_signal(number)
    _, err = running.communicate(timeout=240)
    assert running.returncode == status
    assert "Traceback" not in err
    assert statuses(store) == ["KILLED"]
    (run,) = MlflowClient(f"sqlite:///{store}").search_runs(["1"])
    assert run.data.tags["nnexp.reason"].startswith(("interrupted", "terminated"))


def test_an_interrupt_that_a_library_turns_into_an_error_is_still_an_interrupt(nnexp, monkeypatch):
    def interrupted(*args):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except Terminated:
            raise AttributeError("what was only half done") from None

    monkeypatch.setattr(signals, "_arrived", [])
    monkeypatch.setattr(app, "parse", interrupted)
    ended = nnexp("train")
    assert (ended.status, ended.err) == (143, "nnexp: terminated\n")


def test_a_closed_pipe_ends_the_program_quietly(store):
    done = subprocess.run(
        f"'{NNEXP[0]}' train --help | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stdout == "usage: nnexp train [-m] [--config-dir DIR] [key=value …]\n"
    assert done.stderr == ""


def test_an_experiment_has_its_description_and_a_view(nnexp, store):
    assert nnexp("train", "experiment_name=mine", "epochs=5", "figures=false", "model=false").status == 0
    experiment = MlflowClient(f"sqlite:///{store}").get_experiment_by_name("mine")
    assert "report.html" in experiment.tags["mlflow.note.content"]
    assert json.loads(experiment.tags["mlflow.sharedViewState.nnexp"])["name"] == "nnexp"


QUIET = [*NNEXP, "train", "figures=false", "model=false"]


def shell(line, **environment):
    """Run a line in a shell; return its exit status and output."""
    done = subprocess.run(
        ["bash", "-c", line, "bash", *QUIET],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_run_is_recorded_even_if_its_streams_are_closed_or_full(store):
    for epochs, streams in enumerate((">&-", "2>&-", "<&- >&- 2>&-", "2> /dev/full"), 3):
        status, _, err = shell(f'"$@" epochs={epochs} {streams}')
        assert (streams, status) == (streams, 0)
        assert b"Traceback" not in err
    assert statuses(store) == ["FINISHED"] * 4


def test_output_that_cannot_be_written_ends_in_an_error_line(store):
    status, _, err = shell('"$@" epochs=3 > /dev/full')
    assert (status, err.splitlines()[-1]) == (
        1,
        b"nnexp: failed: OSError: [Errno 28] No space left on device",
    )
    assert statuses(store) == ["FINISHED"]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_characters_that_an_encoding_lacks_are_escaped(nnexp, store, encoding):
    trained = nnexp("train", "epochs=3", "figures=false", "model=false")
    run_id = trained.out.split("recorded as ")[1].split()[0]
    status, out, err = shell(f'"$1" show {run_id}', PYTHONIOENCODING=encoding)
    assert (status, err) == (0, b"")
    assert b"\\u2588" in out  # a bar of the curve


def test_the_program_works_in_a_directory_that_is_not_utf8(store, tmp_path):
    line = "mkdir -p $'not\\xffutf8' && cd $'not\\xffutf8' && printf 'a,b\\n1,0\\n2,1\\n' > t.csv && "
    assert shell(f'{line} "$@" epochs=3')[0] == 0
    own = "dataset=csv dataset.path=t.csv 'dataset.features=[a]' dataset.target=b"
    status, _, err = shell(f'{line} "$@" {own}')
    assert (status, err.count(b"\n"), b"has a name that is not UTF-8" in err) == (2, 1, True)
    assert statuses(store) == ["FINISHED"]


def test_a_limit_on_the_size_of_files_ends_in_a_plain_line(store):
    status, _, err = shell('ulimit -f 4; "$@" epochs=3')
    assert status == 1
    assert b"Traceback" not in err
    assert b"recording in " in err
    assert b"rollback" not in err
    assert statuses(store) == []
