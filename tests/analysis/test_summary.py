"""Summaries: the statistics against SciPy, which runs count, which conditions are allowed."""

import json
import math
import re
from statistics import median

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnexp.analysis import samples, summary
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
    row = summary.summarize(runs, ["learning_rate"]).set_index("learning_rate").loc[0.1]
    values = 0.1 * np.arange(1, 6)
    assert row[["n", "used", "diverged"]].tolist() == [5, 5, 0]
    assert row["median"] == np.median(values)
    assert row[["median_low", "median_high"]].tolist() == [values.min(), values.max()]
    assert row["iqm"] == pytest.approx(stats.trim_mean(np.repeat(values, 4), 0.25))
    assert math.isnan(row["iqm_low"])
    expected = [values.mean(), values.std(ddof=1), values.min(), values.max()]
    assert row[["mean", "std", "min", "max"]].tolist() == pytest.approx(expected)
    share = stats.binomtest(3, 5).proportion_ci(method="wilson")
    assert row[["solved", "solved_low", "solved_high"]].tolist() == pytest.approx([0.6, *share])


@pytest.fixture
def awkward():
    """40 seeds of six settings: plain, partly diverged, forced again, of one network, NaN, one seed."""
    rng = np.random.default_rng(0)
    kinds = {"plain": 40, "diverged": 40, "again": 40, "alike": 40, "missing": 40, "one": 1}
    rows = [
        {"init": kind, "seed": seed, "learning_rate": rate, "loss": rng.lognormal(), "status": "FINISHED"}
        for kind, seeds in kinds.items()
        for seed in range(seeds)
        for rate in (0.1, 0.5)
    ]
    frame = pd.DataFrame(rows)
    frame["outcome"] = "finished"
    frame["run_id"] = frame["run_key"] = [f"{i:04}" for i in range(len(frame))]
    frame["weights_sha256"] = frame["run_key"]
    frame["accuracy"] = (frame["loss"] < 1).astype(float)
    at = frame["init"]
    frame.loc[(at == "diverged") & (frame["seed"] % 4 > 1), ["outcome", "loss"]] = ["diverged", 1e300]
    frame.loc[at == "alike", ["loss", "weights_sha256", "accuracy"]] = [0.25, "w", 0.0]
    frame.loc[(at == "missing") & (frame["seed"] < 7), "loss"] = np.nan
    frame["params.loss"] = "mse"
    again = frame[at == "again"].assign(run_id=lambda rows: rows["run_id"] + "b")
    return pd.concat([frame, again], ignore_index=True)


@pytest.mark.parametrize("by", [["init", "learning_rate"], ["init"], []])
def test_every_number_equals_an_independent_computation(awkward, by):
    table = summary.summarize(awkward, by)
    once = awkward.drop_duplicates("run_key")
    groups = list(once.groupby(by)) if by else [((), once)]
    for (_, group), (_, row) in zip(groups, table.iterrows(), strict=True):
        kept = group[group["outcome"] != "diverged"]
        counts = [len(group), group["weights_sha256"].nunique(), kept["loss"].count(), len(group) - len(kept)]
        assert row[["n", "networks", "used", "diverged"]].tolist() == counts
        described = kept["loss"].agg(["mean", "std", "min", "max"])
        assert row[["mean", "std", "min", "max"]].tolist() == pytest.approx(described.tolist(), nan_ok=True)
        assert row["solved"] == ((group["accuracy"] == 1) & (group["outcome"] != "diverged")).mean()
        worst = group.assign(loss=group["loss"].where(group["outcome"] != "diverged", np.inf))
        values = np.sort(worst.groupby("seed")["loss"].mean().dropna())
        if by == ["init", "learning_rate"]:
            values = np.sort(worst["loss"].dropna())
        assert row["median"] == pytest.approx(median(values.tolist()))
        assert row["iqm"] == pytest.approx(stats.trim_mean(np.repeat(values, 4), 0.25))
        if row["networks"] < 5 or len(values) < 5:
            assert row.filter(regex="_(low|high)$").isna().all()
            continue
        exact = stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
        assert exact.low <= row["median_low"] <= row["median"] <= row["median_high"] <= exact.high
        assert row["iqm_low"] <= row["iqm"] <= row["iqm_high"]


def test_of_mixed_params_each_seed_counts_once(awkward):
    plain = awkward[awkward["init"] == "plain"]
    (row,) = summary.summarize(plain, []).to_dict("records")
    means = plain.groupby("seed")["loss"].mean()
    assert (row["n"], row["median"]) == (80, pytest.approx(means.median()))
    assert math.isnan(row["solved_low"])
    (of_means,) = summary.summarize(plain.drop_duplicates("seed").assign(loss=means.to_numpy()), []).to_dict(
        "records"
    )
    for name in ("median_low", "median_high", "iqm", "iqm_low", "iqm_high"):
        assert row[name] == pytest.approx(of_means[name])


def test_learning_rates_are_sorted_as_numbers(runs):
    assert summary.summarize(runs, ["learning_rate"])["learning_rate"].tolist() == [0.02, 0.1, 1.0]


def test_a_run_recorded_twice_counts_once_and_a_failed_run_not_at_all(runs):
    assert summary.summarize(runs, ["learning_rate"])["n"].tolist() == [5, 5, 5]


def test_a_diverged_run_is_counted_as_the_worst_and_not_in_the_mean(runs):
    row = summary.summarize(runs, ["learning_rate"]).iloc[2]
    assert row[["n", "used", "diverged", "max", "mean"]].tolist() == [5, 4, 1, 4.0, 2.5]
    assert (row["median"], row["median_high"]) == (3.0, math.inf)


def test_the_share_of_solved_runs_is_of_all(runs):
    assert summary.summarize(runs, ["learning_rate"])["solved"].tolist() == [0.6, 0.6, 0.4]


def test_one_run_has_no_spread(runs):
    row = summary.summarize(runs.iloc[[0]], []).iloc[0]
    assert row["mean"] == row["min"] == row["max"] == pytest.approx(0.1)
    assert math.isnan(row["std"])
    assert row.filter(regex="_(low|high)$").isna().all()


def test_a_group_whose_runs_all_diverged_has_no_mean(runs):
    row = summary.summarize(runs[runs["outcome"] == "diverged"], []).iloc[0]
    assert row[["n", "used", "diverged", "median"]].tolist() == [1, 0, 1, math.inf]
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
    tested = runs.assign(test_loss=runs["loss"], test_accuracy=(runs["seed"] == 3).astype(float))
    table = summary.summarize(tested, ["learning_rate"], "test_loss")
    assert table["test_solved"].tolist() == [0.2] * 3
    assert table["mean"].tolist() == summary.summarize(runs, ["learning_rate"])["mean"].tolist()
    assert summary.best_rows(summary.summarize(runs, ["learning_rate"])) != []
    assert summary.deciding(tested) == "loss"
    for metric in ("test_loss", "test_accuracy"):
        assert summary.best_rows(summary.summarize(tested, ["learning_rate"], metric)) == []
        assert samples.scale(metric)[:2] == samples.scale(metric.removeprefix("test_"))[:2]


def test_a_summary_of_val_loss_has_the_share_solved_on_the_validation_rows(runs):
    of_validation = runs.assign(val_loss=runs["loss"], val_accuracy=(runs["seed"] > 3).astype(float))
    table = summary.summarize(of_validation, ["learning_rate"], "val_loss")
    assert table["val_solved"].tolist() == [0.2, 0.2, 0.0]
    assert "solved" not in table
    assert "val_solved" not in summary.summarize(of_validation, ["learning_rate"], "loss")


# --- What is best.


def sweep(seeds=20, **settings):
    """Runs of settings by name, each a function of an rng and a size that draws its losses."""
    rng = np.random.default_rng(1)
    parts = []
    for name, draw in settings.items():
        losses = draw(rng, seeds)
        part = pd.DataFrame({"init": name, "seed": range(len(losses)), "loss": losses})
        parts.append(part.assign(run_key=[f"{name}{i:03}" for i in range(len(losses))]))
    frame = pd.concat(parts, ignore_index=True)
    frame["run_id"] = frame["weights_sha256"] = frame["run_key"]
    return frame.assign(status="FINISHED", outcome="finished", accuracy=(frame["loss"] < 0.1) * 1.0)


def standing(table):
    """How each setting stands."""
    return dict(zip(table["init"], table["standing"], strict=True))


def xor(share):
    """Losses as XOR's: most seeds learn it, and the others stay at one value of the loss."""
    return lambda rng, n: np.where(
        np.arange(n) % 20 < round(20 * share),
        4e-4 * rng.lognormal(0, 0.2, n),
        0.167 * rng.lognormal(0, 0.02, n),
    )


def test_the_setting_that_overfits_is_not_recommended():
    runs = sweep(overfits=lambda r, n: r.lognormal(-6, 0.2, n), learns=lambda r, n: r.lognormal(-3, 0.2, n))
    runs["val_loss"] = np.where(runs["init"] == "overfits", 0.9, 0.1) + runs["loss"]
    assert summary.deciding(runs) == "val_loss"
    assert standing(summary.summarize(runs, ["init"])) == {"overfits": "worse", "learns": "best"}
    assert standing(summary.summarize(runs, ["init"], "loss")) == {"overfits": "best", "learns": "worse"}


def test_two_settings_that_solve_xor_about_as_often_are_not_told_apart():
    table = summary.summarize(sweep(a=xor(0.8), b=xor(0.85)), ["init"])
    assert sorted(table["standing"]) == ["best", "tied"]
    assert table["seeds_needed"].max() > 20


def test_a_setting_most_of_whose_runs_diverge_is_the_last():
    runs = sweep(10, lost=lambda r, n: r.lognormal(-9, 0.1, n), slow=lambda r, n: r.lognormal(-1, 0.1, n))
    runs.loc[(runs["init"] == "lost") & (runs["seed"] > 1), "outcome"] = "diverged"
    lost, slow = summary.summarize(runs, ["init"]).to_dict("records")
    assert (lost["n"], lost["used"], lost["rank"]) == (10, 2, 2)
    assert (slow["rank"], slow["standing"]) == (1, "best")


def test_runs_that_ended_with_the_same_weights_are_one_network():
    runs = sweep(10, zeros=lambda r, n: np.full(n, 0.16), normal=lambda r, n: r.lognormal(-3, 1, n))
    runs.loc[runs["init"] == "zeros", "weights_sha256"] = "alike"
    row = summary.summarize(runs, ["init"]).set_index("init").loc["zeros"]
    assert (row["n"], row["networks"]) == (10, 1)
    assert row.filter(regex="_(low|high)$").isna().all()
    assert (row["standing"], row["rank"]) == (None, 2)


def test_a_setting_of_one_seed_never_wins():
    runs = sweep(20, lucky=lambda r, n: np.full(1, 1e-9), known=xor(0.9), other=xor(0.3))
    table = summary.summarize(runs, ["init"])
    assert standing(table)["lucky"] is None
    assert (standing(table)["known"], table["rank"].tolist()) == ("best", [1, 3, 2])
    assert set(summary.summarize(runs[runs["seed"] == 0], ["init"])["standing"]) == {None}


@pytest.mark.parametrize(
    ("rank", "best"), {"median": "steady", "iqm": "steady", "mean": "safe", "solved": "safe"}.items()
)
def test_settings_are_ranked_by_what_is_asked(rank, best):
    runs = sweep(steady=xor(0.8), safe=lambda r, n: r.lognormal(-5, 0.1, n))
    table = summary.summarize(runs, ["init"], rank=rank)
    assert table.loc[table["rank"] == 1, "init"].tolist() == [best]
    with pytest.raises(RequestError, match="rank"):
        summary.summarize(runs, ["init"], rank="loss")


def test_each_data_set_has_a_best_row_of_its_own():
    runs = sweep(a=xor(1), b=xor(0.3))
    both = pd.concat([runs.assign(dataset=name, run_key=runs["run_key"] + name) for name in "de"])
    table = summary.summarize(both, ["dataset", "init"])
    assert table["standing"].tolist() == ["best", "worse"] * 2
    assert summary.best_rows(table) == [0, 2]


def test_rows_are_sorted_and_the_best_taken_as_asked():
    table = summary.summarize(sweep(a=xor(0.3), b=xor(1), c=xor(0.6)), ["init"])
    assert summary.ordered(table, "rank")["init"].tolist() == ["b", "c", "a"]
    assert summary.ordered(table, top=2)["init"].tolist() == ["b", "c"]
    assert summary.ordered(table, "max", 1)["init"].tolist() == ["b"]
    with pytest.raises(RequestError, match=r"unknown column in --sort 'rnk'\. Did you mean rank"):
        summary.ordered(table, "rnk")


def test_a_long_summary_is_shortened_to_the_best_of_each_data_set():
    table = pd.DataFrame({"dataset": ["d", "e"] * 4, "n": 3, "rank": [3, 1, 1, 4, np.nan, 2, 2, 3]})
    assert summary.shortlist(table, 8) is table
    shown = summary.shortlist(table, 5)
    assert list(shown["dataset"] + shown["rank"].map("{:g}".format)) == ["e1", "d1", "e2", "d2"]
    assert summary.shortlist(table, 1)["rank"].tolist() == [1, 1]


def test_rows_that_do_not_compare_are_ranked_apart():
    table = pd.DataFrame({"dataset": ["xor", "and", "xor", "and"], "seed": 0, "n": 3, "rank": [2, 2, 1, 1]})
    ranked = summary.ranked(table)
    assert ranked[["dataset", "rank"]].values.tolist() == [["and", 1], ["and", 2], ["xor", 1], ["xor", 2]]
    assert summary.ranked(table.drop(columns="dataset"))["rank"].tolist() == [1, 1, 2, 2]
