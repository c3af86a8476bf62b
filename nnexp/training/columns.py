"""Hold many runs as columns, arrays with a value for each run, so that no run needs an object of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nnexp.config.run import Choice, RunConfig
from nnexp.dataset.prepare import Prepared

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Columns:
    """Runs that can train as one batch: what they differ in, and in `like` what all of them share.

    Initialisations and prepared data are given once each; `init` and `rows` say which one a run has.
    """

    like: RunConfig  # any of the runs
    seed: IntArray
    learning_rate: Array
    epochs: IntArray
    patience: IntArray
    options: Mapping[str, Array]  # the optimizer's numbers
    inits: Sequence[Choice]
    init: IntArray
    data: Sequence[Prepared]
    rows: IntArray

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.seed)

    @classmethod
    def of(cls, configs: Sequence[RunConfig], prepared: Sequence[Prepared]) -> Columns:
        """Collect configurations of one shape, each with its prepared data."""
        options = [dict(config.optimizer.options) for config in configs]
        inits = {choice: i for i, choice in enumerate(dict.fromkeys(config.init for config in configs))}
        data = {id(one): one for one in prepared}
        place = {key: i for i, key in enumerate(data)}
        return cls(
            configs[0],
            np.array([config.seed for config in configs], dtype=np.int64),
            np.array([config.learning_rate for config in configs]),
            np.array([config.epochs for config in configs], dtype=np.int64),
            np.array([config.patience for config in configs], dtype=np.int64),
            {name: np.array([own[name] for own in options]) for name in options[0]},
            list(inits),
            np.array([inits[config.init] for config in configs], dtype=np.int64),
            list(data.values()),
            np.array([place[id(one)] for one in prepared], dtype=np.int64),
        )

    def take(self, which: IntArray) -> Columns:
        """Return the runs at these positions."""
        rows, used = np.unique(self.rows[which], return_inverse=True)
        return replace(
            self,
            seed=self.seed[which],
            learning_rate=self.learning_rate[which],
            epochs=self.epochs[which],
            patience=self.patience[which],
            options={name: values[which] for name, values in self.options.items()},
            init=self.init[which],
            data=[self.data[i] for i in rows],
            rows=used,
        )

    def lanes(self) -> tuple[IntArray, IntArray]:
        """Return the runs that lead a lane, and each run's lane; runs that differ only in epochs share it."""
        alone = np.arange(len(self))
        if (self.epochs == self.epochs[0]).all():
            return alone, alone
        counted = [self.seed, self.patience, self.init, self.rows]
        measured = [self.learning_rate, *self.options.values()]
        same = np.column_stack([*counted, *(values.view(np.int64) for values in measured)])
        _, lead, lane = np.unique(same, axis=0, return_index=True, return_inverse=True)
        return lead, lane.reshape(-1)

    def of_lanes(self, name: str) -> Array:
        """Return rows for the engine: once if all runs share them, else stacked, the run first."""
        arrays = [getattr(prepared, name) for prepared in self.data]
        found: Array = arrays[0] if len(arrays) == 1 else np.stack(arrays)[self.rows]
        return found
