"""The name, the question and the tags that a user gives to runs and sweeps."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import QUICK

pytestmark = pytest.mark.slow


@pytest.fixture
def client(store):
    return MlflowClient(f"sqlite:///{store}")


NAMED = ["name=widths", 'question="How wide, and *why*?"', "tags={team: blue, ticket: 12}"]


def labels(client, run_id):
    run = client.get_run(run_id)
    return run.info.run_name, run.data.tags


def test_a_sweep_has_the_name_the_question_and_the_tags_that_are_typed(nnexp, store, client):
    sweep_id = nnexp("train", "-m", *QUICK, "seed=1,2", *NAMED).out.split("as sweep ")[1].split()[0]
    name, tags = labels(client, sweep_id)
    assert (name, tags["team"], tags["ticket"]) == ("widths", "blue", "12")
    assert tags["nnexp.question"] == "How wide, and *why*?"
    assert tags["mlflow.note.content"].startswith("**Question:** How wide, and \\*why\\*?")
    report = Path(client.download_artifacts(sweep_id, "report.html")).read_text()
    assert "<title>widths</title>" in report
    assert "How wide, and *why*?" in report
    children = client.search_runs([client.get_run(sweep_id).info.experiment_id], "tags.`nnexp.run_key` != ''")
    assert not any({"team", "nnexp.question"} & child.data.tags.keys() for child in children)


def test_the_value_of_a_tag_with_the_name_of_a_secret_is_masked(nnexp, store, client):
    typed = nnexp("train", *QUICK, "tags={api_token: correct-horse, team: 'http://me:battery@host'}")
    _, tags = labels(client, typed.out.split("recorded as ")[1].split()[0])
    assert (tags["api_token"], tags["team"]) == ("***", "http://me:***@host")


def test_a_finished_sweep_gets_the_name_and_the_question_of_a_later_command(nnexp, store, client):
    sweep_id = nnexp("train", "-m", *QUICK, "seed=1,2").out.split("as sweep ")[1].split()[0]
    ended = nnexp("train", "-m", *QUICK, "seed=1,2", *NAMED)
    assert f"as sweep {sweep_id}" in ended.out
    name, tags = labels(client, sweep_id)
    assert (name, tags["team"], tags["nnexp.outcome"]) == ("widths", "blue", "complete")
    assert tags["mlflow.note.content"].startswith("**Question:** How wide")
    assert "How wide" in Path(client.download_artifacts(sweep_id, "report.html")).read_text()
    assert labels(client, nnexp("train", "-m", *QUICK, "seed=1,2").out.split("as sweep ")[1].split()[0]) == (
        name,
        tags,
    )


def test_a_single_run_has_a_name_and_tags_which_do_not_change_its_key(nnexp, store, client):
    run_id = nnexp("train", *QUICK, *NAMED).out.split("recorded as ")[1].split()[0]
    name, tags = labels(client, run_id)
    assert (name, tags["team"], tags["mlflow.note.content"]) == ("widths", "blue", "How wide, and *why*?")
    ended = nnexp("train", *QUICK, "name=other", "tags={team: red}")
    assert f"recorded as {run_id}" in ended.out
    name, tags = labels(client, run_id)
    assert (name, tags["team"], tags["ticket"]) == ("other", "red", "12")
    assert nnexp("rerun", run_id).status == 0


def test_an_experiment_file_may_have_a_name_a_question_and_tags(nnexp, store, client, tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "own.yaml").write_text(
        "# @package _global_\n# A comment.\nname: mine\nquestion: Which seed?\ntags: {a: b}\nepochs: 20\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n"
    )
    ended = nnexp("train", "experiment=own", "figures=false")
    name, tags = labels(client, ended.out.split("as sweep ")[1].split()[0])
    assert (name, tags["nnexp.question"], tags["a"]) == ("mine", "Which seed?", "b")
    assert "add to them" in nnexp("train", "experiment=own", "tags={c: d}").err
    ended = nnexp("train", "experiment=own", "figures=false", "++tags={c: d}")
    tags = labels(client, ended.out.split("as sweep ")[1].split()[0])[1]
    assert (tags["a"], tags["c"]) == ("b", "d")


def test_several_names_for_one_sweep_are_refused(nnexp, store):
    ended = nnexp("train", "-m", *QUICK, "name=a,b")
    assert (ended.status, "name: must have one value for the whole sweep" in ended.err) == (2, True)
