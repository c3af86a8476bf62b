"""Everything MLflow: open the store, write runs, read them as typed DataFrames.

MLflow reads its environment when it is imported, so what must be set stands here, before any import of it.
"""

import logging
import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_TRUNCATE_LONG_VALUES", "false")  # a cut-off param is a wrong one: raise
os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")

logging.getLogger("mlflow").setLevel(logging.WARNING)  # its notes on migrations and schemas are not for users
