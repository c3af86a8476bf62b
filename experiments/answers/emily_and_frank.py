"""Answer what the articles would have printed for Emily and Frank with other seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.ask import Answer, Ask, Fact, quantile, share
from experiments.recorded import weights
from nnexp.analysis.plots import style
from nnexp.config.paths import SHIPPED

# What the articles print after training.
PRINTED = {"Emily": 0.951, "Frank": 0.039}
# By how many of the two hidden neurons fire for women.
KINDS = ("both fire for men", "one for men, one for women", "both fire for women")
# The learning rates beside the articles' own, whose effect is compared with that of the seed.
NEARBY = {"halved": 0.05, "doubled": 0.2}
RESAMPLES = 200

Floats = NDArray[np.float64]


def answer(ask: Ask) -> Answer:
    """Return how Emily and Frank spread over seeds, and which part of it the kind of network explains."""
    sweep = ask.sweep(seed=range(ask.tenth(100_000)))
    runs = sweep.runs
    kind, began = (_kind(weights(sweep, which)) for which in ("final", "initial"))
    values = {who: runs[f"prediction/{who}"].to_numpy() for who in PRINTED}
    emily, frank = values.values()
    prints = np.all([np.round(values[who], 3) == PRINTED[who] for who in PRINTED], axis=0)
    rates = list(NEARBY.values())
    nearby = ask.sweep(seed=range(ask.tenth(10_000)), learning_rate=rates, weights="none").runs
    is_wrong = (emily < 0.5) | (frank >= 0.5)
    has_failed = runs["accuracy"].to_numpy() < 1
    facts = {
        "wrong": share(is_wrong, ".4%"),
        "wrong_count": Fact(int(is_wrong.sum()), len(runs), style="d"),
        "failed_count": Fact(int(has_failed.sum()), len(runs), style="d"),
        "both_count": Fact(int((is_wrong & has_failed).sum()), len(runs), style="d"),
        "emily_printed": Fact(PRINTED["Emily"]),
        "frank_printed": Fact(PRINTED["Frank"]),
        "emily_below": share(emily < PRINTED["Emily"]),
        "frank_below": share(frank < PRINTED["Frank"]),
        "prints": share(prints, ".2%"),
        "prints_kind": share(kind[prints] == 0),
        "kept": share(kind == began),
    }
    for who, column in values.items():
        facts |= {
            f"{who.lower()}_{name}": quantile(column, level, ".4f")
            for name, level in (("low", 0.025), ("middle", 0.5), ("high", 0.975))
        }
        facts[f"{who.lower()}_explained"] = _explained(column, kind)
        facts |= {
            f"{who.lower()}_{name}": quantile(
                nearby.loc[nearby["learning_rate"] == rate, f"prediction/{who}"], style=".4f"
            )
            for name, rate in NEARBY.items()
        }
    for i, name in enumerate(("men", "mixed", "women")):
        facts[f"{name}_share"] = share(kind == i)
        facts |= {f"{name}_{who.lower()}": quantile(values[who][kind == i], style=".4f") for who in PRINTED}
    return Answer(TEXT.strip(), facts, {"seeds": _figure(values, kind)}, len(runs) + len(nearby))


TEXT = """
Of {wrong.n:,} seeds {wrong_count} take Emily for a man or Frank for a woman, {wrong}. The table itself is
not learned by {failed_count} seeds, and {both_count} of these are among them: half of the table's people
are wrong, and everybody has one sex. So what the articles conclude holds for nearly every seed. Their
figures are one draw of many. Half of the seeds put Emily above {emily_middle}, and nineteen in twenty
between {emily_low} and {emily_high}; the articles' {emily_printed} is low, with {emily_below} of the
seeds below it. Frank's median is {frank_middle}, and nineteen in twenty lie between {frank_low} and
{frank_high}; {frank_below} are below the articles' {frank_printed}. Both figures together, to three
digits, come out of {prints} of the seeds.

What the seed decides is mostly which of three kinds of network comes out. In {men_share} of the
networks both hidden neurons fire for men, and the median Emily is {men_emily}, the median Frank
{men_frank}. In {mixed_share} one fires for men and one for women: {mixed_emily} and {mixed_frank}. In
{women_share} both fire for women: {women_emily} and {women_frank}. Knowing the kind takes
{emily_explained} off the mean distance of Emily from her median, and {frank_explained} off Frank's from
his. The kind is largely drawn with the initial weights: {kept} of the networks end as the kind that they
were before training. Of the {prints_kind.n} seeds that print the articles' two figures, {prints_kind} end
with both neurons firing for men, and so, in all likelihood, did the articles' own network.

With all else fixed, the seed explains the whole spread. It matters about as much as the learning rate
does: halved, the rate moves the median Emily to {emily_halved}, doubled to {emily_doubled}, and Frank to
{frank_halved} and {frank_doubled}.
"""


def _kind(rows: Floats) -> NDArray[np.int64]:
    """Return how many of the hidden neurons fire more for the table's women than for its men."""
    means = pd.read_csv(SHIPPED / "data" / "gender.csv").groupby("gender")[["weight_lb", "height_in"]].mean()
    apart = (means.loc["F"] - means.loc["M"]).to_numpy()
    W1 = rows[:, :4].reshape(-1, 2, 2)
    return (W1 @ apart > 0).sum(axis=1)


def _explained(values: Floats, kind: NDArray[np.int64]) -> Fact:
    """Return the share of the mean distance from the median that is gone from the medians of the kinds.

    A variance would be that of the few networks that fail. The interval is bootstrapped.
    """

    def distance(x: Floats) -> float:
        return float(np.abs(x - np.median(x)).sum()) if len(x) else 0.0

    def explained(rows: NDArray[np.int64]) -> float:
        x, k = values[rows], kind[rows]
        return 1 - sum(distance(x[k == i]) for i in range(3)) / distance(x)

    rng, n = np.random.default_rng(0), len(values)
    low, high = np.quantile([explained(rng.integers(n, size=n)) for _ in range(RESAMPLES)], [0.025, 0.975])
    return Fact(explained(np.arange(n)), n, float(low), float(high), ".1%")


@style.styled
def _figure(values: dict[str, Floats], kind: NDArray[np.int64]) -> Figure:
    """Draw the distribution of each prediction, stacked by the kind of network, with the printed figure."""
    room = style.Room(bottom=1.0, top=0.75, between=(0.45, 0.95))
    figure, axes = style.grid(2, room, 2.8)
    for ax, (who, column) in zip(axes, values.items(), strict=True):
        bins = np.linspace(*np.quantile(column, [0.002, 0.998]), 80)
        parts = [column[kind == i] for i in range(3)]
        *_, bars = ax.hist(parts, bins, stacked=True, color=style.COLORS[:3], histtype="stepfilled")
        line = ax.axvline(PRINTED[who], color="black", linestyle="--", linewidth=1)
        ax.set_title(f"{who}: the articles print {PRINTED[who]}", loc="left")
        ax.xaxis.set_major_locator(style.ticks())
        ax.set_xlabel("what the network answers (1: a woman)")
    style.label_left(axes, "seeds")
    figure.legend(
        [*(bar[0] for bar in bars), line], [*KINDS, "the articles"],
        loc="lower left", bbox_to_anchor=(0.1, 0), ncols=4, title="the two hidden neurons", alignment="left",
    )  # fmt: skip
    style.heading(figure, f"Emily and Frank after 1,000 epochs, over {len(kind):,} seeds")
    return figure
