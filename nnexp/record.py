"""What a trained network becomes in MLflow: its name, points, files and tags. Pure functions, no store."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import yaml

from nnexp.config import RunConfig
from nnexp.dataset import Dataset
from nnexp.network import equation
from nnexp.tracking.store import masked
from nnexp.tracking.weights import Model, weights_sha256
from nnexp.train import Trained


def run_name(config: RunConfig, dataset: Dataset) -> str:
    """What the run is, at a glance: `xor lr=0.5 init=normal seed=3`."""
    return f"{dataset.name} lr={config.learning_rate:g} init={config.init.name} seed={config.seed}"


def varied_leaves(configs: Sequence[RunConfig]) -> dict[str, list[Any]]:
    """The keys whose values differ between the configs, each with its values in order of appearance."""
    leaves = [config.leaves() for config in configs]
    keys = dict.fromkeys(key for leaf in leaves for key in leaf)
    values = {key: list(dict.fromkeys(leaf.get(key) for leaf in leaves)) for key in keys}
    return {key: seen for key, seen in values.items() if len(seen) > 1}


def points(trained: Trained, since: int) -> Iterator[tuple[str, int, float]]:
    """The curves' points from the `since`-th on, as (metric, completed epochs, value)."""
    for name, values in trained.curves.items():
        since_then = zip(trained.epochs[since:].tolist(), values[since:].tolist(), strict=True)
        yield from ((name, epoch, value) for epoch, value in since_then)


def prediction_points(trained: Trained, dataset: Dataset) -> Iterator[tuple[str, int, float]]:
    """`prediction/<name>` of the new rows: the output, or the probability of the last of two classes;
    of more classes one metric each, `prediction/<name>/<class>`."""
    y_pred = model_of(trained, dataset).outputs(dataset.X_new)
    for name, row in zip(dataset.new_names, y_pred, strict=True):
        key = "prediction/" + metric_name(name)
        if len(row) <= 2:
            yield key, int(trained.epochs[-1]), float(row[-1])
        else:
            for label, value in zip(dataset.classes, row, strict=True):
                yield f"{key}/{metric_name(label)}", int(trained.epochs[-1]), float(value)


def metric_name(text: str) -> str:
    """The text with what MLflow does not allow in a metric's name replaced by _."""
    return re.sub(r"[^\w .:-]", "_", text)


def model_of(trained: Trained, dataset: Dataset) -> Model:
    data = trained.prepared
    return Model(trained.final, trained.initial, data.shift, data.scale, dataset.features, dataset.classes)


def run_files(trained: Trained, weights: bytes) -> dict[str, bytes]:
    """The artifacts of every run."""
    values = trained.config.nested()
    values["tracking_uri"] = values["tracking_uri"] and masked(values["tracking_uri"])
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return {"config.yaml": text.encode(), "weights.npz": weights}


def single_files(trained: Trained, model: Model, dataset: Dataset) -> dict[str, bytes]:
    """What a run of its own adds: the equation and, unless told not to, figures."""
    files = {"equation.txt": (equation(model.network, model.input_names()) + "\n").encode()}
    if trained.config.figures:
        from nnexp import plots  # matplotlib takes long to import, and a sweep's runs have no figures

        title = run_name(trained.config, dataset)
        figures = {"curves": plots.curves(trained.epochs, trained.curves, title)}
        can_be_drawn = len(dataset.features) == 2 and len(dataset.classes) <= 2
        if can_be_drawn and trained.outcome != "diverged":
            figures["decision_surface"] = plots.decision_surface(model, dataset, title)
        for name, figure in figures.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, dpi=120)
            files[f"figures/{name}.png"] = buffer.getvalue()
    return files


def predictions(model: Model, trained: Trained, dataset: Dataset) -> pd.DataFrame:
    """Every row and new row: name, part (train, validation, new), raw features, target, outputs, label.

    A column that the data set already has by that name gets an underscore.
    """
    part = np.array(["train"] * len(dataset.X) + ["new"] * len(dataset.X_new), dtype=object)
    part[trained.prepared.val_rows] = "validation"
    X = np.vstack([dataset.X, dataset.X_new])
    target = [dataset.classes[int(i)] for i in dataset.y] if dataset.classes else list(dataset.y)
    table = pd.DataFrame(X, columns=list(dataset.features))
    table[dataset.target] = pd.Series([*target, *[None] * len(dataset.X_new)], dtype=object)
    ours = pd.DataFrame({"name": [*dataset.names, *dataset.new_names], "part": part})
    answers = apart(model.predict(X), table.columns)
    return pd.concat([apart(ours, [*table.columns, *answers.columns]), table, answers], axis=1)


def new_rows(model: Model, dataset: Dataset) -> pd.DataFrame:
    """The new rows by name, with their raw features, outputs and label."""
    features = pd.DataFrame(dataset.X_new, columns=list(dataset.features))
    names = pd.DataFrame({"name": list(dataset.new_names)})
    answers = apart(model.predict(dataset.X_new), features.columns)
    return pd.concat([apart(names, [*features.columns, *answers.columns]), features, answers], axis=1)


def apart(frame: pd.DataFrame, taken: Iterable[str], suffix: str = "_") -> pd.DataFrame:
    """The frame, with the suffix on the columns whose names are taken."""
    names = set(taken)
    return frame.rename(columns=lambda name: f"{name}{suffix}" if name in names else name)


def result_tags(trained: Trained) -> dict[str, str]:
    return {
        "nnexp.outcome": trained.outcome,
        "nnexp.weights_sha256": weights_sha256(trained.final.layers),
    }
