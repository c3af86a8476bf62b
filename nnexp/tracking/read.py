"""Read recorded runs as typed DataFrames: a few SQL queries on a database, the client on a server."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from nnexp.config.errors import RequestError
from nnexp.config.run import key_names
from nnexp.config.text import printable, shortened
from nnexp.network.weights import Model, NotWeights, unpack
from nnexp.tracking.experiments import Experiment, find_experiment, get_experiment
from nnexp.tracking.find import entities, get_run, get_sweep, having, history, read_model, recorded_keys
from nnexp.tracking.named import whole_id
from nnexp.tracking.store import Store, open_store
from nnexp.tracking.tables import LATEST_METRICS, MAX_NAMED, METRICS, PARAMS, RUNS, TAGS
from nnexp.tracking.whole import missing_tag, tell

# Tags that become columns, under plain names. A trained network has a run_key; a sweep's parent has none.
TAG_COLUMNS = {
    "nnexp.sweep_id": "sweep_id",
    "nnexp.outcome": "outcome",
    "nnexp.reason": "reason",
    "nnexp.run_key": "run_key",
    "nnexp.weights_sha256": "weights_sha256",
    "nnexp.data_sha256": "data_sha256",
    "nnexp.engine": "engine",
}
# Params that are numbers in every record.
NUMBERS = frozenset(
    {"learning_rate", "epochs", "seed", "validation_fraction", "log_every", "weights_every", "init.scale"}
)
# Milliseconds until the year 2255; pandas' own time ends soon after.
MAX_TIME = 9_000_000_000_000


def load_runs(
    experiment: str | None = None, *, sweep: str | None = None, tracking_uri: str | None = None
) -> pd.DataFrame:
    """One row a run, oldest first: run_id, run_name, status, start_time, seconds, what TAG_COLUMNS names,
    then its params, then its last metrics, by their own names (but `params.loss` for the param, as the metric
    is `loss`).

    Numbers are numbers, true and false are booleans, so that learning rates sort as they should. `sweep`
    keeps the runs of one sweep, by its id. The experiment is the sweep's, or `nnexp`, unless told. Raises
    RequestError when there is no such store, experiment or sweep, or the sweep is of another experiment.
    """
    store = open_store(tracking_uri, create=False)
    if sweep is None:
        return read_runs(store, find_experiment(store, experiment or "nnexp"))
    parent = get_sweep(store, whole_id(store, sweep, "sweep"))
    if parent is None:
        raise RequestError(f"no sweep {shortened(sweep)!r} in this store")
    place = get_experiment(store, parent.experiment_id)
    if experiment not in (None, place.name):
        raise RequestError(f"sweep {parent.run_id} is of experiment {place.name!r}, not of {experiment!r}")
    return read_runs(store, place, parent.run_id)


def read_runs(store: Store, experiment: Experiment, sweep: str | None = None) -> pd.DataFrame:
    """As `load_runs`, from a store that is open. Raises RequestError when there is no such sweep."""
    runs = _database_runs(store, experiment) if store.is_known else _server_runs(store, experiment)
    if sweep is not None:
        keys = sweep_keys(store, experiment, sweep)
        runs = [run for run in runs if run.tags["nnexp.run_key"] in keys]
    runs = _that_count([run.checked() for run in runs])
    runs.sort(key=lambda run: (run.start_time, run.name, run.tags["nnexp.run_key"]))
    frame = pd.DataFrame(
        {
            "run_id": [run.run_id for run in runs],
            "run_name": [run.name for run in runs],
            "status": [run.status for run in runs],
            "start_time": pd.to_datetime([run.start_time for run in runs], unit="ms", utc=True),
            "seconds": [
                None if run.end_time is None else (run.end_time - run.start_time) / 1000 for run in runs
            ],
        }
        | {name: [run.tags.get(tag) for run in runs] for tag, name in TAG_COLUMNS.items()}
    ).astype({"seconds": float})
    order = {key: i for i, key in enumerate(key_names())}
    all_params, all_metrics = [run.params for run in runs], [run.metrics for run in runs]
    params: set[str] = set().union(*all_params)
    metrics: set[str] = set().union(*all_metrics)
    # The loss is a param (which function) and a metric (its value); the value keeps the short name.
    values = {
        f"params.{key}" if key == "loss" or key in frame else key: _typed(
            [some.get(key) for some in all_params]
        )
        for key in sorted(params, key=lambda key: (order.get(key, len(order)), key))
    }
    last_values = {
        f"metrics.{key}" if key in frame or key in values else key: pd.Series(
            [last.get(key) for last in all_metrics], dtype=float
        )
        for key in sorted(metrics)
    }
    return pd.concat([frame, pd.DataFrame(values | last_values)], axis=1)


def _that_count(runs: list[_Run]) -> list[_Run]:
    """The runs without those that finished and whose record was edited: they are named."""
    lacking = {
        run.run_id: what
        for run in runs
        if run.status == "FINISHED" and (what := missing_tag(run.tags) or _no_number(run.params))
    }
    tell(lacking, "it is left out")
    return [run for run in runs if run.run_id not in lacking]


def _no_number(params: Mapping[str, str]) -> str:
    """Which param that is a number is none, in words; empty where all are."""
    for key in NUMBERS & params.keys():
        try:
            float(params[key])
        except ValueError:
            return f"its param {key} is {shortened(params[key], 40)!r}, which is no number"
    return ""


def load_history(
    runs: pd.DataFrame, metrics: Sequence[str] = ("loss",), *, tracking_uri: str | None = None
) -> pd.DataFrame:
    """The curves of these runs, tidy: columns run_id, metric, epoch (completed), value; by run and epoch."""
    return read_history(open_store(tracking_uri, create=False), runs, metrics)


def read_history(
    store: Store, runs: pd.DataFrame, metrics: Sequence[str], epochs: Sequence[int] | None = None
) -> pd.DataFrame:
    """As `load_history`, from a store that is open; of a database, only the points at these epochs."""
    columns = ["run_id", "metric", "epoch", "value"]
    wanted = sorted(set(runs["run_id"]))
    if store.is_known:
        t = METRICS.c
        are_asked = t.key.in_(list(metrics)) & (t.is_nan == sa.false())
        query = sa.select(t.run_uuid, t.key, t.step, t.value).where(are_asked)
        if epochs is not None:
            query = query.where(t.step.in_(list(epochs)))
        # Of few runs, or few of their points, the index knows where they are.
        chunks = [wanted[i : i + MAX_NAMED] for i in range(0, len(wanted), MAX_NAMED)]
        is_sparse = len(chunks) <= 1 or epochs is not None
        queries = [query.where(t.run_uuid.in_(some)) for some in chunks] if is_sparse else [query]
        with store.reading() as connection:
            rows = [tuple(row) for some in queries for row in connection.execute(some)]
        frame = pd.DataFrame.from_records(rows, columns=columns)
        frame = frame[frame["run_id"].isin(wanted)]
        if len(frame) and not frame[["epoch", "value"]].dtypes.map(pd.api.types.is_numeric_dtype).all():
            raise RequestError(f"the curves of {', '.join(metrics)} hold values that are no numbers")
    else:
        asked = [(run_id, metric) for run_id in wanted for metric in metrics]
        histories = store.each(lambda one: history(store, *one), asked)
        points = [
            (*one, point.step, point.value)
            for one, curve in zip(asked, histories, strict=True)
            for point in curve
        ]
        frame = pd.DataFrame(points, columns=columns)
    return frame.sort_values(["run_id", "metric", "epoch"], ignore_index=True)


def load_network(source: str | PathLike[str], *, tracking_uri: str | None = None) -> Model:
    """The trained network of a run, by its id, or of a weights.npz, by its path.

    `.predict(X)` takes raw rows (n, features) to columns of outputs and labels, a DataFrame that has the
    features to a DataFrame, and `.outputs(X)` an array to one (n, outputs); `.network.layers` is
    ((W1, b1), …), W of shape (fan_out, fan_in). Raises RequestError.
    """
    path = Path(source)
    if path.suffix != ".npz":
        store = open_store(tracking_uri, create=False)
        return read_model(store, get_run(store, whole_id(store, str(source), "run")))
    try:
        return unpack(path.read_bytes())
    except NotWeights as error:
        raise RequestError(f"{path}: {error}") from error
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"{path}: is no weights.npz: {error}") from error


def sweep_keys(store: Store, experiment: Experiment, sweep: str) -> set[str]:
    """The keys of a sweep's runs. Raises RequestError when there is no such sweep."""
    parent = get_sweep(store, sweep)
    if parent is None:
        raise RequestError(f"no runs of a sweep {sweep!r} in experiment {experiment.name!r}")
    return set(recorded_keys(store, parent))


@dataclass(frozen=True)
class _Run:
    """A recorded run without its curves; times in milliseconds."""

    run_id: str
    name: str
    status: str
    start_time: int
    end_time: int | None
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]

    def checked(self) -> _Run:
        """The run, its texts fit to be printed. Raises RequestError for values of other types than these."""
        texts = [self.name, self.status, *self.tags.values(), *self.params.values()]
        times = [self.start_time, self.start_time if self.end_time is None else self.end_time]
        if not (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(value, int | float) for value in self.metrics.values())
            and all(isinstance(time, int) and 0 <= time < MAX_TIME for time in times)
        ):
            raise RequestError(f"run {shortened(self.run_id)}: its record holds values of the wrong type")
        if all(map(str.isprintable, [*texts, *self.params, *self.metrics])):
            return self
        return _Run(
            self.run_id,
            printable(self.name),
            printable(self.status),
            self.start_time,
            self.end_time,
            {printable(key): printable(value) for key, value in self.params.items()},
            {key: printable(value) for key, value in self.tags.items()},
            {printable(key): value for key, value in self.metrics.items()},
        )


def _database_runs(store: Store, experiment: Experiment) -> list[_Run]:
    """The trained networks of the experiment. A run's params come as one JSON object, which is several times
    sooner read than a row each; metrics do not, as SQLite's JSON has 15 of a double's 17 digits."""
    r = RUNS.c
    here = having(experiment, "nnexp.run_key")
    ids = sa.select(r.run_uuid).where(here)
    with store.reading() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        gather = sa.func.json_group_object if is_sqlite else sa.func.json_object_agg

        def objects(table: sa.TableClause, *conditions: Any) -> dict[str, dict[str, str]]:
            t = table.c
            query = sa.select(t.run_uuid, gather(t.key, t.value)).where(t.run_uuid.in_(ids), *conditions)
            rows = connection.execute(query.group_by(t.run_uuid)).all()
            return {id_: json.loads(text) if is_sqlite else text for id_, text in rows}

        params = objects(PARAMS)
        tags = objects(TAGS, TAGS.c.key.in_(list(TAG_COLUMNS)))
        t = LATEST_METRICS.c
        latest = sa.select(t.run_uuid, t.key, t.value, t.is_nan).where(t.run_uuid.in_(ids))
        metrics: dict[str, dict[str, float]] = {}
        for id_, key, value, is_nan in connection.execute(latest).all():
            metrics.setdefault(id_, {})[key] = math.nan if is_nan else value
        heads = sa.select(r.run_uuid, r.name, r.status, r.start_time, r.end_time).where(here)
        return [
            _Run(id_, name, status, start, end, params.get(id_, {}), tags[id_], metrics.get(id_, {}))
            for id_, name, status, start, end in connection.execute(heads).all()
        ]


def _server_runs(store: Store, experiment: Experiment) -> list[_Run]:
    """The same, from MLflow's client."""
    found = entities(store, experiment, "tags.`nnexp.run_key` != ''")
    return [
        _Run(
            run.info.run_id,
            run.info.run_name,
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            run.data.params,
            run.data.tags,
            run.data.metrics,
        )
        for run in found
    ]


def _typed(texts: list[str | None]) -> pd.Series:
    """Texts as numbers or booleans where all of them are. Most repeat, so each is looked at once."""
    distinct = [text for text in dict.fromkeys(texts) if text is not None]
    typed: dict[str | None, Any]
    if set(distinct) <= {"true", "false"}:
        typed = {text: text == "true" for text in distinct}
    elif pd.to_numeric(pd.Series(distinct), errors="coerce").isna().any():
        typed = {text: text for text in distinct}
    else:
        typed = dict(zip(distinct, pd.to_numeric(pd.Series(distinct)).tolist(), strict=True))
    return pd.Series([typed.get(text) for text in texts])
