"""The CUDA kernels, compiled for the CPU, have the engine's bits."""

import shutil
from pathlib import Path

import pytest

from nnexp.network.engine.batch import ARTICLES, VERSION, Model
from nnexp.network.engine.canary import CANARIES, canary
from nnexp.network.engine.cuda.training import arrangement
from tests.network.any_training import any_training, trained
from tests.network.host_device import HostDevice

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")

TRAININGS = 1000
H100_SHARED = 232_448  # the bytes of shared memory that a block can have on an H100


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host")


def test_the_kernels_have_the_engines_bits_in_any_training(directory: Path) -> None:
    # With less shared memory, fewer rows go through a network at a time, or all memory is global memory.
    devices = [HostDevice(directory, shared_bytes) for shared_bytes in (2**20, 4000, 1)]
    differing = []
    for seed in range(TRAININGS):
        training, lanes = any_training(seed), (None, "runs", "neurons")[seed // 3 % 3]
        if trained(training) != trained(training, lanes, devices[seed % 3]):
            differing.append((seed, lanes, training.model))
    assert differing == []


def test_the_kernels_have_the_canarys_hash(directory: Path) -> None:
    assert canary(HostDevice(directory)) == CANARIES[VERSION]


@pytest.mark.parametrize(
    ("sizes", "batch_size", "n_runs", "faster"),
    [
        ((2, 8, 1), 1, 1000, "train_wide"),
        ((2, 8, 1), 1, 64_000, "train_narrow"),
        ((2, 8, 1), 10, 8000, "train_wide"),
        ((4, 8, 3), 1, 16_000, "train_narrow"),
        ((4, 8, 3), 10, 64_000, "train_wide"),
        ((4, 16, 3), 10, 50_000, "train_wide"),
        ((30, 16, 1), 32, 1000, "train_wide"),
    ],
)
def test_the_kernel_is_the_one_that_was_measured_to_be_faster(
    sizes: tuple[int, ...], batch_size: int, n_runs: int, faster: str
) -> None:
    model = Model(sizes, "tanh", "sigmoid", "bce", "adam", batch_size, True)
    assert arrangement(model, n_runs, 100, H100_SHARED, None)[0] == faster


def test_the_articles_network_takes_a_thread_for_any_number_of_runs() -> None:
    kernels = [arrangement(ARTICLES, n_runs, 4, H100_SHARED, None)[0] for n_runs in (50, 1000, 1_000_000)]
    assert kernels == ["train_narrow"] * 3
