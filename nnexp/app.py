"""The Hydra app behind `nnexp train`: compose, hand plain configurations on, speak plainly when wrong."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType, QuotedString, Sweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from nnexp import compose
from nnexp.config import GROUPS as RUN_GROUPS
from nnexp.config import NotGiven, RequestError, RunConfig, unknown
from nnexp.dataset import locate
from nnexp.help import CONF, help_text, options
from nnexp.progress import Meter, say
from nnexp.request import GROUPS, SweepConfig, key_names, split
from nnexp.table import listed, read_table


def train_command(arguments: list[str]) -> None:
    """`nnexp train …`: one run, or a sweep. Raises RequestError, or SystemExit where Hydra ends early."""
    if {"--help", "-h"} & set(arguments):
        print(help_text())
        return
    try:
        with _plainly():
            _run_typed(arguments)
    except _Raised as raised:
        raise raised.error from None


def _run_typed(arguments: list[str]) -> None:
    parsed = get_args_parser().parse_known_args(arguments)[0]
    # A shell that asks how to complete a line types what is no key.
    overrides = [] if parsed.shell_completion else _checked(parsed.overrides)
    flags = {argument for argument in arguments if argument.startswith("-")}
    sweeps = any(override.is_sweep_override() for override in overrides)
    if flags and flags <= {"-m", "--multirun"}:
        _multirun([argument for argument in arguments if argument not in flags])
    elif flags or sweeps:
        with _hydra_raises(arguments):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_run_one)()
    else:
        _run_composed(arguments)


@contextmanager
def _plainly() -> Iterator[None]:
    """Hydra's errors are RequestErrors, in plain words."""
    try:
        yield
    except RequestError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise RequestError(plain(error)) from error


def _run_composed(overrides: list[str]) -> None:
    """One run, or an experiment that is a sweep. Hydra's command line would compose it twice."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("config", overrides, return_hydra_config=True)
    if config.hydra.mode == RunMode.MULTIRUN:
        _multirun(overrides)
        return
    with open_dict(config):
        del config["hydra"]
    _run_one(config)


def _multirun(overrides: list[str]) -> None:
    """A sweep as Hydra runs it, without composing once more to learn that it is one."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        begun = GlobalHydra.instance().hydra
        assert begun is not None  # initialised by the line above
        begun.multirun("config", _run_one, overrides)


@contextmanager
def _hydra_raises(arguments: list[str]) -> Iterator[None]:
    """Hydra reads these arguments, and raises its errors to us instead of printing them."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR", "0")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["nnexp", *arguments], "1"
    try:
        yield
    finally:
        sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, full_error


def run_sweep(
    loader: ConfigLoaderImpl, config: DictConfig, overrides: Sequence[Sequence[str]], name: str | None
) -> list[float | None]:
    """The launcher's part: validate every point, then run them all; the last loss of each point.

    None stands for a point that was left out or diverged. Raises RequestError; SystemExit(1) if a point
    failed.
    """
    # What has been imported is no garbage, and need not be searched for any again.
    gc.freeze()
    if not overrides:
        raise RequestError("the sweep has no points: one of its ranges is empty")
    configs, requests = [], set()
    with Meter("composing", len(overrides), "runs") as meter:
        for i, values in enumerate(compose.points(loader, config, overrides), 1):
            try:
                point, request = _split(values)
            except RequestError as error:
                raise RequestError(f"point {i} of {len(overrides)}: {error}") from error
            configs.append(point)
            requests.add(request)
            meter.update(i)
    if len(requests) > 1:
        names = ", ".join(f.name for f in fields(SweepConfig))
        raise RequestError(f"{names}: each is one for a whole sweep")
    (request,) = requests
    chosen = without(configs, request.exclude)
    from nnexp import show, sweeper  # import pandas and more, which a wrong request need not wait for

    try:
        done = sweeper.sweep(chosen, request, name)
        if done is None:
            return [None] * len(configs)
        show.sweep(chosen[0], done)
    except Exception as error:
        raise _Raised(error) from error
    if done.failures:
        raise SystemExit(1)
    key_of = dict(zip(chosen, done.keys, strict=True))
    return [done.losses.get(key_of.get(config, "")) for config in configs]


def without(configs: Sequence[RunConfig], exclude: str | None) -> list[RunConfig]:
    """The configs for which the expression over the keys does not hold. Raises RequestError."""
    if exclude is None:
        return list(configs)
    import pandas as pd  # takes long to import

    from nnexp.summary import select

    leaves = [config.leaves() for config in configs]
    frame = pd.DataFrame([{k: v for k, v in leaf.items() if not isinstance(v, tuple)} for leaf in leaves])
    left_out = select(frame, exclude, f"exclude={exclude}").index
    kept = [config for i, config in enumerate(configs) if i not in left_out]
    if not kept:
        raise RequestError(f"exclude={exclude}: leaves no point of {len(configs)}")
    if len(kept) < len(configs):
        say(f"{len(configs) - len(kept)} of {len(configs)} points are left out by exclude")
    return kept


def variation(config: RunConfig, overrides: Sequence[str]) -> tuple[RunConfig, SweepConfig]:
    """A recorded configuration with `key=value`s set as in `nnexp train`, and the way to go about it.

    What is recorded never meets Hydra, which would resolve what it refers to: only what was typed is
    composed, beside the groups that the record names. Raises RequestError.
    """
    with _plainly():
        typed = _checked(list(overrides))
        for override in typed:
            if override.key_or_group == "tracking_uri":
                raise RequestError(
                    f"{override.input_line}: a rerun is recorded in the store of its run, which "
                    "MLFLOW_TRACKING_URI names"
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
            raise _not_there(key)
        there[last] = new[last]
    ours = [name for name in composed if name not in values]
    return _split(values | {name: composed[name] for name in ours})


def _split(values: Any) -> tuple[RunConfig, SweepConfig]:
    """As `split`; if no target is given, the error names the columns of the table. Raises RequestError."""
    try:
        return split(values)
    except NotGiven as error:
        if error.key != "dataset.target":
            raise
        path = locate(values["dataset"]["path"], values["dataset"]["name"])
        columns = listed(read_table(path).header)
        raise NotGiven(error.key, f"one of the columns of {path.name}: {columns}") from error


class _Raised(BaseException):
    """Carries a run's error past Hydra, which would print it in its own words on the way."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _run_one(config: DictConfig) -> None:
    """Hydra's task function: one composed run."""
    try:
        one, request = _split(compose.plain_values(config))
        for key, value in (("zip", request.zip), ("exclude", request.exclude)):
            if value:
                raise RequestError(f"{key} is for a sweep: add -m, and several values for a key")
        from nnexp import runner, show  # import more, which a wrong request need not wait for

        done = runner.run(one, request)
        if done is not None:
            show.recorded(done)
    except Exception as error:
        raise _Raised(error) from error


def _checked(arguments: list[str]) -> list[Override]:
    """The overrides. Raises RequestError for what Hydra would answer with a traceback, or without the key."""
    overrides = OverridesParser.create().parse_overrides(arguments)
    known = {*key_names(), *(f"{group}.name" for group in GROUPS), "experiment"}
    for override in overrides:
        key, value = override.key_or_group, override.value()
        if not key:
            raise RequestError(f"{override.input_line}: write key=value")
        # A number is an element of a list: hidden.0=3.
        if re.sub(r"\.\d+$", "", key) not in known and re.split("[./]", key)[0] != "hydra":
            raise unknown("key", key, [*key_names(), "experiment"])
        if key in GROUPS or (key == "experiment" and value is not None):
            _check_option(key, value)
    return overrides


def _check_option(group: str, value: object) -> None:
    """Refuse what is no option of the group, one or several: a file of such a name might not even be looked
    for."""
    if isinstance(value, ChoiceSweep):
        for item in value.list:
            _check_option(group, item.text if isinstance(item, QuotedString) else item)
    elif not isinstance(value, Sweep) and value not in options(group):
        raise unknown(group, str(value), options(group))


def _not_there(key: str) -> RequestError:
    """Of a key that the chosen option of its group has not, or of a part of a list."""
    group = key.partition(".")[0]
    if group not in GROUPS:
        return RequestError(f"{key}: write the whole value, {group}=…")
    return RequestError(
        f"{key}: the {group} that is chosen has no such option; choose another: {', '.join(options(group))}"
    )


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
        return str(_not_there(key))
    if found := re.match(r"Error merging override (.+)", text):
        typed = found.group(1)
        key = re.split("[.=]", typed.lstrip("+"))[0]
        return f"{typed}: there is no such part of {key}: write the whole value, {key}=…"
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r}: write key=value without blanks, lists as [1,2], other text "
            "in quotes within quotes: 'key=\"any text\"'"
        )
    if found := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'", text):
        key, _, values = found.group(1).partition("=")
        return f"{key}={values} is several values: add -m to sweep over them, or write a list, [{values}]"
    return text.splitlines()[0]
