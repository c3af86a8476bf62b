"""Record runs through MLflow's client: on a server, or in a database whose tables nnexp does not know.

A server that runs nnexp's own app takes many whole runs in one request; see app.py.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response

from nnexp.tracking import wire
from nnexp.tracking.client import search
from nnexp.tracking.files import put
from nnexp.tracking.owner import Heartbeat
from nnexp.tracking.places import local_path
from nnexp.tracking.reader import Experiment
from nnexp.tracking.runs import DataInput, Ended, Ids, Point, RunRecord, fitted, given_way, identity, now
from nnexp.tracking.store import CALLS_AT_ONCE, Store

# MLflow's limits on one log_batch call: the entries in all, and the params among them.
MAX_BATCH, MAX_PARAMS = 1000, 100


class ClientWriter:
    """A `Writer` of one experiment's runs that records call by call, or many at once if the server does so.

    A run is complete once its status is FINISHED or FAILED.
    """

    def __init__(self, store: Store, experiment: Experiment) -> None:
        self._store, self._client, self._experiment = store, store.client, experiment
        self._heartbeat = Heartbeat(store)
        # SQLite takes one writer at a time; with several, MLflow's own waiting for the lock ends in errors.
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE if store.uri.startswith("http") else 1)
        self._stopped = threading.Event()
        self._disregarded: dict[str, str] = {}
        self._ids, self._has_called = Ids(), False

    def write(self, records: Sequence[RunRecord]) -> None:
        """Record whole runs, several at a time; `settle` removes the duplicates that this can leave.

        A run that replaces another one is recorded by itself.
        """
        replaced = set(self._disregarded.values())
        at_once = {
            self._ids.draw(): record
            for record in records
            if identity(record.tags)[0] not in replaced and wire.size(record) < wire.ENOUGH_BYTES
        }
        if len(at_once) > 1 and self._takes_many:
            for body in wire.bodies(at_once):
                if not self._stopped.is_set():
                    self._post(body)
            sent = set(map(id, at_once.values()))
            records = [record for record in records if id(record) not in sent]
        list(self._threads.map(self._write_one, records))

    def stop(self) -> None:
        self._stopped.set()

    def start(self, record: RunRecord) -> str:
        run_id = self._create(record, self._heartbeat.tags())
        self._heartbeat.hold(run_id)
        self.add(run_id, record.files, {})
        return run_id

    def take(self, name: str) -> bool:
        return True

    def resume(self, run_id: str) -> None:
        info = self._client.get_run(run_id).info
        if info.status == "RUNNING" or info.lifecycle_stage != "active":
            raise Ended(run_id, info.status if info.lifecycle_stage == "active" else None)
        self.add(run_id, {}, self._heartbeat.tags())
        self._client.update_run(run_id, "RUNNING")
        self._heartbeat.hold(run_id)

    def log(self, run_id: str, points: Iterable[Point]) -> None:
        self._log(run_id, points, now())

    def add(self, run_id: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
        place = local_path(self._experiment.artifact_location)
        if files and place is not None:
            put(place, run_id, files)
        elif files:
            with tempfile.TemporaryDirectory() as directory:
                for name, content in files.items():
                    path = Path(directory, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                self._client.log_artifacts(run_id, directory)
        if tags:
            self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in fitted(tags).items()])

    def finish(self, run_id: str, status: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> str:
        run, first = self._client.get_run(run_id), run_id
        if status == "FINISHED" and (first := self._same(run.data.tags) or run_id) != run_id:
            status, tags = "KILLED", {**tags, **given_way(first)}
        is_there = run.info.lifecycle_stage == "active"
        if not is_there or run.info.status != "RUNNING":
            self._heartbeat.release(run_id)
            raise Ended(run_id, run.info.status if is_there else None, run.data.tags.get("nnexp.reason"))
        self.add(run_id, files, tags)
        self._client.set_terminated(run_id, status)
        if status == "FINISHED":
            self._supersede(identity(run.data.tags)[0], run_id)
        self._heartbeat.release(run_id)
        return first

    def disregard(self, runs: Mapping[str, str]) -> None:
        self._disregarded |= runs

    def adopt(self, old: str, new: str) -> None:
        runs = search(self._store, self._experiment, f"tags.`nnexp.sweep_id` = '{old}'")
        links = [RunTag("mlflow.parentRunId", new), RunTag("nnexp.sweep_id", new)]
        list(self._threads.map(lambda run: self._client.log_batch(run.run_id, tags=links), runs))

    def settle(self, sweep_id: str | None) -> set[str]:
        """Delete incomplete and duplicate runs; return their ids.

        Repeated or unanswered calls to a server leave them. Of two copies every process keeps the one with
        the smaller id, so one always stays.
        """
        if sweep_id is not None and not self._has_called:
            return set()  # the server has recorded all runs in whole transactions
        runs = search(self._store, self._experiment, "tags.`nnexp.run_key` != ''")
        half = [r for r in runs if r.status == "RUNNING" and "nnexp.sweep_id" in r.tags]
        extra = {run.run_id for run in half if run.tags["nnexp.sweep_id"] == sweep_id}
        kept = set()
        for run in sorted(runs, key=lambda run: run.run_id):
            if run.status == "FINISHED":
                if identity(run.tags) in kept:
                    extra.add(run.run_id)
                kept.add(identity(run.tags))
        list(self._threads.map(self._client.delete_run, extra))
        return extra

    def close(self) -> None:
        self._heartbeat.close()
        self._threads.shutdown()

    def _same(self, tags: Mapping[str, str]) -> str | None:
        """Return the id of the run that has FINISHED with these tags' identity; None if there is none.

        A run that finishes between this search and the next call is found by `settle`.
        """
        key, attempt = identity(tags)
        if not key:
            return None
        there = search(self._store, self._experiment, f"tags.`nnexp.run_key` = '{key}'")
        ended = [run for run in there if run.status == "FINISHED" and identity(run.tags) == (key, attempt)]
        return min((run.run_id for run in ended if run.run_id not in self._disregarded), default=None)

    def _supersede(self, key: str, new: str) -> None:
        """Set the disregarded runs with this key to KILLED; `new` is the run that replaces them."""
        for old in [old for old, of in self._disregarded.items() if of == key]:
            self.add(old, {}, given_way(new))
            self._client.update_run(old, "KILLED")

    def _write_one(self, record: RunRecord) -> None:
        if self._stopped.is_set():
            return
        self._has_called = True
        try:
            run_id = self._create(record, {})
            self.add(run_id, record.files, {})
            self._client.set_terminated(run_id, record.status, record.end_time)
            if record.status == "FINISHED":
                self._supersede(identity(record.tags)[0], run_id)
        except BaseException:
            self.stop()  # if the server is away, each further record would wait just as long
            raise

    @cached_property
    def _takes_many(self) -> bool:
        """Whether the server runs nnexp's app and takes the experiment's runs by it; asked once."""
        if not self._store.uri.startswith("http"):
            return False
        answer = http_request(
            get_default_host_creds(self._store.uri), self._path, "GET", raise_on_status=False
        )
        try:
            return answer.status_code == 200 and wire.FORMAT in answer.json()["formats"]
        except (ValueError, KeyError, TypeError):  # another program answers there
            return False

    @property
    def _path(self) -> str:
        return f"{wire.PATH}?experiment_id={self._experiment.id}"

    def _post(self, body: bytes) -> None:
        """Send runs to the server's app. It leaves out those it has, so that a request can be repeated."""
        creds, headers = get_default_host_creds(self._store.uri), {"Content-Type": wire.TYPE}
        try:
            answer = http_request(creds, self._path, "POST", data=body, extra_headers=headers)
            verify_rest_response(answer, self._path)
        except BaseException:
            self.stop()  # as in _write_one
            raise

    def _create(self, record: RunRecord, more_tags: Mapping[str, str]) -> str:
        run = self._client.create_run(
            self._experiment.id,
            start_time=record.start_time,
            tags=fitted({**record.tags, **more_tags}),
            run_name=record.title,
        )
        run_id: str = run.info.run_id
        if record.data is not None:
            self._log_data(run_id, record.data)
        self._log(run_id, record.points, record.end_time or now(), record.params)
        return run_id

    def _log_data(self, run_id: str, data: DataInput) -> None:
        try:
            self._client.log_inputs(run_id, [_entity(data)])
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            # MLflow fails if two clients log the same new data set at once; at the second try it is there.
            self._client.log_inputs(run_id, [_entity(data)])

    def _log(
        self, run_id: str, points: Iterable[Point], timestamp: int, params: Mapping[str, str] | None = None
    ) -> None:
        """Log points and params, in as few calls as MLflow's limits allow."""
        named = iter([Param(key, value) for key, value in (params or {}).items()])
        metrics = (Metric(key, value, timestamp, step) for key, step, value in points)
        while True:
            some = list(islice(named, MAX_PARAMS))
            measured = list(islice(metrics, MAX_BATCH - len(some)))
            if not some and not measured:
                return
            self._client.log_batch(run_id, measured, some)


def _entity(data: DataInput) -> DatasetInput:
    parts = (data.name, data.digest, data.source_type, data.source, data.schema, data.profile)
    return DatasetInput(Dataset(*parts), [InputTag("mlflow.data.context", "training")])
