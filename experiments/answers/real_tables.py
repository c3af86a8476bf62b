"""Answer which activation, optimizer and learning rate suit three real tables."""

from __future__ import annotations

import pandas as pd

from experiments.ask import Answer, Ask, Fact

SETTING = ["activation", "optimizer", "learning_rate"]
TABLES = {"wine": "wine", "breast_cancer": "breast cancer", "digits": "digits"}


def answer(ask: Ask) -> Answer:
    """Return the setting with the lowest median `val_loss` for each table, and how many are as good."""
    sweep = ask.sweep(record="runs", seed=range(max(ask.tenth(10), 5)))
    table = sweep.summary(["dataset", *SETTING])
    facts, lines = {}, []
    for name, said in TABLES.items():
        facts |= {f"{name}_{key}": fact for key, fact in _facts(table[table["dataset"] == name]).items()}
        lines.append(LINE.replace("NAME", name).replace("TABLE", said))
    facts["seeds"] = Fact(int(table["n"].iloc[0]))
    drawn = {"val_loss": "val_loss_by_learning_rate", "heat_map": "val_loss_heat_map"}
    figures = {title: sweep.figure(name) for title, name in drawn.items()}
    return Answer(TEXT + "\n".join(lines), facts, figures, len(sweep.runs), table)


TEXT = """\
The lowest median `val_loss` over {seeds} seeds, each with its own split, and the settings that these
seeds cannot tell from it:

"""
LINE = (
    "- TABLE: {NAME_activation}, {NAME_optimizer}, learning rate {NAME_rate}, with {NAME_loss}. Of the other "
    "{NAME_others} settings {NAME_alike} cannot be told from it; with the right rate, that holds for "
    "{NAME_pairs} of the six pairs of activation and optimizer."
)


def _facts(rows: pd.DataFrame) -> dict[str, Fact]:
    """Return the facts of one table, from its rows of the summary."""
    best = rows.loc[rows["rank"].idxmin()]
    good = rows[rows["standing"] != "worse"]
    return {
        "activation": Fact(best["activation"]),
        "optimizer": Fact(best["optimizer"]),
        "rate": Fact(float(best["learning_rate"])),
        "loss": Fact(best["median"], int(best["n"]), best["median_low"], best["median_high"]),
        "others": Fact(len(rows) - 1),
        "alike": Fact(len(good) - 1),
        "pairs": Fact(len(good[["activation", "optimizer"]].drop_duplicates())),
    }
