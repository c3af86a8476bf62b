"""The store: where it is, how it is made, what is refused."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import nnexp as package
from nnexp.config.errors import RequestError
from nnexp.config.paths import CHECKOUT
from nnexp.config.text import masked
from nnexp.tracking import client
from nnexp.tracking.database import DatabaseWriter
from nnexp.tracking.experiments import ensure_experiment, find_experiment
from nnexp.tracking.runs import RunRecord
from nnexp.tracking.store import Store, StoreLost, open_store, resolve_uri
from nnexp.tracking.write import open_writer

pytestmark = pytest.mark.slow


def test_the_default_store_is_the_projects_in_any_working_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None) == f"sqlite:///{CHECKOUT / 'mlflow.db'}"


def test_the_environment_names_the_store_and_a_key_wins_over_it(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert resolve_uri(None) == "http://somewhere:5000"
    assert resolve_uri("sqlite:///x.db") == f"sqlite:///{tmp_path}/x.db"


def test_a_store_reached_by_a_link_is_the_store_itself(store, tmp_path, nnexp):
    (tmp_path / "link.db").symlink_to("mlflow.db")
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    by_name = f"sqlite:///{tmp_path}/mlflow.db"
    for link in ("link.db", "elsewhere/mlflow.db", "elsewhere/link.db"):
        assert resolve_uri(f"sqlite:///{tmp_path}/{link}") == by_name
    linked = open_store(f"sqlite:///{tmp_path}/link.db")
    with open_writer(linked, ensure_experiment(linked, "nnexp")) as writer:
        run_id = writer.start(RunRecord("x", tags={"nnexp.run_key": "k"}, status="RUNNING"))
        # A command that opens the file by its own name sees that the run's process is alive.
        assert nnexp("doctor", "--fix").status == 0
        assert nnexp("train", "seed=1", "epochs=5", "figures=false", "model=false").status == 0
        assert writer.finish(run_id, "FINISHED", {}, {}) == run_id


def test_a_store_is_made_whole_or_not_at_all(tmp_path, empty_store):
    assert not list(empty_store.parent.glob("*.creating"))
    with sqlite3.connect(empty_store) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    connection.close()


def test_a_store_that_a_killed_process_half_made_is_made_again(tmp_path):
    (tmp_path / "mlflow.db.creating").write_bytes(b"half")
    store = open_store()
    assert ensure_experiment(store, "nnexp") == ensure_experiment(store, "nnexp")
    assert not (tmp_path / "mlflow.db.creating").exists()


def test_another_process_makes_a_store_and_imports_nothing_from_the_working_directory(tmp_path):
    (tmp_path / "mlflow.py").write_text("raise SystemExit('this is not MLflow')")
    code = "import sys; from nnexp.tracking import store; store.open_store(); print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_store_that_cannot_be_made_is_told_in_a_line(tmp_path, monkeypatch):
    fails = tmp_path / "python"
    fails.write_text("#!/bin/sh\necho a warning >&2; echo No space left on device >&2; exit 1\n")
    fails.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fails))
    with pytest.raises(RequestError, match=r"mlflow\.db: cannot be created: No space left on device$"):
        open_store()
    fails.write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(RequestError, match="cannot be created: exit status -9"):
        open_store()
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(("content", "words"), [(b"", "is empty"), (b"not a database", "is not an SQLite")])
def test_a_file_that_is_not_a_store_is_refused_and_not_changed(tmp_path, content, words):
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(RequestError, match=words):
        open_store()
    assert (tmp_path / "mlflow.db").read_bytes() == content


def test_a_damaged_store_is_refused(store):
    content = store.read_bytes()
    store.write_bytes(content[:100] + b"\xaa" * (len(content) - 100))
    with pytest.raises(RequestError, match=r"cannot be opened: .*malformed"):
        open_store()


def test_a_store_of_another_schema_is_refused_with_the_upgrade_command(store):
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    connection.close()
    with pytest.raises(RequestError, match="mlflow db upgrade"):
        open_store()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "https://127.0.0.1:99999"])
def test_an_unreachable_server_is_reported_at_once(uri):
    with pytest.raises(RequestError, match="cannot be reached"):
        open_store(uri)


def test_artifacts_are_beside_the_database_in_a_path_with_blanks(tmp_path, empty_store):
    place = tmp_path / "a place with blanks"
    place.mkdir()
    (place / "mlflow.db").write_bytes(empty_store.read_bytes())
    store = open_store(f"sqlite:///{place}/mlflow.db")
    location = ensure_experiment(store, "my name").artifact_location
    above = re.escape(f"file://{tmp_path}/a%20place%20with%20blanks/mlartifacts/")
    assert re.fullmatch(f"{above}[0-9a-f]{{32}}/my%20name", location)


def sql(path, statement, *values):
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def make_older(path):
    """Make a store like those from before stores had their own directories, with an experiment."""
    ensure_experiment(open_store(f"sqlite:///{path}"), "nnexp")
    sql(path, "DELETE FROM experiment_tags WHERE key = 'nnexp.store'")
    location = f"file://{path.parent}/mlartifacts/nnexp"
    sql(path, "UPDATE experiments SET artifact_location = ? WHERE name = 'nnexp'", location)


def every_byte(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("is_older", [False, True])
def test_a_copied_store_records_beside_itself_and_does_not_change_the_original(
    nnexp, empty_store, tmp_path, monkeypatch, is_older
):
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    shutil.copy(empty_store, original / "mlflow.db")
    if is_older:
        make_older(original / "mlflow.db")
    sweep = ["train", "-m", "seed=0,1", "epochs=5"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{original}/mlflow.db")
    nnexp(*sweep)
    before = every_byte(original)
    subprocess.run(["cp", "-r", original, copy], check=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}/mlflow.db")
    assert nnexp(*sweep, "epochs=6").status == nnexp("train", "epochs=7").status == 0
    assert every_byte(original) == before
    assert nnexp("doctor").out.endswith("7 runs, nothing is wrong\n")
    shutil.rmtree(original)  # the copy needs nothing of it
    assert nnexp("doctor").out.endswith("7 runs, nothing is wrong\n")


def test_a_database_copied_alone_reads_the_originals_runs_and_records_beside_itself(
    nnexp, empty_store, tmp_path, monkeypatch
):
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    copy.mkdir()
    shutil.copy(empty_store, original / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{original}/mlflow.db")
    nnexp("train", "-m", "seed=0,1", "epochs=5", "figures=false")
    before = every_byte(original)
    shutil.copy(original / "mlflow.db", copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}/mlflow.db")
    nnexp("train", "-m", "seed=2,3", "epochs=5", "figures=false")
    assert every_byte(original) == before
    assert len(list(copy.glob("mlartifacts/*/nnexp/*/artifacts/weights.npz"))) == 2
    assert nnexp("doctor").out.endswith("6 runs, nothing is wrong\n")


def test_a_copy_beside_the_original_records_in_its_own_directory(empty_store, tmp_path):
    places = []
    for name in ("one.db", "other.db", "one.db"):
        if name == "other.db":
            shutil.copy(tmp_path / "one.db", tmp_path / "other.db")
        elif not places:
            shutil.copy(empty_store, tmp_path / "one.db")
        store = open_store(f"sqlite:///{tmp_path}/{name}")
        with open_writer(store, ensure_experiment(store, "nnexp")):
            places.append(find_experiment(store, "nnexp").artifact_location)
    assert places[0] == places[2] != places[1]
    assert len(list(tmp_path.glob("mlartifacts/*.store"))) == 2


def test_an_artifact_directory_that_cannot_be_claimed_is_refused_in_plain_words(nnexp, store):
    (store.parent / "mlartifacts").touch()
    ended = nnexp("train", "epochs=5")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert f"the artifacts go to {store.parent}/mlartifacts, which cannot be written to: " in ended.err


def test_a_store_reached_by_a_link_keeps_its_artifacts_in_one_directory(empty_store, tmp_path):
    (tmp_path / "real").mkdir()
    shutil.copy(empty_store, tmp_path / "real" / "mlflow.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "mlflow.db")
    store = open_store(f"sqlite:///{tmp_path}/link.db")
    with open_writer(store, ensure_experiment(store, "nnexp")):
        pass
    assert [path.parent.parent for path in tmp_path.rglob("*.store")] == [tmp_path / "real"]


def test_a_store_without_an_id_is_given_one_with_its_next_experiment(store):
    make_older(store)
    opened = open_store()
    assert ensure_experiment(opened, "nnexp").artifact_location == f"file://{store.parent}/mlartifacts/nnexp"
    id = ensure_experiment(opened, "new").artifact_location.split("/")[-2]
    assert re.fullmatch("[0-9a-f]{32}", id)
    assert sql(store, "SELECT value FROM experiment_tags WHERE key = 'nnexp.store'") == [(id,)]


@pytest.mark.parametrize("bad", ["../../etc", "", "F" * 32])
def test_a_store_id_that_would_lead_to_another_directory_is_ignored(store, bad):
    sql(store, "UPDATE experiment_tags SET value = ? WHERE key = 'nnexp.store'", bad)
    above, id, name = ensure_experiment(open_store(), "nnexp").artifact_location.rsplit("/", 2)
    assert (above, name) == (f"file://{store.parent}/mlartifacts", "nnexp")
    assert re.fullmatch("[0-9a-f]{32}", id)


@pytest.mark.parametrize(
    "name", ["漢" * 86, "x" * 100, "a b" * 33], ids=["86 characters of 3 bytes", "100 of 1", "with blanks"]
)
def test_an_experiment_may_have_any_name_that_is_allowed(nnexp, store, name):
    one = ["train", f"experiment_name='{name}'", "epochs=5", "figures=false", "model=false"]
    assert nnexp(*one).status == 0
    assert "is not run again" in nnexp(*one).err
    assert "nothing is wrong" in nnexp("doctor").out


def test_an_experiment_with_an_impossible_directory_is_refused_and_the_store_stays_sound(
    nnexp, store, tmp_path
):
    name = "漢" * 86
    ensure_experiment(open_store(), "sound")
    with sqlite3.connect(store) as connection:
        renamed = f"file://{tmp_path}/mlartifacts/{name}"
        connection.execute(
            "UPDATE experiments SET name = ?, artifact_location = ? WHERE name = 'sound'", (name, renamed)
        )
    connection.close()
    ended = nnexp("train", f"experiment_name='{name}'", "epochs=5")
    assert (ended.status, "too long a path to record: choose another name" in ended.err) == (2, True)
    assert "nothing is wrong" in nnexp("doctor").out


def test_a_deleted_experiment_is_reported(store):
    opened = open_store()
    opened.client.delete_experiment(ensure_experiment(opened, "gone").id)
    with pytest.raises(RequestError, match="was deleted in this store"):
        ensure_experiment(opened, "gone")


def test_a_password_is_masked():
    assert masked("postgresql://me:secret@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert masked("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"
    # A password with an @, several in a text, an encoded one, one in a query, a token in place of a name.
    assert masked("http://a:b@c@h/x,http://d:e/f@h2") == "http://a:***@h/x,http://d:***@h2"
    assert masked("x://u:p%40ss@h?sslpassword=q%26") == "x://u:***@h?sslpassword=***"
    assert masked("https://0123abcd@host/x@y") == "https://***@host/x@y"
    assert masked("https://0123abcd@host:8080/x@y") == "https://***@host:8080/x@y"


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:hunter2@127.0.0.1:9/db",
        "postgresql://127.0.0.1:9/db?user=me&password=hunter2",
        "http://me:hunter2@127.0.0.1:9",
        "https://hunter2@127.0.0.1:9/x",
        "mysql://me:hunter2@127.0.0.1:9/db",
    ],
)
@pytest.mark.parametrize("traced", ["0", "1"])
def test_no_error_shows_a_password(nnexp, monkeypatch, uri, traced):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("HYDRA_FULL_ERROR", traced)
    for arguments in (["summarize"], ["show", "0" * 32], ["doctor"]):
        ended = nnexp(*arguments)
        assert ended.status in (1, 2)
        assert "127.0.0.1:9" in ended.err + ended.out
        assert "hunter2" not in ended.err + ended.out


def test_a_store_that_is_cut_off_is_refused_and_not_changed(store):
    content = store.read_bytes()[:-5000]
    store.write_bytes(content)
    with pytest.raises(RequestError, match="is cut off"):
        open_store(create=False)
    assert store.read_bytes() == content


def test_a_database_of_something_else_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TABLE photos (id)")
    connection.close()
    with pytest.raises(RequestError, match="not an MLflow store"):
        open_store()


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("451aebb31d03", "older than this MLflow's .*\nmlflow db upgrade sqlite:"),
        ("ffffffffffff", "newer one"),
    ],
)
def test_a_store_of_another_schema_is_not_changed(store, revision, words):
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()
    content = store.read_bytes()
    for create in (True, False):
        with pytest.raises(RequestError, match=words):
            open_store(create=create)
    assert store.read_bytes() == content
    assert [path.name for path in store.parent.iterdir()] == [store.name]


@contextmanager
def read_only(directory):
    """Make a directory read-only; root, who may always write, becomes another user meanwhile."""
    for path in [*directory.rglob("*"), directory]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    was = os.geteuid()
    os.seteuid(was or 65534)
    try:
        yield
    finally:
        os.seteuid(was)
        for path in [directory, *directory.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_read_only_store_can_be_read_but_not_trained_into(nnexp, empty_store, monkeypatch):
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        directory = Path(place, "store")
        directory.mkdir()
        shutil.copy(empty_store, directory / "mlflow.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        monkeypatch.chdir("/")
        sweep = ["train", "-m", "seed=0,1", "epochs=5", "hidden=[2]"]
        sweep_id = re.search(r"sweep (\w{32})", nnexp(*sweep).out)[1]
        run_id = package.load_runs()["run_id"][0]
        reading = [["summarize"], ["show", run_id], ["report", sweep_id, "--out", f"{place}/report.html"]]
        # Import these modules now, since the other user may not be able to read them.
        printed = [nnexp(*arguments).out for arguments in reading]
        Path(place, "report.html").unlink()
        reruns = [["rerun", run_id], ["rerun", "--sweep", sweep_id]]
        assert [nnexp(*arguments).status for arguments in reruns] == [0, 0]
        printed[1] = nnexp("show", run_id).out  # which the rerun is a part of now
        with read_only(directory):
            verdicts = [nnexp(*arguments) for arguments in reruns]
            again = [nnexp(*arguments) for arguments in reading]
            refused = nnexp(*sweep, "epochs=6")
        assert [(ended.status, ended.out) for ended in again] == [(0, text) for text in printed]
        for ended in verdicts:
            assert (ended.status, "identical" in ended.out) == (0, True)
            assert "the verdict is not recorded" in ended.err
        assert refused.status == 2
        assert "is read-only" in refused.err
        assert "trained" not in refused.err


def test_a_store_with_read_only_artifacts_is_not_trained_into(nnexp, empty_store, monkeypatch):
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        shutil.copy(empty_store, Path(place, "mlflow.db"))
        Path(place, "mlflow.db").chmod(0o666)
        Path(place, "mlartifacts").mkdir()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
        monkeypatch.chdir("/")
        nnexp("train", "plan=true")
        with read_only(Path(place, "mlartifacts")):
            refused = nnexp("train", "seed=1")
        assert (refused.status, refused.out) == (2, "")
        assert "mlartifacts is read-only" in refused.err
        assert package.load_runs().empty


def test_a_store_lost_while_it_is_read_is_reported_and_no_empty_one_is_made(nnexp, store, monkeypatch):
    nnexp("train", "epochs=5", "model=false", "figures=false")
    found = find_experiment

    def then_it_is_gone(opened, name):
        experiment = found(opened, name)
        opened.engine.dispose()
        store.unlink()
        return experiment

    monkeypatch.setattr("nnexp.tracking.read.find_experiment", then_it_is_gone)
    ended = nnexp("summarize")
    assert ended.status == 1
    assert "cannot be read: (sqlite3.OperationalError) unable to open database file" in ended.err
    assert not store.exists()


def test_a_store_lost_while_it_is_written_is_reported(nnexp, store, monkeypatch):
    start = DatabaseWriter.start

    def then_it_is_gone(writer, record):
        run_id = start(writer, record)
        store.unlink()
        return run_id

    monkeypatch.setattr(DatabaseWriter, "start", then_it_is_gone)
    ended = nnexp("train", "epochs=5", "model=false", "figures=false")
    assert ended.status == 1
    assert "recording in sqlite:" in ended.err
    assert not store.exists()


def test_a_store_with_too_long_a_name_for_its_locks_is_refused(nnexp, tmp_path):
    for name, is_read in (("x" * 215 + ".db", False), ("x" * 400 + ".db", True)):
        verb = ["summarize"] if is_read else ["train", "epochs=3"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/{name}")
            ended = nnexp(*verb)
        assert (ended.status, ended.out, len(ended.err.splitlines())) == (2, "", 1)
        assert ("no store at" if is_read else "the file's name has 218 bytes, but may have 216") in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_a_directory_that_is_not_utf8_is_refused(monkeypatch, tmp_path):
    place = os.fsencode(tmp_path) + b"/not\xffutf8"
    os.mkdir(place)
    monkeypatch.chdir(os.fsdecode(place))
    with pytest.raises(RequestError, match="has a name that is not UTF-8"):
        resolve_uri("sqlite:///mlflow.db")


class Pages(list):
    token = "more"


@pytest.mark.parametrize("new", [0, 1], ids=["the same page", "ever new items"])
def test_reading_a_server_that_sends_pages_without_end_stops(monkeypatch, new):
    monkeypatch.setattr(client, "MAX_ITEMS", 100)
    count = [0]

    def ask(token):
        count[0] += new
        return Pages([count[0]])

    with pytest.raises(StoreLost, match="http://here: the server sends pages without end"):
        client._all_pages(Store("http://here", None, False), ask, lambda item: item)
