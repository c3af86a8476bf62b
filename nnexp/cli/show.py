"""Print runs, sweeps, summaries and predictions."""

from __future__ import annotations

import logging
import math
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnexp.analysis.tables import Columns, apart, as_text
from nnexp.config.endings import table_format
from nnexp.config.errors import RequestError, unknown
from nnexp.config.run import RunConfig
from nnexp.config.text import masked, on_one_line
from nnexp.dataset.table import read_table
from nnexp.network.reference import equation
from nnexp.network.weights import Model
from nnexp.pipeline.networks import member_again, network_of
from nnexp.pipeline.run import Recorded
from nnexp.tracking.experiments import find_experiment
from nnexp.tracking.find import get_curve, get_sweep, read_model
from nnexp.tracking.members import split_member
from nnexp.tracking.named import entries, whole_id
from nnexp.tracking.population import Member, get_network
from nnexp.tracking.reader import Detail
from nnexp.tracking.searches import Searched
from nnexp.tracking.store import Store, open_store, resolve_uri

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from nnexp.pipeline.population.sweep import PopulationResult
    from nnexp.pipeline.search.loop import Done
    from nnexp.pipeline.sweep import Sweep

log = logging.getLogger("nnexp")

# How the program is called from the working directory.
PROGRAM = "nnexp" if shutil.which("nnexp") else os.path.relpath(Path(sys.executable).with_name("nnexp"))
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
# How many failures of a sweep are shown, and how many settings in the table that is printed when it ends.
MOST_SHOWN, MOST_SETTINGS = 20, 30
SPARKS = "▁▂▃▄▅▆▇█"


def command(config: RunConfig, *words: str, names_experiment: bool = False) -> str:
    """Return the command line that applies these words to the store, and experiment, of this config."""
    uri, where = config.tracking_uri, []
    if uri is not None and resolve_uri(uri) != resolve_uri(None):
        where = ["--tracking-uri", masked(uri)]
    if names_experiment and config.experiment_name != "nnexp":
        where += ["--experiment", config.experiment_name]
    return shlex.join([PROGRAM, *words, *where])


def _next(config: RunConfig, *commands: Sequence[str]) -> None:
    """Print commands to type next; the last one opens the UI."""
    typed = [command(config, *words) for words in commands]
    lines = [*typed, command(config, "ui", names_experiment=True)]
    lines += ["(*** stands for the password, which is not printed)"] * ("***" in lines[0])
    print("\n".join(f"  {line}" for line in lines))


def recorded(config: RunConfig, done: Recorded) -> None:
    """Print a run's result and the commands to type next."""
    epochs = f"{done.epochs} epoch{'' if done.epochs == 1 else 's'}"
    if "trained_epochs" in done.others:
        epochs += f", the best of {done.others['trained_epochs']:.0f}"
    first = "" if done.first_loss is None else f"{done.first_loss:.4g} -> "
    line = f"loss {first}{done.last_loss:.4g} in {epochs}, {done.outcome}"
    if done.accuracy is not None:
        line += f", accuracy {done.accuracy:.3g}"
    print(line)
    for rows in ("val", "test"):
        if (loss := done.others.get(f"{rows}_loss")) is not None:
            accuracy = done.others.get(f"{rows}_accuracy")
            print(
                f"{rows}_loss {loss:.4g}" + ("" if accuracy is None else f", {rows}_accuracy {accuracy:.3g}")
            )
    if done.new_rows["name"]:
        print("\n" + as_text(done.new_rows) + "\n")
    remark(done, "this run")
    print(f"recorded as {done.run_id}")
    _next(config, ["show", done.run_id])


def remark(done: Recorded, what: str) -> None:
    """Log that a run was recorded by an earlier command, if it was."""
    if done.added:
        log.info(f"already recorded, and not run again; added to it: {' and '.join(done.added)}")
    elif split_member(done.run_id) is not None:
        log.info(
            f"{what} is already recorded, as a member of a population, and is not run again; "
            f"nnexp promote {done.run_id} makes it a run, force=true runs it again"
        )
    elif done.is_old:
        log.info(f"{what} is already recorded and is not run again; force=true runs it again")


def sweep(config: RunConfig, done: Sweep) -> None:
    """Print the summary and the failures of a sweep that has just ended."""

    if done.summary is not None:
        print_summary(done.summary, done.sweep_id)
        print()
    if done.failures:
        names, reasons = map(list, zip(*done.failures, strict=True))
        print(as_text({"failed": names, "reason": reasons}) + "\n")
    failed = f", {len(done.failures)} failed" if done.failures else ""
    print(f"{len(set(done.keys))} runs{failed}, recorded as sweep {done.sweep_id}")
    _next(config, ["summarize", "--sweep", done.sweep_id], ["report", done.sweep_id])


def search(config: RunConfig, done: Done) -> None:
    """Print the best trials of a search that has just ended, its failures, and the verdict."""
    from nnexp.tracking.read import load_runs  # imports pandas

    told = _told(done.searched, load_runs(sweep=done.search_id, tracking_uri=config.tracking_uri))
    if done.failures:
        names, reasons = map(list, zip(*done.failures, strict=True))
        print(as_text({"failed": names, "reason": reasons}) + "\n")
    print(told)
    print(f"recorded as search {done.search_id}")
    _next(config, ["show", done.search_id], ["report", done.search_id])


def _told(search: Searched, runs: pd.DataFrame) -> str:
    """Return the best trials of a search, and what they tell."""
    from nnexp.analysis import search as searches

    again = searches.confirmed(search, runs)
    table = as_text(searches.best_trials(search, again)) + "\n\n" if search.best_first else ""
    return f"{table}{searches.verdict(search, again)}"


def population(config: RunConfig, done: PopulationResult) -> None:
    """Print the summary and the failures of a population that has just ended."""
    if done.summary is not None:
        print_summary(done.summary, done.sweep_id)
        print()
    if done.failures:
        names, reasons = map(list, zip(*done.failures[:MOST_SHOWN], strict=True))
        print(as_text({"failed": names, "reason": reasons}) + "\n")
    failed = f", {done.failed} failed" if done.failed else ""
    print(f"{done.total:,} network{'s' * (done.total != 1)}{failed}, recorded as sweep {done.sweep_id}")
    _next(config, ["summarize", "--sweep", done.sweep_id], ["report", done.sweep_id])


def print_summary(table: pd.DataFrame, sweep_id: str | None = None) -> None:
    """Print the summary and what it leaves open; on a terminal fit its width, the best rows in bold.

    `sweep_id` is given for the summary of a whole sweep: of more than MOST_SETTINGS, it prints the best ones.
    """
    from nnexp.analysis.summary import shortlist  # imports pandas
    from nnexp.analysis.summary_table import as_table, fitted, open_questions

    whole = table
    if sweep_id is not None:
        table = shortlist(whole, MOST_SETTINGS)
    if sys.stdout.isatty():
        lines, left_out = fitted(table, shutil.get_terminal_size().columns)
        if not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            for i in np.flatnonzero(table["standing"] == "best"):
                lines[i + 2] = f"{BOLD}{lines[i + 2]}{PLAIN}"  # below two lines of header
        print("\n".join(lines))
        if left_out:
            log.info(f"note: no room for {', '.join(left_out)}: widen the terminal, or use --format csv")
    else:
        print(as_table(table))
    if len(table) < len(whole):
        what = f"the best {len(table)} of {len(whole):,} settings"
        log.info(f"note: {what}; nnexp summarize --sweep {sweep_id} prints all of them")
    for unsettled in open_questions(whole):
        log.info(f"note: {unsettled}")


def summary(
    by: list[str] | None,
    *,
    experiment: str | None,
    sweep: str | None,
    over: str,
    metric: str | None,
    where: str | None,
    threshold: float | None,
    rank: str,
    sort: str | None,
    top: int | None,
    style: str | None,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Carry out `nnexp summarize`."""
    style = table_format(style, out)
    if plot is not None:
        from nnexp.analysis import plots  # matplotlib takes long to import

        plots.check_suffix(plot)
    from nnexp.analysis import summary as summaries  # imports pandas, which a single run does not need
    from nnexp.analysis.summary_table import as_table
    from nnexp.tracking.read import load_columns, load_history

    names = summaries.needed(by, metric, over, "run_id" if threshold is not None else None, where=where)
    runs = summaries.select(load_columns(experiment, sweep, names), where)
    done = summaries.finished(runs)
    if done.empty:
        raise RequestError(f"there is no finished run to summarise ({len(runs)} runs match)")
    if over not in summaries.params_of(runs):
        raise unknown("param in --over", over, summaries.params_of(runs))
    by = summaries.varying(done, over) if by is None else by
    if metric is None:
        metric = summaries.deciding(done)
        if metric != "loss":
            log.info(f"note: by {metric}, as there is a validation split; --metric loss is the training loss")
    history = load_history(done, [metric]) if threshold is not None else None
    table = summaries.summarize(done, by, metric, over=over, rank=rank, history=history, threshold=threshold)
    table = summaries.ordered(table, sort, top)
    if mixed := summaries.mixed(done, by, over):
        log.info(
            f"note: each row mixes different {', '.join(mixed)}; add them to --by or fix them with --where"
        )
    if style == "table" and out is None:
        print_summary(table)
    else:
        write(as_table(table, style), out)
    if plot is not None:
        figure = plots.of_summary(done, by, metric, over)
        put_figure(figure, plot)


def listing(experiment: str | None, most: int, style: str | None, out: Path | None) -> None:
    """Carry out `nnexp list`."""
    style = table_format(style, out)
    store = open_store(create=False)
    found = entries(store, "any", most, None if experiment is None else find_experiment(store, experiment))
    if not found:
        log.info("nothing is recorded there yet")
    form = "%Y-%m-%d %H:%M" if style in ("table", "markdown") else "%Y-%m-%dT%H:%M:%S%z"
    columns: Columns = {
        "when": [_when(one.start_time, form) for one in found],
        "name": [one.name for one in found],
        "state": [one.status.lower() for one in found],
        "best": [one.best for one in found],
        "metric": [one.metric for one in found],
        "experiment": [one.experiment for one in found],
        "id": [one.run_id for one in found],
    }
    if style == "table" and len(set(columns["experiment"])) < 2:
        del columns["experiment"]
    write(as_text(columns, style, left=["when", "name", "state", "metric", "experiment", "id"]), out)


def _when(milliseconds: int | None, form: str) -> str:
    """Format a time, in milliseconds since 1970, in this machine's time zone."""
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime(form)


def run(typed: str) -> None:
    """Carry out `nnexp show`."""
    store = open_store(create=False)
    run_id = whole_id(store, typed)
    if (found := get_sweep(store, run_id)) is not None:
        _show_sweep(store, found)
        return
    record = get_network(store, run_id)
    tags = record.tags
    head = f"{record.name}   {record.status.lower()}, {tags.get('nnexp.outcome', 'no result')}"
    print(on_one_line(head))
    if reason := tags.get("nnexp.reason"):
        print(f"reason: {reason}")
    print(f"run {run_id}" + (f" of sweep {tags['nnexp.sweep_id']}" if "nnexp.sweep_id" in tags else ""))
    _section("configuration", record.params)
    _section("last metrics", {k: f"{v:.10g}" for k, v in sorted(record.metrics.items())})
    curve, model = _curve_and_network(store, record)
    if curve:
        epochs, losses = zip(*curve, strict=True)
        print(f"\nloss over epochs 0 to {epochs[-1]} (log scale)\n  {spark(losses)}")
    from nnexp.cli.why import print_why  # imports pandas, which `nnexp train` of one run does without

    print_why(store, record)
    if model is not None:
        names = [on_one_line(name) for name in model.input_names()]
        print("\nequation\n  " + equation(model.network, names).replace("\n", "\n  "))
        for i, (W, b) in enumerate(model.network.layers, 1):
            print(f"\nW{i} =\n{np.array2string(W, precision=8)}\nb{i} = {np.array2string(b, precision=8)}")
    origin = dict(tags)
    if "nnexp.sweep_id" in tags:  # where a sweep's runs come from is recorded once, on their parent
        parent = get_sweep(store, tags["nnexp.sweep_id"])
        origin = {**parent.tags, **tags} if parent is not None else origin
    _section("provenance", {k: v for k, v in sorted(origin.items()) if k.startswith("nnexp.")})


def _curve_and_network(store: Store, record: Detail) -> tuple[list[tuple[int, float]], Model | None]:
    """Return the loss by epoch and the network of a run, as far as it has them; a member is trained again."""
    if isinstance(record, Member):
        if record.status != "FINISHED":
            return [], None
        again = member_again(store, record)
        epochs, losses = np.asarray(again.epochs).tolist(), np.asarray(again.curves["loss"]).tolist()
        return list(zip(epochs, losses, strict=True)), again.model
    model = read_model(store, record) if record.status == "FINISHED" else None
    return get_curve(store, record.run_id, "loss"), model


def _show_sweep(store: Store, parent: Detail) -> None:
    """Print a sweep: its counts, question, ranges, summary, best run, failures, provenance."""
    from nnexp.analysis.report.findings import Findings  # imports pandas, which a run alone does without

    found = Findings.read(store, parent)
    print(on_one_line(f"{parent.name}   {parent.status.lower()}"))
    counts = ", ".join(f"{n:,} {kind}" for kind, n in found.counts.items())
    print(f"sweep {parent.run_id}: {counts}")
    if found.question:
        print(on_one_line(f"question: {found.question}"))
    _section("ranges", found.ranges)
    best_and_worst = found.ranking[:: max(1, len(found.ranking) - 1)]  # the same one if it is alone
    ends, failed = found.named(found.runs.take(best_and_worst), found.failed.head(MOST_SHOWN))
    if found.search is not None:
        print(f"\nbest trials\n{_told(found.search, found.runs)}")
    elif found.summary is not None:
        print("\nsummary")
        print_summary(found.summary, parent.run_id)
        metric, one = found.metric, found.unit.removesuffix("s")
        for which, end in zip(("best", "worst"), ends.to_dict("records"), strict=False):
            value = "diverged" if end["outcome"] == "diverged" else f"{metric} {end[metric]:.4g}"
            print(f"\n{which} {one}\n  {on_one_line(end['run_name'])}: {value}, {end['run_id']}")
    _section("failed", dict(zip(failed["run_name"], failed["reason"].map(str), strict=True)))
    if (more := len(found.failed) - len(failed)) > 0:
        print(f"  … and {more:,} more")
    _section("provenance", {k: v for k, v in sorted(parent.tags.items()) if k.startswith("nnexp.")})


def predict(run_id: str, file: Path, style: str | None, out: Path | None) -> None:
    """Carry out `nnexp predict`."""
    style = table_format(style, out)
    store = open_store(create=False)
    model = network_of(store, get_network(store, whole_id(store, run_id, "run")))
    table = read_table(file)
    X = np.column_stack([table.numbers(name) for name in model.features])
    rows = {
        name: list(values) for name, values in zip(table.header, zip(*table.rows, strict=True), strict=True)
    }
    write(as_text(rows | apart(model.predict(X), rows, "_predicted"), style), out)


def spark(values: Sequence[float], width: int = 60) -> str:
    """Draw the values as a row of bars on a log scale, from the lowest to the highest."""
    values = [value for value in values if math.isfinite(value)] or [0.0]
    picked = np.array(values)[np.unique(np.linspace(0, len(values) - 1, width).astype(int))]
    logs = np.log(np.maximum(picked, np.finfo(float).tiny))
    span = np.ptp(logs) or 1.0
    return "".join(SPARKS[round(7 * (v - logs.min()) / span)] for v in logs)


def _section(title: str, values: Mapping[str, str]) -> None:
    if values:
        lines = [on_one_line(f"  {key:<26} {value}") for key, value in values.items()]
        print("\n".join(["", title, *lines]))


def write(text: str, out: Path | None) -> None:
    """Print the text, or write it into the file."""
    if out is None:
        print(text)
        return
    put(f"{text}\n".encode(), out, "--out")


def plot(typed: str, name: str | None, metric: str | None, out: Path | None) -> None:
    """Carry out `nnexp plot`."""
    from nnexp.analysis import plots  # matplotlib takes long to import
    from nnexp.cli.why import print_why
    from nnexp.pipeline.results.run import Run
    from nnexp.pipeline.results.sweep import Sweep

    if name is not None and out is not None:
        plots.check_suffix(out, "--out")
    store = open_store(create=False)
    run_id = whole_id(store, typed)
    if get_sweep(store, run_id) is not None:
        figures = Sweep(store, run_id, ()).figures(name, metric)
    else:
        record = get_network(store, run_id)
        if metric is not None:
            raise RequestError("--metric is for the figures of a sweep")
        figures = Run(store, run_id).figures(name)
        print_why(store, record)
    if not figures:
        raise RequestError(f"{run_id}: no run has a value to draw")
    if name is not None:
        file = out or Path(f"{name}.png")
        put(plots.saved(figures[name], file.suffix.removeprefix(".")), file, "--out")
        return
    directory = out or Path(run_id)
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {directory}: cannot be made: {error.strerror}") from error
    for of, figure in figures.items():
        put(plots.png(figure), directory / f"{of}.png", "--out")


def put_figure(figure: Figure, file: Path) -> None:
    """Write the figure of --plot, as the kind of file that the ending names."""
    from nnexp.analysis import plots

    put(plots.saved(figure, file.suffix.removeprefix(".")), file, "--plot")


def put(content: bytes, file: Path, option: str) -> None:
    """Write the file. Raises RequestError, which names the option, if that fails."""
    try:
        file.write_bytes(content)
    except OSError as error:
        raise RequestError(f"{option} {file}: cannot be written: {error.strerror}") from error
    log.info(f"wrote {file}")
