"""`nnexp rerun` and `nnexp bundle`: what they do in its order, and what they print."""

from __future__ import annotations

import hashlib
import logging
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from nnexp.analysis.tables import as_text
from nnexp.cli.show import PROGRAM
from nnexp.config.endings import check_ending
from nnexp.config.errors import RequestError
from nnexp.config.recorded import SCHEMA
from nnexp.config.request import SweepConfig
from nnexp.config.run import RunConfig
from nnexp.config.text import on_one_line
from nnexp.network import engine
from nnexp.pipeline import bundle as bundles
from nnexp.pipeline.provenance import lock_file
from nnexp.pipeline.rerun import again
from nnexp.pipeline.rerun.subject import Subject, Subjects, find_run, find_sweep, kept_in, lack
from nnexp.pipeline.rerun.variation import is_other, settled, vary
from nnexp.pipeline.rerun.verdict import Verdict, is_prediction, weights_hash
from nnexp.tracking.evidence import Evidence, times_of
from nnexp.tracking.find import Detail, find_artifact, get_any, get_sweep, recorded_keys
from nnexp.tracking.named import whole_id
from nnexp.tracking.store import Store, open_store
from nnexp.tracking.whole import tell

log = logging.getLogger("nnexp")

# The recorded configuration with what was typed; what to do about it.
Change = Callable[[RunConfig], tuple[RunConfig, SweepConfig]]
# Of a sweep, so many runs that differ are listed.
LISTED = 50


def one(run_id: str, change: Change | None, dry_run: bool) -> bool:
    """`nnexp rerun RUN_ID [key=value …]`; whether it is identical, could be rerun, or was varied."""
    store = open_store(create=False)
    run_id = whole_id(store, run_id, "run")
    found, evidence = find_run(store, run_id)
    subjects, moved = Subjects(kept_in(store)), None
    if change is not None:
        was = subjects.subject(evidence)
        moved, request = change(was.config)
        moved = settled(moved)
        dry_run = dry_run or request.plan
        if is_other(was, moved) or request.labels:
            return vary(was, moved, request, dry_run)
        if moved.experiment_name != was.config.experiment_name:
            name = f"experiment_name={moved.experiment_name}"
            raise RequestError(f"{name}: a plain rerun is recorded beside its run; only a variation moves")
    if dry_run:
        return _could([[evidence]], subjects)
    ((subject, trained, verdict),) = again.verify([subjects.subject(evidence, moved)])
    print(f"rerun of {found.name} ({run_id})")
    _print(verdict)
    if verdict.is_identical:
        print(f"  {_words(_extent([evidence]))}: every bit is the same")
    if trained is not None:
        new_id = again.record_run(store, found, subject, trained, verdict)
        if new_id is not None:
            print(f"recorded as {new_id}, and in the tags of the run")
    return verdict.is_identical


def sweep(sweep_id: str, dry_run: bool) -> bool:
    """`nnexp rerun --sweep SWEEP_ID`; whether all runs are identical."""
    store = open_store(create=False)
    found, evidence = find_sweep(store, whole_id(store, sweep_id, "sweep"))
    subjects = Subjects(kept_in(store))
    if dry_run:
        return _could([evidence], subjects)
    verdicts = _verdicts([evidence], subjects)
    new_id = again.record_sweep(store, found, verdicts)
    if new_id is not None:
        print(f"recorded as {new_id}, with a table of all verdicts, and in the tags of the sweep")
    return all(verdict.is_identical for verdict in verdicts)


def bundle(path: Path, dry_run: bool) -> bool:
    """`nnexp rerun --bundle FILE`; whether all runs are identical. It needs no store."""
    with bundles.opened(path) as there:
        print(f"{path.name}: {there.what}")
        subjects = Subjects(there.kept(), only_kept=True)
        if dry_run:
            return _could(there.groups(), subjects)
        return all(verdict.is_identical for verdict in _verdicts(there.groups(), subjects))


def write_bundle(some_id: str, out: Path | None) -> None:
    """`nnexp bundle RUN_ID|SWEEP_ID`."""
    if out is not None:
        check_ending("--out", out, ".zip")
    store = open_store(create=False)
    some_id = whole_id(store, some_id)
    if get_sweep(store, some_id) is not None:
        found, evidence = find_sweep(store, some_id)
        lacking = {one.run_id: what for one in evidence if (what := lack(one))}
        tell(lacking, "it is left out")
        evidence = [one for one in evidence if one.run_id not in lacking]
    else:
        found, one = find_run(store, some_id)
        evidence = [one]
    if not evidence:
        raise RequestError(f"sweep {some_id}: no run of it has all that a rerun needs")
    subjects, data = Subjects(kept_in(store)), {}
    ready = [subjects.subject(one) for one in evidence]
    for subject in ready:
        if subject.data.dataset is None:
            run_id = subject.evidence.run_id
            raise RequestError(f"run {run_id}: {subject.data.changed}, and the record keeps no copy")
        assert subject.data.dataset.source is not None  # it was just read
        data[subject.data_sha256] = subject.data.dataset.source
    altered = sum(any(doubt.startswith("weights:") for doubt in _doubts(subject)) for subject in ready)
    if altered:
        log.info(
            f"note: of {altered} of the runs weights.npz is not there, or not the file that was recorded"
        )
    more = {}
    holder = get_sweep(store, found.tags.get("nnexp.sweep_id", "")) or found
    if (diff := find_artifact(store, holder, "git.diff")) is not None:
        more["git.diff"] = diff
    lock = lock_file()
    if hashlib.sha256(lock).hexdigest() == holder.tags.get("nnexp.lock_sha256"):
        more[bundles.LOCK] = lock
    else:
        log.info("note: requirements.lock is another one than when this was recorded, and is left out")
    out = out or Path(f"{found.run_id}.zip")
    parents = _parents(store, found, evidence)
    times = times_of(store, [*(one.run_id for one in evidence), *(sweep.run_id for sweep in parents)])
    size = bundles.write(out, found.name, evidence, data, more, parents, times)
    runs = f"{len(evidence):,} run{'s' * (len(evidence) != 1)}"
    print(f"wrote {out}: {runs}, {size:,} bytes\n  {PROGRAM} rerun --bundle {shlex.quote(str(out))}")


def _parents(store: Store, found: Detail, evidence: Sequence[Evidence]) -> list[bundles.Parent]:
    """The sweep that is bundled, if it is one, and all others that recorded its runs."""
    named = dict.fromkeys(one.tags["nnexp.sweep_id"] for one in evidence if "nnexp.sweep_id" in one.tags)
    first = [found.run_id] if "nnexp.sweep" in found.tags else []
    sweeps = [get_any(store, sweep_id) for sweep_id in dict.fromkeys([*first, *named])]
    return [bundles.Parent(s.run_id, s.name, s.status, s.params, s.tags, _keys(store, s)) for s in sweeps]


def _keys(store: Store, sweep: Detail) -> bytes:
    return "".join(f"{key}\n" for key in recorded_keys(store, sweep)).encode()


def _verdicts(groups: Iterable[Sequence[Evidence]], subjects: Subjects) -> list[Verdict]:
    """The verdicts on many runs, printed; one that cannot be trained again is one, too."""
    began, verdicts, extent = time.monotonic(), list[Verdict](), Counter[str]()
    for evidence in groups:
        some = _judged(evidence, subjects)
        verdicts += some
        extent += _extent([one for one, verdict in zip(evidence, some, strict=True) if verdict.is_identical])
    seconds = time.monotonic() - began
    differ = [verdict for verdict in verdicts if not verdict.is_identical]
    counts = {"identical": len(verdicts) - len(differ), "differs": len(differ)}
    print(as_text({"verdict": list(counts), "runs": list(counts.values())}))
    if differ:
        shown = differ[:LISTED]
        causes = [verdict.causes[0] if verdict.causes else "" for verdict in shown]
        columns = {"run": [v.run_id for v in shown], "name": [v.name for v in shown]}
        columns |= {"first difference": [v.difference or "" for v in shown], "likely cause": causes}
        print("\n" + as_text(columns))
        if len(differ) > LISTED:
            print(f"… and {len(differ) - LISTED:,} more")
    for note in dict.fromkeys(note for verdict in verdicts for note in verdict.notes):
        print(on_one_line(f"note: {note}"))
    same = f"{counts['identical']:,} of {len(verdicts):,} runs are identical"
    print(f"\n{same}: {_words(extent)}; {seconds:.1f} s")
    return verdicts


def _judged(evidence: Sequence[Evidence], subjects: Subjects) -> list[Verdict]:
    """The verdicts on some runs, in their order."""
    ready, verdicts = [], {}
    for one in evidence:
        try:
            ready.append(subjects.subject(one))
        except RequestError as error:
            verdicts[one.run_id] = Verdict(one.run_id, one.name, f"it cannot be trained again: {error}")
    verdicts |= {verdict.run_id: verdict for _, _, verdict in again.verify(ready)}
    return [verdicts[one.run_id] for one in evidence]


def _print(verdict: Verdict) -> None:
    print(f"verdict: {'identical' if verdict.difference is None else 'differs'}")
    if verdict.difference is not None:
        print(on_one_line(f"  first difference: {verdict.difference}"))
        for i, cause in enumerate(verdict.causes):
            print(on_one_line(f"  {'likely cause' if i == 0 else 'or'}: {cause}"))
        if not verdict.causes:
            print("  likely cause: none is known; data, engine, code and versions are the record's")
    for note in verdict.notes:
        print(on_one_line(f"  note: {note}"))


def _extent(evidence: Sequence[Evidence]) -> Counter[str]:
    """How much was compared."""
    metrics = [(metric, curve) for one in evidence for metric, curve in one.curves.items()]
    curves = [curve for metric, curve in metrics if not is_prediction(metric)]
    predictions = len(metrics) - len(curves)
    return Counter(points=sum(map(len, curves)), curves=len(curves), predictions=predictions)


def _words(extent: Counter[str]) -> str:
    """What was compared."""
    points = f"{extent['points']:,} points of {extent['curves']:,} curves"
    parts = ["initial weights", points, "final weights"]
    predictions = extent["predictions"]
    parts += [f"{predictions:,} prediction{'s' * (predictions != 1)}"] * (predictions > 0)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


# --- Whether it could be done.


def _could(groups: Iterable[Sequence[Evidence]], subjects: Subjects) -> bool:
    """Say for how many runs all is there, and what is not as it was; whether all can be trained again."""
    total, cannot, doubts = 0, list[str](), Counter[str]()
    for one in chain.from_iterable(groups):
        total += 1
        try:
            subject = subjects.subject(one)
        except RequestError as error:
            cannot.append(str(error))
            continue
        doubts.update(_doubts(subject))
        if subject.data.dataset is None:
            cannot.append(f"run {one.run_id}: {subject.data.changed}, and the record keeps no copy")
    print(f"{total - len(cannot):,} of {total:,} runs can be trained again and compared")
    for reason in cannot[:LISTED]:
        print(on_one_line(f"  cannot: {reason}"))
    for doubt, count in doubts.items():
        print(on_one_line(f"  {doubt}" + (f" ({count:,} runs)" if total > 1 else "")))
    return not cannot


def _doubts(subject: Subject) -> Iterator[str]:
    """What makes it likely that the run comes out otherwise, or that it cannot be shown not to."""
    evidence, recorded_engine = subject.evidence, subject.evidence.tags.get("nnexp.engine")
    if subject.data.changed is not None:
        yield f"data: {subject.data.changed}"
    if subject.data.note is not None:
        yield f"data: would be {subject.data.note}"
    if recorded_engine != engine.VERSION:
        yield f"engine: recorded by version {recorded_engine}, and this is {engine.VERSION}"
    if subject.was.is_migrated:
        yield f"config: schema {subject.was.schema}, migrated to {SCHEMA}"
    if weights_hash(evidence.weights) != evidence.tags.get("nnexp.weights_sha256"):
        yield "weights: weights.npz is not there, or not the file that was recorded"
