"""Read a store through MLflow's client: a server, or a database of another version's tables."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnexp.config.errors import RequestError
from nnexp.config.text import masked, shortened
from nnexp.tracking.reader import (
    PAGE,
    Curves,
    Detail,
    Entry,
    ExperimentRow,
    Found,
    Kind,
    Network,
    Parts,
    Row,
    detail_of,
)
from nnexp.tracking.store import Store, StoreLost
from nnexp.tracking.view import BEST

if TYPE_CHECKING:
    from nnexp.tracking.experiments import Experiment

# Points per page of a server's answer; the most items read; the most successive pages without a new item.
POINTS_PAGE, MAX_ITEMS, MAX_IDLE = 25_000, 2_000_000, 3


class ClientReader:
    """A `Reader` that reads through MLflow's client."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def experiment(self, id: str) -> ExperimentRow:
        return _row(self._store.client.get_experiment(id))

    def experiment_named(self, name: str) -> ExperimentRow | None:
        found = self._store.client.get_experiment_by_name(name)
        return None if found is None else _row(found)

    def experiments(self) -> list[ExperimentRow]:
        return list(map(_row, self._store.client.search_experiments()))

    def runs_with(self, experiment: Experiment, tag: str, others: Sequence[str]) -> list[Found]:
        return search(self._store, experiment, f"tags.`{tag}` != ''")

    def parts(self, run_id: str) -> Parts | None:
        from mlflow.exceptions import MlflowException

        try:
            run = self._store.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        info, data = run.info, run.data
        head = info.run_name, info.status, info.artifact_uri, info.experiment_id
        return head, data.params.items(), data.metrics.items(), data.tags.items()

    def curve(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        return sorted((point.step, point.value) for point in history(self._store, run_id, metric))

    def networks(self, experiment: Experiment, tag_names: Sequence[str]) -> list[Network]:
        found = entities(self._store, experiment, "tags.`nnexp.run_key` != ''")
        return [
            Network(
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

    def points(
        self, run_ids: Sequence[str], metrics: Sequence[str], epochs: Sequence[int] | None
    ) -> list[tuple[Any, ...]]:
        asked = [(run_id, metric) for run_id in run_ids for metric in metrics]
        histories = self._store.each(lambda one: history(self._store, *one), asked)
        return [
            (*one, point.step, point.value)
            for one, curve in zip(asked, histories, strict=True)
            for point in curve
        ]

    def evidence(self, run_ids: Sequence[str]) -> tuple[dict[str, Detail], dict[str, Curves]]:
        details = dict(zip(run_ids, self._store.each(self._detail, run_ids), strict=True))
        asked = [(run_id, metric) for run_id, run in details.items() for metric in run.metrics]
        found = self._store.each(lambda one: self.curve(*one), asked)
        curves: dict[str, Curves] = {run_id: {} for run_id in run_ids}
        for (run_id, metric), curve in zip(asked, found, strict=True):
            curves[run_id] = {**curves[run_id], metric: curve}
        return details, curves

    def _detail(self, run_id: str) -> Detail:
        parts = self.parts(run_id)
        if parts is None:
            raise RequestError(f"no run {shortened(run_id)!r} in this store")
        return detail_of(run_id, parts)

    def times(self, run_ids: Sequence[str]) -> dict[str, tuple[int, int | None]]:
        found = self._store.each(self._store.client.get_run, run_ids)
        return {run.info.run_id: (run.info.start_time, run.info.end_time) for run in found}

    def heads(
        self, runs: Sequence[Found], tags: Sequence[str]
    ) -> list[tuple[str, str | None, Mapping[str, str]]]:
        # Asking a server for each run's files takes as long as recording the run.
        return [(run.run_id, None, run.tags) for run in runs]

    def entries(self, kind: Kind, most: int, experiment: Experiment | None) -> Iterator[Entry]:
        # Read page after page, skipping the runs of sweeps, until there are enough.
        experiments: Sequence[Any] = self._store.client.search_experiments()
        name_of = {found.experiment_id: found.name for found in experiments}
        token = None
        while True:
            page = self._store.client.search_runs(
                [experiment.id] if experiment is not None else list(name_of),
                max_results=PAGE,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            for run in page:
                info, tags = run.info, run.data.tags
                is_sweep = "nnexp.sweep" in tags
                is_alone = "nnexp.run_key" in tags and "nnexp.sweep_id" not in tags
                if (is_sweep and kind != "run") or (is_alone and kind != "sweep"):
                    best = run.data.metrics.get(f"{BEST}loss" if is_sweep else "loss")
                    head = (info.run_id, info.run_name, info.status, info.start_time)
                    yield Entry(*head, name_of.get(info.experiment_id, info.experiment_id), is_sweep, best)
            token = page.token
            if not token:
                return

    def beginning(self, typed: str) -> dict[str, bool]:
        ids = [found.experiment_id for found in self._store.client.search_experiments()]
        where = f"attributes.run_id LIKE '{typed}%'"
        found = self._store.client.search_runs(ids, where, max_results=PAGE)
        return {run.info.run_id: "nnexp.sweep" in run.data.tags for run in found}

    def all_runs(self, experiments: Sequence[Experiment], tags: Sequence[str]) -> list[Row]:
        return [
            Row(run.info.run_id, run.info.status, True, e.id, run.info.artifact_uri, run.data.tags)
            for e in experiments
            for tag in ("nnexp.run_key", "nnexp.sweep")
            for run in entities(self._store, e, f"tags.`{tag}` != ''")
        ]


def _row(found: Any) -> ExperimentRow:
    return ExperimentRow(found.experiment_id, found.name, found.lifecycle_stage, found.artifact_location)


def search(store: Store, experiment: Experiment, where: str) -> list[Found]:
    """Find the runs of an experiment that satisfy MLflow's filter, oldest first, with all tags."""
    return [
        Found(run.info.run_id, run.info.status, run.data.tags) for run in entities(store, experiment, where)
    ]


def entities(store: Store, experiment: Experiment, where: str) -> list[Any]:
    """Find the runs of an experiment that satisfy MLflow's filter, oldest first, as MLflow's entities."""
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
    """Read all points of a run's metric, as MLflow's entities."""
    # Like the client's own get_metric_history, which, however, reads for as long as a server sends pages.
    ask = store.client._tracking_client.store.get_metric_history
    return _all_pages(
        store,
        lambda token: ask(run_id=run_id, metric_key=metric, max_results=POINTS_PAGE, page_token=token),
        lambda point: (point.step, point.timestamp, point.value),
    )


def _all_pages(store: Store, ask: Callable[[str | None], Any], key: Callable[[Any], Hashable]) -> list[Any]:
    """Read all items of a server's answer, page by page.

    Raises StoreLost if the pages bring nothing new, or do not end.
    """
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
