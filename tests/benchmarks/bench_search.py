"""A search beside Optuna with scikit-learn's MLPClassifier, which makes the same trials one by one.

Both search the learning rate and the width of one hidden layer; a trial is 5 seeds, each with a split and
initial weights of its own; relu, Adam, mini-batches of 32 rows, shuffled anew each epoch. Ours is the whole
command, from shell to prompt, with every run recorded in MLflow; the peer records nothing. Its trials take
the same time each, so that only some are made, and the time of all is their mean times the number. The table
has the best value after some of the trials, too. Prints it as Markdown and writes it to search.md.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from nnexp.tracking.find import get_sweep
from nnexp.tracking.named import whole_id
from nnexp.tracking.searches import Searched, find_search
from nnexp.tracking.store import open_store

SEEDS, LOW, HIGH, NARROW, WIDE = 5, 1e-4, 0.1, 4, 32
NNEXP = Path(sys.executable).with_name("nnexp")
OURS = {
    "nnexp, random": ["search=random"],
    "nnexp, tpe": ["search=tpe"],
    "nnexp, tpe with hyperband": ["search=tpe", "search.pruner=hyperband"],
}
TASKS = {
    "breast cancer": (load_breast_cancer, "bce", "sigmoid"),
    "digits": (load_digits, "cross_entropy", "softmax"),
}


def ours(task: str, extra: list[str], trials: int, epochs: int, place: Path) -> tuple[float, Searched]:
    """Run the command; return its seconds and the record."""
    _, loss, output = TASKS[task]
    name = "_".join([task, *extra]).replace(" ", "_").replace("=", "_")  # each search records its own runs
    uri = f"sqlite:///{place}/mlflow.db"
    typed = [
        "dataset=csv", f"dataset.path={place / task.replace(' ', '_')}.csv", "dataset.target=class",
        "dataset.center=standardize", "activation=relu", f"output_activation={output}", f"loss={loss}",
        "init=xavier", "optimizer=adam", "batch_size=32", "shuffle=true", "validation_fraction=0.3",
        f"learning_rate=tag(log,interval({LOW},{HIGH}))", f"hidden.0=range({NARROW},{WIDE + 1})",
        f"seed=range({SEEDS})", f"epochs={epochs}", f"search.trials={trials}", "search.batch=50",
        "search.confirm=0", "figures=false", f"experiment_name={name}", *extra,
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    subprocess.run([NNEXP, "search", *typed], check=True, capture_output=True, env=environment)
    seconds = time.perf_counter() - start
    store = open_store(uri, create=False)
    parent = get_sweep(store, whole_id(store, "last", "sweep"))
    found = None if parent is None else find_search(store, parent)
    assert found is not None
    return seconds, found


class Peer:
    """Optuna's search with MLPClassifier; `seconds` and `values` of its trials so far."""

    def __init__(self, task: str, epochs: int) -> None:
        self._data, self._epochs = TASKS[task][0](return_X_y=True), epochs
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        self.seconds: list[float] = []

    @property
    def values(self) -> list[float]:
        return [trial.value for trial in self._study.trials if trial.value is not None]

    def go_on(self, trials: int) -> None:
        """Make so many more trials."""
        self._study.optimize(self._objective, trials)

    def _objective(self, trial: optuna.Trial) -> float:
        start, (X, y) = time.perf_counter(), self._data
        rate = trial.suggest_float("rate", LOW, HIGH, log=True)
        width = trial.suggest_int("width", NARROW, WIDE)
        losses = []
        for seed in range(SEEDS):
            X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.3, random_state=seed)
            scale = StandardScaler().fit(X_train)
            net = MLPClassifier(
                (width,), learning_rate_init=rate, batch_size=32, max_iter=self._epochs, tol=0.0, alpha=0.0,
                n_iter_no_change=self._epochs + 1, random_state=seed,
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                net.fit(scale.transform(X_train), y_train)
            losses.append(log_loss(y_val, net.predict_proba(scale.transform(X_val)), labels=np.unique(y)))
        self.seconds.append(time.perf_counter() - start)
        return statistics.median(losses)


def bests(values: list[float], counts: list[int]) -> list[str]:
    """Return the least of the first so many values, for each count; empty where there are not as many."""
    return [f"{min(values[:n]):.4f}" if n <= len(values) else "" for n in counts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--peers", type=int, default=12, help="trials that the peer makes")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="directory of the table")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    counts = sorted({asked.peers, 50, 100, asked.trials})
    lines = [
        f"| {asked.trials} trials of {SEEDS} seeds, {asked.epochs} epochs | | s | of the peer's "
        f"| epochs trained | {' | '.join(f'best of {n}' for n in counts)} |"
    ]
    lines.append("|---" * (5 + len(counts)) + "|")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        open_store(f"sqlite:///{place}/mlflow.db")
        for task in asked.tasks:
            X, y = TASKS[task][0](return_X_y=True)
            frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]).assign(**{"class": y})
            frame["class"] = frame["class"].map("c{}".format)
            frame.to_csv(place / f"{task.replace(' ', '_')}.csv", index=False)
            # Half of the peer's trials before ours and half after, as a machine's speed changes.
            peer, found = Peer(task, asked.epochs), {}
            peer.go_on(asked.peers // 2)
            for name, extra in OURS.items():
                found[name] = ours(task, extra, asked.trials, asked.epochs, place)
            peer.go_on(asked.peers - asked.peers // 2)
            each = statistics.mean(peer.seconds)
            whole = each * asked.trials
            row = ["Optuna + MLPClassifier", f"{whole:,.0f}", "1", f"{asked.trials * asked.epochs:,}"]
            rows = [[*row, *bests(peer.values, counts)]]
            for name, (seconds, searched) in found.items():
                trained = sum(trial.epochs for trial in searched.trials)
                values = [t.value if t.state == "complete" else math.inf for t in searched.trials]
                row = [name, f"{seconds:,.1f}", f"{seconds / whole:.3f}", f"{trained:,}"]
                rows.append([*row, *bests(values, counts)])
            lines += [f"| {task} | {' | '.join(row)} |" for row in rows]
            print(*lines[-len(rows) :], sep="\n", flush=True)
    (asked.out / "search.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
