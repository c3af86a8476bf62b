"""The wiring of one run: configuration -> data set -> training -> MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nnexp import dataset as datasets
from nnexp.config import RunConfig
from nnexp.dataset import Dataset, Source
from nnexp.progress import Meter, say, uninterrupted
from nnexp.record import (
    data_files,
    data_input,
    model_of,
    new_rows,
    points,
    prediction_points,
    result_tags,
    run_files,
    run_key,
    run_name,
    run_tags,
    single_files,
    whole,
)
from nnexp.render import Columns
from nnexp.request import SweepConfig
from nnexp.session import Place, TrainingError, going_on, opened, tell_of_compiling
from nnexp.sweep import Point, plan
from nnexp.tracking.find import get_curve, get_run, read_model
from nnexp.tracking.git import refuse_dirty
from nnexp.tracking.provenance import code_files, provenance
from nnexp.tracking.runs import RunRecord, Writer, origin
from nnexp.tracking.store import Store
from nnexp.tracking.weights import pack
from nnexp.train import Failure, Trained, check, train

# A run that trains for longer than this shows its curves in the UI while it trains.
LIVE_SECONDS = 2.0


@dataclass(frozen=True)
class Recorded:
    """A run that is in the store, and how it went."""

    run_id: str
    is_old: bool  # recorded by an earlier command
    epochs: int
    first_loss: float
    last_loss: float
    accuracy: float | None
    outcome: str
    new_rows: Columns  # the new rows with what the network says of them


def run(
    config: RunConfig,
    request: SweepConfig,
    source: Source | None = None,
    more: Mapping[str, str] | None = None,
) -> Recorded | None:
    """Train and record one run, unless it is recorded as finished; None where only the plan was asked for.

    Its data are those bytes, or else what its paths lead to; `more` are tags besides the usual ones. Raises
    RequestError before anything is recorded.
    """
    if request.require_clean:
        refuse_dirty()
    dataset = datasets.load(config.dataset, source)
    config = replace(config, dataset=datasets.settled(config.dataset, dataset))
    check(dataset, config)
    point = Point(config, dataset, run_key(config, dataset), run_name(config, dataset))
    with opened(config) as place:
        say(str(dataset))
        # Whoever asks for one run that failed wants it tried again.
        todo = plan([point], place.recorded(), "failed" if request.reruns == "none" else request.reruns)
        if request.plan:
            say(str(todo))
            return None
        if not todo.todo:
            old = [r for r in place.runs if r.status == "FINISHED" and r.tags["nnexp.run_key"] == point.key]
            return _recorded_before(place.store, old[-1].run_id, dataset)
        return _run_new(place, point, todo.attempt, more or {})


def _run_new(place: Place, point: Point, attempt: int, more: Mapping[str, str]) -> Recorded:
    config, dataset, writer = point.config, point.dataset, place.writer
    tell_of_compiling()
    tags = {**origin(), **provenance(), **run_tags(point.key, dataset, attempt), **more}
    data = data_input(dataset)
    with going_on(place, RunRecord(point.name, config.params(), tags, data=data)) as run_id:
        trained = _train_live(writer, run_id, point)
        model = model_of(trained, dataset)
        weights = pack(model, trained.kept)
        files = run_files(trained, weights) | single_files(whole(trained, model, dataset))
        files |= data_files([dataset]) | code_files()
        with uninterrupted():
            writer.add(run_id, files, result_tags(trained))
            if config.model and trained.outcome != "diverged":
                from nnexp.tracking.model import log_model  # imports MLflow

                log_model(place.store, run_id, weights)
            first = writer.finish(run_id, "FINISHED", {}, {})
    if first != run_id:  # another process has recorded the same run meanwhile
        return _recorded_before(place.store, first, dataset)
    curves = trained.curves
    return Recorded(
        run_id,
        is_old=False,
        epochs=int(trained.epochs[-1]),
        first_loss=float(curves["loss"][0]),
        last_loss=float(curves["loss"][-1]),
        accuracy=float(curves["accuracy"][-1]) if "accuracy" in curves else None,
        outcome=trained.outcome,
        new_rows=new_rows(model, dataset),
    )


def _recorded_before(store: Store, run_id: str, dataset: Dataset) -> Recorded:
    """What a finished run says, read back."""
    record = get_run(store, run_id)
    loss = get_curve(store, run_id, "loss")
    model = read_model(store, record)
    return Recorded(
        run_id,
        is_old=True,
        epochs=loss[-1][0],
        first_loss=loss[0][1],
        last_loss=loss[-1][1],
        accuracy=record.metrics.get("accuracy"),
        outcome=record.tags["nnexp.outcome"],
        new_rows=new_rows(model, dataset),
    )


def _train_live(writer: Writer, run_id: str, point: Point) -> Trained:
    """Train one run, its points reaching the store while it trains. Raises TrainingError."""
    config, dataset = point.config, point.dataset
    logged, spoke = 0, time.monotonic()
    with Meter(point.name, config.epochs, "epochs") as meter:
        for progress in train(dataset, [config]):
            for _, result in progress.ended:
                if isinstance(result, Failure):
                    raise TrainingError(result)
                with uninterrupted():
                    writer.log(run_id, [*points(result, logged), *prediction_points(result, dataset)])
                return result
            current = progress.current
            if current is None:
                continue
            meter.update(progress.epochs_done, f"loss {current.curves['loss'][-1]:.4g}")
            if time.monotonic() - spoke > LIVE_SECONDS:
                with uninterrupted():
                    writer.log(run_id, points(current, logged))
                logged, spoke = len(current.epochs), time.monotonic()
    raise RuntimeError("training ended without a result")
