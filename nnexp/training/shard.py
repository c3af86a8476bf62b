"""Train one shard: runs of one shape, as the lanes of one batch of the engine."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nnexp.config.run import RunConfig
from nnexp.dataset.load import Dataset
from nnexp.dataset.prepare import Prepared
from nnexp.network import engine
from nnexp.network import reference as network
from nnexp.network.engine.cuda.device import Device
from nnexp.network.engine.draws import Draws
from nnexp.network.reference import Layers, Network
from nnexp.training.checks import network_sizes
from nnexp.training.initial import initial_weights

Array = NDArray[np.float64]
# The seconds of work between two yields; the first chunk has so many steps of one sample, a guess.
CHUNK_SECONDS, CHUNK_STEPS = 0.2, 200_000
# A regression has converged when it explains this share of the target's variance.
CONVERGED_R2 = 0.99


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


def log_epochs(longest: int, log_every: int, ends: Iterable[int]) -> NDArray[np.int64]:
    """List the epochs to record: 0, every `log_every` up to the longest, and the last of each run."""
    return np.union1d(np.arange(0, longest + 1, log_every), np.fromiter(ends, dtype=np.int64))


class Shard:
    """Runs that train together as lanes of one engine batch."""

    def __init__(
        self,
        dataset: Dataset,
        configs: list[RunConfig],
        prepared: list[Prepared],
        device: Device | None = None,
    ) -> None:
        self._configs, self._prepared = list(configs), prepared
        self._epochs = np.array([config.epochs for config in configs], dtype=np.int64)
        # Runs that differ only in their number of epochs share a lane, led by the first of them.
        leads: dict[tuple[Hashable, ...], int] = {}
        lane_of: dict[int, int] = {}
        self._lane = np.empty(len(configs), dtype=np.int64)
        for i, c in enumerate(configs):
            same = (c.init, c.optimizer, c.learning_rate, c.seed, c.patience, id(prepared[i]))
            self._lane[i] = lane_of.setdefault(leads.setdefault(same, i), len(lane_of))
        first = configs[0]
        led, data = [configs[i] for i in lane_of], [prepared[i] for i in lane_of]
        longest = np.zeros(len(led), dtype=np.int64)
        np.maximum.at(longest, self._lane, self._epochs)
        self._sizes = network_sizes(dataset, first)
        initial = initial_weights(led, self._sizes)
        self._initial = network.unflatten(initial, self._sizes)
        self._n, self._n_lanes = len(data[0].X), len(led)
        options = [dict(config.optimizer.options) for config in led]
        has_validation = len(data[0].X_val) > 0
        self._model = engine.Model(
            tuple(self._sizes),
            first.activation,
            first.output_activation,
            first.loss,
            first.optimizer.name,
            self._n if first.batch_size == "full" else int(first.batch_size),
            bool(dataset.classes),
        )
        self._batch = engine.Batch(
            self._model,
            _rows(data, "X"),
            _rows(data, "y"),
            initial,
            [config.learning_rate for config in led],
            longest,
            {name: [own[name] for own in options] for name in options[0]},
            _rows(data, "X_val") if has_validation else None,
            _rows(data, "y_val") if has_validation else None,
            patience=[config.patience for config in led],
            device=device,
        )
        self._has_patience = any(config.patience for config in led)
        self._orders = Draws([[config.seed, 2] for config in led]) if first.shuffle else None
        self._points = log_epochs(int(longest.max()), first.log_every, set(self._epochs.tolist()))
        self._points_by_end: dict[int, NDArray[np.int64]] = {}
        self._curves: dict[str, Array] = {}
        self._kept: dict[int, Layers] = {}  # the weights of all lanes, by epoch
        self._chunk = max(1, CHUNK_STEPS // (self._n * max(engine.N_LANES, self._n_lanes)))

    def train(self) -> Iterator[tuple[int, list[tuple[int, Trained]], Trained | None]]:
        """Yield (epochs done, ended runs, the current run if it is the only one) a few times a second."""
        waiting = np.ones(len(self._configs), dtype=bool)
        while waiting.any():
            until = self._advance_a_little(int(self._epochs.max()))
            ended = np.flatnonzero(waiting & (self.ends <= until)).tolist()
            waiting &= self.ends > until
            results = list(zip(ended, self.results(ended), strict=True))
            alone = len(self._configs) == 1 and bool(waiting[0])
            yield self.epochs_done, results, self.results([0])[0] if alone else None

    def advance(self, until: int) -> Iterator[None]:
        """Train all runs up to `until` completed epochs; yield a few times a second."""
        while self._batch.epoch < until:
            self._advance_a_little(until)
            yield

    def shorten(self, runs: list[int]) -> None:
        """Let these runs end now, as if they had been configured for as many epochs."""
        now = self._batch.epoch
        for i in runs:
            self._configs[i] = replace(self._configs[i], epochs=now)
        self._epochs[runs] = now
        longest = np.zeros(self._n_lanes, dtype=np.int64)
        np.maximum.at(longest, self._lane, self._epochs)
        self._batch.shorten(longest)

    @property
    def epochs_done(self) -> int:
        """Return the epochs that all runs have trained together."""
        return int(np.minimum(self._epochs, self._batch.epoch).sum())

    @property
    def ends(self) -> NDArray[np.int64]:
        """Return the epoch at which each run ends, as far as is known: (runs,)."""
        over = np.maximum(self._batch.diverged, self._batch.stopped)  # a run never does both
        over = over[self._lane]
        ends: NDArray[np.int64] = np.where(over < 0, self._epochs, np.minimum(self._epochs, over))
        return ends

    def measured(self, metric: str) -> Array:
        """Return each run's metric now, as its result would have it; nan if it diverged: (runs,)."""
        at, is_diverged = self._at()
        values: Array = self._curves[metric][self._lane, np.searchsorted(self._points, at)]
        return np.where(is_diverged, np.nan, values)

    def results(self, runs: list[int]) -> list[Trained]:
        """Return what became of these runs so far; those that have ended are tested."""
        if not runs:
            return []
        at, is_diverged = self._at()
        weights = self._batch.weights
        if self._has_patience:
            weights = np.where(self._batch.diverged[:, None] < 0, self._batch.best_weights, weights)
        layers = network.unflatten(weights, self._sizes)
        ends = self.ends
        ended = [i for i in runs if ends[i] <= self._batch.epoch]
        tested: dict[int, dict[str, float]] = dict(zip(ended, self._tested(ended, layers), strict=True))
        for i in ended:
            if self._configs[i].patience and not is_diverged[i]:
                tested[i] |= {"best_epoch": float(at[i]), "trained_epochs": float(ends[i])}
        return [self._trained(i, int(at[i]), layers, bool(is_diverged[i]), tested.get(i, {})) for i in runs]

    def _at(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the epoch of each run's network now, and whether the run has diverged.

        With patience the network is that of the best epoch so far, and what came later is left out.
        """
        batch, ends = self._batch, self.ends
        found, best = batch.diverged[self._lane], batch.best_epoch[self._lane]
        is_diverged = (found >= 0) & (found <= ends)
        return np.where(is_diverged | (best < 0), np.minimum(ends, batch.epoch), best), is_diverged

    def _advance_a_little(self, until: int) -> int:
        """Train for about CHUNK_SECONDS, at most to `until` or the next epoch at which a run ends.

        Returns the epoch. Chunks are so short that the caller can show progress, and an interrupt arrives, at
        once.
        """
        batch, every = self._batch, self._configs[0].weights_every
        if every:
            until = min(until, (batch.epoch // every + 1) * every)
            if batch.epoch == 0:
                self._kept[0] = network.unflatten(batch.weights, self._sizes)
        next_end = self._epochs[self._epochs > batch.epoch].min(initial=until)
        until = min(until, int(next_end), batch.epoch + self._chunk)
        started = time.monotonic()
        self._advance(until)
        pace = CHUNK_SECONDS / max(time.monotonic() - started, 1e-6)
        self._chunk = max(1, int(self._chunk * min(4.0, max(0.25, pace))))
        if every and until % every == 0:
            self._kept[until] = network.unflatten(batch.weights, self._sizes)
        return until

    def _advance(self, until: int) -> None:
        """Train all lanes up to `until` completed epochs, and add the measures to the curves."""
        batch, since = self._batch, self._batch.epoch
        at = np.flatnonzero((self._points > since) & (self._points <= until))
        if not self._curves:
            at = np.concatenate([[0], at])  # the untrained networks are measured in the first call
        order = None
        if self._orders is not None:
            order = np.argsort(self._orders.random((until - since, self._n)), axis=2, kind="stable")
        measured = batch.advance(until, self._points[at].tolist(), order)
        for name in ("loss", "accuracy", "grad_norm", "val_loss", "val_accuracy"):
            values = getattr(measured, name)
            if values is not None:
                shape = (self._n_lanes, len(self._points))
                if name not in self._curves:
                    self._curves[name] = np.full(shape, np.nan)
                self._curves[name][:, at] = values

    def _tested(self, runs: list[int], layers: Layers) -> list[dict[str, float]]:
        """Measure test_loss and test_accuracy of these runs, given the layers of all lanes."""
        data = [self._prepared[i] for i in runs]
        if not data or len(data[0].X_test) == 0:
            return [{} for _ in runs]
        w = np.stack([network.flatten(_of_lane(layers, self._lane[i])) for i in runs])
        model = replace(self._model, optimizer="sgd")  # which has no options; nothing is trained
        found = engine.Batch(model, _rows(data, "X_test"), _rows(data, "y_test"), w, 1.0, 0).advance(0, [0])
        values = {"test_loss": found.loss, "test_accuracy": found.accuracy}
        return [
            {name: float(of_run[k, 0]) for name, of_run in values.items() if of_run is not None}
            for k in range(len(runs))
        ]

    def _trained(self, i: int, end: int, layers: Layers, diverged: bool, once: dict[str, float]) -> Trained:
        """Build the result of run i at epoch `end`, given the layers of all lanes at that epoch."""
        config, lane = self._configs[i], self._lane[i]
        at = self._points_of(end)
        curves = {name: values[lane, at] for name, values in self._curves.items()}
        kept = {epoch: _of_lane(all_lanes, lane) for epoch, all_lanes in self._kept.items() if epoch <= end}
        return Trained(
            config,
            self._prepared[i],
            self._points[at],
            curves,
            Network(_of_lane(self._initial, lane), config.activation, config.output_activation, config.loss),
            Network(_of_lane(layers, lane), config.activation, config.output_activation, config.loss),
            kept,
            "diverged" if diverged else _outcome(curves, self._prepared[i].y),
            once,
        )

    def _points_of(self, end: int) -> NDArray[np.int64]:
        """Return the positions of the points on the curve of a run that ends at epoch `end`; cached."""
        if end not in self._points_by_end:
            points, every = self._points, self._configs[0].log_every
            on_curve = (points <= end) & ((points % every == 0) | (points == end))
            self._points_by_end[end] = np.flatnonzero(on_curve)
        return self._points_by_end[end]


def _rows(data: list[Prepared], name: str) -> Array:
    """Return rows for the engine: once where all runs share them, else stacked, the run first."""
    arrays: list[Array] = [getattr(prepared, name) for prepared in data]
    return arrays[0] if all(prepared is data[0] for prepared in data) else np.stack(arrays)


def _of_lane(layers: Layers, lane: int) -> Layers:
    """Copy one lane's weights, so that the arrays of all lanes can be freed."""
    return tuple((W[lane].copy(), b[lane].copy()) for W, b in layers)


def _outcome(curves: Mapping[str, Array], y: Array) -> str:
    """Return the outcome of a run that stayed finite: converged or finished."""
    if "accuracy" in curves:
        return "converged" if curves["accuracy"][-1] == 1.0 else "finished"
    variance = float(np.mean((y - y.mean()) ** 2))
    return "converged" if curves["loss"][-1] <= (1 - CONVERGED_R2) * variance else "finished"
