"""The CUDA kernels, compiled for the CPU, have the engine's bits."""

import ctypes
import shutil
from pathlib import Path

import numpy as np
import pytest

from nnexp.config.run import Choice
from nnexp.network.engine.batch import ARTICLES, VERSION, Model
from nnexp.network.engine.canary import CANARIES, canary
from nnexp.network.engine.cuda.device import KERNELS, OPTIONS, SOURCE
from nnexp.network.engine.cuda.draws import DeviceDraws
from nnexp.network.engine.cuda.training import arrangement
from nnexp.network.engine.draws import Draws
from nnexp.training.checks import INITIALISERS
from nnexp.training.initial import networks
from tests.network.any_training import any_training, trained
from tests.network.host_device import HostDevice

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")

TRAININGS, DRAWINGS = 1000, 1000
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


def test_the_kernels_draw_the_engines_bits_for_any_seeds(directory: Path) -> None:
    rng, device, differing = np.random.RandomState(0), HostDevice(directory), []
    for case in range(DRAWINGS):
        name = sorted(INITIALISERS)[case % len(INITIALISERS)]
        options = [
            (option, rng.randint(9) if option == "ulps" else rng.uniform(0.01, 9))
            for option in sorted(INITIALISERS[name])
        ]
        sizes = (*rng.randint(1, 4 + case % 20, rng.randint(1, 5)).tolist(), rng.randint(1, 4))
        seeds = [0, 2**32 - 1, *rng.randint(2**32, size=rng.randint(1, 4), dtype=np.int64)]
        initial = networks(Choice(name, tuple(options)), sizes, seeds)
        drawn = device.empty(initial.weights.shape, np.float64)
        DeviceDraws(device, seeds).weights(initial, drawn, None, drawn.shape[1], 1)
        if drawn.tobytes() != initial.weights.tobytes():
            differing.append((name, options, sizes, seeds))
    assert differing == []


def test_the_kernels_draw_the_engines_orders_from_one_call_to_the_next(directory: Path) -> None:
    rng, device, differing = np.random.RandomState(0), HostDevice(directory), []
    for case in range(DRAWINGS // 10):
        seeds = [[0, 2], [2**32 - 1, 2], *rng.randint(2**32, size=(2, 2), dtype=np.int64)]
        here, there = Draws(seeds), DeviceDraws(device, seeds)
        for epochs, n in rng.randint(1, 4 + case, (3, 2)).tolist():
            if not np.array_equal(here.orders(epochs, n), there.orders(epochs, n)):
                differing.append((seeds, epochs, n))
    assert differing == []


def test_the_devices_compiler_takes_the_kernels_and_fuses_nothing() -> None:
    found = pytest.importorskip("nvidia.cuda_nvrtc", reason="there is no NVRTC: nvidia-cuda-nvrtc-cu12")
    (library,) = Path(found.__path__[0]).glob("lib/libnvrtc.so.*")
    nvrtc, program, size = ctypes.CDLL(str(library)), ctypes.c_void_p(), ctypes.c_size_t()
    options = [option.encode() for option in (*OPTIONS, "-arch=sm_90")]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), b"kernels.cu", 0, None, None)
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    kind = "PTX" if status == 0 else "ProgramLog"
    nvrtc[f"nvrtcGet{kind}Size"](program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    nvrtc[f"nvrtcGet{kind}"](program, text)
    assert status == 0, text.value.decode()
    assert all(f".entry {kernel}(" in text.value.decode() for kernel in KERNELS)
    assert "fma.rn.f64" not in text.value.decode()


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
