"""The checkout that this code runs from: its commit, its branch, and what in it is not committed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cache

from nnexp.config.errors import RequestError
from nnexp.config.mask import masked
from nnexp.config.paths import PROJECT

# A diff is cut off after so many bytes, a list of untracked files after so many names.
MAX_DIFF, MAX_NAMES = 1_000_000, 1000


@dataclass(frozen=True)
class Checkout:
    """`commit` is empty before the first one, `branch` where none is checked out. What git ignores is
    nowhere in it."""

    commit: str
    branch: str
    changed: tuple[str, ...]  # tracked files
    untracked: tuple[str, ...]

    @property
    def is_dirty(self) -> bool:
        return bool(self.changed or self.untracked)


@cache
def checkout() -> Checkout | None:
    """As it is when this is first called; None where the code is in no checkout, or there is no git."""
    text = _git("status", "--porcelain=v2", "--branch", "--untracked-files=all", "--no-renames")
    if text is None:
        return None
    heads: dict[str, str] = {}
    changed, untracked = [], []
    for line in text.decode(errors="replace").splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "#":
            name, _, value = rest.partition(" ")
            heads[name] = "" if value.startswith("(") else value  # (initial), (detached)
        elif kind == "?":
            untracked.append(rest)
        else:  # XY, submodule, three modes, two hashes, and the path; of a conflict some more
            changed.append(rest.split(" ", 9 if kind == "u" else 7)[-1])
    commit, branch = heads.get("branch.oid", ""), heads.get("branch.head", "")
    return Checkout(commit, branch, tuple(changed), tuple(untracked))


@cache
def diff() -> bytes:
    """What is not committed, as a patch that `git apply` takes, after the names of the untracked files.

    Passwords in it are masked. Empty where all is committed.
    """
    here = checkout()
    if here is None or not here.is_dirty:
        return b""
    lines = ["Not committed when this was recorded."]
    lines += [f"Untracked, and not below: {name}" for name in here.untracked[:MAX_NAMES]]
    lines += [f"… and {len(here.untracked) - MAX_NAMES} more"] * (len(here.untracked) > MAX_NAMES)
    since = here.commit or "--cached"
    patch = (
        (_git("diff", "--no-color", "--no-ext-diff", "--no-textconv", since) or b"") if here.changed else b""
    )
    if len(patch) > MAX_DIFF:
        lines.append(f"Cut off after {MAX_DIFF} bytes.")
    text = "\n".join(lines) + "\n\n" + patch[:MAX_DIFF].decode(errors="replace")
    return masked(text).encode()


def refuse_dirty() -> None:
    """Raise RequestError unless every file of the checkout is committed."""
    here = checkout()
    if here is None:
        raise RequestError(f"require_clean=true: {PROJECT} is not a git checkout, so nothing says what ran")
    if here.is_dirty:
        names = [*here.changed, *here.untracked]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise RequestError(
            f"require_clean=true: {', '.join(names[:3])}{more} not committed; commit, stash or ignore "
            f"{'them' if len(names) > 1 else 'it'}"
        )


def _git(*arguments: str) -> bytes | None:
    """Git's answer, at most a byte more than MAX_DIFF; None where there is no git or no checkout."""
    # A hook's variables would lead to another repository, as would one that the project merely lies in.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CEILING_DIRECTORIES": str(PROJECT.parent), "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        with subprocess.Popen(command, cwd=PROJECT, env=environment, **options) as process:  # type: ignore[call-overload]
            answer: bytes = process.stdout.read(MAX_DIFF + 1)
            is_cut = len(answer) > MAX_DIFF
            if is_cut:
                process.kill()
    except FileNotFoundError:
        return None
    return answer if process.returncode == 0 or is_cut else None
