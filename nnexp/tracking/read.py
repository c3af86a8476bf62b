"""Read recorded runs as typed DataFrames: a few SQL queries on a database, the client on a server."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnexp.config.errors import RequestError
from nnexp.config.run import key_names
from nnexp.config.text import shortened
from nnexp.tracking.collected import Collected
from nnexp.tracking.curves import read_curves
from nnexp.tracking.experiments import find_experiment, get_experiment
from nnexp.tracking.find import get_sweep, recorded_keys
from nnexp.tracking.frames import read_frame
from nnexp.tracking.named import whole_id
from nnexp.tracking.population import get_population, is_population, population_of, populations
from nnexp.tracking.reader import Detail, Experiment
from nnexp.tracking.store import Store, open_store
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
    {"learning_rate", "epochs", "patience", "seed", "validation_fraction", "folds", "fold", "test_fraction"}
    | {"split_seed", "log_every", "weights_every", "init.scale", "optimizer.weight_decay"}
)
# Points of curves that are objects at a time.
POINTS_AT_ONCE = 10_000
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", re.IGNORECASE)


def load_runs(
    experiment: str | None = None, *, sweep: str | None = None, tracking_uri: str | None = None
) -> pd.DataFrame:
    """Read recorded runs as a DataFrame, one row per run, oldest first.

    Parameters
    ----------
    experiment
        The MLflow experiment; if None, that of the sweep, or `nnexp`.
    sweep
        Read only the runs of this sweep: its id, the beginning of its id, or `last`.
    tracking_uri
        The store; if None, MLFLOW_TRACKING_URI or the default store.

    Returns
    -------
    pandas.DataFrame
        Columns run_id, run_name, status, start_time, seconds, sweep_id, outcome, reason, run_key,
        weights_sha256, data_sha256 and engine, then the params, then the last metrics, by their own names
        (the param `loss` is the column `params.loss`, as `loss` is the metric). Numbers are numbers, true and
        false are booleans.

    Raises
    ------
    RequestError
        If there is no such store, experiment or sweep, or if the sweep belongs to another experiment.

    Examples
    --------
    >>> import nnexp
    >>> sweep = nnexp.sweep(dataset="and", seed=range(3), epochs=50)
    >>> runs = nnexp.load_runs(sweep=sweep.sweep_id)
    >>> runs[["dataset", "seed", "epochs"]].values.tolist()
    [['and', 0, 50], ['and', 1, 50], ['and', 2, 50]]
    """
    return _load_runs(experiment, sweep, tracking_uri, None)


def load_columns(experiment: str | None, sweep: str | None, only: Collection[str]) -> pd.DataFrame:
    """Read runs like `load_runs`; of a population only what a summary of these columns needs.

    See `frames.read_frame`. Raises RequestError as `load_runs` does.
    """
    return _load_runs(experiment, sweep, None, only)


def _load_runs(
    experiment: str | None, sweep: str | None, tracking_uri: str | None, only: Collection[str] | None
) -> pd.DataFrame:
    store = open_store(tracking_uri, create=False)
    if sweep is None:
        return read_runs(store, find_experiment(store, experiment or "nnexp"))
    parent = get_sweep(store, whole_id(store, sweep, "sweep"))
    if parent is None:
        raise RequestError(f"no sweep {shortened(sweep)!r} in this store")
    place = get_experiment(store, parent.experiment_id)
    if experiment not in (None, place.name):
        raise RequestError(f"sweep {parent.run_id} is of experiment {place.name!r}, not of {experiment!r}")
    return read_runs(store, place, parent.run_id, only)


def read_runs(
    store: Store, experiment: Experiment, sweep: str | None = None, only: Collection[str] | None = None
) -> pd.DataFrame:
    """Read runs like `load_runs`, from an open store. Raises RequestError if there is no such sweep.

    `only`: the columns that are needed, for a frame that takes little memory: see `Collected.frame`, and of a
    population `frames.read_frame`.
    """
    if sweep is None:
        runs = _ordinary(store, experiment, None).frame(None)
        tables = [read_frame(one, own=True) for one in populations(store, experiment)]
    else:
        parent = get_sweep(store, sweep)
        if parent is None:
            raise RequestError(f"no runs of a sweep {sweep!r} in experiment {experiment.name!r}")
        if is_population(parent):
            return read_frame(population_of(store, parent), only)
        keys = set(recorded_keys(store, parent))
        found, tables = _ordinary(store, experiment, keys), []
        if found.number_of_keys == len(keys):
            runs = found.frame(only)
        else:  # some are recorded in a population, and not trained again
            runs = found.frame(None)
            keys -= set(runs["run_key"])
            tables = [read_frame(one, keys=keys) for one in populations(store, experiment)]
    return _joined([runs, *tables])


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return all runs of these frames, oldest first; a network is there once."""
    first, *others = frames
    for other in others:
        other = other[~other["run_key"].isin(first["run_key"])]
        if other.empty:
            continue
        if first.empty:
            first = other
            continue
        both = pd.concat([first, other], ignore_index=True).sort_values(
            "start_time", kind="stable", ignore_index=True
        )
        heads = list(first.columns[: 5 + len(TAG_COLUMNS)])
        params = [name for key in key_names() for name in (key, f"params.{key}") if name in both]
        params = [name for name in params if name not in heads]
        rest = sorted(set(both.columns) - {*heads, *params})
        first = both[[*heads, *params, *rest]]
    return first.reset_index(drop=True)


def _ordinary(store: Store, experiment: Experiment, keys: Collection[str] | None) -> Collected:
    """Collect the experiment's runs, or those of these keys, that MLflow has as such."""
    found, lacking = Collected(TAG_COLUMNS), dict[str, str]()
    for runs in store.reader.networks(experiment, list(TAG_COLUMNS)):
        if keys is not None:
            runs = [run for run in runs if run.tags["nnexp.run_key"] in keys]
        found.add(_that_count([run.checked() for run in runs], lacking))
    tell(lacking, "it is left out")
    return found


def _that_count(runs: list[Detail], lacking: dict[str, str]) -> list[Detail]:
    """Leave out the finished runs whose record is incomplete or was edited; note why in `lacking`."""
    numbers = {run.params[key] for run in runs for key in NUMBERS & run.params.keys()}
    odd = {text for text in numbers if not _NUMBER.fullmatch(text)}  # most texts repeat
    for run in runs:
        wrong = [key for key in NUMBERS & run.params.keys() if run.params[key] in odd] if odd else []
        if run.status == "FINISHED" and (what := missing_tag(run.tags)):
            lacking[run.run_id] = what
        elif run.status == "FINISHED" and wrong:
            text = shortened(run.params[wrong[0]], 40)
            lacking[run.run_id] = f"its param {wrong[0]} is {text!r}, which is not a number"
    return [run for run in runs if run.run_id not in lacking]


def load_history(
    runs: pd.DataFrame, metrics: Sequence[str] = ("loss",), *, tracking_uri: str | None = None
) -> pd.DataFrame:
    """Read the curves of runs as a tidy DataFrame, one row per point.

    Parameters
    ----------
    runs
        The runs, as `load_runs` returns them.
    metrics
        The metrics, such as `loss` or `val_accuracy`.
    tracking_uri
        The store; if None, MLFLOW_TRACKING_URI or the default store.

    Returns
    -------
    pandas.DataFrame
        Columns run_id, metric, epoch (completed epochs) and value, sorted by run, metric and epoch. A
        population has the curves of its members only if it was recorded with `curves=true`.

    Raises
    ------
    RequestError
        If there is no such store, or if it holds values that are not numbers.

    Examples
    --------
    >>> import nnexp
    >>> sweep = nnexp.sweep(dataset="and", seed=range(3), epochs=50)
    >>> history = nnexp.load_history(sweep.runs, ["loss", "accuracy"])
    >>> history.groupby("metric")["epoch"].max().to_dict()
    {'accuracy': 50, 'loss': 50}
    """
    return read_history(open_store(tracking_uri, create=False), runs, metrics)


def read_history(
    store: Store,
    runs: pd.DataFrame,
    metrics: Sequence[str],
    epochs: Sequence[int] | None = None,
    as_categories: bool = False,
) -> pd.DataFrame:
    """Read curves like `load_history`, from an open store; from a database, only the points at `epochs`.

    With `as_categories`, the texts are categories, which take a third of the memory.
    """
    is_member = runs["run_id"].str.contains("/", regex=False).to_numpy(dtype=bool)
    wanted = sorted(set(runs["run_id"][~is_member]))
    frame = _points(store, wanted, sorted(set(metrics)), epochs, as_categories)
    if is_member.any():
        named = runs["run_id"][is_member].str.split("/", expand=True)
        tables = [
            read_curves(get_population(store, str(sweep)), numbers.to_numpy(dtype=np.int64), metrics, epochs)
            for sweep, numbers in named[1].groupby(named[0])
        ]
        tables = [table for table in (frame, *tables) if len(table)]
        return pd.concat(tables, ignore_index=True) if tables else frame
    return frame


def _points(
    store: Store,
    run_ids: Sequence[str],
    metrics: Sequence[str],
    epochs: Sequence[int] | None,
    as_categories: bool,
) -> pd.DataFrame:
    """Read points of the curves of ordinary runs, see `read_history`. `run_ids` and `metrics` are sorted.

    Raises RequestError if a value is not a number.
    """
    parts = list(_coded(store.reader.points(run_ids, metrics, epochs), run_ids, metrics))
    if not parts:
        return pd.DataFrame(columns=["run_id", "metric", "epoch", "value"])
    run, metric, epoch, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    del parts
    order = np.lexsort((epoch, metric, run))
    words = {"run_id": (run_ids, run), "metric": (metrics, metric)}
    columns: dict[str, Any] = {}
    for name, (texts, codes_of) in words.items():
        index = pd.Index(list(texts), dtype="str")
        codes_of = codes_of[order]
        columns[name] = pd.Categorical.from_codes(codes_of, index) if as_categories else index.take(codes_of)
    return pd.DataFrame({**columns, "epoch": epoch[order], "value": value[order]})


def _coded(
    points: Iterable[tuple[Any, ...]], run_ids: Sequence[str], metrics: Sequence[str]
) -> Iterator[tuple[NDArray[Any], ...]]:
    """Yield points as arrays, some at a time, so that few of them are objects: the positions of their run and
    their metric in the lists, the epochs and the values. Raises RequestError if a value is not a number."""
    run_code = {run_id: i for i, run_id in enumerate(run_ids)}
    metric_code = {metric: i for i, metric in enumerate(metrics)}
    rows = iter(points)
    while some := list(islice(rows, POINTS_AT_ONCE)):
        ids, names, steps, values = zip(*some, strict=True)
        numbers = np.array(steps), np.array(values)
        if any(column.dtype.kind not in "iuf" for column in numbers):
            raise RequestError(f"the curves of {', '.join(metrics)} hold values that are not numbers")
        codes = [run_code[run_id] for run_id in ids], [metric_code[name] for name in names]
        yield np.array(codes[0], np.int32), np.array(codes[1], np.int32), *numbers
