"""Tell a person how far the work is: a bar on a terminal, a quiet line every few seconds otherwise."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_SECONDS = 5.0


class Terminated(BaseException):
    """SIGTERM arrived: what is under way is recorded as KILLED, as after Ctrl-C."""


_arrived: list[type[BaseException]] = []
_put_off = 0


def catch_signals() -> None:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt and Terminated, and are remembered."""

    def arrive(number: int, frame: FrameType | None) -> None:
        _arrived.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        if not _put_off or len(_arrived) > 1:
            raise _arrived[-1]

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, arrive)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A first signal waits for `raise_if_interrupted`: halfway through a write it would leave the store
    locked against recording that the run was killed. A second one does not wait."""
    global _put_off
    _put_off += 1
    try:
        yield
    finally:
        _put_off -= 1


def raise_if_interrupted() -> None:
    """Raise the exception of a signal that was put off, or that got lost in a destructor or a callback."""
    if _arrived:
        raise _arrived[-1]


def say(line: str) -> None:
    """One line for the person, on standard error, which leaves standard output to results."""
    print(line, file=sys.stderr, flush=True)


class Meter:
    """`with Meter("training", total, "epochs") as meter: meter.update(done, "loss 0.1")`."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._spoke = time.monotonic()
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=total, note="")

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Show that much is done. Raises the exception of a signal that has arrived."""
        raise_if_interrupted()
        self._bar.update(self._task, completed=done, note=note)
        if self._bar.disable and time.monotonic() - self._spoke > QUIET_SECONDS:
            self._spoke = time.monotonic()
            say(f"{self._what}: {done:,}/{self._total:,} {self._unit} {note}".rstrip())
