"""Where a result came from: the code, the lock file, the machine. Gathered once a command, on every run."""

from __future__ import annotations

import hashlib
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nnexp.dataset import PROJECT
from nnexp.tracking.store import masked

PACKAGES = ("numpy", "numba", "mlflow", "hydra-core")


@cache
def provenance() -> dict[str, str]:
    """Tags of this process. Git's are absent outside a checkout."""
    tags = {
        "nnexp.command": command(),
        "nnexp.python": platform.python_version(),
        "nnexp.platform": platform.platform(),
        "nnexp.cpu_features": " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])),
    }
    tags |= {f"nnexp.version.{name}": version(name) for name in PACKAGES}
    lock = PROJECT / "requirements.lock"
    if lock.exists():
        tags["nnexp.lock_sha256"] = hashlib.sha256(lock.read_bytes()).hexdigest()
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["nnexp.git_commit"] = tags["mlflow.source.git.commit"] = commit
        tags["nnexp.git_dirty"] = "true" if _git("status", "--porcelain") else "false"
    return tags


def command() -> str:
    """The command line, fit to be typed again, without passwords."""
    _, program, *arguments = [*sys.orig_argv, ""][:2] + sys.orig_argv[2:]
    return masked(shlex.join([Path(program).name, *arguments]))


def _git(*arguments: str) -> str:
    """Git's answer, empty where there is no git or no checkout."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
