"""Open the device that trains: the CPU, or a CUDA device."""

from __future__ import annotations

import logging
from functools import cache

from nnexp.config.errors import RequestError
from nnexp.config.request import Executor
from nnexp.network.engine import Batch
from nnexp.network.engine.batch import ARTICLES
from nnexp.network.engine.cuda.device import CudaDevice, Device, DeviceError

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
    """Return the CUDA device after training a network on it. Raises DeviceError."""
    device = CudaDevice()
    try:
        found = Batch(ARTICLES, [[0.0, 0.0]], [[1.0]], [[0.0] * 9], 1.0, 1, device=device).advance(1, [0])
    except Exception as error:  # whatever CuPy or CUDA raises
        raise DeviceError.of(error) from error
    if found.loss[0, 0] != 0.25:
        raise DeviceError(f"it computes a loss of {found.loss[0, 0]} that is 0.25")
    return device


def device_name(device: Device | None) -> str:
    """Return what the tag nnexp.device says."""
    return "cpu" if device is None else device.name
