"""nnexp doctor: what can be wrong with a store is found, and what can be put right without loss is."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import nnexp as package
from nnexp.tracking.runs import RunRecord
from nnexp.tracking.store import ensure_experiment, open_store
from nnexp.tracking.write import open_writer

ORPHAN = "01a201ed0afc7000a94f7af062d203b7"


@pytest.fixture(scope="module")
def recorded(empty_store, tmp_path_factory):
    """A sound store with a sweep of two runs; tests take copies of it."""
    directory = tmp_path_factory.mktemp("recorded") / "store"
    directory.mkdir()
    shutil.copy(empty_store, directory / "mlflow.db")
    train = [sys.executable, "-m", "nnexp.cli", "train", "-m", "seed=0,1", "epochs=5", "hidden=[2]"]
    subprocess.run([*train, f"tracking_uri=sqlite:///{directory}/mlflow.db"], check=True, capture_output=True)
    return directory


@pytest.fixture
def place(recorded, tmp_path, monkeypatch):
    """The test's own copy, at the address that the artifacts are recorded at."""
    kept = tmp_path / "kept"
    shutil.copytree(recorded, kept)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{recorded}/mlflow.db")
    yield recorded
    shutil.rmtree(recorded, ignore_errors=True)  # a test may have moved it
    shutil.copytree(kept, recorded)


def sql(place, statement, *values):
    with closing(sqlite3.connect(place / "mlflow.db")) as connection, connection:
        return connection.execute(statement, values).fetchall()


def artifacts(place, run_id):
    return place / "mlartifacts" / "nnexp" / run_id


def sweep_id(place):
    return sql(place, "SELECT run_uuid FROM tags WHERE key = 'nnexp.sweep'")[0][0]


def network(place):
    return package.load_runs()["run_id"][0]


def test_a_sound_store_has_nothing_wrong(nnexp, place):
    before = sorted(place.rglob("*"))
    ended = nnexp("doctor")
    assert (ended.status, ended.out.count("\n"), ended.err) == (0, 1, "")
    assert "3 runs, nothing is wrong" in ended.out
    assert sorted(place.rglob("*")) == before


def spoil_weights(place):
    path = artifacts(place, network(place)) / "artifacts" / "weights.npz"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def exchange_weights(place):
    one, other = (artifacts(place, i) / "artifacts" / "weights.npz" for i in package.load_runs()["run_id"])
    shutil.copy(one, other)


def lose_weights(place):
    (artifacts(place, network(place)) / "artifacts" / "weights.npz").unlink()


def lose_config(place):
    (artifacts(place, network(place)) / "artifacts" / "config.yaml").unlink()


def empty_config(place):
    (artifacts(place, network(place)) / "artifacts" / "config.yaml").write_bytes(b"")


def empty_keys(place):
    (artifacts(place, sweep_id(place)) / "artifacts" / "run_keys.txt").write_bytes(b"")


def lose_a_tag(place):
    sql(place, "DELETE FROM tags WHERE key = 'nnexp.outcome' AND run_uuid = ?", network(place))


def lose_keys(place):
    (artifacts(place, sweep_id(place)) / "artifacts" / "run_keys.txt").unlink()


def link_artifacts(place):
    directory = artifacts(place, network(place))
    directory.rename(place / "moved")
    directory.symlink_to(place / "moved")


def lose_the_sweep(place):
    sql(place, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", sweep_id(place))


def finish_twice(place):
    key = "UPDATE tags SET value = (SELECT value FROM tags WHERE key = 'nnexp.run_key') WHERE key = ?"
    sql(place, key, "nnexp.run_key")


def change_the_schema(place):
    sql(place, "UPDATE alembic_version SET version_num = 'ffffffffffff'")


def damage_the_file(place):
    with (place / "mlflow.db").open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xaa" * 50_000)


def cut_the_file(place):
    path = place / "mlflow.db"
    path.write_bytes(path.read_bytes()[:-20_000])


@pytest.mark.parametrize(
    ("spoil", "words", "lines"),
    [
        (spoil_weights, "weights.npz is damaged", 1),
        (exchange_weights, "not the one that was recorded", 1),
        (lose_weights, "has no weights.npz", 1),
        (lose_config, "its artifact config.yaml is not there", 1),
        (empty_config, "its artifact config.yaml is empty", 1),
        (empty_keys, "its artifact run_keys.txt is empty", 1),
        (lose_a_tag, "its tag nnexp.outcome is not there", 1),
        (lose_keys, "its artifact run_keys.txt is not there", 1),
        (link_artifacts, "is a link", 1),
        (lose_the_sweep, "is not there", 2),
        (finish_twice, "finished once more", 1),
        (change_the_schema, "mlflow db upgrade", 1),
        (damage_the_file, "mlflow.db: ", None),
        (cut_the_file, "mlflow.db: ", None),
    ],
)
def test_what_is_wrong_is_told_and_not_made_worse(nnexp, place, spoil, words, lines):
    spoil(place)
    content = (place / "mlflow.db").read_bytes()
    for arguments in (["doctor"], ["doctor", "--fix"]):
        ended = nnexp(*arguments)
        assert (ended.status, ended.err) == (1, "")
        *found, last = ended.out.splitlines()
        assert all(words in line for line in found)
        assert lines in (None, len(found))
        assert last.endswith(f"{len(found)} found")
    assert (place / "mlflow.db").read_bytes() == content


def results():
    """The finished runs, and what came out of them."""
    runs = package.load_runs()
    return runs.loc[runs["status"] == "FINISHED", ["run_id", "weights_sha256", "loss"]].to_dict("records")


def leave_a_run_going_on(place):
    """As a process does that is killed."""
    code = "import os; from nnexp.tracking.write import *; from nnexp.tracking.store import *\n"
    code += "from nnexp.tracking.runs import RunRecord\n"
    code += "store = open_store(); experiment = ensure_experiment(store, 'nnexp')\n"
    code += "with open_writer(store, experiment) as writer:\n"
    code += "    writer.start(RunRecord('x', tags={'nnexp.run_key': 'k'}, status='RUNNING')); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9


def leave_files(place):
    shutil.copytree(artifacts(place, network(place)), artifacts(place, ORPHAN))


def leave_half(place):
    shutil.copytree(artifacts(place, network(place)), artifacts(place, f".{ORPHAN}.half"))


def leave_half_a_store(place):
    (place / "mlflow.db.creating").write_bytes(b"half")


def leave_a_lock(place):
    (place / f"mlflow.db.{ORPHAN}.owner").touch()


def leave_rows(place):
    sql(place, "INSERT INTO tags VALUES ('a', 'b', ?)", ORPHAN)
    sql(place, "INSERT INTO tags VALUES ('c', 'd', ?)", ORPHAN)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (leave_a_run_going_on, "its process died; --fix: set it to KILLED"),
        (leave_files, "not in the store; --fix: delete them"),
        (leave_half, "not in the store; --fix: delete them"),
        (leave_half_a_store, "creating was left by a process that was killed; --fix: delete it"),
        (leave_a_lock, "owner was left by a process that was killed; --fix: delete it"),
        (leave_rows, "table tags: 2 rows belong to what is not there; --fix: delete them"),
    ],
)
def test_what_a_kill_leaves_is_put_right_and_the_runs_are_kept(nnexp, place, spoil, words):
    spoil(place)
    runs = results()
    told = nnexp("doctor")
    assert told.status == 1
    assert words in told.out
    assert "1 found, 1 of which nnexp doctor --fix repairs" in told.out
    fixed = nnexp("doctor", "--fix")
    assert (fixed.status, fixed.err) == (0, "")
    assert words.replace("--fix", "repaired") in fixed.out
    assert "nothing is wrong" in nnexp("doctor").out
    assert results() == runs


def test_a_run_that_goes_on_is_not_touched(nnexp, place):
    store = open_store()
    with open_writer(store, ensure_experiment(store, "nnexp")) as writer:
        run_id = writer.start(RunRecord("x", tags={"nnexp.run_key": "k"}, status="RUNNING"))
        # Its files are there before its row: whoever owns it is about to record it.
        leave_files(place)
        writer._owner.hold(ORPHAN)
        ended = nnexp("doctor", "--fix")
        assert artifacts(place, ORPHAN).exists()
        assert "RUNNING" in set(package.load_runs()["status"])
        assert run_id not in ended.out


def test_directories_of_others_are_left_alone(nnexp, place):
    root = place / "mlartifacts" / "nnexp"
    for name in ("models", "0123456789abcdef0123456789abcdef", ORPHAN):
        (root / name / "artifacts").mkdir(parents=True)
        (root / name / "artifacts" / "theirs.txt").touch()
    (root / ORPHAN[::-1]).symlink_to(artifacts(place, network(place)))
    assert nnexp("doctor", "--fix").status == 0
    assert len(list(root.rglob("theirs.txt"))) == 3


def test_without_a_store_there_is_nothing_to_examine(nnexp, tmp_path):
    ended = nnexp("doctor")
    assert (ended.status, ended.err) == (2, f"nnexp: no store at {tmp_path}/mlflow.db\n")
    assert not Path(tmp_path, "mlflow.db").exists()


def test_a_store_that_was_moved_is_as_sound_as_before(nnexp, place, tmp_path, monkeypatch):
    moved = place.rename(tmp_path / "moved")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved}/mlflow.db")
    ended = nnexp("doctor")
    assert (ended.status, "nothing is wrong" in ended.out) == (0, True)
    leave_files(moved)
    assert nnexp("doctor", "--fix").status == 0
    assert not artifacts(moved, ORPHAN).exists()
