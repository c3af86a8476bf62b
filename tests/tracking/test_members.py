"""The parts of a population: their names say whether they are whole; their columns come back as written."""

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from nnexp.config.errors import RequestError
from nnexp.tracking import members
from nnexp.tracking.experiments import ensure_experiment
from nnexp.tracking.find import get_any
from nnexp.tracking.members import Part
from nnexp.tracking.runs import RunRecord
from nnexp.tracking.store import open_store
from nnexp.tracking.write import open_writer

N = 5


def columns():
    digests = np.stack([np.frombuffer(hashlib.sha256(bytes([i])).digest(), np.uint8) for i in range(N)])
    which = np.array([0, 1, 0, 1, -1])
    return {
        "number": pa.array(np.arange(N, dtype=np.int64)),
        "run_key": members.hashes(digests),
        "status": members.labels(np.array([0, 0, 0, 1, 0]), members.STATUSES),
        "outcome": members.labels(np.array([0, 1, 2, -1, 0]), ("converged", "diverged", "finished")),
        "reason": pa.array([None, None, None, "ValueError: no", None]),
        "attempt": pa.array(np.ones(N, dtype=np.int32)),
        "last_epoch": pa.array(np.full(N, 30, dtype=np.int32)),
        "weights_sha256": pa.array([bytes(digests[i]) if i != 3 else None for i in range(N)], pa.binary(32)),
        "data_sha256": members.labels(np.zeros(N, dtype=np.int64), ["0f" * 32]),
        "recorded_as": pa.array([None, None, "0" * 32, None, None]),
        "params.hidden": members.params(pa.list_(pa.int64()), [(2,), ()], which),
        "params.batch_size": members.params(pa.string(), [1, "full"], which),
        "params.learning_rate": members.params(pa.float64(), [0.1, 0.5], which),
        "params.shuffle": members.params(pa.bool_(), [True, False], which),
        "metrics.loss": members.numbers(np.array([0.25, 0.5, np.nan, 1e-300, 3.0])),
        "curves.loss": members.lists(np.array([2, 1, 0, 0, 2]), np.array([1.0, np.nan, 3.0, 4.0, 5.0])),
        "weights.final": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(3.0 * N)), 3),
        "weights.kept": pa.array([[[1.0], [2.0]]] * N, pa.list_(pa.list_(pa.float64()))),
    }


@pytest.fixture
def population(store):
    """An open store, and a running sweep in it."""
    opened = open_store()
    with open_writer(opened, ensure_experiment(opened, "nnexp")) as writer:
        record = RunRecord("a population", tags={"nnexp.sweep": "sweep"}, status="RUNNING")
        run_id = writer.start(record)
        yield opened, writer, run_id
        writer.finish(run_id, "FINISHED", {}, {})


def put(population, number, revision, content=None):
    _, writer, run_id = population
    content = content or members.to_bytes(columns(), {"nnexp.part": str(number)})
    part = Part.of(number, revision, content)
    writer.add(run_id, {part.name: content}, {})
    return part


def test_columns_come_back_as_they_were_written():
    content = members.to_bytes(columns(), {"nnexp.part": "7"})
    table = members.from_bytes(content)
    assert table.column_names == list(columns())
    assert table.schema.metadata[b"nnexp.part"] == b"7"
    for name, values in columns().items():
        # nan is not equal to itself
        assert str(table[name].to_pylist()) == str(values.to_pylist())


def test_only_the_columns_asked_for_are_read_and_unknown_ones_left_out():
    content = members.to_bytes(columns(), {})
    asked = ["metrics.loss", "params.hidden", "metrics.val_loss"]
    assert members.from_bytes(content, asked).column_names == asked[:2]


def test_hashes_come_back_as_bytes_with_zeros_where_there_is_none():
    table = members.from_bytes(members.to_bytes(columns(), {}))
    keys = members.hash_bytes(table["run_key"])
    assert bytes(keys[3]) == hashlib.sha256(b"\x03").digest()
    assert not members.hash_bytes(table["weights_sha256"])[3].any()
    assert bytes(members.hash_bytes(table["run_key"].slice(2))[0]) == hashlib.sha256(b"\x02").digest()


def test_a_part_of_a_later_schema_is_refused(monkeypatch):
    monkeypatch.setattr(members, "SCHEMA", "2")
    content = members.to_bytes(columns(), {})
    monkeypatch.undo()
    with pytest.raises(RequestError, match="schema 2: this nnexp reads schema 1"):
        members.from_bytes(content)


@pytest.mark.parametrize(
    ("key", "values", "type"),
    [
        ("seed", [0, 1], pa.int64()),
        ("split_seed", [None, 3], pa.int64()),
        ("learning_rate", [0.1, 0.5], pa.float64()),
        ("shuffle", [True, False], pa.bool_()),
        ("hidden", [(), (2, 3)], pa.list_(pa.int64())),
        ("dataset.classes", [None, ("a", "b")], pa.list_(pa.string())),
        ("batch_size", [1, 2], pa.string()),
        ("batch_size", [1, "full"], pa.string()),
        ("init", ["normal", "he"], pa.string()),
    ],
)
def test_a_key_has_one_type(key, values, type):
    assert members.param_type(key, values) == type


def test_the_newest_whole_revision_of_each_part_counts(population):
    store, _, run_id = population
    old, new = put(population, 0, 1), put(population, 0, 2, members.to_bytes(columns(), {"nnexp.part": "0"}))
    put(population, 12, 1)
    parent = get_any(store, run_id)
    assert {n: [p.revision for p in parts] for n, parts in members.list_parts(store, parent).items()} == {
        0: [2, 1],
        12: [1],
    }
    newest, _ = next(members.read_members(store, parent, ["number"]))
    assert newest == new
    assert [part.number for part, _ in members.read_members(store, parent, only=[12])] == [12]
    assert old.digest == new.digest  # the same bytes, twice


def test_a_flipped_bit_takes_a_revision_away(population, tmp_path):
    store, _, run_id = population
    old = put(population, 0, 1)
    new = put(population, 0, 2, members.to_bytes(columns(), {"nnexp.part": "again"}))
    (file,) = tmp_path.rglob(new.name.rpartition("/")[2])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    parent = get_any(store, run_id)
    assert members.read_part(store, parent, new) is None
    assert [part for part, _ in members.read_members(store, parent)] == [old]


def test_other_files_are_no_parts(population):
    store, writer, run_id = population
    writer.add(run_id, {"members/note.txt": b"mine", "members/part-1.parquet": b"old"}, {})
    assert members.list_parts(store, get_any(store, run_id)) == {}


def test_nothing_is_listed_through_a_link(population, tmp_path):
    store, _, run_id = population
    part = put(population, 0, 1)
    (file,) = tmp_path.rglob(part.name.rpartition("/")[2])
    directory = file.parent.rename(tmp_path / "elsewhere")
    file.parent.symlink_to(directory)
    with pytest.raises(RequestError, match="is a link"):
        members.list_parts(store, get_any(store, run_id))


@pytest.mark.parametrize("number", [0, 65535, 10**12])
def test_a_member_is_named_by_its_sweep_and_its_number(number):
    assert members.split_member(members.member_id("0a" * 16, number)) == ("0a" * 16, number)


@pytest.mark.parametrize("typed", ["0a", "0a/", "/3", "0a/03", "0a/-1", "0a/1/2", "last/x", "0a/١"])
def test_other_texts_name_no_member(typed):
    assert members.split_member(typed) is None


def test_a_part_is_found_by_its_name_alone():
    part = Part.of(3, 2, b"content")
    assert part.name == f"members/part-000003.002.{hashlib.sha256(b'content').hexdigest()[:16]}.parquet"
    assert part.is_whole(b"content")
    assert not replace(part, digest="0" * 16).is_whole(b"content")
