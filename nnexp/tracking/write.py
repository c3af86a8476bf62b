"""Choose the writer for a store, and end the runs whose process has died."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from nnexp.tracking.claims import claim
from nnexp.tracking.owner import is_beating, is_owned
from nnexp.tracking.reader import Detail, Experiment, Found
from nnexp.tracking.runs import Ended, Writer, identity
from nnexp.tracking.store import Store


@contextmanager
def open_writer(store: Store, experiment: Experiment) -> Iterator[Writer]:
    """Open this store's writer: on MLflow's tables if nnexp knows them, else through MLflow's client."""
    writer: Writer
    experiment = claim(store, experiment)
    if store.is_known:
        from nnexp.tracking.database import DatabaseWriter

        writer = DatabaseWriter(store, experiment)
    else:
        from nnexp.tracking.server import ClientWriter  # imports MLflow

        writer = ClientWriter(store, experiment)
    try:
        yield writer
    finally:
        writer.close()


def end_dead(store: Store, writer: Writer, found: Sequence[Found | Detail]) -> bool:
    """Set the RUNNING runs that no live process owns to KILLED; return whether there were any.

    A run that its owner has ended since it was found keeps its status.
    """
    left = [run.run_id for run in found if run.status == "RUNNING" and not is_alive(store, run, found)]
    for run_id in left:
        with suppress(Ended):
            writer.finish(run_id, "KILLED", {}, {"nnexp.reason": "its process died"})
    return bool(left)


def settled(writer: Writer, found: list[Found]) -> list[Found]:
    """Delete the duplicates that two sweeps at once leave on a server if one is stopped; return the rest."""
    finished = [identity(run.tags) for run in found if run.status == "FINISHED"]
    if len(set(finished)) == len(finished):
        return found
    removed = writer.settle(None)
    return [run for run in found if run.run_id not in removed]


def is_alive(store: Store, run: Found | Detail, found: Sequence[Found | Detail]) -> bool:
    """Return whether the owner of a run that was found RUNNING, or of its sweep, is alive."""
    if store.is_known:
        return is_owned(store, run.run_id)
    # On a server a sweep's run has no owner of its own: its parent's owner writes it.
    parent = next((p for p in found if p.run_id == run.tags.get("nnexp.sweep_id")), run)
    return is_beating(store, parent.tags)
