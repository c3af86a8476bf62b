"""Look a store over: what is wrong with it, and what repairs it where that can be without any loss.

Nothing that holds anything is deleted: what no row names is moved aside, if it is certain to be this store's.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from nnexp.config.errors import RequestError
from nnexp.tracking.claims import aside_of
from nnexp.tracking.experiments import Experiment, all_experiments
from nnexp.tracking.files import links_in, move_aside
from nnexp.tracking.find import SWEEP_KEYS, read_artifact, read_model
from nnexp.tracking.health import (
    OF_RUNS,
    all_ids,
    all_runs,
    file_faults,
    has_run,
    move_rows_of_nothing,
    nobody_records,
    rows_of_nothing,
    running_ids,
)
from nnexp.tracking.owner import is_owned
from nnexp.tracking.places import SQLITE, local_path, place_of
from nnexp.tracking.reader import Found, Row
from nnexp.tracking.runs import identity
from nnexp.tracking.store import Store, open_store, resolve_uri
from nnexp.tracking.whole import missing_tag
from nnexp.tracking.write import end_dead, is_alive, open_writer

# What is younger is left alone: somebody may be about to use it.
OLD_SECONDS = 3600
# A directory that nnexp made, or was killed making: its name is an id as the writer draws them, a UUID of
# version 7, and it has one of these files.
_DIRECTORY = re.compile(r"[0-9a-f]{12}7[0-9a-f]{19}|\.[0-9a-f]{12}7[0-9a-f]{19}\.half")
_OURS = ("config.yaml", "weights.npz", "traceback.txt", SWEEP_KEYS)


@dataclass(frozen=True)
class Finding:
    """What is wrong; where it can be put right without loss, what that would be, and what does it and says
    whether it did."""

    kind: str
    text: str
    remedy: str = ""
    repair: Callable[[], bool] | None = None


# The kind of what is only told.
NOTE = "note"


@dataclass(frozen=True)
class Examined:
    """A store that was looked over: how many runs it has, and what is wrong, findings of a kind together."""

    uri: str
    runs: int
    findings: list[Finding]


def examine() -> Examined:
    """Look the store over. Raises RequestError when there is none."""
    uri = resolve_uri(None)
    path = Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
    if path is not None and not path.is_file():
        raise RequestError(f"no store at {path}")
    return Examined(uri, *_inside(uri, path))


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
        links = _links(store, runs)
        findings += [Finding("links", f"{link} is a link: {_LINK}") for link in chain(*links.values())]
        findings += _artifacts(store, [run for run in runs if run.run_id not in links])
        findings += _orphans(store, experiments)
    return len(runs), findings


# --- What can be wrong, a generator of findings each.


def _left_beside(path: Path, runs: Sequence[Row]) -> Iterator[Finding]:
    """What killed processes left beside an SQLite file: a store half made, locks of runs that have ended."""
    half = path.with_name(f"{path.name}.creating")
    if half.exists() and _is_free(Path(f"{path}.lock")):
        aside = _aside(path)
        move = partial(_move_half, path, half)
        yield Finding("left", f"{half} was left by a process that was killed", f"move it to {aside}", move)
    running = {run.run_id for run in runs if run.status == "RUNNING"}
    for lock in sorted(path.parent.glob(f"{path.name}.*.owner")):
        run_id = lock.name.removeprefix(f"{path.name}.").removesuffix(".owner")
        # A run that is about to begin has its lock before its row.
        if run_id not in running and _is_old(lock) and _is_free(lock):
            text = f"{lock} was left by a process that was killed"
            yield Finding("left", text, "delete the empty file", partial(_unlink, lock))


def _aside(path: Path) -> Path:
    """The directory for what is moved out of the way of an SQLite file."""
    return path.with_name(f"{path.name}.aside")


def _move_half(path: Path, half: Path) -> bool:
    """Move a store half made, unless a process is making it."""
    try:
        with FileLock(f"{path}.lock", timeout=0):
            move_aside(half.parent, half.name, _aside(path))
    except (Timeout, FileNotFoundError):
        return False
    return True


def _unlink(lock: Path) -> bool:
    lock.unlink(missing_ok=True)
    return True


def _is_old(path: Path) -> bool:
    """Whether a file, or a directory with all that is in it, has not been changed for OLD_SECONDS."""
    try:
        below = [Path(top, name) for top, folders, files in os.walk(path) for name in (*folders, *files)]
        newest = max(one.lstat().st_mtime for one in (path, *below))
    except FileNotFoundError:  # just moved, so somebody is at work
        return False
    return time.time() - newest > OLD_SECONDS


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
            move = partial(_move_rows, path, table)
            yield Finding("rows", text, f"move them to {_aside(path)}", move)
        else:
            yield Finding("rows", text)


def _move_rows(path: Path, table: str) -> bool:
    move_rows_of_nothing(path, table, _aside(path))
    return True


def _stale(store: Store, experiments: Sequence[Experiment], runs: Sequence[Row]) -> Iterator[Finding]:
    """Runs that say that they go on, and whose process died."""
    by_id = {experiment.id: experiment for experiment in experiments}
    found = [Found(run.run_id, run.status, run.tags) for run in runs]
    for run, one in zip(runs, found, strict=True):
        if run.is_active and run.status == "RUNNING" and not is_alive(store, one, found):
            text = f"run {run.run_id}: says that it goes on, but its process died"
            end = partial(_end, store, by_id[run.experiment_id], one)
            yield Finding("stale", text, "set it to KILLED", end)


def _end(store: Store, experiment: Experiment, run: Found) -> bool:
    with open_writer(store, experiment) as writer:
        return end_dead(store, writer, [run])


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


_LINK = "nothing is read or written through it"


def _links(store: Store, runs: Sequence[Row]) -> Mapping[str, list[Path]]:
    """By run, the symbolic links in its directory on this machine's disks; only runs that have some."""
    links = {}
    for run in runs:
        place = place_of(store.uri, run.artifact_uri)
        if run.is_active and place is not None and place.parts[-2:] == (run.run_id, "artifacts"):
            links[run.run_id] = list(links_in(place.parent))
    return {run_id: some for run_id, some in links.items() if some}


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
    places = [(experiment, local_path(experiment.artifact_location)) for experiment in experiments]
    names = {e.id: _names(place) for e, place in places if place is not None and place.is_dir()}
    known = all_ids(store)  # read after the names, since a run's files are there before its row
    for experiment, place in places:
        unnamed = [name for name in names.get(experiment.id, []) if _run_id(name) not in known]
        if place is None or not unnamed:
            continue
        aside, left = aside_of(store, place), Counter[str]()
        is_live = _is_live(store, experiment)
        for name in unnamed:
            if aside is None:
                left["another store may have them"] += 1
            elif is_live or not _is_old(place / name):
                left["somebody may be recording them"] += 1
            else:
                text = f"{place / name}: files of a run that is not in the store"
                move = partial(_set_aside, store, experiment, place, name, aside)
                yield Finding("orphan", text, f"move them to {aside}", move)
        for why, count in left.items():
            text = f"note: {place}: directories of {count:,} runs that are not in the store are left alone"
            yield Finding(NOTE, f"{text}: {why}")


def _names(place: Path) -> list[str]:
    """The directories in this one that nnexp made for a run each."""
    names = (name for name in sorted(os.listdir(place)) if _DIRECTORY.fullmatch(name))
    ours = ((name, place / name / "artifacts" / one) for name in names for one in _OURS)
    found = dict.fromkeys(name for name, file in ours if file.is_file())
    return [name for name in found if not (place / name).is_symlink()]


def _run_id(name: str) -> str:
    return name.removeprefix(".").removesuffix(".half")


def _is_live(store: Store, experiment: Experiment) -> bool:
    """Whether a process that is alive owns a run of the experiment."""
    with store.reading() as connection:
        running = running_ids(connection, experiment.id)
    return any(is_owned(store, run_id) for run_id in running)


def _set_aside(store: Store, experiment: Experiment, place: Path, name: str, aside: Path) -> bool:
    """Move the files of a run that nobody has recorded, and that nobody is about to record: a writer puts
    files and rows in place in one transaction, or owns the run before."""
    with nobody_records(store, experiment.id) as connection:
        is_named = has_run(connection, _run_id(name)) or is_owned(store, _run_id(name))
        if is_named or _is_live(store, experiment) or not _is_old(place / name):
            return False
        move_aside(place, name, aside)
    return True
