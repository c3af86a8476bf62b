"""The Hydra app behind `nnexp train`: compose, hand plain configurations on, speak plainly when wrong."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nnexp.config import GROUPS, RequestError, RunConfig, key_names, unknown
from nnexp.help import CONF, help_text, options
from nnexp.progress import Meter


def train_command(arguments: list[str]) -> None:
    """`nnexp train …`: one run, or a sweep. Raises RequestError, or SystemExit where Hydra ends early."""
    if {"--help", "-h"} & set(arguments):
        print(help_text())
        return
    try:
        _check_overrides(get_args_parser().parse_known_args(arguments)[0].overrides)
        with _hydra_raises(arguments):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_run_one)()
    except _Raised as raised:
        raise raised.error from None
    except RequestError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise RequestError(plain(error)) from error


@contextmanager
def _hydra_raises(arguments: list[str]) -> Iterator[None]:
    """Hydra reads these arguments, and raises its errors to us instead of printing them."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR", "0")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["nnexp", *arguments], "1"
    try:
        yield
    finally:
        sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, full_error


def run_sweep(points: Iterable[DictConfig], count: int, name: str | None) -> None:
    """The launcher's part: validate every point, then run them all. Raises RequestError; SystemExit(1)
    if a point failed."""
    if count == 0:
        raise RequestError("the sweep has no points: one of its ranges is empty")
    configs = []
    with Meter("composing", count, "runs") as meter:
        for i, point in enumerate(points, 1):
            try:
                configs.append(RunConfig.from_hydra(point))
            except RequestError as error:
                raise RequestError(f"point {i} of {count}: {error}") from error
            meter.update(i)
    from nnexp import runner, show  # import MLflow, which a wrong request need not wait for

    try:
        done = runner.sweep(configs, name)
        show.sweep(configs[0], done)
    except Exception as error:
        raise _Raised(error) from error
    if done.failures:
        raise SystemExit(1)


class _Raised(BaseException):
    """Carries a run's error past Hydra, which would print it in its own words on the way."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _run_one(config: DictConfig) -> None:
    """Hydra's task function: one composed run."""
    try:
        request = RunConfig.from_hydra(config)
        from nnexp import runner, show

        show.recorded(runner.run(request))
    except Exception as error:
        raise _Raised(error) from error


def _check_overrides(arguments: list[str]) -> None:
    """Refuse what Hydra would answer with a traceback."""
    for override in OverridesParser.create().parse_overrides(arguments):
        key, value = override.key_or_group, override.value()
        if not key:
            raise RequestError(f"{override.input_line}: write key=value")
        if key in GROUPS and not override.is_sweep_override() and not isinstance(value, str):
            raise unknown(key, str(value), options(key))


def plain(error: Exception) -> str:
    """Hydra's error in a line that says what is known or allowed."""
    text = str(error)
    if isinstance(error, MissingConfigException) and (found := re.search(r"find '(.+)/(.+)'", text)):
        group, name = found.groups()
        return str(unknown(group, name, re.findall(r"^\t(\w+)$", text, re.MULTILINE)))
    if found := re.match(r"Could not (?:override|delete from config\.) '(.+?)'", text):
        key = found.group(1)
        if key.startswith("hydra"):
            return f"unknown key {key!r}: Hydra's own are listed by nnexp train --hydra-help"
        return str(unknown("key", key, [*key_names(), "experiment"]))
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r}: write key=value without blanks, lists as [1,2], other text "
            "in quotes within quotes: 'key=\"any text\"'"
        )
    if found := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'", text):
        key, _, values = found.group(1).partition("=")
        return f"{key}={values} is several values: add -m to sweep over them, or write a list, [{values}]"
    return text.splitlines()[0]
