"""Draw initial weights. Each public function is one scheme, `init=<its name>` in a configuration.

A scheme draws the weights of one layer for all seeds of `rng` at once, but is written as for one network:
`rng.normal(size=(fan_out, fan_in))` has the shape (seeds, fan_out, fan_in), and an array of shape (fan_out,
fan_in) is used for every seed. The draws have the same bits on every machine.
"""

import numpy as np
from numpy.typing import NDArray

from nnexp.network.engine.draws import Draws

Array = NDArray[np.float64]

# The articles draw biases like weights. The other schemes start them at 0, as their papers do.
DRAW_BIASES = frozenset({"normal", "uniform"})


def normal(rng: Draws, fan_in: int, fan_out: int, *, scale: float) -> Array:
    """Draw from a normal distribution with standard deviation `scale`.

    Scale 1 is the articles' `np.random.normal()`.
    """
    return scale * rng.normal(size=(fan_out, fan_in))


def uniform(rng: Draws, fan_in: int, fan_out: int, *, scale: float) -> Array:
    """Draw uniformly between -`scale` and `scale`."""
    return rng.uniform(-scale, scale, size=(fan_out, fan_in))


def ones(rng: Draws, fan_in: int, fan_out: int) -> Array:
    """Set every weight to 1, as in the articles' worked example with Alice."""
    return np.ones((fan_out, fan_in))


def zeros(rng: Draws, fan_in: int, fan_out: int) -> Array:
    """Set every weight to 0, which shows that the neurons of a layer then stay alike for ever."""
    return np.zeros((fan_out, fan_in))


def constant(rng: Draws, fan_in: int, fan_out: int, *, value: float, ulps: int) -> Array:
    """Set every weight to `value`, but the layer's first one `ulps` units in the last place away from 0.

    With `ulps` 0 the neurons of a layer stay alike for ever, as from `ones` and `zeros`.
    """
    W = np.full((fan_out, fan_in), value)
    W.view(np.int64)[0, 0] += ulps  # neighbouring floats of one sign are neighbouring integers
    return W


def xavier(rng: Draws, fan_in: int, fan_out: int, *, scale: float) -> Array:
    """Draw uniformly within `scale` * sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010, eq. 16."""
    return uniform(rng, fan_in, fan_out, scale=scale * np.sqrt(6.0 / (fan_in + fan_out)))


def he(rng: Draws, fan_in: int, fan_out: int, *, scale: float) -> Array:
    """Draw normally with standard deviation `scale` * sqrt(2 / fan_in): He et al. 2015, eq. 10."""
    return normal(rng, fan_in, fan_out, scale=scale * np.sqrt(2.0 / fan_in))
