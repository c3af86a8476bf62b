"""Summaries: the statistics against SciPy, which runs count, which conditions are allowed."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnexp.analysis import summary
from nnexp.analysis.tables import as_text
from nnexp.config.errors import RequestError


@pytest.fixture
def runs():
    """Ten runs over two rates and five seeds; one diverged, one is recorded twice, one failed."""
    rows = [
        {
            "run_id": f"{rate}-{seed}",
            "run_name": "x",
            "status": "FINISHED",
            "outcome": "finished",
            "run_key": f"{rate}-{seed}",
            "learning_rate": rate,
            "init": "normal",
            "seed": seed,
            "params.loss": "mse",
            "accuracy": 1.0 if seed > 1 else 0.5,
            "loss": rate * (seed + 1),
        }
        for rate in (0.1, 1.0, 0.02)
        for seed in range(5)
    ]
    frame = pd.DataFrame(rows)
    frame.loc[frame["run_id"] == "1.0-4", ["outcome", "loss"]] = ["diverged", 1e200]
    twice = frame[frame["run_id"] == "0.1-4"].assign(run_id="again")
    failed = frame.iloc[[0]].assign(run_id="failed", run_key="f", status="FAILED", loss=99.0)
    return pd.concat([frame, twice, failed], ignore_index=True)


def test_the_statistics_are_scipys(runs):
    table = summary.summarize(runs, ["learning_rate"])
    values = 0.1 * np.arange(1, 6)
    row = table[table["learning_rate"] == 0.1].iloc[0]
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    expected = [
        5,
        values.mean(),
        values.std(ddof=1),
        low,
        high,
        values.min(),
        np.median(values),
        values.max(),
    ]
    assert row[
        ["n", "mean", "std", "ci95_low", "ci95_high", "min", "median", "max"]
    ].tolist() == pytest.approx(expected)


def test_learning_rates_are_sorted_as_numbers(runs):
    assert summary.summarize(runs, ["learning_rate"])["learning_rate"].tolist() == [0.02, 0.1, 1.0]


def test_a_run_recorded_twice_counts_once_and_a_failed_run_not_at_all(runs):
    assert summary.summarize(runs, ["learning_rate"])["n"].tolist() == [5, 5, 5]


def test_a_diverged_run_counts_as_a_share_but_not_in_the_mean(runs):
    row = summary.summarize(runs, ["learning_rate"]).iloc[2]
    assert row["diverged"] == 0.2
    assert row["max"] == 4.0
    assert row["n"] == 5


def test_the_share_of_solved_runs_is_of_all_finished_runs(runs):
    assert summary.summarize(runs, ["learning_rate"])["solved"].tolist() == [0.6] * 3


def test_one_run_has_no_spread(runs):
    row = summary.summarize(runs.iloc[[0]], []).iloc[0]
    assert row["mean"] == row["min"] == row["max"] == pytest.approx(0.1)
    assert math.isnan(row["std"])
    assert math.isnan(row["ci95_low"])


def test_a_group_whose_runs_all_diverged_has_no_mean(runs):
    row = summary.summarize(runs[runs["outcome"] == "diverged"], []).iloc[0]
    assert (row["n"], row["diverged"]) == (1, 1.0)
    assert math.isnan(row["mean"])


def test_epochs_to_is_a_median_in_which_runs_that_never_reach_the_threshold_are_infinite(runs):
    done = summary.finished(runs)
    history = pd.DataFrame(
        [
            (run_id, "loss", epoch, 1.0 / (1 + epoch))
            for run_id, seed in zip(done["run_id"], done["seed"], strict=True)
            for epoch in range(0, 10 * (seed + 1), 10)
        ],
        columns=["run_id", "metric", "epoch", "value"],
    )
    table = summary.summarize(done, ["learning_rate"], history=history, threshold=1 / 11)
    assert table["epochs_to"].tolist() == [10, 10, 10]
    table = summary.summarize(done, ["learning_rate"], history=history, threshold=1 / 31)
    assert table["epochs_to"].tolist() == [math.inf] * 3


@pytest.mark.parametrize("metric", ["accuracy", "val_accuracy"])
def test_a_metric_that_should_rise_reaches_a_threshold_from_below(runs, metric):
    done = summary.finished(runs)
    history = pd.DataFrame(
        [
            (run_id, metric, epoch, min(0.25 + epoch / 100, 0.25 + seed / 4))
            for run_id, seed in zip(done["run_id"], done["seed"], strict=True)
            for epoch in range(0, 110, 10)
        ],
        columns=["run_id", "metric", "epoch", "value"],
    )
    done = done.assign(val_accuracy=done["accuracy"])
    table = summary.summarize(done, ["learning_rate"], metric, history=history, threshold=0.75)
    assert table["epochs_to"].tolist() == [50, 50, 50]
    table = summary.summarize(done, ["learning_rate"], metric, history=history, threshold=1.1)
    assert table["epochs_to"].tolist() == [math.inf] * 3


def test_varying_params_leave_out_the_seed_and_what_another_key_implies(runs):
    frame = runs.assign(dataset="xor", **{"init.scale": 1.0})
    frame.loc[frame["learning_rate"] > 0.5, ["dataset", "init"]] = ["gender", "he"]
    frame["dataset.path"] = "data/" + frame["dataset"] + ".csv"
    assert summary.varying(frame) == ["learning_rate", "init", "dataset"]
    assert summary.mixed(frame, ["dataset"]) == ["learning_rate"]
    assert summary.mixed(frame, ["learning_rate"]) == []


def test_the_loss_function_can_be_grouped_by_its_key(runs):
    assert summary.summarize(runs, ["loss"])["params.loss"].tolist() == ["mse"]


def test_where_keeps_rows_and_refuses_nonsense(runs):
    assert len(summary.select(runs, "learning_rate > 0.5 and seed < 2")) == 2
    for wrong in ("learning_rate >", "nothing == 1", "seed", "__import__('os').getcwd()"):
        with pytest.raises(RequestError, match="--where"):
            summary.select(runs, wrong)


TABLE = pd.DataFrame(
    {
        "seed": [0, 1, 2],
        "init": ["he", "ones", None],
        "init.scale": [1.0, math.nan, 2.0],
        "shuffle": [True, False, True],
        "batch_size": [1, "full", 4],
        "hidden": [(2,), (4, 4), ()],
        "prediction/Emily": [0.1, 0.5, 0.9],
        "start_time": pd.to_datetime([1, 2, 3], unit="D", utc=True),
    }
)


@pytest.mark.parametrize(
    ("where", "seeds"),
    {
        "seed > 0": [1, 2],
        "0 < seed < 2": [1],
        "init == 'he'": [0],
        'init != "he"': [1, 2],
        "init.scale > 1": [2],
        "not init.scale > 1": [0, 1],
        "shuffle": [0, 2],
        "not shuffle and seed == 1": [1],
        "shuffle == true": [0, 2],
        "batch_size > 2": [2],
        "batch_size == 'full'": [1],
        "hidden == [2]": [0],
        "hidden in [[2], []]": [0, 2],
        "seed in (0, 2)": [0, 2],
        "seed not in [0]": [1, 2],
        "seed in []": [],
        "seed % 2 == 0 or init == 'ones'": [0, 1, 2],
        "-seed + 3 * 2 - 1 >= 2 ** 2": [0, 1],
        "seed / 0 > 1": [1, 2],
        "9 ** 9 ** 9 ** 9 > seed": [0, 1, 2],
        "`prediction/Emily` > 0.4": [1, 2],
        "start_time > '1970-01-02T12:00'": [1, 2],
    }.items(),
)
def test_a_condition_chooses_rows(where, seeds):
    assert summary.select(TABLE, where)["seed"].tolist() == seeds


@pytest.mark.parametrize(
    ("where", "words"),
    {
        "@pd.io.common.os.system('touch canary')": "cannot be read: invalid syntax at '@pd.io",
        "@pd": "cannot be read",
        "__import__('os').system('touch canary')": "is a call, which is not allowed",
        "seed.map(print)": "is a call",
        "seed.__class__ == 1": "unknown name 'seed.__class__'",
        "(1).real == 1": " is an attribute, which is not allowed",
        "seed[0] == 1": "is an element",
        "[x for x in seed]": "ListComp",
        "(lambda: seed)": "Lambda",
        "f'{seed}' == '1'": "JoinedStr",
        "(x := seed) == 1": "NamedExpr",
        "seed > 0 & shuffle": "write and, or",
        "~shuffle": "write not",
        "init > 1": "init is text, 1 is a number",
        "init + 1 > 0": "not a number to compute with",
        "'x' * 10 ** 9 == init": "'x' is text, not a number",
        "seed in init": "write a list after in",
        "seed is None": "write == or !=",
        "seed and shuffle": "seed is not true or false",
        "nothing == 1": "unknown name 'nothing'",
        "seed": "must be true or false for each run",
        "seed >": "cannot be read: invalid syntax",
        "seed == " + "9" * 400: "beyond 1.8e308",
        "(" * 5000: "too many nested parentheses",
        "-" * 9000 + "seed": "nested too deeply",
        "+".join(["seed"] * 1500) + " > 1": "nested too deeply",
        "a" * 20_000: "more than 10000 characters",
        "\0": "null bytes",
        "start_time > 'soon'": "is not a time",
    }.items(),
)
def test_text_that_is_not_a_condition_is_refused_and_not_executed(where, words, tmp_path):
    with pytest.raises(RequestError, match=re.escape(words)):
        summary.select(TABLE, where)
    assert list(tmp_path.iterdir()) == []


def test_json_has_all_digits_and_null_for_what_is_not_a_number(runs):
    rows = json.loads(as_text(summary.summarize(runs.iloc[[2]], []), "json"))
    assert rows[0]["mean"] == 0.1 * 3
    assert rows[0]["std"] is None


def test_csv_reads_back_as_the_same_numbers(runs, tmp_path):
    table = summary.summarize(runs, ["learning_rate"])
    (tmp_path / "s.csv").write_text(as_text(table, "csv"))
    back = pd.read_csv(tmp_path / "s.csv")
    pd.testing.assert_frame_equal(back, table, check_dtype=False)


def test_groups_are_sorted_in_natural_order(runs):
    widths = {0: "[16]", 1: "[2]", 2: "[2,16]", 3: "[]", 4: None}
    table = summary.summarize(runs.assign(hidden=runs["seed"].map(widths)), ["hidden", "learning_rate"])
    assert table["hidden"].fillna("none").tolist()[::3] == ["[]", "[2]", "[2,16]", "[16]", "none"]
    assert table["learning_rate"].tolist()[:3] == [0.02, 0.1, 1.0]


def test_test_rows_are_summarised_and_choose_nothing(runs):
    tested = runs.assign(test_loss=runs["loss"], test_accuracy=(runs["seed"] > 3).astype(float))
    table = summary.summarize(tested, ["learning_rate"], "test_loss")
    assert table["test_solved"].tolist() == [0.2] * 3
    assert table["mean"].tolist() == summary.summarize(runs, ["learning_rate"])["mean"].tolist()
    assert summary.best_rows(summary.summarize(runs, ["learning_rate"])) != []
    for metric in ("test_loss", "test_accuracy"):
        assert summary.best_rows(table, metric) == []
        assert summary.scale(metric)[:2] == summary.scale(metric.removeprefix("test_"))[:2]


def test_a_summary_of_val_loss_has_the_share_solved_on_the_validation_rows(runs):
    of_validation = runs.assign(val_loss=runs["loss"], val_accuracy=(runs["seed"] > 3).astype(float))
    table = summary.summarize(of_validation, ["learning_rate"], "val_loss")
    assert table["val_solved"].tolist() == [0.2] * 3
    assert "solved" not in table
    assert "val_solved" not in summary.summarize(of_validation, ["learning_rate"])
