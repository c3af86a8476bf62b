"""Compare the cost of a tracked sweep with the same sweep written with Hydra and MLflow alone, in one run.

Every contender is timed as a whole process, starting with an existing empty store. The cost of a run is
marginal, from the difference of two sizes of sweep, so that it leaves out start-up. Contenders take turns,
round by round, and times are medians over the rounds. Prints a Markdown table and writes it to sweep.md. The
joblib launcher is left out, with a message, if it is not installed.
"""

import argparse
import importlib.util
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

HERE = Path(__file__).parent
NNEXP = str(Path(sys.executable).with_name("nnexp"))
TABLES = ("experiments", "runs", "params", "tags", "metrics", "latest_metrics", "inputs", "input_tags")
# One data set with two outcomes, one choice of groups; 101 points each of loss, accuracy and grad_norm.
SWEEP = ["dataset=xor", "epochs=1000", "log_every=10", "learning_rate=0.1,0.2,0.5,1"]


def environment(store: Path) -> dict[str, str]:
    """Return this process's environment with the store, and with compiled bytecode allowed, as usual."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"MLFLOW_TRACKING_URI": f"sqlite:///{store}", "MLFLOW_DISABLE_TELEMETRY": "true"}


class Bench:
    """An empty store, which is copied for each measurement, and the directory of the measurements."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.empty = directory / "empty.db"
        code = "from nnexp.tracking import experiments, store; s = store.open_store(); "
        code += "experiments.ensure_experiment(s, 'nnexp')"
        self._run([sys.executable, "-c", code], self.empty)
        self._count = 0

    def store(self) -> Path:
        self._count += 1
        place = self.directory / str(self._count)
        place.mkdir()
        return Path(shutil.copy(self.empty, place / "mlflow.db"))

    def nnexp(self, runs: int, store: Path) -> float:
        """Return the seconds that a sweep of so many runs takes."""
        return self._run([NNEXP, "train", "-m", *SWEEP, f"seed=range({runs // 4})"], store)

    def peer(self, runs: int, *arguments: str) -> float:
        store = self.store()
        command = [sys.executable, str(HERE / "peer.py"), "-m", f"store=sqlite:///{store}", *arguments]
        return self._run([*command, f"seed=range({runs})"], store)

    def summarize(self, store: Path) -> float:
        return self._run([NNEXP, "summarize", "--by", "learning_rate"], store)

    def python(self, code: str, store: Path) -> float:
        return self._run([sys.executable, "-c", code], store)

    def _run(self, command: list[str], store: Path) -> float:
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{store}",
            "GIT_PYTHON_REFRESH": "quiet",
        }
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        start = time.perf_counter()
        subprocess.run(command, cwd=store.parent, env=environment, check=True, capture_output=True)
        return time.perf_counter() - start


def executemany(bench: Bench, full: Path, runs: int) -> float:
    """Return the milliseconds per run to insert the same rows, 256 runs per transaction, and nothing else."""
    store = bench.store()
    with closing(sqlite3.connect(full)) as source, closing(sqlite3.connect(store)) as target:
        target.isolation_level = None
        for table in TABLES:
            target.execute(f"DELETE FROM {table}")
        rows = {table: source.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
        start = time.perf_counter()
        chunks = -(-runs // 256)
        for i in range(chunks):
            target.execute("BEGIN IMMEDIATE")
            for table, some in rows.items():
                part = some[len(some) * i // chunks : len(some) * (i + 1) // chunks]
                if part:
                    marks = ", ".join("?" * len(part[0]))
                    target.executemany(f"INSERT INTO {table} VALUES ({marks})", part)
            target.execute("COMMIT")
        return (time.perf_counter() - start) / runs * 1e3


READ_OURS = """
import time, nnexp
start = time.perf_counter()
runs = nnexp.load_runs()
nnexp.summarize(runs, ["learning_rate"])
middle = time.perf_counter()
history = nnexp.load_history(runs, ["loss", "accuracy"])
print(middle - start, time.perf_counter() - middle)
"""
READ_THEIRS = """
import time, mlflow
start = time.perf_counter()
runs = mlflow.search_runs(experiment_names=["nnexp"], max_results=50000)
runs.groupby("params.learning_rate")["metrics.loss"].agg(["mean", "std", "min", "median", "max"])
middle = time.perf_counter()
client, ids = mlflow.MlflowClient(), runs["run_id"].dropna()
for run_id in ids[:100]:
    for metric in ("loss", "accuracy"):
        client.get_metric_history(run_id, metric)
print(middle - start, (time.perf_counter() - middle) / 100 * len(ids))
"""


def reading(store: Path, code: str) -> tuple[float, float]:
    """Return the seconds for a summary and for the curves of all runs, without imports."""
    done = subprocess.run(
        [sys.executable, "-c", "import nnexp.analysis.summary, nnexp.tracking.read, mlflow\n" + code],
        env=environment(store),
        check=True,
        capture_output=True,
        text=True,
    )
    summary, curves = map(float, done.stdout.split())
    return summary, curves


def rounds(count: int, contenders: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Return the times of each contender, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(count):
        for name, contender in contenders.items():
            times[name].append(contender())
    return times


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, help="only the memory that a sweep of so many runs takes")
    asked = parser.parse_args()
    count = asked.rounds
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        if asked.memory is not None:
            bench.nnexp(4, bench.store())
            bench.nnexp(asked.memory, Path(directory, "new.db"))
            most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
            print(f"a sweep of {asked.memory:,} runs, figures and a new store included: {most:,.0f} MB")
            return
        lines = [*recording(bench, count), "", *starting(bench, count)]
    text = "\n".join(lines) + "\n"
    print(text)
    (HERE / "sweep.md").write_text(text)


def recording(bench: Bench, count: int) -> list[str]:
    """Return a row for each way to record a sweep: milliseconds per run, and the ratio to nnexp."""
    bench.nnexp(4, bench.store())  # compiles the engine, and warms the disk's cache

    def between(few: int, many: int, sweep: Callable[[int], float]) -> float:
        return (sweep(many) - sweep(few)) / (many - few) * 1e3

    def ours(few: int, many: int) -> float:
        return between(few, many, lambda runs: bench.nnexp(runs, bench.store()))

    full = bench.store()
    bench.nnexp(1000, full)
    contenders: dict[str, Callable[[], float]] = {
        "nnexp, 100 to 1,000 runs": lambda: ours(100, 1000),
        "nnexp, 1,000 to 10,000 runs": lambda: ours(1000, 10_000),
        "the same rows by sqlite3.executemany": lambda: executemany(bench, full, 1000),
        "Hydra + MLflow, one log_batch": lambda: between(8, 40, lambda n: bench.peer(n, "batch=true")),
        "Hydra + MLflow, point by point": lambda: between(8, 40, lambda n: bench.peer(n, "batch=false")),
    }
    if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"):
        contenders["Hydra's joblib launcher, one log_batch"] = lambda: between(
            8, 40, lambda n: bench.peer(n, "batch=true", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
        )
    else:
        print("left out: Hydra's joblib launcher is not installed", file=sys.stderr)
    times = rounds(count, contenders)
    first = times["nnexp, 100 to 1,000 runs"]
    lines = ["| a tracked run of a sweep | ms | ratio |", "|---|---|---|"]
    for name, taken in times.items():
        ratio = median_ratio(taken, first)
        lines.append(f"| {name} | {statistics.median(taken):,.2f} | {ratio:,.2f} |")
    return lines


def starting(bench: Bench, count: int) -> list[str]:
    """Return a row for each command with little to do: seconds, what it is compared with, the ratio."""
    store = bench.store()
    bench.nnexp(5000, store)
    small = bench.store()
    bench.nnexp(1000, small)
    seed = iter(range(10**6, 2 * 10**6))
    imports = "nnexp.cli.train, nnexp.pipeline.sweep, nnexp.cli.show, scipy.special"
    opened = f"import {imports}; from nnexp.tracking import store; store.open_store()"
    one = ["figures=false", "model=false"]
    times = rounds(
        count,
        {
            "run": lambda: bench._run([NNEXP, "train", *one, f"seed={next(seed)}"], store),
            "summary": lambda: bench.summarize(store),
            "imports": lambda: bench.python("import hydra, mlflow", store),
            "nothing": lambda: bench.nnexp(1000, small),
            "opened": lambda: bench.python(opened, small),
        },
    )
    reads = [(reading(store, READ_OURS), reading(store, READ_THEIRS)) for _ in range(count)]
    rows = [
        ("one run, from shell to prompt", times["run"], "`import hydra, mlflow`", times["imports"]),
        ("`nnexp summarize` of 5,000 runs", times["summary"], "`import hydra, mlflow`", times["imports"]),
        ("a sweep of 1,000 with nothing to do", times["nothing"], "its imports alone", times["opened"]),
    ]
    lines = ["| | s | beside | s | ratio |", "|---|---|---|---|---|"]
    for what, taken, beside, other in rows:
        middle, theirs, ratio = statistics.median(taken), statistics.median(other), median_ratio(taken, other)
        lines.append(f"| {what} | {middle:.2f} | {beside} | {theirs:.2f} | {ratio:.2f} |")
    for i, (what, beside) in enumerate(
        [
            ("summary of 5,000 runs, in Python", "`mlflow.search_runs` and groupby"),
            ("their curves, in Python", "`get_metric_history`, run by run"),
        ]
    ):
        mine, theirs_ = [ours[i] for ours, _ in reads], [theirs[i] for _, theirs in reads]
        ratio = median_ratio(mine, theirs_)
        lines.append(
            f"| {what} | {statistics.median(mine):.2f} | {beside} | {statistics.median(theirs_):.1f} | "
            f"{ratio:.4f} |"
        )
    return lines


if __name__ == "__main__":
    main()
