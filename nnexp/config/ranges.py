"""Turn ranges in Hydra's override grammar into the space of a search, and refuse ranges that are none.

`interval(0.01,1)` is every number between, `int(interval(4,32))` every whole one; with `tag(log,…)` they are
even by ratios. `range(4,33)` ends before 33; `choice([4],[16,8])` and `4,8,16` are the listed values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from nnexp.config.errors import RequestError
from nnexp.config.request import GROUPS, Request
from nnexp.config.run import is_item, rules
from nnexp.config.space import Dimension, Space

# Keys that say how to go about a search, and keys that say where runs are recorded and what is drawn of them.
SETTINGS = frozenset(f.name for f in fields(Request))
PLACES = ("experiment_name", "tracking_uri", "figures", "model")


def space_of(overrides: Iterable[Override], zipped: Sequence[str], over: str) -> Space:
    """Read a space from parsed overrides; a later one of a key replaces an earlier one.

    `zipped` are keys that move side by side, `over` is the key that trials are judged over. Raises
    RequestError.
    """
    found: dict[str, Override] = {override.get_key_element(): override for override in overrides}
    dimensions, fixed, runs = dict[str, Dimension](), list[str](), list[tuple[str, ...]]()
    for key, override in found.items():
        _check(key, override)
        if not override.is_sweep_override():
            fixed.append(f"{key}={override.get_value_element_as_str()}")
        elif key == over:
            runs = [(f"{key}={value}",) for value in _listed(override)]
        elif len(values := _few(override)) == 1:
            fixed.append(f"{key}={values[0]}")
        else:
            dimensions[key] = _dimension(key, override)
    if over in zipped:
        raise RequestError(f"zip={list(zipped)}: {over} is the key that trials are judged over (search.over)")
    if zipped:
        dimensions = _side_by_side(dimensions, zipped)
    if not dimensions:
        raise RequestError(
            "there is nothing to search: give a key a range, such as "
            "learning_rate='tag(log,interval(0.001,1))' or hidden='choice([4],[16])'"
        )
    return Space(tuple(dimensions.values()), tuple(fixed), tuple(runs) or ((),))


def _check(key: str, override: Override) -> None:
    """Raise RequestError for a range that no search can have for this key."""
    value, typed = override.value(), override.input_line
    if not override.is_sweep_override():
        return
    if key.split(".")[0] in SETTINGS or key in PLACES:
        raise RequestError(f"{typed}: changes no network, so that it must have one value for all trials")
    if key in GROUPS and isinstance(value, IntervalSweep | RangeSweep):
        raise RequestError(f"{typed}: a group has no numbers: list some of its options")
    if key in rules() and isinstance(value, IntervalSweep | RangeSweep) and is_item(rules()[key], 1):
        raise RequestError(f"{typed}: takes lists; write {key}.0=… for the first number of one")
    if getattr(value, "shuffle", False):
        raise RequestError(f"{typed}: the sampler decides the order: leave shuffle() out")


def _listed(override: Override) -> list[str]:
    """Return the values of a discrete range. Raises RequestError if there are none, or no end of them."""
    typed, value = override.input_line, override.value()
    if not override.is_discrete_sweep():
        raise RequestError(f"{typed}: trials are judged over listed values or a range(), not an interval")
    try:
        values = list(override.sweep_string_iterator())
    except (ValueError, HydraException):
        raise RequestError(f"{typed}: a range needs a step other than 0") from None
    if not values and isinstance(value, RangeSweep):
        raise RequestError(
            f"{typed}: the range is empty: from {value.start:g}, steps of {value.step:g} do not lead to "
            f"{value.stop:g}"
        )
    if not values:
        raise RequestError(f"{typed}: there are no such values")
    return values


def _few(override: Override) -> list[str]:
    """Return the values of a choice, or of a range that has at most two; else nothing.

    Raises RequestError for a range with only one value.
    """
    value = override.value()
    if isinstance(value, IntervalSweep):
        return []
    if not isinstance(value, RangeSweep):
        return _listed(override)
    start, stop, step = (Decimal(str(number)) for number in (value.start, value.stop, value.step))
    if step and (stop - start) / step > 1:
        return []
    (only,) = _listed(override)
    after = f"the next one, {start + step}, does not come before its end, {stop}"
    raise RequestError(f"{override.input_line}: the range has only the value {only}: {after}")


def _dimension(key: str, override: Override) -> Dimension:
    """Return the dimension of a range with several values. Raises RequestError."""
    value, typed = override.value(), override.input_line
    if not isinstance(value, IntervalSweep | RangeSweep):
        texts = _listed(override)
        if len(set(texts)) < len(texts):
            raise RequestError(f"{typed}: a value occurs twice")
        return Dimension(key, "choice", choices=tuple(texts), settings=tuple((f"{key}={t}",) for t in texts))
    if odd := sorted(set(value.tags) - {"log", "int"}):
        raise RequestError(f"{typed}: tag {odd[0]}: a search knows the tags log and int")
    log = "log" in value.tags
    if isinstance(value, RangeSweep):
        found = _range(key, value, log, typed)
    else:
        found = _interval(key, value, log, typed)
    if log and found.low <= 0:
        raise RequestError(f"{typed}: a log range must begin above 0, not at {found.low:g}")
    return found


def _interval(key: str, value: IntervalSweep, log: bool, typed: Any) -> Dimension:
    low, high = value.start, value.end
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise RequestError(f"{typed}: both ends must be finite numbers")
    if low > high:
        raise RequestError(f"{typed}: the interval is reversed: write interval({high:g},{low:g})")
    if low == high:
        raise RequestError(f"{typed}: the interval is empty: both ends are {low:g}")
    if "int" in value.tags or (isinstance(low, int) and isinstance(high, int)):
        if low != int(low) or high != int(high):
            raise RequestError(f"{typed}: the ends of an interval of whole numbers must be whole")
        return Dimension(key, "int", int(low), int(high), 1, log)
    return Dimension(key, "float", float(low), float(high), None, log)


def _range(key: str, value: RangeSweep, log: bool, typed: Any) -> Dimension:
    start, stop, step = (Decimal(str(number)) for number in (value.start, value.stop, value.step))
    n = math.ceil((stop - start) / step)
    last = start + (n - 1) * step
    low, high, step = min(start, last), max(start, last), abs(step)
    if log and step != 1:
        raise RequestError(f"{typed}: a log range has a step of 1, not {step}")
    if all(isinstance(number, int) for number in (value.start, value.stop, value.step)):
        return Dimension(key, "int", int(low), int(high), int(step), log)
    if log:
        raise RequestError(
            f"{typed}: a log range is one of whole numbers; take tag(log,interval({low},{high}))"
        )
    return Dimension(key, "float", float(low), float(high), float(step))


def _side_by_side(dimensions: Mapping[str, Dimension], zipped: Sequence[str]) -> dict[str, Dimension]:
    """Return the dimensions, with the zipped ones as one choice. Raises RequestError."""
    for key in zipped:
        if key not in dimensions or dimensions[key].kind != "choice":
            raise RequestError(f"zip={list(zipped)}: {key} is not swept: give it several listed values")
    parts = [dimensions[key] for key in zipped]
    if len({len(part.choices) for part in parts}) > 1:
        counts = ", ".join(f"{part.name} has {len(part.choices)}" for part in parts)
        raise RequestError(f"zip={list(zipped)}: the ranges must have the same length, but {counts}")
    choices = tuple(" ".join(texts) for texts in zip(*(part.choices for part in parts), strict=True))
    settings = tuple(
        tuple(text for one in together for text in one)
        for together in zip(*(part.settings for part in parts), strict=True)
    )
    one = Dimension(" ".join(zipped), "choice", choices=choices, settings=settings)
    return dict(_in_place(dimensions, zipped, one))


def _in_place(
    dimensions: Mapping[str, Dimension], zipped: Sequence[str], one: Dimension
) -> Iterator[tuple[str, Dimension]]:
    """Yield the dimensions, with `one` at the place of the first that it stands for."""
    for key, dimension in dimensions.items():
        if key == zipped[0]:
            yield one.name, one
        elif key not in zipped:
            yield key, dimension
