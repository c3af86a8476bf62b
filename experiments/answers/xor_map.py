"""Answer when a 2-2-1 network learns XOR, and whether those that do not are in local minima."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.ask import Answer, Ask, Fact, share
from experiments.recorded import weights
from nnexp.analysis.plots import style
from nnexp.analysis.statistics import wilson
from nnexp.pipeline.results.sweep import Sweep

Complex = NDArray[np.complex128]

# How many of the unsolved networks are trained on, and the epochs at which they are looked at.
TRAINED_ON = 10_000
LATE = [10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000]
POINT = ["learning_rate", "init.scale", "seed"]
# The scales of the initial weights by which the unsolved are told apart.
SCALES = {"small": (0, 1), "middling": (1, 10), "large": (10, np.inf)}
SAID = {"small": "below 1", "middling": "1 to 10", "large": "10 or more"}
# Losses near which networks stay: that many of the four rows are right, the others get their mean.
STAYS = {"eighth": (1 / 8, "1/8"), "sixth": (1 / 6, "1/6"), "quarter": (1 / 4, "1/4"), "half": (1 / 2, "1/2")}
# The curvature that rounding could feign.
ROUNDED = 1e-15
# The four rows of XOR.
X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
Y = np.array([0, 1, 1, 0])

TEXT = """
Of {all.n:,} networks, {settings.n:,} settings of learning rate and scale with {seeds} seeds each, {early}
solve XOR within {early_epochs:,} epochs and {all} within {epochs:,}. It depends on both: of the networks
with a scale from {block_low} to {block_high} and a learning rate in the same range {block} solve it, of
those with a scale of {large_from} or more {large}. In {good} settings at least {much:.0%} of the seeds
solve it, in {none} none does, which leaves room for a share of up to {room:.1%} in each.

Of the unsolved, {solved_late.n:,} drawn at random were trained on to {late_epochs:,} epochs. {solved_mid}
of them have solved XOR by {mid_epochs:,} epochs and {solved_late} by {late_epochs:,}: {late_small} of those
that began with a scale below {small_below}, and {late_large} of those with one of {large_from} or more. Of
the {falling.n:,} that are still unsolved, {falling} have a lower loss than half as many epochs before,
{fixed} have the very same weights, to the bit, and the weights of the others move without the loss getting
lower: a step is taken for each row, so that at large learning rates they go in circles. {near} are within a
hundredth of one of four losses: {eighth} of an eighth (two rows are right, the other two between their
targets), {sixth} of a sixth (one row is right), {quarter} of a quarter and {half} of a half (the output is
saturated, and the same for all rows).

Are these local minima? Hamey (1998, XOR has no local minima) reports a proof that XOR has none.
Sprinkhuizen-Kuyper and Boers (1999, The local minima of the error surface of the 2-2-1 XOR network) report
a proof that there are regions of local minima, where hidden units are saturated, that their boundary points
are saddle points and that a strictly decreasing path leads from each finite point to an error of zero,
which explains why experiments of higher precision find fewer. The runs agree with both. {gradient} of the
unsolved have a gradient that is not zero, so they are not at a minimum; in {zero} it is zero in double
precision, as the units are saturated. At {curved} the loss curves down in some direction, as it does at no
minimum. Those near an eighth are the most like minima: at {up_eighth} of them the loss curves up in every
direction. Yet at {falling_eighth} of them it still falls, and at {growing_eighth} the largest weight still
grows, as if the minimum lay at infinite weights. So what these runs show are plateaus; whether a network
that is unsolved after {late_epochs:,} epochs would ever solve XOR by gradient descent, they cannot tell.
"""


def answer(ask: Ask) -> Answer:
    """Return what is solved over the map, and what becomes of the rest."""
    seeds = ask.tenth(200)
    runs = ask.sweep(seed=range(seeds)).runs
    runs["solved"] = runs["accuracy"] == 1
    last = runs[runs["epochs"] == runs["epochs"].max()]
    unsolved = last[~last["solved"]].sample(ask.tenth(TRAINED_ON), random_state=0).sort_index()
    on = ask.sweep(
        **{key: unsolved[key].tolist() for key in POINT},
        zip=POINT,
        epochs=LATE,
        log_every=LATE[0],
        weights="final",
    )
    late = _late(on)
    facts = _map_facts(runs, last, seeds) | _late_facts(late)
    figures = {"map": _map(runs), "trained_on": _trained_on(late)}
    return Answer(TEXT.strip(), facts, figures, len(last), _blocks(last))


def _late(on: Sweep) -> pd.DataFrame:
    """Return a row for each network that was trained on, with what it was at each of LATE."""
    runs = on.runs.assign(solved=on.runs["accuracy"] == 1, w=list(weights(on)))
    by = {epochs: part.set_index(POINT).sort_index() for epochs, part in runs.groupby("epochs")}
    end, before = by[LATE[-1]], by[LATE[-2]]
    late = end[["loss", "grad_norm", "solved", "w"]].reset_index()
    for epochs in LATE:
        late[epochs] = by[epochs]["solved"].to_numpy()
    late["is_fixed"] = (end["weights_sha256"] == before["weights_sha256"]).to_numpy()
    late["is_falling"] = (end["loss"] < before["loss"]).to_numpy() & ~late["is_fixed"]
    largest = [np.abs(np.stack(at["w"])).max(axis=1) for at in (before, end)]
    late["is_growing"] = largest[1] > largest[0]
    late["curvature"] = least_curvature(np.stack(late["w"]))
    return late


def _gradient(w: Complex) -> Complex:
    """Return the gradient of the loss of each network by its weights, both (networks, 9)."""

    def sigmoid(z: Complex) -> Complex:
        return 1 / (1 + np.exp(-(np.clip(z.real, -700, 700) + 1j * z.imag)))

    W1, W2, b1, b2 = w[:, :4].reshape(-1, 2, 2), w[:, 4:6], w[:, 6:8], w[:, 8]
    z = np.einsum("nhi,ri->nrh", W1, X) + b1[:, None]
    h = sigmoid(z)
    total = np.einsum("nrh,nh->nr", h, W2) + b2[:, None]
    d_total = (sigmoid(total) - Y) / 2 * sigmoid(total) * sigmoid(-total)
    d_z = d_total[:, :, None] * W2[:, None] * h * sigmoid(-z)
    d_W1 = np.einsum("nrh,ri->nhi", d_z, X).reshape(-1, 4)
    d_W2 = np.einsum("nr,nrh->nh", d_total, h)
    return np.concatenate([d_W1, d_W2, d_z.sum(axis=1), d_total.sum(axis=1)[:, None]], axis=1)


def least_curvature(w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least eigenvalue of the Hessian of each network's loss, for weights (networks, 9).

    A column of the Hessian is the derivative of the gradient by an imaginary step, which rounds nothing off
    (Squire and Trapp 1998, Using complex variables to estimate derivatives of real functions).
    """
    step = 1e-30
    columns = [_gradient(w + 1j * step * np.eye(9)[i]).imag / step for i in range(9)]
    H = np.stack(columns, axis=-1)
    least: NDArray[np.float64] = np.linalg.eigvalsh((H + H.swapaxes(1, 2)) / 2)[:, 0]
    return least


def _map_facts(runs: pd.DataFrame, last: pd.DataFrame, seeds: int) -> dict[str, Fact]:
    """Return what is solved over the map."""
    low, high, large, much = 0.1, 1.0, 10.0, 0.9
    first = runs[runs["epochs"] == runs["epochs"].min()]
    by_setting = last.groupby(["learning_rate", "init.scale"])["solved"].mean()
    rate, scale = last["learning_rate"], last["init.scale"]
    block = rate.between(low, high, inclusive="left") & scale.between(low, high, inclusive="left")
    count = len(by_setting)
    return {
        "all": share(last["solved"]),
        "early": share(first["solved"]),
        "epochs": Fact(int(last["epochs"].iloc[0])),
        "early_epochs": Fact(int(first["epochs"].iloc[0])),
        "settings": Fact(count, count, style=",d"),
        "seeds": Fact(seeds, seeds, style="d"),
        "block": share(last.loc[block, "solved"]),
        "block_low": Fact(low, style="g"), "block_high": Fact(high, style="g"),
        "large_from": Fact(large, style="g"),
        "large": share(last.loc[scale >= large, "solved"], ".2%"),
        "much": Fact(much, style=".0%"),
        "good": Fact(int((by_setting >= much).sum()), count, style=",d"),
        "none": Fact(int((by_setting == 0).sum()), count, style=",d"),
        "room": Fact(float(wilson(0, seeds)[1]), seeds, style=".1%"),
    }  # fmt: skip


def _late_facts(late: pd.DataFrame) -> dict[str, Fact]:
    """Return what became of the networks that were trained on."""
    rest = late[~late["solved"]]
    near = {name: np.abs(rest["loss"] - loss) < loss / 100 for name, (loss, _) in STAYS.items()}
    by_scale = {
        f"late_{name}": share(late.loc[late["init.scale"].between(*ends, inclusive="left"), "solved"])
        for name, ends in SCALES.items()
    }
    return {
        "late_epochs": Fact(LATE[-1]), "mid_epochs": Fact(LATE[3]), "small_below": Fact(SCALES["small"][1]),
        "solved_mid": share(late[LATE[3]]),
        "solved_late": share(late["solved"]),
        **by_scale,
        "falling": share(rest["is_falling"]),
        "fixed": share(rest["is_fixed"]),
        **{name: share(which) for name, which in near.items()},
        "gradient": share(rest["grad_norm"] > 0, ".2%"),
        "zero": Fact(int((rest["grad_norm"] == 0).sum()), len(rest), style="d"),
        "near": share(np.any(list(near.values()), axis=0)),
        "curved": share(rest["curvature"] < -ROUNDED),
        "up_eighth": share(rest.loc[near["eighth"], "curvature"] > ROUNDED),
        "falling_eighth": share(rest.loc[near["eighth"], "is_falling"]),
        "growing_eighth": share(rest.loc[near["eighth"], "is_growing"]),
    }  # fmt: skip


def _blocks(last: pd.DataFrame) -> pd.DataFrame:
    """Return the share that is solved, by the decades of the scale and of the learning rate."""
    decades = [np.floor(np.log10(last[key]) + 1e-9) for key in ("init.scale", "learning_rate")]
    groups = last.groupby(decades)["solved"].agg(["sum", "count"])
    low, high = wilson(groups["sum"], groups["count"])
    rows = [
        {
            "init.scale from": f"{10 ** at[0]:g}", "learning_rate from": f"{10 ** at[1]:g}", "n": int(n),
            "solved": f"{k / n:.1%} ({a:.1%} to {b:.1%})".replace("% to", " to").replace("%)", ")"),
        }
        for (at, k, n), a, b in zip(groups.itertuples(name=None), low, high, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@style.styled
def _map(runs: pd.DataFrame) -> Figure:
    """Draw the share of seeds that have solved XOR, over learning rate and scale, by number of epochs."""
    room = style.Room(top=0.7, right=1.0, left=0.8)
    figure, axes = style.grid(2, room, 3.6, 9.2)
    style.heading(
        figure, "XOR is solved where neither the initial weights nor the learning rate is tiny or large"
    )
    for ax, (epochs, part) in zip(axes, runs.groupby("epochs"), strict=True):
        cells = part.pivot_table(index="init.scale", columns="learning_rate", values="solved")
        x, y = (_edges(axis.to_numpy()) for axis in (cells.columns, cells.index))
        image = ax.pcolormesh(x, y, cells, vmin=0, vmax=1, cmap=style.SEQUENTIAL)
        ax.set(xscale="log", yscale="log")
        ax.grid(False)
        for axis, ends in ((ax.xaxis, x), (ax.yaxis, y)):
            style.log_ticks(axis, ends[0], ends[-1])
        ax.set_title(f"after {epochs:,} epochs", loc="left")
    style.label_below(axes, "learning rate")
    style.label_left(axes, "scale of the initial weights (init.scale)")
    style.colorbar(figure, image, axes, "share of seeds that solve it")
    return figure


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the borders between values that are evenly spaced on a logarithmic axis."""
    logs = np.log(values)
    half = (logs[-1] - logs[0]) / (len(logs) - 1) / 2
    return np.exp(np.concatenate([logs - half, logs[-1:] + half]))


@style.styled
def _trained_on(late: pd.DataFrame) -> Figure:
    """Draw the share solved over the epochs, and the losses at which the others stay."""
    figure, (left, right) = style.grid(2, style.Room(top=0.8, left=0.8), 3.2, 9.2)
    title = (
        f"{len(late):,} unsolved networks, trained on: ever fewer solve XOR, most others stay at four losses"
    )
    style.heading(figure, title)
    for (name, ends), color in zip(SCALES.items(), style.COLORS, strict=False):
        part = late[late["init.scale"].between(*ends, inclusive="left")]
        counts = np.array([part[epochs].sum() for epochs in LATE])
        low, high = wilson(counts, len(part))
        left.plot(LATE, counts / len(part), "o-", color=color, ms=4, label=f"{SAID[name]} ({len(part):,})")
        left.fill_between(LATE, low, high, color=color, alpha=0.2, lw=0)
    left.set(xscale="log", xlabel="completed epochs", ylabel="share that has solved XOR")
    left.set_ylim(bottom=0)
    left.set_title("scale of the initial weights (networks):", loc="left", fontsize=style.SMALL)
    left.legend(loc="upper left")
    _losses(right, late[~late["solved"]])
    return figure


def _losses(ax: Axes, rest: pd.DataFrame) -> None:
    """Draw the losses of the networks that stay unsolved, by what they still do."""
    kinds = {
        "loss still falls": rest["is_falling"],
        "weights move, loss does not fall": ~rest["is_falling"] & ~rest["is_fixed"],
        "weights do not change by a bit": rest["is_fixed"],
    }
    values = [rest.loc[which, "loss"] for which in kinds.values()]
    bins = np.linspace(0.1, 0.52, 85)
    ax.hist(values, bins=bins, stacked=True, color=style.COLORS[: len(kinds)], label=list(kinds))
    for loss, word in STAYS.values():
        ax.annotate(
            word,
            (loss, 1),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=style.SMALL,
        )
    ax.set(xlabel=f"loss (mse) after {LATE[-1]:,} epochs", ylabel="networks that stay unsolved")
    ax.legend(loc="upper right")
