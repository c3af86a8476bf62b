"""A sweep trained by real worker processes, some of which are killed, has the same bits as in one process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pandas as pd
import pytest

import nnexp as package
from nnexp.config.request import Executor
from nnexp.dataset.load import load
from nnexp.network.weights import weights_sha256
from nnexp.pipeline.identity import run_key
from nnexp.training import distribute as sweep
from nnexp.training import pools as workers
from nnexp.training.distribute import execute
from nnexp.training.plan import Point
from nnexp.training.shard import Trained
from nnexp.training.train import Failure
from tests.real import NNEXP, alive, kill_group, needs, started, statuses, wait_for
from tests.training import deadly

pytestmark = pytest.mark.slow

# Four shards, each a second or so of work for one core.
N = 128
SWEEP = [
    "train",
    "-m",
    "dataset=xor",
    f"seed=range({N})",
    "epochs=400000",
    "log_every=100000",
    "figures=false",
]
PROCESSES = ["executor=processes", "executor.workers=2"]
DASK = Path(sys.executable).with_name("dask")


def bits(runs):
    """Return the hash of each finished run's weights, by key; no key may occur twice."""
    runs = runs[runs["status"] == "FINISHED"]
    assert runs["run_key"].is_unique
    return dict(zip(runs["run_key"], runs["weights_sha256"], strict=True))


@pytest.fixture(scope="module")
def inline(configure):
    """The bits of SWEEP, trained in one process."""
    first = configure(*SWEEP[2:3], *SWEEP[4:])
    dataset = load(first.dataset)
    configs = [replace(first, seed=seed) for seed in range(N)]
    training = execute([Point(c, dataset, run_key(c, dataset), "") for c in configs], Executor("inline"))
    return {p.key: weights_sha256(run.final.layers) for _, ended in training for p, run in ended}


def workers_of(process):
    """Return the worker processes of this process."""
    return [pid for pid, command in alive(process.pid).items() if "spawn_main" in command]


@contextmanager
def sweeping(*how, code=None):
    """Start a sweep in another process; yield the process and the file with its output."""
    program = NNEXP if code is None else [sys.executable, "-c", code]
    with Path("said").open("w") as log, started(*program, *SWEEP, *how, log=log) as process:
        yield process


def said():
    return Path("said").read_text()


def test_worker_processes_train_the_same_bits(nnexp, store, inline):
    ended = nnexp(*SWEEP, *PROCESSES)
    assert ended.status == 0, ended.err
    assert bits(package.load_runs()) == inline


def test_the_shard_of_a_killed_worker_is_trained_again(store, inline):
    with sweeping(*PROCESSES) as process:
        wait_for(lambda: statuses(store).count("FINISHED"))  # one shard is done, the others are under way
        os.kill(workers_of(process)[0], signal.SIGKILL)
        assert statuses(store)[0] == "RUNNING"
        assert process.wait(240) == 0, said()
    assert "Traceback" not in said()
    assert statuses(store) == ["FINISHED"] * (N + 1)
    assert bits(package.load_runs()) == inline


def test_a_run_that_kills_its_worker_each_time_fails_and_the_others_go_on(configure, monkeypatch):
    monkeypatch.setattr(sweep, "train_shard", deadly.train_shard)
    configs = [configure("epochs=5", f"seed={seed}") for seed in range(4)]
    dataset = load(configs[0].dataset)
    training = execute(
        [Point(c, dataset, str(c.seed), "") for c in configs], Executor("processes", workers=2)
    )
    results = {point.key: result for _, ended in training for point, result in ended}
    assert results.keys() == set("0123")
    failed = results.pop(str(deadly.DEADLY_SEED))
    assert isinstance(failed, Failure)
    assert failed.reason.startswith("WorkerLost: the process that trained this run died")
    assert all(isinstance(result, Trained) for result in results.values())


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["Ctrl-C", "kill -9"]
)
def test_no_worker_outlives_its_parent(store, number, status):
    with sweeping(*PROCESSES) as process:
        wait_for(lambda: statuses(store).count("FINISHED"))
        assert len(workers_of(process)) == 2
        if number == signal.SIGINT:
            kill_group(process, number)  # as a terminal does
        else:
            process.kill()
        assert process.wait(240) == status
        wait_for(lambda: not alive(process.pid))
    assert "Traceback" not in said()
    assert statuses(store)[0] == ("KILLED" if status == 130 else "RUNNING")


WHILE_SENDING = """
import time
from nnexp.training import pools

try:
    with pools._processes(1) as (pool, _):
        pool.submit(bytes, 300_000_000)
        while not pool._result_queue._reader.poll():
            time.sleep(0.001)
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print("ended")
"""


def test_ctrl_c_while_a_worker_sends_a_large_result_ends_the_pool():
    command = [sys.executable, "-c", WHILE_SENDING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ended\n"


@pytest.mark.parametrize("after", [0.1, 0.4])
def test_ctrl_c_while_workers_start_prints_no_traceback(store, after):
    with sweeping(*PROCESSES) as process:
        wait_for(lambda: workers_of(process))
        time.sleep(after)
        kill_group(process, signal.SIGINT)
        assert process.returncode == 130
        wait_for(lambda: not alive(process.pid))
    assert said().splitlines()[-1] == "nnexp: interrupted"
    assert "Traceback" not in said()


class Cluster:
    """A scheduler and workers of Dask on this machine, as a user starts them, for one test after another."""

    def __init__(self, directory):
        self._directory, self._files, self._stack = directory, count(), ExitStack()
        self._workers = []
        self._begin()

    def have(self, workers):
        """See that just so many workers are there; return them. A lost or too large cluster begins anew."""
        self._workers = [process for process in self._workers if process.poll() is None]
        if self.scheduler.poll() is not None or len(self._workers) > workers:
            self.close()
            self._begin()
        while len(self._workers) < workers:
            log = self._file()
            options = ["--no-nanny", "--no-dashboard", "--nthreads", "1", "--local-directory"]
            process = self._start(log, "worker", self.address, *options, str(self._directory))
            wait_for(lambda log=log: "Registered to" in log.read_text())
            self._workers.append(process)
        return self._workers

    def close(self):
        self._stack.close()
        self._workers = []

    def _begin(self):
        file = self._file()
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        self.scheduler = self._start(self._file(), "scheduler", *options)
        wait_for(lambda: file.exists() and file.read_text().endswith("}"))
        self.address = json.loads(file.read_text())["address"]
        self.executor = ["executor=dask", f"executor.address={self.address}"]

    def _file(self):
        return self._directory / str(next(self._files))

    def _start(self, log, *arguments):
        with log.open("w") as file:
            return self._stack.enter_context(started(str(DASK), *arguments, log=file, cwd=self._directory))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    needs("Dask", DASK.exists())
    running = Cluster(tmp_path_factory.mktemp("dask"))
    yield running
    running.close()


def test_a_cluster_without_workers_is_refused_before_anything_is_recorded(nnexp, store, cluster):
    cluster.have(0)
    ended = nnexp(*SWEEP, *cluster.executor)
    assert ended.status == 2
    assert ended.err.splitlines()[1:] == [
        f"nnexp: executor.address={cluster.address}: the cluster has no workers yet"
    ]
    assert statuses(store) == []


def test_workers_with_another_engine_are_refused(nnexp, store, cluster, monkeypatch):
    cluster.have(1)
    monkeypatch.setattr("nnexp.network.engine.VERSION", "0")
    ended = nnexp(*SWEEP, *cluster.executor)
    assert ended.status == 2
    assert "its workers train with engine" in ended.err
    assert statuses(store) == []


def test_a_cluster_trains_the_same_bits_though_one_of_its_workers_is_killed(store, cluster, inline):
    killed, _ = cluster.have(2)
    with sweeping(*cluster.executor) as process:
        wait_for(lambda: statuses(store).count("FINISHED"))
        killed.kill()
        assert statuses(store)[0] == "RUNNING"
        assert process.wait(240) == 0, said()
    assert statuses(store) == ["FINISHED"] * (N + 1)
    assert bits(package.load_runs()) == inline
    assert not re.search("distributed|tornado|Traceback|Warning", said()), said()


def test_a_missing_cluster_is_refused_before_anything_is_recorded(nnexp, store, monkeypatch):
    needs("Dask", DASK.exists())
    monkeypatch.setattr(workers, "ANSWER_SECONDS", 2)  # not 10
    ended = nnexp(*SWEEP, "executor=dask", "executor.address=tcp://127.0.0.1:9")
    assert ended.status == 2
    assert ended.err.splitlines()[1:] == [
        "nnexp: executor.address=tcp://127.0.0.1:9: no scheduler answers: "
        "Timed out trying to connect to tcp://127.0.0.1:9 after 2 s"
    ]
    assert statuses(store) == []


@pytest.mark.parametrize("whose", ["worker", "scheduler"])
def test_losing_the_cluster_ends_the_sweep_and_the_same_command_finishes_it(
    nnexp, store, cluster, inline, whose
):
    (worker,) = cluster.have(1)
    hurried = "ANSWER_SECONDS, pools.LOOK_SECONDS, pools.WORKERLESS_SECONDS = 2, 0.5, 2"
    code = f"from nnexp.cli import main; from nnexp.training import pools; pools.{hurried}; main.main()"
    with sweeping(*cluster.executor, code=code) as process:
        wait_for(lambda: statuses(store).count("FINISHED"))
        kill_group(cluster.scheduler if whose == "scheduler" else worker)
        assert process.wait(240) == 1
    assert said().splitlines()[-1].startswith(f"nnexp: the Dask cluster at {cluster.address} is gone: ")
    assert "Traceback" not in said()
    assert statuses(store)[0] == "FAILED"
    assert nnexp(*SWEEP).status == 0
    assert bits(package.load_runs()) == inline


# --- Populations. Each lot is a second or so of work for one core.

TABLE = [*SWEEP, "record=table", "curves=true", "weights=all"]


def rows(experiment):
    """Return the rows of the experiment's population, without what tells when and how it was recorded."""
    frame = package.load_runs(experiment)
    own = ["run_id", "sweep_id", "start_time", "seconds"]
    curves = package.load_history(frame, ["loss", "accuracy", "grad_norm"])
    return frame.drop(columns=own), curves.drop(columns="run_id")


def check_rows(nnexp):
    """Check that the population is, to the bit, the one that one process records."""
    assert nnexp(*TABLE, "experiment_name=here").status == 0
    for ours, theirs in zip(rows("nnexp"), rows("here"), strict=True):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@contextmanager
def recording(*how):
    """Start a population in another process, whose lots are small; yield the process."""
    code = "from nnexp.training import lots; from nnexp.cli import main; lots.MAX_SENT = 32; main.main()"
    with (
        Path("said").open("w") as log,
        started(sys.executable, "-c", code, *TABLE, *how, log=log) as process,
    ):
        yield process


def test_a_population_is_the_same_though_one_of_its_worker_processes_is_killed(nnexp, store):
    with recording(*PROCESSES) as process:
        wait_for(lambda: len(workers_of(process)) == 2)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        assert process.wait(240) == 0, said()
    assert "Traceback" not in said()
    check_rows(nnexp)


def test_a_population_is_the_same_though_one_of_its_dask_workers_is_killed(nnexp, store, cluster):
    killed, _ = cluster.have(2)
    with recording(*cluster.executor) as process:
        wait_for(lambda: statuses(store))
        killed.kill()
        assert process.wait(240) == 0, said()
    assert not re.search("distributed|tornado|Traceback|Warning", said()), said()
    check_rows(nnexp)


@pytest.mark.parametrize("pool", ["processes", "dask"])
def test_an_error_in_a_worker_is_a_populations_failure_in_one_line(
    nnexp, store, cluster, monkeypatch, request, pool
):
    cluster.have(1)
    executor = cluster.executor if pool == "dask" else PROCESSES
    monkeypatch.setattr("nnexp.training.lots.train_lot", deadly.failing_lot)
    if pool == "dask":  # whose workers cannot import the tests
        import cloudpickle  # Dask's

        cloudpickle.register_pickle_by_value(deadly)
        request.addfinalizer(lambda: cloudpickle.unregister_pickle_by_value(deadly))
    ended = nnexp("train", "-m", "record=table", "hidden=[2],[3]", "seed=0,1", "epochs=20", *executor)
    assert ended.status == 1
    failed = [line for line in ended.err.splitlines() if line.startswith("failed: ")]
    assert [line.partition(": MemoryError")[2] for line in failed] == [": no room"] * 2
    assert "Traceback" not in ended.err
