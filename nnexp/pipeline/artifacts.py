"""What a trained network becomes in MLflow: its name, points, files and tags. Pure functions, no store."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import count, repeat
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from nnexp.analysis.tables import Columns, apart, as_text
from nnexp.config.errors import RequestError
from nnexp.config.recorded import SCHEMA
from nnexp.config.run import RunConfig, nested
from nnexp.config.text import masked_value, shortened
from nnexp.dataset.load import Dataset
from nnexp.network import engine
from nnexp.network.forward import outputs
from nnexp.network.reference import Layers, equation, sizes
from nnexp.network.weights import Model, weights_sha256
from nnexp.tracking.evidence import data_file
from nnexp.tracking.runs import DataInput, cut
from nnexp.tracking.tables import MAX_DATASET, MAX_METRIC, MAX_NAME
from nnexp.training.checks import check
from nnexp.training.shard import Trained

Array = NDArray[np.float64]

# A data set of more bytes is not kept with what is learned from it.
MAX_KEPT_DATA = 32 * 2**20
# Networks' new rows that are predicted at once, about.
ROWS_AT_ONCE = 20_000
# What every run's name says.
_NAMED = frozenset({"dataset", "learning_rate", "init", "seed"})


def run_name(config: RunConfig, dataset: Dataset, varied: Iterable[str] = ()) -> str:
    """What the run is, at a glance: `xor lr=0.5 init=normal seed=3`, and besides that the keys that vary in
    its sweep: `xor lr=0.5 init=normal seed=3 hidden=[4]`."""
    also = [key for key in varied if key not in _NAMED and not key.startswith("dataset.")]
    texts = config.params() if also else {}
    parts = [f"{key}={texts[key]}" for key in also if key in texts]
    named = f"{dataset.name} lr={config.learning_rate:g} init={config.init.name} seed={config.seed}"
    return " ".join([named, *parts])[:MAX_NAME]


def numbered(name: str, time: int) -> str:
    """The name of the run of a point that is recorded for the second time, or a later one: `… #2`."""
    suffix = f" #{time}" if time > 1 else ""
    return name[: MAX_NAME - len(suffix)] + suffix


def varied_leaves(configs: Sequence[RunConfig]) -> dict[str, list[Any]]:
    """The keys whose values differ between the configs, each with its values in order of appearance."""
    leaves = [config.leaves() for config in configs]
    keys = dict.fromkeys(key for leaf in leaves for key in leaf)
    values = {key: list(dict.fromkeys(leaf.get(key) for leaf in leaves)) for key in keys}
    return {key: seen for key, seen in values.items() if len(seen) > 1}


def ranges(configs: Sequence[RunConfig]) -> dict[str, list[str]]:
    """The keys that a sweep varies, each with its values as they are typed; not those that only come with
    another's value, as a data set's path does."""
    leaves = [config.leaves() for config in configs]
    found = {}
    for key in varied_leaves(configs):
        group = key.partition(".")[0]
        pairs = {(leaf.get(group), leaf.get(key)) for leaf in leaves}
        if group == key or len(pairs) > len({of_group for of_group, _ in pairs}):
            # One config a value: all of a large sweep as text would take a while.
            of_value = {leaf.get(key): config for leaf, config in zip(leaves, configs, strict=True)}
            found[key] = [config.params().get(key, "none") for config in of_value.values()]
    return found


def run_key(config: RunConfig, dataset: Dataset) -> str:
    """The identity of the run: one key, the same bits."""
    return config.run_key(dataset.sha256, engine.VERSION)


def sweep_key(run_keys: Iterable[str]) -> str:
    """The identity of a sweep: which runs it is of, in whatever order."""
    return hashlib.sha256("\n".join(sorted(run_keys)).encode()).hexdigest()


def run_tags(key: str, dataset: Dataset, attempt: int) -> dict[str, str]:
    """What identifies a run, whether it finished or not."""
    tags = {"nnexp.run_key": key, "nnexp.data_sha256": dataset.sha256, "nnexp.engine": engine.VERSION}
    return tags | ({"nnexp.attempt": str(attempt)} if attempt > 1 else {})


@lru_cache(maxsize=256)
def data_input(dataset: Dataset) -> DataInput:
    """The data set as MLflow shows it: its columns, its size, a digest of its own."""
    numbers = [{"type": "double", "name": name, "required": True} for name in dataset.features]
    target = {"type": "string" if dataset.classes else "double", "name": dataset.target, "required": True}
    rows = len(dataset.X)
    return DataInput(
        name=cut(dataset.name, MAX_DATASET),
        digest=dataset.sha256[:12],
        source_type="code",
        source=json.dumps({"tags": {"nnexp.data_sha256": dataset.sha256}}),
        schema=json.dumps({"mlflow_colspec": [*numbers, target]}),
        profile=json.dumps({"num_rows": rows, "num_elements": rows * (len(numbers) + 1)}),
    )


def data_files(used: Iterable[Dataset]) -> dict[str, bytes]:
    """The data sets as a record keeps them, so that a rerun needs no other file; but for very large ones."""
    files = {}
    for dataset in used:
        source = dataset.source
        if source is None or len(source.table) + len(source.new_rows or b"") > MAX_KEPT_DATA:
            continue
        files[data_file(dataset.sha256, "table")] = source.table
        if source.new_rows is not None:
            files[data_file(dataset.sha256, "new_rows")] = source.new_rows
    return files


def points(trained: Trained, since: int) -> Iterator[tuple[str, int, float]]:
    """The curves' points from the `since`-th on, as (metric, completed epochs, value).

    One that is not finite is left out: MLflow would store a NaN as 0, an infinity as the largest double.
    """
    epochs = trained.epochs[since:].tolist()
    for name, values in trained.curves.items():
        since_then = values[since:]
        if np.isfinite(since_then).all():
            yield from zip(repeat(name), epochs, since_then.tolist())
        else:
            kept = zip(epochs, since_then.tolist(), strict=True)
            yield from ((name, epoch, value) for epoch, value in kept if math.isfinite(value))


def new_outputs(ended: Sequence[tuple[Dataset, Trained | None]]) -> list[Array | None]:
    """y_pred of each run's new rows, of shape (new rows, outputs), None where there is nothing to predict.

    Networks of one shape are computed at once, which takes a tenth of the time.
    """
    alike: dict[Hashable, list[int]] = {}
    for i, (dataset, trained) in enumerate(ended):
        if trained is not None and dataset.new_names:
            net = trained.final
            shape = (dataset, *sizes(net.layers), net.activation, net.output_activation)
            group = alike.setdefault(shape, [])
            group.append(i)
            if len(group) * len(dataset.X_new) > ROWS_AT_ONCE:
                alike[(*shape, i)] = alike.pop(shape)
    result: list[Array | None] = [None] * len(ended)
    for group in alike.values():
        runs = [trained for _, trained in map(ended.__getitem__, group) if trained is not None]
        layers = zip(*(run.final.layers for run in runs), strict=True)
        stacked = tuple((np.stack([W for W, _ in some]), np.stack([b for _, b in some])) for some in layers)
        X_new = ended[group[0]][0].X_new
        X = np.stack([(X_new - run.prepared.shift) / run.prepared.scale for run in runs])
        for i, y_pred in zip(group, outputs(replace(runs[0].final, layers=stacked), X), strict=True):
            result[i] = y_pred
    return result


def prediction_points(
    trained: Trained, dataset: Dataset, y_pred: Array | None = None
) -> Iterator[tuple[str, int, float]]:
    """`prediction/<name>` of the new rows: the output, or the probability of the last of two classes;
    of more classes one metric each, `prediction/<name>/<class>`. `y_pred` is theirs, if it is known."""
    if not dataset.new_names:
        return
    if y_pred is None:
        y_pred = model_of(trained, dataset).outputs(dataset.X_new)
    end = int(trained.epochs[-1])
    labels = metric_names(dataset.classes)
    for name, row in zip(metric_names(dataset.new_names), y_pred.tolist(), strict=True):
        key = f"prediction/{name}"
        if len(row) <= 2:
            named = [(key, row[-1])]
        else:
            named = [(f"{key}/{label}", value) for label, value in zip(labels, row, strict=True)]
        yield from ((metric, end, value) for metric, value in named if math.isfinite(value))


@lru_cache(maxsize=256)
def metric_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names as parts of metrics' names: what MLflow refuses there is replaced by _, and no two become one.

    Of several that would become one, that which needed no replacing keeps it, else the first; the others get
    a number, as in `O_2_ 2`.
    """
    allowed = [re.sub(r"[^\w .:-]", "_", "_" * len(name) if name in (".", "..") else name) for name in names]
    owner = dict(reversed(list(zip(allowed, names, strict=True))))
    owner |= {name: name for name in names if name in owner}
    taken, result = set(allowed), []
    for text, name in zip(allowed, names, strict=True):
        if owner[text] != name:
            text = next(free for i in count(2) if (free := f"{text} {i}") not in taken)
            taken.add(text)
        result.append(text)
    return tuple(result)


def check_names(dataset: Dataset) -> None:
    """Refuse names of new rows and classes that are too long for a metric of theirs. Raises RequestError."""
    labels = dataset.classes if len(dataset.classes) > 2 else ()
    label = max(map(len, labels), default=-1) + 1
    for name in dataset.new_names:
        length = len("prediction/") + len(name) + label
        if length > MAX_METRIC:
            of_class = " and the longest label" if label else ""
            raise RequestError(
                f"{dataset.name}: the new row {shortened(name, 40)!r}: its name{of_class} must have "
                f"{length - MAX_METRIC} characters less, as MLflow names a metric prediction/…"
            )


def model_of(trained: Trained, dataset: Dataset) -> Model:
    data = trained.prepared
    return Model(trained.final, trained.initial, data.shift, data.scale, dataset.features, dataset.classes)


def run_files(trained: Trained, weights: bytes) -> dict[str, bytes]:
    """The artifacts of every run."""
    config = trained.config
    text = "".join(_yaml(f.name, getattr(config, f.name)) for f in fields(config))
    return {"config.yaml": f"schema: {SCHEMA}\n{text}".encode(), "weights.npz": weights}


@lru_cache(maxsize=4096)
def _yaml(name: str, value: Any) -> str:
    """One key of config.yaml. The runs of a sweep share most of them, and PyYAML takes its time."""
    values = nested({name: value})
    if name == "tracking_uri":
        values = {name: value and masked_value(value)}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class Whole:
    """All of one run that its own files are made of, just trained or read back."""

    config: RunConfig
    dataset: Dataset
    model: Model
    kept: Mapping[int, Layers]  # weights by epoch
    epochs: ArrayLike
    curves: Mapping[str, ArrayLike]
    outcome: str


def whole(trained: Trained, model: Model, dataset: Dataset) -> Whole:
    """A run that was just trained."""
    curves = trained.curves
    return Whole(trained.config, dataset, model, trained.kept, trained.epochs, curves, trained.outcome)


def single_files(run: Whole) -> dict[str, bytes]:
    """What a run of its own adds, and the best of a sweep: the equation, the predictions and, unless told not
    to, figures."""
    table = as_text(predictions(run.model, run.config, run.dataset), "csv")
    files = {
        "equation.txt": (equation(run.model.network, run.model.input_names()) + "\n").encode(),
        "predictions.csv": f"{table}\n".encode(),
    }
    if run.config.figures:
        from nnexp.analysis import (
            plots,  # matplotlib takes long to import, and a sweep's runs have no figures
        )

        title = f"{run_name(run.config, run.dataset)}, {run.outcome}"
        figures = plots.of_run(run.model, run.dataset, run.epochs, run.curves, title, run.kept)
        files |= {f"figures/{name}.png": plots.png(figure) for name, figure in figures.items()}
        if "surface_over_training" in figures:
            animation = plots.surface_animation(run.model, run.dataset, run.kept)
            files["figures/surface_over_training.gif"] = animation
    return files


def predictions(model: Model, config: RunConfig, dataset: Dataset) -> Columns:
    """Every row and new row: name, part (train, validation, new), raw features, target, outputs, label.

    A column that the data set already has by that name gets an underscore.
    """
    part = np.array(["train"] * len(dataset.X) + ["new"] * len(dataset.X_new), dtype=object)
    part[check(dataset, config).val_rows] = "validation"
    X = np.vstack([dataset.X, dataset.X_new])
    target = [dataset.classes[int(i)] for i in dataset.y] if dataset.classes else dataset.y.tolist()
    table = _features(X, dataset) | {dataset.target: [*target, *[None] * len(dataset.X_new)]}
    ours = {"name": [*dataset.names, *dataset.new_names], "part": part.tolist()}
    answers = apart(model.predict(X), table)
    return apart(ours, [*table, *answers]) | table | answers


def new_rows(model: Model, dataset: Dataset) -> Columns:
    """The new rows by name, with their raw features, outputs and label."""
    features = _features(dataset.X_new, dataset)
    answers = apart(model.predict(dataset.X_new), features)
    return apart({"name": list(dataset.new_names)}, [*features, *answers]) | features | answers


def _features(X: NDArray[np.float64], dataset: Dataset) -> Columns:
    return dict(zip(dataset.features, X.T.tolist(), strict=True))


def result_tags(trained: Trained) -> dict[str, str]:
    return {
        "nnexp.outcome": trained.outcome,
        "nnexp.weights_sha256": weights_sha256(trained.final.layers),
    }
