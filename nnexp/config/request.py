"""Define a request: the keys that cannot change a result, such as which points to run again, how, and where.

Defaults are in conf/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from nnexp.config import run as config
from nnexp.config.errors import RequestError, unknown
from nnexp.config.rules import Rule, flag, list_of, one_of, optional, text, whole
from nnexp.config.run import RunConfig, checked, keyed, refuse_other_keys
from nnexp.config.text import masked

_WORKERS = optional(whole(1, 4096), "one per core")
_ADDRESS = text("the scheduler's address, tcp://host:8786", r"(tcp|tls|ws|wss|ucx)://\S+")
# Any character except those that control a terminal or change the direction of text.
_SHOWN = r"[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_NAME = text("a text of at most 250 characters on one line", _SHOWN + "{1,250}", number=True)
_QUESTION = text("a text of at most 2,000 characters on one line", _SHOWN + "{1,2000}", number=True)
# Tags that begin with mlflow. or nnexp. are reserved: MLflow and nnexp identify runs by them.
_TAG = re.compile(r"(?!mlflow\.|nnexp\.|/)(?!.*(\.\.|//|\./|/$))[\w.:/ -]{1,250}(?<![ .])")
MAX_TAGS, MAX_TAG = 100, 1000


def _parse_tags(value: Any) -> tuple[tuple[str, str], ...]:
    """Return the tags as (name, text) pairs sorted by name. Raises ValueError if one is not allowed."""
    if not isinstance(value, Mapping) or len(value) > MAX_TAGS:
        raise ValueError
    content = text("", _SHOWN + f"{{1,{MAX_TAG}}}", number=True)
    tags = {key: content.parse(str(v).lower() if isinstance(v, bool) else v) for key, v in value.items()}
    if not all(isinstance(key, str) and _TAG.fullmatch(key) for key in tags):
        raise ValueError
    return tuple(sorted(tags.items()))


_TAGS = Rule(
    "{name: text, …}; a name has letters, digits and _ - . : / and begins with neither mlflow. nor nnexp., "
    f"a text at most {MAX_TAG:,} characters",
    _parse_tags,
)
# The options of each executor, with their rules and meanings.
EXECUTORS = {
    "inline": {},
    "processes": {"workers": (_WORKERS, "processes that train")},
    "dask": {"address": (_ADDRESS, "where the cluster's scheduler listens")},
}


@dataclass(frozen=True)
class Executor:
    """Where the shards of a sweep are trained: in this process, in several processes or on a Dask cluster."""

    name: str
    workers: int | None = None
    address: str | None = None


# The keys that trials can be judged over.
RUN_KEYS = tuple(config.key_names())
SAMPLERS = ("random", "tpe", "gp", "cmaes", "qmc", "grid")
PRUNERS = ("none", "median", "successive_halving", "hyperband")
# What a search may be judged by: not the test rows, which are no test of what was chosen by them.
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Search:
    """How a search chooses its trials, judges them and ends them early. `name` is the sampler's."""

    name: str
    trials: int | None = keyed(optional(whole(1, 1_000_000), "all points of a grid"), "how many trials")
    batch: int = keyed(
        whole(1, 10_000), "trials that are chosen and trained at a time; the next ones learn from them"
    )
    metric: str | None = keyed(
        optional(one_of(*METRICS), "val_loss where there are validation rows, else loss"),
        "what a trial is judged by, at its end",
    )
    pruner: str = keyed(one_of(*PRUNERS), "which trials end early, by their metric at the recorded epochs")
    over: str = keyed(
        text("a key", r"[a-z_]+(\.[a-z0-9_]+)*"),
        "the key over whose values a trial is judged, by the median; diverged runs are worst",
    )
    confirm: int = keyed(whole(0, 10_000), "how many of the best trials are run again on as many fresh seeds")
    seed: int = keyed(whole(0, 2**32 - 1), "seed of the sampler")


@dataclass(frozen=True)
class Request:
    """How a command runs its points. Build it with `split`."""

    executor: Executor
    search: Search
    device: str = keyed(
        one_of("cpu", "cuda", "auto"),
        "what trains, with the same bits: the CPU, a CUDA device, or that device where there is one",
    )
    plan: bool = keyed(flag(), "say what there is to do, and stop there")
    force: bool = keyed(flag(), "run finished points again, as a new attempt; the same as retry=all")
    retry: str = keyed(one_of("none", "failed", "all"), "which of the recorded points are run again")
    max_failures: int | None = keyed(optional(whole(1), "no limit"), "stop after this many failed points")
    zip: tuple[str, ...] = keyed(
        list_of(text("a key"), "a list of swept keys, [a,b]"), "ranges taken side by side, not combined"
    )
    exclude: str | None = keyed(
        optional(text("a condition over the keys"), "none"),
        "points left out, such as \"init == 'ones' and seed > 3\"",
    )

    record: str = keyed(
        one_of("runs", "table"),
        "how a sweep is recorded: each network as a run, or all as rows of one table, a population",
    )
    curves: bool | None = keyed(
        optional(flag(), "false in a table; runs always have them"), "record the curves in the table, too"
    )
    weights: str | None = keyed(
        optional(one_of("none", "final", "all"), "none in a table; runs always have them"),
        "record weights in the table, too: the trained ones, or all, also untrained and every weights_every",
    )
    require_clean: bool = keyed(flag(), "refuse to run code that is not all committed in git")
    name: str | None = keyed(optional(_NAME, "made from the keys"), "title of the sweep, or of the run")
    question: str | None = keyed(
        optional(_QUESTION, "the first comment of the experiment's file"),
        "the question of the sweep; its description and its report begin with it",
    )
    tags: tuple[tuple[str, str], ...] | None = keyed(
        optional(_TAGS, "none"), "your own tags for the sweep, or for the run"
    )

    @property
    def labels(self) -> tuple[object, ...]:
        """Return those of name, question and tags that are given."""
        return tuple(label for label in (self.name, self.question, self.tags) if label)

    @property
    def is_table(self) -> bool:
        """Return whether the sweep is to be recorded as a population."""
        return self.record == "table"

    @property
    def reruns(self) -> str:
        """Return which recorded points to run again: none, failed or all."""
        return "all" if self.force else self.retry


def split(values: Any) -> tuple[RunConfig, Request]:
    """Split a composed configuration into the run and how to run it.

    Raises RequestError if a value is wrong, or if a name or a path looks like a password.
    """
    if not isinstance(values, Mapping):
        raise RequestError("a configuration must be a mapping of keys to values")
    names = [f.name for f in fields(Request)]
    ours = {name: values[name] for name in names if name in values}
    theirs = {str(name): value for name, value in values.items() if name not in names and name != "hydra"}
    run = RunConfig.from_mapping(theirs)
    _refuse_secrets(run)
    return run, build_request(ours)


def _refuse_secrets(run: RunConfig) -> None:
    """Raise RequestError if a name or a path looks like a password, since it would be recorded unmasked."""
    for key, value in run.leaves().items():
        if key != "experiment_name" and not key.startswith("dataset."):
            continue
        for name in value if isinstance(value, tuple) else (value,):
            if name is not None and (shown := _masked(name)) != name:
                raise RequestError(f"{key}={shown}: looks like a password or a token, but would be recorded")


# Cached, because the points of a sweep share most of these texts.
_masked = lru_cache(maxsize=4096)(masked)


def build_request(values: Mapping[str, Any]) -> Request:
    """Build a Request from plain values. Raises RequestError."""
    refuse_other_keys(values.keys(), [f.name for f in fields(Request)])
    parsed = {name: checked(name, values[name], rule) for name, (rule, _) in own_keys().items()}
    request = Request(executor=_executor(values["executor"]), search=_search(values["search"]), **parsed)
    for key in ("curves", "weights"):
        if not request.is_table and parsed[key] is not None:
            typed = str(parsed[key]).lower()
            raise RequestError(f"{key}={typed}: is for record=table; runs always have their {key}")
    return request


def _executor(values: Any) -> Executor:
    """Build an Executor from plain values. Raises RequestError."""
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise RequestError(f"executor={values}: must be the name of one of conf/executor/")
    name = values["name"]
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    refuse_other_keys(values.keys(), ["name", *EXECUTORS[name]], "executor.")
    options = {
        option: checked(f"executor.{option}", values[option], rule)
        for option, (rule, _) in EXECUTORS[name].items()
    }
    return Executor(name, **options)


def _search(values: Any) -> Search:
    """Build a Search from plain values. Raises RequestError."""
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise RequestError(f"search={values}: must be the name of one of conf/search/")
    if values["name"] not in SAMPLERS:
        raise unknown("search", values["name"], SAMPLERS)
    keys = _keyed(Search)
    refuse_other_keys(values.keys(), ["name", *keys], "search.")
    parsed = {name: checked(f"search.{name}", values[name], rule) for name, (rule, _) in keys.items()}
    if parsed["over"] not in RUN_KEYS:
        raise unknown("key in search.over", parsed["over"], RUN_KEYS)
    if parsed["trials"] is None and values["name"] != "grid":
        raise RequestError(f"search.trials=null: search={values['name']} has no end: give a number of trials")
    return Search(values["name"], **parsed)


def _keyed(kind: type) -> dict[str, tuple[Rule, str]]:
    """Return the rule and the meaning of each field of a dataclass that has them."""
    keys = {f.name: f.metadata for f in fields(kind) if f.metadata}
    return {name: (metadata["rule"], metadata["meaning"]) for name, metadata in keys.items()}


def own_keys() -> dict[str, tuple[Rule, str]]:
    """Return the rule and the meaning of each key of a request, except those of its groups."""
    return _keyed(Request)


def key_help() -> list[tuple[str, str, str]]:
    """Return (key, allowed values, meaning) for every key that can be typed, except the groups' names."""
    keys = own_keys()
    for taken in EXECUTORS.values():
        keys |= {f"executor.{option}": known for option, known in taken.items()}
    keys |= {f"search.{option}": known for option, known in _keyed(Search).items()}
    return [*config.key_help(), *((key, rule.allowed, meaning) for key, (rule, meaning) in keys.items())]


def key_names() -> list[str]:
    """Return every key that can be typed, in reading order: the run's keys come first."""
    of_executor = [f"executor.{option}" for taken in EXECUTORS.values() for option in taken]
    of_search = [f"search.{option}" for option in _keyed(Search)]
    return [*config.key_names(), *own_keys(), "executor", *of_executor, "search", *of_search]


GROUPS = (*config.GROUPS, "executor", "search")
