"""The README and docs/ agree with what the program prints and with the benchmarks' tables."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import matrix as faults
from tests.faults.standing import Undisturbed

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
README = (PROJECT / "README.md").read_text()
PAGES = {
    path: path.read_text()
    for path in [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
}
TUTORIAL = PAGES[DOCS / "tutorial.md"]
ROWS = re.findall(r"^\| (.+?) \| `((?:nnexp|python -c) .+?)` \| (.+?) \|$", TUTORIAL, re.MULTILINE)


@pytest.mark.parametrize(("command", "value"), [row[1:] for row in ROWS], ids=[row[1] for row in ROWS])
def test_the_articles_table_holds(nnexp, store, command, value):
    if command.startswith("python -c "):
        code = command.removeprefix("python -c ").strip('"')
        printed = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    else:
        is_large = ["plan=true"] * value.startswith("[")
        ended = nnexp(*command.removeprefix("nnexp ").split(), *is_large)
        assert ended.status == 0
        printed = ended.out
    if value.startswith("["):  # a report
        told, n, path = re.fullmatch(r"\[(\d+) of ([\d,]+) seeds\]\((.+)\) get one wrong", value).groups()
        assert f"Of {n} seeds {told} take" in (DOCS / path).read_text()
        return
    for part in value.split(", "):
        words = part.split(" ")
        assert re.search(r".*".join(map(re.escape, words)), printed), part


def test_there_are_rows_to_test():
    assert len(ROWS) == 7


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 130


def test_every_target_and_path_named_exists():
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    for page, text in PAGES.items():
        assert set(re.findall(r"(?:`|^    |^)make ([a-z-]+)", text, re.MULTILINE)) <= set(targets)
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / link).exists(), f"{page}: {link}"
    text = "".join(PAGES.values())
    written = set(re.findall(r"^```\w+ (\S+)$", text, re.MULTILINE))  # by the reader, as the page says
    for file in re.findall(r"`((?:nnexp|tests|conf|experiments|docs)/[\w./-]+)`", text):
        assert file in written or "NAME" in file or (PROJECT / file).exists() or file == "conf/experiment/", (
            file
        )


def test_the_experiment_shown_in_the_docs_is_the_shipped_one():
    shown = re.findall(
        r"^```yaml (experiments/\S+)\n(.+?)^```$", "".join(PAGES.values()), re.MULTILINE | re.DOTALL
    )
    shipped = [(file, text) for file, text in shown if (PROJECT / file).exists()]  # others the reader writes
    assert len(shipped) == 1
    for file, text in shipped:
        assert (PROJECT / file).read_text() == text, file


def test_the_fault_matrix_lists_every_row_with_its_expected_end():
    assert "(../../tests/faults/faults.md)" in PAGES[DOCS / "why" / "recording.md"]
    table = (PROJECT / "tests" / "faults" / "faults.md").read_text()
    for fault in faults.faults(1, Undisturbed(1.0, 1.0, 1.0, "", b"", {})):
        assert f"| {fault.name} | {fault.end} | " in table
        assert len(fault.end) > 20


@pytest.mark.parametrize(
    ("table", "page"), [("engine.md", "bits.md"), ("tables.md", "bits.md"), ("sweep.md", "recording.md")]
)
def test_the_speed_tables_are_what_the_benchmarks_wrote(table, page):
    assert (PROJECT / "tests" / "benchmarks" / table).read_text().strip() in PAGES[DOCS / "why" / page]


def test_the_readmes_speeds_and_results_are_those_of_the_tables():
    written = "".join(
        (PROJECT / "tests" / "benchmarks" / name).read_text()
        for name in ("engine.md", "tables.md", "sweep.md")
    )
    speeds = README.partition("## How fast")[2].partition("`make bench`")[0]
    found = re.findall(r"(?<![\w.-])(\d[\d,]*\.\d+) (?:ns|ms|s)\b", speeds)
    assert len(found) == 11
    assert [number for number in found if f" {number} " not in written] == []
    report = (PROJECT / "experiments" / "reports" / "real_tables.md").read_text()
    rows = re.findall(r"^\| ([*~ ] \| relu +\|.+)\|$", README, re.MULTILINE)
    assert len(rows) == 6
    lines = [line.split("|")[1:-1] for line in report.splitlines() if "| wine" in line]
    whole = [[cell.strip() for cell in line] for line in lines]
    # The README leaves out the data set, iqm, min, max and val_solved.
    shorter = [[line[0], *line[2:9], *line[10:12]] for line in whole]
    for row in rows:
        assert [cell.strip() for cell in row.split("|")] in shorter
