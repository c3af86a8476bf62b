"""Define the body of a request that records many runs at once through nnexp's own app of an MLflow server.

MAGIC, the length of a JSON text in 4 bytes, the text, and then the artifacts' bytes one after another, in the
order in which the text names them with their sizes. The text is a list with an object for each run. Nothing
is compressed, so what is read is never larger than what was sent.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from nnexp.tracking.runs import DataInput, Point, RunRecord
from nnexp.tracking.tables import MAX_DATASET, MAX_METRIC, MAX_NAME, MAX_USER

# Where the app answers, and the type of what it takes.
PATH, TYPE = "/api/nnexp/runs", "application/vnd.nnexp.runs"
FORMAT = 1
MAGIC = b"nnexp runs 1\n"
# The most bytes and runs of one request, and the most bytes of its JSON text.
MAX_BYTES, MAX_RUNS, MAX_JSON = 64 * 2**20, 1000, 16 * 2**20
# A client sends a body that has about so many bytes, and no larger run by itself.
ENOUGH_BYTES = 4 * 2**20
# The most characters of a param, as in MLflow, and of texts that have no other limit, as a data set's schema.
MAX_PARAM, MAX_TEXT = 6000, 2**20
# A new run's id: a UUID of version 7, as the writers draw them.
RUN_ID = re.compile(r"[0-9a-f]{12}7[0-9a-f]{19}")
# A part of an artifact's path: no dot at its beginning, which files that are being written have.
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,99}")
# A name as MLflow takes it for a param, a metric or a tag.
_NAME = re.compile(r"[\w .:/-]+")
_LENGTH = struct.Struct(">I")
_KEYS = {"run_id", "name", "params", "tags", "points", "files", "data", "status", "start_time", "end_time"}
_MAX_INT = 2**63 - 1


class NotRuns(ValueError):
    """The body is not one that nnexp sends."""


def size(record: RunRecord) -> int:
    """Return about how many bytes a run takes in a body."""
    texts = (text for some in (record.params, record.tags) for text in (*some.keys(), *some.values()))
    return 40 * len(record.points) + sum(map(len, texts)) + sum(map(len, record.files.values()))


def bodies(records: Mapping[str, RunRecord]) -> Iterator[bytes]:
    """Yield the bodies of the requests that record these runs, by their ids.

    None is larger than a server takes if no run is larger than ENOUGH_BYTES.
    """
    some, total = dict[str, RunRecord](), 0
    for run_id, record in records.items():
        if some and (total > ENOUGH_BYTES or len(some) == MAX_RUNS):
            yield _body(some)
            some, total = {}, 0
        some[run_id] = record
        total += size(record)
    if some:
        yield _body(some)


def _body(records: Mapping[str, RunRecord]) -> bytes:
    text = f"[{','.join(_text(run_id, record) for run_id, record in records.items())}]".encode()
    contents = (content for record in records.values() for content in record.files.values())
    return b"".join([MAGIC, _LENGTH.pack(len(text)), text, *contents])


def _text(run_id: str, record: RunRecord) -> str:
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for metric, step, value in record.points:
        steps, values = curves.setdefault(metric, ([], []))
        steps.append(step)
        values.append(value)
    data = record.data
    return json.dumps(
        {
            "run_id": run_id,
            "name": record.title,
            "params": dict(record.params),
            "tags": dict(record.tags),
            "points": curves,
            "files": [[name, len(content)] for name, content in record.files.items()],
            "data": None if data is None else vars(data),
            "status": record.status,
            "start_time": record.start_time,
            "end_time": record.end_time,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def unpacked(body: bytes) -> dict[str, RunRecord]:
    """Return the runs in a body, by id. Raises NotRuns for anything that is not exactly such a body."""
    begin = len(MAGIC) + _LENGTH.size
    if len(body) > MAX_BYTES or body[: len(MAGIC)] != MAGIC or len(body) < begin:
        raise NotRuns(f"it does not begin as format {FORMAT} does, or is too large")
    (length,) = _LENGTH.unpack_from(body, len(MAGIC))
    _check(length <= MAX_JSON, "its text is too long")
    try:
        found = json.loads(body[begin : begin + length].decode())
    except (ValueError, RecursionError) as error:
        raise NotRuns(f"its text is not JSON: {type(error).__name__}") from error
    _check(isinstance(found, list) and 0 < len(found) <= MAX_RUNS, f"it has no runs, or over {MAX_RUNS}")
    records: dict[str, RunRecord] = {}
    at = begin + length
    for one in found:
        _check(isinstance(one, dict) and one.keys() == _KEYS, "a run has other keys")
        run_id = one["run_id"]
        _check(isinstance(run_id, str) and RUN_ID.fullmatch(run_id) is not None, "a run's id is none")
        _check(run_id not in records, f"run {run_id} is there twice")
        files = {}
        for name, size in _files(one["files"]):
            _check(at + size <= len(body), "it is cut off")
            files[name] = body[at : at + size]
            at += size
        records[run_id] = _record(run_id, one, files)
    _check(at == len(body), "it is longer than its text says")
    return records


def _check(is_right: bool, what: str) -> None:
    """Raise NotRuns unless it is right."""
    if not is_right:
        raise NotRuns(what)


def _files(found: Any) -> list[tuple[str, int]]:
    """Return the names and sizes of a run's artifacts. Raises NotRuns for a path that may lead elsewhere."""
    _check(isinstance(found, list) and len(found) <= 100, "a run's files are not a list, or over 100")
    for one in found:
        _check(isinstance(one, list) and len(one) == 2, "a file is not a name and a size")
        name, size = one
        _check(type(size) is int and 0 <= size <= MAX_BYTES, "a file's size is none")
        parts = name.split("/") if isinstance(name, str) else []
        is_plain = 0 < len(parts) <= 4 and all(map(_PART.fullmatch, parts))
        _check(is_plain, "a file's name is not a plain one inside the run's directory")
    names = [name for name, _ in found]
    above = {"/".join(name.split("/")[:i]) for name in names for i in range(1, name.count("/") + 1)}
    _check(len(set(names)) == len(names) and not above & set(names), "a file is there twice")
    return [(name, size) for name, size in found]


def _record(run_id: str, one: Mapping[str, Any], files: Mapping[str, bytes]) -> RunRecord:
    _check(one["status"] in ("FINISHED", "FAILED"), "a run's status is not FINISHED or FAILED")
    times = [one["start_time"], one["end_time"]]
    _check(all(type(time) is int and 0 <= time <= _MAX_INT for time in times), "a run's times are none")
    return RunRecord(
        name=_string(one["name"], MAX_NAME),
        params=_strings(one["params"], MAX_PARAM),
        tags=_tags(one["tags"]),
        points=_points(one["points"]),
        files=files,
        data=None if one["data"] is None else _data(one["data"]),
        status=one["status"],
        start_time=one["start_time"],
        end_time=one["end_time"],
        run_id=run_id,
    )


def _string(found: Any, most: int) -> str:
    """Return a text. Raises NotRuns for another value, a longer text, or one that a database cannot hold."""
    _check(isinstance(found, str) and len(found) <= most, f"not a text of at most {most} characters")
    text: str = found
    _check("\0" not in text, "a text with a null character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NotRuns("a text that is not Unicode") from error
    return text


def _name(found: str) -> str:
    """Return the name of a param, a metric or a tag. Raises NotRuns for one that MLflow would not take."""
    parts = _string(found, MAX_METRIC).split("/")
    is_plain = _NAME.fullmatch(found) is not None and not {"", ".", ".."} & set(parts)
    _check(is_plain, "a name that MLflow does not take")
    return found


def _strings(found: Any, most: int) -> dict[str, str]:
    _check(isinstance(found, dict) and len(found) <= 1000, "not a mapping of texts, or over 1,000")
    return {_name(key): _string(value, most) for key, value in found.items()}


def _tags(found: Any) -> dict[str, str]:
    tags = _strings(found, MAX_TEXT)
    _string(tags.get("mlflow.user", ""), MAX_USER)  # has a column of its own
    return tags


def _points(found: Any) -> list[Point]:
    _check(isinstance(found, dict), "points are not a mapping")
    points = list[Point]()
    for metric, curve in found.items():
        _name(metric)
        _check(isinstance(curve, list) and len(curve) == 2, "a curve is not steps and values")
        steps, values = curve
        are_lists = isinstance(steps, list) and isinstance(values, list) and len(steps) == len(values)
        _check(are_lists, "a curve is not as many steps as values")
        are_numbers = all(type(step) is int and 0 <= step <= _MAX_INT for step in steps)
        _check(are_numbers and {float} >= {type(value) for value in values}, "a point is not a number")
        points += [(metric, step, value) for step, value in zip(steps, values, strict=True)]
    return points


def _data(found: Any) -> DataInput:
    names = list(DataInput.__dataclass_fields__)
    _check(isinstance(found, dict) and found.keys() == set(names), "a data set has other keys")
    most = {"name": MAX_DATASET, "digest": 36, "source_type": 36}
    return DataInput(**{name: _string(found[name], most.get(name, MAX_TEXT)) for name in names})
