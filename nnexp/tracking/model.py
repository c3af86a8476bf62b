"""Log a trained network as an MLflow model: raw rows in; the output, the label and its probability out.

The model is the run's own weights.npz and one file of code. Nothing is pickled, and nnexp need not be
installed where the model is loaded.
"""

from __future__ import annotations

import inspect
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.models import Model as Description
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from nnexp.network import forward, weights
from nnexp.network import reference as network
from nnexp.network.weights import Array, Model, unpack
from nnexp.tracking import servable
from nnexp.tracking.files import put
from nnexp.tracking.places import local_path
from nnexp.tracking.store import Store

REQUIREMENTS = ("mlflow", "numpy", "pandas")
# The modules that make up the model's one file of code, each after those that it imports.
PARTS: tuple[ModuleType, ...] = (network, forward, weights, servable)


def log_model(store: Store, run_id: str, content: bytes) -> str:
    """Log the network of this weights.npz on the run as `model`, with the run's params and last metrics.

    Returns the model's id. The run's status and times stay as they are. The caller must defer signals: one in
    between would leave half a model.
    """
    client = store.client
    run = client.get_run(run_id)
    made = client.create_logged_model(run.info.experiment_id, "model", run_id, params=run.data.params)
    model_id: str = made.model_id
    try:
        with tempfile.TemporaryDirectory() as directory:
            description = Description(
                artifact_path=made.artifact_location, run_id=run_id, model_id=model_id, model_uuid=model_id
            )
            save_model(Path(directory, "model"), content, description)
            _put_model(store, model_id, made.artifact_location, Path(directory, "model"))
        histories = [client.get_metric_history(run_id, name) for name in run.data.metrics]
        last = [max(points, key=lambda point: point.step) for points in histories]
        epochs = max((point.step for point in last), default=0)
        client.log_outputs(run_id, [LoggedModelOutput(model_id, epochs)])
        of_model = [Metric(p.key, p.value, p.timestamp, p.step, model_id=model_id) for p in last]
        client.log_batch(run_id, of_model)
    except BaseException:
        client.finalize_logged_model(model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    return model_id


def _put_model(store: Store, model_id: str, location: str, model: Path) -> None:
    """Write a model's files to MLflow's place for them: EXPERIMENT/models/ID/artifacts."""
    place = local_path(location)
    if place is None or place.parts[-3:] != ("models", model_id, "artifacts"):
        store.client.log_model_artifacts(model_id, str(model))
        return
    paths = (path for path in model.rglob("*") if path.is_file())
    files = {path.relative_to(model).as_posix(): path.read_bytes() for path in paths}
    put(place.parents[2], f"models/{model_id}", files)


def logged_model(store: Store, run_id: str) -> str | None:
    """Return the id of the run's logged model that can be loaded; None if there is none."""
    experiment_id = store.client.get_run(run_id).info.experiment_id
    found = store.client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{run_id}'")
    ready: list[str] = [model.model_id for model in found if model.status == LoggedModelStatus.READY]
    return ready[0] if ready else None


def save_model(path: Path, content: bytes, description: Description) -> None:
    """Write the network of this weights.npz as an MLflow model into a new directory."""
    model = unpack(content)
    example = example_rows(model)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "weights.npz").write_bytes(content)
        Path(directory, "servable.py").write_text(code(), encoding="utf-8")
        mlflow.pyfunc.save_model(
            path=str(path),
            mlflow_model=description,
            python_model=str(Path(directory, "servable.py")),
            artifacts={"weights": str(Path(directory, "weights.npz"))},
            signature=signature(model),
            input_example=pd.DataFrame(example, columns=list(model.features)),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )


def code() -> str:
    """Return a model's code: nnexp's own modules one after the other, without their imports of each other.

    So there is one definition of the forward pass, and a model runs the code that it was saved with, whatever
    nnexp is installed or already imported where it is loaded. (MLflow's `code_paths` would put another
    package `nnexp` before that one.)
    """
    here = tuple(f"from {part.__name__} import " for part in PARTS)
    lines = "\n\n".join(inspect.getsource(part) for part in PARTS).splitlines(keepends=True)
    future = "from __future__ import annotations\n"
    names = ", ".join(part.__name__ for part in PARTS)
    head = f"# The code of this model: the modules {names}, one after the other.\n{future}"
    return head + "".join(line for line in lines if line != future and not line.startswith(here))


def signature(model: Model) -> ModelSignature:
    """Return the model's signature: the raw columns by name, and the answer's columns.

    A column's name says the unit if the data set does (`weight_lb`). The inputs are doubles. MLflow converts
    what a server gets, JSON or CSV, but refuses whole numbers in a DataFrame that a program gives: use
    `rows.astype(float)`. The model checks that all values are finite.
    """
    answer = model.predict(example_rows(model))
    inputs: list[ColSpec | TensorSpec] = [ColSpec("double", name) for name in model.features]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec("string" if name == "label" else "double", name) for name in answer
    ]
    return ModelSignature(Schema(inputs), Schema(outputs))


def example_rows(model: Model) -> Array:
    """Return two raw rows, (2, features): the centre of the training data, and one scale beyond it."""
    return np.stack([model.shift, model.shift + model.scale])
