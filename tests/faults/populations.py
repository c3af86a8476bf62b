"""Faults of populations: kills at random instants, a full disk, damaged parts, and two commands at once."""

from __future__ import annotations

import hashlib
import json
import signal
import sqlite3
import subprocess
import threading
from contextlib import closing, suppress
from functools import cache
from pathlib import Path

import pyarrow as pa
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
)
from tests.faults.standing import Undisturbed

# A population of 200,000 networks, in four parts, and what it prints after its plan.
NETWORKS = 200_000
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
        Fault("kill -9 during a population", killed, n, seconds=seconds),
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


def undisturbed() -> tuple[str, bytes]:
    """Return the hash of the members and the summary of the population, recorded once."""
    with _ONCE:
        return _undisturbed()


_ONCE = threading.Lock()


@cache
def _undisturbed() -> tuple[str, bytes]:
    place = scratch()
    typed(place, "population", POPULATION)
    return content(place)


def content(place: Path) -> tuple[str, bytes]:
    """Return the hash of all members, each of which must be there once, and the summary.

    Checks that there is one parent run, FINISHED, and that every part is what its name says.
    """
    with closing(sqlite3.connect(place / "mlflow.db")) as connection:
        runs = connection.execute("SELECT run_uuid, status FROM runs").fetchall()
    expect(len(runs) == 1 and runs[0][1] == "FINISHED", f"the runs are {runs}")
    (files,) = place.glob(f"mlartifacts/*/*/{runs[0][0]}/artifacts")
    newest: dict[str, pa.Table] = {}
    for file in sorted(files.glob("members/part-*")):  # the last revision of each part comes last
        _, number, _, digest, _ = file.name.replace("-", ".").split(".")
        found = file.read_bytes()
        if hashlib.sha256(found).hexdigest()[:16] == digest:
            newest[number] = pq.read_table(pa.BufferReader(found))
    expect(not list(files.rglob("*.half")), "half a file is left")
    table = pa.concat_tables(newest.values()).sort_by("number")
    counts = table.num_rows, len(set(table["run_key"].to_pylist())), set(table["status"].to_pylist())
    expect(counts == (NETWORKS, NETWORKS, {"FINISHED"}), f"the members are {counts}")
    digest_of = hashlib.sha256()
    for name in table.column_names:
        digest_of.update(repr(table[name].to_pylist()).encode())
    return digest_of.hexdigest(), (files / "summary.csv").read_bytes()


def check_completed(trial: Trial) -> None:
    """Type the same command again, and check that the population is as if nothing had happened."""
    typed(trial.place, "again", POPULATION)
    expect(content(trial.place) == undisturbed(), "the population differs from an undisturbed one")


def parts(place: Path) -> list[Path]:
    return sorted(place.glob("mlartifacts/*/*/*/artifacts/members/part-*"))


def killed(trial: Trial) -> str:
    """The same command completes the population in the same run: each member once, and the same summary."""
    trial.with_store()
    running = start(trial.place, "first", POPULATION)
    status = struck(running, signal.SIGKILL, trial.seconds)
    left = f"{len(parts(trial.place))} parts"
    check_completed(trial)
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
    left = trial.random.randrange(4)
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
