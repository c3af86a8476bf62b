"""An archive of a run or a sweep: it reruns where no store is, and one that was altered does not."""

import hashlib
import sqlite3
import stat
import zipfile
from pathlib import Path

import pytest

from nnexp.pipeline.rerun import verbs


@pytest.fixture(scope="session")
def content(original, tmp_path_factory):
    """A bundle of the store's sweep of eight runs, as bytes."""
    out = tmp_path_factory.mktemp("bundle") / "sweep.zip"
    store = Path(original, "mlflow.db")
    with sqlite3.connect(store) as connection:
        ((sweep_id,),) = connection.execute("SELECT run_uuid FROM tags WHERE key = 'nnexp.sweep'").fetchall()
    connection.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
        verbs.write_bundle(sweep_id, out)
        first = out.read_bytes()
        verbs.write_bundle(sweep_id, out)
        assert out.read_bytes() == first
    return first


@pytest.fixture
def archive(content, tmp_path, monkeypatch):
    """That bundle in a place where no store is."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////there/is/none/mlflow.db")
    (tmp_path / "sweep.zip").write_bytes(content)
    return tmp_path / "sweep.zip"


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, contents, with_sums=True, mode=stat.S_IFREG | 0o644):
    """The archive again with these contents, and sums that fit them."""
    if with_sums:
        lines = [
            f"{hashlib.sha256(content).hexdigest()}  {name}\n"
            for name, content in contents.items()
            if name != "SHA256SUMS"
        ]
        contents = {**contents, "SHA256SUMS": "".join(lines).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)


def test_a_bundle_reruns_without_a_store(nnexp, archive):
    ended = nnexp("rerun", "--bundle", "sweep.zip")
    assert (ended.status, "8 of 8 runs are identical" in ended.out) == (0, True)
    assert nnexp("rerun", "--bundle", "sweep.zip", "--dry-run").status == 0
    assert {name.partition("/")[0] for name in members(archive)} >= {"SHA256SUMS", "data", "runs"}


def test_a_bundle_of_one_run_has_that_run(nnexp, place):
    with sqlite3.connect(place / "mlflow.db") as connection:
        (run_id,) = connection.execute("SELECT run_uuid FROM runs ORDER BY start_time").fetchone()
    connection.close()
    assert nnexp("bundle", run_id).status == 0
    assert "1 of 1 runs are identical" in nnexp("rerun", "--bundle", f"{run_id}.zip").out
    next(place.glob(f"mlartifacts/*/nnexp/{run_id}/artifacts/weights.npz")).unlink()
    assert "note: of 1 of the runs weights.npz is not there" in nnexp("bundle", run_id).err
    assert "weights.npz is not there" in nnexp("rerun", "--bundle", f"{run_id}.zip").out
    assert nnexp("bundle", "nothing").status == 2
    assert nnexp("bundle", run_id, "--out", "no/where.zip").status == 2


def test_a_point_that_was_altered_with_its_sum_is_found(nnexp, archive):
    contents = members(archive)
    name = next(name for name in contents if name.endswith("metrics.csv"))
    contents[name] = contents[name].replace(b"loss,30,", b"loss,30,1")
    rewrite(archive, contents)
    ended = nnexp("rerun", "--bundle", "sweep.zip")
    assert ended.status == 1
    assert "loss at epoch 30" in ended.out


def data_name(contents):
    return next(name for name in contents if name.endswith("table.csv"))


def altered(contents):
    return contents | {data_name(contents): contents[data_name(contents)] + b"\n"}


def without_data(contents):
    return {name: content for name, content in contents.items() if name != data_name(contents)}


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda c: c | {"../outside": b"x"}, {}, "no member of a bundle"),
        (lambda c: c | {"/etc/outside": b"x"}, {}, "no member of a bundle"),
        (lambda c: c | {"more.txt": b"x"}, {"with_sums": False}, "not both in the archive and in"),
        (altered, {"with_sums": False}, "the archive was altered"),
        (without_data, {"with_sums": False}, "not both in the archive and in"),
        (lambda c: c, {"mode": stat.S_IFLNK | 0o777}, "is not a plain file"),
        (lambda c: c | {"bundle.json": b"{}"}, {}, "its format is None"),
        (lambda c: c | {"bundle.json": b"[]"}, {}, "cannot be used"),
        (lambda c: c | {"bundle.json": b'{"format":1,"what":"x","runs":["../.."]}'}, {}, "cannot be used"),
        (lambda c: {k: v for k, v in c.items() if k != "SHA256SUMS"}, {"with_sums": False}, "no SHA256SUMS"),
    ],
    ids=range(10),
)
def test_an_archive_that_is_not_what_it_should_be_is_refused(
    nnexp, archive, tmp_path, change, options, words
):
    rewrite(archive, change(members(archive)), **options)
    before = sorted(tmp_path.parent.iterdir())
    ended = nnexp("rerun", "--bundle", "sweep.zip")
    assert (ended.status, words in ended.err) == (2, True), ended.err
    assert sorted(tmp_path.parent.iterdir()) == before


def test_what_is_no_archive_is_refused(nnexp, archive):
    archive.write_bytes(archive.read_bytes()[:-200])
    assert "was damaged" in nnexp("rerun", "--bundle", "sweep.zip").err
    assert "cannot be read" in nnexp("rerun", "--bundle", "other.zip").err


def test_data_left_out_of_a_bundle_are_missed(nnexp, archive):
    rewrite(archive, without_data(members(archive)))
    ended = nnexp("rerun", "--bundle", "sweep.zip")
    assert (ended.status, "the archive keeps no copy" in ended.out) == (1, True)
