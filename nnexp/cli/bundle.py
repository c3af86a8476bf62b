"""Print what `nnexp bundle` wrote, and what `nnexp import` put into the store."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from nnexp.cli.show import PROGRAM
from nnexp.config.text import masked
from nnexp.pipeline import intake
from nnexp.pipeline.rerun import verbs


def write(some_id: str, out: Path | None) -> None:
    """Carry out `nnexp bundle RUN_ID|SWEEP_ID`."""
    done = verbs.write_bundle(some_id, out)
    runs = f"{done.runs:,} {done.unit}{'s' * (done.runs != 1)}"
    path = str(done.path)
    print(f"wrote {path}: {runs}, {done.size:,} bytes\n  {PROGRAM} rerun --bundle {shlex.quote(path)}")


def bring(path: Path, experiment_name: str | None) -> None:
    """Carry out `nnexp import BUNDLE`."""
    done = intake.bring(path, experiment_name)
    total = done.total
    unit = "networks" if done.run_id is None else "runs"
    print(f"imported {done.new:,} of {total:,} {unit} of {done.what} into {done.experiment}", end="")
    print(f"; {total - done.new:,} were there already" if done.new < total else "")
    for run_id in done.left_out:
        print(f"  {run_id} is left out: the experiment has the same run under another id")
    if done.sweep_id is None:
        _next(["show", str(done.run_id)], ["rerun", str(done.run_id)])
        return
    where = [] if done.experiment == "nnexp" else ["--experiment", done.experiment]
    _next(
        ["summarize", *where, "--sweep", done.sweep_id],
        ["report", done.sweep_id],
        ["rerun", "--sweep", done.sweep_id],
    )


def _next(*commands: list[str]) -> None:
    """Print commands to type next, with the store that was typed, if any."""
    uri = click.get_current_context().meta.get("nnexp.tracking_uri")
    where = [] if uri is None else ["--tracking-uri", masked(uri)]
    for words in commands:
        print("  " + shlex.join([PROGRAM, *words, *where]))
