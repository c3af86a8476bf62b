"""Read recorded runs as typed DataFrames: a few SQL queries on a database, the client on a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import sqlalchemy as sa

from nnexp.config import RequestError, key_names
from nnexp.tracking.find import SWEEP_KEYS, entities, get_sweep, read_artifact
from nnexp.tracking.store import Experiment, Store, find_experiment, open_store
from nnexp.tracking.tables import LATEST_METRICS, METRICS, PARAMS, RUNS, TAGS

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
# A database limits how many values a query may name.
MAX_NAMED = 1000


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
    place = find_experiment(store, experiment)
    keys = None if sweep is None else _keys_of(store, place, sweep)
    runs, tags, params, metrics = _tables(store, place)
    runs["seconds"] = (runs["end_time"] - runs["start_time"]) / 1000
    runs["start_time"] = pd.to_datetime(runs["start_time"], unit="ms", utc=True)
    wide_tags = _wide(tags).reindex(columns=list(TAG_COLUMNS)).rename(columns=TAG_COLUMNS)
    frame = runs.set_index("run_id").join(wide_tags)
    if keys is not None:
        frame = frame[frame["run_key"].isin(keys)]
    frame = frame.sort_values(["start_time", "run_name", "run_key"], kind="stable")
    values = _typed(params).reindex(frame.index).dropna(axis=1, how="all")
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
    if store.is_known:
        t = METRICS.c
        query = sa.select(t.run_uuid, t.key, t.step, t.value).where(t.key.in_(list(metrics)))
        if len(wanted) <= MAX_NAMED:
            query = query.where(t.run_uuid.in_(sorted(wanted)))
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


def _keys_of(store: Store, experiment: Experiment, sweep: str) -> set[str]:
    """The keys of a sweep's runs. Raises RequestError when there is no such sweep."""
    parent = get_sweep(store, sweep)
    if parent is None:
        raise RequestError(f"no runs of a sweep {sweep!r} in experiment {experiment.name!r}")
    try:
        return set(read_artifact(store, parent, SWEEP_KEYS).decode().split())
    except FileNotFoundError:
        raise RequestError(f"sweep {sweep}: its artifact {SWEEP_KEYS} is not there") from None


def _tables(
    store: Store, experiment: Experiment
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Runs (run_id, run_name, status, start_time, end_time) and their tags, params and last metrics
    (run_id, key, value)."""
    run_columns = ["run_id", "run_name", "status", "start_time", "end_time"]
    value_columns = ["run_id", "key", "value"]
    if store.is_known:
        r = RUNS.c
        having = sa.select(TAGS.c.run_uuid).where(TAGS.c.key == "nnexp.run_key")
        here = (
            (r.experiment_id == int(experiment.id)) & (r.lifecycle_stage == "active") & r.run_uuid.in_(having)
        )
        runs = sa.select(r.run_uuid, r.name, r.status, r.start_time, r.end_time)
        frames = [_query(store, runs.where(here), run_columns)]
        ids = sa.select(r.run_uuid).where(here)
        for table in (TAGS, PARAMS, LATEST_METRICS):
            t = table.c
            query = sa.select(t.run_uuid, t.key, t.value).where(t.run_uuid.in_(ids))
            if table is TAGS:
                query = query.where(t.key.in_(list(TAG_COLUMNS)))
            frames.append(_query(store, query, value_columns))
        frames[0]["end_time"] = frames[0]["end_time"].astype(float)  # a run that goes on has none
        return frames[0], frames[1], frames[2], frames[3]
    found = entities(store, experiment, "tags.`nnexp.run_key` != ''")
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


def _query(store: Store, query: sa.Select[Any], columns: Sequence[str]) -> pd.DataFrame:
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return pd.DataFrame.from_records([tuple(row) for row in rows], columns=list(columns))


def _wide(values: pd.DataFrame) -> pd.DataFrame:
    """(run_id, key, value) -> a row a run, a column a key."""
    return values.pivot(index="run_id", columns="key", values="value").rename_axis(columns=None)


def _typed(values: pd.DataFrame) -> pd.DataFrame:
    """As `_wide`, with columns of text as numbers or booleans where all of it is."""
    texts = _wide(values)
    return texts.apply(_typed_column)


def _typed_column(column: pd.Series) -> pd.Series:
    known = column.dropna()
    if known.isin(["true", "false"]).all():
        return column.map({"true": True, "false": False})
    numbers = pd.to_numeric(known, errors="coerce")
    return column if numbers.isna().any() else pd.to_numeric(column)
