"""Keep the trials of a search in an artifact of its parent run; read them back without trusting the file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nnexp.config.errors import RequestError
from nnexp.config.space import Dimension, Value
from nnexp.tracking.find import find_artifact
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store

# The artifact of a search's parent with its space and its trials, and the tag by which it is found again.
SEARCH_FILE, SEARCH_KEY = "search.json", "nnexp.search_key"
FORMAT = 1
# A trial is being trained, was trained, was ended early, had a run that failed, or was left out by `exclude`.
STATES = ("asked", "complete", "pruned", "failed", "excluded")


@dataclass(frozen=True)
class Trial:
    """A point of the space and what became of it.

    `keys` are the run keys of its runs, `epochs` is when it ended, `value` the median of the metric over its
    runs, infinite if most of them diverged. `curve` has that median by epoch and `rungs` what the pruner
    noted, if there is a pruner. `confirmed` are the run keys on fresh seeds, if it was confirmed.
    """

    params: Mapping[str, Value]
    state: str = "asked"
    value: float | None = None
    epochs: int = 0
    keys: tuple[str, ...] = ()
    curve: Mapping[int, float] = field(default_factory=dict)
    rungs: Mapping[str, float] = field(default_factory=dict)
    confirmed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Searched:
    """The record of a search; `settings` are those of conf/search/."""

    settings: Mapping[str, Any]
    metric: str
    dimensions: tuple[Dimension, ...]
    trials: tuple[Trial, ...] = ()
    optuna: str = ""  # the version that asked

    def content(self) -> bytes:
        """Return the artifact."""
        values = {"format": FORMAT, **asdict(self)}
        return (json.dumps(_finite(values), separators=(",", ":"), allow_nan=False) + "\n").encode()

    @property
    def best_first(self) -> list[int]:
        """Return the numbers of the trials that were completed, the best first; of equals the first."""
        low = 1 if self.metric.endswith("loss") else -1
        done = [(low * t.value, i) for i, t in enumerate(self.trials) if _is_done(t) and t.value is not None]
        return [i for _, i in sorted(done)]


def _is_done(trial: Trial) -> bool:
    return trial.state == "complete"


def find_search(store: Store, parent: Detail) -> Searched | None:
    """Return the record of a search from its parent run, or None if the parent is of another sweep.

    Raises RequestError if the record is damaged.
    """
    if SEARCH_KEY not in parent.tags:
        return None
    return parsed(parent.run_id, find_artifact(store, parent, SEARCH_FILE))


def parsed(search_id: str, content: bytes | None) -> Searched:
    """Return the record that an artifact has. Raises RequestError if it is missing or damaged."""
    if content is None:
        raise RequestError(f"search {search_id}: its artifact {SEARCH_FILE} is missing")
    try:
        return _search(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RequestError(
            f"search {search_id}: its artifact {SEARCH_FILE} is not one of a search"
        ) from error


def _search(values: Any) -> Searched:
    """Build a Searched from the plain values of its artifact."""
    if values.pop("format") != FORMAT:
        raise ValueError
    dimensions = tuple(_dimension(one) for one in values.pop("dimensions"))
    trials = tuple(_trial(one, {d.name for d in dimensions}) for one in values.pop("trials"))
    found = Searched(dimensions=dimensions, trials=trials, **values)
    if not (
        isinstance(found.metric, str) and isinstance(found.optuna, str) and isinstance(found.settings, dict)
    ):
        raise ValueError
    return found


def _dimension(values: Mapping[str, Any]) -> Dimension:
    """Build a Dimension from plain values."""
    settings = tuple(tuple(map(str, texts)) for texts in values["settings"])
    bounds = {key: _number(values[key]) for key in ("low", "high")}
    step = values["step"] if values["step"] is None else _number(values["step"])
    if values["kind"] not in ("float", "int", "choice") or not isinstance(values["name"], str):
        raise ValueError
    if values["kind"] == "int":
        bounds = {key: int(value) for key, value in bounds.items()}
    choices = tuple(map(str, values["choices"]))
    return Dimension(
        values["name"], values["kind"], **bounds, step=step, log=bool(values["log"]), choices=choices,
        settings=settings,
    )  # fmt: skip


def _trial(values: Mapping[str, Any], names: set[str]) -> Trial:
    """Build a Trial from plain values."""
    params = dict(values["params"])
    if set(params) != names or not all(isinstance(value, int | float | str) for value in params.values()):
        raise ValueError
    if values["state"] not in STATES:
        raise ValueError
    return Trial(
        params,
        values["state"],
        None if values["value"] is None else _number(values["value"]),
        int(values["epochs"]),
        tuple(map(str, values["keys"])),
        {int(epoch): _number(value) for epoch, value in values["curve"].items()},
        {str(name): _number(value) for name, value in values["rungs"].items()},
        tuple(map(str, values["confirmed"])),
    )


def _number(value: Any) -> float:
    """Return a number of the artifact; the infinite ones are texts there."""
    if value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    return value


def _finite(value: Any) -> Any:
    """Return plain values with infinite numbers as texts, as JSON has no others."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
