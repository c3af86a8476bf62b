"""nnexp doctor finds what is wrong with a store, and repairs what can be repaired without loss."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import nnexp as package
from nnexp.tracking import health
from nnexp.tracking.experiments import ensure_experiment
from nnexp.tracking.runs import RunRecord
from nnexp.tracking.store import StoreLost, open_store
from nnexp.tracking.write import open_writer

pytestmark = pytest.mark.slow

ORPHAN = "01a201ed0afc7000a94f7af062d203b7"


@pytest.fixture(scope="module")
def recorded(record, tmp_path_factory):
    """A sound store with a sweep of two runs; tests take copies of it."""
    directory = tmp_path_factory.mktemp("recorded") / "store"
    directory.mkdir()
    record(directory, ["train", "-m", "seed=0,1", "epochs=5", "hidden=[2]"])
    return directory


@pytest.fixture
def place(recorded, tmp_path, monkeypatch):
    """The test's own copy, at the path at which the artifacts were recorded."""
    kept = tmp_path / "kept"
    shutil.copytree(recorded, kept)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{recorded}/mlflow.db")
    yield recorded
    shutil.rmtree(recorded, ignore_errors=True)  # a test may have moved it
    shutil.copytree(kept, recorded)


def sql(place, statement, *values, file="mlflow.db"):
    with closing(sqlite3.connect(place / file)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def artifacts(place, run_id):
    return root(place) / run_id


def root(place):
    """Return the directory of the experiment, inside the store's own directory."""
    return next(top for top in place.glob("mlartifacts/*/nnexp") if top.parent.suffix != ".aside")


def sweep_id(place):
    return sql(place, "SELECT run_uuid FROM tags WHERE key = 'nnexp.sweep'")[0][0]


def network(place):
    return package.load_runs()["run_id"][0]


def test_doctor_finds_nothing_in_a_sound_store(nnexp, place):
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


def test_doctor_finds_every_flipped_bit_that_sqlite_finds(nnexp, store, tmp_path):
    nnexp("train", "-m", "figures=false", "seed=range(30)", "epochs=300", "log_every=3")
    content, copy, draw = store.read_bytes(), tmp_path / "copy.db", random.Random(0)
    assert health.file_faults(store) == []
    found = []
    for _ in range(60):
        flipped = bytearray(content)
        flipped[draw.randrange(100, len(content))] ^= 1 << draw.randrange(8)
        copy.write_bytes(flipped)
        with closing(sqlite3.connect(copy)) as connection:
            try:
                is_found = connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]
            except sqlite3.DatabaseError:
                is_found = True
        found.append((is_found, health.file_faults(copy) != []))
    assert {is_found for is_found, _ in found} == {True, False}
    assert [pair for pair in found if pair[0] != pair[1]] == []


@pytest.mark.parametrize(
    ("spoil", "words", "lines"),
    [
        (spoil_weights, "weights.npz is damaged", 1),
        (exchange_weights, "not the one that was recorded", 1),
        (lose_weights, "has no weights.npz", 1),
        (lose_config, "its artifact config.yaml is missing", 1),
        (empty_config, "its artifact config.yaml is empty", 1),
        (empty_keys, "its artifact run_keys.txt is empty", 1),
        (lose_a_tag, "its tag nnexp.outcome is missing", 1),
        (lose_keys, "its artifact run_keys.txt is missing", 1),
        (link_artifacts, "is a link", 1),
        (lose_the_sweep, "is not in the store", 2),
        (finish_twice, "and both finished", 1),
        (change_the_schema, "mlflow db upgrade", 1),
        (damage_the_file, "mlflow.db: ", None),
        (cut_the_file, "mlflow.db: ", None),
    ],
)
def test_doctor_reports_damage_that_it_cannot_repair_and_changes_nothing(nnexp, place, spoil, words, lines):
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
    """Return the finished runs and their results."""
    runs = package.load_runs()
    return runs.loc[runs["status"] == "FINISHED", ["run_id", "weights_sha256", "loss"]].to_dict("records")


def leave_a_run_going_on(place):
    """Leave a RUNNING run, as a killed process does."""
    code = "import os; from nnexp.tracking.write import *; from nnexp.tracking.store import *\n"
    code += "from nnexp.tracking.runs import RunRecord\n"
    code += "from nnexp.tracking.experiments import ensure_experiment\n"
    code += "store = open_store(); experiment = ensure_experiment(store, 'nnexp')\n"
    code += "with open_writer(store, experiment) as writer:\n"
    code += "    writer.start(RunRecord('x', tags={'nnexp.run_key': 'k'}, status='RUNNING')); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9


def grow_old(path):
    """Set the time of change to two hours ago."""
    for one in (path, *path.rglob("*")):
        os.utime(one, (one.stat().st_mtime - 7200,) * 2)


def leave_files(place, name=ORPHAN):
    grow_old(shutil.copytree(artifacts(place, network(place)), artifacts(place, name)))


def leave_half(place):
    leave_files(place, f".{ORPHAN}.half")


def leave_half_a_store(place):
    (place / "mlflow.db.creating").write_bytes(b"half")


def leave_a_lock(place):
    lock = place / f"mlflow.db.{ORPHAN}.owner"
    lock.touch()
    grow_old(lock)


def leave_rows(place):
    sql(place, "INSERT INTO tags VALUES ('a', 'b', ?)", ORPHAN)
    sql(place, "INSERT INTO tags VALUES ('c', 'd', ?)", ORPHAN)


def contents(place):
    """Return the contents of all files, except the database and empty files."""
    files = (path for path in place.rglob("*") if path.is_file() and path.name != "mlflow.db")
    return sorted(content for content in map(Path.read_bytes, files) if content)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (leave_a_run_going_on, "its process has died; --fix: set it to KILLED"),
        (leave_files, "not in the store; --fix: move them to "),
        (leave_half, "not in the store; --fix: move them to "),
        (leave_half_a_store, "creating was left by a process that was killed; --fix: move it to "),
        (leave_a_lock, "owner was left by a process that was killed; --fix: delete the empty file"),
        (leave_rows, "table tags: 2 rows refer to missing rows; --fix: move them to "),
    ],
)
def test_doctor_repairs_what_a_kill_leaves_and_loses_nothing(nnexp, place, spoil, words):
    spoil(place)
    runs, before = results(), contents(place)
    told = nnexp("doctor")
    assert told.status == 1
    assert words in told.out
    assert "1 found, 1 of which nnexp doctor --fix repairs" in told.out
    fixed = nnexp("doctor", "--fix")
    assert (fixed.status, fixed.err) == (0, "")
    assert words.replace("--fix", "repaired") in fixed.out
    assert "nothing is wrong" in nnexp("doctor").out
    assert results() == runs
    if spoil is leave_rows:
        assert (place / "mlflow.db.aside" / "tags.1.csv").read_text().count(ORPHAN) == 2
    else:
        assert contents(place) == before


def test_doctor_does_not_touch_a_running_run(nnexp, place):
    store = open_store()
    with open_writer(store, ensure_experiment(store, "nnexp")) as writer:
        run_id = writer.start(RunRecord("x", tags={"nnexp.run_key": "k"}, status="RUNNING"))
        leave_files(place)
        ended = nnexp("doctor", "--fix")
        assert artifacts(place, ORPHAN).exists()
        assert "1 runs that are not in the store are left alone: a process may be recording them" in ended.out
        assert "RUNNING" in set(package.load_runs()["status"])
        assert (ended.status, run_id in ended.out) == (0, False)


def test_doctor_does_not_touch_files_that_are_about_to_be_recorded(nnexp, place):
    store = open_store()
    leave_files(place)
    with open_writer(store, ensure_experiment(store, "nnexp")) as writer:
        writer._owner.hold(ORPHAN)
        assert "left alone, since it is in use" in nnexp("doctor", "--fix").out
        assert artifacts(place, ORPHAN).exists()


def test_doctor_does_not_touch_files_that_were_just_written(nnexp, place):
    leave_files(place)
    os.utime(artifacts(place, ORPHAN) / "artifacts" / "weights.npz")
    ended = nnexp("doctor", "--fix")
    assert (ended.status, "are left alone" in ended.out) == (0, True)
    assert artifacts(place, ORPHAN).exists()


def recorded_in(uri):
    """Make a store with a run; return it and the run's directory, which is made to look old."""
    store = open_store(uri)
    with open_writer(store, ensure_experiment(store, "nnexp")) as writer:
        files = {"config.yaml": b"x"}
        run_id = writer.start(RunRecord("x", tags={"nnexp.rerun_key": "k"}, files=files, status="RUNNING"))
        writer.finish(run_id, "FINISHED", {}, {})
    (directory,) = Path(uri.removeprefix("sqlite:///")).parent.rglob(run_id)
    grow_old(directory)
    return directory


def put_into_the_older_layout(path):
    """Turn a new store into one from before stores had their own directories."""
    store = open_store(f"sqlite:///{path}")
    ensure_experiment(store, "nnexp")
    sql(path.parent, "DELETE FROM experiment_tags WHERE key = 'nnexp.store'", file=path.name)
    old = f"file://{path.parent}/mlartifacts/nnexp"
    sql(path.parent, "UPDATE experiments SET artifact_location = ? WHERE name = 'nnexp'", old, file=path.name)


@pytest.mark.parametrize("are_older", [False, True])
@pytest.mark.parametrize("are_copies", [False, True])
def test_doctor_does_not_touch_the_files_of_another_store(
    nnexp, empty_store, tmp_path, monkeypatch, are_copies, are_older
):
    stores = [tmp_path / "a.db", tmp_path / "b.db"]
    for path in stores:
        shutil.copy(empty_store, path)
        new = "UPDATE experiment_tags SET value = ? WHERE key = 'nnexp.store'"
        sql(tmp_path, new, "0" * 31 + path.name[0], file=path.name)
    if are_older:
        put_into_the_older_layout(stores[0])
    if are_copies:
        recorded_in(f"sqlite:///{stores[0]}")
        shutil.copy(stores[0], stores[1])
    elif are_older:
        put_into_the_older_layout(stores[1])
    made = [recorded_in(f"sqlite:///{path}") for path in stores]
    for path in stores:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        ended = nnexp("doctor", "--fix")
        assert (ended.status, "nothing is wrong" in ended.out) == (0, True)
    assert [(directory / "artifacts" / "config.yaml").read_bytes() for directory in made] == [b"x", b"x"]


@pytest.mark.parametrize("linked", ["", "artifacts", "artifacts/figures", "artifacts/loss.txt"])
def test_a_link_is_not_written_through_and_doctor_names_it(nnexp, place, tmp_path, linked):
    outside = tmp_path / "outside"
    outside.mkdir()
    run_id, store = network(place), open_store()
    link = artifacts(place, run_id) / linked
    if link.exists():
        link.rename(tmp_path / "moved")
    link.symlink_to(outside / "file" if linked.endswith(".txt") else outside)
    with open_writer(store, ensure_experiment(store, "nnexp")) as writer:
        if linked.endswith(".txt"):  # the link itself gives way
            assert f"{link} is a link: nothing is read or written through it" in nnexp("doctor").out
            writer.add(run_id, {"loss.txt": b"1"}, {})
            assert (link.read_bytes(), link.is_symlink()) == (b"1", False)
        else:
            with pytest.raises(StoreLost, match="is a link: nothing is written through it"):
                writer.add(run_id, {"figures/loss.txt": b"1"}, {})
            ended = nnexp("doctor", "--fix")
            assert f"{link} is a link: nothing is read or written through it" in ended.out
            assert ended.status == 1
    assert not list(outside.iterdir())


def test_doctor_does_not_touch_directories_that_nnexp_did_not_make(nnexp, place):
    top = root(place)
    for name in ("models", "0123456789abcdef0123456789abcdef", ORPHAN):
        (top / name / "artifacts").mkdir(parents=True)
        (top / name / "artifacts" / "theirs.txt").touch()
    (top / ORPHAN[::-1]).symlink_to(artifacts(place, network(place)))
    assert nnexp("doctor", "--fix").status == 0
    assert len(list(top.rglob("theirs.txt"))) == 3


def test_doctor_refuses_if_there_is_no_store(nnexp, tmp_path):
    ended = nnexp("doctor")
    assert (ended.status, ended.err) == (2, f"nnexp: no store at {tmp_path}/mlflow.db\n")
    assert not Path(tmp_path, "mlflow.db").exists()


def test_doctor_finds_nothing_in_a_moved_store(nnexp, place, tmp_path, monkeypatch):
    moved = place.rename(tmp_path / "moved")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved}/mlflow.db")
    ended = nnexp("doctor")
    assert (ended.status, "nothing is wrong" in ended.out) == (0, True)
    leave_files(moved)
    assert nnexp("doctor", "--fix").status == 0
    assert not artifacts(moved, ORPHAN).exists()
