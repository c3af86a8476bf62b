"""Train networks for many configurations, in shards; yield their results and failures."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from nnexp.config.run import RunConfig
from nnexp.config.text import masked
from nnexp.dataset.load import Dataset
from nnexp.dataset.prepare import Prepared
from nnexp.network import engine
from nnexp.network.engine.cuda.device import Device
from nnexp.training.checks import check, weight_count
from nnexp.training.shard import Shard, Trained

# A shard's memory is bounded by its number of runs and by what their curves take.
MAX_SHARD, SHARD_BYTES = 2048, 128 * 2**20


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


def train(dataset: Dataset, configs: Sequence[RunConfig], device: Device | None = None) -> Iterator[Progress]:
    """Train a network for each config, many at once; yield several times a second, and each result once.

    Runs of one shape train as a batch of the engine, in shards that bound the memory. Runs that differ only
    in `epochs` are trained once, up to the longest. A shard that raises (or exits) is halved until the run
    that does it is alone; that run ends as a Failure, and the others go on. So a device's memory bounds its
    shards, too. Raises RequestError before any work.
    """
    prepared = [check(dataset, config) for config in configs]
    done, shards = 0, deque(shards_of(dataset, configs, prepared))
    while shards:
        members = shards.popleft()
        left = dict.fromkeys(members)
        try:
            # Not kept in a variable: while the next shard begins, the memory of this one must be free.
            training = Shard(
                dataset, [configs[i] for i in members], [prepared[i] for i in members], device
            ).train()
            for epochs_done, ended, current in training:
                for i, _ in ended:
                    del left[members[i]]
                yield Progress(done + epochs_done, [(members[i], run) for i, run in ended], current)
        except (Exception, SystemExit) as error:
            todo = list(left)
            if len(todo) > 1:
                half = len(todo) // 2
                shards.extendleft([todo[half:], todo[:half]])
            else:
                left.clear()
                yield Progress(done + configs[todo[0]].epochs, [(todo[0], Failure.of(error))], None)
        done += sum(configs[i].epochs for i in members if i not in left)


def shards_of(
    dataset: Dataset, configs: Sequence[RunConfig], prepared: Sequence[Prepared]
) -> Iterator[list[int]]:
    """Yield the positions of runs that train together: of one shape, and few enough for memory."""
    groups: dict[tuple[Hashable, ...], list[int]] = {}
    for i, config in enumerate(configs):
        groups.setdefault(_shape(config, prepared[i]), []).append(i)
    for group in groups.values():
        config, data = configs[group[0]], prepared[group[0]]
        epochs = max(configs[i].epochs for i in group)
        kept = epochs // config.weights_every if config.weights_every else 0
        # The run's curves, all copies of its weights, and its rows if they are not shared.
        floats = 5 * (epochs // config.log_every + 2) + (kept + 7) * weight_count(dataset, config)
        if any(prepared[i] is not data for i in group):
            floats += data.X.size + data.X_val.size + data.X_test.size
        size = max(engine.N_LANES, min(MAX_SHARD, SHARD_BYTES // (8 * floats)))
        # Sorted by length, so that the lanes of a block end together.
        group.sort(key=lambda i: (configs[i].epochs, configs[i].seed))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _shape(config: RunConfig, data: Prepared) -> tuple[Hashable, ...]:
    """Return what all runs of a batch must share; they may differ in initialisation, rates, seeds and length.

    Runs whose last epoch is not a regular logging point batch only with each other: an additional logging
    point would check for divergence at an epoch at which the run alone does not.
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
        config.epochs if config.epochs % config.log_every else None,
    )
