"""Answer whether a clever search beats a random one, by searches over networks that are all trained.

Every setting of a grid is trained, so that a search can be repeated many times in seconds: a trial looks its
network up. Each repetition has a split, initial weights and a sampler's seed of its own, the same for all
searches.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, IntDistribution

from experiments.ask import Answer, Ask, Fact
from nnexp.analysis.plots import style
from nnexp.analysis.statistics import iqm, iqm_interval
from nnexp.pipeline.results.sweep import Sweep

SEARCHED = ["learning_rate", "hidden", "optimizer.weight_decay"]
BUDGETS = (5, 10, 20, 40, 80)  # in whole trainings
TABLES = {
    "breast cancer": {"dataset": "breast_cancer", "output_activation": "sigmoid", "loss": "bce"},
    "digits": {"dataset": "digits", "output_activation": "softmax", "loss": "cross_entropy"},
}
SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True),
    "CMA-ES": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
    "hyperband": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


TEXT = """
For breast cancer and for digits, {settings} settings of learning rate, width and weight decay were trained
with {splits} splits and initial weights each, so that a search can be replayed: a trial takes its network
from the record. A search may train as many epochs as a number of whole trainings of {epochs} epochs has; its
winner, the network with the lowest `val_loss`, is judged by its test loss, on rows that no search saw. Each
search was made once on each split; TPE begins with the same ten trials as random search. Random search
reaches a test loss of {breast_cancer_random} on breast cancer and {digits_random} on digits with {most}
trainings; training every setting and taking the best gives {breast_cancer_best} and {digits_best}.

The difference from random search on the same split, as an interquartile mean:

LINES

These are {comparisons} comparisons, so that one or two intervals are expected to leave out zero by chance.
Nothing is said about other spaces, such as those of more keys.
"""


class Trained(NamedTuple):
    """The networks of one split: every setting of the grid, in its order."""

    val_loss: NDArray[np.float64]  # (settings, logged epochs)
    test_loss: NDArray[np.float64]  # (settings,)
    epochs: NDArray[np.int64]  # the logged ones
    sizes: tuple[int, ...]  # how many values each key has


def trained(sweep: Sweep) -> list[Trained]:
    """Return the networks of each split; the loss of one that diverged is infinite."""
    runs, values = sweep.runs, {}
    for key in SEARCHED:
        codes, distinct = pd.factorize(runs[key], sort=key != "hidden")
        values[key] = len(distinct)
        runs[f"at.{key}"] = codes
    order = ["seed", *(f"at.{key}" for key in SEARCHED)]
    runs = runs.sort_values(order)
    curves = sweep.history.query("metric == 'val_loss' and epoch > 0")
    wide = curves.pivot(index="run_id", columns="epoch", values="value").loc[runs["run_id"]]
    n = runs["seed"].nunique()
    val_loss = np.nan_to_num(wide.to_numpy().reshape(n, -1, wide.shape[1]), nan=np.inf)
    test_loss = np.nan_to_num(runs["test_loss"].to_numpy(float).reshape(n, -1), nan=np.inf)
    epochs, sizes = wide.columns.to_numpy(), tuple(values.values())
    return [Trained(val, test, epochs, sizes) for val, test in zip(val_loss, test_loss, strict=True)]


def replay(name: str, numbered: tuple[int, Trained]) -> NDArray[np.float64]:
    """Search once; return the test loss of the winner by each budget, (budgets,)."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed, nets = numbered
    last = int(nets.epochs[-1])
    pruner = optuna.pruners.HyperbandPruner(min_resource=int(nets.epochs[0]), max_resource=last)
    study = optuna.create_study(
        study_name=f"{name} {seed}", sampler=SAMPLERS[name](seed),
        pruner=pruner if name == "hyperband" else optuna.pruners.NopPruner(),
    )  # fmt: skip
    space: dict[str, BaseDistribution] = {
        key: IntDistribution(0, size - 1) for key, size in zip(SEARCHED, nets.sizes, strict=True)
    }
    spent, found = [0], [(np.inf, np.inf)]  # after each trial
    while spent[-1] < BUDGETS[-1] * last:
        trial = study.ask(space)
        setting = int(np.ravel_multi_index(tuple(trial.params[key] for key in SEARCHED), nets.sizes))
        for epoch, value in zip(nets.epochs.tolist(), nets.val_loss[setting].tolist(), strict=True):
            trial.report(value, epoch)
            if epoch < last and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                found.append(found[-1])
                break
        else:
            study.tell(trial, value)
            found.append(min(found[-1], (value, nets.test_loss[setting])))
        spent.append(spent[-1] + epoch)
    at = np.searchsorted(spent, np.array(BUDGETS) * last, side="right") - 1
    return np.array([found[i][1] for i in at])


def answer(ask: Ask) -> Answer:
    """Return by how much each search is better than random, by budget, and from where on."""
    networks, losses, facts = 0, {}, {}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for table, keys in TABLES.items():
            sweep = ask.sweep(seed=range(ask.tenth(100)), **keys)
            nets = trained(sweep)
            networks += len(sweep)
            for name in SAMPLERS:
                losses[table, name] = np.array(list(pool.map(partial(replay, name), enumerate(nets))))
            best = np.array([one.test_loss[one.val_loss[:, -1].argmin()] for one in nets])
            facts[f"{_word(table)}_best"] = _fact(best)
            facts[f"{_word(table)}_random"] = _fact(losses[table, "random"][:, -1])
            facts["settings"] = Fact(nets[0].test_loss.size, style=",d")
            facts["epochs"] = Fact(int(nets[0].epochs[-1]), style="d")
    facts |= {"most": Fact(BUDGETS[-1], style="d"), "splits": Fact(ask.tenth(100), style="d")}
    lines, found = [], {}
    for table, name in product(TABLES, list(SAMPLERS)[1:]):
        one = found[table, name] = differences(losses[table, name], losses[table, "random"])
        line, told = verdict(table, name, one)
        lines.append(line)
        facts |= told
    facts["comparisons"] = Fact(len(found) * len(BUDGETS), style="d")
    table = pd.concat(found, names=["table", "search"]).droplevel(2).reset_index()
    text = TEXT.strip().replace("LINES", "\n".join(lines))
    figures = {"differences": _differences(found), "test_loss": _test_losses(losses)}
    return Answer(text, facts, figures, networks, table)


def differences(of: NDArray[np.float64], other: NDArray[np.float64]) -> pd.DataFrame:
    """Return the interquartile mean of the paired differences, with its interval, by budget."""
    paired = (of - other).T
    low, high = iqm_interval(paired)
    return pd.DataFrame(
        {"budget": BUDGETS, "difference": iqm(paired), "low": low, "high": high, "searches": len(of)}
    )


def verdict(table: str, name: str, found: pd.DataFrame) -> tuple[str, dict[str, Fact]]:
    """Return a line on where a search is better than random, or worse, and its facts."""
    key = f"{_word(table)}_{_word(name)}"
    ends = found.to_dict("records")
    last = ends[-1]
    facts = {
        f"{key}_last": Fact(last["difference"], last["searches"], last["low"], last["high"], "+.2g"),
    }
    line = f"- {table}, {name}: {{{key}_last}} at {{most}} trainings; "
    better = [row["high"] < 0 for row in ends]
    first = len(ends) - next((i for i, is_better in enumerate(reversed(better)) if not is_better), len(ends))
    if first < len(ends):
        facts[f"{key}_from"] = Fact(ends[first]["budget"], style="d")
        line += f"better than random from {{{key}_from}} trainings on"
    else:
        line += (
            "not told apart from random at the largest budget" if last["low"] <= 0 else "worse than random"
        )
    if worse := [row["budget"] for row in ends[:-1] if row["low"] > 0]:
        facts[f"{key}_worse"] = Fact(", ".join(map(str, worse)))
        line += f", worse at {{{key}_worse}}"
    if early := [row["budget"] for row, is_better in zip(ends[:first], better, strict=False) if is_better]:
        facts[f"{key}_early"] = Fact(", ".join(map(str, early)))
        line += f", better at {{{key}_early}}"
    return line, facts


def _word(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")


def _fact(values: NDArray[np.float64]) -> Fact:
    low, high = iqm_interval(values)
    return Fact(float(iqm(values)), len(values), float(low), float(high))


@style.styled
def _differences(found: dict[tuple[str, str], pd.DataFrame]) -> Figure:
    """Draw the differences from random search by budget, a panel a table."""
    names = list(SAMPLERS)[1:]
    room = style.Room(left=1.0, right=style.legend_room(names, "less than 0: better"), top=0.7)
    figure, axes = style.grid(len(TABLES), room, 2.8)
    handles = []
    for ax, table in zip(axes, TABLES, strict=True):
        ax.axhline(0, color="0.4", linewidth=1)
        lines = [_line(ax, found[table, name], name, i) for i, name in enumerate(names)]
        handles = lines
        _budgets(ax, table)
    axes[0].set_ylabel("test loss of the winner,\nless that of random search")
    style.legend(figure, handles, names, "less than 0: better", room)
    style.heading(figure, "Is a search better than random search at equal numbers of epochs?")
    return figure


def _line(ax: Axes, found: pd.DataFrame, name: str, i: int) -> Line2D:
    at = np.array(BUDGETS) * 1.04 ** (i - 1)  # side by side, so that intervals do not hide each other
    color = style.COLORS[list(SAMPLERS).index(name)]
    ax.vlines(at, found["low"], found["high"], color=color, linewidth=1.5)
    return ax.plot(at, found["difference"], "o-", color=color, markersize=4, linewidth=1)[0]


@style.styled
def _test_losses(losses: dict[tuple[str, str], NDArray[np.float64]]) -> Figure:
    """Draw the winner's test loss itself by budget, a panel a table."""
    room = style.Room(left=1.0, right=style.legend_room(list(SAMPLERS), ""), top=0.7)
    figure, axes = style.grid(len(TABLES), room, 2.8)
    handles: list[Line2D] = []
    for ax, table in zip(axes, TABLES, strict=True):
        handles = []
        for name, color in zip(SAMPLERS, style.COLORS, strict=False):
            values = losses[table, name].T
            low, high = iqm_interval(values)
            ax.fill_between(BUDGETS, low, high, color=color, alpha=0.15, linewidth=0)
            handles += ax.plot(BUDGETS, iqm(values), "o-", color=color, markersize=4)
        _budgets(ax, table)
    axes[0].set_ylabel("test loss of the winner")
    style.legend(figure, handles, list(SAMPLERS), "", room)
    style.heading(figure, "What a search finds, by the epochs that it may train")
    return figure


def _budgets(ax: Axes, table: str) -> None:
    ax.set(xscale="log", xlabel="budget (whole trainings)", title=table)
    ax.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
    ax.minorticks_off()
