"""Populations: each member is, to the bit, the run that the same point is as a run of its own."""

import random
import sqlite3
from contextlib import closing

import pytest

import nnexp as nn
from nnexp.analysis.report.findings import Findings
from nnexp.pipeline.population.space import Space
from nnexp.tracking.find import get_curve, get_sweep
from nnexp.tracking.store import open_store
from tests.conftest import FLOWERS
from tests.pipeline.drawn import check_space, drawn_space, rows_of, sweep_ids
from tests.training import deadly

QUICK = ["dataset=xor", "epochs=30", "log_every=10", "figures=false"]


def files(tmp_path):
    return sorted(tmp_path.rglob("part-*.parquet"))


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
    check_space(typed)


def test_points_drawn_over_every_key_are_the_same_as_members_and_as_runs(store, tmp_path):
    (tmp_path / "flowers.csv").write_text(FLOWERS)
    rng = random.Random(3)
    assert sum(check_space(drawn_space(rng, "flowers.csv")) for _ in range(2)) > 10


def record(nnexp, *typed):
    done = nnexp("train", "-m", "record=table", *QUICK, *typed)
    assert done.status == 0, done.err
    return done


def test_a_population_is_one_run_with_a_row_for_each_network(store, nnexp, tmp_path):
    done = record(nnexp, "learning_rate=0.1,0.5", "seed=range(3)")
    assert done.err.startswith("6 networks: 6 new")
    (sweep_id,) = sweep_ids()
    assert f"6 networks, recorded as sweep {sweep_id}" in done.out
    rows = rows_of(sweep_id)
    assert [row["number"] for row in rows] == list(range(6))  # the last key varies fastest
    assert [(row["params.learning_rate"], row["params.seed"]) for row in rows[2:4]] == [(0.1, 2), (0.5, 0)]
    with closing(sqlite3.connect("mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    parent = get_sweep(open_store(create=False), sweep_id)
    assert parent.status == "FINISHED"
    assert (
        parent.tags.items()
        >= {"nnexp.record": "table", "nnexp.runs": "6", "nnexp.outcome": "complete"}.items()
    )
    assert parent.params == {"learning_rate": "0.1, 0.5", "seed": "0, 1, 2"}


def test_a_population_has_the_report_the_figures_and_the_description_of_a_sweep(
    store, nnexp, blank_pictures, tmp_path
):
    grid = ["learning_rate=0.1,5", "seed=range(3)", "curves=true"]
    record(nnexp, *grid, "figures=true")
    (sweep_id,) = sweep_ids()
    (place,) = tmp_path.rglob(f"{sweep_id}/artifacts")
    names = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    drawn = {"loss_over_seeds", "loss_curves", "solved_curves", "loss_by_learning_rate"}
    assert {"report.html", "summary.csv", "summary.md", *(f"figures/{n}.png" for n in drawn)} <= names
    report = (place / "report.html").read_text()
    assert "6 networks" in report
    assert f"{sweep_id}/3" in report
    assert "<dt>optimizer</dt><dd>sgd</dd>" in report  # what all of them share
    parent = get_sweep(open_store(create=False), sweep_id)
    assert parent.name == "sweep: 6 networks over learning_rate, seed"
    told = parent.tags["mlflow.note.content"]
    assert "**6 networks**: 6 done" in told
    assert f"- Best network: xor lr=5 init=normal seed=1, {sweep_id}/4: loss" in told
    assert {"best_loss", "best_accuracy", "best_median_loss"} <= parent.metrics.keys()
    assert [epoch for epoch, _ in get_curve(open_store(create=False), sweep_id, "best_loss")] == [
        0,
        10,
        20,
        30,
    ]
    again = record(nnexp, *grid, "figures=true", "question=Which rate?")
    assert again.err.startswith("6 networks: 6 done, 0 new")
    assert "Which rate?" in (place / "report.html").read_text()


def test_a_population_without_figures_has_a_report_all_the_same(store, nnexp, tmp_path):
    record(nnexp, "seed=range(3)")
    (report,) = tmp_path.rglob("report.html")
    assert "3 networks" in report.read_text()
    assert not list(tmp_path.rglob("*.png"))


def test_a_population_says_of_a_sweep_what_its_runs_say(store, nnexp):
    grid = ["dataset=gender,xor", "hidden=[2],[]", "learning_rate=0.1,5", "seed=range(3)"]
    nnexp("train", "-m", *QUICK, *grid, "experiment_name=runs")
    record(nnexp, *grid)
    opened = open_store(create=False)
    runs, networks = (Findings.read(opened, get_sweep(opened, sweep_id)) for sweep_id in sweep_ids())
    assert networks.population is not None
    for said in ("answers", "by_words", "fixed", "settings", "metrics", "ranges", "data", "headline"):
        assert getattr(networks, said) == getattr(runs, said), said
    assert list(networks.counts.values()) == list(runs.counts.values())
    best, worst = networks.named(networks.best(2), networks.worst(2))
    same = ["run_name", "loss", "seed"]
    assert best[same].values.tolist() == runs.best(2)[same].values.tolist()
    assert worst[same].values.tolist() == runs.worst(2)[same].values.tolist()


def test_keys_are_computed_once_though_the_experiment_has_another_population(store, nnexp, monkeypatch):
    record(nnexp, "seed=range(3)")
    computed, run_keys = [], Space.run_keys
    monkeypatch.setattr(
        Space, "run_keys", lambda self, points: computed.append(len(points)) or run_keys(self, points)
    )
    record(nnexp, "seed=range(5)")
    assert computed == [5]


def test_the_same_command_has_nothing_left_to_do(store, nnexp, tmp_path):
    first = record(nnexp, "seed=range(4)")
    before = [path.stat().st_mtime_ns for path in files(tmp_path)]
    again = record(nnexp, "seed=range(4)")
    assert again.err.startswith("4 networks: 4 done, 0 new")
    assert again.out == first.out
    assert [path.stat().st_mtime_ns for path in files(tmp_path)] == before


def test_a_plan_records_nothing(store, nnexp):
    done = record(nnexp, "seed=range(1000000)", "plan=true")
    assert done.err.startswith("1000000 networks: 1000000 new, about")
    assert sweep_ids() == []


def test_force_trains_all_again_as_another_attempt(store, nnexp):
    record(nnexp, "seed=0,1")
    done = record(nnexp, "seed=0,1", "force=true")
    assert "2 again (attempt 2)" in done.err
    first, second = map(rows_of, sweep_ids())
    assert [row["attempt"] for row in (*first, *second)] == [1, 1, 2, 2]
    assert [row["weights_sha256"] for row in first] == [row["weights_sha256"] for row in second]


def test_points_that_repeat_or_are_excluded_keep_their_numbers_free(store, nnexp):
    done = record(
        nnexp, "optimizer=sgd,momentum", "optimizer.momentum=0.5,0.9", "seed=0,1,0", 'exclude="seed == 1"'
    )
    assert "6 of 12 points repeat other points" in done.err
    assert "3 of 12 points are left out by exclude" in done.err
    (sweep_id,) = sweep_ids()
    assert [row["number"] for row in rows_of(sweep_id)] == [0, 6, 9]
    assert "it was left out, or repeats another" in nnexp("show", f"{sweep_id}/5").err


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["record=tabel"], "record=tabel: must be runs, table"),
        (["record=table", "seed=-1,0"], "point 1 of 2: seed=-1: must be a whole number >= 0"),
        (["record=table", "seed=range(3)", "epochs=10,0"], "point 2 of 6: epochs=0: must be"),
        (["record=table", "patience=0,3", "seed=0,1"], "point 1 of 4: patience=3 waits for val_loss to fall"),
        (["record=table", "seed=range(4)", "hidden=[2],[0]"], "point 2 of 8: hidden=[0]: must be a list"),
        (["record=runs,table", "seed=0,1"], "record"),
        (["curves=true", "seed=0,1"], "curves=true: is for record=table; runs always have their curves"),
        (["weights=final", "seed=0,1"], "weights=final: is for record=table"),
        (["record=table", "weights=first", "seed=0,1"], "weights=first: must be none, final, all"),
        (["record=table", "seed=0,1", "exclude='seed >= 0'"], "exclude=seed >= 0: leaves no point of 2"),
        (
            ["record=table", "seed=range(65536)", "weights=final", "hidden=[600]"],
            "weights=final: a part of 65,536 networks would have 1.3 GB, at most 1.1",
        ),
        (["record=table", "experiment_name=a,b"], "experiment_name must be the same"),
    ],
)
def test_a_wrong_request_is_refused_and_nothing_is_recorded(store, nnexp, typed, says):
    done = nnexp("train", "-m", *typed)
    assert (done.status, says in done.err) == (2, True), done.err
    assert sweep_ids() == []


def test_one_run_is_no_population(store, nnexp):
    done = nnexp("train", "record=table")
    assert done.status == 2
    assert "record=table is for a sweep" in done.err


def test_points_recorded_as_runs_or_in_another_population_are_taken_over(store, nnexp, monkeypatch):
    assert nnexp("train", "-m", *QUICK, "seed=0,1").status == 0
    record(nnexp, "seed=2,3")
    trained = count_trained(monkeypatch)
    done = record(nnexp, "seed=range(6)")
    assert done.err.startswith("6 networks: 4 done, 2 new")
    assert trained == [2]
    runs, other, sweep_id = sweep_ids()
    rows = rows_of(sweep_id)
    ours = {run["seed"]: run for run in nn.load_runs(sweep=runs).to_dict("records")}
    for seed in (0, 1):
        assert rows[seed]["recorded_as"] == ours[seed]["run_id"]
        assert rows[seed]["metrics.loss"] == ours[seed]["loss"]
        assert rows[seed]["weights_sha256"].hex() == ours[seed]["weights_sha256"]
    assert [row["recorded_as"] for row in rows[2:]] == [f"{other}/0", f"{other}/1", None, None]
    same = ("run_key", "outcome", "last_epoch", "weights_sha256", "metrics.loss", "metrics.accuracy")
    for row, old in zip(rows[2:4], rows_of(other), strict=True):
        assert {name: row[name] for name in same} == {name: old[name] for name in same}


def test_a_point_without_the_curves_that_are_asked_for_is_trained_again(store, nnexp, monkeypatch):
    record(nnexp, "seed=0,1")
    trained = count_trained(monkeypatch)
    done = record(nnexp, "seed=0,1", "curves=true")
    assert done.err.startswith("2 networks: 2 new")
    assert trained == [2]


def test_a_point_of_a_population_is_not_trained_again_as_a_run(store, nnexp):
    record(nnexp, "seed=0,1")
    done = nnexp("train", "-m", *QUICK, "seed=range(3)")
    assert done.err.startswith("3 runs: 2 done, 1 new")
    assert "3 runs, recorded as sweep" in done.out


def test_a_single_run_that_is_a_member_is_not_trained_again(store, nnexp, monkeypatch):
    record(nnexp, "seed=0,1")
    (sweep_id,) = sweep_ids()
    trained = count_trained(monkeypatch)
    assert "1 run: 1 done, 0 new" in nnexp("train", *QUICK, "seed=1", "plan=true").err
    done = nnexp("train", *QUICK, "seed=1")
    assert done.status == 0, done.err
    assert f"recorded as {sweep_id}/1" in done.out
    row = rows_of(sweep_id)[1]
    assert done.out.startswith(f"loss {row['metrics.loss']:.4g} in 30 epochs, finished, accuracy")
    assert f"as a member of a population, and is not run again; nnexp promote {sweep_id}/1" in done.err
    run = nn.train(dataset="xor", epochs=30, log_every=10, seed=1)
    assert (run.run_id, run.loss) == (f"{sweep_id}/1", row["metrics.loss"])
    assert trained == []
    assert nnexp("train", *QUICK, "seed=2").status == 0
    assert nnexp("promote", f"{sweep_id}/0").status == 0
    assert f"recorded as {sweep_id}" not in nnexp("train", *QUICK, "seed=0").out  # it is a run now


def count_trained(monkeypatch):
    """Return a list that is filled with the number of runs of each shard that is trained."""
    from nnexp.training import train

    trained, shard = [], train.Shard

    def counted(dataset, columns, device=None):
        trained.append(len(columns))
        return shard(dataset, columns, device)

    monkeypatch.setattr(train, "Shard", counted)
    return trained


def test_a_damaged_part_is_told_and_only_what_it_lacks_is_trained_again(store, nnexp, tmp_path, monkeypatch):
    monkeypatch.setattr("nnexp.pipeline.population.parts.PART", 4)
    monkeypatch.setattr("nnexp.pipeline.population.sweep.PART", 4)
    monkeypatch.setattr("nnexp.tracking.frames.PART", 4)
    record(nnexp, "seed=range(10)")
    (sweep_id,) = sweep_ids()
    before = rows_of(sweep_id)
    second = files(tmp_path)[1]
    content = bytearray(second.read_bytes())
    content[100] ^= 1
    second.write_bytes(bytes(content))
    trained = count_trained(monkeypatch)
    done = record(nnexp, "seed=range(10)")
    assert f"note: members/{second.name} is damaged: what it lacks is trained again" in done.err
    assert "10 networks: 6 done, 4 new" in done.err
    assert trained == [4]
    assert sweep_ids() == [sweep_id]
    assert [path.name[:15] for path in files(tmp_path)] == [
        "part-000000.001",
        "part-000001.001",
        "part-000001.002",
        "part-000002.001",
    ]
    assert rows_of(sweep_id) == before


@pytest.mark.parametrize(
    "executor", [[], ["executor=processes", "executor.workers=2"]], ids=["here", "workers"]
)
def test_points_that_fail_are_rows_and_are_run_again_only_if_asked(
    store, nnexp, three_wide_fails, executor, monkeypatch
):
    typed = ["record=table", "hidden=[2],[3]", "seed=0,1", *QUICK]
    if executor:
        monkeypatch.setattr("nnexp.training.lots.train_lot", deadly.failing_lot)
    done = nnexp("train", "-m", *typed, *executor)
    assert done.status == 1
    (sweep_id,) = sweep_ids()
    assert "4 networks, 2 failed, recorded as sweep" in done.out
    assert f"failed: {sweep_id}/2: MemoryError: no room" in done.err
    rows = rows_of(sweep_id)
    assert [row["status"] for row in rows] == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    assert [row["reason"] for row in rows] == [None, None, *["MemoryError: no room"] * 2]
    assert (rows[2]["weights_sha256"], rows[2]["metrics.loss"], rows[2]["outcome"]) == (None, None, None)
    assert get_sweep(open_store(create=False), sweep_id).status == "FAILED"
    again = nnexp("train", "-m", *typed)
    assert again.err.startswith("4 networks: 2 done, 2 failed before (retry=failed runs them again), 0 new")
    monkeypatch.undo()


def test_failed_points_are_trained_again_in_the_same_population(store, nnexp, monkeypatch):
    from nnexp.training import train

    shard, typed = train.Shard, ["record=table", "seed=range(4)", *QUICK]

    def failing(dataset, columns, device):
        if 2 in columns.seed:
            raise MemoryError("no room")
        return shard(dataset, columns, device)

    monkeypatch.setattr(train, "Shard", failing)
    assert nnexp("train", "-m", *typed).status == 1
    monkeypatch.setattr(train, "Shard", shard)
    trained = count_trained(monkeypatch)
    done = nnexp("train", "-m", *typed, "retry=failed")
    assert (done.status, trained) == (0, [1])
    (sweep_id,) = sweep_ids()
    assert [row["status"] for row in rows_of(sweep_id)] == ["FINISHED"] * 4
    assert get_sweep(open_store(create=False), sweep_id).status == "FINISHED"


def test_max_failures_stops_and_the_same_command_goes_on(store, nnexp, monkeypatch, three_wide_fails):
    typed = ["record=table", "hidden=[3],[2]", "seed=0,1", *QUICK]
    done = nnexp("train", "-m", *typed, "max_failures=1")
    assert done.status == 1
    assert "stopped after" in done.err
    (sweep_id,) = sweep_ids()
    assert "nnexp.outcome" not in get_sweep(open_store(create=False), sweep_id).tags
    assert nnexp("train", "-m", *typed).status == 1
    assert sweep_ids() == [sweep_id]
    assert [row["status"] for row in rows_of(sweep_id)] == ["FAILED", "FAILED", "FINISHED", "FINISHED"]


def test_two_at_once_are_refused_in_one_line(store, nnexp):
    from nnexp.tracking.experiments import ensure_experiment
    from nnexp.tracking.write import open_writer

    record(nnexp, "seed=0,1")
    (sweep_id,) = sweep_ids()
    opened = open_store(create=False)
    typed = ["record=table", "seed=0,1,2", *QUICK]
    with open_writer(opened, ensure_experiment(opened, "nnexp")) as writer:
        writer.resume(sweep_id)
        done = nnexp("train", "-m", "record=table", "seed=0,1", *QUICK)
        assert (done.status, done.out) == (2, "")
        assert done.err == (
            f"nnexp: another command is recording it as sweep {sweep_id}: when it has ended, this one does "
            "what is left\n"
        )
        assert nnexp("train", "-m", *typed).status == 0  # another population
        writer.finish(sweep_id, "KILLED", {}, {})
    assert record(nnexp, "seed=0,1").err.startswith("2 networks: 2 done, 0 new")


def test_a_part_that_takes_long_is_written_before_it_is_whole(store, nnexp, tmp_path, monkeypatch):
    monkeypatch.setattr("nnexp.pipeline.population.parts.UNSAVED_SECONDS", 0.0)
    record(nnexp, "hidden=[2],[3]", "seed=0,1")
    assert [path.name[:15] for path in files(tmp_path)] == ["part-000000.001", "part-000000.002"]
    (sweep_id,) = sweep_ids()
    assert [row["number"] for row in rows_of(sweep_id)] == [0, 1, 2, 3]
