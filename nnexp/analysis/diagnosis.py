"""Say what is known of a network that did not solve its task: wrong rows, idle neurons, a plateau."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nnexp.analysis.summary import finished, params_of
from nnexp.analysis.summary_table import significant
from nnexp.dataset.load import Dataset
from nnexp.network.weights import Array, Model
from nnexp.training.shard import CONVERGED_R2

# The bounds of activations, and how near to one of them an activation is saturated.
BOUNDS, NEAR = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}, 1e-3
# The share by which the loss falls at least in an improvement that ends a plateau.
IMPROVEMENT = 0.01
# How many rows or neurons a text names.
MAX_NAMED = 8


@dataclass(frozen=True)
class Diagnosis:
    """What is known of a trained network.

    Attributes
    ----------
    wrong : pandas.DataFrame
        The rows that it gets wrong: `name`, `part` (train, validation), `target`, `answer`. In a regression a
        row is wrong if its squared error is larger than the mean that counts as converged.
    rows : dict of str to int
        The number of rows of each part.
    activation : str
        The hidden neurons' activation.
    neurons : int
        The number of hidden neurons.
    dead : tuple of str
        Neurons with `relu` whose activation is 0 for every training row.
    saturated : tuple of str
        Neurons with `sigmoid` or `tanh` whose activation is within 0.001 of a bound for every training row.
    twins : tuple of tuple of str
        Neurons of a layer whose weights and bias are equal to the bit, so that they compute the same.
    loss, grad_norm : float
        The last loss and norm of the gradient; NaN if not recorded.
    epochs, plateau : int
        The number of completed epochs, and for how many of them the loss has not fallen by 1% any more.
    """

    wrong: pd.DataFrame
    rows: Mapping[str, int]
    activation: str
    neurons: int
    dead: tuple[str, ...]
    saturated: tuple[str, ...]
    twins: tuple[tuple[str, ...], ...]
    loss: float
    grad_norm: float
    epochs: int
    plateau: int

    def texts(self) -> dict[str, str]:
        """Return each finding in words, by its name; those that the activation rules out are left out."""
        words = {"train": "wrong training rows", "validation": "wrong validation rows"}
        told = {words[part]: self._wrong(part, n) for part, n in self.rows.items() if n}
        if self.activation == "relu":
            told["dead neurons"] = self._neurons(self.dead)
        elif self.activation in BOUNDS:
            told["saturated neurons"] = self._neurons(self.saturated)
        twins = "; ".join(" = ".join(_some(group)) for group in self.twins[:MAX_NAMED])
        told["twin neurons"] = twins or "none"
        if not self.neurons:
            told = {name: text for name, text in told.items() if not name.endswith("neurons")}
        told["gradient norm"] = significant(self.grad_norm, 3) or "not recorded"
        told["loss"] = significant(self.loss, 3)
        told["plateau"] = f"the last {self.plateau:,} of {self.epochs:,} epochs" if self.plateau else "none"
        return told

    def _wrong(self, part: str, n: int) -> str:
        names = self.wrong.loc[self.wrong["part"] == part, "name"].tolist()
        return f"{len(names)} of {n}" + (f": {', '.join(_some(names))}" if names else "")

    def _neurons(self, names: Sequence[str]) -> str:
        return f"{len(names)} of {self.neurons}: {', '.join(_some(names))}" if names else "none"


def _some(names: Sequence[str]) -> list[str]:
    """Return at most MAX_NAMED of the names."""
    return [*names[:MAX_NAMED], *["…"] * (len(names) > MAX_NAMED)]


def diagnose(
    model: Model,
    dataset: Dataset,
    part: NDArray[np.object_],
    epochs: ArrayLike,
    curves: Mapping[str, ArrayLike],
) -> Diagnosis:
    """Collect what is known of a trained network.

    Parameters
    ----------
    model : Model
        The trained network.
    dataset : Dataset
        The rows to judge it by, without test rows: n of them.
    part : array of shape (n,)
        What each row is for: `train` or `validation`.
    epochs : array of shape (points,)
        The completed epochs at which the curves were recorded.
    curves : mapping of str to array of shape (points,)
        The curves by metric: `loss` and, if recorded, `grad_norm`.
    """
    layers = list(zip(model.neuron_names()[1:-1], model.hidden(dataset.X[part == "train"]), strict=True))
    low, high = BOUNDS.get(model.network.activation, (np.nan, np.nan))

    def where(is_so: Callable[[Array], Any]) -> tuple[str, ...]:
        return tuple(name for names, a in layers for name, yes in zip(names, is_so(a), strict=True) if yes)

    at, losses = np.asarray(epochs), np.asarray(curves["loss"], dtype=float)
    norms = np.asarray(curves.get("grad_norm", [np.nan]), dtype=float)
    return Diagnosis(
        wrong=_wrong(model, dataset, part),
        rows={name: int((part == name).sum()) for name in ("train", "validation")},
        activation=model.network.activation,
        neurons=sum(len(names) for names, _ in layers),
        dead=where(lambda a: np.all(a == 0, axis=0)) if model.network.activation == "relu" else (),
        saturated=where(lambda a: np.all((a <= low + NEAR) | (a >= high - NEAR), axis=0)),
        twins=_twins(model),
        loss=float(losses[-1]),
        grad_norm=float(norms[-1]),
        epochs=int(at[-1]),
        plateau=int(at[-1] - at[_last_improvement(losses)]),
    )


def _wrong(model: Model, dataset: Dataset, part: NDArray[np.object_]) -> pd.DataFrame:
    """Return the rows that the network gets wrong, in the table's order; the worst first in a regression."""
    y_pred = model.outputs(dataset.X)
    is_finite = np.isfinite(y_pred).all(axis=1)
    target: Sequence[object]
    answer: Sequence[object]
    if dataset.classes:
        found = model.labels(np.nan_to_num(y_pred))
        at = np.flatnonzero((found != dataset.y) | ~is_finite)
        target, answer = ([dataset.classes[int(i)] for i in of[at]] for of in (dataset.y, found))
    else:
        errors = np.where(is_finite, np.abs(y_pred[:, 0] - dataset.y), np.inf)
        far = np.sqrt((1 - CONVERGED_R2) * dataset.y[part == "train"].var())
        at = np.argsort(-errors, kind="stable")
        at = at[errors[at] > far]
        target, answer = dataset.y[at].tolist(), y_pred[at, 0].tolist()
    names = [dataset.names[i] for i in at]
    return pd.DataFrame({"name": names, "part": part[at], "target": target, "answer": answer})


def _twins(model: Model) -> tuple[tuple[str, ...], ...]:
    """Return the hidden neurons with the same weights and bias; weights that are no numbers are not alike."""
    groups: list[tuple[str, ...]] = []
    for names, (W, b) in zip(model.neuron_names()[1:-1], model.network.layers[:-1], strict=True):
        alike: dict[bytes, list[str]] = {}
        for name, weights in zip(names, np.column_stack([W, b]), strict=True):
            if np.isfinite(weights).all():
                alike.setdefault(weights.tobytes(), []).append(name)
        groups += [tuple(group) for group in alike.values() if len(group) > 1]
    return tuple(groups)


def _last_improvement(losses: Array) -> int:
    """Return the first position from which on the loss never fell by IMPROVEMENT of itself any more."""
    finite = np.where(np.isfinite(losses), losses, np.inf)
    return int(np.argmax(finite * (1 - IMPROVEMENT) <= finite.min()))


def has_solved(runs: pd.DataFrame) -> pd.Series:
    """Return which runs solved their task: they converged, and got all validation rows right, if any."""
    has = runs["outcome"] == "converged"
    return has & ~(runs["val_accuracy"] < 1) if "val_accuracy" in runs else has


@dataclass(frozen=True)
class Siblings:
    """The runs of one setting: how many finished, how many of them solved their task.

    `example`: the id of the solved one with the lowest seed, beside a run that did not solve; None for a run
    that did, or if none did.
    """

    n: int
    solved: int
    example: Any


def siblings(runs: pd.DataFrame, run_id: Any, over: str = "seed") -> Siblings:
    """Find the finished runs with the params of this run, apart from `over`."""
    this = runs[runs["run_id"] == run_id]
    if this.empty:
        return Siblings(0, 0, None)
    is_alike = np.ones(len(runs), dtype=bool)
    for name in params_of(runs):
        if name != over:
            value = this[name].iloc[0]
            is_alike &= (runs[name].isna() if pd.isna(value) else runs[name] == value).to_numpy(dtype=bool)
    done = finished(runs[is_alike])
    if not (done["run_id"] == run_id).any():
        return Siblings(0, 0, None)
    solved = done[has_solved(done)].sort_values(over, kind="stable")["run_id"].tolist()
    return Siblings(len(done), len(solved), solved[0] if solved and run_id not in solved else None)
