"""The two writers: the bulk writer writes the same rows into MLflow's tables as MLflow's own client."""

import errno
import getpass
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from mlflow import MlflowClient
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.store.tracking.dbmodels import models

from nnexp.tracking import durable, owner, tables
from nnexp.tracking.database import DatabaseWriter
from nnexp.tracking.experiments import ensure_experiment
from nnexp.tracking.find import find_runs
from nnexp.tracking.runs import DataInput, Ended, RunRecord, origin, user
from nnexp.tracking.server import ClientWriter
from nnexp.tracking.store import Store, open_store

pytestmark = pytest.mark.slow

DATA = DataInput("táblà", "0123abcd", "code", '{"tags": {}}', '{"mlflow_colspec": []}', '{"num_rows": 4}')
POINTS = [
    ("loss", 0, 0.5),
    ("loss", 10, 0.1 + 0.2),
    ("loss", 20, 5e-324),
    ("ends in NaN", 0, 1.0),
    ("ends in NaN", 10, math.nan),
    ("NaN and more at one step", 0, math.nan),
    ("NaN and more at one step", 0, -1.0),
    ("infinite", 0, math.inf),
    ("infinite", 1, -math.inf),
    ("twice the same", 3, 2.0),
    ("twice the same", 3, 2.0),
    ("prediction/Emily", 20, 0.9461602289784368),
    ("unicode é", 0, -0.0),
]
RECORDS = [
    RunRecord(
        name="xor lr=0.5 init=normal seed=3",
        params={"learning_rate": "0.5", "long": "x" * 6000, "ünïcode": "日本 🎉", "empty": " "},
        tags={
            "nnexp.run_key": "k1",
            "mlflow.user": "someone",
            "note": "a\nb 'quoted' \"twice\" \\\t\r\n\\N\n\\.\n",
        },
        points=POINTS,
        files={"config.yaml": b"a: 1\n", "figures/curve.png": bytes(range(256))},
        data=DATA,
        start_time=1_700_000_000_000,
        end_time=1_700_000_001_234,
    ),
    RunRecord(
        name="the same data set",
        tags={"nnexp.run_key": "k2", "mlflow.user": "someone"},
        data=DATA,
        start_time=1_700_000_000_001,
        end_time=1_700_000_001_235,
    ),
    RunRecord(
        name="one that failed",
        tags={"nnexp.run_key": "k3", "mlflow.user": "someone"},
        files={"traceback.txt": "Traceback: é".encode()},
        status="FAILED",
        start_time=1_700_000_000_002,
        end_time=1_700_000_001_236,
    ),
]
COMPARED = ["runs", "params", "tags", "metrics", "latest_metrics", "datasets", "inputs", "input_tags"]


@pytest.fixture
def both(empty_store, tmp_path):
    """(store, writer) for each of the two writers, each with its own database."""
    made = []
    for kind in (DatabaseWriter, ClientWriter):
        (tmp_path / kind.__name__).mkdir()
        path = shutil.copy(empty_store, tmp_path / kind.__name__ / "mlflow.db")
        store = open_store(f"sqlite:///{path}")
        made.append((store, kind(store, ensure_experiment(store, "one"))))
    yield made
    for _, writer in made:
        writer.close()


def content(path, root):
    """Return every row of the tables, with ids replaced by the run's name or the data set's digest."""
    with closing(sqlite3.connect(path)) as connection:
        names = dict(connection.execute("SELECT run_uuid, name FROM runs"))
        names |= dict(connection.execute("SELECT dataset_uuid, 'data ' || digest FROM datasets"))
        names |= {
            id_: f"input of {names[run]}"
            for id_, run in connection.execute("SELECT input_uuid, destination_id FROM inputs")
        }

        def plain(value):
            if isinstance(value, str):
                for id_, name in names.items():
                    value = value.replace(id_, name)
                return value.replace(str(root), "ROOT")
            return value

        return {
            table: sorted(
                repr([plain(value) for value in row]) for row in connection.execute(f"SELECT * FROM {table}")
            )
            for table in COMPARED
        }


def read_back(store, name="one"):
    """Return all that MLflow's client reads of the experiment's runs, by name."""
    client = MlflowClient(store.uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == name)
    told = {}
    for run in client.search_runs([experiment.experiment_id]):
        id_ = run.info.run_id
        histories = {
            key: [(p.step, repr(p.value), p.timestamp) for p in client.get_metric_history(id_, key)]
            for key in run.data.metrics
        }
        told[run.info.run_name] = (
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            run.info.user_id,
            run.data.params,
            {key: repr(value) for key, value in run.data.metrics.items()},
            histories,
            run.data.tags,
            [
                (i.dataset.to_dictionary(), [(t.key, t.value) for t in i.tags])
                for i in run.inputs.dataset_inputs
            ],
            artifacts(client, id_),
        )
    return told


def artifacts(client, run_id, path=None):
    found = {}
    for file in client.list_artifacts(run_id, path):
        if file.is_dir:
            found |= artifacts(client, run_id, file.path)
        else:
            with open(client.download_artifacts(run_id, file.path), "rb") as opened:
                found[file.path] = (file.file_size, opened.read())
    return found


def test_both_writers_write_the_same_rows(both, tmp_path):
    for _, writer in both:
        writer.write(RECORDS)
    ours, theirs = (
        content(store.uri.removeprefix("sqlite:///"), tmp_path / kind)
        for (store, _), kind in zip(both, ("DatabaseWriter", "ClientWriter"), strict=True)
    )
    for table in COMPARED:
        assert ours[table] == theirs[table], table
    assert all(ours[table] for table in COMPARED)


def test_both_writers_cut_texts_that_are_too_long_for_their_columns_alike(both):
    tags = {"nnexp.run_key": "k", "long": "漢" * 9000, "fits": "x" * tables.MAX_TAG}
    for _, writer in both:
        writer.write([RunRecord("n" * 300, tags={**tags, "mlflow.user": "u"}, end_time=2, start_time=1)])
        run_id = writer.start(RunRecord("goes on", status="RUNNING"))
        writer.finish(run_id, "FAILED", {}, {"nnexp.reason": "r" * 9000})
    ours, theirs = (read_back(store) for store, _ in both)
    name = "n" * (tables.MAX_NAME - 1) + "…"
    assert ours[name] == theirs[name]
    assert ours[name][7]["long"] == "漢" * (tables.MAX_TAG - 1) + "…"
    assert ours[name][7]["fits"] == tags["fits"]
    assert [told["goes on"][7]["nnexp.reason"][-2:] for told in (ours, theirs)] == ["r…"] * 2


def test_the_limits_are_those_of_mlflows_columns():
    for limit, column in {
        tables.MAX_TAG: models.SqlTag.value,
        tables.MAX_NAME: models.SqlRun.name,
        tables.MAX_USER: models.SqlRun.user_id,
        tables.MAX_METRIC: models.SqlMetric.key,
        tables.MAX_DATASET: models.SqlDataset.name,
        tables.MAX_URI: models.SqlRun.artifact_uri,
    }.items():
        assert column.type.length == limit


def test_mlflows_client_reads_the_same_from_both_writers(both):
    for _, writer in both:
        writer.write(RECORDS)
    ours, theirs = (read_back(store) for store, _ in both)
    assert set(ours) == {record.name for record in RECORDS}
    for name in ours:
        assert ours[name] == theirs[name]


def test_both_writers_end_a_running_run_alike(both, monkeypatch, tmp_path):
    monkeypatch.setattr("nnexp.tracking.database.now", lambda: 1_700_000_002_000)
    monkeypatch.setattr("nnexp.tracking.server.now", lambda: 1_700_000_002_000)
    monkeypatch.setattr(
        "mlflow.tracking._tracking_service.client.get_current_time_millis", lambda: 1_700_000_002_000
    )
    monkeypatch.setattr("nnexp.tracking.owner.Heartbeat.tags", lambda self: {})
    for _, writer in both:
        first = RECORDS[0]
        run_id = writer.start(RunRecord(first.name, first.params, first.tags, start_time=1, status="RUNNING"))
        writer.log(run_id, [("loss", 0, 1.0), ("loss", 10, 0.5)])
        writer.log(run_id, [("loss", 20, 0.25), ("accuracy", 20, 1.0)])
        writer.add(run_id, {"a.txt": b"1"}, {"note": "changed", "new": "tag"})
        writer.add(run_id, {"a.txt": b"2", "b/c.txt": b"3"}, {})
        writer.finish(run_id, "KILLED", {}, {"nnexp.reason": "why"})
    ours, theirs = (read_back(store) for store, _ in both)
    assert ours == theirs
    assert ours[RECORDS[0].name][0] == "KILLED"


def test_the_known_schema_is_that_of_the_installed_mlflow():
    assert _get_latest_schema_revision() == tables.REVISION


def test_a_store_of_an_unknown_schema_is_recorded_through_mlflow(nnexp, store, monkeypatch):
    """After an update of MLflow that nnexp does not know, recording is slower, but the record is the same."""
    monkeypatch.setattr(tables, "REVISION", "0000")
    ended = nnexp("train", "-m", "figures=false", "seed=1,2", "epochs=5")
    assert ended.status == 0
    assert "recording through MLflow, slower" in ended.err
    again = nnexp("train", "-m", "figures=false", "seed=1,2,3", "epochs=5")
    assert "3 runs: 2 done, 1 new" in again.err
    through_mlflow = nnexp("summarize", "--by", "seed", "--format", "json").out
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    assert nnexp("summarize", "--by", "seed", "--format", "json").out == through_mlflow


def test_a_finished_run_is_not_written_again(both):
    store, writer = both[0]
    writer.write(RECORDS)
    writer.write(RECORDS)
    experiment = ensure_experiment(store, "one")
    found = [run.tags["nnexp.run_key"] for run in find_runs(store, experiment, "nnexp.run_key")]
    assert sorted(found) == ["k1", "k2", "k3", "k3"]  # a failure may come twice


def test_if_two_processes_train_the_same_run_the_first_to_finish_counts(both):
    for store, writer in both:
        experiment = ensure_experiment(store, "one")
        tags = {"nnexp.run_key": "k", "nnexp.attempt": "2"}
        slow, quick = (writer.start(RunRecord(n, tags=tags, status="RUNNING")) for n in ("slow", "quick"))
        other = writer.start(RunRecord("first attempt", tags={"nnexp.run_key": "k"}, status="RUNNING"))
        ended = {run_id: writer.finish(run_id, "FINISHED", {}, {}) for run_id in (other, quick, slow)}
        assert ended == {other: other, quick: quick, slow: quick}
        found = {run.run_id: run for run in find_runs(store, experiment, "nnexp.run_key")}
        assert {i: found[i].status for i in ended} == {other: "FINISHED", quick: "FINISHED", slow: "KILLED"}
        assert MlflowClient(store.uri).get_run(slow).data.tags["nnexp.superseded_by"] == quick


def test_an_owner_is_told_that_its_run_was_ended_or_deleted(both):
    for store, writer in both:
        ended, deleted = (writer.start(RunRecord(n, status="RUNNING")) for n in ("ended", "deleted"))
        client = MlflowClient(store.uri)
        client.set_tag(ended, "nnexp.reason", "its process died")
        client.set_terminated(ended, "KILLED")
        client.delete_run(deleted)
        with pytest.raises(Ended, match=r"was set to KILLED by another command \(its process died\)"):
            writer.finish(ended, "FINISHED", {}, {"new": "tag"})
        with pytest.raises(Ended, match="was deleted while this command worked"):
            writer.finish(deleted, "FINISHED", {}, {})
        found = client.get_run(ended)
        assert (found.info.status, "new" in found.data.tags) == ("KILLED", False)


def owned(process, began, beat, machine=None):
    return {
        owner.OWNER: f"{machine or owner._machine()} {process} {began}",
        owner.HEARTBEAT: str(int(beat)),
    }


def test_on_its_own_machine_the_process_decides_and_not_the_clocks(monkeypatch):
    store, now = Store("sqlite:///x.db", None, is_known=False), time.time()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = owner._began(child.pid)
    for beat in (now, now - 3600, now + 3600):
        assert owner.is_beating(store, owned(child.pid, began, beat))
        # A process that has the same number now is another one.
        assert not owner.is_beating(store, owned(child.pid, str(int(began) - 1), beat))
    child.kill()
    while owner._began(child.pid) != "dead":  # it waits for us to take its exit status
        time.sleep(0.01)
    assert not owner.is_beating(store, owned(child.pid, began, now))
    child.communicate()
    assert not owner.is_beating(store, owned(child.pid, began, now))


def test_on_another_machine_the_heartbeat_counts_by_the_stores_clock(monkeypatch):
    store = Store("http://nowhere", None, is_known=False)
    monkeypatch.setattr(owner, "_time_of", lambda store: 1000.0)
    for beat, alive in ((1000, True), (950, True), (930, False)):
        assert owner.is_beating(store, owned(1, "1", beat, "elsewhere")) is alive
        # A process whose start time the system does not tell cannot be checked either.
        assert owner.is_beating(store, owned(os.getpid(), owner.UNKNOWN, beat)) is alive


def test_two_writers_at_once_write_each_key_once(both):
    store, _ = both[0]
    experiment = ensure_experiment(store, "one")
    records = [RunRecord(f"r{i}", tags={"nnexp.run_key": f"k{i}"}, end_time=5) for i in range(300)]

    def write(some):
        writer = DatabaseWriter(store, experiment)
        for i in range(0, 300, 10):
            writer.write(some[i : i + 10])
        writer.close()

    threads = [threading.Thread(target=write, args=[some]) for some in (records, records[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [run.tags["nnexp.run_key"] for run in find_runs(store, experiment, "nnexp.run_key")]
    assert len(found) == len(set(found)) == 300


def test_a_chunk_is_recorded_entirely_or_not_at_all(both, monkeypatch):
    store, writer = both[0]
    bad = RunRecord("bad", params={"p": None}, tags={"nnexp.run_key": "bad"})  # a NULL that the table refuses
    with pytest.raises(Exception, match="NOT NULL"):
        writer.write([*RECORDS, bad])
    assert find_runs(store, ensure_experiment(store, "one"), "nnexp.run_key") == []
    writer.write(RECORDS)
    assert len(find_runs(store, ensure_experiment(store, "one"), "nnexp.run_key")) == 3


def test_files_are_on_the_disk_before_a_row_names_them(both, monkeypatch):
    store, writer = both[0]
    path, seen = store.uri.removeprefix("sqlite:///"), []

    def flush(place, names):
        with closing(sqlite3.connect(path)) as connection:
            rows = set(connection.execute("SELECT run_uuid, status FROM runs"))
        for name in names:
            seen.append((sorted(p.name for p in (place / name).rglob("*.*")), (name, "FINISHED") in rows))

    monkeypatch.setattr("nnexp.tracking.database.flush", flush)
    writer.write(RECORDS)
    assert seen == [(["config.yaml", "curve.png"], False), ([], False), (["traceback.txt"], False)]
    seen.clear()
    run_id = writer.start(RunRecord("r", files={"a.txt": b"1"}, status="RUNNING"))
    writer.finish(run_id, "FINISHED", {"a.txt": b"2", "b.txt": b"3"}, {})
    assert seen == [(["a.txt"], False), (["a.txt", "b.txt"], False)]


def test_a_file_stays_until_its_successor_is_on_the_disk(both, monkeypatch):
    _, writer = both[0]
    run_id, done, replace = (
        writer.start(RunRecord("r", files={"a.txt": b"1"}, status="RUNNING")),
        [],
        os.replace,
    )
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append("sync"))
    monkeypatch.setattr(os, "replace", lambda *a, **k: (done.append("replace"), replace(*a, **k)))
    monkeypatch.setattr("nnexp.tracking.database.flush", lambda place, names: None)
    writer.finish(run_id, "FINISHED", {"a.txt": b"2", "b.txt": b"3"}, {})
    assert done == ["sync", "replace"] * 2


def test_without_syncfs_every_file_and_directory_is_flushed(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "_syncfs", lambda: None)
    monkeypatch.setattr(durable, "_fsync", synced.append)
    place = tmp_path / "mlartifacts" / "nnexp"
    (place / "r" / "artifacts").mkdir(parents=True)
    (place / "r" / "artifacts" / "weights.npz").write_bytes(b"x")
    durable.flush(place, ["r"])
    assert set(synced) == {*place.rglob("*"), place, place.parent, tmp_path}


def test_a_disk_error_while_writing_files_stops_the_recording(both, monkeypatch):
    store, writer = both[0]

    def fails(place):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "_syncfs", lambda: fails)
    with pytest.raises(OSError, match="Input/output"):
        writer.write(RECORDS)
    assert find_runs(store, ensure_experiment(store, "one"), "nnexp.run_key") == []


def test_a_disregarded_run_becomes_killed_when_another_replaces_it(both):
    for store, writer in both:
        experiment = ensure_experiment(store, "one")
        writer.write(RECORDS[:2])
        old = {run.run_id: run.tags["nnexp.run_key"] for run in find_runs(store, experiment, "nnexp.run_key")}
        lost = {run_id: key for run_id, key in old.items() if key == "k1"}
        writer.disregard(lost)
        writer.write(RECORDS[:2] if store is both[0][0] else RECORDS[:1])
        found = find_runs(store, experiment, "nnexp.run_key")
        ended = sorted((run.tags["nnexp.run_key"], run.status, run.run_id in lost) for run in found)
        assert ended == [("k1", "FINISHED", False), ("k1", "KILLED", True), ("k2", "FINISHED", False)]


def test_a_writer_waits_for_a_locked_file_and_says_so(both, capsys, monkeypatch):
    monkeypatch.setattr("nnexp.tracking.database.TRY_SECONDS", 0.1)
    store, _ = both[0]
    writer = DatabaseWriter(store, ensure_experiment(store, "one"))
    path = store.uri.removeprefix("sqlite:///")
    holder = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(1.0, lambda: holder.execute("COMMIT"))
    timer.start()
    writer.write(RECORDS[:1])
    timer.join()
    holder.close()
    writer.close()
    assert "locked by another process: waiting" in capsys.readouterr().err
    assert len(find_runs(store, ensure_experiment(store, "one"), "nnexp.run_key")) == 1


def test_the_system_is_asked_once_for_the_name_of_the_user(monkeypatch):
    asked = []
    monkeypatch.setattr(getpass, "getuser", lambda: asked.append("") or "ada")
    user.cache_clear()
    try:
        assert [origin()["mlflow.user"] for _ in range(3)] == ["ada"] * 3
    finally:
        user.cache_clear()
    assert len(asked) == 1
