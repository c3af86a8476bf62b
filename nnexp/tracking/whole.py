"""Find finished runs whose record is incomplete, in the store or on the disk; they do not count as finished.

Files get lost with a disk, and anybody can delete a tag, or make a run with one of nnexp's tags, through
MLflow's own client. Such a run is ignored, and does not prevent the same run from being recorded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnexp.tracking.find import SWEEP_KEYS
from nnexp.tracking.members import RECORD
from nnexp.tracking.places import place_of
from nnexp.tracking.reader import Found
from nnexp.tracking.store import Store

log = logging.getLogger("nnexp")

# What a trained network's record must have.
NEEDED_TAGS = ("nnexp.outcome", "nnexp.weights_sha256", "nnexp.data_sha256", "nnexp.engine")
NEEDED_FILES = ("config.yaml", "weights.npz")
# How many runs are named one by one.
MOST_NAMED = 20


def missing(store: Store, runs: Sequence[Found]) -> dict[str, str]:
    """Return what each incomplete run lacks, in words, by its id.

    The files on a server are not checked, as asking for each run's takes as long as recording it.
    """
    found = {}
    is_network = {run.run_id: "nnexp.run_key" in run.tags for run in runs}
    is_table = {run.run_id: RECORD in run.tags for run in runs}
    for run_id, uri, tags in store.reader.heads(runs, NEEDED_TAGS):
        place = None if uri is None else place_of(store.uri, uri)
        what = missing_tag(tags) if is_network[run_id] else ""
        if not what and place is not None:
            what = missing_file(
                place, NEEDED_FILES if is_network[run_id] else _needed_of_sweep(is_table[run_id])
            )
        if what:
            found[run_id] = what
    return found


def _needed_of_sweep(is_table: bool) -> tuple[str, ...]:
    """Return the files that a sweep's record must have; a population has no list of keys."""
    return ("config.yaml",) if is_table else (SWEEP_KEYS,)


def missing_tag(tags: Mapping[str, object]) -> str:
    """Return which tag a network's record lacks, in words; empty if it lacks none."""
    return next((f"its tag {tag} is missing" for tag in NEEDED_TAGS if tag not in tags), "")


def missing_file(place: Path, names: Sequence[str]) -> str:
    """Return which of these files is missing in the directory, or empty, in words; else ""."""
    for name in names:
        try:
            if os.stat(f"{place}/{name}").st_size == 0:
                return f"its {name} is empty"
        except (FileNotFoundError, NotADirectoryError):
            return f"its {name} is missing"
        except OSError:
            continue  # it cannot be checked, so it may be there
    return ""


def tell(lacking: Mapping[str, str], so: str) -> None:
    """Log each run, what it lacks, and what follows from that (`so`)."""
    for run_id, what in list(lacking.items())[:MOST_NAMED]:
        log.info(f"note: run {run_id}: {what}: {so}")
    if len(lacking) > MOST_NAMED:
        log.info(f"note: {len(lacking) - MOST_NAMED:,} more runs lack something: {so}")
