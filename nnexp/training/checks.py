"""Check that a configuration and its data set go together, and that a run of them can be held in memory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import pairwise
from types import ModuleType

import numpy as np

from nnexp.config.errors import RequestError, unknown
from nnexp.config.run import Choice, RunConfig
from nnexp.dataset.load import Dataset
from nnexp.dataset.prepare import Prepared, Split, prepare
from nnexp.network import init
from nnexp.network import reference as network

# Limits of one run: the number of its weights, and of the points on its curves.
MAX_WEIGHTS, MAX_POINTS = 10_000_000, 1_000_000
# The values an output layer can give; a target beyond them can never be reached.
OUTPUT_RANGE = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, np.inf)}


def network_sizes(dataset: Dataset, config: RunConfig) -> list[int]:
    """Return the layer widths, input first."""
    one_each = config.output_activation == "softmax" or len(dataset.classes) > 2
    outputs = len(dataset.classes) if one_each else 1
    return [len(dataset.features), *config.hidden, outputs]


def weight_count(dataset: Dataset, config: RunConfig) -> int:
    """Count the weights and biases."""
    return sum((i + 1) * o for i, o in pairwise(network_sizes(dataset, config)))


def split_of(config: RunConfig) -> Split:
    """Return which rows a run trains on. Runs of one split share their prepared data."""
    split = Split(config.validation_fraction, config.folds, config.fold, config.test_fraction)
    seed = config.seed if config.split_seed is None else config.split_seed
    return split._replace(seed=seed) if split != Split() else split  # without a split the seed has no say


def check(dataset: Dataset, config: RunConfig) -> Prepared:
    """Prepare the data of a run. Raises RequestError if the configuration does not go with the data."""
    _check_choice("init", config.init, INITIALISERS)
    _check_choice("optimizer", config.optimizer, OPTIMIZERS)
    softmax = config.output_activation == "softmax"
    if softmax and not dataset.classes:
        raise RequestError(
            f"output_activation=softmax tells classes apart, but {dataset.target} of {dataset.name} "
            "is a number"
        )
    prepared = prepare(dataset, config.dataset.center, split_of(config), softmax)
    if config.batch_size != "full" and int(config.batch_size) > len(prepared.X):
        raise RequestError(
            f"batch_size={config.batch_size} is more than the {len(prepared.X)} training rows of "
            f"{dataset.name}: must be 1 to {len(prepared.X)}, or full"
        )
    low, high = OUTPUT_RANGE.get(config.output_activation, (-np.inf, np.inf))
    y = np.concatenate([prepared.y, prepared.y_val, prepared.y_test])
    if y.min() < low or y.max() > high:
        raise RequestError(
            f"output_activation={config.output_activation} gives {low:g} to {high:g}, but {dataset.target} "
            f"of {dataset.name} runs from {y.min():g} to {y.max():g}: use output_activation=identity"
            ", or, if they are classes, list them in dataset.classes"
        )
    _check_size(dataset, config)
    return prepared


def _check_size(dataset: Dataset, config: RunConfig) -> None:
    """Raise RequestError if a run's weights, curves or kept weights would not fit into memory."""
    weights = weight_count(dataset, config)
    points = config.epochs // config.log_every
    kept = config.epochs // config.weights_every if config.weights_every else 0
    if weights > MAX_WEIGHTS:
        raise RequestError(f"hidden={list(config.hidden)} makes {weights} weights: at most {MAX_WEIGHTS}")
    if points > MAX_POINTS:
        raise RequestError(
            f"epochs={config.epochs} with log_every={config.log_every} makes {points} points: "
            f"at most {MAX_POINTS}; take a larger log_every"
        )
    if kept * weights > MAX_WEIGHTS:
        raise RequestError(
            f"epochs={config.epochs} with weights_every={config.weights_every} keeps {kept * weights} "
            f"numbers: at most {MAX_WEIGHTS}; take a larger weights_every"
        )


def _check_choice(group: str, choice: Choice, known: Mapping[str, set[str]]) -> None:
    """Raise RequestError unless the choice names a known function and has exactly that function's options."""
    if choice.name not in known:
        raise unknown(group, choice.name, known)
    taken = known[choice.name]
    for option, _ in choice.options:
        if option not in taken:
            raise unknown("key", f"{group}.{option}", [f"{group}.{name}" for name in taken] or [group])
    for option in taken - {name for name, _ in choice.options}:
        raise RequestError(f"{group}.{option} is not given")


def _functions(module: ModuleType, given: set[str]) -> dict[str, set[str]]:
    """List the module's public functions that take these parameters, each with its further options."""
    parameters = {
        name: set(inspect.signature(function).parameters)
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and name[0] != "_"
    }
    return {name: taken - given for name, taken in parameters.items() if given <= taken}


INITIALISERS = _functions(init, {"fan_in", "fan_out"})
OPTIMIZERS = _functions(network, {"w", "grad", "memory", "learning_rate"})
