"""What a set of runs says: DataFrame in, DataFrame out.

Runs that diverged have no meaningful loss: they are counted, as a share, and kept out of the statistics of
the metric. Two runs with one key are one result recorded twice, and count once.
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

# Statistics of the metric, in the order in which they are shown.
STATISTICS = ("mean", "std", "ci95_low", "ci95_high", "min", "median", "max")
# Params between whose values losses do not compare: data sets and (`params.loss`) loss functions.
INCOMPARABLE = ("dataset", "params")


class Scale(NamedTuple):
    """The least and the greatest that a metric can be, and which way is better, where one is."""

    low: float
    high: float
    better: Literal["low", "high"] | None


_SCALES = {
    "loss": Scale(0, np.inf, "low"),
    "accuracy": Scale(0, 1, "high"),
    "grad_norm": Scale(0, np.inf, None),
}


def scale(metric: str) -> Scale:
    """What is known of a metric; of validation rows it is that of the training rows."""
    return _SCALES.get(metric.removeprefix("val_"), Scale(-np.inf, np.inf, None))


def params_of(runs: pd.DataFrame) -> list[str]:
    """The columns of `load_runs` that are params."""
    roots = {key.partition(".")[0] for key in key_names()} - {"loss"} | {"params"}
    return [column for column in runs.columns if column.partition(".")[0] in roots]


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that finished, each key once: the last time it was recorded. In the order of their keys, so
    that a sum over them has the same bits in whatever order they were recorded."""
    done = runs[runs["status"] == "FINISHED"].drop_duplicates("run_key", keep="last")
    return done.sort_values("run_key", ignore_index=True)


def varying(runs: pd.DataFrame, over: str = "seed") -> list[str]:
    """The params worth grouping by: those that vary, but for `over` and what another one already tells."""
    varied = [p for p in params_of(runs) if p != over and runs[p].nunique(dropna=False) > 1]
    return [p for p in varied if not _told_by(runs, p, [q for q in varied if q == p.partition(".")[0] != p])]


def mixed(runs: pd.DataFrame, by: Sequence[str], over: str = "seed") -> list[str]:
    """The params that vary inside the groups of `by` besides `over`: a mean over them mixes things."""
    return [p for p in varying(runs, over) if p not in by and not _told_by(runs, p, by)]


def _told_by(runs: pd.DataFrame, param: str, others: Sequence[str]) -> bool:
    """Whether `param` has one value in every group of the others."""
    if not others:
        return False
    return bool((runs.groupby(list(others), dropna=False)[param].nunique(dropna=False) <= 1).all())


def select(runs: pd.DataFrame, where: str | None, asked_as: str = "") -> pd.DataFrame:
    """The rows for which a condition holds, such as `learning_rate > 0.1 and init == "he"`.

    `asked_as` is what was typed, for the error. Raises RequestError.
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
    """One row a group of `by`, sorted by it: n, the STATISTICS of the metric's last value, then shares.

    `n` counts the runs that finished, `ci95_*` is Student's interval for the mean, `solved` the share with
    accuracy 1 at the end (of a metric of validation rows `val_solved`, with val_accuracy 1), `diverged` the
    share whose loss stopped being finite. With a `threshold` and the curves of `load_history`, `epochs_to` is
    the median number of completed epochs after which the metric has first reached it, infinite where half of
    the runs or more never do: an accuracy reaches it from below, a loss, and any metric of which nothing says
    what is better, from above. Raises RequestError.
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
    """The summary by all that varies, None where no run finished."""
    done = finished(runs)
    return None if done.empty else summarize(done, varying(done))


def grouped_by(table: pd.DataFrame) -> list[str]:
    """The params that the rows of a summary are about."""
    names = [str(name) for name in table.columns]
    return names[: names.index("n")]


def best_rows(table: pd.DataFrame, metric: str = "loss", within: Sequence[str] = ()) -> list[int]:
    """Where in a summary the best mean stands, among the rows in which the fewest runs diverged: for each
    data set and loss function, as losses on different ones do not compare, and for each value of the params
    in `within`. None where there is nothing to compare with, or nothing says what is better."""
    better = scale(metric).better
    if better is None:
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
    """Completed epochs at the first recorded point that has reached the threshold, inf where there is none:
    one at or above it where the metric should rise, else at or below it."""
    values = history["value"]
    has_reached = values >= threshold if scale(metric).better == "high" else values <= threshold
    first = history[has_reached].groupby("run_id")["epoch"].min()
    return runs["run_id"].map(first).astype(float).fillna(np.inf)


def half_interval(std: ArrayLike, n: ArrayLike) -> NDArray[np.float64]:
    """Half of Student's 95% interval of the mean of n values with this standard deviation (of n - 1)."""
    from scipy.special import stdtrit  # takes long to import, and a run alone has no interval

    half: NDArray[np.float64] = stdtrit(np.subtract(n, 1), 0.975) * std / np.sqrt(n)
    return half


def _row(group: pd.DataFrame, metric: str) -> dict[str, float]:
    values = group.loc[group["outcome"] != "diverged", metric].dropna().to_numpy(dtype=float)
    n = len(values)
    mean, std = (values.mean(), values.std(ddof=1)) if n > 1 else (values.sum() if n else np.nan, np.nan)
    half = float(half_interval(std, n)) if n > 1 else np.nan
    low, median, high = np.quantile(values, [0, 0.5, 1]) if n else [np.nan] * 3
    row = {"n": len(group), "mean": mean, "std": std, "ci95_low": mean - half, "ci95_high": mean + half}
    row |= {"min": low, "median": median, "max": high}
    rows = "val_" if metric.startswith("val_") else ""
    accuracy = f"{rows}accuracy"
    if accuracy in group and group[accuracy].notna().any():
        row[f"{rows}solved"] = float((group[accuracy] == 1.0).mean())
    row["diverged"] = float((group["outcome"] == "diverged").mean())
    if "epochs_to" in group:
        row["epochs_to"] = float(np.median(group["epochs_to"]))
    return row
