"""Read a recorded config.yaml, which may come from anyone: its values are read, nothing in it is followed.

Only what nnexp writes is accepted: mappings, lists and plain values. What YAML offers besides (tags, anchors,
aliases, merges, dates, other ways to write a number) is refused, and so is what is too large or too deep,
before anything is built of it. OmegaConf never sees the text: an interpolation in it is text and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from nnexp.config.errors import RequestError

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
