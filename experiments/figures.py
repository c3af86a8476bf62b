"""Make the pictures that the README shows, from real runs in a store of their own: `make figures`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from experiments.report import HERE, REPORTS
from nnexp.tracking.find import get_run, get_sweep, read_artifact
from nnexp.tracking.store import open_store

# What is typed after `nnexp train`, and which of the figures that it records are shown.
COMMANDS = {
    "xor": (
        ["dataset=xor", "learning_rate=0.5", "epochs=5000", "weights_every=50", "model=false"],
        ["network.png", "surface_over_training.gif"],
    ),
    "learning_rate_init": (
        ["experiment=learning_rate_init"],
        ["loss_heat_map.png"],
    ),
}


def write(name: str, uri: str) -> None:
    """Run the command of this name, and copy its figures out of the record."""
    typed, shown = COMMANDS[name]
    program = [sys.executable, "-m", "nnexp.cli", "train", *typed]
    env = os.environ | {"MLFLOW_TRACKING_URI": uri}
    printed = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
    store = open_store(uri)
    words = printed.split("recorded as ")[1].split()
    run = get_sweep(store, words[1]) if words[0] == "sweep" else get_run(store, words[0])
    assert run is not None  # it has just been recorded
    for figure in shown:
        path = REPORTS / f"{name}_{figure}"
        path.write_bytes(read_artifact(store, run, f"figures/{figure}"))
        print(f"wrote {path.relative_to(HERE.parent)}")


def main() -> None:
    REPORTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for name in COMMANDS:
            write(name, f"sqlite:///{directory}/mlflow.db")


if __name__ == "__main__":
    main()
