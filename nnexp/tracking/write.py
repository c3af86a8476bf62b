"""Write runs to MLflow in few calls each: start, points in batches, finish."""

from __future__ import annotations

import getpass
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

from nnexp.dataset import Dataset
from nnexp.progress import uninterrupted
from nnexp.tracking.provenance import provenance
from nnexp.tracking.store import Store

# MLflow's limits on one log_batch call.
MAX_METRICS, MAX_PARAMS = 1000, 100


def dataset_input(dataset: Dataset) -> DatasetInput:
    """The data set as MLflow shows it: its columns, its size, a digest of its own."""
    frame = pd.DataFrame(dataset.X, columns=list(dataset.features))
    labels = [dataset.classes[int(i)] for i in dataset.y] if dataset.classes else dataset.y
    frame[dataset.target] = labels
    data = from_pandas(
        frame,
        source=CodeDatasetSource({"nnexp.data_sha256": dataset.sha256}),
        targets=dataset.target,
        name=dataset.name,
        digest=dataset.sha256[:12],
    )
    return DatasetInput(data._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")])


@uninterrupted()
def start_run(
    store: Store,
    experiment_id: str,
    name: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    data: Iterable[DatasetInput] = (),
) -> str:
    """Create a RUNNING run with its params, tags and data set; its id."""
    who = {"mlflow.user": _user(), "mlflow.source.name": "nnexp", "mlflow.source.type": "LOCAL"}
    run = store.client.create_run(experiment_id, tags={**who, **provenance(), **tags}, run_name=name)
    run_id: str = run.info.run_id
    try:
        _describe(store, run_id, params, data)
    except BaseException:
        store.client.set_terminated(run_id, "FAILED")
        raise
    return run_id


def _describe(store: Store, run_id: str, params: Mapping[str, str], data: Iterable[DatasetInput]) -> None:
    all_params = [Param(k, v) for k, v in params.items()]
    for i in range(0, len(all_params), MAX_PARAMS):
        store.client.log_batch(run_id, params=all_params[i : i + MAX_PARAMS])
    inputs = list(data)
    if inputs:
        store.client.log_inputs(run_id, inputs)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        return "unknown"


@uninterrupted()
def log_points(store: Store, run_id: str, points: Iterable[tuple[str, int, float]]) -> None:
    """Metrics as (key, completed epochs, value). One that is not finite is left out, as MLflow would
    store a NaN as 0 and an infinity as the largest double."""
    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, step) for key, step, value in points if np.isfinite(value)]
    for i in range(0, len(metrics), MAX_METRICS):
        store.client.log_batch(run_id, metrics=metrics[i : i + MAX_METRICS])


@uninterrupted()
def finish_run(
    store: Store, run_id: str, status: str, files: Mapping[str, bytes], tags: Mapping[str, str]
) -> None:
    """Add artifacts and tags, then say how the run ended: FINISHED, FAILED or KILLED."""
    add_record(store, run_id, files, tags)
    store.client.set_terminated(run_id, status)


@uninterrupted()
def add_record(store: Store, run_id: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
    """Add artifacts and tags to a run that goes on."""
    if files:
        with tempfile.TemporaryDirectory() as directory:
            for name, content in files.items():
                path = Path(directory, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            store.client.log_artifacts(run_id, directory)
    if tags:
        store.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
