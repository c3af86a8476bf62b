"""Find recorded runs by their tags, and read one of them, from a database or through a server."""

from __future__ import annotations

import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from nnexp.config.errors import RequestError
from nnexp.config.text import masked, printable, shortened
from nnexp.network.weights import Model, NotWeights, unpack, weights_sha256
from nnexp.tracking.experiments import Experiment
from nnexp.tracking.places import place_of
from nnexp.tracking.store import Store, StoreLost
from nnexp.tracking.tables import LATEST_METRICS, METRICS, PARAMS, RUNS, TAGS

# The artifact of a sweep's parent that says which runs the sweep is of: a run_key a line.
SWEEP_KEYS = "run_keys.txt"
# Runs a server sends at a time.
PAGE = 1000
# Points a server sends at a time; how many items are read, and how many pages in turn that bring nothing new.
POINTS_PAGE, MAX_ITEMS, MAX_IDLE = 25_000, 2_000_000, 3
# The largest file that is read because a record names it; a network of sixty million weights has one such.
MAX_BYTES = 1 << 30
# Where a server may have its artifacts besides a directory: what MLflow would ask another host for, with the
# server's password, is not read.
REMOTE = ("mlflow-artifacts", "s3", "gs", "abfss", "wasbs")


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
    with store.reading() as connection:
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


def get_any(store: Store, run_id: str) -> Detail:
    """One recorded run, a network or a sweep. Raises RequestError when there is none by this id."""
    found = _detail(store, run_id)
    if found is None:
        raise RequestError(f"no run {shortened(run_id)!r} in this store")
    return found


def get_run(store: Store, run_id: str) -> Detail:
    """One trained network of ours. Raises RequestError when there is none by this id."""
    found = get_any(store, run_id)
    if not found.tags.keys() & {"nnexp.run_key", "nnexp.rerun_key"}:
        what = "a sweep" if "nnexp.sweep" in found.tags else "not a run of nnexp"
        raise RequestError(f"run {run_id} is {what}; give the id of one trained network")
    return found


def get_curve(store: Store, run_id: str, metric: str) -> list[tuple[int, float]]:
    """A metric of one run over completed epochs. Raises RequestError where there is other than numbers."""
    if not store.is_known:
        points = history(store, run_id, metric)
        return sorted((point.step, point.value) for point in points)
    t = METRICS.c
    this = (t.run_uuid == run_id) & (t.key == metric)
    query = sa.select(t.step, t.value, t.is_nan).where(this).order_by(t.step)
    with store.reading() as connection:
        return [
            (whole_of(run_id, step), number_of(run_id, math.nan if is_nan else value))
            for step, value, is_nan in connection.execute(query)
        ]


def get_sweep(store: Store, sweep_id: str) -> Detail | None:
    """The parent run of a sweep, None where there is none by this id."""
    found = _detail(store, sweep_id)
    return found if found is not None and "nnexp.sweep" in found.tags else None


def read_artifact(store: Store, run: Detail, name: str) -> bytes:
    """An artifact's bytes. Raises FileNotFoundError when the run has none by this name, RequestError where
    its record leads anywhere but to the run's own files."""
    if ".." in name.split("/"):  # a part of it, a data set's hash, is recorded, too
        raise RequestError(f"run {run.run_id}: its artifact {shortened(name)!r} lies elsewhere")
    place = place_of(store.uri, run.artifact_uri)
    if place is not None:
        return _own_file(place, run.run_id, name)
    address = urlsplit(run.artifact_uri)
    if address.scheme not in REMOTE or (address.scheme == "mlflow-artifacts" and address.netloc):
        raise RequestError(
            f"run {run.run_id}: its artifacts are at {shortened(run.artifact_uri)!r}, and are not read"
        )
    if address.scheme == "mlflow-artifacts" and not store.uri.startswith("http"):
        raise RequestError(
            f"run {run.run_id}: a server keeps its artifacts: give the server's address as tracking_uri"
        )
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as directory:
        try:
            path = Path(store.client.download_artifacts(run.run_id, name, directory))
        except MlflowException as error:
            raise FileNotFoundError(name) from error
        return _bytes(path, run.run_id, name)


def _own_file(place: Path, run_id: str, name: str) -> bytes:
    """A file in a run's own directory, EXPERIMENT/RUN_ID/artifacts. The directory of the experiment may be
    reached by a link, as somebody set it up so; in the run's own there are none."""
    if place.parts[-2:] != (run_id, "artifacts") or ".." in place.parts or "\0" in str(place):
        raise RequestError(
            f"run {run_id}: its artifacts are at {shortened(str(place))!r}, not in a directory of its own"
        )
    path = Path(os.path.realpath(place.parent.parent), run_id, "artifacts", name)
    if os.path.realpath(path) != str(path):
        raise RequestError(f"run {run_id}: its artifact {name} is a link, or lies elsewhere")
    return _bytes(path, run_id, name)


def _bytes(path: Path, run_id: str, name: str) -> bytes:
    """A file's bytes. What is no file of a bearable size is not opened: a pipe would never end."""
    try:
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES:
            raise RequestError(f"run {run_id}: its artifact {name} is no file of at most {MAX_BYTES:,} bytes")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(name) from None
    except OSError as error:
        raise RequestError(f"run {run_id}: its artifact {name} cannot be read: {error.strerror}") from error


def read_weights(store: Store, run: Detail) -> bytes:
    """A run's weights.npz. Raises RequestError when it has none, or another than its training ended with."""
    return _weights(store, run)[0]


def read_model(store: Store, run: Detail) -> Model:
    """The trained network of a run. Raises RequestError as `read_weights` does."""
    return _weights(store, run)[1]


def _weights(store: Store, run: Detail) -> tuple[bytes, Model]:
    try:
        content = read_artifact(store, run, "weights.npz")
        model = unpack(content)
    except FileNotFoundError as error:
        raise RequestError(f"run {run.run_id} has no weights.npz; did it finish?") from error
    except NotWeights as error:
        raise RequestError(f"run {run.run_id}: {error}") from error
    recorded = run.tags.get("nnexp.weights_sha256")
    if recorded is not None and recorded != weights_sha256(model.network.layers):
        raise RequestError(f"run {run.run_id}: its weights.npz is not the one that was recorded (SHA-256)")
    return content, model


def find_artifact(store: Store, run: Detail, name: str) -> bytes | None:
    """An artifact's bytes, None when the run has none by this name."""
    try:
        return read_artifact(store, run, name)
    except FileNotFoundError:
        return None


def recorded_keys(store: Store, sweep: Detail) -> list[str]:
    """The keys of a sweep's runs. Raises RequestError when its record has lost them."""
    content = find_artifact(store, sweep, SWEEP_KEYS)
    if content is None:
        raise RequestError(f"sweep {sweep.run_id}: its artifact {SWEEP_KEYS} is not there")
    return content.decode().split()


def _detail(store: Store, run_id: str) -> Detail | None:
    """A run, its texts fit to be printed. What is no run's id is nobody's."""
    if not re.fullmatch("[0-9a-f]{32}", run_id):
        return None
    parts = _database_parts(store, run_id) if store.is_known else _client_parts(store, run_id)
    if parts is None:
        return None
    head, params, metrics, tags = parts
    name, status, artifact_uri, experiment_id = (text_of(run_id, text) for text in head)
    return Detail(
        run_id,
        name,
        status,
        artifact_uri,
        experiment_id,
        {text_of(run_id, key): text_of(run_id, value) for key, value in params},
        {text_of(run_id, key): number_of(run_id, value) for key, value in metrics},
        {text_of(run_id, key): text_of(run_id, value) for key, value in tags},
    )


# A run's name, status, artifact_uri and experiment_id; its params, last metrics and tags.
_Parts = tuple[Sequence[Any], Iterable[Any], Iterable[Any], Iterable[Any]]


def _client_parts(store: Store, run_id: str) -> _Parts | None:
    from mlflow.exceptions import MlflowException

    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    info, data = run.info, run.data
    head = info.run_name, info.status, info.artifact_uri, info.experiment_id
    return head, data.params.items(), data.metrics.items(), data.tags.items()


def _database_parts(store: Store, run_id: str) -> _Parts | None:
    r = RUNS.c
    query = sa.select(r.name, r.status, r.artifact_uri, sa.cast(r.experiment_id, sa.Text))
    with store.reading() as connection:
        head = connection.execute(query.where(r.run_uuid == run_id, r.lifecycle_stage == "active")).first()
        if head is None:
            return None
        params, tags = (
            connection.execute(sa.select(t.c.key, t.c.value).where(t.c.run_uuid == run_id)).all()
            for t in (PARAMS, TAGS)
        )
        m = LATEST_METRICS.c
        metrics = connection.execute(sa.select(m.key, m.value, m.is_nan).where(m.run_uuid == run_id)).all()
    return head, params, [(key, math.nan if is_nan else value) for key, value, is_nan in metrics], tags


# --- What a database holds is of whatever type was put there.


def text_of(run_id: str, value: object) -> str:
    """A text of the record, fit to be printed. Raises RequestError."""
    if not isinstance(value, str):
        raise RequestError(f"run {run_id}: its record holds {shortened(repr(value))} where a text belongs")
    return value if value.isprintable() else printable(value)


def number_of(run_id: str, value: object) -> float:
    if not isinstance(value, int | float):
        raise RequestError(f"run {run_id}: its record holds {shortened(repr(value))} where a number belongs")
    return value


def whole_of(run_id: str, value: object) -> int:
    if not isinstance(value, int):
        raise RequestError(f"run {run_id}: its record holds {shortened(repr(value))} where a step belongs")
    return value


def entities(store: Store, experiment: Experiment, where: str) -> list[Any]:
    """MLflow's entities of the runs for which its filter holds, oldest first."""
    return _all_pages(
        store,
        lambda token: store.client.search_runs(
            [experiment.id],
            where,
            max_results=PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        ),
        lambda run: run.info.run_id,
    )


def history(store: Store, run_id: str, metric: str) -> list[Any]:
    """MLflow's entities of a metric's points, as a server has them."""
    # As the client's own get_metric_history, which reads on for as long as there is a page.
    ask = store.client._tracking_client.store.get_metric_history
    return _all_pages(
        store,
        lambda token: ask(run_id=run_id, metric_key=metric, max_results=POINTS_PAGE, page_token=token),
        lambda point: (point.step, point.timestamp, point.value),
    )


def _all_pages(store: Store, ask: Callable[[str | None], Any], key: Callable[[Any], Hashable]) -> list[Any]:
    """All that a server has, page by page. Raises StoreLost where its pages bring nothing new, or do not
    end."""
    found: dict[Hashable, Any] = {}
    token, idle = None, 0
    while True:
        before = len(found)
        page = ask(token)
        found |= {key(item): item for item in page}
        token = page.token
        if not token:
            return list(found.values())
        idle = idle + 1 if len(found) == before else 0
        if idle > MAX_IDLE or len(found) > MAX_ITEMS:
            raise StoreLost(f"{masked(store.uri)}: the server sends pages without end")
