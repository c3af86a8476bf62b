"""Carry out a sweep: configurations -> plan -> training -> MLflow, in chunks, under a parent run."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nnexp.analysis.report.findings import Findings, columns
from nnexp.analysis.report.note import note
from nnexp.analysis.report.pictures import Picture
from nnexp.analysis.summary import finished, overall
from nnexp.analysis.summary_table import as_table
from nnexp.config.errors import RequestError
from nnexp.config.request import Request
from nnexp.config.run import RunConfig
from nnexp.dataset import load as datasets
from nnexp.dataset.load import Dataset, Source
from nnexp.pipeline.artifacts import check_names, illustrations, new_outputs
from nnexp.pipeline.git import refuse_dirty
from nnexp.pipeline.identity import ranges, run_key, run_name, sweep_key
from nnexp.pipeline.memory import give_back
from nnexp.pipeline.points import refuse_other_places
from nnexp.pipeline.progress import Meter
from nnexp.pipeline.provenance import DEVICE
from nnexp.pipeline.records import child_record, sweep_record
from nnexp.pipeline.session import Place, going_on, opened, tell_of_compiling, what_is_left
from nnexp.pipeline.signals import uninterrupted
from nnexp.tracking.find import SWEEP_KEYS, get_sweep
from nnexp.tracking.labels import DESCRIPTION, NAME, name_of, tags_of
from nnexp.tracking.read import read_history, read_runs
from nnexp.tracking.reader import Detail
from nnexp.tracking.runs import Ended, RunRecord, Writer, now
from nnexp.tracking.view import BEST, CHARTS
from nnexp.training.checks import check
from nnexp.training.devices import device_name, open_device
from nnexp.training.distribute import EndedPoint, Training, execute
from nnexp.training.plan import Plan, Point, duration, plan
from nnexp.training.train import Failure

log = logging.getLogger("nnexp")

# A chunk of finished runs is written, and so visible in the UI, when it has this size or this age.
CHUNK_RUNS, CHUNK_SECONDS = 256, 1.0
# A sweep of more runs than this is told what it would cost as a population.
MANY_RUNS = 20_000
# Points of each curve of the best run that are also recorded on the sweep's parent.
MAX_BEST_POINTS = 500


@dataclass(frozen=True)
class Sweep:
    """A recorded sweep."""

    sweep_id: str  # the parent run's id
    keys: Iterable[str]  # the run key of each config that was asked for
    failures: list[tuple[str, str]]  # (run name, reason) of each point that failed
    runs: pd.DataFrame  # the run that counts of each point, with the columns that the findings need
    summary: pd.DataFrame | None  # None if every point failed

    @property
    def losses(self) -> dict[str, float]:
        """Return the last loss by run key, of the points that finished."""
        done = finished(self.runs)
        return {} if done.empty else dict(zip(done["run_key"], done["loss"], strict=True))


def points_of(
    configs: Sequence[RunConfig], source: Source | None, varied: Collection[str] | None = None
) -> list[Point]:
    """Return one checked point for each config. Raises RequestError, which names the point in a sweep.

    `varied` are the keys that its name shows: of a search those of its space, of a sweep those that vary.
    """
    refuse_other_places(configs)
    loaded = {c: datasets.load(c, source) for c in dict.fromkeys(config.dataset for config in configs)}
    settled = {c: datasets.settled(c, dataset) for c, dataset in loaded.items()}
    named = ranges(configs) if varied is None else varied
    result = []
    for i, config in enumerate(configs, 1):
        dataset = loaded[config.dataset]
        try:
            check(dataset, config)
            check_names(dataset)
        except RequestError as error:
            if varied is not None:
                raise
            raise RequestError(f"point {i} of {len(configs)}: {error}") from error
        # A sweep's runs log neither figures nor models.
        alone = replace(config, dataset=settled[config.dataset], figures=False, model=False)
        name = run_name(alone, dataset, named)
        result.append(Point(alone, dataset, run_key(alone, dataset), name))
    return result


def sweep(
    configs: list[RunConfig], request: Request, name: str | None, source: Source | None = None
) -> Sweep | None:
    """Train the points of a sweep that are not recorded yet, and record them under a parent run.

    Returns None if only the plan was asked for. `configs` is emptied, since the configurations of a large
    sweep take much memory. `source`: the data set's bytes; each data set is read from its paths if None. A
    point that fails does not stop the others. Raises RequestError, naming the point, before anything is
    recorded.
    """
    if request.is_table:
        raise RequestError("record=table: cannot be one of several values, nor go with another sweeper")
    if request.require_clean:
        refuse_dirty()
    give_back(len(configs))
    all_points = points_of(configs, source)
    first, figures = configs[0], any(config.figures for config in configs)
    configs.clear()
    keys = pd.array([point.key for point in all_points], dtype="str")  # takes half the memory of a list
    asked = list({point.key: point for point in all_points}.values())
    del all_points
    if len(asked) < len(keys):
        log.info(f"{len(keys) - len(asked)} of {len(keys)} points repeat other points; each runs once")
    with opened(first, [point.key for point in asked]) as place:
        todo = plan(asked, place.recorded([point.key for point in asked]), request.reruns)
        log.info(str(todo))
        if len(todo.todo) > MANY_RUNS:
            log.info(f"record=table records them as one table instead, in {duration(todo.seconds_as_table)}")
        if request.plan:
            return None
        key = sweep_key(point.key for point in asked)
        same = [parent for parent in place.parents if parent.tags.get("nnexp.sweep_key") == key]
        ended = [parent for parent in same if parent.status != "LOST"]
        complete = [parent for parent in ended if parent.tags.get("nnexp.outcome") == "complete"]
        todo = replace(todo, todo=place.renamed(todo.todo))
        reasons = {run.tags["nnexp.run_key"]: run.tags.get("nnexp.reason", "") for run in place.runs}
        failures = [(point.name, reasons[point.key]) for point in todo.failed]  # and not run again
        if not todo.todo and complete:
            return _complete(place, complete[-1].run_id, keys, failures, asked, figures, request)
        give_back(len(asked))
        # Both raise RequestError if what they need is unavailable.
        device = open_device(request.device, request.executor) if todo.todo else None
        training = execute(todo.todo, request.executor, device)
        if todo.todo:
            tell_of_compiling()
        record = _record(name or "sweep", key, asked, request, device_name(device))
        with what_is_left(), going_on(place, record) as parent:
            for old in same:
                if old.status in ("KILLED", "FAILED", "LOST"):
                    place.writer.adopt(old.run_id, parent)
                    place.writer.add(old.run_id, {}, {"nnexp.superseded_by": parent})
            stopped = run_points(place, parent, todo, training, request, failures)
            place.writer.settle(parent)
            total, datasets = len(asked), _datasets(asked)
            del asked, todo, training  # none of the points is needed any more
            give_back(total)
            found = found_of(place, parent, total)
            give_back(total)
            pictures = _draw(place, found, datasets) if figures else []
            finish_parent(place, found, failures, stopped, pictures)
        return Sweep(parent, keys, failures, found.runs, found.summary)


def _record(name: str, key: str, asked: Sequence[Point], request: Request, device: str) -> RunRecord:
    """Return the record of a sweep as it begins, with the keys of its runs and the device's name."""
    varied, data = ranges([p.config for p in asked]), [(p.dataset, p.config) for p in asked]
    record = sweep_record(name, key, varied, len(asked), data, request)
    keys = "".join(f"{point.key}\n" for point in asked)
    files = {SWEEP_KEYS: keys.encode(), **record.files}
    return replace(record, tags={**record.tags, DEVICE: device}, files=files)


def run_points(
    place: Place,
    parent: str,
    todo: Plan,
    training: Training[EndedPoint],
    request: Request,
    failures: list[tuple[str, str]],
) -> bool:
    """Train and record the points to do; return whether `max_failures` stopped the sweep.

    Appends (run name, reason) of each point that fails to `failures`.
    """
    before, best, started = len(failures), None, now()
    meter = Meter("sweep", len(todo.todo), "runs")
    with _Recorder(place.writer) as recorder, meter, closing(training):
        for epochs_done, ended in training:
            meter.update(recorder.written, _note(epochs_done, best, len(failures)))
            of_new_rows = new_outputs(
                [(point.dataset, None if isinstance(r, Failure) else r) for point, r in ended]
            )
            for (point, result), y_pred in zip(ended, of_new_rows, strict=True):
                recorder.add(child_record(point, result, y_pred, parent, todo.attempt, started))
                if isinstance(result, Failure):
                    failures.append((point.name, result.reason))
                    log.info(f"failed: {point.name}: {result.reason}")
                elif result.outcome != "diverged":
                    metric = "val_loss" if "val_loss" in result.curves else "loss"
                    told = f"best {metric} {float(result.curves[metric][-1]):.4g}: {point.name}"
                    best = min(best or (np.inf, ""), (float(result.curves[metric][-1]), told))
                failed = len(failures) - before
                if request.max_failures is not None and failed >= request.max_failures:
                    log.info(f"stopping: {failed} points failed; max_failures={request.max_failures}")
                    return True
                meter.update(recorder.written, _note(epochs_done, best, len(failures)))
            recorder.keep_up()
            started = now()
    return False


def _note(epochs_done: int, best: tuple[float, str] | None, failed: int) -> str:
    """Return the text beside the progress bar: failures so far, and the best run or the epochs trained."""
    parts = [f"{failed} failed"] * bool(failed)
    parts += [f"{epochs_done:,} epochs trained" if best is None else best[1]]
    return ", ".join(parts)


class _Recorder:
    """Write records in chunks, in its own thread, while the next runs are trained."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self._thread = writer, ThreadPoolExecutor(1)
        self._chunk: list[RunRecord] = []
        self._since = time.monotonic()
        self._pending: Future[None] | None = None
        self._under_way = 0
        self.written = 0

    def add(self, record: RunRecord) -> None:
        self._chunk.append(record)
        if len(self._chunk) >= CHUNK_RUNS:
            self._flush()

    def keep_up(self) -> None:
        """Write the pending chunk if it is older than CHUNK_SECONDS.

        Call it often, because the next run may take long to finish. Re-raises an error of the writing thread.
        """
        if self._pending is not None and self._pending.done():
            self._wait()
        if self._pending is None and self._chunk and time.monotonic() - self._since > CHUNK_SECONDS:
            self._flush()

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the last chunk; if an exception was or is raised, stop the writer instead."""
        is_whole = False
        try:
            if kind is None:
                self._flush()
                self._wait()
                is_whole = True
        finally:
            if not is_whole:
                self._writer.stop()
            self._thread.shutdown()

    def _flush(self) -> None:
        self._wait()
        chunk, self._chunk, self._since = self._chunk, [], time.monotonic()
        self._pending, self._under_way = self._thread.submit(self._writer.write, chunk), len(chunk)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self.written += self._under_way
            self._pending = None


def _complete(
    place: Place,
    parent: str,
    keys: Iterable[str],
    failures: list[tuple[str, str]],
    asked: Sequence[Point],
    figures: bool,
    request: Request,
) -> Sweep:
    """Return a sweep that is already complete, after updating its name, question and tags from this command.

    Its report and its description, which contain them, are written again.
    """
    found, labels = found_of(place, parent, len(asked)), tags_of(request)
    if request.name is not None:
        labels[NAME] = name_of(request, "")
    if not labels.items() <= _parent(place, parent).tags.items():
        with uninterrupted():
            place.writer.add(parent, {}, labels)
        found = replace(found, parent=_parent(place, parent))  # with the new labels
        pictures = _draw(place, found, _datasets(asked)) if figures else []
        files, tags = results(place, found, failures, pictures)
        with uninterrupted():
            place.writer.add(parent, files, tags)
    return Sweep(parent, keys, failures, found.runs, found.summary)


def found_of(place: Place, sweep_id: str, total: int) -> Findings:
    """Read the findings of a sweep from the store. Raises Ended if its parent was deleted meanwhile."""
    parent = _parent(place, sweep_id)
    runs = read_runs(place.store, place.experiment, sweep_id, columns())
    give_back(total)
    return Findings.of(parent, total, runs, overall(runs))


def _datasets(points: Sequence[Point]) -> list[Dataset]:
    """Return the different data sets of the points."""
    return list(dict.fromkeys(point.dataset for point in points))


def _parent(place: Place, sweep_id: str) -> Detail:
    """Read a sweep's parent run. Raises Ended if it was deleted meanwhile."""
    record = get_sweep(place.store, sweep_id)
    if record is None:
        raise Ended(sweep_id, None)
    return record


def _draw(place: Place, found: Findings, datasets: Sequence[Dataset]) -> list[Picture]:
    """Write the figures of the sweep's best and worst runs; return the sweep's own figures."""
    if found.done.empty:
        return []
    from nnexp.analysis.report.pictures import sweep_pictures

    for run_id, files in illustrations(place.store, found, datasets):
        with uninterrupted():
            place.writer.add(run_id, files, {})
        give_back(found.total)
    return sweep_pictures(place.store, found)


def finish_parent(
    place: Place,
    found: Findings,
    failures: Sequence[tuple[str, str]],
    stopped: bool,
    pictures: Sequence[Picture],
) -> None:
    """Record a sweep's results and end its parent run: FAILED if a point failed, else FINISHED."""
    files, tags = results(place, found, failures, pictures)
    if not stopped:
        tags["nnexp.outcome"] = "complete"
    curves = [*best_curves(place, found), *found.headline]
    with uninterrupted():
        place.writer.log(found.parent.run_id, curves)
        place.writer.finish(found.parent.run_id, "FAILED" if failures else "FINISHED", files, tags)


def results(
    place: Place, found: Findings, failures: Sequence[tuple[str, str]], pictures: Sequence[Picture]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files and tags of a sweep that has ended.

    The files are the figures, the report, the summary table and the failures; the tags are the counts and the
    description that the UI shows.
    """
    from nnexp.analysis.report.page import page  # imports jinja2, which a sweep with nothing to do can skip
    from nnexp.analysis.report.write import experiment_of

    files = {f"figures/{picture.name}.png": picture.png for picture in pictures}
    files["report.html"] = page(found, pictures, experiment_of(place.store, found.parent))
    if found.summary is not None:
        files["summary.csv"] = (as_table(found.summary, style="csv") + "\n").encode()
        files["summary.md"] = (as_table(found.summary, style="markdown") + "\n").encode()
    if failures:
        lines = [f"{name}: {reason}" for name, reason in failures]
        files["failures.txt"] = ("\n".join(lines) + "\n").encode()
    tags = {DESCRIPTION: note(found, files, place.experiment.id)}
    return files, tags | {"nnexp.runs": str(found.total), "nnexp.failed": str(len(failures))}


def best_curves(place: Place, found: Findings) -> list[tuple[str, int, float]]:
    """Return the thinned curves of the sweep's best run, as (`best_loss`, epoch, value), … for its parent.

    Of a population's member without curves, the last values.
    """
    (best,) = found.named(found.ranked(1))
    if best.empty or best["outcome"][0] == "diverged":
        return []
    values = {name: float(best[name][0]) for name in CHARTS if name in best and np.isfinite(best[name][0])}
    points = read_history(place.store, best, list(values))
    if points.empty:
        return [(f"{BEST}{name}", 0, value) for name, value in values.items()]
    curves = {
        name: list(curve[["epoch", "value"]].itertuples(index=False, name=None))
        for name in values
        if len(curve := points[points["metric"] == name])
    }
    return [
        (f"{BEST}{name}", epoch, value)
        for name, curve in curves.items()
        for epoch, value in dict([*curve[:: len(curve) // MAX_BEST_POINTS + 1], curve[-1]]).items()
    ]
