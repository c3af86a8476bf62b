"""Read a store through MLflow's client: a server, or a database of another version's tables."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from nnexp.config.text import masked
from nnexp.tracking.reader import DECIDING, PAGE, Curves, Detail, Entry, Experiment, Found, Kind, deciding
from nnexp.tracking.store import Store, StoreLost
from nnexp.tracking.view import BEST

# Points per page of a server's answer; the most items read; the most successive pages without a new item.
POINTS_PAGE, MAX_ITEMS, MAX_IDLE = 25_000, 2_000_000, 3


class ClientReader:
    """A `Reader` that reads through MLflow's client."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def experiment(self, id: str) -> Experiment:
        return _experiment(self._store.client.get_experiment(id))

    def experiment_named(self, name: str) -> Experiment | None:
        found = self._store.client.get_experiment_by_name(name)
        return None if found is None else _experiment(found)

    def experiments(self) -> list[Experiment]:
        return list(map(_experiment, self._store.client.search_experiments()))

    def runs_with(self, experiment: Experiment, tag: str, others: Sequence[str] = ()) -> list[Found]:
        return search(self._store, experiment, f"tags.`{tag}` != ''")

    def details(self, run_ids: Sequence[str]) -> dict[str, Detail]:
        found = [run for run in self._store.each(self._find, run_ids) if run is not None]
        return {run.info.run_id: _detail(run) for run in found}

    def _find(self, run_id: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._store.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def networks(self, experiment: Experiment, tag_names: Sequence[str]) -> Iterator[list[Detail]]:
        yield [_detail(run) for run in entities(self._store, experiment, "tags.`nnexp.run_key` != ''")]

    def curves(self, run_ids: Sequence[str], metrics: Sequence[str] | None = None) -> dict[str, Curves]:
        if metrics is None:
            metrics = sorted({metric for run in self.details(run_ids).values() for metric in run.metrics})
        curves: dict[str, dict[str, list[tuple[int, float]]]] = {run_id: {} for run_id in run_ids}
        for run_id, metric, epoch, value in sorted(self.points(run_ids, metrics, None)):
            curves[run_id].setdefault(metric, []).append((epoch, value))
        return dict(curves)

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
                    prefix = BEST if is_sweep else ""
                    best = deciding({name: run.data.metrics.get(f"{prefix}{name}") for name in DECIDING})
                    head = (info.run_id, info.run_name, info.status, info.start_time)
                    yield Entry(*head, name_of.get(info.experiment_id, info.experiment_id), is_sweep, *best)
            token = page.token
            if not token:
                return

    def beginning(self, typed: str) -> dict[str, bool]:
        ids = [found.experiment_id for found in self._store.client.search_experiments()]
        where = f"attributes.run_id LIKE '{typed}%'"
        found = self._store.client.search_runs(ids, where, max_results=PAGE)
        return {run.info.run_id: "nnexp.sweep" in run.data.tags for run in found}

    def all_runs(self, experiments: Sequence[Experiment], tags: Sequence[str]) -> list[Detail]:
        return [
            _detail(run)
            for experiment in experiments
            for tag in ("nnexp.run_key", "nnexp.sweep")
            for run in entities(self._store, experiment, f"tags.`{tag}` != ''")
        ]


def _experiment(found: Any) -> Experiment:
    """Return MLflow's entity as ours."""
    is_deleted = found.lifecycle_stage == "deleted"
    return Experiment(found.experiment_id, found.name, found.artifact_location, is_deleted)


def _detail(run: Any) -> Detail:
    """Return MLflow's entity as ours."""
    info, data = run.info, run.data
    head = (info.run_id, info.run_name, info.status, info.artifact_uri, info.experiment_id)
    return Detail(*head, data.params, data.metrics, data.tags, info.start_time, info.end_time)


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
            [experiment.id], where, max_results=PAGE, order_by=["attributes.start_time ASC"], page_token=token
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
