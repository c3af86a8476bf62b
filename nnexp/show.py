"""What the verbs print: a run, a sweep, a summary, predictions."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from nnexp import summary as summaries
from nnexp.config import RequestError, RunConfig, unknown
from nnexp.network import equation
from nnexp.progress import say
from nnexp.record import apart
from nnexp.runner import Recorded, Sweep
from nnexp.table import read_table
from nnexp.tracking.read import get_run, load_history, load_runs
from nnexp.tracking.store import Store, open_store
from nnexp.tracking.weights import Model, unpack

# What to type to call the program again, here.
PROGRAM = "nnexp" if shutil.which("nnexp") else os.path.relpath(Path(sys.executable).with_name("nnexp"))
SPARKS = "▁▂▃▄▅▆▇█"


def recorded(done: Recorded) -> None:
    """How a run went, and what can be done with it next."""
    trained = done.trained
    first, last = (trained.curves["loss"][i] for i in (0, -1))
    epochs = f"{trained.epochs[-1]} epoch{'' if trained.epochs[-1] == 1 else 's'}"
    line = f"loss {first:.4g} -> {last:.4g} in {epochs}, {trained.outcome}"
    if "accuracy" in trained.curves:
        line += f", accuracy {trained.curves['accuracy'][-1]:.3g}"
    print(line)
    if len(done.new_rows):
        print("\n" + summaries.as_text(done.new_rows) + "\n")
    print(f"recorded as {done.run_id}\n  {PROGRAM} show {done.run_id}\n  {PROGRAM} ui")


def sweep(config: RunConfig, done: Sweep) -> None:
    """The summary of a sweep that has just ended."""
    failed = f", {len(done.failures)} failed" if done.failures else ""
    if done.summary is not None:
        print(summaries.as_text(done.summary) + "\n")
    print(f"{done.total} runs{failed}, recorded as sweep {done.sweep_id}")
    where = [] if config.experiment_name == "nnexp" else ["--experiment", config.experiment_name]
    print(f"  {shlex.join([PROGRAM, 'summarize', *where, '--sweep', done.sweep_id])}\n  {PROGRAM} ui")


def summary(
    experiment: str,
    sweep_id: str | None,
    by: list[str] | None,
    over: str,
    metric: str,
    where: str | None,
    threshold: float | None,
    style: str,
    out: Path | None,
) -> None:
    """`nnexp summarize`."""
    runs = summaries.select(load_runs(experiment, sweep=sweep_id), where)
    done = summaries.finished(runs)
    if done.empty:
        raise RequestError(f"there is no finished run to summarise ({len(runs)} runs match)")
    if over not in summaries.params_of(runs):
        raise unknown("param in --over", over, summaries.params_of(runs))
    by = summaries.varying(done, over) if by is None else by
    history = load_history(done, [metric]) if threshold is not None else None
    table = summaries.summarize(done, by, metric, history=history, threshold=threshold)
    if mixed := summaries.mixed(done, by, over):
        say(f"note: each row mixes different {', '.join(mixed)}; add them to --by or fix them with --where")
    _write(summaries.as_text(table, style), out)


def run(run_id: str) -> None:
    """`nnexp show`."""
    store = open_store(create=False)
    record = get_run(store, run_id)
    info, tags = record.info, record.data.tags
    print(f"{info.run_name}   {info.status.lower()}, {tags.get('nnexp.outcome', 'no result')}")
    if reason := tags.get("nnexp.reason"):
        print(f"reason: {reason}")
    print(f"run {run_id}" + (f" of sweep {tags['nnexp.sweep_id']}" if "nnexp.sweep_id" in tags else ""))
    _section("configuration", record.data.params)
    _section("last metrics", {k: f"{v:.10g}" for k, v in sorted(record.data.metrics.items())})
    points = load_history(pd.DataFrame({"run_id": [run_id]}), ["loss"])
    if len(points):
        print(f"\nloss over epochs 0 to {points['epoch'].iloc[-1]} (log scale)\n  {spark(points['value'])}")
    if info.status == "FINISHED":
        model = load_model(store, run_id)
        print("\nequation\n  " + equation(model.network, model.input_names()).replace("\n", "\n  "))
        for i, (W, b) in enumerate(model.network.layers, 1):
            print(f"\nW{i} =\n{np.array2string(W, precision=8)}\nb{i} = {np.array2string(b, precision=8)}")
    _section("provenance", {k: v for k, v in sorted(tags.items()) if k.startswith("nnexp.")})


def predict(run_id: str, file: Path, style: str, out: Path | None) -> None:
    """`nnexp predict`."""
    store = open_store(create=False)
    get_run(store, run_id)
    model = load_model(store, run_id)
    table = read_table(file)
    X = np.column_stack([table.numbers(name) for name in model.features])
    rows = pd.DataFrame(table.rows, columns=table.header)
    answers = pd.concat([rows, apart(model.predict(X), table.header, "_predicted")], axis=1)
    _write(summaries.as_text(answers, style), out)


def load_model(store: Store, run_id: str) -> Model:
    """The trained network of a run. Raises RequestError when its weights are not there."""
    try:
        path = store.client.download_artifacts(run_id, "weights.npz")
    except (MlflowException, OSError) as error:
        raise RequestError(f"run {run_id} has no weights.npz; did it finish?") from error
    return unpack(Path(path).read_bytes())


def spark(values: pd.Series, width: int = 60) -> str:
    """The values as a row of bars, their logarithms from the lowest to the highest."""
    picked = values.to_numpy()[np.unique(np.linspace(0, len(values) - 1, width).astype(int))]
    logs = np.log(np.maximum(picked, np.finfo(float).tiny))
    span = np.ptp(logs) or 1.0
    return "".join(SPARKS[round(7 * (v - logs.min()) / span)] for v in logs)


def _section(title: str, values: dict[str, str]) -> None:
    if values:
        print(f"\n{title}\n" + "\n".join(f"  {key:<26} {value}" for key, value in values.items()))


def _write(text: str, out: Path | None) -> None:
    if out is None:
        print(text)
        return
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise RequestError(f"--out {out}: cannot be written: {error.strerror}") from error
    say(f"wrote {out}")
