"""Run the real program in separate processes: start it, send it signals, and check its output."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copy

NNEXP = Path(sys.executable).with_name("nnexp")
# How many seconds a command, or a wait for it, may take before it counts as hanging.
HANGS_SECONDS = 600

# The note on a trial whose fault came after everything had ended.
TOO_LATE = "too late"


class Unexpected(Exception):
    """The result of a trial is not as expected."""


class Missing(Exception):
    """This machine lacks something that a trial needs."""


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unexpected(otherwise)


@dataclass(frozen=True)
class Trial:
    """One trial of a fault: an empty directory, its random generator, and the number of trials asked for.

    `seconds` is when the fault is to happen, `known` the result of undisturbed sweeps of the same runs.
    """

    place: Path
    seconds: float
    random: random.Random
    n: int
    known: object  # an Undisturbed; this module does not import it
    empty_store: Path

    def with_store(self) -> Path:
        """Copy an empty store into the place, since making one takes seconds and has its own row."""
        return Path(copy(self.empty_store, self.place / "mlflow.db"))


@dataclass(frozen=True)
class Cases:
    """The result of a trial of many requests or records in one process: how many, and which went wrong."""

    total: int
    wrong: list[str]


@dataclass(frozen=True)
class Fault:
    """A row of the table: its name, the function of one trial, the number of trials, and the seconds within
    which it happens at a random instant.

    A trial's docstring says how it must end. It returns what the fault left, in a few words, or Cases, and
    raises if the end is not as expected.
    """

    name: str
    trial: Callable[[Trial], str | Cases]
    trials: int = 1
    seconds: float = 0.0

    @property
    def end(self) -> str:
        """Return how each trial must end, in words."""
        return " ".join((self.trial.__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")


def start(
    place: Path,
    name: str,
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    code: str | None = None,
    limit: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Start the program in its own session, on the store of `place`; it prints to NAME.out and NAME.err.

    `code`: Python to run instead, which ends by calling the program. `limit` runs in the process before all
    else.
    """
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"}
    program: list[str | Path] = [NNEXP] if code is None else [sys.executable, "-c", code]
    with (place / f"{name}.out").open("wb") as out, (place / f"{name}.err").open("wb") as err:
        return subprocess.Popen(
            [*program, *arguments],
            cwd=place,
            env={**os.environ, **store, **(environment or {})},
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=limit,
        )


def kill(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> None:
    """Send the signal to the process and its children, unless it has ended and been waited for."""
    if process.returncode is None:
        os.killpg(process.pid, number)


def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for the process; return its exit status."""
    try:
        return process.wait(HANGS_SECONDS)
    except BaseException as error:
        kill(process)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Unexpected(f"a command went on for {HANGS_SECONDS} s") from None
        raise


def struck(process: subprocess.Popen[bytes], number: signal.Signals, seconds: float) -> int:
    """Send the signal to the process and its children after so many seconds; return its exit status."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill(process, number)
        return ended(process)


def until(holds: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> bool:
    """Wait until the condition holds; return False if the process ended before."""
    end = time.monotonic() + HANGS_SECONDS
    while not holds():
        if process is not None and process.poll() is not None:
            return bool(holds())
        expect(time.monotonic() < end, f"waited for {HANGS_SECONDS} s in vain")
        time.sleep(0.01)
    return True


def typed(place: Path, name: str, arguments: Sequence[str], **options: Mapping[str, str]) -> str:
    """Run a command, whose exit status must be 0; return what it prints."""
    status = ended(start(place, name, arguments, **options))
    expect(status == 0, f"{name}: exit status {status}: {last_line(place / f'{name}.err')}")
    return (place / f"{name}.out").read_text()


def told(place: Path, name: str) -> str:
    """Return the messages of a command that failed, after checking that there is no traceback."""
    said = (place / f"{name}.err").read_text()
    expect("Traceback" not in said, f"{name}: a traceback was printed: {last_line(place / f'{name}.err')}")
    return said


def refused(place: Path, name: str, arguments: Sequence[str], words: str) -> None:
    """Check that the command ends with status 2 and prints these words."""
    status = ended(start(place, name, arguments))
    said = told(place, name)
    expect(status == 2 and words in said, f"{' '.join(arguments)}: exit status {status}: {said[-300:]}")


@dataclass(frozen=True)
class End:
    """How one of several commands in one process ended."""

    status: int
    out: str
    err: str
    is_changed: bool  # whether a file of the directory was made, changed or removed


def driven(
    place: Path, commands: Sequence[tuple[Sequence[str], Mapping[str, str]]], code: str = ""
) -> list[End]:
    """Run commands, each with changes of its environment, in one process in `place`; return how each ended.

    `code`: Python that runs before them.
    """
    drive = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import drive; drive.main()"
    process = subprocess.run(
        [sys.executable, "-c", f"{code}\n{drive}"],
        input=json.dumps([[list(arguments), dict(environment)] for arguments, environment in commands]),
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db", "HYDRA_FULL_ERROR": "0"},
        timeout=HANGS_SECONDS,
        check=False,
    )
    expect(process.returncode == 0, f"the driver: {process.stderr[-300:]}")
    return [End(**end) for end in json.loads(process.stdout)]


def not_refused(end: End, *words: str) -> str:
    """Return what is wrong with the end of a command that must be refused with these words, or ""."""
    said = " ".join(end.err.split())[-200:]
    if end.status != 2:
        return f"exit status {end.status}: {said}"
    if "Traceback" in end.err or len(end.err.strip().splitlines()) > 3:
        return f"not in plain words: {said}"
    if missing := [word for word in words if word not in end.err]:
        return f"no word of {missing[0]}: {said}"
    return "something was written" if end.is_changed else ""


def last_line(file: Path) -> str:
    return (file.read_text().strip().splitlines() or ["nothing said"])[-1]


def scratch() -> Path:
    """Return a new directory for this run of the matrix."""
    return Path(tempfile.mkdtemp(prefix="nnexp-faults-"))
