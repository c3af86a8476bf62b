"""Tell which settings can be told from the best one, though the best was chosen by the same runs.

Twelve equal settings have a best one by luck, and comparing it with each other setting as if it had been
named before finds a difference too often. Multiple comparisons with the best (Hsu 1984, Constrained
simultaneous confidence intervals for multiple comparisons with the best) allow for that. Here they are made
by permutation: if settings do not differ, the values of a seed could as well have gone to the settings in any
other order, and the range of the settings' mean ranks in such reorderings says how far apart they are by luck
alone. Of many seeds the mean ranks of reorderings are normal, and drawn from that distribution instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nnexp.analysis.statistics import LEVEL, MANY, Floats, Z, ranks, sign_p

# Fewer seeds than this say nothing about a setting.
FEWEST_SEEDS = 3
# Reorderings, fewer of many values so that their numbers together stay below MOST_DRAWN. Those of at most
# MOST_KEPT values are kept for the next comparison.
REORDERINGS, FEWEST_REORDERINGS, MOST_DRAWN, MOST_KEPT = 1999, 199, 4_000_000, 600
# The power with which a predicted number of seeds would settle a comparison: 80% (the normal quantile), and
# the largest number worth naming.
POWER, MOST_SEEDS = 0.8416, 10_000


@dataclass(frozen=True)
class Standing:
    """What is known of each setting beside the best one.

    `is_worse` has the shape (settings,). `seeds_needed` has the number of seeds that would probably tell a
    setting from the best; NaN for the best itself and for those that are told, infinite beyond MOST_SEEDS.
    """

    is_worse: NDArray[np.bool_]
    seeds_needed: Floats


def against_best(values: Floats, best: int) -> Standing:
    """Compare all settings with the best.

    Parameters
    ----------
    values : array of shape (settings, seeds)
        The value of each setting at each seed, lower is better; infinite for a run that diverged, NaN for
        none.
    best : int
        The position of the best setting, by whatever is used to rank them.

    The settings that are worse are removed and the others compared anew, until none is, since those left have
    less that can be reordered. A setting that is really as good as the best is called worse in at most 5% of
    sweeps. Settings are compared seed by seed at the seeds that all of them have, if these are at least half
    of the seeds of each; else as independent samples.
    """
    left = np.arange(len(values))
    is_worse: NDArray[np.bool_] = np.zeros(len(values), dtype=bool)
    needed = np.full(len(values), np.nan)
    while len(left) > 1:
        behind, luck, seeds, spread = _behind(values[left], int(np.flatnonzero(left == best)[0]))
        worse = np.flatnonzero((luck <= 1 - LEVEL) & (left != best))
        if len(worse):
            is_worse[left[worse]] = True
            left = np.delete(left, worse)
            continue
        critical, spreads = spread
        rivals = left != best
        needed[left[rivals]] = _needed(behind[rivals], critical, spreads[rivals], seeds)
        break
    return Standing(is_worse, needed)


def paired(values: Floats) -> NDArray[np.bool_] | None:
    """Return the mask of the seeds at which the settings are compared; None if as independent samples."""
    has = ~np.isnan(values)
    shared: NDArray[np.bool_] = np.logical_and.reduce(has, axis=0)
    n = int(shared.sum())
    return shared if n >= FEWEST_SEEDS and 2 * n >= has.sum(axis=1).max() else None


def _behind(values: Floats, best: int) -> tuple[Floats, Floats, float, tuple[float, Floats]]:
    """Return how far each setting is behind the best, and what luck can do.

    These are, by setting, the difference of mean ranks to the best's, and the share of reorderings whose
    range is as large; then the number of seeds, the range that is exceeded in 5% of the reorderings, and the
    standard deviation of the difference at one seed.
    """
    shared = paired(values)
    if shared is not None:
        seeds = float(shared.sum())
        scores = ranks(values[:, shared])
        behind = scores.mean(axis=1) - scores[best].mean()
        spreads = (scores - scores[best]).std(axis=1, ddof=1)
        if len(values) == 2:
            p = np.array([sign_p(scores[i] - scores[best]) for i in range(2)])
            critical = Z * float(np.sqrt(((scores[1 - best] - scores[best]) ** 2).mean() / seeds))
            return behind, np.where(behind > 0, p, 1.0), seeds, (critical, spreads)
        ranges = _ranges(scores)
    else:
        has = ~np.isnan(values)
        sizes = has.sum(axis=1)
        seeds = float(np.median(sizes))
        pooled = ranks(values[has])
        owner = np.repeat(np.arange(len(values)), sizes)
        means = np.bincount(owner, pooled) / sizes
        behind = means - means[best]
        variances = np.bincount(owner, (pooled - means[owner]) ** 2) / (sizes - 1)
        spreads = np.sqrt(variances + variances[best])
        ranges = _free_ranges(pooled, sizes)
    luck = (1 + (ranges >= behind[:, None] - 1e-9).sum(axis=1)) / (1 + len(ranges))
    return behind, luck, seeds, (float(np.quantile(ranges, LEVEL)), spreads)


def _ranges(scores: Floats) -> Floats:
    """Return the ranges of the settings' mean scores in reorderings of each seed's: (reorderings,)."""
    k, m = scores.shape
    if m >= MANY:
        return _normal_ranges(np.full(k, np.sqrt(scores.var(axis=0, ddof=1).sum()) / m))
    if k * m * FEWEST_REORDERINGS > MOST_DRAWN:
        rng = np.random.default_rng([k, m])
        return np.array(
            [np.ptp(rng.permuted(scores, axis=0).mean(axis=1)) for _ in range(FEWEST_REORDERINGS)]
        )
    totals = np.take(scores.T.ravel(), _orders(k, m)).sum(axis=1)
    spans: Floats = (totals.max(axis=1) - totals.min(axis=1)) / m
    return spans


def _orders(k: int, m: int) -> NDArray[np.intp]:
    """Return random orders of k settings at each of m seeds, as positions in an array of shape (m, k).

    They have the shape (reorderings, m, k), and are the same each time.
    """
    return _kept_orders(k, m) if k * m <= MOST_KEPT else _drawn_orders(k, m)


def _drawn_orders(k: int, m: int) -> NDArray[np.intp]:
    rng = np.random.default_rng([k, m])
    orders = rng.random((_reorderings(k * m), m, k), dtype=np.float32).argsort(axis=2)
    orders += k * np.arange(m)[:, None]
    return orders


_kept_orders = lru_cache(maxsize=8)(_drawn_orders)


def _free_ranges(pooled: Floats, sizes: NDArray[np.intp]) -> Floats:
    """Return the ranges of the mean scores when all scores (n,) go to settings of these sizes anew."""
    if sizes.min() >= MANY:
        return _normal_ranges(pooled.std(ddof=1) / np.sqrt(sizes))
    rng = np.random.default_rng(len(pooled))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    spans = []
    for _ in range(_reorderings(len(pooled))):
        means = np.add.reduceat(rng.permutation(pooled), starts) / sizes
        spans.append(np.ptp(means))
    return np.array(spans)


def _normal_ranges(errors: Floats) -> Floats:
    """Return the ranges of the mean scores of settings by luck, given their standard errors (settings,).

    What all settings have in common does not change a range, so the means are drawn as independent ones.
    """
    rng = np.random.default_rng(len(errors))
    return np.array([np.ptp(errors * rng.normal(size=len(errors))) for _ in range(_reorderings(len(errors)))])


def _reorderings(size: int) -> int:
    return int(np.clip(MOST_DRAWN // max(1, size), FEWEST_REORDERINGS, REORDERINGS))


def _needed(behind: Floats, critical: float, spreads: Floats, seeds: float) -> Floats:
    """Return the numbers of seeds at which differences like these exceed what luck does, with 80% power.

    What luck does and the spread of a difference shrink with the root of the number of seeds.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        n = ((critical * np.sqrt(seeds) + POWER * spreads) / behind) ** 2
    n = np.where((behind > 0) & (n <= MOST_SEEDS), np.maximum(n, seeds + 1), np.inf)
    rounded: Floats = np.where(np.isinf(n), n, _two_digits(np.where(np.isinf(n), 1.0, n)))
    return rounded


def _two_digits(n: Floats) -> Floats:
    """Round up to two significant digits."""
    unit = 10.0 ** np.maximum(np.floor(np.log10(n)) - 1, 0)
    rounded: Floats = np.ceil(n / unit) * unit
    return rounded
