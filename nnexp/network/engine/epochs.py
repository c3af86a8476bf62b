"""Train a block of networks: the optimizers, an epoch of any network, the articles' network written out."""

from typing import Any, NamedTuple

import numpy as np

from nnexp.network.engine.compilation import compiled, placed
from nnexp.network.engine.elementary import Divisor, divide, divisor, sigmoid
from nnexp.network.engine.evaluation import gather_row
from nnexp.network.engine.lanes import (
    N_LANES,
    OCTET,
    Pointer,
    if_greater,
    lanes,
    load,
    load_octet,
    octet,
    sqrt,
    store,
    store_octet,
)
from nnexp.network.engine.layout import ADAM, ADAMW, MOMENTUM, SGD, Block, Net, Samples
from nnexp.network.engine.passes import backward, deriv_loss, forward


@compiled
def step(net: Net, s: Block) -> None:
    """Take a step: change all weights by their gradients."""
    is_settled, first = count_step(net, s), np.int64(0)
    update(net, s, is_settled, first, s.grad, first, net.n_weights)


@compiled
def count_step(net: Net, s: Block) -> bool:
    """Begin a step. Return whether beta1^t is so small that 1 - beta1^t is 1, in all lanes."""
    if net.optimizer != ADAM and net.optimizer != ADAMW:
        return False
    store(s.rates, 5, load(s.rates, 5) * load(s.rates, 1))
    store(s.rates, 6, load(s.rates, 6) * load(s.rates, 2))
    is_settled = True
    for lane in range(net.n_lanes):
        is_settled &= 1.0 - s.rates[5 * N_LANES + lane] == 1.0
    return is_settled


class Rates(NamedTuple):
    """The numbers of a step, each in all lanes of a vector or one for each."""

    learning_rate: Any
    beta1: Any  # or the momentum
    beta2: Any
    epsilon: Any
    decay: Any
    rest1: Divisor  # 1 - beta1^t
    rest2: Divisor
    zero: Any


def _changing(load: Any, store: Any, number: Any, width: int) -> Any:
    """Define, for vectors of `width` lanes, how the rates of a step are read and how it changes weights."""

    @compiled
    def rates_of(net: Net, s: Block) -> Rates:
        """Read the numbers of the step that `count_step` has begun."""
        step, zero = N_LANES // width, number(0.0)
        rest1 = rest2 = Divisor(zero, zero, zero, zero, zero)
        if net.optimizer == ADAM or net.optimizer == ADAMW:
            rest1 = divisor(1.0 - load(s.rates, 5 * step), zero)
            rest2 = divisor(1.0 - load(s.rates, 6 * step), zero)
        return Rates(
            load(s.rates, 0), load(s.rates, step), load(s.rates, 2 * step), load(s.rates, 3 * step),
            load(s.rates, 4 * step), rest1, rest2, zero,
        )  # fmt: skip

    @placed
    def begin(
        net: Net, s: Block, rates: Rates, is_settled: bool | np.bool, i: Any, g: Any
    ) -> tuple[Any, Any]:
        """Bring the optimizer's memory of vector number i of the weights up to date with its gradient.

        Return the step that the weights are to take, and the mean square by whose root Adam divides it.
        """
        if net.has_decay and net.optimizer != ADAMW:
            # A run without decay is left as it is: adding 0 w would turn -0.0 into 0.0 and infinity into NaN.
            g = if_greater(rates.decay, rates.zero, g + rates.decay * load(s.w, i), g)
        if net.optimizer == SGD:
            return rates.learning_rate * g, rates.zero
        if net.optimizer == MOMENTUM:
            velocity = rates.beta1 * load(s.m, i) + g
            store(s.m, i, velocity)
            return rates.learning_rate * velocity, rates.zero
        m = rates.beta1 * load(s.m, i) + (1.0 - rates.beta1) * g
        v = rates.beta2 * load(s.v, i) + (1.0 - rates.beta2) * (g * g)
        store(s.m, i, m)
        store(s.v, i, v)
        # A division by 1 changes nothing, and takes a fifth of the time of all this.
        m_hat = m if is_settled else divide(m, rates.rest1)
        return rates.learning_rate * m_hat, divide(v, rates.rest2)

    @placed
    def end(net: Net, s: Block, rates: Rates, i: Any, step: Any, square: Any) -> None:
        """Let vector number i of the weights take the step that `begin` has returned."""
        w = load(s.w, i)
        if net.has_decay and net.optimizer == ADAMW:
            w = if_greater(rates.decay, rates.zero, w - rates.learning_rate * rates.decay * w, w)
        if net.optimizer == ADAM or net.optimizer == ADAMW:
            step = step / (sqrt(square) + rates.epsilon)
        store(s.w, i, w - step)

    return rates_of, begin, end


_rates, _begin, _end = _changing(load, store, lanes, N_LANES)
rates_of_octets, begin_octet, end_octet = _changing(load_octet, store_octet, octet, OCTET)


@compiled
def update(
    net: Net, s: Block, is_settled: bool | np.bool, first: Any, grad: Pointer, at: Any, count: Any
) -> None:  # fmt: skip
    """Change `count` weights from number `first` on by their gradients, which begin at number `at`."""
    rates = _rates(net, s)
    for i in range(count):
        change, square = _begin(net, s, rates, is_settled, first + i, load(grad, at + i))
        _end(net, s, rates, first + i, change, square)


@compiled
def train_epoch(
    net: Net, s: Block, data: Samples, order: Pointer, is_shuffled: bool, order_stride: int
) -> None:
    """Train one epoch: take one optimizer step for each mini-batch.

    If the rows are shuffled, each run's order begins `order_stride` after that of the run before.
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
                    gather_row(net, s, data, r, lane, row)
            x, y, at = s.x, s.y, 0
        x_at, y_at = at * data.fan_in, at * data.width
        forward(net, s, x, x_at, shared, rows)
        deriv_loss(net, s, y, y_at, shared, rows, rows)
        backward(net, s, x, x_at, shared, rows, np.bool_(True))
        step(net, s)


@compiled
def train_articles(s: Block, data: Samples, epochs: int) -> None:
    """Train several epochs of ARTICLES, on rows that all runs share, with the loops written out.

    The operations and their order are those of train_epoch, and so are the bits. In train_epoch,
    which works for any network, numbers pass from one short loop to the next through memory;
    without that, this small network trains about twice as fast.
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
