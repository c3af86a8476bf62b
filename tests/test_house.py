"""The house: what each room may import, and that what is named in it exists."""

import subprocess
import sys

import pytest

from nnexp.config.paths import CHECKOUT

CORE = ["config.run", "dataset.load", "network.reference", "network.engine", "training.train"]
FORBIDDEN = {"hydra", "mlflow", "matplotlib", "click", "sqlalchemy", "scipy.stats"}
HOUSE = ["analysis", "cli", "config", "dataset", "network", "pipeline", "tracking", "training"]


@pytest.mark.parametrize("module", CORE)
def test_the_core_does_without_hydra_mlflow_matplotlib_and_click(module):
    code = f"import sys, nnexp.{module}; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not FORBIDDEN & set(done.stdout.split())


def test_the_command_line_imports_nothing_heavy_before_a_verb_needs_it():
    code = "import sys, nnexp.cli.main; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"hydra", "mlflow", "pandas", "numba", "numpy"} & set(done.stdout.split())


def test_the_house_has_eight_packages():
    assert sorted(path.parent.name for path in (CHECKOUT / "nnexp").glob("*/__init__.py")) == HOUSE


def test_no_file_names_a_registry():
    files = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    named = [
        name
        for name in files.stdout.splitlines()
        if not name.endswith((".png", ".gif", ".npz"))
        and (CHECKOUT / name).is_file()
        and any(host in (CHECKOUT / name).read_text() for host in ("pypi" + ".org", "pythonhosted" + ".org"))
    ]
    assert named == []
