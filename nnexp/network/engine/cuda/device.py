"""Use a CUDA device through CuPy: memory, and the kernels, which CuPy compiles and caches on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

SOURCE = Path(__file__).with_name("kernels.cu")
OPTIONS = ("--fmad=false", "--std=c++17")
KERNELS = (
    *("seed_streams", "draw_weights", "draw_keys", "draw_orders"),
    *("train_narrow", "train_wide", "train_large"),
)


class DeviceError(Exception):
    """Why a device cannot be used, in one line."""

    @classmethod
    def of(cls, error: Exception) -> "DeviceError":
        """Return it for an exception of CuPy, of CUDA or of the compiler."""
        return cls(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


class Device(Protocol):
    """What a training needs of a device. An array on it is whatever `put` and `empty` return."""

    name: str
    shared_bytes: int  # the shared memory that a block can have

    def put(self, array: NDArray[Any]) -> Any:
        """Copy an array to the device, in C order."""

    def get(self, array: Any) -> NDArray[Any]:
        """Copy an array back."""

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Return an array whose numbers are not set."""

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Return an array of floats that are 0."""

    def address(self, array: Any) -> int:
        """Return where the array's first number lies."""

    def launch(
        self, kernel: str, blocks: int, threads: int, shared_bytes: int, arguments: NDArray[np.void]
    ) -> None:
        """Run a kernel with one struct, and wait until it has ended."""


def struct(fields: Sequence[str], values: Mapping[str, int]) -> NDArray[np.void]:
    """Return a struct of kernels.cu whose fields have eight bytes each, for `launch`."""
    kinds = [(name, np.int64) for name in fields]
    return np.array([tuple(values[name] for name in fields)], dtype=kinds)


class CudaDevice:
    """The current CUDA device. Raises DeviceError if there is none, or if it cannot run the kernels."""

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError as error:
            raise DeviceError(f"CuPy cannot be imported ({error}): pip install 'nnexp[cuda]'") from error
        self._cupy: Any = cupy
        try:
            device = cupy.cuda.Device()
            self.name = f"cuda: {cupy.cuda.runtime.getDeviceProperties(device.id)['name'].decode()}"
            self.shared_bytes = int(device.attributes["MaxSharedMemoryPerBlockOptin"])
            module = cupy.RawModule(code=SOURCE.read_text(), options=OPTIONS)
            self._kernels = {name: module.get_function(name) for name in KERNELS}
            for kernel in self._kernels.values():
                kernel.max_dynamic_shared_size_bytes = self.shared_bytes - kernel.shared_size_bytes
        except Exception as error:  # whatever CuPy, CUDA or the compiler raises
            raise DeviceError.of(error) from error

    def put(self, array: NDArray[Any]) -> Any:
        return self._cupy.asarray(np.ascontiguousarray(array))

    def get(self, array: Any) -> NDArray[Any]:
        got: NDArray[Any] = self._cupy.asnumpy(array)
        return got

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        return self._cupy.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...]) -> Any:
        return self._cupy.zeros(shape)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def launch(
        self, kernel: str, blocks: int, threads: int, shared_bytes: int, arguments: NDArray[np.void]
    ) -> None:
        self._kernels[kernel]((blocks,), (threads,), (arguments,), shared_mem=shared_bytes)
        self._cupy.cuda.get_current_stream().synchronize()
