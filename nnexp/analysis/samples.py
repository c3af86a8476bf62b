"""Turn recorded runs into samples: the values of a metric by seed, diverged runs as the worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnexp.analysis import statistics
from nnexp.analysis.statistics import Floats


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
    """Return the scale of a metric; of validation and of test rows it is that of the training rows."""
    return _SCALES.get(metric.removeprefix(rows_of(metric)), Scale(-np.inf, np.inf, None))


def rows_of(metric: str) -> str:
    """Return the prefix that says of which rows a metric is; empty for the training rows."""
    return next((prefix for prefix in ("val_", "test_") if metric.startswith(prefix)), "")


def sign(metric: str) -> Literal[-1, 0, 1]:
    """Return 1 if a low value of a metric is better, -1 if a high one is, 0 if nothing is chosen by it.

    Nothing is chosen by the test rows: whatever is chosen by them is no longer tested by them.
    """
    better = None if rows_of(metric) == "test_" else scale(metric).better
    return {"low": 1, "high": -1, None: 0}[better]  # type: ignore[return-value]


@dataclass(frozen=True)
class Sample:
    """The values of a group by seed.

    `seeds` are codes of the param that is sampled, `values` the mean at each, `solved` the share that solved;
    `distinct` are the positions of seeds with different networks. `is_mixed`: a seed has several runs.
    """

    seeds: NDArray[np.intp]
    values: Floats
    solved: Floats
    distinct: NDArray[np.intp]
    is_mixed: bool

    @property
    def is_alone(self) -> bool:
        """Return whether each seed has one run, and no two have the same network."""
        return not self.is_mixed and len(self.distinct) == len(self.seeds)


@dataclass(frozen=True)
class Cells:
    """The columns of the runs that a summary needs, as arrays of shape (runs,).

    Runs with one number in `networks` have the same weights. In `apart`, those that diverged have a number
    each: weights that are no numbers any more are alike, and yet of different runs.
    """

    values: Floats  # as recorded
    counted: Floats  # those with the worst value for runs that diverged
    diverged: NDArray[np.bool_]
    solved: Floats  # NaN where no accuracy was recorded
    solved_as: str
    seeds: NDArray[np.intp]
    networks: NDArray[np.intp]
    apart: NDArray[np.intp]
    has_solved: bool

    @classmethod
    def of(cls, runs: pd.DataFrame, metric: str, over: str) -> Cells:
        """Take the columns of the runs that finished."""
        values = runs[metric].to_numpy(dtype=float)
        diverged = (runs["outcome"] == "diverged").to_numpy()
        low, high, better = scale(metric)
        worst = {"low": high, "high": low, None: np.nan}[better]
        rows = rows_of(metric)
        solved = np.full(len(runs), np.nan)
        if f"{rows}accuracy" in runs:
            accuracy = runs[f"{rows}accuracy"].to_numpy(dtype=float)
            solved = np.where(np.isnan(accuracy), np.nan, (accuracy == 1) & ~diverged)
        networks = _networks(runs)
        return cls(
            values,
            np.where(diverged, worst, values),
            diverged,
            solved,
            f"{rows}solved",
            _codes(runs, over),
            networks,
            np.where(diverged, -1 - np.arange(len(runs)), networks),
            not np.isnan(solved).all(),
        )

    def sample(self, at: NDArray[np.intp]) -> Sample:
        """Return the values of the runs at these positions by seed."""
        at = at[~np.isnan(self.counted[at])]
        seeds, of = _numbered(self.seeds[at])
        sizes = np.bincount(of, minlength=len(seeds))
        is_mixed = bool((sizes > 1).any())
        if is_mixed:  # a sum has the same bits only if its terms come in the same order
            order = np.lexsort([self.counted[at], of])
            at, of = at[order], of[order]
        with np.errstate(over="ignore"):
            values = np.bincount(of, self.counted[at], len(seeds)) / sizes
        solved = np.bincount(of, self.solved[at], len(seeds)) / sizes
        distinct = _distinct(of, self.apart[at], sizes)
        return Sample(seeds, values, solved, distinct, is_mixed)

    def row(self, at: NDArray[np.intp], sample: Sample) -> dict[str, float]:
        """Return the columns of a group, apart from intervals and standing."""
        values = self.values[at][~self.diverged[at]]
        values = np.sort(values[~np.isnan(values)])  # so that sums have the same bits for any order
        n = len(values)
        row: dict[str, float] = {
            "n": len(at),
            "networks": _count(self.networks[at]),
            "used": n,
            "diverged": int(self.diverged[at].sum()),
            "median": float(statistics.median(sample.values)),
            "median_low": np.nan,
            "median_high": np.nan,
            "iqm": float(statistics.iqm(sample.values)),
            "iqm_low": np.nan,
            "iqm_high": np.nan,
        }
        with np.errstate(over="ignore", invalid="ignore"):
            row["mean"] = float(values.mean()) if n else np.nan
            row["std"] = float(values.std(ddof=1)) if n > 1 else np.nan
        row["min"], row["max"] = (float(values.min()), float(values.max())) if n else (np.nan, np.nan)
        solved = self.solved[at]
        if self.has_solved:
            known = solved[~np.isnan(solved)]
            of = np.full(2, np.nan)
            if len(known) == len(solved) and not sample.is_mixed:
                each = sample.solved[sample.distinct]
                of = np.array(statistics.wilson(each.sum(), len(each)))
            row[self.solved_as] = float(known.mean()) if len(known) else np.nan
            row[f"{self.solved_as}_low"], row[f"{self.solved_as}_high"] = of
        return row


def _distinct(of: NDArray[np.intp], networks: NDArray[np.intp], sizes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the first of the seeds whose runs have the same networks, in any order: their positions.

    `of` is the seed of each run, `sizes` the number of runs of each seed.
    """
    if _count(networks) == len(networks):
        return np.arange(len(sizes))
    order = np.lexsort([networks, of])
    starts = np.cumsum(sizes) - sizes
    # Seeds of the same size are told apart by one more of their networks at a time.
    told = sizes
    for i in range(int(sizes.max(initial=0))):
        more = np.zeros(len(sizes), dtype=np.intp)
        has = np.flatnonzero(sizes > i)
        more[has] = 1 + np.unique(networks[order[starts[has] + i]], return_inverse=True)[1]
        told = np.unique(told * (len(sizes) + 1) + more, return_inverse=True)[1]
    return np.sort(np.unique(told, return_index=True)[1])


def _count(values: NDArray[np.intp]) -> int:
    """Count the different values."""
    ordered = np.sort(values)
    return min(1, len(values)) + int((ordered[1:] != ordered[:-1]).sum())


def _numbered(values: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the different values in order, and for each value its position there."""
    if (values[1:] > values[:-1]).all():
        return values, np.arange(len(values))
    return np.unique(values, return_inverse=True)


def _networks(runs: pd.DataFrame) -> NDArray[np.intp]:
    """Number the networks by their weights: of runs by the hash, of members by the column `network`."""
    is_member = runs["network"].notna().to_numpy() if "network" in runs else np.zeros(len(runs), dtype=bool)
    if len(runs) and is_member.all():
        return runs["network"].to_numpy(dtype=np.intp)
    codes = _codes(runs, "weights_sha256")
    if not is_member.any():
        return codes
    return np.where(is_member, 2 * len(runs) + pd.factorize(runs["network"])[0], codes)


def _codes(runs: pd.DataFrame, name: str) -> NDArray[np.intp]:
    """Number the values of a column; each run has a number of its own without the column or a value."""
    n = len(runs)
    if name not in runs:
        return np.arange(n)
    codes = pd.factorize(runs[name])[0].astype(np.intp)
    return np.where(codes < 0, n + np.arange(n), codes)


def by_seed(samples: Sequence[Sample], better: int, by_solved: bool) -> Floats:
    """Return the samples' values, lower is better, as an array of shape (settings, seeds), NaN for none."""
    every = [-one.solved if by_solved else better * one.values for one in samples]
    seeds = samples[0].seeds
    if all(np.array_equal(one.seeds, seeds) for one in samples):
        return np.stack(every)
    seeds = np.unique(np.concatenate([one.seeds for one in samples]))
    values = np.full((len(samples), len(seeds)), np.nan)
    for row, one, of_one in zip(values, samples, every, strict=True):
        row[np.searchsorted(seeds, one.seeds)] = of_one
    return values
