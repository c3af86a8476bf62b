"""Flush files to the disk before a row names them, since a power failure loses what is only in memory."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path


def flush(place: Path, names: Iterable[str]) -> None:
    """Flush these directories of `place`, with everything in them, to the disk. Raises OSError.

    Linux does this with one call for a whole file system, in a tenth of the time of a call for each file.
    """
    if not place.is_dir():
        return  # nothing was put there
    syncfs = _syncfs()
    if syncfs is not None and syncfs(place):
        return
    for name in names:
        for directory, _, files in os.walk(place / name):
            for file in files:
                _fsync(Path(directory, file))
            _fsync(Path(directory))
    for above in (place, *place.parents[:2]):
        _fsync(above)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache
def _syncfs() -> Callable[[Path], bool] | None:
    """Return Linux's syncfs, which Python does not offer; None on other systems.

    The function returns False if the kernel has no such call.
    """
    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError, TypeError):
        return None

    def syncfs(place: Path) -> bool:
        descriptor = os.open(place, os.O_RDONLY)
        try:
            if call(descriptor) == 0:
                return True
            number = ctypes.get_errno()
        finally:
            os.close(descriptor)
        if number == errno.ENOSYS:
            return False
        raise OSError(number, os.strerror(number), str(place))

    return syncfs
