"""What a file's name promises of its content: one that promises another kind of file is refused."""

from __future__ import annotations

import re
from pathlib import Path

from nnexp.config.errors import RequestError

# The formats of a table by the ending that promises them; .txt and no ending promise none.
FORMATS = {".csv": "csv", ".json": "json", ".md": "markdown"}
OTHER_ENDINGS = ("", ".txt")


def table_format(asked: str | None, out: Path | None) -> str:
    """The format of a table: as asked for, else as the file's name says, else for people.

    Raises RequestError where the two differ, or the name promises what is no table.
    """
    if out is None:
        return asked or "table"
    ending = out.suffix.lower()
    check_ending("--out", out, *FORMATS, *OTHER_ENDINGS)
    promised = FORMATS.get(ending)
    if asked and promised and asked != promised:
        raise RequestError(
            f"--out {out}: the name promises {promised}, and --format says {asked}: leave one out"
        )
    return asked or promised or "table"


def check_ending(option: str, path: Path, *endings: str) -> None:
    """Raise RequestError unless the name ends in one of the endings; "" stands for none."""
    if path.suffix.lower() not in endings:
        named = [ending for ending in endings if ending]
        raise RequestError(f"{option} {path}: the name must end in {', '.join(named)}")


def check_directory(option: str, path: Path) -> None:
    """Raise RequestError where the name promises a file. The end of a version, model-1.2 or model.v2, does
    not."""
    if re.fullmatch(r"\.(?!v\d+$)[A-Za-z]\w*", path.suffix):
        raise RequestError(
            f"{option} {path}: is to be a directory, and {path.suffix} promises a file: leave it out"
        )
