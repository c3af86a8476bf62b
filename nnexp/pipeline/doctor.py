"""Examine a store: find what is wrong with it, and repair what can be repaired without loss.

Nothing that contains data is deleted. Files that no row of the store names are moved aside, and only if they
certainly belong to this store.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from nnexp.config.errors import RequestError
from nnexp.network.verify import Verifier
from nnexp.tracking import health, members
from nnexp.tracking.claims import aside_of
from nnexp.tracking.database import DatabaseWriter
from nnexp.tracking.experiments import all_experiments
from nnexp.tracking.files import links_in, move_aside
from nnexp.tracking.find import SWEEP_KEYS, check_weights, read_artifact
from nnexp.tracking.owner import is_owned
from nnexp.tracking.places import SQLITE, Places, local_path
from nnexp.tracking.population import is_population, population_of
from nnexp.tracking.reader import Detail, Experiment
from nnexp.tracking.runs import identity
from nnexp.tracking.store import Store, open_store, resolve_uri
from nnexp.tracking.whole import missing_tag
from nnexp.tracking.write import end_dead, is_alive, open_writer

# Younger files are left alone, since a process may be about to use them.
OLD_SECONDS = 3600
# A directory that nnexp made, or was making when it was killed: its name is an id as the writer makes them, a
# UUID of version 7, and it has one of the files of _OURS.
_DIRECTORY = re.compile(r"[0-9a-f]{12}7[0-9a-f]{19}|\.[0-9a-f]{12}7[0-9a-f]{19}\.half")
_OURS = ("config.yaml", "weights.npz", "traceback.txt", SWEEP_KEYS)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and its repair if it can be repaired without loss."""

    kind: str
    text: str
    remedy: str = ""  # what the repair does, in words
    repair: Callable[[], object] | None = None  # returns False if it left all as it was


# The kind of a finding that needs no repair.
NOTE = "note"


@dataclass(frozen=True)
class Examined:
    """The result of examining a store: how many runs it has, and the findings, grouped by kind."""

    uri: str
    runs: int
    findings: list[Finding]


def examine() -> Examined:
    """Examine the store. Raises RequestError if there is none."""
    uri = resolve_uri(None)
    path = Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
    if path is not None and not path.is_file():
        raise RequestError(f"no store at {path}")
    return Examined(uri, *_inside(uri, path))


def _inside(uri: str, path: Path | None) -> tuple[int, list[Finding]]:
    """Return the number of runs and the findings. A damaged store or one of another schema is not examined
    further."""
    if path is not None and (faults := health.file_faults(path)):
        return 0, [Finding("damage", f"{path}: {fault}") for fault in faults]
    try:
        store = open_store(create=False)
    except RequestError as error:
        return 0, [Finding("store", str(error))]
    experiments = all_experiments(store)
    runs = health.all_runs(store, experiments)
    findings = [*_stale(store, experiments, runs)]
    if path is not None:
        findings += [*_left_beside(path, runs), *_rows(path)]
    findings += [*_twice(runs), *_without_sweep(runs)]
    if store.is_known:
        own = _own(store, runs)
        links = _links(own)
        findings += [Finding("links", f"{link} is a link: {_LINK}") for link in chain(*links.values())]
        findings += _artifacts(store, [run for run in runs if run.run_id not in links], own)
        findings += _orphans(store, experiments)
    return len(runs), findings


# --- One generator of findings for each thing that can be wrong.


def _left_beside(path: Path, runs: Sequence[Detail]) -> Iterator[Finding]:
    """Find what killed processes left beside an SQLite file: a half-made store, locks of ended runs."""
    half = path.with_name(f"{path.name}.creating")
    if half.exists() and _is_free(Path(f"{path}.lock")):
        aside = _aside(path)
        move = partial(_move_half, path, half)
        yield Finding("left", f"{half} was left by a process that was killed", f"move it to {aside}", move)
    running = {run.run_id for run in runs if run.status == "RUNNING"}
    for lock in sorted(path.parent.glob(f"{path.name}.*.owner")):
        run_id = lock.name.removeprefix(f"{path.name}.").removesuffix(".owner")
        # A run that is about to begin makes its lock before its row.
        if run_id not in running and _is_old(lock) and _is_free(lock):
            text = f"{lock} was left by a process that was killed"
            yield Finding("left", text, "delete the empty file", partial(lock.unlink, missing_ok=True))


def _aside(path: Path) -> Path:
    """Return the directory that files beside an SQLite file are moved into."""
    return path.with_name(f"{path.name}.aside")


def _move_half(path: Path, half: Path) -> bool:
    """Move a half-made store aside, unless a process is making it."""
    try:
        with FileLock(f"{path}.lock", timeout=0):
            move_aside(half.parent, half.name, _aside(path))
    except (Timeout, FileNotFoundError):
        return False
    return True


def _is_old(path: Path) -> bool:
    """Return whether a file, or a directory with all its content, has not changed for OLD_SECONDS."""
    try:
        below = [Path(top, name) for top, folders, files in os.walk(path) for name in (*folders, *files)]
        newest = max(one.lstat().st_mtime for one in (path, *below))
    except FileNotFoundError:  # just moved, so a process is working on it
        return False
    return time.time() - newest > OLD_SECONDS


def _is_free(lock: Path) -> bool:
    """Return whether the lock is free; False also if we may not open it."""
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, PermissionError):
        return False


def _rows(path: Path) -> Iterator[Finding]:
    """Find rows that refer to rows that are not in the store."""
    for table, count in sorted(health.rows_of_nothing(path).items()):
        text = f"table {table}: {count:,} rows refer to missing rows"
        if table in health.OF_RUNS:
            move = partial(health.move_rows_of_nothing, path, table, _aside(path))
            yield Finding("rows", text, f"move them to {_aside(path)}", move)
        else:
            yield Finding("rows", text)


def _stale(store: Store, experiments: Sequence[Experiment], runs: Sequence[Detail]) -> Iterator[Finding]:
    """Find RUNNING runs whose process has died."""
    by_id = {experiment.id: experiment for experiment in experiments}
    for run in runs:
        if run.is_active and run.status == "RUNNING" and not is_alive(store, run, runs):
            text = f"run {run.run_id}: is recorded as running, but its process has died"
            end = partial(_end, store, by_id[run.experiment_id], run)
            yield Finding("stale", text, "set it to KILLED", end)


def _end(store: Store, experiment: Experiment, run: Detail) -> bool:
    with open_writer(store, experiment) as writer:
        return end_dead(store, writer, [run])


def _twice(runs: Sequence[Detail]) -> Iterator[Finding]:
    """Find runs that are recorded as finished twice."""
    first: dict[tuple[str, tuple[str, int]], str] = {}
    for run in runs:
        if run.is_active and run.status == "FINISHED" and "nnexp.run_key" in run.tags:
            same = first.setdefault((run.experiment_id, identity(run.tags)), run.run_id)
            if same != run.run_id:
                text = f"run {run.run_id}: is the same as {same}, and both finished; summaries count one"
                yield Finding("twice", text)


def _without_sweep(runs: Sequence[Detail]) -> Iterator[Finding]:
    """Find runs whose sweep is not in the store."""
    there = {run.run_id for run in runs if run.is_active}
    for run in runs:
        sweep = run.tags.get("nnexp.sweep_id")
        if run.is_active and sweep is not None and sweep not in there:
            yield Finding("without sweep", f"run {run.run_id}: its sweep {sweep} is not in the store")


_LINK = "nothing is read or written through it"


def _links(own: Mapping[str, str]) -> Mapping[str, list[str]]:
    """Return the symbolic links in runs' directories, by run id; only runs that have some."""
    links = {run_id: list(links_in(place.removesuffix("/artifacts"))) for run_id, place in own.items()}
    return {run_id: some for run_id, some in links.items() if some}


def _own(store: Store, runs: Sequence[Detail]) -> Mapping[str, str]:
    """Return, by run id, the directories of artifacts on this machine that are the run's own."""
    places = Places(store.uri)
    found = {run.run_id: places.of(run.run_id, run.artifact_uri) for run in runs if run.is_active}
    return {
        run_id: place
        for run_id, place in found.items()
        if place is not None and place.endswith(f"/{run_id}/artifacts") and "/../" not in place
    }


def _artifacts(store: Store, runs: Sequence[Detail], own: Mapping[str, str]) -> Iterator[Finding]:
    """Find finished runs whose tags, or whose files on this machine, are missing or were altered.

    `own` are directories without links, as `_own` returns them.
    """
    verifier = Verifier()
    for run in runs:
        if not run.is_active or run.status != "FINISHED":
            continue
        place = own.get(run.run_id)
        if place is None and local_path(run.artifact_uri) is None:
            continue
        is_network, is_table = "nnexp.run_key" in run.tags, is_population(run)
        needed = "config.yaml" if is_network or is_table else SWEEP_KEYS
        if is_network and (what := missing_tag(run.tags)):
            yield Finding("files", f"run {run.run_id}: {what}")
        try:
            if not read_artifact(store, run, needed, place):
                yield Finding("files", f"run {run.run_id}: its artifact {needed} is empty")
            if is_network:
                check_weights(store, run, verifier, place)
            if is_table:
                yield from _parts(store, run)
        except FileNotFoundError:
            yield Finding("files", f"run {run.run_id}: its artifact {needed} is missing")
        except RequestError as error:
            yield Finding("files", str(error))


def _parts(store: Store, run: Detail) -> Iterator[Finding]:
    """Find parts of a population that were altered, and members that are missing though it is complete."""
    there, is_damaged = 0, False
    found = population_of(store, run)
    for revisions in found.parts().values():
        newest = found.newest(revisions)
        if newest is None or newest[0] != revisions[0]:
            text = members.damage(run, revisions, newest is None)
            yield Finding("parts", f"sweep {run.run_id}: {text}")
            is_damaged = True
        there += 0 if newest is None else len(members.from_bytes(newest[1], ["number"]))
    asked = int(run.tags.get("nnexp.runs", "0"))
    if run.tags.get("nnexp.outcome") == "complete" and there < asked and not is_damaged:
        text = f"{asked - there:,} of its {asked:,} members are not recorded; its command trains them"
        yield Finding("parts", f"sweep {run.run_id}: {text}")


def _orphans(store: Store, experiments: Sequence[Experiment]) -> Iterator[Finding]:
    """Find directories of runs that are not in the store: their writer was killed before adding them."""
    places = [(experiment, local_path(experiment.artifact_location)) for experiment in experiments]
    names = {e.id: sorted(os.listdir(place)) for e, place in places if place is not None and place.is_dir()}
    known = health.all_ids(store)  # read after the names, since a run's files are there before its row
    for experiment, place in places:
        unnamed = [name for name in names.get(experiment.id, []) if _run_id(name) not in known]
        if place is None or not (unnamed := _ours(place, unnamed)):
            continue
        aside, left = aside_of(store, place), Counter[str]()
        is_live = _is_live(store, experiment)
        for name in unnamed:
            if aside is None:
                left["they may belong to another store"] += 1
            elif is_live or not _is_old(place / name):
                left["a process may be recording them"] += 1
            else:
                text = f"{place / name}: files of a run that is not in the store"
                move = partial(_set_aside, store, experiment, place, name, aside)
                yield Finding("orphan", text, f"move them to {aside}", move)
        for why, count in left.items():
            text = f"note: {place}: directories of {count:,} runs that are not in the store are left alone"
            yield Finding(NOTE, f"{text}: {why}")


def _ours(place: Path, names: Sequence[str]) -> list[str]:
    """Return those of the names in `place` that are directories that nnexp made for runs."""
    names = list(filter(_DIRECTORY.fullmatch, names))
    ours = ((name, place / name / "artifacts" / one) for name in names for one in _OURS)
    found = dict.fromkeys(name for name, file in ours if file.is_file())
    return [name for name in found if not (place / name).is_symlink()]


def _run_id(name: str) -> str:
    return name.removeprefix(".").removesuffix(".half")


def _is_live(store: Store, experiment: Experiment) -> bool:
    """Return whether a living process owns a run of the experiment."""
    return any(is_owned(store, run_id) for run_id in health.running_ids(store, experiment))


def _set_aside(store: Store, experiment: Experiment, place: Path, name: str, aside: Path) -> bool:
    """Move the files of a run aside, unless it is recorded or a process may be about to record it.

    A writer puts files and rows in place in one transaction, or owns the run before.
    """
    with closing(DatabaseWriter(store, experiment)) as writer, writer.transaction() as connection:
        is_named = health.has_run(connection, _run_id(name)) or is_owned(store, _run_id(name))
        if is_named or _is_live(store, experiment) or not _is_old(place / name):
            return False
        move_aside(place, name, aside)
    return True
