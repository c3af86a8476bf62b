"""A shared MLflow server with names and passwords."""

import base64
import json
import os
import sqlite3
import sys
import urllib.error
import urllib.request
from contextlib import closing

import pytest

from nnexp.tracking import wire
from nnexp.tracking.experiments import ensure_experiment
from nnexp.tracking.find import find_runs
from nnexp.tracking.runs import Ids, RunRecord
from nnexp.tracking.store import open_store
from tests.real import free_port, started, wait_for

pytestmark = pytest.mark.slow

# The servers of these tests start one after the other.

PASSWORD, ANOTHER = "a-password-of-the-admin", "a-password-of-a-reader"
TRAIN = ["train", "epochs=5", "figures=false", "model=false"]


def answer(uri, content=None, **headers):
    """Return the status of a server's answer, or None if there is no answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(uri, content, headers), timeout=5) as answered:
            return answered.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.fixture(scope="module")
def server(empty_store, tmp_path_factory):
    """A server as in docs/how-to/servers.md: basic-auth with nnexp's app, on loopback."""
    place = tmp_path_factory.mktemp("auth")
    (place / "mlflow.db").write_bytes(empty_store.read_bytes())
    (place / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{place}/users.db\n"
        "admin_username = admin\nauth_cache_ttl_seconds = 60\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "nnexp-basic-auth", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--host", "127.0.0.1"]
    command += ["--artifacts-destination", str(place / "artifacts"), "--port", str(port)]
    command += ["--allowed-hosts", f"127.0.0.1:{port}"]
    ours = {"MLFLOW_AUTH_CONFIG_PATH": f"{place}/auth.ini", "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    ours |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with started(*command, env={**os.environ, **ours}):
        uri = f"http://127.0.0.1:{port}"
        wait_for(lambda: answer(f"{uri}/health") == 200)
        yield uri, place


@pytest.fixture
def as_user(server, monkeypatch):
    """`as_user(name, password)` sets the login for the server from here on."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[0])

    def named(name, password):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return named


def test_a_missing_login_or_a_wrong_password_is_refused_and_the_variables_are_named(nnexp, as_user):
    anonymous = nnexp("train", "epochs=5")
    as_user("admin", "a-guess")
    guessed = nnexp("summarize")
    for ended in (anonymous, guessed):
        assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in ended.err
    assert "refuses the password or the name 'admin'" in guessed.err
    assert "a-guess" not in guessed.err


def test_a_user_with_a_password_can_train_and_summarise_and_it_is_recorded_nowhere(nnexp, server, as_user):
    place = server[1]
    as_user("admin", PASSWORD)
    ended = [nnexp(*TRAIN, "seed=1"), nnexp("summarize", "--format", "json")]
    assert [one.status for one in ended] == [0, 0]
    assert '"n": 1' in ended[1].out
    recorded = [path for path in place.rglob("*") if path.is_file() and path.suffix != ".db"]
    assert any(path.name == "weights.npz" for path in recorded)
    assert not [path for path in recorded if PASSWORD.encode() in path.read_bytes()]
    with closing(sqlite3.connect(place / "mlflow.db")) as connection:
        rows = "\n".join(connection.iterdump())
    assert "nnexp.run_key" in rows
    assert PASSWORD not in rows + "".join(one.out + one.err for one in ended)


def test_a_user_who_may_only_read_is_refused_before_anything_is_trained(nnexp, server, as_user):
    as_user("admin", PASSWORD)
    assert nnexp("train", "plan=true").status == 0  # the experiment is the admin's
    new = json.dumps({"username": "reader", "password": ANOTHER}).encode()
    known = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
    create = f"{server[0]}/api/2.0/mlflow/users/create"
    assert (
        answer(create, new, **{"Authorization": f"Basic {known}", "Content-Type": "application/json"}) == 200
    )
    as_user("reader", ANOTHER)
    assert nnexp("train", "plan=true").status == 0
    for command in ([*TRAIN, "seed=3"], [TRAIN[0], "-m", *TRAIN[1:], "seed=3,4"]):
        refused = nnexp(*command)
        assert (refused.status, refused.out) == (2, "")
        assert "does not allow this to 'reader'" in refused.err


def basic(name, password):
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def test_many_runs_in_one_request_need_a_login_and_the_permission_to_create_a_run(nnexp, server, as_user):
    as_user("admin", PASSWORD)
    assert nnexp("train", "-m", *TRAIN[1:], "seed=range(10,13)").status == 0
    store = open_store(server[0])
    place = ensure_experiment(store, "nnexp")
    path = f"{server[0]}{wire.PATH}?experiment_id={place.id}"
    (body,) = wire.bodies({Ids().draw(): RunRecord("x", tags={"nnexp.run_key": "x"}, end_time=1)})
    kind = {"Content-Type": wire.TYPE}
    reader, admin = basic("reader", ANOTHER), basic("admin", PASSWORD)
    for login, status in (({}, 401), (basic("admin", "a-guess"), 401), (reader, 403)):
        assert answer(path, body, **login, **kind) == status
        assert answer(path, **login) == status
    assert answer(path, body, **admin, **{"Content-Type": "text/plain"}) == 400
    assert answer(path, body[:-1], **admin, **kind) == 400
    assert answer(path, body, **admin, **kind, Host="evil.example") == 403
    assert answer(path, body, **admin, **kind, Origin="https://evil.example") == 403
    assert answer(path.replace(f"={place.id}", "=999"), body, **admin, **kind) == 404
    keys = {run.tags["nnexp.run_key"] for run in find_runs(store, place, "nnexp.run_key")}
    assert len(keys) >= 3
    assert "x" not in keys
    assert answer(path, body, **admin, **kind) == 200
    assert "x" in {run.tags["nnexp.run_key"] for run in find_runs(store, place, "nnexp.run_key")}


def test_the_server_answers_by_its_own_name_only(server):
    assert answer(f"{server[0]}/", Host="evil.example") == 403
