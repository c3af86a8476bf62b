"""Choose how the initial weights of runs are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from nnexp.config.run import Choice
from nnexp.network import init
from nnexp.network.engine.initial import Initial, Spread
from nnexp.training.columns import Columns


def initial_weights(columns: Columns, sizes: Sequence[int]) -> Initial:
    """Return each run's untrained network."""
    schemes = [spreads(choice, sizes) for choice in columns.inits]
    return Initial(tuple(sizes), columns.seed, schemes, columns.init)


def networks(choice: Choice, sizes: Sequence[int], seeds: ArrayLike) -> Initial:
    """Return an untrained network for each seed."""
    each = np.array(seeds, dtype=np.int64)
    return Initial(tuple(sizes), each, [spreads(choice, sizes)], np.zeros(len(each), dtype=np.int64))


def spreads(choice: Choice, sizes: Sequence[int]) -> list[Spread]:
    """Return how each layer's weights and then each layer's biases are drawn."""
    scheme, options = getattr(init, choice.name), dict(choice.options)
    draws_biases = choice.name in init.DRAW_BIASES
    weights = [scheme(i, o, **options) for i, o in pairwise(sizes)]
    biases = [scheme(1, o, **options) if draws_biases else Spread("constant", 0.0) for o in sizes[1:]]
    return [*weights, *biases]
