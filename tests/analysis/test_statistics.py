"""Statistics: each against SciPy or an enumeration; how often intervals cover is in calibration.py."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from nnexp.analysis import standing, statistics
from nnexp.analysis.standing import against_best, paired


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (7, 10), (10, 10), (65, 100), (1, 3)])
def test_the_interval_of_a_share_is_wilsons(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert np.array(statistics.wilson(successes, n)) == pytest.approx(list(expected), abs=1e-12)


def test_a_share_of_two_networks_has_no_interval():
    assert np.isnan(statistics.wilson(1, 2)).all()


@pytest.mark.parametrize("n", [1, 2, 5, 10, 21, 400])
def test_the_interval_of_the_median_covers_what_the_binomial_distribution_says(n):
    low, high = statistics.median_interval(np.arange(n))
    if n < 5:
        assert np.isnan([low, high]).all()
        return
    # The interval misses the median if no more than `low` values lie below it, or above it.
    covers = 1 - 2 * stats.binom.cdf(low, n, 0.5)
    assert high == n - 1 - low
    assert covers >= (0.95 if n > 5 else 0.9375)
    assert n < 7 or 1 - 2 * stats.binom.cdf(low + 1, n, 0.5) < 0.95


@pytest.mark.parametrize("n", [6, 10, 21, 400])
def test_the_interval_of_a_quantile_is_the_medians_at_one_half(n):
    values = np.random.default_rng(n).normal(size=(3, n))
    middle, *ends = statistics.quantile_interval(values, 0.5)
    assert np.array_equal(ends, statistics.median_interval(values))
    assert np.array_equal(middle, np.quantile(values, 0.5, axis=1, method="inverted_cdf"))


@pytest.mark.parametrize(("n", "level"), [(1000, 0.025), (200, 0.9), (40, 0.7)])
def test_the_interval_of_a_quantile_covers_what_the_binomial_distribution_says(n, level):
    found, low, high = (int(end) for end in statistics.quantile_interval(np.arange(n), level))
    assert found == np.quantile(np.arange(n), level, method="inverted_cdf")
    # It misses if no more than `low` values are below the quantile, or more than `high`.
    assert stats.binom.cdf(low, n, level) <= 0.025 < stats.binom.cdf(low + 1, n, level)
    assert stats.binom.sf(high, n, level) <= 0.025 < stats.binom.sf(high - 1, n, level)


def test_a_quantile_near_the_end_of_few_values_has_no_interval_there():
    found, low, high = statistics.quantile_interval(np.arange(20), 0.99)
    assert (found, low > 0, math.isnan(high)) == (19, True, True)


def test_medians_and_their_intervals_count_diverged_runs_as_the_worst():
    values = [1, 2, 3, math.inf, math.inf, math.inf]
    assert statistics.median([1, 2, math.inf]) == 2
    assert statistics.median(values) == math.inf
    assert statistics.median_interval(values) == (1, math.inf)
    assert statistics.iqm(values) == math.inf
    assert statistics.iqm([1, 2, 3, math.inf]) == 2.5
    assert math.isnan(statistics.median([]))
    low, high = statistics.iqm_interval([*range(11), math.inf])
    assert low < statistics.iqm([*range(11), math.inf]) < high


@pytest.mark.parametrize("n", range(1, 14))
def test_the_interquartile_mean_is_the_mean_of_the_middle_half(n):
    values = np.random.default_rng(n).lognormal(size=(3, n))
    expected = stats.trim_mean(np.repeat(values, 4, axis=1), 0.25, axis=1)
    assert statistics.iqm(values) == pytest.approx(expected)


@pytest.mark.parametrize("n", [12, 30, 130])
def test_the_interval_of_the_interquartile_mean_is_scipys_but_for_the_expanded_levels(n):
    values = np.random.default_rng(n).lognormal(size=n)
    expanded = math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1)
    expected = stats.bootstrap(
        (values,),
        lambda x, axis: stats.trim_mean(np.repeat(x, 4, axis=axis), 0.25, axis=axis),
        confidence_level=1 - 2 * stats.norm.sf(expanded),
        n_resamples=4000,
        rng=np.random.default_rng(0),
        method="BCa",
    ).confidence_interval
    found = statistics.iqm_interval(values)
    assert found == pytest.approx(list(expected), abs=0.12 * (expected.high - expected.low))
    assert found == statistics.iqm_interval(values[::-1])


@pytest.mark.parametrize("n", [1, 3, 6, 9])
def test_the_p_of_paired_differences_counts_all_signs(n):
    differences = np.random.default_rng(n).integers(-9, 10, n) / 2
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product([-1, 1], repeat=n)]
    expected = np.mean(np.array(sums) >= abs(differences.sum()))
    assert statistics.sign_p(differences) == pytest.approx(expected)


def test_ranks_are_scipys():
    values = np.array([[3.0, 1.0, math.inf], [1.0, math.inf, -2.0]])
    assert statistics.ranks(values).ravel() == pytest.approx(stats.rankdata(values))


# --- Which settings are told from the best.


def drawn(*shifts, seeds=20, seed=0):
    """Settings of normal values around these shifts, of shape (settings, seeds)."""
    return np.random.default_rng(seed).normal(size=(len(shifts), seeds)) + np.array(shifts)[:, None]


def test_settings_that_are_much_worse_are_told_and_those_that_are_alike_are_not():
    found = against_best(drawn(0, 0.1, 3, 6, 9), 0)
    assert found.is_worse.tolist() == [False, False, True, True, True]
    assert np.isnan(found.seeds_needed).tolist() == [True, False, True, True, True]


def test_a_difference_within_each_seed_is_found_among_large_ones_between_seeds():
    seeds = 30 * np.random.default_rng(5).normal(size=20)
    together = drawn(0, 0.8) + seeds
    assert against_best(together, 0).is_worse.tolist() == [False, True]
    apart = np.full((2, 40), np.nan)
    apart[0, :20], apart[1, 20:] = together
    assert paired(apart) is None
    assert not against_best(apart, 0).is_worse.any()


def test_settings_of_different_seeds_are_compared_as_independent_samples():
    values = np.full((2, 40), np.nan)
    values[0, :20], values[1, 20:] = drawn(0, 2)
    assert against_best(values, 0).is_worse.tolist() == [False, True]


def test_a_few_missing_seeds_leave_the_others_paired():
    values = drawn(0, 1, 2)
    values[1, 3] = values[2, 7] = np.nan
    assert paired(values).sum() == 18


def test_five_shared_seeds_cannot_tell_two_settings_and_six_can():
    assert not against_best(drawn(0, 100, seeds=5), 0).is_worse.any()
    assert against_best(drawn(0, 100, seeds=6), 0).is_worse.tolist() == [False, True]


def test_diverged_runs_are_the_worst():
    values = drawn(0, 0)
    values[1] = math.inf
    assert against_best(values, 0).is_worse.tolist() == [False, True]


@pytest.mark.slow
def test_about_as_many_seeds_as_predicted_settle_a_comparison():
    few = [against_best(drawn(0, 0.5, 0.5, seeds=20, seed=i), 0) for i in range(60)]
    predicted = np.array([one.seeds_needed[1] for one in few if not one.is_worse[1]])
    n = int(np.median(predicted))
    found = [against_best(drawn(0, 0.5, 0.5, seeds=n, seed=i), 0).is_worse[1] for i in range(60)]
    assert 0.6 < np.mean(found) <= 1


@pytest.mark.parametrize(("share", "n", "m"), [(0.5, 10, 10), (0.8, 5, 20), (0.97, 50, 30), (0.0, 8, 8)])
def test_the_ends_of_an_improvement_are_a_quantile_of_hanleys_and_mcneils_variance_away(share, n, m):
    low, high = statistics.superiority_interval(share, n, m)
    for end in (low, high):
        q1, q2, pairs = end / (2 - end), 2 * end**2 / (1 + end), (n + m) / 2
        variance = end * (1 - end) + (pairs - 1) * (q1 + q2 - 2 * end**2)
        assert abs(share - end) == pytest.approx(
            stats.norm.ppf(0.975) * math.sqrt(variance / (n * m)), abs=1e-6
        )
    mirrored = statistics.superiority_interval(1 - share, n, m)
    assert [1 - end for end in reversed(mirrored)] == pytest.approx([low, high], abs=1e-8)
    assert np.isnan(statistics.superiority_interval(share, 2, m)).all()


# --- Of many networks, whose statistics come from limits.


@pytest.mark.parametrize("name", ["normal", "lognormal", "standard_cauchy"])
def test_the_interval_of_many_is_about_the_bootstraps(name, monkeypatch):
    values = getattr(np.random.default_rng(3), name)(size=499)
    expected = list(map(float, statistics.iqm_interval(values)))
    monkeypatch.setattr(statistics, "MANY", 499)
    found = list(map(float, statistics.iqm_interval(values)))
    width = expected[1] - expected[0]
    assert found == pytest.approx(expected, abs=0.12 * width)
    assert found[1] - found[0] > 0.9 * width


@pytest.mark.parametrize("share", [0.74, 0.75, 0.76])
def test_the_interval_of_many_covers_where_a_quartile_falls_between_two_modes(share):
    rng = np.random.default_rng(0)
    values = np.where(rng.random((1000, 600)) < share, 0.0, 1.0)
    # Of the middle half, from 25% to 75%, what is beyond the share is 1.
    truth = max(0.0, 0.75 - share) / 0.5
    low, high = statistics.iqm_interval(values)
    assert ((low <= truth) & (truth <= high)).mean() > 0.92


@pytest.mark.parametrize(("diverged", "finite"), [(100, True), (160, False), (300, False)])
def test_the_interval_of_many_counts_diverged_runs_as_the_worst(diverged, finite):
    values = np.random.default_rng(0).normal(size=600)
    values[:diverged] = math.inf
    low, high = statistics.iqm_interval(values)
    assert math.isfinite(high) is finite
    assert math.isfinite(low) is (diverged < 300)
    assert low <= statistics.iqm(values) <= high


@pytest.mark.parametrize("size", [3, 60, 1000])
def test_the_p_of_many_differences_is_about_the_exact_one(size, monkeypatch):
    differences = np.random.default_rng(size).integers(-40, 44, 400) / 2
    expected = statistics.sign_p(differences)
    monkeypatch.setattr(statistics, "MANY", 400)
    assert statistics.sign_p(differences) == pytest.approx(expected, abs=0.01)


def test_of_many_seeds_luck_is_what_reorderings_say(monkeypatch):
    values = np.random.default_rng(1).lognormal(size=(8, 300))
    values[3:] += 0.05
    expected = standing._behind(values, 0)
    monkeypatch.setattr(standing, "MANY", 300)
    found = standing._behind(values, 0)
    assert found[0] == pytest.approx(expected[0])
    assert found[1] == pytest.approx(expected[1], abs=0.05)
    assert found[3][0] == pytest.approx(expected[3][0], rel=0.06)


def test_of_many_seeds_independent_samples_are_told_apart_likewise(monkeypatch):
    values = np.full((3, 900), np.nan)
    for i in range(3):
        values[i, 300 * i : 300 * (i + 1)] = np.random.default_rng(i).normal(size=300) + 0.1 * i
    expected = standing._behind(values, 0)
    monkeypatch.setattr(standing, "MANY", 300)
    found = standing._behind(values, 0)
    assert found[1] == pytest.approx(expected[1], abs=0.06)
    assert found[3][0] == pytest.approx(expected[3][0], rel=0.08)


def test_hundreds_of_settings_of_thousands_of_seeds_are_ranked_without_reorderings():
    values = np.random.default_rng(0).normal(size=(100, 2000)) + np.linspace(0, 0.5, 100)[:, None]
    found = against_best(values, 0)
    assert not found.is_worse[:5].any()
    assert found.is_worse[50:].all()
