"""Run many commands in one process, which saves their imports, and write how each ended.

usage: python drive.py < COMMANDS > ENDS, both JSON: a list of [arguments, environment], and of ends.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra

from nnexp.cli import main as cli


def listing() -> list[tuple[str, int, int]]:
    """List every file here with its size and time of change, except locks, which are empty."""
    stats = ((str(path), path.lstat()) for path in sorted(Path().rglob("*")) if path.suffix != ".lock")
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats if not path.startswith(".")]


def run(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["nnexp", *arguments]
    os.environ.update(environment)
    before, status = listing(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            status = -1
        finally:
            GlobalHydra.instance().clear()
    return {
        "status": status,
        "out": out.getvalue().encode(errors="replace").decode(),
        "err": err.getvalue().encode(errors="replace").decode(),
        "is_changed": listing() != before,
    }


def main() -> None:
    commands = json.load(sys.stdin)
    json.dump([run(arguments, environment) for arguments, environment in commands], sys.stdout)


if __name__ == "__main__":
    main()
