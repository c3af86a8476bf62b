"""Read a recorded config.yaml, of this schema or an earlier one; it may come from anyone.

Only what nnexp writes is accepted: mappings, lists and plain values. What YAML offers besides (tags, anchors,
aliases, merges, dates, other ways to write a number) is refused, and so is what is too large or too deep,
before anything is built of it. OmegaConf never sees the text: an interpolation in it is text and no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nnexp.config.errors import RequestError
from nnexp.config.run import RunConfig
from nnexp.config.text import shortened

# A table of ten thousand columns fits.
MAX_BYTES = 1 << 20
# config.yaml is a mapping of groups, some of whose values are lists.
MAX_DEPTH = 4
# libyaml's parser is ten times as fast as PyYAML's own, where it is there.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.resolver.Resolver()
_CONSTANTS = {"null": None, "true": True, "false": False}


class _NotOurs(Exception):
    """What the file has that nnexp does not write."""


def plain_values(content: bytes, source: str) -> dict[str, Any]:
    """The mapping that a recorded YAML file holds, of texts, numbers, booleans, nulls, lists and mappings.

    Raises RequestError.
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
    """The mapping of the only document in the stream."""
    next(events)  # the stream begins
    if not isinstance(next(events), yaml.DocumentStartEvent):
        raise _NotOurs("is empty")
    values = _value(next(events), events, 1)
    next(events)  # the document ends
    if not isinstance(next(events), yaml.StreamEndEvent):
        raise _NotOurs("holds more than one document")
    if not isinstance(values, dict):
        raise _NotOurs("must be a mapping of keys to values")
    return values


def _value(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Any:
    """The value that begins with this event; the events of its parts are taken from `events`."""
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
            raise _NotOurs(f"{_place(part)}: the key {key[:100]!r} stands there twice")
        values[key] = _value(next(events), events, depth + 1)
    return values


def _parts(events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    """The first event of each part of a list or mapping, until its end."""
    while not isinstance(event := next(events), yaml.CollectionEndEvent):
        yield event


def _scalar(event: yaml.ScalarEvent) -> Any:
    """Text, or the number, boolean or null that a plain word stands for, in the one way PyYAML writes it."""
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
    raise _NotOurs(f"{_place(event)}: is no value of a configuration: {word[:100]!r}")


def _place(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "somewhere"


SCHEMA = 2
# From this schema on predictions, too, have the same bits everywhere; before, they were NumPy's `@`.
EXACT_PREDICTIONS = 2


@dataclass(frozen=True)
class RecordedConfig:
    """A recorded configuration, the schema it was written in, and whether it had to be changed to be read."""

    config: RunConfig
    schema: int
    is_migrated: bool


def read_config(content: bytes, source: str) -> RecordedConfig:
    """The validated configuration of a recorded config.yaml; `source` names it in errors.

    The store's address in it is left out: a record does not say what to connect to. Raises RequestError.
    """
    values = plain_values(content, source)
    schema = values.pop("schema", 1)
    try:
        migrated = _migrated(values, schema)
        config = RunConfig.from_mapping({**migrated, "tracking_uri": None})
    except RequestError as error:
        raise RequestError(f"{source}: {error}") from error
    return RecordedConfig(config, schema, migrated != values)


# --- Migrations: each takes the values of its schema to the next one's, and returns them anew.


def _from_1(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema 1 had no `schema`; a data set's path stood there as it was typed, and is looked for from where
    the command is typed now; predictions were not held to the bit (see EXACT_PREDICTIONS)."""
    return values


MIGRATIONS: dict[int, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {1: _from_1}


def _migrated(values: Mapping[str, Any], schema: Any) -> Mapping[str, Any]:
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise RequestError(f"schema={shortened(repr(schema))}: must be a whole number >= 1")
    if schema > SCHEMA:
        raise RequestError(
            f"its schema is {schema}, and this nnexp knows up to {SCHEMA}: a newer nnexp recorded it; "
            "use that one, or a later"
        )
    for step in range(schema, SCHEMA):
        values = MIGRATIONS[step](values)
    return values
