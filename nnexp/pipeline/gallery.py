"""The best runs of a sweep, read back, get the files that a run of its own has."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nnexp.analysis.report.findings import Findings
from nnexp.config.run import RunConfig
from nnexp.dataset.load import Dataset
from nnexp.network.weights import unpack, unpack_kept
from nnexp.pipeline.artifacts import Whole, single_files
from nnexp.tracking.find import get_curve, get_run, read_artifact
from nnexp.tracking.store import Store
from nnexp.training.plan import Point

log = logging.getLogger("nnexp")

# The best runs of a sweep that get all that a run of its own has.
MAX_BEST = 3


def best_files(store: Store, found: Findings, points: Sequence[Point]) -> dict[str, dict[str, bytes]]:
    """By the id of each of a sweep's best runs, the files that a run of its own has and theirs lack."""
    point_of = {point.key: point for point in points}
    best = found.best(1)
    best = best[best["outcome"] != "diverged"].head(MAX_BEST)
    files = {}
    for run_id, key, outcome in best[["run_id", "run_key", "outcome"]].itertuples(index=False):
        try:
            point = point_of[key]
            run = read_back(store, run_id, replace(point.config, figures=True), point.dataset, outcome)
        except (FileNotFoundError, ValueError) as error:
            log.info(f"no figures of the best run {run_id}: its weights.npz cannot be read: {error}")
            continue
        files[run_id] = single_files(run)
    return files


def read_back(store: Store, run_id: str, config: RunConfig, dataset: Dataset, outcome: str) -> Whole:
    """A recorded run as it was when it had been trained. Raises FileNotFoundError or ValueError when its
    weights are not there or are none."""
    record = get_run(store, run_id)
    weights = read_artifact(store, record, "weights.npz")
    curves: Mapping[str, dict[int, float]] = {
        name: dict(get_curve(store, run_id, name))
        for name in ("loss", "accuracy", "val_loss", "val_accuracy", "grad_norm")
        if name in record.metrics
    }
    epochs = list(curves["loss"])
    return Whole(
        config=config,
        dataset=dataset,
        model=unpack(weights),
        kept=unpack_kept(weights),
        epochs=epochs,
        curves={name: [curve.get(epoch, np.nan) for epoch in epochs] for name, curve in curves.items()},
        outcome=outcome,
    )
