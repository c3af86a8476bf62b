"""The built wheel, installed in an empty environment: every verb works, in any directory."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

from nnexp.config.paths import CHECKOUT

pytestmark = pytest.mark.slow

QUICK = ["figures=false", "model=false"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new environment with the wheel and its dependencies, in the versions of the lock file."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(place)], check=True)
    constraints = wheel.parent / "constraints.txt"
    pinned = re.findall(r"^[\w.-]+==[^\\\n]+", (CHECKOUT / "requirements.lock").read_text(), re.MULTILINE)
    constraints.write_text("\n".join(pinned))
    install = ["pip", "install", "--python", str(place / "bin" / "python"), "--constraint", str(constraints)]
    # As `make install` does: a proxy's own certificate is among the system's.
    certificates = "true" if ssl.get_default_verify_paths().cafile else "false"
    environment = {"UV_SYSTEM_CERTS": certificates, **os.environ}
    subprocess.run([*uv, *install, str(wheel)], check=True, env=environment)
    # The sources are those of this checkout, so its compiled engine can be used.
    engine = Path("nnexp") / "network" / "engine" / "__pycache__"
    (packages,) = place.glob("lib/python*/site-packages")
    for kernels in (CHECKOUT / engine).glob("kernels-*"):
        shutil.copytree(kernels, packages / engine / kernels.name)
    return place


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The directory in which every test of this module types its commands; empty at first."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def environment(installed, tmp_path_factory):
    ours = ("PYTHON", "NNEXP", "MLFLOW", "HYDRA", "VIRTUAL_ENV", "PYTEST")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def typed(here, environment):
    """`typed("train", "seed=1")` returns the command's standard output; its exit status must be 0."""

    def run(*arguments, status=0, at=here):
        done = subprocess.run(
            ["nnexp", *arguments], cwd=at, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    return run


def test_the_wheel_contains_only_the_package_and_the_shipped_files(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    files = tracked.stdout.splitlines()
    shipped = {
        f"nnexp/shipped/{name}"
        for name in files
        if name.startswith(("conf/", "data/")) or re.fullmatch(r"experiments/[^/]+\.yaml", name)
    }
    code = {name for name in files if name.startswith(("nnexp/", "hydra_plugins/"))}
    assert {name for name in names if ".dist-info/" not in name} == shipped | code


def test_one_run_a_sweep_and_an_experiment_train_and_are_found_again(typed, here):
    assert list(here.iterdir()) == []
    run_id = typed("train", "dataset=xor", "epochs=20").split("recorded as ")[1].split()[0]
    assert (here / "mlflow.db").is_file()
    assert f"recorded as {run_id}" in typed("train", "dataset=xor", "epochs=20")
    assert "as sweep" in typed("train", "-m", "seed=1,2", "epochs=20", *QUICK)
    assert "recorded as" in typed("train", "dataset=wine", "epochs=20", *QUICK)
    few = ["epochs=5", "activation=relu,tanh", "learning_rate=0.1", "seed=range(5)", *QUICK]
    assert "60 runs, recorded as sweep" in typed("train", "experiment=real_tables", *few)
    assert all(path.name.startswith(("mlflow.db", "mlartifacts")) for path in here.iterdir())


def test_recorded_runs_are_summarised_reported_shown_and_rerun(typed, here):
    assert "wine" in typed("summarize", "--by", "dataset", "--sweep", "last")
    typed("report", "--out", "report.html")
    text = (here / "report.html").read_text()
    assert "suit three real tables" in text
    assert "nnexp.git" not in typed("show", "last")
    assert "60 runs" in typed("rerun", "--sweep", "last")
    typed("doctor")


def test_an_unknown_data_set_is_refused_with_the_shipped_ones_named(typed):
    known = "Known: alice, and, breast_cancer, csv, digits, gender, line, or, wine, xor"
    assert known in typed("train", "dataset=zzz", status=2)
    assert "nnexp is an installed package" in typed("train", "require_clean=true", status=2)


def test_the_ui_serves_the_store_of_the_working_directory(here, environment, installed):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["nnexp", "ui", "--port", str(port)]
    with subprocess.Popen(command, cwd=here, env=environment, start_new_session=True) as process:
        try:
            assert _answers(f"http://127.0.0.1:{port}/health", process)
        finally:
            process.terminate()
    assert not list(installed.rglob("mlflow.db"))
    assert not list(installed.rglob("mlartifacts"))


def _answers(url, process, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            return urllib.request.urlopen(url, timeout=5).status == 200
        except OSError:
            time.sleep(0.5)
    return False


def test_a_new_project_runs_at_once(typed, here, environment):
    typed("new", "mine")
    made = subprocess.run(
        ["make", "run"], cwd=here / "mine", env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert "20 runs, recorded as sweep" in made.stdout
    assert (here / "mine" / "mlflow.db").is_file()
    shutil.copytree(here / "mine" / "conf", here / "elsewhere" / "conf")
    shutil.copytree(here / "mine" / "data", here / "elsewhere" / "data")
    typed("train", "--config-dir", "elsewhere/conf", "dataset=disc", "epochs=20", *QUICK)
    assert "disc" in typed("train", "--help", at=here / "mine")
