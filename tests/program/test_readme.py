"""What the README promises is what the program prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nnexp.config.paths import CHECKOUT
from tests.faults import matrix as faults
from tests.faults.standing import Undisturbed

pytestmark = pytest.mark.slow

TEXT = (CHECKOUT / "README.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| `((?:nnexp|python -c) .+?)` \| (.+?) \|$", TEXT, re.MULTILINE)


@pytest.mark.parametrize(("command", "value"), [row[1:] for row in ROWS], ids=[row[1] for row in ROWS])
def test_the_articles_table_holds(nnexp, store, command, value):
    if command.startswith("python -c "):
        code = command.removeprefix("python -c ").strip('"')
        printed = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    else:
        ended = nnexp(*command.removeprefix("nnexp ").split())
        assert ended.status == 0
        printed = ended.out
    if value.startswith("["):  # a report
        told, path = re.fullmatch(r"\[(\d+) of \d+ seeds\]\((.+)\)", value).groups()
        assert f"Of 20 seeds, {told} end" in (CHECKOUT / path).read_text()
        return
    for part in value.split(", "):
        words = part.split(" ")
        assert re.search(r".*".join(map(re.escape, words)), printed), part


def test_there_are_rows_to_test():
    assert len(ROWS) == 7


def test_every_target_and_path_named_exists():
    targets = re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^    )make ([a-z]+)", TEXT, re.MULTILINE)) <= set(targets)
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert Path(CHECKOUT, link).exists(), link


def test_the_fault_matrix_lists_every_row_with_its_expected_end():
    assert "(tests/faults/faults.md)" in TEXT
    table = (CHECKOUT / "tests" / "faults" / "faults.md").read_text()
    for fault in faults.faults(1, Undisturbed(1.0, 1.0, 1.0, "", b"", {})):
        assert f"| {fault.name} | {fault.end} | " in table
        assert len(fault.end) > 20


@pytest.mark.parametrize("table", ["engine.md", "sweep.md"])
def test_the_speed_tables_are_what_the_benchmarks_wrote(table):
    assert (CHECKOUT / "tests" / "benchmarks" / table).read_text().strip() in TEXT
