"""Define the data that the compiled kernel works on: the networks' shape, the runs' arrays, a block's memory.

Positions and lengths are in vectors of N_LANES floats.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnexp.network.engine.compilation import compiled
from nnexp.network.engine.lanes import Pointer, pointer

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


SIGMOID, TANH, RELU, IDENTITY, SOFTMAX = range(5)
ACTIVATIONS = {
    "sigmoid": SIGMOID,
    "tanh": TANH,
    "relu": RELU,
    "identity": IDENTITY,
    "softmax": SOFTMAX,
}
MSE, BCE, CROSS_ENTROPY = range(3)
LOSSES = {"mse": MSE, "bce": BCE, "cross_entropy": CROSS_ENTROPY}
SGD, MOMENTUM, ADAM, ADAMW = range(4)
OPTIMIZERS = {"sgd": SGD, "momentum": MOMENTUM, "adam": ADAM, "adamw": ADAMW}
# The options of each optimizer besides weight_decay, which all have.
OPTIONS = {
    "sgd": (),
    "momentum": ("momentum",),
    "adam": ("beta1", "beta2", "epsilon"),
    "adamw": ("beta1", "beta2", "epsilon"),
}
# The column of `Runs.options` in which the kernel finds an option.
COLUMNS = {"momentum": 0, "beta1": 0, "beta2": 1, "epsilon": 2, "weight_decay": 3}


class Net(NamedTuple):
    """The shape of the networks and how they are trained. Layer 0 takes the inputs."""

    # N_LANES, or 1 if each run is trained by itself; but not as a constant: loops over lanes would be
    # unrolled and take seconds to compile.
    n_lanes: int
    n_layers: int
    sizes: Pointer  # layer widths, input first
    weights_at: Pointer  # by layer: where its W begins among the weights
    biases_at: Pointer
    outputs_at: Pointer  # where its outputs begin, for up to `rows` rows
    activations: Pointer
    n_weights: int
    loss: int
    optimizer: int
    has_decay: bool
    batch_size: int
    rows: int
    is_classification: bool
    is_articles: bool  # whether the model is ARTICLES, without weight decay
    is_wide: bool


class Settings(NamedTuple):
    n_lanes: int
    loss: int
    optimizer: int
    has_decay: bool  # whether any run's weight_decay is above 0
    batch_size: int
    rows: int  # how many go through the network at a time
    is_classification: bool
    is_articles: bool
    is_wide: bool  # whether each run is trained by itself, with its neurons as lanes


class Samples(NamedTuple):
    """The samples: n rows shared by all runs, or n rows for each run."""

    x: Pointer
    y: Pointer
    n: int
    fan_in: int
    width: int
    shared: bool


class Runs(NamedTuple):
    """Everything that differs between runs; the first axis is the run."""

    weights: Array  # (runs, n_weights), as network.flatten orders them
    first_moment: Array  # the optimizer's memory, (runs, n_weights), or (1, 1) if it has none
    second_moment: Array
    powers: Array  # (runs, 2): beta1^t, beta2^t
    learning_rate: Array
    options: Array  # (runs, 4), see COLUMNS
    epochs: IntArray
    diverged: IntArray  # the epoch at which the run was found to have diverged, or -1
    patience: IntArray  # epochs without a lower val_loss after which the run stops; 0: never
    stopped: IntArray  # the epoch at which the run stopped, or -1
    best_epoch: IntArray  # the epoch of the lowest val_loss so far, of a run with patience
    best_loss: Array
    best_weights: Array  # (runs, n_weights), or (1, 1) where none has patience


class Block(NamedTuple):
    """One block's state: vectors with one number for each of its runs."""

    w: Pointer
    grad: Pointer
    m: Pointer
    v: Pointer
    rates: Pointer  # learning_rate, the four options, beta1^t, beta2^t
    z: Pointer  # totals of the layer computed last
    a: Pointer  # outputs of all layers
    d: Pointer  # dL/dz of all layers
    x: Pointer  # the rows of each run, if they are not shared
    y: Pointer
    sums: Pointer  # loss, correct, norm of the gradient
    run: Pointer  # the run of each lane
    stop: Pointer  # the epoch at which each lane ends in this call; -1 once it has ended


@compiled
def view_net(layers: IntArray, settings: Settings) -> Net:
    """Point to the rows of `layers`: sizes, weights_at, biases_at, outputs_at, activations."""
    n_layers = layers.shape[1] - 1
    return Net(
        settings.n_lanes,
        n_layers,
        pointer(layers, 0),
        pointer(layers, n_layers + 1),
        pointer(layers, 2 * (n_layers + 1)),
        pointer(layers, 3 * (n_layers + 1)),
        pointer(layers, 4 * (n_layers + 1)),
        layers[2, n_layers],
        settings.loss,
        settings.optimizer,
        settings.has_decay,
        settings.batch_size,
        settings.rows,
        settings.is_classification,
        settings.is_articles,
        settings.is_wide,
    )


@compiled
def view_samples(X: Array, y: Array) -> Samples:
    return Samples(pointer(X, 0), pointer(y, 0), X.shape[1], X.shape[2], y.shape[2], X.shape[0] == 1)


@compiled
def view_block(memory: Array, parts: IntArray, lane_memory: IntArray) -> Block:
    """Point to the parts of a block's working memory; part number i begins at element parts[i]."""
    return Block(
        pointer(memory, parts[0]),
        pointer(memory, parts[1]),
        pointer(memory, parts[2]),
        pointer(memory, parts[3]),
        pointer(memory, parts[4]),
        pointer(memory, parts[5]),
        pointer(memory, parts[6]),
        pointer(memory, parts[7]),
        pointer(memory, parts[8]),
        pointer(memory, parts[9]),
        pointer(memory, parts[10]),
        pointer(lane_memory, 0),
        pointer(lane_memory, lane_memory.size // 2),
    )


@compiled
def at_run(s: Block, runs: Runs) -> Block:
    """Let the weights and the optimizer's memory of a block of one run be those of `runs` themselves."""
    i = s.run[0]
    return Block(
        pointer(runs.weights, i * runs.weights.shape[1]),
        s.grad,
        pointer(runs.first_moment, i * runs.first_moment.shape[1]),
        pointer(runs.second_moment, i * runs.second_moment.shape[1]),
        s.rates,
        s.z,
        s.a,
        s.d,
        s.x,
        s.y,
        s.sums,
        s.run,
        s.stop,
    )
