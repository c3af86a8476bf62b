"""A search asks Optuna for batches of trials, records them, and goes on where it stopped."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import nnexp as package
from nnexp.analysis.statistics import median
from nnexp.pipeline import sweep as sweeps
from nnexp.pipeline.search import loop
from nnexp.tracking.find import find_artifact, get_sweep
from nnexp.tracking.read import load_runs
from nnexp.tracking.searches import SEARCH_FILE, find_search
from nnexp.tracking.store import open_store
from tests.real import statuses

SPACE = ["dataset=xor", "learning_rate=tag(log,interval(0.01,5))", "hidden.0=range(2,5)", "seed=range(3)"]
QUICK = ["epochs=30", "figures=false", "search.batch=4"]


@pytest.fixture
def search(nnexp, store):
    """`search("search.trials=8")` runs the command; returns how it ended, and the search's record."""

    def run(*typed, status=0):
        ended = nnexp("search", *SPACE, *QUICK, *typed)
        assert ended.status == status, ended.err
        return ended, newest()

    return run


def newest():
    store = open_store(create=False)
    newest = next(entry.run_id for entry in store.reader.entries("sweep", 1, None))
    return find_search(store, get_sweep(store, newest))


def told(found):
    return [replace(trial, confirmed=()) for trial in found.trials]


def test_a_trial_is_judged_by_the_median_of_its_runs(search):
    _, found = search("search.trials=4", "search.confirm=0")
    runs = load_runs(sweep="last").set_index("run_key")
    assert len(runs) == 12
    for trial in found.trials:
        assert trial.value == float(median(runs.loc[list(trial.keys), "loss"].to_numpy()))
        assert set(runs.loc[list(trial.keys), "learning_rate"]) == {trial.params["learning_rate"]}
        assert set(runs.loc[list(trial.keys), "hidden"]) == {f"[{trial.params['hidden.0']}]"}


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_an_interrupted_search_has_the_trials_of_an_undisturbed_one(search, monkeypatch, sampler):
    _, whole = search(f"search={sampler}", "search.trials=8", "experiment_name=whole")
    record, calls = loop.run_points, []

    def dying(*args):
        calls.append(args)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt
        return record(*args)

    monkeypatch.setattr(loop, "run_points", dying)
    typed = [f"search={sampler}", "search.trials=8", "experiment_name=again"]
    search(*typed, status=130)
    search(*typed, status=130)
    _, again = search(*typed)
    assert len(calls) > 3
    assert again.trials == whole.trials
    assert len({json.dumps(dict(trial.params)) for trial in again.trials}) > 6


@pytest.mark.parametrize(("sampler", "trainings"), [("random", 1), ("tpe", 3)])
def test_batches_train_at_once_if_the_sampler_does_not_learn(search, monkeypatch, sampler, trainings):
    record, calls = loop.run_points, []
    monkeypatch.setattr(loop, "run_points", lambda *args: calls.append(args) or record(*args))
    typed = [f"search={sampler}", "search.trials=10", "search.confirm=0"]
    _, found = search(*typed, "experiment_name=at_once")
    assert len(calls) == trainings
    monkeypatch.setattr(loop, "RUNS_AHEAD", 1)
    _, one_by_one = search(*typed, "experiment_name=by_batch")
    assert len(calls) == trainings + 3
    assert found.trials == one_by_one.trials


def test_a_larger_number_of_trials_continues_as_if_it_had_been_typed_at_once(search, monkeypatch):
    _, whole = search("search.trials=7", "search.confirm=0", "experiment_name=whole")
    search("search.trials=4", "search.confirm=0", "experiment_name=again")
    trained = []
    record = sweeps.child_record
    monkeypatch.setattr(sweeps, "child_record", lambda *args: trained.append(args) or record(*args))
    _, again = search("search.trials=7", "search.confirm=0", "experiment_name=again")
    assert told(again) == told(whole)
    assert len(trained) == 9


def test_the_same_command_does_nothing_when_all_is_done(search):
    search("search.trials=4")
    before = load_runs()
    ended, _ = search("search.trials=4")
    assert "4 done" in ended.err
    assert len(load_runs()) == len(before)


def test_runs_that_are_recorded_are_not_trained_again(search, monkeypatch):
    _, first = search("search=random", "search.trials=4", "search.confirm=0")
    trained = []
    record = sweeps.child_record
    monkeypatch.setattr(sweeps, "child_record", lambda *args: trained.append(args) or record(*args))
    _, again = search("search=random", "search.trials=4", "search.confirm=0", "name=other", "max_failures=9")
    _, other = search("search=random", "search.trials=4", "search.confirm=0", "search.batch=5")
    assert trained == []
    assert told(again) == told(first)
    assert [t.value for t in other.trials if t.params == first.trials[0].params] == [first.trials[0].value]


@pytest.mark.parametrize(("pruner", "rungs"), [("median", range(10, 95, 10)), ("hyperband", [10, 40])])
def test_a_pruned_run_is_the_run_of_as_many_epochs(search, nnexp, pruner, rungs):
    _, found = search("search.trials=16", "epochs=95", f"search.pruner={pruner}", "search.confirm=0")
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    runs = load_runs(sweep="last").set_index("run_key")
    for trial in pruned:
        own = runs.loc[list(trial.keys)]
        assert trial.epochs in rungs
        assert list(trial.curve) == [epoch for epoch in rungs if epoch <= trial.epochs]
        assert set(own["epochs"]) == {trial.epochs}
        assert set(own["outcome"]) == {"pruned"}
    ended = nnexp("rerun", "--sweep", "last")
    assert f"{len(runs)} of {len(runs)} runs are identical" in ended.out
    one = runs.loc[pruned[0].keys[0]]
    typed = [
        f"learning_rate={pruned[0].params['learning_rate']!r}",
        f"hidden={one['hidden']}",
        f"epochs={pruned[0].epochs}",
    ]
    alone = nnexp(
        "train", "dataset=xor", *typed, "seed=0", "figures=false", "model=false", "experiment_name=alone"
    )
    assert alone.status == 0
    (of_alone,) = load_runs("alone").to_dict("records")
    assert (of_alone["run_key"], of_alone["weights_sha256"]) == (pruned[0].keys[0], one["weights_sha256"])


def test_an_interrupted_search_with_a_pruner_has_the_same_verdicts(search, monkeypatch):
    typed = ["search.trials=12", "epochs=95", "search.pruner=hyperband", "search.batch=6"]
    _, whole = search(*typed, "experiment_name=whole")
    record, calls = loop.run_points, []

    def dying(*args):
        calls.append(args)
        if len(calls) == 2:
            record(*args)
            raise KeyboardInterrupt  # the batch is recorded, and not told
        return record(*args)

    monkeypatch.setattr(loop, "run_points", dying)
    search(*typed, "experiment_name=again", status=130)
    _, again = search(*typed, "experiment_name=again")
    assert again.trials == whole.trials
    assert load_runs("again")["run_key"].is_unique


def test_the_best_are_confirmed_on_fresh_seeds(search):
    ended, found = search("search.trials=8", "search.confirm=2")
    runs = load_runs(sweep="last").set_index("run_key")
    again = [trial for trial in found.trials if trial.confirmed]
    best = sorted(found.trials, key=lambda trial: trial.value)[:2]
    assert {trial.keys for trial in again} == {trial.keys for trial in best}
    for trial in again:
        assert sorted(runs.loc[list(trial.confirmed), "seed"]) == [3, 4, 5]
    assert "over 3 fresh seeds" in ended.out


def test_a_trial_whose_runs_diverged_is_the_worst(search):
    _, found = search(
        "search=grid", "dataset=line", "output_activation=identity", "learning_rate=0.01,1e6", "hidden.0=2",
        "search.confirm=0",
    )  # fmt: skip
    assert sorted(np.isinf(trial.value) for trial in found.trials) == [False, True]


def test_a_trial_with_a_run_that_fails_is_failed_and_told(search, three_wide_fails):
    ended, found = search("search=grid", "learning_rate=1", "search.confirm=0", status=1)
    assert sorted(trial.state for trial in found.trials) == ["complete", "complete", "failed"]
    assert "MemoryError: no room" in ended.out


def test_a_grid_takes_every_point_once_and_leaves_out_what_is_excluded(search):
    _, found = search(
        "search=grid", "learning_rate=0.1,0.5", "exclude='learning_rate < 0.3 and hidden == \"[2]\"'"
    )
    states = sorted(trial.state for trial in found.trials)
    assert states == ["complete"] * 5 + ["excluded"]


def test_a_key_that_a_chosen_option_lacks_is_ignored_for_it(search):
    typed = ["optimizer=sgd,momentum", "optimizer.momentum=interval(0.1,0.9)", "search.trials=8"]
    _, found = search(*typed, "search.confirm=0")
    assert {trial.state for trial in found.trials} == {"complete"}
    assert {trial.params["optimizer"] for trial in found.trials} == {"sgd", "momentum"}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["learning_rate=interval(1,0.1)"], "reversed"),
        (["learning_rate=interval(-1,1)"], "learning_rate=-1.0: must be a finite number, > 0"),
        (["search.metric=val_loss"], "there are no validation rows"),
        (["search.metric=test_loss"], "search.metric=test_loss: must be loss, accuracy, val_loss"),
        (["dataset=line", "output_activation=identity", "search.metric=accuracy"], "has no accuracy"),
        (["search=grid"], "too many values for search=grid"),
        (["search=grid", "learning_rate=1,2", "search.trials=7"], "the grid has only 6 points"),
        (["search.trials=null"], "search=tpe has no end"),
        (["search.pruner=often"], "search.pruner=often: must be none, median"),
        (["search.over=sead"], "Did you mean seed"),
        (["search=bayes"], "unknown search 'bayes'"),
        (["loss=mse,bce"], "trials of different loss do not compare"),
        (["dataset=xor,and"], "trials of different dataset do not compare"),
        (["force=true"], "a search goes on from what its trials gave"),
        (["executor=processes", "device=auto", "search.pruner=median"], "device=cpu with executor=processes"),
        (["epochs=20,30", "search.pruner=median"], "at the same epochs: epochs must have one value"),
        (["search.pruner=median", "log_every=30"], "log_every=30 records none before the last, epochs=30"),
        (["search.batch=0"], "nnexp: search.batch=0: must be a whole number >= 1"),
        (["hidden.0=interval(2,8)"], "int(interval(…)) the whole ones"),
        (["exclude='rate > 1'"], "unknown name 'rate'"),
        (["record=table"], "record=table: a search records its trials as runs"),
        (["--cfg"], "nnexp search takes key=value"),
    ],
)
def test_a_wrong_search_is_refused_before_anything_is_recorded(nnexp, store, typed, words):
    ended = nnexp("search", *SPACE, *QUICK, *typed)
    assert (ended.status, words in ended.err) == (2, True), ended.err
    assert statuses(store) == []


def test_a_plan_is_told_and_nothing_is_recorded(nnexp, store):
    ended = nnexp("search", *SPACE, "search.trials=7", "plan=true")
    assert "search of 7 trials of 3 runs over learning_rate, hidden.0: 0 done" in ended.err
    assert "nothing is recorded" in nnexp("list").err


def test_an_interval_in_a_sweep_or_an_experiment_is_a_search(nnexp, store, tmp_path):
    assert nnexp("train", "-m", *SPACE, *QUICK, "search.trials=4").status == 0
    first = newest()
    (tmp_path / "experiments").mkdir()
    lines = ["hydra:", "  mode: MULTIRUN", "  sweeper:", "    params:"]
    lines += [f"      {key}: {values}" for key, values in (text.split("=") for text in SPACE[1:])]
    text = "\n".join(["# Which rate learns xor best?", "dataset: xor", "search: {trials: 4}", *lines])
    (tmp_path / "experiments" / "rates.yaml").write_text(text + "\n")
    assert nnexp("search", "experiment=rates", *QUICK).status == 0
    assert told(newest()) == told(first)
    assert nnexp("train", "experiment=rates", *QUICK).status == 0


def test_a_search_shows_its_verdict_everywhere(search, nnexp, tmp_path):
    ended, _ = search("search.trials=10", "search.confirm=1", "figures=true")
    (line,) = [line for line in ended.out.splitlines() if line.startswith("best of 10 trials: ")]
    assert line in nnexp("show", "last").out
    assert nnexp("report", "last", "--out", "report.html").status == 0
    page = (tmp_path / "report.html").read_text()
    assert line[1:60] in page
    assert "Best trials" in page
    store = open_store(create=False)
    parent = get_sweep(store, next(e.run_id for e in store.reader.entries("sweep", 1, None)))
    for name in ("search_history", "search_slices", "parallel_coordinates", "importances"):
        assert find_artifact(store, parent, f"figures/{name}.png")
        assert name.replace("_", " ") in page
    assert "best of 10 trials" in parent.tags["mlflow.note.content"]


def test_a_search_from_python_is_the_one_of_the_command_line(search, store):
    from optuna.distributions import FloatDistribution, IntDistribution

    _, typed = search("search.trials=6")
    found = package.search(
        dataset="xor",
        learning_rate=FloatDistribution(0.01, 5, log=True),
        **{"hidden.0": IntDistribution(2, 4)},
        seed=range(3),
        epochs=30,
        figures=False,
        search={"trials": 6, "batch": 4},
    )
    assert len(load_runs()) == 6 * 3 + 9
    assert found.trials["value"].tolist() == [trial.value for trial in typed.trials]
    study = package.load_study(found.sweep_id)
    assert [trial.params for trial in study.trials] == [dict(trial.params) for trial in typed.trials]
    assert study.best_value == found.trials["value"].min()
    assert [list(trial.keys) for trial in typed.trials] == [t.user_attrs["run_keys"] for t in study.trials]


def test_an_imported_search_is_whole_and_goes_on(search, nnexp, empty_store, tmp_path, monkeypatch):
    _, there = search("search.trials=4", "search.pruner=successive_halving", "search.confirm=1")
    assert nnexp("bundle", "last", "--out", "search.zip").status == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}")
    assert nnexp("import", "search.zip").status == 0
    assert newest() == there
    assert "imported 0 of 15 runs" in nnexp("import", "search.zip").out
    ended, more = search("search.trials=8", "search.pruner=successive_halving", "search.confirm=1")
    assert "8 trials of 3 runs over learning_rate, hidden.0: 4 done" in ended.err
    assert told(more)[:4] == told(there)


def test_load_study_refuses_what_is_no_search(store):
    sweep = package.sweep(dataset="and", seed=range(2), epochs=5, figures=False)
    with pytest.raises(package.RequestError, match="is not the id of a search"):
        package.load_study(sweep.sweep_id)


def test_a_damaged_record_of_a_search_is_refused(search, nnexp, tmp_path):
    search("search.trials=4", "search.confirm=0")
    (file,) = tmp_path.glob(f"mlartifacts/**/{SEARCH_FILE}")
    values = json.loads(file.read_text())
    for damaged in ("[]", "{", json.dumps(values | {"trials": [{"params": {}}]}), json.dumps({"format": 2})):
        file.write_text(damaged)
        ended = nnexp("show", "last")
        assert (ended.status, "its artifact search.json" in ended.err) == (2, True)


@pytest.mark.slow
def test_worker_processes_give_the_same_trials_and_verdicts(search):
    typed = ["search.trials=4", "search.confirm=0", "search.pruner=successive_halving"]
    _, here = search(*typed, "experiment_name=here")
    workers = ["executor=processes", "executor.workers=1"]
    _, there = search(*typed, "experiment_name=there", *workers)
    assert there.trials == here.trials
    assert {trial.state for trial in here.trials} == {"complete", "pruned"}
