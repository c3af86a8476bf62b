"""Bundles: one of a run or a sweep can be rerun without a store, and an altered one is refused or differs."""

import hashlib
import json
import sqlite3
import stat
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from nnexp.dataset.load import Source
from nnexp.pipeline import bundle
from nnexp.pipeline.rerun import verbs
from nnexp.tracking.evidence import Evidence
from tests.conftest import QUICK

pytestmark = pytest.mark.slow


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
    """That bundle in a directory without a store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////there/is/none/mlflow.db")
    (tmp_path / "sweep.zip").write_bytes(content)
    return tmp_path / "sweep.zip"


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, contents, with_sums=True, mode=stat.S_IFREG | 0o644):
    """Write the archive again with these contents, and matching hashes."""
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
            info.compress_type = zipfile.ZIP_DEFLATED
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
    assert "note: weights.npz of 1 of the runs is missing" in nnexp("bundle", run_id).err
    assert "weights.npz is missing" in nnexp("rerun", "--bundle", f"{run_id}.zip").out
    assert nnexp("bundle", "nothing").status == 2
    assert nnexp("bundle", run_id, "--out", "no/where.zip").status == 2


def test_a_point_altered_together_with_its_hash_is_found(nnexp, archive):
    contents = members(archive)
    name = next(name for name in contents if name.endswith("metrics.csv"))
    contents[name] = contents[name].replace(b"loss,30,", b"loss,30,1")
    rewrite(archive, contents)
    ended = nnexp("rerun", "--bundle", "sweep.zip")
    assert ended.status == 1
    assert "loss at epoch 30" in ended.out


def in_json(contents, member, /, **values):
    return contents | {member: json.dumps(json.loads(contents[member]) | values).encode()}


def first(contents, end):
    return next(name for name in sorted(contents) if name.endswith(end))


def test_control_characters_in_a_bundle_are_escaped(nnexp, archive):
    contents = members(archive)
    name = first(contents, "run.json")
    tags = json.loads(contents[name])["tags"] | {"nnexp.engine": "\x1b[2J\nverdict: identical"}
    contents = in_json(contents, name, tags=tags, name="\x1b]0;owned\x07")
    contents = in_json(contents, "bundle.json", what="\x1b[31mred\u202e\n8 of 8 runs are identical")
    rewrite(archive, contents)
    for options in ([], ["--dry-run"]):
        ended = nnexp("rerun", "--bundle", "sweep.zip", *options)
        assert ended.status == (0 if options else 1)
        assert not {"\x1b", "\x07", "\u202e"} & set(ended.out + ended.err)
        assert ended.out.startswith("sweep.zip: \\u001b[31mred\\u202e\\u000a8 of 8")
        assert "\nverdict: identical" not in ended.out


def test_a_false_row_beside_the_true_one_is_found(nnexp, archive):
    contents = members(archive)
    for metric, epoch in ((b"loss", 30), (b"prediction/Emily", 30)):
        name = next(n for n, c in contents.items() if n.endswith("metrics.csv") and metric in c)
        row = b"%s,%d," % (metric, epoch)
        rewrite(archive, contents | {name: contents[name].replace(row, row + b"0.125\n" + row)})
        ended = nnexp("rerun", "--bundle", "sweep.zip")
        assert (ended.status, "7 of 8 runs are identical" in ended.out) == (1, True)
        assert f"{metric.decode()} at epoch {epoch} is recorded twice, as 0.125" in ended.out


@pytest.mark.parametrize("row", [b"evil/metric,30,1.0\n", b"evil,30,1.0\n", b"prediction/Emily,20,0.9\n"])
def test_a_metric_that_training_does_not_produce_is_a_difference(nnexp, archive, row):
    contents = members(archive)
    name = next(n for n, c in contents.items() if n.endswith("metrics.csv") and b"prediction" in c)
    rewrite(archive, contents | {name: contents[name] + row})
    ended = nnexp("rerun", "--bundle", "sweep.zip")
    assert (ended.status, "7 of 8 runs are identical" in ended.out) == (1, True)
    assert row.split(b",")[0].decode() in ended.out
    # Runs that differ are not counted among the identical ones.
    assert "84 points of 21 curves, final weights and 6 predictions" in ended.out


def test_an_archive_that_would_inflate_too_much_is_refused_before_it_does(nnexp, archive):
    contents = members(archive)
    metrics, weights, table = (first(contents, end) for end in ("metrics.csv", "weights.npz", "table.csv"))
    points = contents[metrics] + b"loss,40,0.0\n" * 10_000_000
    for bomb in ({metrics: points}, {table: bytes(200 * 2**20)}, {weights: bytes(200 * 2**20)}):
        rewrite(archive, contents | bomb)
        bomb.clear()
        assert archive.stat().st_size < 1_500_000
        tracemalloc.start()
        ended = nnexp("rerun", "--bundle", "sweep.zip")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (ended.status, "more than any bundle" in ended.err) == (2, True), ended.err
        assert most < 50_000_000


def test_the_runs_of_a_bundle_are_read_in_groups(nnexp, archive, monkeypatch):
    monkeypatch.setattr(bundle, "GROUP_BYTES", 1)
    with bundle.opened(archive) as there:
        assert [len(group) for group in there.groups()] == [1] * 8
    assert "8 of 8 runs are identical" in nnexp("rerun", "--bundle", "sweep.zip").out


def test_content_that_compresses_suspiciously_well_is_stored_uncompressed(tmp_path):
    data = {"0" * 64: Source(b"a,b\n" + b"0,0\n" * 1_000_000)}
    tags = {"nnexp.data_sha256": "0" * 64}
    parts = {"own_tags": tags, "curves": {}, "config": None, "weights": bytes(2**24)}
    one = Evidence("0" * 32, "zeros", "FINISHED", "", "", {}, {}, tags, **parts)
    bundle.write(tmp_path / "zeros.zip", "zeros", [one], data, {})
    with bundle.opened(tmp_path / "zeros.zip") as there:
        assert there.kept()(one) == data["0" * 64]
        assert list(there.groups()) == [[one]]


def data_name(contents):
    return next(name for name in contents if name.endswith("table.csv"))


def altered(contents):
    return contents | {data_name(contents): contents[data_name(contents)] + b"\n"}


def without_data(contents):
    return {name: content for name, content in contents.items() if name != data_name(contents)}


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda c: c | {"../outside": b"x"}, {}, "is not a member of a bundle"),
        (lambda c: c | {"/etc/outside": b"x"}, {}, "is not a member of a bundle"),
        (lambda c: c | {"more.txt": b"x"}, {"with_sums": False}, "must be both in the archive and in"),
        (altered, {"with_sums": False}, "the archive was altered"),
        (without_data, {"with_sums": False}, "must be both in the archive and in"),
        (lambda c: c, {"mode": stat.S_IFLNK | 0o777}, "is not a plain file"),
        (lambda c: c | {"bundle.json": b"{}"}, {}, "its format is None"),
        (lambda c: c | {"bundle.json": b"[]"}, {}, "cannot be used"),
        (lambda c: c | {"bundle.json": b'{"format":1,"what":"x","runs":["../.."]}'}, {}, "cannot be used"),
        (lambda c: {k: v for k, v in c.items() if k != "SHA256SUMS"}, {"with_sums": False}, "no SHA256SUMS"),
        (lambda c: in_json(c, "bundle.json", runs=[]), {}, "is empty, so there is nothing to compare"),
        (lambda c: in_json(c, "bundle.json", runs=None), {}, "is not a list of ids"),
        (
            lambda c: in_json(c, "bundle.json", runs=[first(c, "run.json")[5:37]]),
            {},
            "must be both listed and in the archive",
        ),
        (lambda c: in_json(c, "bundle.json", runs=[first(c, "run.json")[5:37]] * 2), {}, "has an id twice"),
        (lambda c: in_json(c, "bundle.json", what=["x"]), {}, "bundle.json: what: is not a text"),
        (lambda c: in_json(c, "bundle.json", more="x" * 100_000), {}, "more than its runs need"),
        (lambda c: c | {"bundle.json": b"[" * 60_000}, {}, "or is damaged"),
        (lambda c: in_json(c, first(c, "run.json"), tags={"a": 1}), {}, "tags: 'a': is not a text"),
        (lambda c: in_json(c, first(c, "run.json"), params=[]), {}, "params: is not a mapping"),
        (lambda c: c | {first(c, "metrics.csv"): b""}, {}, "its first row must be metric,epoch,value"),
        (
            lambda c: c | {first(c, "metrics.csv"): b"metric,epoch,value\nloss,0\n"},
            {},
            "line 2: is not a point",
        ),
        (
            lambda c: c | {first(c, "metrics.csv"): b"metric,epoch,value\n\0,0," + b"1" * 200_000},
            {},
            "line 2",
        ),
    ],
    ids=range(22),
)
def test_an_inconsistent_archive_is_refused(nnexp, archive, tmp_path, change, options, words):
    rewrite(archive, change(members(archive)), **options)
    before = sorted(tmp_path.parent.iterdir())
    ended = nnexp("rerun", "--bundle", "sweep.zip")
    assert (ended.status, words in ended.err) == (2, True), ended.err
    assert sorted(tmp_path.parent.iterdir()) == before


def test_a_file_that_is_not_an_archive_is_refused(nnexp, archive):
    archive.write_bytes(archive.read_bytes()[:-200])
    assert "is damaged" in nnexp("rerun", "--bundle", "sweep.zip").err
    assert "cannot be read" in nnexp("rerun", "--bundle", "other.zip").err


def test_runs_whose_data_are_missing_from_a_bundle_are_not_identical(nnexp, archive):
    rewrite(archive, without_data(members(archive)))
    ended = nnexp("rerun", "--bundle", "sweep.zip")
    assert (ended.status, "4 of 8 runs are identical" in ended.out) == (1, True)
    ended = nnexp("rerun", "--bundle", "sweep.zip", "--dry-run")
    assert (ended.status, "the archive keeps no copy" in ended.out) == (1, True)


# --- Into another store.


@pytest.fixture
def elsewhere(archive, store, tmp_path, monkeypatch):
    """The bundle beside an empty store; SQL on it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")

    def sql(query, *values):
        with sqlite3.connect(store) as connection:
            rows = connection.execute(query, values).fetchall()
        connection.close()
        return rows

    return sql


def test_every_verb_finds_an_imported_sweep_once_under_its_own_ids(nnexp, elsewhere, archive):
    head = json.loads(members(archive)["bundle.json"])
    (sweep_id,) = head["sweeps"]
    ended = nnexp("import", "sweep.zip")
    assert (ended.status, "imported 8 of 8 runs" in ended.out) == (0, True), ended.err
    rows = elsewhere("SELECT run_uuid, name, start_time, end_time FROM runs ORDER BY run_uuid")
    assert {row[0] for row in rows} == {sweep_id, *head["runs"]}
    (described,) = elsewhere("SELECT value FROM tags WHERE key = 'mlflow.note.content'")
    assert "8 runs" in described[0]
    assert nnexp("show", head["runs"][0]).status == 0
    assert len(nnexp("summarize", "--sweep", sweep_id).out.splitlines()) > 4
    assert nnexp("report", sweep_id).status == 0
    assert nnexp("doctor").status == 0
    assert "8 of 8 runs are identical" in nnexp("rerun", "--sweep", sweep_id).out
    assert "imported 0 of 8 runs" in nnexp("import", "sweep.zip").out
    again = nnexp("train", *QUICK, "-m", "dataset=gender,xor", "learning_rate=0.1,5", "hidden=[2],[]")
    assert "8 runs: 8 done, 0 new" in again.err
    counted = "SELECT COUNT(*) FROM tags WHERE key = 'nnexp.run_key'"
    assert elsewhere(counted) == [(8,)]
    nnexp("bundle", sweep_id, "--out", "again.zip")
    assert members(archive)["bundle.json"] == members(archive.with_name("again.zip"))["bundle.json"]


def test_a_run_that_the_store_has_under_another_id_is_not_imported(nnexp, elsewhere):
    assert nnexp("train", *QUICK, "dataset=xor", "learning_rate=5").status == 0
    ended = nnexp("import", "sweep.zip")
    assert "imported 7 of 8 runs" in ended.out
    assert "the experiment has the same run under another id" in ended.out
    assert elsewhere("SELECT COUNT(*) FROM tags WHERE key = 'nnexp.run_key'") == [(8,)]


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"nnexp.run_key": "f" * 64}, "config.yaml does not match the run's key"),
        ({"nnexp.weights_sha256": "f" * 64}, "weights.npz is missing, or is not the file"),
        ({"nnexp.data_sha256": "f" * 64}, "its data set is missing"),
        ({"nnexp.sweep_id": "f" * 32}, "names a sweep that is not in the archive"),
        ({"nnexp.sweep": "x"}, "not those of one trained network"),
        ({"nnexp.outcome": "solved"}, "nnexp.outcome is not one"),
        ({"a": "x" * 8001}, "more than 8,000 characters"),
        ({"../a": "x"}, "is not a name that MLflow accepts"),
    ],
)
def test_a_record_that_nnexp_would_not_write_is_not_imported(nnexp, elsewhere, archive, tags, words):
    contents = members(archive)
    name = first(contents, "run.json")
    rewrite(archive, in_json(contents, name, tags=json.loads(contents[name])["tags"] | tags))
    ended = nnexp("import", "sweep.zip")
    assert (ended.status, words in ended.err) == (2, True), ended.err
    assert elsewhere("SELECT COUNT(*) FROM runs") == [(0,)]


def test_a_bundle_of_the_first_format_is_verified_and_not_imported(nnexp, elsewhere, archive):
    contents = members(archive)
    head = json.loads(contents["bundle.json"])
    sweep = json.loads(contents[f"sweeps/{head['sweeps'][0]}/run.json"])
    old = {name: content for name, content in contents.items() if not name.startswith("sweeps/")}
    for name in [name for name in old if name.endswith("run.json")]:
        said = json.loads(old[name])
        del said["times"]
        old[name] = json.dumps(said | {"tags": sweep["tags"] | said["tags"]}).encode()
    del head["sweeps"]
    rewrite(archive, old | {"bundle.json": json.dumps(head | {"format": 1}).encode()})
    assert "8 of 8 runs are identical" in nnexp("rerun", "--bundle", "sweep.zip").out
    assert "was written by an older nnexp" in nnexp("import", "sweep.zip").err
