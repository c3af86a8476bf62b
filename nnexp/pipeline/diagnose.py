"""Read a recorded run back for its figures and its diagnosis, beside a run of its setting that solved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from nnexp.analysis.diagnosis import Diagnosis, Siblings, diagnose, has_solved, siblings
from nnexp.analysis.summary import needed
from nnexp.config.errors import RequestError
from nnexp.config.run import RunConfig
from nnexp.dataset.load import Dataset
from nnexp.pipeline.artifacts import Whole, read_back, without_test_rows
from nnexp.pipeline.networks import member_again
from nnexp.pipeline.rerun.subject import Subjects, find_run, kept_in
from nnexp.tracking.experiments import get_experiment
from nnexp.tracking.find import get_sweep, read_weights
from nnexp.tracking.frames import read_frame
from nnexp.tracking.members import member_id
from nnexp.tracking.population import Member, population_of
from nnexp.tracking.read import read_runs
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store
from nnexp.training.checks import check


def config_and_data(store: Store, run_id: str) -> tuple[RunConfig, Dataset]:
    """Return a recorded run's configuration and data set.

    Raises RequestError if the run did not finish, or its data set cannot be found any more.
    """
    subject = Subjects(kept_in(store)).subject(find_run(store, run_id))
    if subject.data.dataset is None:
        raise RequestError(f"run {run_id}: {subject.data.changed}")
    return subject.config, subject.data.dataset


def read_run(store: Store, record: Detail) -> Whole:
    """Read a recorded run back as it was just after training.

    Raises RequestError as above, and if its weights.npz is missing or damaged.
    """
    if isinstance(record, Member):
        return member_again(store, record)
    config, dataset = config_and_data(store, record.run_id)
    read_weights(store, record)
    return read_back(store, record.run_id, config, dataset, record.tags["nnexp.outcome"])


def diagnosis_of(run: Whole) -> Diagnosis:
    """Collect what is known of a run. Test rows are left out."""
    data = check(run.dataset, run.config)
    part = np.full(len(run.dataset.X), "train", dtype=object)
    part[data.val_rows] = "validation"
    part = np.delete(part, data.test_rows)
    return diagnose(run.model, without_test_rows(run.dataset, run.config), part, run.epochs, run.curves)


def siblings_of(store: Store, record: Detail) -> Siblings:
    """Find the runs of a run's setting in its sweep; in its experiment if it has none, or it was deleted.

    Of a member's population, only the columns that are needed are read.
    """
    if isinstance(record, Member):
        runs = read_frame(population_of(store, record.parent), needed("number", "seed"))
        found = siblings(runs.assign(run_id=runs["number"]), record.row["number"])
        if found.example is None:
            return found
        return replace(found, example=member_id(record.parent.run_id, found.example))
    parent = get_sweep(store, record.tags.get("nnexp.sweep_id", ""))
    place = get_experiment(store, record.experiment_id)
    runs = read_runs(store, place, None if parent is None else parent.run_id)
    return siblings(runs, record.run_id)


def is_solved(record: Detail) -> bool:
    """Return whether a recorded run solved its task, as `has_solved` says."""
    row = {"outcome": record.tags.get("nnexp.outcome"), **record.metrics}
    return bool(has_solved(pd.DataFrame([row])).iloc[0])
