"""The compiled training engine: many networks of one shape trained at once, with the same bits
everywhere.

The innermost axis of everything computed is the run: N_LANES runs make a block, one operation
serves them all, and blocks go to threads. No lane ever reads another, and no operation is
reordered, so a run's bits do not depend on its batch, its place in it, the number of threads or the
CPU. A single run is a batch of one.

Every sum is taken in ascending order, one term after another: a neuron's total starts from its bias
and adds w_j x_j by input j; dL/da adds over the next layer's neurons; gradients, losses and counts
add over the rows in the order they are visited; the gradient's norm adds over the weights in
`network.flatten` order.

This module knows arrays only. What is trained is defined, and readable, in network.py.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numba import config
from numpy.typing import ArrayLike, NDArray

from nnexp.network.engine import elementary
from nnexp.network.engine import lanes as lane_types
from nnexp.network.engine.compilation import compiled, is_compiled, kernel
from nnexp.network.engine.elementary import exp, log, log1p, sigmoid, tanh
from nnexp.network.engine.lanes import N_LANES, Lanes, Pointer, if_greater, lanes, load, pointer, sqrt, store

VERSION = "1"  # changes whenever the bits of any run change

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
SGD, MOMENTUM, ADAM = range(3)
OPTIMIZERS = {"sgd": SGD, "momentum": MOMENTUM, "adam": ADAM}
# The options of each optimizer, in the order of the columns that the kernel reads.
OPTIONS = {"sgd": (), "momentum": ("momentum",), "adam": ("beta1", "beta2", "epsilon")}

# Rows that an evaluation holds in memory at a time; a mini-batch may be larger.
_EVALUATED_ROWS = 32


# --- What the kernel works with. Positions and lengths are in vectors of N_LANES floats.


class _Net(NamedTuple):
    """The shape of the networks and how they are trained. A layer is numbered by its inputs: 0
    first.
    """

    # N_LANES, but not as a constant: unrolled, the loops over lanes would compile for seconds.
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
    batch_size: int
    rows: int
    is_classification: bool
    is_articles: bool  # whether the model is ARTICLES


class _Settings(NamedTuple):
    n_lanes: int
    loss: int
    optimizer: int
    batch_size: int
    rows: int  # that go through the network at a time
    is_classification: bool
    is_articles: bool


class _Samples(NamedTuple):
    """n rows, either shared by all runs or `of_run` rows for each."""

    x: Pointer
    y: Pointer
    n: int
    fan_in: int
    width: int
    shared: bool


class _Runs(NamedTuple):
    """Everything that differs between runs; the first axis is the run."""

    weights: Array  # (runs, n_weights), as network.flatten orders them
    first_moment: Array  # the optimizers' memories, (runs, n_weights), or (1, 1) where there are none
    second_moment: Array
    powers: Array  # (runs, 2): beta1^t, beta2^t
    learning_rate: Array
    options: Array  # (runs, 3), by columns of OPTIONS
    epochs: IntArray
    diverged: IntArray  # the epoch at which it was found to have diverged, or -1


class _Block(NamedTuple):
    """One block's state: vectors, one number of each of its runs."""

    w: Pointer
    grad: Pointer
    m: Pointer
    v: Pointer
    rates: Pointer  # learning_rate, the three options, beta1^t, beta2^t
    z: Pointer  # totals of the layer last computed
    a: Pointer  # outputs of all layers
    d: Pointer  # dL/dz of all layers
    x: Pointer  # rows of each run's own, where they are not shared
    y: Pointer
    sums: Pointer  # loss, correct, norm of the gradient
    run: Pointer  # by lane, its run
    stop: Pointer  # by lane, the epoch at which it ends in this call; -1 once it has


# --- Activations and their derivatives, over `count` vectors in a row.


@compiled
def _activate(function: int, z: Pointer, a: Pointer, at: int, count: int) -> None:
    """Outputs a = f(z), from vector `at` of a on."""
    if function == SIGMOID:
        for i in range(count):
            store(a, at + i, sigmoid(load(z, i)))
    elif function == TANH:
        for i in range(count):
            store(a, at + i, tanh(load(z, i)))
    elif function == RELU:
        for i in range(count):
            x = load(z, i)
            store(a, at + i, if_greater(lanes(0.0), x, lanes(0.0), x))  # nan stays nan
    else:
        for i in range(count):
            store(a, at + i, load(z, i))


@compiled
def _derive(function: int, a: Pointer, d: Pointer, at: int, count: int) -> None:
    """dL/da in d, from vector `at` on, becomes dL/dz."""
    if function == SIGMOID:
        for i in range(at, at + count):
            out = load(a, i)
            store(d, i, load(d, i) * (out * (1.0 - out)))
    elif function == TANH:
        for i in range(at, at + count):
            out = load(a, i)
            store(d, i, load(d, i) * (1.0 - out * out))
    elif function == RELU:
        for i in range(at, at + count):
            store(d, i, if_greater(load(a, i), lanes(0.0), load(d, i), lanes(0.0)))


# Softmax takes the outputs of one row together.


@compiled
def _largest(z: Pointer, first: int, last: int) -> Lanes:
    top = load(z, first)
    for i in range(first + 1, last):
        total = load(z, i)
        top = if_greater(total, top, total, top)
    return top


@compiled
def _softmax(z: Pointer, a: Pointer, at: int, rows: int, width: int) -> None:
    for first in range(0, rows * width, width):
        top = _largest(z, first, first + width)
        scale = lanes(0.0)
        for i in range(first, first + width):
            power = exp(load(z, i) - top)
            scale = scale + power
            store(a, at + i, power)
        for i in range(at + first, at + first + width):
            store(a, i, load(a, i) / scale)


@compiled
def _derive_softmax(a: Pointer, d: Pointer, at: int, rows: int, width: int) -> None:
    for first in range(at, at + rows * width, width):
        mean = lanes(0.0)
        for i in range(first, first + width):
            mean = mean + load(d, i) * load(a, i)
        for i in range(first, first + width):
            store(d, i, load(a, i) * (load(d, i) - mean))


# --- Forward and backward. `rows` rows go through one layer before the next begins.


@compiled
def _sample(x: Pointer, i: int, shared: bool) -> Lanes:
    """Sample number i: one float for all runs where they share the data, else one of each run."""
    return lanes(x[i]) if shared else load(x, i)


@compiled
def _totals(
    w: Pointer, w_at: int, b_at: int, fan_in: int, fan_out: int,
    x: Pointer, x_at: int, shared: bool, rows: int, z: Pointer,
) -> None:  # fmt: skip
    """z = W x + b."""
    for k in range(fan_out):
        for r in range(rows):
            total = load(w, b_at + k)
            for j in range(fan_in):
                weight = load(w, w_at + k * fan_in + j)
                total = total + weight * _sample(x, x_at + r * fan_in + j, shared)
            store(z, r * fan_out + k, total)


@compiled
def _forward(net: _Net, s: _Block, x: Pointer, x_at: int, shared: bool, rows: int) -> None:
    """Every layer's outputs, and in z the last layer's totals."""
    for layer in range(net.n_layers):
        fan_in, fan_out = net.sizes[layer], net.sizes[layer + 1]
        w_at, b_at, a_at = net.weights_at[layer], net.biases_at[layer], net.outputs_at[layer]
        if layer == 0:
            _totals(s.w, w_at, b_at, fan_in, fan_out, x, x_at, shared, rows, s.z)
        else:
            below = net.outputs_at[layer - 1]
            _totals(s.w, w_at, b_at, fan_in, fan_out, s.a, below, False, rows, s.z)
        if net.activations[layer] == SOFTMAX:
            _softmax(s.z, s.a, a_at, rows, fan_out)
        else:
            _activate(net.activations[layer], s.z, s.a, a_at, rows * fan_out)


@compiled
def _deriv_loss(net: _Net, s: _Block, y: Pointer, y_at: int, shared: bool, rows: int, n: int) -> None:
    """dL/dz of the output layer, for a loss that is the mean over n rows."""
    last = net.n_layers - 1
    at, width = net.outputs_at[last], net.sizes[last + 1]
    factor = (2.0 if net.loss == MSE else 1.0) / (n if net.loss == CROSS_ENTROPY else n * width)
    # For bce and cross_entropy this is dL/dz at once: the activation's own derivative has
    # cancelled.
    for i in range(rows * width):
        error = load(s.a, at + i) - _sample(y, y_at + i, shared)
        store(s.d, at + i, error * factor)
    if net.loss == MSE:
        if net.activations[last] == SOFTMAX:
            _derive_softmax(s.a, s.d, at, rows, width)
        else:
            _derive(net.activations[last], s.a, s.d, at, rows * width)


@compiled
def _add_gradients(
    d: Pointer, d_at: int, fan_out: int, x: Pointer, x_at: int, shared: bool, fan_in: int,
    rows: int, grad: Pointer, w_at: int, b_at: int, is_first: bool | np.bool,
) -> None:  # fmt: skip
    """dL/dW and dL/db of one layer, begun anew or added to those of earlier rows."""
    for k in range(fan_out):
        total = lanes(0.0) if is_first else load(grad, b_at + k)
        for r in range(rows):
            total = total + load(d, d_at + r * fan_out + k)
        store(grad, b_at + k, total)
        for j in range(fan_in):
            i = w_at + k * fan_in + j
            total = lanes(0.0) if is_first else load(grad, i)
            for r in range(rows):
                slope = load(d, d_at + r * fan_out + k)
                total = total + slope * _sample(x, x_at + r * fan_in + j, shared)
            store(grad, i, total)


@compiled
def _backpropagate(
    w: Pointer, w_at: int, fan_in: int, fan_out: int,
    d: Pointer, d_at: int, rows: int, below: int,
) -> None:  # fmt: skip
    """dL/da of the layer below, W' dL/dz."""
    for r in range(rows):
        d_r = d_at + r * fan_out
        for j in range(fan_in):
            total = load(d, d_r) * load(w, w_at + j)
            for k in range(1, fan_out):
                weight = load(w, w_at + k * fan_in + j)
                total = total + load(d, d_r + k) * weight
            store(d, below + r * fan_in + j, total)


@compiled
def _backward(
    net: _Net, s: _Block, x: Pointer, x_at: int, shared: bool, rows: int, is_first: bool | np.bool
) -> None:
    """Gradients of all weights, from dL/dz of the output layer down."""
    for layer in range(net.n_layers - 1, -1, -1):
        fan_in, fan_out = net.sizes[layer], net.sizes[layer + 1]
        w_at, b_at, at = net.weights_at[layer], net.biases_at[layer], net.outputs_at[layer]
        if layer == 0:
            _add_gradients(s.d, at, fan_out, x, x_at, shared, fan_in, rows, s.grad, w_at, b_at, is_first)
        else:
            below = net.outputs_at[layer - 1]
            _add_gradients(s.d, at, fan_out, s.a, below, False, fan_in, rows, s.grad, w_at, b_at, is_first)
            _backpropagate(s.w, w_at, fan_in, fan_out, s.d, at, rows, below)
            count = rows * fan_in
            _derive(net.activations[layer - 1], s.a, s.d, below, count)


# --- Optimizers, over all weights.


@compiled
def _step(net: _Net, s: _Block) -> None:
    rate = load(s.rates, 0)
    if net.optimizer == SGD:
        for i in range(net.n_weights):
            store(s.w, i, load(s.w, i) - rate * load(s.grad, i))
    elif net.optimizer == MOMENTUM:
        momentum = load(s.rates, 1)
        for i in range(net.n_weights):
            velocity = momentum * load(s.m, i) + load(s.grad, i)
            store(s.m, i, velocity)
            store(s.w, i, load(s.w, i) - rate * velocity)
    else:
        beta1, beta2 = load(s.rates, 1), load(s.rates, 2)
        epsilon = load(s.rates, 3)
        power1 = load(s.rates, 4) * beta1
        power2 = load(s.rates, 5) * beta2
        store(s.rates, 4, power1)
        store(s.rates, 5, power2)
        for i in range(net.n_weights):
            grad = load(s.grad, i)
            m = beta1 * load(s.m, i) + (1.0 - beta1) * grad
            v = beta2 * load(s.v, i) + (1.0 - beta2) * (grad * grad)
            store(s.m, i, m)
            store(s.v, i, v)
            m_hat, v_hat = m / (1.0 - power1), v / (1.0 - power2)
            store(s.w, i, load(s.w, i) - rate * m_hat / (sqrt(v_hat) + epsilon))


# --- Evaluation.


@compiled
def _losses(net: _Net, s: _Block, y: Pointer, y_at: int, shared: bool, rows: int) -> Lanes:
    """The losses of `rows` rows, added to those of earlier rows."""
    last = net.n_layers - 1
    at, width = net.outputs_at[last], net.sizes[last + 1]
    total, zero = load(s.sums, 0), lanes(0.0)
    if net.loss == MSE:
        for i in range(rows * width):
            output = load(s.a, at + i)
            error = _sample(y, y_at + i, shared) - output
            total = total + error * error
    elif net.loss == BCE:
        for i in range(rows * width):
            z = load(s.z, i)
            positive = if_greater(zero, z, zero, z)
            tail = log1p(exp(if_greater(zero, z, z, zero - z)))
            total = total + (positive - _sample(y, y_at + i, shared) * z + tail)
    else:
        for r in range(rows):
            first = r * width
            top = _largest(s.z, first, first + width)
            powers, own = zero, zero
            for k in range(width):
                z = load(s.z, first + k)
                powers = powers + exp(z - top)
                own = own + _sample(y, y_at + r * width + k, shared) * z
            total = total + (top + log(powers) - own)
    return total


@compiled
def _correct(net: _Net, s: _Block, y: Pointer, y_at: int, shared: bool, rows: int) -> Lanes:
    """How many of `rows` rows are classified rightly, added to those of earlier rows."""
    last = net.n_layers - 1
    at, width = net.outputs_at[last], net.sizes[last + 1]
    zero, one, half, infinity = lanes(0.0), lanes(1.0), lanes(0.5), lanes(np.inf)
    count = load(s.sums, 1)
    for r in range(rows):
        # One output says the second class from 0.5 on; of several, the first that is largest
        # counts.
        most, most_true = half, half
        chosen, true, right = zero, zero, one
        for k in range(width):
            output = load(s.a, at + r * width + k)
            label = _sample(y, y_at + r * width + k, shared)
            size = if_greater(zero, output, zero - output, output)
            right = if_greater(infinity, size, right, zero)  # what is not finite is wrong
            if width == 1:
                chosen = if_greater(half, output, zero, one)
                true = if_greater(half, label, zero, one)
            elif k == 0:
                most, most_true = output, label
            else:
                chosen = if_greater(output, most, lanes(float(k)), chosen)
                most = if_greater(output, most, output, most)
                true = if_greater(label, most_true, lanes(float(k)), true)
                most_true = if_greater(label, most_true, label, most_true)
        apart = (chosen - true) * (chosen - true)
        count = count + if_greater(apart, zero, zero, right)
    return count


@compiled
def _evaluate(net: _Net, s: _Block, data: _Samples, with_gradient: bool) -> None:
    """Into s.sums: loss and number correct over all samples, and the norm of the gradient."""
    store(s.sums, 0, lanes(0.0))
    store(s.sums, 1, lanes(0.0))
    for first in range(0, data.n, net.rows):
        rows = min(net.rows, data.n - first)
        x, y, at = data.x, data.y, first
        if not data.shared:
            for r in range(rows):
                for lane in range(net.n_lanes):
                    _gather_row(net, s, data, r, lane, s.run[lane] * data.n + first + r)
            x, y, at = s.x, s.y, 0
        x_at, y_at = at * data.fan_in, at * data.width
        _forward(net, s, x, x_at, data.shared, rows)
        store(s.sums, 0, _losses(net, s, y, y_at, data.shared, rows))
        if net.is_classification:
            store(s.sums, 1, _correct(net, s, y, y_at, data.shared, rows))
        if with_gradient:
            _deriv_loss(net, s, y, y_at, data.shared, rows, data.n)
            _backward(net, s, x, x_at, data.shared, rows, first == 0)
    terms = data.n if net.loss == CROSS_ENTROPY else data.n * data.width
    store(s.sums, 0, load(s.sums, 0) / float(terms))
    if with_gradient:
        squares = lanes(0.0)
        for i in range(net.n_weights):
            squares = squares + load(s.grad, i) * load(s.grad, i)
        store(s.sums, 2, sqrt(squares))


# --- A block of runs: from the runs' own arrays into lanes, through the epochs, and back.


@compiled
def _gather_row(net: _Net, s: _Block, data: _Samples, r: int, lane: int, row: int) -> None:
    """Copy row `row` of all runs' rows into the lane's own row r."""
    for j in range(data.fan_in):
        s.x[(r * data.fan_in + j) * net.n_lanes + lane] = data.x[row * data.fan_in + j]
    for k in range(data.width):
        s.y[(r * data.width + k) * net.n_lanes + lane] = data.y[row * data.width + k]


@compiled
def _train_epoch(
    net: _Net, s: _Block, data: _Samples, order: Pointer, is_shuffled: bool, order_stride: int
) -> None:
    """One optimizer step for each mini-batch. A run's own order begins order_stride after the
    last's.
    """
    shared = data.shared and not is_shuffled
    for first in range(0, data.n, net.batch_size):
        rows = min(net.batch_size, data.n - first)
        x, y, at = data.x, data.y, first
        if not shared:
            for r in range(rows):
                for lane in range(net.n_lanes):
                    row = first + r
                    if is_shuffled:
                        row = order[s.run[lane] * order_stride + row]
                    if not data.shared:
                        row += s.run[lane] * data.n
                    _gather_row(net, s, data, r, lane, row)
            x, y, at = s.x, s.y, 0
        x_at, y_at = at * data.fan_in, at * data.width
        _forward(net, s, x, x_at, shared, rows)
        _deriv_loss(net, s, y, y_at, shared, rows, rows)
        _backward(net, s, x, x_at, shared, rows, np.bool_(True))
        _step(net, s)


@compiled
def _train_articles(s: _Block, data: _Samples, epochs: int) -> None:
    """_train_epoch, `epochs` times, written out for ARTICLES on rows that all runs share.

    The operations are the same in the same order, and so are the bits. In _train_epoch, which is
    for any network, numbers pass from one short loop to the next through memory; without that,
    this small network trains about twice as fast.
    """
    rate = load(s.rates, 0)
    w1, w2, w3 = load(s.w, 0), load(s.w, 1), load(s.w, 2)
    w4, w5, w6 = load(s.w, 3), load(s.w, 4), load(s.w, 5)
    b1, b2, b3 = load(s.w, 6), load(s.w, 7), load(s.w, 8)
    for _ in range(epochs):
        for i in range(data.n):
            x0, x1 = lanes(data.x[2 * i]), lanes(data.x[2 * i + 1])
            h1 = sigmoid(b1 + w1 * x0 + w2 * x1)
            h2 = sigmoid(b2 + w3 * x0 + w4 * x1)
            o = sigmoid(b3 + w5 * h1 + w6 * h2)
            d = (o - data.y[i]) * 2.0 * (o * (1.0 - o))
            d1 = d * w5 * (h1 * (1.0 - h1))
            d2 = d * w6 * (h2 * (1.0 - h2))
            # A gradient is a sum that starts at 0.0, even of one term: -0.0 becomes 0.0.
            w1 = w1 - rate * (0.0 + d1 * x0)
            w2 = w2 - rate * (0.0 + d1 * x1)
            w3 = w3 - rate * (0.0 + d2 * x0)
            w4 = w4 - rate * (0.0 + d2 * x1)
            w5 = w5 - rate * (0.0 + d * h1)
            w6 = w6 - rate * (0.0 + d * h2)
            b1 = b1 - rate * (0.0 + d1)
            b2 = b2 - rate * (0.0 + d2)
            b3 = b3 - rate * (0.0 + d)
    store(s.w, 0, w1)
    store(s.w, 1, w2)
    store(s.w, 2, w3)
    store(s.w, 3, w4)
    store(s.w, 4, w5)
    store(s.w, 5, w6)
    store(s.w, 6, b1)
    store(s.w, 7, b2)
    store(s.w, 8, b3)


@compiled
def _gather(net: _Net, s: _Block, runs: _Runs, lane: int) -> None:
    """Copy one run's state into its lane."""
    i = s.run[lane]
    for j in range(net.n_weights):
        s.w[j * net.n_lanes + lane] = runs.weights[i, j]
        if net.optimizer != SGD:
            s.m[j * net.n_lanes + lane] = runs.first_moment[i, j]
        if net.optimizer == ADAM:
            s.v[j * net.n_lanes + lane] = runs.second_moment[i, j]
    s.rates[lane] = runs.learning_rate[i]
    for j in range(3):
        s.rates[(1 + j) * net.n_lanes + lane] = runs.options[i, j]
    for j in range(2):
        s.rates[(4 + j) * net.n_lanes + lane] = runs.powers[i, j]


@compiled
def _end(net: _Net, s: _Block, runs: _Runs, lane: int) -> None:
    """Copy a lane's state back to its run; the lane goes on, but counts no more."""
    i = s.run[lane]
    for j in range(net.n_weights):
        runs.weights[i, j] = s.w[j * net.n_lanes + lane]
        if net.optimizer != SGD:
            runs.first_moment[i, j] = s.m[j * net.n_lanes + lane]
        if net.optimizer == ADAM:
            runs.second_moment[i, j] = s.v[j * net.n_lanes + lane]
    for j in range(2):
        runs.powers[i, j] = s.rates[(4 + j) * net.n_lanes + lane]
    s.stop[lane] = -1


@compiled
def _weights_are_finite(net: _Net, s: _Block, lane: int) -> bool:
    for j in range(net.n_weights):  # noqa: SIM110  Numba compiles no generator
        if not np.isfinite(s.w[j * net.n_lanes + lane]):
            return False
    return True


@compiled
def _record(
    net: _Net, s: _Block, runs: _Runs, n: int, is_training: bool, epoch: int,
    records: Array, position: int | np.int64,
) -> None:  # fmt: skip
    """Write what _evaluate found on n rows for every lane still running, and note those that have
    diverged.
    """
    column = 0 if is_training else 3
    for lane in range(net.n_lanes):
        i = s.run[lane]
        if s.stop[lane] >= epoch:
            records[i, position, column] = s.sums[lane]
            records[i, position, column + 1] = s.sums[net.n_lanes + lane] / n
            if is_training:
                records[i, position, 2] = s.sums[2 * net.n_lanes + lane]
                if not (np.isfinite(s.sums[lane]) and _weights_are_finite(net, s, lane)):
                    runs.diverged[i] = epoch


@compiled
def _end_lanes(net: _Net, s: _Block, runs: _Runs, epoch: int) -> int:
    """End the lanes whose runs stop at this epoch or have diverged.

    Returns the epoch at which the next will stop, or -1 if none is left.
    """
    next_stop = -1
    for lane in range(net.n_lanes):
        i = s.run[lane]
        if s.stop[lane] == epoch == runs.epochs[i] and not _weights_are_finite(net, s, lane):
            runs.diverged[i] = epoch
        if s.stop[lane] >= 0 and (s.stop[lane] == epoch or runs.diverged[i] >= 0):
            _end(net, s, runs, lane)
        if s.stop[lane] >= 0 and (next_stop < 0 or s.stop[lane] < next_stop):
            next_stop = s.stop[lane]
    return next_stop


@compiled
def _net(layers: IntArray, settings: _Settings) -> _Net:
    """Pointers to the rows of `layers`: sizes, weights_at, biases_at, outputs_at, activations."""
    n_layers = layers.shape[1] - 1
    return _Net(
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
        settings.batch_size,
        settings.rows,
        settings.is_classification,
        settings.is_articles,
    )


@compiled
def _samples(X: Array, y: Array) -> _Samples:
    return _Samples(pointer(X, 0), pointer(y, 0), X.shape[1], X.shape[2], y.shape[2], X.shape[0] == 1)


@compiled
def _block(memory: Array, parts: IntArray, lane_memory: IntArray) -> _Block:
    """A block's working memory; part number i begins at element parts[i]."""
    return _Block(
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


@kernel(lane_types, elementary)
def _train(
    layers: IntArray, settings: _Settings, runs: _Runs,
    X: Array, y: Array, X_val: Array, y_val: Array, order: NDArray[np.int32],
    memory: Array, parts: IntArray, lane_memory: IntArray,
    active: IntArray, first_block: int, last_block: int,
    epoch: int, until: int, log_epochs: IntArray, records: Array,
) -> None:  # fmt: skip
    """Train the runs `active`, in blocks, from `epoch` completed epochs to `until`."""
    net = _net(layers, settings)
    s = _block(memory, parts, lane_memory)
    data, validation = _samples(X, y), _samples(X_val, y_val)
    is_shuffled, order_stride = order.shape[0] > 0, order.shape[1] * order.shape[2]
    for block in range(first_block, last_block):
        for lane in range(net.n_lanes):
            i = block * N_LANES + lane
            s.run[lane] = active[min(i, len(active) - 1)]
            s.stop[lane] = min(until, runs.epochs[s.run[lane]]) if i < len(active) else -1
            _gather(net, s, runs, lane)
        completed, logged = epoch, np.int64(0)  # a plain 0 would compile _record for 0 as well
        while True:
            if logged < len(log_epochs) and log_epochs[logged] == completed:
                for part in range(2 if validation.n > 0 else 1):
                    samples, is_training = (data, True) if part == 0 else (validation, False)
                    _evaluate(net, s, samples, is_training)
                    _record(net, s, runs, samples.n, is_training, completed, records, logged)
                logged += 1
            pause = _end_lanes(net, s, runs, completed)
            if pause < 0:
                break
            if logged < len(log_epochs):
                pause = min(pause, log_epochs[logged])
            if net.is_articles and data.shared and not is_shuffled:
                _train_articles(s, data, pause - completed)
                completed = pause
            while completed < pause:
                visited = pointer(order, (completed - epoch) * data.n)
                _train_epoch(net, s, data, visited, is_shuffled, order_stride)
                completed += 1


# --- What the caller sees.


def is_ready() -> bool:
    """Whether the engine is compiled; if not, the first training takes several seconds longer."""
    return is_compiled(_train)


def default_threads() -> int:
    """How many threads train: Numba's number, NUMBA_NUM_THREADS or one a core."""
    return int(vars(config)["NUMBA_NUM_THREADS"])


@dataclass(frozen=True)
class Model:
    """What all runs of a batch have in common. Names are those of network.py.

    Raises ValueError for a name, size or combination that network.py does not define.
    """

    sizes: tuple[int, ...]  # layer widths, input first: (2, 2, 1)
    activation: str
    output_activation: str
    loss: str
    optimizer: str
    batch_size: int
    is_classification: bool

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"sizes must be two or more positive widths, not {self.sizes}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        for value, known in (
            (self.activation, set(ACTIVATIONS) - {"softmax"}),
            (self.output_activation, set(ACTIVATIONS)),
            (self.loss, set(LOSSES)),
            (self.optimizer, set(OPTIMIZERS)),
        ):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(sorted(known))}")
        needed = {"bce": "sigmoid", "cross_entropy": "softmax"}.get(self.loss)
        if needed and self.output_activation != needed:
            raise ValueError(f"{self.loss} needs a {needed} output, not {self.output_activation}")

    @property
    def n_weights(self) -> int:
        """The length of a run's flat vector of weights and biases."""
        return sum((i + 1) * o for i, o in zip(self.sizes[:-1], self.sizes[1:], strict=True))


# The articles' network, which most sweeps train.
ARTICLES = Model((2, 2, 1), "sigmoid", "sigmoid", "mse", "sgd", 1, True)


@dataclass(frozen=True)
class Curves:
    """What was measured at the logged epochs; arrays of shape (runs, logged epochs), accuracies
    from 0 to 1.

    An entry is nan after its run's last epoch, or after the one at which it diverged.
    """

    epochs: IntArray  # (logged epochs,)
    loss: Array
    grad_norm: Array
    accuracy: Array | None
    val_loss: Array | None
    val_accuracy: Array | None


def _aligned(size: int) -> Array:
    """Zeros that start on a cache line, so that no vector lies across two."""
    line = 64
    raw = np.zeros(8 * size + line, dtype=np.uint8)
    start = -raw.ctypes.data % line
    return raw[start : start + 8 * size].view(np.float64)


def _per_run(value: ArrayLike, n_runs: int, dtype: type) -> NDArray[Any]:
    """One number of each run, from one for all or one of each."""
    return np.broadcast_to(np.asarray(value, dtype=dtype), (n_runs,)).copy()


def _checked(model: Model, X: ArrayLike, y: ArrayLike, n_runs: int) -> tuple[Array, Array]:
    """Samples with the run as the first axis."""
    arrays = []
    for name, values, width in (("X", X, model.sizes[0]), ("y", y, model.sizes[-1])):
        array = np.ascontiguousarray(values, dtype=np.float64)
        array = array[np.newaxis] if array.ndim == 2 else array
        if array.ndim != 3 or len(array) not in (1, n_runs) or array.shape[2] != width:
            raise ValueError(f"{name} must be (n, {width}) or ({n_runs}, n, {width})")
        arrays.append(array)
    X3, y3 = arrays
    if X3.shape[1] != y3.shape[1] or X3.shape[1] == 0:
        raise ValueError(f"X has {X3.shape[1]} rows and y has {y3.shape[1]}")
    if len(X3) != len(y3):  # one is each run's own: then both are
        X3, y3 = (np.repeat(a, n_runs // len(a), axis=0) for a in arrays)
    return X3, y3


def _layers(model: Model, rows: int) -> IntArray:
    """The rows that _net reads, for up to `rows` samples at a time."""
    sizes = np.array(model.sizes)
    n_layers = len(sizes) - 1
    starts = np.cumsum(np.concatenate([[0], sizes[:-1] * sizes[1:], sizes[1:]]))
    layers = np.zeros((5, n_layers + 1), dtype=np.int64)
    layers[0] = sizes
    layers[1] = starts[: n_layers + 1]
    layers[2] = starts[n_layers:]
    layers[3] = np.cumsum(np.concatenate([[0], rows * sizes[1:]]))
    layers[4] = ACTIVATIONS[model.activation]
    layers[4, n_layers - 1] = ACTIVATIONS[model.output_activation]
    return layers


def _parts(model: Model, rows: int) -> IntArray:
    """Where the parts of a _Block begin in its memory, in elements, and where the last ends."""
    n, outputs = model.n_weights, rows * sum(model.sizes[1:])
    samples = rows * model.sizes[0], rows * model.sizes[-1]
    lengths = [n, n, n, n, 6, rows * max(model.sizes[1:]), outputs, outputs, *samples, 3]
    return np.cumsum([0, *lengths]) * N_LANES


class Batch:
    """Runs of one model in training.

    weights: (runs, n_weights), the initial weights as `network.flatten` orders them. They are
    copied. learning_rate and each of `options` (those of the optimizer): one number, or one of each
    run. epochs: how many to train, one number or one of each run. X, y: samples (n, fan_in) and (n,
    outputs), or (runs, n, fan_in) and (runs, n, outputs) where every run has its own; X_val, y_val
    likewise. threads: how many, by default Numba's (NUMBA_NUM_THREADS).

    Raises ValueError for shapes that do not fit and for missing or unknown options.
    """

    def __init__(
        self,
        model: Model,
        X: ArrayLike,
        y: ArrayLike,
        weights: ArrayLike,
        learning_rate: ArrayLike,
        epochs: ArrayLike,
        options: Mapping[str, ArrayLike] | None = None,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        threads: int | None = None,
    ) -> None:
        start = np.array(weights, dtype=np.float64, order="C")
        if start.ndim != 2 or start.shape[1] != model.n_weights:
            raise ValueError(f"weights must be (runs, {model.n_weights}), not {start.shape}")
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val belong together")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        n_runs = len(start)
        given, names = dict(options or {}), OPTIONS[model.optimizer]
        if set(given) != set(names):
            raise ValueError(f"{model.optimizer} takes the options {names}, not {tuple(given)}")
        columns = np.zeros((n_runs, 3))
        for i, name in enumerate(names):
            columns[:, i] = given[name]
        self._runs = _Runs(
            weights=start,
            first_moment=np.zeros((1, 1) if model.optimizer == "sgd" else start.shape),
            second_moment=np.zeros(start.shape if model.optimizer == "adam" else (1, 1)),
            powers=np.ones((n_runs, 2)),
            learning_rate=_per_run(learning_rate, n_runs, np.float64),
            options=columns,
            epochs=_per_run(epochs, n_runs, np.int64),
            diverged=np.full(n_runs, -1),
        )
        self.model = model
        self.epoch = 0
        self._X, self._y = _checked(model, X, y, n_runs)
        self._has_validation = X_val is not None and y_val is not None
        self._X_val, self._y_val = (
            np.zeros((1, 0, model.sizes[0])),
            np.zeros((1, 0, model.sizes[-1])),
        )
        if X_val is not None and y_val is not None:
            self._X_val, self._y_val = _checked(model, X_val, y_val, n_runs)
        n = max(self._X.shape[1], self._X_val.shape[1])
        self._rows = min(n, max(model.batch_size, _EVALUATED_ROWS))
        self._threads = default_threads() if threads is None else threads

    @property
    def weights(self) -> Array:
        """A copy of all weights now, (runs, n_weights); a run that has ended keeps its last."""
        return self._runs.weights.copy()

    @property
    def diverged(self) -> IntArray:
        """By run, the epoch at which its loss or a weight was found not to be finite, or -1."""
        return self._runs.diverged.copy()

    @property
    def is_done(self) -> bool:
        """Whether every run has ended: trained all its epochs, or diverged."""
        return len(self._active()) == 0

    def advance(self, until: int, log_epochs: Sequence[int] = (), order: ArrayLike | None = None) -> Curves:
        """Train up to `until` completed epochs, and measure at `log_epochs`.

        log_epochs ascend, and lie after `epoch` and up to `until`; 0, the untrained networks,
        counts as after the start. order: the rows in the order each epoch visits them, integers of
        shape (runs, until - epoch, n); without it they are visited as they come. However a training
        is cut into calls, the results are the same. Raises ValueError for arguments that break
        these rules.
        """
        if until < self.epoch:
            raise ValueError(f"{self.epoch} epochs are completed: cannot go back to {until}")
        epochs = np.array(log_epochs, dtype=np.int64)
        first = self.epoch + 1 if self.epoch > 0 else 0
        if np.any(np.diff(epochs, prepend=first - 1, append=until + 1) < 1):
            raise ValueError(f"log_epochs must ascend from {first} to {until}, not be {log_epochs}")
        n_runs, n = len(self._runs.weights), self._X.shape[1]
        visited = np.zeros((0, 0, 0), dtype=np.int32)
        if order is not None:
            visited = np.ascontiguousarray(order, dtype=np.int32)
            if visited.shape != (n_runs, until - self.epoch, n):
                raise ValueError(f"order must be {(n_runs, until - self.epoch, n)}")
            if visited.size and (visited.min() < 0 or visited.max() >= n):
                raise ValueError(f"order must be of rows 0 to {n - 1}")
        records = np.full((n_runs, len(epochs), 5), np.nan)
        self._train(until, epochs, visited, records)
        self.epoch = until
        is_classification = self.model.is_classification
        return Curves(
            epochs=epochs,
            loss=records[..., 0],
            grad_norm=records[..., 2],
            accuracy=records[..., 1] if is_classification else None,
            val_loss=records[..., 3] if self._has_validation else None,
            val_accuracy=records[..., 4] if is_classification and self._has_validation else None,
        )

    def _active(self) -> IntArray:
        """The runs that have not ended, those that end first before the others."""
        first = self.epoch + 1 if self.epoch > 0 else 0
        is_active = (self._runs.diverged < 0) & (self._runs.epochs >= first)
        runs = np.flatnonzero(is_active)
        return runs[np.argsort(self._runs.epochs[runs], kind="stable")]

    def _train(self, until: int, epochs: IntArray, order: NDArray[np.int32], records: Array) -> None:
        """Share the blocks of active runs among threads."""
        active = self._active()
        n_blocks = -(-len(active) // N_LANES)
        n_tasks = min(n_blocks, 1 if self._threads == 1 else 8 * self._threads)

        layers, parts = _layers(self.model, self._rows), _parts(self.model, self._rows)
        is_classification = self.model.is_classification
        settings = _Settings(
            n_lanes=N_LANES,
            loss=LOSSES[self.model.loss],
            optimizer=OPTIMIZERS[self.model.optimizer],
            batch_size=self.model.batch_size,
            rows=self._rows,
            is_classification=is_classification,
            is_articles=self.model == replace(ARTICLES, is_classification=is_classification),
        )

        def train(task: int) -> None:
            first, last = (n_blocks * t // n_tasks for t in (task, task + 1))
            memory, lane_memory = _aligned(parts[-1]), np.zeros(2 * N_LANES, dtype=np.int64)
            _train(
                layers, settings, self._runs, self._X, self._y, self._X_val, self._y_val, order,
                memory, parts, lane_memory, active, first, last,
                self.epoch, until, epochs, records,
            )  # fmt: skip

        if n_tasks <= 1:
            for task in range(n_tasks):
                train(task)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(train, range(n_tasks)))
