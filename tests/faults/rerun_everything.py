"""Record a sweep over every code path; rerun it from a second clone, elsewhere, on another kind of CPU.

usage: python rerun_everything.py [RUNS]      run by make test-faults; exit status 1 unless all is as expected

Then one line of the second clone's engine is changed, but not its version, and the rerun must report it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_dir

import nnexp
from nnexp.config.compose import plain_values
from nnexp.config.paths import CHECKOUT, CONF
from nnexp.config.request import split
from nnexp.config.run import RunConfig
from nnexp.pipeline import sweep as sweeper
from tests.network.same_bits import sweep as networks

# Compiled again for a CPU without AVX, on one thread.
ELSEWHERE = {"NUMBA_NUM_THREADS": "1", "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
# A line of the engine's arithmetic, and the same line with a difference of one unit in the last place.
LINE = "store(s.d, at + i, error * factor)"
CHANGED = "store(s.d, at + i, error * factor * 1.0000000000000002)"


def everything(count: int, store: Path) -> list[RunConfig]:
    """Return `count` runs: the networks of same_bits.py on two data sets, every tenth a regression."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        base = [
            split(plain_values(compose("config", [f"dataset={d}"])))[0] for d in ("gender", "xor", "line")
        ]
    drawn = []
    for i, config in enumerate(networks(count)):
        dataset = base[i // 4 % 2].dataset if config.dataset.center != "articles" else base[0].dataset
        config = replace(config, dataset=replace(dataset, center=config.dataset.center))
        if i % 10 == 9:
            alike = {
                "dataset": base[2].dataset,
                "loss": "mse",
                "output_activation": "identity",
                "batch_size": 1,
            }
            config = replace(config, **alike)
        if i % 7 == 3:
            config = replace(config, weights_every=20, learning_rate=900.0 if i % 2 else 0.3)
        drawn.append(replace(config, tracking_uri=f"sqlite:///{store}"))
    return drawn


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{here}/mlflow.db"
        with initialize_config_dir(str(CONF), version_base="1.3"):
            request = split(plain_values(compose("config")))[1]
        done = sweeper.sweep(everything(count, here / "mlflow.db"), request, "every path")
        assert done is not None
        assert not done.failures
        clone = second_clone(here / "second clone")
        run_id = nnexp.load_runs(sweep=done.sweep_id).query("seed == 0")["run_id"].item()
        assert rerun(clone, run_id).returncode == 0  # compiles
        began = time.monotonic()
        ended = rerun(clone, "--sweep", done.sweep_id)
        seconds = time.monotonic() - began
        print(ended.stdout, end="")
        same = re.search(r"^([\d,]+) of ([\d,]+) runs are identical", ended.stdout, re.MULTILINE)
        identical = [int(text.replace(",", "")) for text in same.groups()] if same else []
        print(
            f"second clone, one thread, no AVX: {identical} identical, {seconds:.1f} s from shell to prompt"
        )
        passes = clone / "nnexp/network/engine/passes.py"
        text = passes.read_text()
        assert text.count(LINE) == 1
        passes.write_text(text.replace(LINE, CHANGED))
        caught = rerun(clone, run_id)
        print(f"one line of the engine changed:\n{caught.stdout}")
        is_named = caught.returncode == 1 and "likely cause: engine arithmetic" in caught.stdout
    sys.exit(0 if ended.returncode == 0 and identical == [count, count] and is_named else 1)


def second_clone(place: Path) -> Path:
    """Copy the project's files as they are now into another directory."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if (CHECKOUT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, place / name)
    return place


def rerun(clone: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `nnexp rerun` with the code of that clone, in the root directory."""
    code = "import sys; sys.argv[0] = 'nnexp'; from nnexp.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "rerun", *arguments],
        cwd="/",
        env={**os.environ, **ELSEWHERE, "PYTHONPATH": str(clone)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    main()
