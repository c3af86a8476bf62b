"""Describe the checkout that this code runs from: its commit, its branch, its uncommitted changes."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache

from nnexp.config.errors import RequestError
from nnexp.config.paths import CHECKOUT
from nnexp.config.text import looks_secret, masked

# A diff is cut after MAX_DIFF bytes, a list of untracked files after MAX_NAMES names.
MAX_DIFF, MAX_NAMES = 1_000_000, 1000
# Files that are taken to hold passwords or keys, whatever their content.
_SECRET_FILE = re.compile(
    r"\.env(\..*)?|.*\.(pem|key|p12|pfx|ppk|jks|keystore|kdbx)|id_(rsa|dsa|ecdsa|ed25519)"
    r"|[._]?netrc|\.pgpass|\.npmrc|\.pypirc|\.htpasswd|\.git-credentials|\.?(credentials|secrets?)(\..*)?"
)


@dataclass(frozen=True)
class Checkout:
    """The state of the checkout. `commit` is empty before the first commit, `branch` on a detached HEAD.

    Ignored files are not listed.
    """

    commit: str
    branch: str
    changed: tuple[str, ...]  # tracked files
    untracked: tuple[str, ...]

    @property
    def is_dirty(self) -> bool:
        return bool(self.changed or self.untracked)


@cache
def checkout() -> Checkout | None:
    """Return the checkout as it is at the first call; None outside a checkout or without git."""
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
        else:  # XY, submodule, three modes, two hashes, and the path; a conflict has two more fields
            changed.append(rest.split(" ", 9 if kind == "u" else 7)[-1])
    commit, branch = heads.get("branch.oid", ""), heads.get("branch.head", "")
    return Checkout(commit, branch, tuple(changed), tuple(untracked))


@cache
def diff() -> bytes:
    """Return the uncommitted changes as a patch for `git apply`, preceded by the names of untracked files.

    Hunks that seem to contain a password or a key are left out, and named. Empty if all is committed.
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
        patch = patch[: patch.rfind(b"\n", 0, MAX_DIFF) + 1]  # half a token is not recognised as a secret
    kept, withheld = _without_secrets(patch.decode(errors="replace"))
    lines += [f"Left out, since it seems to contain a password or a key: {what}" for what in withheld]
    return (masked("\n".join(lines)) + "\n\n" + kept).encode()


def _without_secrets(patch: str) -> tuple[str, list[str]]:
    """Return the patch without the hunks that seem to hold a secret, and a description of those."""
    kept, withheld = [], []
    for file in re.split(r"(?m)^(?=diff --git )", patch):
        head, *hunks = re.split(r"(?m)^(?=@@ )", file)
        name = re.split("[/ ]", head.partition("\n")[0])[-1].strip('"')
        is_secret = bool(_SECRET_FILE.fullmatch(name))
        good = [hunk for hunk in hunks if not is_secret and not looks_secret(_text(hunk))]
        if len(good) < len(hunks):
            withheld.append(f"{len(hunks) - len(good)} of {len(hunks)} changes of {name}")
        if good or not hunks:
            kept += [head if masked(head) == head else "", *good]
    return "".join(kept), withheld


def _text(hunk: str) -> str:
    """Return the lines of a hunk without their leading +, - or blank."""
    where, _, lines = hunk.partition("\n")
    return "\n".join([where, *(line[1:] for line in lines.split("\n"))])


def refuse_dirty() -> None:
    """Raise RequestError unless every file of the checkout is committed."""
    here = checkout()
    if here is None:
        where = "nnexp is an installed package" if CHECKOUT is None else f"{CHECKOUT} is not a git checkout"
        raise RequestError(f"require_clean=true: {where}, so the code that runs cannot be identified")
    if here.is_dirty:
        names = [*here.changed, *here.untracked]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise RequestError(
            f"require_clean=true: {', '.join(names[:3])}{more} not committed; commit, stash or ignore "
            f"{'them' if len(names) > 1 else 'it'}"
        )


def _git(*arguments: str) -> bytes | None:
    """Return git's output, at most one byte more than MAX_DIFF; None without git or outside a checkout."""
    if CHECKOUT is None:
        return None
    # GIT_… variables, set when a hook runs this, would select another repository, and so would a repository
    # around the checkout.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CEILING_DIRECTORIES": str(CHECKOUT.parent), "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        with subprocess.Popen(command, cwd=CHECKOUT, env=environment, **options) as process:  # type: ignore[call-overload]
            answer: bytes = process.stdout.read(MAX_DIFF + 1)
            is_cut = len(answer) > MAX_DIFF
            if is_cut:
                process.kill()
    except FileNotFoundError:
        return None
    return answer if process.returncode == 0 or is_cut else None
