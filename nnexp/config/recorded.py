"""Read a recorded config.yaml of this schema or an earlier one, without trusting where it comes from.

Only what nnexp writes is accepted: mappings, lists and plain values. The rest of YAML (tags, anchors,
aliases, merges, dates, other ways to write a number) is refused, as are files that are too large or nested
too deeply, before any value is built. OmegaConf never sees the text: an interpolation in it stays plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nnexp.config.errors import RequestError
from nnexp.config.run import ADDED, RunConfig
from nnexp.config.text import shortened

# Enough for the column names of a table of ten thousand columns.
MAX_BYTES = 1 << 20
# config.yaml is a mapping of groups, and some values in a group are lists.
MAX_DEPTH = 4
# libyaml's parser, where it is installed, is ten times as fast as PyYAML's own.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.resolver.Resolver()
_CONSTANTS = {"null": None, "true": True, "false": False}


class _NotOurs(Exception):
    """Something in the file that nnexp does not write; the text says what."""


def plain_values(content: bytes, source: str) -> dict[str, Any]:
    """Parse a recorded YAML file: a mapping of texts, numbers, booleans, nulls, lists and mappings.

    `source` names the file in errors. Raises RequestError if the file holds anything else, is too large, or
    is not UTF-8 or YAML.
    """
    try:
        if len(content) > MAX_BYTES:
            raise _NotOurs(f"is {len(content):,} bytes; a configuration has at most {MAX_BYTES:,}")
        return _document(yaml.parse(content.decode(), Loader=_LOADER))
    except UnicodeError as error:
        raise RequestError(f"{source}: is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise RequestError(f"{source}: is not YAML: {' '.join(str(error).split())}") from error
    except _NotOurs as error:
        raise RequestError(f"{source}: {error}") from error


def _document(events: Iterator[yaml.Event]) -> dict[str, Any]:
    """Return the mapping of the stream's only document. Raises _NotOurs for any other stream."""
    next(events)  # the start of the stream
    if not isinstance(next(events), yaml.DocumentStartEvent):
        raise _NotOurs("is empty")
    values = _value(next(events), events, 1)
    next(events)  # the end of the document
    if not isinstance(next(events), yaml.StreamEndEvent):
        raise _NotOurs("holds more than one document")
    if not isinstance(values, dict):
        raise _NotOurs("must be a mapping of keys to values")
    return values


def _value(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Any:
    """Build the value that begins with this event, taking the events of its parts from `events`."""
    if getattr(event, "anchor", None) is not None:
        raise _NotOurs(f"{_place(event)}: anchors (&) and aliases (*) are not allowed")
    if tag := getattr(event, "tag", None):
        raise _NotOurs(f"{_place(event)}: tags (!) are not allowed: {tag[:100]!r}")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if depth > MAX_DEPTH:
        raise _NotOurs(f"{_place(event)}: is nested more than {MAX_DEPTH} deep")
    if isinstance(event, yaml.SequenceStartEvent):
        return [_value(part, events, depth + 1) for part in _parts(events)]
    values: dict[str, Any] = {}
    for part in _parts(events):
        key = _value(part, events, depth + 1)
        if not isinstance(key, str):
            raise _NotOurs(f"{_place(part)}: a key must be text")
        if key in values:
            raise _NotOurs(f"{_place(part)}: the key {key[:100]!r} occurs twice")
        values[key] = _value(next(events), events, depth + 1)
    return values


def _parts(events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    """Yield the first event of each part of a list or mapping, until its end."""
    while not isinstance(event := next(events), yaml.CollectionEndEvent):
        yield event


def _scalar(event: yaml.ScalarEvent) -> Any:
    """Return the text, number, boolean or null of a scalar; only PyYAML's own spelling of it is accepted."""
    word = event.value
    kind = _RESOLVER.resolve(yaml.ScalarNode, word, event.implicit).rpartition(":")[2]
    if kind == "str":
        return word
    if kind in ("null", "bool") and word in _CONSTANTS:
        return _CONSTANTS[word]
    if kind == "int" and re.fullmatch(r"-?(0|[1-9]\d{0,18})", word):
        return int(word)
    if kind == "float" and len(word) <= 30 and re.fullmatch(r"-?\d+\.\d+(e[+-]\d+)?", word):
        return float(word)
    raise _NotOurs(f"{_place(event)}: is not a value of a configuration: {word[:100]!r}")


def _place(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "somewhere"


SCHEMA = 3
# From this schema on, predictions too have the same bits on every machine; before, NumPy's `@` computed them.
EXACT_PREDICTIONS = 2


@dataclass(frozen=True)
class RecordedConfig:
    """A recorded configuration, the schema it was written in, and whether a migration changed a value of it
    (to add one that was not there, as the run was trained, changes nothing)."""

    config: RunConfig
    schema: int
    is_migrated: bool


def read_config(content: bytes, source: str) -> RecordedConfig:
    """Read and validate a recorded config.yaml; `source` names it in errors.

    The store's address in it is ignored, since a record must not decide what to connect to. Raises
    RequestError.
    """
    values = plain_values(content, source)
    schema = values.pop("schema", 1)
    try:
        migrated = _migrated(values, schema)
        config = RunConfig.from_mapping({**migrated, "tracking_uri": None})
    except RequestError as error:
        raise RequestError(f"{source}: {error}") from error
    return RecordedConfig(config, schema, not _has_all_of(migrated, values))


def _has_all_of(migrated: Any, values: Any) -> bool:
    """Return whether every recorded value is still what it was."""
    if isinstance(migrated, Mapping) and isinstance(values, Mapping):
        return all(key in migrated and _has_all_of(migrated[key], values[key]) for key in values)
    return bool(migrated == values)


# --- Migrations: each converts the values of its schema to the next schema, and returns new values.


def _from_1(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values unchanged, since schema 1 differs only in these points.

    It had no `schema` key; a data set's path was recorded as typed, and is now looked up from the directory
    where the command is typed; predictions did not have the same bits everywhere (see EXACT_PREDICTIONS).
    """
    return values


def _from_2(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the keys of ADDED."""
    result: dict[str, Any] = dict(values)
    for key, value in ADDED.items():
        group, _, option = key.partition(".")
        if not option:
            result.setdefault(key, value)
        elif isinstance(result.get(group), Mapping):
            result[group] = {option: value, **result[group]}
    return result


MIGRATIONS: dict[int, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {1: _from_1, 2: _from_2}


def _migrated(values: Mapping[str, Any], schema: Any) -> Mapping[str, Any]:
    """Convert values of any known schema to the current one. Raises RequestError for an unknown schema."""
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise RequestError(f"schema={shortened(repr(schema))}: must be a whole number >= 1")
    if schema > SCHEMA:
        raise RequestError(
            f"its schema is {schema}, but this nnexp knows only up to {SCHEMA}: a newer nnexp recorded it; "
            "use that one or a later one"
        )
    for step in range(schema, SCHEMA):
        values = MIGRATIONS[step](values)
    return values
