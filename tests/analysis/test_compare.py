"""Comparisons: each number against SciPy or an enumeration, and what is refused."""

import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnexp.analysis import plots
from nnexp.analysis.compare import by_shared_seed, compare, effects, pairs
from nnexp.analysis.comparison_table import as_table, readable
from nnexp.config.errors import RequestError


def runs_of(seeds=20, **params):
    """Runs over every combination of the params' values and the seeds, with losses that depend on them."""
    index = pd.MultiIndex.from_product([*params.values(), range(seeds)], names=[*params, "seed"])
    runs = index.to_frame(index=False)
    rng = np.random.default_rng(2)
    runs["loss"] = rng.lognormal(0, 0.3, len(runs)) * (1 + runs["seed"] / 10)
    names = [f"{i:04}" for i in range(len(runs))]
    fixed = {"status": "FINISHED", "outcome": "finished", "run_id": names, "run_key": names}
    return runs.assign(**fixed, weights_sha256=names, accuracy=(runs["loss"] < 2) * 1.0)


@pytest.fixture
def runs():
    """20 seeds of three initialisations, of which he has half the loss of the others."""
    frame = runs_of(init=["he", "ones", "normal"])
    frame.loc[frame["init"] == "he", "loss"] /= 2
    return frame


def test_two_settings_of_shared_seeds_are_compared_seed_by_seed(runs):
    (row,) = compare(runs, ["init=he", {"init": "ones"}]).to_dict("records")
    he, ones = (runs.loc[runs["init"] == name, "loss"].to_numpy() for name in ("he", "ones"))
    apart = he - ones
    assert (row["setting"], row["other"], row["n"], row["paired"]) == ("init=he", "init=ones", 20, True)
    assert (row["median"], row["other_median"]) == pytest.approx((np.median(he), np.median(ones)))
    assert row["difference"] == pytest.approx(np.median(apart))
    exact = np.sort(apart)[[5, 14]]
    assert [row["difference_low"], row["difference_high"]] == pytest.approx(exact.tolist())
    wins = int((apart < 0).sum())
    assert row["improvement"] == wins / 20
    share = stats.binomtest(wins, 20).proportion_ci(method="wilson")
    assert [row["improvement_low"], row["improvement_high"]] == pytest.approx(list(share))
    scores = stats.rankdata(np.concatenate([he, ones]))
    by_scipy = stats.permutation_test(
        (scores[:20] - scores[20:],),
        np.mean,
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    )
    assert row["p"] == pytest.approx(by_scipy.pvalue, abs=0.001)
    assert row["p_holm"] == row["p"]


def test_settings_of_other_seeds_are_compared_as_independent_samples(runs):
    runs.loc[runs["init"] == "ones", "seed"] += 100
    (row,) = compare(runs, ["init=he", "init=ones"]).to_dict("records")
    he, ones = (runs.loc[runs["init"] == name, "loss"].to_numpy() for name in ("he", "ones"))
    assert not row["paired"]
    assert row["p"] == pytest.approx(stats.mannwhitneyu(he, ones, method="exact").pvalue)
    assert row["difference"] == pytest.approx(np.median(he[:, None] - ones))
    assert row["improvement"] == pytest.approx((he[:, None] < ones).mean())
    assert row["improvement_low"] < row["improvement"] < row["improvement_high"]
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert by_shared_seed({name: runs[runs["init"] == name] for name in ("he", "ones")}, "loss") is None


def test_of_an_accuracy_the_higher_is_better(runs):
    (low,) = compare(runs, ["init=he", "init=ones"]).to_dict("records")
    runs["accuracy"] = -runs["loss"]
    (high,) = compare(runs, ["init=he", "init=ones"], "accuracy").to_dict("records")
    assert high["improvement"] == low["improvement"]
    assert high["difference"] == pytest.approx(-low["difference"])
    assert high["difference_low"] == pytest.approx(-low["difference_high"])


def test_a_diverged_run_loses_against_any_other_and_ties_with_its_like(runs):
    runs.loc[runs["seed"] < 4, ["outcome", "loss"]] = ["diverged", 1e300]
    runs.loc[(runs["seed"] < 8) & (runs["init"] == "ones"), "outcome"] = "diverged"
    runs.loc[(runs["init"] == "he") & (runs["seed"] > 7), "loss"] = 1e9
    (row,) = compare(runs, ["init=he", "init=ones"]).to_dict("records")
    assert row["improvement"] == (4 / 2 + 4) / 20
    assert row["difference"] == pytest.approx(1e9, rel=1e-6)


def test_several_comparisons_are_allowed_for(runs):
    table = compare(runs, ["init=he", "init=ones", "init=normal"])
    assert table[["setting", "other"]].to_numpy().tolist() == [
        ["init=he", "init=ones"],
        ["init=he", "init=normal"],
        ["init=ones", "init=normal"],
    ]
    p = np.sort(table["p"])
    expected = [min(1, 3 * p[0]), max(3 * p[0], 2 * p[1]), max(3 * p[0], 2 * p[1], p[2])]
    assert np.sort(table["p_holm"]) == pytest.approx(expected)


def test_runs_of_one_seed_count_by_their_mean():
    runs = runs_of(learning_rate=[0.1, 0.5], init=["he", "ones"])
    (row,) = compare(runs, ["init=he", "init=ones"]).to_dict("records")
    means = runs.groupby(["seed", "init"])["loss"].mean().unstack()
    assert row["n"] == 20
    assert row["difference"] == pytest.approx((means["he"] - means["ones"]).median())


def test_the_effect_of_a_param_is_averaged_over_the_others():
    runs = runs_of(learning_rate=[0.1, 0.5], init=["he", "ones", "normal"])
    table = effects(runs)
    assert table[["param", "value"]].to_numpy().tolist() == [
        ["learning_rate", 0.1],
        ["learning_rate", 0.5],
        ["init", "he"],
        ["init", "normal"],
        ["init", "ones"],
    ]
    places = runs.pivot(index=["seed", "learning_rate"], columns="init", values="loss")
    apart = places.sub(places.mean(axis=1), axis=0).groupby("seed").mean()["he"]
    he = table.iloc[2]
    assert (he["n"], he["effect"]) == (40, pytest.approx(apart.median()))
    assert [he["effect_low"], he["effect_high"]] == pytest.approx(np.sort(apart)[[5, 14]].tolist())
    assert he["best"] == pytest.approx((places["he"] == places.min(axis=1)).mean())
    assert table.groupby("param")["best"].sum().tolist() == pytest.approx([1, 1])
    assert compare(runs).equals(table)


def test_effects_are_within_each_data_set():
    runs = runs_of(seeds=6, dataset=["xor", "or"], init=["he", "ones"])
    runs.loc[runs["dataset"] == "or", "loss"] *= 1000
    table = effects(runs)
    assert table["dataset"].tolist() == ["or", "or", "xor", "xor"]
    assert set(table["param"]) == {"init"}


def test_the_time_to_solve_is_compared_by_the_log_rank_test(runs):
    he, ones = (runs[runs["init"] == name] for name in ("he", "ones"))
    epochs = {**dict(zip(he["run_id"], range(10, 210, 10), strict=True))}
    epochs |= dict(zip(ones["run_id"], range(50, 450, 20), strict=True))
    history = pd.DataFrame(
        [(run_id, "accuracy", e, float(e >= at)) for run_id, at in epochs.items() for e in range(0, 301, 10)],
        columns=["run_id", "metric", "epoch", "value"],
    )
    (row,) = pairs({"he": he, "ones": ones}, history=history).to_dict("records")
    first, second = np.arange(10, 210, 10), np.arange(50, 450, 20)
    expected = stats.logrank(
        stats.CensoredData(first), stats.CensoredData.right_censored(np.minimum(second, 300), second > 300)
    )
    assert (row["epochs"], row["other_epochs"]) == (100, 230)
    assert row["p_epochs"] == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(
    ("settings", "metric", "words"),
    [
        (["init=he"], None, "compare needs two settings or more"),
        (["init=he", "ini=ones"], None, "unknown param in ini=ones 'ini'. Did you mean init"),
        (
            ["init=he", "init=one"],
            None,
            "no finished run has init=one; there are: he, normal, ones",
        ),
        (["init=he", "init"], None, "setting 'init': must be like init=he"),
        (["init=he", "init=ones"], "los", "unknown metric 'los'. Did you mean loss"),
        (["init=he", "init=ones"], "grad_norm", "nothing is compared by it"),
        (["init=he", "init=ones"], "test_loss", "nothing is compared by it"),
    ],
)
def test_what_cannot_be_compared_is_named(runs, settings, metric, words):
    runs = runs.assign(grad_norm=0.1, test_loss=0.1)
    with pytest.raises(RequestError) as error:
        compare(runs, settings, metric)
    assert words in str(error.value)


def test_a_setting_may_have_lists_numbers_and_truth_values():
    runs = runs_of(seeds=5, hidden=["[2]", "[4,4]"], learning_rate=[0.1, 0.5], shuffle=[True, False])
    one, other = "hidden=[4,4],learning_rate=0.10,shuffle=true", "hidden=[2],learning_rate=5e-1,shuffle=false"
    assert compare(runs, [one, other])["n"].tolist() == [5]
    assert compare(runs, [{"hidden": (4, 4)}, {"hidden": "[2]"}])["n"].tolist() == [5]


def test_people_read_few_digits_and_programs_get_all(runs):
    table = compare(runs, ["init=he", "init=ones"])
    (text,) = readable(table)["improvement"]
    assert text.endswith(")")
    assert "p" not in readable(table)
    assert json.loads(as_table(table, "json"))[0]["p"] == table["p"][0]
    assert as_table(table).splitlines()[2].startswith("init=he  init=ones")
    assert readable(table.assign(p_holm=1e-9, median=math.inf))["p_holm"] == ["<0.001"]


@pytest.mark.slow
def test_differences_are_drawn_by_seed(runs):
    runs.loc[(runs["init"] == "he") & (runs["seed"] == 3), "outcome"] = "diverged"
    parts = {name: runs[runs["init"] == name] for name in ("he", "ones", "normal")}
    parts["normal"] = parts["normal"].assign(seed=parts["normal"]["seed"] + 100)
    figure = plots.of_comparison(parts, "loss")
    by_seed, apart = figure.axes
    apart_by_seed = parts["he"]["loss"].to_numpy() - parts["ones"]["loss"].to_numpy()
    kept = np.sort(np.delete(apart_by_seed, 3))
    assert by_seed.lines[-1].get_ydata() == pytest.approx(kept)
    assert "(1 diverged)" in by_seed.get_title(loc="left")
    assert apart.get_title(loc="left") == "no shared seeds"
    assert plots.png(figure).startswith(b"\x89PNG")


@pytest.mark.slow
def test_settings_and_sweeps_are_compared_from_the_shell(nnexp, store, tmp_path):
    sweep = ["train", "-m", "dataset=xor", "init=normal,xavier", "epochs=30", "figures=false"]
    ended = [nnexp(*sweep, "seed=range(6)", f"learning_rate={rate}") for rate in (0.1, 0.5)]
    ids = [one.out.split("as sweep ")[1].split()[0] for one in ended]
    ended = nnexp("compare", "init=normal", "init=xavier", "--sweep", ids[0], "--plot", "d.png")
    assert (ended.status, ended.out.splitlines()[2].split()[:3]) == (0, ["init=normal", "init=xavier", "6"])
    assert (tmp_path / "d.png").exists()
    (row,) = json.loads(nnexp("compare", *ids, "--format", "json").out)
    assert (row["setting"], row["n"], row["paired"]) == (ids[0], 6, True)
    assert nnexp("compare").out.splitlines()[0].split() == ["param", "value", "n", "effect", "best"]
    for wrong, words in {
        ("init=normal", ids[0]): "compare either settings",
        (ids[0], ids[1], "--sweep", "last"): "--sweep is for settings",
        ("init=normal",): "compare needs two settings or more",
        ("init=normal", "init=he"): "no finished run has init=he; there are: normal, xavier",
        ("--plot", "d.png"): "--plot d.png: name the settings to draw",
    }.items():
        refused = nnexp("compare", *wrong)
        assert (refused.status, words in refused.err) == (2, True), refused.err


def test_many_independent_values_are_compared_by_their_quantiles(monkeypatch):
    module = sys.modules["nnexp.analysis.compare"]  # the package's name `compare` is the function
    x, y = (np.random.default_rng(i).lognormal(size=900 + 100 * i) + 0.1 * i for i in range(2))
    expected = module.by_samples(x, y)
    monkeypatch.setattr(module, "MOST_PAIRED", 300)
    found = module.by_samples(x, y)
    width = expected.high - expected.low
    assert (found.better, found.better_low, found.better_high) == tuple(expected[-3:])
    assert (found.middle, found.low, found.high) == pytest.approx(
        (expected.middle, expected.low, expected.high), abs=0.1 * width
    )
    assert expected.better == pytest.approx((x[:, None] < y).mean())
