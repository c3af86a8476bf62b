"""Run the fault matrix: apply faults to the real program, and check the store.

A store that is right after most kills may still be wrong now and then, unnoticed. So each fault is tried many
times, kills at random instants of a whole sweep, and after most of them the same command is typed again. The
store is then read with sqlite3, NumPy and hashes, without nnexp's own readers, and compared with undisturbed
sweeps. Each module beside this one has a family of faults.

usage: python -m tests.faults.matrix [--trials N] [--seed SEED] [--only PATTERN] [--write]
       (make test-faults N=100 SEED=0 ONLY=PATTERN WRITE=1)

Prints one line per trial: its seed, its instant, what the fault left. At the end it prints a table; exit
status 1 unless everything is as expected. The directory of an unexpected trial is kept, with the store and
all output.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.faults import (
    kills,
    leaks,
    neighbours,
    populations,
    records,
    searches,
    servers,
    stores,
    tables,
    values,
    writers,
)
from tests.faults.program import TOO_LATE, Cases, Fault, Missing, Trial, Unexpected, expect, scratch, typed
from tests.faults.standing import (
    EPOCHS,
    RUNS,
    SWEEP,
    Undisturbed,
    check_parents,
    check_same,
    networks_of,
    read_runs,
    table_of,
)

# Trials that run at a time: more than the cores of a small machine, since some of them only wait.
AT_ONCE = 3
TABLE = Path(__file__).with_name("faults.md")


def faults(n: int, known: Undisturbed) -> list[Fault]:
    """Return the rows of the table."""
    return [
        *writers.rows(n),
        *kills.rows(n, known),
        *populations.rows(n, known),
        *searches.rows(n),
        *stores.rows(n),
        *neighbours.rows(n),
        *servers.rows(n),
        *records.rows(n),
        *tables.rows(n),
        *values.rows(n),
        *leaks.rows(n),
    ]


def leave_alone(base: Path) -> Undisturbed:
    """Run two undisturbed sweeps, one with an existing store and one without; check that they agree."""
    places = [base / "undisturbed", base / "undisturbed, from nothing"]

    def run(place: Path) -> Undisturbed:
        place.mkdir()
        if place == places[0]:
            shutil.copy(base / "empty.db", place / "mlflow.db")
        began = time.monotonic()
        printed = typed(place, "sweep", SWEEP)
        seconds = time.monotonic() - began
        runs = read_runs(place)
        (parent,) = check_parents(runs)
        networks, summary = networks_of(runs, RUNS, EPOCHS), (parent.files / "summary.csv").read_bytes()
        table = table_of(printed, RUNS)
        return Undisturbed(seconds, parent.seconds or 0.0, seconds, table, summary, networks)

    with ThreadPoolExecutor(len(places)) as pool:
        first, other = pool.map(run, places)
    check_same(other.networks, first.networks)
    same = (other.table, other.summary) == (first.table, first.summary)
    expect(same, "two undisturbed sweeps have different summaries")
    for place in places:
        shutil.rmtree(place)
    return replace(first, seconds_from_nothing=other.seconds)


@dataclass
class Row:
    """A fault and the results of its trials."""

    fault: Fault
    good: int = 0
    total: int = 0
    late: int = 0
    otherwise: list[str] = field(default_factory=list)

    @property
    def fell_short(self) -> bool:
        return self.good < self.total or bool(self.otherwise)

    def __str__(self) -> str:
        """Return the row in Markdown: the fault, how it must end, how often it did, what else was seen."""
        late = f" ({self.late} came {TOO_LATE})" if self.late else ""
        seen = "<br>".join(" ".join(text.split())[:300].replace("|", "\\|") for text in self.otherwise[:3])
        count = f"{self.good}/{self.total}{late}" if self.total else "not tried"
        return f"| {self.fault.name} | {self.fault.end} | {count} | {seen} |"


def tried(fault: Fault, i: int, base: Path, seed: int, n: int, known: Undisturbed) -> tuple[Row, str]:
    """Run one trial; return it as a row, and the line to print for it."""
    own_seed = f"{seed} {re.sub('[^a-zA-Z0-9]+', '-', fault.name)[:40]} {i}"
    draw = random.Random(own_seed)
    seconds = draw.random() * fault.seconds
    place = base / own_seed.replace(" ", "-")
    place.mkdir()
    at = f", at {seconds:.2f} of {fault.seconds:.1f} s" if fault.seconds else ""
    try:
        left = fault.trial(Trial(place, seconds, draw, n, known, base / "empty.db"))
    except Missing as missing:
        row = Row(fault, total=int("NNEXP_CI" in os.environ), otherwise=[f"no {missing} here"])
        return row, f"{own_seed}: not tried: no {missing} here"
    except Exception as error:
        reason = str(error) if isinstance(error, Unexpected) else f"{type(error).__name__}: {error}"
        row = Row(fault, total=1, otherwise=[reason])
        return row, f"{own_seed}{at}: NOT AS EXPECTED: {reason}; kept in {place}"
    if isinstance(left, Cases):
        good = left.total - len(left.wrong)
        line = "; ".join([f"{good} of {left.total} cases", *left.wrong])
        return Row(fault, good, left.total, 0, left.wrong), f"{own_seed}: {line}"
    shutil.rmtree(place)
    return Row(fault, 1, 1, int(left.startswith(TOO_LATE))), f"{own_seed}{at}: {left}"


def matrix(chosen: Sequence[Fault], base: Path, seed: int, n: int, known: Undisturbed) -> list[Row]:
    """Run all trials, several at a time, and print a line for each; return a row for each fault."""

    def one(fault: Fault, i: int) -> Row:
        row, line = tried(fault, i, base, seed, n, known)
        print(line, flush=True)
        return row

    with ThreadPoolExecutor(AT_ONCE) as pool:
        done: list[tuple[Row, list[Future[Row]]]] = [
            (Row(fault), [pool.submit(one, fault, i) for i in range(fault.trials)]) for fault in chosen
        ]
    for row, futures in done:
        for some in (future.result() for future in futures):
            row.good, row.total, row.late = row.good + some.good, row.total + some.total, row.late + some.late
            row.otherwise += some.otherwise
    return [row for row, _ in done]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the fault matrix on nnexp.")
    parser.add_argument("--trials", type=int, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="PATTERN", help="only rows whose name matches")
    parser.add_argument("--write", action="store_true", help=f"write the table to {TABLE.name}")
    asked = parser.parse_args()
    if asked.write and asked.only:
        parser.error("--write writes the whole table: leave out --only")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode every command would take twice as long
    began, base = time.monotonic(), scratch()
    warm = base / "warm"
    warm.mkdir()
    from nnexp.tracking.store import open_store

    open_store(f"sqlite:///{base}/empty.db")
    typed(warm, "sweep", ["train", "-m", "seed=1,2", "epochs=20"])  # compiles the engine
    known = leave_alone(base)
    print(
        f"a sweep of {RUNS} runs, two such at once, undisturbed: {known.seconds:.1f} s, "
        f"{known.recording_seconds:.1f} s of them recording; where there is no store yet: "
        f"{known.seconds_from_nothing:.1f} s",
        flush=True,
    )
    chosen = faults(asked.trials, known)
    chosen = [fault for fault in chosen if re.search(asked.only, fault.name)]
    try:
        rows = matrix(chosen, base, asked.seed, asked.trials, known)
    finally:
        servers.stop()
    table = "\n".join(
        ["| fault | how it must end | as expected | seen instead |", "|---|---|---|---|", *map(str, rows)]
    )
    print(f"\n{table}\n\n{time.monotonic() - began:.0f} s")
    if asked.write:
        TABLE.write_text(HEAD.format(n=asked.trials, seed=asked.seed) + table + "\n")
    failed = [row for row in rows if row.fell_short and row.total]
    if not failed:
        shutil.rmtree(base)
    for row in failed:  # at the very end, where they are found in a long log
        print(f"NOT AS EXPECTED: {row.fault.name}: {row.good} of {row.total}: {'; '.join(row.otherwise)}")
    sys.exit(bool(failed))


HEAD = """\
# The fault matrix

Faults of programs and machines, applied to nnexp: each row runs the real program in separate processes, and
then reads the store by means other than its own. Written by
`make test-faults N={n} SEED={seed} WRITE=1`.

"""

if __name__ == "__main__":
    main()
