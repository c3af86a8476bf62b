"""Compose the points of a sweep, each with the same result as Hydra's, but without repeating work.

Hydra is slow at choosing files and quick at setting values. So every distinct choice of group options is
composed once, and a point's values are set on a copy of it: in plain dictionaries if a value just replaces a
value, else by the function with which Hydra itself sets them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import chain
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, RangeSweep
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from nnexp.config.errors import RequestError
from nnexp.config.grid import Axis, Grid, Range
from nnexp.config.paths import CONF
from nnexp.config.request import GROUPS

# Text that Hydra's grammar always reads as a whole number or a decimal fraction.
_NUMBER = re.compile(
    r"(?P<key>[a-z_]+(?:\.[a-z0-9_]+)*)=(?P<value>-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?)", re.ASCII
)


@dataclass(frozen=True, eq=False)
class _Setting:
    """An override, parsed once for all points that share it."""

    override: Override
    chooses: bool  # picks an option of a group, or is for Hydra, rather than setting a value
    key: str
    value: Any
    is_plain: bool  # just replaces a value by one without interpolations

    @classmethod
    def of(cls, override: Override, chooses: bool) -> _Setting:
        changes = override.type == OverrideType.CHANGE and not override.package
        value = override.value()
        is_plain = changes and not _refers(value)
        return cls(override, chooses, override.key_or_group, value, is_plain)


class _Choice:
    """One composed choice of group options, with its plain values if it contains no interpolations."""

    def __init__(self, loader: ConfigLoaderImpl, config: DictConfig, choices: Sequence[str]) -> None:
        self._loader = loader
        self._config = loader.load_sweep_config(config, list(choices))
        with open_dict(self._config):
            del self._config["hydra"]
        self._values: Any = OmegaConf.to_container(self._config, resolve=False)
        self._is_plain = not _refers(self._values)

    def point(self, settings: Sequence[_Setting]) -> Any:
        """Return the values of a point. Points share their equal parts, so do not write to them."""
        if self._is_plain and all(s.is_plain and self._has(s.key) for s in settings):
            values = dict(self._values)
            for setting in settings:
                *path, last = setting.key.split(".")
                parent: Any = values
                for name in path:
                    parent[name] = copy.copy(parent[name])
                    parent = parent[name]
                parent[int(last) if isinstance(parent, list) else last] = setting.value
            return values
        point = copy.deepcopy(self._config)
        self._loader._apply_overrides_to_config([setting.override for setting in settings], point)
        return plain_values(point)

    def lacks(self, setting: _Setting) -> bool:
        """Return whether it sets a key of a group's option that the option chosen here does not have."""
        group, _, option = setting.key.partition(".")
        values = self._values.get(group)
        changes = setting.override.type == OverrideType.CHANGE and not setting.override.package
        return (
            changes and bool(option) and group in GROUPS and isinstance(values, dict) and option not in values
        )

    def _has(self, key: str) -> bool:
        """Return whether the key has a value that is not a mapping. The keys of a list are its indices."""
        value: Any = self._values
        for name in key.split("."):
            if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            elif isinstance(value, dict) and name in value:
                value = value[name]
            else:
                return False
        return not isinstance(value, dict)


class Composer:
    """Compose points, and remember what they share."""

    def __init__(self, loader: ConfigLoaderImpl, config: DictConfig) -> None:
        parser = OverridesParser.create(config_loader=loader)

        @lru_cache(maxsize=4096)  # each takes a kilobyte
        def read(text: str) -> _Setting:
            # A sweep has many numbers, and Hydra's grammar takes a millisecond to read one.
            if number := _NUMBER.fullmatch(text):
                like = read(f"{number['key']}=zero")
                value = float(number["value"]) if number["fraction"] else int(number["value"])
                return _Setting.of(replace(like.override, _value=value, input_line=text), like.chooses)
            (override,) = parser.parse_overrides([text])
            is_group = loader.repository.group_exists(override.key_or_group)
            return _Setting.of(
                override,
                chooses=override.is_hydra_override() or (is_group and not isinstance(override.value(), dict)),
            )

        @cache
        def composed(choices: tuple[str, ...]) -> _Choice:
            return _Choice(loader, config, choices)

        self._read, self._composed = read, composed

    def points(
        self, job_overrides: Sequence[Sequence[str]], others: Sequence[Sequence[str]] = ()
    ) -> Iterator[tuple[Any, list[str]]]:
        """Compose each list of overrides; yield its values, without Hydra's own, and the ignored keys.

        A key that only some of the swept options have is ignored for a point whose option lacks it; the
        options of `others` count, too. Raises Hydra's errors and RequestError.
        """

        @cache
        def is_anywhere(setting: _Setting) -> bool:
            some = chain(job_overrides, others)
            return any(not self._choice(map(self._read, texts)).lacks(setting) for texts in some)

        for texts in job_overrides:
            settings = [self._read(text) for text in texts]
            here = self._choice(settings)
            left_out = [s for s in settings if not s.chooses and here.lacks(s) and is_anywhere(s)]
            values = here.point([s for s in settings if not s.chooses and s not in left_out])
            yield values, [s.key for s in left_out]

    def _choice(self, settings: Iterable[_Setting]) -> _Choice:
        return self._composed(tuple(str(s.override.input_line) for s in settings if s.chooses))


def _refers(value: Any) -> bool:
    """Return whether a value contains an interpolation."""
    if isinstance(value, dict):
        return any(_refers(item) for item in value.values())
    if isinstance(value, list):
        return any(_refers(item) for item in value)
    return isinstance(value, str) and "$" in value


@contextmanager
def loading() -> Iterator[ConfigLoaderImpl]:
    """Yield a loader of nnexp's configuration, and restore Hydra's global state afterwards.

    It works in a notebook and inside another Hydra app, too.
    """
    kept = {kind: Singleton._instances.pop(kind, None) for kind in (GlobalHydra, JobRuntime, VersionBase)}
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            assert isinstance(loader, ConfigLoaderImpl)  # Hydra's only implementation
            yield loader
    finally:
        for kind, instance in kept.items():
            if instance is None:
                Singleton._instances.pop(kind, None)
            else:
                Singleton._instances[kind] = instance


def has_interval(loader: ConfigLoader, params: DictConfig, overrides: Sequence[str]) -> bool:
    """Return whether a range is an interval, which can be searched but not listed."""
    ranges = [f"{key!s}={value}" for key, value in params.items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*ranges, *overrides])
    return any(override.is_sweep_override() and not override.is_discrete_sweep() for override in parsed)


def grid_points(
    loader: ConfigLoader, config: DictConfig, params: DictConfig, overrides: Sequence[str]
) -> Grid:
    """Return the points of a sweep: every combination of the ranges in `params` and in the overrides.

    A point is a list of `key=value`; the last key varies fastest. `params` are the ranges of an experiment's
    file, which a later override of the same key replaces. Keys in the `zip` of `config` move side by side.
    Raises RequestError.
    """
    zipped = config.get("zip")
    ranges = [f"{key!s}={value}" for key, value in params.items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*ranges, *overrides])
    side_by_side = [str(key) for key in zipped] if isinstance(zipped, ListConfig) else []
    axes = {override.get_key_element(): _range(override) for override in parsed}
    return Grid(tuple(_side_by_side(axes, side_by_side)))


def _range(override: Override) -> Range:
    """Return the values of an override. Raises RequestError if they cannot be listed."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return Range(key, None, [f"{key}={override.get_value_element_as_str()}"])
    if not override.is_discrete_sweep():
        raise RequestError(f"{override.input_line}: a grid takes listed values or a range()")
    values = override.value()
    if isinstance(values, RangeSweep) and isinstance(found := values.range(), range) and not values.shuffle:
        return Range(key, found)
    listed: list[Any] = list(override.sweep_iterator())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in listed):
        return Range(key, listed)
    return Range(key, None, [f"{key}={Override._get_value_element_as_str(value)}" for value in listed])


def _side_by_side(ranges: Mapping[str, Range], zipped: Sequence[str]) -> list[Axis]:
    """Return the axes of the grid: each range, but the zipped ones together where the first of them is."""
    for key in zipped:
        if key not in ranges or len(ranges[key]) < 2:
            raise RequestError(f"zip={list(zipped)}: {key} is not swept: give it several values")
    lengths = {key: len(ranges[key]) for key in zipped}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {n}" for key, n in lengths.items())
        raise RequestError(f"zip={list(zipped)}: the ranges must have the same length, but {counts}")
    together = Axis(tuple(ranges[key] for key in zipped))
    return [
        together if key in zipped else Axis((values,))
        for key, values in ranges.items()
        if key not in zipped[1:]
    ]


def plain_values(config: DictConfig) -> Any:
    """Return a composed configuration as plain values, with references resolved. Raises RequestError."""
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise RequestError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
