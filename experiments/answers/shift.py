"""Answer what the shift of weight and height does: how many learn, how fast, and how they start."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

import nnexp
from experiments.ask import Answer, Ask, Fact, quantile, share
from experiments.recorded import weights
from nnexp.analysis.diagnosis import NEAR
from nnexp.analysis.plots import style
from nnexp.analysis.statistics import median_interval, wilson
from nnexp.analysis.summary import epochs_to
from nnexp.config.paths import SHIPPED
from nnexp.dataset.prepare import centring

CENTERS = {
    "articles": "the articles' (135, 66)",
    "mean": "the mean",
    "standardize": "standardised",
    "none": "raw",
}
RATES = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
# How far each rate is trained for the time to solve: until the epochs times the rate are FAR, in POINTS.
FAR, FEWEST, POINTS = 10, 100, 400
# The articles' learning rate, and the one at which times are told: there they are hundreds of epochs.
RATE, TIMED_RATE = 0.1, 0.01
RESAMPLES = 2000
FEATURES = ("weight_lb", "height_in")

Floats = NDArray[np.float64]


def answer(ask: Ask) -> Answer:
    """Return the share that learns the table and the time that it takes, by shift and learning rate."""
    solved = ask.sweep(seed=range(ask.tenth(1000))).runs
    solved["solved"] = solved["accuracy"] == 1
    lengths = [max(FEWEST, round(FAR / rate)) for rate in RATES]
    timed = ask.sweep(
        learning_rate=RATES, epochs=lengths, log_every=[max(1, n // POINTS) for n in lengths],
        zip=["learning_rate", "epochs", "log_every"], seed=range(ask.tenth(200)), curves=True,
    ).runs  # fmt: skip
    timed["epochs_to"] = epochs_to(timed, nnexp.load_history(timed, ["accuracy"]), 1, "accuracy")
    start = ask.sweep(learning_rate=0.1, epochs=1, weights="all", seed=range(ask.tenth(25_000)))
    neurons = _neurons(start.runs, weights(start, "initial"))
    facts = _facts(solved, timed, neurons)
    figures = {"learning": _learning(solved, timed), "start": _start(neurons)}
    return Answer(TEXT.strip(), facts, figures, len(solved) + len(timed) + len(start.runs))


TEXT = """
Without a shift the network does not learn the table. After the articles' {epochs:,d} epochs at their
learning rate of {rate}, {none_solved} of the networks on raw inputs have all four people right; at
the best of the rates, {none_best_rate}, it is {none_best}, and if every rate is trained on until it
times the epochs is {far}, at most {none_long}. Any shift makes the table learnable: at the articles'
rate {shifted_solved} of {shifted_solved.n:,} networks solve it, with the articles' `(135, 66)`, the
mean or standardised inputs.

The shifts differ in speed. At a learning rate of {timed_rate}, half of the networks have all four
right after {articles_time} epochs with the articles' shift, {mean_time} with the mean, and
{standardize_time} with standardised inputs, of {mean_time.n} seeds: the mean takes {mean_ratio} of
the articles' time, standardising {standardize_ratio} of it. At rates up to {rate} this is the same
race at another pace: the rate times the median epochs is {product_low:.2f} to {product_high:.2f}
with the articles' shift. So a larger rate makes up for what standardising costs; none that was tried
makes up for raw inputs.

Of the hidden neurons on raw inputs {none_saturated} are saturated before the first step: their
answer to each of the four people is within {near} of zero or one. Saturation alone is not what stops
them. After subtracting the mean {mean_saturated} are saturated as well, and those networks learn the
fastest; but there the four people lie on both sides. On raw inputs {none_blind} of the neurons are
blind: their answers to all four are within {near} of each other. With the three shifts
{shifted_blind} are. Of the raw networks with two blind neurons {blind_best} learn the table at the
best rate, of the others {seeing_best}. All of this is for initial weights drawn as the articles draw
them. Whether the remaining raw networks would ever learn it cannot be told from these runs.
"""


def _facts(solved: pd.DataFrame, timed: pd.DataFrame, neurons: pd.DataFrame) -> dict[str, Fact]:
    facts = {
        "epochs": Fact(int(solved["epochs"].iloc[0])),
        "rate": Fact(RATE), "timed_rate": Fact(TIMED_RATE), "far": Fact(FAR), "near": Fact(NEAR),
    }  # fmt: skip
    times = timed.pivot_table(index="seed", columns=["dataset.center", "learning_rate"], values="epochs_to")
    at_rate = solved[solved["learning_rate"] == RATE]
    is_raw = at_rate["dataset.center"] == "none"
    facts |= {
        "none_solved": share(at_rate.loc[is_raw, "solved"]),
        "shifted_solved": share(at_rate.loc[~is_raw, "solved"]),
    }
    of = neurons.groupby("center")
    facts |= {
        f"{center}_saturated": share(of.get_group(center)["is_saturated"]) for center in ("none", "mean")
    }
    facts["none_blind"] = share(of.get_group("none")["is_blind"])
    facts["shifted_blind"] = share(neurons.loc[neurons["center"] != "none", "is_blind"], ".3%")
    for center in ("articles", "mean", "standardize"):
        facts[f"{center}_time"] = quantile(times[center, TIMED_RATE])
    for center in ("mean", "standardize"):
        facts[f"{center}_ratio"] = _ratio(times[center, TIMED_RATE], times["articles", TIMED_RATE])
    slow = [rate for rate in RATES if rate <= RATE]
    products = [rate * float(quantile(times["articles", rate]).value) for rate in slow]
    facts |= {"product_low": Fact(min(products), len(times)), "product_high": Fact(max(products), len(times))}
    return facts | _raw(solved, timed, neurons)


def _raw(solved: pd.DataFrame, timed: pd.DataFrame, neurons: pd.DataFrame) -> dict[str, Fact]:
    """Return the facts of the networks on raw inputs, at the rate at which most of them solve the table."""
    raw, far = (runs[runs["dataset.center"] == "none"] for runs in (solved, timed))
    best = float(raw.groupby("learning_rate")["solved"].mean().idxmax())
    long = [share(np.isfinite(one)) for _, one in far.groupby("learning_rate")["epochs_to"]]
    at_best = raw[raw["learning_rate"] == best]
    is_blind = neurons[neurons["center"] == "none"].groupby("seed")["is_blind"].all()
    both_blind = at_best["seed"].map(is_blind).to_numpy(dtype=bool)
    return {
        "none_best_rate": Fact(best),
        "none_best": share(at_best["solved"]),
        "none_long": max(long, key=lambda fact: float(fact.value)),
        "blind_best": share(at_best.loc[both_blind, "solved"]),
        "seeing_best": share(at_best.loc[~both_blind, "solved"]),
    }


def _ratio(one: pd.Series, other: pd.Series) -> Fact:
    """Return the ratio of the medians of two times of the same seeds; its interval is bootstrapped."""
    pairs = np.column_stack([one, other])
    rng, n = np.random.default_rng(0), len(pairs)

    def ratio(rows: NDArray[np.int64]) -> float:
        mine, others = np.quantile(pairs[rows], 0.5, axis=0, method="inverted_cdf")
        return float(mine / others)

    low, high = np.quantile([ratio(rng.integers(n, size=n)) for _ in range(RESAMPLES)], [0.025, 0.975])
    return Fact(ratio(np.arange(n)), n, float(low), float(high), ".0%")


def _neurons(runs: pd.DataFrame, initial: Floats) -> pd.DataFrame:
    """Return the untrained hidden neurons: the columns center, seed, is_saturated and is_blind.

    A neuron is saturated if its answer to each of the four people is within NEAR of 0 or 1, and blind if its
    answers to them are within NEAR of each other.
    """
    X = pd.read_csv(SHIPPED / "data" / "gender.csv")[list(FEATURES)].to_numpy(dtype=float)
    parts = []
    for center, rows in runs.groupby("dataset.center").indices.items():
        shift, scale = centring(str(center), X, FEATURES)
        W1, b1 = initial[rows, :4].reshape(-1, 2, 2), initial[rows, 6:8]
        z = np.einsum("nhf,rf->nhr", W1, (X - shift) / scale) + b1[..., None]
        h = 1 / (1 + np.exp(-np.clip(z, -500, 500)))
        is_saturated = ((h <= NEAR) | (h >= 1 - NEAR)).all(axis=-1)
        is_blind = np.ptp(h, axis=-1) <= NEAR
        parts.append(
            pd.DataFrame(
                {
                    "center": str(center),
                    "seed": np.repeat(runs["seed"].to_numpy()[rows], 2),
                    "is_saturated": is_saturated.ravel(),
                    "is_blind": is_blind.ravel(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


@style.styled
def _learning(solved: pd.DataFrame, timed: pd.DataFrame) -> Figure:
    """Draw the share that is solved after 1,000 epochs, and the median time to solve, by learning rate."""
    room = style.Room(bottom=1.0, top=0.75, between=(0.75, 0.95))
    figure, (left, right) = style.grid(2, room, 3.0)
    for i, center in enumerate(CENTERS):
        look = {
            "color": style.COLORS[i],
            "marker": style.MARKERS[i],
            "markersize": 4,
            "label": CENTERS[center],
        }
        groups = solved[solved["dataset.center"] == center].groupby("learning_rate")["solved"]
        k, n = groups.sum(), groups.count()
        left.plot(k.index, k / n, **look)
        left.fill_between(k.index, *wilson(k, n), color=style.COLORS[i], alpha=0.2, linewidth=0)
        times = timed[timed["dataset.center"] == center].groupby("learning_rate")["epochs_to"]
        middle = times.median()
        low, high = np.array([median_interval(one) for _, one in times]).T
        right.plot(middle.index, style.drawable(middle), **look)
        right.fill_between(
            middle.index, *map(style.drawable, (low, high)), color=style.COLORS[i], alpha=0.2, linewidth=0
        )
    left.set_title(f"solved after 1,000 epochs, {n.iloc[0]:,} seeds a point", loc="left")
    left.set_ylabel("share of networks")
    right.set_title("median epochs to solve (raw: never)", loc="left")
    right.set(ylabel="epochs", yscale="log")
    style.log_ticks(right.yaxis, 1, 1e4)
    for ax in (left, right):
        ax.set(xscale="log", xlabel="learning rate")
        style.log_ticks(ax.xaxis, RATES[0], RATES[-1])
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0.1, 0), ncols=4, title="inputs", alignment="left"
    )
    style.heading(figure, "The gender table by learning rate and shift, with 95% intervals")
    return figure


@style.styled
def _start(neurons: pd.DataFrame) -> Figure:
    """Draw how the hidden neurons start: blind, saturated or neither, by shift."""
    room = style.Room(left=1.75, bottom=1.0, right=0.4)
    figure, (ax,) = style.grid(1, room, 1.9)
    groups = neurons.groupby("center")
    blind = groups["is_blind"].mean()
    both = (neurons["is_saturated"] & ~neurons["is_blind"]).groupby(neurons["center"]).mean()
    kinds = {
        "blind: one answer for all four people": blind,
        "saturated, not blind": both,
        "neither": 1 - blind - both,
    }
    left = np.zeros(len(CENTERS))
    for color, (label, shares) in zip([*style.COLORS[1:3], "#BBBBBB"], kinds.items(), strict=True):
        wide = shares[list(CENTERS)].to_numpy()
        ax.barh(list(CENTERS.values()), wide, left=left, color=color, label=label)
        left += wide
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set(xlim=(0, 1), xlabel="share of hidden neurons")
    figure.legend(loc="lower left", bbox_to_anchor=(0.2, 0), ncols=3)
    style.heading(figure, f"Hidden neurons before training, by shift ({len(neurons) // len(CENTERS):,} each)")
    return figure
