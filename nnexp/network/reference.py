"""Compute the articles' mathematics in plain NumPy: slow, readable, the reference for faster code.

Notation: n samples, X of shape (n, fan_in), y and y_pred of shape (n, outputs). A layer has W of shape
(fan_out, fan_in) and b of shape (fan_out,); its total is z = X W' + b and its output f(z).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Layer = tuple[Array, Array]  # W (fan_out, fan_in), b (fan_out,)
Layers = tuple[Layer, ...]


@dataclass(frozen=True)
class Network:
    """The weights of a network, and the names of its activations and its loss."""

    layers: Layers
    activation: str
    output_activation: str
    loss: str


def _named(name: str) -> Callable[..., Any]:
    """Return the function of this module that a configuration calls by this name."""
    function: Callable[..., Any] = globals()[name]
    return function


# --- Activations, each next to its derivative. A derivative is written in the output a = f(z), as the
# articles write f'(x) = f(x) (1 - f(x)), and turns dL/da into dL/dz.


def sigmoid(z: Array) -> Array:
    """Compute 1 / (1 + e^-z).

    The compiled engine and `forward` treat totals beyond ±708 as ±708. Below -708 they give 3e-308, where
    this function goes on to 0. So small a number shows only where its sign decides: a relu above it with
    nothing else in its total is active there and inactive here, and training then ends elsewhere. Totals of
    that size come from inputs that are not scaled.
    """
    with np.errstate(over="ignore"):  # e^-z = inf gives 0, which is right to the last bit
        return 1.0 / (1.0 + np.exp(-z))


def deriv_sigmoid(a: Array, d_L_d_a: Array) -> Array:
    return d_L_d_a * (a * (1.0 - a))


def tanh(z: Array) -> Array:
    a: Array = np.tanh(z)
    return a


def deriv_tanh(a: Array, d_L_d_a: Array) -> Array:
    return d_L_d_a * (1.0 - a * a)


def relu(z: Array) -> Array:
    """Return z where it is positive, else 0; a total that is NaN stays NaN."""
    return np.where(z <= 0.0, 0.0, z)


def deriv_relu(a: Array, d_L_d_a: Array) -> Array:
    return np.where(a > 0.0, d_L_d_a, 0.0)


def identity(z: Array) -> Array:
    return z


def deriv_identity(a: Array, d_L_d_a: Array) -> Array:
    return d_L_d_a


def softmax(z: Array) -> Array:
    """Compute e^z over its sum, by row, so that each row sums to 1."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    a: Array = e / e.sum(axis=1, keepdims=True)
    return a


def deriv_softmax(a: Array, d_L_d_a: Array) -> Array:
    d_L_d_z: Array = a * (d_L_d_a - (d_L_d_a * a).sum(axis=1, keepdims=True))
    return d_L_d_z


# --- Losses, means over the samples (and over the outputs, except for cross_entropy).


def mse(y: Array, y_pred: Array) -> float:
    """Compute the articles' loss: the mean of (y_true - y_pred)^2."""
    return float(np.mean((y - y_pred) ** 2))


def deriv_mse(y: Array, y_pred: Array) -> Array:
    return -2.0 * (y - y_pred) / y.size


def bce(y: Array, z: Array) -> float:
    """Compute the binary cross-entropy of y and sigmoid(z) from the totals z, so that log(0) never arises.

    -(y log p + (1 - y) log(1 - p)) with p = sigmoid(z) is max(z, 0) - y z + log(1 + e^-|z|).
    """
    return float(np.mean(np.maximum(z, 0.0) - y * z + np.log1p(np.exp(-np.abs(z)))))


def deriv_bce(y: Array, y_pred: Array) -> Array:
    """Return dL/dz, in which the sigmoid's own derivative has cancelled."""
    return (y_pred - y) / y.size


def cross_entropy(y: Array, z: Array) -> float:
    """Compute the cross-entropy of one-hot y and softmax(z).

    It is the mean of log(sum e^z) - z_class over samples.
    """
    top = z.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(z - top).sum(axis=1))
    return float(np.mean(log_sum - (y * z).sum(axis=1)))


def deriv_cross_entropy(y: Array, y_pred: Array) -> Array:
    """Return dL/dz, in which the softmax's own derivative has cancelled."""
    return (y_pred - y) / len(y)


# --- Optimizers. Each takes the weights and their gradients as flat vectors, its own memory (None before the
# first step) and its options, and returns new weights and new memory. Biases decay too, as in PyTorch.


def _penalised(w: Array, grad: Array, weight_decay: float) -> Array:
    """Return the gradient of the loss plus weight_decay / 2 times the sum of squared weights."""
    return grad + weight_decay * w if weight_decay > 0 else grad


def sgd(
    w: Array, grad: Array, memory: Any, learning_rate: float, *, weight_decay: float
) -> tuple[Array, Any]:
    """Return w - learning_rate * grad: the articles' update."""
    return w - learning_rate * _penalised(w, grad, weight_decay), None


def momentum(
    w: Array, grad: Array, memory: Any, learning_rate: float, *, momentum: float, weight_decay: float
) -> tuple[Array, Any]:
    """Set v = momentum * v + grad, return w - learning_rate * v: Polyak 1964, as PyTorch writes it."""
    grad = _penalised(w, grad, weight_decay)
    v = grad if memory is None else momentum * memory + grad
    return w - learning_rate * v, v


def adam(
    w: Array,
    grad: Array,
    memory: Any,
    learning_rate: float,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> tuple[Array, Any]:
    """Take a step of Adam: Kingma and Ba 2015, algorithm 1. The powers beta^t are running products."""
    grad = _penalised(w, grad, weight_decay)
    m, v, power1, power2 = memory or (np.zeros_like(w), np.zeros_like(w), 1.0, 1.0)
    m = beta1 * m + (1.0 - beta1) * grad
    v = beta2 * v + (1.0 - beta2) * (grad * grad)
    power1, power2 = power1 * beta1, power2 * beta2
    m_hat, v_hat = m / (1.0 - power1), v / (1.0 - power2)
    return w - learning_rate * m_hat / (np.sqrt(v_hat) + epsilon), (m, v, power1, power2)


def adamw(
    w: Array,
    grad: Array,
    memory: Any,
    learning_rate: float,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> tuple[Array, Any]:
    """Shrink the weights by learning_rate * weight_decay of themselves, then take a step of Adam.

    Adam's running means do not see the decay: Loshchilov and Hutter 2019.
    """
    if weight_decay > 0:
        w = w - learning_rate * weight_decay * w
    options = {"beta1": beta1, "beta2": beta2, "epsilon": epsilon, "weight_decay": 0.0}
    return adam(w, grad, memory, learning_rate, **options)


def step(
    name: str, w: Array, grad: Array, memory: Any, learning_rate: float, options: Mapping[str, float]
) -> tuple[Array, Any]:
    """Take one step of the optimizer called `name`."""
    result: tuple[Array, Any] = _named(name)(w, grad, memory, learning_rate, **options)
    return result


# --- The network: forward, loss, backward.


def neuron(w: Array, b: float, x: Array) -> float:
    """Compute one sigmoid neuron: f(w . x + b)."""
    return float(sigmoid(np.dot(w, x) + b))


def _outputs(net: Network, X: Array) -> tuple[list[Array], Array]:
    """Return every layer's output, the input first and y_pred last, and the output layer's total z."""
    outputs, z = [X], X
    for i, (W, b) in enumerate(net.layers):
        z = outputs[-1] @ W.T + b
        is_last = i == len(net.layers) - 1
        outputs.append(_named(net.output_activation if is_last else net.activation)(z))
    return outputs, z


def feedforward(net: Network, X: Array) -> Array:
    """Compute y_pred, of shape (n, outputs)."""
    return _outputs(net, X)[0][-1]


def loss(net: Network, X: Array, y: Array) -> float:
    """Compute the network's own loss on these samples."""
    outputs, z = _outputs(net, X)
    value: float = _named(net.loss)(y, outputs[-1] if net.loss == "mse" else z)
    return value


def gradients(net: Network, X: Array, y: Array) -> Layers:
    """Compute dL/dW and dL/db of every layer, by backpropagation; the shapes are the layers' own."""
    outputs, _ = _outputs(net, X)
    d_L_d_z = _named("deriv_" + net.loss)(y, outputs[-1])
    if net.loss == "mse":
        d_L_d_z = _named("deriv_" + net.output_activation)(outputs[-1], d_L_d_z)
    grads: list[Layer] = []
    for i in reversed(range(len(net.layers))):
        W, _ = net.layers[i]
        grads.append((d_L_d_z.T @ outputs[i], d_L_d_z.sum(axis=0)))
        if i > 0:
            d_L_d_z = _named("deriv_" + net.activation)(outputs[i], d_L_d_z @ W)
    return tuple(reversed(grads))


def flatten(layers: Layers) -> Array:
    """Join all weights in one vector: W1 by rows, W2, …, then b1, b2, …: the articles' w1 … w6, b1 … b3."""
    return np.concatenate([W.ravel() for W, _ in layers] + [b for _, b in layers])


def unflatten(vectors: Array, sizes: Sequence[int]) -> Layers:
    """Invert `flatten`, for layer sizes such as [2, 2, 1].

    From vectors (…, n) for many networks, W is (…, fan_out, fan_in) and b is (…, fan_out).
    """
    shapes = [(o, i) for i, o in pairwise(sizes)]
    ends = np.cumsum([o * i for o, i in shapes] + [o for o, _ in shapes])
    parts = np.split(vectors, ends[:-1], axis=-1)
    weights, biases = parts[: len(shapes)], parts[len(shapes) :]
    lead = vectors.shape[:-1]
    return tuple(
        (W.reshape(*lead, *s).copy(), b.copy()) for W, s, b in zip(weights, shapes, biases, strict=True)
    )


def sizes(layers: Layers) -> list[int]:
    """Return the layer widths, input first: [2, 2, 1] for the articles' network."""
    return [layers[0][0].shape[1]] + [len(b) for _, b in layers]


def numerical_gradients(net: Network, X: Array, y: Array, step: float = 1e-6) -> Layers:
    """Compute dL/dw of every weight by central differences; `gradients` must agree with it."""
    w, widths = flatten(net.layers), sizes(net.layers)

    def loss_at(v: Array) -> float:
        return loss(replace(net, layers=unflatten(v, widths)), X, y)

    bump = step * np.eye(len(w))
    slopes = [(loss_at(w + d) - loss_at(w - d)) / (2 * step) for d in bump]
    return unflatten(np.array(slopes), widths)


def equation(net: Network, names: Sequence[str]) -> str:
    """Write the network as a formula, one line a neuron, in the input columns called `names`."""
    lines, inputs = [], list(names)
    for i, (W, b) in enumerate(net.layers):
        is_last = i == len(net.layers) - 1
        f = net.output_activation if is_last else net.activation
        prefix = "o" if is_last else "h" if len(net.layers) == 2 else f"h{i + 1}_"
        outputs = [f"{prefix}{k + 1}" for k in range(len(b))]
        totals = [_total(row, bias, inputs) for row, bias in zip(W, b, strict=True)]
        if f == "softmax":
            lines.append(f"{', '.join(outputs)} = softmax({', '.join(totals)})")
        else:
            wrap = "{}" if f == "identity" else f + "({})"
            lines += [f"{o} = {wrap.format(t)}" for o, t in zip(outputs, totals, strict=True)]
        inputs = outputs
    return "\n".join(lines)


def _total(row: Array, bias: float, names: Sequence[str]) -> str:
    terms = [f"{w:+.6g}*{name}" for w, name in zip(row, names, strict=True)] + [f"{bias:+.6g}"]
    return " ".join(f"{t[0]} {t[1:]}" for t in terms).removeprefix("+ ")
