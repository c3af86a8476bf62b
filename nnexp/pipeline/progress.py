"""Show progress: a bar on a terminal or in a notebook, otherwise a log line every few seconds."""

from __future__ import annotations

import html
import logging
import sys
import time
from typing import Any

from nnexp.pipeline.signals import raise_if_interrupted

log = logging.getLogger("nnexp")

QUIET_SECONDS = 5.0
# A notebook's bar is updated this often, and appears only if the work takes longer than this.
NOTEBOOK_SECONDS = 0.5


class Meter:
    """Show the progress of one task: `with Meter("training", 1000, "epochs") as meter: meter.update(10)`."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._began = self._spoke = time.monotonic()
        self._bar = _bar(what, total, unit)

    def __enter__(self) -> Meter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` of the total is done. Raises the exception of a signal that has arrived."""
        raise_if_interrupted()
        seconds = time.monotonic() - self._began
        rate = f"{done / seconds:,.0f} {self._unit}/s" if done and seconds > 0 else ""
        if self._bar is not None:
            self._bar.show(done, note, rate)
        elif time.monotonic() - self._spoke > QUIET_SECONDS:
            self._spoke = time.monotonic()
            left = f", {seconds / done * (self._total - done):,.0f} s left" if done else ""
            line = f"{self._what}: {done:,}/{self._total:,} {self._unit}"
            log.info(f"{line}{f' ({rate}{left})' if rate else ''} {note}".rstrip())


def _bar(what: str, total: int, unit: str) -> _TerminalBar | _NotebookBar | None:
    """Return a bar if standard error is a terminal or if this is a notebook, else None."""
    if sys.stderr.isatty():
        return _TerminalBar(what, total, unit)
    ipython = sys.modules.get("IPython")  # a notebook has imported it
    shell = None if ipython is None else ipython.get_ipython()
    return _NotebookBar(what, total, unit) if hasattr(shell, "kernel") else None


class _TerminalBar:
    """A line on standard error that disappears when the work is done."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        # Imported here: slow to import, and needed only on a terminal.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(what, total=total, note="", rate="")

    def start(self) -> None:
        self._progress.start()

    def show(self, done: int, note: str, rate: str) -> None:
        self._progress.update(self._task, completed=done, note=note, rate=rate)

    def stop(self) -> None:
        self._progress.stop()


class _NotebookBar:
    """A bar below the cell that disappears when the work is done; short work shows none."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._handle: Any = None

    def start(self) -> None:
        self._next = time.monotonic() + NOTEBOOK_SECONDS

    def show(self, done: int, note: str, rate: str) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + NOTEBOOK_SECONDS
        told = ", ".join(filter(None, [f"{done:,}/{self._total:,} {self._unit}", rate, note]))
        bar = f'<progress value="{done}" max="{self._total}"></progress>'
        self._put(f"{html.escape(self._what)} {bar} {html.escape(told)}")

    def stop(self) -> None:
        if self._handle is not None:
            self._put("")

    def _put(self, text: str) -> None:
        from IPython.display import display  # installed, since the notebook has imported it

        data = {"text/html": text, "text/plain": ""}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
