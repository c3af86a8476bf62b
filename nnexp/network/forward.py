"""Compute a trained network's outputs with the same bits on every machine, in NumPy alone.

The engine's arithmetic, lane by lane, is written here over arrays: sums in ascending order, one term after
another, and exp and tanh of elementwise operations only. `@` and `np.exp` would give other last bits on
another CPU, and for a single row. A test compares every function's bits with the engine's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nnexp.network.reference import Network

Array = NDArray[np.float64]
Bits = NDArray[np.uint64]

_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42fefa0000p-1"), float.fromhex("0x1.cf79abc9e3b3ap-40")
_ROUNDER = 1.5 * 2.0**52
_BITS_OF_1, _SIGN, _FRACTION = np.uint64(0x3FF0000000000000), np.uint64(1 << 63), np.uint64(52)


def outputs(network: Network, X: Array) -> Array:
    """Compute y_pred, (n, outputs), from inputs X, (n, fan_in).

    For many networks at once W is (…, fan_out, fan_in), b (…, fan_out), X (…, n, fan_in), the result (…, n,
    outputs). Each network has the bits that it has alone.
    """
    a = X
    for layer in range(len(network.layers)):
        a = activations(network, layer, a)
    return a


def activations(network: Network, layer: int, x: Array) -> Array:
    """Compute the activations of a layer, counted from 0, from those of the one before; shapes as above."""
    is_last = layer == len(network.layers) - 1
    with np.errstate(all="ignore"):  # a diverged network's outputs may overflow
        totals = _totals(*network.layers[layer], x)
        return ACTIVATIONS[network.output_activation if is_last else network.activation](totals)


def _totals(W: Array, b: Array, x: Array) -> Array:
    """Compute z = x W' + b, each total from its bias on, input by input."""
    z = np.broadcast_to(b[..., None, :], (*x.shape[:-1], b.shape[-1]))
    for j in range(x.shape[-1]):
        z = z + x[..., j : j + 1] * W[..., None, :, j]
    return z


def _bits(x: Array) -> Bits:
    return x.view(np.uint64)


def _power_of_2(rounded: Array) -> Array:
    """Compute 2^k from k + _ROUNDER, for k from -1022 to 1023."""
    return ((_bits(rounded) << _FRACTION) + _BITS_OF_1).view(np.float64)


def _tail(r: Array) -> Array:
    """Compute (e^r - 1 - r) / r^2 for |r| < 0.35."""
    r2 = r * r
    p01 = 0.5 + r * 0.1666666666666667
    p23 = 0.04166666666666667 + r * 0.008333333333326136
    p45 = 0.0013888888888883748 + r * 0.00019841269874820627
    p67 = 2.4801587325547743e-05 + r * 2.7557255400206422e-06
    p89 = 2.75572736431103e-07 + r * 2.5105217004720745e-08
    high = (p45 + r2 * p67) + (r2 * r2) * (p89 + r2 * 2.0914686968086876e-09)
    return (p01 + r2 * p23) + (r2 * r2) * high


def _reduced(x: Array) -> tuple[Array, Array, Array]:
    """Return k, r and c with e^x = 2^k (1 + r + c)."""
    k = (x * _LOG2_E + _ROUNDER) - _ROUNDER
    high, low = x - k * _LN2_HIGH, k * _LN2_LOW
    r = high - low
    return k, r, ((high - r) - low) + (r * r) * _tail(r)


def exp(x: Array) -> Array:
    """Compute e^x, within one unit in the last place."""
    k, r, c = _reduced(np.maximum(np.minimum(x, 710.0), -746.0))
    half = k * 0.5 + _ROUNDER
    other_half = (k - (half - _ROUNDER)) + _ROUNDER
    return (1.0 + (r + c)) * _power_of_2(half) * _power_of_2(other_half)


def sigmoid(z: Array) -> Array:
    """Compute 1 / (1 + e^-z), within 1e-15; totals beyond ±708 count as ±708, see reference.sigmoid."""
    z = np.maximum(np.minimum(z, 708.0), -708.0)
    rounded = z * -_LOG2_E + _ROUNDER
    k = rounded - _ROUNDER
    r = (k * -_LN2_HIGH - z) - k * _LN2_LOW
    power = 1.0 + (r + (r * r) * _tail(r))
    scaled: Bits = _bits(power) + (_bits(rounded) << _FRACTION)
    return 1.0 / (1.0 + scaled.view(np.float64))


def tanh(x: Array) -> Array:
    """Compute tanh(x), within two units in the last place.

    It is -E / (E + 2) with E = e^(-2|x|) - 1, and the sign of x.
    """
    sign = _bits(x) & _SIGN
    x = np.minimum((_bits(x) - sign).view(np.float64), 20.0)
    k, r, c = _reduced(-2.0 * x)
    scale = _power_of_2(k + _ROUNDER)
    first = (scale - 1.0) + scale * r
    rest = (scale * r - (first - (scale - 1.0))) + scale * c
    e = first + rest
    e_low = rest - (e - first)
    d = e + 2.0
    d_low = (e - (d - 2.0)) + e_low
    t = (0.0 - e) / d
    t = t - (e_low + t * d_low) * (0.5 + 0.5 * t)
    return (_bits(t) | sign).view(np.float64)


def relu(z: Array) -> Array:
    return np.where(z < 0.0, 0.0, z)


def identity(z: Array) -> Array:
    return z


def softmax(z: Array) -> Array:
    """Compute e^z over its sum, by row, added from the first output to the last."""
    powers = exp(z - z.max(axis=-1, keepdims=True))
    scale = np.zeros(z.shape[:-1])
    for k in range(z.shape[-1]):
        scale = scale + powers[..., k]
    return powers / scale[..., None]


ACTIVATIONS = {"sigmoid": sigmoid, "tanh": tanh, "relu": relu, "identity": identity, "softmax": softmax}
