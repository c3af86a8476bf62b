"""Train like a worker, but kill the process for one seed, or fail for one shape; used by test_distribute.py,
test_population.py and the fault matrix."""

import os
import signal

from nnexp.training.distribute import train_shard as train
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
