"""Turn Ctrl-C and SIGTERM into exceptions, and delay them while a write is in progress."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """Raised on SIGTERM, so that running runs are recorded as KILLED, as after Ctrl-C."""


_arrived: list[type[BaseException]] = []
_put_off = 0


def catch_signals() -> None:
    """Make Ctrl-C raise KeyboardInterrupt and SIGTERM raise Terminated, and remember that they arrived."""

    def arrive(number: int, frame: FrameType | None) -> None:
        _arrived.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        if not _put_off or len(_arrived) > 1:
            raise _arrived[-1]

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, arrive)
    tell = sys.unraisablehook

    def lose(lost: sys.UnraisableHookArgs) -> None:
        # An interrupt raised in a destructor or a callback is remembered, so it need not be reported.
        if not issubclass(lost.exc_type, KeyboardInterrupt | Terminated):
            tell(lost)

    sys.unraisablehook = lose


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay a first signal until `raise_if_interrupted`; a second one raises at once.

    An exception halfway through a write would leave the store locked, so that it could not be recorded that
    the run was killed.
    """
    global _put_off
    _put_off += 1
    try:
        yield
    finally:
        _put_off -= 1


@contextmanager
def interruptible() -> Iterator[None]:
    """Replace an exception raised after a signal by the signal's own.

    A library that is interrupted may raise an exception of its own.
    """
    try:
        yield
    except Exception:
        raise_if_interrupted()
        raise


def raise_if_interrupted() -> None:
    """Raise the exception of a signal that was delayed, or that was lost in a destructor or a callback."""
    if _arrived:
        raise _arrived[-1]
