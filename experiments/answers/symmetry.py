"""Answer whether hidden units that start alike stay alike, and what sets them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.ask import Answer, Ask, Fact, share
from experiments.recorded import weights
from nnexp.analysis.plots import style
from nnexp.analysis.statistics import median, median_interval, wilson

Array = NDArray[np.float64]

# Where the weights of the first and of the second hidden unit are in those of a 2-2-1 network: from the
# inputs, to the output, and the bias.
FIRST, SECOND = [0, 1, 4, 6], [2, 3, 5, 7]
# By how many units in the last place the first weight of each layer is moved; when the units are compared.
ULPS = [0, *(2**k for k in range(53))]
EPOCHS = [1, 10, 100, 1000, 10_000, 100_000]
DRAWN = [1, 2**20, 2**40, 2**46, 2**50]

TEXT = """
They do. {alike.n:,} networks 2-2-1 that start from zeros or from ones, on XOR and on the articles' table
with {rates} learning rates from {rate_low} to {rate_high}, were trained for {long:,} epochs, and their
weights were kept at {times} epochs on the way: in {alike} the two hidden units have the same weights at all
of them, to the bit. So the two are worth one: of {xor.n:,} such networks none solves XOR, {xor}, and the
lowest loss is {lowest}, above one sixth, which a single hidden unit can only approach; on the articles'
table, which one unit can learn, {gender} do.

Then the first weight of each layer was moved from one by some units in the last place (ULP), for
{settings.n:,} learning rates in the same range. One ULP sets the units apart to the bit in {apart_one}
after {epochs:,} epochs of XOR, and in the others rounding has made them alike again. But it changes nothing
that one would notice: the largest difference between two of their weights is then {widest} in the median,
and {solved_one} solve XOR. The difference grows in proportion to what it was, and slowly: from {early:,} to
{epochs:,} epochs by a factor of {growth} in the median. The smallest of the moves we tried (the powers of
two) with which any network solves XOR is {any_ulps:,} ULP, a difference of {any_size}; with {half_ulps:,}
ULP or more, {half_size}, at least half of them do. With {most_ulps:,} ULP, where the weight begins at
{most_at}, {by_1000} have solved XOR by {early:,} epochs and {by_end} by {epochs:,}.

From zeros no such move lasts: an ULP of zero is {denormal}, and after one epoch the units of {merged.n:,}
networks moved by up to {most_ulps:,} of them are alike to the bit in {merged}, after {epochs:,} epochs in
{merged_end}. Weights other than the first, other networks and other data were not tried, and whether one
ULP is noticed after still more epochs cannot be told. The learning rates are a grid; the intervals are
those of as many drawn at random.
"""


def answer(ask: Ask) -> Answer:
    """Return whether units that start alike stay so, and how large a difference they notice."""
    alike = ask.sweep(**({"learning_rate": [0.1, 1, 10]} if ask.is_quick else {}))
    kept = weights(alike, "kept")
    runs = alike.runs.assign(alike=are_alike(kept).all(axis=1), solved=alike.runs["accuracy"] == 1)
    moved = _moved(ask, 1, np.geomspace(0.01, 10, ask.tenth(200)), EPOCHS)
    zeros = _moved(ask, 0, np.geomspace(0.01, 10, ask.tenth(31)), [1, EPOCHS[-1]])
    facts = _alike_facts(runs, kept.shape[1]) | _moved_facts(moved) | _zeros_facts(zeros)
    networks = len(runs) + sum(len(one) // one["epochs"].nunique() for one in (moved, zeros))
    return Answer(TEXT.strip(), facts, {"apart": _figure(moved)}, networks, _table(moved))


def _moved(ask: Ask, value: float, rates: Array, epochs: list[int]) -> pd.DataFrame:
    """Train XOR from this value, the first weight of each layer moved; return a row a network and epoch."""
    sweep = ask.sweep(
        dataset="xor",
        init="constant",
        **{"init.value": value, "init.ulps": ULPS},
        learning_rate=[float(f"{rate:.4g}") for rate in rates],
        epochs=epochs,
        weights="final",
        weights_every=0,
    )
    w, runs = weights(sweep), sweep.runs
    columns = runs[["init.ulps", "learning_rate", "epochs", "loss"]]
    return columns.assign(alike=are_alike(w), apart=apart(w), solved=runs["accuracy"] == 1)


def are_alike(w: Array) -> NDArray[np.bool_]:
    """Return whether the two hidden units have the same bits, for weights (…, 9)."""
    bits = np.ascontiguousarray(w).view(np.int64)
    same: NDArray[np.bool_] = (bits[..., FIRST] == bits[..., SECOND]).all(axis=-1)
    return same


def apart(w: Array) -> Array:
    """Return the largest difference between a weight of one hidden unit and the same of the other."""
    largest: Array = np.abs(w[..., FIRST] - w[..., SECOND]).max(axis=-1)
    return largest


def _median(values: Any, style: str = ".2g") -> Fact:
    """Return the median of values with its interval."""
    low, high = median_interval(values)
    return Fact(float(median(values)), len(values), float(low), float(high), style)


def _alike_facts(runs: pd.DataFrame, times: int) -> dict[str, Fact]:
    """Return what became of the units that started alike."""
    xor, gender = (runs[runs["dataset"] == name] for name in ("xor", "gender"))
    rates = runs["learning_rate"]
    return {
        "alike": share(runs["alike"]),
        "rates": Fact(rates.nunique(), rates.nunique(), style="d"),
        "rate_low": Fact(rates.min(), style="g"), "rate_high": Fact(rates.max(), style="g"),
        "long": Fact(int(runs["epochs"].max())), "times": Fact(times, style="d"),
        "xor": share(xor["solved"]),
        "lowest": Fact(xor["loss"].min(), len(xor), style=".6f"),
        "gender": share(gender["solved"]),
    }  # fmt: skip


def _moved_facts(moved: pd.DataFrame) -> dict[str, Fact]:
    """Return what a move of some ULP from 1 does."""
    end = moved[moved["epochs"] == EPOCHS[-1]]
    early = moved[moved["epochs"] == EPOCHS[3]]
    solved = end.groupby("init.ulps")["solved"].mean()
    some, half = solved.index[solved > 0], solved.index[solved >= 0.5]
    by_ulps = {ulps: end[end["init.ulps"] == ulps] for ulps in ULPS}
    n = len(by_ulps[1])
    pairs = early.merge(end, on=["init.ulps", "learning_rate"])
    # Of differences that rounding and the change of sides of a solution leave alone.
    pairs = pairs[(pairs["init.ulps"] == 2**20)]
    most = early[early["init.ulps"] == ULPS[-1]]
    facts = {
        "settings": Fact(n, n, style=",d"),
        "epochs": Fact(EPOCHS[-1]), "early": Fact(EPOCHS[3]),
        "apart_one": share(~by_ulps[1]["alike"]),
        "widest": _median(by_ulps[1]["apart"]),
        "solved_one": share(by_ulps[1]["solved"]),
        "growth": _median(pairs["apart_y"] / pairs["apart_x"]),
        "most_ulps": Fact(ULPS[-1], style=",d"), "most_at": Fact(1 + ULPS[-1] * 2.0**-52, style="g"),
        "by_1000": share(most["solved"]),
        "by_end": share(by_ulps[ULPS[-1]]["solved"]),
    }  # fmt: skip
    for name, which in (("any", some), ("half", half)):
        ulps = int(which.min())
        facts[f"{name}_ulps"] = Fact(ulps, n, style=",d")
        facts[f"{name}_size"] = Fact(ulps * 2.0**-52, n, style=".2g")
    return facts


def _zeros_facts(zeros: pd.DataFrame) -> dict[str, Fact]:
    """Return what a move of some ULP from 0 does."""
    zeros = zeros[zeros["init.ulps"] > 0]
    return {
        "denormal": Fact(5e-324, style=".2g"),
        "merged": share(zeros.loc[zeros["epochs"] == 1, "alike"]),
        "merged_end": share(zeros.loc[zeros["epochs"] > 1, "alike"]),
    }


def _table(moved: pd.DataFrame) -> pd.DataFrame:
    """Return for each move what the units are after the last epoch."""
    end = moved[moved["epochs"] == EPOCHS[-1]]
    groups = end.groupby("init.ulps")
    return pd.DataFrame(
        {
            "init.ulps": [f"{ulps:,}" for ulps in ULPS],
            "n": groups.size().to_numpy(),
            "alike to the bit": [f"{share:.1%}" for share in groups["alike"].mean()],
            "median difference": [f"{apart:.2g}" for apart in groups["apart"].median()],
            "solved": [f"{share:.1%}" for share in groups["solved"].mean()],
        }
    )


@style.styled
def _figure(moved: pd.DataFrame) -> Figure:
    """Draw how far the units are apart over the epochs, and which moves solve XOR."""
    figure, (left, right) = style.grid(2, style.Room(top=0.8, left=0.8), 3.3, 9.2)
    style.heading(
        figure, f"One ULP sets the units apart to the bit, but {EPOCHS[-1]:,} epochs do not make it matter"
    )
    _growth(left, moved)
    _solved(right, moved)
    return figure


def _growth(ax: Axes, moved: pd.DataFrame) -> None:
    """Draw the difference of the units over the epochs, with the middle nine tenths of the learning rates."""
    for ulps, color in zip(DRAWN, style.COLORS, strict=False):
        groups = moved[moved["init.ulps"] == ulps].groupby("epochs")["apart"]
        low, middle, high = (groups.quantile(q) for q in (0.05, 0.5, 0.95))
        ax.plot(middle.index, middle, "o-", ms=4, color=color)
        ax.fill_between(middle.index, low, high, color=color, alpha=0.2, lw=0)
        place = (EPOCHS[-1] * 1.5, middle.iloc[-1])
        ax.annotate(_power(ulps), place, color=color, va="center", fontsize=style.SMALL)
    ax.set(
        xscale="log", yscale="log", xlabel="completed epochs", ylabel="largest difference between the units"
    )
    ax.set_xlim(right=EPOCHS[-1] * 6)
    ax.set_title("moved by 1 to $2^{50}$ ULP: median, middle nine tenths", loc="left")


def _solved(ax: Axes, moved: pd.DataFrame) -> None:
    """Draw the share of the learning rates with which XOR is solved, over the move."""
    for epochs, color in zip(EPOCHS[2:], style.COLORS, strict=False):
        part = moved[(moved["epochs"] == epochs) & (moved["init.ulps"] > 0)].groupby("init.ulps")["solved"]
        low, high = wilson(part.sum(), part.size())
        at = np.log2(part.mean().index.to_numpy(dtype=float))
        ax.plot(at, part.mean(), color=color, label=f"{epochs:,}")
        ax.fill_between(at, low, high, color=color, alpha=0.2, lw=0)
    ax.set(xlabel="first weights moved by (power of two of ULP)", xlim=(38, 52.4), ylim=(-0.02, 1.02))
    ax.set_ylabel("share of learning rates that solve XOR")
    ax.set_title("by completed epochs", loc="left")
    ax.legend(loc="upper left")


def _power(ulps: int) -> str:
    return f"$2^{{{ulps.bit_length() - 1}}}$" if ulps > 1 else "1"
