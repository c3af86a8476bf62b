"""Train like a worker, but kill the process for one run, or fail for one; for tests and the fault matrix."""

import os
import signal

from nnexp.training.distribute import train_shard as train
from nnexp.training.judged import advanced as advance
from nnexp.training.lots import train_lot

DEADLY_SEED = 2


def train_shard(dataset, configs, on_cuda):
    if any(config.seed == DEADLY_SEED for config in configs):
        os.kill(os.getpid(), signal.SIGSEGV)
    return train(dataset, configs, on_cuda)


def failing_lot(dataset, columns, curves, weights, on_cuda):
    if columns.like.hidden == (3,):
        raise MemoryError("no room")
    return train_lot(dataset, columns, curves, weights, on_cuda)


def advanced(shard, until):
    """Kill the process for the seed 0 and the learning rate 1, and fail for the seed 1 and the rate 5."""
    runs = set(zip(shard._columns.seed.tolist(), shard._columns.learning_rate.tolist(), strict=True))
    if (0, 1) in runs and until == 20:
        os.kill(os.getpid(), signal.SIGSEGV)
    if (1, 5) in runs:
        raise MemoryError("no room")
    return advance(shard, until)
