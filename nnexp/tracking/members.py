"""Define how a population is recorded: its members are rows of Parquet parts, artifacts of the sweep's run.

Part N holds the members whose numbers, their positions in the typed grid, are from N * PART up to (N + 1) *
PART. A part is never changed: what is trained again becomes a new revision of the whole part. Its name ends
in the hash of its bytes, so whether it is whole can be told from the file alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnexp.config.errors import RequestError
from nnexp.tracking.find import list_artifacts, read_artifact
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

# How many numbers of the grid a part covers.
PART = 1 << 16
# The version of the columns and of their meaning, in each part's metadata.
SCHEMA = "1"
# The tag of a population's parent run, which an ordinary sweep's does not have, and its value.
RECORD, TABLE = "nnexp.record", "table"
DIRECTORY = "members"
# The first letters of the names of columns that only some populations have.
PARAM, METRIC, CURVE, WEIGHTS = "params.", "metrics.", "curves.", "weights."
# The columns that all have, in order. `recorded_as` names the run or member that had the same key.
FIXED = (
    "number",
    "run_key",
    "status",
    "outcome",
    "reason",
    "attempt",
    "last_epoch",
    "weights_sha256",
    "data_sha256",
    "recorded_as",
)
STATUSES = ("FINISHED", "FAILED")

# Which columns are read: those named, in this order, or those whose names satisfy a condition.
Wanted = Sequence[str] | Callable[[str], bool]

_NAME = re.compile(rf"{DIRECTORY}/part-(\d{{6,12}})\.(\d{{3,9}})\.([0-9a-f]{{16}})\.parquet", re.ASCII)
_MEMBER = re.compile(r"([0-9a-f]{1,32})/(0|[1-9]\d{0,17})", re.ASCII)


@dataclass(frozen=True, order=True)
class Part:
    """One file of a population: its number, its revision, and the first 16 hex digits of its SHA-256."""

    number: int
    revision: int
    digest: str

    @property
    def name(self) -> str:
        """Return the name of its artifact."""
        return f"{DIRECTORY}/part-{self.number:06d}.{self.revision:03d}.{self.digest}.parquet"

    @classmethod
    def of(cls, number: int, revision: int, content: bytes) -> Part:
        """Return the part with these bytes."""
        return cls(number, revision, _digest(content))

    def is_whole(self, content: bytes) -> bool:
        """Return whether these bytes are those that were written."""
        return _digest(content) == self.digest


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def member_id(sweep_id: str, number: int) -> str:
    """Return the name of a member, SWEEP_ID/NUMBER."""
    return f"{sweep_id}/{number}"


def split_member(typed: str) -> tuple[str, int] | None:
    """Return the sweep's id, or its beginning, and the member's number; None if it is no member's name."""
    found = _MEMBER.fullmatch(typed)
    return None if found is None else (found[1], int(found[2]))


# --- Columns.


def hashes(digests: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> pa.Array:
    """Return a column of SHA-256 hashes from bytes of shape (members, 32); null where the mask is true."""
    import pyarrow as pa

    is_there = None if mask is None else pa.py_buffer(np.packbits(~mask, bitorder="little"))
    buffer = pa.py_buffer(np.ascontiguousarray(digests))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(digests), [is_there, buffer])


def hash_bytes(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """Return a column of hashes as bytes of shape (members, 32), zeros where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = (pc.fill_null(column, bytes(32)) if column.null_count else column).combine_chunks()
    chunk = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    buffer = np.frombuffer(chunk.buffers()[1], np.uint8)
    return buffer[32 * chunk.offset : 32 * (chunk.offset + len(chunk))].reshape(-1, 32)


def labels(codes: NDArray[np.integer[Any]], names: Sequence[str]) -> pa.Array:
    """Return a column of the names at these codes; a negative code is null."""
    import pyarrow as pa

    indices = pa.array(codes.astype(np.int32), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, list(names))


def numbers(values: NDArray[np.float64]) -> pa.Array:
    """Return a column of doubles; nan is null."""
    import pyarrow as pa

    return pa.array(values, mask=np.isnan(values))


def lists(lengths: NDArray[np.int64], values: NDArray[np.float64]) -> pa.Array:
    """Return a column of lists of these lengths, whose values are given one list after the other."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values))


def nested(counts: NDArray[np.int64], lengths: NDArray[np.int64], values: NDArray[np.float64]) -> pa.Array:
    """Return a column of lists of lists: `counts` lists for each row, each as long as `lengths` says."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, lists(np.repeat(lengths, counts), values))


def param_type(key: str, values: Iterable[Any]) -> pa.DataType:
    """Return the type of the column of a key with these values, some of which may be None."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {tuple}:
        is_whole = all(isinstance(item, int) for value in values for item in value or ())
        return pa.list_(pa.int64() if is_whole else pa.string())
    if key == "batch_size" or not kinds <= {bool, int, float}:
        return pa.string()
    return pa.bool_() if kinds <= {bool} else pa.int64() if kinds == {int} else pa.float64()


def params(type: pa.DataType, values: Sequence[Any], which: NDArray[np.int64]) -> pa.Array:
    """Return a column of the values at the positions `which`; a negative position is null."""
    import pyarrow as pa

    is_text = pa.types.is_string(type)
    typed = pa.array([str(v) if is_text and v is not None else v for v in values], type)
    return typed.take(pa.array(which, mask=which < 0))


# --- The bytes of a part.


def to_bytes(columns: pa.Table | Mapping[str, pa.Array], notes: Mapping[str, str]) -> bytes:
    """Return the Parquet file of a part, with these notes as its metadata beside `nnexp.schema`.

    Doubles are split into streams of bytes, which compress by a tenth; whole numbers are kept as differences.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    table = table.replace_schema_metadata({"nnexp.schema": SCHEMA, **notes})
    encodings, repeating = {}, []
    for field in table.schema:
        path, kind = field.name, field.type
        if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            path, kind = f"{path}.list.element", kind.value_type
        if pa.types.is_list(kind):  # of the weights of several epochs
            path, kind = f"{path}.list.element", kind.value_type
        few = field.name.startswith(PARAM) and not pa.types.is_integer(kind)
        if pa.types.is_floating(kind) and not few:
            encodings[path] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_int64(kind) and path == field.name:
            encodings[path] = "DELTA_BINARY_PACKED"
        elif pa.types.is_fixed_size_binary(kind) or pa.types.is_boolean(kind):
            encodings[path] = "PLAIN"
        else:
            repeating.append(path)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=repeating,
        column_encoding=encodings,
        write_statistics=["number"],
    )
    return bytes(sink.getvalue())


def from_bytes(content: bytes, columns: Wanted | None = None) -> pa.Table:
    """Read these columns of a part, or all; its metadata are the schema's. Unknown columns are left out.

    Raises RequestError if it is of a later version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(content))
    version = (file.schema_arrow.metadata or {}).get(b"nnexp.schema", b"").decode()
    if version != SCHEMA:
        raise RequestError(f"a part of schema {version or 'unknown'}: this nnexp reads schema {SCHEMA}")
    there = file.schema_arrow.names
    if columns is None:
        wanted = there
    elif callable(columns):
        wanted = [name for name in there if columns(name)]
    else:
        wanted = [name for name in columns if name in there]
    return file.read(columns=wanted).select(wanted)


# --- The parts of a population.


def list_parts(store: Store, parent: Detail) -> dict[int, list[Part]]:
    """Return the parts of a population by their numbers, in order; of each the newest revision comes first.

    Nothing is read, so any of them may be damaged.
    """
    return parts_of(list_artifacts(store, parent, DIRECTORY))


def parts_of(names: Iterable[str]) -> dict[int, list[Part]]:
    """Return the parts among these artifacts by their numbers; of each the newest revision comes first."""
    parts = [
        Part(int(found[1]), int(found[2]), found[3]) for name in names if (found := _NAME.fullmatch(name))
    ]
    by_number: dict[int, list[Part]] = {}
    for part in sorted(parts, key=lambda part: (part.number, -part.revision, part.digest)):
        by_number.setdefault(part.number, []).append(part)
    return by_number


def read_part(store: Store, parent: Detail, part: Part) -> bytes | None:
    """Return the bytes of a part; None if it is missing or damaged."""
    try:
        content = read_artifact(store, parent, part.name)
    except FileNotFoundError:
        return None
    return content if part.is_whole(content) else None


def damage(parent: Detail, revisions: Sequence[Part], is_lost: bool) -> str:
    """Say in words that the newest of a part's revisions is damaged, and whether its members are lost."""
    part = revisions[0]
    first, last = (member_id(parent.run_id, n) for n in (part.number * PART, (part.number + 1) * PART - 1))
    what = f"{part.name} is damaged: its bytes do not have the hash in its name"
    then = f"the members {first} to {last} are lost" if is_lost else "an earlier revision of it is read"
    return f"{what}; {then}; the sweep's command trains what is missing"


def newest_whole(store: Store, parent: Detail, revisions: Sequence[Part]) -> tuple[Part, bytes] | None:
    """Return the newest of a part's revisions that is whole, with its bytes; None if none is."""
    for part in revisions:
        content = read_part(store, parent, part)
        if content is not None:
            return part, content
    return None


def read_members(
    store: Store,
    parent: Detail,
    columns: Wanted | None = None,
    only: Iterable[int] | None = None,
) -> Iterator[tuple[Part, pa.Table]]:
    """Yield the parts of a population, or those of these numbers, each with these columns or all.

    Parts of which no revision is whole are left out: `doctor` names them.
    """
    wanted = None if only is None else frozenset(only)
    for number, revisions in list_parts(store, parent).items():
        if wanted is not None and number not in wanted:
            continue
        found = newest_whole(store, parent, revisions)
        if found is not None:
            part, content = found
            yield part, from_bytes(content, columns)
