"""Check the endings of file names: a name must not promise another kind of file than is written."""

from __future__ import annotations

import re
from pathlib import Path

from nnexp.config.errors import RequestError

# The format of a table that each ending promises; .txt and no ending promise none.
FORMATS = {".csv": "csv", ".json": "json", ".md": "markdown"}
OTHER_ENDINGS = ("", ".txt")


def table_format(asked: str | None, out: Path | None) -> str:
    """Return a table's format: the one asked for, else that of the file's name, else "table", for people.

    Raises RequestError if the two differ, or if the name promises something other than a table.
    """
    if out is None:
        return asked or "table"
    ending = out.suffix.lower()
    check_ending("--out", out, *FORMATS, *OTHER_ENDINGS)
    promised = FORMATS.get(ending)
    if asked and promised and asked != promised:
        raise RequestError(
            f"--out {out}: the name promises {promised}, but --format says {asked}: leave one out"
        )
    return asked or promised or "table"


def check_ending(option: str, path: Path, *endings: str) -> None:
    """Raise RequestError unless the name has one of the endings; "" means no ending."""
    if path.suffix.lower() not in endings:
        named = [ending for ending in endings if ending]
        raise RequestError(f"{option} {path}: the name must end in {', '.join(named)}")


def check_directory(option: str, path: Path) -> None:
    """Raise RequestError if a directory's name ends like a file's name.

    A version at its end, as in model-1.2 or model.v2, is allowed.
    """
    if re.fullmatch(r"\.(?!v\d+$)[A-Za-z]\w*", path.suffix):
        raise RequestError(
            f"{option} {path}: must be a directory, but {path.suffix} promises a file: leave it out"
        )
