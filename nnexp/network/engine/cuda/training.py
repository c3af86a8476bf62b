"""Keep the runs of a batch on a device: draw and train them there with kernels.cu."""

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnexp.network.engine.batch import ARTICLES, Lanes, Model, layers_of
from nnexp.network.engine.cuda.device import Device, struct
from nnexp.network.engine.cuda.draws import DeviceDraws
from nnexp.network.engine.initial import Initial
from nnexp.network.engine.layout import LOSSES, OPTIMIZERS, Array, IntArray, Runs

Kernel = Literal["train_narrow", "train_wide", "train_large"]

# The fields of the struct Arguments in kernels.cu, eight bytes each.
ARGUMENTS = (
    *("sizes", "weights_at", "biases_at", "outputs_at", "activations", "places", "bias_places", "parts"),
    *("n_layers", "n_weights", "loss", "optimizer", "has_decay", "batch_size", "rows", "is_classification"),
    *("is_articles", "x", "y", "n", "is_shared", "x_val", "y_val", "n_val", "val_is_shared"),
    *("weights", "first_moment", "second_moment", "best_weights", "run_step", "weight_step"),
    *("powers", "learning_rate", "options", "epochs", "patience", "diverged", "stopped", "best_epoch"),
    *("best_loss", "order", "order_step", "active", "n_active", "epoch", "until", "log_epochs", "n_logged"),
    *("records", "scratch", "scratch_step"),
)
# The arrays of the runs that have a number for each weight.
MOMENTS = ("first_moment", "second_moment")
OF_WEIGHTS = ("weights", "best_weights", *MOMENTS)
# A network of at most so many weights, with one row a batch, is trained by one thread if there are so many
# runs for each weight; see `make test-cuda ONLY=choice`. The articles' network is so for any number of runs.
NARROW_WEIGHTS, NARROW_RUNS = 70, 150
NARROW_THREADS, WARP, WIDE_THREADS = 32, 32, 512  # the last as in the launch bounds in kernels.cu
# The rows that go through a wide network at a time.
ROWS = 32
# The global memory that the blocks which run at once may have.
SCRATCH_BYTES = 256 * 2**20


class Resident:
    """The runs of a batch on a device, from where only results are copied back.

    initial: the weights to draw there, in place of those in `runs`. shuffle: see Batch.
    """

    def __init__(
        self,
        device: Device,
        model: Model,
        runs: Runs,
        samples: tuple[Array, Array, Array, Array],
        lanes: Lanes | None,
        initial: Initial | None,
        shuffle: ArrayLike | None,
    ) -> None:
        self._device, self._model = device, model
        self._n_runs, self._n = len(runs.weights), samples[0].shape[1]
        n = max(self._n, samples[2].shape[1])
        self._kernel, self._threads, rows = arrangement(model, self._n_runs, n, device.shared_bytes, lanes)
        self._is_narrow = self._kernel == "train_narrow"
        table = np.vstack([layers_of(model, rows), _places(model.sizes, self._is_narrow)])
        self._parts = _parts(model, rows, self._is_narrow)
        # The device's copies; they must live as long as their addresses are used.
        self._layers, self._parts_there = device.put(table), device.put(self._parts)
        self._samples = [device.put(array) for array in samples]
        drawn = () if initial is None else ("weights", "best_weights")
        self._runs = Runs(**{name: self._put(name, array, drawn) for name, array in runs._asdict().items()})
        row = table.itemsize * table.shape[1]
        self._arguments: dict[str, int] = {
            **{name: device.address(self._layers) + i * row for i, name in enumerate(ARGUMENTS[:7])},
            "parts": device.address(self._parts_there),
            "n_layers": len(model.sizes) - 1,
            "n_weights": model.n_weights,
            "loss": LOSSES[model.loss],
            "optimizer": OPTIMIZERS[model.optimizer],
            "batch_size": model.batch_size,
            "rows": rows,
            "is_classification": model.is_classification,
            **{
                name: device.address(array)
                for name, array in zip(("x", "y", "x_val", "y_val"), self._samples, strict=True)
            },
            "n": self._n,
            "is_shared": len(samples[0]) == 1,
            "n_val": samples[2].shape[1],
            "val_is_shared": len(samples[2]) == 1,
            **{name: device.address(array) for name, array in self._runs._asdict().items()},
            "run_step": 1 if self._is_narrow else model.n_weights,
            "weight_step": self._n_runs if self._is_narrow else 1,
        }
        if initial is not None:
            best_weights = self._runs.best_weights if runs.patience.any() else None
            steps = self._arguments["run_step"], self._arguments["weight_step"]
            DeviceDraws(device, initial.seeds).weights(initial, self._runs.weights, best_weights, *steps)
        self._draws = None if shuffle is None else DeviceDraws(device, shuffle)

    def train(
        self,
        active: IntArray,
        epoch: int,
        until: int,
        log_epochs: IntArray,
        order: NDArray[np.int32] | None,
        records: Array,
        has_decay: bool,
        is_articles: bool,
    ) -> None:
        """Train the runs `active` from `epoch` completed epochs to `until`, and fill their `records`."""
        if len(active) == 0:
            return
        device, blocks = self._device, len(active)
        shared, own = 0, 0  # the numbers that a block has in shared and in global memory
        if self._is_narrow:
            blocks, shared = -(-blocks // self._threads), int(self._parts[-1]) * self._threads
        elif self._kernel == "train_wide":
            shared, own = int(self._parts[-2]), self._model.n_weights
        else:
            own = int(self._parts[-1])
        if own:
            blocks = min(blocks, max(1, SCRATCH_BYTES // (8 * own)))
        there = {
            "active": device.put(active),
            "log_epochs": device.put(log_epochs),
            "records": device.put(records),
            "scratch": device.empty((blocks * own,), np.float64),
        }
        order_there = self._order(order, until - epoch)
        values = {
            **self._arguments,
            **{name: device.address(array) for name, array in there.items()},
            "order": 0 if order_there is None else device.address(order_there),
            "order_step": (until - epoch) * self._n,
            "n_active": len(active),
            "epoch": epoch,
            "until": until,
            "n_logged": len(log_epochs),
            "scratch_step": own,
            "has_decay": has_decay,
            "is_articles": is_articles,
        }
        device.launch(self._kernel, blocks, self._threads, 8 * shared, struct(ARGUMENTS, values))
        records[:] = device.get(there["records"])

    def shorten(self, epochs: IntArray) -> None:
        """Let the runs end at these epochs."""
        self._runs = self._runs._replace(epochs=self._device.put(epochs))
        self._arguments["epochs"] = self._device.address(self._runs.epochs)

    def fetch(self, runs: Runs, names: tuple[str, ...]) -> None:
        """Copy these arrays of the runs back from the device, into `runs`."""
        for name in names:
            own: Array = getattr(runs, name)
            got = self._device.get(getattr(self._runs, name))
            own[:] = got.T if self._is_turned(name) else got

    def _order(self, order: NDArray[np.int32] | None, epochs: int) -> Any:
        """Return the order of the rows in each epoch on the device; None if it is their own."""
        if epochs == 0:
            return None
        if order is not None:
            return self._device.put(order)
        return None if self._draws is None else self._draws.orders(epochs, self._n)

    def _put(self, name: str, array: NDArray[Any], drawn: tuple[str, ...]) -> Any:
        """Copy one of the runs' arrays to the device, or make room for it if it is made there."""
        there = array.T if self._is_turned(name) else array
        if name in MOMENTS:
            return self._device.zeros(there.shape)
        return self._device.empty(there.shape, there.dtype) if name in drawn else self._device.put(there)

    def _is_turned(self, name: str) -> bool:
        """Return whether the weights are an array's first axis, so that threads read neighbouring numbers."""
        return self._is_narrow and name in OF_WEIGHTS


def arrangement(
    model: Model, n_runs: int, n: int, shared_bytes: int, lanes: Lanes | None
) -> tuple[Kernel, int, int]:
    """Return the kernel, the threads of a block, and how many rows go through a network at a time."""
    if lanes == "runs" or (lanes is None and _is_narrow_faster(model, n_runs)):
        fitting = shared_bytes // (8 * int(_parts(model, 1, True)[-1]))
        if fitting > 0:
            return "train_narrow", min(NARROW_THREADS, 2 ** (fitting.bit_length() - 1)), 1
    largest = max(i * o for i, o in pairwise(model.sizes))
    threads = min(WIDE_THREADS, WARP * -(-largest // (4 * WARP)))
    rows = min(n, ROWS)
    for fewer in (rows, -(-rows // 2), -(-rows // 4)):
        if 8 * int(_parts(model, fewer, False)[-2]) <= shared_bytes:
            return "train_wide", threads, fewer
    return "train_large", threads, rows


def _is_narrow_faster(model: Model, n_runs: int) -> bool:
    """Tell whether training each run by one thread is faster than by the threads of a block."""
    if model == replace(ARTICLES, is_classification=model.is_classification):
        return True
    is_small = model.n_weights <= NARROW_WEIGHTS and model.batch_size == 1
    return is_small and n_runs >= NARROW_RUNS * model.n_weights


def _places(sizes: tuple[int, ...], is_narrow: bool) -> IntArray:
    """Return where W and b of each layer begin in a block's memory; see row_step in kernels.cu."""
    weights = [(i if is_narrow else i | 1) * o for i, o in pairwise(sizes)]
    starts = np.cumsum([0, *weights, *sizes[1:]])
    places = np.zeros((2, len(sizes)), dtype=np.int64)
    places[0] = starts[: len(sizes)]
    places[1] = starts[len(sizes) - 1 :]
    return places


def _parts(model: Model, rows: int, is_narrow: bool) -> IntArray:
    """Return where the parts of a block's memory begin, in numbers of a run, and where the last ends."""
    sizes = model.sizes
    weights, outputs = int(_places(sizes, is_narrow)[1, -1]), rows * sum(sizes[1:])
    last = rows * sizes[-1]
    return np.cumsum([0, weights, outputs, outputs, last, rows * sizes[0], last, 3, model.n_weights])
