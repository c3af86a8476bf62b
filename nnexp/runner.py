"""The wiring: configuration -> data set -> training -> MLflow. One run, or the points of a sweep."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from mlflow.entities import DatasetInput

from nnexp import dataset as datasets
from nnexp import engine
from nnexp.config import MAX_PARAM, RequestError, RunConfig
from nnexp.dataset import Dataset
from nnexp.progress import Meter, Terminated, raise_if_interrupted, say
from nnexp.record import (
    model_of,
    new_rows,
    points,
    prediction_points,
    predictions,
    result_tags,
    run_files,
    run_name,
    single_files,
    varied_leaves,
)
from nnexp.summary import as_text, summarize, varying
from nnexp.tracking.model import log_model
from nnexp.tracking.provenance import command
from nnexp.tracking.read import load_runs
from nnexp.tracking.store import Store, experiment_id, open_store
from nnexp.tracking.weights import pack
from nnexp.tracking.write import add_record, dataset_input, finish_run, log_points, start_run
from nnexp.train import Trained, check, train

# A run that trains for longer than this shows its curves in the UI while it trains.
LIVE_SECONDS = 2.0


@dataclass(frozen=True)
class Recorded:
    """A run that is in the store, and the network it trained."""

    run_id: str
    trained: Trained
    new_rows: pd.DataFrame  # the new rows with what the network says of them


@dataclass(frozen=True)
class Sweep:
    """A sweep that is in the store: its parent's id, a line for each point that failed, its summary."""

    sweep_id: str
    total: int
    failures: list[str]
    summary: pd.DataFrame | None  # None where every point failed


@dataclass(frozen=True)
class _Place:
    """Where the runs of one command are recorded."""

    store: Store
    experiment_id: str
    inputs: dict[Dataset, DatasetInput]


def run(config: RunConfig) -> Recorded:
    """Train and record one run. Raises RequestError before anything is recorded."""
    dataset = datasets.load(config.dataset)
    check(dataset, config)
    place = _place(config, [dataset])
    say(str(dataset))
    run_id = _start(place, config, dataset, {})
    with _recorded_end(place.store, run_id):
        trained = _train_live(place.store, run_id, dataset, config)
        model = model_of(trained, dataset)
        weights = pack(model, trained.kept)
        table = predictions(model, trained, dataset)
        files = run_files(trained, weights) | single_files(trained, model, dataset)
        files["predictions.csv"] = table.to_csv(index=False).encode()
        add_record(place.store, run_id, files, result_tags(trained))
        if config.model:
            log_model(place.store, run_id, dataset, weights)  # by which MLflow ends the run: it comes last
        finish_run(place.store, run_id, "FINISHED", {}, {})
    return Recorded(run_id, trained, new_rows(model, dataset))


def sweep(configs: Sequence[RunConfig], name: str | None) -> Sweep:
    """Train and record the points of a sweep under a parent run; a point that fails does not stop the others.

    Raises RequestError, naming the point, before anything is recorded.
    """
    # A sweep's runs log neither figures nor models.
    configs = [replace(config, figures=False, model=False) for config in configs]
    distinct = list(dict.fromkeys(configs))
    if len(distinct) < len(configs):
        say(f"{len(configs) - len(distinct)} of {len(configs)} points are like others and run once")
    configs = distinct
    varied = varied_leaves(configs)
    for key in ("tracking_uri", "experiment_name"):
        if key in varied:
            raise RequestError(f"{key} must be the same for all points of a sweep, which is one record")
    loaded = {c: datasets.load(c) for c in dict.fromkeys(config.dataset for config in configs)}
    for i, config in enumerate(configs, 1):
        try:
            check(loaded[config.dataset], config)
        except RequestError as error:
            raise RequestError(f"point {i} of {len(configs)}: {error}") from error
    place = _place(configs[0], list(loaded.values()))
    parent = _start_parent(place, name or "sweep", len(configs), varied)
    failures: list[str] = []
    recorded = trained = 0
    with _recorded_end(place.store, parent), Meter("sweep", len(configs), "runs") as meter:
        for table, dataset in loaded.items():
            members = [config for config in configs if config.dataset == table]
            for progress in train(dataset, members):
                meter.update(recorded, f"{trained + progress.epochs_done:,} epochs trained")
                for i, result in progress.ended:
                    _record_child(place, parent, members[i], dataset, result)
                    if isinstance(result, Exception):
                        failures.append(f"{run_name(members[i], dataset)}: {_reason(result)}")
                        say(f"failed: {failures[-1]}")
                    recorded += 1
                    meter.update(recorded, f"{trained + progress.epochs_done:,} epochs trained")
            trained += sum(config.epochs for config in members)
        summary = _finish_parent(place.store, parent, configs, failures)
    return Sweep(parent, len(configs), failures, summary)


def _place(config: RunConfig, loaded: Sequence[Dataset]) -> _Place:
    store = open_store(config.tracking_uri)
    if not engine.is_ready():
        say("compiling the engine, once for this machine: some ten seconds")
    inputs = {dataset: dataset_input(dataset) for dataset in loaded}
    return _Place(store, experiment_id(store, config.experiment_name), inputs)


def _start(place: _Place, config: RunConfig, dataset: Dataset, tags: Mapping[str, str]) -> str:
    ours = {
        "nnexp.run_key": config.run_key(dataset.sha256, engine.VERSION),
        "nnexp.data_sha256": dataset.sha256,
        "nnexp.engine": engine.VERSION,
        **tags,
    }
    name, data = run_name(config, dataset), [place.inputs[dataset]]
    return start_run(place.store, place.experiment_id, name, config.params(), ours, data)


def _train_live(store: Store, run_id: str, dataset: Dataset, config: RunConfig) -> Trained:
    """Train one run, its points reaching the store while it trains. Raises what training raised."""
    logged, spoke = 0, time.monotonic()
    with Meter(run_name(config, dataset), config.epochs, "epochs") as meter:
        for progress in train(dataset, [config]):
            for _, result in progress.ended:
                if isinstance(result, Exception):
                    raise result
                log_points(store, run_id, [*points(result, logged), *prediction_points(result, dataset)])
                return result
            current = progress.current
            if current is None:
                continue
            meter.update(progress.epochs_done, f"loss {current.curves['loss'][-1]:.4g}")
            if time.monotonic() - spoke > LIVE_SECONDS:
                log_points(store, run_id, points(current, logged))
                logged, spoke = len(current.epochs), time.monotonic()
    raise RuntimeError("training ended without a result")


def _record_child(
    place: _Place, parent: str, config: RunConfig, dataset: Dataset, result: Trained | Exception
) -> None:
    tags = {"mlflow.parentRunId": parent, "nnexp.sweep_id": parent}
    run_id = _start(place, config, dataset, tags)
    with _recorded_end(place.store, run_id):
        if isinstance(result, Exception):
            _finish_failed(place.store, run_id, result)
            return
        log_points(place.store, run_id, [*points(result, 0), *prediction_points(result, dataset)])
        files = run_files(result, pack(model_of(result, dataset), result.kept))
        finish_run(place.store, run_id, "FINISHED", files, result_tags(result))


def _start_parent(place: _Place, name: str, total: int, varied: Mapping[str, Sequence[Any]]) -> str:
    ranges = {key: ", ".join(map(str, values)) for key, values in varied.items()}
    params = {
        key: text if len(text) <= MAX_PARAM else f"{len(varied[key])} values" for key, text in ranges.items()
    }
    title = f"{name}: {total} runs over {', '.join(varied) or 'one point'}"
    return start_run(place.store, place.experiment_id, title, params, {"nnexp.sweep": name})


def _finish_parent(
    store: Store, parent: str, configs: Sequence[RunConfig], failures: Sequence[str]
) -> pd.DataFrame | None:
    """Record counts, the summary table and a description that the UI shows; the table, if there is one."""
    runs = load_runs(configs[0].experiment_name, sweep=parent, tracking_uri=store.uri)
    counts = {
        "runs": len(configs),
        "failed": len(failures),
        "diverged": int((runs["outcome"] == "diverged").sum()),
    }
    log_points(store, parent, [(f"sweep/{key}", 0, value) for key, value in counts.items()])
    files, note = {}, f"`{command()}`\n\n{len(configs)} runs, {len(failures)} failed."
    table = None
    if len(failures) < len(configs):
        table = summarize(runs, varying(runs))
        files["summary.csv"] = (as_text(table, "csv") + "\n").encode()
        files["summary.md"] = (as_text(table, "markdown") + "\n").encode()
        note += "\n\n" + as_text(table.head(50), "markdown")
    if failures:
        files["failures.txt"] = ("\n".join(failures) + "\n").encode()
    tags = {"mlflow.note.content": note[:5000]}
    finish_run(store, parent, "FAILED" if failures else "FINISHED", files, tags)
    return table


@contextmanager
def _recorded_end(store: Store, run_id: str) -> Iterator[None]:
    """Whatever stops the work is recorded on the run before it goes on its way: FAILED or KILLED, and why."""
    try:
        raise_if_interrupted()
        yield
    except (KeyboardInterrupt, Terminated) as error:
        finish_run(store, run_id, "KILLED", {}, {"nnexp.reason": _reason(error)})
        raise
    except BaseException as error:
        _finish_failed(store, run_id, error)
        raise


def _finish_failed(store: Store, run_id: str, error: BaseException) -> None:
    text = "".join(traceback.format_exception(error))
    finish_run(store, run_id, "FAILED", {"traceback.txt": text.encode()}, {"nnexp.reason": _reason(error)})


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)"
    if isinstance(error, Terminated):
        return "terminated (SIGTERM)"
    return f"{type(error).__name__}: {error}"[:500]
