"""Collect the results of a part's points, in any order, and turn them into the columns of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnexp.config.run import RunConfig
from nnexp.dataset.load import Dataset
from nnexp.network import reference as network
from nnexp.network.forward import outputs
from nnexp.network.reference import Network
from nnexp.network.weights import weights_digests
from nnexp.pipeline.artifacts import ROWS_AT_ONCE, prediction_names, prediction_values, scaled
from nnexp.pipeline.population.space import IntArray, Points, Space
from nnexp.tracking import members
from nnexp.training.checks import network_sizes, split_of
from nnexp.training.columns import Columns
from nnexp.training.shard import CURVES, OUTCOMES, Results
from nnexp.training.train import Failure

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]
FINISHED, FAILED = range(2)  # codes of members.STATUSES


@dataclass(frozen=True)
class Contents:
    """Which columns all parts of a population have, beside those of every population."""

    params: Mapping[str, pa.DataType]
    metrics: Sequence[str]
    curves: Sequence[str]
    weights: str

    @classmethod
    def of(cls, space: Space, curves: bool, weights: str) -> Contents:
        """Return the columns for the points of a space."""
        metrics = dict[str, None]()
        for cell in space.cells:
            metrics |= dict.fromkeys(metric_names(cell.config, cell.dataset, "patience" in space.axis_of))
        order = [*CURVES, "test_loss", "test_accuracy", "best_epoch", "trained_epochs"]
        names = sorted(metrics, key=lambda name: order.index(name) if name in order else len(order))
        types = {}
        for key in space.varied:
            values = space.values.get(key)
            if values is None:
                values = [leaves[key] for leaves in space.leaves if key in leaves]
            types[key] = members.param_type(key, [values[0]] if isinstance(values, range) else values)
        shown = [name for name in names if name in CURVES] if curves else []
        return cls(types, names, shown, weights)

    def schema(self) -> pa.Schema:
        """Return the columns of a part, in order."""
        import pyarrow as pa

        text, hash = pa.dictionary(pa.int32(), pa.string()), pa.binary(32)
        types = dict(
            zip(
                members.FIXED,
                (pa.int64(), hash, text, text, pa.string(), pa.int32(), pa.int64(), hash, text, pa.string()),
                strict=True,
            )
        )
        types |= {f"{members.PARAM}{key}": type for key, type in self.params.items()}
        types |= {f"{members.METRIC}{name}": pa.float64() for name in self.metrics}
        types |= {f"{members.CURVE}{name}": pa.list_(pa.float64()) for name in self.curves}
        weights = pa.list_(pa.float64())
        kinds = {name: pa.list_(weights) if name == "kept" else weights for name in _WEIGHTS[self.weights]}
        types |= {f"{members.WEIGHTS}{name}": type for name, type in kinds.items()}
        return pa.schema(types)


def metric_names(config: RunConfig, dataset: Dataset, may_wait: bool) -> list[str]:
    """Return the metrics that a run of this configuration may record."""
    split = split_of(config)
    names = ["loss", "grad_norm"] + ["accuracy"] * bool(dataset.classes)
    if split.validation_fraction or split.folds:
        names += ["val_loss"] + ["val_accuracy"] * bool(dataset.classes)
    if split.test_fraction:
        names += ["test_loss"] + ["test_accuracy"] * bool(dataset.classes)
    if config.patience or may_wait:
        names += ["best_epoch", "trained_epochs"]
    return [*names, *prediction_names(dataset)]


@dataclass
class Ragged:
    """Lists of different lengths, one for each row, that come a few rows at a time."""

    lengths: IntArray
    pieces: list[tuple[IntArray, IntArray, Array]] = field(default_factory=list)

    def add(self, rows: IntArray, lengths: IntArray, values: Array) -> None:
        """Add the lists of these rows, whose values come one list after the other."""
        self.lengths[rows] = lengths
        self.pieces.append((rows, lengths, values))

    def values(self, shape: tuple[int, ...] = ()) -> Array:
        """Return the values of all rows in their order."""
        starts = np.cumsum(self.lengths) - self.lengths
        result = np.empty((int(self.lengths.sum()), *shape))
        for rows, lengths, values in self.pieces:
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            result[np.repeat(starts[rows], lengths) + within] = values
        return result


class Rows:
    """The rows of newly trained points; those of points that have not ended yet are left out of the table."""

    def __init__(self, space: Space, contents: Contents, points: Points, attempt: int) -> None:
        n = len(points)
        self._space, self._contents, self._points = space, contents, points
        self.status = np.full(n, -1, dtype=np.int8)
        self._outcome = np.full(n, -1, dtype=np.int8)
        self._reason = np.full(n, None, dtype=object)
        self._attempt = attempt
        self._last_epoch = np.zeros(n, dtype=np.int64)
        self._hash = np.zeros((n, 32), dtype=np.uint8)
        self._metrics = {name: np.full(n, np.nan) for name in contents.metrics}
        self._curves = {name: Ragged(np.zeros(n, dtype=np.int64)) for name in contents.curves}
        self._weights = {name: Ragged(np.zeros(n, dtype=np.int64)) for name in _WEIGHTS[contents.weights]}
        self._copies = np.zeros(n, dtype=np.int64)  # how many kept weights each has

    def add(self, dataset: Dataset, columns: Columns, rows: IntArray, results: Results) -> None:
        """Add the results of some of the runs in `columns`, which are in these rows."""
        ended = results.ended
        at = rows[ended.runs]
        self.status[at], self._outcome[at] = FINISHED, ended.outcome
        self._last_epoch[at] = ended.at
        layers = network.unflatten(ended.weights, network_sizes(dataset, columns.like))
        self._hash[at] = weights_digests(layers)
        for name, values in results.last.items():
            self._metrics[name][at] = values
        for name, values in _predictions(dataset, columns, ended.runs, layers).items():
            self._metrics[name][at] = values
        if results.curves is not None:
            lengths, curves = results.curves
            for name, values in curves.items():
                self._curves[name].add(at, lengths, values)
        for name, weights in (("final", ended.weights), ("initial", results.initial)):
            if name in self._weights and weights is not None:
                self._weights[name].add(at, np.full(len(at), weights.shape[1]), weights.reshape(-1))
        if results.kept is not None:
            copies, weights = results.kept
            self._copies[at] = copies
            self._weights["kept"].add(at, copies * weights.shape[1], weights.reshape(-1))

    def fail(self, rows: IntArray, failure: Failure) -> None:
        """Add runs that failed."""
        self.status[rows], self._reason[rows] = FAILED, failure.reason

    def table(self) -> pa.Table:
        """Return the rows of the points that have ended."""
        import pyarrow as pa

        over = np.flatnonzero(self.status >= 0)
        has_failed = self.status[over] == FAILED
        columns = {
            "status": members.labels(self.status[over], members.STATUSES),
            "outcome": members.labels(self._outcome[over], OUTCOMES),
            "reason": pa.array(self._reason[over], pa.string()),
            "attempt": pa.array(np.full(len(over), self._attempt, dtype=np.int32)),
            "last_epoch": pa.array(self._last_epoch[over], mask=has_failed),
            "weights_sha256": members.hashes(self._hash[over], has_failed),
        }
        columns |= {
            f"{members.METRIC}{name}": members.numbers(values[over]) for name, values in self._metrics.items()
        }
        columns |= {
            f"{members.CURVE}{name}": members.lists(ragged.lengths[over], ragged.values())
            for name, ragged in self._curves.items()
        }
        for name, ragged in self._weights.items():
            lists = members.lists(ragged.lengths[over], ragged.values())
            if name == "kept":
                each = ragged.lengths[over] // np.maximum(self._copies[over], 1)
                lists = members.nested(self._copies[over], each, ragged.values())
            columns[f"{members.WEIGHTS}{name}"] = lists
        return placed(self._space, self._contents, self._points.take(over), columns)


# The columns of weights that each value of the key `weights` asks for.
_WEIGHTS = {"none": (), "final": ("final",), "all": ("final", "initial", "kept")}


def placed(space: Space, contents: Contents, points: Points, columns: Mapping[str, Any]) -> pa.Table:
    """Return rows of points with these results; columns that are not given are null."""
    import pyarrow as pa

    given = dict(columns)
    given |= {"number": pa.array(points.numbers), "run_key": members.hashes(points.keys)}
    data = list(dict.fromkeys(cell.dataset.sha256 for cell in space.cells))
    of_cell = np.array([data.index(cell.dataset.sha256) for cell in space.cells])
    given["data_sha256"] = members.labels(of_cell[points.cell], data)
    for key, type in contents.params.items():
        values, which = space.column(points, key)
        given[f"{members.PARAM}{key}"] = members.params(type, values, which)
    schema = contents.schema()
    arrays = [given.get(field.name, pa.nulls(len(points), field.type)) for field in schema]
    return pa.Table.from_arrays(
        [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema
    )


def merged(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all tables by their numbers."""
    import pyarrow as pa

    if len(tables) == 1:
        return tables[0]
    whole = pa.concat_tables(tables).unify_dictionaries()
    return whole.take(pa.array(np.argsort(whole["number"].to_numpy(), kind="stable"))).combine_chunks()


def _predictions(
    dataset: Dataset, columns: Columns, runs: IntArray, layers: network.Layers
) -> dict[str, Array]:
    """Return the values of each metric of the new rows, nan where one is not finite."""
    if not dataset.new_names or not len(runs):
        return {}
    like, names = columns.like, prediction_names(dataset)
    X, which = scaled(dataset.X_new, columns.data), columns.rows[runs]
    values = np.empty((len(runs), len(names)))
    size = max(1, ROWS_AT_ONCE // len(dataset.X_new))
    for start in range(0, len(runs), size):
        some = slice(start, start + size)
        own = tuple((W[some], b[some]) for W, b in layers)
        net = Network(own, like.activation, like.output_activation, like.loss)
        values[some] = prediction_values(outputs(net, X[which[some]]))
    values[~np.isfinite(values)] = np.nan
    return dict(zip(names, values.T, strict=True))
