"""Run the best trials of a search again on fresh seeds.

The best of many trials was lucky on the seeds that it was chosen by; on others its value is an honest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, islice

import numpy as np

from nnexp.config.run import RunConfig
from nnexp.config.space import Value
from nnexp.pipeline.search.plan import Planned
from nnexp.pipeline.sweep import points_of
from nnexp.tracking.searches import Searched
from nnexp.training.plan import Point


def chosen(searched: Searched, most: int) -> list[int]:
    """Return the numbers of the best trials; of trials with the same runs, the first."""
    different: dict[tuple[str, ...], int] = {}
    for i in searched.best_first:
        if np.isfinite(searched.trials[i].value or 0):
            different.setdefault(searched.trials[i].keys, i)
    return list(islice(different.values(), most))


def points(asked: Planned, params: Sequence[Mapping[str, Value]]) -> list[list[Point]]:
    """Return the points of each trial on as many fresh seeds as it had, or at its other values on one."""
    trials = [_fresh(own, asked.search.over == "seed") for own in asked.configs(params)]
    if not trials:
        return []
    named = [d.name for d in asked.space.dimensions]
    flat = iter(points_of([config for own in trials for config in own], asked.source, named))
    return [list(islice(flat, len(own))) for own in trials]


def _fresh(own: Sequence[RunConfig], is_over_seeds: bool) -> list[RunConfig]:
    used = {config.seed for config in own}
    seeds = (seed for seed in count() if seed not in used)
    fresh = list(islice(seeds, len(own)))
    return [replace(c, seed=fresh[i if is_over_seeds else 0]) for i, c in enumerate(own)]
