"""Measure a block of networks on all samples: losses, correct classifications, norm of the gradient."""

import numpy as np

from nnexp.network.engine.compilation import compiled
from nnexp.network.engine.elementary import exp, log, log1p
from nnexp.network.engine.lanes import Lanes, Pointer, if_greater, lanes, load, sqrt, store
from nnexp.network.engine.layout import BCE, CROSS_ENTROPY, MSE, Block, Net, Samples
from nnexp.network.engine.passes import backward, deriv_loss, forward, largest, sample


@compiled
def gather_row(net: Net, s: Block, data: Samples, r: int, lane: int, row: int) -> None:
    """Copy row `row` of the samples into row r of one lane."""
    for j in range(data.fan_in):
        s.x[(r * data.fan_in + j) * net.n_lanes + lane] = data.x[row * data.fan_in + j]
    for k in range(data.width):
        s.y[(r * data.width + k) * net.n_lanes + lane] = data.y[row * data.width + k]


@compiled
def bce(z: Lanes, y: Lanes) -> Lanes:
    """Return the loss of one output, from its total."""
    zero = lanes(0.0)
    positive = if_greater(zero, z, zero, z)
    tail = log1p(exp(if_greater(zero, z, z, zero - z)))
    return positive - y * z + tail


@compiled
def cross_entropy(z: Pointer, first: int, y: Pointer, y_at: int, shared: bool | np.bool, width: int) -> Lanes:
    """Return the loss of one row, from the totals of its outputs."""
    top = largest(z, first, first + width)
    powers, own = lanes(0.0), lanes(0.0)
    for k in range(width):
        total = load(z, first + k)
        powers = powers + exp(total - top)
        own = own + sample(y, y_at + k, shared) * total
    return top + log(powers) - own


@compiled
def _losses(net: Net, s: Block, y: Pointer, y_at: int, shared: bool | np.bool, rows: int) -> Lanes:
    """Add the losses of `rows` rows to those of earlier rows; return the sum."""
    last = net.n_layers - 1
    at, width = net.outputs_at[last], net.sizes[last + 1]
    total = load(s.sums, 0)
    if net.loss == MSE:
        for i in range(rows * width):
            error = sample(y, y_at + i, shared) - load(s.a, at + i)
            total = total + error * error
    elif net.loss == BCE:
        for i in range(rows * width):
            total = total + bce(load(s.z, i), sample(y, y_at + i, shared))
    else:
        for r in range(rows):
            total = total + cross_entropy(s.z, r * width, y, y_at + r * width, shared, width)
    return total


@compiled
def count_correct(net: Net, s: Block, y: Pointer, y_at: int, shared: bool | np.bool, rows: int) -> Lanes:
    """Add the number of correctly classified rows, of `rows`, to that of earlier rows; return the sum."""
    last = net.n_layers - 1
    at, width = net.outputs_at[last], net.sizes[last + 1]
    zero, one, half, infinity = lanes(0.0), lanes(1.0), lanes(0.5), lanes(np.inf)
    count = load(s.sums, 1)
    for r in range(rows):
        # A single output means the second class from 0.5 on; of several outputs, the first largest
        # counts.
        most, most_true = half, half
        chosen, true, right = zero, zero, one
        for k in range(width):
            output = load(s.a, at + r * width + k)
            label = sample(y, y_at + r * width + k, shared)
            size = if_greater(zero, output, zero - output, output)
            right = if_greater(infinity, size, right, zero)  # outputs that are not finite are wrong
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
def evaluate(net: Net, s: Block, data: Samples, with_gradient: bool | np.bool) -> None:
    """Write into s.sums the loss and the number correct over all samples, and the norm of the gradient."""
    store(s.sums, 0, lanes(0.0))
    store(s.sums, 1, lanes(0.0))
    for first in range(0, data.n, net.rows):
        rows = min(net.rows, data.n - first)
        x, y, at = data.x, data.y, first
        if not data.shared:
            for r in range(rows):
                for lane in range(net.n_lanes):
                    gather_row(net, s, data, r, lane, s.run[lane] * data.n + first + r)
            x, y, at = s.x, s.y, 0
        x_at, y_at = at * data.fan_in, at * data.width
        forward(net, s, x, x_at, data.shared, rows)
        store(s.sums, 0, _losses(net, s, y, y_at, data.shared, rows))
        if net.is_classification:
            store(s.sums, 1, count_correct(net, s, y, y_at, data.shared, rows))
        if with_gradient:
            deriv_loss(net, s, y, y_at, data.shared, rows, data.n)
            backward(net, s, x, x_at, data.shared, rows, first == 0)
    terms = data.n if net.loss == CROSS_ENTROPY else data.n * data.width
    store(s.sums, 0, load(s.sums, 0) / float(terms))
    if with_gradient:
        squares = lanes(0.0)
        for i in range(net.n_weights):
            squares = squares + load(s.grad, i) * load(s.grad, i)
        store(s.sums, 2, sqrt(squares))
