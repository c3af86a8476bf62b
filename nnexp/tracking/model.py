"""Log a trained network as an MLflow model: raw rows in, the output and the label out.

The model is code (`nnexp/tracking/servable.py`) beside the run's own weights.npz; nothing is pickled.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from nnexp.dataset import PROJECT, Dataset
from nnexp.progress import uninterrupted
from nnexp.tracking.store import Store
from nnexp.tracking.weights import unpack

REQUIREMENTS = ("mlflow", "numpy", "pandas")


@uninterrupted()
def log_model(store: Store, run_id: str, dataset: Dataset, weights: bytes) -> None:
    """Log the network of these packed weights as the run's model, named after its data set."""
    inputs = Schema([ColSpec("double", name) for name in dataset.features])
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec("double", name) for name in unpack(weights).output_columns()
    ]
    outputs += [ColSpec("string", "label")] * bool(dataset.classes)
    mlflow.set_tracking_uri(store.uri)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "weights.npz")
        file.write_bytes(weights)
        with mlflow.start_run(run_id=run_id):
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("servable.py")),
                artifacts={"weights": str(file)},
                signature=ModelSignature(inputs, Schema(outputs)),
                input_example=pd.DataFrame(dataset.X[:2], columns=list(dataset.features)),
                pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
                code_paths=[str(PROJECT / "nnexp")],
            )
