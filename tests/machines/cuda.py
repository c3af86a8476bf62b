"""Compare a CUDA device's bits with the CPU's, and measure how fast it trains: make test-cuda.

usage: python -m tests.machines.cuda [CHECK …]      by default all four

| check | what it does |
|---|---|
| canary | the engine's canary |
| trainings | 1,000 trainings of all kinds |
| speed | the time of large trainings; their first runs have the CPU's bits |
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

from nnexp.network.engine.batch import ARTICLES, VERSION, Batch, Lanes, Model
from nnexp.network.engine.canary import CANARIES, canary, samples, usual_options
from nnexp.network.engine.cuda.device import CudaDevice, Device, DeviceError
from tests.network.any_training import any_training, trained

TRAININGS, RERUNS = 1000, 1000


def classifier(sizes: tuple[int, ...], activation: str, batch_size: int) -> Model:
    """Return a model that adam trains."""
    if sizes[-1] == 1:
        return Model(sizes, activation, "sigmoid", "bce", "adam", batch_size, True)
    return Model(sizes, activation, "softmax", "cross_entropy", "adam", batch_size, True)


# Model, runs, rows and epochs of each training, and the arrangements to compare.
BOTH: tuple[Lanes, ...] = ("runs", "neurons")
SPEEDS: list[tuple[Model, int, int, int, tuple[Lanes, ...]]] = [
    (ARTICLES, 1_000_000, 4, 1000, ("runs",)),
    (ARTICLES, 1000, 4, 1000, BOTH),
    (classifier((64, 64, 10), "relu", 32), 1000, 1797, 20, ("neurons",)),
    (classifier((2, 8, 1), "tanh", 1), 1000, 50, 100, BOTH),
    (classifier((2, 8, 1), "tanh", 1), 100_000, 50, 10, BOTH),
    (classifier((4, 16, 3), "tanh", 10), 1000, 150, 50, BOTH),
    (classifier((4, 16, 3), "tanh", 10), 50_000, 150, 5, BOTH),
    (classifier((30, 16, 1), "relu", 32), 1000, 569, 20, BOTH),
    (classifier((784, 128, 10), "relu", 32), 132, 1000, 1, ("neurons",)),
]


class Timed(CudaDevice):
    """A device that adds up the seconds of its kernels."""

    seconds = 0.0

    def launch(self, *args: Any) -> None:
        began = time.perf_counter()
        super().launch(*args)
        self.seconds += time.perf_counter() - began


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


def check_speed(device: Timed) -> bool:
    """Print the time of each training of SPEEDS, and whether its first runs have the CPU's bits."""
    all_equal = True
    for model, n_runs, n, epochs, arrangements in SPEEDS:
        rng, few, options = np.random.RandomState(0), min(n_runs, 64), usual_options(model)
        X, y = samples(rng, model, n)
        w = rng.normal(size=(n_runs, model.n_weights)) / np.sqrt(max(model.sizes[:-1]))
        order = None
        if model.batch_size > 1:  # of a hundred runs, again and again
            own = np.argsort(rng.rand(min(n_runs, 100), epochs, n), axis=2).astype(np.int32)
            order = np.resize(own, (n_runs, epochs, n))
        on_cpu = Batch(model, X, y, w[:few], 0.01, epochs, options)
        on_cpu.advance(epochs, [], None if order is None else order[:few])
        shape = "-".join(map(str, model.sizes))
        print(f"{shape} {model.optimizer} batch {model.batch_size}, {n_runs:,} runs of {epochs:,} epochs")
        for lanes in arrangements:
            batch = Batch(model, X, y, w, 0.01, epochs, options, lanes=lanes, device=device)
            began, device.seconds = time.perf_counter(), 0.0
            batch.advance(epochs, [], order)
            seconds = time.perf_counter() - began
            is_equal = batch.weights[:few].tobytes() == on_cpu.weights.tobytes()
            all_equal &= is_equal
            kernel, a_step = device.seconds, 1e9 / (n_runs * epochs * n)
            print(
                f"  lanes={lanes}: {'equal' if is_equal else 'NOT equal'}; {kernel * a_step:.4f} ns a "
                f"sample-step, {kernel * 1e3 / n_runs:.4f} ms a run, {kernel:.3f} s; "
                f"with all transfers {seconds:.3f} s",
                flush=True,
            )
    return all_equal


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
