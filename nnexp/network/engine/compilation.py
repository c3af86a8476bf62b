"""Compile the engine, and cache the result on disk, so that a second start need not compile again.

Numba's own cache looks only at the file of the cached function, and gives files of different CPUs
the same names. Here every version of the sources has its own directory for every kind of CPU, so
that a change in a helper function is noticed and machines that share a disk never use each other's
code. The directory is inside NUMBA_CACHE_DIR, or else `__pycache__`, or else the user's cache. If
none of them can be written to, every process compiles for itself.
"""

import hashlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import llvmlite
from numba import njit
from numba.core import caching
from numba.core.registry import cpu_target

_Function = TypeVar("_Function", bound=Callable[..., Any])
_OPTIONS: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "no_rewrites": True}


# Whether the CPU multiplies and adds with one rounding; every 64-bit ARM does.
_MACHINE = cpu_target.target_context.codegen().magic_tuple()
HAS_FMA = "+fma," in f"{_MACHINE[2]}," or _MACHINE[0].startswith(("aarch64", "arm64"))
# Whether there are 32 registers of eight floats.
HAS_LONG_REGISTERS = "+avx512f," in f"{_MACHINE[2]},"


def compiled(function: _Function) -> _Function:
    """Compile a function as part of the kernel that calls it, without fastmath: each operation as written.

    It gets no wrapper for calls from Python, which would double the compile time.
    """
    return cast(_Function, njit(error_model="numpy", **_OPTIONS)(function))


def inlined(function: _Function) -> _Function:
    """Compile as a part of its only caller: a level of calls less takes seconds less to compile."""
    return cast(_Function, njit(error_model="numpy", inline="always", **_OPTIONS)(function))


def placed(function: _Function) -> _Function:
    """Compile into each of its callers' loops, where vectors stay in registers."""
    return cast(_Function, njit(error_model="numpy", forceinline=True, **_OPTIONS)(function))


def kernel(*sources: ModuleType) -> Callable[[_Function], _Function]:
    """Compile a function that Python calls, without holding Python's lock, and cache the result on disk.

    sources: the modules, besides its own, whose functions it calls.
    """

    def decorate(function: _Function) -> _Function:
        dispatcher: Any = njit(error_model="numpy", nogil=True)(function)
        files = [inspect.getfile(function), __file__, *(inspect.getfile(m) for m in sources)]
        locators = _locators(_digest(files))
        if any(locator.from_function(function, files[0]) for locator in locators):
            dispatcher._cache = _cache_class(locators)(function)
        return cast(_Function, dispatcher)

    return decorate


def is_compiled(function: Any) -> bool:
    """Return whether a kernel is compiled: called before in this process, or cached on disk."""
    directory = function._cache.cache_path
    return bool(function.signatures) or (directory is not None and any(Path(directory).glob("*.nbc")))


def _digest(files: list[str]) -> str:
    """Hash what compiled code depends on: these sources, the CPU as Numba sees it, and the compiler."""
    digest = hashlib.sha256(repr(_MACHINE).encode())
    digest.update(llvmlite.__version__.encode())
    for file in files:
        with open(file, "rb") as source:
            digest.update(source.read())
    return digest.hexdigest()[:32]


def _locators(digest: str) -> list[Any]:
    """Return Numba's cache locators, each with our subdirectory appended to its directory."""

    def with_subdirectory(locator: type) -> type:
        class Locator(locator):  # type: ignore[misc]
            def get_cache_path(self) -> str:
                return os.path.join(super().get_cache_path(), f"kernels-{digest}")

            def get_source_stamp(self) -> str:
                return digest

        return Locator

    # Older versions of Numba have these names with an underscore before them.
    public = vars(caching) | {name.removeprefix("_"): value for name, value in vars(caching).items()}
    names = ("UserProvidedCacheLocator", "InTreeCacheLocator", "UserWideCacheLocator")
    return [with_subdirectory(public[name]) for name in names]


def _cache_class(locators: list[Any]) -> type:
    class Implementation(caching.CompileResultCacheImpl):
        _locator_classes = locators

    class KernelCache(caching.Cache):
        _impl_class: Any = Implementation

    return KernelCache
