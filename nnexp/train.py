"""Train networks and yield what happened: knows data and arithmetic, nothing of tracking or printing."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from nnexp import init, network
from nnexp.config import MAX_WEIGHTS, Choice, RequestError, RunConfig, unknown
from nnexp.dataset import Dataset, Prepared, prepare
from nnexp.network import Layers, Network

Array = NDArray[np.float64]

ENGINE = "numpy-1"
# A regression has converged when it explains this share of the target's variance.
CONVERGED_R2 = 0.99
# The values an output layer can give; a target beyond them can never be reached.
OUTPUT_RANGE = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, np.inf)}


@dataclass(frozen=True)
class Trained:
    """One network, trained so far. Curves hold one value per recorded point, of `epochs` completed."""

    config: RunConfig
    prepared: Prepared
    epochs: list[int]
    curves: dict[str, list[float]]  # loss, grad_norm; accuracy, val_loss, val_accuracy where they apply
    initial: Network
    final: Network
    kept: dict[int, Layers]  # the weights every `weights_every` epochs
    outcome: str  # converged, diverged or finished


@dataclass(frozen=True)
class Progress:
    """Epochs trained of all to train, the runs that ended since the last one, the one under way."""

    epochs_done: int
    ended: list[tuple[int, Trained | Exception]]  # with the position in the configs; an error is a failed run
    current: Trained | None


def network_sizes(dataset: Dataset, config: RunConfig) -> list[int]:
    """Layer widths, input first."""
    one_each = config.output_activation == "softmax" or len(dataset.classes) > 2
    outputs = len(dataset.classes) if one_each else 1
    return [len(dataset.features), *config.hidden, outputs]


def initial_network(dataset: Dataset, config: RunConfig) -> Network:
    """The untrained network: weights layer by layer, then biases, from RandomState(seed)."""
    rng, sizes = RandomState(config.seed), network_sizes(dataset, config)
    draw = getattr(init, config.init.name)
    options = dict(config.init.options)
    weights = [draw(rng, i, o, **options) for i, o in pairwise(sizes)]
    drawn = config.init.name in init.DRAW_BIASES
    biases = [draw(rng, 1, o, **options)[:, 0] if drawn else np.zeros(o) for o in sizes[1:]]
    return Network(
        tuple(zip(weights, biases, strict=True)),
        config.activation,
        config.output_activation,
        config.loss,
    )


def check(dataset: Dataset, config: RunConfig) -> Prepared:
    """The prepared data of a run that can be trained. Raises RequestError where config and data disagree."""
    _check_choice("init", config.init, init, {"rng", "fan_in", "fan_out"})
    _check_choice("optimizer", config.optimizer, network, {"w", "grad", "memory", "learning_rate"})
    softmax = config.output_activation == "softmax"
    if softmax and not dataset.classes:
        raise RequestError(
            f"output_activation=softmax tells classes apart, and {dataset.target} of {dataset.name} "
            "is a number"
        )
    prepared = prepare(dataset, config.dataset.center, config.validation_fraction, config.seed, softmax)
    if config.batch_size != "full" and int(config.batch_size) > len(prepared.X):
        raise RequestError(
            f"batch_size={config.batch_size} is more than the {len(prepared.X)} training rows of "
            f"{dataset.name}: must be 1 to {len(prepared.X)}, or full"
        )
    low, high = OUTPUT_RANGE.get(config.output_activation, (-np.inf, np.inf))
    y = np.concatenate([prepared.y, prepared.y_val])
    if y.min() < low or y.max() > high:
        raise RequestError(
            f"output_activation={config.output_activation} gives {low:g} to {high:g}, and {dataset.target} "
            f"of {dataset.name} runs from {y.min():g} to {y.max():g}: use output_activation=identity"
        )
    count = sum((i + 1) * o for i, o in pairwise(network_sizes(dataset, config)))
    if count > MAX_WEIGHTS:
        raise RequestError(f"hidden={list(config.hidden)} makes {count} weights: at most {MAX_WEIGHTS}")
    return prepared


def _check_choice(group: str, choice: Choice, module: ModuleType, given: set[str]) -> None:
    """The choice names a function of the module, and has the options that function takes."""
    functions = {
        name: set(inspect.signature(f).parameters)
        for name, f in vars(module).items()
        if inspect.isfunction(f) and f.__module__ == module.__name__ and not name.startswith("_")
    }
    functions = {name: taken - given for name, taken in functions.items() if given <= taken}
    if choice.name not in functions:
        raise unknown(group, choice.name, functions)
    taken = functions[choice.name]
    for option, _ in choice.options:
        if option not in taken:
            raise unknown("key", f"{group}.{option}", [f"{group}.{name}" for name in taken] or [group])
    for option in taken - {name for name, _ in choice.options}:
        raise RequestError(f"{group}.{option} is not given")


def log_epochs(config: RunConfig) -> list[int]:
    """The recorded points: untrained, every `log_every`, and the last."""
    return sorted({*range(0, config.epochs + 1, config.log_every), config.epochs})


def train(dataset: Dataset, configs: Sequence[RunConfig]) -> Iterator[Progress]:
    """Train a network per config; yield at every recorded point. Raises RequestError before any work.

    A run that raises ends as its exception, and the others go on.
    """
    prepared = [check(dataset, config) for config in configs]
    before = 0
    for i, (config, data) in enumerate(zip(configs, prepared, strict=True)):
        try:
            for run in _train_one(dataset, config, data):
                ended = run.epochs[-1] == config.epochs or run.outcome == "diverged"
                yield Progress(before + run.epochs[-1], [(i, run)] if ended else [], run)
        except Exception as error:
            yield Progress(before + config.epochs, [(i, error)], None)
        before += config.epochs


def _train_one(dataset: Dataset, config: RunConfig, data: Prepared) -> Iterator[Trained]:
    net = initial_network(dataset, config)
    run = Trained(config, data, [], {}, net, net, {}, "finished")
    orders = RandomState([config.seed, 2])
    memory: Any = None
    points = set(log_epochs(config))
    for epoch in range(config.epochs + 1):
        if epoch > 0:
            order = orders.permutation(len(data.X)) if config.shuffle else np.arange(len(data.X))
            net, memory = _epoch(net, data, order, config, memory)
        if config.weights_every and epoch % config.weights_every == 0:
            run.kept[epoch] = net.layers
        if epoch in points:
            run = _with_point(run, dataset, net, epoch)
            yield run
            if run.outcome == "diverged":
                return


def _epoch(
    net: Network, data: Prepared, order: NDArray[np.int64], config: RunConfig, memory: Any
) -> tuple[Network, Any]:
    """One pass over the training rows in this order, a step of the optimizer a batch."""
    size = len(data.X) if config.batch_size == "full" else int(config.batch_size)
    options: Mapping[str, float] = dict(config.optimizer.options)
    sizes, w = network.sizes(net.layers), network.flatten(net.layers)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        grad = network.flatten(network.gradients(net, data.X[rows], data.y[rows]))
        w, memory = network.step(config.optimizer.name, w, grad, memory, config.learning_rate, options)
        net = replace(net, layers=network.unflatten(w, sizes))
    return net, memory


def _with_point(run: Trained, dataset: Dataset, net: Network, epoch: int) -> Trained:
    """The run with one more point on its curves; a point that is not finite is not recorded."""
    data = run.prepared
    grad = network.flatten(network.gradients(net, data.X, data.y))
    point = {"loss": network.loss(net, data.X, data.y), "grad_norm": float(np.sqrt(np.sum(grad * grad)))}
    if dataset.classes:
        point["accuracy"] = accuracy(data.y, network.feedforward(net, data.X))
    if len(data.X_val):
        point["val_loss"] = network.loss(net, data.X_val, data.y_val)
        if dataset.classes:
            point["val_accuracy"] = accuracy(data.y_val, network.feedforward(net, data.X_val))
    curves = {name: [*run.curves.get(name, []), value] for name, value in point.items()}
    outcome = _outcome(point, data.y)
    return replace(run, epochs=[*run.epochs, epoch], curves=curves, final=net, outcome=outcome)


def _outcome(point: Mapping[str, float], y: Array) -> str:
    if not np.isfinite(point["loss"]):
        return "diverged"
    if "accuracy" in point:
        return "converged" if point["accuracy"] == 1.0 else "finished"
    variance = float(np.mean((y - y.mean()) ** 2))
    return "converged" if point["loss"] <= (1 - CONVERGED_R2) * variance else "finished"


def accuracy(y: Array, y_pred: Array) -> float:
    """Share of rows whose class is right: beyond 0.5 for one output, the largest of several."""
    if y.shape[1] == 1:
        right = (y_pred >= 0.5) == (y >= 0.5)
    else:
        right = (y_pred.argmax(axis=1) == y.argmax(axis=1))[:, None]
    return float(np.mean(right & np.isfinite(y_pred).all(axis=1, keepdims=True)))
