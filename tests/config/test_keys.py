"""Run keys from a template: exactly those of the configurations, one by one."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nnexp.config.keys import KeyTemplate
from nnexp.config.run import RunConfig

RATES = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
VALUES = {
    "seed": st.integers(0, 2**32 - 1),
    "learning_rate": RATES,
    "epochs": st.integers(1, 2**63 - 1),
    "patience": st.integers(0, 5),
    "split_seed": st.integers(0, 2**32 - 1),
    "init.scale": RATES,
    "optimizer.weight_decay": st.floats(min_value=0, allow_infinity=False, allow_nan=False),
}
DATA, ENGINE = "ab" * 32, "2"


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sets(st.sampled_from(sorted(VALUES)), min_size=1))
def test_a_template_gives_the_keys_of_the_configurations(configure, data, varied):
    config = configure("validation_fraction=0.5")
    columns, points = {}, [{} for _ in range(4)]
    for key in sorted(varied):
        values = data.draw(st.lists(VALUES[key], min_size=2, max_size=3))
        which = [data.draw(st.integers(0, len(values) - 1)) for _ in points]
        columns[key] = values, np.array(which)
        for point, i in zip(points, which, strict=True):
            point[key] = values[i] + 0.0 if isinstance(values[i], float) else values[i]
    digests = KeyTemplate(config, DATA, ENGINE, varied).digests(columns, len(points))
    for point, digest in zip(points, digests, strict=True):
        assert bytes(digest).hex() == with_values(config, point).run_key(DATA, ENGINE)


def with_values(config, point):
    """Return the configuration with these keys, in nested form validated again."""
    nested = config.nested()
    for key, value in point.items():
        group, _, option = key.partition(".")
        if option:
            nested[group][option] = value
        else:
            nested[group] = value
    assert all(math.isfinite(value) for value in point.values())
    return RunConfig.from_mapping(nested)
