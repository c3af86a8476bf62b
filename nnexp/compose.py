"""Compose the points of a sweep: Hydra's own result, without composing what points have in common again.

Choosing files takes Hydra's time; setting values is quick. So every distinct choice of groups is composed
once, and a point's values are set on a copy of it, by the function with which Hydra itself sets them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict


def points(
    loader: ConfigLoaderImpl, config: DictConfig, job_overrides: Sequence[Sequence[str]]
) -> Iterator[DictConfig]:
    """The composed configuration of each list of overrides, without Hydra's own node.

    Raises Hydra's and OmegaConf's errors.
    """
    parser = OverridesParser.create(config_loader=loader)
    composed: dict[tuple[str, ...], DictConfig] = {}
    for overrides in job_overrides:
        parsed = parser.parse_overrides(list(overrides))
        choices = tuple(str(o.input_line) for o in parsed if _chooses(loader, o))
        if choices not in composed:
            whole = loader.load_sweep_config(config, list(choices))
            with open_dict(whole):
                del whole["hydra"]
            composed[choices] = whole
        point = copy.deepcopy(composed[choices])
        loader._apply_overrides_to_config([o for o in parsed if not _chooses(loader, o)], point)
        yield point


def _chooses(loader: ConfigLoaderImpl, override: Override) -> bool:
    """Whether the override picks an option of a group, or is for Hydra, rather than setting a value."""
    is_group = loader.repository.group_exists(override.key_or_group)
    return override.is_hydra_override() or (is_group and not isinstance(override.value(), dict))
