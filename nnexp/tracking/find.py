"""Find recorded runs by their tags, and read one of them, from a database or through a server."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from nnexp.config.errors import RequestError
from nnexp.config.text import shortened
from nnexp.network.verify import Verifier
from nnexp.network.weights import Model, NotWeights, unpack, weights_sha256
from nnexp.tracking.places import place_of
from nnexp.tracking.reader import Detail, Experiment, Found
from nnexp.tracking.store import Store

# The artifact of a sweep's parent that lists the sweep's runs: one run_key per line.
SWEEP_KEYS = "run_keys.txt"
# That with the experiment's file, if an experiment made the sweep.
EXPERIMENT_FILE = "experiment.yaml"
# The largest file, in bytes, that is read because a record names it; enough for sixty million weights.
MAX_BYTES = 1 << 30
# Where else than in a directory a server may have its artifacts. Other schemes are not read, since MLflow
# would send the server's password to another host.
REMOTE = ("mlflow-artifacts", "s3", "gs", "abfss", "wasbs")


def find_runs(store: Store, experiment: Experiment, tag: str, others: Sequence[str] = ()) -> list[Found]:
    """Find the experiment's runs that have this tag, oldest first, with it and those of `others`."""
    return store.reader.runs_with(experiment, tag, others)


def get_any(store: Store, run_id: str) -> Detail:
    """Return a recorded run, a network or a sweep. Raises RequestError if there is none with this id."""
    found = _detail(store, run_id)
    if found is None:
        raise RequestError(f"no run {shortened(run_id)!r} in this store")
    return found


def get_run(store: Store, run_id: str) -> Detail:
    """Return a trained network of nnexp. Raises RequestError if there is none with this id."""
    found = get_any(store, run_id)
    if not found.tags.keys() & {"nnexp.run_key", "nnexp.rerun_key"}:
        what = "a sweep" if "nnexp.sweep" in found.tags else "not a run of nnexp"
        raise RequestError(f"run {run_id} is {what}; give the id of one trained network")
    return found


def get_curve(store: Store, run_id: str, metric: str) -> list[tuple[int, float]]:
    """Return a run's metric as (completed epochs, value). Raises RequestError if a value is not a number."""
    return store.reader.curves([run_id], [metric])[run_id].get(metric, [])


def get_sweep(store: Store, sweep_id: str) -> Detail | None:
    """Return the parent run of a sweep, or None if there is none with this id."""
    found = _detail(store, sweep_id)
    return found if found is not None and "nnexp.sweep" in found.tags else None


def list_artifacts(store: Store, run: Detail, directory: str) -> list[str]:
    """Return the names of the artifacts in a directory of a run, `directory/…`; none if it is missing.

    Raises RequestError if its record leads to anything but the run's own files.
    """
    place = place_of(store.uri, run.artifact_uri)
    if place is not None:
        try:
            return [f"{directory}/{name}" for name in os.listdir(_own_path(place, run.run_id, directory))]
        except (FileNotFoundError, NotADirectoryError):
            return []
    _check_remote(store, run)
    from mlflow.exceptions import MlflowException

    try:
        return [str(found.path) for found in store.client.list_artifacts(run.run_id, directory)]
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []


def read_artifact(store: Store, run: Detail, name: str, own: str | None = None) -> bytes:
    """Return an artifact's bytes. Raises FileNotFoundError if the run has none of this name.

    `own` is the directory of the run's artifacts, if it is known that it contains no links. Raises
    RequestError if the run's record leads to anything but its own files.
    """
    if ".." in name.split("/"):  # the name may contain a recorded hash of a data set
        raise RequestError(f"run {run.run_id}: its artifact {shortened(name)!r} is elsewhere")
    if own is not None:
        return _bytes(f"{own}/{name}", run.run_id, name)
    place = place_of(store.uri, run.artifact_uri)
    if place is not None:
        return _own_file(place, run.run_id, name)
    _check_remote(store, run)
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as directory:
        try:
            path = Path(store.client.download_artifacts(run.run_id, name, directory))
        except MlflowException as error:
            raise FileNotFoundError(name) from error
        return _bytes(str(path), run.run_id, name)


def _check_remote(store: Store, run: Detail) -> None:
    """Raise RequestError unless a run's artifacts are where a server may keep them."""
    address = urlsplit(run.artifact_uri)
    if address.scheme not in REMOTE or (address.scheme == "mlflow-artifacts" and address.netloc):
        raise RequestError(
            f"run {run.run_id}: its artifacts are at {shortened(run.artifact_uri)!r}, and are not read"
        )
    if address.scheme == "mlflow-artifacts" and not store.uri.startswith("http"):
        raise RequestError(
            f"run {run.run_id}: a server keeps its artifacts: give the server's address as tracking_uri"
        )


def _own_file(place: Path, run_id: str, name: str) -> bytes:
    """Return the bytes of a file in a run's own directory, EXPERIMENT/RUN_ID/artifacts.

    The experiment's directory may be reached by a link, which a user set up; the run's own must not contain
    any.
    """
    return _bytes(str(_own_path(place, run_id, name)), run_id, name)


def _own_path(place: Path, run_id: str, name: str) -> Path:
    """Return the path of something in a run's own directory. Raises RequestError if a link leads there."""
    if place.parts[-2:] != (run_id, "artifacts") or ".." in place.parts or "\0" in str(place):
        raise RequestError(
            f"run {run_id}: its artifacts are at {shortened(str(place))!r}, not in a directory of its own"
        )
    path = Path(os.path.realpath(place.parent.parent), run_id, "artifacts", name)
    if os.path.realpath(path) != str(path):
        raise RequestError(f"run {run_id}: its artifact {name} is a link, or is elsewhere")
    return path


def _bytes(path: str, run_id: str, name: str) -> bytes:
    """Return a file's bytes. Only plain files of limited size are opened: a pipe, say, might never end."""
    try:
        state = os.lstat(path)
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES:
            raise RequestError(
                f"run {run_id}: its artifact {name} is not a file, or has over {MAX_BYTES:,} bytes"
            )
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(name) from None
    except OSError as error:
        raise RequestError(f"run {run_id}: its artifact {name} cannot be read: {error.strerror}") from error


def read_weights(store: Store, run: Detail) -> bytes:
    """Return a run's weights.npz. Raises RequestError if it is missing, or is not the recorded one."""
    return _weights(store, run)[0]


def read_model(store: Store, run: Detail) -> Model:
    """Return the trained network of a run. Raises RequestError as `read_weights` does."""
    return _weights(store, run)[1]


def check_weights(store: Store, run: Detail, verifier: Verifier, own: str | None = None) -> None:
    """Raise RequestError as `read_model` does; quicker for many runs. `own` is as in `read_artifact`."""
    with _told(run):
        _compare(run, verifier.sha256(read_artifact(store, run, "weights.npz", own)))


def _weights(store: Store, run: Detail) -> tuple[bytes, Model]:
    with _told(run):
        content = read_artifact(store, run, "weights.npz")
        model = unpack(content)
    _compare(run, weights_sha256(model.network.layers))
    return content, model


@contextmanager
def _told(run: Detail) -> Iterator[None]:
    """Raise RequestError if a run's weights.npz is missing, or is none."""
    try:
        yield
    except FileNotFoundError as error:
        raise RequestError(f"run {run.run_id} has no weights.npz; did it finish?") from error
    except NotWeights as error:
        raise RequestError(f"run {run.run_id}: {error}") from error


def _compare(run: Detail, found: str) -> None:
    """Raise RequestError if the hash of a run's weights is not the recorded one."""
    if run.tags.get("nnexp.weights_sha256", found) != found:
        raise RequestError(f"run {run.run_id}: its weights.npz is not the one that was recorded (SHA-256)")


def find_artifact(store: Store, run: Detail, name: str) -> bytes | None:
    """Return an artifact's bytes, or None if the run has none of this name."""
    try:
        return read_artifact(store, run, name)
    except FileNotFoundError:
        return None


def recorded_keys(store: Store, sweep: Detail) -> list[str]:
    """Return the keys of a sweep's runs. Raises RequestError if its record has lost them."""
    content = find_artifact(store, sweep, SWEEP_KEYS)
    if content is None:
        raise RequestError(f"sweep {sweep.run_id}: its artifact {SWEEP_KEYS} is missing")
    return content.decode().split()


def _detail(store: Store, run_id: str) -> Detail | None:
    """Return a run, its texts escaped for printing; None if the id is malformed or unknown."""
    if not re.fullmatch("[0-9a-f]{32}", run_id):
        return None
    found = store.reader.details([run_id]).get(run_id)
    return None if found is None else found.checked()
