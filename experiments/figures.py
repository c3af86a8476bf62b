"""Draw the pictures of the README and docs, from real runs in a store of their own: `make figures`."""

from __future__ import annotations

import tempfile

import nnexp
from experiments.report import HERE, REPORTS
from nnexp.analysis import plots
from nnexp.tracking.find import get_run, read_artifact
from nnexp.tracking.store import open_store


def drawn(uri: str) -> dict[str, bytes]:
    """Train the runs and draw them; return the pictures by file name."""
    run = nnexp.train(
        dataset="xor", learning_rate=0.5, epochs=5000, weights_every=50, model=False, tracking_uri=uri
    )
    store = open_store(uri)
    moving = read_artifact(store, get_run(store, run.run_id), "figures/surface_over_training.gif")
    seeds = nnexp.sweep(dataset="xor", learning_rate=0.5, seed=range(10), epochs=3000, tracking_uri=uri)
    stuck = seeds.runs.sort_values("loss")["seed"].iloc[-1]
    failed = nnexp.train(
        dataset="xor", learning_rate=0.5, seed=int(stuck), epochs=3000, model=False, tracking_uri=uri
    )
    return {
        "xor_network.png": plots.png(run.figure("network")),
        "xor_surface_over_training.gif": moving,
        "xor_hidden_space.png": plots.png(failed.figure("hidden_space")),
    }


def main() -> None:
    REPORTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for name, content in drawn(f"sqlite:///{directory}/mlflow.db").items():
            path = REPORTS / name
            path.write_bytes(content)
            print(f"wrote {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
