"""Assemble the records of runs, of their results or failures, of sweeps, of reruns and of their verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nnexp.analysis.tables import as_text
from nnexp.config.request import Request
from nnexp.config.run import MAX_PARAM, RunConfig
from nnexp.dataset.load import Dataset
from nnexp.network import engine
from nnexp.network.weights import pack
from nnexp.pipeline.artifacts import data_files, data_input, model_of, points, prediction_points, run_files
from nnexp.pipeline.identity import result_tags, run_key, run_tags
from nnexp.pipeline.provenance import code_files, command, provenance
from nnexp.tracking.find import EXPERIMENT_FILE
from nnexp.tracking.labels import DATA, DESCRIPTION, QUESTION, name_of, tags_of
from nnexp.tracking.reader import Detail
from nnexp.tracking.runs import Points, RunRecord, cut, now, origin
from nnexp.training.checks import split_of
from nnexp.training.plan import Point
from nnexp.training.shard import Trained
from nnexp.training.train import Failure

if TYPE_CHECKING:
    from nnexp.pipeline.rerun.table import Compared
    from nnexp.pipeline.rerun.verdict import Verdict

# The longest verdict, and the longest description of the data, that are stored as a tag, in characters.
MAX_VERDICT, MAX_DATA = 5000, 1000


def run_record(point: Point, attempt: int, tags: Mapping[str, str]) -> RunRecord:
    """Return the record of a run as it begins. `tags` are added to those that identify it."""
    tags = {**origin(), **run_tags(point.key, point.dataset, attempt), **tags}
    return RunRecord(point.name, point.config.params(), tags, data=data_input(point.dataset))


def child_record(
    point: Point,
    result: Trained | Failure,
    y_pred: NDArray[np.float64] | None,
    parent: str,
    attempt: int,
    started: int,
) -> RunRecord:
    """Return the record of a sweep's run that has ended; `y_pred` holds the outputs for its new rows."""
    record = run_record(point, attempt, {"mlflow.parentRunId": parent, "nnexp.sweep_id": parent})
    record = replace(record, start_time=started, end_time=now())
    if isinstance(result, Failure):
        return replace(
            record,
            tags={**record.tags, "nnexp.reason": result.reason},
            files={"traceback.txt": result.traceback.encode()},
            status="FAILED",
        )
    return with_result(record, result, point.dataset, y_pred)


def with_result(
    record: RunRecord, trained: Trained, dataset: Dataset, y_pred: NDArray[np.float64] | None = None
) -> RunRecord:
    """Return the record with the curves, predictions, files and outcome of its trained network added."""
    return replace(
        record,
        tags={**record.tags, **result_tags(trained)},
        points=Points(lambda: chain(points(trained, 0), prediction_points(trained, dataset, y_pred))),
        files=run_files(trained, pack(model_of(trained, dataset), trained.kept)),
    )


def sweep_record(
    name: str,
    key: str,
    varied: Mapping[str, Sequence[str]],
    total: int,
    data: Iterable[tuple[Dataset, RunConfig]],
    request: Request,
    unit: str = "runs",
) -> RunRecord:
    """Return the record of a sweep as it begins: its ranges, as texts by key, and its data sets.

    `data` has each data set with a config that says how its rows are split. `unit`: what its points become.
    """
    # A text that is too long for a param gives way to the number of values.
    params = {
        key: text if len(text) <= MAX_PARAM else f"{len(values)} values"
        for key, values in varied.items()
        for text in [", ".join(values[:MAX_PARAM])]
    }
    title = f"{name}: {total} {unit} over {', '.join(varied) or 'one point'}"
    return parent_record(title, params, {"nnexp.sweep": name, "nnexp.sweep_key": key}, data, request)


def parent_record(
    title: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    data: Iterable[tuple[Dataset, RunConfig]],
    request: Request,
) -> RunRecord:
    """Return the record of a run with others under it, as it begins; `tags` has its name, `nnexp.sweep`."""
    from nnexp.analysis.report.findings import experiment_text, question, shown_ranges  # imports pandas
    from nnexp.analysis.report.note import MAX_NOTE, begun

    name, tags = tags["nnexp.sweep"], {**origin(), **provenance(), **tags}
    if asks := question(name):
        tags[QUESTION] = asks[:MAX_NOTE]
    pairs = list(data)
    tags[DATA] = _data_text(pairs)
    tags |= tags_of(request)
    tags[DESCRIPTION] = begun(tags.get(QUESTION, ""), command(), shown_ranges(params))
    files = data_files(dict.fromkeys(dataset for dataset, _ in pairs)) | code_files()
    if text := experiment_text(name):
        files[EXPERIMENT_FILE] = text.encode()
    return RunRecord(name_of(request, title), params, tags, files=files)


def _data_text(data: Iterable[tuple[Dataset, RunConfig]]) -> str:
    """Describe the data sets, and how many of their rows are for what."""
    found = dict.fromkeys((dataset, split_of(config)._replace(seed=0)) for dataset, config in data)
    texts = []
    for dataset, split in found:
        classes = f" (classes {', '.join(dataset.classes)})" if dataset.classes else ""
        sizes = map(len, split.rows(len(dataset.X), dataset.name))
        parts = zip(("training", "validation", "test"), sizes, strict=True)
        of = ", ".join(f"{n:,} {part}" for part, n in parts if n)
        rows = f"{len(dataset.X):,} rows ({of})"
        features = f"{len(dataset.features)} feature{'s' * (len(dataset.features) != 1)}"
        texts.append(f"{dataset.name}: {rows}, {features} -> {dataset.target}{classes}")
    return cut(". ".join(dict.fromkeys(texts)), MAX_DATA)


def rerun_record(run: Detail, config: RunConfig, dataset: Dataset, again: Trained) -> RunRecord:
    """Return the record of a rerun, as a run of its own.

    Its key is in the tag nnexp.rerun_key, not in nnexp.run_key, so that summaries do not count it and later
    sweeps do not take it for one of their runs. The key is the old run's, unless another version of the
    engine trained that run.
    """
    tags = {"nnexp.rerun_key": run_key(config, dataset), "nnexp.engine": engine.VERSION}
    tags |= {"nnexp.data_sha256": dataset.sha256, "mlflow.parentRunId": run.run_id.partition("/")[0]}
    record = RunRecord(f"rerun: {run.name}", config.params(), tags, data=data_input(dataset))
    record = with_result(record, again, dataset)
    return replace(record, files={**record.files, **data_files([dataset])})


def population_record(sweep: Detail, found: Compared) -> RunRecord:
    """Return the record of a population's rerun: the counts, and a table of the first members that differ."""
    same = found.members - found.differ
    record = verdicts_record(sweep, found.verdicts)
    tags = {**record.tags, "nnexp.runs": str(found.members), "nnexp.identical": str(same)}
    return replace(record, tags=tags)


def verdicts_record(sweep: Detail, verdicts: Sequence[Verdict]) -> RunRecord:
    """Return the record of a sweep's rerun: one run with a table of the verdicts."""
    same = sum(verdict.is_identical for verdict in verdicts)
    table = {
        "run_id": [verdict.run_id for verdict in verdicts],
        "run": [verdict.name for verdict in verdicts],
        "verdict": [str(verdict) for verdict in verdicts],
    }
    return RunRecord(
        name=f"rerun: {sweep.name}",
        tags={
            "mlflow.parentRunId": sweep.run_id,
            "nnexp.runs": str(len(verdicts)),
            "nnexp.identical": str(same),
        },
        files={"verdicts.csv": (as_text(table, "csv") + "\n").encode()},
    )


def in_a_tag(verdict: Verdict) -> str:
    """Return the verdict's text, cut to what a tag holds."""
    return str(verdict)[:MAX_VERDICT]
