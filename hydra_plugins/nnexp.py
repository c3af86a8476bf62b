"""Where Hydra finds nnexp: a sweeper that lists the points of a grid, a launcher that runs them as one sweep.

Hydra looks for plugins in the namespace `hydra_plugins`, so this directory has no __init__.py. It executes
this file without registering the module, which is why no annotation here may be a postponed one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LauncherConf:
    _target_: str = "hydra_plugins.nnexp.NnexpLauncher"


@dataclass
class SweeperConf:
    _target_: str = "hydra_plugins.nnexp.GridSweeper"
    # Ranges of an experiment file, such as `learning_rate: 0.01,0.1`; the command line comes after them.
    params: dict[str, str] = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/launcher", name="nnexp", node=LauncherConf, provider="nnexp")
ConfigStore.instance().store(group="hydra/sweeper", name="nnexp", node=SweeperConf, provider="nnexp")


class GridSweeper(Sweeper):
    """Every combination of the ranges, in Hydra's override grammar, given to the launcher at once.

    Unlike Hydra's own it neither composes each job to try it first nor writes a multirun.yaml.
    """

    def __init__(self, params: DictConfig) -> None:
        self._params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from nnexp.config import compose  # heavy, and Hydra imports this file to look for plugins

        points = compose.grid_points(self._context.config_loader, self._config, self._params, arguments)
        return [self._launcher.launch(points, initial_job_idx=0)]


class NnexpLauncher(Launcher):
    """Composes every point, then hands all of them to nnexp as one sweep."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context = hydra_context
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from nnexp.cli import train as app  # heavy, and Hydra imports this file to look for plugins

        loader = self._context.config_loader
        if not isinstance(loader, ConfigLoaderImpl):
            raise TypeError(f"composes with Hydra's own loader, not {type(loader).__name__}")
        name = self._config.hydra.runtime.choices.get("experiment")
        losses = app.run_sweep(loader, self._config, job_overrides, name)
        # The last loss is what a sweeper that searches, rather than lists, wants to know of a point.
        return [
            JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=loss)
            for overrides, loss in zip(job_overrides, losses, strict=True)
        ]
