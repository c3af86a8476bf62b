"""Draw initial weights and orders of rows on a device, with kernels.cu, as draws.py does on the CPU."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnexp.network.engine.cuda.device import Device, struct
from nnexp.network.engine.draws import WORDS, seed_words
from nnexp.network.engine.initial import Initial

# The fields of the struct Drawing in kernels.cu, eight bytes each.
DRAWING = (
    *("state", "position", "n_streams", "seeds", "seed_length"),
    *(
        "which",
        "kinds",
        "scales",
        "firsts",
        "ends",
        "n_parts",
        "weights",
        "best_weights",
        "run_step",
        "weight_step",
    ),
    *("keys", "bucket_ends", "order", "epochs", "n"),
)
KINDS = ("normal", "uniform", "constant")  # as numbered in kernels.cu
THREADS = 32


class DeviceDraws:
    """The streams of `RandomState(seed)` on a device, one for each seed; see `Draws`."""

    def __init__(self, device: Device, seeds: ArrayLike) -> None:
        words = seed_words(seeds)
        self._device, self._count = device, len(words)
        self._state = device.empty((WORDS, self._count), np.uint32)
        self._position = device.empty((self._count,), np.int64)
        there = device.put(words.astype(np.int64))
        length = words.shape[1] if words.ndim == 2 else 0
        self._run("seed_streams", self._count, seeds=device.address(there), seed_length=length)

    def weights(
        self, initial: Initial, weights: Any, best_weights: Any, run_step: int, weight_step: int
    ) -> None:
        """Draw each run's initial weights into `weights`, and `best_weights` unless None, on the device.

        Weight j of run i is number i * run_step + j * weight_step.
        """
        device = self._device
        there = {
            "which": device.put(initial.which),
            "kinds": device.put(np.array([[KINDS.index(s.kind) for s in own] for own in initial.schemes])),
            "scales": device.put(np.array([[s.scale for s in own] for own in initial.schemes])),
            "firsts": device.put(np.array([[s.first for s in own] for own in initial.schemes])),
            "ends": device.put(np.cumsum(initial.lengths)),
            "weights": weights,
        }
        self._run(
            "draw_weights",
            self._count,
            **{name: device.address(array) for name, array in there.items()},
            n_parts=len(initial.lengths),
            best_weights=0 if best_weights is None else device.address(best_weights),
            run_step=run_step,
            weight_step=weight_step,
        )

    def orders(self, epochs: int, n: int) -> Any:
        """Draw an order of n rows for each epoch, int32 of the device: (streams, epochs, n)."""
        device, shape = self._device, (self._count, epochs, n)
        order, bucket_ends = device.empty(shape, np.int32), device.empty(shape, np.int32)
        keys = device.empty(shape, np.float64)
        places = {"keys": keys, "bucket_ends": bucket_ends, "order": order}
        addresses = {name: device.address(array) for name, array in places.items()}
        self._run("draw_keys", self._count, **addresses, epochs=epochs, n=n)
        self._run("draw_orders", self._count * epochs, **addresses, epochs=epochs, n=n)
        return order

    def _run(self, kernel: str, count: int, **values: int) -> None:
        """Run a kernel with a thread for each of `count` pieces of work."""
        own = {
            "state": self._device.address(self._state),
            "position": self._device.address(self._position),
            "n_streams": self._count,
        }
        arguments = struct(DRAWING, dict.fromkeys(DRAWING, 0) | own | values)
        self._device.launch(kernel, -(-count // THREADS), THREADS, 0, arguments)
