"""Lay one network out in memory so that neighbouring neurons are neighbours.

A layer's W is transposed: panel p holds the weights of neurons 8p to 8p + 7, one octet for each input.
Inputs and neurons are filled up to whole octets; no result depends on the filling.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from nnexp.network.engine.compilation import compiled
from nnexp.network.engine.lanes import N_LANES, OCTET, Pointer, lanes, pointer, store
from nnexp.network.engine.layout import ADAM, ADAMW, SGD, Array, Block, IntArray, Net, view_block

# How many rows go through the network at a time: one for each lane in the output layer.
ROWS = N_LANES


class Wide(NamedTuple):
    """One network's memory. Each vector of `s.rates` holds one number in all its lanes."""

    s: Block
    rows: Pointer  # the output layer's totals, then its dL/dz, row by row, as s.a and s.d of other layers
    block: Pointer  # the gradients of up to eight inputs' weights to eight neurons; then steps and squares
    turned: Pointer  # part of a layer's W as the reference has it, in panels of eight inputs


def octets(count: int) -> int:
    """Return how many octets hold `count` floats."""
    return -(-count // OCTET)


def wide_layers(sizes: Sequence[int], activations: Sequence[int]) -> IntArray:
    """Return the rows that `view_net` reads: weights and biases begin at elements, outputs at vectors."""
    heights = [OCTET * octets(size) for size in sizes]
    weights = [i * o for i, o in pairwise(heights)]
    starts = np.cumsum([0, *weights, *heights[1:]])
    layers = np.zeros((5, len(sizes)), dtype=np.int64)
    layers[0] = sizes
    layers[1] = starts[: len(sizes)]
    layers[2] = starts[len(sizes) - 1 :]
    layers[2, -1] = -(-starts[-1] // N_LANES)  # all weights, in vectors
    layers[3] = np.cumsum([0, *heights[1:]]) * ROWS // N_LANES
    layers[4] = activations
    return layers


def wide_parts(sizes: Sequence[int]) -> IntArray:
    """Return where the parts of a Wide begin in its memory, in elements, and where the last ends."""
    heights = [OCTET * octets(size) for size in sizes]
    n = sum((i + 1) * o for i, o in pairwise(heights))
    outputs, last = ROWS * sum(heights[1:]), ROWS * heights[-1]
    block = [n, n, n, n, 7 * N_LANES, last, outputs, outputs, ROWS * sizes[0], last, 3 * N_LANES]
    lengths = [*block, last, 3 * OCTET * OCTET, 4 * OCTET * max(heights)]
    return np.cumsum([0, *(-(-length // N_LANES) * N_LANES for length in lengths)])


@compiled
def view_wide(memory: Array, parts: IntArray, lane_memory: IntArray) -> Wide:
    return Wide(
        view_block(memory, parts, lane_memory),
        pointer(memory, parts[11]),
        pointer(memory, parts[12]),
        pointer(memory, parts[13]),
    )


@compiled
def panels_of(net: Net, layer: int) -> tuple[int, int]:
    """Return how many octets hold a layer's inputs, and how many its outputs."""
    return (net.sizes[layer] + 7) // 8, (net.sizes[layer + 1] + 7) // 8


@compiled
def place_of(net: Net, layer: int, k: int, j: int) -> Any:
    """Return the element at which W[k, j] of a layer lies."""
    height = (net.sizes[layer] + 7) // 8 * 8
    return net.weights_at[layer] + (k // 8 * height + j) * 8 + k % 8


@compiled
def _exchange(net: Net, wide: Pointer, flat: Pointer, is_entering: bool | np.bool) -> None:
    """Copy numbers of all weights from the order of `network.flatten` to their places, or back."""
    at = 0
    for layer in range(net.n_layers):
        for k in range(net.sizes[layer + 1]):
            first = place_of(net, layer, k, 0)
            for j in range(net.sizes[layer]):
                if is_entering:
                    wide[first + 8 * j] = flat[at + j]
                else:
                    flat[at + j] = wide[first + 8 * j]
            at += net.sizes[layer]
    for layer in range(net.n_layers):
        for k in range(net.sizes[layer + 1]):
            if is_entering:
                wide[net.biases_at[layer] + k] = flat[at]
            else:
                flat[at] = wide[net.biases_at[layer] + k]
            at += 1


@compiled
def exchange(net: Net, wide: Wide, flat: Block, is_entering: bool | np.bool) -> None:
    """Copy a run's state, as `network.flatten` orders it, to its places; or back, all that changes."""
    _exchange(net, wide.s.w, flat.w, is_entering)
    if net.optimizer != SGD:
        _exchange(net, wide.s.m, flat.m, is_entering)
    if net.optimizer == ADAM or net.optimizer == ADAMW:
        _exchange(net, wide.s.v, flat.v, is_entering)
    for i in range(7):
        if is_entering:
            store(wide.s.rates, i, lanes(flat.rates[i]))
        else:
            flat.rates[i] = wide.s.rates[i * N_LANES]
