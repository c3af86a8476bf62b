"""Write a small project that runs at once: a data set, an experiment, a Makefile."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from nnexp.config.errors import RequestError
from nnexp.config.groups import shown

TEMPLATE = Path(__file__).with_name("project")


def create(directory: Path) -> list[str]:
    """Write the project into a new or empty directory; return the names of its files. Raises RequestError."""
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise RequestError(f"{directory}: exists already; name a new or an empty directory")
        shutil.copytree(TEMPLATE, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        makefile = directory / "Makefile"
        text = makefile.read_text(encoding="utf-8")
        makefile.write_text(text.replace("NNEXP ?= nnexp", f"NNEXP ?= {_program()}"), encoding="utf-8")
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{directory}: cannot be written: {reason}") from error
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def _program() -> str:
    """Return how a Makefile calls this nnexp: by name, or by path if the name finds none or another one."""
    here = Path(sys.executable).with_name("nnexp")
    found = shutil.which("nnexp")
    is_found = found is not None and os.path.realpath(found) == os.path.realpath(here)
    if is_found or not here.is_file():
        return "nnexp"
    return shlex.quote(str(here)).replace("$", "$$")


def new(directory: Path) -> None:
    """Write the project and print what is in it and what to type next."""
    files = create(directory)
    print(f"wrote {shown(directory)}: {', '.join(files)}")
    print(f"  cd {shlex.quote(str(directory))} && make run")
