"""What the store says of finished runs: all that a rerun is compared with, read for many runs at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa

from nnexp.dataset.load import Source
from nnexp.tracking.experiments import get_experiment
from nnexp.tracking.find import (
    Detail,
    find_artifact,
    find_runs,
    get_any,
    get_curve,
    get_sweep,
    number_of,
    recorded_keys,
    text_of,
    whole_of,
)
from nnexp.tracking.store import Store
from nnexp.tracking.tables import MAX_NAMED, METRICS, PARAMS, RUNS, TAGS
from nnexp.tracking.whole import NEEDED_TAGS

# By metric, its recorded points: completed epochs and values, in the order of the epochs.
Curves = Mapping[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Evidence:
    """One finished run as it is recorded. `config` and `weights` are the artifacts' bytes, None where they
    are gone; `tags` say where its code came from, too, which a sweep's runs have from their parent."""

    run_id: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    curves: Curves
    config: bytes | None
    weights: bytes | None
    own_tags: Mapping[str, str] = field(default_factory=dict)  # without those of its sweep

    @property
    def key(self) -> str:
        """The run's key; a rerun has it by another name, so that it does not count as a run of its own."""
        return self.tags.get("nnexp.run_key") or self.tags.get("nnexp.rerun_key", "")


def data_file(sha256: str, part: str) -> str:
    """The artifact of a run alone, or of a sweep's parent, that keeps a data set: `part` is table or
    new_rows."""
    return f"data/{sha256[:16]}/{part}.csv"


def kept_data(store: Store, holder: Detail, sha256: str) -> Source | None:
    """The copy of a data set that a record keeps, None where it keeps none."""
    table = find_artifact(store, holder, data_file(sha256, "table"))
    if table is None:
        return None
    return Source(table, find_artifact(store, holder, data_file(sha256, "new_rows")))


def runs_of(store: Store, sweep: Detail) -> tuple[list[str], int]:
    """The ids of a sweep's finished runs, whichever sweep recorded them, and how many of its runs are not."""
    keys = set(recorded_keys(store, sweep))
    found = find_runs(store, get_experiment(store, sweep.experiment_id), "nnexp.run_key")
    finished = [run for run in found if run.status == "FINISHED" and run.tags["nnexp.run_key"] in keys]
    return [run.run_id for run in finished], len(keys - {run.tags["nnexp.run_key"] for run in finished})


def read_evidence(store: Store, run_ids: Sequence[str]) -> list[Evidence]:
    """What is recorded of these runs, in their order."""
    details, curves = _database(store, run_ids) if store.is_known else _server(store, run_ids)
    parents: dict[str, Mapping[str, str]] = {}
    runs = [details[run_id] for run_id in run_ids]
    configs = store.each(lambda run: find_artifact(store, run, "config.yaml"), runs)
    weights = store.each(lambda run: find_artifact(store, run, "weights.npz"), runs)
    result = []
    for run, config, packed in zip(runs, configs, weights, strict=True):
        sweep_id = run.tags.get("nnexp.sweep_id", "")
        if sweep_id and sweep_id not in parents:
            parent = get_sweep(store, sweep_id)
            tags = {} if parent is None else parent.tags
            # What a result has to say of itself is no other's to say.
            parents[sweep_id] = {key: value for key, value in tags.items() if key not in NEEDED_TAGS}
        result.append(
            Evidence(
                run.run_id,
                run.name,
                run.params,
                {**parents.get(sweep_id, {}), **run.tags},
                curves.get(run.run_id, {}),
                config,
                packed,
                run.tags,
            )
        )
    return result


def times_of(store: Store, run_ids: Sequence[str]) -> dict[str, tuple[int, int | None]]:
    """When these runs began and ended, in milliseconds since 1970."""
    if not store.is_known:
        found = store.each(store.client.get_run, run_ids)
        return {run.info.run_id: (run.info.start_time, run.info.end_time) for run in found}
    r, times = RUNS.c, dict[str, tuple[int, int | None]]()
    with store.reading() as connection:
        for start in range(0, len(run_ids), MAX_NAMED):
            some = r.run_uuid.in_(run_ids[start : start + MAX_NAMED])
            query = sa.select(r.run_uuid, r.start_time, r.end_time).where(some)
            times |= {run_id: (begun, ended) for run_id, begun, ended in connection.execute(query)}
    return times


def _database(store: Store, run_ids: Sequence[str]) -> tuple[dict[str, Detail], dict[str, Curves]]:
    details: dict[str, Detail] = {}
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    r, m = RUNS.c, METRICS.c
    with store.reading() as connection:
        for start in range(0, len(run_ids), MAX_NAMED):
            some = run_ids[start : start + MAX_NAMED]
            texts: dict[str, dict[sa.TableClause, dict[str, str]]] = {i: {PARAMS: {}, TAGS: {}} for i in some}
            for table in (PARAMS, TAGS):
                t = table.c
                query = sa.select(t.run_uuid, t.key, t.value).where(t.run_uuid.in_(some))
                for run_id, key, value in connection.execute(query):
                    texts[run_id][table][text_of(run_id, key)] = text_of(run_id, value)
            heads = sa.select(r.run_uuid, r.name, r.status, r.artifact_uri, r.experiment_id)
            for run_id, *head, experiment in connection.execute(heads.where(r.run_uuid.in_(some))):
                own, (name, status, place) = texts[run_id], (text_of(run_id, text) for text in head)
                where = str(experiment)
                details[run_id] = Detail(run_id, name, status, place, where, own[PARAMS], {}, own[TAGS])
            points = sa.select(m.run_uuid, m.key, m.step, m.value, m.is_nan).where(m.run_uuid.in_(some))
            for run_id, key, step, value, is_nan in connection.execute(
                points.order_by(m.run_uuid, m.key, m.step)
            ):
                point = whole_of(run_id, step), math.nan if is_nan else number_of(run_id, value)
                curves.setdefault(run_id, {}).setdefault(key, []).append(point)
    return details, dict(curves)


def _server(store: Store, run_ids: Sequence[str]) -> tuple[dict[str, Detail], dict[str, Curves]]:
    details = dict(zip(run_ids, store.each(partial(get_any, store), run_ids), strict=True))
    asked = [(run_id, metric) for run_id, run in details.items() for metric in run.metrics]
    found = store.each(lambda one: get_curve(store, *one), asked)
    curves: dict[str, Curves] = {run_id: {} for run_id in run_ids}
    for (run_id, metric), curve in zip(asked, found, strict=True):
        curves[run_id] = {**curves[run_id], metric: curve}
    return details, curves
