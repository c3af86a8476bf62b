"""Give memory that was freed back to the system, which the allocators would rather keep."""

from __future__ import annotations

import ctypes
import gc

# A parameter of glibc's mallopt, and the size in bytes from which freed memory goes back at once.
M_MMAP_THRESHOLD, LARGE = -3, 1 << 17
# What fewer networks than this have taken is not worth the time.
FEW = 2000


def give_back(networks: int) -> None:
    """Give freed memory back, so that what comes next does not add to what so many networks have taken.

    From then on what is large goes back as soon as it is freed.
    """
    if networks < FEW:
        return
    import pyarrow as pa  # takes long to import

    gc.collect()
    pa.default_memory_pool().release_unused()
    pa.set_memory_pool(pa.system_memory_pool())
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # only glibc has it
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.malloc_trim(0)
