"""Make the keys, names and identifying tags of runs and sweeps. Pure functions."""

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

# Keys that every run's name shows.
_NAMED = frozenset({"dataset", "learning_rate", "init", "seed"})


def run_name(config: RunConfig, dataset: Dataset, varied: Iterable[str] = ()) -> str:
    """Return the run's name, such as `xor lr=0.5 init=normal seed=3`.

    The other keys that vary in its sweep follow: `xor lr=0.5 init=normal seed=3 hidden=[4]`.
    """
    also = [key for key in varied if key not in _NAMED and not key.startswith("dataset.")]
    texts = config.params() if also else {}
    parts = [f"{key}={texts[key]}" for key in also if key in texts]
    named = f"{dataset.name} lr={config.learning_rate:g} init={config.init.name} seed={config.seed}"
    return " ".join([named, *parts])[:MAX_NAME]


def numbered(name: str, time: int) -> str:
    """Return the name, with ` #2`, ` #3`, … from the second time on that a point is recorded."""
    suffix = f" #{time}" if time > 1 else ""
    return name[: MAX_NAME - len(suffix)] + suffix


def varied_leaves(configs: Sequence[RunConfig]) -> dict[str, list[Any]]:
    """Return the keys whose values differ between the configs, and their values in order of appearance."""
    values: dict[str, dict[Any, None]] = {}
    for i, config in enumerate(configs):
        leaf = config.leaves()
        for key in leaf:
            if key not in values:
                values[key] = {None: None} if i else {}
        for key, seen in values.items():
            seen.setdefault(leaf.get(key))
    return {key: list(seen) for key, seen in values.items() if len(seen) > 1}


def ranges(configs: Sequence[RunConfig]) -> dict[str, list[str]]:
    """Return the keys that a sweep varies, each with its values as they are typed.

    Keys that only follow from another's value, as a data set's path does, are left out.
    """
    varied = varied_leaves(configs)
    pairs: dict[str, set[tuple[Any, Any]]] = {key: set() for key in varied}
    # One config for each value, as turning all configs of a large sweep into text is slow.
    of_value: dict[str, dict[Any, RunConfig]] = {key: {} for key in varied}
    for config in configs:
        leaf = config.leaves()
        for key in varied:
            pairs[key].add((leaf.get(key.partition(".")[0]), leaf.get(key)))
            of_value[key][leaf.get(key)] = config
    found = {}
    for key in varied:
        is_group = key.partition(".")[0] == key
        if is_group or len(pairs[key]) > len({of_group for of_group, _ in pairs[key]}):
            found[key] = [config.params().get(key, "none") for config in of_value[key].values()]
    return found


def run_key(config: RunConfig, dataset: Dataset) -> str:
    """Return the run's key: runs with the same key have the same bits."""
    return config.run_key(dataset.sha256, engine.VERSION)


def sweep_key(run_keys: Iterable[str]) -> str:
    """Return a sweep's key: the hash of its run keys, in any order."""
    return hashlib.sha256("\n".join(sorted(run_keys)).encode()).hexdigest()


def run_tags(key: str, dataset: Dataset, attempt: int) -> dict[str, str]:
    """Return the tags that identify a run, whether it finished or not."""
    tags = {"nnexp.run_key": key, "nnexp.data_sha256": dataset.sha256, "nnexp.engine": engine.VERSION}
    return tags | ({"nnexp.attempt": str(attempt)} if attempt > 1 else {})


def result_tags(trained: Trained) -> dict[str, str]:
    """Return the tags of a trained network: its outcome and the hash of its weights."""
    return {"nnexp.outcome": trained.outcome, "nnexp.weights_sha256": weights_sha256(trained.final.layers)}
