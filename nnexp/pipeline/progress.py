"""Tell a person how far the work is: a bar on a terminal, a quiet line every few seconds otherwise."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger("nnexp")

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
    tell = sys.unraisablehook

    def lose(lost: sys.UnraisableHookArgs) -> None:
        # One that got lost in a destructor or a callback is remembered; nobody need be told.
        if not issubclass(lost.exc_type, KeyboardInterrupt | Terminated):
            tell(lost)

    sys.unraisablehook = lose


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


@contextmanager
def interruptible() -> Iterator[None]:
    """Errors after a signal are the signal's: a library that is interrupted may raise one of its own."""
    try:
        yield
    except Exception:
        raise_if_interrupted()
        raise


def raise_if_interrupted() -> None:
    """Raise the exception of a signal that was put off, or that got lost in a destructor or a callback."""
    if _arrived:
        raise _arrived[-1]


class Meter:
    """`with Meter("training", total, "epochs") as meter: meter.update(done, "loss 0.1")`."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._began = self._spoke = time.monotonic()
        self._bar = _bar(what, total, unit) if sys.stderr.isatty() else None

    def __enter__(self) -> Meter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Show that much is done. Raises the exception of a signal that has arrived."""
        raise_if_interrupted()
        seconds = time.monotonic() - self._began
        rate = f"{done / seconds:,.0f} {self._unit}/s" if done and seconds > 0 else ""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=note, rate=rate)
        elif time.monotonic() - self._spoke > QUIET_SECONDS:
            self._spoke = time.monotonic()
            left = f", {seconds / done * (self._total - done):,.0f} s left" if done else ""
            line = f"{self._what}: {done:,}/{self._total:,} {self._unit}"
            log.info(f"{line}{f' ({rate}{left})' if rate else ''} {note}".rstrip())


def _bar(what: str, total: int, unit: str) -> Progress:
    # Long to import, and only a terminal shows a bar.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task(what, total=total, note="", rate="")
    return bar
