"""Which finished runs count: those whose record has all that a result is, in the store and on the disk.

Files get lost with a disk; and anybody can delete a tag, or make a run with one of ours, through MLflow's own
client. Such a run counts for nothing, and stops nobody.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnexp.tracking.find import SWEEP_KEYS
from nnexp.tracking.places import place_of
from nnexp.tracking.reader import Found
from nnexp.tracking.store import Store

log = logging.getLogger("nnexp")

# What a trained network's record must have.
NEEDED_TAGS = ("nnexp.outcome", "nnexp.weights_sha256", "nnexp.data_sha256", "nnexp.engine")
NEEDED_FILES = ("config.yaml", "weights.npz")
# So many runs are named one by one.
MOST_NAMED = 20


def missing(store: Store, runs: Sequence[Found]) -> dict[str, str]:
    """By the id of each of these runs that lacks something, what that is. Of a server, files are not asked
    for: to ask for each run's takes as long as to record it."""
    found = {}
    is_network = {run.run_id: "nnexp.run_key" in run.tags for run in runs}
    for run_id, uri, tags in store.reader.heads(runs, NEEDED_TAGS):
        place = None if uri is None else place_of(store.uri, uri)
        what = missing_tag(tags) if is_network[run_id] else ""
        if not what and place is not None:
            what = missing_file(place, NEEDED_FILES if is_network[run_id] else (SWEEP_KEYS,))
        if what:
            found[run_id] = what
    return found


def missing_tag(tags: Mapping[str, object]) -> str:
    """Which tag a network's record lacks, in words; empty where it lacks none."""
    return next((f"its tag {tag} is missing" for tag in NEEDED_TAGS if tag not in tags), "")


def missing_file(place: Path, names: Sequence[str]) -> str:
    """Which of these files is not in the directory, or is empty, in words."""
    for name in names:
        try:
            if os.stat(f"{place}/{name}").st_size == 0:
                return f"its {name} is empty"
        except (FileNotFoundError, NotADirectoryError):
            return f"its {name} is missing"
        except OSError:
            continue  # it cannot be looked at, which does not say that it is lost
    return ""


def tell(lacking: Mapping[str, str], so: str) -> None:
    """Name each run, what it lacks, and what is done about it."""
    for run_id, what in list(lacking.items())[:MOST_NAMED]:
        log.info(f"note: run {run_id}: {what}: {so}")
    if len(lacking) > MOST_NAMED:
        log.info(f"note: {len(lacking) - MOST_NAMED:,} more runs lack something: {so}")
