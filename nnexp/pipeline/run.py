"""Carry out one run: configuration -> data set -> training -> MLflow."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nnexp.analysis.tables import Columns
from nnexp.config.recorded import read_config
from nnexp.config.request import Request
from nnexp.config.run import RunConfig
from nnexp.dataset import load as datasets
from nnexp.dataset.load import Dataset, Source
from nnexp.network.engine.cuda.device import Device
from nnexp.network.weights import pack
from nnexp.pipeline import artifacts
from nnexp.pipeline.git import refuse_dirty
from nnexp.pipeline.identity import result_tags, run_key, run_name
from nnexp.pipeline.progress import Meter
from nnexp.pipeline.provenance import DEVICE, code_files, provenance
from nnexp.pipeline.records import run_record
from nnexp.pipeline.session import Place, TrainingError, going_on, opened, tell_of_compiling
from nnexp.pipeline.signals import uninterrupted
from nnexp.tracking.find import find_artifact, get_curve, get_run, read_model, read_weights
from nnexp.tracking.labels import NAME, name_of, run_labels
from nnexp.tracking.population import Member, get_network
from nnexp.tracking.reader import Detail
from nnexp.tracking.runs import Writer
from nnexp.tracking.store import Store
from nnexp.training.checks import check
from nnexp.training.devices import device_name, open_device
from nnexp.training.plan import Point, plan
from nnexp.training.shard import Trained
from nnexp.training.train import Failure, train

log = logging.getLogger("nnexp")

# The figure that every run with `figures=true` has.
CURVES = "figures/curves.png"
# Metrics that only some runs have, and that the command prints.
OTHERS = ("val_loss", "val_accuracy", "test_loss", "test_accuracy", "best_epoch", "trained_epochs")
# A run that trains for longer than this writes its curves while it trains, so that the UI shows them.
LIVE_SECONDS = 2.0


@dataclass(frozen=True)
class Recorded:
    """A recorded run and its result."""

    run_id: str
    is_old: bool  # recorded by an earlier command
    added: tuple[str, ...]  # what this command added to such a run without training it
    epochs: int
    first_loss: float | None  # None if the run is a member of a population, whose curve is not looked up
    last_loss: float
    accuracy: float | None
    others: Mapping[str, float]  # val_loss, val_accuracy, and what is recorded once; if any
    outcome: str
    new_rows: Columns  # the new rows with the network's predictions


def run(
    config: RunConfig, request: Request, source: Source | None = None, more: Mapping[str, str] | None = None
) -> Recorded | None:
    """Train and record one run unless it is recorded as finished; return None if only the plan was asked for.

    `source`: the data set's bytes; read from its paths if None. `more`: tags besides the usual ones. Raises
    RequestError before anything is recorded.
    """
    if request.require_clean:
        refuse_dirty()
    dataset = datasets.load(config.dataset, source)
    config = replace(config, dataset=datasets.settled(config.dataset, dataset))
    check(dataset, config)
    artifacts.check_names(dataset)
    point = Point(config, dataset, run_key(config, dataset), run_name(config, dataset))
    with opened(config, [point.key]) as place:
        log.info(str(dataset))
        recorded, member = place.recorded(), None
        if "FINISHED" not in recorded.get(point.key, ((), 1))[0]:
            member = place.find_member(point.key)
            recorded |= {} if member is None else {point.key: ({"FINISHED"}, 1)}
        # A single run that failed is tried again when it is asked for again.
        todo = plan([point], recorded, "failed" if request.reruns == "none" else request.reruns)
        if request.plan:
            log.info(str(todo))
            return None
        if not todo.todo and member is not None:
            return _member(place.store, member)
        if not todo.todo:
            old = [r for r in place.runs if r.status == "FINISHED" and r.tags["nnexp.run_key"] == point.key]
            _relabel(place, old[-1].run_id, request)
            return _shown(place, old[-1].run_id, point)
        (point,) = place.renamed(todo.todo)
        point = replace(point, name=name_of(request, point.name))
        device = open_device(request.device, request.executor)
        return _run_new(place, point, todo.attempt, device, {**run_labels(request), **(more or {})})


def _run_new(
    place: Place, point: Point, attempt: int, device: Device | None, more: Mapping[str, str]
) -> Recorded:
    """Train and record a run that is not recorded yet."""
    config, dataset, writer = point.config, point.dataset, place.writer
    tell_of_compiling()
    tags = {**provenance(), DEVICE: device_name(device), **more}
    with going_on(place, run_record(point, attempt, tags)) as run_id:
        trained = _train_live(writer, run_id, point, device)
        model = artifacts.model_of(trained, dataset)
        weights = pack(model, trained.kept)
        files = artifacts.run_files(trained, weights) | artifacts.data_files([dataset]) | code_files()
        files |= artifacts.single_files(artifacts.whole(trained, model, dataset))
        with uninterrupted():
            writer.add(run_id, files, result_tags(trained))
            if config.model and trained.outcome != "diverged":
                from nnexp.tracking.model import log_model  # imports MLflow

                log_model(place.store, run_id, weights)
            first = writer.finish(run_id, "FINISHED", {}, {})
    if first != run_id:  # another process has recorded the same run meanwhile
        return _shown(place, first, point)
    curves = trained.curves
    last = {name: float(values[-1]) for name, values in curves.items()}
    return Recorded(
        run_id,
        is_old=False,
        added=(),
        epochs=int(trained.epochs[-1]),
        first_loss=float(curves["loss"][0]),
        last_loss=last["loss"],
        accuracy=last.get("accuracy"),
        others=_others({**last, **trained.once}),
        outcome=trained.outcome,
        new_rows=artifacts.new_rows(model, dataset),
    )


def _relabel(place: Place, run_id: str, request: Request) -> None:
    """Write the name, question and tags given on the command line to a recorded run."""
    labels = run_labels(request)
    if request.name is not None:
        labels[NAME] = name_of(request, "")
    if labels:
        with uninterrupted():
            place.writer.add(run_id, {}, labels)


def _member(store: Store, member_id: str) -> Recorded:
    """Return a member of a population, from its row alone."""
    record = get_network(store, member_id)
    assert isinstance(record, Member)  # by its name
    last = record.metrics
    return Recorded(
        member_id,
        is_old=True,
        added=(),
        epochs=int(record.row["last_epoch"]),
        first_loss=None,
        last_loss=last.get("loss", math.nan),
        accuracy=last.get("accuracy"),
        others=_others(last),
        outcome=record.tags["nnexp.outcome"],
        new_rows={"name": []},
    )


def _shown(place: Place, run_id: str, point: Point) -> Recorded:
    """Add the figures and the model that this command asks for to a finished run; return the run.

    Both are made from its record, without training.
    """
    store, config, added = place.store, point.config, list[str]()
    record = get_run(store, run_id)
    outcome = record.tags.get("nnexp.outcome", "")
    if config.figures and find_artifact(store, record, CURVES) is None:
        read_weights(store, record)  # raises RequestError if the file is damaged
        files = artifacts.single_files(artifacts.read_back(store, run_id, config, point.dataset, outcome))
        with uninterrupted():
            place.writer.add(run_id, files, {})
        added.append("figures")
    if config.model and outcome != "diverged" and not _has_model(store, record):
        from nnexp.tracking.model import log_model  # imports MLflow

        content = read_weights(store, record)
        with uninterrupted():
            log_model(store, run_id, content)
        added.append("a model")
    return _recorded_before(store, run_id, point.dataset, tuple(added))


def _has_model(store: Store, record: Detail) -> bool:
    """Return whether a run has a model.

    A run recorded with model=true has one. MLflow, which is slow to import, is asked only about others.
    """
    content = find_artifact(store, record, "config.yaml")
    if content is not None and read_config(content, f"run {record.run_id}: config.yaml").config.model:
        return True
    from nnexp.tracking.model import logged_model

    return logged_model(store, record.run_id) is not None


def _recorded_before(store: Store, run_id: str, dataset: Dataset, added: tuple[str, ...]) -> Recorded:
    """Read a finished run back from the store."""
    record = get_run(store, run_id)
    loss = get_curve(store, run_id, "loss")
    model = read_model(store, record)
    return Recorded(
        run_id,
        is_old=True,
        added=added,
        epochs=loss[-1][0],
        first_loss=loss[0][1],
        last_loss=loss[-1][1],
        accuracy=record.metrics.get("accuracy"),
        others=_others(record.metrics),
        outcome=record.tags["nnexp.outcome"],
        new_rows=artifacts.new_rows(model, dataset),
    )


def _others(last: Mapping[str, float]) -> dict[str, float]:
    return {name: last[name] for name in OTHERS if name in last}


def _train_live(writer: Writer, run_id: str, point: Point, device: Device | None) -> Trained:
    """Train one run and write its curves to the store while it trains. Raises TrainingError."""
    config, dataset = point.config, point.dataset
    logged, spoke = 0, time.monotonic()
    with Meter(point.name, config.epochs, "epochs") as meter:
        for progress in train(dataset, [config], device):
            for _, result in progress.ended:
                if isinstance(result, Failure):
                    raise TrainingError(result)
                predictions = artifacts.prediction_points(result, dataset)
                with uninterrupted():
                    writer.log(run_id, [*artifacts.points(result, logged), *predictions])
                return result
            current = progress.current
            if current is None:
                continue
            meter.update(progress.epochs_done, f"loss {current.curves['loss'][-1]:.4g}")
            if time.monotonic() - spoke > LIVE_SECONDS:
                with uninterrupted():
                    writer.log(run_id, artifacts.points(current, logged))
                logged, spoke = len(current.epochs), time.monotonic()
    raise RuntimeError("training ended without a result")
