"""Draw initial weights, those of many runs at once, from their seeds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnexp.config.run import Choice
from nnexp.network import init
from nnexp.network.engine.draws import Draws
from nnexp.training.columns import Columns

Array = NDArray[np.float64]


def initial_weights(columns: Columns, sizes: Sequence[int]) -> Array:
    """Draw each run's untrained network, as `network.flatten` orders the weights: (runs, weights)."""
    weights = np.empty((len(columns), sum((i + 1) * o for i, o in pairwise(sizes))))
    for i, choice in enumerate(columns.inits):
        members = np.flatnonzero(columns.init == i)
        if len(members):
            seeds, which = np.unique(columns.seed[members], return_inverse=True)
            weights[members] = drawn(choice, sizes, seeds)[which]
    return weights


def drawn(choice: Choice, sizes: Sequence[int], seeds: ArrayLike) -> Array:
    """Draw a network for each seed from `RandomState(seed)`: weights layer by layer, then biases.

    The shape is (seeds, weights).
    """
    rng, scheme = Draws(seeds), getattr(init, choice.name)
    n, options = np.size(seeds), dict(choice.options)

    def layer(fan_in: int, fan_out: int) -> Array:
        W: Array = np.broadcast_to(scheme(rng, fan_in, fan_out, **options), (n, fan_out, fan_in))
        return W.reshape(n, -1)

    weights = [layer(i, o) for i, o in pairwise(sizes)]
    draws_biases = choice.name in init.DRAW_BIASES
    biases = [layer(1, o) if draws_biases else np.zeros((n, o)) for o in sizes[1:]]
    return np.concatenate([*weights, *biases], axis=1)
