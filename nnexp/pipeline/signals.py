"""Turn Ctrl-C and SIGTERM into exceptions, and put them off while a write is under way."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
