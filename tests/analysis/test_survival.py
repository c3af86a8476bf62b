"""Time to solve: against the product-limit formula, and what is censored."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import CensoredData, ecdf

from nnexp.analysis import survival
from nnexp.analysis.plots.choice import of_sweep


def sample(epochs, last=100, outcome="finished"):
    """Runs that reach an accuracy of 1 at these epochs, None for never, and their curves."""
    runs = pd.DataFrame({"run_id": [f"id{i}" for i in range(len(epochs))], "outcome": outcome})
    history = pd.DataFrame(
        [
            (f"id{i}", "accuracy", e, float(at is not None and e >= at))
            for i, at in enumerate(epochs)
            for e in range(0, last + 1, 10)
        ],
        columns=["run_id", "metric", "epoch", "value"],
    )
    return runs, history


def test_the_share_that_solved_is_kaplans_and_meiers_estimate():
    found = pd.DataFrame(
        {"epoch": [10, 20, 20, 30, 40, 50], "reached": [True, True, False, True, False, True]}
    )
    curve = survival.curve(found)
    left = np.cumprod([1, 1 - 1 / 6, 1 - 1 / 5, 1 - 1 / 3, 1, 1 - 1 / 1])
    assert curve["epoch"].tolist() == [0, 10, 20, 30, 40, 50]
    assert curve["share"].tolist() == pytest.approx((1 - left).tolist())
    assert survival.median_epoch(found) == 30
    variance = 1 / (6 * 5) + 1 / (5 * 4) + 1 / (3 * 2)  # Greenwood's, at epoch 30
    half = 1.959964 * math.sqrt(variance) / abs(math.log(left[3]))
    ends = sorted(1 - left[3] ** math.exp(sign * half) for sign in (-1, 1))
    assert curve.loc[3, ["low", "high"]].tolist() == pytest.approx(ends)


@pytest.mark.parametrize("share", [0.3, 0.8, 1.0])
def test_the_estimate_and_its_band_are_those_of_scipy(share):
    rng = np.random.default_rng(0)
    found = pd.DataFrame({"epoch": rng.integers(1, 9, 60) * 10.0, "reached": rng.random(60) < share})
    curve = survival.curve(found).iloc[1:]
    theirs = ecdf(CensoredData.right_censored(found["epoch"], ~found["reached"])).cdf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        band = theirs.confidence_interval(method="log-log")
    assert curve["epoch"].tolist() == theirs.quantiles.tolist()
    assert curve["share"].tolist() == theirs.probabilities.tolist()
    for end, column in ((band.low, "low"), (band.high, "high")):
        np.testing.assert_allclose(curve[column], end.probabilities, rtol=1e-13)


def test_runs_that_never_solve_are_censored_where_they_end():
    runs, history = sample([10, 40, None])
    found = survival.times(runs, history, "accuracy")
    assert found["epoch"].tolist() == [10, 40, 100]
    assert found["reached"].tolist() == [True, True, False]
    assert survival.median_epoch(found) == 40
    assert survival.median_epoch(survival.times(*sample([None, None]), "accuracy")) == math.inf


def test_a_run_that_diverged_never_solves():
    runs, history = sample([10, 40, None])
    runs.loc[0, "outcome"] = "diverged"
    history = history[(history["run_id"] != "id0") | (history["epoch"] < 30)]
    found = survival.times(runs, history, "accuracy")
    assert found["epoch"].tolist() == [100, 40, 100]
    assert found["reached"].tolist() == [False, True, False]


def test_a_loss_reaches_a_threshold_from_above():
    runs, history = sample([20])
    history = history.assign(metric="loss", value=1 - history["value"])
    assert survival.times(runs, history, "loss", 0.5)["epoch"].tolist() == [20]


def test_samples_in_which_nothing_is_solved_take_equally_long():
    never = survival.times(*sample([None, None]), "accuracy")
    assert survival.log_rank_p(never, never) == 1
    assert math.isnan(survival.log_rank_p(never, never.iloc[:0]))


@pytest.mark.slow
def test_a_sweep_is_drawn_as_the_share_that_solved_over_its_epochs():
    runs, history = sample([10, 30, None, 20, 40, 60])
    keys = [f"k{i}" for i in range(6)]
    runs = runs.assign(
        status="FINISHED", run_key=keys, seed=[0, 1, 2] * 2, init=["he"] * 3 + ["ones"] * 3, loss=0.1
    )
    losses = history.assign(metric="loss", value=0.5)
    figure = of_sweep(runs, pd.concat([history, losses]), only="solved_curves")["solved_curves"]
    he, _, ones, _ = figure.axes[0].lines
    assert he.get_ydata().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3])
    assert ones.get_ydata()[-1] == 1
