"""`nnexp doctor`: look a store over, say what is wrong with it, and repair what can be without any loss."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from filelock import FileLock, Timeout

from nnexp.config import RequestError
from nnexp.mask import masked
from nnexp.printable import on_one_line
from nnexp.tracking.find import SWEEP_KEYS, Found, read_artifact, read_model
from nnexp.tracking.health import (
    OF_RUNS,
    Row,
    all_experiments,
    all_ids,
    all_runs,
    delete_rows_of_nothing,
    file_faults,
    has_run,
    nobody_records,
    rows_of_nothing,
)
from nnexp.tracking.owner import is_owned
from nnexp.tracking.runs import identity
from nnexp.tracking.store import SQLITE, Experiment, Store, local_path, open_store, resolve_uri
from nnexp.tracking.whole import missing_tag
from nnexp.tracking.write import end_dead, is_alive, open_writer

# Lines of one kind that are printed; of the others how many there are.
MOST_LINES = 20
# A directory that nnexp made, or was killed making: its name is an id as the writer draws them, a UUID of
# version 7, and it has one of these files.
_DIRECTORY = re.compile(r"[0-9a-f]{12}7[0-9a-f]{19}|\.[0-9a-f]{12}7[0-9a-f]{19}\.half")
_OURS = ("config.yaml", "weights.npz", "traceback.txt", SWEEP_KEYS)


@dataclass(frozen=True)
class Finding:
    """What is wrong; where it can be put right without loss, what that would be, and what does it."""

    kind: str
    text: str
    remedy: str = ""
    repair: Callable[[], object] | None = None


def examine(fix: bool) -> bool:
    """`nnexp doctor`: a line for each finding; whether nothing is wrong, or all was put right. Raises
    RequestError when there is no store to look at."""
    uri = resolve_uri(None)
    path = Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
    if path is not None and not path.is_file():
        raise RequestError(f"no store at {path}")
    count, findings = _inside(uri, path)
    for kind, group in groupby(findings, lambda finding: finding.kind):
        some = list(group)
        for finding in some if fix else []:
            if finding.repair is not None:
                finding.repair()
        for finding in some[:MOST_LINES]:
            print(_line(finding, fix))
        if len(some) > MOST_LINES:
            print(f"… and {len(some) - MOST_LINES:,} more such: {kind}")
    can = sum(finding.repair is not None for finding in findings)
    told = f"{len(findings):,} found" if findings else "nothing is wrong"
    if can:
        told += f", {can:,} of them repaired" if fix else f", {can:,} of which nnexp doctor --fix repairs"
    print(f"{masked(uri)}: {count:,} runs, {told}")
    return len(findings) == (can if fix else 0)


def _line(finding: Finding, fix: bool) -> str:
    if finding.repair is None:
        return on_one_line(finding.text)
    return on_one_line(f"{finding.text}; {'repaired' if fix else '--fix'}: {finding.remedy}")


def _inside(uri: str, path: Path | None) -> tuple[int, list[Finding]]:
    """How many runs there are, and what is wrong. What is damaged, or of another schema, is looked at no
    further."""
    if path is not None and (faults := file_faults(path)):
        return 0, [Finding("damage", f"{path}: {fault}") for fault in faults]
    try:
        store = open_store(create=False)
    except RequestError as error:
        return 0, [Finding("store", str(error))]
    experiments = all_experiments(store)
    runs = all_runs(store, experiments)
    findings = [*_stale(store, experiments, runs)]
    if path is not None:
        findings += [*_left_beside(path, runs), *_rows(path)]
    findings += [*_twice(runs), *_without_sweep(runs)]
    if store.is_known:
        findings += [*_artifacts(store, runs), *_orphans(store, experiments)]
    return len(runs), findings


# --- What can be wrong, a generator of findings each.


def _left_beside(path: Path, runs: Sequence[Row]) -> Iterator[Finding]:
    """What killed processes left beside an SQLite file: a store half made, locks of runs that have ended."""
    half = path.with_name(f"{path.name}.creating")
    if half.exists() and _is_free(Path(f"{path}.lock")):
        yield Finding("left", f"{half} was left by a process that was killed", "delete it", half.unlink)
    running = {run.run_id for run in runs if run.status == "RUNNING"}
    for lock in sorted(path.parent.glob(f"{path.name}.*.owner")):
        run_id = lock.name.removeprefix(f"{path.name}.").removesuffix(".owner")
        if run_id not in running and _is_free(lock):
            yield Finding("left", f"{lock} was left by a process that was killed", "delete it", lock.unlink)


def _is_free(lock: Path) -> bool:
    """Whether no process holds this lock, as far as we may know."""
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, PermissionError):
        return False


def _rows(path: Path) -> Iterator[Finding]:
    for table, count in sorted(rows_of_nothing(path).items()):
        text = f"table {table}: {count:,} rows belong to what is not there"
        if table in OF_RUNS:
            yield Finding("rows", text, "delete them", partial(delete_rows_of_nothing, path, table))
        else:
            yield Finding("rows", text)


def _stale(store: Store, experiments: Sequence[Experiment], runs: Sequence[Row]) -> Iterator[Finding]:
    """Runs that say that they go on, and whose process died."""
    by_id = {experiment.id: experiment for experiment in experiments}
    found = [Found(run.run_id, run.status, run.tags) for run in runs]
    for run, one in zip(runs, found, strict=True):
        if run.is_active and run.status == "RUNNING" and not is_alive(store, one, found):
            text = f"run {run.run_id}: says that it goes on, but its process died"
            end = partial(_end, store, by_id[run.experiment_id], one)
            yield Finding("stale", text, "set it to KILLED", end)


def _end(store: Store, experiment: Experiment, run: Found) -> None:
    with open_writer(store, experiment) as writer:
        end_dead(store, writer, [run])


def _twice(runs: Sequence[Row]) -> Iterator[Finding]:
    first: dict[tuple[str, tuple[str, int]], str] = {}
    for run in runs:
        if run.is_active and run.status == "FINISHED" and "nnexp.run_key" in run.tags:
            same = first.setdefault((run.experiment_id, identity(run.tags)), run.run_id)
            if same != run.run_id:
                text = f"run {run.run_id}: finished once more, as {same} is the same; summaries count one"
                yield Finding("twice", text)


def _without_sweep(runs: Sequence[Row]) -> Iterator[Finding]:
    there = {run.run_id for run in runs if run.is_active}
    for run in runs:
        sweep = run.tags.get("nnexp.sweep_id")
        if run.is_active and sweep is not None and sweep not in there:
            yield Finding("without sweep", f"run {run.run_id}: its sweep {sweep} is not there")


def _artifacts(store: Store, runs: Sequence[Row]) -> Iterator[Finding]:
    """Finished runs whose tags or files on this machine's disks are not there, or not as they were
    recorded."""
    for run in runs:
        if not run.is_active or run.status != "FINISHED" or local_path(run.artifact_uri) is None:
            continue
        needed = "config.yaml" if "nnexp.run_key" in run.tags else SWEEP_KEYS
        if what := missing_tag(run.tags) if "nnexp.run_key" in run.tags else "":
            yield Finding("files", f"run {run.run_id}: {what}")
        try:
            if not read_artifact(store, run.detail(), needed):
                yield Finding("files", f"run {run.run_id}: its artifact {needed} is empty")
            if "nnexp.run_key" in run.tags:
                read_model(store, run.detail())
        except FileNotFoundError:
            yield Finding("files", f"run {run.run_id}: its artifact {needed} is not there")
        except RequestError as error:
            yield Finding("files", str(error))


def _orphans(store: Store, experiments: Sequence[Experiment]) -> Iterator[Finding]:
    """Directories of runs that are not in the store: their writer was killed before it put them there."""
    known = all_ids(store)
    for experiment in experiments:
        place = local_path(experiment.artifact_location)
        if place is None or not os.path.isdir(place):  # which takes a name of any length
            continue
        for name in sorted(os.listdir(place)):
            directory, run_id = place / name, name.removeprefix(".").removesuffix(".half")
            if run_id in known or not _DIRECTORY.fullmatch(name) or directory.is_symlink():
                continue
            if not any((directory / "artifacts" / ours).is_file() for ours in _OURS):
                continue
            text = f"{directory}: files of a run that is not in the store"
            remove = partial(_remove, store, experiment, run_id, directory)
            yield Finding("orphan", text, "delete them", remove)


def _remove(store: Store, experiment: Experiment, run_id: str, directory: Path) -> None:
    """Delete the files of a run that nobody has recorded, and that nobody is about to record: a writer puts
    files and rows in place in one transaction, or owns the run before."""
    with nobody_records(store, experiment.id) as connection:
        if not has_run(connection, run_id) and not is_owned(store, run_id):
            shutil.rmtree(directory)
