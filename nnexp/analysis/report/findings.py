"""What a sweep found, gathered from its record: what its description and its report tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from nnexp.analysis.summary import INCOMPARABLE, best_rows, finished, grouped_by, varying
from nnexp.analysis.summary_table import is_numeric, readable
from nnexp.config.paths import PROJECT
from nnexp.config.text import masked
from nnexp.tracking.labels import QUESTION
from nnexp.tracking.reader import Detail

# Metrics of a run worth a column of their own, where a sweep has them.
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")
# So many values of a swept key are shown one by one.
MAX_VALUES = 20


@dataclass(frozen=True)
class Findings:
    """A sweep's parent; how many points it is of; of each point that has ended, the run that counts, with the
    columns of `load_runs`; the summary of those that finished, None where none did."""

    parent: Detail
    total: int
    runs: pd.DataFrame
    summary: pd.DataFrame | None

    @classmethod
    def of(cls, parent: Detail, total: int, runs: pd.DataFrame, summary: pd.DataFrame | None) -> Findings:
        """From all runs of the sweep's points. A point that finished is done, however often it failed."""
        if "loss" not in runs:  # nothing has come so far that it has one
            runs = runs.assign(loss=np.nan)
        done = finished(runs)
        failed = runs[(runs["status"] == "FAILED") & ~runs["run_key"].isin(done["run_key"])]
        failed = failed.drop_duplicates("run_key", keep="last")
        return cls(parent, total, pd.concat([done, failed], ignore_index=True), summary)

    @property
    def question(self) -> str:
        return self.parent.tags.get(QUESTION, "")

    @property
    def command(self) -> str:
        return self.parent.tags.get("nnexp.command", "")

    @property
    def ranges(self) -> Mapping[str, str]:
        return shown_ranges(self.parent.params)

    @property
    def failed(self) -> pd.DataFrame:
        return self.runs[self.runs["status"] == "FAILED"]

    @cached_property
    def done(self) -> pd.DataFrame:
        """The runs that finished, from the best to the worst: by their loss, those that diverged last."""
        done = self.runs[self.runs["status"] == "FINISHED"]
        return (
            done.assign(diverged=done["outcome"] == "diverged")
            .sort_values(["diverged", "loss", "run_name", "run_key"], ignore_index=True)
            .drop(columns="diverged")
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many points there are of each kind; of the bad kinds, only where there are some."""
        done = self.runs[self.runs["status"] == "FINISHED"]
        news = {
            "failed": len(self.failed),
            "diverged": int((done["outcome"] == "diverged").sum()),
            "not run": self.total - len(self.runs),
        }
        return {"runs": self.total, "done": len(done)} | {kind: n for kind, n in news.items() if n}

    @cached_property
    def settings(self) -> list[str]:
        """The params in which the runs differ."""
        return varying(self.runs, over="")

    @property
    def answers(self) -> list[tuple[str, str]]:
        """Which numbers have the lowest mean loss, for each choice of what is swept in words, and that mean:
        ("init=he: learning_rate=0.5", "0.018, 95% interval 0.012 to 0.024")."""
        if self.summary is None:
            return []
        by = grouped_by(self.summary)
        words = [name for name in by if not is_numeric(self.summary[name])]
        given = words if len(words) < len(by) else [name for name in by if name in self.apart]
        texts, answers = readable(self.summary), []
        for i in best_rows(self.summary, within=given):
            of = ", ".join(f"{name}={texts[name][i]}" for name in given)
            best = ", ".join(f"{name}={texts[name][i]}" for name in by if name not in given)
            mean, low, high = (texts[name][i] for name in ("mean", "ci95_low", "ci95_high"))
            spread = f"{mean}, 95% interval {low} to {high}" if low != high else mean
            answers.append((f"{of}: {best}" if of else best, spread))
        return answers

    @property
    def metrics(self) -> list[str]:
        return [name for name in METRICS if name in self.runs.columns and self.runs[name].notna().any()]

    @property
    def apart(self) -> list[str]:
        """The settings between whose values losses do not compare: data sets and loss functions."""
        return [name for name in self.settings if name.partition(".")[0] in INCOMPARABLE]

    def best(self, n: int) -> pd.DataFrame:
        """The n best runs that finished, or n of each part of the sweep that is apart from the others."""
        return self.done.groupby(self.apart or "status", dropna=False, sort=False).head(n)

    def worst(self, n: int) -> pd.DataFrame:
        """The n worst likewise, the worst first; none that are among the best."""
        rest = self.done.drop(self.best(n).index).iloc[::-1]
        return rest.groupby(self.apart or "status", dropna=False, sort=False).head(n)


def shown_ranges(params: Mapping[str, str]) -> dict[str, str]:
    """The swept keys with their values, of which only the first and the last where they are many."""
    shown = {}
    for key, text in params.items():
        values = text.split(", ")
        few = [*values[:5], "…", values[-1]]
        shown[key] = text if len(values) <= MAX_VALUES else f"{', '.join(few)} ({len(values):,} values)"
    return shown


def question(experiment: str) -> str:
    """The comment that opens experiments/<name>.yaml, after its package line, passwords redacted; empty where
    there is none."""
    path = PROJECT / "experiments" / f"{experiment}.yaml"
    if not path.is_file():
        return ""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            words.append(line.lstrip("#").strip())
    return masked(" ".join(words))
