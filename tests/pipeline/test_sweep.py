"""Sweeps: the plan, failures, reruns of points, and what a second command does."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from nnexp.dataset.load import load
from nnexp.network import engine
from nnexp.pipeline import sweep as sweeper
from nnexp.pipeline.identity import run_key
from nnexp.tracking import database
from nnexp.tracking import rows as reading
from nnexp.tracking.store import open_store
from nnexp.training import distribute as sweep
from nnexp.training.plan import Point, plan

pytestmark = pytest.mark.slow

NNEXP = str(Path(sys.executable).with_name("nnexp"))


@pytest.fixture
def rows(store):
    """`rows(query)` queries the store's tables directly."""

    def asked(query):
        with closing(sqlite3.connect(store)) as connection:
            return connection.execute(query).fetchall()

    return asked


@pytest.fixture
def recorded(rows):
    """Return a function that lists (status, key, sweep) of the trained networks in the store."""
    return lambda: rows(
        "SELECT r.status, k.value, s.value FROM runs r JOIN tags k ON k.run_uuid = r.run_uuid AND "
        "k.key = 'nnexp.run_key' LEFT JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'nnexp.sweep_id'"
    )


@pytest.fixture
def parents(rows):
    """Return a function that lists (id, status) of the sweeps in the store, oldest first."""
    return lambda: rows(
        "SELECT r.run_uuid, r.status FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid AND "
        "t.key = 'nnexp.sweep' ORDER BY r.start_time, r.run_uuid"
    )


def table_of(ended):
    """Return the summary that a sweep printed."""
    return ended.out.split(" runs, recorded as")[0].rpartition("\n")[0]


def artifacts_of(rows, seed):
    """Return the artifact directory of the finished run with this seed."""
    found = rows(
        "SELECT artifact_uri FROM runs JOIN params USING (run_uuid) WHERE status = 'FINISHED' "
        f"AND key = 'seed' AND params.value = '{seed}'"
    )
    return Path(found[0][0].removeprefix("file://"))


# --- the plan


def points(configure, *seeds):
    config = [configure(f"seed={seed}") for seed in seeds]
    dataset = load(config[0].dataset)
    return [Point(c, dataset, run_key(c, dataset), f"seed {c.seed}") for c in config]


def test_the_plan_says_what_is_done_failed_and_new(configure):
    all_points = points(configure, *range(6))
    known = {all_points[0].key: ({"FINISHED"}, 1), all_points[1].key: ({"FAILED"}, 1)}
    known |= {all_points[2].key: ({"FAILED", "FINISHED"}, 1), all_points[3].key: ({"KILLED"}, 1)}
    found = plan(all_points, known, "none")
    assert [point.config.seed for point in found.todo] == [3, 4, 5]
    assert [point.config.seed for point in found.failed] == [1]
    assert str(found) == "6 runs: 2 done, 1 failed before (retry=failed runs them again), 3 new, about 1 s"
    assert [p.config.seed for p in plan(all_points, known, "failed").todo] == [1, 3, 4, 5]
    again = plan(all_points, known, "all")
    assert (len(again.todo), again.attempt) == (6, 2)


def test_a_plan_is_printed_and_nothing_is_recorded(nnexp, store, rows):
    ended = nnexp("train", "-m", "figures=false", "plan=true", "seed=range(600)")
    assert ended.status == 0
    assert ended.err.startswith("600 runs: 600 new, about ")
    assert ended.out == ""
    assert nnexp("train", "plan=true").err.splitlines()[-1] == "1 run: 1 new, about 1 s"
    assert rows("SELECT count(*) FROM runs") == [(0,)]


def test_a_sweep_typed_again_trains_nothing_and_prints_the_same(nnexp, store, rows):
    typed = ("train", "-m", "figures=false", "seed=range(5)", "learning_rate=0.1,0.5", "epochs=20")
    first = nnexp(*typed)
    count = rows("SELECT count(*) FROM runs")
    second = nnexp(*typed)
    assert "10 runs: 10 done, 0 new" in second.err
    assert second.out == first.out
    assert rows("SELECT count(*) FROM runs") == count


def test_a_larger_sweep_runs_only_new_points_and_summarises_all(nnexp, store, recorded):
    nnexp("train", "-m", "figures=false", "seed=range(4)", "epochs=20")
    nnexp("train", "seed=4", "epochs=20", "figures=false", "model=false")
    ended = nnexp("train", "-m", "figures=false", "seed=range(8)", "epochs=20")
    assert "8 runs: 5 done, 3 new" in ended.err
    assert len(recorded()) == 8
    sweep_id = ended.out.split("recorded as sweep ")[1].split()[0]
    (row,) = json.loads(nnexp("summarize", "--sweep", sweep_id, "--by", "init", "--format", "json").out)
    assert row["n"] == 8


def test_of_many_settings_the_best_are_printed_and_the_command_that_prints_all(nnexp):
    ended = nnexp("train", "-m", "figures=false", "learning_rate=range(1,36)", "seed=1,2", "epochs=20")
    assert "note: the best 30 of 35 settings; nnexp summarize --sweep" in ended.err
    table, sweep_id = ended.out.split("\n\n")[0], ended.out.split("recorded as sweep ")[1].split()[0]
    whole = nnexp("summarize", "--sweep", sweep_id).out
    assert (len(table.splitlines()), len(whole.splitlines())) == (32, 37)
    shown = nnexp("show", sweep_id)
    assert [table in shown.out, "the best 30 of 35" in shown.err] == [True, True]


@pytest.mark.parametrize("how", [[], ["retry=failed"]])
def test_finished_runs_with_empty_or_missing_files_are_named_and_trained_again(
    nnexp, store, recorded, rows, how
):
    sweep = ["train", "-m", "seed=range(4)", "epochs=20", "figures=false"]
    first = nnexp(*sweep)
    (artifacts_of(rows, 0) / "weights.npz").write_bytes(b"")
    (artifacts_of(rows, 1) / "config.yaml").unlink()
    again = nnexp(*sweep, *how)
    assert again.status == 0
    lines = [line for line in again.err.splitlines() if line.startswith("note: run ")]
    assert ["its weights.npz is empty" in lines[0], "its config.yaml is missing" in lines[1]] == [True] * 2
    assert "4 runs: 2 done, 2 new" in again.err
    assert table_of(again) == table_of(first)
    assert sorted(status for status, _, _ in recorded()) == ["FINISHED"] * 4 + ["KILLED"] * 2
    assert "4 runs: 4 done, 0 new" in nnexp(*sweep).err


def test_a_sweep_that_has_lost_the_keys_of_its_runs_is_recorded_again(nnexp, store, parents):
    sweep = ["train", "-m", "seed=0,1", "epochs=20", "figures=false"]
    first = nnexp(*sweep)
    ((parent, _),) = parents()
    (keys,) = store.parent.glob(f"mlartifacts/*/nnexp/{parent}/artifacts/run_keys.txt")
    keys.write_bytes(b"")
    again = nnexp(*sweep)
    assert (again.status, table_of(again)) == (0, table_of(first))
    assert [status for _, status in parents()] == ["FINISHED"] * 2


def test_a_single_run_whose_weights_are_missing_is_trained_again(nnexp, store, rows):
    alone = ["train", "seed=3", "epochs=20", "figures=false", "model=false"]
    assert nnexp(*alone).status == 0
    (artifacts_of(rows, 3) / "weights.npz").unlink()
    again = nnexp(*alone)
    assert (again.status, "is already recorded" in again.err) == (0, False)
    assert sorted(rows("SELECT status FROM runs")) == [("FINISHED",), ("KILLED",)]
    assert "is already recorded" in nnexp(*alone).err


def test_force_makes_a_new_attempt_and_summaries_count_one(nnexp, store, recorded, rows):
    first = nnexp("train", "-m", "figures=false", "seed=1,2", "epochs=5")
    ended = nnexp("train", "-m", "figures=false", "seed=1,2", "epochs=5", "force=true")
    assert "2 runs: 2 again (attempt 2)" in ended.err
    assert table_of(ended) == table_of(first)
    assert len(recorded()) == 4
    assert rows("SELECT value, count(*) FROM tags WHERE key = 'nnexp.attempt' GROUP BY value") == [("2", 2)]
    names = {name for (name,) in rows("SELECT name FROM runs WHERE name NOT LIKE 'sweep%'")}
    plain = {f"gender lr=0.1 init=normal seed={seed}" for seed in (1, 2)}
    assert names == plain | {f"{name} #2" for name in plain}
    assert "attempt 3" in nnexp("train", "-m", "figures=false", "seed=1,2", "epochs=5", "retry=all").err


def test_zipped_ranges_move_side_by_side(nnexp, store, rows):
    typed = ("learning_rate=0.1,0.2,0.3", "epochs=5,6,7", "seed=1,2", "zip=[learning_rate,epochs]")
    assert "6 runs: 6 new" in nnexp("train", "-m", "figures=false", *typed).err
    pairs = rows(
        "SELECT DISTINCT a.value, b.value FROM params a JOIN params b ON a.run_uuid = b.run_uuid JOIN tags t "
        "ON t.run_uuid = a.run_uuid AND t.key = 'nnexp.run_key' "
        "WHERE a.key = 'learning_rate' AND b.key = 'epochs' ORDER BY 1"
    )
    assert pairs == [("0.1", "5"), ("0.2", "6"), ("0.3", "7")]


def test_a_key_that_some_swept_options_have_applies_there_and_the_others_run_once(nnexp, store, rows):
    typed = ("optimizer=sgd,adam", "optimizer.beta1=0.5,0.9", "epochs=5", "figures=false")
    planned = nnexp("train", "-m", *typed, "plan=true")
    assert planned.err.splitlines()[:3] == [
        "optimizer=sgd has no optimizer.beta1: it is ignored there, and equal points run once",
        "1 of 4 points repeat other points; each runs once",
        "3 runs: 3 new, about 1 s",
    ]
    assert nnexp("train", "-m", *typed).status == 0
    found = rows("SELECT value, count(*) FROM params WHERE key = 'optimizer.beta1' GROUP BY value ORDER BY 1")
    assert found == [("0.5", 1), ("0.9", 1), ("none, 0.5, 0.9", 1)]
    assert "3 runs: 3 done, 0 new" in nnexp("train", "-m", *typed).err


def test_a_sweep_has_the_curves_of_its_best_run_for_the_uis_charts(nnexp, store, rows):
    nnexp("train", "-m", "figures=false", "learning_rate=0.1,1", "epochs=1000", "log_every=1")
    points = (
        "SELECT m.step, m.value FROM metrics m JOIN runs r USING (run_uuid) "
        "WHERE m.key = '{}' AND r.name LIKE '{}%' ORDER BY m.step"
    )
    for metric in ("loss", "accuracy", "grad_norm"):
        of_best = rows(points.format(f"best_{metric}", "sweep"))
        assert set(of_best) <= set(rows(points.format(metric, "gender lr=1 ")))
        assert len(of_best) == 335  # every third, and the last
        assert [of_best[0][0], of_best[-1][0]] == [0, 1000]


def test_a_sweep_has_the_median_of_its_best_setting_and_the_share_that_solved(nnexp, store, rows):
    nnexp("train", "-m", "figures=false", "learning_rate=0.1,1", "seed=range(3)", "epochs=20")
    best = json.loads(nnexp("summarize", "--format", "json", "--top", "1").out)[0]
    found = rows("SELECT key, value FROM metrics WHERE key IN ('best_median_loss', 'best_solved') ORDER BY 1")
    assert found == [("best_median_loss", best["median"]), ("best_solved", best["solved"])]


def test_excluded_points_are_left_out(nnexp, store, rows):
    typed = (
        "init=ones,normal",
        "dataset=xor,gender",
        "epochs=5",
        "exclude=\"init == 'ones' and dataset == 'xor'\"",
    )
    ended = nnexp("train", "-m", "figures=false", *typed)
    assert "1 of 4 points are left out by exclude" in ended.err
    assert "3 runs: 3 new" in ended.err


CODE = "@pd.io.common.os.system('touch canary')"


def test_code_in_exclude_and_where_is_refused_and_not_executed(nnexp, store, tmp_path):
    assert nnexp("train", "epochs=5", "figures=false", "model=false").status == 0
    before = sorted(tmp_path.rglob("*"))
    for ended in (
        nnexp("train", "-m", "seed=1,2", f'exclude="{CODE}"'),
        nnexp("summarize", "--where", CODE),
        nnexp("summarize", "--where", "seed.map(print)"),
    ):
        assert (ended.status, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_code_in_the_exclude_of_an_experiment_file_is_refused_and_not_executed(nnexp, store, tmp_path):
    (tmp_path / "experiments").mkdir()
    foreign = tmp_path / "experiments" / "foreign.yaml"
    sweeps = "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: range(3)\n"
    foreign.write_text(f'# @package _global_\nexclude: "{CODE}"\n{sweeps}')
    ended = nnexp("train", "experiment=foreign", "epochs=5")
    assert (ended.status, ended.out) == (2, "")
    assert f"exclude={CODE}: cannot be read" in ended.err
    assert not (tmp_path / "canary").exists()
    foreign.write_text(f"# @package _global_\nexclude: seed == 1\n{sweeps}")
    assert "2 runs: 2 new" in nnexp("train", "experiment=foreign", "epochs=5", "figures=false").err


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (
            "zip=[learning_rate,epochs] learning_rate=0.1,0.2 epochs=1,2,3",
            "learning_rate has 2, epochs has 3",
        ),
        ("zip=[learning_rate,seed] learning_rate=0.1,0.2", "seed is not swept"),
        ("zip=learning_rate learning_rate=0.1,0.2", "a list of swept keys"),
        ("exclude=nonsense>1 seed=1,2", "exclude=nonsense>1"),
        ("exclude='seed>0' seed=1,2", "leaves no point of 2"),
        ("retry=some seed=1,2", "none, failed, all"),
        ("max_failures=0 seed=1,2", "whole number >= 1"),
        ("force=true,false seed=1,2", "must have one value for the whole sweep"),
        ("executor=cloud seed=1,2", "Known: dask, inline, processes"),
        ("executor=processes executor.workers=0 seed=1,2", "executor.workers=0"),
        ("executor=dask seed=1,2", "scheduler's address"),
        ("executor=dask executor.address=nowhere seed=1,2", "tcp://host"),
    ],
)
def test_a_wrong_request_for_a_sweep_is_refused(nnexp, tmp_path, typed, words):
    ended = nnexp("train", "-m", "figures=false", *typed.split(" "))
    assert ended.status == 2
    assert words in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["zip=[seed]", "exclude='seed>0'"])
def test_keys_for_sweeps_are_refused_for_one_run(nnexp, tmp_path, key):
    ended = nnexp("train", key)
    assert ended.status == 2
    assert "is for a sweep: add -m" in ended.err


# --- failures


@pytest.fixture
def failing(monkeypatch):
    """`failing(error)` makes the engine raise it for a batch that contains the learning rate 0.3."""

    def made(error):
        begin = engine.Batch.__init__

        def refuse(self, model, X, y, weights, rates, *rest, **options):
            if 0.3 in list(rates):
                raise error
            begin(self, model, X, y, weights, rates, *rest, **options)

        monkeypatch.setattr(engine.Batch, "__init__", refuse)

    return made


SWEEP = ("train", "-m", "figures=false", "seed=range(20)", "learning_rate=0.1,0.3,0.5", "epochs=20")


@pytest.mark.parametrize("error", [ZeroDivisionError("of nothing"), SystemExit(0)], ids=["raises", "exits"])
def test_only_points_that_raise_fail_and_this_is_reported_at_once(nnexp, store, recorded, failing, error):
    failing(error)
    ended = nnexp(*SWEEP)
    assert ended.status == 1
    reason = f"{type(error).__name__}: {error}"
    assert f"failed: gender lr=0.3 init=normal seed=0: {reason}" in ended.err.splitlines()
    assert "60 runs, 20 failed, recorded as sweep" in ended.out
    assert re.search(rf"gender lr=0.3 init=normal seed=7 +{re.escape(reason)}\n", ended.out)
    assert sorted({status for status, *_ in recorded()}) == ["FAILED", "FINISHED"]
    assert sum(status == "FAILED" for status, *_ in recorded()) == 20


def test_failed_points_are_run_again_when_asked_for(nnexp, store, recorded, failing, monkeypatch):
    whole = nnexp(*SWEEP, "experiment_name=whole")
    with monkeypatch.context() as patched:
        begin = engine.Batch.__init__
        failing(ValueError("once"))
        nnexp(*SWEEP)
        patched.setattr(engine.Batch, "__init__", begin)
        again = nnexp(*SWEEP)
        assert "60 runs: 40 done, 20 failed before (retry=failed runs them again), 0 new" in again.err
        assert again.status == 1
        assert "ValueError: once" in again.out
        retried = nnexp(*SWEEP, "retry=failed")
    assert retried.status == 0
    assert "60 runs: 40 done, 20 new" in retried.err
    assert table_of(retried) == table_of(whole)


def test_a_sweep_stops_after_max_failures(nnexp, store, recorded, failing):
    failing(ValueError("no"))
    ended = nnexp(*SWEEP, "max_failures=3")
    assert ended.status == 1
    assert "stopping: 3 points failed; max_failures=3" in ended.err
    assert sum(status == "FAILED" for status, *_ in recorded()) == 3
    assert "60 runs, 3 failed" in ended.out


# --- a second command


def killed_sweep(store, condition):
    """Start a sweep of 600 runs, and kill it when the condition holds."""
    typed = [NNEXP, "train", "-m", "figures=false", "seed=range(600)", "epochs=50"]
    running = subprocess.Popen(typed, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not condition():
        assert running.poll() is None, "ended before it could be killed"
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()


def test_a_killed_sweep_is_finished_by_the_same_command(nnexp, store, recorded, parents):
    typed = ("train", "-m", "figures=false", "seed=range(600)", "epochs=50")
    killed_sweep(store, lambda: len(recorded()) > 100)
    done = len(recorded())
    assert [status for _, status in parents()] == ["RUNNING"]
    ended = nnexp(*typed)
    assert f"600 runs: {done} done, {600 - done} new" in ended.err
    assert [status for _, status in parents()] == ["KILLED", "FINISHED"]
    old, new = (id_ for id_, _ in parents())
    found = recorded()
    assert len({key for _, key, _ in found}) == len(found) == 600
    assert {sweep_id for *_, sweep_id in found} == {new}
    client = MlflowClient(f"sqlite:///{store}")
    assert client.get_run(old).data.tags["nnexp.superseded_by"] == new
    assert client.get_run(old).data.tags["nnexp.reason"] == "its process died"
    assert not (store.parent / "mlflow.db.owners").exists()


def stopped_between_transactions(running, store):
    """Stop the process while it does not use the store, so that others need not wait for a lock."""
    with closing(sqlite3.connect(store, timeout=0, isolation_level=None)) as connection:
        while True:
            running.send_signal(signal.SIGSTOP)
            os.waitpid(running.pid, os.WUNTRACED)
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                running.send_signal(signal.SIGCONT)
                time.sleep(0.01)
            else:
                connection.execute("ROLLBACK")
                return


def test_a_running_sweep_is_not_touched(nnexp, store, recorded, parents):
    typed = [NNEXP, "train", "-m", "figures=false", "seed=range(600)", "epochs=50"]
    running = subprocess.Popen(typed, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not recorded():
        time.sleep(0.01)
    stopped_between_transactions(running, store)
    try:
        assert nnexp("train", "epochs=5", "figures=false", "model=false").status == 0
        assert [status for _, status in parents()] == ["RUNNING"]
    finally:
        running.send_signal(signal.SIGCONT)
    assert running.wait(240) == 0
    assert [status for _, status in parents()] == ["FINISHED"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("status = 'KILLED'", "was set to KILLED by another command while"),
        ("lifecycle_stage = 'deleted'", "was deleted while"),
    ],
)
def test_a_sweep_that_was_ended_or_deleted_meanwhile_fails_and_says_so(
    nnexp, store, recorded, parents, monkeypatch, change, words
):
    train = sweeper.run_points

    def meanwhile(*args):
        stopped = train(*args)
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.execute(f"UPDATE runs SET {change} WHERE status = 'RUNNING'")
        return stopped

    sweep = ["train", "-m", "seed=0,1", "epochs=20", "figures=false"]
    monkeypatch.setattr(sweeper, "run_points", meanwhile)
    ended = nnexp(*sweep)
    assert (ended.status, words in ended.err, "Traceback" in ended.err) == (1, True, False)
    assert ended.err.endswith("what is recorded is kept; the same command finishes the rest\n")
    monkeypatch.setattr(sweeper, "run_points", train)
    assert "2 runs: 2 done, 0 new" in nnexp(*sweep).err
    assert [status for status, _, _ in recorded()] == ["FINISHED"] * 2
    assert parents()[-1][1] == "FINISHED"


def test_a_single_run_whose_process_died_is_killed_at_the_next_start(nnexp, store, rows):
    typed = [NNEXP, "train", "epochs=2000000000", "log_every=100000", "figures=false", "model=false"]
    running = subprocess.Popen(typed, stderr=subprocess.DEVNULL)
    while not rows("SELECT 1 FROM runs"):
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    nnexp("train", "epochs=5", "figures=false", "model=false")
    assert rows("SELECT status FROM runs ORDER BY start_time") == [("KILLED",), ("FINISHED",)]


def test_a_full_disk_stops_the_sweep_and_the_same_command_finishes_it(nnexp, store, recorded, monkeypatch):
    from nnexp.tracking.database import DatabaseWriter

    put, count = DatabaseWriter._put, iter(range(10**6))

    def full(self, run_id, files):
        if next(count) == 150:
            raise OSError(28, "No space left on device")
        put(self, run_id, files)

    with monkeypatch.context() as patched:
        patched.setattr(DatabaseWriter, "_put", full)
        patched.setattr("nnexp.pipeline.sweep.CHUNK_RUNS", 50)
        ended = nnexp("train", "-m", "figures=false", "seed=range(300)", "epochs=20")
    assert ended.status == 1
    assert "No space left on device" in ended.err
    assert "the same command" in ended.err
    assert 0 < len(recorded()) < 300
    assert nnexp("train", "-m", "figures=false", "seed=range(300)", "epochs=20").status == 0
    assert len({key for _, key, _ in recorded()}) == len(recorded()) == 300


# --- executors


def test_worker_processes_and_the_main_process_give_the_same_results(configure):
    some = points(configure, *range(5))
    here = {
        point.key: result
        for _, ended in sweep.execute(some, sweep.Executor("inline"))
        for point, result in ended
    }
    there = {
        point.key: result
        for _, ended in sweep.execute(some, sweep.Executor("processes", workers=2))
        for point, result in ended
    }
    assert {k: r.curves["loss"].tolist() for k, r in here.items()} == {
        k: r.curves["loss"].tolist() for k, r in there.items()
    }


def test_a_sweep_that_is_stopped_while_it_reads_its_runs_does_not_wait_for_itself(nnexp, store, monkeypatch):
    monkeypatch.setattr(database, "TRY_SECONDS", 0.1)
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.5)
    read_runs, decode, read = sweeper.read_runs, json.loads, []

    def decoded(text):
        read.append(text)
        if len(read) == 100:  # in the midst of the runs
            raise KeyboardInterrupt
        return decode(text)

    def stopping(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(reading.json, "loads", decoded)
            return read_runs(*arguments)

    monkeypatch.setattr(sweeper, "read_runs", stopping)
    ended = nnexp("train", "-m", "dataset=and", "seed=range(300)", "epochs=1", "figures=false")
    assert (ended.status, len(read)) == (130, 100)
    (parent,) = open_store(create=False).reader.entries("sweep", 9, None)
    assert parent.status == "KILLED"
