"""Faults of populations: kills at random instants, a full disk, damaged parts, and two commands at once."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.faults.program import (
    TOO_LATE,
    Cases,
    Fault,
    Trial,
    ended,
    expect,
    scratch,
    start,
    struck,
    told,
    typed,
    until,
)
from tests.faults.standing import Undisturbed

# A population of 200,000 networks, in four parts.
NETWORKS, PARTS = 200_000, 4
POPULATION = ("train", "-m", "record=table", "dataset=gender", "learning_rate=0.05,0.1,0.2,0.5,1",
              "seed=range(40000)", "epochs=100", "log_every=50")  # fmt: skip
# After so many writes of a part the disk is full.
FULL = """
import errno
from nnexp.cli import main as cli
from nnexp.tracking import files

write, left = files.write_file, [{left}]

def full(folder, name, content, is_synced):
    if name.endswith(".parquet"):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", name)
    write(folder, name, content, is_synced)

files.write_file = full
cli.main()
"""


# Draw spaces until there are so many points, and compare members with runs; prints what is wrong as JSON.
DRAWN = """
import json, random, sys
from pathlib import Path
from tests.conftest import FLOWERS
from tests.pipeline.drawn import check_space, drawn_space

Path("flowers.csv").write_text(FLOWERS)
rng, points, wrong = random.Random({seed}), 0, []
while points < {points}:
    typed = drawn_space(rng, "flowers.csv")
    try:
        points += check_space(typed)
    except Exception as error:
        points += 1
        wrong.append(f"{{typed}}: {{type(error).__name__}}: {{error}}"[:1000])
print(json.dumps([points, wrong]))
"""


def rows(n: int, known: Undisturbed) -> list[Fault]:
    """Return the faults: `n` kills, and fewer trials of the others."""
    some, few, seconds = max(1, n // 4), max(1, n // 10), 2 * known.seconds
    return [
        Fault("points drawn over every key", drawn),
        Fault("kill -9 during a population of 200,000", killed, n),
        Fault("Ctrl-C during a population", interrupted, some, seconds=seconds),
        Fault("the disk is full while a part is written", disk_full, few),
        Fault("a flipped bit in a part", bit_flipped, few),
        Fault("two of the same population at once", two_at_once, few, seconds=seconds),
    ]


def drawn(trial: Trial) -> Cases:
    """Each point has the same key, hash, outcome, metrics, curves and weights as a member of a population and
    as a run."""
    trial.with_store()
    code = DRAWN.format(seed=trial.random.randrange(1000), points=10 * trial.n)
    here = {"PYTHONPATH": str(Path(__file__).parents[2])}
    expect(ended(start(trial.place, "drawn", [], here, code)) == 0, told(trial.place, "drawn")[-300:])
    points, wrong = json.loads((trial.place / "drawn.out").read_text().splitlines()[-1])
    return Cases(points, wrong)


@dataclass(frozen=True)
class Recorded:
    """What a population has recorded: the hash of its members, and its summary."""

    members: str
    summary: bytes


def undisturbed() -> Recorded:
    """Return what the population records if nothing happens; it is recorded once."""
    return _undisturbed()[0]


def seconds_of_part() -> float:
    """Return how long an undisturbed population takes for each of its parts, and before and after them."""
    return _undisturbed()[1] / (PARTS + 2)


def _undisturbed() -> tuple[Recorded, float]:
    with _ONCE:
        return _recorded_once()


_ONCE = threading.Lock()


@cache
def _recorded_once() -> tuple[Recorded, float]:
    place, began = scratch(), time.monotonic()
    typed(place, "population", POPULATION)
    seconds = time.monotonic() - began
    found = content(place)
    shutil.rmtree(place)
    return found, seconds


def content(place: Path) -> Recorded:
    """Read what is recorded: one parent run, FINISHED, and each member once.

    The last whole revision of a part counts. No file may be left half written.
    """
    with closing(sqlite3.connect(place / "mlflow.db")) as connection:
        runs = connection.execute("SELECT run_uuid, status FROM runs").fetchall()
    expect(len(runs) == 1 and runs[0][1] == "FINISHED", f"the runs are {runs}")
    (files,) = place.glob(f"mlartifacts/*/*/{runs[0][0]}/artifacts")
    newest = {file.name[:11]: pq.read_table(file) for file in parts(place) if is_whole(file)}
    expect(not list(files.rglob("*.half")), "half a file is left")
    table = pa.concat_tables(newest.values()).sort_by("number")
    counts = (
        table.num_rows,
        pc.count_distinct(table["run_key"]).as_py(),
        pc.unique(table["status"]).to_pylist(),
    )
    expect(counts == (NETWORKS, NETWORKS, ["FINISHED"]), f"the members are {counts}")
    plain = pa.schema(
        (f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in table.schema
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain) as stream:
        stream.write_table(table.cast(plain).combine_chunks())
    members = hashlib.sha256(sink.getvalue()).hexdigest()
    return Recorded(members, (files / "summary.csv").read_bytes())


def is_whole(part: Path) -> bool:
    """Return whether the file of a part has the bytes that its name tells."""
    digest = part.name.split(".")[2]
    return hashlib.sha256(part.read_bytes()).hexdigest().startswith(digest)


def check_completed(trial: Trial) -> None:
    """Type the same command again, and check that the population is as if nothing had happened."""
    typed(trial.place, "again", POPULATION)
    expect(content(trial.place) == undisturbed(), "the population differs from an undisturbed one")


def parts(place: Path) -> list[Path]:
    return sorted(place.glob("mlartifacts/*/*/*/artifacts/members/part-*"))


def killed(trial: Trial) -> str:
    """The same command completes the population in the same run: every part can be read, each member is there
    once, and the summary is, byte for byte, that of an undisturbed one."""
    trial.with_store()
    before, seconds = trial.random.randrange(PARTS + 1), seconds_of_part() * trial.random.random()
    running = start(trial.place, "first", POPULATION)
    until(lambda: len(parts(trial.place)) >= before, running)
    status = struck(running, signal.SIGKILL, seconds / 2 if before == PARTS else seconds)
    left = f"{len(parts(trial.place))} parts"
    check_completed(trial)
    expect(all(map(is_whole, parts(trial.place))), "a part is damaged")
    return left if status else f"{TOO_LATE}, {left}"


def interrupted(trial: Trial) -> str:
    """It ends with status 130 and says that the same command goes on, which then completes the population."""
    trial.with_store()
    running = start(trial.place, "first", POPULATION)
    status = struck(running, signal.SIGINT, trial.seconds)
    expect(status in (0, 130), f"the exit status is {status}")
    left = f"{len(parts(trial.place))} parts"
    check_completed(trial)
    return left if status else f"{TOO_LATE}, {left}"


def disk_full(trial: Trial) -> str:
    """It ends with status 1 and says so in a line; the same command completes the population."""
    trial.with_store()
    left = trial.random.randrange(PARTS)
    status = ended(start(trial.place, "full", POPULATION, code=FULL.format(left=left)))
    expect(status == 1 and "No space left" in told(trial.place, "full"), f"exit status {status}")
    expect(len(parts(trial.place)) == left, "a part is there that was not written")
    check_completed(trial)
    return f"{left} parts"


def bit_flipped(trial: Trial) -> str:
    """The part is named, and only its members are trained again."""
    trial.with_store()
    typed(trial.place, "first", POPULATION)
    part = trial.random.choice(parts(trial.place))
    found = bytearray(part.read_bytes())
    found[trial.random.randrange(len(found))] ^= 1 << trial.random.randrange(8)
    part.write_bytes(bytes(found))
    before = {path: path.stat().st_mtime_ns for path in parts(trial.place)}
    check_completed(trial)
    expect(part.name in told(trial.place, "again"), "the damaged part is not named")
    after = {path: path.stat().st_mtime_ns for path in parts(trial.place)}
    expect(before.items() <= after.items() and len(after) == len(before) + 1, "other parts were written")
    return part.name[:11]


def two_at_once(trial: Trial) -> str:
    """One records the population, the other ends with status 2 and a line, or finds it done."""
    trial.with_store()
    first = start(trial.place, "first", POPULATION)
    with suppress(subprocess.TimeoutExpired):
        first.wait(trial.seconds)
    second = start(trial.place, "second", POPULATION)
    statuses = ended(first), ended(second)
    expect(statuses in ((0, 0), (0, 2), (2, 0)), f"the exit statuses are {statuses}")
    for name, status in zip(("first", "second"), statuses, strict=True):
        expect(
            status == 0 or "another command" in told(trial.place, name), f"{name}: {told(trial.place, name)}"
        )
    expect(content(trial.place) == undisturbed(), "the population differs from an undisturbed one")
    return "one was refused" if 2 in statuses else f"{TOO_LATE}, both ended well"
