"""Tell a person how far the work is: a bar on a terminal, a quiet line every few seconds otherwise."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from nnexp.pipeline.signals import raise_if_interrupted

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger("nnexp")

QUIET_SECONDS = 5.0


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
