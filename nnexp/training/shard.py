"""Train one shard: runs of one shape, as the lanes of one batch of the engine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nnexp.config.run import RunConfig
from nnexp.dataset.load import Dataset
from nnexp.dataset.prepare import Prepared
from nnexp.network import engine
from nnexp.network import reference as network
from nnexp.network.engine.cuda.device import Device
from nnexp.network.reference import Layers, Network
from nnexp.training.checks import network_sizes
from nnexp.training.columns import Columns, IntArray
from nnexp.training.initial import initial_weights

Array = NDArray[np.float64]
# The seconds of work between two yields; the first chunk has so many steps of one sample, a guess.
CHUNK_SECONDS, CHUNK_STEPS = 0.2, 200_000
# The bytes that the orders of a chunk's shuffled rows may take.
ORDER_BYTES = 128 * 2**20
# A regression has converged when it explains this share of the target's variance.
CONVERGED_R2 = 0.99
# How a training can end, in the order of the codes by which columns say it.
OUTCOMES = ("converged", "diverged", "finished", "pruned")
CONVERGED, DIVERGED, FINISHED, PRUNED = range(4)
CURVES = ("loss", "accuracy", "grad_norm", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Trained:
    """One network, trained so far; with patience, as it was at its lowest val_loss so far.

    Curves hold one value for each of `epochs`, the completed epochs; the last is the network's.
    """

    config: RunConfig
    prepared: Prepared
    epochs: NDArray[np.int64]  # (points,)
    curves: dict[str, Array]  # (points,): loss, grad_norm; accuracy, val_loss, val_accuracy where they apply
    initial: Network
    final: Network
    kept: dict[int, Layers]  # the weights every `weights_every` epochs
    outcome: str  # converged, diverged, finished, or pruned if a search ended it early
    # What is recorded once, at the end: test_loss, test_accuracy, best_epoch, trained_epochs; if any.
    once: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """Runs of a shard that have ended, or one that is under way, as columns with a row for each."""

    runs: IntArray  # their positions in the shard
    at: IntArray  # the completed epochs of the network: with patience, those with the lowest val_loss
    outcome: IntArray  # codes of OUTCOMES
    weights: Array  # (runs, weights), as `network.flatten` orders them
    once: dict[str, Array]  # what is recorded once; nan where a run has none

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.runs)


@dataclass(frozen=True)
class Results:
    """What is recorded of runs that have ended, as columns; unlike a shard it can be sent to another process.

    Of curves and kept weights there are a number for each run, and all of them one run after another.
    """

    ended: Ended
    last: dict[str, Array]  # the last finite value of each metric, nan where there is none
    curves: tuple[IntArray, dict[str, Array]] | None
    initial: Array | None
    kept: tuple[IntArray, Array] | None


def log_epochs(longest: int, log_every: int, ends: Iterable[int]) -> NDArray[np.int64]:
    """List the epochs to record: 0, every `log_every` up to the longest, and the last of each run."""
    return np.union1d(np.arange(0, longest + 1, log_every), np.fromiter(ends, dtype=np.int64))


class Shard:
    """Runs that train together as lanes of one engine batch."""

    def __init__(self, dataset: Dataset, columns: Columns, device: Device | None = None) -> None:
        self._columns, self._epochs, like = columns, columns.epochs.copy(), columns.like
        leads, self._lane = columns.lanes()
        led = columns.take(leads)
        longest = np.zeros(len(led), dtype=np.int64)
        np.maximum.at(longest, self._lane, self._epochs)
        self._sizes = network_sizes(dataset, like)
        self._initial = initial_weights(led, self._sizes)
        self._n, self._n_lanes = len(led.data[0].X), len(led)
        has_validation = len(led.data[0].X_val) > 0
        self._model = engine.Model(
            tuple(self._sizes),
            like.activation,
            like.output_activation,
            like.loss,
            like.optimizer.name,
            self._n if like.batch_size == "full" else int(like.batch_size),
            bool(dataset.classes),
        )
        self._batch = engine.Batch(
            self._model,
            led.of_lanes("X"),
            led.of_lanes("y"),
            self._initial,
            led.learning_rate,
            longest,
            led.options,
            led.of_lanes("X_val") if has_validation else None,
            led.of_lanes("y_val") if has_validation else None,
            patience=led.patience,
            shuffle=np.column_stack([led.seed, np.full(len(led), 2)]) if like.shuffle else None,
            device=device,
        )
        self._has_patience = bool(led.patience.any())
        # Of the rows, the variance that an outcome is judged by.
        self._variance = np.array([float(np.mean((data.y - data.y.mean()) ** 2)) for data in columns.data])
        self._points = log_epochs(int(longest.max()), like.log_every, np.unique(self._epochs).tolist())
        self._curves: dict[str, Array] = {}  # (lanes, points)
        self._kept: dict[int, Array] = {}  # the weights of all lanes, by epoch
        self._chunk = max(1, CHUNK_STEPS // (self._n * max(engine.N_LANES, self._n_lanes)))
        fitting = ORDER_BYTES // (4 * self._n * self._n_lanes) if like.shuffle else int(longest.max())
        self._longest_chunk = max(1, fitting)

    def train(self) -> Iterator[tuple[int, Ended, Ended | None]]:
        """Yield (epochs done, ended runs, the run under way if it is the only one) a few times a second."""
        waiting = np.ones(len(self._columns), dtype=bool)
        while waiting.any():
            until = self._advance_a_little(int(self._epochs.max()))
            has_ended = self.ends <= until
            ended = np.flatnonzero(waiting & has_ended)
            waiting &= ~has_ended
            alone = len(waiting) == 1 and bool(waiting[0])
            yield self.epochs_done, self.ended(ended), self.ended(np.array([0])) if alone else None

    def advance(self, until: int) -> Iterator[None]:
        """Train all runs up to `until` completed epochs; yield a few times a second."""
        while self.is_behind(until):
            self._advance_a_little(until)
            yield

    def is_behind(self, until: int) -> bool:
        """Return whether any run is still to train before `until` epochs are completed."""
        return self._batch.epoch < min(until, int(self._epochs.max()))

    def shorten(self, runs: IntArray) -> None:
        """Let these runs end now, as if they had been configured for as many epochs."""
        self._epochs[runs] = self._batch.epoch
        longest = np.zeros(self._n_lanes, dtype=np.int64)
        np.maximum.at(longest, self._lane, self._epochs)
        self._batch.shorten(longest)

    @property
    def epoch(self) -> int:
        """Return the epochs that the runs have completed, unless they have ended before."""
        return self._batch.epoch

    @property
    def epochs_done(self) -> int:
        """Return the epochs that all runs have trained together."""
        return int(np.minimum(self._epochs, self._batch.epoch).sum())

    @property
    def ends(self) -> IntArray:
        """Return the epoch at which each run ends, as far as is known: (runs,)."""
        over = np.maximum(self._batch.diverged, self._batch.stopped)[self._lane]  # a run never does both
        return np.where(over < 0, self._epochs, np.minimum(self._epochs, over))

    def measured(self, metric: str) -> Array:
        """Return each run's metric now, as its result would have it; nan if it diverged: (runs,)."""
        at, is_diverged = self._at()
        return np.where(is_diverged, np.nan, self._curves[metric][self._lane, self._last_points(at)])

    def ended(self, runs: IntArray) -> Ended:
        """Collect these runs as they are now, and test them if all of them have ended."""
        if not len(runs):
            return Ended(runs, runs, runs, np.empty((0, self._model.n_weights)), {})
        at, is_diverged = self._at()
        ends, batch = self.ends, self._batch
        weights = batch.weights
        if self._has_patience:
            weights = np.where(batch.diverged[:, None] < 0, batch.best_weights, weights)
        epochs, diverged, w = at[runs], is_diverged[runs], weights[self._lane[runs]]
        once = dict[str, Array]()
        if (ends[runs] <= batch.epoch).all():
            once |= self._tested(runs, w)
            waited = (self._columns.patience[runs] > 0) & ~diverged
            if waited.any():
                once["best_epoch"] = np.where(waited, epochs, np.nan)
                once["trained_epochs"] = np.where(waited, ends[runs], np.nan)
        return Ended(runs, epochs, self._outcomes(runs, epochs, diverged), w, once)

    def trained(self, ended: Ended, configs: Sequence[RunConfig]) -> Iterator[Trained]:
        """Yield each of these runs as an object of its own, given the configurations of all."""
        columns, like = self._columns, self._columns.like
        functions = (like.activation, like.output_activation, like.loss)
        lanes = self._lane[ended.runs]
        final, initial = (
            network.unflatten(w, self._sizes) for w in (ended.weights, self._initial.weights[lanes])
        )
        kept = {epoch: network.unflatten(w[lanes], self._sizes) for epoch, w in self._kept.items()}
        last = self._last_points(ended.at)
        for i, (run, lane, end) in enumerate(
            zip(ended.runs.tolist(), lanes.tolist(), ended.at.tolist(), strict=True)
        ):
            count = int(last[i]) + 1
            yield Trained(
                configs[run],
                columns.data[columns.rows[run]],
                self._points[:count],
                {name: values[lane, :count].copy() for name, values in self._curves.items()},
                Network(_of_run(initial, i), *functions),
                Network(_of_run(final, i), *functions),
                {epoch: _of_run(layers, i) for epoch, layers in kept.items() if epoch <= end},
                OUTCOMES[ended.outcome[i]],
                {name: float(values[i]) for name, values in ended.once.items() if not np.isnan(values[i])},
            )

    def results(self, ended: Ended, curves: bool, weights: bool) -> Results:
        """Return the results of these runs, with curves or all weights if asked for."""
        return Results(
            ended,
            self._last_values(ended),
            self._all_curves(ended) if curves else None,
            self._initial.weights[self._lane[ended.runs]] if weights else None,
            self._all_kept(ended) if weights else None,
        )

    def _last_values(self, ended: Ended) -> dict[str, Array]:
        """Return the last finite value of each metric, (runs,), nan where there is none."""
        lanes, last = self._lane[ended.runs], self._last_points(ended.at)
        result = {}
        for name, curves in self._curves.items():
            values = curves[lanes, last]
            odd = np.flatnonzero(~np.isfinite(values))  # of runs that diverged
            if len(odd):
                before = curves[lanes[odd]]
                before[~np.isfinite(before) | (np.arange(len(self._points)) > last[odd, None])] = np.nan
                at = len(self._points) - 1 - (~np.isnan(before[:, ::-1])).argmax(axis=1)
                values[odd] = before[np.arange(len(odd)), at]
            result[name] = values
        return result | {name: np.where(np.isfinite(v), v, np.nan) for name, v in ended.once.items()}

    def _all_curves(self, ended: Ended) -> tuple[IntArray, dict[str, Array]]:
        """Return how many points each run's curves have, and of each metric all curves one after another."""
        lanes, last = self._lane[ended.runs], self._last_points(ended.at)
        is_there = np.arange(len(self._points)) <= last[:, None]
        return last + 1, {name: values[lanes][is_there] for name, values in self._curves.items()}

    def _all_kept(self, ended: Ended) -> tuple[IntArray, Array]:
        """Return how many kept weights each run has, and all of them one after another, (kept, weights)."""
        epochs = np.array(sorted(self._kept), dtype=np.int64)
        is_there = epochs <= ended.at[:, None]
        if not len(epochs):
            return is_there.sum(axis=1), np.empty((0, self._model.n_weights))
        stacked = np.stack([self._kept[epoch][self._lane[ended.runs]] for epoch in epochs.tolist()], axis=1)
        return is_there.sum(axis=1), stacked[is_there]

    def _last_points(self, at: IntArray) -> IntArray:
        """Return the position of the last point of a curve that ends at each of these epochs.

        All points before it are on that curve: only runs of one length have a point beside the regular ones.
        """
        return np.searchsorted(self._points, at, side="right") - 1

    def _at(self) -> tuple[IntArray, NDArray[np.bool_]]:
        """Return the epoch of each run's network now, and whether the run has diverged.

        With patience the network is that of the best epoch so far, and what came later is left out.
        """
        ends, found, best = self.ends, self._batch.diverged[self._lane], self._batch.best_epoch[self._lane]
        is_diverged = (found >= 0) & (found <= ends)
        return np.where(is_diverged | (best < 0), np.minimum(ends, self._batch.epoch), best), is_diverged

    def _advance_a_little(self, until: int) -> int:
        """Train for about CHUNK_SECONDS, at most to `until` or the next epoch at which a run ends.

        Returns the epoch. Chunks are so short that the caller can show progress, and an interrupt arrives, at
        once.
        """
        batch, every = self._batch, self._columns.like.weights_every
        if every:
            until = min(until, (batch.epoch // every + 1) * every)
            if batch.epoch == 0:
                self._kept[0] = batch.weights
        next_end = self._epochs[self._epochs > batch.epoch].min(initial=until)
        until = min(until, int(next_end), batch.epoch + self._chunk)
        started = time.monotonic()
        self._advance(until)
        pace = CHUNK_SECONDS / max(time.monotonic() - started, 1e-6)
        self._chunk = max(1, min(self._longest_chunk, int(self._chunk * min(4.0, max(0.25, pace)))))
        if every and until % every == 0:
            self._kept[until] = batch.weights
        return until

    def _advance(self, until: int) -> None:
        """Train all lanes up to `until` completed epochs, and add the measures to the curves."""
        batch, since = self._batch, self._batch.epoch
        at = np.flatnonzero((self._points > since) & (self._points <= until))
        if not self._curves:
            at = np.concatenate([[0], at])  # the untrained networks are measured in the first call
        measured = batch.advance(until, self._points[at].tolist())
        between = slice(at[0], at[-1] + 1) if len(at) else slice(0, 0)
        for name in CURVES:
            values = getattr(measured, name)
            if values is not None:
                shape = (self._n_lanes, len(self._points))
                if name not in self._curves:
                    self._curves[name] = np.full(shape, np.nan)
                self._curves[name][:, between] = values

    def _outcomes(self, runs: IntArray, at: IntArray, is_diverged: NDArray[np.bool_]) -> IntArray:
        """Return whether these runs converged, diverged or just finished, as codes of OUTCOMES."""
        lanes, last = self._lane[runs], self._last_points(at)
        if "accuracy" in self._curves:
            has_converged = self._curves["accuracy"][lanes, last] == 1.0
        else:
            unexplained = (1 - CONVERGED_R2) * self._variance[self._columns.rows[runs]]
            has_converged = self._curves["loss"][lanes, last] <= unexplained
        return np.where(is_diverged, DIVERGED, np.where(has_converged, CONVERGED, FINISHED))

    def _tested(self, runs: IntArray, weights: Array) -> dict[str, Array]:
        """Measure test_loss and test_accuracy of these runs, given their weights."""
        tested = self._columns.take(runs)
        if len(tested.data[0].X_test) == 0:
            return {}
        model = replace(self._model, optimizer="sgd")  # which has no options; nothing is trained
        X, y = (tested.of_lanes(name) for name in ("X_test", "y_test"))
        found = engine.Batch(model, X, y, weights, 1.0, 0).advance(0, [0])
        values = {"test_loss": found.loss, "test_accuracy": found.accuracy}
        return {name: of_run[:, 0] for name, of_run in values.items() if of_run is not None}


def _of_run(layers: Layers, run: int) -> Layers:
    """Copy one run's weights, so that the arrays of all can be freed."""
    return tuple((W[run].copy(), b[run].copy()) for W, b in layers)
