"""Train many networks of one shape at once in the compiled engine, with the same bits everywhere.

There are two arrangements of the same arithmetic. Many runs of a small network share vectors: the
innermost axis is the run, N_LANES runs make a block, one operation computes for all of them, and blocks
go to threads; no lane ever reads another. A network that is wide enough fills vectors by itself, with
neighbouring neurons, rows or weights, and then each run is a block of its own (`engine.wide`). No
operation is reordered in either, so a run's bits do not depend on the arrangement, its batch, its place
in it, the number of threads or the CPU. A single run is a batch of one.

Every sum is taken in ascending order, one term after another: a neuron's total starts from its bias
and adds w_j x_j by input j; dL/da adds over the next layer's neurons; gradients, losses and counts
add over the rows in the order they are visited; the gradient's norm adds over the weights in
`network.flatten` order.

`nnexp.network.reference` defines the same mathematics in readable form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnexp.network.engine.choice import is_wide_faster
from nnexp.network.engine.compilation import is_compiled
from nnexp.network.engine.cuda.device import Device
from nnexp.network.engine.draws import Draws
from nnexp.network.engine.initial import Initial
from nnexp.network.engine.kernel import train_blocks
from nnexp.network.engine.lanes import N_LANES
from nnexp.network.engine.layout import (
    ACTIVATIONS,
    COLUMNS,
    LOSSES,
    OPTIMIZERS,
    OPTIONS,
    Array,
    IntArray,
    Runs,
    Settings,
)
from nnexp.network.engine.threads import default_threads, in_threads
from nnexp.network.engine.wide.layout import wide_layers, wide_parts

# What the lanes of vectors are: one number of each run, or of each neuron of one run.
Lanes = Literal["runs", "neurons"]

VERSION = "2"  # changes whenever the bits of any run change

# How many rows an evaluation holds in memory at a time; a mini-batch may be larger.
_EVALUATED_ROWS = 32


def is_ready() -> bool:
    """Return whether the engine is compiled; if not, the first training takes several seconds longer."""
    return is_compiled(train_blocks)


@dataclass(frozen=True)
class Model:
    """The properties that all runs of a batch share. Names are those of `nnexp.network.reference`.

    Raises ValueError for a name, size or combination that is not defined there.
    """

    sizes: tuple[int, ...]  # layer widths, input first: (2, 2, 1)
    activation: str
    output_activation: str
    loss: str
    optimizer: str
    batch_size: int
    is_classification: bool

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"sizes must be two or more positive widths, not {self.sizes}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        for value, known in (
            (self.activation, set(ACTIVATIONS) - {"softmax"}),
            (self.output_activation, set(ACTIVATIONS)),
            (self.loss, set(LOSSES)),
            (self.optimizer, set(OPTIMIZERS)),
        ):
            if value not in known:
                raise ValueError(f"{value!r} is not one of {', '.join(sorted(known))}")
        needed = {"bce": "sigmoid", "cross_entropy": "softmax"}.get(self.loss)
        if needed and self.output_activation != needed:
            raise ValueError(f"{self.loss} needs a {needed} output, not {self.output_activation}")

    @property
    def n_weights(self) -> int:
        """The length of a run's flat vector of weights and biases."""
        return sum((i + 1) * o for i, o in zip(self.sizes[:-1], self.sizes[1:], strict=True))


# The articles' network, which most sweeps train.
ARTICLES = Model((2, 2, 1), "sigmoid", "sigmoid", "mse", "sgd", 1, True)


@dataclass(frozen=True)
class Curves:
    """The measures at the logged epochs; arrays of shape (runs, logged epochs), accuracies from 0 to 1.

    An entry is nan after its run's last epoch, or after the epoch at which it stopped or diverged.
    """

    epochs: IntArray  # (logged epochs,)
    loss: Array
    grad_norm: Array
    accuracy: Array | None
    val_loss: Array | None
    val_accuracy: Array | None


def _with_one_nan(numbers: Array) -> Array:
    """Give every nan the same bits, in place; x86 makes negative ones where ARM makes positive ones."""
    numbers[np.isnan(numbers)] = np.nan
    return numbers


@lru_cache(maxsize=256)
def _is_articles(model: Model) -> bool:
    """Tell whether a model trains as ARTICLES does."""
    return replace(model, is_classification=True) == ARTICLES


def _aligned(size: int) -> Array:
    """Return `size` zeros that start on a cache line, so that no vector lies across two lines."""
    line = 64
    raw = np.zeros(8 * size + line, dtype=np.uint8)
    start = -raw.__array_interface__["data"][0] % line
    return raw[start : start + 8 * size].view(np.float64)


def _per_run(value: ArrayLike, n_runs: int, dtype: type) -> NDArray[Any]:
    """Return one number for each run, from one number for all or one for each."""
    return np.full(n_runs, value, dtype)


def _checked(model: Model, X: ArrayLike, y: ArrayLike, n_runs: int) -> tuple[Array, Array]:
    """Return the samples with the run as the first axis. Raises ValueError if shapes do not fit."""
    arrays = []
    for name, values, width in (("X", X, model.sizes[0]), ("y", y, model.sizes[-1])):
        array = np.ascontiguousarray(values, dtype=np.float64)
        array = array[np.newaxis] if array.ndim == 2 else array
        if array.ndim != 3 or len(array) not in (1, n_runs) or array.shape[2] != width:
            raise ValueError(f"{name} must be (n, {width}) or ({n_runs}, n, {width})")
        arrays.append(array)
    X3, y3 = arrays
    if X3.shape[1] != y3.shape[1] or X3.shape[1] == 0:
        raise ValueError(f"X has {X3.shape[1]} rows and y has {y3.shape[1]}")
    if len(X3) != len(y3):  # one has samples for each run, so the other needs them, too
        X3, y3 = (np.repeat(a, n_runs // len(a), axis=0) for a in arrays)
    return X3, y3


def layers_of(model: Model, rows: int) -> IntArray:
    """Return the array that `view_net` reads, for up to `rows` samples at a time."""
    sizes = np.array(model.sizes)
    n_layers = len(sizes) - 1
    starts = np.cumsum(np.concatenate([[0], sizes[:-1] * sizes[1:], sizes[1:]]))
    layers = np.zeros((5, n_layers + 1), dtype=np.int64)
    layers[0] = sizes
    layers[1] = starts[: n_layers + 1]
    layers[2] = starts[n_layers:]
    layers[3] = np.cumsum(np.concatenate([[0], rows * sizes[1:]]))
    layers[4] = ACTIVATIONS[model.activation]
    layers[4, n_layers - 1] = ACTIVATIONS[model.output_activation]
    return layers


def _parts(model: Model, rows: int, n_lanes: int) -> IntArray:
    """Return where the parts of a Block begin in its memory, in elements, and where the last ends."""
    n, outputs = model.n_weights, rows * sum(model.sizes[1:])
    samples = rows * model.sizes[0], rows * model.sizes[-1]
    lengths = [n, n, n, n, 7, rows * max(model.sizes[1:]), outputs, outputs, *samples, 3]
    return np.cumsum([0, *lengths]) * n_lanes


@lru_cache(maxsize=256)
def _placed(model: Model, rows: int, is_wide: bool) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Return layers and parts of a Block, then of a Wide; the kernel only reads them."""
    layers = layers_of(model, rows)
    own_layers, own_parts = wide_layers(model.sizes, layers[4]), wide_parts(model.sizes)
    if is_wide:
        return layers, _parts(model, 0, 1), own_layers, own_parts
    return layers, _parts(model, rows, N_LANES), own_layers, np.zeros_like(own_parts)


class Batch:
    """Runs of one model in training.

    weights: (runs, n_weights), the initial weights as `network.flatten` orders them; they are
    copied. Or an Initial, which is drawn where the runs are trained. learning_rate and each of
    `options` (those of the optimizer, and weight_decay, by default 0): one number, or one for each
    run. epochs: how many to train, one number or one for each run. X, y: samples (n, fan_in) and
    (n, outputs), or (runs, n, fan_in) and (runs, n, outputs) if every run has its own; X_val, y_val
    likewise. threads: how many, by default Numba's (NUMBA_NUM_THREADS). patience: the number of
    epochs without a lower validation loss after which a run stops, one number or one for each run;
    0: never. The loss is compared at log_epochs. lanes: what the lanes of vectors are, "runs" or
    "neurons" of one run; by default, whichever is faster. shuffle: each run's seed, (runs, k), of
    the orders in which epochs visit the rows; by default their own order. device: draws and trains
    in place of the CPU, with the same bits.

    Raises ValueError for shapes that do not fit and for missing or unknown options.
    """

    def __init__(
        self,
        model: Model,
        X: ArrayLike,
        y: ArrayLike,
        weights: ArrayLike | Initial,
        learning_rate: ArrayLike,
        epochs: ArrayLike,
        options: Mapping[str, ArrayLike] | None = None,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        threads: int | None = None,
        patience: ArrayLike = 0,
        lanes: Lanes | None = None,
        shuffle: ArrayLike | None = None,
        device: Device | None = None,
    ) -> None:
        initial = weights if isinstance(weights, Initial) else None
        if initial is not None:
            weights = initial.weights if device is None else np.empty((len(initial), sum(initial.lengths)))
        start = np.array(weights, dtype=np.float64, order="C")
        if start.ndim != 2 or start.shape[1] != model.n_weights:
            raise ValueError(f"weights must be (runs, {model.n_weights}), not {start.shape}")
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        if lanes not in ("runs", "neurons", None):
            raise ValueError(f"lanes must be 'runs' or 'neurons', not {lanes!r}")
        n_runs = len(start)
        names = (*OPTIONS[model.optimizer], "weight_decay")
        given = {"weight_decay": 0.0, **(options or {})}
        if set(given) != set(names):
            raise ValueError(f"{model.optimizer} takes the options {names}, not {tuple(given)}")
        columns = np.zeros((n_runs, 4))
        for name in names:
            columns[:, COLUMNS[name]] = given[name]
        waits = _per_run(patience, n_runs, np.int64)
        if waits.min(initial=0) < 0 or (waits.any() and X_val is None):
            raise ValueError("patience must be at least 0, and 0 without X_val")
        is_adam = model.optimizer in ("adam", "adamw")
        self._runs = Runs(
            weights=start,
            first_moment=np.zeros((1, 1) if model.optimizer == "sgd" else start.shape),
            second_moment=np.zeros(start.shape if is_adam else (1, 1)),
            powers=np.ones((n_runs, 2)),
            learning_rate=_per_run(learning_rate, n_runs, np.float64),
            options=columns,
            epochs=_per_run(epochs, n_runs, np.int64),
            diverged=np.full(n_runs, -1),
            patience=waits,
            stopped=np.full(n_runs, -1),
            best_epoch=np.zeros(n_runs, dtype=np.int64),
            best_loss=np.full(n_runs, np.inf),
            best_weights=start.copy() if waits.any() else np.zeros((1, 1)),
        )
        self.model = model
        self.epoch = 0
        self._X, self._y = _checked(model, X, y, n_runs)
        self._has_validation = X_val is not None and y_val is not None
        self._X_val, self._y_val = (
            np.zeros((1, 0, model.sizes[0])),
            np.zeros((1, 0, model.sizes[-1])),
        )
        if X_val is not None and y_val is not None:
            self._X_val, self._y_val = _checked(model, X_val, y_val, n_runs)
        n = max(self._X.shape[1], self._X_val.shape[1])
        self._rows = min(n, max(model.batch_size, _EVALUATED_ROWS))
        self._threads = threads
        self._lanes = lanes
        if shuffle is not None and len(np.asarray(shuffle)) != n_runs:
            raise ValueError(f"shuffle must be seeds of {n_runs} runs")
        self._draws = None if shuffle is None or device is not None else Draws(shuffle)
        self._resident = None
        if device is not None:
            from nnexp.network.engine.cuda.training import Resident

            samples = self._X, self._y, self._X_val, self._y_val
            self._resident = Resident(device, model, self._runs, samples, lanes, initial, shuffle)

    @property
    def weights(self) -> Array:
        """Return a copy of all weights now, (runs, n_weights); a run that has ended keeps its last."""
        self._fetch("weights")
        return _with_one_nan(self._runs.weights.copy())

    @property
    def diverged(self) -> IntArray:
        """Return, for each run, the epoch at which its loss or a weight was not finite, or -1."""
        return self._runs.diverged.copy()

    @property
    def stopped(self) -> IntArray:
        """Return, for each run, the epoch at which its patience ended, or -1."""
        return self._runs.stopped.copy()

    @property
    def best_epoch(self) -> IntArray:
        """Return, for each run, the logged epoch of its lowest validation loss so far; -1 without patience.

        Of several epochs with the lowest, it is the first.
        """
        return np.where(self._runs.patience > 0, self._runs.best_epoch, -1)

    @property
    def best_weights(self) -> Array:
        """Return a copy of each run's weights at its best epoch, (runs, n_weights).

        A run without patience has its current weights there.
        """
        has_patience = self._runs.patience[:, np.newaxis] > 0
        self._fetch("best_weights")
        return np.where(has_patience, self._runs.best_weights, self.weights)

    @property
    def is_done(self) -> bool:
        """Return whether every run has ended: trained all its epochs, stopped, or diverged."""
        return len(self._active()) == 0

    def shorten(self, epochs: ArrayLike) -> None:
        """Let no run train for more than so many epochs, one number or one for each run.

        A run that has trained for as many ends now, as if it had never been to train for more.
        """
        self._runs.epochs[:] = np.minimum(self._runs.epochs, np.maximum(epochs, self.epoch))
        if self._resident is not None:
            self._resident.shorten(self._runs.epochs)

    def advance(self, until: int, log_epochs: Sequence[int] = (), order: ArrayLike | None = None) -> Curves:
        """Train up to `until` completed epochs, and measure at `log_epochs`.

        log_epochs must ascend and be greater than `epoch` and at most `until`; before the first
        epoch 0 is allowed, for the untrained networks. order: the rows in the order in which each
        epoch visits them, integers of shape (runs, until - epoch, n); by default as `shuffle` says.
        The results do not depend on how a training is split into calls. Raises ValueError for
        arguments that break these rules.
        """
        if until < self.epoch:
            raise ValueError(f"{self.epoch} epochs are completed: cannot go back to {until}")
        epochs = np.array(log_epochs, dtype=np.int64)
        first = self.epoch + 1 if self.epoch > 0 else 0
        is_outside = len(epochs) > 0 and (epochs[0] < first or epochs[-1] > until)
        if is_outside or (epochs[1:] <= epochs[:-1]).any():
            raise ValueError(f"log_epochs must ascend from {first} to {until}, not be {log_epochs}")
        n_runs, n = len(self._runs.weights), self._X.shape[1]
        visited = None
        if order is not None:
            visited = np.ascontiguousarray(order, dtype=np.int32)
            if visited.shape != (n_runs, until - self.epoch, n):
                raise ValueError(f"order must be {(n_runs, until - self.epoch, n)}")
            if visited.size and (visited.min() < 0 or visited.max() >= n):
                raise ValueError(f"order must be of rows 0 to {n - 1}")
        elif self._draws is not None:
            visited = self._draws.orders(until - self.epoch, n)
        records = np.full((n_runs, len(epochs), 5), np.nan)
        self._train(until, epochs, visited, records)
        self.epoch, records = until, _with_one_nan(records)
        is_classification = self.model.is_classification
        return Curves(
            epochs=epochs,
            loss=records[..., 0],
            grad_norm=records[..., 2],
            accuracy=records[..., 1] if is_classification else None,
            val_loss=records[..., 3] if self._has_validation else None,
            val_accuracy=records[..., 4] if is_classification and self._has_validation else None,
        )

    @property
    def _n_threads(self) -> int:
        # Asked for each time, because another process may go on with a batch.
        return default_threads() if self._threads is None else self._threads

    def _is_wide_faster(self, n_runs: int) -> bool:
        """Tell which arrangement trains so many runs faster."""
        model, n = self.model, self._X.shape[1]
        has_curves = model.activation in ("sigmoid", "tanh")
        rows = min(n, model.batch_size)
        return is_wide_faster(
            model.sizes, has_curves, model.optimizer in ("adam", "adamw"), rows, n_runs, self._n_threads
        )

    def _active(self) -> IntArray:
        """Return the runs that have not ended, sorted by the epoch at which they end."""
        first = self.epoch + 1 if self.epoch > 0 else 0
        runs = self._runs
        is_active = (runs.diverged < 0) & (runs.stopped < 0) & (runs.epochs >= first)
        active = np.flatnonzero(is_active)
        return active[np.argsort(runs.epochs[active], kind="stable")]

    def _fetch(self, *names: str) -> None:
        """Copy these arrays of the runs from the device, if one trains them."""
        if self._resident is not None:
            self._resident.fetch(self._runs, names)

    def _train(self, until: int, epochs: IntArray, order: NDArray[np.int32] | None, records: Array) -> None:
        """Train the blocks of active runs, shared among the threads."""
        active = self._active()
        has_decay = bool(self._runs.options[:, COLUMNS["weight_decay"]].any())
        is_articles = _is_articles(self.model) and not has_decay
        if self._resident is not None:
            self._resident.train(active, self.epoch, until, epochs, order, records, has_decay, is_articles)
            self._fetch("diverged", "stopped", "best_epoch")
            return
        visited = np.zeros((0, 0, 0), dtype=np.int32) if order is None else order
        is_wide = self._lanes == "neurons" if self._lanes else self._is_wide_faster(len(active))
        n_lanes = 1 if is_wide else N_LANES
        n_blocks = -(-len(active) // n_lanes)
        layers, parts, own_layers, own_parts = _placed(self.model, self._rows, is_wide)
        settings = Settings(
            n_lanes=n_lanes,
            loss=LOSSES[self.model.loss],
            optimizer=OPTIMIZERS[self.model.optimizer],
            has_decay=has_decay,
            batch_size=self.model.batch_size,
            rows=self._rows,
            is_classification=self.model.is_classification,
            is_articles=is_articles and not is_wide,
            is_wide=is_wide,
        )

        def train(first: int, last: int) -> None:
            memory, wide_memory = _aligned(parts[-1]), _aligned(own_parts[-1])
            lane_memory = np.zeros(2 * N_LANES, dtype=np.int64)
            train_blocks(
                layers, settings, self._runs, self._X, self._y, self._X_val, self._y_val, visited,
                memory, parts, lane_memory, own_layers, wide_memory, own_parts, active, first, last,
                self.epoch, until, epochs, records,
            )  # fmt: skip

        in_threads(train, n_blocks, self._n_threads)
