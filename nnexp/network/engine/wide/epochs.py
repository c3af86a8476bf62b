"""Measure one network on all samples and train it for an epoch, ROWS rows at a time."""

from typing import Any

import numpy as np

from nnexp.network.engine.compilation import compiled
from nnexp.network.engine.epochs import count_step, update
from nnexp.network.engine.evaluation import bce, count_correct, cross_entropy
from nnexp.network.engine.lanes import Pointer, lanes, load, shifted, store
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
        store(terms, 0, cross_entropy(s.z, 0, s.y, 0, False, width))
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
    store(s.sums, 0, count_correct(net, s, s.y, 0, False, 1))
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
def evaluate_wide(net: Net, wide: Wide, data: Samples, run: int, sums: Pointer, with_gradient: bool) -> None:
    """Write the loss, the number correct over all samples and the norm of the gradient to `sums`."""
    s = wide.s
    loss, correct = 0.0, 0.0
    own = 0 if data.shared else run * data.n
    for first in range(0, data.n, ROWS):
        rows = min(ROWS, data.n - first)
        x = shifted(data.x, (own + first) * data.fan_in)
        for r in range(rows):
            _take_labels(data, s, own + first + r, r)
        forward(net, wide, x, rows)
        loss = _add_losses(net, s, rows, loss)
        if net.is_classification:
            correct = _add_correct(net, s, rows, correct)
        if with_gradient:
            backward(net, wide, x, rows, data.n, first == 0, np.bool_(False))
    terms = data.n if net.loss == CROSS_ENTROPY else data.n * data.width
    sums[0], sums[1] = loss / float(terms), correct
    if with_gradient:
        sums[2] = _norm(net, s.grad)


@compiled
def train_epoch_wide(
    net: Net, wide: Wide, data: Samples, run: int, order: Pointer, is_shuffled: bool
) -> None:
    """Take one optimizer step for each mini-batch."""
    s = wide.s
    own = 0 if data.shared else run * data.n
    for first in range(0, data.n, net.batch_size):
        n = min(net.batch_size, data.n - first)
        count_step(net, s)
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
            backward(net, wide, x, rows, n, start == first, rows == n)
        if n > ROWS:
            update(net, s, 0, s.grad, 0, net.n_weights)
