"""Define what an experiment asks for, and its answer: a text whose every number was recorded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

import nnexp
from nnexp.analysis.statistics import quantile_interval, wilson
from nnexp.pipeline.results.sweep import Sweep


@dataclass(frozen=True)
class Ask:
    """One experiment, asked as a whole or as a tenth.

    Attributes
    ----------
    name
        The name of its file: `experiments/NAME.yaml`.
    is_quick
        Whether a tenth is enough.
    """

    name: str
    is_quick: bool = False

    def tenth(self, n: int) -> int:
        """Return n, or a tenth of it, at least 1, if that is enough."""
        return max(n // 10, 1) if self.is_quick else n

    def sweep(self, **keys: Any) -> Sweep:
        """Train the networks of the experiment's file with these keys as a population; read what is recorded.

        Raises SystemExit if a network fails.
        """
        place = f"{self.name}, a tenth" if self.is_quick else self.name
        swept = nnexp.sweep(
            experiment=self.name, experiment_name=place, **{"record": "table", "figures": False, **keys}
        )
        if swept.failures:
            raise SystemExit(f"{self.name}: {len(swept.failures)} networks failed: {swept.failures[0]}")
        return swept


class Fact(NamedTuple):
    """A number, or a name, that a text tells: `{share}` reads `92.3% (92.1 to 92.5)`, `{share.n:,}` its n."""

    value: float | str
    n: int = 0  # the networks, settings or searches that it was taken from
    low: float | None = None  # the ends of its 95% interval
    high: float | None = None
    style: str = ".3g"

    def __str__(self) -> str:
        if isinstance(self.value, str):
            return self.value
        told = format(self.value, self.style)
        if self.low is None or self.high is None:
            return told
        low, high = (format(end, self.style).removesuffix("%") for end in (self.low, self.high))
        return f"{told} ({low} to {high})"

    def __format__(self, style: str) -> str:
        return str(self) if not style else format(self.value, style)

    def rounded(self) -> Fact:
        """Return the fact to six digits, the same on every machine."""
        value = self.value if isinstance(self.value, str) else _rounded(self.value)
        low, high = (
            None if end is None or math.isnan(end) else _rounded(end) for end in (self.low, self.high)
        )
        return Fact(value, self.n, low, high, self.style)


@dataclass(frozen=True)
class Answer:
    """What an experiment found.

    Attributes
    ----------
    text
        Paragraphs of Markdown with `{name}` wherever a fact goes.
    facts
        The facts by name.
    figures
        The figures by name; the first one is shown beside the text.
    networks
        How many networks were trained.
    table
        A table for the report's end.
    """

    text: str
    facts: Mapping[str, Fact]
    figures: Mapping[str, Figure]
    networks: int
    table: pd.DataFrame | None = field(default=None, compare=False)


def share(which: ArrayLike, style: str = ".1%") -> Fact:
    """Return the share of networks for which this is true, with Wilson's interval."""
    is_so = np.asarray(which, dtype=bool)
    low, high = wilson(is_so.sum(), is_so.size)
    return Fact(float(is_so.mean()), is_so.size, float(low), float(high), style)


def quantile(values: ArrayLike, level: float = 0.5, style: str = ".3g") -> Fact:
    """Return a quantile of networks' values, with its interval between order statistics."""
    found, low, high = quantile_interval(values, level)
    return Fact(float(found), np.size(values), float(low), float(high), style)


def told(text: str, facts: Mapping[str, Fact]) -> str:
    """Return the text with its facts. Raises KeyError for a fact that is not there."""
    return text.format_map(facts)


def typed_numbers(text: str) -> list[str]:
    """Return the numbers that are typed in a text instead of taken from a fact.

    Network shapes such as 2-2-1, years, code and links are no findings.
    """
    kept = re.sub(r"\{[^}]*\}|`[^`]*`|\]\([^)]*\)|\b\d+(-\d+)+\b|\b(19|20)\d\d\b", "", text)
    return re.findall(r"\d[\d.,]*", kept)


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")
