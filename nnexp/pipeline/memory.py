"""Give memory that was freed back to the system, which the allocators would rather keep."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Give freed memory back, so that what comes next does not add to what a large sweep has taken."""
    import pyarrow as pa  # takes long to import

    gc.collect()
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)
