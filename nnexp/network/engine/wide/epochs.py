"""Measure one network on all samples and train it for an epoch, ROWS rows at a time."""

from typing import Any

import numpy as np

from nnexp.network.engine.compilation import compiled
from nnexp.network.engine.epochs import count_step, update
from nnexp.network.engine.evaluation import bce, count_correct, cross_entropy
from nnexp.network.engine.lanes import N_LANES, Pointer, lanes, load, shifted, store
from nnexp.network.engine.layout import BCE, CROSS_ENTROPY, MSE, Block, Net, Samples
from nnexp.network.engine.wide.layout import ROWS, Wide, place_of
from nnexp.network.engine.wide.passes import backward, forward


@compiled
def _take_labels(data: Samples, s: Block, row: int, lane: int) -> None:
    """Copy the labels of one row into its lane."""
    for k in range(data.width):
        s.y[k * ROWS + lane] = data.y[row * data.width + k]


@compiled
def _add_losses(net: Net, s: Block, rows: int, total: float) -> float:
    """Add the losses of `rows` rows to those of earlier rows, output by output; return the sum."""
    last = net.n_layers - 1
    at, width = net.outputs_at[last], net.sizes[last + 1]
    terms = shifted(s.d, at * ROWS)
    if net.loss == CROSS_ENTROPY:
        start: Any = np.int64(0)
        store(terms, 0, cross_entropy(s.z, start, s.y, start, np.bool_(False), width))
        width = 1
    for k in range(width):
        if net.loss == MSE:
            error = load(s.y, k) - load(s.a, at + k)
            store(terms, k, error * error)
        elif net.loss == BCE:
            store(terms, k, bce(load(s.z, k), load(s.y, k)))
    for r in range(rows):
        for k in range(width):
            total = total + terms[k * ROWS + r]
    return total


@compiled
def _add_correct(net: Net, s: Block, rows: int, total: float) -> float:
    """Add the number of correctly classified rows, of `rows`, to that of earlier rows; return the sum."""
    store(s.sums, 1, lanes(0.0))
    start: Any = np.int64(0)
    one: Any = np.int64(1)
    store(s.sums, 0, count_correct(net, s, s.y, start, np.bool_(False), one))
    for r in range(rows):
        total = total + s.sums[r]
    return total


@compiled
def _norm(net: Net, grad: Pointer) -> Any:
    """Return the norm of the gradient; its squares are added as `network.flatten` orders the weights."""
    squares = 0.0
    for layer in range(net.n_layers):
        for k in range(net.sizes[layer + 1]):
            for j in range(net.sizes[layer]):
                i = place_of(net, layer, k, j)
                squares = squares + grad[i] * grad[i]
    for layer in range(net.n_layers):
        for k in range(net.sizes[layer + 1]):
            i = net.biases_at[layer] + k
            squares = squares + grad[i] * grad[i]
    return np.sqrt(squares)


@compiled
def pass_wide(
    net: Net, wide: Wide, data: Samples, run: int, order: Pointer, is_shuffled: bool | np.bool,
    is_training: bool | np.bool, with_gradient: bool | np.bool, sums: Pointer,
) -> None:  # fmt: skip
    """Pass all samples through the network once.

    is_training: take one optimizer step for each mini-batch, of the rows in `order` if is_shuffled.
    Otherwise write the loss, the number correct and, with_gradient, the norm of the gradient to
    `sums`. Both are in one function, which compiles faster than two.
    """
    s = wide.s
    loss, correct = 0.0, 0.0
    own = 0 if data.shared else run * data.n
    size = min(net.batch_size, data.n) if is_training else data.n
    for first in range(0, data.n, size):
        n = min(size, data.n - first)
        is_whole = is_training and n <= ROWS
        is_settled = is_training and count_step(net, s)
        for start in range(first, first + n, ROWS):
            rows = min(ROWS, first + n - start)
            x = shifted(data.x, (own + start) * data.fan_in)
            for r in range(rows):
                row = own + (order[start + r] if is_shuffled else start + r)
                _take_labels(data, s, row, r)
                if is_shuffled:
                    for j in range(data.fan_in):
                        s.x[r * data.fan_in + j] = data.x[row * data.fan_in + j]
            if is_shuffled:
                x = s.x
            forward(net, wide, x, rows)
            if not is_training:
                loss = _add_losses(net, s, rows, loss)
                if net.is_classification:
                    correct = _add_correct(net, s, rows, correct)
            if with_gradient:
                backward(net, wide, x, rows, n, start == first, is_whole, is_settled)
        if is_training:
            changed = net.biases_at[0] // N_LANES if is_whole else 0
            update(net, s, is_settled, changed, s.grad, changed, net.n_weights - changed)
    if not is_training:
        terms = data.n if net.loss == CROSS_ENTROPY else data.n * data.width
        sums[0], sums[1] = loss / float(terms), correct
        if with_gradient:
            sums[2] = _norm(net, s.grad)
