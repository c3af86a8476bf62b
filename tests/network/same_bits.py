"""Train a sweep over every code path, once in each arrangement, and print each run's weights hash, then the
engine's canary: run by test_same_bits.py.

usage: python same_bits.py RUNS BATCH_SIZE,SHUFFLE …
"""

import json
import sys
from dataclasses import replace

from hydra import compose, initialize_config_dir
from numpy.random import RandomState

from nnexp.config.compose import plain_values
from nnexp.config.paths import CONF
from nnexp.config.request import split
from nnexp.config.run import Choice, RunConfig
from nnexp.dataset.load import load
from nnexp.network.engine.canary import canary
from nnexp.network.weights import weights_sha256
from nnexp.training.train import train

ADAM = (("beta1", 0.9), ("beta2", 0.999), ("epsilon", 1e-8))
SHAPES = [
    {},
    {"shuffle": True, "batch_size": 3},
    {
        "hidden": (3, 2),
        "activation": "tanh",
        "optimizer": Choice("momentum", (("momentum", 0.9), ("weight_decay", 0.0))),
    },
    {
        "output_activation": "softmax",
        "loss": "cross_entropy",
        "optimizer": Choice("adam", (*ADAM, ("weight_decay", 0.1))),
    },
    {"optimizer": Choice("adamw", (*ADAM, ("weight_decay", 0.1))), "validation_fraction": 0.25},
    {"loss": "bce", "activation": "relu", "validation_fraction": 0.25},
    {"hidden": (), "output_activation": "identity", "batch_size": "full"},
]
INITS = [
    Choice("normal", (("scale", 1.0),)),
    Choice("uniform", (("scale", 0.5),)),
    Choice("xavier", (("scale", 1.0),)),
    Choice("he", (("scale", 1.0),)),
]
CENTERS = ["articles", "mean", "standardize"]


def sweep(count: int) -> list[RunConfig]:
    """Return `count` runs of the gender table that together take every path."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        base = split(plain_values(compose("config", ["epochs=40", "log_every=20"])))[0]
    return [
        replace(
            base,
            **SHAPES[i % len(SHAPES)],
            init=INITS[i // 2 % len(INITS)],
            dataset=replace(base.dataset, center=CENTERS[i // 3 % len(CENTERS)]),
            seed=i,
            learning_rate=[0.01, 0.1, 0.7][i % 3],
        )
        for i in range(count)
    ]


def hashes(configs: list[RunConfig], batch_size: int, shuffle: int) -> list[str]:
    """Train the runs in batches, in order or shuffled; return the hash of each run's weights."""
    order = RandomState(1).permutation(len(configs)) if shuffle else range(len(configs))
    found: dict[int, str] = {}
    dataset = load(configs[0].dataset)
    for start in range(0, len(configs), batch_size):
        members = list(order)[start : start + batch_size]
        for progress in train(dataset, [configs[i] for i in members]):
            found |= {int(members[i]): weights_sha256(run.final.layers) for i, run in progress.ended}
    return [found[i] for i in range(len(configs))]


def main() -> None:
    configs = sweep(int(sys.argv[1]))
    arrangements = [map(int, text.split(",")) for text in sys.argv[2:]]
    last = canary()
    print(json.dumps([[*hashes(configs, *arrangement), last] for arrangement in arrangements]))


if __name__ == "__main__":
    main()
