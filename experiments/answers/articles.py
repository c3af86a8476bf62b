"""Answer whether Emily and Frank are always told apart."""

from __future__ import annotations

from experiments.ask import Answer, Ask, Fact
from nnexp.analysis.plots.sweeps import predictions
from nnexp.analysis.statistics import wilson
from nnexp.analysis.summary import finished


def answer(ask: Ask) -> Answer:
    """Return how many seeds tell Emily and Frank apart, and the range of what they predict."""
    runs = finished(ask.sweep(record="runs", seed=range(ask.tenth(20))).runs)
    emily, frank = runs["prediction/Emily"], runs["prediction/Frank"]
    apart, n = int(((emily >= 0.5) & (frank < 0.5)).sum()), len(runs)
    low, high = wilson(apart, n)
    facts = {
        "count": Fact(apart, n, style="d"),
        "apart": Fact(apart / n, n, float(low), float(high), ".0%"),
        "emily_low": Fact(emily.min(), n), "emily_high": Fact(emily.max(), n),
        "frank_low": Fact(frank.min(), n), "frank_high": Fact(frank.max(), n),
    }  # fmt: skip
    text = (
        "Of {apart.n} seeds, {count} end with Emily at one half or more and Frank below it, {apart}. "
        "Emily runs from {emily_low} to {emily_high}, Frank from {frank_low} to {frank_high}; the "
        "articles print `0.951` and `0.039`."
    )
    return Answer(text, facts, {"predictions": predictions(runs, ["Emily", "Frank"])}, n)
