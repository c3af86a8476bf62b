"""Summarise runs: DataFrame in, DataFrame out.

Runs that diverged have no meaningful loss: they are counted, as a share, and the metric's statistics leave
them out. Two runs with the same key are the same result recorded twice, and count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nnexp.analysis import condition
from nnexp.analysis.order import sort_key
from nnexp.config.errors import RequestError, unknown
from nnexp.config.run import key_names

# Params across whose values losses do not compare: data sets and (`params.loss`) loss functions.
INCOMPARABLE = ("dataset", "params")


class Scale(NamedTuple):
    """The lowest and the highest possible value of a metric, and which of low and high is better, if any."""

    low: float
    high: float
    better: Literal["low", "high"] | None


_SCALES = {
    "loss": Scale(0, np.inf, "low"),
    "accuracy": Scale(0, 1, "high"),
    "grad_norm": Scale(0, np.inf, None),
}


def scale(metric: str) -> Scale:
    """Return the scale of a metric; one of the validation or test rows has that of the training rows."""
    return _SCALES.get(metric.removeprefix(_rows_of(metric)), Scale(-np.inf, np.inf, None))


def _rows_of(metric: str) -> str:
    """Return the prefix that says of which rows a metric is; empty for the training rows."""
    return next((prefix for prefix in ("val_", "test_") if metric.startswith(prefix)), "")


def params_of(runs: pd.DataFrame) -> list[str]:
    """Return the columns of `load_runs` that are params."""
    roots = {key.partition(".")[0] for key in key_names()} - {"loss"} | {"params"}
    return [column for column in runs.columns if column.partition(".")[0] in roots]


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that finished; of runs with the same key, the one recorded last.

    They are sorted by key, so that a sum over them has the same bits for any order of recording.
    """
    done = runs[runs["status"] == "FINISHED"].drop_duplicates("run_key", keep="last")
    return done.sort_values("run_key", ignore_index=True)


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
    return bool((runs.groupby(list(others), dropna=False)[param].nunique(dropna=False) <= 1).all())


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
    metric: str = "loss",
    *,
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
    metric : str
        The metric to summarise.
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
        `mean`, `std`, `ci95_low`, `ci95_high`, `min`, `median`, `max` over the runs that did not diverge,
        where `ci95_*` is Student's 95% interval of the mean;
        `solved`, the share of runs with a final accuracy of 1 (for a metric of the validation or test rows
        `val_solved` or `test_solved`, the share with such a val_accuracy or test_accuracy), if accuracy was
        recorded;
        `diverged`, the share of runs whose loss stopped being finite;
        `epochs_to`, the median number of completed epochs at which the metric first reached the threshold,
        infinite if half of the runs or more never reach it.

    Raises
    ------
    RequestError
        If a name in `by` is not a param of the runs, or `metric` is not one of their metrics.

    Examples
    --------
    >>> import nnexp
    >>> sweep = nnexp.sweep(dataset="and", learning_rate=[0.1, 1], seed=range(3), epochs=100)
    >>> table = nnexp.summarize(sweep.runs, ["learning_rate"])
    >>> table[["learning_rate", "n"]].values.tolist()
    [[0.1, 3.0], [1.0, 3.0]]
    >>> bool(table["mean"][1] < table["mean"][0])
    True
    """
    runs = finished(runs)
    columns = params_of(runs)
    by = ["params.loss" if name == "loss" else name for name in by]
    for name in by:
        if name not in columns:
            raise unknown("param in --by", name, columns)
    if metric not in runs.columns or not pd.api.types.is_numeric_dtype(runs[metric]):
        numeric = [c for c in runs.select_dtypes("number").columns if c not in columns]
        raise unknown("metric", metric, numeric)
    if threshold is not None and history is not None:
        runs = runs.assign(epochs_to=epochs_to(runs, history, threshold, metric))
    if not by:
        return pd.DataFrame([_row(runs, metric)])
    groups = runs.groupby(list(by), dropna=False, sort=False)
    ordered = sorted(groups, key=lambda named: [sort_key(value) for value in named[0]])
    return pd.DataFrame([dict(zip(by, keys, strict=True)) | _row(group, metric) for keys, group in ordered])


def overall(runs: pd.DataFrame) -> pd.DataFrame | None:
    """Summarise the runs by all params that vary; None if no run finished."""
    done = finished(runs)
    return None if done.empty else summarize(done, varying(done))


def grouped_by(table: pd.DataFrame) -> list[str]:
    """Return the params by which a summary is grouped."""
    names = [str(name) for name in table.columns]
    return names[: names.index("n")]


def best_rows(table: pd.DataFrame, metric: str = "loss", within: Sequence[str] = ()) -> list[int]:
    """Return the positions of the rows of a summary with the best mean.

    The best is chosen among the rows with the smallest share of diverged runs, separately for each data set
    and loss function, because losses across them do not compare, and for each value of the params in
    `within`. Empty if there is nothing to compare, no known better direction of the metric, or if it is one
    of the test rows: whoever chooses by those has none left to test the choice with.
    """
    better = scale(metric).better
    if better is None or _rows_of(metric) == "test_":
        return []
    rows = table.reset_index(drop=True).assign(rank=table["mean"].to_numpy() * (1 if better == "low" else -1))
    by = [name for name in grouped_by(rows) if name in within or name.partition(".")[0] in INCOMPARABLE]

    def of_group(column: str, what: Literal["size", "min"]) -> pd.Series:
        return rows.groupby(by or (lambda _: 0), dropna=False)[column].transform(what)

    rows = rows[(of_group("n", "size") > 1) & rows["rank"].notna()]
    for column in ("diverged", "rank"):
        rows = rows[rows[column] == of_group(column, "min")]
    return rows.index.tolist()


def epochs_to(runs: pd.DataFrame, history: pd.DataFrame, threshold: float, metric: str) -> pd.Series:
    """Return each run's completed epochs at its first recorded point that reaches the threshold, else inf.

    A point reaches it at or above the threshold if a high metric is better, else at or below it.
    """
    values = history["value"]
    has_reached = values >= threshold if scale(metric).better == "high" else values <= threshold
    first = history[has_reached].groupby("run_id")["epoch"].min()
    return runs["run_id"].map(first).astype(float).fillna(np.inf)


def half_interval(std: ArrayLike, n: ArrayLike) -> NDArray[np.float64]:
    """Return half the width of Student's 95% interval of the mean of n values.

    `std` is their standard deviation with n - 1 degrees of freedom.
    """
    from scipy.special import stdtrit  # slow to import, and a single run has no interval

    half: NDArray[np.float64] = stdtrit(np.subtract(n, 1), 0.975) * std / np.sqrt(n)
    return half


def _row(group: pd.DataFrame, metric: str) -> dict[str, float]:
    """Summarise one group: the values of a row by column."""
    values = group.loc[group["outcome"] != "diverged", metric].dropna().to_numpy(dtype=float)
    n = len(values)
    mean, std = (values.mean(), values.std(ddof=1)) if n > 1 else (values.sum() if n else np.nan, np.nan)
    half = float(half_interval(std, n)) if n > 1 else np.nan
    low, median, high = np.quantile(values, [0, 0.5, 1]) if n else [np.nan] * 3
    row = {"n": len(group), "mean": mean, "std": std, "ci95_low": mean - half, "ci95_high": mean + half}
    row |= {"min": low, "median": median, "max": high}
    rows = _rows_of(metric)
    accuracy = f"{rows}accuracy"
    if accuracy in group and group[accuracy].notna().any():
        row[f"{rows}solved"] = float((group[accuracy] == 1.0).mean())
    row["diverged"] = float((group["outcome"] == "diverged").mean())
    if "epochs_to" in group:
        row["epochs_to"] = float(np.median(group["epochs_to"]))
    return row
