"""The points of a sweep, each composed to Hydra's own result, without composing again what points share.

Choosing files takes Hydra's time; setting values is quick. So every distinct choice of groups is composed
once, and a point's values are set on a copy of it: in plain dictionaries where a value just replaces a value,
else by the function with which Hydra itself sets them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain, product
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from nnexp.config import RequestError

# What Hydra's grammar reads as a whole number or a decimal fraction, and as nothing else.
_NUMBER = re.compile(r"(?P<key>[a-z_]+)=(?P<value>-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?)", re.ASCII)


class _Choice:
    """One choice of groups, composed; its plain values are there if nothing in it refers to anything."""

    def __init__(self, loader: ConfigLoaderImpl, config: DictConfig, choices: Sequence[str]) -> None:
        self.config = loader.load_sweep_config(config, list(choices))
        with open_dict(self.config):
            del self.config["hydra"]
        self.values: Any = OmegaConf.to_container(self.config, resolve=False)
        self.is_plain = not _refers(self.values)

    def point(self, loader: ConfigLoaderImpl, overrides: Sequence[Override]) -> Any:
        if self.is_plain and all(self._replaces(o) for o in overrides):
            values = _copied(self.values)
            for override in overrides:
                parent, last = _place(values, override.key_or_group)
                if parent is not None:  # `_replaces` has seen it
                    parent[last] = _copied(override.value())
            return values
        point = copy.deepcopy(self.config)
        loader._apply_overrides_to_config(list(overrides), point)
        return plain_values(point)

    def _replaces(self, override: Override) -> bool:
        """Whether the override puts a plain value in the place of one that is not a mapping."""
        if override.is_add() or override.is_force_add() or override.is_delete() or override.package:
            return False
        parent, last = _place(self.values, override.key_or_group)
        if parent is None or last not in parent or isinstance(parent[last], dict):
            return False
        value = override.value()
        return not isinstance(value, dict) and not _refers(value)


def points(
    loader: ConfigLoaderImpl, config: DictConfig, job_overrides: Sequence[Sequence[str]]
) -> Iterator[Any]:
    """The composed and resolved values of each list of overrides, as plain dictionaries without Hydra's own.

    Raises Hydra's errors and RequestError.
    """
    parser = OverridesParser.create(config_loader=loader)

    @lru_cache(maxsize=65536)
    def parsed(text: str) -> tuple[Override, bool]:
        """The override, and whether it picks an option of a group or is for Hydra, not setting a value."""
        # A sweep has many numbers, and Hydra's grammar takes a millisecond to read one.
        if number := _NUMBER.fullmatch(text):
            like, chooses = parsed(f"{number['key']}=zero")
            value = float(number["value"]) if number["fraction"] else int(number["value"])
            return replace(like, _value=value, input_line=text), chooses
        (override,) = parser.parse_overrides([text])
        is_group = loader.repository.group_exists(override.key_or_group)
        chooses = override.is_hydra_override() or (is_group and not isinstance(override.value(), dict))
        return override, chooses

    composed: dict[tuple[str, ...], _Choice] = {}
    for texts in job_overrides:
        overrides = [parsed(text) for text in texts]
        choices = tuple(str(override.input_line) for override, chooses in overrides if chooses)
        if choices not in composed:
            composed[choices] = _Choice(loader, config, choices)
        yield composed[choices].point(loader, [override for override, chooses in overrides if not chooses])


def _place(values: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """The mapping which holds `a.b.c`, None where there is no such mapping, and `c`."""
    *path, last = key.split(".")
    parent: Any = values
    for name in path:
        parent = parent.get(name) if isinstance(parent, dict) else None
    return parent if isinstance(parent, dict) else None, last


def _refers(value: Any) -> bool:
    """Whether there is an interpolation anywhere inside."""
    if isinstance(value, dict):
        return any(_refers(item) for item in value.values())
    if isinstance(value, list):
        return any(_refers(item) for item in value)
    return isinstance(value, str) and "$" in value


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value


def grid(overrides: Sequence[Override], zipped: Sequence[str]) -> list[list[str]]:
    """Every combination of the overrides' values, the last quickest, as lists of `key=value`.

    A later override of a key takes the place of an earlier one. The keys of `zipped` move side by side.
    Raises RequestError.
    """
    axes: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise RequestError(f"{override.input_line}: a grid takes listed values or a range()")
    return [list(chain.from_iterable(point)) for point in product(*_side_by_side(axes, zipped))]


def _side_by_side(axes: Mapping[str, list[str]], zipped: Sequence[str]) -> list[list[list[str]]]:
    """The axes of the grid; a point of an axis is one value, or one of each zipped key."""
    for key in zipped:
        if len(axes.get(key, [])) < 2:
            raise RequestError(f"zip={list(zipped)}: {key} is not swept: give it several values")
    lengths = {key: len(axes[key]) for key in zipped}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {n}" for key, n in lengths.items())
        raise RequestError(f"zip={list(zipped)}: the ranges must be of one length, and {counts}")
    result = []
    for key, values in axes.items():
        if key not in zipped:
            result.append([[value] for value in values])
        elif key == zipped[0]:
            result.append([list(values) for values in zip(*(axes[k] for k in zipped), strict=True)])
    return result


def plain_values(config: DictConfig) -> Any:
    """A composed configuration as plain values, references resolved. Raises RequestError."""
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise RequestError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
