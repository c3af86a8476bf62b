"""Say how initial weights are drawn. Each public function is a scheme, `init=<its name>` in a configuration.

It returns how each weight of a layer of `fan_out` neurons with `fan_in` inputs is drawn; `engine.initial`
draws them.
"""

import math

from nnexp.network.engine.initial import Spread

# The articles draw biases like weights. The other schemes start them at 0, as their papers do.
DRAW_BIASES = frozenset({"normal", "uniform"})


def normal(fan_in: int, fan_out: int, *, scale: float) -> Spread:
    """Draw from a normal distribution with standard deviation `scale`.

    Scale 1 is the articles' `np.random.normal()`.
    """
    return Spread("normal", scale)


def uniform(fan_in: int, fan_out: int, *, scale: float) -> Spread:
    """Draw uniformly between -`scale` and `scale`."""
    return Spread("uniform", scale)


def ones(fan_in: int, fan_out: int) -> Spread:
    """Set every weight to 1, as in the articles' worked example with Alice."""
    return Spread("constant", 1.0)


def zeros(fan_in: int, fan_out: int) -> Spread:
    """Set every weight to 0, which shows that the neurons of a layer then stay alike for ever."""
    return Spread("constant", 0.0)


def constant(fan_in: int, fan_out: int, *, value: float, ulps: int) -> Spread:
    """Set every weight to `value`, but the layer's first one `ulps` units in the last place farther from 0.

    With `ulps` 0 the neurons of a layer stay alike for ever, as from `ones` and `zeros`.
    """
    return Spread("constant", value, ulps)


def xavier(fan_in: int, fan_out: int, *, scale: float) -> Spread:
    """Draw uniformly within `scale` * sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010, eq. 16."""
    return Spread("uniform", scale * math.sqrt(6.0 / (fan_in + fan_out)))


def he(fan_in: int, fan_out: int, *, scale: float) -> Spread:
    """Draw normally with standard deviation `scale` * sqrt(2 / fan_in): He et al. 2015, eq. 10."""
    return Spread("normal", scale * math.sqrt(2.0 / fan_in))
