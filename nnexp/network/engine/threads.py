"""Share work among threads, which compiled code can use at once: it does not hold Python's lock."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from numba import config

# How many parts there are for each thread, so that none waits long for the last.
TASKS = 8


def default_threads() -> int:
    """Return the number of threads that work: NUMBA_NUM_THREADS, or one per core."""
    return int(vars(config)["NUMBA_NUM_THREADS"])


def in_threads(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """Call work(first, last) for the parts of `count` pieces of work, on so many threads."""
    n_tasks = 1 if threads == 1 else max(1, min(count, TASKS * threads))
    ends = [count * task // n_tasks for task in range(n_tasks + 1)]
    if n_tasks == 1:
        work(0, count)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, ends[:-1], ends[1:]))
