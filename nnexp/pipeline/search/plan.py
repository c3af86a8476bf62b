"""Plan a search: check its space, its settings and both ends of every range before anything is recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig

from nnexp.config.compose import Composer
from nnexp.config.errors import RequestError
from nnexp.config.overrides import plain_errors
from nnexp.config.ranges import space_of
from nnexp.config.request import Request, Search
from nnexp.config.run import RunConfig
from nnexp.config.space import Space, Value
from nnexp.dataset.load import Source
from nnexp.pipeline.git import refuse_dirty
from nnexp.pipeline.points import left_out, valid_points
from nnexp.pipeline.provenance import DEVICE
from nnexp.pipeline.records import parent_record
from nnexp.pipeline.search.study import VERSION, check_sampler
from nnexp.pipeline.sweep import points_of
from nnexp.tracking.find import SWEEP_KEYS
from nnexp.tracking.runs import RunRecord
from nnexp.tracking.searches import SEARCH_FILE, SEARCH_KEY, Searched
from nnexp.training.plan import Point

# A swept data set or loss function makes trials that do not compare.
_INCOMPARABLE = ("dataset", "loss")


@dataclass(frozen=True, eq=False)
class Planned:
    """A search that has been checked. `config` is a run at a corner of the space."""

    space: Space
    request: Request
    config: RunConfig
    key: str
    name: str
    begun: Searched
    corners: Sequence[Point]
    composer: Composer
    source: Source | None

    def __str__(self) -> str:
        """Describe the search: `search of 100 trials of 5 runs over learning_rate, hidden.0`."""
        names = ", ".join(d.name for d in self.space.dimensions)
        runs = len(self.space.over)
        return f"search of {_counted(self.trials, 'trial')} of {_counted(runs, 'run')} over {names}"

    @property
    def search(self) -> Search:
        return self.request.search

    @property
    def trials(self) -> int:
        """Return how many trials are asked for."""
        return len(self.space.grid()) if self.search.trials is None else self.search.trials

    @property
    def corner_keys(self) -> list[str]:
        return [point.key for point in self.corners]

    def configs(self, params: Sequence[Mapping[str, Value]]) -> list[list[RunConfig]]:
        """Compose the runs of each trial. Raises RequestError if its values do not go together."""
        texts = [[*self.space.overrides(one), *over] for one in params for over in self.space.over]
        if not texts:
            return []
        others = [self.space.overrides(corner) for corner in self.space.corners()]
        with plain_errors():
            configs, _ = valid_points(self.composer, texts, self.source, others, is_named=False)
        n = len(self.space.over)
        return [configs[i : i + n] for i in range(0, len(configs), n)]

    def points(self, params: Sequence[Mapping[str, Value]]) -> list[list[Point]]:
        """Return the points of each trial's runs."""
        configs = self.configs(params)
        if not configs:
            return []
        named = [d.name for d in self.space.dimensions]
        flat = points_of([config for own in configs for config in own], self.source, named)
        n = len(self.space.over)
        return [flat[i : i + n] for i in range(0, len(flat), n)]

    def kept(self, params: Sequence[Mapping[str, Value]]) -> list[bool]:
        """Return whether each trial is left in by `exclude`; a trial goes with its first run."""
        if self.request.exclude is None:
            return [True] * len(params)
        out = left_out([own[0] for own in self.configs(params)], self.request.exclude)
        return [not is_out for is_out in out.tolist()]


def planned(
    loader: ConfigLoader,
    config: DictConfig,
    overrides: Sequence[str],
    name: str | None,
    source: Source | None = None,
) -> Planned:
    """Check a search, typed as overrides after the ranges of its experiment's file. Raises RequestError."""
    if not isinstance(loader, ConfigLoaderImpl):
        raise TypeError(f"a search needs Hydra's own ConfigLoaderImpl, not {type(loader).__name__}")
    with plain_errors():
        ranges = [f"{key!s}={value}" for key, value in config.hydra.sweeper.params.items()]
        parsed = OverridesParser.create(config_loader=loader).parse_overrides([*ranges, *overrides])
        zipped = config.get("zip")
        space = space_of(parsed, list(zipped) if isinstance(zipped, ListConfig) else [], config.search.over)
        composer = Composer(loader, config)
        texts = [[*space.overrides(corner), *own] for corner in space.corners() for own in space.over]
        configs, request = valid_points(composer, texts, source, is_named=False)
        _check_inner(space, composer, texts, source)
        _check(space, request, configs)
        if request.require_clean:
            refuse_dirty()
        points = points_of(configs, source, [d.name for d in space.dimensions])
        if request.exclude is not None:
            left_out(configs, request.exclude)  # raises RequestError if it cannot be read
    metric = request.search.metric or _metric(configs)
    _check_metric(metric, points)
    settings = asdict(request.search)
    begun = Searched(settings, metric, space.dimensions, optuna=VERSION)
    key = _key(begun, points, request)
    return Planned(space, request, configs[0], key, name or "search", begun, points, composer, source)


def _check_inner(
    space: Space, composer: Composer, corners: Sequence[Sequence[str]], source: Source | None
) -> None:
    """Raise RequestError for an interval of a key that takes whole numbers only, as its ends may be."""
    try:
        valid_points(composer, [space.overrides(space.inner())], source, corners, is_named=False)
    except RequestError as error:
        raise RequestError(
            f"{error}; an interval has every number between its ends, int(interval(…)) the whole ones"
        ) from error


def _check(space: Space, request: Request, configs: Sequence[RunConfig]) -> None:
    """Raise RequestError for settings that do not go with the space, or with a search."""
    search = request.search
    check_sampler(search.name)
    if request.reruns != "none":
        raise RequestError(
            f"retry={request.reruns}: a search goes on from what its trials gave; begin another one with "
            "search.seed, or train single runs again with nnexp train"
        )
    if search.pruner != "none" and request.executor.name != "inline" and request.device != "cpu":
        raise RequestError(
            f"search.pruner={search.pruner}: workers send back what they have trained between its verdicts, "
            f"and so train on CPUs: it needs device=cpu with executor={request.executor.name}, or "
            "executor=inline"
        )
    several = [key for key in ("epochs", "log_every") if len({getattr(c, key) for c in configs}) > 1]
    if search.pruner != "none" and several:
        raise RequestError(
            f"search.pruner={search.pruner} compares trials at the same epochs: {several[0]} must have one "
            "value"
        )
    if search.pruner != "none" and configs[0].log_every >= configs[0].epochs:
        raise RequestError(
            f"search.pruner={search.pruner} ends trials at recorded epochs, and log_every="
            f"{configs[0].log_every} records none before the last, epochs={configs[0].epochs}"
        )
    if request.is_table:
        raise RequestError("record=table: a search records its trials as runs: leave it out")
    for d in space.dimensions:
        for key in d.name.split():
            if key in _INCOMPARABLE:
                raise RequestError(f"{key}: trials of different {key} do not compare: search each by itself")
    if search.name == "grid":
        size = len(space.grid())
        if search.trials is not None and search.trials > size:
            raise RequestError(f"search.trials={search.trials}: the grid has only {size} points")


def _metric(configs: Sequence[RunConfig]) -> str:
    """Return what trials are judged by, unless it is typed."""
    return "val_loss" if all(c.validation_fraction or c.folds for c in configs) else "loss"


def _check_metric(metric: str, points: Sequence[Point]) -> None:
    """Raise RequestError if a run would not have the metric."""
    for point in points:
        config = point.config
        if metric.startswith("val_") and not (config.validation_fraction or config.folds):
            raise RequestError(
                f"search.metric={metric}: there are no validation rows: set validation_fraction or folds"
            )
        if metric.endswith("accuracy") and not point.dataset.classes:
            raise RequestError(
                f"search.metric={metric}: {point.dataset.target} of {point.dataset.name} is a number, "
                "and has no accuracy"
            )


def _key(begun: Searched, corners: Sequence[Point], request: Request) -> str:
    """Return the search's key: the hash of all that decides its sequence of trials, but for their number."""
    counted = {k: v for k, v in begun.settings.items() if k not in ("trials", "confirm", "metric")}
    space = [asdict(d) for d in begun.dimensions]
    decisive = {
        "search": counted,
        "metric": begun.metric,
        "space": space,
        "runs": sorted(point.key for point in corners),
        "exclude": request.exclude,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'s' * (n != 1)}"


def search_record(asked: Planned, device: str) -> RunRecord:
    """Return the record of a search as it begins."""
    params = {d.name: str(d) for d in asked.space.dimensions}
    title = f"{asked.name}: {_counted(asked.trials, 'trial')} over {', '.join(params)}"
    tags = {"nnexp.sweep": asked.name, SEARCH_KEY: asked.key, DEVICE: device}
    data = [(point.dataset, point.config) for point in asked.corners[:1]]
    record = parent_record(title, params, tags, data, asked.request)
    files = {SWEEP_KEYS: b"\n", SEARCH_FILE: asked.begun.content()}
    return replace(record, files={**record.files, **files})
