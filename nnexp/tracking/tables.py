"""Name the tables of MLflow's database, at the revision that nnexp reads and writes by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

# The MLflow migration that made the tables below; a test compares it with the installed MLflow's.
REVISION = "dc11669786a5"

# The most values that a query may name; databases limit it.
MAX_NAMED = 1000

# The most characters that a column takes. PostgreSQL refuses more and SQLite does not, so values are cut to
# these lengths in every store; a test compares them with MLflow's.
MAX_TAG, MAX_NAME, MAX_USER, MAX_METRIC, MAX_DATASET, MAX_URI = 8000, 250, 256, 250, 500, 200


def _table(name: str, columns: str) -> sa.TableClause:
    return sa.table(name, *map(sa.column, columns.split()))


EXPERIMENTS = _table(
    "experiments",
    "experiment_id name artifact_location lifecycle_stage creation_time last_update_time workspace",
)
EXPERIMENT_TAGS = _table("experiment_tags", "key value experiment_id")
RUNS = _table(
    "runs",
    "run_uuid name source_type source_name entry_point_name user_id status start_time end_time deleted_time "
    "source_version lifecycle_stage artifact_uri experiment_id",
)
PARAMS = _table("params", "key value run_uuid")
TAGS = _table("tags", "key value run_uuid")
METRICS = _table("metrics", "key value timestamp run_uuid step is_nan")
LATEST_METRICS = _table("latest_metrics", "key value timestamp run_uuid step is_nan")
DATASETS = _table(
    "datasets",
    "dataset_uuid experiment_id name digest dataset_source_type dataset_source dataset_schema "
    "dataset_profile",
)
INPUTS = _table("inputs", "input_uuid source_type source_id destination_type destination_id step")
INPUT_TAGS = _table("input_tags", "input_uuid name value")


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the ids in parts that a query may name."""
    yield from (ids[start : start + MAX_NAMED] for start in range(0, len(ids), MAX_NAMED))
