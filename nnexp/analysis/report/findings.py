"""Collect a sweep's results from its record, for its description and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnexp.analysis.samples import sign
from nnexp.analysis.search import confirmed, verdict
from nnexp.analysis.summary import (
    best_rows,
    comparable,
    deciding,
    finished,
    grouped_by,
    incomparable,
    needed,
    overall,
    params_of,
    varying,
)
from nnexp.analysis.summary_table import is_numeric, open_question, readable, setting
from nnexp.config.groups import find_option
from nnexp.config.text import masked
from nnexp.tracking.collected import order_by
from nnexp.tracking.experiments import get_experiment
from nnexp.tracking.frames import read_frame, shared_params
from nnexp.tracking.labels import DATA, QUESTION
from nnexp.tracking.population import Population, is_population, points_asked, population_of
from nnexp.tracking.read import read_runs
from nnexp.tracking.reader import Detail
from nnexp.tracking.searches import Searched, find_search
from nnexp.tracking.store import Store
from nnexp.tracking.view import CHARTS

# Metrics that get a column of their own, if a sweep has them.
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy")
# The longest experiment file that a sweep keeps, in characters.
MAX_EXPERIMENT = 20_000
# A swept key with more values than this is shown abbreviated.
MAX_VALUES = 20


def columns(metric: str | None = None) -> set[str]:
    """Return the columns of the runs that the findings by this metric, or by the deciding one, need."""
    return needed(metric, ("reason", "epochs", "log_every", *METRICS, *CHARTS))


@dataclass(frozen=True)
class Answer:
    """The best setting of one data set and loss function, and the rivals that cannot be told from it.

    `of`: the data set and the loss function, if several were swept; `median`: with its interval and the share
    that solved; `rivals`: settings and their medians; `open`: how many seeds would probably tell them apart,
    empty without rivals.
    """

    of: str
    setting: str
    median: str
    rivals: tuple[tuple[str, str], ...]
    open: str


@dataclass(frozen=True)
class Findings:
    """The results of a sweep.

    `parent` is the sweep's parent run, `total` its number of points. `runs` has the run that counts of each
    point that has ended, first `done` and then those that failed, with the columns of `load_runs` that are
    needed. `ranking` has the positions of those that finished, the best by the metric first; diverged runs
    come last. `summary` is the summary of the runs that finished, None if none did, and `metric` the metric
    that it is of and by which runs are compared. `search` is the record of a search. Of a `population`,
    `runs` has a member's number instead of its name and id: see `named`.
    """

    parent: Detail
    total: int
    runs: pd.DataFrame
    ranking: NDArray[np.int64]
    summary: pd.DataFrame | None
    metric: str
    search: Searched | None = None
    population: Population | None = None

    @classmethod
    def read(cls, store: Store, parent: Detail, metric: str | None = None) -> Findings:
        """Read a sweep's results from the store; of a population, only the columns that they take.

        `metric` is by default that of the search, or the one that `summarize` chooses.
        """
        search, population = find_search(store, parent), None
        metric = metric or (None if search is None else search.metric)
        if is_population(parent):
            population = population_of(store, parent)
            runs = read_frame(population, columns(metric) | {"number"})
        else:
            place = get_experiment(store, parent.experiment_id)
            runs = read_runs(store, place, parent.run_id, columns(metric))
        found = cls.of(parent, points_asked(store, parent), runs, overall(runs, metric), metric)
        return replace(found, search=search, population=population)

    @classmethod
    def of(
        cls,
        parent: Detail,
        total: int,
        runs: pd.DataFrame,
        summary: pd.DataFrame | None,
        metric: str | None = None,
    ) -> Findings:
        """Collect the results from all runs of the sweep's points.

        A point that finished once is done, however often it failed. `metric` is that of the summary, by
        default the one that `summarize` chooses.
        """
        if "loss" not in runs:  # no run has got far enough to record a loss
            runs = runs.assign(loss=np.nan)
        done, failed = finished(runs), runs[runs["status"] == "FAILED"]
        metric = metric or deciding(done)
        is_diverged = (done["outcome"] == "diverged").to_numpy(bool)
        worth = (sign(metric) or 1) * done[metric].to_numpy(float)
        names = [done[name] for name in ("run_name", "run_key") if name in done]  # members are in their order
        ranking = order_by(is_diverged, worth, *names)
        if "run_key" in runs and len(failed):
            failed = failed[~failed["run_key"].isin(done["run_key"])].drop_duplicates("run_key", keep="last")
        counted = pd.concat([done, failed], ignore_index=True) if len(failed) else done
        return cls(parent, total, counted, ranking, summary, metric)

    @property
    def question(self) -> str:
        """Return the question that the sweep is to answer; empty if there is none."""
        return self.parent.tags.get(QUESTION, "")

    @property
    def data(self) -> str:
        """Return which data sets were used, and how their rows were split; empty in earlier records."""
        return self.parent.tags.get(DATA, "")

    @property
    def command(self) -> str:
        """Return the command that started the sweep, as recorded."""
        return self.parent.tags.get("nnexp.command", "")

    @property
    def unit(self) -> str:
        """Return what the trained networks are called: runs, or networks if they are a population's."""
        return "runs" if self.population is None else "networks"

    @property
    def ranges(self) -> Mapping[str, str]:
        """Return the swept keys with their values, as `shown_ranges` abbreviates them."""
        return shown_ranges(self.parent.params)

    @property
    def failed(self) -> pd.DataFrame:
        """Return the runs of the points that failed."""
        return self.runs[self.runs["status"] == "FAILED"]

    @property
    def done(self) -> pd.DataFrame:
        """Return the runs that finished, sorted by key."""
        return self.runs.iloc[: len(self.ranking)]

    def ranked(self, n: int) -> pd.DataFrame:
        """Return the n best of the runs that finished, the best first."""
        return self.runs.take(self.ranking[:n]).reset_index(drop=True)

    def named(self, *tables: pd.DataFrame) -> list[pd.DataFrame]:
        """Return tables of some of the runs, with the names and ids, which are read only now for members."""
        if self.population is None or self.runs.empty:
            return list(tables)
        names = ["number", "run_id", "run_name"]
        numbers = pd.concat([table["number"] for table in tables]).unique().tolist()
        heads = read_frame(self.population, names, numbers=numbers) if numbers else self.runs.head(0)
        return [table.merge(heads.reindex(columns=names), on="number", how="left") for table in tables]

    @property
    def superlative(self) -> str:
        """Return how the best setting is called: `lowest median val_loss`."""
        return f"{'highest' if sign(self.metric) < 0 else 'lowest'} median {self.metric}"

    @property
    def headline(self) -> list[tuple[str, int, float]]:
        """Return what the best setting reached, as metrics of the sweep: its median, the share that solved.

        They are (name, 0, value); empty if no setting is best, or if several data sets have a best one each.
        """
        best = [] if self.summary is None else best_rows(self.summary)
        if self.summary is None or len(best) != 1:
            return []
        row = self.summary.iloc[best[0]]
        named = {"median": f"best_median_{self.metric}", "solved": "best_solved", "val_solved": "best_solved"}
        shown = [(name, 0, float(row[column])) for column, name in named.items() if column in row]
        return [metric for metric in shown if np.isfinite(metric[2])]

    @cached_property
    def confirmed(self) -> pd.DataFrame:
        """Return how the best trials of a search did on fresh seeds, see `analysis.search.confirmed`."""
        assert self.search is not None
        return confirmed(self.search, self.runs)

    @property
    def verdict(self) -> str:
        """Return what a search found; empty for another sweep."""
        return "" if self.search is None else verdict(self.search, self.confirmed)

    @cached_property
    def fixed(self) -> dict[str, str]:
        """Return the keys that all runs have in common, with their values, and the data set's digest."""
        first, runs = self.runs.head(1), self.runs
        if self.population is not None:  # whose `runs` have only the keys that vary
            first = first.assign(**shared_params(self.population))
        kept = [name for name in params_of(first) if name not in self.settings and name != "seed"]
        alike = [name for name in kept if name not in runs or runs[name].nunique(dropna=False) == 1]
        return {name: setting(first[name].tolist())[0] for name in alike if len(first)}

    @property
    def counts(self) -> dict[str, int]:
        """Count the points of each kind; bad kinds (failed, diverged, not run) only if there are some."""
        news = {
            "failed": len(self.failed),
            "diverged": int((self.done["outcome"] == "diverged").sum()),
            "not run": self.total - len(self.runs),
        }
        return {self.unit: self.total, "done": len(self.done)} | {kind: n for kind, n in news.items() if n}

    @cached_property
    def settings(self) -> list[str]:
        """Return the params in which the runs differ."""
        return varying(self.runs, over="")

    @cached_property
    def answers(self) -> list[Answer]:
        """Return the best setting of each data set and loss function, with its rivals."""
        if self.summary is None:
            return []
        best, texts = best_rows(self.summary), readable(self.summary)
        by = [name for name in grouped_by(self.summary) if name not in self.apart]
        shares = [name for name in ("val_solved", "solved") if name in texts][:1]

        def named(i: int, names: Sequence[str]) -> str:
            return ", ".join(f"{name}={texts[name][i]}" for name in names)

        def spread(i: int) -> str:
            middle, low, high = (texts[name][i] for name in ("median", "median_low", "median_high"))
            interval = f", 95% interval {low} to {high}" if low != high else ""
            return f"{middle}{interval}" + "".join(f", {texts[name][i]} solved" for name in shares)

        answers = []
        for part in comparable(self.summary):
            table = self.summary.iloc[part]
            tied = table[table["standing"] == "tied"].sort_values("rank", kind="stable").index
            answers += [
                Answer(
                    named(i, self.apart),
                    named(i, by) or f"all {self.unit}",
                    spread(i),
                    tuple((named(int(k), by), texts["median"][int(k)]) for k in tied),
                    open_question(table),
                )
                for i in best
                if i in part
            ]
        return answers

    @property
    def by_words(self) -> list[tuple[str, str, str]]:
        """Return the best numbers for each choice of the swept words, and their median, as texts.

        Such as ("init=he", "learning_rate=1", "0.018"). Empty unless both words and numbers were swept.
        """
        if self.summary is None:
            return []
        by = grouped_by(self.summary)
        words = [name for name in by if not is_numeric(self.summary[name])]
        if len(words) == len(by) or set(words) <= set(self.apart):
            return []
        texts = readable(self.summary)
        able = self.summary.reset_index(drop=True).dropna(subset="standing")
        best = able.groupby(words, dropna=False, sort=False)["rank"].idxmin()
        return [
            (
                ", ".join(f"{name}={texts[name][i]}" for name in words),
                ", ".join(f"{name}={texts[name][i]}" for name in by if name not in words),
                texts["median"][i],
            )
            for i in best
        ]

    @property
    def metrics(self) -> list[str]:
        """Return those of METRICS that any run has."""
        return [name for name in METRICS if name in self.runs.columns and self.runs[name].notna().any()]

    @property
    def apart(self) -> list[str]:
        """Return the settings across which losses do not compare: data sets and loss functions."""
        return incomparable(self.settings)

    def best(self, n: int) -> pd.DataFrame:
        """Return the n best runs that finished, or n for each value of the settings in `apart`."""
        return self.runs.take(self.ranking[self._place() < n])

    def worst(self, n: int) -> pd.DataFrame:
        """Return the n worst runs likewise, the worst first, without those among the n best."""
        is_worst = (self._place() >= n) & (self._place(from_best=False) < n)
        return self.runs.take(self.ranking[is_worst][::-1])

    def _place(self, from_best: bool = True) -> NDArray[np.integer[Any]]:
        """Return for each ranked run how many are better, or worse, of those that compare with it."""
        apart = self.runs[self.apart or ["status"]].take(self.ranking)
        groups = apart.groupby(list(apart.columns), dropna=False, sort=False, observed=True)
        return groups.cumcount(ascending=from_best).to_numpy()


def shown_ranges(params: Mapping[str, str]) -> dict[str, str]:
    """Return the swept keys with their values; of many values, only the first five and the last."""
    shown = {}
    for key, text in params.items():
        values = text.split(", ")
        few = [*values[:5], "…", values[-1]]
        shown[key] = text if len(values) <= MAX_VALUES else f"{', '.join(few)} ({len(values):,} values)"
    return shown


def experiment_text(experiment: str) -> str:
    """Return the text of the experiment's YAML file, passwords redacted; empty if there is none."""
    path = find_option("experiment", experiment)
    return "" if path is None else masked(path.read_text(encoding="utf-8"))[:MAX_EXPERIMENT]


def question(experiment: str) -> str:
    """Return the comment at the top of the experiment's YAML file, passwords redacted; empty if none.

    The line `# @package …` does not count.
    """
    words = []
    for line in experiment_text(experiment).splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            words.append(line.lstrip("#").strip())
    return " ".join(words)
