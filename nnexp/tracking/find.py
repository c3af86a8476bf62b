"""Find recorded runs by their tags, and read one of them, from a database or through a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from nnexp.config import RequestError
from nnexp.tracking.store import Experiment, Store, local_path
from nnexp.tracking.tables import LATEST_METRICS, METRICS, PARAMS, RUNS, TAGS
from nnexp.tracking.weights import Model, unpack

# The artifact of a sweep's parent that says which runs the sweep is of: a run_key a line.
SWEEP_KEYS = "run_keys.txt"
# Runs a server sends at a time.
PAGE = 1000


@dataclass(frozen=True)
class Found:
    """A recorded run in short: its id, its status and some of its tags."""

    run_id: str
    status: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Detail:
    """All of one recorded run but its curves and artifacts."""

    run_id: str
    name: str
    status: str
    artifact_uri: str
    experiment_id: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def find_runs(store: Store, experiment: Experiment, tag: str, others: Sequence[str] = ()) -> list[Found]:
    """The runs of the experiment that have this tag, oldest first, with it and those of `others`."""
    if not store.is_known:
        return search(store, experiment, f"tags.`{tag}` != ''")
    r, t = RUNS.c, TAGS.c
    # One query, so that status and tags are of one moment, whoever else records.
    query = (
        sa.select(r.run_uuid, r.status, t.key, t.value)
        .join(TAGS, t.run_uuid == r.run_uuid)
        .where(having(experiment, tag), t.key.in_([tag, *others]))
        .order_by(r.start_time, r.run_uuid)
    )
    tags_of: dict[tuple[str, str], dict[str, str]] = {}
    with store.engine.connect() as connection:
        for run_id, status, key, value in connection.execute(query):
            tags_of.setdefault((run_id, status), {})[key] = value
    return [Found(run_id, status, tags) for (run_id, status), tags in tags_of.items()]


def having(experiment: Experiment, tag: str) -> sa.ColumnElement[bool]:
    """The condition on a database's runs that they are of the experiment, not deleted, and have this tag."""
    tagged = sa.select(TAGS.c.run_uuid).where(TAGS.c.key == tag)
    r = RUNS.c
    return (r.experiment_id == int(experiment.id)) & (r.lifecycle_stage == "active") & r.run_uuid.in_(tagged)


def search(store: Store, experiment: Experiment, where: str) -> list[Found]:
    """The runs of a server's experiment for which MLflow's filter holds, oldest first, with all tags."""
    return [
        Found(run.info.run_id, run.info.status, run.data.tags) for run in entities(store, experiment, where)
    ]


def get_run(store: Store, run_id: str) -> Detail:
    """One run of ours. Raises RequestError when there is none by this id."""
    found = _detail(store, run_id)
    if found is None:
        raise RequestError(f"no run {run_id!r} in this store")
    if "nnexp.run_key" not in found.tags:
        what = "a sweep" if "nnexp.sweep" in found.tags else "not a run of nnexp"
        raise RequestError(f"run {run_id} is {what}; give the id of one trained network")
    return found


def get_curve(store: Store, run_id: str, metric: str) -> list[tuple[int, float]]:
    """A metric of one run over completed epochs."""
    if not store.is_known:
        points = store.client.get_metric_history(run_id, metric)
        return sorted((point.step, point.value) for point in points)
    t = METRICS.c
    query = sa.select(t.step, t.value).where(t.run_uuid == run_id, t.key == metric).order_by(t.step)
    with store.engine.connect() as connection:
        return [(step, value) for step, value in connection.execute(query)]


def get_sweep(store: Store, sweep_id: str) -> Detail | None:
    """The parent run of a sweep, None where there is none by this id."""
    found = _detail(store, sweep_id)
    return found if found is not None and "nnexp.sweep" in found.tags else None


def read_artifact(store: Store, run: Detail, name: str) -> bytes:
    """An artifact's bytes. Raises FileNotFoundError when the run has none by this name."""
    place = local_path(run.artifact_uri)
    if place is not None:
        return (place / name).read_bytes()
    from mlflow.exceptions import MlflowException

    try:
        return Path(store.client.download_artifacts(run.run_id, name)).read_bytes()
    except MlflowException as error:
        raise FileNotFoundError(name) from error


def read_weights(store: Store, run: Detail) -> bytes:
    """A run's weights.npz. Raises RequestError when it has none."""
    try:
        return read_artifact(store, run, "weights.npz")
    except FileNotFoundError as error:
        raise RequestError(f"run {run.run_id} has no weights.npz; did it finish?") from error


def read_model(store: Store, run: Detail) -> Model:
    """The trained network of a run. Raises RequestError when its weights are not there."""
    return unpack(read_weights(store, run))


def _detail(store: Store, run_id: str) -> Detail | None:
    if not store.is_known:
        from mlflow.exceptions import MlflowException

        try:
            run = store.client.get_run(run_id)
        except MlflowException:
            return None
        info, data = run.info, run.data
        head = (run_id, info.run_name, info.status, info.artifact_uri, info.experiment_id)
        return Detail(*head, data.params, data.metrics, data.tags)
    with store.engine.connect() as connection:
        r = RUNS.c
        row = connection.execute(
            sa.select(r.name, r.status, r.artifact_uri, r.experiment_id).where(
                r.run_uuid == run_id, r.lifecycle_stage == "active"
            )
        ).first()
        if row is None:
            return None
        texts: list[dict[str, Any]] = []
        for table in (PARAMS, LATEST_METRICS, TAGS):
            t = table.c
            pairs = connection.execute(sa.select(t.key, t.value).where(t.run_uuid == run_id))
            texts.append({row.key: row.value for row in pairs})
        params, metrics, tags = texts
    return Detail(run_id, row[0], row[1], row[2], str(row[3]), params, metrics, tags)


def entities(store: Store, experiment: Experiment, where: str) -> list[Any]:
    """MLflow's entities of the runs for which its filter holds, oldest first."""
    found: list[Any] = []
    token = None
    while True:
        page = store.client.search_runs(
            [experiment.id],
            where,
            max_results=PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            return found
