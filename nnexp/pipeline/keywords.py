"""Turn the keyword arguments of `nnexp.train` and `nnexp.sweep` into overrides of the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from hydra.core.override_parser.types import Quote, QuotedString

from nnexp.config.errors import RequestError, unknown
from nnexp.config.request import GROUPS, key_names, own_keys
from nnexp.config.rules import Rule
from nnexp.config.run import DatasetConfig, is_item, rules
from nnexp.dataset.load import FRAME, Source, locate
from nnexp.dataset.table import from_frame, read_bytes

if TYPE_CHECKING:
    import pandas as pd

# A name that Hydra's grammar accepts as the key of a mapping once it is escaped.
_NAME = re.compile(r"[\w./: -]+", re.ASCII)
# Keys of a data set that may be given without their group: `target` for `dataset.target`.
_OF_TABLE = {f.name: f"dataset.{f.name}" for f in fields(DatasetConfig) if f.name not in ("name", "path")}


def typed(keys: Mapping[str, Any], *, sweeps: bool) -> tuple[list[str], Source | None]:
    """Turn keyword arguments into overrides.

    Parameters
    ----------
    keys
        Keys of the command line with Python values. A mapping for a group gives its options:
        `optimizer={"name": "adam", "beta1": 0.8}` is `optimizer=adam optimizer.beta1=0.8`. A data set's own
        keys may be given with or without their group: `target` is `dataset.target`.
    sweeps
        Whether a list, a range or an array means several values. For a key whose value is itself a list, a
        list of lists means several values.

    Returns
    -------
    tuple of (list of str, Source)
        The overrides, one per key, and the bytes of a data set given as a DataFrame, else None.

    Raises
    ------
    RequestError
        If a key is unknown or given twice, or if a value has a type that no key allows.
    """
    flat = dict[str, Any]()
    for key, value in _options(keys):
        if key in flat:
            raise RequestError(f"{key} is given twice")
        flat[key] = value
    source = _source(flat)
    known = [*key_names(), "experiment"]
    for key in flat:
        if re.sub(r"\.\d+$", "", key) not in known:  # hidden.0 is an item of a list
            raise unknown("key", key, known)
    return [f"{key}={_text(key, value, sweeps)}" for key, value in flat.items()], source


def _options(keys: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each key by its full name, with a group's mapping split into its options."""
    for key, value in keys.items():
        key = _OF_TABLE.get(key, key)
        if key in GROUPS and isinstance(value, Mapping):
            for option, its_value in value.items():
                yield (key if option == "name" else f"{key}.{option}"), its_value
        else:
            yield key, value


def _source(flat: dict[str, Any]) -> Source | None:
    """Return the bytes of the DataFrames in `flat`, whose paths are set to FRAME; None if there are none."""
    frame = flat.get("dataset")
    if not _is_frame(frame):
        if _is_frame(flat.get("dataset.new_rows")):
            raise RequestError("dataset.new_rows is a DataFrame, so dataset must be one, too")
        return None
    if "dataset.path" in flat:
        raise RequestError("dataset is a DataFrame, but dataset.path names a file: give only one of them")
    source = Source(from_frame(frame))
    flat |= {"dataset": "csv", "dataset.path": FRAME}
    new_rows = flat.get("dataset.new_rows")
    if _is_frame(new_rows):
        flat["dataset.new_rows"] = FRAME
        return replace(source, new_rows=from_frame(new_rows))
    if isinstance(new_rows, str | os.PathLike):
        return replace(source, new_rows=read_bytes(locate(os.fspath(new_rows), "csv")))
    return source


def _is_frame(value: Any) -> TypeGuard[pd.DataFrame]:
    return hasattr(value, "columns") and hasattr(value, "iloc")


# --- Values in Hydra's grammar.


def _text(key: str, value: Any, sweeps: bool) -> str:
    """Write a value, the several values of a sweep, or a range of a search."""
    if sweeps and type(value).__name__ in _DISTRIBUTIONS and hasattr(value, "single"):
        return _DISTRIBUTIONS[type(value).__name__](key, value)
    values = _several(key, value)
    if values is None:
        return _one(key, _plain(value))
    if not sweeps:
        raise RequestError(f"{key} has several values: use nnexp.sweep")
    if isinstance(values, range):
        return f"range({values.start},{values.stop},{values.step})" if len(values) > 1 else str(values[0])
    return ",".join(_one(key, item) for item in values)


def _bounds(key: str, value: Any) -> str:
    """Write a distribution of numbers."""
    whole = type(value).__name__ == "IntDistribution"
    low, high = _number(key, value.low), _number(key, value.high)
    if value.step is not None and not (whole and value.step == 1):
        end = value.high + value.step / 2 if not whole else value.high + 1
        return f"range({low},{_number(key, end)},{_number(key, value.step)})"
    interval = f"interval({low},{high})"
    interval = f"int({interval})" if whole else interval
    return f"tag(log,{interval})" if value.log else interval


def _choices(key: str, value: Any) -> str:
    """Write a distribution of choices."""
    return ",".join(_one(key, item) for item in value.choices)


# How Optuna's distributions are written, by their names: Optuna takes long to import.
_DISTRIBUTIONS: Mapping[str, Callable[[str, Any], str]] = {
    "FloatDistribution": _bounds,
    "IntDistribution": _bounds,
    "CategoricalDistribution": _choices,
}


def _several(key: str, value: Any) -> Sequence[Any] | None:
    """Return the values of a sweep's range; None if `value` is a single value."""
    value = _plain(value)
    if not isinstance(value, list | tuple | range):
        return None
    if _takes_list(key) and not any(isinstance(item, list | tuple | range) for item in map(_plain, value)):
        return None
    if not len(value):
        raise RequestError(f"{key}=[]: the sweep has no points, because this range is empty")
    return value


def _takes_list(key: str) -> bool:
    ours = {name: rule for name, (rule, _) in own_keys().items()}
    rule = (rules() | ours).get(key)
    return rule is not None and (is_item(rule, 1) or _accepts(rule, ["a", "b"]))


def _accepts(rule: Rule, value: Any) -> bool:
    try:
        rule.parse(value)
    except ValueError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Turn NumPy's and pandas' numbers and arrays into Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def _one(key: str, value: Any) -> str:
    """Write one value in Hydra's grammar. Raises RequestError if its type is not allowed."""
    value = _plain(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return _number(key, value)
    if isinstance(value, str | os.PathLike):
        return _quoted(os.fspath(value))
    if isinstance(value, list | tuple | range):
        return f"[{','.join(_one(key, item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_name(key, name)}:{_one(key, item)}" for name, item in value.items()) + "}"
    raise RequestError(f"{key}: must not be a {type(value).__name__}")


def _number(key: str, value: float) -> str:
    if isinstance(value, int) and abs(value) >= 10**100:  # Python refuses to write out very long ones
        raise RequestError(f"{key}: the number has more than a hundred digits")
    return repr(value)


def _quoted(text: str | bytes) -> str:
    """Quote a text literally: ${…}, which OmegaConf would take for a reference, is escaped."""
    as_it_is = re.sub(r"(\\*)\$\{", r"\1\1\\${", os.fsdecode(text))
    return QuotedString(as_it_is, Quote.single).with_quotes()


def _name(key: str, name: Any) -> str:
    """Write the name of an item of a mapping. Raises RequestError if it is not allowed."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError(f"{key}: {name!r}: a name may have ASCII letters, digits, blanks and _ - . : /")
    return re.sub(r"([ :])", r"\\\1", name)
