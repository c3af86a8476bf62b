"""Open the device that trains: the CPU, or a CUDA device."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np

from nnexp.config.errors import RequestError
from nnexp.config.request import Executor
from nnexp.config.run import Choice
from nnexp.network.engine import Batch
from nnexp.network.engine.batch import ARTICLES
from nnexp.network.engine.cuda.device import CudaDevice, Device, DeviceError
from nnexp.network.engine.cuda.draws import DeviceDraws
from nnexp.network.engine.draws import Draws
from nnexp.training.initial import networks

log = logging.getLogger("nnexp")


def open_device(name: str, executor: Executor) -> Device | None:
    """Return the device that `device=name` trains on; None for the CPU.

    Raises RequestError if there is no such device, or if it does not work.
    """
    if name == "cpu":
        return None
    if executor.name == "dask":
        raise RequestError(f"device={name}: executor=dask trains on CPUs only: leave one of them out")
    try:
        return cuda()
    except DeviceError as error:
        if name == "auto":
            log.info(f"device=auto: training on the CPU: {error}")
            return None
        raise RequestError(f"device=cuda: {error}; device=cpu gives the same results") from error


@cache
def cuda() -> CudaDevice:
    """Return the CUDA device after drawing and training networks on it. Raises DeviceError."""
    device = CudaDevice()
    try:
        draws_alike = _draws_alike(device)
        found = Batch(ARTICLES, [[0.0, 0.0]], [[1.0]], [[0.0] * 9], 1.0, 1, device=device).advance(1, [0])
    except Exception as error:  # whatever CuPy or CUDA raises
        raise DeviceError.of(error) from error
    if found.loss[0, 0] != 0.25:
        raise DeviceError(f"it computes a loss of {found.loss[0, 0]} that is 0.25")
    if not draws_alike:
        raise DeviceError("it draws other initial weights or orders of rows than the CPU")
    return device


def _draws_alike(device: Device) -> bool:
    """Tell whether some networks and orders of rows have the CPU's bits."""
    seeds = np.arange(64)
    initial = networks(Choice("normal", (("scale", 1.0),)), ARTICLES.sizes, seeds)
    batch = Batch(ARTICLES, [[0.0, 0.0]], [[1.0]], initial, 1.0, 1, device=device)
    orders = device.get(DeviceDraws(device, seeds).orders(2, 5))
    return np.array_equal(batch.weights, initial.weights) and np.array_equal(
        orders, Draws(seeds).orders(2, 5)
    )


def device_name(device: Device | None) -> str:
    """Return what the tag nnexp.device says."""
    return "cpu" if device is None else device.name
