"""The structure of the code: which package may import which, and the libraries that each never imports."""

import ast
import subprocess
import sys

import pytest

from nnexp.config.paths import CHECKOUT

# A package imports only itself and those before it.
HOUSE = ["config", "dataset", "network", "training", "tracking", "analysis", "pipeline", "cli"]
NEVER = {
    "config": {"mlflow", "matplotlib", "pandas"},
    "dataset": {"hydra", "mlflow"},
    "network": {"hydra", "mlflow", "pandas"},
    "training": {"hydra", "mlflow"},
    "tracking": {"hydra", "matplotlib"},
    "analysis": {"hydra", "mlflow"},
}
CORE = ["config.run", "dataset.load", "network.reference", "network.engine", "training.train"]
FORBIDDEN = {"hydra", "mlflow", "matplotlib", "click", "sqlalchemy", "scipy.stats", "cupy"}
MAX_LINES = 450


def modules(package):
    """Return the files of a package."""
    return sorted((CHECKOUT / "nnexp" / package).rglob("*.py"))


def name_of(path):
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """Return (line, module) of every import in a file, at any level."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def loaded_by(*names):
    """Return all modules that a new process has loaded after importing these."""
    code = f"import sys, {', '.join(names)}; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_has_eight_packages_and_nothing_else():
    rooms = [path for path in (CHECKOUT / "nnexp").iterdir() if path.name != "__pycache__"]
    assert sorted(path.name for path in rooms if path.is_dir()) == sorted(HOUSE)
    assert {path.name for path in rooms if path.is_file()} <= {"__init__.py", "py.typed"}


@pytest.mark.parametrize("package", HOUSE)
def test_every_package_states_its_contract(package):
    assert ast.get_docstring(ast.parse((CHECKOUT / "nnexp" / package / "__init__.py").read_text()))


@pytest.mark.parametrize("package", HOUSE)
def test_a_package_imports_only_those_above_it(package):
    above = HOUSE[: HOUSE.index(package) + 1]
    upwards = [
        f"{name_of(path)}, line {line}: {name}"
        for path in modules(package)
        for line, name in imports(path)
        if name.split(".")[0] == "nnexp" and name.split(".")[1] not in above
    ]
    assert upwards == []


@pytest.mark.slow
@pytest.mark.parametrize("package", NEVER)
def test_a_package_never_imports_a_library_that_is_barred_from_it(package):
    named = [
        f"{name_of(path)}, line {line}: {name}"
        for path in modules(package)
        for line, name in imports(path)
        if name.split(".")[0] in NEVER[package]
    ]
    assert named == []
    assert not NEVER[package] & loaded_by(*map(name_of, modules(package)))


@pytest.mark.slow
@pytest.mark.parametrize("module", CORE)
def test_the_core_does_not_need_hydra_mlflow_matplotlib_or_click(module):
    assert not FORBIDDEN & loaded_by(f"nnexp.{module}")


@pytest.mark.slow
def test_one_run_does_without_pandas_and_the_other_heavy_packages():
    heavy = {"pandas", "pyarrow", "matplotlib", "mlflow", "optuna", "cupy"}
    assert not heavy & loaded_by("nnexp.cli.train", "nnexp.cli.show", "nnexp.pipeline.run")


def test_no_module_is_longer_than_450_lines():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in modules("")}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_only_the_command_line_prints():
    prints = [
        f"{name_of(path)}, line {node.lineno}"
        for path in modules("")
        if "cli" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert prints == []


def test_the_python_api_imports_optuna_only_for_a_search():
    assert "optuna" not in loaded_by("nnexp.pipeline.api")


def test_the_command_line_imports_nothing_slow_before_a_verb_needs_it():
    assert not {"hydra", "mlflow", "pandas", "numba", "numpy"} & loaded_by("nnexp.cli.main")


def test_no_file_names_a_registry():
    files = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    named = [
        name
        for name in files.stdout.splitlines()
        if not name.endswith((".png", ".gif", ".npz", ".zip"))
        and (CHECKOUT / name).is_file()
        and any(host in (CHECKOUT / name).read_text() for host in ("pypi" + ".org", "pythonhosted" + ".org"))
    ]
    assert named == []
