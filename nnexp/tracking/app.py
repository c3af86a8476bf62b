"""Extend an MLflow server so that it takes many whole runs in one request: `mlflow server --app-name nnexp`.

The server writes them as nnexp writes into a database itself: the artifacts first, then all rows in one
transaction. `--app-name nnexp-basic-auth` is MLflow's own basic-auth, extended in the same way: a user needs
the permission to create a run in the experiment. Everything else, and what the server answers to other
clients, is MLflow's.
"""

from __future__ import annotations

import os
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from mlflow.environment_variables import _MLFLOW_SGI_NAME, MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.server import app as flask_app
from mlflow.server import constants
from mlflow.server.handlers import _add_static_prefix, _disable_if_artifacts_only, catch_mlflow_exception
from sqlalchemy.exc import DBAPIError

from nnexp.config.errors import RequestError
from nnexp.tracking import wire
from nnexp.tracking.database import DatabaseWriter
from nnexp.tracking.places import local_path
from nnexp.tracking.reader import Experiment
from nnexp.tracking.store import Store, open_store


def create_app() -> Any:
    """Return MLflow's app, extended; mlflow calls this for `--app-name nnexp`."""
    _extend(flask_app)
    if _MLFLOW_SGI_NAME.get() != "uvicorn":
        return flask_app
    from mlflow.server.fastapi_app import app

    return app


def create_app_with_basic_auth() -> Any:
    """Return MLflow's basic-auth app, extended; mlflow calls this for `--app-name nnexp-basic-auth`."""
    from mlflow.server import auth

    def may_create_run() -> bool:
        return bool(auth._authorize_create_in_experiment(_experiment_id(), "run"))

    _extend(flask_app)
    # MLflow refuses every request without a login, and, by these, a user without the permission.
    for method in ("GET", "POST"):
        auth.BEFORE_REQUEST_VALIDATORS[_add_static_prefix(wire.PATH), method] = may_create_run
    return auth.create_app(flask_app)


def _extend(app: Flask) -> None:
    for method, view in (("GET", _formats), ("POST", _record)):
        answering = catch_mlflow_exception(_disable_if_artifacts_only(view))
        app.add_url_rule(_add_static_prefix(wire.PATH), f"nnexp{view.__name__}", answering, methods=[method])


def _formats() -> ResponseReturnValue:
    """Answer a client that asks whether the experiment's runs are taken, and in which formats."""
    _experiment()
    return jsonify(formats=[wire.FORMAT])


def _record() -> ResponseReturnValue:
    """Record the runs in the request's body, all or none; those that are in the store are left out."""
    # A browser sends this type to another site only if that site allows it.
    if request.mimetype != wire.TYPE:
        raise MlflowException(f"Content-Type must be {wire.TYPE}", INVALID_PARAMETER_VALUE)
    if request.content_length is None or request.content_length > wire.MAX_BYTES:
        raise MlflowException(f"the body has over {wire.MAX_BYTES} bytes", INVALID_PARAMETER_VALUE)
    store, experiment, place = _experiment()
    try:
        records = wire.unpacked(request.get_data(cache=False))
        with closing(DatabaseWriter(store, experiment, place)) as writer:
            writer.write(list(records.values()))
    except wire.NotRuns as error:
        raise MlflowException(f"the body is not one of nnexp: {error}", INVALID_PARAMETER_VALUE) from error
    except RequestError as error:
        raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error
    except DBAPIError as error:
        raise MlflowException(f"the database: {error.orig}", TEMPORARILY_UNAVAILABLE) from error
    return jsonify(runs=len(records))


def _experiment_id() -> str:
    """Return the experiment that the request is for: the one that is authorised, and is recorded in."""
    return request.args.get("experiment_id", "")


def _experiment() -> tuple[Store, Experiment, Path]:
    """Return the store, the request's experiment, and where its artifacts are on the server's disks.

    Raises MlflowException, with status 404, if the server does not take the experiment's runs: a client then
    records them by MLflow's calls.
    """
    try:
        store = _store()
    except RequestError as error:
        raise MlflowException(str(error), RESOURCE_DOES_NOT_EXIST) from error
    found = [one for one in store.reader.experiments() if one.id == _experiment_id() and not one.is_deleted]
    place = _place(found[0]) if found and store.is_known and not MLFLOW_ENABLE_WORKSPACES.get() else None
    if place is None:
        raise MlflowException("no experiment that nnexp can record in here", RESOURCE_DOES_NOT_EXIST)
    return store, found[0], place


@cache
def _store() -> Store:
    """Return the server's store. Raises RequestError if it cannot be opened, or is of no kind nnexp knows."""
    return open_store(os.environ.get(constants.BACKEND_STORE_URI_ENV_VAR, "-"), create=False)


def _place(experiment: Experiment) -> Path | None:
    """Return where the experiment's artifacts are on the server's disks; None if they are elsewhere.

    An experiment's location is chosen by who creates it. So it must be what MLflow itself gives to an
    experiment whose artifacts the server keeps, or be directly below the server's own artifact root.
    """
    location, environment = experiment.artifact_location, os.environ
    if location == f"mlflow-artifacts:/{experiment.id}":
        is_kept = environment.get(constants.SERVE_ARTIFACTS_ENV_VAR) == "true"
        kept = local_path(environment.get(constants.ARTIFACTS_DESTINATION_ENV_VAR, "")) if is_kept else None
        return None if kept is None else Path(os.path.abspath(kept), experiment.id)
    place, root = local_path(location), local_path(environment.get(constants.ARTIFACT_ROOT_ENV_VAR, "-:"))
    is_own = place is not None and root is not None and root.is_absolute() and place.parent == root
    return place if is_own and place is not None and place.name != ".." else None
