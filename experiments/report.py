"""Run every experiment and write its report: `make experiments`, or `python -m experiments.report NAME`.

A report answers the question in the first comment of the experiment's file, from the recorded runs alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import nnexp
from nnexp.analysis import plots
from nnexp.analysis.plots.sweeps import predictions, sweep_lines
from nnexp.analysis.report.findings import question
from nnexp.analysis.summary import finished
from nnexp.analysis.summary_table import as_table

HERE = Path(__file__).parent
REPORTS = HERE / "reports"


def articles(runs: pd.DataFrame) -> tuple[str, dict[str, Figure]]:
    """Return how often Emily and Frank are told apart, and a figure of their predictions by seed."""
    told_apart = (runs["prediction/Emily"] >= 0.5) & (runs["prediction/Frank"] < 0.5)
    emily, frank = runs["prediction/Emily"], runs["prediction/Frank"]
    answer = (
        f"Of {len(runs)} seeds, {told_apart.sum()} end with Emily at 0.5 or more and Frank below it. "
        f"Emily runs from {emily.min():.3f} to {emily.max():.3f}, Frank from {frank.min():.3f} to "
        f"{frank.max():.3f}; the articles print 0.951 and 0.039."
    )
    return answer, {"predictions": predictions(runs, ["Emily", "Frank"])}


def learning_rate_init(runs: pd.DataFrame) -> tuple[str, dict[str, Figure]]:
    """Return the best learning rate of every initialisation, by data set, and a figure of the loss."""
    table = nnexp.summarize(runs, ["dataset", "init", "learning_rate"])
    best = table.loc[table.groupby(["dataset", "init"], sort=False)["rank"].idxmin()]
    lines = [
        f"- {row.dataset}, {row.init}: learning rate {row.learning_rate:g}, median loss {row.median:.3g}, "
        f"{row.solved:.0%} of {row.n} seeds solved"
        for row in best.itertuples()
    ]
    answer = "The learning rate with the lowest median loss:\n\n" + "\n".join(lines)
    return answer, {"loss": sweep_lines(table, "learning_rate", "init", ["dataset"], loss="mse")}


ANSWERS = {"articles": articles, "learning_rate_init": learning_rate_init}


def table_alone(runs: pd.DataFrame) -> tuple[str, dict[str, Figure]]:
    """Return the answer for an experiment without a function in ANSWERS."""
    return "The summary:", {}


def write(name: str) -> Path:
    """Run the experiment and write its report from the recorded runs; return the report's path."""
    sweep = nnexp.sweep(experiment=name, experiment_name=f"report {name}")
    if sweep.failures:
        raise SystemExit(f"{name}: {len(sweep.failures)} runs failed: nnexp show {sweep.sweep_id}")
    runs = finished(sweep.runs)
    answer, figures = ANSWERS.get(name, table_alone)(runs)
    REPORTS.mkdir(exist_ok=True)
    text = [f"# {name}", question(name), f"`nnexp train experiment={name}`: {len(runs)} runs.", answer]
    for title, figure in figures.items():
        (REPORTS / f"{name}_{title}.png").write_bytes(plots.png(figure))
        text.append(f"![{title}]({name}_{title}.png)")
    text.append(as_table(sweep.summary(), style="markdown"))
    path = REPORTS / f"{name}.md"
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return path


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("*.yaml"))
    for name in names:
        print(f"wrote {write(name).relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
