"""Answer which learning rate is best for each initialisation."""

from __future__ import annotations

from experiments.ask import Answer, Ask, Fact
from nnexp.analysis.plots.sweeps import sweep_lines
from nnexp.analysis.statistics import wilson
from nnexp.analysis.summary import finished


def answer(ask: Ask) -> Answer:
    """Return the learning rate with the lowest median loss, by data set and initialisation."""
    sweep = ask.sweep(record="runs", seed=range(max(ask.tenth(10), 2)))
    table = sweep.summary(["dataset", "init", "learning_rate"])
    best = table.loc[table.groupby(["dataset", "init"], sort=False)["rank"].idxmin()]
    facts, lines = {}, []
    for row in best.itertuples():
        key = f"{row.dataset}_{row.init}"
        low, high = wilson(row.solved * row.n, row.n)
        facts |= {
            f"{key}_rate": Fact(row.learning_rate, row.n, style="g"),
            f"{key}_loss": Fact(row.median, row.n, row.median_low, row.median_high),
            f"{key}_solved": Fact(row.solved, row.n, float(low), float(high), ".0%"),
        }
        lines.append(
            f"- {row.dataset}, {row.init}: learning rate {{{key}_rate}}, median loss {{{key}_loss}}, "
            f"solved by {{{key}_solved}} of {{{key}_solved.n}} seeds"
        )
    text = "The learning rate with the lowest median loss:\n\n" + "\n".join(lines)
    figure = sweep_lines(table, "learning_rate", "init", ["dataset"], loss="mse")
    return Answer(text, facts, {"loss": figure}, len(finished(sweep.runs)), table)
