"""Find or create the experiment in which runs are recorded."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from nnexp.config.errors import RequestError, unknown
from nnexp.tracking import tables
from nnexp.tracking.places import STORE_ID, ensure_id, find_id, local_path, new_id, place_for, place_of
from nnexp.tracking.reader import Experiment
from nnexp.tracking.runs import now
from nnexp.tracking.store import Store
from nnexp.tracking.view import experiment_tags


def find_experiment(store: Store, name: str) -> Experiment:
    """Return the experiment of this name. Raises RequestError if there is none or it was deleted."""
    found = _experiment(store, name)
    if found is None:
        known = [found.name for found in store.reader.experiments() if not found.is_deleted]
        raise unknown("experiment", name, known)
    return found


def get_experiment(store: Store, id: str) -> Experiment:
    """Return the experiment with this id."""
    return _present(store, store.reader.experiment(id))


def all_experiments(store: Store) -> list[Experiment]:
    """Return every experiment; in a database also those that were deleted in MLflow."""
    return [_present(store, found) for found in store.reader.experiments()]


def ensure_experiment(store: Store, name: str) -> Experiment:
    """Return the experiment of this name, created if there is none. Raises RequestError if it was deleted."""
    found = _experiment(store, name)
    if found is not None:
        return found
    if store.is_known:
        try:
            with store.engine.begin() as connection:
                _insert_experiment(connection, store.uri, str(store.artifact_root), name)
        except sa.exc.IntegrityError:
            pass  # another process was quicker
    else:
        from mlflow.exceptions import MlflowException

        location = None if store.artifact_root is None else place_for(store.uri, own_root(store), name)
        try:
            store.client.create_experiment(name, location, experiment_tags())
        except MlflowException as error:
            if _experiment(store, name) is None:
                raise RequestError(f"experiment_name={name}: {error.message}") from error
    return find_experiment(store, name)


def _insert_experiment(connection: sa.Connection, uri: str, artifact_root: str, name: str) -> None:
    """Insert the experiment, with its artifacts in the store's own place.

    Its row is inserted first, which locks an SQLite file, so that a store without an id draws one only once.
    """
    t, time = tables.EXPERIMENTS, now()
    row: dict[str, object] = {"name": name, "artifact_location": "", "lifecycle_stage": "active"}
    row |= {"creation_time": time, "last_update_time": time, "workspace": "default"}
    made = connection.execute(sa.insert(t).values(row).returning(t.c.experiment_id)).scalar_one()
    id = find_id(connection) or new_id()
    location = place_for(uri, f"{artifact_root}/{id}", name)
    connection.execute(sa.update(t).where(t.c.experiment_id == made).values(artifact_location=location))
    tags = {**experiment_tags(), STORE_ID: id}
    rows = [{"experiment_id": made, "key": key, "value": value} for key, value in tags.items()]
    connection.execute(sa.insert(tables.EXPERIMENT_TAGS), rows)


def _present(store: Store, found: Experiment) -> Experiment:
    """Return the experiment with the place where its artifacts are now."""
    place = place_of(store.uri, found.artifact_location)
    if place is None or place == local_path(found.artifact_location):
        return found
    return replace(found, artifact_location=place.as_uri())


def _experiment(store: Store, name: str) -> Experiment | None:
    """Return the experiment of this name, or None if there is none. Raises RequestError if it was deleted."""
    found = store.reader.experiment_named(name)
    if found is None:
        return None
    if found.is_deleted:
        raise RequestError(
            f"experiment_name={name}: was deleted in this store; restore it (mlflow experiments restore "
            f"--experiment-id {found.id}) or choose another name"
        )
    return _present(store, found)


def own_root(store: Store) -> str:
    """Return this database's own place, as a URI; give the database an id if it has none."""
    with store.engine.begin() as connection:
        return f"{store.artifact_root}/{ensure_id(connection, new_id())}"
