"""Faults of a store: its disk is full, it is read-only, deleted, damaged, or of another schema."""

from __future__ import annotations

import ctypes
import errno
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.faults.kills import check_part
from tests.faults.program import (
    Cases,
    Fault,
    Missing,
    Trial,
    driven,
    ended,
    expect,
    last_line,
    not_refused,
    refused,
    start,
    told,
    typed,
    until,
)
from tests.faults.standing import ONE, ONE_EPOCHS, PART, networks_of, read_runs

# If this process may not mount file systems, files are limited in size, and this code reports a full disk.
NO_ROOM = """
from nnexp.cli import main as cli
from nnexp.tracking import files
write = files.write_file
def full(folder, name, content, is_synced):
    if name == "weights.npz":
        full.left -= 1
        if full.left < 0:
            write(folder, name, content[:100], is_synced)
            raise OSError({number}, "No space left on device", name)
    return write(folder, name, content, is_synced)
full.left = {left}
files.write_file = full
cli.main()
"""


def rows(n: int) -> list[Fault]:
    few = max(1, n // 10)
    return [
        Fault("the disk is full while rows are written", full_of_rows, few),
        Fault("the disk is full while weights are written", full_of_weights, few),
        Fault("a read-only store", read_only),
        Fault("a store that is deleted in the middle of a sweep", deleted, few),
        Fault("a store that is deleted between two commands", gone),
        Fault("a corrupt, cut off or zero-byte store, or no store at all", spoiled),
        Fault("a store of a newer or an older schema", skewed),
    ]


@contextmanager
def disk(place: Path, size: str) -> Iterator[Path]:
    """Mount a file system of this size. Raises Missing if this process may not."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        raise Missing("right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True, capture_output=True)


def full_of_rows(trial: Trial) -> str:
    """Exit status 1 and a plain line; the store is sound; with room, the same command completes the sweep as
    if undisturbed."""
    store = trial.with_store()
    elsewhere = trial.place / "disk"
    # The first chunk ends at 5,000 kB, the second and last at 5,600.
    size = room(trial, (1500, 4500), (5150, 5400))
    try:
        with disk(elsewhere, f"{size}k"):
            shutil.move(store, elsewhere / "mlflow.db")
            (trial.place / "files").mkdir()
            (elsewhere / "mlartifacts").symlink_to(trial.place / "files")
            check_full(trial, elsewhere)
            remount(elsewhere, "size=64m")
            return check_completed(trial, elsewhere)
    except Missing:
        limit = (1024 * size, resource.RLIM_INFINITY)
        running = start(
            trial.place, "full", PART, limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        )
        check_told_full(trial.place, running)
        return f"{check_completed(trial, trial.place)} (files were limited)"


def full_of_weights(trial: Trial) -> str:
    """Exit status 1 and a plain line; no run has rows without files; with room, the same command completes
    the sweep as if undisturbed."""
    trial.with_store()
    files = trial.place / "mlartifacts"
    # Two pages per run: the first chunk ends at 2,050 kB, the second and last at 2,400.
    size = room(trial, (200, 2000), (2100, 2350))
    try:
        with disk(files, f"{size}k"):
            check_full(trial, trial.place)
            remount(files, "size=64m")
            return check_completed(trial, trial.place)
    except Missing:
        files.rmdir()
        code = NO_ROOM.format(number=errno.ENOSPC, left=size // 8)
        check_told_full(trial.place, start(trial.place, "full", PART, code=code))
        return f"{check_completed(trial, trial.place)} (the write was made to fail)"


def room(trial: Trial, *chunks: tuple[int, int]) -> int:
    """Draw a size in kB at which one chunk of the sweep, either with the same probability, does not fit."""
    return trial.random.randrange(*trial.random.choice(chunks))


def check_full(trial: Trial, place: Path) -> None:
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"}
    check_told_full(trial.place, start(trial.place, "full", PART, store))


def check_told_full(place: Path, running: subprocess.Popen[bytes]) -> None:
    status = ended(running)
    said = told(place, "full")
    words = ("full", "No space left", "disk I/O error", "File too large")
    expect(status == 1 and any(w in said for w in words), f"exit status {status}: {said[-300:]}")


def check_completed(trial: Trial, place: Path) -> str:
    """Check that the same command finishes the rest."""
    left = len([run for run in read_runs(place) if run.key is not None])
    for run in read_runs(place):
        expect(run.key is None or (run.files / "weights.npz").exists(), f"run {run.id} has no weights")
    typed(trial.place, "again", PART, environment={"MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"})
    check_part(trial, place)
    return f"{left} runs"


def read_only(trial: Trial) -> str:
    """It can be read and summarised as before; recording in it is refused before anything is done."""
    trial.with_store()
    elsewhere = trial.place / "disk"
    try:
        with disk(elsewhere, "64m"):
            return _read_only(trial, elsewhere, lambda: remount(elsewhere, "ro"))
    except Missing:

        def protect() -> None:
            for path in (elsewhere, *elsewhere.rglob("*")):
                path.chmod(0o555 if path.is_dir() else 0o444)

        left = _read_only(trial, elsewhere, protect)
        for path in (elsewhere, *elsewhere.rglob("*")):
            path.chmod(0o755)
        return f"{left} (by its permissions)"


def _read_only(trial: Trial, elsewhere: Path, protect: Callable[[], None]) -> str:
    shutil.move(trial.place / "mlflow.db", elsewhere / "mlflow.db")
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{elsewhere}/mlflow.db"}
    run_id = typed(trial.place, "one", ONE, environment=store).split("recorded as ")[1].split()[0]
    questions = (["summarize", "--by", "seed"], ["show", run_id])
    answers = [typed(trial.place, "asked", question, environment=store) for question in questions]
    protect()
    for question, answer in zip(questions, answers, strict=True):
        status = ended(start(trial.place, "asked", question, store, limit=obey_permissions))
        same = status == 0 and (trial.place / "asked.out").read_text() == answer
        expect(same, f"{' '.join(question)}: exit status {status}, or another answer")
    for arguments in ([*ONE, "seed=1"], ["train", "-m", "seed=1,2", "epochs=5"]):
        status = ended(start(trial.place, "refused", arguments, store, limit=obey_permissions))
        said = told(trial.place, "refused")
        plain = status == 2 and "read-only" in said and len(said.splitlines()) <= 3
        expect(plain, f"{' '.join(arguments)}: exit status {status}: {said[-300:]}")
    return "read, and refused to record"


def obey_permissions() -> None:
    """Make root obey write permissions: PR_CAPBSET_DROP of CAP_DAC_OVERRIDE."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def deleted(trial: Trial) -> str:
    """The sweep ends with status 1 and a plain line, and makes no empty store in its place; the same command
    makes a new one and records all of it."""
    place = trial.place
    store = trial.with_store()
    running = start(place, "first", PART)
    until(lambda: any(place.glob("mlartifacts/*/*/*")), running)
    store.unlink()
    status = ended(running)
    said = told(place, "first")
    expect(status == 1, f"exit status {status}: {said[-300:]}")
    expect(not store.exists() or store.stat().st_size > 0, "an empty file was made in its place")
    typed(place, "again", PART)
    check_part(trial)
    return last_line(place / "first.err")


def gone(trial: Trial) -> str:
    """A query is refused with advice, and makes no store; a run makes one."""
    place = trial.place
    store = trial.with_store()
    run_id = typed(place, "one", ONE).split("recorded as ")[1].split()[0]
    store.unlink()
    for question in (["summarize"], ["show", run_id], ["predict", run_id, "rows.csv"]):
        refused(place, "asked", question, "no store at")
        expect(not store.exists(), "a store was made")
    typed(place, "again", ONE)
    networks_of(read_runs(place), 1, ONE_EPOCHS)
    return "refused, then made anew"


def spoiled(trial: Trial) -> Cases:
    """Exit status 2 and a plain line that names the file, for reading and for recording; no byte of the file
    changes."""
    good = trial.with_store().read_bytes()
    page = 4096
    spoils = {
        "zero bytes": b"",
        "text": b"not a database at all, but longer than its header is\n" * 4,
        "half of it": good[: len(good) // 2 // page * page],
        "cut off within a page": good[: len(good) - 1000],
        "only its header": good[:100],
        "its first pages overwritten": good[:100] + b"\xaa" * 5 * page + good[100 + 5 * page :],
        "all but its header overwritten": good[:100] + b"\xaa" * (len(good) - 100),
        "another program's database": other_database(trial.place / "other.db"),
    }
    return in_each(trial.place, spoils)


def skewed(trial: Trial) -> Cases:
    """Exit status 2 and plain words that include mlflow db upgrade; nothing is migrated: no byte of the file
    changes."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    store = trial.with_store()
    revisions = [r.revision for r in ScriptDirectory.from_config(_get_alembic_config("")).walk_revisions()]
    spoils = {}
    for name, revision in {"newer": "ffffffffffff", "older": revisions[1], "oldest": revisions[-1]}.items():
        copy = shutil.copy(store, trial.place / "skewed.db")
        with closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
        spoils[name] = Path(copy).read_bytes()
    return in_each(trial.place, spoils, "mlflow db upgrade")


def in_each(place: Path, spoils: dict[str, bytes], *words: str) -> Cases:
    """Run every command on every damaged file; all must be refused."""
    commands = (list(ONE), ["train", "-m", "seed=1,2", "epochs=5"], ["summarize"], ["show", "0" * 32])
    files = {name: place / f"store {i}.db" for i, name in enumerate(spoils)}
    for name, file in files.items():
        file.write_bytes(spoils[name])
    cases = [(name, command) for name in spoils for command in commands]
    typed = [(command, {"MLFLOW_TRACKING_URI": f"sqlite:///{files[name]}"}) for name, command in cases]
    ends = driven(place, typed)
    wrong = [
        f"{name}, {' '.join(command)}: {reason}"
        for (name, command), end in zip(cases, ends, strict=True)
        if (reason := not_refused(end, str(files[name]), *words))
    ]
    return Cases(len(cases), wrong)


def other_database(path: Path) -> bytes:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    return path.read_bytes()
