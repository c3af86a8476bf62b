"""Read a population as a frame of runs, column by column: no member becomes an object."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nnexp.config.recorded import read_config
from nnexp.config.run import NOT_RESULT, as_param, key_names
from nnexp.tracking import members
from nnexp.tracking.members import CURVE, METRIC, PARAM, PART, WEIGHTS, Part
from nnexp.tracking.population import CONFIG, Population, names


def read_frame(
    found: Population,
    only: Collection[str] | None = None,
    keys: Collection[str] | None = None,
    own: bool = False,
    numbers: Collection[int] | None = None,
) -> pd.DataFrame:
    """Return the members as `load_runs` returns runs, in the order of their numbers.

    With `only`, the columns are `status`, `outcome`, every param that varies, and the named ones that
    there are; texts are categories, and `network` is a number that members with the same weights share.
    `keys`: only members with these run keys; `numbers`: with these numbers. `own`: only those trained here,
    not found elsewhere.
    """
    asked = None if only is None else frozenset(only)
    read = _read(found, partial(_is_needed, asked), numbers)
    if not read:
        return pd.DataFrame({name: [] for name in ("run_id", "run_name", "status", "outcome", "run_key")})
    parts = [_chosen(part, keys, own, numbers) for part in read]
    table = pa.concat_tables(parts, promote_options="default")
    notes = [(len(part), part.schema.metadata) for part in parts]
    columns = _heads(found, table, notes, asked)
    ours = [f"{PARAM}{key}" for key in key_names() if f"{PARAM}{key}" in table.column_names]
    params = {column.removeprefix(PARAM): _typed(table[column]) for column in ours}
    if asked is None or asked - params.keys():
        for name, value in shared_params(found).items():
            if asked is None or name in asked:
                params[name.removeprefix(PARAM)] = _repeated(value, len(table))
    params = {key: params[key] for key in key_names() if key in params}
    for key, values in params.items():
        columns[f"{PARAM}{key}" if key == "loss" or key in columns else key] = values
    for column in sorted(name for name in table.column_names if name.startswith(METRIC)):
        key = column.removeprefix(METRIC)
        columns[f"{METRIC}{key}" if key in columns else key] = table[column].to_numpy()
    is_arrow = (pa.ChunkedArray, pa.Array)
    columns = {
        name: _as_text(values) if asked is None or isinstance(values, is_arrow) else values
        for name, values in columns.items()
    }
    return pd.DataFrame(columns, copy=False)


def shared_params(found: Population) -> dict[str, Any]:
    """Return the values of the params that all members share, by the names that columns have."""
    values = dict(found.fixed)
    values.pop("schema", None)
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {key if option == "name" else f"{key}.{option}": v for option, v in value.items()}
        else:
            flat[key] = value
    ordered = (key for key in key_names() if key in flat and key not in NOT_RESULT)
    return {
        f"{PARAM}{key}" if key == "loss" else key: as_param(value) if isinstance(value, list) else value
        for key in ordered
        if (value := flat[key]) is not None
    }


def _read(
    found: Population, is_needed: Callable[[str], bool], numbers: Collection[int] | None
) -> list[pa.Table]:
    """Read the columns that are needed of every part that is whole, several parts at a time.

    With `numbers`, only of parts that have one of them.
    """

    def one(revisions: Sequence[Part]) -> pa.Table | None:
        newest = found.newest(revisions)
        return None if newest is None else members.from_bytes(newest[1], is_needed)

    parts, wanted = found.parts(), None if numbers is None else {number // PART for number in numbers}
    some = [revisions for part, revisions in parts.items() if wanted is None or part in wanted]
    with ThreadPoolExecutor() as pool:
        return [table for table in pool.map(one, some) if table is not None]


def _chosen(
    table: pa.Table, keys: Collection[str] | None, own: bool, numbers: Collection[int] | None
) -> pa.Table:
    """Return the rows of a part that `read_frame` is asked for."""
    if numbers is not None:
        table = table.filter(pc.is_in(table["number"], pa.array(numbers, pa.int64())))
    if own:
        table = table.filter(pc.is_null(table["recorded_as"]))
    if keys is not None:
        wanted = pa.array([bytes.fromhex(key) for key in keys], pa.binary(32))
        table = table.filter(pc.is_in(table["run_key"], wanted))
    return table


def _is_needed(asked: Collection[str] | None, column: str) -> bool:
    """Return whether a column of the parts is needed for a frame with the columns that are asked for."""
    kind, _, name = column.partition(".")
    if asked is None:
        return not column.startswith((CURVE, WEIGHTS))
    always = column in ("number", "status", "outcome", "weights_sha256") or kind == "params"
    return always or column in asked or (kind == "metrics" and bool({name, column} & set(asked)))


def _heads(
    found: Population,
    table: pa.Table,
    notes: Sequence[tuple[int, Mapping[bytes, bytes]]],
    asked: Collection[str] | None,
) -> dict[str, Any]:
    """Return the columns of a frame that are neither params nor metrics."""

    def has(name: str) -> bool:
        return asked is None or name in asked

    n, sweep_id = len(table), found.parent.run_id
    columns: dict[str, Any] = {}
    if has("run_id"):
        texts = pc.cast(table["number"], "string")
        columns["run_id"] = pc.binary_join_element_wise(sweep_id, texts, "/")
    if has("run_name"):
        columns["run_name"] = _names(found, table)
    if asked is not None and "number" in asked:
        columns["number"] = table["number"].to_numpy()
    columns["status"] = _category(table["status"])
    if asked is None:
        started, ended = (
            np.repeat([int(part.get(note, b"0")) for _, part in notes], [size for size, _ in notes])
            for note in (b"nnexp.started", b"nnexp.ended")
        )
        columns["start_time"] = pd.to_datetime(started, unit="ms", utc=True)
        columns["seconds"] = (ended - started) / 1000
        columns["sweep_id"] = _repeated(sweep_id, n)
    columns["outcome"] = _category(table["outcome"])
    if has("reason"):
        columns["reason"] = table["reason"] if asked is None else _category(table["reason"])
    if has("run_key"):
        columns["run_key"] = _hex(table["run_key"])
    if asked is None:
        columns["weights_sha256"] = _hex(table["weights_sha256"])
        columns["data_sha256"] = _category(table["data_sha256"])
        columns["engine"] = _repeated(found.parent.tags.get("nnexp.engine", ""), n)
    else:
        # Eight bytes tell a hash from all others.
        pieces = table["weights_sha256"].chunks
        first = [members.hash_bytes(pa.chunked_array([piece]))[:, :8] for piece in pieces]
        columns["network"] = np.concatenate(first).view(np.int64).ravel()
    return columns


def _coded(codes: NDArray[Any], words: Sequence[str]) -> Any:
    """Return a column of the words at these codes; a negative code is missing."""
    return pd.Categorical.from_codes(codes, pd.Index(list(words), dtype="str"))


def _repeated(value: Any, n: int) -> Any:
    """Return a column of one value, n times."""
    return _coded(np.zeros(n, dtype=np.int8), [value]) if isinstance(value, str) else np.full(n, value)


def _category(column: pa.ChunkedArray) -> Any:
    """Return a column of texts, most of which repeat."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    return _coded(whole.indices.fill_null(-1).to_numpy(), whole.dictionary.to_pylist())


def _as_text(values: Any) -> Any:
    """Return a column of texts as pandas has it; other columns as they are."""
    if isinstance(values, pa.ChunkedArray | pa.Array):
        return values.to_pandas()
    if isinstance(values, pd.Categorical) and isinstance(values.categories.dtype, pd.StringDtype):
        codes = pa.array(values.codes, mask=values.codes < 0)
        return pa.DictionaryArray.from_arrays(codes, values.categories.tolist()).cast("string").to_pandas()
    return values


def _hex(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of hashes as hexadecimal texts; null where there is none."""
    digests = members.hash_bytes(column)
    digits = np.array([int.from_bytes(f"{i:02x}".encode(), "little") for i in range(256)], dtype="<u2")
    texts = np.empty((len(digests), 32), dtype="<u2")
    for start in range(0, len(digests), PART):  # a piece of it fits the processor's cache
        texts[start : start + PART] = digits[digests[start : start + PART]]
    offsets = np.arange(0, texts.nbytes + 1, 64, dtype=np.int64)
    valid = None if not column.null_count else column.is_valid().combine_chunks().cast("bool")
    buffers = [None if valid is None else valid.buffers()[1], pa.py_buffer(offsets), pa.py_buffer(texts)]
    return pa.LargeStringArray.from_buffers(len(digests), buffers[1], buffers[2], buffers[0])


def _typed(column: pa.ChunkedArray) -> Any:
    """Return the values of a param as `load_runs` has them: lists are texts, missing numbers nan."""
    if pa.types.is_list(column.type):
        # Each list once, as what it contains joined by a character that is in no name.
        joined = pc.binary_join(column.cast(pa.list_(pa.string())), "\x1f").combine_chunks()
        texts = joined.dictionary_encode()
        codes = texts.indices.fill_null(-1).to_numpy()
        first = np.unique(codes, return_index=True)[1]
        lists = [column[int(i)].as_py() for i in first if codes[i] >= 0]
        return _coded(codes, [as_param(value) for value in lists])
    if not pa.types.is_string(column.type):
        return column.to_numpy()
    found = _category(column)
    words = found.categories.tolist()
    values = pd.to_numeric(pd.Series(words, dtype=object), errors="coerce")
    return values.to_numpy()[found.codes] if len(words) and values.notna().all() else found


def _names(found: Population, table: pa.Table) -> Any:
    """Return the members' names, such as those that runs of their own would have."""
    (row,) = table.slice(0, 1).to_pylist()
    params = read_config(found.config(row), f"sweep {found.parent.run_id}: {CONFIG}").config.params()
    texts: dict[str, Any] = dict(params)
    for key in (name.removeprefix(PARAM) for name in table.column_names if name.startswith(PARAM)):
        texts[key] = _texts(key, table[f"{PARAM}{key}"])
    return names(found.parent, texts)


def _texts(key: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values of a param as texts."""
    if pa.types.is_integer(column.type) or pa.types.is_string(column.type):
        return pc.cast(column, "string")
    if pa.types.is_list(column.type):
        found = _typed(column)
        codes, words = found.codes, found.categories.tolist()
    else:
        encoded = column.combine_chunks().dictionary_encode()
        codes, values = encoded.indices.fill_null(-1).to_numpy(), encoded.dictionary.to_pylist()
        words = [f"{value:g}" if key == "learning_rate" else as_param(value) for value in values]
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32(), mask=codes < 0), words).cast("string")
