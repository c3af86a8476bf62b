"""Define what MLflow runs to load a model: the last part of the model's file of code (see model.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import MlflowException

from nnexp.network.weights import unpack


class TrainedNetwork(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """A trained network as an MLflow model.

    It takes raw rows with the columns that the network was trained on, and gives y_pred; for classes also
    label and probability.
    """

    def load_context(self, context: Any) -> None:
        self.model = unpack(Path(context.artifacts["weights"]).read_bytes())

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Answer each row with one row. Raises MlflowException, which a server answers with status 400."""
        try:
            answers: pd.DataFrame = self.model.predict(model_input)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return answers


mlflow.models.set_model(TrainedNetwork())
