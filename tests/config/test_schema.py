"""Records of every earlier schema can be read and rerun."""

import shutil
import sqlite3

import pytest
import yaml

from nnexp.analysis.summary import varying
from nnexp.config.errors import RequestError
from nnexp.config.paths import CHECKOUT
from nnexp.config.recorded import MIGRATIONS, SCHEMA, read_config
from nnexp.config.run import ADDED
from nnexp.tracking.read import load_runs

RECORDS = CHECKOUT / "tests" / "config" / "records"
ONE = next((RECORDS / "schema_1").glob("artifacts/nnexp/*/artifacts/config.yaml")).read_bytes()


@pytest.fixture(params=range(1, SCHEMA))
def recorded(request, store, tmp_path):
    """The ids of the finished runs recorded in an earlier schema, and of their sweep, in a store beside this
    test."""
    folder = RECORDS / f"schema_{request.param}"
    shutil.copytree(folder / "artifacts", tmp_path / "mlartifacts")
    for name in ("flowers.csv", "found.csv"):
        shutil.copy(folder / name, tmp_path)
    with sqlite3.connect(store) as connection:
        connection.executescript((folder / "store.sql").read_text())
        runs = connection.execute("SELECT run_uuid FROM tags WHERE key = 'nnexp.run_key'").fetchall()
        ((sweep,),) = connection.execute("SELECT run_uuid FROM tags WHERE key = 'nnexp.sweep'").fetchall()
    connection.close()
    return [run_id for (run_id,) in runs], sweep


def test_every_run_of_every_earlier_schema_reruns_identical(nnexp, recorded):
    runs, sweep = recorded
    assert len(runs) == 6
    for run_id in runs:
        ended = nnexp("rerun", run_id)
        assert (ended.status, "verdict: identical" in ended.out) == (0, True)
    assert "4 of 4 runs are identical" in nnexp("rerun", "--sweep", sweep).out


def test_an_earlier_record_is_no_other_run_than_its_like_of_now(nnexp, recorded):
    """A key that was added since has the value in it that the run was trained with: in its frame, its key."""
    runs = load_runs()
    assert len(runs) == 6
    assert set(ADDED).isdisjoint(runs.columns)
    again = nnexp("train", "epochs=20", "seed=5", "figures=false", "model=false", "validation_fraction=0.3")
    assert again.status == 0
    runs = load_runs()
    assert len(runs) == 7
    for key, value in ADDED.items():
        assert value is None or set(runs[key]) == {value}
    assert set(ADDED).isdisjoint(varying(runs))


def test_an_earlier_record_whose_configuration_was_edited_is_told(nnexp, recorded, tmp_path):
    runs, _ = recorded
    (file,) = tmp_path.glob(f"mlartifacts/nnexp/{runs[0]}/artifacts/config.yaml")
    file.write_bytes(file.read_bytes().replace(b"learning_rate: 0.1\n", b"learning_rate: 0.2\n"))
    ended = nnexp("rerun", runs[0])
    assert ended.status == 1
    assert "record altered: config.yaml" in ended.out + ended.err


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
