"""Write the page of `nnexp train --help`: every key with its default, its allowed values and its meaning.

Defaults come from conf/, rules and meanings from nnexp.config, so that the page agrees with the program.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nnexp.config.groups import load_option, options, options_with, shown
from nnexp.config.paths import CONF, config_dirs
from nnexp.config.request import GROUPS, key_help, key_names

HELP = """\
usage: nnexp train [-m] [--config-dir DIR] [key=value …]

Train a network and record it in MLflow. With -m, train every combination of several values:
-m seed=1,2,3 init=he,normal (also range(0,10), glob(*), choice(a,b)). An experiment with ranges, such as
experiment=real_tables, needs no -m. A conf/ in the working directory, or DIR, adds your own data sets,
experiments and defaults.
"""

SEARCH = """\
usage: nnexp search [--config-dir DIR] key=RANGE [key=value …]

Search for the best values of the keys that have a range, with Optuna, and record every trial in MLflow:
learning_rate='tag(log,interval(0.001,1))' hidden='choice([4],[16],[16,8])' epochs='range(50,201,50)'
seed='range(5)' search.trials=100. A trial is judged over the values of search.over, the seeds. The same
command goes on where it was interrupted, and a larger search.trials continues. nnexp train --help lists all
other keys.
"""


def search_help() -> str:
    """Return the page of `nnexp search --help`: the keys of a search."""
    rules = {key: (allowed, meaning) for key, allowed, meaning in key_help()}
    values = load_option("search", "tpe")
    lines = [SEARCH, *_entry("search=tpe", f"the sampler. Allowed: {', '.join(options('search'))}")]
    for key, (allowed, meaning) in rules.items():
        if key.startswith("search."):
            lines += _entry(f"{key}={_shown(values[key[7:]])}", f"{meaning}. Allowed: {allowed}")
    return "\n".join(lines)


def help_text() -> str:
    """Return the whole page."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        defaults: Any = OmegaConf.to_container(compose("config"), throw_on_missing=False)
    rules = {key: (allowed, meaning) for key, allowed, meaning in key_help()}
    lines = [HELP]
    for key in key_names():
        if key in GROUPS:
            default, allowed, meaning = defaults[key]["name"], ", ".join(options(key)), f"one of conf/{key}/"
        else:
            allowed, meaning = rules[key]
            default, users = _default(key, defaults)
            meaning += f" ({users})" if users else ""
        lines += _entry(f"{key}={_shown(default)}", f"{meaning}. Allowed: {allowed}")
    experiments = ", ".join(options("experiment"))
    lines += _entry("experiment=none", f"one of experiments/ or conf/experiment/: {experiments}")
    return "\n".join(
        [
            *lines,
            "",
            *_searched(),
            "Hydra's own flags, such as --cfg job and --info: nnexp train --hydra-help",
        ]
    )


def _searched() -> list[str]:
    """Return a line that names the user's own configuration directories, if there are any."""
    own = [shown(directory) for directory in config_dirs()[:-1]]
    return [f"Read first, before what is shipped: {', '.join(own)}"] if own else []


def _default(key: str, defaults: Any) -> tuple[Any, str]:
    """Return a key's default and, if only some options of its group have the key, those options."""
    group, _, option = key.partition(".")
    if not option:
        return defaults[key], ""
    users = options_with(key)
    default = defaults[group].get(option, load_option(group, users[0])[option])
    return default, "" if users == options(group) else f"{group}={'|'.join(users)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]"
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))


def _entry(name: str, text: str) -> Iterator[str]:
    """Yield the lines of one key: its name, and the wrapped text beside or below it."""
    first, *rest = textwrap.wrap(text, 74)
    if len(name) > 29:
        yield f"  {name}"
        name = ""
    yield f"  {name:<30}{first}"
    yield from (f"{'':32}{line}" for line in rest)
