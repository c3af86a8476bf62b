"""Carry out `nnexp search`: compose with Hydra, ask Optuna, train, and print what was found."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import DictConfig

from nnexp.cli.help import search_help
from nnexp.cli.train import without_config_dir
from nnexp.config import compose
from nnexp.config.errors import RequestError
from nnexp.config.overrides import parse, plain_errors
from nnexp.config.paths import searching


def search_command(arguments: list[str]) -> None:
    """Run `nnexp search …`. Raises RequestError; SystemExit(1) if a run failed."""
    arguments, directory = without_config_dir(arguments)
    with searching(directory):
        if {"--help", "-h"} & set(arguments):
            print(search_help())
            return
        overrides = [argument for argument in arguments if argument not in ("-m", "--multirun")]
        if flags := [argument for argument in overrides if argument.startswith("-")]:
            raise RequestError(f"{flags[0]}: nnexp search takes key=value, --config-dir DIR and --help")
        with compose.loading() as loader:
            with plain_errors():
                parse(overrides)
                config = loader.load_configuration("config", overrides, RunMode.MULTIRUN, from_shell=False)
            run_search(loader, config, overrides)


def run_search(loader: ConfigLoader, config: DictConfig, overrides: Sequence[str]) -> None:
    """Check a composed search, run it and print the results; for Hydra's sweeper, too.

    Raises RequestError; SystemExit(1) if a run failed.
    """
    from nnexp.pipeline.search.plan import planned  # imports Optuna

    asked = planned(loader, config, overrides, config.hydra.runtime.choices.get("experiment"))
    from nnexp.cli import show  # imports pandas and more, which a wrong request need not wait for
    from nnexp.pipeline.search import loop

    done = loop.search(asked)
    if done is None:
        return
    show.search(asked.config, done)
    if done.failures:
        raise SystemExit(1)
