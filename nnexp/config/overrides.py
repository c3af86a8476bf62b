"""Parse `key=value` overrides, and explain in plain words what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString, Sweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from nnexp.config.errors import RequestError, unknown
from nnexp.config.groups import options, options_with
from nnexp.config.request import GROUPS, key_names
from nnexp.config.run import is_item, rules


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise Hydra's errors as RequestError, in plain words."""
    try:
        yield
    except RequestError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise RequestError(in_plain_words(error)) from error


def parse(arguments: list[str]) -> list[Override]:
    """Parse and check overrides. Raises RequestError for errors that Hydra would not explain plainly."""
    overrides = OverridesParser.create().parse_overrides(arguments)
    known = {*key_names(), *(f"{group}.name" for group in GROUPS), "experiment"}
    for override in overrides:
        key, value = override.key_or_group, override.value()
        if not key:
            raise RequestError(f"{override.input_line}: write key=value")
        # A number is the index of a list's element: hidden.0=3.
        if re.sub(r"\.\d+$", "", key) not in known and re.split("[./]", key)[0] != "hydra":
            raise unknown("key", key, [*key_names(), "experiment"])
        if key in GROUPS or (key == "experiment" and value is not None):
            _check_option(key, value)
        if isinstance(value, ChoiceSweep):
            _check_lists(key, [_plain_item(item) for item in value.list])
    return overrides


def _check_lists(key: str, items: Sequence[object]) -> None:
    """Raise RequestError for hidden=2,4, since each value of this key must be a list."""
    rule = rules().get(key)
    if rule is not None and all(is_item(rule, item) for item in items):
        typed = ",".join(map(str, items))
        lists = ",".join(f"[{item}]" for item in items)
        raise RequestError(
            f"{key}={typed}: each value must be a list: {key}={lists} with -m sweeps over {len(items)}, "
            f"{key}=[{typed}] is one"
        )


def _plain_item(item: object) -> object:
    return item.text if isinstance(item, QuotedString) else item


def _check_option(group: str, value: object) -> None:
    """Raise RequestError unless every value is an option of the group.

    Hydra would not even look for a file of some of these names.
    """
    if isinstance(value, ChoiceSweep):
        for item in value.list:
            _check_option(group, _plain_item(item))
    elif not isinstance(value, Sweep | Glob) and value not in options(group):
        raise unknown(group, str(value), options(group))


def not_there(key: str) -> RequestError:
    """Return the error for a key that the chosen option lacks, or for a part of a list or a mapping."""
    group, *parts = key.split(".")
    if key == "tags":
        return RequestError("tags: the experiment's file has some; add to them with ++tags={name: text}")
    if group not in GROUPS or len(parts) > 1:  # init.scale.0
        whole = ".".join([group, *parts[:-1]]) if group in GROUPS else group
        return RequestError(f"{key}: write the whole value, {whole}=…")
    having = " or ".join(f"{group}={name}" for name in options_with(key))
    return RequestError(f"{key}: the chosen {group} has no such key: choose one that has it, {having}")


def in_plain_words(error: Exception) -> str:
    """Explain Hydra's error in one line, which says what is known or allowed."""
    text = str(error)
    if isinstance(error, MissingConfigException) and (found := re.search(r"find '(.+)/(.+)'", text)):
        group, name = found.groups()
        return str(unknown(group, name, re.findall(r"^\t(\w+)$", text, re.MULTILINE)))
    if found := re.match(r"Could not (?:override|delete from config\.) '(.+?)'", text):
        key = found.group(1)
        if key.startswith("hydra"):
            return f"unknown key {key!r}: nnexp train --hydra-help lists Hydra's own"
        return str(not_there(key))
    if found := re.match(r"Error merging override (.+)", text):
        typed = found.group(1)
        key = re.split("[.=]", typed.lstrip("+"))[0]
        return f"{typed}: {key} has no such part: write the whole value, {key}=…"
    if text.startswith("Invalid range values"):
        return "range(…): the step must lead from the start to the stop, and not be 0"
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r}: write key=value without blanks, lists as [1,2], other text "
            "in quotes within quotes: 'key=\"any text\"'"
        )
    if found := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'", text):
        key, _, values = found.group(1).partition("=")
        return f"{key}={values} has several values: add -m to sweep over them, or write a list, [{values}]"
    return text.splitlines()[0]
