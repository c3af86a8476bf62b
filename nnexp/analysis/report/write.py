"""Carry out `nnexp report`: find the sweep and write its report."""

from __future__ import annotations

from pathlib import Path

from nnexp.analysis.report.findings import Findings
from nnexp.analysis.report.page import page
from nnexp.analysis.report.pictures import search_pictures, sweep_pictures
from nnexp.config.endings import check_ending
from nnexp.config.errors import RequestError
from nnexp.config.text import printable
from nnexp.tracking.experiments import find_experiment, get_experiment
from nnexp.tracking.find import EXPERIMENT_FILE, find_artifact, get_sweep
from nnexp.tracking.named import get_newest, whole_id
from nnexp.tracking.population import get_network
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store, open_store


def write(
    sweep_id: str | None, experiment: str | None, out: Path | None, metric: str | None = None
) -> tuple[Path, str]:
    """Write the report of a sweep, by default by the metric that `summarize` chooses.

    Without an id it is the newest sweep of the experiment or, if that is not given either, of the store.
    Returns the file's path and which sweep it reports. Raises RequestError if there is no such sweep, or the
    file cannot be written.
    """
    if out is not None:
        check_path("--out", out)
    store = open_store(create=False)
    if sweep_id is None:
        of = None if experiment is None else find_experiment(store, experiment)
        sweep_id = get_newest(store, "sweep", of).run_id
    parent = _sweep(store, whole_id(store, sweep_id, "sweep"))
    path = out or Path(f"{parent.run_id}.html")
    write_page(store, parent, path, "--out", metric)
    return path, f"{parent.name}, of experiment {get_experiment(store, parent.experiment_id).name}"


def write_page(store: Store, parent: Detail, path: Path, option: str, metric: str | None = None) -> None:
    """Write the report of this sweep to the path, which errors call by the option. Raises RequestError."""
    found = Findings.read(store, parent, metric)
    pictures = [] if found.done.empty else sweep_pictures(store, found)
    if found.search is not None:
        pictures = [*search_pictures(found.search), *pictures]
    content = page(found, pictures, experiment_of(store, parent))
    try:
        path.write_bytes(content)
    except OSError as error:
        raise RequestError(f"{option} {path}: cannot be written: {error.strerror}") from error


def experiment_of(store: Store, sweep: Detail) -> str:
    """Return the file of the experiment that made a sweep; empty if there was none, or it was not kept."""
    return printable((find_artifact(store, sweep, EXPERIMENT_FILE) or b"").decode(errors="replace"))


def check_path(option: str, path: Path) -> None:
    """Raise RequestError unless a report can be written there."""
    check_ending(option, path, ".html", ".htm")
    if not path.parent.is_dir():
        raise RequestError(f"{option} {path}: there is no directory {path.parent}")


def _sweep(store: Store, sweep_id: str) -> Detail:
    """Return the sweep's parent run. Raises RequestError if the id is of a single run, or of none."""
    found = get_sweep(store, sweep_id)
    if found is None:
        run = get_network(store, sweep_id)  # raises if there is no run with this id
        parent = run.tags.get("nnexp.sweep_id")
        other = f"its sweep is {parent}" if parent else f"nnexp show {sweep_id} prints it"
        raise RequestError(f"run {sweep_id} is one trained network, but a report is of a sweep; {other}")
    return found
