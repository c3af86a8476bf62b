"""Hostile records are refused in plain words or shown; nothing is executed or written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program.hostile.corpus import CANARY, CONFIGS, SECRET, WEIGHTS

pytestmark = pytest.mark.slow

HOSTILE = Path(__file__).with_name("hostile")

# One process runs all cases for all tests.

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# The exit statuses of commands that read what a case spoils: 2, refused; 1, a rerun that differs or is
# impossible. All other commands end with 0.
TABLES = ("summarize", "summarize csv", "summarize markdown", "summarize json")
ENDS = {
    "config": {"dry rerun": 1, "rerun": 2},
    "weights": {"show": 2, "predict": 2, "rerun": 1},
    "elsewhere": {"show": 2, "predict": 2, "dry rerun": 2},
    "type": {"show": 2, "predict": 2, "dry rerun": 2, "bundle": 2} | dict.fromkeys(TABLES, 2),
    "time": {"show": 2} | dict.fromkeys(TABLES, 2),  # show looks for runs of the same setting
    "run id": {"show": 2, "predict": 2, "dry rerun": 2},
    # An interpolation in a text stays text; the data set is the copy that the record keeps.
    "config: environment": {},
    "config: a device for data": {},
    "config: another's file for data": {},
    "config: nothing for data": {},
    "config: a long path for data": {},
    # The only run is left out, and named.
    "shown: params that lie": dict.fromkeys(TABLES, 2),
}


@pytest.fixture(scope="module")
def results(empty_store, tmp_path_factory):
    """The result of every command on every case."""
    directory = tmp_path_factory.mktemp("hostile")
    (directory / "store").mkdir()
    (directory / "store" / "mlflow.db").write_bytes(empty_store.read_bytes())
    drive = [sys.executable, HOSTILE / "drive.py", directory]
    done = subprocess.run(drive, check=True, capture_output=True, text=True)
    assert not list(directory.rglob(f"{CANARY}*"))
    return json.loads(done.stdout)


def hostile(results):
    return {name: result for name, result in results.items() if name not in ("good", "watch")}


def test_every_verb_reads_the_good_record_and_the_watch_works(results):
    assert {name: ended["status"] for name, ended in results["good"].items() if ended["status"]} == {}
    assert [event.split()[0] for event in results["watch"]["seen"]] == ["os.system", "open"]
    assert len(CONFIGS) + len(WEIGHTS) >= 40


def test_nothing_is_executed_and_nothing_is_written(results):
    assert {name: result["seen"] for name, result in hostile(results).items() if result["seen"]} == {}
    assert [name for name, result in hostile(results).items() if result["is_changed"]] == []


def test_no_record_makes_the_program_use_150_mb_more_memory(results):
    more = {name: result["more_megabytes"] for name, result in hostile(results).items()}
    assert {name: megabytes for name, megabytes in more.items() if megabytes > 150} == {}


def test_a_command_refuses_hostile_values_that_it_reads_and_ignores_others(results):
    wrong = []
    for name, result in hostile(results).items():
        ends = ENDS.get(name, ENDS.get(name.split(":")[0], {}))
        for command, ended in result["ended"].items():
            if ended["status"] != ends.get(command, 0):
                wrong.append((name, command, ended["status"], ended["out"][-200:], ended["err"]))
    assert wrong == []


def test_a_refusal_is_one_or_two_plain_lines(results):
    for name, result in hostile(results).items():
        for command, ended in result["ended"].items():
            said = ended["err"]
            assert ("Traceback" in said, "Error:" in said and "No such option" not in said) == (False,) * 2, (
                name
            )
            assert len(said) < 600, (name, command, said)
            assert ended["status"] != 2 or said.startswith(("nnexp: ", "Usage: ", "note: run ")), (
                name,
                command,
                said,
            )


def test_no_output_has_control_characters_or_text_of_other_files(results):
    for name, result in hostile(results).items():
        for command, ended in result["ended"].items():
            printed = ended["out"] + ended["err"]
            assert not OBEYED.search(printed), (name, command, OBEYED.search(printed))
            assert SECRET not in printed, (name, command)


def test_markup_and_formulas_in_tables_are_inert(results):
    markdown = results["shown: escapes in a param"]["ended"]["summarize markdown"]["out"]
    assert not re.search(r"<script|\]\(", markdown)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines()}) == 1
    table = results["shown: formula in a param"]["ended"]["summarize csv"]["out"]
    assert table.splitlines()[1].startswith("'=cmd|")
