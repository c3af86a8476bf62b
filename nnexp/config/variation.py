"""Compose a variation: a recorded configuration with `key=value`s set in it."""

from __future__ import annotations

from collections.abc import Sequence

import hydra
from hydra.core.override_parser.types import OverrideType

from nnexp.config import compose
from nnexp.config.errors import RequestError
from nnexp.config.overrides import not_there, parse, plain_errors
from nnexp.config.paths import CONF
from nnexp.config.request import GROUPS, SweepConfig, split
from nnexp.config.run import GROUPS as RUN_GROUPS
from nnexp.config.run import RunConfig
from nnexp.config.run.groups import options


def variation(config: RunConfig, overrides: Sequence[str]) -> tuple[RunConfig, SweepConfig]:
    """A recorded configuration with `key=value`s set as in `nnexp train`, and the way to go about it.

    What is recorded never meets Hydra, which would resolve what it refers to: only what was typed is
    composed, beside the groups that the record names. Raises RequestError.
    """
    with plain_errors():
        typed = parse(list(overrides))
        for override in typed:
            if override.key_or_group == "tracking_uri":
                raise RequestError(
                    f"{override.input_line}: a rerun is recorded in the store of its run, which "
                    "--tracking-uri or MLFLOW_TRACKING_URI names"
                )
            if override.is_sweep_override() or override.type != OverrideType.CHANGE:
                raise RequestError(
                    f"{override.input_line}: a variation takes key=value, and one value for a key"
                )
        groups = {override.key_or_group for override in typed} & set(GROUPS)
        names = {group: getattr(config, group).name for group in RUN_GROUPS if group not in groups}
        chosen = [f"{group}={name}" for group, name in names.items() if name in options(group)]
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose.plain_values(hydra.compose("config", [*chosen, *overrides]))
    # The run goes to the store that it was found in.
    values = {**config.nested(), "tracking_uri": None}
    for override in typed:
        key = override.key_or_group
        *path, last = key.split(".")
        there, new = values, composed
        for name in path:
            there, new = there.get(name, {}), new.get(name, {})
        if last not in new:
            raise not_there(key)
        there[last] = new[last]
    ours = [name for name in composed if name not in values]
    return split(values | {name: composed[name] for name in ours})
