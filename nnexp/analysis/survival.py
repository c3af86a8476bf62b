"""Time to solve: the share of networks that have reached a threshold, over completed epochs.

A run that never reached it took longer than it was trained for: it is censored, not left out (Kaplan and
Meier 1958, Nonparametric estimation from incomplete observations).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnexp.analysis.samples import scale
from nnexp.analysis.statistics import Z

# A network has solved its task when this metric is 1.
SOLVED = 1.0


def times(runs: pd.DataFrame, history: pd.DataFrame, metric: str, threshold: float = SOLVED) -> pd.DataFrame:
    """Return when each run first reached the threshold.

    `runs` is as `load_runs` returns it, `history` as `load_history` does, with curves of the metric. An
    accuracy reaches the threshold at or above it, any other metric at or below it. The result has the columns
    `run_id`, `epoch` and `reached`, a row for each run that has a curve: of those that did not reach it,
    `epoch` is their last one; for those that diverged, the last one of all runs, since they never would.
    """
    return times_of(runs, ends(history, metric, threshold))


def ends(history: pd.DataFrame, metric: str, threshold: float = SOLVED) -> pd.DataFrame:
    """Return the `last` epoch of each run, and the `first` one that reached the threshold, by run_id."""
    points = history[history["metric"] == metric]
    value = points["value"]
    has = value >= threshold if scale(metric).better == "high" else value <= threshold
    first = points[has].groupby("run_id", observed=True)["epoch"].min()
    return pd.DataFrame({"last": points.groupby("run_id", observed=True)["epoch"].max(), "first": first})


def times_of(runs: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return what `times` does, of some of the runs whose `ends` were found."""
    table = runs[["run_id", "outcome"]].merge(found, left_on="run_id", right_index=True)
    diverged = (table["outcome"] == "diverged").to_numpy()
    last = np.where(diverged, table["last"].max(), table["last"])
    reached = table["first"].notna().to_numpy() & ~diverged
    return pd.DataFrame(
        {
            "run_id": table["run_id"].to_numpy(),
            "epoch": np.where(reached, table["first"].to_numpy(dtype=float), last),
            "reached": reached,
        }
    )


def curve(found: pd.DataFrame) -> pd.DataFrame:
    """Return the share of runs that have reached the threshold by each epoch, with its 95% interval.

    `found` is the result of `times`. The columns are `epoch`, `share`, `low`, `high`: Kaplan and Meier's
    estimate, and Greenwood's interval on the scale of log(-log). low and high are NaN where that is not
    defined.
    """
    if not found["reached"].any():
        last = float(found["epoch"].max())
        return pd.DataFrame({"epoch": [0.0, last], "share": 0.0, "low": np.nan, "high": np.nan})
    # Not SciPy's own, because importing scipy.stats takes 45 MB, and every sweep draws this curve.
    reached = found["reached"].to_numpy(dtype=bool)
    epoch, of = np.unique(found["epoch"].to_numpy(dtype=float), return_inverse=True)
    ended, solved = (np.bincount(some, minlength=len(epoch)) for some in (of, of[reached]))
    left = len(found) - np.cumsum(ended) + ended  # the runs that were still going on before each epoch
    if reached.all():
        share = np.cumsum(solved) / len(found)
        unsolved = 1 - share
    else:
        unsolved = np.cumprod((left - solved) / left, dtype=float)
        share = 1 - unsolved
    band: dict[str, NDArray[np.float64]] = {}
    with np.errstate(all="ignore"):  # no interval at shares of 0 and 1
        spread = Z * np.sqrt(np.cumsum(solved / (left * (left - solved))) / np.log(unsolved) ** 2)
        middle = np.log(-np.log(unsolved))
        for name, side in (("low", -1), ("high", 1)):
            band[name] = 1 - np.exp(-np.exp(middle + side * spread))
    table = pd.DataFrame({"epoch": epoch, "share": share, **band})
    start = pd.DataFrame({"epoch": [0.0], "share": [0.0], "low": [np.nan], "high": [np.nan]})
    return table if epoch[0] == 0 else pd.concat([start, table], ignore_index=True)


def median_epoch(found: pd.DataFrame) -> float:
    """Return the first epoch by which half of the runs have reached the threshold; infinite if none is."""
    table = curve(found)
    half = table.loc[table["share"] >= 0.5, "epoch"]
    return float(half.iloc[0]) if len(half) else float("inf")


def log_rank_p(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """Return the two-sided p of the log-rank test that two samples take equally long (Mantel 1966).

    Both are results of `times`. NaN if one of them is empty; 1 if no run of either reached the threshold.
    """
    from scipy.stats import logrank

    if one.empty or other.empty:
        return float("nan")
    if not (one["reached"].any() or other["reached"].any()):
        return 1.0
    return float(logrank(_censored(one), _censored(other)).pvalue)


def _censored(found: pd.DataFrame):  # type: ignore[no-untyped-def]  # scipy has no types
    """Return the times as SciPy takes them."""
    from scipy.stats import CensoredData

    epochs: NDArray[np.float64] = found["epoch"].to_numpy(dtype=float)
    return CensoredData.right_censored(epochs, ~found["reached"].to_numpy(dtype=bool))
