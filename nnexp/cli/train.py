"""Carry out `nnexp train`: compose with Hydra, run the plain configurations, and print the results."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import compress

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from nnexp.cli.help import help_text
from nnexp.cli.streams import masked_output
from nnexp.config import compose
from nnexp.config.errors import RequestError
from nnexp.config.grid import Grid
from nnexp.config.overrides import parse, plain_errors
from nnexp.config.paths import CONF, searching
from nnexp.pipeline.points import alone, kept, split_values, sweep_points


def train_command(arguments: list[str]) -> None:
    """Run `nnexp train …`: one run or a sweep. Raises RequestError, or SystemExit if Hydra ends early."""
    arguments, directory = without_config_dir(arguments)
    try:
        with searching(directory), plain_errors():
            if {"--help", "-h"} & set(arguments):
                print(help_text())
            else:
                _run_typed(arguments)
    except _Raised as raised:
        raise raised.error from None


def without_config_dir(arguments: list[str]) -> tuple[list[str], str | None]:
    """Split off the directory that --config-dir or Hydra's -cd names, if any. Raises RequestError."""
    others, directory = [], None
    rest = iter(arguments)
    for argument in rest:
        name, is_joined, value = argument.partition("=")
        if name not in ("--config-dir", "-cd"):
            others.append(argument)
        elif not (directory := value if is_joined else next(rest, "")):
            raise RequestError(f"{name}: name a directory, {name} DIR")
    return others, directory


def _run_typed(arguments: list[str]) -> None:
    """Run the arguments, with Hydra's command line only if they have flags other than -m."""
    parsed = get_args_parser().parse_known_args(arguments)[0]
    # A shell that completes a line passes words that are not overrides.
    overrides = [] if parsed.shell_completion else parse(parsed.overrides)
    flags = {argument for argument in arguments if argument.startswith("-")}
    sweeps = any(override.is_sweep_override() for override in overrides)
    if flags and flags <= {"-m", "--multirun"}:
        _multirun([argument for argument in arguments if argument not in flags])
    elif flags or sweeps:
        with _hydra_raises(arguments), masked_output():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_run_one)()
    else:
        _run_composed(arguments)


def _run_composed(overrides: list[str]) -> None:
    """Run one run, or an experiment that is a sweep; composes once, where Hydra's own would compose twice."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("config", overrides, return_hydra_config=True)
    if config.hydra.mode == RunMode.MULTIRUN:
        _multirun(overrides)
        return
    with open_dict(config):
        del config["hydra"]
    _run_one(config)


def _multirun(overrides: list[str]) -> None:
    """Run a sweep as Hydra does, without composing first to find out that it is a sweep."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        begun = GlobalHydra.instance().hydra
        assert begun is not None  # initialize_config_dir has set it
        begun.multirun("config", _run_one, overrides)


@contextmanager
def _hydra_raises(arguments: list[str]) -> Iterator[None]:
    """Let Hydra read these arguments, and raise its errors instead of printing them."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR", "0")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["nnexp", *arguments], "1"
    try:
        yield
    finally:
        sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, full_error


def run_sweep(
    loader: ConfigLoaderImpl, config: DictConfig, overrides: Sequence[Sequence[str]], name: str | None
) -> list[float | None] | None:
    """Validate every point, then run them all, for Hydra's launcher; return the last loss of each point.

    The loss is None for a point that was left out or diverged; of a population there is no list. Raises
    RequestError; SystemExit(1) if a point failed.
    """
    # Imported modules are not garbage, so the collector need not search them again.
    gc.freeze()
    if isinstance(overrides, Grid) and config.record == "table":
        _run_population(loader, config, overrides, name)
        return None
    configs, request = sweep_points(loader, config, overrides)
    is_kept = kept(configs, request.exclude)
    first, configs = configs[0], list(compress(configs, is_kept))
    from nnexp.cli import show  # imports pandas and more, which a wrong request need not wait for
    from nnexp.pipeline import sweep as sweeper

    try:
        done = sweeper.sweep(configs, request, name)
        if done is None:
            return [None] * len(is_kept)
        show.sweep(first, done)
    except Exception as error:
        raise _Raised(error) from error
    if done.failures:
        raise SystemExit(1)
    keys, losses = iter(done.keys), done.losses
    return [losses.get(next(keys)) if is_trained else None for is_trained in is_kept]


def run_search(loader: ConfigLoader, config: DictConfig, overrides: Sequence[str]) -> list[JobReturn]:
    """Search, for Hydra's sweeper; its jobs are none of Hydra's. Raises as `run_sweep` does."""
    from nnexp.cli import search  # imports Optuna

    try:
        search.run_search(loader, config, overrides)
    except Exception as error:
        raise _Raised(error) from error
    return []


def _run_population(loader: ConfigLoaderImpl, config: DictConfig, grid: Grid, name: str | None) -> None:
    """Validate a grid, and run it as a population. Raises RequestError; SystemExit(1) if a point failed."""
    from nnexp.cli import show
    from nnexp.pipeline.population.space import space_of
    from nnexp.pipeline.population.sweep import population

    try:
        space, request = space_of(loader, config, grid)
        done = population(space, request, name)
        if done is None:
            return
        show.population(space.configs[0], done)
    except Exception as error:
        raise _Raised(error) from error
    if done.failed:
        raise SystemExit(1)


class _Raised(BaseException):
    """Carry a run's error past Hydra, which would print it in its own words."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _run_one(config: DictConfig) -> None:
    """Run one composed configuration, as Hydra's task function."""
    try:
        one, request = alone(*split_values(compose.plain_values(config)))
        from nnexp.cli import show  # imports much that a wrong request need not wait for
        from nnexp.pipeline import run as runner

        done = runner.run(one, request)
        if done is not None:
            show.recorded(one, done)
    except Exception as error:
        raise _Raised(error) from error
