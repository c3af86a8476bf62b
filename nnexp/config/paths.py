"""Locate three things: the shipped files, the checkout if there is one, and the default store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from nnexp.config.errors import RequestError
from nnexp.config.request import GROUPS

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel, conf/, data/ and experiments/ are in the package; in a checkout, beside it. See pyproject.toml.
_IN_WHEEL = _PACKAGE / "shipped"

CHECKOUT = None if _IN_WHEEL.is_dir() else _PACKAGE.parent
SHIPPED = CHECKOUT or _IN_WHEEL
CONF = SHIPPED / "conf"

_named: ContextVar[Path | None] = ContextVar("_named", default=None)


def default_store() -> Path:
    """Return the SQLite file of the default store: the checkout's mlflow.db, or ./mlflow.db."""
    return (CHECKOUT or Path.cwd()) / "mlflow.db"


def config_dirs() -> list[Path]:
    """Return the configuration directories in the order of search: --config-dir, ./conf, the shipped one.

    The groups are subdirectories; an experiment is in experiment/, or in experiments/ beside the directory.
    """
    found = [] if (named := _named.get()) is None else [named]
    if os.path.isdir("conf") or os.path.isdir("experiments"):
        found.append(Path(os.path.abspath("conf")))
    different = {directory.resolve(): directory for directory in reversed([*found, CONF])}
    return list(reversed(different.values()))


@contextmanager
def searching(typed: str | None) -> Iterator[None]:
    """Search this directory before the others, for --config-dir.

    Raises RequestError if it is not a configuration directory.
    """
    if typed is None:
        yield
        return
    directory = Path(os.path.abspath(typed))
    if not directory.is_dir():
        raise RequestError(f"--config-dir {typed}: is not a directory")
    names = ("config.yaml", *GROUPS, "experiment", "../experiments")
    if not any((directory / name).exists() for name in names):
        has_conf = (directory / "conf").is_dir()
        raise RequestError(
            f"--config-dir {typed}: has no config.yaml and no group such as dataset/NAME.yaml"
            + (f"; did you mean {os.path.join(typed, 'conf')}?" if has_conf else "")
        )
    token = _named.set(directory)
    try:
        yield
    finally:
        _named.reset(token)
