"""Compare a run that was trained again with its record, bit by bit; find what differs first, and why.

Pure functions: evidence and training in, a verdict out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnexp.config.recorded import EXACT_PREDICTIONS, RecordedConfig
from nnexp.config.run import LOCATIONS, added_params
from nnexp.dataset.load import Dataset
from nnexp.network import engine
from nnexp.network.engine import canary
from nnexp.network.reference import Layers, flatten
from nnexp.network.weights import NotWeights, arrays_of, npz, pack, unpack, weights_sha256
from nnexp.pipeline.artifacts import model_of, points, prediction_points
from nnexp.pipeline.identity import result_tags
from nnexp.tracking.evidence import Evidence
from nnexp.training.shard import Trained

# The absolute tolerance for predictions of a schema that did not promise their bits.
LOOSE = 1e-12
# The version of the engine in which the bits of NaNs depend on the CPU.
ANY_NAN = "1"
# Tags that say which code produced a result; if one has changed, it may be the cause of a difference.
CODE = {
    "nnexp.git_commit": "code commit",
    "nnexp.version.nnexp": "nnexp",
    "nnexp.python": "Python",
    "nnexp.version.numpy": "NumPy",
    "nnexp.version.numba": "Numba",
}


@dataclass(frozen=True)
class Verdict:
    """The result of comparing one run with its record."""

    run_id: str
    name: str
    difference: str | None = None  # the first one found, None if everything has the same bits
    causes: tuple[str, ...] = ()  # likely causes, the likeliest first
    notes: tuple[str, ...] = ()  # further remarks

    @property
    def is_identical(self) -> bool:
        return self.difference is None

    def __str__(self) -> str:
        """Return one line, as shown in tags and tables."""
        if self.difference is None:
            return "identical"
        return "; ".join([f"differs: {self.difference}", *(f"likely cause: {c}" for c in self.causes[:1])])


def judge(
    evidence: Evidence, was: RecordedConfig, again: Trained, dataset: Dataset, here: Mapping[str, str]
) -> Verdict:
    """Compare a run's record with the same run trained again. `here`: the provenance tags of this process."""
    if evidence.tags.get("nnexp.engine") == ANY_NAN:
        evidence = _with_one_nan(evidence)
    weights = pack(model_of(again, dataset), again.kept)
    found = (
        _of_run(evidence, was, again, dataset, weights)
        if evidence.row is None
        else of_row(evidence, again, dataset)
    )
    difference = next(chain(found, _of_both(evidence, was, again)), None)
    if difference is None:
        is_same = evidence.row is not None or evidence.weights == weights
        notes = (
            () if is_same else ("weights.npz has other bytes than if written now; its numbers are the same",)
        )
        return Verdict(evidence.run_id, evidence.name, notes=notes)
    causes = tuple(likely_causes(evidence, was, weights_sha256(again.final.layers), here))
    return Verdict(evidence.run_id, evidence.name, difference, causes)


def _with_one_nan(evidence: Evidence) -> Evidence:
    """Return the record with this version's NaN in its weights, and a new hash if the old was right."""
    try:
        arrays = arrays_of(evidence.weights or b"")
    except NotWeights:
        return evidence
    with_nan = [a for a in arrays.values() if a.dtype == np.float64 and np.isnan(a).any()]
    if not with_nan:
        return evidence
    for array in with_nan:
        array[np.isnan(array)] = np.nan
    weights, tag = npz(arrays), "nnexp.weights_sha256"
    is_theirs = evidence.tags.get(tag) == weights_hash(evidence.weights)
    tags = {**evidence.tags, tag: weights_hash(weights) or ""} if is_theirs else evidence.tags
    return replace(evidence, weights=weights, tags=tags)


def _of_run(
    evidence: Evidence, was: RecordedConfig, again: Trained, dataset: Dataset, weights: bytes
) -> Iterator[str]:
    """Yield all differences to a run, in the order in which training makes them.

    `weights` is the new weights.npz.
    """
    if evidence.weights is None:
        yield "weights.npz is missing"
    elif evidence.weights != weights:
        yield from _arrays_differ(evidence.weights, weights, "_initial")
    yield from twice(evidence)
    yield from _curves_differ(evidence, again)
    if evidence.weights is not None and evidence.weights != weights:
        yield from _arrays_differ(evidence.weights, weights, "")
    yield from _predictions_differ(evidence, was, again, dataset)


def of_row(evidence: Evidence, again: Trained, dataset: Dataset) -> Iterator[str]:
    """Yield all differences to the row of a population, in the order in which training makes them."""
    row = evidence.row or {}
    if (initial := row.get("weights.initial")) is not None:
        yield from _weights_differ("initial weights", initial, again.initial.layers)
    for name, curve in again.curves.items():
        if (old := row.get(f"curves.{name}")) is not None:
            yield from _listed_differ(f"{name} at point", old, curve.tolist())
    new = {metric: value for metric, _, value in [*points(again, 0), *prediction_points(again, dataset)]}
    for name in dict.fromkeys([*new, *evidence.metrics]):
        if evidence.metrics.get(name) != new.get(name):
            was, now = evidence.metrics.get(name), new.get(name)
            yield (
                f"{name} is {now!r}, recorded {was!r}"
                if None in (was, now)
                else f"{name} is {apart(new[name], evidence.metrics[name])}"
            )
    if (final := row.get("weights.final")) is not None:
        yield from _weights_differ("final weights", final, again.final.layers)
    for old, (epoch, layers) in zip(row.get("weights.kept") or [], again.kept.items(), strict=False):
        yield from _weights_differ(f"weights kept at epoch {epoch}", old, layers)
    if evidence.last_epoch != again.epochs[-1]:
        yield f"the last epoch is {again.epochs[-1]}, recorded {evidence.last_epoch}"


def _weights_differ(what: str, recorded: Sequence[float], layers: Layers) -> Iterator[str]:
    yield from _listed_differ(f"{what}, number", recorded, flatten(layers).tolist())


def _listed_differ(what: str, recorded: Sequence[float | None], now: Sequence[float]) -> Iterator[str]:
    """Yield the first place at which two lists of numbers differ."""
    if len(recorded) != len(now):
        yield f"{what}s: {len(now)}, recorded {len(recorded)}"
    old = np.array([math.nan if value is None else value for value in recorded])
    for i, (was, new) in enumerate(zip(old.tolist(), now, strict=False)):
        if was != new and not (math.isnan(was) and math.isnan(new)):
            yield f"{what} {i} is {apart(new, was)}"
            return


def _of_both(evidence: Evidence, was: RecordedConfig, again: Trained) -> Iterator[str]:
    """Yield the differences in tags and params."""
    # That a search ended a run early cannot be seen in the run, which is one of so many epochs.
    ended_early = evidence.tags.get("nnexp.outcome") == "pruned" and again.outcome != "diverged"
    for tag, value in result_tags(replace(again, outcome="pruned") if ended_early else again).items():
        if evidence.tags.get(tag) != value:
            yield f"{tag} is {value}, recorded {evidence.tags.get(tag)}"
    if not was.is_migrated:
        if evidence.key != key_of(evidence, was):
            yield "config.yaml does not match the run's key"
        recorded = {**added_params(), **evidence.params}
        for key, value in was.config.params().items():
            if key not in LOCATIONS and recorded.get(key) != value:
                yield f"the param {key} is {recorded.get(key)}, in config.yaml {value}"


def key_of(evidence: Evidence, was: RecordedConfig) -> str:
    """Return the run key computed from the recorded configuration, data hash and engine version."""
    tags = evidence.tags
    return was.config.run_key(tags.get("nnexp.data_sha256", ""), tags.get("nnexp.engine", ""))


def _arrays_differ(recorded: bytes, weights: bytes, which: str) -> Iterator[str]:
    """Yield how two weights.npz differ: in the initial weights if `which` is "_initial", else elsewhere."""
    try:
        old = arrays_of(recorded)
    except NotWeights as error:
        yield f"{error}"
        return
    new = arrays_of(weights)
    for name in [n for n in {**new, **old} if n.endswith("_initial") == (which == "_initial")]:
        if name not in old or name not in new:
            yield f"weights.npz has {'no' if name not in old else 'an'} array {name[:60]!r}"
        elif old[name].shape != new[name].shape or old[name].dtype != new[name].dtype:
            yield f"{name} has the shape {new[name].shape}, recorded {old[name].shape}"
        elif old[name].tobytes() != new[name].tobytes():
            yield f"{_named(name)}: {_first_apart(name, old[name], new[name])}"


def _named(name: str) -> str:
    if name.endswith("_initial"):
        return "initial weights"
    return "kept weights" if "kept" in name else "final weights" if name[0] in "Wb" else "weights.npz"


def _first_apart(name: str, old: NDArray[Any], new: NDArray[Any]) -> str:
    at = next(i for i in np.ndindex(old.shape) if old[i].tobytes() != new[i].tobytes())
    where = f"{name}[{', '.join(map(str, at))}]"
    if old.dtype != np.float64:
        return f"{where} is {new[at]}, recorded {old[at]}"
    return f"{where} is {apart(float(new[at]), float(old[at]))}"


def twice(evidence: Evidence) -> Iterator[str]:
    """Yield the points that are recorded with several values."""
    for metric, curve in evidence.curves.items():
        values: dict[int, float] = {}
        for epoch, value in curve:
            was = values.setdefault(epoch, value)
            if was is not value and was != value:
                yield f"{metric} at epoch {epoch} is recorded twice, as {was!r} and as {value!r}"


def is_prediction(metric: str) -> bool:
    """Return whether a metric is a prediction for a new row; all other metrics are curves."""
    return metric.startswith("prediction/")


def _curves_differ(evidence: Evidence, again: Trained) -> Iterator[str]:
    old = {(e, m): v for m, curve in evidence.curves.items() if not is_prediction(m) for e, v in curve}
    new = {(epoch, metric): value for metric, epoch, value in points(again, 0)}
    if old == new:
        return
    order = {name: i for i, name in enumerate(again.curves)}
    for epoch, metric in sorted({*old, *new}, key=lambda at: (at[0], order.get(at[1], len(order)), at[1])):
        was, now = old.get((epoch, metric)), new.get((epoch, metric))
        if was is None:
            yield f"{metric} at epoch {epoch} is {now!r}, but is not recorded"
        elif now is None:
            yield f"{metric} at epoch {epoch} is recorded as {was!r}, but the rerun has none"
        elif was != now:
            yield f"{metric} at epoch {epoch} is {apart(now, was)}"


def _predictions_differ(
    evidence: Evidence, was: RecordedConfig, again: Trained, dataset: Dataset
) -> Iterator[str]:
    recorded = {m: dict(curve) for m, curve in evidence.curves.items() if is_prediction(m)}
    end = int(again.epochs[-1])
    for name, values in recorded.items():
        if odd := [epoch for epoch in values if epoch != end]:
            yield f"{name} is recorded at epoch {odd[0]}, but belongs to epoch {end}"
    old = {name: values[end] for name, values in recorded.items() if end in values}
    new = {metric: value for metric, _, value in prediction_points(again, dataset)}
    exact = was.schema >= EXACT_PREDICTIONS
    for name in sorted({*old, *new}):
        if name not in old or name not in new:
            yield f"{name} is {'not recorded' if name not in old else 'recorded, but the rerun has none'}"
        elif old[name] != new[name] and (exact or not math.isclose(old[name], new[name], abs_tol=LOOSE)):
            yield f"{name} is {apart(new[name], old[name])}"


def apart(new: float, old: float) -> str:
    if math.isnan(new) or math.isnan(old):
        return f"{new!r}, recorded {old!r}"
    return f"{new!r}, recorded {old!r} ({ulps(new, old):,} ULP apart)"


def ulps(a: float, b: float) -> int:
    """Return the distance of two doubles in units in the last place: 0 for the same, 1 for neighbours."""
    low, high = sorted(_rank(value) for value in (a, b))
    return high - low


def _rank(value: float) -> int:
    """Return the position of a double in the order of all doubles."""
    bits = int(np.float64(value).view(np.int64))
    return bits if bits >= 0 else -(bits & (2**63 - 1))


# --- Causes.


def likely_causes(
    evidence: Evidence, was: RecordedConfig, hash_now: str, here: Mapping[str, str]
) -> Iterator[str]:
    """Yield the likely causes of a difference, the likeliest first; `hash_now` is that of the new weights."""
    tags = evidence.tags
    if not was.is_migrated and evidence.key != key_of(evidence, was):
        yield "record altered: config.yaml or the tags do not match the run's key"
    if evidence.row is None and weights_hash(evidence.weights) != tags.get("nnexp.weights_sha256"):
        yield "record altered: weights.npz is not the file whose hash is in the tag nnexp.weights_sha256"
    recorded_engine = tags.get("nnexp.engine")
    if recorded_engine != engine.VERSION:
        yield f"engine version: recorded by {recorded_engine}, but this is {engine.VERSION}"
    elif not canary.is_sound():
        yield (
            f"engine arithmetic: this engine claims to be version {engine.VERSION} but computes other bits "
            "(its canary differs): code in nnexp/network/engine was changed"
        )
    elif not was.is_migrated and hash_now == tags.get("nnexp.weights_sha256"):
        yield "record altered: training again gave exactly the weights whose hash was recorded"
    if was.is_migrated:
        yield f"config migrated: it was recorded in schema {was.schema}"
    yield from _code_causes(tags, here)


def _code_causes(tags: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    uncommitted = (tags.get("nnexp.git_diff_sha256", "none"), here.get("nnexp.git_diff_sha256", "none"))
    if "nnexp.git_commit" in tags and "nnexp.git_commit" in here and len(set(uncommitted)) == 2:
        yield "uncommitted changes: recorded {:.12}, here {:.12}".format(*uncommitted)
    for tag, what in CODE.items():
        if tag in tags and tag in here and tags[tag] != here[tag]:
            yield f"{what}: recorded {tags[tag]}, here {here[tag]}"


def weights_hash(content: bytes | None) -> str | None:
    """Return the hash of the final weights in a weights.npz, or None if it is missing or cannot be read."""
    try:
        layers: Layers | None = None if content is None else unpack(content).network.layers
    except NotWeights:
        return None
    return None if layers is None else weights_sha256(layers)
