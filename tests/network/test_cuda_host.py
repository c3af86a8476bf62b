"""The CUDA kernels, compiled for the CPU, have the engine's bits."""

import shutil
from pathlib import Path

import pytest

from nnexp.network.engine.batch import VERSION
from nnexp.network.engine.canary import CANARIES, canary
from tests.network.any_training import any_training, trained
from tests.network.host_device import HostDevice

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")

TRAININGS = 1000


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
