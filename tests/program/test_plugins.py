"""The launcher and the sweeper as Hydra's plugins: Hydra finds them, and its own tests pass with them."""

import json

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.test_utils.launcher_common_tests import LauncherTestSuite
from hydra.version import _UNSPECIFIED_, VersionBase


@pytest.fixture
def as_if_first(monkeypatch):
    """Reset Hydra's version, since its tests expect a process in which no program has set it."""
    monkeypatch.setattr(VersionBase.instance(), "version_base", _UNSPECIFIED_)


@pytest.mark.filterwarnings("ignore:Future Hydra versions will no longer change working directory")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", ["hydra/sweeper=nnexp"])])
@pytest.mark.usefixtures("as_if_first")
class TestHydrasOwnSuite(LauncherTestSuite):
    """Run Hydra's shared tests of launchers and sweepers with our sweeper and Hydra's launcher.

    Our launcher cannot take part, as their jobs are not networks.
    """

    test_sweep_2_jobs = None  # requires a multirun.yaml, but a sweep is recorded only in MLflow


def test_hydra_finds_both_plugins():
    found = [
        f"{p.__module__}.{p.__name__}"
        for kind in (Launcher, Sweeper)
        for p in Plugins.instance().discover(kind)
    ]
    assert {"hydra_plugins.nnexp.NnexpLauncher", "hydra_plugins.nnexp.GridSweeper"} <= set(found)


def test_the_launcher_runs_the_points_of_any_sweeper(nnexp, store):
    ended = nnexp("train", "-m", "figures=false", "hydra/sweeper=basic", "seed=1,2", "epochs=5")
    assert ended.status == 0
    assert "2 runs: 2 new" in ended.err


def test_the_launcher_gives_a_searching_sweeper_the_last_loss(nnexp, store, monkeypatch):
    from hydra_plugins.nnexp import NnexpLauncher  # Hydra's search for plugins makes the class anew

    returned = []
    launch = NnexpLauncher.launch
    monkeypatch.setattr(NnexpLauncher, "launch", lambda *a, **k: returned.extend(launch(*a, **k)) or returned)
    ended = nnexp("train", "-m", "figures=false", "seed=2,1,2", "epochs=5")
    assert ended.status == 0, ended.err
    losses = [job.return_value for job in returned]
    assert losses[0] == losses[2] != losses[1]
    assert 0 < losses[0] < 1


@pytest.mark.slow
def test_hydras_joblib_launcher_keeps_working(nnexp, store):
    """Its jobs are separate runs, in separate processes."""
    typed = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "figures=false", "model=false")
    ended = nnexp("train", "-m", "figures=false", *typed, "seed=1,2", "epochs=5")
    assert ended.status == 0
    runs = json.loads(nnexp("summarize", "--by", "seed", "--format", "json").out)
    assert [(row["seed"], row["n"]) for row in runs] == [(1, 1), (2, 1)]
