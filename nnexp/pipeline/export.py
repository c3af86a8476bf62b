"""Export a recorded run's network as an MLflow model: log it on the run, or write it into a directory."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from nnexp.config.endings import check_directory
from nnexp.config.errors import RequestError
from nnexp.network.weights import pack
from nnexp.pipeline.networks import network_of
from nnexp.pipeline.signals import uninterrupted
from nnexp.tracking.find import read_weights
from nnexp.tracking.named import whole_id
from nnexp.tracking.population import Member, get_network
from nnexp.tracking.store import open_store, told_if_lost

log = logging.getLogger("nnexp")


def export(run_id: str, to: Path | None) -> str:
    """Carry out `nnexp export`; return the model's URI or the new directory, `to`. Raises RequestError."""
    if to is not None:
        _check_free(to)
    store = open_store(create=False)
    with told_if_lost(store):
        run_id = whole_id(store, run_id, "run")
        record = get_network(store, run_id)
        if isinstance(record, Member) and to is None:
            raise RequestError(
                f"{run_id} is a member of a population, which has no run to log a model on: name a directory "
                f"with --to, or make it a run with nnexp promote {run_id}"
            )
        if record.tags.get("nnexp.outcome") == "diverged":
            raise RequestError(f"run {run_id} diverged: its weights or its loss are not finite")
        # Each raises RequestError if the network is not the recorded one.
        if isinstance(record, Member):
            content = pack(network_of(store, record), {})
        else:
            content = read_weights(store, record)
        if to is not None:
            _save(to, run_id, content)
            return str(to)
        from nnexp.tracking.model import log_model, logged_model  # import MLflow

        if (model_id := logged_model(store, run_id)) is not None:
            log.info("this run already has a model")
        else:
            with uninterrupted():
                model_id = log_model(store, run_id, content)
        return f"models:/{model_id}"


def _save(to: Path, run_id: str, content: bytes) -> None:
    from mlflow.models import Model

    from nnexp.tracking.model import save_model

    half = to.with_name(f".{to.name}.half")  # renamed when complete, so that `to` is never half-written
    shutil.rmtree(half, ignore_errors=True)
    try:
        save_model(half, content, Model(run_id=run_id))
        half.rename(to)
    except OSError as error:
        raise RequestError(f"--to {to}: cannot be written: {error.strerror}") from error


def _check_free(to: Path) -> None:
    """Raise RequestError if the path exists or is named like a file; an empty directory is allowed."""
    if to.resolve() == Path.cwd():
        raise RequestError(f"--to {to}: is the working directory; name a new directory")
    if to.is_dir() and any(to.iterdir()):
        raise RequestError(f"--to {to}: the directory is not empty; name a new one")
    if to.exists() and not to.is_dir():
        raise RequestError(f"--to {to}: is a file; name a directory")
    if not to.parent.is_dir():
        raise RequestError(f"--to {to}: there is no directory {to.parent}")
    check_directory("--to", to)
