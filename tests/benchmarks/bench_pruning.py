"""What Hyperband saves: searches of as many trials with it and without, beside each other.

Each pair has a sampler's seed of its own, on the task of bench_search.py: breast cancer, a trial is 5 seeds
of 100 epochs. A network is the one of its best epoch so far (patience), since otherwise the trials that learn
fast and then overfit look best early and are worst in the end. Epochs are counted until the first completed
trial whose value is within 2% of the best of the search that prunes nothing, which is far less than a value
changes with other seeds. The best of both are then trained with 200 fresh seeds, since the least of many
values is lower than what its setting reaches. Prints a Markdown table and writes it to pruning.md.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.datasets import load_breast_cancer

import nnexp
from nnexp.tracking.store import open_store

SEEDS, EPOCHS, WITHIN = 5, 100, 1.02
FRESH = range(1000, 1200)
PRUNERS = "none", "hyperband"


def task(table: Path) -> dict[str, Any]:
    """Return the keys that all runs share."""
    return {
        "dataset": "csv", "dataset.path": str(table), "dataset.target": "class",
        "dataset.center": "standardize", "epochs": EPOCHS, "patience": EPOCHS, "log_every": 4,
        "activation": "relu", "output_activation": "sigmoid", "loss": "bce", "init": "xavier",
        "optimizer": "adam", "batch_size": 32, "shuffle": True, "validation_fraction": 0.3, "figures": False,
    }  # fmt: skip


def trials_of(pruner: str, seed: int, trials: int, table: Path) -> pd.DataFrame:
    """Search; return a row per trial, with the epochs that all trials so far have had."""
    asked = task(table) | {
        "learning_rate": FloatDistribution(1e-4, 0.1, log=True),
        "hidden.0": IntDistribution(4, 32),
        "seed": range(SEEDS),
        "search": {"name": "tpe", "trials": trials, "pruner": pruner, "seed": seed, "confirm": 0},
    }
    found = nnexp.search(**asked)
    return found.trials.assign(spent=found.trials["epochs"].cumsum())


def on_fresh_seeds(done: pd.DataFrame, table: Path) -> float:
    """Train the setting of the best trial with other seeds; return the median of the validation loss."""
    best = done.loc[done["value"].astype(float).idxmin()]
    setting = {key: float(best[key]) for key in ("learning_rate", "hidden.0")}
    setting["hidden.0"] = int(setting["hidden.0"])
    return float(nnexp.sweep(**task(table), **setting, seed=FRESH).runs["val_loss"].median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=20)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="directory of the table")
    asked = parser.parse_args()
    logging.getLogger("nnexp").setLevel(logging.WARNING)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{directory}/mlflow.db"
        open_store(os.environ["MLFLOW_TRACKING_URI"])
        X, y = load_breast_cancer(return_X_y=True)
        table = Path(directory, "table.csv")
        frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
        frame.assign(**{"class": y}).replace({"class": {0: "c0", 1: "c1"}}).to_csv(table, index=False)
        for seed in range(asked.searches):
            found, seconds = {}, {}
            for pruner in PRUNERS:
                began = time.perf_counter()
                found[pruner] = trials_of(pruner, seed, asked.trials, table)
                seconds[pruner] = time.perf_counter() - began
            done = {pruner: t[t["state"] == "complete"] for pruner, t in found.items()}
            best, total = done["none"]["value"].min(), int(found["none"]["epochs"].sum())
            reached = {
                pruner: t.loc[t["value"] <= WITHIN * best, "spent"].min() / total
                for pruner, t in done.items()
            }
            spent = int(found["hyperband"]["epochs"].sum()) / total
            fresh = {pruner: on_fresh_seeds(t, table) for pruner, t in done.items()}
            rows.append(
                (
                    spent, done["hyperband"]["value"].min() / best, fresh["hyperband"] / fresh["none"],
                    reached["hyperband"], reached["none"], seconds["hyperband"] / seconds["none"],
                )
            )  # fmt: skip
            print(f"seed {seed}: best {best:.5f};", *(f"{number:.3f}" for number in rows[-1]), flush=True)
    columns = [
        sorted(float("inf") if pd.isna(v) else v for v in column) for column in zip(*rows, strict=True)
    ]
    names = [
        "epochs of all trials, of those without a pruner",
        "best value, of the best without a pruner",
        f"the same on {len(FRESH)} fresh seeds",
        f"epochs until within {WITHIN - 1:.0%} of that, of all without a pruner",
        "the same without a pruner",
        "seconds, of those without a pruner",
    ]
    lines = [f"| hyperband, {len(rows)} searches of {asked.trials} trials | median | least | most |"]
    lines.append("|---|---|---|---|")
    for name, values in zip(names, columns, strict=True):
        lines.append(f"| {name} | {statistics.median(values):.3f} | {values[0]:.3f} | {values[-1]:.3f} |")
    print(*lines, sep="\n")
    (asked.out / "pruning.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
