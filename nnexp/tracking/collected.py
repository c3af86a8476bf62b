"""Collect recorded runs as the columns of a frame, some at a time, so that few of them are objects."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from nnexp.config.run import added_params, key_names
from nnexp.tracking.reader import MAX_TIME, Detail, wrong_value

# The columns in which most runs have texts of their own.
OWN = ("run_id", "run_name", "run_key", "weights_sha256")


class Collected:
    """The runs collected so far. `tags` names the columns of tags."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._tags = tags
        self._own: dict[str, list[pa.Array]] = {name: [] for name in OWN}
        self._heads = {name: _Words(0) for name in ("status", *tags.values()) if name not in OWN}
        self._params: dict[str, _Words] = {}
        self._metrics: dict[str, list[tuple[int, NDArray[np.float64]]]] = {}
        self._times: list[NDArray[np.float64]] = []
        self._n = 0

    def add(self, runs: Sequence[Detail]) -> None:
        """Add some runs. Raises RequestError if one has times that are none."""
        for run in runs:
            times = [run.start_time, run.start_time if run.end_time is None else run.end_time]
            if not all(isinstance(time, int) and 0 <= time < MAX_TIME for time in times):
                raise wrong_value(run.run_id, times, "its times")
        texts: dict[str, list[str | None]] = {
            "run_id": [run.run_id for run in runs],
            "run_name": [run.name for run in runs],
            "status": [run.status for run in runs],
        }
        texts |= {name: [run.tags.get(tag) for run in runs] for tag, name in self._tags.items()}
        for name, column in texts.items():
            if name in OWN:
                self._own[name].append(pa.array(column, pa.large_string()))
            else:
                self._heads[name].add(column)
        for key in dict.fromkeys(key for run in runs for key in run.params):
            words = self._params.setdefault(key, _Words(0))
            words.pad(self._n)
            words.add([run.params.get(key) for run in runs])
        for key in dict.fromkeys(key for run in runs for key in run.metrics):
            values = np.array([run.metrics.get(key, np.nan) for run in runs], dtype=float)
            self._metrics.setdefault(key, []).append((self._n, values))
        ended = [np.nan if run.end_time is None else run.end_time for run in runs]
        self._times.append(np.array([[run.start_time for run in runs], ended], dtype=float))
        self._n += len(runs)

    @property
    def number_of_keys(self) -> int:
        """Return how many different run keys there are."""
        return int(pc.count_distinct(pa.chunked_array(self._own["run_key"], pa.large_string())).as_py())

    def frame(self, only: Collection[str] | None) -> pd.DataFrame:
        """Return the runs as `load_runs` does, oldest first.

        With `only`, there are no other metrics, texts that repeat and params that do not vary are categories,
        except for the named ones, and a number stands for each hash of weights.
        """
        is_slim = only is not None
        started, ended = np.concatenate([np.empty((2, 0)), *self._times], axis=1)
        heads = {name: _texts(pieces) for name, pieces in self._own.items()}
        for name, words in self._heads.items():
            words.pad(self._n)
            heads[name] = words.texts(is_slim)
        if is_slim:
            heads["weights_sha256"] = _numbers(self._own["weights_sha256"])
        heads["start_time"] = pd.to_datetime(started.astype(np.int64), unit="ms", utc=True)
        heads["seconds"] = (ended - started) / 1000
        order = ("run_id", "run_name", "status", "start_time", "seconds", *self._tags.values())
        columns = {name: heads[name] for name in order}
        # What an earlier record lacks it has as it was trained, so that it groups with the later ones.
        added = added_params()
        ours = [key for key in key_names() if key in self._params]
        for key in (*ours, *sorted(self._params.keys() - set(ours))):
            words = self._params[key]
            words.pad(self._n, added.get(key))
            # The loss is a param (which function) and a metric (its value); the value keeps the short name.
            name = f"params.{key}" if key == "loss" or key in columns else key
            columns[name] = words.typed(is_slim, only is not None and name not in only)
        for key in sorted(map(str, self._metrics)):
            if only is not None and not {key, f"metrics.{key}"} & set(only):
                continue
            values = np.full(self._n, np.nan)
            for start, some in self._metrics[key]:
                values[start : start + len(some)] = some
            columns[f"metrics.{key}" if key in columns else key] = values
        frame = pd.DataFrame(columns, copy=False)
        oldest_first = order_by(started, heads["run_name"], heads["run_key"])
        return frame.take(oldest_first).reset_index(drop=True)


def order_by(*columns: ArrayLike | pd.Series[Any]) -> NDArray[np.int64]:
    """Return the positions in which rows are sorted by these columns; equal rows keep their order.

    Unlike pandas, makes no objects of texts.
    """
    arrays = [one.array if isinstance(one, pd.Series) and one.dtype == "str" else one for one in columns]
    table = pa.table({str(i): pa.chunked_array(pa.array(one)) for i, one in enumerate(arrays)})
    order = pc.sort_indices(table, [(name, "ascending") for name in table.column_names])
    return np.asarray(order, dtype=np.int64)


class _Words:
    """A column of texts, most of which repeat: each text once, and its number for each run."""

    def __init__(self, n: int) -> None:
        self._place: dict[str, int] = {}
        self._codes: list[NDArray[np.int32]] = []
        self._n = n

    def add(self, texts: Iterable[str | None]) -> None:
        """Add the texts of more runs; None where a run has none."""
        place = self._place
        codes = np.array(
            [-1 if text is None else place.setdefault(text, len(place)) for text in texts], dtype=np.int32
        )
        self._codes.append(codes)
        self._n += len(codes)

    def pad(self, n: int, text: str | None = None) -> None:
        """Let it have n runs; give `text` to those that have none."""
        self._codes.append(np.full(n - self._n, -1, dtype=np.int32))
        self._n = n
        if text is not None:
            codes = self._all()
            if (codes < 0).any():
                codes[codes < 0] = self._place.setdefault(text, len(self._place))

    def _all(self) -> NDArray[np.int32]:
        self._codes = [np.concatenate(self._codes)]
        return self._codes[0]

    def texts(self, as_categories: bool) -> Any:
        """Return the texts."""
        if not self._place and not as_categories:
            return np.full(self._n, None, dtype=object)
        column = pd.Categorical.from_codes(self._all(), pd.Index(list(self._place), dtype="str"))
        return column if as_categories else pd.Series(column).astype("str")

    def typed(self, as_categories: bool, is_short: bool) -> Any:
        """Return numbers or truth values if all texts are; else the texts.

        If `is_short`, a number or truth value that all runs share is a category.
        """
        words, codes = list(self._place), self._all()
        values: Any
        if words and set(words) <= {"true", "false"}:
            values = np.array([word == "true" for word in words], dtype=object if (codes < 0).any() else bool)
        else:
            numbers = pd.to_numeric(pd.Series(words, dtype=object), errors="coerce")
            if not words or numbers.isna().any():
                return self.texts(as_categories)
            values = numbers.to_numpy()
        if not (codes < 0).any():
            return pd.Categorical.from_codes(codes, values) if is_short and len(words) == 1 else values[codes]
        missing: Any = None if values.dtype == object else np.nan
        return np.append(values, missing)[codes]


def _numbers(pieces: Sequence[pa.Array]) -> pd.Categorical[int]:
    """Return a column of texts as numbers, the same one for the same text."""
    found = pa.chunked_array(pieces, pa.large_string()).combine_chunks().dictionary_encode()
    codes = found.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return pd.Categorical.from_codes(codes, pd.RangeIndex(len(found.dictionary)))


def _texts(pieces: Sequence[pa.Array]) -> Any:
    """Return a column of texts; of None if there is none."""
    whole = pa.chunked_array(pieces, pa.large_string())
    return np.full(len(whole), None, dtype=object) if whole.null_count == len(whole) else whole.to_pandas()
