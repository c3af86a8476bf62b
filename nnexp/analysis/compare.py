"""Compare settings by their runs: pairs of them, and the effect of each param averaged over the others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nnexp.analysis import statistics, survival
from nnexp.analysis.order import sort_key
from nnexp.analysis.samples import Cells, Sample, by_seed, rows_of, sign
from nnexp.analysis.settings import Setting, label, matching
from nnexp.analysis.standing import paired
from nnexp.analysis.statistics import Floats
from nnexp.analysis.summary import deciding, finished, incomparable, params_of, varying
from nnexp.config.errors import RequestError, unknown

# Of two independent samples of many values, so many of each are paired with each other.
MOST_PAIRED = 2000


def compare(
    runs: pd.DataFrame,
    settings: Sequence[Setting] = (),
    metric: str | None = None,
    *,
    over: str = "seed",
    history: pd.DataFrame | None = None,
    threshold: float | None = None,
) -> pd.DataFrame:
    """Compare settings with each other; without any, the values of each param.

    Parameters
    ----------
    runs : DataFrame
        The runs, as `load_runs` returns them. Those that did not finish are ignored.
    settings : sequence of str or mapping
        Two settings or more, such as `"init=he,learning_rate=0.5"` or `{"init": "he"}`. A setting is all runs
        with these values; several of one seed count by their mean.
    metric : str, optional
        The metric to compare; by default `val_loss` if at least half of the runs have one, else `loss`.
    over : str
        The param by which runs are paired.
    history : DataFrame, optional
        Curves of the accuracy, or with a threshold of the metric, as `load_history` returns them: adds the
        columns of the time to solve.
    threshold : float, optional
        The value of the metric that counts as solved; by default an accuracy of 1.

    Returns
    -------
    DataFrame
        With settings one row for each two of them, see `pairs`; without, one row for each value of each param
        that varies, see `effects`.

    Raises
    ------
    RequestError
        If there is one setting only, if a setting has no run or names an unknown param, or if the metric is
        unknown or has no known better direction.

    Examples
    --------
    >>> import nnexp
    >>> sweep = nnexp.sweep(dataset="xor", init=["normal", "xavier"], seed=range(6), epochs=50, figures=False)
    >>> nnexp.compare(sweep.runs, ["init=normal", "init=xavier"])[["n", "paired"]].values.tolist()
    [[6, True]]
    """
    done = finished(runs)
    if not settings:
        return effects(done, metric, over=over)
    parts = {label(one): matching(done, one) for one in settings}
    return pairs(parts, metric, over=over, history=history, threshold=threshold)


def pairs(
    parts: Mapping[str, pd.DataFrame],
    metric: str | None = None,
    *,
    over: str = "seed",
    history: pd.DataFrame | None = None,
    threshold: float | None = None,
) -> pd.DataFrame:
    """Compare the finished runs of each two parts, which are named.

    Returns a row for each two, with the columns
    `setting`, `other`: their names;
    `n`: the number of seeds compared, and `paired`: whether they are those that both have;
    `median`, `other_median`: of the metric, a diverged run as the worst;
    `difference`, `difference_low`, `difference_high`: the median of the differences by seed, setting minus
    other, and its 95% interval; of independent samples that of all pairs of runs (Hodges and Lehmann 1963);
    `improvement`, `improvement_low`, `improvement_high`: the probability that a run of the setting is better
    than one of the other, ties by half, and its 95% interval;
    `p`: of the two-sided test that neither is better, exact where seeds are shared (Fisher's randomisation of
    pooled ranks; else Mann and Whitney 1947), and `p_holm`: the same, allowing for the number of rows (Holm
    1979);
    with `history`, `epochs`, `other_epochs`: the median epochs to solve, and `p_epochs` of the log-rank test.

    Raises RequestError.
    """
    if len(parts) < 2:
        raise RequestError("compare needs two settings or more, such as init=he init=xavier")
    runs = pd.concat([part.assign(_part=name) for name, part in parts.items()], ignore_index=True)
    metric = deciding(runs) if metric is None else metric
    check_metric(runs, metric)
    cells = Cells.of(runs, metric, over)
    at = {name: np.flatnonzero((runs["_part"] == name).to_numpy()) for name in parts}
    samples = {name: cells.sample(places) for name, places in at.items()}
    for name, sample in samples.items():
        if not len(sample.seeds):
            raise RequestError(f"{name}: none of its runs has a {metric}")
    rows = [
        {"setting": one, "other": other} | _pair(samples[one], samples[other], sign(metric))
        for one, other in itertools.combinations(parts, 2)
    ]
    table = pd.DataFrame(rows)
    table["p_holm"] = _holm(table["p"].to_numpy(dtype=float))
    if history is not None:
        _add_times(table, parts, history, metric, threshold)
    return table


def check_metric(runs: pd.DataFrame, metric: str) -> None:
    """Raise RequestError unless runs can be compared by the metric."""
    if metric not in runs or not pd.api.types.is_numeric_dtype(runs[metric]):
        numeric = set(runs.select_dtypes("number").columns) - set(params_of(runs))
        raise unknown("metric", metric, [name for name in numeric if sign(name)])
    if not sign(metric):
        raise RequestError(
            f"metric {metric}: nothing is compared by it; take a loss or an accuracy, not of test rows"
        )


def by_shared_seed(parts: Mapping[str, pd.DataFrame], metric: str, over: str = "seed") -> pd.DataFrame | None:
    """Return the values of two parts at the seeds that both have: columns `over` and the parts' names.

    A diverged run has the metric's worst value. None if the parts are compared as independent samples.
    """
    runs = pd.concat([part.assign(_part=name) for name, part in parts.items()], ignore_index=True)
    cells = Cells.of(runs, metric, over)
    frame = runs[[over, "_part"]].assign(value=cells.counted).dropna(subset="value")
    table = frame.pivot_table(index=over, columns="_part", values="value", aggfunc="mean")[list(parts)]
    if paired(table.to_numpy(dtype=float).T) is None:
        return None
    return table.dropna().rename_axis(columns=None).reset_index()


def _pair(one: Sample, other: Sample, better: int) -> dict[str, Any]:
    """Return the columns of one row of `pairs`."""
    values = by_seed([one, other], better, False)
    shared = paired(values)
    if shared is None:
        x, y = (row[~np.isnan(row)] for row in values)
        found, p = by_samples(x, y), _rank_sum_p(x, y)
    else:
        x, y = values[:, shared]
        found, p = by_seeds(x, y), statistics.sign_p(np.subtract(*statistics.ranks(np.stack([x, y]))))
    ends = sorted([better * found.low, better * found.high])
    return {
        "n": found.n,
        "paired": shared is not None,
        "median": float(statistics.median(one.values)),
        "other_median": float(statistics.median(other.values)),
        "difference": better * found.middle,
        "difference_low": ends[0],
        "difference_high": ends[1],
        "improvement": found.better,
        "improvement_low": found.better_low,
        "improvement_high": found.better_high,
        "p": p,
    }


class Difference(NamedTuple):
    """How two samples differ: the median difference and the share that is better, with their intervals."""

    n: int
    middle: float
    low: float
    high: float
    better: float
    better_low: float
    better_high: float


def by_seeds(x: Floats, y: Floats) -> Difference:
    """Compare two samples seed by seed; lower is better."""
    apart, n = _minus(x, y), len(x)
    low, high = statistics.median_interval(apart)
    wins = float((x < y).sum() + (x == y).sum() / 2)
    least, most = statistics.wilson(wins, n)
    middle = float(statistics.median(apart))
    return Difference(n, middle, float(low), float(high), wins / n, float(least), float(most))


def by_samples(x: Floats, y: Floats) -> Difference:
    """Compare two independent samples by all pairs of their values; lower is better."""
    ordered = np.sort(y)
    below, upto = (np.searchsorted(ordered, x, side=side) for side in ("left", "right"))
    better = float((len(y) - (below + upto) / 2).mean() / len(y))
    apart = _minus(_thinned(x)[:, None], _thinned(y)[None, :]).ravel()
    low, high = _shift_interval(apart, len(x), len(y))
    ends = statistics.superiority_interval(better, len(x), len(y))
    n, middle = min(len(x), len(y)), float(statistics.median(apart))
    return Difference(n, middle, low, high, better, *ends)


def _thinned(values: Floats) -> Floats:
    """Return the values, or of many MOST_PAIRED of them: their quantiles at equal steps."""
    if len(values) <= MOST_PAIRED:
        return values
    at = ((np.arange(MOST_PAIRED) + 0.5) / MOST_PAIRED * len(values)).astype(int)
    thinned: Floats = np.sort(values)[at]
    return thinned


def _minus(x: Floats, y: Floats) -> Floats:
    """Return x - y; 0 where both are infinite, as both are the worst."""
    with np.errstate(invalid="ignore"):
        apart: Floats = np.nan_to_num(x - y, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return apart


def _rank_sum_p(x: Floats, y: Floats) -> float:
    """Return the p of Mann and Whitney's test; exact without ties."""
    from scipy.stats import mannwhitneyu

    exact = len(np.unique(np.concatenate([x, y]))) == len(x) + len(y) <= 200
    return float(mannwhitneyu(x, y, method="exact" if exact else "asymptotic").pvalue)


def _shift_interval(apart: Floats, n: int, m: int) -> tuple[float, float]:
    """Return the 95% interval of the shift between samples of n and m values from their n m differences."""
    if min(n, m) < statistics.FEWEST_FOR_MEDIAN:
        return float("nan"), float("nan")
    ordered = np.sort(apart)
    share = 0.5 - statistics.Z * np.sqrt((n + m + 1) / (12 * n * m))
    rank = max(0, int(np.floor(len(apart) * share)))
    return float(ordered[rank]), float(ordered[-1 - rank])


def _holm(p: Floats) -> Floats:
    """Return Holm's adjusted p values."""
    order = np.argsort(p)
    grown = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(grown, 1)
    return adjusted


def _add_times(
    table: pd.DataFrame,
    parts: Mapping[str, pd.DataFrame],
    history: pd.DataFrame,
    metric: str,
    threshold: float | None,
) -> None:
    """Add the columns of the time to solve."""
    by, limit = (f"{rows_of(metric)}accuracy", survival.SOLVED) if threshold is None else (metric, threshold)
    times = {name: survival.times(part, history, by, limit) for name, part in parts.items()}
    if any(found.empty for found in times.values()):
        return
    epochs = {name: survival.median_epoch(found) for name, found in times.items()}
    table["epochs"] = table["setting"].map(epochs)
    table["other_epochs"] = table["other"].map(epochs)
    named = zip(table["setting"], table["other"], strict=True)
    table["p_epochs"] = [survival.log_rank_p(times[one], times[other]) for one, other in named]


def effects(runs: pd.DataFrame, metric: str | None = None, *, over: str = "seed") -> pd.DataFrame:
    """Compare the values of each param that varies, at the same values of all others and the same seed.

    Returns a row for each value, with the columns
    `dataset` or `params.loss`, if they vary: the comparison is within each of them;
    `param`, `value`;
    `n`: the number of places (seeds and values of the other params) at which all values of the param have a
    finite metric;
    `effect`, `effect_low`, `effect_high`: how much the metric is above the mean over the param's values at
    the same place, averaged over the places of a seed: the median over the seeds and its 95% interval;
    `best`: the share of the places at which this value is the best; ties count in parts.

    Raises RequestError.
    """
    metric = deciding(runs) if metric is None else metric
    check_metric(runs, metric)
    cells = Cells.of(runs, metric, over)
    frame = runs.assign(_value=cells.counted)
    names = varying(runs, over)
    apart = incomparable(names)
    rows: list[dict[str, Any]] = []
    for key, part in frame.groupby(apart, dropna=False) if apart else [((), frame)]:
        inside = dict(zip(apart, key if isinstance(key, tuple) else (key,), strict=True))
        for name in varying(part.drop(columns="_value"), over):
            others = [other for other in varying(part.drop(columns="_value"), over) if other != name]
            rows += [inside | row for row in _effect(part, name, others, over, sign(metric))]
    columns = [*apart, "param", "value", "n", "effect", "effect_low", "effect_high", "best"]
    return pd.DataFrame(rows, columns=columns)


def _written(column: pd.Series) -> pd.Series:
    """Return the values of a param as texts, each distinct one written once."""
    codes, values = pd.factorize(column, use_na_sentinel=False)
    texts = np.array([repr(value) for value in values.tolist()], dtype=object)
    return pd.Series(texts[codes], index=column.index)


def _effect(
    part: pd.DataFrame, name: str, others: Sequence[str], over: str, better: int
) -> list[dict[str, Any]]:
    """Return the rows of one param."""
    # As text, since a value may be missing, and a pivot leaves out what is.
    places = part.assign(**{other: _written(part[other]) for other in [*others, name]})
    table = places.pivot_table(index=[over, *others], columns=name, values="_value", aggfunc="mean")
    values = table.to_numpy(dtype=float)
    table = table[np.isfinite(values).all(axis=1)]
    of = {repr(value): value for value in part[name].unique().tolist()}
    if table.empty:
        return []
    apart = table.sub(table.mean(axis=1), axis=0).groupby(level=over).mean()
    is_best = (better * table).eq((better * table).min(axis=1), axis=0)
    share = is_best.div(is_best.sum(axis=1), axis=0).mean()
    rows = []
    for value in sorted(table.columns, key=lambda text: sort_key(of[text])):
        low, high = statistics.median_interval(apart[value].to_numpy())
        middle = float(statistics.median(apart[value].to_numpy()))
        ends = {"effect_low": float(low), "effect_high": float(high), "best": float(share[value])}
        rows.append({"param": name, "value": of[value], "n": len(table), "effect": middle} | ends)
    return rows
