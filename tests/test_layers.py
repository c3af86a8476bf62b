"""The house: what each room may import, and that what is named in it exists."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from nnexp.dataset import PROJECT

CORE = ["config", "table", "dataset", "init", "network", "engine", "train"]
FORBIDDEN = {"hydra", "mlflow", "matplotlib", "click", "sqlalchemy", "scipy.stats"}
# Each room may import those before it.
ORDER = [
    ["rules", "mask", "printable"],
    ["config"],
    ["request", "table", "recorded"],
    ["schema"],
    ["dataset"],
    ["init", "network"],
    ["engine", "forward"],
    ["train", "workers", "progress", "render"],
    ["sweep", "tracking"],
    ["summary"],
    ["plots", "readable"],
    ["report"],
    ["record", "session"],
    ["gallery"],
    ["runner", "sweeper"],
    ["show", "export", "help", "ui", "doctor"],
    ["rerun"],
    ["compose"],
    ["app"],
    ["cli"],
]


@pytest.mark.parametrize("module", CORE)
def test_the_core_does_without_hydra_mlflow_matplotlib_and_click(module):
    code = f"import sys, nnexp.{module}; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not FORBIDDEN & set(done.stdout.split())


def test_the_command_line_imports_nothing_heavy_before_a_verb_needs_it():
    code = "import sys, nnexp.cli; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"hydra", "mlflow", "pandas", "numba", "numpy"} & set(done.stdout.split())


def imported(path: Path) -> set[str]:
    """The rooms of nnexp that a file imports, at its top and inside its functions."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nnexp":
            names = node.module.split(".")[1:] or [alias.name for alias in node.names]
            rooms.add(names[0]) if node.module != "nnexp" else rooms.update(names)
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("nnexp.")}
    return rooms


def test_every_room_has_its_place_and_no_arrow_points_back_up():
    level = {room: i for i, rooms in enumerate(ORDER) for room in rooms}
    for path in sorted((PROJECT / "nnexp").rglob("*.py")):
        room = path.relative_to(PROJECT / "nnexp").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in imported(path) - {room}:
            assert level[other] < level[room], f"{path.name} of {room} imports {other}"


def test_no_file_names_a_registry():
    files = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True)
    named = [
        name
        for name in files.stdout.splitlines()
        if not name.endswith((".png", ".gif", ".npz"))
        and (PROJECT / name).is_file()
        and any(host in (PROJECT / name).read_text() for host in ("pypi" + ".org", "pythonhosted" + ".org"))
    ]
    assert named == []
