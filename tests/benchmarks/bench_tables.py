"""The engine's speed on real tables beside scikit-learn's MLPClassifier and PyTorch, with the losses reached.

Every contender trains the same network, relu and Adam with mini-batches of 32 rows that are shuffled
anew each epoch, in float64 on all cores. Initial weights are drawn by Glorot's formula, each
contender's own, and so are the orders: the losses agree, but not in every digit. The contenders take turns,
round by round; times are medians over the rounds, ratios the medians of each round's own, and the warm-up
is left out. Prints a Markdown table and writes it to tables.md. PyTorch is left out, with a message,
where it is not installed.
"""

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

from nnexp.network.engine import Batch, Model

try:
    import torch
except ImportError:
    HAS_TORCH = False
else:
    HAS_TORCH = True

Array = NDArray[np.float64]
RATE, BATCH, EPOCHS = 1e-3, 32, 20
OPTIONS = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


@dataclass(frozen=True)
class Task:
    """A classification: X standardised, y the class of each row."""

    name: str
    X: Array
    y: NDArray[np.int64]
    hidden: tuple[int, ...]
    runs: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The layers' widths; two classes have one output."""
        classes = int(self.y.max()) + 1
        return self.X.shape[1], *self.hidden, 1 if classes == 2 else classes


# Trains so many runs for so many epochs; returns their mean loss at the end.
Contender = Callable[[Task, int, int], Callable[[], float]]


def initial(sizes: tuple[int, ...], seed: int) -> Array:
    rng = np.random.RandomState(seed)
    layers = [rng.uniform(-1, 1, i * o) * np.sqrt(6 / (i + o)) for i, o in pairwise(sizes)]
    return np.concatenate([*layers, np.zeros(sum(sizes[1:]))])


def engine(task: Task, runs: int, epochs: int) -> Callable[[], float]:
    """Train all runs as one batch of the engine. The loss is measured before the clock stops."""
    binary = task.sizes[-1] == 1
    output, loss = ("sigmoid", "bce") if binary else ("softmax", "cross_entropy")
    model = Model(task.sizes, "relu", output, loss, "adam", BATCH, True)
    y = task.y[:, np.newaxis].astype(float) if binary else np.eye(task.sizes[-1])[task.y]
    w, n = np.stack([initial(task.sizes, seed) for seed in range(runs)]), len(y)

    def train() -> float:
        rng = np.random.RandomState(0)
        batch = Batch(model, task.X, y, w, RATE, epochs, OPTIONS)
        for epoch in range(1, epochs + 1):
            order = np.argsort(rng.random_sample((runs, 1, n)), axis=2)
            curves = batch.advance(epoch, [epoch] if epoch == epochs else [], order)
        return float(curves.loss.mean())

    return train


def sklearn(task: Task, runs: int, epochs: int) -> Callable[[], float]:
    """Fit one classifier after another."""
    usual = {"batch_size": BATCH, "alpha": 0.0, "tol": 0.0, "n_iter_no_change": epochs + 1}

    def train() -> float:
        losses = []
        for seed in range(runs):
            net = MLPClassifier(task.hidden, max_iter=epochs, random_state=seed, **usual)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                net.fit(task.X, task.y)
            losses.append(log_loss(task.y, net.predict_proba(task.X)))
        return float(np.mean(losses))

    return train


def pytorch(task: Task, runs: int, epochs: int) -> Callable[[], float]:
    """Train one network after another in eager mode."""
    binary = task.sizes[-1] == 1
    loss_of = torch.nn.BCEWithLogitsLoss() if binary else torch.nn.CrossEntropyLoss()
    X, labels = torch.tensor(task.X), torch.tensor(task.y)
    y = labels.double()[:, None] if binary else labels

    def train() -> float:
        losses = []
        for seed in range(runs):
            torch.manual_seed(seed)
            layers: list[torch.nn.Module] = []
            for i, o in pairwise(task.sizes):
                layers += [torch.nn.Linear(i, o, dtype=torch.float64), torch.nn.ReLU()]
                torch.nn.init.xavier_uniform_(layers[-2].weight)
                torch.nn.init.zeros_(layers[-2].bias)
            net = torch.nn.Sequential(*layers[:-1])
            optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
            for _ in range(epochs):
                order = torch.randperm(len(X))
                for rows in order.split(BATCH):
                    optimizer.zero_grad()
                    loss_of(net(X[rows]), y[rows]).backward()
                    optimizer.step()
            with torch.no_grad():
                losses.append(float(loss_of(net(X), y)))
        return float(np.mean(losses))

    return train


def standardised(X: Array) -> Array:
    deviation = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(deviation > 0, deviation, 1)


def tasks() -> list[Task]:
    digits, labels = load_digits(return_X_y=True)
    cancer, malign = load_breast_cancer(return_X_y=True)
    rng = np.random.RandomState(0)
    noise, classes = rng.normal(size=(2000, 784)), rng.randint(10, size=2000)
    digits, cancer = standardised(digits), standardised(cancer)
    return [
        Task("breast cancer, 569 rows", cancer, malign, (16,), (1, 16, 64, 1000)),
        Task("digits, 1,797 rows", digits, labels, (64,), (1, 16, 64, 1000)),
        Task("digits, 1,797 rows", digits, labels, (128, 64), (1, 16, 64, 1000)),
        Task("noise, 2,000 rows", noise, classes, (128,), (1, 16, 64)),
    ]


def measure(task: Task, rounds: int, epochs: int, most: int) -> list[list[str]]:
    """Return the table's rows: contender, number of runs, ms a run, its ratio to scikit-learn's, the loss."""
    entries: list[tuple[str, int, Contender]] = [("scikit-learn", 1, sklearn)]
    if HAS_TORCH:
        entries.append(("PyTorch", 1, pytorch))
    entries += [("nnexp", runs, engine) for runs in task.runs if runs <= most]
    trainers = [prepare(task, runs, epochs) for _, runs, prepare in entries]
    for (_, runs, prepare), train in zip(entries, trainers, strict=True):  # the warm-up
        train() if runs == 1 else prepare(task, runs, 1)()
    times: list[list[float]] = [[] for _ in entries]
    losses = [0.0] * len(entries)
    for turn in range(rounds):
        for i, train in enumerate(trainers):
            if turn > 0 and entries[i][1] >= 1000:  # which takes a minute, and is a median of its own
                continue
            start = time.perf_counter()
            losses[i] = train()
            times[i].append(1e3 * (time.perf_counter() - start) / entries[i][1])
    name = f"{task.name}, {'-'.join(map(str, task.sizes))}"
    rows = []
    for (contender, runs, _), own, loss in zip(entries, times, losses, strict=True):
        ratio = statistics.median(t / base for t, base in zip(own, times[0], strict=False))
        cells = [f"{statistics.median(own):,.1f}", f"{ratio:.3f}", f"{loss:.3g}"]
        rows.append([name, contender, f"{runs:,}", *cells])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two epochs, few runs: to see that it works")
    parser.add_argument("--most", type=int, default=1000, help="the most runs at a time")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="directory of the table")
    arguments = parser.parse_args()
    rounds, epochs, most = (2, 2, 16) if arguments.quick else (3, EPOCHS, arguments.most)
    if not HAS_TORCH:
        print("PyTorch is not installed: it is left out.")
    lines = [
        f"| {epochs} epochs, {os.cpu_count()} cores | | runs | ms a run | of scikit-learn's | loss |",
        "|---|---|---|---|---|---|",
    ]
    for task in tasks():
        rows = measure(task, rounds, epochs, most)
        lines += [f"| {' | '.join(row)} |" for row in rows]
        print(*lines[-len(rows) :], sep="\n", flush=True)
    (arguments.out / "tables.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
