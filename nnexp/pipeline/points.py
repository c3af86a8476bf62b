"""Turn composed values into validated configs: of one run, of a sweep's points, of a variation of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import hydra
import numpy as np
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import OverrideType
from hydra.types import RunMode
from numpy.typing import NDArray
from omegaconf import DictConfig, open_dict

from nnexp.config import compose
from nnexp.config.errors import NotGiven, RequestError
from nnexp.config.grid import Grid
from nnexp.config.groups import options
from nnexp.config.overrides import not_there, parse, plain_errors
from nnexp.config.paths import CONF
from nnexp.config.request import GROUPS, Request, split
from nnexp.config.run import GROUPS as RUN_GROUPS
from nnexp.config.run import RunConfig
from nnexp.dataset.load import Source, locate
from nnexp.dataset.table import listed, parse_table, read_table
from nnexp.pipeline.progress import Meter

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("nnexp")


def split_values(values: Any, source: Source | None = None) -> tuple[RunConfig, Request]:
    """Validate composed values as a run and a request.

    Raises RequestError. If a data set's target is not given, the error names the columns of the table, read
    from `source` or, if that is None, from its path.
    """
    try:
        return split(values)
    except NotGiven as error:
        if error.key != "dataset.target":
            raise
        path = locate(values["dataset"]["path"], values["dataset"]["name"])
        table = read_table(path) if source is None else parse_table(path, source.table)
        columns = listed(table.header)
        raise NotGiven(error.key, f"one of the columns of {path.name}: {columns}") from error


def one_run(overrides: Sequence[str], source: Source | None = None) -> tuple[RunConfig, Request]:
    """Compose and validate these overrides as `nnexp train` does. Raises RequestError."""
    with plain_errors(), compose.loading() as loader:
        parse(list(overrides))
        config = loader.load_configuration("config", list(overrides), RunMode.RUN, from_shell=False)
        if config.hydra.mode == RunMode.MULTIRUN:
            raise RequestError(f"experiment={experiment_of(config)} is a sweep: nnexp.sweep runs it")
        with open_dict(config):
            del config["hydra"]
        return alone(*split_values(compose.plain_values(config), source))


def alone(config: RunConfig, request: Request) -> tuple[RunConfig, Request]:
    """Return the arguments. Raises RequestError if a key is set that makes sense for a sweep only."""
    for key, value in (("zip", request.zip), ("exclude", request.exclude)):
        if value:
            raise RequestError(f"{key} is for a sweep: add -m, and several values for a key")
    if request.is_table:
        raise RequestError("record=table is for a sweep: add -m, and several values for a key")
    return config, request


@contextmanager
def typed_grid(overrides: Sequence[str]) -> Iterator[tuple[ConfigLoaderImpl, DictConfig, Grid]]:
    """Yield what it takes to compose the points of `nnexp train -m`, and the points. Raises RequestError."""
    with plain_errors(), compose.loading() as loader:
        parse(list(overrides))
        config = loader.load_configuration("config", list(overrides), RunMode.MULTIRUN, from_shell=False)
        for plugin in ("hydra/sweeper", "hydra/launcher"):
            if (name := config.hydra.runtime.choices[plugin]) != "nnexp":
                asked = f"experiment={experiment_of(config)}: asks for {plugin}={name}"
                raise RequestError(f"{asked}, which works only on the command line")
        yield loader, config, compose.grid_points(loader, config, config.hydra.sweeper.params, overrides)


def experiment_of(config: DictConfig) -> str | None:
    """Return the name of the experiment that a composed configuration chooses, if any."""
    name: str | None = config.hydra.runtime.choices.get("experiment")
    return name


def sweep_points(
    loader: ConfigLoaderImpl,
    config: DictConfig,
    overrides: Sequence[Sequence[str]],
    source: Source | None = None,
    numbers: Sequence[int] | None = None,
    total: int | None = None,
) -> tuple[list[RunConfig], Request]:
    """Compose and validate every point of a sweep, see `valid_points`. Raises RequestError."""
    if not overrides:
        raise RequestError("the sweep has no points: one of its ranges is empty")
    composer = compose.Composer(loader, config)
    with Meter("composing", len(overrides), "runs") as meter:
        return valid_points(composer, overrides, source, numbers=numbers, total=total, meter=meter)


def valid_points(
    composer: compose.Composer,
    overrides: Sequence[Sequence[str]],
    source: Source | None = None,
    others: Sequence[Sequence[str]] = (),
    *,
    numbers: Sequence[int] | None = None,
    total: int | None = None,
    is_named: bool = True,
    meter: Meter | None = None,
) -> tuple[list[RunConfig], Request]:
    """Compose and validate each list of overrides, and their one request. Raises RequestError.

    `others` are overrides of other points, which may have options whose keys are ignored here. An error says
    which point is wrong if `is_named`; `numbers` and `total` say where in a larger sweep the points are.
    """
    configs, requests = [], set()
    without_key: dict[tuple[str, str], None] = {}
    shared: dict[str, Any] = {}  # the points' groups: most are the same, and each is kept once
    for i, (values, left_out) in enumerate(composer.points(overrides, others), 1):
        try:
            point, request = split_values(values, source)
        except RequestError as error:
            if not is_named:
                raise
            at = i if numbers is None else numbers[i - 1] + 1
            raise RequestError(f"point {at} of {total or len(overrides)}: {error}") from error
        groups = {name: getattr(point, name) for name in RUN_GROUPS}
        groups = {name: shared.setdefault(repr(group), group) for name, group in groups.items()}
        configs.append(replace(point, **groups))
        group_of = {key: key.partition(".")[0] for key in left_out}
        without_key |= {(key, f"{g}={values[g]['name']}"): None for key, g in group_of.items()}
        requests.add(request)
        if meter is not None:
            meter.update(i)
    for key, option in without_key if not others else ():
        log.info(f"{option} has no {key}: it is ignored there, and equal points run once")
    if len(requests) > 1:
        names = [f.name for f in fields(Request) if len({getattr(one, f.name) for one in requests}) > 1]
        raise RequestError(f"{', '.join(names)}: must have one value for the whole sweep")
    (request,) = requests
    return configs, request


def kept(configs: Sequence[RunConfig], exclude: str | None) -> list[bool]:
    """Return for each config whether the condition over the keys does not hold.

    Raises RequestError, also if it holds for all.
    """
    if exclude is None:
        return [True] * len(configs)
    out = left_out(configs, exclude)
    if out.all():
        raise RequestError(f"exclude={exclude}: leaves no point of {len(configs)}")
    if out.any():
        log.info(f"{out.sum()} of {len(configs)} points are left out by exclude")
    return [not one for one in out.tolist()]


def left_out(configs: Sequence[RunConfig], exclude: str) -> NDArray[np.bool_]:
    """Return for each config whether the condition holds. Raises RequestError."""
    import pandas as pd  # takes long to import

    return excluded(pd.DataFrame([config.leaves() for config in configs]), exclude)


def excluded(frame: pd.DataFrame, exclude: str) -> NDArray[np.bool_]:
    """Return for each row whether the condition over the keys holds. Raises RequestError."""
    from nnexp.analysis.summary import select

    return frame.index.isin(select(frame, exclude, f"exclude={exclude}").index)


def refuse_other_places(configs: Sequence[RunConfig]) -> None:
    """Raise RequestError unless all points of a sweep are to be recorded in one place."""
    for key in ("tracking_uri", "experiment_name"):
        values = list(dict.fromkeys(getattr(config, key) for config in configs))
        if len(values) > 1:
            raise RequestError(f"{key} must be the same for all points of a sweep, but is {values}")


def variation(config: RunConfig, overrides: Sequence[str]) -> tuple[RunConfig, Request]:
    """Return a recorded configuration with `key=value`s applied as in `nnexp train`, and the request.

    Hydra composes only these overrides and the options that the record names. It never sees the recorded
    values, since it would resolve references in them. Raises RequestError.
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
                    f"{override.input_line}: a variation takes key=value, with one value for each key"
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
    return split_values(values | {name: composed[name] for name in ours})
