"""Define one run: a frozen, validated `RunConfig`, its canonical form and its key.

Composed values become a run only here. A wrong value raises `RequestError`, which names the key, the value
and what is allowed, before anything runs or is recorded. Defaults are in conf/.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from nnexp.config.errors import NotGiven, RequestError, unknown
from nnexp.config.rules import Rule, flag, list_of, number, one_of, optional, text, whole
from nnexp.config.text import masked_value, on_one_line, shortened

ACTIVATIONS = ("sigmoid", "tanh", "relu", "identity")
LOSSES = ("mse", "bce", "cross_entropy")
CENTERS = ("articles", "mean", "none", "standardize")
# The output activations that each loss accepts: bce and cross_entropy each turn the output layer's totals
# into probabilities in one way only.
LOSS_OUTPUTS = {"mse": (*ACTIVATIONS, "softmax"), "bce": ("sigmoid",), "cross_entropy": ("softmax",)}


# MLflow's limit on the length of a param; config.yaml keeps the whole value.
MAX_PARAM = 6000


COLUMN = text("a column's name", number=True)
_LABEL = text("a label", number=True, truth=True)
_PLAIN_NAME = text(
    "a plain name of at most 100 characters: no /, \\, .., control characters or blanks at its ends",
    # Characters that change the direction of text are excluded too: they make one name look like another.
    r"(?!.*\.\.)(?!\s)[^/\\\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{1,100}(?<!\s)",
    number=True,
)
_URI = text(
    "sqlite:///FILE (without ?), postgresql://…, http://… or https://…",
    # SQLAlchemy would read what follows a ? in a file's name as options.
    r"(sqlite:///[^?\x00-\x1f\x7f-\x9f\ud800-\udfff]+|(postgresql(\+\w+)?|https?)://[^\x00-\x20\x7f-\x9f\ud800-\udfff]+)",
)


# --- The run. A field's metadata holds the rule that checks its value and the text for `nnexp train --help`.


def keyed(rule: Rule, meaning: str) -> Any:
    """Return a dataclass field for a key, with its rule and its meaning as metadata."""
    return field(metadata={"rule": rule, "meaning": meaning})


@dataclass(frozen=True)
class DatasetConfig:
    """The table of a run, its columns, and how its inputs are centred."""

    name: str = keyed(text("a data set of conf/dataset/"), "the data set's name")
    path: str = keyed(text("a CSV file"), "the table: UTF-8, a header, commas")
    features: tuple[str, ...] | None = keyed(
        optional(
            list_of(COLUMN, "a list of column names, [a,b]", min_length=1),
            "all columns except the target and the column name, which names the rows",
        ),
        "the input columns",
    )
    target: str = keyed(COLUMN, "the column to predict")
    classes: tuple[str, ...] | None = keyed(
        optional(
            list_of(_LABEL, "a list of two or more labels, as the table writes them", min_length=2),
            "text labels (or 0 and 1) are classes in sorted order, other numbers a regression",
        ),
        "the target's labels in order; the first is 0",
    )
    new_rows: str | None = keyed(
        optional(text("a CSV file"), "no new rows"), "rows to predict after training"
    )
    center: str = keyed(one_of(*CENTERS), "how inputs are centred; learned on the training rows")

    def nested(self) -> dict[str, Any]:
        """Return the values as config.yaml holds them."""
        return dict(vars(self))


@dataclass(frozen=True)
class Choice:
    """An option chosen from a group, with its own numbers: `init=normal init.scale=1`."""

    name: str
    options: tuple[tuple[str, float], ...]

    def nested(self) -> dict[str, Any]:
        """Return the values as config.yaml holds them."""
        return {"name": self.name, **dict(self.options)}


_OPTIONS = {
    "init.scale": (number(above=0), "multiplies every initial weight's spread"),
    "init.value": (number(), "every initial weight"),
    "init.ulps": (
        whole(0, 2**52),
        "how many units in the last place the first weight of each layer is farther from 0",
    ),
    "optimizer.momentum": (number(at_least=0, below=1), "share of the last step that is kept"),
    "optimizer.beta1": (number(at_least=0, below=1), "decay of the gradient's running mean"),
    "optimizer.beta2": (number(at_least=0, below=1), "decay of its running square"),
    "optimizer.epsilon": (number(above=0), "keeps the division finite"),
    "optimizer.weight_decay": (
        number(at_least=0),
        "pulls all weights to 0: adamw shrinks them by learning_rate times this a step, the others add "
        "this times the weights to the gradient",
    ),
}


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The configuration of one run, as plain validated values. Build it with `from_mapping`.

    A sweep holds tens of thousands of them, and with slots each takes a third of the memory.
    """

    dataset: DatasetConfig
    init: Choice
    optimizer: Choice
    hidden: tuple[int, ...] = keyed(
        list_of(whole(1), "a list of whole numbers >= 1; [] for none"), "widths of the hidden layers"
    )
    activation: str = keyed(one_of(*ACTIVATIONS), "activation of the hidden layers")
    output_activation: str = keyed(one_of(*ACTIVATIONS, "softmax"), "activation of the output layer")
    loss: str = keyed(
        one_of(*LOSSES), "the loss to minimise; bce needs a sigmoid output, cross_entropy softmax"
    )
    learning_rate: float = keyed(number(above=0), "size of a step down the gradient")
    epochs: int = keyed(whole(1), "passes over the training rows")
    patience: int = keyed(
        whole(0),
        "stop after so many epochs without a lower val_loss, which is looked at every log_every epochs; the "
        "result is the network at the lowest; 0: never",
    )
    batch_size: int | str = keyed(whole(1, also="full"), "rows per step; full for all of them")
    shuffle: bool = keyed(flag(), "a new row order each epoch, drawn from the seed")
    validation_fraction: float = keyed(
        number(at_least=0, below=1), "share of all rows, drawn from split_seed, kept for val_loss"
    )
    folds: int = keyed(
        whole(2, also=0),
        "cut the rows, but for the test rows, into so many parts, of which one is for val_loss; 0: none",
    )
    fold: int = keyed(whole(0), "which of the folds is for val_loss, from 0 to folds - 1")
    test_fraction: float = keyed(
        number(at_least=0, below=1),
        "share of all rows, drawn from split_seed, kept for test_loss, which is measured once, at the end",
    )
    split_seed: int | None = keyed(
        optional(whole(0, 2**32 - 1), "the seed"), "seed of the split into training and other rows"
    )
    seed: int = keyed(whole(0, 2**32 - 1), "seed of weights, split and order")
    log_every: int = keyed(whole(1), "epochs between two recorded points of the curves")
    weights_every: int = keyed(whole(0), "epochs between two kept weights; 0: first and last only")
    figures: bool = keyed(flag(), "log plots of the run")
    model: bool = keyed(flag(), "log a servable MLflow model")
    experiment_name: str = keyed(_PLAIN_NAME, "the MLflow experiment to record in")
    tracking_uri: str | None = keyed(
        optional(_URI, "MLFLOW_TRACKING_URI, else mlflow.db in the checkout or in this directory"),
        "the MLflow store",
    )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build a RunConfig from plain nested values, such as a recorded config.yaml.

        Raises RequestError for a missing or unknown key, a wrong value, or values that do not go together.
        """
        refuse_other_keys(values.keys(), [f.name for f in fields(cls)])
        parsed: dict[str, Any] = {}
        for f in fields(cls):
            if f.name == "dataset":
                parsed["dataset"] = _dataset(values["dataset"])
            elif f.name in GROUPS:
                parsed[f.name] = _choice(f.name, values[f.name])
            else:
                parsed[f.name] = checked(f.name, values[f.name], f.metadata["rule"])
        config = cls(**parsed)
        config._check_combinations()
        return config

    def _check_combinations(self) -> None:
        outputs = LOSS_OUTPUTS[self.loss]
        if self.output_activation not in outputs:
            raise RequestError(
                f"loss={self.loss} does not go with output_activation={self.output_activation}: "
                f"it needs output_activation={' or '.join(outputs)}"
            )
        if self.validation_fraction and self.folds:
            raise RequestError(
                f"validation_fraction={self.validation_fraction:g} does not go with folds={self.folds}: each "
                "says which rows are for val_loss; leave one out"
            )
        if self.fold >= max(1, self.folds):
            allowed = f"0 to {self.folds - 1}" if self.folds else "0, as folds=0 cuts none"
            raise RequestError(f"fold={self.fold} with folds={self.folds}: must be {allowed}")
        if self.patience and not (self.validation_fraction or self.folds):
            raise RequestError(
                f"patience={self.patience} waits for val_loss to fall, and there are no validation rows: "
                "set validation_fraction or folds, or patience=0"
            )

    def items(self) -> Iterator[tuple[str, Any]]:
        """Return each field's name with its value."""
        return zip(self.__slots__, _values(self), strict=True)

    def leaves(self) -> dict[str, Any]:
        """Return every key with its value, flat, by the names that users type: `init`, `init.scale`, …"""
        flat: dict[str, Any] = {}
        for name, value in self.items():
            if name in GROUPS:
                parts = value.nested()
                flat[name] = parts.pop("name")
                flat |= {f"{name}.{option}": part for option, part in parts.items()}
            else:
                flat[name] = value
        return flat

    def params(self) -> dict[str, str]:
        """Return the params for MLflow: every leaf that can change the result, cut to MLflow's limit.

        A leaf that is None is left out.
        """
        texts = {k: as_param(v) for k, v in self.leaves().items() if k not in NOT_RESULT and v is not None}
        return {k: v if len(v) <= MAX_PARAM else v[: MAX_PARAM - 1] + "…" for k, v in texts.items()}

    def nested(self) -> dict[str, Any]:
        """Return the values as config.yaml holds them: `from_mapping(config.nested()) == config`."""
        return {name: value.nested() if name in GROUPS else value for name, value in self.items()}

    def run_key(self, data_sha256: str, engine: str) -> str:
        """Return the SHA-256 of all that decides the result: runs with the same key have the same bits.

        The data count by their bytes; the data set's name and paths, the keys of NOT_RESULT, and those of
        ADDED at the value there, do not count.
        """
        return hashlib.sha256("".join(canonical(self.leaves(), data_sha256, engine)).encode()).hexdigest()


_values = attrgetter(*RunConfig.__slots__)
GROUPS = ("dataset", "init", "optimizer")
# Keys that say what else to record and where; they cannot change a result.
NOT_RESULT = frozenset({"figures", "model", "experiment_name", "tracking_uri"})
# Keys that the run key ignores, because it has the SHA-256 of the data instead.
LOCATIONS = frozenset({"dataset", "dataset.path", "dataset.new_rows"})
# Keys that records of earlier schemas lack, each with the value that those were trained with. The run key
# leaves out a key that has this value, and so is the one that such a record has.
ADDED = {
    "optimizer.weight_decay": 0.0,
    "patience": 0,
    "folds": 0,
    "fold": 0,
    "test_fraction": 0.0,
    "split_seed": None,
}


def canonical(leaves: Mapping[str, Any], data_sha256: str, engine: str) -> list[str]:
    """Return the text that a run key is the hash of, in three parts: the second has the sorted keys."""
    members = [member(key, leaves[key]) for key in sorted(leaves)]
    tail = f'}},"data":{json.dumps(data_sha256)},"engine":{json.dumps(engine)}}}'
    return ['{"config":{', "".join(members).removeprefix(","), tail]


def member(key: str, value: Any) -> str:
    """Return a key and its value as the canonical text has them; nothing if the key does not count there."""
    if key in NOT_RESULT | LOCATIONS or (key in ADDED and value == ADDED[key]):
        return ""
    return f",{_canonical(key)}:{_canonical(value)}"


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def added_params() -> dict[str, str]:
    """Return the params that earlier records lack, as those were trained."""
    return {key: as_param(value) for key, value in ADDED.items() if value is not None}


def rules() -> dict[str, Rule]:
    """Return the rule of every key, except the names of the groups."""
    ours = {f.name: f.metadata["rule"] for f in fields(RunConfig) if f.name not in GROUPS}
    ours |= {key: rule for key, (rule, _) in _OPTIONS.items()}
    return {f"dataset.{f.name}": f.metadata["rule"] for f in fields(DatasetConfig)} | ours


def key_help() -> list[tuple[str, str, str]]:
    """Return (key, allowed values, meaning) for every key except the three groups' names."""
    rows = [(f"dataset.{f.name}", f) for f in fields(DatasetConfig) if f.name != "name"]
    rows += [(f.name, f) for f in fields(RunConfig) if f.name not in GROUPS]
    table = [(key, f.metadata["rule"].allowed, f.metadata["meaning"]) for key, f in rows]
    return table + [(key, rule.allowed, meaning) for key, (rule, meaning) in _OPTIONS.items()]


def key_names() -> list[str]:
    """Return every key in reading order: each group's name is followed by the group's own keys."""
    keys = [key for key, _, _ in key_help()]
    return [
        key for f in fields(RunConfig) for key in ([f.name, *(k for k in keys if k.startswith(f"{f.name}."))])
    ]


def checked(key: str, value: Any, rule: Rule) -> Any:
    """Return the value as the rule parses it.

    Raises NotGiven if it is missing (`???`), and RequestError with the key if the rule does not allow it.
    """
    if value == "???":
        raise NotGiven(key, rule.allowed)
    try:
        return rule.parse(value)
    except ValueError:
        hint = f"; write {key}=[{_shown(value)}]" if is_item(rule, value) else ""
        raise RequestError(f"{key}={_shown(value)}: must be {rule.allowed}{hint}") from None


def is_item(rule: Rule, value: Any) -> bool:
    """Return whether the value is a single item where the rule wants a list: 2 for [2]."""
    try:
        return isinstance(value, int | float | str) and bool(rule.parse([value]))
    except ValueError:
        return False


def refuse_other_keys(given: Collection[str], known: Sequence[str], prefix: str = "") -> None:
    """Raise RequestError unless the given keys are the known ones."""
    for name in given:
        if name not in known:
            raise unknown("key", f"{prefix}{name}", [prefix + n for n in known])
    for name in known:
        if name not in given:
            raise RequestError(f"{prefix}{name} is not given")


def _dataset(values: Any) -> DatasetConfig:
    """Validate the data set's values. Raises RequestError."""
    names = [f.name for f in fields(DatasetConfig)]
    if not isinstance(values, Mapping):
        raise RequestError(f"dataset={_shown(values)}: must be a mapping of {', '.join(names)}")
    refuse_other_keys(values.keys(), names, "dataset.")
    parsed = {
        f.name: checked(f"dataset.{f.name}", values[f.name], f.metadata["rule"])
        for f in fields(DatasetConfig)
    }
    for key in ("features", "classes"):
        items = parsed[key] or ()
        if len(set(items)) < len(items):
            raise RequestError(f"dataset.{key}={_shown(items)}: a name occurs twice")
    if parsed["target"] in (parsed["features"] or ()):
        raise RequestError(f"dataset.target={parsed['target']} is also one of dataset.features")
    return DatasetConfig(**parsed)


def _choice(group: str, values: Any) -> Choice:
    """Validate a group's name and numbers. Raises RequestError.

    Which numbers an option has is defined by its YAML file.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise RequestError(f"{group}={_shown(values)}: must be the name of one of conf/{group}/")
    options = []
    for option, value in sorted((str(k), v) for k, v in values.items() if k != "name"):
        key = f"{group}.{option}"
        rule, _ = _OPTIONS.get(key, (number(), ""))
        options.append((option, checked(key, value, rule)))
    return Choice(values["name"], tuple(options))


def as_param(value: Any) -> str:
    """Return a value as the text of a param."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str, separators=(",", ":"))


def _shown(value: Any) -> str:
    """Return the value as an error message shows it: masked, short, on one line."""
    if isinstance(value, int) and abs(value) >= 10**100:  # Python refuses to convert very long integers
        return "a number of over a hundred digits"
    return on_one_line(shortened(masked_value(as_param(value))))
