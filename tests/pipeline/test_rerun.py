"""Reruns: unchanged records are identical, and the verdict names whatever was changed."""

import io
import shutil
import sqlite3

import numpy as np
import pytest
from mlflow import MlflowClient
from sqlalchemy.exc import OperationalError

import nnexp as library
from nnexp.network import engine
from nnexp.network.engine import canary
from nnexp.network.weights import npz
from nnexp.pipeline import artifacts as record
from nnexp.pipeline.rerun.verdict import ulps
from nnexp.tracking import tables
from nnexp.tracking.database import DatabaseWriter
from nnexp.tracking.whole import NEEDED_TAGS
from tests.conftest import FLOWERS, OWN, QUICK

pytestmark = pytest.mark.slow


@pytest.fixture
def sql(place):
    def run(query, *values):
        with sqlite3.connect(place / "mlflow.db") as connection:
            rows = connection.execute(query, values).fetchall()
        connection.close()
        return rows

    return run


@pytest.fixture
def tags(sql):
    return lambda run_id: dict(sql("SELECT key, value FROM tags WHERE run_uuid = ?", run_id))


@pytest.fixture
def ids(sql):
    """The ids of the gender run, of the flowers run, and of the sweep."""
    alone = "SELECT run_uuid FROM runs WHERE run_uuid NOT IN (SELECT run_uuid FROM tags WHERE key = ?)"
    return [run_id for (run_id,) in sql(f"{alone} ORDER BY start_time", "mlflow.parentRunId")]


def artifact(place, run_id, name):
    return next(place.glob("mlartifacts/*/nnexp")) / run_id / "artifacts" / name


# --- Identical.


def test_a_run_is_found_identical_and_linked_with_its_rerun_both_ways(nnexp, ids, tags, place):
    before = library.load_runs()
    ended = nnexp("rerun", ids[0])
    assert ended.status == 0
    assert "verdict: identical" in ended.out
    assert "initial weights, 12 points of 3 curves, final weights and 2 predictions" in ended.out
    assert "its artifacts are read from" in ended.err
    old = tags(ids[0])
    new = tags(old["nnexp.rerun_by"])
    assert old["nnexp.rerun_verdict"] == new["nnexp.verdict"] == "identical"
    assert new["nnexp.rerun_of"] == ids[0]
    assert new["nnexp.rerun_key"] == old["nnexp.run_key"]
    same = "weights.npz"
    assert (
        artifact(place, old["nnexp.rerun_by"], same).read_bytes()
        == artifact(place, ids[0], same).read_bytes()
    )
    # The rerun does not count as a run of the experiment.
    assert library.load_runs().equals(before)
    assert nnexp("show", old["nnexp.rerun_by"]).status == 0
    assert nnexp("rerun", old["nnexp.rerun_by"]).status == 0


def test_a_sweep_is_verified_as_one_with_a_table_of_verdicts(nnexp, ids, tags, place):
    ended = nnexp("rerun", "--sweep", ids[2])
    assert ended.status == 0
    assert "8 of 8 runs are identical" in ended.out
    old = tags(ids[2])
    assert old["nnexp.rerun_verdict"] == "identical"
    table = artifact(place, old["nnexp.rerun_by"], "verdicts.csv").read_text().splitlines()
    assert len(table) == 9
    assert all(line.endswith(",identical") for line in table[1:])
    again = nnexp("train", *QUICK, "-m", "dataset=gender,xor", "learning_rate=0.1,5", "hidden=[2],[]")
    assert "8 runs: 8 done, 0 new" in again.err


def test_a_rerun_of_anything_but_a_finished_run_is_refused(nnexp, ids, sql):
    assert nnexp("rerun", ids[2]).err.endswith(f"is a sweep: nnexp rerun --sweep {ids[2]}\n")
    sql("UPDATE runs SET status = 'FAILED' WHERE run_uuid = ?", ids[0])
    for arguments, words in (
        ([ids[0]], "did not finish (failed)"),
        (["nothing"], "no run 'nothing'"),
        (["--sweep", ids[0]], "no sweep"),
        ([], "give a RUN_ID"),
    ):
        ended = nnexp("rerun", *arguments)
        assert (ended.status, words in ended.err) == (2, True)


def test_a_rerun_in_a_read_only_store_still_prints_its_verdict(nnexp, ids, monkeypatch):
    def refused(*args):
        raise OperationalError("", {}, Exception("attempt to write a readonly database"))

    monkeypatch.setattr(DatabaseWriter, "start", refused)
    ended = nnexp("rerun", ids[0])
    assert (ended.status, "verdict: identical" in ended.out) == (0, True)
    assert "not recorded" in ended.err


def test_a_store_of_unknown_tables_is_read_and_written_through_mlflow(nnexp, ids, tags, monkeypatch):
    monkeypatch.setattr(tables, "REVISION", "another")
    assert "8 of 8 runs are identical" in nnexp("rerun", "--sweep", ids[2]).out
    assert tags(ids[2])["nnexp.rerun_verdict"] == "identical"


# --- Changed records.


def edit_weights(change):
    def edited(place, run_id):
        file = artifact(place, run_id, "weights.npz")
        with np.load(io.BytesIO(file.read_bytes())) as arrays:
            kept = {name: arrays[name] for name in arrays.files}
        change(kept)
        file.write_bytes(npz(kept))

    return edited


def one_digit(arrays):
    arrays["W1"][0, 1] = np.nextafter(arrays["W1"][0, 1], 9)


def one_initial_digit(arrays):
    arrays["W2_initial"][0, 0] += 1e-9


def one_kept_digit(arrays):
    arrays["b1_kept"][1, 0] += 1e-9


def flip_a_byte(place, run_id):
    file = artifact(place, run_id, "weights.npz")
    content = bytearray(file.read_bytes())
    with np.load(io.BytesIO(content)) as arrays:
        content[content.index(arrays["W1"].tobytes()) + 3] ^= 1
    file.write_bytes(content)


def change_a_date(place, run_id):
    """Change a date in the ZIP archive's directory, which does not affect the numbers."""
    file = artifact(place, run_id, "weights.npz")
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + 12] ^= 1
    file.write_bytes(content)


def truncate(place, run_id):
    file = artifact(place, run_id, "weights.npz")
    file.write_bytes(file.read_bytes()[:500])


def in_config(old, new):
    def edited(place, run_id):
        file = artifact(place, run_id, "config.yaml")
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return edited


def in_store(query):
    def edited(place, run_id):
        with sqlite3.connect(place / "mlflow.db") as connection:
            assert connection.execute(query, [run_id]).rowcount == 1
        connection.close()

    return edited


TAMPERED = {
    "a digit of a weight": (
        edit_weights(one_digit),
        [
            "final weights: W1[0, 1] is",
            "(1 ULP apart)",
            "likely cause: record altered: weights.npz is not the",
        ],
    ),
    "a digit of an initial weight": (
        edit_weights(one_initial_digit),
        ["initial weights: W2_initial[0, 0]", "record altered: training again gave exactly the weights"],
    ),
    "a digit of a kept weight": (edit_weights(one_kept_digit), ["kept weights: b1_kept[1, 0]"]),
    "an array left out": (edit_weights(lambda arrays: arrays.pop("b2")), ["weights.npz has no array 'b2'"]),
    "a byte of weights.npz": (flip_a_byte, ["weights.npz", "record altered: weights.npz"]),
    "weights.npz cut off": (truncate, ["weights.npz is damaged", "record altered: weights.npz"]),
    "weights.npz removed": (
        lambda place, run_id: artifact(place, run_id, "weights.npz").unlink(),
        ["weights.npz is missing"],
    ),
    "a rate in config.yaml": (
        in_config("learning_rate: 0.1", "learning_rate: 0.1000001"),
        ["loss at epoch 10 is", "likely cause: record altered: config.yaml"],
    ),
    "the length in config.yaml": (
        in_config("epochs: 30", "epochs: 20"),
        ["epoch 30 is recorded as", "record altered: config.yaml"],
    ),
    "a point of a curve": (
        in_store(
            "UPDATE metrics SET value = value + 1e-15 WHERE run_uuid = ? AND key = 'loss' AND step = 20"
        ),
        ["loss at epoch 20 is", "ULP apart", "record altered: training again gave exactly the weights"],
    ),
    "a false point before the true one": (
        in_store(
            "INSERT INTO metrics SELECT key, 0.125, 0, run_uuid, step, is_nan FROM metrics "
            "WHERE run_uuid = ? AND key = 'loss' AND step = 20"
        ),
        ["loss at epoch 20 is recorded twice", "0.125"],
    ),
    "a metric that is not ours": (
        in_store(
            "INSERT INTO metrics SELECT 'own/' || key, value, 0, run_uuid, step, is_nan FROM metrics "
            "WHERE run_uuid = ? AND key = 'loss' AND step = 20"
        ),
        ["own/loss at epoch 20 is recorded as"],
    ),
    "a point taken away": (
        in_store("DELETE FROM metrics WHERE run_uuid = ? AND key = 'accuracy' AND step = 10"),
        ["accuracy at epoch 10 is", "but is not recorded"],
    ),
    "a prediction": (
        in_store("UPDATE metrics SET value = 0.5 WHERE run_uuid = ? AND key = 'prediction/Emily'"),
        ["prediction/Emily is", "recorded 0.5"],
    ),
    "a param": (
        in_store("UPDATE params SET value = '7' WHERE run_uuid = ? AND key = 'seed'"),
        ["the param seed is 7, in config.yaml 0"],
    ),
    "the outcome": (
        in_store("UPDATE tags SET value = 'diverged' WHERE run_uuid = ? AND key = 'nnexp.outcome'"),
        ["nnexp.outcome is", "recorded diverged"],
    ),
    "the hash of the weights": (
        in_store("UPDATE tags SET value = 'f00' WHERE run_uuid = ? AND key = 'nnexp.weights_sha256'"),
        ["nnexp.weights_sha256 is", "recorded f00"],
    ),
    "the key": (
        in_store("UPDATE tags SET value = 'f00' WHERE run_uuid = ? AND key = 'nnexp.run_key'"),
        ["config.yaml does not match the run's key"],
    ),
    "the hash of the data": (
        in_store("UPDATE tags SET value = 'f00' WHERE run_uuid = ? AND key = 'nnexp.data_sha256'"),
        ["first difference: the data set", "gender.csv has other bytes"],
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_an_alteration_of_a_record_is_named(nnexp, ids, place, what):
    alter, words = TAMPERED[what]
    alter(place, ids[0])
    ended = nnexp("rerun", ids[0])
    assert ended.status == 1
    assert "verdict: differs" in ended.out
    for word in words:
        assert word in ended.out


def test_a_weights_file_with_other_bytes_but_the_same_numbers_is_identical(nnexp, ids, place):
    change_a_date(place, ids[0])
    ended = nnexp("rerun", ids[0])
    assert (ended.status, "its numbers are the same" in ended.out) == (0, True)


def test_one_altered_run_of_a_sweep_is_found_among_the_others(nnexp, ids, place, sql, tags):
    runs = sql("SELECT run_uuid FROM tags WHERE key = 'nnexp.sweep_id' ORDER BY run_uuid")
    edit_weights(one_digit)(place, runs[1][0])
    artifact(place, runs[3][0], "config.yaml").write_text("!!python/object/apply:os.getcwd []\n")
    ended = nnexp("rerun", "--sweep", ids[2])
    assert ended.status == 1
    assert "6 of 8 runs are identical" in ended.out
    assert "final weights: W1[0, 1]" in ended.out
    assert "it cannot be trained again" in ended.out
    assert tags(ids[2])["nnexp.rerun_verdict"].startswith("differs: 2 of 8 runs")


def test_another_version_of_the_engine_is_the_cause_that_is_named(nnexp, ids, monkeypatch):
    advance = engine.Batch.advance

    def changed(self, *args):
        self._runs.weights[:] *= 1 + 2**-52
        return advance(self, *args)

    monkeypatch.setattr(engine.Batch, "advance", changed)
    monkeypatch.setattr(canary, "is_sound", lambda: False)
    ended = nnexp("rerun", ids[0])
    assert ended.status == 1
    assert "likely cause: engine arithmetic: this engine claims to be version 2" in ended.out
    monkeypatch.setattr(engine, "VERSION", "3")
    assert "likely cause: engine version: recorded by 2, but this is 3" in nnexp("rerun", ids[0]).out
    assert "engine: recorded by version 2, but this is version 3" in nnexp("rerun", ids[0], "--dry-run").out


def test_the_canarys_hash_is_that_of_the_version():
    assert canary.is_sound()


# --- Records that were edited through MLflow's own client.


def lose(tag):
    return lambda client, run_id: client.delete_tag(run_id, tag)


def make_another(client, run_id):
    """Make a foreign run with one of our run keys."""
    run = client.get_run(run_id)
    made = client.create_run(
        run.info.experiment_id, tags={"nnexp.run_key": run.data.tags["nnexp.run_key"]}, run_name="foreign"
    )
    client.log_param(made.info.run_id, "epochs", "many")
    client.set_terminated(made.info.run_id)
    return made.info.run_id


def make_a_copy(client, run_id):
    """Make a run with all tags of another, and a param that is not a number."""
    made = make_another(client, run_id)
    for key, value in client.get_run(run_id).data.tags.items():
        client.set_tag(made, key, value)
    return made


EDITS = {tag: lose(tag) for tag in NEEDED_TAGS} | {"foreign": make_another, "copy": make_a_copy}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_record_is_named_and_left_out_and_the_others_are_read(nnexp, ids, place, sql, what):
    client = MlflowClient()
    runs = sql("SELECT run_uuid FROM tags WHERE key = 'nnexp.sweep_id' ORDER BY run_uuid")
    victim = runs[0][0]
    edited = EDITS[what](client, victim) or victim
    of_sweep = ["--sweep", ids[2]]
    ended = {
        "summarize": nnexp("summarize", *of_sweep, "--by", "dataset", "--where", "epochs > 1"),
        "report": nnexp("report", ids[2]),
        "dry": nnexp("rerun", *of_sweep, "--dry-run"),
        "rerun": nnexp("rerun", *of_sweep),
        "bundle": nnexp("bundle", ids[2], "--out", "b.zip"),
        "archive": nnexp("rerun", "--bundle", "b.zip"),
    }
    said = {command: one.out + one.err for command, one in ended.items()}
    assert [command for command, text in said.items() if "Error" in text or "Traceback" in text] == []
    # The archive leaves out such a run if it has a complete run with the same key.
    is_twin = edited != victim
    statuses = {command: one.status for command, one in ended.items()}
    assert statuses == dict.fromkeys(ended, 0) | ({} if is_twin else {"dry": 1, "rerun": 1})
    named = {command: sum(edited in line for line in text.splitlines()) for command, text in said.items()}
    assert named == dict.fromkeys(ended, 1) | {"archive": 0}
    assert f"{8 if is_twin else 7} of 8 runs are identical" in said["rerun"]
    assert f"{8 if is_twin else 7} of {8 if is_twin else 7} runs are identical" in said["archive"]


def test_an_edited_run_is_trained_again_by_the_same_command(nnexp, store):
    sweep = ["train", "-m", "seed=0,1", *QUICK]
    assert nnexp(*sweep).status == 0
    runs = library.load_runs()
    MlflowClient().delete_tag(runs["run_id"][0], "nnexp.outcome")
    again = nnexp(*sweep)
    assert (again.status, "2 runs: 1 done, 1 new" in again.err) == (0, True)
    assert f"run {runs['run_id'][0]}: its tag nnexp.outcome is missing" in again.err
    assert sorted(library.load_runs()["status"]) == ["FINISHED", "FINISHED", "KILLED"]


def test_a_run_whose_sweep_was_deleted_can_be_rerun_and_bundled(nnexp, ids, sql):
    MlflowClient().delete_run(ids[2])
    run_id = sql("SELECT run_uuid FROM tags WHERE key = 'nnexp.sweep_id' ORDER BY run_uuid")[0][0]
    assert nnexp("rerun", run_id).status == 0
    assert nnexp("bundle", run_id, "--out", "b.zip").status == 0
    assert nnexp("rerun", "--bundle", "b.zip").status == 0


# --- Data.


def test_changed_data_are_named_and_the_records_copy_is_trained_on(nnexp, ids, place, original, sql):
    moved = str(place / "flowers.csv")
    assert nnexp("rerun", ids[1]).status == 0  # where it was recorded the file is gone
    ended = nnexp("rerun", ids[1], f"dataset.path={moved}")
    assert (ended.status, "verdict: identical" in ended.out) == (0, True)
    (place / "flowers.csv").write_text(FLOWERS.replace("0.2", "0.3", 1))
    in_config(str(original.with_name("was here0")), str(place))(place, ids[1])
    ended = nnexp("rerun", ids[1])
    assert ended.status == 1
    assert "likely cause: data: " in ended.out
    assert f"{moved} has other bytes" in ended.out
    assert "trained on the right data: identical" in ended.out
    (copy,) = artifact(place, ids[1], "data").glob("*/table.csv")
    copy.write_text(FLOWERS.replace("0.2", "0.4", 1))
    ended = nnexp("rerun", ids[1])
    assert ended.status == 1
    assert "the copy of flowers.csv that the record keeps was altered" in ended.out
    assert "the run was not trained" in ended.out
    (place / "flowers.csv").write_text(FLOWERS)
    assert "the copy of flowers.csv that the record keeps was altered" in nnexp("rerun", ids[1]).out
    copy.unlink()
    assert nnexp("rerun", ids[1]).status == 0
    (place / "flowers.csv").unlink()
    ended = nnexp("rerun", ids[1])
    assert (ended.status, "its data set is missing" in ended.err) == (2, True)


def test_a_table_too_large_for_the_record_is_read_from_its_path(nnexp, place, monkeypatch):
    monkeypatch.setattr(record, "MAX_KEPT_DATA", 100)
    run_id = nnexp("train", *QUICK, *OWN, "seed=9").out.split("recorded as ")[1].split()[0]
    assert not artifact(place, run_id, "data").exists()
    assert nnexp("rerun", run_id).status == 0
    (place / "flowers.csv").write_text(FLOWERS.replace("0.2", "0.3", 1))
    ended = nnexp("rerun", run_id)
    assert (ended.status, "the run was not trained" in ended.out) == (1, True)
    (place / "flowers.csv").unlink()
    assert nnexp("rerun", run_id).status == 2


# --- Variations and dry runs.


def test_a_variation_shows_what_changed_and_its_effect(nnexp, ids, tags):
    ended = nnexp("rerun", ids[0], "learning_rate=0.5", "init=xavier")
    assert ended.status == 0
    table = [line.split() for line in ended.out.splitlines()]
    assert ["init", "normal", "xavier"] in table
    assert ["learning_rate", "0.1", "0.5"] in table
    assert next(line for line in table if line[:1] == ["loss"])[1:] != []
    assert tags(ended.out.split("recorded as ")[1].strip())["nnexp.variation_of"] == ids[0]
    assert len(library.load_runs()) == 11
    assert "is already recorded" in nnexp("rerun", ids[0], "learning_rate=0.5", "init=xavier").err
    own = nnexp("rerun", ids[1], "optimizer=adam", "seed=4")
    assert (own.status, "adam" in own.out) == (0, True)


def test_figures_and_a_model_asked_for_later_are_made_from_the_record(nnexp, store, tmp_path):
    def recorded(ended):
        assert ended.status == 0, ended.err
        return ended.out.split("recorded as ")[1].split()[0]

    first = recorded(nnexp("train", *QUICK))
    kept = recorded(nnexp("rerun", first, "weights_every=10"))
    assert not artifact(tmp_path, kept, "figures").exists()
    ended = nnexp("rerun", first, "weights_every=10", "figures=true")
    assert (recorded(ended), "added to it: figures" in ended.err) == (kept, True)
    assert artifact(tmp_path, kept, "figures/surface_over_training.gif").exists()
    ended = nnexp("rerun", first, "figures=true", "model=true")
    assert (recorded(ended), "added to it: figures and a model" in ended.err) == (first, True)
    assert artifact(tmp_path, first, "figures/curves.png").exists()
    for again in (["rerun", first, "figures=true", "model=true"], ["train", *QUICK[:2]]):
        assert "is already recorded" in nnexp(*again).err
    assert "verdict: identical" in nnexp("rerun", first, "figures=false").out
    assert len(library.load_runs()) == 2


def test_a_point_of_a_sweep_asked_for_as_a_single_run_gets_its_figures(nnexp, store, tmp_path):
    assert nnexp("train", "-m", *QUICK, "seed=1,2").status == 0
    point = ["train", *QUICK, "seed=2", "figures=true"]
    ended = nnexp(*point)
    run_id = ended.out.split("recorded as ")[1].split()[0]
    assert "added to it: figures" in ended.err
    assert artifact(tmp_path, run_id, "figures/curves.png").exists()
    assert len(library.load_runs()) == 2
    artifact(tmp_path, run_id, "figures/curves.png").unlink()
    artifact(tmp_path, run_id, "weights.npz").write_bytes(b"no weights")
    ended = nnexp(*point)
    assert (ended.status, f"run {run_id}: weights.npz is damaged" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("learning_rate=-1", "learning_rate=-1"),
        ("learning_rat=1", "Did you mean learning_rate?"),
        ("seed=1,2", "one value"),
        ("optimizer.beta1=0.5", "beta1"),
        ("init=hee", "Did you mean he?"),
        ("+extra=1", "extra"),
        ("hidden.0=3", "write the whole value, hidden="),
        ("hydra.verbose=true", "hydra.verbose"),
        ("seed=${oc.env:HOME}", "seed="),
        ("tracking_uri=sqlite:///other.db", "in the store of its run"),
        ("experiment_name=elsewhere", "beside its run"),
    ],
)
def test_a_wrong_variation_is_refused_and_nothing_is_recorded(nnexp, ids, sql, typed, words):
    before = sql("SELECT COUNT(*) FROM runs")
    ended = nnexp("rerun", ids[0], typed)
    assert (ended.status, words in ended.err) == (2, True), ended.err
    assert sql("SELECT COUNT(*) FROM runs") == before


def test_a_dry_run_says_what_can_be_rerun_and_does_nothing(nnexp, ids, sql, place):
    before = sql("SELECT COUNT(*) FROM runs")
    assert "1 of 1 runs can be trained again" in nnexp("rerun", ids[0], "--dry-run").out
    assert "8 of 8 runs can be trained again" in nnexp("rerun", "--sweep", ids[2], "--dry-run").out
    assert "it can be trained" in nnexp("rerun", ids[0], "seed=8", "--dry-run").out
    assert "1 of 1 runs can be trained again" in nnexp("rerun", ids[0], "plan=true").out
    flip_a_byte(place, ids[0])
    shutil.rmtree(artifact(place, ids[1], "data"))
    assert "weights.npz is missing, or is not the file" in nnexp("rerun", ids[0], "--dry-run").out
    ended = nnexp("rerun", ids[1], "--dry-run")
    assert (ended.status, "0 of 1 runs can be" in ended.out) == (1, True)
    assert sql("SELECT COUNT(*) FROM runs") == before


def test_ulps_counts_the_doubles_between_two_values():
    assert ulps(1.0, 1.0) == 0
    assert ulps(1.0, float(np.nextafter(1.0, 2))) == 1
    assert ulps(-5e-324, 5e-324) == 2
    assert ulps(0.1 + 0.2, 0.3) == 1
