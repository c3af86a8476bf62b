"""Carry out a population: plan -> training -> parts of a table, under one run of MLflow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import yaml

from nnexp.analysis.report.findings import Findings
from nnexp.config.errors import RequestError
from nnexp.config.recorded import SCHEMA
from nnexp.config.request import Request
from nnexp.config.run import GROUPS, MAX_PARAM, as_param, key_names
from nnexp.config.text import masked_value
from nnexp.pipeline.git import refuse_dirty
from nnexp.pipeline.identity import ranges
from nnexp.pipeline.population.known import Known
from nnexp.pipeline.population.parts import Recorder, Standing
from nnexp.pipeline.population.rows import Contents
from nnexp.pipeline.population.space import Points, Space
from nnexp.pipeline.progress import Meter
from nnexp.pipeline.provenance import DEVICE
from nnexp.pipeline.records import sweep_record
from nnexp.pipeline.session import Place, going_on, opened, tell_of_compiling, what_is_left
from nnexp.pipeline.signals import uninterrupted
from nnexp.pipeline.sweep import best_curves, results
from nnexp.tracking.find import MAX_BYTES, get_any
from nnexp.tracking.labels import NAME, name_of, tags_of
from nnexp.tracking.members import PART, RECORD, TABLE
from nnexp.tracking.reader import Found
from nnexp.tracking.runs import RunRecord, identity
from nnexp.training.checks import weight_count
from nnexp.training.devices import device_name, open_device
from nnexp.training.distribute import Training
from nnexp.training.lots import EndedLot, execute_lots
from nnexp.training.plan import ROW_SECONDS, WEIGHT_SECONDS, described

log = logging.getLogger("nnexp")

# The points of so many parts are kept from the plan until they are trained, some 5 MB each.
MOST_AHEAD = 16


@dataclass(frozen=True)
class PopulationResult:
    """What a command has recorded of a population."""

    sweep_id: str
    total: int
    failed: int
    failures: list[tuple[str, str]]  # (member, reason) of the first that failed
    summary: pd.DataFrame | None  # None if every point failed


def population(space: Space, request: Request, name: str | None) -> PopulationResult | None:
    """Train the points of a space that are not recorded yet, and record all as rows of one table.

    Returns None if only the plan was asked for. A point that fails does not stop the others. Raises
    RequestError before anything is recorded.
    """
    if request.require_clean:
        refuse_dirty()
    _tell_left_out(space)
    contents = Contents.of(space, bool(request.curves), request.weights or "none")
    _check_size(space, contents)
    with opened(space.cells[0].config, None) as place:
        key = space.digest(contents.curves, contents.weights)
        same = [parent for parent in place.parents if parent.tags.get("nnexp.sweep_key") == key]
        is_again, retries = request.reruns == "all", request.reruns == "failed"
        old = None if is_again else _to_go_on_with(same)
        parent = None if old is None else get_any(place.store, old.run_id)
        before = Standing.of(place.store, space, parent, retries)
        known = Known(place, contents, None if old is None else old.run_id, is_again)
        attempt = 1 + max((identity(one.tags)[1] for one in same), default=0) if is_again else 1
        n_known, ahead = _look_ahead(space, before, known)
        todo = space.count - before.done - before.failed - n_known
        log.info(_plan(space, before, todo, attempt))
        if request.plan:
            return None
        if old is not None and old.tags.get("nnexp.outcome") == "complete" and not before.todo:
            failed = before.failed, before.failures
            found = _label(place, old.run_id, request, space, *failed)
            return PopulationResult(old.run_id, space.count, *failed, found.summary)
        if not place.writer.take(key[:32]):
            raise _busy("has just begun to record")
        recorder = Recorder(place, space, contents, before, known, attempt, retries, ahead)
        # Both raise RequestError if what they need is unavailable.
        device = open_device(request.device, request.executor) if todo else None
        training = execute_lots(recorder.lots(), request.executor, device)
        tell_of_compiling()
        record = _record(space, request, name or "sweep", key, attempt, device_name(device))
        with what_is_left(), going_on(place, record, None if old is None else old.run_id) as sweep_id:
            recorder.begin(sweep_id)
            stopped = _run(recorder, training, space, request)
            found = _found(place, sweep_id)
            _finish(place, found, space, recorder.failed, recorder.failures, stopped)
        return PopulationResult(sweep_id, space.count, recorder.failed, recorder.failures, found.summary)


def _run(recorder: Recorder, training: Training[EndedLot], space: Space, request: Request) -> bool:
    """Train and record what is to do; return whether `max_failures` stopped the population."""
    meter = Meter("population", space.count, "networks")
    with closing(recorder), meter, closing(training):
        for _, ended in training:
            for lot, result in ended:
                recorder.add(lot, result)
            meter.update(recorder.ended, recorder.note)
            if request.max_failures is not None and recorder.new_failures >= request.max_failures:
                log.info(f"stopped after {recorder.new_failures} failures (max_failures)")
                recorder.finish()
                return True
        recorder.finish()
    return False


def _label(
    place: Place,
    sweep_id: str,
    request: Request,
    space: Space,
    failed: int,
    failures: Sequence[tuple[str, str]],
) -> Findings:
    """Give a population that is complete the name, the question and the tags of this command.

    Its report and its description, which contain them, are written again. Returns its results.
    """
    labels = tags_of(request)
    if request.name is not None:
        labels[NAME] = name_of(request, "")
    if labels.items() <= get_any(place.store, sweep_id).tags.items():
        return _found(place, sweep_id)
    with uninterrupted():
        place.writer.add(sweep_id, {}, labels)
    found = _found(place, sweep_id)
    files, tags = _results(place, found, space, failed, failures)
    with uninterrupted():
        place.writer.add(sweep_id, files, tags)
    return found


def _found(place: Place, sweep_id: str) -> Findings:
    """Read a recorded population's results, of which only some columns are needed."""
    return Findings.read(place.store, get_any(place.store, sweep_id))


def _finish(
    place: Place,
    found: Findings,
    space: Space,
    failed: int,
    failures: Sequence[tuple[str, str]],
    stopped: bool,
) -> None:
    """Record a population's results and end its run: FAILED if a point failed, else FINISHED."""
    files, tags = _results(place, found, space, failed, failures)
    if not stopped:
        tags["nnexp.outcome"] = "complete"
    sweep_id, curves = found.parent.run_id, [*best_curves(place, found), *found.headline]
    with uninterrupted():
        place.writer.log(sweep_id, curves)
        place.writer.finish(sweep_id, "FAILED" if failed else "FINISHED", files, tags)


def _results(
    place: Place, found: Findings, space: Space, failed: int, failures: Sequence[tuple[str, str]]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files and the tags of a population that has ended, as those of a sweep."""
    pictures = []
    if space.figures and not found.done.empty:
        from nnexp.analysis.report.pictures import sweep_pictures

        pictures = sweep_pictures(place.store, found)
    files, tags = results(place, found, failures, pictures)
    return files, {**tags, "nnexp.runs": str(space.count), "nnexp.failed": str(failed)}


def _tell_left_out(space: Space) -> None:
    """Log how many points of the grid repeat others or are excluded. Raises RequestError if none is left."""
    if space.distinct < len(space):
        log.info(f"{len(space) - space.distinct} of {len(space)} points repeat other points; each runs once")
    if not space.count:
        raise RequestError(f"exclude={space.exclude}: leaves no point of {len(space)}")
    if space.count < space.distinct:
        log.info(f"{space.distinct - space.count} of {len(space)} points are left out by exclude")


def _check_size(space: Space, contents: Contents) -> None:
    """Raise RequestError if a part, with the curves and weights asked for, would be too large to read."""
    epochs = max(space.values.get("epochs", [0]))
    for cell in space.cells:
        points = max(epochs, cell.config.epochs) // cell.config.log_every + 2
        every = cell.config.weights_every
        copies = {"none": 0, "final": 1, "all": 2}[contents.weights]
        if contents.weights == "all" and every:
            copies += 1 + max(epochs, cell.config.epochs) // every
        weights = copies * weight_count(cell.dataset, cell.config)
        size = 8 * min(space.count, PART) * (len(contents.curves) * points + weights)
        if size > MAX_BYTES:
            what = "curves=true" if len(contents.curves) * points > weights else f"weights={contents.weights}"
            raise RequestError(
                f"{what}: a part of {min(space.count, PART):,} networks would have {size / 1e9:.1f} GB, at "
                f"most {MAX_BYTES / 1e9:.1f}: record less of each, or fewer networks at a time"
            )


def _to_go_on_with(same: Sequence[Found]) -> Found | None:
    """Return the last parent of the same population. Raises RequestError if a live process works on one."""
    for parent in same:
        if parent.status == "RUNNING":
            raise _busy(f"is recording it as sweep {parent.run_id}")
    return same[-1] if same else None


def _busy(what: str) -> RequestError:
    return RequestError(f"another command {what}: when it has ended, this one does what is left")


def _look_ahead(space: Space, before: Standing, known: Known) -> tuple[int, dict[int, Points]]:
    """Count the points that are recorded elsewhere, of the parts that need work.

    Returns also the points of the first MOST_AHEAD of these parts, as computing their keys takes long.
    """
    count, ahead = 0, dict[int, Points]()
    for number in before.todo if len(known) else ():
        points = space.points(number * PART, (number + 1) * PART)
        count += int(known.is_known(points).sum())
        if len(ahead) < MOST_AHEAD:
            ahead[number] = points
    return count, ahead


def _plan(space: Space, before: Standing, todo: int, attempt: int) -> str:
    """Describe the plan, with an estimate of the time."""
    steps = [
        cell.config.epochs * len(cell.dataset.X) * weight_count(cell.dataset, cell.config)
        for cell in space.cells
    ]
    seconds = todo * (ROW_SECONDS + WEIGHT_SECONDS * sum(steps) / len(steps))
    done = space.count - todo - before.failed
    return described(space.count, done, before.failed, todo, attempt, seconds, "network")


def _record(space: Space, request: Request, name: str, key: str, attempt: int, device: str) -> RunRecord:
    """Return the record of the population's run as it begins, with what all members share."""
    varied = ranges(space.configs)
    for of_key, values in space.values.items():
        texts = map(as_param, values[:MAX_PARAM]) if len(values) <= MAX_PARAM else [f"{len(values)} values"]
        varied[of_key] = list(texts)
    varied = {of_key: varied[of_key] for of_key in key_names() if of_key in varied}
    data = [(cell.dataset, cell.config) for cell in space.cells]
    record = sweep_record(name, key, varied, space.count, data, request, "networks")
    tags = {**record.tags, RECORD: TABLE, DEVICE: device, "nnexp.runs": str(space.count)}
    tags |= {"nnexp.attempt": str(attempt)} if attempt > 1 else {}
    return replace(record, tags=tags, files={**record.files, "config.yaml": _shared(space)})


def _shared(space: Space) -> bytes:
    """Return config.yaml with the keys that all members share."""
    values, varied = dict[str, Any](space.configs[0].nested()), set(space.varied)
    for group in GROUPS:
        own = {option: f"{group}.{option}" for option in values[group] if option != "name"} | {"name": group}
        values[group] = {option: values[group][option] for option, of in own.items() if of not in varied}
    values = {of_key: value for of_key, value in values.items() if of_key in GROUPS or of_key not in varied}
    values["tracking_uri"] = values["tracking_uri"] and masked_value(values["tracking_uri"])
    return yaml.safe_dump({"schema": SCHEMA, **values}, sort_keys=False, allow_unicode=True).encode()
