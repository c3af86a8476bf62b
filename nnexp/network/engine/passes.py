"""Compute a block's forward and backward pass, each operation beside its derivative.

`rows` rows go through one layer before the next layer begins. The order of every sum is part of the result.
"""

import numpy as np

from nnexp.network.engine.compilation import compiled
from nnexp.network.engine.elementary import exp, sigmoid, tanh
from nnexp.network.engine.lanes import Lanes, Pointer, if_greater, lanes, load, store
from nnexp.network.engine.layout import CROSS_ENTROPY, MSE, RELU, SIGMOID, SOFTMAX, TANH, Block, Net

# --- Activations and their derivatives, over `count` vectors in a row.


@compiled
def activate(function: int, z: Pointer, a: Pointer, at: int, count: int) -> None:
    """Compute the outputs a = f(z), from vector `at` of a on."""
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
def derive(function: int, a: Pointer, d: Pointer, at: int, count: int) -> None:
    """Turn dL/da in d into dL/dz, from vector `at` on."""
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


# Softmax computes all outputs of one row together.


@compiled
def largest(z: Pointer, first: int, last: int) -> Lanes:
    top = load(z, first)
    for i in range(first + 1, last):
        total = load(z, i)
        top = if_greater(total, top, total, top)
    return top


@compiled
def softmax(z: Pointer, a: Pointer, at: int, rows: int, width: int) -> None:
    for first in range(0, rows * width, width):
        top = largest(z, first, first + width)
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


# --- Forward and backward.


@compiled
def sample(x: Pointer, i: int, shared: bool | np.bool) -> Lanes:
    """Return sample number i: one float for all runs if they share the data, else one for each run."""
    return lanes(x[i]) if shared else load(x, i)


@compiled
def _totals(
    w: Pointer, w_at: int, b_at: int, fan_in: int, fan_out: int,
    x: Pointer, x_at: int, shared: bool | np.bool, rows: int, z: Pointer,
) -> None:  # fmt: skip
    """Compute z = W x + b."""
    for k in range(fan_out):
        for r in range(rows):
            total = load(w, b_at + k)
            for j in range(fan_in):
                weight = load(w, w_at + k * fan_in + j)
                total = total + weight * sample(x, x_at + r * fan_in + j, shared)
            store(z, r * fan_out + k, total)


@compiled
def forward(net: Net, s: Block, x: Pointer, x_at: int, shared: bool | np.bool, rows: int) -> None:
    """Compute every layer's outputs, and in z the last layer's totals."""
    for layer in range(net.n_layers):
        fan_in, fan_out = net.sizes[layer], net.sizes[layer + 1]
        w_at, b_at, a_at = net.weights_at[layer], net.biases_at[layer], net.outputs_at[layer]
        if layer == 0:
            _totals(s.w, w_at, b_at, fan_in, fan_out, x, x_at, shared, rows, s.z)
        else:
            below = net.outputs_at[layer - 1]
            _totals(s.w, w_at, b_at, fan_in, fan_out, s.a, below, False, rows, s.z)
        if net.activations[layer] == SOFTMAX:
            softmax(s.z, s.a, a_at, rows, fan_out)
        else:
            activate(net.activations[layer], s.z, s.a, a_at, rows * fan_out)


@compiled
def deriv_loss(net: Net, s: Block, y: Pointer, y_at: int, shared: bool | np.bool, rows: int, n: int) -> None:
    """Compute dL/dz of the output layer, for a loss that is the mean over n rows."""
    last = net.n_layers - 1
    at, width = net.outputs_at[last], net.sizes[last + 1]
    factor = (2.0 if net.loss == MSE else 1.0) / (n if net.loss == CROSS_ENTROPY else n * width)
    # For bce and cross_entropy this is already dL/dz: the activation's own derivative has
    # cancelled.
    for i in range(rows * width):
        error = load(s.a, at + i) - sample(y, y_at + i, shared)
        store(s.d, at + i, error * factor)
    if net.loss == MSE:
        if net.activations[last] == SOFTMAX:
            _derive_softmax(s.a, s.d, at, rows, width)
        else:
            derive(net.activations[last], s.a, s.d, at, rows * width)


@compiled
def _add_gradients(
    d: Pointer, d_at: int, fan_out: int, x: Pointer, x_at: int, shared: bool | np.bool, fan_in: int,
    rows: int, grad: Pointer, w_at: int, b_at: int, is_first: bool | np.bool,
) -> None:  # fmt: skip
    """Compute dL/dW and dL/db of one layer, and add them to those of earlier rows unless `is_first`."""
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
                total = total + slope * sample(x, x_at + r * fan_in + j, shared)
            store(grad, i, total)


@compiled
def _backpropagate(
    w: Pointer, w_at: int, fan_in: int, fan_out: int,
    d: Pointer, d_at: int, rows: int, below: int,
) -> None:  # fmt: skip
    """Compute dL/da of the layer below: W' dL/dz."""
    for r in range(rows):
        d_r = d_at + r * fan_out
        for j in range(fan_in):
            total = load(d, d_r) * load(w, w_at + j)
            for k in range(1, fan_out):
                weight = load(w, w_at + k * fan_in + j)
                total = total + load(d, d_r + k) * weight
            store(d, below + r * fan_in + j, total)


@compiled
def backward(
    net: Net, s: Block, x: Pointer, x_at: int, shared: bool | np.bool, rows: int, is_first: bool | np.bool
) -> None:
    """Compute the gradients of all weights, from dL/dz of the output layer down."""
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
            derive(net.activations[layer - 1], s.a, s.d, below, count)
