"""Fixtures that tests share: a fresh store for each test, copied from one made once, and the program."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from nnexp.cli import main as cli
from nnexp.config.compose import plain_values
from nnexp.config.groups import load_option
from nnexp.config.paths import CONF
from nnexp.config.request import Request, build_request, split
from nnexp.config.run import RunConfig
from nnexp.network import engine
from nnexp.network.engine.canary import canary


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status and what it printed."""

    status: int
    out: str
    err: str


FLOWERS = "length,width,species\n" + "".join(
    f"{1 + i % 3 + i / 90},{0.2 + i % 3 + i / 70},{'abc'[i % 3]}\n" for i in range(9)
)
OWN = ["dataset=csv", "dataset.path=flowers.csv", "dataset.features=[length,width]", "dataset.target=species"]
QUICK = ["epochs=30", "log_every=10", "figures=false", "model=false"]


Program = Callable[..., Ended]


# Files whose servers, workers or browser take longest go first, so that no core is idle at the end.
LONGEST = ("test_services", "test_browser", "test_distribute", "test_docs", "test_program", "test_auth")
LONGEST += ("test_sweep", "test_plots", "test_api", "test_rerun")


def pytest_configure(config: pytest.Config) -> None:
    """Compile the engine before several processes start, each of which would compile it, too."""
    if config.getoption("numprocesses", None) and not engine.is_ready():
        canary()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Isolate tests from the project's store, each other, and what commands left in this process."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # a make that a test runs must not see `make test`
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    level, before = root.level, list(root.handlers)
    yield
    GlobalHydra.instance().clear()
    # Hydra configures the root logger for a job, with the streams of this test.
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if handler not in before]:
        if type(handler).__module__.startswith(("logging", "hydra")):
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs; making one takes seconds, copying it nothing."""
    from nnexp.tracking.store import open_store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Path:
    """The test's own store, already made."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


@pytest.fixture
def nnexp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """`nnexp("train", "seed=1")` runs the command in this process, which saves the imports."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["nnexp", *arguments])
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # the program sets its own
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        printed = capsys.readouterr()
        return Ended(status, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def record(empty_store: Path) -> Callable[..., None]:
    """`record(place, ["train", "seed=1"], …)` runs commands in a directory, on its own store, which it makes
    first. It does so in this process, which saves the imports."""

    def run(place: Path, *commands: list[str]) -> None:
        shutil.copy(empty_store, place / "mlflow.db")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
            patch.chdir(place)
            for typed in commands:
                patch.setattr(sys, "argv", ["nnexp", *typed])
                patch.setattr(sys, "unraisablehook", sys.unraisablehook)
                status = 0
                try:
                    cli.main()
                except SystemExit as ended:
                    status = int(ended.code or 0)
                assert status == 0, typed

    return run


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save every figure as a blank picture, since saving takes half the time of a short run with figures."""
    from matplotlib.figure import Figure

    from nnexp.analysis.plots.style import png

    blank = png(Figure(figsize=(1, 1)))
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **how: file.write(blank))


@pytest.fixture(scope="session")
def configure() -> Callable[..., RunConfig]:
    """`configure("seed=1")` returns the validated configuration that Hydra composes."""

    @cache
    def composed(*overrides: str) -> RunConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return split(plain_values(compose("config", list(overrides))))[0]

    return composed


@pytest.fixture(scope="session")
def asked() -> Callable[..., Request]:
    """`asked(force=True)` returns a Request, with defaults for all other keys."""
    defaults = {
        "device": "cpu",
        "plan": False,
        "force": False,
        "retry": "none",
        "max_failures": None,
        "zip": [],
        "exclude": None,
        "record": "runs",
        "curves": None,
        "weights": None,
        "require_clean": False,
        "name": None,
        "question": None,
        "tags": None,
    }

    groups = {"executor": {"name": "inline"}, "search": load_option("search", "tpe")}

    def made(**values: Any) -> Request:
        return build_request({**defaults, **groups, **values})

    return made


@pytest.fixture
def three_wide_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the engine fail for networks whose first hidden layer is 3 wide."""
    advance = engine.Batch.advance

    def failing(self: engine.Batch, *args: Any) -> engine.Curves:
        if self.model.sizes[1] == 3:
            raise MemoryError("no room")
        return advance(self, *args)

    monkeypatch.setattr(engine.Batch, "advance", failing)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, record: Callable[..., None]) -> Path:
    """A store with a run of the gender table, a run of an own table, and a sweep; it was moved afterwards."""
    here = tmp_path_factory.mktemp("was here")
    (here / "flowers.csv").write_text(FLOWERS)
    classes = ["output_activation=softmax", "loss=cross_entropy", "shuffle=true"]
    record(
        here,
        ["train", *QUICK, "weights_every=10"],
        ["train", *QUICK, *OWN, "hidden=[3]", *classes],
        ["train", *QUICK, "-m", "dataset=gender,xor", "learning_rate=0.1,5", "hidden=[2],[]"],
    )
    return here.rename(here.with_name("original"))


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """The test's own copy of that store, with its artifacts beside it."""
    for name in ("mlflow.db", "flowers.csv"):
        shutil.copy(original / name, tmp_path)
    shutil.copytree(original / "mlartifacts", tmp_path / "mlartifacts")
    return tmp_path
