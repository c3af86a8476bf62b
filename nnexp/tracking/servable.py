"""What MLflow runs to load a model: the last part of its file of code (see model.py)."""

from __future__ import annotations

from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from nnexp.network.weights import unpack


class TrainedNetwork(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """Raw rows with the columns the network was trained on -> y_pred; for classes, label and probability."""

    def load_context(self, context: Any) -> None:
        self.model = unpack(Path(context.artifacts["weights"]).read_bytes())

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """One row for each row given. Raises MlflowException, which a server answers with status 400."""
        columns = [_numbers(model_input, name) for name in self.model.features]
        return pd.DataFrame(self.model.predict(np.column_stack(columns)))


def _numbers(rows: pd.DataFrame, name: str) -> np.ndarray:
    """A column as numbers, of shape (rows,). MLflow has seen to it that the column is there."""
    for i, value in enumerate(rows[name], 1):
        if not isinstance(value, Real) or not isfinite(value):
            raise MlflowException.invalid_parameter_value(
                f"column {name!r}, row {i}: {value!r} is not a finite number"
            )
    return rows[name].to_numpy(dtype=float)


mlflow.models.set_model(TrainedNetwork())
