"""Train the same 200 runs on other machines, and compare every number with this machine's: make
test-machines.

usage: python -m tests.machines.compare [TEXT]      only the machines with TEXT in their name

| machine | what it is |
|---|---|
| without FMA | this CPU, where glibc and Numba are told that it has neither AVX nor FMA |
| oldest | the oldest NumPy and Numba that pyproject.toml allows, on the oldest Python and on the newest |
| newest | the NumPy and Numba of requirements.lock, on newer Pythons |
| ARM | 64-bit ARM, emulated by qemu-user: arm64 packages unpacked into a folder, and aarch64 wheels |

Each draws from 20,000 seeds, runs the canary and trains (see hashes.py). The machines' files are kept in
.machines/. Exit status 1 unless all are equal. An unavailable machine is skipped, with the reason, unless
NNEXP_CI is set. For how many seeds NumPy's own normal draws are equal is only printed, since without FMA
glibc has another log.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from nnexp.config.paths import CHECKOUT
from nnexp.config.recorded import SCHEMA
from nnexp.network.engine.batch import VERSION
from nnexp.network.engine.canary import CANARIES
from tests.faults.rerun_everything import everything

PLACE = CHECKOUT / ".machines"
RUNS, SEEDS = 200, 20_000
OLDEST, NEWEST = ["3.11", "3.13"], ["3.12", "3.13"]
NEEDED = ("numpy", "numba", "pyyaml")
NO_FMA = {
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F,-FMA4",
    "NUMBA_CPU_NAME": "nehalem",
    "NUMBA_CPU_FEATURES": "",
}


class Missing(Exception):
    """The machine is unavailable; the text says why."""


class NoPython(Missing):
    """A Python of this version is not installed."""


@dataclass(frozen=True)
class Machine:
    """A machine: how Python is started there."""

    python: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)


def run(*command: str | Path, **env: str) -> None:
    """Run a command. Raises Missing with its last line if it fails."""
    done = subprocess.run(
        command,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stdout.strip().splitlines() or ["it said nothing"]
        raise Missing(f"{Path(command[0]).name} {command[1]} failed: {said[-1].strip()}")


# --- The machines.


def in_venv(version: str, is_oldest: bool) -> Machine:
    """Prepare another Python, with the oldest packages that are allowed, or with those of the lock file."""
    venv = PLACE / f"{'oldest' if is_oldest else 'newest'}-{version}"
    if not (venv / "installed").exists():
        run(uv(), "venv", "--clear", "--python", find_python(version), venv)
        how = ["--resolution", "lowest-direct"] if is_oldest else locked()
        run(
            uv(),
            "pip",
            "install",
            "--python",
            venv / "bin" / "python",
            "--only-binary",
            ":all:",
            *how,
            *allowed(),
        )
        (venv / "installed").touch()
    return Machine([venv / "bin" / "python"])


def emulated_arm() -> Machine:
    """Prepare 64-bit ARM. apt uses its own state and cache, and nothing is installed on this system."""
    if not (qemu := shutil.which("qemu-aarch64-static")):
        raise Missing("there is no qemu-aarch64-static: apt-get install qemu-user-static")
    root = PLACE / "arm64"
    if not (root / "installed").exists():
        shutil.rmtree(root, ignore_errors=True)
        state, cache = root / "apt" / "state", root / "apt" / "cache"
        (state / "lists" / "partial").mkdir(parents=True)
        (cache / "archives" / "partial").mkdir(parents=True)
        options = ["APT::Architecture=arm64", "APT::Architectures=arm64", "APT::Sandbox::User=root"]
        options += [f"Dir::State={state}", "Dir::State::status=/dev/null", f"Dir::Cache={cache}"]
        apt = ["apt-get", "-q", "-y", *(part for option in options for part in ("-o", option))]
        run(*apt, "update")
        packages = ("python3-minimal", "libpython3-stdlib", "libgomp1", "libstdc++6")
        run(*apt, "install", "--download-only", "--no-install-recommends", *packages)
        for package in (cache / "archives").glob("*.deb"):
            run("dpkg", "-x", package, root)
        version = next((root / "usr" / "bin").glob("python3.*")).name.removeprefix("python")
        there = ["--target", root / "packages", "--python-version", version]
        there += ["--python-platform", "aarch64-manylinux_2_28", "--only-binary", ":all:"]
        run(uv(), "pip", "install", *there, *locked(), *allowed())
        (root / "installed").touch()
    python = next((root / "usr" / "bin").glob("python3.*"))
    return Machine([qemu, "-L", root, python], {"PYTHONPATH": f"{root / 'packages'}:{CHECKOUT}"})


def machines() -> Iterator[tuple[str, Callable[[], Machine]]]:
    """Yield every machine by name, the slowest first, with the function that prepares it."""
    yield "ARM", emulated_arm
    for version in OLDEST:
        yield f"oldest, Python {version}", partial(in_venv, version, True)
    for version in NEWEST:
        yield f"newest, Python {version}", partial(in_venv, version, False)
    yield "without FMA", lambda: Machine([sys.executable], NO_FMA)


def uv() -> Path:
    return Path(sys.executable).with_name("uv")


def allowed() -> list[str]:
    """Return the requirements of pyproject.toml for the packages that are needed there."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return [text for text in project["dependencies"] if text.startswith(NEEDED)]


def locked() -> list[str]:
    return ["--constraint", str(CHECKOUT / "requirements.lock")]


def find_python(version: str) -> str:
    """Find a Python of this version, on the path or of pyenv. Raises NoPython."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python")]
    for python in filter(None, candidates):
        if subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return str(python)
    raise NoPython(f"there is no Python {version}")


# --- The comparison.


def hashes(machine: Machine, runs: Path) -> dict[str, Any]:
    """Return what hashes.py prints there."""
    here = {"PYTHONPATH": str(CHECKOUT), "NUMBA_CACHE_DIR": str(PLACE / "cache")}
    done = subprocess.run(
        [*machine.python, "-W", "ignore", Path(__file__).with_name("hashes.py"), runs, str(SEEDS)],
        env={**os.environ, **here, **machine.env},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compared(name: str, prepare: Callable[[], Machine], runs: Path, here: Mapping[str, Any]) -> bool:
    """Print how many of a machine's numbers equal this one's; return whether all do. Raises Missing in CI."""
    try:
        machine = prepare()
    except Missing as reason:
        if "NNEXP_CI" in os.environ and not isinstance(reason, NoPython):
            raise
        print(f"{name}: skipped: {reason}", flush=True)
        return True
    there = hashes(machine, runs)
    same = {
        what: sum(a == b for a, b in zip(here[what], there[what], strict=True))
        for what in ("runs", "draws", "numpys")
    }
    is_canary_equal = there["canary"] == CANARIES[VERSION]
    print(
        f"{name} ({there['versions']}): canary {'equal' if is_canary_equal else 'differs'}, "
        f"{same['runs']:,} of {RUNS:,} runs equal, {same['draws']:,} of {SEEDS:,} seeds draw the same "
        f"({same['numpys']:,} by NumPy's own normal)",
        flush=True,
    )
    return is_canary_equal and same["runs"] == RUNS and same["draws"] == SEEDS


def main() -> None:
    text = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [(name, prepare) for name, prepare in machines() if text in name]
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        runs = Path(directory) / "runs.json"
        configs = everything(RUNS, Path(directory) / "mlflow.db")
        runs.write_text(json.dumps([f"schema: {SCHEMA}\n{yaml.safe_dump(c.nested())}" for c in configs]))
        here = hashes(Machine([sys.executable]), runs)
        assert len(set(here["runs"])) > RUNS // 2  # the runs differ
        print(f"here: {here['versions']}", flush=True)
        with ThreadPoolExecutor(2) as pool:
            equal = list(pool.map(lambda one: compared(*one, runs, here), chosen))
    sys.exit(0 if chosen and all(equal) else 1)


if __name__ == "__main__":
    main()
