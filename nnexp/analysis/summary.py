"""Summarise runs: DataFrame in, DataFrame out.

A run that diverged has no meaningful loss, and counts as the worst. Two runs with the same key are the same
result recorded twice, and count once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nnexp.analysis import condition, statistics
from nnexp.analysis.order import sort_key
from nnexp.analysis.samples import Cells, Sample, by_seed, rows_of, scale, sign
from nnexp.analysis.standing import FEWEST_SEEDS, against_best
from nnexp.analysis.statistics import Floats
from nnexp.config.errors import RequestError, unknown
from nnexp.config.run import key_names
from nnexp.tracking.collected import order_by

# Params across whose values losses do not compare: data sets and (`params.loss`) loss functions.
INCOMPARABLE = ("dataset", "params")
# What settings can be ranked by.
RANKS = ("median", "iqm", "mean", "solved")


def deciding(runs: pd.DataFrame) -> str:
    """Return the metric that says how well a network does on rows it has not seen: `val_loss`, else `loss`.

    It is `val_loss` if at least half of the runs that finished have one.
    """
    done = finished(runs)
    has_split = "val_loss" in done and len(done) > 0 and done["val_loss"].notna().mean() >= 0.5
    return "val_loss" if has_split else "loss"


def needed(*named: str | Sequence[str] | None, where: str | None = None) -> set[str]:
    """Return the columns that a summary needs besides the params that vary, for `read.load_columns`.

    They are the metrics that it may decide by, those named, each with the accuracy of the same rows, and the
    names in the condition.
    """
    names = {"loss", "val_loss"}
    for one in named:
        names |= {one} if isinstance(one, str) else set(one or ())
    names |= {"params.loss"} if "loss" in names else set()
    names |= {f"{rows_of(name)}accuracy" for name in names}
    return names | set(re.findall(r"[^\s`()\[\]=<>!+*/%,\"']+", where or ""))


def params_of(runs: pd.DataFrame) -> list[str]:
    """Return the columns of `load_runs` that are params."""
    roots = {key.partition(".")[0] for key in key_names()} - {"loss"} | {"params"}
    return [column for column in runs.columns if column.partition(".")[0] in roots]


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that finished; of runs with the same key, the one recorded last.

    They are sorted by key, so that a sum over them has the same bits for any order of recording. Runs read
    without their keys are those of one population, in which each key is once, sorted by their numbers.
    """
    is_done = runs["status"] == "FINISHED"
    done = runs if is_done.all() else runs[is_done]
    if "run_key" not in done:
        is_sorted = "number" not in done or done["number"].is_monotonic_increasing
        return done.reset_index(drop=True) if is_sorted else done.sort_values("number", ignore_index=True)
    texts = pa.chunked_array(pa.array(done["run_key"].array))
    keys = texts.cast(pa.large_string()).combine_chunks()  # of no type if there is none
    if pc.all(pc.greater(keys[1:], keys[:-1]), skip_nulls=False).as_py():  # which saves a copy
        return done.reset_index(drop=True)
    keys = keys.dictionary_encode()
    is_repeated = pd.Series(keys.indices.to_numpy(zero_copy_only=False)).duplicated(keep="last").to_numpy()
    done = done[~is_repeated] if is_repeated.any() else done
    return done.take(order_by(done["run_key"].astype("str"))).reset_index(drop=True)


def varying(runs: pd.DataFrame, over: str = "seed") -> list[str]:
    """Return the params worth grouping by: those that vary, except `over`.

    An option that has one value for each name of its group is left out (`init.scale`, if `init` implies it).
    """
    varied = [p for p in params_of(runs) if p != over and runs[p].nunique(dropna=False) > 1]
    return [p for p in varied if not _told_by(runs, p, [q for q in varied if q == p.partition(".")[0] != p])]


def mixed(runs: pd.DataFrame, by: Sequence[str], over: str = "seed") -> list[str]:
    """Return the params, except `over`, that vary within the groups of `by`, so that a mean mixes them."""
    return [p for p in varying(runs, over) if p not in by and not _told_by(runs, p, by)]


def _told_by(runs: pd.DataFrame, param: str, others: Sequence[str]) -> bool:
    """Return whether `param` has only one value in every group of the other params."""
    if not others:
        return False
    return bool(
        (runs.groupby(list(others), dropna=False, observed=True)[param].nunique(dropna=False) <= 1).all()
    )


def select(runs: pd.DataFrame, where: str | None, asked_as: str = "") -> pd.DataFrame:
    """Return the rows for which a condition holds, such as `learning_rate > 0.1 and init == "he"`.

    `asked_as` is what was typed, for the error. Raises RequestError if `where` is not a condition over the
    columns of the runs.
    """
    if where is None:
        return runs
    try:
        return runs[condition.rows(runs, where)]
    except condition.NotACondition as error:
        raise RequestError(f"{asked_as or f'--where {where!r}'}: {error}") from None


def summarize(
    runs: pd.DataFrame,
    by: Sequence[str],
    metric: str | None = None,
    *,
    over: str = "seed",
    rank: str = "median",
    history: pd.DataFrame | None = None,
    threshold: float | None = None,
) -> pd.DataFrame:
    """Summarise the last value of a metric for each group of runs.

    Parameters
    ----------
    runs : DataFrame
        The runs, as `load_runs` returns them. Those that did not finish are ignored.
    by : sequence of str
        The params to group by; none for one group of all runs.
    metric : str, optional
        The metric to summarise; by default `val_loss` if at least half of the runs have one, else `loss`.
    over : str
        The param that is sampled within a group. If a group has several runs of one value, as other params
        vary in it, `median` and `iqm` are of the means of these runs, and so are the intervals.
    rank : str
        What ranks the groups: `median`, `iqm`, `mean` or `solved`.
    history : DataFrame, optional
        The curves of the metric, as `load_history` returns them.
    threshold : float, optional
        With `history`, adds the column `epochs_to`. An accuracy reaches the threshold from below; a loss, and
        any metric without a known better direction, from above.

    Returns
    -------
    DataFrame
        One row for each group, sorted by the params of `by`, which are the first columns. Then come:
        `n`, the number of runs that finished;
        `networks`, the number of different networks among them, by their weights;
        `used`, the number of runs with a value that did not diverge, and `diverged`, the number of those
        whose loss stopped being finite;
        `median`, `iqm` (the mean of the middle half), in which a diverged run counts as the worst, with their
        95% intervals `median_low`, `median_high`, `iqm_low`, `iqm_high`: see `analysis.statistics`. They are
        NaN where there are too few different networks;
        `mean`, `std`, `min`, `max` over the runs that did not diverge;
        `solved`, the share of runs with a final accuracy of 1, and Wilson's 95% interval of it, `solved_low`
        and `solved_high` (of a metric of the validation or test rows `val_solved…` or `test_solved…`), if
        accuracy was recorded;
        `epochs_to`, the median number of completed epochs at which the metric first reached the threshold,
        infinite if half of the runs or more never reach it, and its 95% interval `epochs_to_low`,
        `epochs_to_high`;
        `rank`, from 1, separately for each data set and loss function; groups of fewer than 3 different
        networks come last;
        `standing`: `best`; `tied`, not to be told from the best; `worse`: see `analysis.standing`. None for
        groups of fewer than 3 different networks, or if nothing is chosen by the metric;
        `seeds_needed`, the number of seeds that would probably tell a `tied` group from the best; infinite
        beyond 10,000.

    Raises
    ------
    RequestError
        If a name in `by` is not a param of the runs, `metric` is not one of their metrics, or `rank` is
        unknown.

    Examples
    --------
    >>> import nnexp
    >>> sweep = nnexp.sweep(dataset="and", learning_rate=[0.1, 1], seed=range(3), epochs=100)
    >>> table = nnexp.summarize(sweep.runs, ["learning_rate"])
    >>> table[["learning_rate", "n"]].values.tolist()
    [[0.1, 3.0], [1.0, 3.0]]
    >>> bool(table["median"][1] < table["median"][0])
    True
    """
    runs = finished(runs)
    metric = deciding(runs) if metric is None else metric
    columns = params_of(runs)
    by = ["params.loss" if name == "loss" else name for name in by]
    for name in by:
        if name not in columns:
            raise unknown("param in --by", name, columns)
    check_metric(runs, metric)
    if rank not in RANKS:
        raise unknown("--rank", rank, RANKS)
    cells = Cells.of(runs, metric, over)
    keys, groups = _groups(runs, by)
    samples = [cells.sample(at) for at in groups]
    table = pd.DataFrame([cells.row(at, one) for at, one in zip(groups, samples, strict=True)])
    table = pd.concat([keys, table], axis=1)
    _bound(table, samples)
    if threshold is not None and history is not None:
        reached = epochs_to(runs, history, threshold, metric).to_numpy(dtype=float)
        _time(table, [reached[at] for at in groups], samples)
    _place(table, samples, metric, rank)
    return table


def check_metric(runs: pd.DataFrame, metric: str) -> None:
    """Raise RequestError unless the metric is one of the runs' numbers."""
    runs = runs.drop(columns=["number", "network"], errors="ignore")  # which tell members apart
    if metric not in runs.columns or not pd.api.types.is_numeric_dtype(runs[metric]):
        columns = params_of(runs)
        numeric = [c for c in runs.select_dtypes("number").columns if c not in columns]
        raise unknown("metric", metric, numeric)


def _groups(runs: pd.DataFrame, by: Sequence[str]) -> tuple[pd.DataFrame, list[Any]]:
    """Return the values of the params for each group, in order, and the positions of its runs."""
    if not by:
        return pd.DataFrame(index=[0]), [np.arange(len(runs))]
    places = runs.groupby(list(by), dropna=False, sort=False, observed=True).indices.items()
    named = [(key if isinstance(key, tuple) else (key,), at) for key, at in places]
    named.sort(key=lambda one: [sort_key(value) for value in one[0]])
    return pd.DataFrame([key for key, _ in named], columns=list(by)), [at for _, at in named]


def _time(table: pd.DataFrame, times: Sequence[Floats], samples: Sequence[Sample]) -> None:
    """Add the medians of the groups' epochs to the threshold, and intervals where runs are independent."""
    table["epochs_to"] = [float(statistics.median(one)) for one in times]
    alone = [one if sample.is_alone else one[:0] for one, sample in zip(times, samples, strict=True)]
    ends = np.array([statistics.median_interval(one) for one in alone], dtype=float).reshape(-1, 2)
    table["epochs_to_low"], table["epochs_to_high"] = ends.T


def _bound(table: pd.DataFrame, samples: Sequence[Sample]) -> None:
    """Fill in the intervals of median and iqm, of all samples of one size at once."""
    sizes = np.array([len(one.distinct) for one in samples])
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size).tolist()
        values = np.array([samples[i].values[samples[i].distinct] for i in rows]).reshape(len(rows), size)
        for name, interval in (("median", statistics.median_interval), ("iqm", statistics.iqm_interval)):
            table.loc[rows, f"{name}_low"], table.loc[rows, f"{name}_high"] = interval(values)


def _place(table: pd.DataFrame, samples: Sequence[Sample], metric: str, rank: str) -> None:
    """Add the columns rank, standing and seeds_needed."""
    worth = _worth(table, metric, rank)
    columns = {"rank": np.full(len(table), np.nan), "seeds_needed": np.full(len(table), np.nan)}
    standing = np.full(len(table), None, dtype=object)
    # Ten runs with the same weights are one network, of which nothing is known but its loss.
    few = np.array([len(one.distinct) < FEWEST_SEEDS for one in samples])
    for part in comparable(table) if worth else ():
        order = part[np.lexsort([*(column[part] for column in reversed(worth)), few[part]])]
        columns["rank"][order] = np.arange(1, len(order) + 1)
        able = order[~few[order] & ~np.isnan(worth[0][order])]
        if len(part) < 2 or not len(able) or np.isinf(worth[0][able[0]]):
            continue  # nothing to compare, or even the best diverges
        found = against_best(by_seed([samples[i] for i in able], sign(metric), rank == "solved"), 0)
        standing[able] = np.where(found.is_worse, "worse", "tied")
        standing[able[0]] = "best"
        columns["seeds_needed"][able] = found.seeds_needed
    table["rank"] = columns["rank"].astype(int) if worth else columns["rank"]
    table["standing"] = pd.Series(standing, dtype=object)
    table["seeds_needed"] = columns["seeds_needed"]


def _worth(table: pd.DataFrame, metric: str, rank: str) -> list[Floats]:
    """Return what the rows are ranked by, lower is better, the first thing first; empty if nothing is.

    A mean leaves out diverged runs, so rows with any come after those without.
    """
    better = sign(metric)
    share = (table["diverged"] / table["n"]).to_numpy(dtype=float)
    worth = {name: better * table[name].to_numpy(dtype=float) for name in ("median", "iqm", "mean")}
    if rank == "solved":
        solved = [str(name) for name in table if name in ("solved", "val_solved", "test_solved")]
        if not solved:
            raise RequestError("--rank solved: no run has an accuracy")
        return [-table[solved[0]].to_numpy(dtype=float), *(worth.values() if better else ())]
    if not better:
        return []
    first = np.where(share > 0, np.inf, worth["mean"]) if rank == "mean" else worth[rank]
    return [first, share, *worth.values()]


def comparable(table: pd.DataFrame) -> list[Any]:
    """Return the positions of the rows of each data set and loss function."""
    by = incomparable(grouped_by(table))
    return list(table.groupby(by, dropna=False).indices.values()) if by else [np.arange(len(table))]


def ordered(table: pd.DataFrame, sort: str | None = None, top: int | None = None) -> pd.DataFrame:
    """Return the `top` best rows of a summary, or all, sorted by a column; by default as they are.

    Raises RequestError if there is no such column.
    """
    names = [str(name) for name in table.columns]
    if sort is not None and sort not in names:
        raise unknown("column in --sort", sort, names)
    if top is not None:
        table = table.sort_values("rank", kind="stable").head(top)
    if sort is not None:
        table = table.sort_values(sort, kind="stable", key=lambda column: column.map(sort_key))
    return table if sort is not None else table.sort_index()


def shortlist(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the best rows of a summary of more than `most` rows, as many of each data set and loss function.

    They stay in their order; a shorter summary is returned whole.
    """
    if len(table) <= most:
        return table
    parts = comparable(table)
    each = max(1, most // len(parts))
    return pd.concat([ordered(table.iloc[part], top=each) for part in parts]).sort_index()


def overall(runs: pd.DataFrame, metric: str | None = None) -> pd.DataFrame | None:
    """Summarise the runs by all params that vary; None if no run finished."""
    done = finished(runs)
    return None if done.empty else summarize(done, varying(done), metric)


def grouped_by(table: pd.DataFrame) -> list[str]:
    """Return the params by which a summary is grouped."""
    names = [str(name) for name in table.columns]
    return names[: names.index("n")]


def incomparable(names: Sequence[str]) -> list[str]:
    """Return those of the params whose values have losses that do not compare: data sets, loss functions."""
    return [name for name in names if name.partition(".")[0] in INCOMPARABLE]


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a summary by rank, those of one data set and loss function together."""
    by = [*incomparable(grouped_by(table)), "rank"]
    return table.sort_values(by, kind="stable", ignore_index=True)


def best_rows(table: pd.DataFrame) -> list[int]:
    """Return the positions of the best rows of a summary: one for each data set and loss function.

    There is none where no row has a standing.
    """
    parts = (table.iloc[part] for part in comparable(table))
    able = (part.assign(_at=table.index.get_indexer(part.index)).dropna(subset="standing") for part in parts)
    return sorted(int(rows["_at"].loc[rows["rank"].idxmin()]) for rows in able if len(rows))


def epochs_to(runs: pd.DataFrame, history: pd.DataFrame, threshold: float, metric: str) -> pd.Series:
    """Return each run's completed epochs at its first recorded point that reaches the threshold, else inf.

    A point reaches it at or above the threshold if a high metric is better, else at or below it.
    """
    values = history["value"]
    has_reached = values >= threshold if scale(metric).better == "high" else values <= threshold
    first = history[has_reached].groupby("run_id")["epoch"].min()
    return runs["run_id"].map(first).astype(float).fillna(np.inf)
