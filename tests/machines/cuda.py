"""Compare a CUDA device's bits with the CPU's, and measure how fast it trains: make test-cuda.

usage: python -m tests.machines.cuda [CHECK …]      by default all

| check | what it does |
|---|---|
| canary | the engine's canary |
| trainings | 1,000 trainings of all kinds |
| speed | the time of large trainings beside the CPU's; their first runs have the CPU's bits |
| draws | the time of initial weights and of orders of rows beside the CPU's; all have its bits |
| choice | the time of small networks in both arrangements, and which of them is chosen |
| population | the time of a million networks from their seeds to their hashes; the first have the CPU's |
| reruns | records 1,000 runs from the device, and reruns them on the CPU; needs MLflow |

Exit status 1 unless all are equal. Where there is no device, it says so and the status is 0.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnexp.config.run import Choice
from nnexp.dataset.load import Dataset, load
from nnexp.network.engine.batch import ARTICLES, VERSION, Batch, Lanes, Model
from nnexp.network.engine.canary import CANARIES, canary, samples, usual_options
from nnexp.network.engine.cuda.device import CudaDevice, Device, DeviceError
from nnexp.network.engine.cuda.draws import DeviceDraws
from nnexp.network.engine.cuda.training import arrangement
from nnexp.network.engine.draws import Draws
from nnexp.network.engine.threads import default_threads
from nnexp.network.reference import unflatten
from nnexp.network.weights import weights_digests
from nnexp.training.checks import check
from nnexp.training.columns import Columns
from nnexp.training.initial import networks
from nnexp.training.lots import MAX_BATCH
from nnexp.training.train import train_columns
from tests.network.any_training import any_training, trained

TRAININGS, RERUNS, MEMBERS = 1000, 1000, 1_000_000


def classifier(sizes: tuple[int, ...], activation: str, batch_size: int) -> Model:
    """Return a model that adam trains."""
    if sizes[-1] == 1:
        return Model(sizes, activation, "sigmoid", "bce", "adam", batch_size, True)
    return Model(sizes, activation, "softmax", "cross_entropy", "adam", batch_size, True)


# Model, runs, rows and epochs of each training.
SPEEDS = [
    (ARTICLES, 1_000_000, 4, 1000),
    (ARTICLES, 1000, 4, 1000),
    (classifier((2, 8, 1), "tanh", 1), 100_000, 50, 10),
    (classifier((30, 16, 1), "relu", 32), 1000, 569, 20),
    (classifier((64, 64, 10), "relu", 32), 1000, 1797, 20),
    (classifier((784, 128, 10), "relu", 32), 132, 1000, 1),
]
CHOICES = [
    *((ARTICLES, runs, 4, 500) for runs in (50, 100, 200, 1000)),
    *((classifier((2, 2, 1), "sigmoid", 1), runs, 50, 20) for runs in (500, 1000, 2000, 8000)),
    *((classifier((2, 8, 1), "tanh", 1), runs, 50, 10) for runs in (1000, 4000, 8000, 64_000)),
    *((classifier((2, 8, 1), "tanh", 10), runs, 50, 10) for runs in (4000, 8000, 64_000)),
    *((classifier((3, 8, 2), "tanh", 10), runs, 50, 10) for runs in (8000, 64_000)),
    *((classifier((4, 8, 3), "tanh", 1), runs, 50, 10) for runs in (16_000, 64_000)),
    *((classifier((4, 8, 3), "tanh", 10), runs, 50, 10) for runs in (16_000, 64_000)),
    *((classifier((4, 16, 3), "tanh", 10), runs, 150, 5) for runs in (1000, 50_000)),
]
NORMAL = Choice("normal", (("scale", 1.0),))
# Layer sizes and networks whose weights are drawn; runs, epochs and rows of orders.
DRAWN = [((2, 2, 1), 1_000_000), ((64, 64, 10), 1000), ((784, 128, 10), 132)]
SHUFFLED = [(MAX_BATCH, 100, 4), (1000, 20, 1797)]
# How many runs the CPU trains for comparison: enough to fill its vectors, or few of those that take long.
ON_CPU, ON_CPU_WIDE = 1024, 64


class Timed(CudaDevice):
    """A device that adds up the seconds of its kernels, and of those that draw."""

    seconds = drawing = 0.0

    def launch(self, kernel: str, *more: Any) -> None:
        began = time.perf_counter()
        super().launch(kernel, *more)
        took = time.perf_counter() - began
        self.seconds += took
        if not kernel.startswith("train"):
            self.drawing += took


def check_canary(device: Device) -> bool:
    """Print whether the canary is equal."""
    is_equal = canary(device) == CANARIES[VERSION]
    print(f"canary: {'equal' if is_equal else 'NOT equal'}", flush=True)
    return is_equal


def check_trainings(device: Device) -> bool:
    """Print how many trainings of all kinds have the CPU's bits in each arrangement."""
    differing = []
    for seed in range(TRAININGS):
        training, lanes = any_training(seed), (None, "runs", "neurons")[seed // 3 % 3]
        if trained(training) != trained(training, lanes, device):
            differing.append((seed, lanes, training.model))
    print(f"trainings: {TRAININGS - len(differing):,} of {TRAININGS:,} equal", flush=True)
    for one in differing[:5]:
        print("  differs:", *one)
    return not differing


class Training:
    """A large training, with the same initial weights and orders of rows wherever it is trained."""

    def __init__(self, model: Model, n_runs: int, n: int, epochs: int) -> None:
        rng = np.random.RandomState(0)
        self.model, self.n_runs, self.epochs, self.steps = model, n_runs, epochs, epochs * n
        self._samples = samples(rng, model, n)
        self._w = rng.normal(size=(n_runs, model.n_weights)) / np.sqrt(max(model.sizes[:-1]))
        self._order = None
        if model.batch_size > 1:  # those of a hundred runs, again and again
            self._order = np.resize(Draws(range(100)).orders(epochs, n), (n_runs, epochs, n))

    def __str__(self) -> str:
        shape, how = (
            "-".join(map(str, self.model.sizes)),
            f"{self.model.optimizer} batch {self.model.batch_size}",
        )
        return f"{shape} {how}, {self.n_runs:,} runs of {self.epochs:,} epochs"

    def train(self, first: int, lanes: Lanes | None, device: Device | None) -> tuple[float, Batch]:
        """Train the first runs; return the seconds and the batch."""
        w, options = self._w[:first], usual_options(self.model)
        batch = Batch(self.model, *self._samples, w, 0.01, self.epochs, options, lanes=lanes, device=device)
        order = None if self._order is None else self._order[:first]
        began = time.perf_counter()
        batch.advance(self.epochs, [], order)
        return time.perf_counter() - began, batch


def check_speed(device: Timed) -> bool:
    """Print the time of each training of SPEEDS, and whether its first runs have the CPU's bits."""
    print(f"the CPU has {default_threads()} threads")
    all_equal = True
    for of in SPEEDS:
        training = Training(*of)
        few = min(training.n_runs, ON_CPU if training.model.n_weights < 100 else ON_CPU_WIDE)
        seconds, on_cpu = min((training.train(few, None, None) for _ in range(2)), key=lambda one: one[0])
        print(f"{training}\n  cpu ({few:,} runs): {_rate(training, few, seconds)}")
        device.seconds = 0.0
        seconds, batch = training.train(training.n_runs, None, device)
        is_equal = batch.weights[:few].tobytes() == on_cpu.weights.tobytes()
        all_equal &= is_equal
        print(
            f"  device: {_rate(training, training.n_runs, device.seconds)}; {device.seconds:.3f} s, with all "
            f"transfers {seconds:.3f} s; {'equal' if is_equal else 'NOT equal'}",
            flush=True,
        )
    return all_equal


def _rate(training: Training, n_runs: int, seconds: float) -> str:
    a_run = seconds / n_runs
    return f"{a_run * 1e9 / training.steps:.4f} ns a sample-step, {a_run * 1e3:.5f} ms a run"


def check_draws(device: Timed) -> bool:
    """Print the time of each of DRAWN and SHUFFLED, and whether all numbers have the CPU's bits."""
    for draws in (DeviceDraws(device, [[0]]), Draws([[0]])):  # loads what is compiled
        draws.orders(1, 1)
    Draws([0]).normal((1,))
    all_equal = True
    for sizes, n in DRAWN:
        device.seconds, on_cpu, is_equal = 0.0, 0.0, True
        for start in range(0, n, MAX_BATCH):
            initial = networks(NORMAL, sizes, range(start, min(start + MAX_BATCH, n)))
            began = time.perf_counter()
            expected = initial.weights
            on_cpu += time.perf_counter() - began
            drawn = device.empty(expected.shape, np.float64)
            DeviceDraws(device, initial.seeds).weights(initial, drawn, None, expected.shape[1], 1)
            is_equal &= device.get(drawn).tobytes() == expected.tobytes()
        what = f"initial weights of {n:,} networks {'-'.join(map(str, sizes))}"
        all_equal &= _told(what, device.seconds, on_cpu, is_equal)
    for runs, epochs, n in SHUFFLED:
        seeds = [[run, 2] for run in range(runs)]
        began = time.perf_counter()
        expected_orders = Draws(seeds).orders(epochs, n)
        on_cpu, device.seconds = time.perf_counter() - began, 0.0
        is_equal = np.array_equal(device.get(DeviceDraws(device, seeds).orders(epochs, n)), expected_orders)
        what = f"orders of {n:,} rows in {epochs} epochs of {runs:,} runs"
        all_equal &= _told(what, device.seconds, on_cpu, is_equal)
    return all_equal


def _told(what: str, seconds: float, on_cpu: float, is_equal: bool) -> bool:
    print(
        f"{what}: device {1e3 * seconds:.1f} ms, CPU {1e3 * on_cpu:.1f} ms with {default_threads()} threads; "
        f"{'equal' if is_equal else 'NOT equal'}",
        flush=True,
    )
    return is_equal


def check_choice(device: Timed) -> bool:
    """Print the time of each training of CHOICES in both arrangements, beginning with the chosen one."""
    for of in CHOICES:
        training, seconds = Training(*of), dict[Lanes, float]()
        kernel = arrangement(training.model, training.n_runs, of[2], device.shared_bytes, None)[0]
        orders: tuple[Lanes, ...] = ("runs", "neurons")
        for lanes in orders if kernel == "train_narrow" else reversed(orders):
            device.seconds = 0.0
            training.train(training.n_runs, lanes, device)
            seconds[lanes] = device.seconds
        times = ", ".join(f"lanes={lanes} {1e3 * each:.1f} ms" for lanes, each in seconds.items())
        chosen = next(iter(seconds.values()))
        print(f"{training}: {times}; {chosen / min(seconds.values()):.2f} of the faster", flush=True)
    return True


def check_population(device: Timed) -> bool:
    """Print the time of a population of the articles' networks without its recording, and by which parts."""
    dataset, columns = _members()
    parts = [np.arange(start, min(start + MAX_BATCH, MEMBERS)) for start in range(0, MEMBERS, MAX_BATCH)]
    _hashes(dataset, columns.take(np.arange(32)), device)  # loads what is compiled
    device.seconds = device.drawing = 0.0
    began = time.perf_counter()
    hashes = [_hashes(dataset, columns.take(part), device) for part in parts]
    seconds = time.perf_counter() - began
    some = np.arange(1000)
    is_equal = np.array_equal(hashes[0][some], _hashes(dataset, columns.take(some), None))
    print(
        f"population of {MEMBERS:,}: {seconds:.2f} s; on the device {device.seconds:.3f} s, of which it drew "
        f"initial weights for {device.drawing:.3f} s; {'equal' if is_equal else 'NOT equal'}",
        flush=True,
    )
    return is_equal


def _members() -> tuple[Dataset, Columns]:
    """Return the gender table, and for each of the first seeds its network of 1,000 epochs."""
    from hydra import compose, initialize_config_dir

    from nnexp.config.compose import plain_values
    from nnexp.config.paths import CONF
    from nnexp.config.request import split

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = split(plain_values(compose("config", ["log_every=1000"])))[0]
    dataset = load(config.dataset)
    one = Columns.of([config], [check(dataset, config)])
    return dataset, replace(one.take(np.zeros(MEMBERS, dtype=np.int64)), seed=np.arange(MEMBERS))


def _hashes(dataset: Dataset, columns: Columns, device: Device | None) -> NDArray[np.uint8]:
    """Train as a population does; return the hash of each network's weights."""
    hashes = np.empty((len(columns), 32), dtype=np.uint8)
    for step in train_columns(dataset, columns, MAX_BATCH, device):
        assert step.shard is not None
        assert step.ended is not None
        if len(step.ended):
            ended = step.shard.results(step.ended, curves=False, weights=False).ended
            hashes[step.runs[ended.runs]] = weights_digests(unflatten(ended.weights, ARTICLES.sizes))
    return hashes


def check_reruns(device: Device) -> bool:
    """Record runs of every path from the device, rerun them on the CPU; print how many are identical."""
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        print(f"reruns: skipped: {error}")
        return True
    from hydra import compose, initialize_config_dir

    from nnexp.config.compose import plain_values
    from nnexp.config.paths import CONF
    from nnexp.config.request import split
    from nnexp.pipeline import sweep as sweeper
    from tests.faults.rerun_everything import everything

    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "mlflow.db"
        with initialize_config_dir(str(CONF), version_base="1.3"):
            request = replace(split(plain_values(compose("config")))[1], device="cuda")
        configs = [replace(config, figures=False, model=False) for config in everything(RERUNS, store)]
        began = time.perf_counter()
        done = sweeper.sweep(configs, request, "every path")
        assert done is not None
        assert not done.failures
        print(
            f"recorded: {RERUNS:,} runs from {device.name} in {time.perf_counter() - began:.1f} s", flush=True
        )
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "nnexp.cli", "rerun", "--sweep", done.sweep_id],
            env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}"},
            capture_output=True,
            text=True,
        )
    print(f"reruns: {ended.stdout.splitlines()[-2:]}{ended.stderr[-2000:] if ended.returncode else ''}")
    same = re.search(r"^([\d,]+) of ([\d,]+) runs are identical", ended.stdout, re.MULTILINE)
    return same is not None and same.group(1) == same.group(2) == f"{RERUNS:,}"


CHECKS: dict[str, Callable[[Timed], bool]] = {
    "canary": check_canary,
    "trainings": check_trainings,
    "speed": check_speed,
    "draws": check_draws,
    "choice": check_choice,
    "population": check_population,
    "reruns": check_reruns,
}


def main() -> None:
    try:
        device = Timed()
    except DeviceError as error:
        print(f"skipped: there is no CUDA device: {error}")
        sys.exit(1 if os.environ.get("NNEXP_CI") else 0)
    print(device.name, flush=True)
    is_right = True
    for name in sys.argv[1:] or CHECKS:
        began = time.perf_counter()
        is_right &= CHECKS[name](device)
        print(f"  {name}: {time.perf_counter() - began:.1f} s", flush=True)
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
