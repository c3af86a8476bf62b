"""Draw the initial weights of many networks at once, from their seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from nnexp.network.engine.draws import Draws
from nnexp.network.engine.layout import Array, IntArray


class Spread(NamedTuple):
    """How each weight of a layer is drawn.

    With the standard deviation `scale` if normal, from -`scale` to `scale` if uniform; a constant is `scale`,
    but the first weight is `ulps` units in the last place farther from 0.
    """

    kind: Literal["normal", "uniform", "constant"]
    scale: float
    ulps: int = 0

    @property
    def first(self) -> float:
        """The first weight of a constant. Neighbouring numbers of one sign have neighbouring bits."""
        return float((np.array(self.scale, dtype=np.float64).view(np.int64) + self.ulps).view(np.float64))


@dataclass(frozen=True, eq=False)
class Initial:
    """The initial weights of networks of one shape, which are drawn when they are needed.

    seeds: (networks,). schemes: the spreads of each layer's weights, and then of each layer's biases; a
    network draws from `RandomState(seed)` in this order. which: the scheme of each network, (networks,).
    """

    sizes: tuple[int, ...]
    seeds: IntArray
    schemes: Sequence[Sequence[Spread]]
    which: IntArray

    def __len__(self) -> int:
        """Return the number of networks."""
        return len(self.seeds)

    @property
    def lengths(self) -> list[int]:
        """How many weights each spread of a scheme is for."""
        return [*(i * o for i, o in pairwise(self.sizes)), *self.sizes[1:]]

    @cached_property
    def weights(self) -> Array:
        """What the CPU draws, as `network.flatten` orders it: (networks, weights)."""
        weights = np.empty((len(self), sum(self.lengths)))
        for i, spreads in enumerate(self.schemes):
            members = np.flatnonzero(self.which == i)
            if len(members):
                seeds, which = np.unique(self.seeds[members], return_inverse=True)
                rng = Draws(seeds)
                parts = [_drawn(rng, *part) for part in zip(spreads, self.lengths, strict=True)]
                weights[members] = np.concatenate(parts, axis=1)[which]
        return weights


def _drawn(rng: Draws, spread: Spread, length: int) -> Array:
    """Draw so many numbers from each stream: (streams, length)."""
    if spread.kind == "normal":
        return spread.scale * rng.normal((length,))
    if spread.kind == "uniform":
        return rng.uniform(-spread.scale, spread.scale, (length,))
    constant = np.full((len(rng), length), spread.scale)
    constant[:, 0] = spread.first
    return constant
