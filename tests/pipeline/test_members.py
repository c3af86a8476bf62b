"""Everything that reads runs reads a population's members: as frames, one by one, again, in an archive."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nnexp as package
from nnexp.cli import main as cli
from nnexp.config.errors import RequestError
from nnexp.network.reference import flatten
from nnexp.pipeline.bundle import Bundle
from nnexp.pipeline.results.run import Run
from nnexp.pipeline.results.sweep import Sweep
from nnexp.tracking import files, members
from nnexp.tracking.experiments import find_experiment
from nnexp.tracking.members import Part
from nnexp.tracking.named import entries, whole_id
from nnexp.tracking.population import get_network, get_population
from nnexp.tracking.read import load_columns, read_runs
from nnexp.tracking.store import Store, open_store
from tests.conftest import FLOWERS, OWN

QUICK = ["epochs=30", "log_every=10", "figures=false"]
GRID = ["-m", "dataset=gender,xor", "hidden=[2],[]", "learning_rate=0.1,0.5", "seed=0,1,2"]
N = 24
# What a run has of its own, and the reason that it lacks, which is None or nan.
OF_ITS_OWN = ["run_id", "start_time", "seconds", "sweep_id", "reason"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, empty_store):
    """A store with a grid as runs, in the experiment `runs`, and as a population with curves and weights."""
    here = tmp_path_factory.mktemp("populations")
    shutil.copy(empty_store, here / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
        patch.chdir(here)
        for typed in (
            [*QUICK, *GRID, "experiment_name=runs"],
            [*QUICK, *GRID, "record=table", "curves=true", "weights=all"],
        ):
            patch.setattr("sys.argv", ["nnexp", "train", *typed])
            cli.main()
    return here


@pytest.fixture
def here(recorded, tmp_path):
    """The test's own copy of that store."""
    shutil.copy(recorded / "mlflow.db", tmp_path)
    shutil.copytree(recorded / "mlartifacts", tmp_path / "mlartifacts")
    return tmp_path


@pytest.fixture
def sweep_id(here):
    store = open_store(create=False)
    return entries(store, "sweep", 1, find_experiment(store, "nnexp"))[0].run_id


@pytest.fixture
def both(sweep_id):
    """The grid as runs and as members, both by run key."""
    return [
        package.load_runs(experiment, sweep=sweep).sort_values("run_key", ignore_index=True)
        for experiment, sweep in (("runs", None), (None, sweep_id))
    ]


def part_of(here):
    (file,) = here.rglob("members/*.parquet")
    return file


def altered(here, change):
    """Replace the part by one with other values, under a name that has its own hash."""
    file = part_of(here)
    table = members.from_bytes(file.read_bytes())
    notes = {k.decode(): v.decode() for k, v in table.schema.metadata.items() if k != b"nnexp.schema"}
    content = members.to_bytes(change(table), notes)
    file.unlink()
    file.with_name(Path(Part.of(0, 1, content).name).name).write_bytes(content)


def with_column(name, row, value):
    """Return a change of one value in a part."""

    def change(table):
        values = table[name].to_pylist()
        values[row] = value(values[row])
        at = table.column_names.index(name)
        return table.set_column(at, name, pa.array(values, table[name].type))

    return change


# --- Frames.


def test_members_have_the_columns_and_values_that_runs_have(both):
    runs, population = both
    assert list(population.columns) == list(runs.columns)
    pd.testing.assert_frame_equal(
        population.drop(columns=OF_ITS_OWN), runs.drop(columns=OF_ITS_OWN), check_dtype=False
    )
    assert {str(d) for d in population.dtypes} <= {str(d) for d in runs.dtypes} | {"int64", "bool"}


def test_curves_of_members_are_those_of_runs(both):
    metrics = ["loss", "accuracy"]
    keyed = []
    for frame in both:
        curves = package.load_history(frame, metrics)
        key = dict(zip(frame["run_id"], frame["run_key"], strict=True))
        curves["run_id"] = curves["run_id"].map(key)
        keyed.append(curves.sort_values(["run_id", "metric", "epoch"], ignore_index=True))
    assert len(keyed[0]) == N * 2 * 4
    pd.testing.assert_frame_equal(keyed[1], keyed[0], check_dtype=False)


def test_a_network_that_is_a_run_and_a_member_counts_once_in_its_experiment(here, sweep_id, nnexp):
    assert nnexp("promote", f"{sweep_id}/3").status == 0
    everything = package.load_runs()
    assert len(everything) == N
    assert everything["run_key"].is_unique
    assert (~everything["run_id"].str.contains("/")).sum() == 1
    assert len(package.load_runs(sweep=sweep_id)) == N


@pytest.fixture
def read(monkeypatch):
    """The tables that are read of parts, in a list."""
    tables = []
    monkeypatch.setattr(
        members,
        "from_bytes",
        lambda content, wanted=None, f=members.from_bytes: tables.append(f(content, wanted)) or tables[-1],
    )
    return tables


def test_only_the_columns_that_are_needed_are_read(sweep_id, read):
    frame = load_columns(None, sweep_id, ["loss", "epochs"])
    assert {"loss", "epochs", "learning_rate", "seed", "network"} <= set(frame)
    assert not {"run_id", "run_key", "accuracy", "grad_norm"} & set(frame)
    (table,) = read
    assert not any(name.startswith(("curves.", "weights.")) for name in table.column_names)
    assert "run_key" not in table.column_names


@pytest.mark.parametrize(
    "words",
    [
        ["--by", "dataset,learning_rate"],
        ["--where", "learning_rate > 0.2 and epochs == 30", "--metric", "accuracy"],
        ["--threshold", "0.1", "--by", "hidden"],
    ],
)
def test_a_summary_of_members_is_that_of_the_runs(nnexp, sweep_id, words):
    of_runs = nnexp("summarize", "--experiment", "runs", *words, "--format", "csv")
    of_members = nnexp("summarize", "--sweep", sweep_id, *words, "--format", "csv")
    assert of_members.status == 0, of_members.err
    assert of_members.out == of_runs.out


def test_settings_of_a_population_are_compared(nnexp, sweep_id):
    words = ["learning_rate=0.1,dataset=xor", "learning_rate=0.5,dataset=xor", "--format", "csv"]
    of_runs = nnexp("compare", "--experiment", "runs", *words)
    assert nnexp("compare", "--sweep", sweep_id, *words).out == of_runs.out


def test_a_population_is_compared_with_a_sweep_of_runs(nnexp, sweep_id):
    store = open_store(create=False)
    ordinary = entries(store, "sweep", 1, find_experiment(store, "runs"))[0].run_id
    ended = nnexp("compare", sweep_id, ordinary, "--format", "csv")
    assert ended.status == 0, ended.err
    (row,) = pd.read_csv(io.StringIO(ended.out)).to_dict("records")
    assert (row["n"], row["difference"]) == (3, 0)


def test_a_population_has_a_report_and_figures(nnexp, sweep_id, here):
    assert nnexp("report", sweep_id, "--out", "r.html").status == 0
    assert nnexp("summarize", "--sweep", sweep_id, "--by", "learning_rate", "--plot", "a.png").status == 0
    assert Path("r.html").stat().st_size > 10_000
    shown = nnexp("show", sweep_id)
    assert f"sweep {sweep_id}: {N} networks, {N} done" in shown.out
    assert re.search(rf"best network\n.*{sweep_id}/\d+", shown.out)


@pytest.mark.parametrize("words", [["show", "{}"], ["report", "{}", "--out", "r.html"]])
def test_a_sweep_is_shown_from_the_columns_that_this_takes(nnexp, sweep_id, read, words, blank_pictures):
    assert nnexp(*(word.format(sweep_id) for word in words)).status == 0
    assert read
    every = {name for table in read for name in table.column_names}
    assert not {name for name in every if name.startswith("weights.")}
    assert not {"run_key", "data_sha256", "attempt"} & every
    assert len({name for table in read for name in table.column_names if name.startswith("curves.")}) <= 2


def test_members_are_read_through_mlflows_client_too(sweep_id, both):
    known = open_store(create=False)
    through = Store(known.uri, known.artifact_root, is_known=False)
    frame = read_runs(through, find_experiment(through, "nnexp"))
    assert sorted(frame["run_key"]) == both[1]["run_key"].tolist()


# --- One member.


@pytest.mark.parametrize("typed", ["{}/5", "last/5", "{:.12}/5"])
def test_a_member_is_named_by_its_sweep_and_its_number(sweep_id, typed):
    store = open_store(create=False)
    assert whole_id(store, typed.format(sweep_id), "run") == f"{sweep_id}/5"
    assert get_network(store, f"{sweep_id}/5").row["number"] == 5


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("{}/24", "none of so high a number is recorded"),
        ("{}/70000", "none of so high a number is recorded"),
        ("{}/x", "no run"),
        ("f" * 32 + "/1", "no sweep"),
    ],
)
def test_what_is_no_member_is_refused(nnexp, sweep_id, typed, words):
    ended = nnexp("show", typed.format(sweep_id))
    assert ended.status == 2
    assert words in ended.err


def test_a_run_of_an_ordinary_sweep_has_no_number(nnexp, here):
    store = open_store(create=False)
    ordinary = entries(store, "sweep", 1, find_experiment(store, "runs"))[0].run_id
    ended = nnexp("show", f"{ordinary}/1")
    assert ended.status == 2
    assert "has no members: each of its runs has an id of its own" in ended.err


def test_a_member_is_the_network_that_its_run_is(both, sweep_id):
    runs, population = both
    for i in (0, 11, N - 1):
        one, other = (package.load_network(frame["run_id"][i]) for frame in (runs, population))
        assert flatten(one.network.layers).tobytes() == flatten(other.network.layers).tobytes()
    run, member = (Run(open_store(create=False), frame["run_id"][3]) for frame in both)
    assert (member.name, member.metrics, member.epochs) == (run.name, run.metrics, run.epochs)
    assert member.params == run.params
    columns = ["metric", "epoch", "value"]
    ordered = [frame.sort_values(columns)[columns].values.tolist() for frame in (member.history, run.history)]
    assert ordered[0] == ordered[1]


def test_a_member_is_shown_and_predicts(nnexp, sweep_id, here):
    shown = nnexp("show", f"{sweep_id}/0")
    assert f"run {sweep_id}/0 of sweep {sweep_id}" in shown.out
    assert "h1 = sigmoid(" in shown.out
    (here / "new.csv").write_text("weight_lb,height_in\n128,63\n")
    assert "label" in nnexp("predict", f"{sweep_id}/0", "new.csv").out


def test_a_member_is_exported_only_into_a_directory(nnexp, sweep_id):
    ended = nnexp("export", f"{sweep_id}/0")
    assert ended.status == 2
    assert f"nnexp promote {sweep_id}/0" in ended.err
    assert nnexp("export", f"{sweep_id}/0", "--to", "model").status == 0
    assert Path("model", "MLmodel").is_file()


@pytest.fixture
def unkept(store, nnexp, tmp_path, monkeypatch):
    """The id of a population whose data are too large to keep, and the file that they are in."""
    monkeypatch.setattr("nnexp.pipeline.artifacts.MAX_KEPT_DATA", 10)
    file = tmp_path / "flowers.csv"
    file.write_text(FLOWERS)
    typed = ["output_activation=softmax", "loss=cross_entropy", "seed=range(3)"]
    assert nnexp("train", "-m", *QUICK, *OWN, *typed, "record=table").status == 0
    return entries(open_store(create=False), "sweep", 1)[0].run_id, file


def test_members_are_shown_and_verified_while_the_file_of_their_data_is_there(nnexp, unkept):
    sweep_id, _ = unkept
    assert package.load_runs(sweep=sweep_id)["data_sha256"].str.len().tolist() == [64] * 3
    assert "softmax" in nnexp("show", f"{sweep_id}/1").out
    assert nnexp("rerun", f"{sweep_id}/1").status == 0
    assert "3 of 3 members are identical" in nnexp("rerun", "--sweep", sweep_id).out
    assert nnexp("bundle", sweep_id, "--out", "p.zip").status == 0
    assert "3 of 3 members are identical" in nnexp("rerun", "--bundle", "p.zip").out


def test_members_whose_data_have_changed_or_are_gone_are_named(nnexp, unkept):
    sweep_id, file = unkept
    file.write_text(file.read_text() + "1,1,a\n")
    for words in (["show", f"{sweep_id}/1"], ["bundle", sweep_id]):
        ended = nnexp(*words)
        assert ended.status == 2
        assert "flowers.csv has other bytes" in ended.err
    assert nnexp("rerun", f"{sweep_id}/1").status == 1
    file.unlink()
    for words in (["show", f"{sweep_id}/1"], ["rerun", f"{sweep_id}/1"], ["bundle", sweep_id]):
        ended = nnexp(*words)
        assert ended.status == 2
        assert "its data set is missing" in ended.err


# --- Again.


def test_every_member_is_the_same_when_it_is_trained_again(nnexp, sweep_id):
    ended = nnexp("rerun", "--sweep", sweep_id)
    assert ended.status == 0, ended.out
    assert f"{N} of {N} members are identical" in ended.out
    assert nnexp("rerun", "--sweep", sweep_id, "--dry-run").out.startswith(f"{N} of {N} members can be")


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("metrics.loss", lambda x: np.nextafter(x, 1), "loss is .*1 ULP apart"),
        ("weights_sha256", lambda x: bytes(32), "weights_sha256 is .*, recorded 0000"),
        ("weights.final", lambda x: [x[0], -x[1], *x[2:]], r"weights.final\[1\] is"),
        ("curves.loss", lambda x: [*x[:2], 0.5, *x[3:]], r"curves.loss\[2\] is .*, recorded 0.5"),
        ("outcome", lambda x: "diverged", "outcome is .*, recorded 'diverged'"),
        ("run_key", lambda x: bytes(32), "run_key is .*, recorded 0000"),
    ],
)
def test_one_altered_value_is_found_and_named(nnexp, here, sweep_id, column, value, words):
    altered(here, with_column(column, 7, value))
    ended = nnexp("rerun", "--sweep", sweep_id)
    assert ended.status == 1
    assert f"{N - 1} of {N} members are identical" in ended.out
    assert re.search(rf"{sweep_id}/7 .*{words}", ended.out)
    single = nnexp("rerun", f"{sweep_id}/7")
    assert single.status == 1
    assert "differs" in single.out


def flip(file, column):
    """Flip a bit in the middle of a column of a part."""
    content = bytearray(file.read_bytes())
    group = pq.ParquetFile(pa.BufferReader(bytes(content))).metadata.row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    (chunk,) = [one for one in chunks if one.path_in_schema.removesuffix(".list.element") == column]
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("column", ["weights.final", "metrics.loss", "run_key"])
def test_one_flipped_bit_is_found_and_named(nnexp, here, sweep_id, column):
    file = part_of(here)
    flip(file, column)
    for words in (["rerun", "--sweep", sweep_id], ["doctor"]):
        ended = nnexp(*words)
        assert ended.status == 1
        assert f"members/{file.name} is damaged" in ended.out
    assert f"{file.name} is damaged" in nnexp("show", f"{sweep_id}/3").err


def test_only_the_members_of_a_damaged_part_are_trained_again(here, nnexp, sweep_id):
    before = package.load_runs(sweep=sweep_id)
    flip(part_of(here), "metrics.loss")
    assert nnexp("train", *QUICK, *GRID, "record=table", "curves=true", "weights=all").status == 0
    after = package.load_runs(sweep=sweep_id)
    times = ["start_time", "seconds"]
    pd.testing.assert_frame_equal(after.drop(columns=times), before.drop(columns=times))


def test_a_member_is_varied(nnexp, sweep_id):
    ended = nnexp("rerun", f"{sweep_id}/0", "learning_rate=0.3", "figures=false", "model=false")
    assert ended.status == 0, ended.err
    assert f"a variation of gender lr=0.1 init=normal seed=0 hidden=[2] ({sweep_id}/0)" in ended.out


def test_a_sound_population_has_nothing_wrong(nnexp, sweep_id):
    assert "nothing is wrong" in nnexp("doctor").out


# --- Promotion.


def test_the_best_and_the_worst_become_runs(nnexp, sweep_id, both):
    ended = nnexp("promote", sweep_id, "--best", "1", "--worst", "1")
    assert ended.status == 0, ended.err
    population = both[1].sort_values("loss")
    ids = re.findall(rf"{sweep_id}/\d+", ended.out)
    assert ids == population["run_id"].iloc[[0, -1]].tolist()
    runs = package.load_runs()
    made = runs[~runs["run_id"].str.contains("/")].sort_values("loss", ignore_index=True)
    same = population.iloc[[0, -1]].reset_index(drop=True)
    columns = ["run_name", "run_key", "weights_sha256", "loss", "accuracy", "outcome"]
    pd.testing.assert_frame_equal(made[columns], same[columns])
    record = get_network(open_store(create=False), made["run_id"][0])
    assert record.tags["mlflow.parentRunId"] == sweep_id
    assert record.tags["nnexp.member"] == ids[0]
    assert nnexp("rerun", made["run_id"][0]).status == 0
    again = nnexp("promote", ids[0])
    assert made["run_id"][0] in again.out
    assert "a run before" in again.out


def test_members_are_chosen_by_a_condition_from_python(sweep_id):
    (run,) = Sweep(open_store(create=False), sweep_id, []).promote(
        where="seed == 1 and learning_rate > 0.2 and dataset == 'xor' and hidden == [2]"
    )
    assert (run.params["seed"], run.params["hidden"]) == (1, (2,))
    assert {"loss", "accuracy"} <= set(run.history["metric"])


def test_a_member_that_is_another_network_now_is_not_made_a_run(nnexp, here, sweep_id):
    altered(here, with_column("weights_sha256", 7, lambda x: bytes(32)))
    ended = nnexp("promote", f"{sweep_id}/7")
    assert ended.status == 1
    assert "it is not the network that was recorded" in ended.out
    assert len(package.load_runs()) == N
    with pytest.raises(RequestError, match="its weights are not those whose hash was recorded"):
        package.load_network(f"{sweep_id}/7")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{}"], "say which members"),
        (["{}", "--where", "seed > 9"], "no finished member satisfies"),
        (["{}", "--best", "1", "--metric", "los"], "unknown metric 'los'"),
        (["{}", "--best", "1", "--metric", "number"], "unknown metric 'number'"),
        (["{}/1", "--best", "1"], "name either one population, or its members"),
        (["{}/1", "{}"], "name either one population, or its members"),
    ],
)
def test_a_wrong_promotion_is_refused(nnexp, sweep_id, words, said):
    ended = nnexp("promote", *(word.format(sweep_id) for word in words))
    assert ended.status == 2
    assert said in ended.err


# --- Archives.


def test_a_population_is_bundled_verified_and_imported(nnexp, here, sweep_id, empty_store, monkeypatch):
    assert f"{N} networks" in nnexp("bundle", sweep_id, "--out", "p.zip").out
    assert f"{N} of {N} members are identical" in nnexp("rerun", "--bundle", "p.zip").out
    before = package.load_runs(sweep=sweep_id)
    (here / "other").mkdir()
    shutil.copy(empty_store, here / "other" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/other/mlflow.db")
    ended = nnexp("import", "p.zip")
    assert f"imported {N} of {N} networks" in ended.out, ended.err
    assert f"0 of {N}" in nnexp("import", "p.zip").out
    pd.testing.assert_frame_equal(package.load_runs(sweep=sweep_id), before)
    assert nnexp("rerun", f"{sweep_id}/3").status == 0
    assert "nothing is wrong" in nnexp("doctor").out


def test_parts_are_imported_one_at_a_time(nnexp, recorded, tmp_path, empty_store, monkeypatch):
    for module in (
        "pipeline.population.parts", "pipeline.population.sweep", "pipeline.intake", "tracking.frames"
    ):  # fmt: skip
        monkeypatch.setattr(f"nnexp.{module}.PART", 4)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    assert nnexp("train", "-m", *QUICK, "record=table", "seed=range(10)").status == 0
    assert nnexp("bundle", "last", "--out", "p.zip").status == 0
    shutil.copy(empty_store, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    events = []

    def told(does, of, name_of):
        return lambda *given: events.append((does, name_of(*given)[:19])) or of(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Bundle, "find", told("read", Bundle.find, lambda _, name: Path(name).name))
        patch.setattr(files, "write_file", told("write", files.write_file, lambda _, name, *rest: name))
        assert "imported 10 of 10 networks" in nnexp("import", "p.zip").out
    parts = [event for event in events if event[1].startswith("part-")]
    written = [i for i, (does, _) in enumerate(parts) if does == "write"]
    assert len(written) == 3
    assert all(parts[i - 1] == ("read", parts[i][1]) for i in written)


def test_a_bundle_with_another_key_is_refused(nnexp, here, sweep_id, empty_store, monkeypatch):
    altered(here, with_column("params.learning_rate", 0, lambda x: 0.2))
    nnexp("bundle", sweep_id, "--out", "p.zip")
    (here / "other").mkdir()
    shutil.copy(empty_store, here / "other" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/other/mlflow.db")
    ended = nnexp("import", "p.zip")
    assert ended.status == 2
    assert f"member {sweep_id}/0: its configuration does not match its key" in ended.err


def test_a_member_is_bundled_as_a_run(nnexp, sweep_id):
    assert "1 run" in nnexp("bundle", f"{sweep_id}/4", "--out", "m.zip").out
    assert "1 of 1 runs are identical" in nnexp("rerun", "--bundle", "m.zip").out
    assert "imported 1 of 1" in nnexp("import", "m.zip", "--experiment", "elsewhere").out


def test_parts_are_read_by_any_reader_of_parquet(here, sweep_id):
    frame = pd.read_parquet(part_of(here), columns=["params.learning_rate", "metrics.loss"])
    assert len(frame) == N
    assert get_population(open_store(create=False), sweep_id).fixed["epochs"] == 30
