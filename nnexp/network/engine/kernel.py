"""Define the kernel that Python calls: it copies runs into lanes, trains them, and copies them back."""

import numpy as np
from numpy.typing import NDArray

from nnexp.network.engine import elementary, epochs, evaluation, lanes, layout, passes
from nnexp.network.engine.compilation import compiled, kernel
from nnexp.network.engine.epochs import train_articles, train_epoch
from nnexp.network.engine.evaluation import evaluate
from nnexp.network.engine.lanes import pointer, shifted
from nnexp.network.engine.layout import (
    ADAM,
    ADAMW,
    SGD,
    Array,
    Block,
    IntArray,
    Net,
    Runs,
    Settings,
    at_run,
    view_block,
    view_net,
    view_samples,
)
from nnexp.network.engine.wide import epochs as wide_epochs
from nnexp.network.engine.wide import layout as wide_layout
from nnexp.network.engine.wide import passes as wide_passes
from nnexp.network.engine.wide import products
from nnexp.network.engine.wide.epochs import pass_wide
from nnexp.network.engine.wide.layout import exchange, view_wide


@compiled
def _exchange(net: Net, s: Block, runs: Runs, lane: int, is_entering: bool | np.bool) -> None:
    """Copy one run's state into its lane, or back."""
    i = s.run[lane]
    for j in range(0 if net.is_wide else net.n_weights):  # a wide network's are those of `runs`
        at = j * net.n_lanes + lane
        if is_entering:
            s.w[at] = runs.weights[i, j]
        else:
            runs.weights[i, j] = s.w[at]
        if net.optimizer != SGD:
            if is_entering:
                s.m[at] = runs.first_moment[i, j]
            else:
                runs.first_moment[i, j] = s.m[at]
        if net.optimizer == ADAM or net.optimizer == ADAMW:
            if is_entering:
                s.v[at] = runs.second_moment[i, j]
            else:
                runs.second_moment[i, j] = s.v[at]
    if is_entering:
        s.rates[lane] = runs.learning_rate[i]
        for j in range(4):
            s.rates[(1 + j) * net.n_lanes + lane] = runs.options[i, j]
    for j in range(2):
        at = (5 + j) * net.n_lanes + lane
        if is_entering:
            s.rates[at] = runs.powers[i, j]
        else:
            runs.powers[i, j] = s.rates[at]


@compiled
def _weights_are_finite(net: Net, s: Block, lane: int) -> bool:
    for j in range(net.n_weights):  # noqa: SIM110  Numba compiles no generator
        if not np.isfinite(s.w[j * net.n_lanes + lane]):
            return False
    return True


@compiled
def watch(runs: Runs, i: int, epoch: int, val_loss: float) -> bool:
    """Note the val_loss of a run with patience, and stop the run if it has not fallen for too long.

    Returns whether it is the lowest so far, so that the weights of now are the best.
    """
    if val_loss < runs.best_loss[i]:
        runs.best_loss[i] = val_loss
        runs.best_epoch[i] = epoch
        return True
    if epoch - runs.best_epoch[i] >= runs.patience[i]:
        runs.stopped[i] = epoch
    return False


@compiled
def _record(
    net: Net, s: Block, runs: Runs, n: int, is_training: bool, epoch: int,
    records: Array, position: int | np.int64,
) -> None:  # fmt: skip
    """Write the results of `evaluate` on n rows for every running lane; note which have diverged or
    stop, and the weights of those at their best.
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
            elif runs.patience[i] > 0 and runs.diverged[i] < 0 and watch(runs, i, epoch, s.sums[lane]):
                for j in range(net.n_weights):
                    runs.best_weights[i, j] = s.w[j * net.n_lanes + lane]


@compiled
def _end_lanes(net: Net, s: Block, runs: Runs, epoch: int) -> int:
    """End the lanes whose runs are to end at this epoch, have stopped or have diverged.

    Returns the epoch at which the next lane will stop, or -1 if none is left.
    """
    next_stop = -1
    for lane in range(net.n_lanes):
        stop = s.stop[lane]
        if stop < 0:
            continue
        i = s.run[lane]
        if stop == epoch == runs.epochs[i] and not _weights_are_finite(net, s, lane):
            runs.diverged[i] = epoch
        if stop == epoch or runs.diverged[i] >= 0 or runs.stopped[i] >= 0:
            _exchange(net, s, runs, lane, np.bool_(False))
            s.stop[lane] = -1
        elif next_stop < 0 or stop < next_stop:
            next_stop = stop
    return next_stop


@kernel(
    elementary, epochs, evaluation, lanes, layout, passes, wide_epochs, wide_layout, wide_passes, products
)
def train_blocks(
    layers: IntArray, settings: Settings, runs: Runs,
    X: Array, y: Array, X_val: Array, y_val: Array, order: NDArray[np.int32],
    memory: Array, parts: IntArray, lane_memory: IntArray,
    wide_layers: IntArray, wide_memory: Array, wide_parts: IntArray,
    active: IntArray, first_block: int, last_block: int,
    epoch: int, until: int, log_epochs: IntArray, records: Array,
) -> None:  # fmt: skip
    """Train the runs `active`, in blocks, from `epoch` completed epochs to `until`.

    A block is one run where it is trained as a wide network, by itself.
    """
    net, wide_net = view_net(layers, settings), view_net(wide_layers, settings)
    s = view_block(memory, parts, lane_memory)
    wide = view_wide(wide_memory, wide_parts, lane_memory)
    data, validation = view_samples(X, y), view_samples(X_val, y_val)
    is_shuffled, order_stride = order.shape[0] > 0, order.shape[1] * order.shape[2]
    no, yes = np.bool_(False), np.bool_(True)
    for block in range(first_block, last_block):
        for lane in range(net.n_lanes):
            i = block * net.n_lanes + lane
            s.run[lane] = active[min(i, len(active) - 1)]
            s.stop[lane] = min(until, runs.epochs[s.run[lane]]) if i < len(active) else -1
            _exchange(net, s, runs, lane, yes)
        if net.is_wide:
            s = at_run(s, runs)
            exchange(wide_net, wide, s, yes)
        completed, logged = epoch, np.int64(0)  # a plain 0 would compile _record for 0 as well
        while True:
            if logged < len(log_epochs) and log_epochs[logged] == completed:
                for part in range(2 if validation.n > 0 else 1):
                    samples, is_training = (data, True) if part == 0 else (validation, False)
                    if net.is_wide:
                        pass_wide(
                            wide_net, wide, samples, s.run[0], pointer(order, 0), no, no, is_training, s.sums
                        )
                    else:
                        evaluate(net, s, samples, is_training)
                    _record(net, s, runs, samples.n, is_training, completed, records, logged)
                logged += 1
            pause = _end_lanes(net, s, runs, completed)
            if pause < 0:
                break
            if logged < len(log_epochs):
                pause = min(pause, log_epochs[logged])
            if net.is_articles and data.shared and not is_shuffled:
                train_articles(s, data, pause - completed)
                completed = pause
            while completed < pause:
                visited = pointer(order, (completed - epoch) * data.n)
                if net.is_wide:
                    own = shifted(visited, s.run[0] * order_stride)
                    pass_wide(wide_net, wide, data, s.run[0], own, is_shuffled, yes, yes, s.sums)
                else:
                    train_epoch(net, s, data, visited, is_shuffled, order_stride)
                completed += 1
            if net.is_wide:
                exchange(wide_net, wide, s, no)
