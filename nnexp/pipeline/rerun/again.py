"""Train recorded runs again, judge them, and record the verdicts beside the runs or sweeps."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from nnexp.config.errors import RequestError
from nnexp.config.recorded import EXACT_PREDICTIONS
from nnexp.dataset.load import Dataset
from nnexp.pipeline.progress import Meter
from nnexp.pipeline.provenance import code_files, provenance
from nnexp.pipeline.records import in_a_tag, population_record, rerun_record, verdicts_record
from nnexp.pipeline.rerun.subject import Subject
from nnexp.pipeline.rerun.table import Compared
from nnexp.pipeline.rerun.verdict import LOOSE, Verdict, judge
from nnexp.pipeline.session import tell_of_compiling
from nnexp.pipeline.signals import uninterrupted
from nnexp.tracking.experiments import get_experiment
from nnexp.tracking.members import split_member
from nnexp.tracking.reader import Detail
from nnexp.tracking.runs import Ended, RunRecord, now, origin
from nnexp.tracking.store import Store
from nnexp.tracking.write import open_writer
from nnexp.training.shard import Trained
from nnexp.training.train import Failure, train

log = logging.getLogger("nnexp")

# --- Training.


def train_again(
    subjects: Sequence[Subject], doing: str, unit: str
) -> Iterator[tuple[Subject, Dataset, Trained | Failure]]:
    """Train runs again, all runs of a data set together; yield each with its data set as it ends.

    Those whose data have changed are left out. `doing` and `unit` are for the progress line.
    """
    tell_of_compiling()
    groups = dict[Dataset, list[Subject]]()
    for subject in subjects:
        if subject.data.dataset is not None:
            groups.setdefault(subject.data.dataset, []).append(subject)
    done = 0
    with Meter(doing, len(subjects), unit) as meter:
        for dataset, members in groups.items():
            for progress in train(dataset, [subject.config for subject in members]):
                for i, again in progress.ended:
                    done += 1
                    yield members[i], dataset, again
                meter.update(done)


def verify(subjects: Sequence[Subject]) -> Iterator[tuple[Subject, Trained | None, Verdict]]:
    """Train the runs again; yield each with its verdict as it ends.

    The trained network is None if the run could not be trained.
    """
    here = provenance()
    for subject in subjects:
        if subject.data.dataset is None:
            why = "the run was not trained, because its data have changed"
            yield subject, None, _verdict(subject, why, ())
    for subject, dataset, again in train_again(subjects, "rerun", "runs"):
        if isinstance(again, Failure):
            yield subject, None, _verdict(subject, f"training failed: {again.reason}", ())
            continue
        verdict = judge(subject.evidence, subject.was, again, dataset, here)
        yield subject, again, _verdict(subject, verdict.difference, verdict.causes, verdict.notes)


def _verdict(
    subject: Subject, difference: str | None, causes: tuple[str, ...], more: tuple[str, ...] = ()
) -> Verdict:
    """Return the verdict on a run after training. Data that have changed are the first difference."""
    evidence, data = subject.evidence, subject.data
    notes = [data.note, *more] if data.note else list(more)
    if subject.was.schema < EXACT_PREDICTIONS and any("/" in metric for metric in evidence.curves):
        notes += (f"schema {subject.was.schema} did not promise the bits of predictions: tolerance {LOOSE}",)
    if data.changed is None:
        return Verdict(evidence.run_id, evidence.name, difference, causes, tuple(notes))
    shown = (
        f"trained on the right data: {difference or 'identical'}" if data.dataset is not None else difference
    )
    cause = f"data: {data.changed}"
    return Verdict(evidence.run_id, evidence.name, "the data set", (cause, *causes), (*notes, shown or ""))


# --- Recording.


def record_run(store: Store, subject: Subject, again: Trained, verdict: Verdict) -> str | None:
    """Record a rerun beside its run, each with a link to the other; return its id.

    Returns None if the store refuses it.
    """
    run, dataset = subject.evidence, subject.data.dataset
    assert dataset is not None  # it was trained
    return _record(store, run, verdict, rerun_record(run, subject.config, dataset, again))


def record_sweep(store: Store, sweep: Detail, verdicts: Sequence[Verdict]) -> str | None:
    """Record the verdicts on a sweep's runs; return the record's id, None if the store refuses it."""
    return _record(store, sweep, of_sweep(sweep, verdicts), verdicts_record(sweep, verdicts))


def record_population(store: Store, sweep: Detail, found: Compared) -> str | None:
    """Record the verdict on a population; return the record's id, None if the store refuses it."""
    causes = found.verdicts[0].causes if found.verdicts else ()
    verdict = Verdict(sweep.run_id, sweep.name, found.difference(), causes)
    return _record(store, sweep, verdict, population_record(sweep, found))


def of_sweep(sweep: Detail, verdicts: Sequence[Verdict]) -> Verdict:
    """Combine the verdicts on a sweep's runs into one."""
    differ = [verdict for verdict in verdicts if not verdict.is_identical]
    what = f"{len(differ):,} of {len(verdicts):,} runs" if differ else None
    return Verdict(sweep.run_id, sweep.name, what, differ[0].causes if differ else ())


def _record(store: Store, old: Detail, verdict: Verdict, record: RunRecord) -> str | None:
    """Record a rerun with its verdict, ended now, and the verdict in the tags of what was run again."""
    links = {"nnexp.rerun_of": old.run_id, "nnexp.verdict": in_a_tag(verdict)}
    tags = {**origin(), **provenance(), **record.tags, **links}
    record = replace(record, tags=tags, files={**record.files, **code_files()}, end_time=now())
    experiment = get_experiment(store, old.experiment_id)
    try:
        with uninterrupted(), open_writer(store, experiment) as writer:
            run_id = writer.start(record)
            with suppress(Ended):  # a database already has it complete and finished
                writer.finish(run_id, "FINISHED", {}, {})
            if split_member(old.run_id) is None:  # a member has no tags that could change
                tags = {"nnexp.rerun_by": run_id, "nnexp.rerun_verdict": in_a_tag(verdict)}
                writer.add(old.run_id, {}, tags)
    except _refusals(store) as error:
        log.info(f"note: the verdict is not recorded, as the store refuses it: {str(error).splitlines()[0]}")
        return None
    return run_id


def _refusals(store: Store) -> tuple[type[Exception], ...]:
    """Return the exceptions that a store raises if it can be read but not written to."""
    if store.is_known:
        return RequestError, SQLAlchemyError, OSError
    from mlflow.exceptions import MlflowException

    return RequestError, MlflowException, OSError
