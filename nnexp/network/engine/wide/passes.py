"""Compute one network's forward and backward pass, eight neurons at a time.

The layers' outputs lie row by row. Only in the output layer the rows are lanes, since softmax and losses take
a row's outputs in order: that layer is as one of `engine.passes`, which has rows for runs.
"""

from typing import Any

import numpy as np

from nnexp.network.engine.compilation import compiled, inlined, placed
from nnexp.network.engine.epochs import Rates, begin_octet, end_octet, rates_of_octets
from nnexp.network.engine.lanes import (
    N_LANES,
    OCTET,
    Octet,
    Pointer,
    load_octet,
    octet,
    pinned,
    shifted,
    store_octet,
    transpose,
)
from nnexp.network.engine.layout import SOFTMAX, Net
from nnexp.network.engine.passes import activate, deriv_loss, derive, softmax
from nnexp.network.engine.wide.layout import ROWS, Wide, panels_of
from nnexp.network.engine.wide.products import SUMS, Octets, Scalars, add_product, fill


@compiled
def _vectors(count: int) -> int:
    """Return how many vectors hold `count` floats."""
    return (count + N_LANES - 1) // N_LANES


@inlined
def forward(net: Net, wide: Wide, x: Pointer, rows: int) -> None:
    """Compute every layer's outputs, and in s.z the last layer's totals."""
    s, last = wide.s, net.n_layers - 1
    one: Any = np.int64(1)  # a plain 1 would compile softmax for 1 as well; below, too
    inputs = Scalars(x, net.sizes[0], 1)
    for layer in range(net.n_layers):
        n_inputs, n_outputs = panels_of(net, layer)
        at, function = net.outputs_at[layer], net.activations[layer]
        z = wide.rows if layer == last else shifted(s.a, at * N_LANES)
        w, b = shifted(s.w, net.weights_at[layer]), shifted(s.w, net.biases_at[layer])
        for row in range(rows):
            for panel in range(n_outputs):
                store_octet(z, row * n_outputs + panel, load_octet(b, panel))
        totals, weights = Octets(z, n_outputs, 1), Octets(w, 1, 8 * n_inputs)
        add_product(totals, inputs, weights, rows, n_outputs, net.sizes[layer])
        inputs, count = Scalars(z, 8 * n_outputs, 1), _vectors(rows * 8 * n_outputs)
        if layer == last:
            _rows_to_lanes(z, n_outputs, s.z, rows)
            z, count = s.z, net.sizes[layer + 1]
        if function == SOFTMAX:
            softmax(z, s.a, at, one, count)
        else:
            activate(function, z, s.a, at, count)


@compiled
def _rows_to_lanes(by_rows: Pointer, panels: int, by_lanes: Pointer, rows: int) -> None:
    """Transpose rows of `panels` octets into vectors of ROWS rows."""
    for row in range(0, rows, 8):
        for panel in range(panels):
            source = shifted(by_rows, 8 * (row * panels + panel))
            transpose(source, panels, shifted(by_lanes, 8 * panel * ROWS + row), ROWS // 8)


@compiled
def _lanes_to_rows(by_lanes: Pointer, panels: int, by_rows: Pointer, rows: int) -> None:
    """Transpose vectors of ROWS rows into rows of `panels` octets."""
    for row in range(0, rows, 8):
        for panel in range(panels):
            target = shifted(by_rows, 8 * (row * panels + panel))
            transpose(shifted(by_lanes, 8 * panel * ROWS + row), ROWS // 8, target, panels)


@inlined
def _backpropagate(net: Net, wide: Wide, layer: int, d: Pointer, rows: int) -> None:
    """Compute dL/da of the layer below, W' dL/dz, four panels at a time."""
    n_inputs, n_outputs = panels_of(net, layer)
    w = shifted(wide.s.w, net.weights_at[layer])
    below = shifted(wide.s.d, net.outputs_at[layer - 1] * N_LANES)
    for first in range(0, n_inputs, 4):
        panels = min(4, n_inputs - first)
        for i in range(panels):
            for j in range(n_outputs):
                source = shifted(w, 64 * (j * n_inputs + first + i))
                transpose(source, 1, shifted(wide.turned, 64 * (i * n_outputs + j)), 1)
        sums = Octets(shifted(below, 8 * first), n_inputs, 1)
        # Each sum starts with its first term, as -0.0 + x is x for every x, where 0.0 + -0.0 is 0.0.
        fill(sums, -0.0, rows, panels)
        slopes, weights = Scalars(d, 8 * n_outputs, 1), Octets(wide.turned, 1, 8 * n_outputs)
        add_product(sums, slopes, weights, rows, panels, net.sizes[layer + 1])


@compiled
def _add_bias_gradients(d: Pointer, panels: int, rows: int, grad: Pointer, is_first: bool | np.bool) -> None:
    """Compute dL/db of one layer, anew or added to those of earlier rows."""
    for panel in range(panels):
        total = octet(0.0) if is_first else load_octet(grad, panel)
        for row in range(rows):
            total = total + load_octet(d, row * panels + panel)
        store_octet(grad, panel, total)


@inlined
def backward(
    net: Net, wide: Wide, x: Pointer, rows: int, n: int,
    is_first: bool | np.bool, is_whole: bool | np.bool, is_settled: bool | np.bool,
) -> None:  # fmt: skip
    """Compute the gradients of all weights, anew or added to those of earlier rows.

    n: the loss is the mean over so many rows. is_whole: these rows are a whole mini-batch. Then each
    layer's W is updated, part by part while its gradients are in the cache, and they are not kept.
    is_settled: see `count_step`.
    """
    s, last = wide.s, net.n_layers - 1
    start: Any = np.int64(0)
    one: Any = np.int64(1)
    deriv_loss(net, s, s.y, start, np.bool_(False), one, n)
    d, n_outputs = wide.rows, panels_of(net, last)[1]
    _lanes_to_rows(shifted(s.d, net.outputs_at[last] * N_LANES), n_outputs, d, rows)
    for layer in range(last, -1, -1):
        n_inputs, n_outputs = panels_of(net, layer)
        inputs = Scalars(x, 1, net.sizes[0])
        if layer > 0:
            _backpropagate(net, wide, layer, d, rows)
            below = net.outputs_at[layer - 1]
            inputs = Scalars(shifted(s.a, below * N_LANES), 1, 8 * n_inputs)
            derive(net.activations[layer - 1], s.a, s.d, below, _vectors(rows * 8 * n_inputs))
        slopes = Octets(d, n_outputs, 1)
        _add_bias_gradients(d, n_outputs, rows, shifted(s.grad, net.biases_at[layer]), is_first)
        if is_whole:
            _descend(net, wide, layer, inputs, slopes, rows, is_settled)
        else:
            grad = Octets(shifted(s.grad, net.weights_at[layer]), 1, 8 * n_inputs)
            if is_first:
                fill(grad, 0.0, net.sizes[layer], n_outputs)
            add_product(grad, inputs, slopes, net.sizes[layer], n_outputs, rows)
        if layer > 0:
            d = shifted(s.d, net.outputs_at[layer - 1] * N_LANES)


@placed
def _with_row(sums: Any, inputs: Pointer, slope: Octet) -> Any:
    """Add a row's part to the gradients of four inputs' weights to eight neurons."""
    return (
        sums[0] + inputs[0] * slope, sums[1] + inputs[1] * slope,
        sums[2] + inputs[2] * slope, sums[3] + inputs[3] * slope,
    )  # fmt: skip


@placed
def _store_four(block: Pointer, sums: Any) -> None:
    store_octet(block, 0, sums[0])
    store_octet(block, 1, sums[1])
    store_octet(block, 2, sums[2])
    store_octet(block, 3, sums[3])


@placed
def _change(
    net: Net, wide: Wide, rates: Rates, is_settled: bool | np.bool, begun: Any, known: Any, k: Any
) -> None:
    """End the change of octet k of one block, and begin that of the block after, whose gradients are known.

    begun, known: the number of each block's first octet among the weights, or -1 if there is none.
    """
    steps, squares = shifted(wide.block, 8 * OCTET), shifted(wide.block, 16 * OCTET)
    if begun >= 0:
        end_octet(net, wide.s, rates, begun + k, load_octet(steps, k), load_octet(squares, k))
    if known >= 0:
        g = load_octet(wide.block, k)
        step, square = begin_octet(net, wide.s, rates, is_settled, known + k, g)
        store_octet(steps, k, step)
        store_octet(squares, k, square)


@compiled
def _change_several(
    net: Net,
    wide: Wide,
    rates: Rates,
    is_settled: bool | np.bool,
    begun: Any,
    known: Any,
    first: Any,
    last: Any,
) -> None:
    """Call _change for octets `first` to `last`."""
    for k in range(first, last):
        _change(net, wide, rates, is_settled, begun, known, k)


@inlined
def _descend(
    net: Net, wide: Wide, layer: int, inputs: Scalars, slopes: Octets, rows: int, is_settled: bool | np.bool
) -> None:
    """Update a layer's W, the weights of SUMS inputs to eight neurons at a time.

    Adam's square roots and divisions take as long as the products, but in another part of the CPU. So each
    block's products are mixed with the update of blocks before. A CPU looks only some hundred operations
    ahead: so an octet's roots and divisions wait for the next block, until what they need is there.
    """
    n_inputs, n_outputs = panels_of(net, layer)
    rates, zero = rates_of_octets(net, wide.s), octet(0.0)
    w_at, whole, each = net.weights_at[layer] // 8, net.sizes[layer] // SUMS, ROWS // SUMS
    none, zeroth, several = np.int64(-1), np.int64(0), np.int64(SUMS)
    begun, known = none, none
    for panel in range(n_outputs):
        for j in range(whole):
            x, d = shifted(inputs.first, SUMS * j), shifted(slopes.first, 8 * panel)
            low, changed = (zero, zero, zero, zero), zeroth
            high = low
            for row in range(0, rows - each + 1, each):
                _change(net, wide, rates, is_settled, begun, known, changed)
                changed += 1
                for r in range(row, row + each):
                    own, slope = pinned(shifted(x, r * inputs.column)), load_octet(d, r * slopes.row)
                    low = _with_row(low, own, slope)
                    if SUMS == 8:
                        high = _with_row(high, shifted(own, 4), slope)
            for r in range(rows - rows % each, rows):
                own, slope = shifted(x, r * inputs.column), load_octet(d, r * slopes.row)
                low = _with_row(low, own, slope)
                if SUMS == 8:
                    high = _with_row(high, shifted(own, 4), slope)
            if changed < SUMS:
                _change_several(net, wide, rates, is_settled, begun, known, changed, several)
            _store_four(wide.block, low)
            if SUMS == 8:
                _store_four(shifted(wide.block, 4 * OCTET), high)
            begun, known = known, w_at + 8 * panel * n_inputs + SUMS * j
    _change_several(net, wide, rates, is_settled, begun, known, zeroth, several)
    _change_several(net, wide, rates, is_settled, known, none, zeroth, several)
    left = net.sizes[layer] - SUMS * whole
    for panel in range(n_outputs if left > 0 else 0):
        block = Octets(wide.block, 1, 8)
        one: Any = np.int64(1)
        fill(block, 0.0, left, one)
        own = Scalars(shifted(inputs.first, SUMS * whole), 1, inputs.column)
        mine = Octets(shifted(slopes.first, 8 * panel), slopes.row, 1)
        add_product(block, own, mine, left, one, rows)
        known = w_at + 8 * panel * n_inputs + SUMS * whole
        _change_several(net, wide, rates, is_settled, none, known, zeroth, left)
        _change_several(net, wide, rates, is_settled, known, none, zeroth, left)
