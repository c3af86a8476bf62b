"""Measure what it costs to record networks as rows of a table, beside the engine's own time to train them.

Every command is timed as a whole process, from the shell to the prompt, with an existing empty store. The
engine alone trains as many networks in one process, from its own initial weights, logging at the same
epochs, and is timed without imports. Contenders take turns; ratios are medians over the rounds. Prints a
Markdown table and writes it to population.md. `--simulate` plans and writes parts of a grid of 10^9 points
without training any network.

usage: python -m tests.benchmarks.bench_population [--networks N] [--rounds N] [--simulate] [--no-write]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
NNEXP = str(Path(sys.executable).with_name("nnexp"))
# 2-2-1 on the gender table, 1,000 epochs, a hundred rates.
RATES = 100
TYPED = ["train", "-m", "record=table", "dataset=gender"]
TYPED += ["learning_rate=" + ",".join(f"{i / RATES:g}" for i in range(1, RATES + 1))]
ENGINE = """
import sys, time, resource
import numpy as np
from nnexp.config.run import Choice
from nnexp.dataset.load import load
from nnexp.dataset.prepare import Split, prepare
from nnexp.network import engine
from nnexp.network.engine.batch import ARTICLES
from nnexp.training.initial import networks
from tests.benchmarks.bench_population import gender
n, dataset = int(sys.argv[1]), gender()
data = prepare(dataset, "articles", Split(), False)
engine.Batch(ARTICLES, data.X, data.y, np.zeros((9, 9)), 0.1, 10).advance(10, [0, 10])
size, seconds, cpu = 32_768, 0.0, 0.0
for start in range(0, n, size):
    seeds = np.arange(start, min(start + size, n)) // 2
    w = networks(Choice("normal", (("scale", 1.0),)), (2, 2, 1), seeds).weights
    began, used = time.perf_counter(), time.process_time()
    engine.Batch(ARTICLES, data.X, data.y, w, 0.1, 1000).advance(1000, range(0, 1001, 10))
    seconds, cpu = seconds + time.perf_counter() - began, cpu + time.process_time() - used
print(seconds, cpu)
"""

SUMMARY = """
import statistics, sys, time
from pathlib import Path
import pandas as pd
from nnexp.analysis import summary
from nnexp.tracking.read import load_columns
by = ["learning_rate"]
# All that the summary reads; it counts the seeds that have networks of their own.
columns = ["params.learning_rate", "params.seed", "metrics.loss", "metrics.accuracy"]
columns += ["status", "outcome", "weights_sha256"]
(parts,) = Path(sys.argv[1]).parent.rglob("members")
def ours():
    runs = load_columns(None, "last", summary.needed(by, None, "seed", None))
    return len(summary.summarize(summary.finished(runs), by))
def pandas():
    loss = pd.read_parquet(parts, columns=columns).groupby(columns[0])["metrics.loss"]
    return len(loss.agg(["median", "mean", "std", "min", "max"]))
def seconds(work):
    began = time.perf_counter()
    assert work() == int(sys.argv[2])
    return time.perf_counter() - began
rounds = [(seconds(ours), seconds(pandas)) for _ in range(6)][1:]
print(*(statistics.median(column) for column in zip(*rounds)))
"""


def gender():
    """Return the articles' table."""
    from hydra import compose, initialize_config_dir

    from nnexp.config.compose import plain_values
    from nnexp.config.paths import CONF
    from nnexp.config.request import split
    from nnexp.dataset.load import load

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load(split(plain_values(compose("config")))[0].dataset)


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds by the clock, seconds of all cores, and its memory in bytes at most."""

    seconds: float
    cpu: float
    memory: float


class Bench:
    """An empty store, which is copied for each measurement."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._count = directory, 0
        code = "from nnexp.tracking import experiments, store; s = store.open_store(); "
        code += "experiments.ensure_experiment(s, 'nnexp')"
        self._empty = directory / "empty.db"
        self.run([sys.executable, "-c", code], self._empty)
        self.run([NNEXP, "train", "-m", "seed=0,1", "figures=false"], self.store())  # compiles the engine

    def store(self) -> Path:
        """Copy the empty store into a directory of its own."""
        self._count += 1
        place = self._directory / str(self._count)
        place.mkdir()
        return Path(shutil.copy(self._empty, place / "mlflow.db"))

    def record(self, networks: int, store: Path, *more: str) -> Cost:
        """Record so many networks."""
        return self.run([NNEXP, *TYPED, f"seed=range({networks // RATES})", *more], store)[0]

    def engine(self, networks: int) -> tuple[float, float]:
        """Return the seconds, and those of all cores, that the engine alone takes to train so many."""
        _, out = self.run([sys.executable, "-c", ENGINE, str(networks)], self._empty)
        seconds, cpu = map(float, out.split())
        return seconds, cpu

    def summary(self, store: Path) -> tuple[float, float]:
        """Return the seconds of a summary of all networks, and of pandas reading and grouping its columns."""
        _, out = self.run([sys.executable, "-c", SUMMARY, str(store), str(RATES)], store)
        ours, pandas = map(float, out.split())
        return ours, pandas

    def run(self, command: list[str], store: Path) -> tuple[Cost, str]:
        """Run a command; return its cost and its output."""
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(HERE.parents[1])}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        begun = time.perf_counter()
        with (store.parent / "out").open("w+") as out, (store.parent / "err").open("w+") as err:
            process = subprocess.Popen(command, cwd=store.parent, env=environment, stdout=out, stderr=err)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - begun
            out.seek(0), err.seek(0)
            if process.returncode:
                raise SystemExit(f"{' '.join(command)}: {err.read()[-2000:]}")
            cost = Cost(seconds, used.ru_utime + used.ru_stime, 1024.0 * used.ru_maxrss)
            return cost, out.read()


def bytes_of(store: Path) -> int:
    """Return the bytes of all parts."""
    return sum(path.stat().st_size for path in store.parent.rglob("part-*.parquet"))


def measured(bench: Bench, networks: int, rounds: int) -> list[tuple[str, str, str]]:
    """Return the rows of the table: what, how much, and what it is to be."""
    few = networks // 10
    costs: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        costs.setdefault(name, []).append(value)

    for _ in range(rounds):
        alone, alone_cpu = bench.engine(networks)
        store, small, curves = bench.store(), bench.store(), bench.store()
        whole = bench.record(networks, store)
        again = bench.record(networks, store)
        start = bench.record(RATES, bench.store())
        of_few = bench.record(few, small)
        of_few_curves = bench.record(few, curves, "log_every=50", "curves=true")
        of_few_plain = bench.record(few, bench.store(), "log_every=50")
        plan = bench.record(networks, bench.store(), "plan=true")
        rerun = bench.run([NNEXP, "rerun", "--sweep", "last"], store)[0]
        ours, pandas = bench.summary(store)
        note("engine", alone)
        note("engine cpu", alone_cpu)
        note("seconds", whole.seconds)
        note("ratio", whole.seconds / alone)
        note("ratio cpu", whole.cpu / alone_cpu)
        note("memory", whole.memory)
        note("again", again.seconds / whole.seconds)
        note("again cpu", again.cpu / whole.cpu)
        note("plan", plan.seconds)
        note("rerun", rerun.seconds / whole.seconds)
        note("rerun cpu", rerun.cpu / whole.cpu)
        note("summary", ours)
        note("summary ratio", ours / pandas)
        note("growth cpu", (whole.cpu - start.cpu) / networks / ((of_few.cpu - start.cpu) / few))
        note("growth", (whole.seconds - start.seconds) / networks / ((of_few.seconds - start.seconds) / few))
        note("curves", of_few_curves.seconds / of_few_plain.seconds)
        note("curves cpu", of_few_curves.cpu / of_few_plain.cpu)
        note("bytes", bytes_of(store) / networks)
        note("bytes with curves", bytes_of(curves) / few)
        for used in (store, small, curves):
            shutil.rmtree(used.parent)
    m = {name: statistics.median(values) for name, values in costs.items()}
    return [
        ("the engine alone", f"{m['engine']:.1f} s, {m['engine cpu']:.1f} s of all cores", ""),
        ("recorded, shell to prompt", f"{m['seconds']:.1f} s", ""),
        (
            "recorded / the engine alone",
            f"{m['ratio']:.2f}x, {m['ratio cpu']:.2f}x of CPU time",
            "at most 3x",
        ),
        ("memory at most", f"{m['memory'] / 1e6:,.0f} MB", "1,500 MB"),
        ("on disk, a network", f"{m['bytes']:.0f} bytes", "at most 150"),
        (
            f"cost a network, {networks:,} / {few:,}",
            f"{m['growth']:.2f}x, {m['growth cpu']:.2f}x of CPU time",
            "at most 1.1x",
        ),
        (
            "with curves of 21 points / without",
            f"{m['curves']:.2f}x, {m['curves cpu']:.2f}x of CPU time; "
            f"{m['bytes with curves']:.0f} bytes a network",
            "at most 2x",
        ),
        (
            "the same command again / the first time",
            f"{m['again']:.2f}x, {m['again cpu']:.2f}x of CPU time",
            "at most 0.2x",
        ),
        (
            "all trained again and compared / the first time",
            f"{m['rerun']:.2f}x, {m['rerun cpu']:.2f}x of CPU time",
            "at most 2x",
        ),
        (
            f"summary by {RATES} settings / `pandas.read_parquet` of its columns and groupby",
            f"{m['summary ratio']:.1f}x, {m['summary']:.1f} s",
            "at most 5x",
        ),
        ("plan=true, shell to prompt", f"{m['plan']:.1f} s", "seconds"),
    ]


def simulated(points: int, parts: int) -> list[tuple[str, str, str]]:
    """Plan a grid of so many points, and write `parts` of its parts without training; extrapolate to all."""
    from contextlib import nullcontext

    import numpy as np

    from nnexp.pipeline.points import typed_grid
    from nnexp.pipeline.population.lots import lots
    from nnexp.pipeline.population.rows import Contents, Rows, merged
    from nnexp.pipeline.population.space import space_of
    from nnexp.tracking import members
    from nnexp.tracking.members import PART, Part
    from nnexp.training.shard import CURVES, Ended, Results

    typed = ["record=table", "dataset=gender", "learning_rate=range(1,1001)", f"seed=range({points // 1000})"]
    begun = time.process_time()
    with typed_grid(typed) as (loader, config, grid):
        space, _ = space_of(loader, config, grid)
    key, count = space.digest(), space.count
    planned = time.process_time() - begun
    contents, total = Contents.of(space, False, "none"), -(-len(space) // PART)
    rng = np.random.RandomState(0)
    size = seconds = 0.0
    with tempfile.TemporaryDirectory() as directory, nullcontext():
        for number in np.linspace(0, total - 2, parts).astype(int).tolist():
            begun = time.process_time()
            chosen = space.points(number * PART, (number + 1) * PART)
            rows = Rows(space, contents, chosen, 1)
            for dataset, which, columns in lots(space, chosen):
                n = len(which)
                last = {name: rng.rand(n) for name in CURVES[:3]}
                ended = Ended(np.arange(n), np.full(n, 1000), np.zeros(n, np.int64), rng.rand(n, 9), {})
                rows.add(dataset, columns, which, Results(ended, last, None, None, None))
            content = members.to_bytes(merged([rows.table()]), {"nnexp.sweep_key": key})
            Path(directory, Part.of(number, 1, content).name.rpartition("/")[2]).write_bytes(content)
            seconds += time.process_time() - begun
            size += len(content)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        ("points", f"{count:,}", ""),
        ("planned in", f"{planned:.1f} s", ""),
        ("parts", f"{total:,}, of which {parts} were written", ""),
        ("bytes in all", f"{size / parts * total / 1e9:,.0f} GB, {size / parts / PART:.0f} a network", ""),
        ("planning and writing in all", f"{seconds / parts * total / 3600:,.1f} h of one core", ""),
        ("a part", f"{seconds / parts:.2f} s, {seconds / parts / PART * 1e6:.1f} us a network", ""),
        ("memory", f"{memory:,.0f} MB", ""),
    ]


def as_markdown(rows: list[tuple[str, str, str]]) -> str:
    return "\n".join(["| | | asked |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure populations.")
    parser.add_argument("--networks", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--simulate", action="store_true", help="only the grid of 10^9 points")
    parser.add_argument("--no-write", action="store_true", help=f"do not write {HERE.name}/population.md")
    asked = parser.parse_args()
    simulation = as_markdown(simulated(10**9, 8))
    print(simulation)
    if asked.simulate:
        return
    with tempfile.TemporaryDirectory() as directory:
        table = as_markdown(measured(Bench(Path(directory)), asked.networks, asked.rounds))
    print(table)
    if not asked.no_write:
        head = HEAD.format(networks=asked.networks, cores=os.cpu_count(), rounds=asked.rounds)
        (HERE / "population.md").write_text(f"{head}{table}\n\n{BELOW}{simulation}\n")


HEAD = """\
# Populations

{networks:,} networks, 2-2-1 on the gender table, 1,000 epochs, a point every 10, recorded as a table on
{cores} cores, the median of {rounds}. Written by `python -m tests.benchmarks.bench_population`.

"""
BELOW = """\
A grid of 10^9 points through the planner and the writer, without training; the totals are extrapolated.

"""

if __name__ == "__main__":
    main()
