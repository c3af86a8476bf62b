"""Records of every earlier schema can be read and rerun."""

import shutil
import sqlite3

import pytest
import yaml

from nnexp.config.errors import RequestError
from nnexp.config.paths import CHECKOUT
from nnexp.config.recorded import MIGRATIONS, SCHEMA, read_config

RECORDS = CHECKOUT / "tests" / "config" / "records"
ONE = next((RECORDS / "schema_1").glob("artifacts/nnexp/*/artifacts/config.yaml")).read_bytes()


@pytest.fixture
def first(store, tmp_path):
    """The ids of the finished runs recorded in schema 1, and of their sweep, in a store beside this test."""
    folder = RECORDS / "schema_1"
    shutil.copytree(folder / "artifacts", tmp_path / "mlartifacts")
    for name in ("flowers.csv", "found.csv"):
        shutil.copy(folder / name, tmp_path)
    with sqlite3.connect(store) as connection:
        connection.executescript((folder / "store.sql").read_text())
        runs = connection.execute("SELECT run_uuid FROM tags WHERE key = 'nnexp.run_key'").fetchall()
        ((sweep,),) = connection.execute("SELECT run_uuid FROM tags WHERE key = 'nnexp.sweep'").fetchall()
    connection.close()
    return [run_id for (run_id,) in runs], sweep


def test_every_run_of_the_first_schema_reruns_identical(nnexp, first):
    runs, sweep = first
    assert len(runs) == 6
    for run_id in runs:
        ended = nnexp("rerun", run_id)
        assert (ended.status, "verdict: identical" in ended.out) == (0, True)
    assert "4 of 4 runs are identical" in nnexp("rerun", "--sweep", sweep).out


def test_there_is_a_migration_from_every_schema_before_this_one():
    assert sorted(MIGRATIONS) == list(range(1, SCHEMA))


def test_a_record_without_a_schema_has_schema_1():
    assert read_config(ONE, "a run").schema == 1


@pytest.mark.parametrize(
    ("schema", "words"),
    [(SCHEMA + 1, "a newer nnexp recorded it"), (0, ">= 1"), ("two", ">= 1"), ("true", ">= 1")],
)
def test_an_unknown_schema_is_refused(schema, words):
    with pytest.raises(RequestError, match=words):
        read_config(f"schema: {schema}\n".encode() + ONE, "a run")


def test_a_configuration_is_read_without_its_recorded_tracking_uri(configure):
    config = configure("init.scale=1e-7", "hidden=[3,2]", "tracking_uri=http://elsewhere:1")
    content = yaml.safe_dump(config.nested()).encode()
    assert read_config(content, "config.yaml").config == configure("init.scale=1e-7", "hidden=[3,2]")
