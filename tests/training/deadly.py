"""Train like a worker, but kill the process for one seed; used by test_distribute.py and the fault matrix."""

import os
import signal

from nnexp.training.distribute import train_shard as train

DEADLY_SEED = 2


def train_shard(dataset, configs, on_cuda):
    if any(config.seed == DEADLY_SEED for config in configs):
        os.kill(os.getpid(), signal.SIGSEGV)
    return train(dataset, configs, on_cuda)
