"""The code of a logged model. MLflow runs this file to load one; it needs NumPy and pandas only."""

from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import pandas as pd

from nnexp.tracking.weights import unpack


class TrainedNetwork(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """Raw rows with the columns the network was trained on -> y_pred and, for classes, label."""

    def load_context(self, context: Any) -> None:
        self.model = unpack(Path(context.artifacts["weights"]).read_bytes())

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        rows = model_input[list(self.model.features)].to_numpy(dtype=float)
        return pd.DataFrame(self.model.predict(rows))


mlflow.models.set_model(TrainedNetwork())
