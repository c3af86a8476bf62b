"""Answer whether width or depth buys success, on XOR and on wine, at equal epochs and at equal weights."""

from __future__ import annotations

import re
from itertools import combinations_with_replacement, pairwise, permutations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.ask import Answer, Ask, Fact, quantile, share
from nnexp.analysis import survival
from nnexp.analysis.plots import style

DEPTHS = (1, 2, 3, 4)
INITS = {"normal": "the articles' initial weights (normal)", "xavier": "smaller initial weights (xavier)"}
# The inputs and outputs of each table, and the metric and level at which a network has solved it.
ENDS = {"xor": (2, 1), "wine": (13, 3)}
SOLVED = {"xor": ("accuracy", 1.0), "wine": ("val_accuracy", 0.95)}
# The widths of the single hidden layer whose number of weights the deeper networks are given.
EQUAL = {"xor": (8, 16, 32, 64), "wine": (4, 8, 16, 32)}
# The learning rate at which all is told; with the other rates it is asked whether the rate decides.
RATE = {"xor": 0.3, "wine": 0.1}
WINE = {
    "dataset": "wine", "output_activation": "softmax", "loss": "cross_entropy", "validation_fraction": 0.3,
    "epochs": 100, "log_every": 1, "learning_rate": RATE["wine"],
}  # fmt: skip
# The columns that make a setting, and the ways to compare depths.
SETTING = ["table", "by", "init", "depth", "at"]
WAYS = {"width": "units in each hidden layer", "weights": "weights and biases"}
# The widths at which the text tells the shares.
NARROW, MIDDLE, WIDE, WINE_NARROW = 3, 8, 32, 4
# For how many epochs deep networks that start from small weights are trained besides.
LONG = 30_000
LABELS = {
    "solved": "share of networks that solve it",
    "time": "median epochs to solve",
    "loss": "median val_loss (cross-entropy)",
}

TEXT = """
On XOR, width. With the articles' initial weights, a learning rate of {xor_rate} and {xor_epochs:,} epochs,
layers of {narrow} units solve it in {normal_1_narrow} of {normal_1_narrow.n} networks if there is one hidden
layer, in {normal_2_narrow} if there are two, {normal_3_narrow} if three and {normal_4_narrow} if four. Layers
of {middle} units nearly always solve it at each of these depths, {normal_4_middle} with four layers, but
each layer adds to the time: half of the networks have solved it after {normal_1_middle_time} epochs with
one, {normal_2_middle_time} with two, {normal_3_middle_time} with three and {normal_4_middle_time} with four.
(The unsolved count as slower than all others; the networks were looked at every {every} epochs.) With
{wide} units two to four layers are equally fast, as far as can be told: {normal_2_wide_time},
{normal_3_wide_time} and {normal_4_wide_time} epochs. Layers of one unit never solve it, {one}, and cannot at
any depth: their output only rises, or only falls, with one sum of the inputs.

At equal numbers of weights the deeper network is also the narrower one. With about
{xor_few} weights (to within {xor_off} here and below) one to four layers solve XOR in {normal_1_few},
{normal_2_few}, {normal_3_few} and {normal_4_few}. With about {xor_many} it is {normal_1_many},
{normal_2_many}, {normal_3_many} and {normal_4_many}: here a second layer does help. The
initial weights may be why: of so wide a layer, all drawn with the same spread, they add up to a
large sum. With xavier, which draws them
smaller the wider the layer, the single one solves it in {xavier_1_many}.

Xavier makes depth worse. At the same rate and epochs, over all widths from two on, one layer solves XOR in
{xavier_1_all}, two in {xavier_2_all}, three in {xavier_3_all} and four in {xavier_4_all} of
{xavier_4_all.n} networks. This is slowness, at least in part: of those with layers of {middle} units
{long_3} with three layers have solved it after {long:,} epochs, but {long_4} with four. None of
the learning rates tried mends three or four layers. With the best of {rates} for each shape, chosen on half
of the seeds and judged on the other half, as the best of several looks too good on
its own seeds, the four shares are {xavier_1_best},
{xavier_2_best}, {xavier_3_best} and {xavier_4_best}; with the articles' initial weights {normal_1_best},
{normal_2_best}, {normal_3_best} and {normal_4_best}.

On wine ({wine_epochs} epochs at a rate of {wine_rate}, {wine_seeds} seeds, each with its own split), with
the articles' initial weights and layers of {wine_narrow} units, at least {level} of the held-out rows are
right in {wine_normal_1_narrow} of the networks with one hidden layer, {wine_normal_2_narrow} with two,
{wine_normal_3_narrow} with three and {wine_normal_4_narrow} with four, and it takes
{wine_normal_1_narrow_time}, {wine_normal_2_narrow_time}, {wine_normal_3_narrow_time} and
{wine_normal_4_narrow_time} epochs until half of them have been there. Four layers of that width raise the
median `val_loss` by {wine_normal_4_narrow_more} over one on the same split, four at equal weights (about
{wine_few}) by {wine_normal_4_few_more}. With layers of {wide} units two, three and four cannot be told from
one: {wine_normal_2_wide_more}, {wine_normal_3_wide_more} and {wine_normal_4_wide_more}; the deeper ones
only take longer, {wine_normal_4_wide_time} epochs with four against {wine_normal_1_wide_time}. With xavier
four layers of {wide} reach that level in {wine_xavier_4_wide}. In none of these comparisons on wine is more
than one layer better by more than its interval; gains within the intervals cannot be ruled out, nor that
other rates or longer training would help. Nothing is said about other activations, optimizers or tables,
for which depth may pay.
"""


def answer(ask: Ask) -> Answer:
    """Return the share that is solved and the time that it takes, by width and depth."""
    parts = []
    tables: dict[str, dict[str, Any]] = {
        "xor": {"seed": range(ask.tenth(100))},
        "wine": WINE | {"seed": range(max(ask.tenth(30), 3))},
    }
    ways: dict[str, Any]
    for table, keys in tables.items():
        shapes = equal_shapes(table)
        ways = {"width": {}, "weights": {"hidden": [list(one) for one in shapes.values()]}}
        for by, more in ways.items():
            sweep = ask.sweep(**keys, **more)
            runs = _solved(sweep.runs, sweep.history, table).assign(table=table, by=by)
            if by == "weights":
                runs["at"] = runs["units"].map({shape: at for (at, _), shape in shapes.items()})
            parts.append(runs)
    runs = pd.concat(parts, ignore_index=True)
    long = ask.sweep(
        hidden=[[MIDDLE] * 3, [MIDDLE] * 4], init="xavier", learning_rate=RATE["xor"],
        epochs=LONG, log_every=200, seed=range(ask.tenth(100)),
    )  # fmt: skip
    last = _solved(long.runs, long.history, "xor")
    told = runs[runs["learning_rate"] == runs["table"].map(RATE)]
    found = cells(told)
    facts = _settings(runs) | _xor_facts(told) | _rate_facts(runs) | _wine_facts(told)
    facts |= {"long": Fact(LONG)} | {
        f"long_{depth}": share(part["solved"]) for depth, part in last.groupby("depth")
    }
    figures = {
        "xor_solved": _panels(
            found,
            "xor",
            "solved",
            "XOR: width helps, and depth nearly always costs",
        ),
        "xor_time": _panels(
            found,
            "xor",
            "time",
            "XOR: epochs until half of the networks solve it (no point: more than half never did)",
        ),
        "wine": _panels(
            found, "wine", "loss", "Wine: the loss on rows that were held out, by width and depth"
        ),
    }
    # The table has the other settings.
    told_of = set(re.findall(r"{(\w+)", TEXT))
    facts = {name: fact for name, fact in facts.items() if name in told_of}
    # The shapes with one hidden layer are in both comparisons.
    networks = len(runs.drop_duplicates(["table", "units", "init", "learning_rate", "seed"])) + len(long)
    return Answer(TEXT.strip(), facts, figures, networks, _table(found))


def weights_of(inputs: int, shape: tuple[int, ...], outputs: int) -> int:
    """Return the number of weights and biases of a network with these hidden layers."""
    return sum((a + 1) * b for a, b in pairwise((inputs, *shape, outputs)))


def equal_shapes(table: str) -> dict[tuple[int, int], tuple[int, ...]]:
    """Return the hidden layers by number of weights aimed at and depth.

    Of the shapes whose layers differ by at most one unit, each is the one whose number of weights is nearest.
    """
    inputs, outputs = ENDS[table]
    found = {}
    for width in EQUAL[table]:
        aim = weights_of(inputs, (width,), outputs)
        for depth in DEPTHS:
            shapes = sorted(
                {
                    shape
                    for w in range(1, width + 1)
                    for units in combinations_with_replacement((w, w + 1), depth)
                    for shape in permutations(units)
                }
            )
            found[aim, depth] = min(shapes, key=lambda one: abs(weights_of(inputs, one, outputs) - aim))
    return found


def _solved(runs: pd.DataFrame, history: pd.DataFrame, table: str) -> pd.DataFrame:
    """Return the runs with their depth and width, whether they end solved, and when they first were."""
    metric, level = SOLVED[table]
    units = runs["hidden"].map(lambda text: tuple(int(n) for n in re.findall(r"\d+", text)))
    found = survival.times(runs, history, metric, level).set_index("run_id").loc[runs["run_id"]]
    return runs.assign(
        units=units.to_numpy(),
        depth=units.map(len).to_numpy(),
        at=units.map(lambda widths: widths[0]).to_numpy(),
        solved=(runs[metric] >= level).to_numpy(),
        time=np.where(found["reached"], found["epoch"], np.inf),
    )


def cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each setting: n and, with their intervals, the share solved and the medians.

    The medians are those of the epochs until solved, infinite where half are not, and of the deciding loss.
    """
    rows = []
    for setting, part in runs.groupby(SETTING):
        row = dict(zip(SETTING, setting, strict=True)) | {"n": len(part)}
        for name, fact in {
            "solved": share(part["solved"]),
            "time": quantile(part["time"]),
            "loss": quantile(part["val_loss" if row["table"] == "wine" else "loss"]),
        }.items():
            row |= {name: fact.value, f"{name}_low": fact.low, f"{name}_high": fact.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _of(runs: pd.DataFrame, **setting: Any) -> pd.DataFrame:
    """Return the runs of a setting, sorted by seed."""
    is_of = np.logical_and.reduce([runs[key] == value for key, value in setting.items()])
    return runs[is_of].sort_values("seed")


def _settings(runs: pd.DataFrame) -> dict[str, Fact]:
    """Return what was trained, as facts without an interval."""
    facts: dict[str, Fact] = {}
    for table, part in runs.groupby("table"):
        shapes = equal_shapes(str(table))
        off = [
            abs(weights_of(ENDS[str(table)][0], one, ENDS[str(table)][1]) / at - 1)
            for (at, _), one in shapes.items()
        ]
        facts |= {
            f"{table}_rate": Fact(RATE[str(table)]),
            f"{table}_epochs": Fact(int(part["epochs"].max())),
            f"{table}_seeds": Fact(part["seed"].nunique(), style="d"),
            f"{table}_off": Fact(max(off), len(shapes), style=".0%"),
            f"{table}_few": Fact(min(at for at, _ in shapes), style="d"),
            f"{table}_many": Fact(max(at for at, _ in shapes), style="d"),
        }
    return facts | {
        "every": Fact(int(runs.loc[runs["table"] == "xor", "log_every"].iloc[0])),
        "wine_narrow": Fact(WINE_NARROW),
        "narrow": Fact(NARROW),
        "middle": Fact(MIDDLE),
        "wide": Fact(WIDE),
        "level": Fact(SOLVED["wine"][1], style=".0%"),
        "rates": Fact(
            ", ".join(
                f"{rate:g}" for rate in sorted(runs.loc[runs["table"] == "xor", "learning_rate"].unique())
            )
        ),
    }


def _xor_facts(told: pd.DataFrame) -> dict[str, Fact]:
    """Return the shares and times of XOR at the rate at which they are told."""
    xor = told[told["table"] == "xor"]
    few, *_, many = [at for at, depth in equal_shapes("xor") if depth == 1]
    facts = {"one": share(_of(xor, by="width", at=1)["solved"])}
    for init in INITS:
        part = xor[xor["init"] == init]
        for depth in DEPTHS:
            key = f"{init}_{depth}"
            by_width = _of(part, by="width", depth=depth)
            for name, width in (("narrow", NARROW), ("middle", MIDDLE), ("wide", WIDE)):
                of = by_width[by_width["at"] == width]
                facts |= {
                    f"{key}_{name}": share(of["solved"]),
                    f"{key}_{name}_time": quantile(of["time"], style=",.0f"),
                }
            for name, at in (("few", few), ("many", many)):
                of = _of(part, by="weights", depth=depth, at=at)
                facts |= {
                    f"{key}_{name}": share(of["solved"]),
                    f"{key}_{name}_time": quantile(of["time"], style=",.0f"),
                }
            facts[f"{key}_all"] = share(by_width.loc[by_width["at"] > 1, "solved"])
    return facts


def _rate_facts(runs: pd.DataFrame) -> dict[str, Fact]:
    """Return the shares of XOR with the best rate of each shape.

    The rate is chosen on the seeds with even numbers and judged on the others: on the same seeds, the best of
    several rates would look better than it is.
    """
    xor = runs[(runs["table"] == "xor") & ((runs["by"] == "weights") | (runs["at"] > 1))]
    chosen = xor["seed"] % 2 == 0
    rates = xor[chosen].groupby([*SETTING, "learning_rate"])["solved"].mean()
    best = rates.groupby(SETTING).idxmax().map(lambda key: key[-1]).rename("best")
    judged = xor[~chosen].join(best, on=SETTING)
    judged = judged[judged["learning_rate"] == judged["best"]]
    many = judged["at"] == max(at for at, _ in equal_shapes("xor"))
    facts: dict[str, Fact] = {}
    for init in INITS:
        for depth in DEPTHS:
            of = judged[(judged["init"] == init) & (judged["depth"] == depth)]
            facts[f"{init}_{depth}_best"] = share(of.loc[of["by"] == "width", "solved"])
            facts[f"{init}_{depth}_many_best"] = share(of.loc[(of["by"] == "weights") & many, "solved"])
    return facts


def _wine_facts(told: pd.DataFrame) -> dict[str, Fact]:
    """Return the losses of wine, and by how much more layers change them on the same splits."""
    wine = told[told["table"] == "wine"]
    few = min(at for at, _ in equal_shapes("wine"))
    facts: dict[str, Fact] = {}
    for init in INITS:
        for by, name, at in (
            ("width", "narrow", WINE_NARROW),
            ("width", "wide", WIDE),
            ("weights", "few", few),
        ):
            parts = {d: _of(wine, init=init, by=by, at=at, depth=d) for d in DEPTHS}
            for depth, part in parts.items():
                key = f"wine_{init}_{depth}_{name}"
                facts |= {key: share(part["solved"], ".0%"), f"{key}_loss": quantile(part["val_loss"])}
                facts[f"{key}_time"] = quantile(part["time"], style=",.0f")
                more = part["val_loss"].to_numpy() - parts[1]["val_loss"].to_numpy()
                facts[f"{key}_more"] = quantile(more, style="+.2g")
    return facts


def _table(found: pd.DataFrame) -> pd.DataFrame:
    """Return the settings with their intervals, as text."""

    def told(row: pd.Series, name: str, style: str) -> str:
        fact = Fact(row[name], row["n"], row[f"{name}_low"], row[f"{name}_high"], style)
        return str(fact.rounded())

    return pd.DataFrame(
        {
            **{key: found[key] for key in (*SETTING, "n")},
            "solved": [told(row, "solved", ".0%") for _, row in found.iterrows()],
            "median epochs": [told(row, "time", ".3g") for _, row in found.iterrows()],
            "median loss": [told(row, "loss", ".2g") for _, row in found.iterrows()],
        }
    )


@style.styled
def _panels(found: pd.DataFrame, table: str, value: str, heading: str) -> Figure:
    """Draw a value of the settings with its interval, a line a depth: by width and by number of weights."""
    room = style.Room(bottom=1.15, top=0.75, between=(0.75, 0.75))
    figure, axes = style.lattice(2, 2, room, 2.2, 8.4)
    panels = [(init, by) for init in INITS for by in WAYS]
    shown = found[found["table"] == table]
    drawn = style.drawable(shown[value])
    ends = 0.7 * float(np.nanmin(drawn)), 1.4 * float(np.nanmax(drawn))
    for ax, (init, by) in zip(axes, panels, strict=True):
        for i, depth in enumerate(DEPTHS):
            line = shown[
                (shown["init"] == init) & (shown["by"] == by) & (shown["depth"] == depth)
            ].sort_values("at")
            middle, low, high = (style.drawable(line[f"{value}{end}"]) for end in ("", "_low", "_high"))
            ax.plot(
                line["at"],
                middle,
                color=style.COLORS[i],
                marker=style.MARKERS[i],
                markersize=4,
                label=str(depth),
            )
            ax.fill_between(line["at"], low, high, color=style.COLORS[i], alpha=0.15, linewidth=0)
        ticks = sorted(shown.loc[shown["by"] == by, "at"].unique())
        ax.set_xscale("log")
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.set_title(INITS[init], loc="left")
        if value == "solved":
            ax.set_ylim(-0.03, 1.03)
        else:
            ax.set(yscale="log", ylim=ends)
            style.log_ticks(ax.yaxis, *ends)
    for ax, by in zip(axes[2:], WAYS, strict=True):
        ax.set_xlabel(WAYS[by])
    style.label_left(axes, LABELS[value])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.1, 0),
        ncols=4,
        title="hidden layers",
        alignment="left",
    )
    style.heading(figure, heading)
    return figure
