"""Ways to name a run: printed hints that work as typed, ids in any experiment, beginnings of ids, `last`."""

import json
import shlex
import sqlite3

import pytest
from mlflow import MlflowClient

import nnexp as package
from nnexp.cli import main as cli
from nnexp.cli import show
from nnexp.tracking.named import entries, get_newest, whole_id
from nnexp.tracking.store import Store, open_store

pytestmark = pytest.mark.slow

QUICK = ("epochs=5", "figures=false", "model=false")
SWEEP = ("-m", "epochs=5", "figures=false", "seed=1,2")


def hints(ended):
    """Return the commands that a command printed, as words after the program's name."""
    return [shlex.split(line)[1:] for line in ended.out.splitlines() if line.startswith("  ")]


def swept(ended):
    return ended.out.split("recorded as sweep ")[1].split()[0]


def ran(ended):
    return ended.out.split("recorded as ")[1].split()[0]


@pytest.mark.parametrize(
    "where",
    [
        [],
        ["tracking_uri=sqlite:///my.db"],
        ["experiment_name=foo"],
        ["tracking_uri=sqlite:///my.db", "experiment_name='a b'"],
    ],
    ids=str,
)
def test_a_hint_works_as_it_is_printed(nnexp, store, tmp_path, where):
    store.with_name("my.db").write_bytes(store.read_bytes())
    alone, many = nnexp("train", *QUICK, *where), nnexp("train", *SWEEP, *where)
    (show, ui), (summarize, report, also_ui) = hints(alone), hints(many)
    assert ui == also_ui
    assert ("--experiment" in ui) == any("experiment_name" in word for word in where)
    assert f"run {ran(alone)}" in nnexp(*show).out
    assert "median_low" in nnexp(*summarize).out
    assert nnexp(*report).status == 0
    assert (tmp_path / f"{swept(many)}.html").exists()


def test_what_import_says_to_type_next_names_the_store_that_was_typed(nnexp, store):
    elsewhere = ["--tracking-uri", f"sqlite:///{store.with_name('other.db')}"]
    store.with_name("other.db").write_bytes(store.read_bytes())
    run_id, sweep_id = ran(nnexp("train", *QUICK)), swept(nnexp("train", *SWEEP))
    for some_id in (run_id, sweep_id):
        assert nnexp("bundle", some_id, "--out", "some.zip").status == 0
        ended = nnexp("import", "some.zip", *elsewhere)
        assert len(hints(ended)) > 1
        for words in hints(ended):
            assert words[-2:] == elsewhere
            assert nnexp(*words).status == 0, words


def test_a_hint_has_no_password(configure):
    config = configure("tracking_uri=postgresql://me:hunter22@host/runs")
    typed = show.command(config, "show", "x")
    assert typed.endswith("--tracking-uri 'postgresql://me:***@host/runs'")


def test_the_store_of_one_command_is_not_that_of_the_next(nnexp, store, monkeypatch):
    store.with_name("other.db").write_bytes(store.read_bytes())
    run_id = ran(nnexp("train", *QUICK))
    assert nnexp("show", run_id, "--tracking-uri", "sqlite:///other.db").status == 2
    assert nnexp("show", run_id).status == 0


@pytest.mark.parametrize("verb", sorted(cli.nnexp.commands.keys() - {"train", "search", "new"}))
def test_every_verb_that_reads_a_store_takes_its_address(nnexp, verb):
    assert "--tracking-uri" in nnexp(verb, "--help").out


def test_a_report_without_an_id_is_of_the_newest_sweep_in_the_store(nnexp, store):
    nnexp("train", *SWEEP)
    newest = swept(nnexp("train", *SWEEP, "experiment_name=foo"))
    assert nnexp("report").err == f"wrote {newest}.html: sweep: 2 runs over seed, of experiment foo\n"
    assert "of experiment nnexp" in nnexp("report", "--experiment", "nnexp").err


def test_a_sweep_is_summarised_in_whatever_experiment_it_is(nnexp, store):
    sweep = swept(nnexp("train", *SWEEP, "experiment_name=foo"))
    assert json.loads(nnexp("summarize", "--sweep", sweep, "--format", "json").out)[0]["n"] == 2
    assert len(package.load_runs(sweep=sweep)) == 2
    nnexp("train", *QUICK)
    ended = nnexp("summarize", "--sweep", sweep, "--experiment", "nnexp")
    assert ended.status == 2
    assert f"sweep {sweep} is of experiment 'foo', not of 'nnexp'" in ended.err


def test_every_verb_accepts_the_beginning_of_an_id_and_last(nnexp, store, tmp_path):
    sweep = swept(nnexp("train", *SWEEP))
    run_id = ran(nnexp("train", *QUICK))
    (tmp_path / "rows.csv").write_text("weight_lb,height_in\n128,63\n")
    for name in ("last", run_id[:20]):
        for typed in (
            ["show", name],
            ["predict", name, "rows.csv"],
            ["rerun", name, "--dry-run"],
            ["bundle", name, "--out", f"{name}.zip"],
            ["export", name, "--to", f"model-{name}"],
        ):
            ended = nnexp(*typed)
            assert ended.status == 0, ended.err
            assert (f"last is {run_id}: gender lr=0.1" in ended.err) == (name == "last")
    for name in ("last", sweep[:20]):
        for typed in (
            ["report", name],
            ["summarize", "--sweep", name],
            ["rerun", "--dry-run", "--sweep", name],
        ):
            assert nnexp(*typed).status == 0, typed
    assert package.load_network("last").predict([[128, 63]]).keys() >= {"label"}


def test_show_takes_a_sweep_too(nnexp, store, three_wide_fails):
    nnexp("train", *QUICK)
    sweep = swept(nnexp("train", "-m", "epochs=5", "hidden=[2],[3]", "seed=1,2", "figures=false"))
    ended = nnexp("show", "last")
    assert ended.status == 0
    assert ended.err.startswith(f"last is {sweep}: sweep: 4 runs over hidden, seed")
    for words in (
        f"sweep {sweep}: 4 runs, 2 done, 2 failed",
        "  hidden                     [2], [3]",
        "median_low",
        "best run\n  gender lr=0.1 init=normal seed=",
        "MemoryError: no room",
        "nnexp.command",
    ):
        assert words in ended.out


def test_a_beginning_of_several_ids_is_refused_and_names_them(nnexp, store):
    first, second = ran(nnexp("train", *QUICK)), ran(nnexp("train", *QUICK, "seed=1"))
    ended = nnexp("show", first[:4])
    assert ended.status == 2
    assert f"{first[:4]}: 2 ids begin like this: {first}, {second}; type more of it" in ended.err
    assert "no run 'ffff' in this store" in nnexp("show", "ffff").err


def test_the_list_has_sweeps_and_single_runs_the_newest_first(nnexp, store, three_wide_fails):
    runs = [ran(nnexp("train", *QUICK))]
    sweep = swept(nnexp("train", *SWEEP, "experiment_name=foo"))
    runs.append(ran(nnexp("train", *QUICK, "learning_rate=1")))
    nnexp("train", *QUICK, "hidden=[3]")
    listed = json.loads(nnexp("list", "--format", "json").out)
    assert [row["id"] for row in listed][1:] == [runs[1], sweep, runs[0]]
    assert [row["state"] for row in listed] == ["failed", "finished", "finished", "finished"]
    assert [row["experiment"] for row in listed] == ["nnexp", "nnexp", "foo", "nnexp"]
    losses = package.load_runs(sweep=sweep)["loss"]
    assert listed[2]["best"] == losses.min()
    with sqlite3.connect(store) as connection:  # as for a running sweep
        connection.execute("DELETE FROM latest_metrics WHERE key = 'best_loss'")
    again = json.loads(nnexp("list", "--format", "json", "--experiment", "foo").out)
    assert [row["best"] for row in again] == [losses.min()]
    table = nnexp("list", "-n", "2").out.splitlines()
    assert table[0].split() == ["when", "name", "state", "best", "metric", "id"]
    assert len(table) == 4


def test_the_list_has_the_metric_that_decides_what_is_best(nnexp, store):
    split = ["dataset=xor", "validation_fraction=0.25", "split_seed=1"]
    alone = ran(nnexp("train", *QUICK, *split))
    sweep = swept(nnexp("train", "-m", *QUICK, *split, "seed=1,2,3"))
    expected = package.load_runs(sweep=sweep)["val_loss"].min()
    listed = json.loads(nnexp("list", "--format", "json").out)
    assert [(row["id"], row["metric"]) for row in listed] == [(sweep, "val_loss"), (alone, "val_loss")]
    assert listed[0]["best"] == expected
    with sqlite3.connect(store) as connection:  # as for a running sweep
        connection.execute("DELETE FROM latest_metrics WHERE key LIKE 'best_%loss'")
    again = json.loads(nnexp("list", "--format", "json").out)[0]
    assert (again["metric"], again["best"]) == ("val_loss", expected)


def test_a_list_shows_what_it_can_of_a_record_with_wrong_types(nnexp, store):
    run_id = ran(nnexp("train", *QUICK))
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE runs SET start_time = 'long ago', name = NULL")
        connection.execute("UPDATE latest_metrics SET value = 'low'")
    (row,) = json.loads(nnexp("list", "--format", "json").out)
    assert (row["id"], row["when"], row["best"]) == (run_id, "", None)


def test_an_empty_store_has_an_empty_list(nnexp, store):
    ended = nnexp("list", "--format", "json")
    assert (ended.status, ended.out, ended.err) == (0, "[]\n", "nothing is recorded there yet\n")


def test_a_server_and_a_database_give_the_same_list_and_ids(nnexp, store):
    sweep, run_id = swept(nnexp("train", *SWEEP)), ran(nnexp("train", *QUICK))
    there = open_store(f"sqlite:///{store}", create=False)
    by_client = Store(there.uri, there.artifact_root, is_known=False)
    assert isinstance(by_client.client, MlflowClient)
    for kind in ("run", "sweep", "any"):
        assert entries(by_client, kind, 9) == entries(there, kind, 9)
        assert get_newest(by_client, kind) == get_newest(there, kind)
    for one in (there, by_client):
        assert whole_id(one, sweep[:8], "sweep") == sweep
        assert whole_id(one, run_id[:20]) == run_id
        assert whole_id(one, "fff") == "fff"
