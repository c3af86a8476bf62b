"""Tell what a search found: its trials as a table, and which of the confirmed ones is best, on fresh seeds.

A trial that was chosen as the best of many looks better on the seeds that it was chosen by than it is. So the
best few are run again on fresh seeds, and only these values are told.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nnexp.analysis import statistics
from nnexp.analysis.samples import Cells, by_seed, sign
from nnexp.analysis.standing import FEWEST_SEEDS, against_best
from nnexp.analysis.summary import finished
from nnexp.analysis.summary_table import MARKS, setting, significant
from nnexp.analysis.tables import Columns
from nnexp.config.space import Dimension, Value
from nnexp.tracking.searches import Searched

# How many of the best trials a table shows.
MOST_SHOWN = 10


def trials(found: Searched) -> pd.DataFrame:
    """Return the trials that have ended, in their order: trial, state, epochs, value, then their params."""
    names = [d.name for d in found.dimensions]
    rows = [
        {"trial": i, "state": t.state, "epochs": t.epochs, "value": t.value} | {n: t.params[n] for n in names}
        for i, t in enumerate(found.trials)
        if t.state != "asked"
    ]
    return pd.DataFrame(rows, columns=["trial", "state", "epochs", "value", *names])


def confirmed(found: Searched, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that were run again, the best on the fresh seeds first.

    The columns are `trial`, `n` (runs that finished), `median` with its 95% interval `low`, `high`, and
    `standing`: best, tied if it is not to be told from the best, worse, or None if there are too few seeds.
    """
    done = finished(runs)
    again = [(i, set(t.confirmed)) for i, t in enumerate(found.trials) if t.confirmed]
    parts = [(i, np.flatnonzero(done["run_key"].isin(keys).to_numpy())) for i, keys in again]
    parts = [(i, at) for i, at in parts if len(at)]
    columns = ["trial", "n", "median", "low", "high", "standing"]
    if not parts:
        return pd.DataFrame(columns=columns)
    over = str(found.settings.get("over", "seed"))
    cells = Cells.of(done, found.metric, over)
    samples = [cells.sample(at) for _, at in parts]
    better = sign(found.metric)
    medians = np.array([float(statistics.median(sample.values)) for sample in samples])
    order = np.argsort(better * medians, kind="stable")
    standing = _standing(by_seed([samples[k] for k in order], better, False))
    rows = []
    for place, k in enumerate(order):
        low, high = (float(end) for end in statistics.median_interval(samples[k].values))
        rows.append((parts[k][0], len(parts[k][1]), medians[k], low, high, standing[place]))
    return pd.DataFrame(rows, columns=columns)


def _standing(values: statistics.Floats) -> list[str | None]:
    """Return how each trial stands beside the first, which is the best; values are (trials, seeds)."""
    if (~np.isnan(values)).sum(axis=1).min() < FEWEST_SEEDS or np.isinf(statistics.median(values[0])):
        return [None] * len(values)
    worse = against_best(values, 0).is_worse if len(values) > 1 else [False]
    return ["best", *("worse" if is_worse else "tied" for is_worse in worse[1:])]


def params_text(found: Searched, trial: int) -> str:
    """Return a trial's params as they can be typed, numbers with four digits."""
    params = found.trials[trial].params
    return " ".join(text for d in found.dimensions for text in _typed(d, params[d.name]))


def _typed(d: Dimension, value: Value) -> list[str]:
    return [f"{d.name}={value:.4g}"] if isinstance(value, float) else d.overrides(value)


def best_trials(found: Searched, again: pd.DataFrame, best: str = MARKS["best"]) -> Columns:
    """Return a table of the best trials: those on fresh seeds first, then the others by their own value."""
    rest = [i for i in found.best_first if i not in set(again["trial"])]
    shown = [*again["trial"].tolist(), *rest][:MOST_SHOWN]
    of_trial = again.set_index("trial")
    marks = MARKS | {"best": best}
    columns: Columns = {"": [], "trial": shown}
    columns |= {d.name: setting([found.trials[i].params[d.name] for i in shown]) for d in found.dimensions}
    columns[found.metric] = [significant(found.trials[i].value or 0.0, 4) for i in shown]
    fresh: list[str] = []
    for i in shown:
        row = of_trial.loc[i] if i in of_trial.index else None
        columns[""].append("" if row is None else marks.get(row["standing"], ""))
        fresh.append("" if row is None else _within(row["median"], row["low"], row["high"]))
    if len(again):
        is_over_seeds = found.settings.get("over", "seed") == "seed"
        columns["on fresh seeds" if is_over_seeds else "with a fresh seed"] = fresh
    return columns


def _within(middle: float, low: float, high: float) -> str:
    """Return a median with its interval: `0.071 (0.065 to 0.080)`."""
    text = significant(middle, 3)
    return text if np.isnan(low) else f"{text} ({significant(low, 3)} to {significant(high, 3)})"


def verdict(found: Searched, again: pd.DataFrame) -> str:
    """Return the search's last line: the best trial on fresh seeds, and what cannot be told from it."""
    counts = _counts(found)
    if not len(again):
        if not found.best_first:
            return f"no trial was completed of {counts}"
        best = found.best_first[0]
        value = significant(found.trials[best].value or 0.0, 4)
        return (
            f"best of {counts}: trial {best}, {params_text(found, best)}: {found.metric} {value} on the "
            "seeds that it was chosen by; search.confirm=3 tells its value on others"
        )
    first = again.iloc[0]
    best, n = int(first["trial"]), int(first["n"])
    interval = (
        f", 95% interval {significant(first['low'], 3)} to {significant(first['high'], 3)}"
        if np.isfinite(first["low"])
        else ""
    )
    text = (
        f"best of {counts}: trial {best}, {params_text(found, best)}: {found.metric} "
        f"{significant(first['median'], 3)}{interval} over {_fresh(found, n)}"
    )
    return f"{text}; {_rivals(again)}"


def _fresh(found: Searched, n: int) -> str:
    """Return what the best trials were run again on."""
    over = found.settings.get("over", "seed")
    if over == "seed":
        return f"{n} fresh seed{'s' * (n != 1)}"
    return f"the same {n} value{'s' * (n != 1)} of {over} with a fresh seed"


def _rivals(again: pd.DataFrame) -> str:
    """Return which other confirmed trials cannot be told from the best."""
    others = again.iloc[1:]
    if again["standing"].isna().any():
        return f"fewer than {FEWEST_SEEDS} seeds tell no trial from another: give seed=range(10)"
    tied = others[others["standing"] == "tied"]["trial"].tolist()
    if not len(others):
        return "no other trial was confirmed"
    if not tied:
        return "the other confirmed trials are worse"
    return f"not to be told from it: {_listed(tied)}"


def _listed(numbers: Sequence[int]) -> str:
    return f"trial{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers))}"


def _counts(found: Searched) -> str:
    """Return how many trials there were, and how many of them were ended early, failed or were left out."""
    states = [trial.state for trial in found.trials]
    words = {"pruned": "ended early", "failed": "failed", "excluded": "excluded"}
    others = [f"{states.count(state)} {word}" for state, word in words.items() if state in states]
    total = f"{len(states):,} trial{'s' * (len(states) != 1)}"
    return f"{total} ({', '.join(others)})" if others else total
