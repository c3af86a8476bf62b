"""Runs recorded in a real PostgreSQL, and on a real MLflow server in front of it, on this machine."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import nnexp as package
from nnexp.config.paths import CHECKOUT
from nnexp.pipeline.provenance import provenance
from nnexp.tracking import owner, wire
from nnexp.tracking.database import DatabaseWriter
from nnexp.tracking.experiments import ensure_experiment
from nnexp.tracking.find import find_runs, get_run, read_artifact
from nnexp.tracking.runs import Ids, RunRecord
from nnexp.tracking.server import ClientWriter
from nnexp.tracking.store import open_store
from nnexp.tracking.write import end_dead, open_writer
from tests.postgres import find_initdb, postgres_server
from tests.real import NNEXP, free_port, is_up, kill_group, needs, started, wait_for
from tests.tracking.test_writers import RECORDS, read_back

pytestmark = pytest.mark.slow

ALIKE = ["train", "-m", "figures=false", "dataset=gender,xor", "seed=range(3)", "epochs=30"]
# Runs of ten lengths, which are recorded one after another over a few seconds.
LONG = ["train", "-m", "figures=false", "dataset=xor", "seed=range(20)", "log_every=100000"]
LONG += ["epochs=" + ",".join(str(100_000 * i) for i in range(1, 11))]
ALONE = ["train", "dataset=gender", "hidden=[3]", "epochs=40", "seed=7", "figures=false", "model=false"]


@pytest.fixture(scope="session")
def postgres():
    """The server, with a database `made` whose tables two processes made at once."""
    needs("PostgreSQL", find_initdb())
    with postgres_server() as server:
        server.ask("CREATE DATABASE made")
        code = (
            "from nnexp.tracking import experiments, store; import sys; s = store.open_store(sys.argv[1]); "
        )
        code += "print(experiments.ensure_experiment(s, 'made').id)"
        command = [sys.executable, "-c", code, server.uri("made")]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        server.said = [process.communicate()[0] for process in running]
        server.ended = [process.returncode for process in running]
        yield server


@pytest.fixture
def database(postgres, tmp_path, monkeypatch):
    """The address of a database with MLflow's tables, whose artifacts are in the test's directory."""
    name = f"test_{random.SystemRandom().getrandbits(64)}"
    postgres.ask(f"CREATE DATABASE {name} TEMPLATE made")
    uri = postgres.uri(name)
    ensure_experiment(replace(open_store(uri), artifact_root=tmp_path.as_uri()), "nnexp")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def test_a_copied_database_records_in_its_own_directory_and_doctor_leaves_the_others(
    nnexp, postgres, database, tmp_path, monkeypatch
):
    name = database.rpartition("/")[2]
    postgres.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    postgres.ask(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    postgres.ask("CREATE ROLE anybody LOGIN IN ROLE pg_read_all_data, pg_write_all_data")
    made = []
    for uri in (database, f"{database}_copy".replace("nnexp@", "anybody@")):
        store = open_store(uri)
        with open_writer(store, ensure_experiment(store, "nnexp")) as writer:
            files = {"config.yaml": b"x"}
            run = RunRecord("x", tags={"nnexp.rerun_key": "k"}, files=files, status="RUNNING")
            made.append(writer.start(run))
            writer.finish(made[-1], "FINISHED", {}, {})
    found = [next(tmp_path.rglob(run_id)) for run_id in made]
    assert found[0].parent != found[1].parent
    monkeypatch.setattr("nnexp.pipeline.doctor._is_old", lambda path: True)
    shutil.copytree(found[0], found[0].with_name(f"{made[0][:-4]}dead"))
    assert "; repaired: move them to " in nnexp("doctor", "--fix").out
    assert all(directory.is_dir() for directory in found)
    assert len(list(tmp_path.glob("*.aside/nnexp/*dead"))) == 1


class Server:
    """An MLflow server with nnexp's app in front of PostgreSQL, which also serves the artifacts."""

    def __init__(self, postgres, database, directory):
        self._postgres, self._name = postgres, database
        self.database, self._port = postgres.uri(database), free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._command = [sys.executable, "-m", "mlflow", "server", "--app-name", "nnexp"]
        self._command += ["--backend-store-uri", self.database]
        self._command += ["--artifacts-destination", str(directory), "--host", "127.0.0.1"]
        self._command += ["--port", str(self._port), "--workers", "1"]

    def start(self):
        # Otherwise MLflow starts five more processes, for jobs that are not used.
        quick = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._running = started(*self._command, env=quick)
        self._process = self._running.__enter__()
        wait_for(lambda: is_up(self.uri))

    def kill(self):
        kill_group(self._process)

    def count(self, experiment):
        """Count the FINISHED runs of an experiment in the database behind the server."""
        which = f"name = '{experiment}' AND status = 'FINISHED'"
        joined = "runs JOIN experiments ON runs.experiment_id = experiments.experiment_id"
        rows = self._postgres.ask(f"SELECT count(*) FROM {joined} WHERE experiments.{which}", self._name)
        return rows[0][0]


@pytest.fixture(scope="session")
def session_server(postgres, tmp_path_factory):
    postgres.ask("CREATE DATABASE served TEMPLATE made")
    server = Server(postgres, "served", tmp_path_factory.mktemp("served"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(session_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", session_server.uri)
    return session_server


@contextmanager
def typed(*arguments, **environment):
    """Start the program in a process of its own; yield the process and the file with its output."""
    whole = {**os.environ, **environment}
    with Path("said").open("w") as log, started(*NNEXP, *arguments, log=log, env=whole) as process:
        yield process


def said():
    return Path("said").read_text()


def finished(uri, experiment="nnexp"):
    """Return how many runs are FINISHED, after checking that none is there twice and none is RUNNING."""
    runs = package.load_runs(experiment, tracking_uri=uri)
    assert "RUNNING" not in set(runs["status"])
    keys = runs.loc[runs["status"] == "FINISHED", "run_key"]
    assert keys.is_unique
    return len(keys)


def parents(uri, experiment="nnexp"):
    """Return the statuses of the sweeps, oldest first."""
    client = MlflowClient(uri)
    runs = client.search_runs(
        [client.get_experiment_by_name(experiment).experiment_id],
        "tags.`nnexp.sweep` != ''",
        order_by=["attributes.start_time ASC"],
    )
    return [run.info.status for run in runs]


def recorded(uri, experiment="nnexp"):
    """Return all in which two stores must agree, read by nnexp and by MLflow's client."""
    runs = package.load_runs(experiment, tracking_uri=uri).sort_values("run_key", ignore_index=True)
    history = package.load_history(runs, ["loss", "accuracy"], tracking_uri=uri)
    key_of = dict(zip(runs["run_id"], runs["run_key"], strict=True))
    history = history.assign(run_id=history["run_id"].map(key_of))
    history = history.sort_values(["run_id", "metric", "epoch"], ignore_index=True)
    client, theirs = MlflowClient(uri), {}
    for run in client.search_runs([client.get_experiment_by_name(experiment).experiment_id]):
        tags = {k: v for k, v in run.data.tags.items() if k in SAME_TAGS}
        inputs = [(d.dataset.name, d.dataset.digest, d.dataset.schema) for d in run.inputs.dataset_inputs]
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        head = (run.info.run_name, run.info.status, run.data.params, run.data.metrics)
        theirs[run.data.tags.get("nnexp.run_key", "sweep")] = (*head, tags, inputs, files)
    own = runs.drop(columns=["run_id", "start_time", "seconds", "sweep_id"])
    return own, history, theirs


def assert_same(here, there):
    (own, history, theirs), (other_own, other_history, other_theirs) = here, there
    pd.testing.assert_frame_equal(own, other_own, check_exact=True)
    pd.testing.assert_frame_equal(history, other_history, check_exact=True)
    assert theirs == other_theirs


SAME_TAGS = {"nnexp.run_key", "nnexp.weights_sha256", "nnexp.outcome", "nnexp.engine", "nnexp.sweep_key"}


@pytest.fixture
def in_a_file(nnexp, store, monkeypatch):
    """The record of ALIKE and ALONE in an SQLite file."""
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
        assert nnexp(*ALIKE).status == 0
        assert nnexp(*ALONE).status == 0
    return recorded(f"sqlite:///{store}")


def assert_reruns(nnexp, run_id):
    """Check that the run and the sweep of six rerun identical, and that their reruns do not count as runs."""
    runs = package.load_runs()
    sweep_id = runs["sweep_id"].dropna().unique().item()
    listed = json.loads(nnexp("list", "--format", "json").out)
    assert [row["id"] for row in listed][:2] == [run_id, sweep_id]
    assert listed[1]["best"] == runs.loc[runs["sweep_id"] == sweep_id, "loss"].min()
    for name in (run_id[:20], "last"):
        assert f"run {run_id}" in nnexp("show", name).out
    for arguments, words in (
        (["--sweep", sweep_id], "6 of 6 runs are identical"),
        ([run_id], "verdict: identical"),
    ):
        ended = nnexp("rerun", *arguments)
        assert (ended.status, words in ended.out, "recorded as" in ended.out) == (0, True, True)
    assert package.load_runs().equals(runs)
    assert "identical" in nnexp("show", run_id).out


def test_two_processes_at_once_make_the_tables_of_an_empty_database(postgres):
    assert postgres.ended == [0] * 2
    assert len(set(postgres.said)) == 1


def test_postgresql_records_what_a_file_does(nnexp, database, in_a_file):
    assert nnexp(*ALIKE).status == 0
    run_id = nnexp(*ALONE).out.split("recorded as ")[1].split()[0]
    assert_same(recorded(database), in_a_file)
    assert "6 done, 0 new" in nnexp(*ALIKE).err
    assert "is not run again" in nnexp(*ALONE).err
    assert_same(recorded(database), in_a_file)
    assert_reruns(nnexp, run_id)


def test_postgresql_has_the_same_texts_and_points_from_both_writers(database):
    store, told = open_store(database), []
    for kind in (DatabaseWriter, ClientWriter):
        with closing(kind(store, ensure_experiment(store, kind.__name__))) as writer:
            writer.write(RECORDS)
        told.append(read_back(store, kind.__name__))
    ours, theirs = told
    # As the driver sends it to PostgreSQL, a zero loses its sign.
    assert repr(ours).replace("'-0.0'", "'0.0'") == repr(theirs)
    assert set(ours) == {record.name for record in RECORDS}


def test_long_texts_are_recorded_in_postgresql_as_in_a_file(nnexp, database, store, monkeypatch):
    """The command line and the names of a run and an experiment are longer than their columns."""
    seeds = "seed=" + ",".join(map(str, range(3)))
    sweep = ["train", "-m", seeds, "epochs=5", f"dataset.name='{'漢' * 300}'", "figures=false"]
    sweep += [
        f"experiment_name='{'漢' * 86}'",
        f"dataset.path={CHECKOUT}/data/gender.csv",
        "dataset.new_rows=null",
    ]
    monkeypatch.setattr("sys.orig_argv", ["python", "nnexp", *sweep, "x" * 9000])
    provenance.cache_clear()
    told = []
    for uri in (database, f"sqlite:///{store}"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        ended = nnexp(*sweep)
        assert (ended.status, "Traceback" in ended.err) == (0, False)
        client = MlflowClient(uri)
        place = client.get_experiment_by_name("漢" * 86).experiment_id
        runs = client.search_runs([place])
        kept = ("nnexp.command", "mlflow.runName", "nnexp.run_key")
        told.append(sorted(sorted((k, v) for k, v in run.data.tags.items() if k in kept) for run in runs))
        (parent,) = (run for run in runs if "nnexp.sweep" in run.data.tags)
        assert len(parent.data.tags["nnexp.command"]) == 8000
        assert "command.txt" in [file.path for file in client.list_artifacts(parent.info.run_id)]
        assert "nothing is wrong" in nnexp("doctor").out
    provenance.cache_clear()
    assert told[0] == told[1]


def test_two_of_the_same_sweep_at_once_record_each_run_once(database):
    sweep = ["train", "-m", "figures=false", "seed=range(100)", "epochs=100"]
    with started(*NNEXP, *sweep) as one, started(*NNEXP, *sweep) as other:
        assert [one.wait(240), other.wait(240)] == [0, 0]
    assert finished(database) == 100
    assert parents(database) == ["FINISHED"] * 2


def test_a_sweep_that_is_killed_is_finished_by_the_same_command(nnexp, postgres, database):
    name = database.rpartition("/")[2]
    with typed(*LONG) as process:
        wait_for(lambda: postgres.ask("SELECT 1 FROM runs", name))
        time.sleep(random.uniform(0, 2))
        process.kill()
    # The database takes a while to notice that a connection is dead.
    wait_for(lambda: not postgres.ask("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'", name))
    found = nnexp("doctor")
    assert (found.status, "its process has died; --fix: set it to KILLED" in found.out) == (1, True)
    assert nnexp(*LONG).status == 0
    assert finished(database) == 200
    assert parents(database) == ["KILLED", "FINISHED"]
    assert (
        nnexp("doctor", "--fix").status == 0
    )  # a killed process may have left files of runs that were never recorded
    assert "nothing is wrong" in nnexp("doctor").out


def test_a_database_that_cuts_its_connections_is_reported_and_the_same_command_finishes(
    nnexp, postgres, database
):
    name = database.rpartition("/")[2]
    with typed(*LONG) as process:
        wait_for(lambda: postgres.ask("SELECT 1 FROM runs WHERE status = 'FINISHED'", name))
        others = f"datname = '{name}' AND pid <> pg_backend_pid()"
        postgres.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}", name)
        assert process.wait(240) == 1
    failed, what_to_do = said().splitlines()[-2:]
    assert failed.startswith(f"nnexp: recording in {database} failed: ")
    assert what_to_do.endswith("when the store is back, the same command finishes the rest")
    assert "Traceback" not in said()
    assert nnexp(*LONG).status == 0
    assert finished(database) == 200


def test_a_server_records_what_a_file_does(nnexp, server, in_a_file, store, monkeypatch):
    assert nnexp(*ALIKE).status == 0
    run_id = nnexp(*ALONE).out.split("recorded as ")[1].split()[0]
    assert_same(recorded(server.uri), in_a_file)
    assert "6 done, 0 new" in nnexp(*ALIKE).err
    assert "is not run again" in nnexp(*ALONE).err
    assert_same(recorded(server.uri), in_a_file)
    assert_reruns(nnexp, run_id)
    summarize = ["summarize", "--by", "dataset,hidden", "--threshold", "0.3", "--format", "json"]
    show = nnexp("show", run_id).out.partition("\nequation")[2].partition("\nprovenance")[0]
    summary = nnexp(*summarize).out
    # The database behind it can be read, but not written to: the artifacts are the server's.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.database)
    assert nnexp(*summarize).out == summary
    refused = nnexp(*ALONE, "seed=8")
    assert refused.status == 2
    assert "give the server's address as tracking_uri" in refused.err
    assert "give the server's address as tracking_uri" in nnexp("rerun", run_id).err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    assert nnexp(*summarize).out == summary
    runs = package.load_runs()
    old = runs.loc[runs["hidden"] == "[3]", "run_id"].item()
    assert nnexp("show", old).out.partition("\nequation")[2].partition("\nprovenance")[0] == show != ""


def test_a_server_without_the_app_records_the_same_by_calls(nnexp, server, in_a_file, monkeypatch):
    asked = []
    monkeypatch.setattr(ClientWriter, "_takes_many", property(lambda writer: asked.append(writer)))
    for command in (ALIKE, ALONE):
        assert nnexp(*command, "experiment_name=called").status == 0
    assert asked
    assert_same(recorded(server.uri, "called"), in_a_file)


def test_runs_in_one_request_are_recorded_once_though_it_is_repeated(server):
    store = open_store(server.uri)
    place = ensure_experiment(store, "repeated")
    records = {Ids().draw(): RunRecord("x", tags={"nnexp.run_key": str(i)}, end_time=1) for i in range(3)}
    failed = {Ids().draw(): RunRecord("x", tags={"nnexp.run_key": "f"}, status="FAILED", end_time=1)}
    with open_writer(store, place) as writer:
        for body in wire.bodies(records | failed):
            writer._post(body)
            writer._post(body)
        (same,) = wire.bodies({Ids().draw(): record for record in records.values()})
        writer._post(same)
    assert {run.run_id for run in find_runs(store, place, "nnexp.run_key")} == set(records | failed)


def test_the_app_does_not_record_where_a_client_chose_the_directory(server, tmp_path):
    client = MlflowClient(server.uri)
    for name, location in (("elsewhere", "mlflow-artifacts:/1"), ("remote", "s3://bucket/x")):
        client.create_experiment(name, location)
        store = open_store(server.uri)
        with open_writer(store, ensure_experiment(store, name)) as writer:
            assert not writer._takes_many
            with pytest.raises(MlflowException, match="no experiment that nnexp can record in"):
                writer._post(next(wire.bodies({Ids().draw(): RunRecord("x", end_time=1)})))


def test_two_of_the_same_sweep_at_once_on_a_server_leave_each_run_once(server):
    sweep = ["train", "-m", "figures=false", "seed=range(6)", "epochs=20", "experiment_name=at_once"]
    with started(*NNEXP, *sweep) as one, started(*NNEXP, *sweep) as other:
        assert [one.wait(240), other.wait(240)] == [0, 0]
    assert finished(server.uri, "at_once") == 6
    assert parents(server.uri, "at_once") == ["FINISHED"] * 2


def test_duplicates_that_a_stopped_sweep_left_on_a_server_are_removed_by_the_next_command(
    nnexp, server, monkeypatch
):
    alone = [*ALONE, "experiment_name=twice"]
    assert nnexp(*alone).status == 0
    store = open_store(server.uri)
    place = ensure_experiment(store, "twice")
    (old,) = find_runs(store, place, "nnexp.run_key")
    tags = {key: value for key, value in old.tags.items() if key.startswith("nnexp.")}
    files = {"weights.npz": read_artifact(store, get_run(store, old.run_id), "weights.npz")}
    monkeypatch.setattr(ClientWriter, "_takes_many", False)
    with open_writer(store, place) as writer:
        writer.write([RunRecord("again", tags=tags, points=[("loss", 0, 1.0)], files=files)] * 3)
    assert len(package.load_runs("twice")) == 4
    again = nnexp(*alone)
    assert again.status == 0
    assert finished(server.uri, "twice") == 1
    assert package.load_runs("twice")["run_id"].item() in again.out


def test_a_client_whose_clock_is_ahead_does_not_take_a_live_run_for_dead(server, monkeypatch):
    store = open_store(server.uri)
    place = ensure_experiment(store, "ahead")
    with open_writer(store, place) as writer:
        run_id = writer.start(RunRecord("x", tags={"nnexp.run_key": "k"}, status="RUNNING"))
        found = find_runs(store, place, "nnexp.run_key")
        here = time.time
        monkeypatch.setattr(time, "time", lambda: here() + 90)
        assert not end_dead(store, writer, found)
        monkeypatch.setattr(owner, "_machine", lambda: "elsewhere")
        assert not end_dead(store, writer, found)
        assert writer.finish(run_id, "FINISHED", {}, {}) == run_id


def test_ctrl_c_does_not_wait_for_a_server_to_record_the_rest(server):
    sweep = ["train", "-m", "figures=false", "seed=range(60)", "epochs=20", "experiment_name=stopped"]
    by_calls = "from nnexp.tracking.server import ClientWriter; ClientWriter._takes_many = False; "
    by_calls += "from nnexp.cli import main; main.main()"
    with Path("said").open("w") as log, started(sys.executable, "-c", by_calls, *sweep, log=log) as process:
        wait_for(lambda: server.count("stopped") > 4)
        process.send_signal(signal.SIGINT)
        assert process.wait(240) == 130
    assert said().splitlines()[-1] == "nnexp: interrupted"
    assert finished(server.uri, "stopped") < 60
    assert parents(server.uri, "stopped") == ["KILLED"]


POPULATION = ["train", "-m", "record=table", "dataset=gender", "seed=range(6)", "epochs=30"]


def members_of(sweep):
    """Return what is recorded of the members of a population, without what differs from sweep to sweep."""
    runs = package.load_runs(sweep=sweep)
    return runs.drop(columns=["run_id", "sweep_id", "start_time", "seconds"])


def test_a_population_in_postgresql_and_on_a_server_is_what_it_is_in_a_file(
    nnexp, store, database, server, monkeypatch
):
    found = []
    for uri in (f"sqlite:///{store}", database, server.uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        name = ["experiment_name=population"]
        first = nnexp(*POPULATION, *name)
        assert first.status == 0, first.err
        again = nnexp(*POPULATION, *name)
        assert again.err.startswith("6 networks: 6 done, 0 new"), again.err
        sweep = first.out.split("recorded as sweep ")[1].split()[0]
        found.append(members_of(sweep))
        opened = open_store(uri)
        with open_writer(opened, ensure_experiment(opened, "population")) as writer:
            writer.resume(sweep)
            refused = nnexp(*POPULATION, *name)
            assert (refused.status, "another command is recording it" in refused.err) == (2, True)
            writer.finish(sweep, "KILLED", {}, {})
        assert nnexp(*POPULATION, *name).status == 0
    pd.testing.assert_frame_equal(found[0], found[1])
    pd.testing.assert_frame_equal(found[0], found[2])


@pytest.mark.parametrize("where", ["database", "server"])
def test_a_search_goes_on_in_a_service(nnexp, where, request):
    request.getfixturevalue(where)
    search = ["search", "dataset=xor", "learning_rate=interval(0.1,5)", "seed=range(2)", "epochs=30"]
    search += ["figures=false", "search.batch=2", "search.confirm=1", "experiment_name=searched"]
    assert nnexp(*search, "search.trials=2").status == 0
    first = [trial.params for trial in package.load_study("last").trials]
    ended = nnexp(*search, "search.trials=4")
    assert (ended.status, "4 trials of 2 runs over learning_rate: 2 done" in ended.err) == (0, True)
    assert [trial.params for trial in package.load_study("last").trials][:2] == first
