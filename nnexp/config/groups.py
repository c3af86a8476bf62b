"""Read the configuration directories: list the options of each group, read and check their files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from nnexp.config.errors import RequestError, unknown
from nnexp.config.paths import CONF, config_dirs
from nnexp.config.request import GROUPS, key_names

ALL = (*GROUPS, "experiment")
# Hydra's settings that a file may have. None names code to import, as a directory may come from anyone.
_HYDRA = ("launcher", "mode", "output_subdir", "run", "sweep", "sweeper", "verbose")
# The option of a group that has all keys; other options need not repeat them.
_WHOLE = {"dataset": "csv", "search": "tpe"}


def options(group: str) -> list[str]:
    """Return the names of a group's options, that is, of its YAML files."""
    return sorted({path.stem for directory in config_dirs() for path in files(directory, group)})


def options_with(key: str) -> list[str]:
    """Return the options of a group that have this key, such as `optimizer.beta1`."""
    group, _, option = key.partition(".")
    return [name for name in options(group) if option in load_option(group, name)]


def load_option(group: str, name: str) -> dict[str, Any]:
    """Return the values of a group's option, from the first directory that has it."""
    directory, path = _found(group, name)[0]
    return read(directory, group, path)


def find_option(group: str, name: str) -> Path | None:
    """Return the YAML file of a group's option, or None if there is none."""
    return next((path for _, path in _found(group, name)), None)


def _found(group: str, name: str) -> list[tuple[Path, Path]]:
    return [
        (directory, path)
        for directory in config_dirs()
        for path in files(directory, group)
        if path.stem == name
    ]


def files(directory: Path, group: str) -> list[Path]:
    """Return the YAML files of a group in one configuration directory; '' stands for the directory itself."""
    if group and group not in ALL:
        return []  # such as hydra/…, whose files name code to import
    places = [directory / group, *([directory.parent / "experiments"] if group == "experiment" else [])]
    by_name: dict[str, Path] = {}
    for place in places:
        for path in sorted(place.glob("[!.]*.yaml")):
            if path.is_file() and path.stem.isprintable():
                by_name.setdefault(path.stem, path)
    return list(by_name.values())


@cache
def shipped_files(dataset: str) -> tuple[str, ...]:
    """Return the paths of a shipped data set's table and new rows, relative to the shipped directory."""
    found = [yaml.safe_load(p.read_text()) for p in files(CONF, "dataset") if p.stem == dataset != "csv"]
    return tuple(values[key] for values in found for key in ("path", "new_rows") if values[key] is not None)


def read_defaults(directories: Sequence[Path]) -> dict[str, Any]:
    """Read the shipped config.yaml and merge those of the other directories, which state only differences."""
    merged: dict[str, Any] = {}
    for directory in reversed(directories):
        path = directory / "config.yaml"
        if path.is_file():
            own = read(directory, "", path)
            chosen = own.pop("defaults", [])
            defaults = chosen if not merged else _chosen(merged["defaults"], chosen, path)
            merged = {**_merged(merged, own), "defaults": defaults}
    return merged


def _chosen(defaults: list[Any], chosen: Any, path: Path) -> list[Any]:
    """Return the defaults list with the chosen options of its groups. Raises RequestError for others."""
    result = list(defaults)
    at = {_group(entry): i for i, entry in enumerate(result)}
    for entry in chosen:
        if entry == "_self_":
            continue
        if not isinstance(entry, dict) or len(entry) != 1 or _group(entry) not in at:
            raise RequestError(
                f"{shown(path)}: defaults: {entry}: must choose an option of a group, init: he"
            )
        i = at[_group(entry)]
        result[i] = {key: option for key in result[i] for option in entry.values()}
    return result


def _group(entry: Any) -> str:
    """Return the group of an entry of a defaults list, `override /hydra/launcher: nnexp`; '' for _self_."""
    return next(iter(entry)).split()[-1].lstrip("/") if isinstance(entry, dict) else ""


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings; where both have a value, take that of `above`."""
    result = {**below, **above}
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            result[key] = _merged(below[key], value)
    return result


def read(directory: Path, group: str, path: Path) -> dict[str, Any]:
    """Read and check a configuration file. Raises RequestError, which names the file.

    A group's option, such as `dataset: csv` in an experiment or in config.yaml, is moved to the defaults
    list. Keys that the file of a data set leaves out are taken from csv, those of a search from tpe. Relative
    paths become absolute, starting from the directory that holds the configuration directory.
    """
    values = _load(path)
    if group in GROUPS:
        _check_keys(path, f"{group}.", values)
        open_ends = _load(CONF / group / f"{_WHOLE[group]}.yaml") if group in _WHOLE else {}
        values = {**open_ends, "name": path.stem, **values}
        if directory != CONF:
            values |= _absolute(values, directory.parent) if group == "dataset" else {}
        return values
    _check_keys(path, "", values)
    _check_hydra(path, values.get("hydra"))
    defaults = values.get("defaults") or []
    if not isinstance(defaults, list):
        raise RequestError(f"{shown(path)}: defaults: must be a list, such as [_self_]")
    for name in ALL:
        option = _option(path, name, values)
        if option is not None:
            defaults.append({f"override /{name}": option})
    if directory != CONF and isinstance(values.get("dataset"), dict):
        values["dataset"] |= _absolute(values["dataset"], directory.parent)
    return {**values, "defaults": defaults} if defaults else values


def _option(path: Path, group: str, values: dict[str, Any]) -> str | None:
    """Remove and return the option of a group; the group's other keys stay in the values.

    Returns None if there is none. Raises RequestError if the option is unknown.
    """
    value: Any = values.get(group)
    is_mapping = isinstance(value, dict)
    name = value.get("name") if is_mapping else value
    if name is None:
        return None
    if name not in options(group):
        error = unknown(group, str(name), options(group))
        hint = "; write the ranges of a sweep under hydra: sweeper: params:" if "," in str(name) else ""
        raise RequestError(f"{shown(path)}: {error}{hint}")
    if is_mapping:
        del value["name"]
    else:
        del values[group]
    return str(name)


def _check_keys(path: Path, prefix: str, values: Mapping[str, Any]) -> None:
    """Raise RequestError if a key is unknown."""
    keys = {key.removeprefix(prefix) for key in key_names() if key.startswith(prefix)}
    known = {key for key in keys if "." not in key}
    known |= {"name"} if prefix else {"experiment", "defaults", "hydra"}
    for key, value in values.items():
        if key not in known:
            error = unknown("key", f"{prefix}{key}", [prefix + name for name in known])
            raise RequestError(f"{shown(path)}: {error}")
        if not prefix and key in GROUPS and isinstance(value, dict):
            _check_keys(path, f"{key}.", value)


def _check_hydra(path: Path, values: Any) -> None:
    """Raise RequestError if one of Hydra's settings could name code to import."""
    if values is None:
        return
    if not isinstance(values, dict) or not set(values) <= set(_HYDRA):
        raise RequestError(f"{shown(path)}: hydra: a file may set {', '.join(_HYDRA)}")
    if "_target_" in str(values):
        raise RequestError(f"{shown(path)}: hydra: _target_ names code to import; a file may not")


def _absolute(values: Mapping[str, Any], project: Path) -> dict[str, str]:
    """Return the paths of a data set, made absolute from `project`, the parent of the directory."""
    paths = {key: values.get(key) for key in ("path", "new_rows")}
    return {
        key: os.path.join(project, path)
        for key, path in paths.items()
        if isinstance(path, str) and path != "???" and not path.startswith("${")
    }


def _load(path: Path) -> dict[str, Any]:
    """Read a YAML file that must contain a mapping. Raises RequestError."""
    from omegaconf import OmegaConf  # slow to import
    from omegaconf.errors import OmegaConfBaseException

    try:
        with path.open(encoding="utf-8") as file:
            values: Any = OmegaConf.to_container(OmegaConf.load(file))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise RequestError(f"{shown(path)}: {where}{error.problem}") from error
    except (OSError, UnicodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise RequestError(f"{shown(path)}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RequestError(f"{shown(path)}: must be a mapping of keys to values")
    return values


def shown(path: Path) -> str:
    """Return the path as one would type it, relative to the working directory if it is inside."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
