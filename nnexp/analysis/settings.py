"""Find the runs of a setting, which is the values of some params."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from nnexp.analysis.order import sort_key
from nnexp.analysis.summary import params_of
from nnexp.config.errors import RequestError, unknown

# The values of some params, as text (`init=he,learning_rate=0.5`) or as a mapping.
Setting = str | Mapping[str, Any]


def label(setting: Setting) -> str:
    """Return a setting as text."""
    if isinstance(setting, str):
        return setting
    return ",".join(f"{name}={value}" for name, value in setting.items())


def matching(runs: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Return the runs of a setting. Raises RequestError if there are none, or for an unknown param."""
    for name, value in _items(setting):
        column = "params.loss" if name == "loss" else name
        if column not in runs.columns:
            raise unknown(f"param in {label(setting)}", name, params_of(runs))
        is_it = _equals(runs[column], value)
        if not is_it.any():
            known = sorted(runs[column].dropna().unique().tolist(), key=sort_key)
            shown = ", ".join(map(str, known[:12])) + (", …" if len(known) > 12 else "")
            raise RequestError(f"{label(setting)}: no finished run has {name}={value}; there are: {shown}")
        runs = runs[is_it]
    return runs


def _items(setting: Setting) -> list[tuple[str, Any]]:
    """Return the names and values of a setting. Raises RequestError if its text is none."""
    if not isinstance(setting, str):
        return list(setting.items())
    items = []
    for text in re.split(r",(?![^\[]*\])", setting):
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise RequestError(f"setting {setting!r}: must be like init=he or init=he,learning_rate=0.5")
        items.append((name.strip(), value.strip()))
    return items


def _equals(column: pd.Series, value: Any) -> pd.Series:
    """Return which values are this one, or are written like it."""
    if pd.api.types.is_bool_dtype(column):
        return column.map(str).str.lower() == str(value).lower()
    if pd.api.types.is_numeric_dtype(column):
        try:
            return column == float(value)
        except (TypeError, ValueError):
            return pd.Series(False, index=column.index)
    written = str(list(value) if isinstance(value, tuple) else value)
    return column.map(lambda one: str(one).replace(" ", "")) == written.replace(" ", "")
