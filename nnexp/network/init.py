"""Draw initial weights. Each public function is one scheme, `init=<its name>` in a configuration.

A scheme draws the weights of one layer as an array of shape (fan_out, fan_in). The draws come from a
`RandomState`, whose stream NumPy has frozen, so a seed gives the same network on every machine.
"""

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The articles draw biases like weights. The other schemes start them at 0, as their papers do.
DRAW_BIASES = frozenset({"normal", "uniform"})


_GENERATOR = RandomState(0)


def seeded(seed: int | list[int]) -> RandomState:
    """Return a generator at the start of the seed's stream, valid until the next call, which seeds it again.

    Making a RandomState takes seventy times as long as seeding one.
    """
    _GENERATOR.seed(seed)
    return _GENERATOR


def normal(rng: RandomState, fan_in: int, fan_out: int, *, scale: float) -> Array:
    """Draw from a normal distribution with standard deviation `scale`.

    Scale 1 is the articles' `np.random.normal()`.
    """
    return scale * rng.normal(size=(fan_out, fan_in))


def uniform(rng: RandomState, fan_in: int, fan_out: int, *, scale: float) -> Array:
    """Draw uniformly between -`scale` and `scale`."""
    return rng.uniform(-scale, scale, size=(fan_out, fan_in))


def ones(rng: RandomState, fan_in: int, fan_out: int) -> Array:
    """Set every weight to 1, as in the articles' worked example with Alice."""
    return np.ones((fan_out, fan_in))


def zeros(rng: RandomState, fan_in: int, fan_out: int) -> Array:
    """Set every weight to 0, which shows that the neurons of a layer then stay alike for ever."""
    return np.zeros((fan_out, fan_in))


def xavier(rng: RandomState, fan_in: int, fan_out: int, *, scale: float) -> Array:
    """Draw uniformly within `scale` * sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010, eq. 16."""
    return uniform(rng, fan_in, fan_out, scale=scale * np.sqrt(6.0 / (fan_in + fan_out)))


def he(rng: RandomState, fan_in: int, fan_out: int, *, scale: float) -> Array:
    """Draw normally with standard deviation `scale` * sqrt(2 / fan_in): He et al. 2015, eq. 10."""
    return normal(rng, fan_in, fan_out, scale=scale * np.sqrt(2.0 / fan_in))
