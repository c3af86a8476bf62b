"""What MLflow runs to load a model: the last part of its file of code (see model.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import MlflowException

from nnexp.network.weights import unpack


class TrainedNetwork(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """Raw rows with the columns the network was trained on -> y_pred; for classes, label and probability."""

    def load_context(self, context: Any) -> None:
        self.model = unpack(Path(context.artifacts["weights"]).read_bytes())

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """One row for each row given. Raises MlflowException, which a server answers with status 400."""
        try:
            answers: pd.DataFrame = self.model.predict(model_input)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return answers


mlflow.models.set_model(TrainedNetwork())
