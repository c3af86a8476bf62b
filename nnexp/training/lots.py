"""Train runs that are given as columns, in this process or by workers; yield their results as columns."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor as Pool
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnexp.config.request import Executor
from nnexp.dataset.load import Dataset
from nnexp.network.engine.cuda.device import Device
from nnexp.training.columns import Columns, IntArray
from nnexp.training.devices import cuda
from nnexp.training.distribute import Distributed, Task, Training
from nnexp.training.pools import pools
from nnexp.training.shard import Results
from nnexp.training.train import Failure, train_columns

# The most runs of a batch here, and of what is sent to a worker.
MAX_BATCH, MAX_SENT = 1 << 16, 4096


@dataclass(frozen=True)
class Failed:
    """Runs that failed, by their positions in the columns."""

    runs: IntArray
    failure: Failure


@dataclass(frozen=True, eq=False)
class Lot:
    """Runs of one data set that can train as one batch.

    `owner` and `rows` say where whoever asked for the runs has them; `curves` and `weights`, whether the
    results are to include those.
    """

    owner: Any
    rows: IntArray
    dataset: Dataset
    columns: Columns
    curves: bool
    weights: bool

    @property
    def epochs(self) -> int:
        return int(self.columns.epochs.sum())

    def __len__(self) -> int:
        return len(self.rows)

    def submit(self, pool: Pool, on_cuda: bool) -> Future[Any]:
        light = self.dataset.light()
        return pool.submit(train_lot, light, self.columns, self.curves, self.weights, on_cuda)

    def results(self, answer: list[Results | Failed]) -> list[EndedLot]:
        return [(self, result) for result in answer]

    def failed(self, failure: Failure) -> list[EndedLot]:
        return [(self, Failed(np.arange(len(self)), failure))]

    def halves(self) -> list[Task[EndedLot]]:
        return list(self.pieces(-(-len(self) // 2)))

    def pieces(self, most: int) -> Iterator[Lot]:
        """Yield the runs in lots of at most so many."""
        for start in range(0, len(self), most):
            some = np.arange(start, min(start + most, len(self)))
            yield replace(self, rows=self.rows[some], columns=self.columns.take(some))


# Some runs of a lot that have ended; the positions are those in its columns.
EndedLot = tuple[Lot, Results | Failed]


def execute_lots(lots: Iterator[Lot], executor: Executor, device: Device | None = None) -> Training[EndedLot]:
    """Return a generator that trains the lots, taking one when it needs it; close it to stop early.

    None is the CPU.

    Raises RequestError at once if the executor is unavailable, and Lost if it is lost during the work.
    """
    if executor.name == "inline":
        return _execute_here(lots, device)
    opened, workers = pools(executor)
    pieces = (piece for lot in lots for piece in lot.pieces(MAX_SENT))
    return Distributed(opened, workers, pieces, device is not None).run()


def _execute_here(lots: Iterator[Lot], device: Device | None) -> Training[EndedLot]:
    before = 0
    for lot in lots:
        for epochs_done, result in _trained(lot.dataset, lot.columns, lot.curves, lot.weights, device):
            yield before + epochs_done, [] if result is None else [(lot, result)]
        before += lot.epochs


def train_lot(
    dataset: Dataset, columns: Columns, curves: bool, weights: bool, on_cuda: bool
) -> list[Results | Failed]:
    """Train in a worker, on_cuda or on its CPU."""
    trained = _trained(dataset, columns, curves, weights, cuda() if on_cuda else None)
    return [result for _, result in trained if result is not None]


def _trained(
    dataset: Dataset, columns: Columns, curves: bool, weights: bool, device: Device | None
) -> Iterator[tuple[int, Results | Failed | None]]:
    """Train; yield (epochs done, the runs that have ended since, if any) several times a second."""
    for step in train_columns(dataset, columns, MAX_BATCH, device):
        if step.failure is not None:
            yield step.epochs_done, Failed(step.runs, step.failure)
        elif step.shard is not None and step.ended is not None and len(step.ended):
            results = step.shard.results(step.ended, curves, weights)
            runs = step.runs[step.ended.runs]
            yield step.epochs_done, replace(results, ended=replace(step.ended, runs=runs))
        else:
            yield step.epochs_done, None
