"""The standard streams as the program uses them: open, in any encoding, and without passwords."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from nnexp.config.text import masked, printable

log = logging.getLogger("nnexp")


class Masked:
    """A text stream that redacts passwords in what is written to another one."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self.stream.write(masked(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))


class Messages(Masked):
    """Standard error: a message that nobody can be told is dropped, and stops no work."""

    def write(self, text: str) -> int:
        with suppress(OSError):  # its reader has gone, its disk is full
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()


class Lines(logging.Handler):
    """Write each message as a line of standard error, with control characters escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(record.getMessage()), file=sys.stderr, flush=True)


def prepare() -> None:
    """Open what the shell has closed, escape what an encoding lacks, redact what goes to standard error,
    whoever writes it, and show there what nnexp logs."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # Else the next file that is opened, a store, would be taken for the stream.
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "r" if descriptor == 0 else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stderr, Messages):
        sys.stderr = cast(TextIO, Messages(sys.stderr))
    log.handlers, log.propagate = [Lines()], False
    log.setLevel(logging.INFO)


@contextmanager
def masked_output() -> Iterator[None]:
    """Redact passwords in what is printed."""
    stream = sys.stdout
    sys.stdout = cast(TextIO, Masked(stream))
    try:
        yield
    finally:
        sys.stdout = stream


def finish_output() -> None:
    """Write out what is printed; what cannot be written is dropped, or Python would fail at its own end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
