"""What trains changes no bits; a device that is missing, broken or full does no harm."""

import shutil
import sys
from types import ModuleType

import pandas as pd
import pytest

import nnexp
from nnexp import load_runs
from nnexp.config.errors import RequestError
from nnexp.config.request import Executor
from nnexp.dataset.load import load
from nnexp.network.engine import batch, initial
from nnexp.network.weights import weights_sha256
from nnexp.pipeline.population import sweep as population_sweep
from nnexp.tracking.find import get_sweep
from nnexp.tracking.store import open_store
from nnexp.training import devices
from nnexp.training.devices import open_device
from nnexp.training.train import Failure, train
from tests.network.host_device import HostDevice
from tests.network.same_bits import SHAPES, sweep

INLINE = Executor("inline")
has_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    devices.cuda.cache_clear()


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    return HostDevice(tmp_path_factory.mktemp("host"))


def hashes(configs, device):
    """Return the hash of each run's weights, and its curves."""
    found = {}
    for progress in train(load(configs[0].dataset), configs, device):
        for i, run in progress.ended:
            found[i] = weights_sha256(run.final.layers), {n: v.tobytes() for n, v in run.curves.items()}
    return [found[i] for i in range(len(configs))]


@has_compiler
def test_runs_have_the_same_bits_on_a_device(host):
    configs = sweep(3 * len(SHAPES))
    assert hashes(configs, host) == hashes(configs, None)


@has_compiler
def test_runs_that_do_not_fit_a_devices_memory_are_trained_in_smaller_shards(host, configure, monkeypatch):
    configs = [configure(f"seed={seed}", "epochs=20") for seed in range(8)]
    empty, sizes = host.empty, []

    def little(shape, dtype):
        if shape[0] == 9:
            sizes.append(shape[1])
            if shape[1] > 3:
                raise MemoryError
        return empty(shape, dtype)

    monkeypatch.setattr(host, "empty", little)
    assert hashes(configs, host) == hashes(configs, None)
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


@has_compiler
def test_a_device_that_fails_ends_its_runs_as_failures(host, configure, monkeypatch):
    monkeypatch.setattr(host, "launch", lambda *_: 1 / 0)
    ended = [
        one for progress in train(load(configure().dataset), [configure()], host) for one in progress.ended
    ]
    assert [(i, type(run), run.reason) for i, run in ended] == [
        (0, Failure, "ZeroDivisionError: division by zero")
    ]


@has_compiler
def test_a_population_is_the_same_on_a_device(host, store, monkeypatch):
    monkeypatch.setattr(population_sweep, "open_device", lambda name, _: host if name == "cuda" else None)
    typed = {
        "dataset": "line", "output_activation": "identity", "learning_rate": [0.001, 100], "shuffle": True,
        "init": ["normal", "he"], "epochs": [30, 50], "seed": range(20),
    }  # fmt: skip
    members = []
    for device in ("cpu", "cuda"):
        if device == "cuda":  # where the CPU draws nothing
            monkeypatch.setattr(batch, "Draws", None)
            monkeypatch.setattr(initial, "Draws", None)
        done = nnexp.sweep(**typed, record="table", device=device, experiment_name=device)
        tags = get_sweep(open_store(create=False), done.sweep_id).tags
        assert tags["nnexp.device"] == {"cpu": "cpu", "cuda": "host"}[device]
        members.append(done.runs[["run_key", "weights_sha256", "outcome", "loss", "grad_norm"]])
    assert len(members[0]) == 160
    assert members[0]["outcome"].nunique() > 1
    pd.testing.assert_frame_equal(*members, check_exact=True)


def test_a_missing_device_is_refused_before_anything_is_recorded(nnexp, store, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    for arguments in (["device=cuda"], ["-m", "device=cuda", "seed=0,1"]):
        done = nnexp("train", *arguments, "dataset=xor")
        assert done.status == 2
        (line,) = [line for line in done.err.splitlines() if line.startswith("nnexp:")]
        assert "device=cuda: CuPy cannot be imported" in line
        assert line.endswith("device=cpu gives the same results")
    assert load_runs().empty


def test_auto_takes_the_cpu_where_there_is_no_device(caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with caplog.at_level("INFO", "nnexp"):
        assert open_device("auto", INLINE) is None
    assert "device=auto: training on the CPU: CuPy cannot be imported" in caplog.text
    assert open_device("cpu", INLINE) is None


def test_a_broken_device_is_told_in_one_line(monkeypatch):
    class NoDriver(ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("cudaErrorInsufficientDriver:\n the driver is too old")

    monkeypatch.setitem(sys.modules, "cupy", NoDriver("cupy"))
    with pytest.raises(RequestError, match="device=cuda: RuntimeError: cudaErrorInsufficientDriver: the dr"):
        open_device("cuda", INLINE)


@has_compiler
@pytest.mark.parametrize("kernel", ["draw_weights", "draw_orders"])
def test_a_device_that_draws_other_numbers_is_refused(host, monkeypatch, kernel):
    launch = host.launch
    monkeypatch.setattr(host, "launch", lambda name, *more: name == kernel or launch(name, *more))
    monkeypatch.setattr(devices, "CudaDevice", lambda: host)
    with pytest.raises(RequestError, match="device=cuda: it draws other initial weights or orders of rows"):
        open_device("cuda", INLINE)


@has_compiler
def test_a_device_that_draws_as_the_cpu_is_opened(host, monkeypatch):
    monkeypatch.setattr(devices, "CudaDevice", lambda: host)
    assert open_device("cuda", INLINE) is host


def test_a_cluster_trains_on_cpus(monkeypatch):
    with pytest.raises(RequestError, match="device=auto: executor=dask trains on CPUs only"):
        open_device("auto", Executor("dask", address="tcp://here:1"))
