"""`nnexp new DIR` writes a project that runs at once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = ["Makefile", "conf/dataset/disc.yaml", "conf/experiment/widths.yaml", "data/disc.csv"]


def test_a_new_project_has_a_data_set_an_experiment_a_table_and_a_makefile(nnexp, tmp_path):
    ended = nnexp("new", "mine")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines() == [f"wrote mine: {', '.join(FILES)}", "  cd mine && make run"]
    found = sorted(p.relative_to(tmp_path / "mine").as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert found == FILES
    targets = re.findall(r"^(\w+):", (tmp_path / "mine" / "Makefile").read_text(), re.MULTILINE)
    assert targets == ["run", "ui"]


def test_the_new_projects_experiment_runs_and_answers_its_question(nnexp, store, tmp_path, monkeypatch):
    nnexp("new", "mine")
    monkeypatch.chdir(tmp_path / "mine")
    ended = nnexp("train", "experiment=widths", "figures=false")
    assert (ended.status, "20 runs: 20 new" in ended.err) == (0, True), ended.err
    solved = dict(re.findall(r"^[*~]? +(\[\d\]).* (\d+)%(?: \(\d+-\d+\))?$", ended.out, re.MULTILINE))
    assert (solved["[1]"], solved["[6]"]) == ("0", "100")


def test_the_new_projects_makefile_calls_this_nnexp_even_if_the_name_finds_none(nnexp, tmp_path, monkeypatch):
    place = tmp_path / "a directory of $mine"
    for path, called in ((os.environ["PATH"], r".*"), (str(Path(sys.executable).parent), "nnexp")):
        monkeypatch.setenv("PATH", path)
        nnexp("new", str(place))
        line = (place / "Makefile").read_text().splitlines()[0]
        assert re.fullmatch(rf"NNEXP \?= {called}", line)
        for file in FILES:
            (place / file).unlink()
        for name in ("conf/dataset", "conf/experiment", "conf", "data"):
            (place / name).rmdir()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    nnexp("new", str(place))
    said = subprocess.run(["make", "-n", "run"], cwd=place, capture_output=True, text=True, check=True).stdout
    assert said == f"{Path(sys.executable).with_name('nnexp')} train experiment=widths\n"


@pytest.mark.parametrize("there", ["file", "directory"])
def test_an_existing_directory_with_files_is_refused_and_not_changed(nnexp, tmp_path, there):
    if there == "file":
        (tmp_path / "mine").write_text("precious")
    else:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "conf").write_text("precious")
    ended = nnexp("new", "mine")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "nnexp: mine: exists already; name a new or an empty directory\n"
    assert len(list(tmp_path.rglob("*"))) == (1 if there == "file" else 2)


def test_a_directory_that_cannot_be_written_is_refused(nnexp, tmp_path):
    (tmp_path / "file").write_text("")
    ended = nnexp("new", "file/mine")
    assert (ended.status, "file/mine: cannot be written: " in ended.err) == (2, True)
