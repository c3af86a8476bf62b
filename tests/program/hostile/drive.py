"""Run every reading command on every hostile record, in one process that is watched; print what happened.

Run by test_hostile.py as `python drive.py DIRECTORY`, which holds an empty store.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from nnexp.cli import main as cli
from tests.program.hostile.corpus import (
    CONFIGS,
    ELSEWHERE,
    RUN_IDS,
    SECRET,
    SHOWN,
    TIMES,
    WEIGHTS,
    WRONG_TYPES,
    Case,
    Place,
)

# A module's first import has nothing to do with the record: its bytecode is not kept, its compilation not
# counted.
sys.dont_write_bytecode = True
INSTALLED = (sys.prefix, sys.base_prefix, str(Path(cli.__file__).parent))

EXECUTES = {
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.startfile",
    "pty.spawn",
    "pickle.find_class",
    "socket.connect",
    "ctypes.dlopen",
    "compile",
}
WRITES = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.truncate",
}
# The position of the open directory in the arguments of these events. The event "open" has none: listings
# show what was written under a name without a directory.
DIRECTORY_AT = {"os.mkdir": 2, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.symlink": 2, "os.link": 2}


class Watch:
    """Records what the program does, by the interpreter's audit events."""

    def __init__(self) -> None:
        self.allowed: Path | None = None
        self.seen: list[str] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is None:
            return
        if event in EXECUTES and not self._is_import(event, arguments):
            self.seen.append(f"{event} {str(arguments)[:200]}")
        elif event in WRITES or (event == "open" and self._is_write(arguments)):
            path = self._path(event, arguments)
            if not f"{path}{os.sep}".startswith(f"{self.allowed}{os.sep}"):
                self.seen.append(f"{event} {path}")

    @staticmethod
    def _path(event: str, arguments: tuple[Any, ...]) -> str:
        """Return the whole path of a written file, even if it is named relative to an open directory."""
        if arguments[0] is None:
            return ""
        folder = arguments[DIRECTORY_AT[event]] if event in DIRECTORY_AT else -1
        place = os.getcwd() if folder < 0 else os.readlink(f"/proc/self/fd/{folder}")
        return os.path.abspath(os.path.join(place, os.fsdecode(arguments[0])))

    @staticmethod
    def _is_import(event: str, arguments: tuple[Any, ...]) -> bool:
        """Return whether an installed module is compiled, which happens at its first import."""
        file = str(arguments[1]) if event == "compile" else ""
        return file.startswith(INSTALLED) and os.path.isfile(file)

    @staticmethod
    def _is_write(arguments: tuple[Any, ...]) -> bool:
        path, _, flags = arguments
        is_path = isinstance(path, str | bytes) and os.path.isabs(path) and os.fsdecode(path) != os.devnull
        return is_path and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))

    @contextmanager
    def watching(self, allowed: Path) -> Iterator[list[str]]:
        """Yield a list that collects what is executed, and what is written outside of a directory."""
        self.allowed, self.seen = allowed, []
        try:
            yield self.seen
        finally:
            self.seen = None


def run(*arguments: str) -> dict[str, Any]:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["nnexp", *arguments]
    status = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def commands(run_id: str, rows: str) -> dict[str, list[str]]:
    """Return the commands that read records, as they are typed."""
    return {
        "show": ["show", run_id],
        "predict": ["predict", run_id, rows, "--format", "csv"],
        "dry rerun": ["rerun", run_id, "--dry-run"],
        "summarize": ["summarize", "--by", "init,learning_rate"],
        "summarize csv": ["summarize", "--by", "init", "--format", "csv"],
        "summarize markdown": ["summarize", "--by", "init", "--format", "markdown"],
        "summarize json": ["summarize", "--by", "init", "--format", "json", "--threshold", "0.1"],
    }


TABLES = ("summarize", "summarize csv", "summarize markdown", "summarize json")
# The commands that each kind of case concerns; all commands if a kind is not listed.
CONCERNED = {
    "config": {"dry rerun"},
    "weights": {"show"},
    # Training takes a moment for each case, so only some cases are trained.
    "config: target": {"dry rerun", "rerun"},
    "config: environment": {"dry rerun", "rerun"},
    "weights: pickled objects": {"show", "predict", "rerun"},
    "weights: zip bomb": {"show", "predict", "rerun"},
    "weights: other weights": {"show", "predict", "rerun"},
    "weights: declared a gigabyte": {"show", "predict", "rerun"},
    "elsewhere": {"show", "dry rerun"},
    "shown": {"show", "dry rerun", "summarize"},
    "shown: escapes in a param": {"show", "predict", *TABLES},
    "shown: escapes in a param's name": set(TABLES),
    "shown: formula in a param": set(TABLES),
    "type": {"show", "summarize", "bundle"},
    "time": {"show", "summarize"},
}


def writing(run_id: str, store: Path) -> dict[str, list[str]]:
    """Return the commands that read a record and write something."""
    return {
        "rerun": ["rerun", run_id],
        "bundle": ["bundle", run_id, "--out", str(store / "bundle.zip")],
    }


def file_case(name: str, content: bytes | Callable[[Place], bytes]) -> Case:
    """Replace an artifact by a file."""

    def change(place: Place) -> None:
        data = content if isinstance(content, bytes) else content(place)
        (place.artifacts / name).write_bytes(data)

    return change


def cases() -> dict[str, Case]:
    """Return every case by its kind and name."""
    named = {f"config: {name}": file_case("config.yaml", content) for name, content in CONFIGS.items()}
    named |= {f"weights: {name}": file_case("weights.npz", content) for name, content in WEIGHTS.items()}
    kinds = {"shown": SHOWN, "elsewhere": ELSEWHERE, "type": WRONG_TYPES, "time": TIMES}
    return named | {f"{kind}: {name}": case for kind, some in kinds.items() for name, case in some.items()}


def outside_with_secrets(place: Place) -> None:
    """Make files of the right names outside of the store, for records that lead there."""
    place.outside.mkdir()
    for name in ("config.yaml", "run_keys.txt", "weights.npz"):
        (place.outside / name).write_text(SECRET)


def listing(directory: Path, but: Path | None = None) -> list[tuple[str, int]]:
    """List every file with its time of change, except those of one directory."""
    paths = (path for path in directory.rglob("*") if but is None or not path.is_relative_to(but))
    return sorted((str(path), path.lstat().st_mtime_ns) for path in paths)


def main(directory: Path) -> None:
    store = directory / "store"
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}/mlflow.db"
    trained = run("train", "epochs=5", "log_every=1", "weights_every=2", "model=false", "figures=false")
    run_id = trained["out"].split("recorded as ")[1][:32]
    place = Place(store, run_id)
    rows = directory / "rows.csv"
    rows.write_text("weight_lb,height_in\n128,63\n")
    outside_with_secrets(place)
    os.chdir(directory)
    good = directory / "good"
    shutil.copytree(store, good, symlinks=True)
    typed = commands(run_id, str(rows))
    # This also runs git once, to describe the code.
    all_typed = typed | writing(run_id, store)
    results: dict[str, Any] = {"good": {name: run(*arguments) for name, arguments in all_typed.items()}}
    watch = Watch()
    with watch.watching(store) as seen:
        # The results that the tests would see if the watch did not work.
        os.system("true")
        (place.outside / "written").touch()
    results["watch"] = {"seen": seen}
    for name, change in cases().items():
        shutil.rmtree(store)
        shutil.copytree(good, store)
        change(place)
        concerned = CONCERNED.get(name, CONCERNED.get(name.split(":")[0], typed))
        before, peak = listing(directory), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with watch.watching(store) as seen:
            ended = {command: run(*words) for command, words in typed.items() if command in concerned}
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) // 1024
        is_changed, outside = listing(directory) != before, listing(directory, store)
        with watch.watching(store) as seen_writing:
            words_of = writing(run_id, store).items()
            ended |= {command: run(*words) for command, words in words_of if command in concerned}
        results[name] = {"ended": ended, "seen": seen + seen_writing, "more_megabytes": more}
        results[name]["is_changed"] = is_changed or listing(directory, store) != outside
    shutil.rmtree(store)
    shutil.copytree(good, store)
    for name, wrong in RUN_IDS.items():
        typed = commands(wrong, str(rows))
        with watch.watching(store) as seen:
            ended = {command: run(*words) for command, words in typed.items() if wrong in words[1:2]}
        results[f"run id: {name}"] = {"ended": ended, "seen": seen, "more_megabytes": 0, "is_changed": False}
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
