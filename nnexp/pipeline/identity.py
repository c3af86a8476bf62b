"""What a run or a sweep is known by: its key, its name and the tags that identify it. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from nnexp.config.run import RunConfig
from nnexp.dataset.load import Dataset
from nnexp.network import engine
from nnexp.network.weights import weights_sha256
from nnexp.tracking.tables import MAX_NAME
from nnexp.training.shard import Trained

# What every run's name says.
_NAMED = frozenset({"dataset", "learning_rate", "init", "seed"})


def run_name(config: RunConfig, dataset: Dataset, varied: Iterable[str] = ()) -> str:
    """What the run is, at a glance: `xor lr=0.5 init=normal seed=3`, and besides that the keys that vary in
    its sweep: `xor lr=0.5 init=normal seed=3 hidden=[4]`."""
    also = [key for key in varied if key not in _NAMED and not key.startswith("dataset.")]
    texts = config.params() if also else {}
    parts = [f"{key}={texts[key]}" for key in also if key in texts]
    named = f"{dataset.name} lr={config.learning_rate:g} init={config.init.name} seed={config.seed}"
    return " ".join([named, *parts])[:MAX_NAME]


def numbered(name: str, time: int) -> str:
    """The name of the run of a point that is recorded for the second time, or a later one: `… #2`."""
    suffix = f" #{time}" if time > 1 else ""
    return name[: MAX_NAME - len(suffix)] + suffix


def varied_leaves(configs: Sequence[RunConfig]) -> dict[str, list[Any]]:
    """The keys whose values differ between the configs, each with its values in order of appearance."""
    leaves = [config.leaves() for config in configs]
    keys = dict.fromkeys(key for leaf in leaves for key in leaf)
    values = {key: list(dict.fromkeys(leaf.get(key) for leaf in leaves)) for key in keys}
    return {key: seen for key, seen in values.items() if len(seen) > 1}


def ranges(configs: Sequence[RunConfig]) -> dict[str, list[str]]:
    """The keys that a sweep varies, each with its values as they are typed; not those that only come with
    another's value, as a data set's path does."""
    leaves = [config.leaves() for config in configs]
    found = {}
    for key in varied_leaves(configs):
        group = key.partition(".")[0]
        pairs = {(leaf.get(group), leaf.get(key)) for leaf in leaves}
        if group == key or len(pairs) > len({of_group for of_group, _ in pairs}):
            # One config a value: all of a large sweep as text would take a while.
            of_value = {leaf.get(key): config for leaf, config in zip(leaves, configs, strict=True)}
            found[key] = [config.params().get(key, "none") for config in of_value.values()]
    return found


def run_key(config: RunConfig, dataset: Dataset) -> str:
    """The identity of the run: one key, the same bits."""
    return config.run_key(dataset.sha256, engine.VERSION)


def sweep_key(run_keys: Iterable[str]) -> str:
    """The identity of a sweep: which runs it is of, in whatever order."""
    return hashlib.sha256("\n".join(sorted(run_keys)).encode()).hexdigest()


def run_tags(key: str, dataset: Dataset, attempt: int) -> dict[str, str]:
    """What identifies a run, whether it finished or not."""
    tags = {"nnexp.run_key": key, "nnexp.data_sha256": dataset.sha256, "nnexp.engine": engine.VERSION}
    return tags | ({"nnexp.attempt": str(attempt)} if attempt > 1 else {})


def result_tags(trained: Trained) -> dict[str, str]:
    return {
        "nnexp.outcome": trained.outcome,
        "nnexp.weights_sha256": weights_sha256(trained.final.layers),
    }
