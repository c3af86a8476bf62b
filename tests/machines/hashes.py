"""Draw and train on this machine, and print the hashes of all results; compare.py runs it everywhere.

usage: python hashes.py RUNS.json SEEDS      a list of recorded config.yaml texts; how many seeds to draw from

It needs NumPy, Numba and PyYAML, and nnexp on its path.
"""

import hashlib
import json
import sys
from pathlib import Path

import numba
import numpy as np

from nnexp.config.recorded import read_config
from nnexp.dataset.load import Dataset, load
from nnexp.network.engine.canary import canary
from nnexp.network.engine.draws import Draws
from nnexp.network.forward import outputs
from nnexp.training.shard import Trained
from nnexp.training.train import train


def runs_hashes(texts: list[str]) -> list[str]:
    """One hash a run, in their order; runs of one data set train at once."""
    configs = [read_config(text.encode(), f"run {i}").config for i, text in enumerate(texts)]
    members: dict[object, list[int]] = {}
    for i, config in enumerate(configs):
        members.setdefault(config.dataset, []).append(i)
    hashes = [""] * len(configs)
    for indices in members.values():
        dataset = load(configs[indices[0]].dataset)
        for progress in train(dataset, [configs[i] for i in indices]):
            for i, run in progress.ended:
                assert isinstance(run, Trained), run
                hashes[indices[i]] = run_hash(run, dataset)
    return hashes


def run_hash(run: Trained, dataset: Dataset) -> str:
    """SHA-256 of all numbers of a run: weights from first to last, curves, and outputs for the new rows."""
    digest = hashlib.sha256(run.outcome.encode())
    for layers in (run.initial.layers, *run.kept.values(), run.final.layers):
        for W, b in layers:
            digest.update(W.tobytes() + b.tobytes())
    for name in sorted(run.curves):
        digest.update(name.encode() + run.curves[name].tobytes())
    if len(dataset.X_new):
        digest.update(outputs(run.final, (dataset.X_new - run.prepared.shift) / run.prepared.scale).tobytes())
    return digest.hexdigest()


def row_hashes(rows: np.ndarray) -> list[str]:
    """The first 8 bytes of each row's hash."""
    return [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in rows]


def main() -> None:
    texts, seeds = json.loads(Path(sys.argv[1]).read_text()), range(int(sys.argv[2]))
    rng = np.random.RandomState()
    numpys = np.empty((len(seeds), 9))
    for seed in seeds:
        rng.seed(seed)
        numpys[seed] = rng.normal(size=9)
    found = {
        "versions": f"Python {sys.version.split()[0]}, NumPy {np.__version__}, Numba {numba.__version__}",
        "canary": canary(),
        "runs": runs_hashes(texts),
        "draws": row_hashes(Draws(seeds).normal((9,))),
        "numpys": row_hashes(numpys),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
