"""Prepare the standard streams: make sure that they are open, encode any text, redact passwords."""

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
    """A text stream that redacts passwords and passes the text on to another stream."""

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
    """Standard error; a message that cannot be written is dropped, so that the work goes on."""

    def write(self, text: str) -> int:
        with suppress(OSError):  # its reader has gone, or its disk is full
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
    """Prepare the standard streams of this process.

    Open those that the shell has closed, escape characters that an encoding lacks, redact passwords in
    everything written to standard error, and send nnexp's log there.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # Else the next file that is opened, such as a store, would get this descriptor.
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
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
    """Flush standard output; if that fails, drop the text, since Python would fail on it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
