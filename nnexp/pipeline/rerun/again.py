"""Train recorded runs again, judge them, and record the verdict beside what was judged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from nnexp.analysis.tables import as_text
from nnexp.config.errors import RequestError
from nnexp.config.recorded import EXACT_PREDICTIONS
from nnexp.dataset.load import Dataset
from nnexp.network import engine
from nnexp.network.weights import pack
from nnexp.pipeline.artifacts import data_files, data_input, model_of, points, prediction_points, run_files
from nnexp.pipeline.identity import result_tags
from nnexp.pipeline.progress import Meter
from nnexp.pipeline.provenance import code_files, provenance
from nnexp.pipeline.rerun.subject import Subject
from nnexp.pipeline.rerun.verdict import LOOSE, Verdict, judge
from nnexp.pipeline.session import tell_of_compiling
from nnexp.pipeline.signals import uninterrupted
from nnexp.tracking.experiments import get_experiment
from nnexp.tracking.find import Detail
from nnexp.tracking.runs import Ended, RunRecord, now, origin
from nnexp.tracking.store import Store
from nnexp.tracking.write import open_writer
from nnexp.training.shard import Trained
from nnexp.training.train import Failure, train

log = logging.getLogger("nnexp")

# As much of a verdict as a tag holds.
MAX_TAG = 5000

# --- The training.


def verify(subjects: Sequence[Subject]) -> Iterator[tuple[Subject, Trained | None, Verdict]]:
    """Train the runs again, all of a data set as one, and judge each as it ends."""
    tell_of_compiling()
    here, groups = provenance(), dict[Dataset, list[Subject]]()
    for subject in subjects:
        if subject.data.dataset is None:
            yield (
                subject,
                None,
                _verdict(subject, "the run was not trained: its data are not what they were", ()),
            )
        else:
            groups.setdefault(subject.data.dataset, []).append(subject)
    done = 0
    with Meter("rerun", len(subjects), "runs") as meter:
        for dataset, members in groups.items():
            for progress in train(dataset, [subject.config for subject in members]):
                for i, again in progress.ended:
                    subject, done = members[i], done + 1
                    if isinstance(again, Failure):
                        yield subject, None, _verdict(subject, f"training failed: {again.reason}", ())
                        continue
                    verdict = judge(subject.evidence, subject.was, again, dataset, here)
                    yield subject, again, _verdict(subject, verdict.difference, verdict.causes, verdict.notes)
                meter.update(done)


def _verdict(
    subject: Subject, difference: str | None, causes: tuple[str, ...], more: tuple[str, ...] = ()
) -> Verdict:
    """The verdict on a run, given what training showed: data that have changed come before all else."""
    evidence, data = subject.evidence, subject.data
    notes = [data.note, *more] if data.note else list(more)
    if subject.was.schema < EXACT_PREDICTIONS and any("/" in metric for metric in evidence.curves):
        notes += (
            f"predictions of schema {subject.was.schema} had no promise of their bits: held to {LOOSE}",
        )
    if data.changed is None:
        return Verdict(evidence.run_id, evidence.name, difference, causes, tuple(notes))
    shown = (
        f"trained on the right data: {difference or 'identical'}" if data.dataset is not None else difference
    )
    cause = f"data: {data.changed}"
    return Verdict(evidence.run_id, evidence.name, "the data set", (cause, *causes), (*notes, shown or ""))


# --- The record.


def record_run(store: Store, run: Detail, subject: Subject, again: Trained, verdict: Verdict) -> str | None:
    """Record a rerun as a run of its own, linked with the old one both ways; its id, None where the store
    cannot be written to.

    It has the old run's key under another name: it is no further run of the experiment, which summaries
    would count and later sweeps would take for theirs.
    """
    dataset = subject.data.dataset
    assert dataset is not None  # it was trained
    tags = {"nnexp.rerun_key": subject.evidence.key, "nnexp.engine": engine.VERSION}
    tags |= {"nnexp.data_sha256": dataset.sha256, "mlflow.parentRunId": run.run_id}
    return _record(
        store,
        run,
        verdict,
        RunRecord(
            name=f"rerun: {run.name}",
            params=subject.config.params(),
            tags=tags | result_tags(again),
            points=[*points(again, 0), *prediction_points(again, dataset)],
            files=run_files(again, pack(model_of(again, dataset), again.kept)) | data_files([dataset]),
            data=data_input(dataset),
        ),
    )


def record_sweep(store: Store, sweep: Detail, verdicts: Sequence[Verdict]) -> str | None:
    """Record how the runs of a sweep came out when they were trained again, as one run with their table."""
    same = sum(verdict.is_identical for verdict in verdicts)
    table = {
        "run_id": [verdict.run_id for verdict in verdicts],
        "run": [verdict.name for verdict in verdicts],
        "verdict": [str(verdict) for verdict in verdicts],
    }
    record = RunRecord(
        name=f"rerun: {sweep.name}",
        tags={
            "mlflow.parentRunId": sweep.run_id,
            "nnexp.runs": str(len(verdicts)),
            "nnexp.identical": str(same),
        },
        files={"verdicts.csv": (as_text(table, "csv") + "\n").encode()},
    )
    return _record(store, sweep, of_sweep(sweep, verdicts), record)


def of_sweep(sweep: Detail, verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict on many runs."""
    differ = [verdict for verdict in verdicts if not verdict.is_identical]
    what = f"{len(differ):,} of {len(verdicts):,} runs" if differ else None
    return Verdict(sweep.run_id, sweep.name, what, differ[0].causes if differ else ())


def _record(store: Store, old: Detail, verdict: Verdict, record: RunRecord) -> str | None:
    text = str(verdict)[:MAX_TAG]
    links = {"nnexp.rerun_of": old.run_id, "nnexp.verdict": text}
    tags = {**origin(), **provenance(), **record.tags, **links}
    record = replace(record, tags=tags, files={**record.files, **code_files()}, end_time=now())
    experiment = get_experiment(store, old.experiment_id)
    try:
        with uninterrupted(), open_writer(store, experiment) as writer:
            run_id = writer.start(record)
            with suppress(Ended):  # a database has it whole, and finished, from the start
                writer.finish(run_id, "FINISHED", {}, {})
            writer.add(old.run_id, {}, {"nnexp.rerun_by": run_id, "nnexp.rerun_verdict": text})
    except _refusals(store) as error:
        log.info(
            f"note: the verdict is not recorded, as the store takes nothing: {str(error).splitlines()[0]}"
        )
        return None
    return run_id


def _refusals(store: Store) -> tuple[type[Exception], ...]:
    """What a store raises that can be read and not be written to."""
    if store.is_known:
        return RequestError, SQLAlchemyError, OSError
    from mlflow.exceptions import MlflowException

    return RequestError, MlflowException, OSError
