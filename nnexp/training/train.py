"""Train networks for many configurations, in shards; yield their results and failures."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from nnexp.config.run import RunConfig
from nnexp.config.text import masked
from nnexp.dataset.load import Dataset
from nnexp.dataset.prepare import Prepared
from nnexp.network import engine
from nnexp.network.engine.cuda.device import Device
from nnexp.training.checks import check, weight_count
from nnexp.training.columns import Columns, IntArray
from nnexp.training.shard import Ended, Shard, Trained

# A shard's memory is bounded by its number of runs and by what their curves take.
MAX_SHARD, SHARD_BYTES = 2048, 128 * 2**20
# A CUDA device trains small networks faster the more they are.
DEVICE_SHARD = 1 << 14
# How many trained networks are objects at a time.
MAX_ENDED = 256


@dataclass(frozen=True)
class Failure:
    """Why a run failed: the reason in one line, and the traceback.

    Unlike an exception it can be sent between processes and keeps no frames alive.
    """

    reason: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        reason = masked(f"{type(error).__name__}: {error}")[:500]
        return cls(reason, masked("".join(traceback.format_exception(error))))


@dataclass(frozen=True)
class Progress:
    """The epochs trained so far, the runs that ended since the last Progress, and the current state of a run
    that trains alone."""

    epochs_done: int
    ended: list[tuple[int, Trained | Failure]]  # with the position in the configs
    current: Trained | None


@dataclass(frozen=True)
class Step:
    """A step of the training of columns: runs that ended since the last step, or one that failed."""

    epochs_done: int
    shard: Shard | None  # None if the run failed
    runs: IntArray  # the positions in the columns of the shard's runs, or of the run that failed
    ended: Ended | None
    current: Ended | None  # the run under way, if it trains alone
    failure: Failure | None = None


def train(dataset: Dataset, configs: Sequence[RunConfig], device: Device | None = None) -> Iterator[Progress]:
    """Train a network for each config, many at once; yield several times a second, and each result once.

    Runs of one shape train as a batch of the engine, on the CPU if no device is given. Raises RequestError
    before any work.
    """
    prepared = [check(dataset, config) for config in configs]
    most = MAX_SHARD if device is None else DEVICE_SHARD
    done = 0
    for group in groups_of(configs, prepared):
        columns = Columns.of([configs[i] for i in group], [prepared[i] for i in group])
        for step in train_columns(dataset, columns, most, device):
            if step.shard is None or step.ended is None:
                assert step.failure is not None  # a step without a shard says why
                yield Progress(done + step.epochs_done, [(group[step.runs[0]], step.failure)], None)
                continue
            own = [configs[group[run]] for run in step.runs.tolist()]
            ended = zip(step.runs[step.ended.runs].tolist(), step.shard.trained(step.ended, own), strict=True)
            current = None if step.current is None else next(step.shard.trained(step.current, own))
            results: Iterator[tuple[int, Trained | Failure]] = ((group[run], result) for run, result in ended)
            yield Progress(done + step.epochs_done, list(islice(results, MAX_ENDED)), current)
            while more := list(islice(results, MAX_ENDED)):
                yield Progress(done + step.epochs_done, more, None)
        done += int(columns.epochs.sum())


def train_columns(
    dataset: Dataset, columns: Columns, most: int, device: Device | None = None
) -> Iterator[Step]:
    """Train runs of one shape, in shards of at most `most` runs; yield several times a second.

    Runs that differ only in `epochs` are trained once, up to the longest. A shard that raises (or exits) is
    halved until the run that does it is alone; that run ends as a Failure, and the others go on.
    So a device's memory bounds its shards, too.
    """
    done, shards = 0, deque(shards_of(dataset, columns, most))
    while shards:
        runs = shards.popleft()
        is_left = np.ones(len(runs), dtype=bool)
        try:
            shard = Shard(dataset, columns.take(runs), device)
            for epochs_done, ended, current in shard.train():
                is_left[ended.runs] = False
                yield Step(done + epochs_done, shard, runs, ended, current)
        except (Exception, SystemExit) as error:
            left = runs[is_left]
            if len(left) > 1:
                half = len(left) // 2
                shards.extendleft([left[half:], left[:half]])
            else:
                is_left[:] = False
                end = done + int(columns.epochs[left].sum())
                yield Step(end, None, left, None, None, Failure.of(error))
        done += int(columns.epochs[runs[~is_left]].sum())


def groups_of(configs: Sequence[RunConfig], prepared: Sequence[Prepared]) -> Iterable[list[int]]:
    """Return the positions of runs of one shape, group by group."""
    groups: dict[tuple[Hashable, ...], list[int]] = {}
    for i, (config, data) in enumerate(zip(configs, prepared, strict=True)):
        groups.setdefault((*shape(config, data), irregular(config)), []).append(i)
    return groups.values()


def shards_of(dataset: Dataset, columns: Columns, most: int) -> Iterator[IntArray]:
    """Yield the positions of runs that train together, few enough for memory."""
    like, data = columns.like, columns.data[0]
    epochs = int(columns.epochs.max())
    kept = epochs // like.weights_every if like.weights_every else 0
    # The run's curves, all copies of its weights, and its rows if they are not shared.
    floats = 5 * (epochs // like.log_every + 2) + (kept + 7) * weight_count(dataset, like)
    if len(columns.data) > 1:
        floats += data.X.size + data.X_val.size + data.X_test.size
    size = max(engine.N_LANES, min(most, SHARD_BYTES // (8 * floats)))
    # Sorted by length, so that the lanes of a block end together.
    order = np.lexsort((columns.seed, columns.epochs))
    yield from (order[start : start + size] for start in range(0, len(order), size))


def shape(config: RunConfig, data: Prepared) -> tuple[Hashable, ...]:
    """Return what all runs of a batch must share; they may differ in initialisation, rates, seeds and length.

    Runs of different lengths must also have the same `irregular`.
    """
    return (
        config.dataset,
        config.hidden,
        config.activation,
        config.output_activation,
        config.loss,
        config.optimizer.name,
        config.batch_size,
        config.shuffle,
        *(len(rows) for rows in (data.X, data.X_val, data.X_test)),
        config.log_every,
        config.weights_every,
    )


def irregular(config: RunConfig) -> int:
    """Return the epochs of a run whose last is not a regular logging point, 0 for all others.

    Such runs batch only with each other: an additional logging point would check for divergence at an epoch
    at which the run alone does not.
    """
    return config.epochs if config.epochs % config.log_every else 0
