"""Open the pools that train shards outside this process: local processes or a Dask cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, ProcessPoolExecutor
from concurrent.futures import Executor as Pool
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numba

from nnexp.config.errors import Lost, RequestError
from nnexp.config.request import Executor
from nnexp.network import engine

# For a Dask cluster: how long to wait for an answer, how often to check it, how long it may have no workers.
ANSWER_SECONDS, LOOK_SECONDS, WORKERLESS_SECONDS = 10, 5.0, 60

# A pool of workers, and a function that raises Lost if the pool cannot work any more.
Workers = tuple[Pool, Callable[[], None]]
Opened = Callable[[], AbstractContextManager[Workers]]


def pools(executor: Executor) -> tuple[Opened, int]:
    """Return a function that opens a pool, and the number of its workers. Raises RequestError."""
    if executor.name == "processes":
        workers = executor.workers or os.cpu_count() or 1
        return lambda: _processes(workers), workers
    address = str(executor.address)
    return lambda: _cluster(address), _cluster_size(address)


def is_loss(error: BaseException) -> bool:
    """Return whether the error means a lost worker or connection, rather than training that raised."""
    lost = type(error).__name__ in ("KilledWorker", "ClosedClientError")  # Dask's, which may not be installed
    return lost or isinstance(error, BrokenExecutor | CancelledError)


@contextmanager
def kept(opened: Opened) -> Iterator[Opened]:
    """Yield a function that opens a pool once, and again only if it breaks; it stays open in between."""
    with ExitStack() as stack:
        now: Workers | None = None

        @contextmanager
        def open_one() -> Iterator[Workers]:
            nonlocal now
            if now is None or _is_broken(now[0]):
                stack.close()
                now = stack.enter_context(opened())
            yield now

        yield open_one


def _is_broken(pool: Pool) -> bool:
    try:
        pool.submit(int)
    except Exception as error:
        if is_loss(error):
            return True
        raise
    return False


@contextmanager
def _processes(workers: int) -> Iterator[Workers]:
    # Not forked: the child would inherit the engine's threads and the parent's locks in an unknown state.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield pool, lambda: None
    except BaseException:
        for process in list(pool._processes.values()):
            process.terminate()
        # A worker that was sending a result leaves part of it in the pipe. The pool's thread would wait for
        # the rest for ever, because this process could still write it.
        pool._result_queue._writer.close()  # type: ignore[attr-defined]
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Set up a worker: one thread, and an end when its parent process ends."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    vars(numba.config)["NUMBA_NUM_THREADS"] = 1
    parent = multiprocessing.parent_process()

    def leave() -> None:
        assert parent is not None  # spawned
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def _cluster_size(address: str) -> int:
    """Count the threads of a Dask cluster's workers. Raises RequestError if the cluster cannot train."""
    try:
        with _client(address) as client:
            workers: int = sum(client.nthreads().values())
            engines = _engines(client)
    except (OSError, ValueError) as error:
        raise RequestError(f"executor.address={address}: no scheduler answers: {error}") from error
    if not workers:
        raise RequestError(f"executor.address={address}: the cluster has no workers yet")
    if engines != {f"engine {engine.VERSION}"}:
        raise RequestError(
            f"executor.address={address}: its workers train with {' and '.join(sorted(engines))}, but this "
            f"is engine {engine.VERSION}: install the same there, and restart them"
        )
    return workers


def _engines(client: Any) -> set[str]:
    """Ask each worker of a cluster for its engine's version."""
    try:
        return {f"engine {version}" for version in client.run(_engine_version).values()}
    except OSError:
        raise
    except Exception as error:  # what a worker without nnexp raises is not always what importing it raised
        return {f"no nnexp ({error})"}


def _engine_version() -> str:
    return engine.VERSION


@contextmanager
def _cluster(address: str) -> Iterator[Workers]:
    """Open a Dask cluster as a pool. Raises Lost if the cluster goes away."""
    gone = f"the Dask cluster at {address} is gone"
    rest = "what is recorded is kept; the same command finishes the rest when it is back"
    looked = seen = time.monotonic()

    def check() -> None:
        nonlocal looked, seen
        if time.monotonic() - looked < LOOK_SECONDS:
            return
        try:
            has_workers = bool(client.nthreads())
        except OSError as error:
            raise Lost(f"{gone}: {error}; {rest}") from error
        looked = time.monotonic()
        if has_workers:
            seen = looked
        elif looked - seen > WORKERLESS_SECONDS:
            raise Lost(f"{gone}: it has had no worker for {WORKERLESS_SECONDS} s; {rest}")

    try:
        client = _client(address)
    except OSError as error:
        raise Lost(f"{gone}: {error}; {rest}") from error
    with client:
        # Not pure: Dask must not answer a shard that failed from its memory.
        yield client.get_executor(pure=False), check


def _client(address: str) -> Any:
    """Connect to the scheduler at this address without printing. Raises RequestError if Dask is not
    installed, OSError if nothing answers."""
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise RequestError("executor=dask needs Dask's distributed, which make install brings") from None
    # nnexp reports a cluster's errors itself, once.
    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="distributed")
    dask.config.set({"distributed.comm.timeouts.connect": f"{ANSWER_SECONDS} s"})
    return Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
