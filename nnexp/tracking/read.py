"""Read recorded runs as typed DataFrames: a few SQL queries on a database, the client on a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
import sqlalchemy as sa
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from nnexp.config import RequestError, key_names, unknown
from nnexp.tracking.store import Store, open_store

# Tags that become columns, under plain names. A trained network has a run_key; a sweep's parent has none.
TAG_COLUMNS = {
    "nnexp.sweep_id": "sweep_id",
    "nnexp.outcome": "outcome",
    "nnexp.run_key": "run_key",
    "nnexp.weights_sha256": "weights_sha256",
    "nnexp.data_sha256": "data_sha256",
    "nnexp.engine": "engine",
}
RUN_COLUMNS = ["run_id", "run_name", "status", "start_time", "seconds", *TAG_COLUMNS.values()]
PAGE = 1000

_RUNS = sa.table(
    "runs",
    *map(
        sa.column,
        ["run_uuid", "name", "status", "start_time", "end_time", "experiment_id", "lifecycle_stage"],
    ),
)
_TAGS, _PARAMS = (
    sa.table(name, *map(sa.column, ["run_uuid", "key", "value"])) for name in ("tags", "params")
)
_LATEST, _METRICS = (
    sa.table(name, *map(sa.column, ["run_uuid", "key", "value", "step"]))
    for name in ("latest_metrics", "metrics")
)


def load_runs(
    experiment: str = "nnexp", *, sweep: str | None = None, tracking_uri: str | None = None
) -> pd.DataFrame:
    """One row a run, oldest first: RUN_COLUMNS, then its params, then its last metrics, by their own names
    (but `params.loss` for the param, since the metric is `loss`).

    Numbers are numbers, true and false are booleans, so that learning rates sort as they should. `sweep`
    keeps the runs of one sweep, by its id. Raises RequestError when there is no such store, experiment
    or sweep.
    """
    store = open_store(tracking_uri, create=False)
    runs, tags, params, metrics = _tables(store, _experiment_id(store, experiment))
    runs["seconds"] = (runs["end_time"] - runs["start_time"]) / 1000
    runs["start_time"] = pd.to_datetime(runs["start_time"], unit="ms", utc=True)
    tags = tags[tags["key"].isin(list(TAG_COLUMNS))].replace({"key": TAG_COLUMNS})
    frame = runs.set_index("run_id").join(_wide(tags).reindex(columns=list(TAG_COLUMNS.values())))
    if sweep is not None:
        frame = frame[frame["sweep_id"] == sweep]
        if frame.empty:
            raise RequestError(f"no runs of a sweep {sweep!r} in experiment {experiment!r}")
    frame = frame.sort_values(["start_time", "run_name"], kind="stable")
    values = _wide(params).reindex(frame.index).dropna(axis=1, how="all").apply(_typed)
    order = {key: i for i, key in enumerate(key_names())}
    values = values[sorted(values, key=lambda key: (order.get(str(key), len(order)), key))]
    last = _wide(metrics).reindex(frame.index).dropna(axis=1, how="all")
    # The loss is a param (which function) and a metric (its value); the value keeps the short name.
    values = values.rename(columns={"loss": "params.loss"})
    frame = frame.join(values).join(last).reset_index()
    return frame[[*RUN_COLUMNS, *values, *last]]


def load_history(
    runs: pd.DataFrame, metrics: Sequence[str] = ("loss",), *, tracking_uri: str | None = None
) -> pd.DataFrame:
    """The curves of these runs, tidy: columns run_id, metric, epoch (completed), value; by run and epoch."""
    store = open_store(tracking_uri, create=False)
    wanted = set(runs["run_id"])
    columns = ["run_id", "metric", "epoch", "value"]
    if store.is_database:
        query = sa.select(_METRICS.c.run_uuid, _METRICS.c.key, _METRICS.c.step, _METRICS.c.value).where(
            _METRICS.c.key.in_(list(metrics))
        )
        if len(wanted) <= PAGE:  # a database limits how many values a query may name
            query = query.where(_METRICS.c.run_uuid.in_(sorted(wanted)))
        frame = _query(store, query, columns)
        frame = frame[frame["run_id"].isin(wanted)]
    else:
        points = [
            (run_id, metric, point.step, point.value)
            for run_id in sorted(wanted)
            for metric in metrics
            for point in store.client.get_metric_history(run_id, metric)
        ]
        frame = pd.DataFrame(points, columns=columns)
    return frame.sort_values(["run_id", "metric", "epoch"], ignore_index=True)


def get_run(store: Store, run_id: str) -> Run:
    """One run of ours. Raises RequestError when there is none by this id."""
    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        raise RequestError(f"no run {run_id!r} in this store") from error
    if "nnexp.run_key" not in run.data.tags:
        what = "a sweep" if "nnexp.sweep" in run.data.tags else "not a run of nnexp"
        raise RequestError(f"run {run_id} is {what}; give the id of one trained network")
    return run


def _experiment_id(store: Store, name: str) -> str:
    experiment = store.client.get_experiment_by_name(name)
    if experiment is None:
        raise unknown("experiment", name, [e.name for e in store.client.search_experiments()])
    found: str = experiment.experiment_id
    return found


def _tables(
    store: Store, experiment_id: str
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Runs (run_id, run_name, status, start_time, end_time) and their tags, params and last metrics
    (run_id, key, value)."""
    run_columns = ["run_id", "run_name", "status", "start_time", "end_time"]
    value_columns = ["run_id", "key", "value"]
    if store.is_database:
        ours = (
            sa.select(_RUNS.c.run_uuid)
            .join(_TAGS, _TAGS.c.run_uuid == _RUNS.c.run_uuid)
            .where(
                _RUNS.c.experiment_id == int(experiment_id),
                _RUNS.c.lifecycle_stage == "active",
                _TAGS.c.key == "nnexp.run_key",
            )
        )
        r = _RUNS.c
        runs = sa.select(r.run_uuid, r.name, r.status, r.start_time, r.end_time)
        frames = [_query(store, runs.where(r.run_uuid.in_(ours)), run_columns)]
        for table in (_TAGS, _PARAMS, _LATEST):
            t = table.c
            query = sa.select(t.run_uuid, t.key, t.value).where(t.run_uuid.in_(ours))
            frames.append(_query(store, query, value_columns))
        return frames[0], frames[1], frames[2], frames[3]
    found = list(_server_runs(store, experiment_id))
    info = [
        (r.info.run_id, r.info.run_name, r.info.status, r.info.start_time, r.info.end_time) for r in found
    ]
    return (
        pd.DataFrame(info, columns=run_columns).astype({"end_time": float}),
        *(
            pd.DataFrame(
                [(r.info.run_id, k, v) for r in found for k, v in getattr(r.data, kind).items()],
                columns=value_columns,
            )
            for kind in ("tags", "params", "metrics")
        ),
    )  # type: ignore[return-value]


def _server_runs(store: Store, experiment_id: str) -> Iterator[Run]:
    token = None
    while True:
        page = store.client.search_runs([experiment_id], max_results=PAGE, page_token=token)
        yield from (run for run in page if "nnexp.run_key" in run.data.tags)
        token = page.token
        if not token:
            return


def _query(store: Store, query: sa.Select[tuple[object, ...]], columns: Sequence[str]) -> pd.DataFrame:
    engine = sa.create_engine(store.uri)
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    engine.dispose()
    return pd.DataFrame([tuple(row) for row in rows], columns=list(columns))


def _wide(values: pd.DataFrame) -> pd.DataFrame:
    """(run_id, key, value) -> a row a run, a column a key."""
    return values.pivot(index="run_id", columns="key", values="value").rename_axis(columns=None)


def _typed(column: pd.Series) -> pd.Series:
    """A column of text as numbers or booleans where all of it is."""
    known = column.dropna()
    if known.isin(["true", "false"]).all():
        return column.map({"true": True, "false": False})
    numbers = pd.to_numeric(known, errors="coerce")
    return column if numbers.isna().any() else pd.to_numeric(column)
