"""Hydra's plugins for nnexp: its configuration directories, a sweeper that lists the points of a grid, and a
launcher that runs them as one sweep.

Hydra looks for plugins in the namespace `hydra_plugins`, so this directory has no __init__.py. Hydra executes
this file without registering the module, so its annotations must not be postponed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath, SearchPathElement
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from nnexp.config import groups
from nnexp.config.paths import CONF, config_dirs


@dataclass
class LauncherConf:
    _target_: str = "hydra_plugins.nnexp.NnexpLauncher"


@dataclass
class SweeperConf:
    _target_: str = "hydra_plugins.nnexp.GridSweeper"
    # Ranges of an experiment file, such as `learning_rate: 0.01,0.1`; the command line's come after them.
    params: dict[str, str] = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/launcher", name="nnexp", node=LauncherConf, provider="nnexp")
ConfigStore.instance().store(group="hydra/sweeper", name="nnexp", node=SweeperConf, provider="nnexp")


class NnexpSearchPath(SearchPathPlugin):
    """Put the user's configuration directories before nnexp's own in Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        elements = search_path.get_path()
        for i, element in enumerate(elements):
            if element.provider == "main" and (element.path or "").removeprefix("file://") == str(CONF):
                elements[i : i + 1] = [
                    SearchPathElement("nnexp", f"nnexp://{directory}") for directory in config_dirs()
                ]
                return


class NnexpDirectory(ConfigSource):
    """A configuration directory, read by `nnexp.config.groups`, without Hydra's own settings."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self._directory = Path(self.path)
        # A launcher may compose again in another process, which does not know --config-dir.
        directories = config_dirs()
        self._from_here = directories[directories.index(self._directory) :]

    @staticmethod
    def scheme() -> str:
        return "nnexp"

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path == "" or bool(groups.files(self._directory, config_path))

    def is_config(self, config_path: str) -> bool:
        return self._find(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        names = [path.stem for path in groups.files(self._directory, config_path)]
        found = [] if results_filter == ObjectType.GROUP else names
        if config_path == "" and results_filter != ObjectType.CONFIG:
            found += [group for group in groups.ALL if self.is_group(group)]
        return sorted(found)

    def load_config(self, config_path: str) -> ConfigResult:
        group = config_path.rpartition("/")[0]
        path = self._find(config_path)
        assert path is not None  # Hydra asks is_config first
        if config_path == "config":
            values = groups.read_defaults(self._from_here)
        else:
            values = groups.read(self._directory, group, path)
        header = self._get_header_dict(path.read_text(encoding="utf-8")[:512])
        if group == "experiment":
            header["package"] = header["package"] or "_global_"
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(values), header)

    def _find(self, config_path: str) -> Path | None:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        found = groups.files(self._directory, group)
        return next((path for path in found if path.stem == name), None)


class GridSweeper(Sweeper):
    """List every combination of the ranges, in Hydra's override grammar, and launch all of them at once.

    An interval has no list of values; then nnexp searches.

    Unlike Hydra's own sweeper it does not compose each job first, and writes no multirun.yaml.
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

        if compose.has_interval(self._context.config_loader, self._params, arguments):
            from nnexp.cli import train as app

            return [app.run_search(self._context.config_loader, self._config, arguments)]
        points = compose.grid_points(self._context.config_loader, self._config, self._params, arguments)
        return [self._launcher.launch(points, initial_job_idx=0)]


class NnexpLauncher(Launcher):
    """Compose every point, then run all of them as one sweep of nnexp."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context = hydra_context
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from nnexp.cli import train as app  # heavy, and Hydra imports this file to look for plugins

        loader = self._context.config_loader
        if not isinstance(loader, ConfigLoaderImpl):
            raise TypeError(f"the launcher needs Hydra's own ConfigLoaderImpl, not {type(loader).__name__}")
        name = self._config.hydra.runtime.choices.get("experiment")
        losses = app.run_sweep(loader, self._config, job_overrides, name)
        if losses is None:
            return []  # a population's networks are too many for a list
        # The last loss is for sweepers that search.
        return [
            JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=loss)
            for overrides, loss in zip(job_overrides, losses, strict=True)
        ]
