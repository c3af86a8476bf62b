"""Turn a trained network into what MLflow records: curve points, predictions and files."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from nnexp.analysis.tables import Columns, apart, as_text
from nnexp.config.errors import RequestError
from nnexp.config.recorded import SCHEMA, read_config
from nnexp.config.run import GROUPS, RunConfig
from nnexp.config.text import masked_value, shortened
from nnexp.dataset.load import Dataset
from nnexp.dataset.prepare import Prepared
from nnexp.network.forward import outputs
from nnexp.network.reference import Layers, equation, sizes
from nnexp.network.weights import Model, unpack, unpack_kept, weights_sha256
from nnexp.pipeline.identity import run_key, run_name
from nnexp.tracking import evidence
from nnexp.tracking.find import get_curve, read_artifact
from nnexp.tracking.members import split_member
from nnexp.tracking.population import Member, get_network
from nnexp.tracking.runs import DataInput, cut
from nnexp.tracking.store import Store
from nnexp.tracking.tables import MAX_DATASET, MAX_METRIC
from nnexp.training.checks import check
from nnexp.training.shard import Trained
from nnexp.training.train import Failure, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nnexp.analysis.report.findings import Findings

log = logging.getLogger("nnexp")

Array = NDArray[np.float64]

# Larger data sets, in bytes, are not stored as artifacts.
MAX_KEPT_DATA = 32 * 2**20
# About how many new rows, over all networks, are predicted at once.
ROWS_AT_ONCE = 20_000
# How many of a sweep's best runs, and of its worst, get the artifacts of a single run.
MAX_ILLUSTRATED = 3


@lru_cache(maxsize=256)
def data_input(dataset: Dataset) -> DataInput:
    """Return the data set as an MLflow input: its columns, its size and a digest."""
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
    """Return the data sets' bytes as artifacts, so that a rerun needs no other file.

    Data sets of more than MAX_KEPT_DATA bytes are left out.
    """
    files = dict[str, bytes]()
    for dataset in used:
        source = dataset.source
        if source is None or len(source.table) + len(source.new_rows or b"") > MAX_KEPT_DATA:
            continue
        files |= evidence.data_files(dataset.sha256, source)
    return files


def points(trained: Trained, since: int) -> Iterator[tuple[str, int, float]]:
    """Yield the curves' points from the `since`-th on, as (metric, completed epochs, value), then the metrics
    that are recorded once.

    Values that are not finite are left out: MLflow would store NaN as 0 and infinity as the largest double.
    """
    epochs = trained.epochs[since:].tolist()
    for name, values in trained.curves.items():
        since_then = values[since:]
        if np.isfinite(since_then).all():
            yield from zip(repeat(name), epochs, since_then.tolist())
        else:
            kept = zip(epochs, since_then.tolist(), strict=True)
            yield from ((name, epoch, value) for epoch, value in kept if math.isfinite(value))
    end = int(trained.epochs[-1])
    yield from ((name, end, value) for name, value in trained.once.items() if math.isfinite(value))


def new_outputs(ended: Sequence[tuple[Dataset, Trained | None]]) -> list[Array | None]:
    """Return each run's outputs for its new rows, of shape (new rows, outputs); None if it has none.

    Networks of the same shape are computed together, which takes a tenth of the time.
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
        network, X_new = replace(runs[0].final, layers=stacked), ended[group[0]][0].X_new
        y_pred = outputs(network, scaled(X_new, [run.prepared for run in runs]))
        for i, of_run in zip(group, y_pred, strict=True):
            result[i] = of_run
    return result


def scaled(X_new: Array, data: Sequence[Prepared]) -> Array:
    """Return new rows as the networks of these data see them, of shape (data, new rows, features)."""
    return np.stack([(X_new - prepared.shift) / prepared.scale for prepared in data])


def prediction_points(
    trained: Trained, dataset: Dataset, y_pred: Array | None = None
) -> Iterator[tuple[str, int, float]]:
    """Yield the metrics of the new rows (`prediction_names`), as (metric, completed epochs, value).

    `y_pred`: the outputs for the new rows, computed if None.
    """
    if not dataset.new_names:
        return
    if y_pred is None:
        y_pred = model_of(trained, dataset).outputs(dataset.X_new)
    end = int(trained.epochs[-1])
    named = zip(prediction_names(dataset), prediction_values(y_pred).tolist(), strict=True)
    yield from ((metric, end, value) for metric, value in named if math.isfinite(value))


@lru_cache(maxsize=256)
def prediction_names(dataset: Dataset) -> tuple[str, ...]:
    """Return the metrics of the new rows: `prediction/<name>`, or of more than two classes one each,
    `prediction/<name>/<class>`."""
    names = [f"prediction/{name}" for name in metric_names(dataset.new_names)]
    if len(dataset.classes) <= 2:
        return tuple(names)
    return tuple(f"{name}/{label}" for name in names for label in metric_names(dataset.classes))


def prediction_values(y_pred: Array) -> Array:
    """Return the values of these metrics, (…, metrics), from outputs, (…, new rows, outputs).

    Of one output it is the output, of two classes the probability of the last.
    """
    return y_pred[..., -1] if y_pred.shape[-1] <= 2 else y_pred.reshape(*y_pred.shape[:-2], -1)


@lru_cache(maxsize=256)
def metric_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Make names fit for MLflow's metric names: replace characters that it refuses by _, keep all distinct.

    If several names become the same, the one that needed no replacement keeps it, or else the first; the
    others get a number, as in `O_2_ 2`.
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
    """Raise RequestError if the name of a new row or a class is too long for its metric."""
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
    """Return the trained network with its scaling and the data set's column and class names."""
    data = trained.prepared
    return Model(trained.final, trained.initial, data.shift, data.scale, dataset.features, dataset.classes)


def run_files(trained: Trained, weights: bytes) -> dict[str, bytes]:
    """Return the artifacts that every run has: config.yaml and weights.npz."""
    text = "".join(_yaml(name, value) for name, value in trained.config.items())
    return {"config.yaml": f"schema: {SCHEMA}\n{text}".encode(), "weights.npz": weights}


@lru_cache(maxsize=256)
def _yaml(name: str, value: Any) -> str:
    """Return one key of config.yaml. Cached, as a sweep's runs share most keys and PyYAML is slow."""
    if name in GROUPS:
        value = value.nested()
    elif name == "tracking_uri":
        value = value and masked_value(value)
    return yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class Whole:
    """One run, just trained or read back, with all that the artifacts of a single run are made from."""

    config: RunConfig
    dataset: Dataset
    model: Model
    kept: Mapping[int, Layers]  # weights by epoch
    epochs: ArrayLike
    curves: Mapping[str, ArrayLike]
    outcome: str


def whole(trained: Trained, model: Model, dataset: Dataset) -> Whole:
    """Collect a run that was just trained."""
    curves = trained.curves
    return Whole(trained.config, dataset, model, trained.kept, trained.epochs, curves, trained.outcome)


def single_files(run: Whole, solved: Whole | None = None) -> dict[str, bytes]:
    """Return the artifacts that only a single run and the best and worst of a sweep have.

    They are the equation, the predictions and, with `figures=true`, the figures. `solved`: a run of the same
    setting that solved, for a run that did not.
    """
    table = as_text(predictions(run.model, run.config, run.dataset), "csv")
    files = {
        "equation.txt": (equation(run.model.network, run.model.input_names()) + "\n").encode(),
        "predictions.csv": f"{table}\n".encode(),
    }
    if run.config.figures:
        from nnexp.analysis import plots  # matplotlib takes long to import, and most runs have no figures

        shown = without_test_rows(run.dataset, run.config)
        figures = run_figures(run, solved)
        files |= {f"figures/{name}.png": plots.png(figure) for name, figure in figures.items()}
        if "surface_over_training" in figures:
            animation = plots.surface_animation(run.model, shown, run.kept)
            files["figures/surface_over_training.gif"] = animation
    return files


def run_figures(run: Whole, solved: Whole | None = None, only: str | None = None) -> dict[str, Figure]:
    """Draw the figures of a run, or the one of this name. Raises RequestError if there is none.

    `solved`: a run of the same setting that solved, whose hidden space is drawn beside this one's.
    """
    from nnexp.analysis import plots

    title = f"{run_name(run.config, run.dataset)}, {run.outcome}"
    shown = without_test_rows(run.dataset, run.config)
    beside = None if solved is None else (solved.model, f"seed {solved.config.seed}, which solved")
    return plots.of_run(run.model, shown, run.epochs, run.curves, title, run.kept, only, beside)


def without_test_rows(dataset: Dataset, config: RunConfig) -> Dataset:
    """Return the data set without its test rows, since figures of them could guide a choice."""
    rows = np.setdiff1d(np.arange(len(dataset.X)), check(dataset, config).test_rows)
    names = tuple(dataset.names[i] for i in rows)
    return replace(dataset, names=names, X=dataset.X[rows], y=dataset.y[rows])


def predictions(model: Model, config: RunConfig, dataset: Dataset) -> Columns:
    """Return a table of every row and new row: name, part (train, validation, test, new), raw features,
    target, outputs, label.

    A column whose name the data set already uses gets an underscore.
    """
    part = np.array(["train"] * len(dataset.X) + ["new"] * len(dataset.X_new), dtype=object)
    data = check(dataset, config)
    part[data.val_rows], part[data.test_rows] = "validation", "test"
    X = np.vstack([dataset.X, dataset.X_new])
    target = [dataset.classes[int(i)] for i in dataset.y] if dataset.classes else dataset.y.tolist()
    table = _features(X, dataset) | {dataset.target: [*target, *[None] * len(dataset.X_new)]}
    ours = {"name": [*dataset.names, *dataset.new_names], "part": part.tolist()}
    answers = apart(model.predict(X), table)
    return apart(ours, [*table, *answers]) | table | answers


def new_rows(model: Model, dataset: Dataset) -> Columns:
    """Return a table of the new rows: name, raw features, outputs, label."""
    features = _features(dataset.X_new, dataset)
    answers = apart(model.predict(dataset.X_new), features)
    return apart({"name": list(dataset.new_names)}, [*features, *answers]) | features | answers


def _features(X: NDArray[np.float64], dataset: Dataset) -> Columns:
    return dict(zip(dataset.features, X.T.tolist(), strict=True))


def illustrations(
    store: Store, found: Findings, datasets: Iterable[Dataset]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the ids of a sweep's best runs and of its worst, each with the artifacts of a single run.

    `datasets`: all that the sweep's runs were trained on.
    """
    from nnexp.analysis.diagnosis import siblings  # imports pandas, which a run alone does without

    # A member has no files of its own.
    best, worst = (end[end["run_id"].map(split_member).isna()] for end in (found.best(1), found.worst(1)))
    best = best[best["outcome"] != "diverged"]

    def read(run_id: str) -> Whole | None:
        """Read one of the sweep's runs; log and return None if that is not possible."""
        try:
            record = get_network(store, run_id)
            config = read_config(read_artifact(store, record, "config.yaml"), "its config.yaml").config
            key, outcome = record.tags["nnexp.run_key"], record.tags["nnexp.outcome"]
            of = [dataset for dataset in datasets if run_key(config, dataset) == key]
            if not of:
                raise RequestError("its config.yaml was edited")
            return read_back(store, run_id, replace(config, figures=True), of[0], outcome)
        except (FileNotFoundError, ValueError) as error:
            log.info(f"no figures of the run {run_id}: it cannot be read: {error}")
            return None

    for run_id in [*best["run_id"].head(MAX_ILLUSTRATED), *worst["run_id"].head(MAX_ILLUSTRATED)]:
        run = read(run_id)
        if run is not None:
            solved = siblings(found.done, run_id).example
            yield run_id, single_files(run, None if solved is None else read(solved))


def _trained_again(member: Member, config: RunConfig, dataset: Dataset) -> Whole:
    """Train a member of a population again. Raises RequestError unless its weights are those recorded."""
    (again,) = (run for progress in train(dataset, [config]) for _, run in progress.ended)
    if isinstance(again, Failure):
        raise RequestError(f"member {member.run_id}: training it again failed: {again.reason}")
    if weights_sha256(again.final.layers) != member.tags.get("nnexp.weights_sha256"):
        raise RequestError(
            f"member {member.run_id}: trained again, its weights are not those whose hash was recorded; "
            f"nnexp rerun {member.run_id} says more"
        )
    return whole(again, model_of(again, dataset), dataset)


def read_back(store: Store, run_id: str, config: RunConfig, dataset: Dataset, outcome: str) -> Whole:
    """Read a recorded run back as it was just after training. A member of a population is trained again.

    Raises FileNotFoundError or ValueError if its weights.npz is missing or invalid, RequestError if a member
    that is trained again is another network.
    """
    record = get_network(store, run_id)
    if isinstance(record, Member):
        return _trained_again(record, config, dataset)
    weights = read_artifact(store, record, "weights.npz")
    curves: Mapping[str, dict[int, float]] = {
        name: dict(get_curve(store, run_id, name))
        for name in ("loss", "accuracy", "val_loss", "val_accuracy", "grad_norm")
        if name in record.metrics
    }
    epochs = list(curves["loss"])
    return Whole(
        config=config,
        dataset=dataset,
        model=unpack(weights),
        kept=unpack_kept(weights),
        epochs=epochs,
        curves={name: [curve.get(epoch, np.nan) for epoch in epochs] for name, curve in curves.items()},
        outcome=outcome,
    )
