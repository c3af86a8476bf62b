"""Every command and Python block of the README and of docs/ runs, and prints what the page shows.

A page is run from its first block to its last, in its own directory and store. The kinds of blocks (see
CONTRIBUTING.md, "Write documentation"):

- `sh` blocks and blocks indented by four blanks are run by a shell; `python` blocks share one namespace;
- a `text` block is the shortened output of the block before it: these lines in this order, `…` for any text;
- a block of any other language names a file after the language, and is written into it;
- `<!-- exit 2 -->` before a block: its last command ends with this status;
- `<!-- not run: REASON -->` before a block: it cannot run in a test.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))]
TARGETS = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
# The most blocks that may be marked as not run.
MOST_NOT_RUN = 12


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    page: str
    line: int
    language: str
    file: str  # what the block is to be written into, or nothing
    text: str
    notes: str = ""  # the HTML comments right before it

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def not_run(self) -> str:
        found = re.search(r"<!-- not run: (.+?) -->", self.notes)
        return found[1] if found else ""

    @property
    def status(self) -> int:
        found = re.search(r"<!-- exit (\d+) -->", self.notes)
        return int(found[1]) if found else 0


def blocks(path: Path) -> list[Block]:
    """Return the code blocks of a page, in order: fenced ones, and those indented by four blanks."""
    page, found, notes = str(path.relative_to(PROJECT)), list[Block](), ""
    lines = path.read_text(encoding="utf-8").splitlines()
    i = 0
    while i < len(lines):
        line, first = lines[i], i + 1
        if fence := re.fullmatch(r"```(\w*) ?(.*)", line):
            end = lines.index("```", first)
            found.append(Block(page, first, fence[1], fence[2], "\n".join(lines[first:end]), notes))
            i, notes = end, ""
        elif line.startswith("    ") and not lines[i - 1].strip():
            end = next((j for j in range(i, len(lines)) if not lines[j].startswith("    ")), len(lines))
            text = "\n".join(part[4:] for part in lines[i:end])
            found.append(Block(page, first, "sh", "", text, notes))
            i, notes = end - 1, ""
        elif line.strip():
            notes = f"{notes}\n{line}" if line.startswith("<!--") else ""
        i += 1
    return found


ALL = {str(path.relative_to(PROJECT)): blocks(path) for path in PAGES}


def commands(text: str) -> list[str]:
    """Return the commands of a block: its lines without comments, joined after a backslash."""
    joined = text.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not line.lstrip().startswith("#")]


def says(printed: str, expected: str) -> bool:
    """Return whether the lines are printed in this order; `…` stands for any text, blanks count as one."""
    flat = " ".join(printed.split())
    parts = [re.escape(" ".join(line.split())).replace("…", ".*?") for line in expected.splitlines()]
    return re.search(".*?".join(filter(None, parts)), flat) is not None


@dataclass
class Reader:
    """Runs the blocks of a page in this directory."""

    nnexp: Any
    patch: pytest.MonkeyPatch
    names: dict[str, Any] = field(default_factory=dict)

    def follow(self, block: Block) -> str:
        """Run the block; return what it printed."""
        if block.language == "sh":
            typed = commands(block.text)
            printed = []
            for i, line in enumerate(typed):
                status, text = self.typed(line)
                expected = block.status if i == len(typed) - 1 else 0
                assert status == expected, f"{block.where}: {line}\nended with {status}:\n{text}"
                printed.append(text)
            return "".join(printed)
        if block.language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(block.text, block.where, "exec"), self.names)
            return out.getvalue()
        assert block.file, f"{block.where}: a block of {block.language or 'no language'} that names no file"
        Path(block.file).parent.mkdir(parents=True, exist_ok=True)
        Path(block.file).write_text(block.text + "\n", encoding="utf-8")
        return ""

    def typed(self, line: str) -> tuple[int, str]:
        """Run a line: nnexp in this process, other programs in a shell."""
        words = shlex.split(line, comments=True)
        if words[0] == "export":
            for word in words[1:]:
                self.patch.setenv(*word.split("=", 1))
            return 0, ""
        if words[0] == "nnexp" and not set(words) & {"|", "&&", ">"}:
            ended = self.nnexp(*words[1:])
            return ended.status, ended.err + ended.out  # messages come before results
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ended = subprocess.run(
            ["bash", "-c", line],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
            check=False,
        )
        return ended.returncode, ended.stderr + ended.stdout


@pytest.mark.parametrize("page", ALL)
@pytest.mark.usefixtures("blank_pictures")
def test_every_block_runs_and_prints_what_the_page_says(page, nnexp, store, monkeypatch):
    reader, printed = Reader(nnexp, monkeypatch), ""
    last: Block | None = None
    for block in ALL[page]:
        if block.language == "text":
            if last is not None and not last.not_run:
                assert says(printed, block.text), f"{block.where}: printed instead:\n{printed}"
            continue
        last = block
        if not block.not_run:
            printed = reader.follow(block)


def test_few_blocks_are_not_run_and_each_says_why():
    kept = [block for page in ALL.values() for block in page if block.not_run]
    assert len(kept) <= MOST_NOT_RUN, [block.where for block in kept]
    assert all(len(block.not_run) > 10 for block in kept)


def test_blocks_that_are_not_run_have_commands_that_exist():
    for block in [block for page in ALL.values() for block in page if block.not_run]:
        for line in commands(block.text):
            words = shlex.split(line, comments=True)
            if words[0] == "make":
                assert {word for word in words[1:] if "=" not in word} <= set(TARGETS), block.where


def test_every_page_is_reached_from_the_readme():
    reached, todo = set[Path](), [PROJECT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in reached and page.exists():
            reached.add(page)
            links = re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
            todo += [(page.parent / link).resolve() for link in links]
    assert set(PAGES) <= reached


def test_every_link_leads_somewhere():
    for page in [*PAGES, PROJECT / "CHANGELOG.md"]:
        text = page.read_text(encoding="utf-8")
        for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
            target = (page.parent / link).resolve() if link else page
            assert target.exists(), f"{page.name}: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {_anchor(title) for title in titles}, f"{page.name}: {link}#{anchor}"


def _anchor(title: str) -> str:
    """Return the anchor of a heading, as links name it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    ("printed", "expected", "is_said"),
    [
        ("loss  0.5\nrun 17\n", "loss 0.5\nrun …", True),
        ("loss 0.5", "loss 0.6", False),
        ("b\na", "a\nb", False),
    ],
)
def test_the_expected_lines_of_a_page_are_compared_in_order(printed, expected, is_said):
    assert says(printed, expected) is is_said
