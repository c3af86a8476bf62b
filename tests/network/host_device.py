"""Run kernels.cu on the CPU, so that it can be tested where there is no CUDA device."""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnexp.network.engine.cuda.device import KERNELS, SOURCE

HEADER = Path(__file__).with_name("host.h")
SHARED_BYTES = 2**20  # as in the header


class HostDevice:
    """kernels.cu compiled as C++. One thread runs all blocks: the second finds no run left to train."""

    name = "host"

    def __init__(self, directory: Path, shared_bytes: int = SHARED_BYTES) -> None:
        library = directory / "kernels.so"
        if not library.exists():
            options = ["-O2", "-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", "-x", "c++"]
            command = ["g++", *options, "-include", str(HEADER), str(SOURCE), "-o", str(library)]
            subprocess.run(command, check=True)
        self._library = ctypes.CDLL(str(library))
        for name in KERNELS:
            self._library[name].restype = None
        self.shared_bytes = shared_bytes

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.array(array, order="C")

    def get(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.full(count, 255, np.uint8).view(dtype).reshape(shape)  # floats are nan, integers -1

    def zeros(self, shape: tuple[int, ...]) -> NDArray[Any]:
        return np.zeros(shape)

    def address(self, array: NDArray[Any]) -> int:
        return array.ctypes.data

    def launch(
        self, kernel: str, blocks: int, threads: int, shared_bytes: int, arguments: NDArray[np.void]
    ) -> None:
        assert shared_bytes <= max(self.shared_bytes, SHARED_BYTES)
        fields = [(name, ctypes.c_int64) for name in arguments.dtype.names or ()]
        struct: Any = type("Arguments", (ctypes.Structure,), {"_fields_": fields})
        self._library[kernel](struct.from_buffer_copy(arguments.tobytes()))
