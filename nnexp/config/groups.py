"""List the options of a configuration group: the names of its YAML files, and which keys they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nnexp.config.paths import CONF


def options(group: str) -> list[str]:
    """The names of a group's YAML files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def options_with(key: str) -> list[str]:
    """The options of a group that have this key, `optimizer.beta1`."""
    group, _, option = key.partition(".")
    return [name for name in options(group) if option in load_option(CONF / group / f"{name}.yaml")]


def load_option(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    return values
