"""Describe where a result came from: the code, the lock file, the machine. Collected once per command.

It is recorded on a single run, and on a sweep's parent for all of its runs. No environment variables are
recorded, and passwords are masked.
"""

from __future__ import annotations

import hashlib
import platform
import shlex
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nnexp.config.paths import CHECKOUT
from nnexp.config.text import masked_arguments
from nnexp.network import engine
from nnexp.pipeline.git import checkout, diff
from nnexp.tracking.tables import MAX_TAG

# The tag with the device that trained.
DEVICE = "nnexp.device"
PACKAGES = ("nnexp", "numpy", "numba", "mlflow", "hydra-core")


@cache
def provenance() -> dict[str, str]:
    """Return the tags that describe this process; outside a checkout, without those of git."""
    build = np.show_config(mode="dicts")
    blas = build["Build Dependencies"]["blas"]
    tags = {
        "nnexp.command": command(),
        "nnexp.python": platform.python_version(),
        "nnexp.platform": platform.platform(),
        "nnexp.cpu": _cpu(),
        "nnexp.cpu_features": " ".join(build["SIMD Extensions"].get("found", [])),
        "nnexp.threads": str(engine.default_threads()),
        "nnexp.blas": f"{blas.get('name', 'none')} {blas.get('version', '')}".strip(),
        "nnexp.engine": engine.VERSION,
        "nnexp.generator": "NumPy's RandomState (MT19937), from the param seed",
    }
    tags |= {f"nnexp.version.{name}": version(name) for name in PACKAGES}
    if lock := lock_file():
        tags["nnexp.lock_sha256"] = hashlib.sha256(lock).hexdigest()
    here = checkout()
    if here is not None:
        tags["nnexp.git_dirty"] = "true" if here.is_dirty else "false"
        if here.commit:
            tags["nnexp.git_commit"] = tags["mlflow.source.git.commit"] = here.commit
        if here.branch:
            tags["nnexp.git_branch"] = tags["mlflow.source.git.branch"] = here.branch
    if diff():
        tags["nnexp.git_diff_sha256"] = hashlib.sha256(diff()).hexdigest()
    return tags


def lock_file() -> bytes:
    """Return the bytes of the checkout's requirements.lock; empty outside a checkout."""
    path = None if CHECKOUT is None else CHECKOUT / "requirements.lock"
    return b"" if path is None or not path.exists() else path.read_bytes()


def code_files() -> dict[str, bytes]:
    """Return the artifacts beside the tags: uncommitted changes, and a command line too long for a tag."""
    files = {"git.diff": diff()} if diff() else {}
    return files | ({"command.txt": command().encode()} if len(command()) > MAX_TAG else {})


def command() -> str:
    """Return the command line, quoted so that it can be typed again, with passwords masked."""
    _, program, *arguments = [*sys.orig_argv, ""][:2] + sys.orig_argv[2:]
    return shlex.join([Path(program).name, *masked_arguments(arguments)])


def _cpu() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()  # Linux only
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
