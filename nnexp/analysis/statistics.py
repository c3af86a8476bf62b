"""Estimate and bound: medians, interquartile means and shares with 95% intervals. Arrays in, arrays out.

Losses over seeds are skewed and often have two modes, so no interval here assumes a normal distribution.
`make test-statistics` measures how often each of them covers the truth; docs/why/statistics.md has the table.
A run that diverged takes part as an infinite value, the worst there is.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


# The level of every interval and test, and the normal quantile that belongs to it.
LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
# Below these numbers of networks no interval covers what it promises, and none is given.
FEWEST_FOR_MEDIAN, FEWEST_FOR_IQM, FEWEST_FOR_SHARE = 5, 10, 3
# Bootstrap resamples; those of so many networks at most are kept for the next group of the same size.
RESAMPLES, MOST_KEPT = 2000, 100
# From so many networks on, what is otherwise counted by resampling or reordering comes from its limit.
MANY = 500


def wilson(successes: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Return Wilson's 95% interval of a share: (low, high), each of the shape of `successes`.

    NaN where `n` is below FEWEST_FOR_SHARE. `successes` need not be whole: ties may count half. Wilson
    (1927), Probable inference, the law of succession, and statistical inference.
    """
    z2 = Z**2
    n = np.asarray(n, dtype=float)
    successes = np.asarray(successes, dtype=float)
    with np.errstate(all="ignore"):
        share = successes / n
        half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
        middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    low = np.where(successes <= 0, 0.0, np.clip(middle - half, 0, 1))
    high = np.where(successes >= n, 1.0, np.clip(middle + half, 0, 1))
    few = n < FEWEST_FOR_SHARE
    return np.where(few, np.nan, low), np.where(few, np.nan, high)


def superiority_interval(share: float, n: int, m: int) -> tuple[float, float]:
    """Return the 95% interval of the probability that a value of one sample is below one of another.

    `share` is that of the n m pairs of their values, ties by half. The pairs are not independent: the
    variance is Hanley and McNeil's (1982), taken where the probability is at the interval's end (Newcombe
    2006, Confidence intervals for an effect size measure based on the Mann-Whitney statistic, method 5). NaN
    if a sample has fewer than FEWEST_FOR_SHARE values.
    """
    from scipy.optimize import brentq

    if min(n, m) < FEWEST_FOR_SHARE:
        return float("nan"), float("nan")

    def outside(p: float) -> float:
        """Return how much farther the share is from p than it is with p true in 95% of samples."""
        spread = 1 + ((n + m) / 2 - 1) * ((1 - p) / (2 - p) + p / (1 + p))
        return abs(share - p) - Z * math.sqrt(p * (1 - p) * spread / (n * m))

    low = brentq(outside, 0.0, min(share, 1 - 1e-9)) if share > 0 else 0.0
    return low, brentq(outside, max(share, 1e-9), 1.0) if share < 1 else 1.0


def median(values: ArrayLike) -> Floats:
    """Return the medians over the last axis; NaN if it is empty. Infinite values take part."""
    x = np.sort(np.asarray(values, dtype=float), axis=-1)
    n = x.shape[-1]
    if n == 0:
        return np.full(x.shape[:-1], np.nan)
    low, high = x[..., (n - 1) // 2], x[..., n // 2]
    with np.errstate(invalid="ignore"):  # inf - inf, where both are the worst
        middle = low + (high - low) / 2
    return np.where(low == high, low, np.where(np.isinf(high), high, middle))


def median_interval(values: ArrayLike) -> tuple[Floats, Floats]:
    """Return the 95% interval of the median over the last axis: (low, high), without that axis.

    Its ends are the narrowest symmetric pair of order statistics that covers the median of any continuous
    distribution in at least 95% of samples, the binomial distribution says; of 5 values it is their range,
    which covers it in 93.75%. NaN below FEWEST_FOR_MEDIAN values.
    """
    x = np.sort(np.asarray(values, dtype=float), axis=-1)
    n = x.shape[-1]
    if n < FEWEST_FOR_MEDIAN:
        none = np.full(x.shape[:-1], np.nan)
        return none, none
    rank = _order_rank(n)
    return x[..., rank], x[..., n - 1 - rank]


def quantile_interval(values: ArrayLike, level: float) -> tuple[Floats, Floats, Floats]:
    """Return the quantile over the last axis and its 95% interval: (quantile, low, high), without that axis.

    The quantile is the smallest value that at least the share `level` of the values do not exceed. The ends
    are order statistics between which the quantile of any continuous distribution lies in at least 95% of
    samples, the binomial distribution says, with half of the rest on each side. An end beyond the smallest
    or the largest value is NaN.
    """
    from scipy.stats import binom

    x = np.sort(np.asarray(values, dtype=float), axis=-1)
    n = x.shape[-1]
    # The value of 0-based rank r is above the quantile if at most r values are below it, X ~ Binomial.
    low, high = (int(binom.ppf(p, n, level)) for p in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    none = np.full(x.shape[:-1], np.nan)
    return (
        x[..., max(math.ceil(level * n) - 1, 0)],
        x[..., low - 1] if low > 0 else none,
        x[..., high] if high < n else none,
    )


@lru_cache(maxsize=4096)
def _order_rank(n: int) -> int:
    """Return the 0-based rank r so that the order statistics r and n - 1 - r cover the median in 95%."""
    from scipy.special import bdtr

    # The interval misses if at most r values lie on one side: P(X <= r) for X ~ Binomial(n, 1/2), twice.
    misses = range(n // 2)
    return max(0, bisect_right(misses, 1 - LEVEL, key=lambda rank: 2 * float(bdtr(rank, n, 0.5))) - 1)


def iqm(values: ArrayLike) -> Floats:
    """Return the interquartile means over the last axis: the means of the middle half; NaN if it is empty.

    Of a number of values that 4 does not divide, those at the two quartiles count in part. Agarwal et al.
    (2021), Deep reinforcement learning at the edge of the statistical precipice, recommend it for few runs.
    """
    x = np.sort(np.asarray(values, dtype=float), axis=-1)
    if x.shape[-1] == 0:
        return np.full(x.shape[:-1], np.nan)
    return _weighted(x, _middle_half(x.shape[-1])[None])[..., 0]


def iqm_interval(values: ArrayLike) -> tuple[Floats, Floats]:
    """Return the 95% interval of the interquartile mean over the last axis: (low, high).

    It is a bootstrap interval, bias-corrected and accelerated (Efron 1987), at levels that are expanded for
    few values (Hesterberg 2015, What teachers should know about the bootstrap). Its resamples are the same
    each time. From MANY values on it is `_iqm_interval_of_many`. NaN below FEWEST_FOR_IQM values.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    x = np.sort(np.asarray(values, dtype=float), axis=-1)
    n = x.shape[-1]
    if n < FEWEST_FOR_IQM:
        none = np.full(x.shape[:-1], np.nan)
        return none, none
    if n >= MANY:
        return _iqm_interval_of_many(x)
    found = iqm(x)[..., None]
    drawn = np.sort(_resampled(x), axis=-1)
    below = ((drawn < found).mean(axis=-1) + (drawn <= found).mean(axis=-1)) / 2
    bias = ndtri(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    acceleration = _acceleration(x)
    expanded = np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 + LEVEL) / 2)
    ends = []
    for z in (-expanded, expanded):
        level = ndtr(bias + (bias + z) / np.maximum(1 - acceleration * (bias + z), 0.1))
        at = np.clip(np.floor(level * drawn.shape[-1]), 0, drawn.shape[-1] - 1).astype(int)
        ends.append(np.take_along_axis(drawn, at[..., None], axis=-1)[..., 0])
    return ends[0], ends[1]


def _iqm_interval_of_many(x: Floats) -> tuple[Floats, Floats]:
    """Return the interval of the interquartile mean of many sorted values (…, n), without resampling.

    It holds two intervals. One is normal, with the standard error of the winsorised values (Tukey and
    McLaughlin 1963, Less vulnerable confidence and significance procedures). It is wrong where a quartile
    falls between two modes, or near the diverged runs. The other is right there: the values between the
    quartiles, if both quartiles are shifted by as much as the binomial distribution allows.
    """
    from scipy.special import ndtri

    n, z = x.shape[-1], ndtri((1 + LEVEL) / 2)
    quarter = n // 4
    shift = int(np.ceil(z * np.sqrt(3 / 16 * n)))
    half = n - 2 * quarter
    shifted = [x[..., start : start + half].mean(axis=-1) for start in (quarter - shift, quarter + shift)]
    middle, mean = x[..., quarter : quarter + half], iqm(x)
    low, high = middle[..., 0], middle[..., -1]
    with np.errstate(invalid="ignore"):  # inf - inf, where the upper quartile is a diverged run
        # Winsorised: each value beyond a quartile counts as the quartile.
        center = (middle.sum(axis=-1) + quarter * (low + high)) / n
        squares = np.square(middle - center[..., None]).sum(axis=-1)
        squares = squares + quarter * (np.square(low - center) + np.square(high - center))
        error = z * np.sqrt(squares / (n - 1) * n) / half
        ends = mean - error, mean + error
    return np.fmin(ends[0], shifted[0]), np.fmax(ends[1], shifted[1])


def _middle_half(n: int) -> Floats:
    """Return the weights of n sorted values in their interquartile mean."""
    at = np.arange(n)
    weights = np.clip(np.minimum(at + 1 - n / 4, 3 * n / 4 - at), 0, 1)
    half: Floats = weights / weights.sum()
    return half


def _weighted(x: Floats, weights: Floats) -> Floats:
    """Return the sums of sorted values (…, n) with weights (k, n), as (…, k); inf of weight 0 counts 0."""
    worst = np.isinf(x)
    has_worst = worst.any()
    sums: Floats = (np.where(worst, 0.0, x) if has_worst else x) @ weights.T
    if has_worst:
        sums = np.where(worst @ weights.T > 0, np.inf, sums)
    return sums


def _resampled(x: Floats) -> Floats:
    """Return the interquartile means of resamples of sorted values (…, n), as (…, resamples).

    A resample of sorted values is sorted if its positions are, so its mean is a weighted sum of the values.
    """
    n = x.shape[-1]
    if n <= MOST_KEPT:
        return _weighted(x, _kept_resamples(n))
    rng, size = np.random.default_rng(n), max(1, 200_000 // n)
    parts = range(0, RESAMPLES, size)
    return np.concatenate(
        [_weighted(x, _resample_weights(rng, min(size, RESAMPLES - start), n)) for start in parts], axis=-1
    )


@lru_cache(maxsize=64)
def _kept_resamples(n: int) -> Floats:
    """Return the weights of all resamples of n values, of shape (RESAMPLES, n)."""
    return _resample_weights(np.random.default_rng(n), RESAMPLES, n)


def _resample_weights(rng: np.random.Generator, resamples: int, n: int) -> Floats:
    """Return the weights of n sorted values in the interquartile mean of each resample: (resamples, n)."""
    at = np.sort(rng.integers(n, size=(resamples, n)), axis=1) + n * np.arange(resamples)[:, None]
    weights = np.tile(_middle_half(n), resamples)
    return np.asarray(np.bincount(at.ravel(), weights, n * resamples), dtype=float).reshape(resamples, n)


def _acceleration(x: Floats) -> Floats:
    """Return the bootstrap's acceleration of each sample of sorted values (…, n), from the jackknife."""
    n = x.shape[-1]
    weights, worst = _middle_half(n - 1), np.isinf(x)
    without = _left_out(np.where(worst, 0.0, x), weights)
    if worst.any():
        without = np.where(_left_out(worst.astype(float), np.sign(weights)) > 0, np.inf, without)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = without.mean(axis=-1, keepdims=True) - without
        found = (apart**3).sum(axis=-1) / (6 * (apart**2).sum(axis=-1) ** 1.5)
    return np.where(np.isfinite(found), found, 0.0)


def _left_out(x: Floats, weights: Floats) -> Floats:
    """Return, for each of the values (…, n), the sum of the others with weights (n - 1,), in their order."""
    none = np.zeros((*x.shape[:-1], 1))
    before = np.concatenate([none, np.cumsum(x[..., :-1] * weights, axis=-1)], axis=-1)
    behind = np.cumsum((x[..., 1:] * weights)[..., ::-1], axis=-1)[..., ::-1]
    sums: Floats = before + np.concatenate([behind, none], axis=-1)
    return sums


def sign_p(differences: ArrayLike) -> float:
    """Return the two-sided p of Fisher's randomisation test of paired differences, by their signed sum.

    It is exact: each difference could as well have had the other sign, and all 2^n ways are counted. The
    differences are to be multiples of 1/2, as those of ranks are. Of MANY differences the sum is normal. NaN
    without any.
    """
    if np.size(differences) >= MANY:
        from scipy.special import ndtr

        spread = float(np.sqrt(np.sum(np.square(differences))))
        return float(2 * ndtr(-abs(np.sum(differences)) / spread)) if spread else 1.0
    whole = np.rint(2 * np.abs(np.asarray(differences, dtype=float))).astype(np.int64)
    if len(whole) == 0:
        return float("nan")
    observed = abs(int(np.rint(2 * np.sum(differences))))
    whole = whole[whole > 0]
    ways = np.ones(1)  # ways[s]: the share of the ways in which the positive differences add up to s
    for size in whole:
        grown = np.zeros(len(ways) + size)
        grown[: len(ways)] += ways / 2
        grown[size:] += ways / 2
        ways = grown
    total = len(ways) - 1
    sums = np.abs(2 * np.arange(total + 1) - total)
    return float(min(1.0, ways[sums >= observed].sum()))


def ranks(values: ArrayLike) -> Floats:
    """Return the ranks of all values together, from 1; equal values share their mean rank."""
    x = np.asarray(values, dtype=float)
    order = np.argsort(x, axis=None)
    ordered = x.ravel()[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: x.size])
    counts = np.diff(starts, append=x.size)
    shared = np.empty(x.size)
    shared[order] = np.repeat(starts + (counts + 1) / 2, counts)
    return shared.reshape(x.shape)
