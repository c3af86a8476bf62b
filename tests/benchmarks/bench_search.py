"""A search beside Optuna with scikit-learn's MLPClassifier, which makes the same trials one by one.

Both search the learning rate and the width of one hidden layer; a trial is 5 seeds, each with a split and
initial weights of its own; relu, Adam, mini-batches of 32 rows, shuffled anew each epoch. Ours is the whole
command, from shell to prompt, with every run recorded in MLflow; the peer records nothing. Its trials take
the same time each, so that only some are made, and the time of all is their mean times the number. Prints a
Markdown table and writes it to search.md.
"""

import argparse
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


def peer(task: str, trials: int, epochs: int) -> list[float]:
    """Let Optuna search with MLPClassifier; return the seconds of each trial."""
    X, y = TASKS[task][0](return_X_y=True)
    seconds: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        start = time.perf_counter()
        rate = trial.suggest_float("rate", LOW, HIGH, log=True)
        width = trial.suggest_int("width", NARROW, WIDE)
        losses = []
        for seed in range(SEEDS):
            X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.3, random_state=seed)
            scale = StandardScaler().fit(X_train)
            net = MLPClassifier(
                (width,), learning_rate_init=rate, batch_size=32, max_iter=epochs, tol=0.0, alpha=0.0,
                n_iter_no_change=epochs + 1, random_state=seed,
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                net.fit(scale.transform(X_train), y_train)
            losses.append(log_loss(y_val, net.predict_proba(scale.transform(X_val)), labels=np.unique(y)))
        seconds.append(time.perf_counter() - start)
        return statistics.median(losses)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0)).optimize(objective, trials)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--peers", type=int, default=12, help="trials of the peer that are timed")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="directory of the table")
    arguments = parser.parse_args()
    trials, epochs = arguments.trials, arguments.epochs
    lines = [
        f"| {trials} trials of {SEEDS} seeds, {epochs} epochs | | s | of the peer's | epochs trained | best |"
    ]
    lines.append("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        open_store(f"sqlite:///{place}/mlflow.db")
        for task in arguments.tasks:
            X, y = TASKS[task][0](return_X_y=True)
            frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]).assign(**{"class": y})
            frame["class"] = frame["class"].map("c{}".format)
            frame.to_csv(place / f"{task.replace(' ', '_')}.csv", index=False)
            # Half of the peer's trials before ours and half after, as a machine's speed changes.
            half = arguments.peers // 2
            times, rows = peer(task, half, epochs), []
            for name, extra in OURS.items():
                seconds, found = ours(task, extra, trials, epochs, place)
                trained = sum(trial.epochs for trial in found.trials)
                rows.append(
                    (name, seconds, trained, min(t.value for t in found.trials if t.state == "complete"))
                )
            times += peer(task, arguments.peers - half, epochs)
            whole = statistics.mean(times) * trials
            lines.append(f"| {task} | Optuna + MLPClassifier | {whole:,.0f} | 1 | {trials * epochs:,} | |")
            for name, seconds, trained, best in rows:
                lines.append(
                    f"| {task} | {name} | {seconds:,.1f} | {seconds / whole:.3f} | {trained:,} | {best:.4f} |"
                )
            print(*lines[-1 - len(rows) :], sep="\n", flush=True)
    (arguments.out / "search.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
