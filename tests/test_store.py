"""The store: where it is, how it is made, what is refused."""

import sqlite3
import subprocess
import sys

import pytest

from nnexp.config import RequestError
from nnexp.dataset import PROJECT
from nnexp.tracking.store import ensure_experiment, masked, open_store, resolve_uri


def test_the_store_is_the_projects_own_wherever_one_stands(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None) == f"sqlite:///{PROJECT / 'mlflow.db'}"


def test_the_environment_names_the_store_and_a_key_wins_over_it(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert resolve_uri(None) == "http://somewhere:5000"
    assert resolve_uri("sqlite:///x.db") == f"sqlite:///{tmp_path}/x.db"


def test_a_store_is_made_whole_or_not_at_all(tmp_path, empty_store):
    assert not list(empty_store.parent.glob("*.creating"))
    with sqlite3.connect(empty_store) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    connection.close()


def test_a_store_half_made_by_a_killed_process_is_made_anew(tmp_path):
    (tmp_path / "mlflow.db.creating").write_bytes(b"half")
    store = open_store()
    assert ensure_experiment(store, "nnexp") == ensure_experiment(store, "nnexp")
    assert not (tmp_path / "mlflow.db.creating").exists()


def test_processes_that_start_at_once_make_one_store(tmp_path):
    code = "from nnexp.tracking.store import *; s = open_store(); print(ensure_experiment(s, 'nnexp').id)"
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert len(set(answers)) == 1


@pytest.mark.parametrize(("content", "words"), [(b"", "is empty"), (b"not a database", "is not an SQLite")])
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path, content, words):
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(RequestError, match=words):
        open_store()
    assert (tmp_path / "mlflow.db").read_bytes() == content


def test_a_damaged_store_is_refused(store):
    content = store.read_bytes()
    store.write_bytes(content[:100] + b"\xaa" * (len(content) - 100))
    with pytest.raises(RequestError, match=r"cannot be opened: .*malformed"):
        open_store()


def test_a_store_of_another_schema_is_refused_with_what_upgrades_it(store):
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    connection.close()
    with pytest.raises(RequestError, match="mlflow db upgrade"):
        open_store()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "https://127.0.0.1:99999"])
def test_a_server_that_is_not_there_is_told_at_once(uri):
    with pytest.raises(RequestError, match="cannot be reached"):
        open_store(uri)


def test_artifacts_lie_beside_the_database_in_a_path_with_blanks(tmp_path, empty_store):
    place = tmp_path / "a place with blanks"
    place.mkdir()
    (place / "mlflow.db").write_bytes(empty_store.read_bytes())
    store = open_store(f"sqlite:///{place}/mlflow.db")
    location = ensure_experiment(store, "my name").artifact_location
    assert location == f"file://{tmp_path}/a%20place%20with%20blanks/mlartifacts/my%20name"


def test_a_deleted_experiment_is_told(store):
    opened = open_store()
    opened.client.delete_experiment(ensure_experiment(opened, "gone").id)
    with pytest.raises(RequestError, match="was deleted in this store"):
        ensure_experiment(opened, "gone")


def test_a_password_is_masked():
    assert masked("postgresql://me:secret@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert masked("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"
