"""Print what `nnexp rerun` finds: verdicts, the effect of a variation, or the result of a dry run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nnexp.analysis.tables import as_text
from nnexp.cli.show import remark
from nnexp.config.text import on_one_line
from nnexp.pipeline import bundle as bundles
from nnexp.pipeline.rerun import verbs
from nnexp.pipeline.rerun.table import Compared
from nnexp.pipeline.rerun.variation import Variation
from nnexp.pipeline.rerun.verbs import Forecast, PopulationRerun, Rerun, Reruns
from nnexp.pipeline.rerun.verdict import Verdict

log = logging.getLogger("nnexp")

# How many of a sweep's runs that differ are listed.
LISTED = 50


def one(run_id: str, changes: Sequence[str], dry_run: bool) -> bool:
    """Carry out `nnexp rerun RUN_ID [key=value …]`.

    Returns whether the run is identical or, in a dry run, can be trained again; True for a variation.
    """
    done = verbs.one(run_id, changes, dry_run)
    if isinstance(done, Forecast):
        return _print_forecast(done)
    return _print_rerun(done) if isinstance(done, Rerun) else _vary(done)


def sweep(sweep_id: str, dry_run: bool) -> bool:
    """Carry out `nnexp rerun --sweep SWEEP_ID`; return whether all runs are identical."""
    done = verbs.sweep(sweep_id, dry_run)
    if isinstance(done, Forecast):
        return _print_forecast(done)
    if isinstance(done, PopulationRerun):
        is_well = _print_population(done.compared)
    else:
        is_well = _print_verdicts(done.runs)
    new_id = done.record()
    if new_id is not None:
        print(f"recorded as {new_id}, with a table of all verdicts, and in the tags of the sweep")
    return is_well


def bundle(path: Path, dry_run: bool) -> bool:
    """Carry out `nnexp rerun --bundle FILE`; return whether all runs are identical."""
    with bundles.opened(path) as there:
        print(f"{path.name}: {there.what}")
        done = verbs.bundle(there, dry_run)
        if isinstance(done, Compared):
            return _print_population(done)
        return _print_forecast(done) if isinstance(done, Forecast) else _print_verdicts(done)


def _print_rerun(done: Rerun) -> bool:
    print(f"rerun of {done.verdict.name} ({done.verdict.run_id})")
    _print_verdict(done.verdict)
    if done.verdict.is_identical:
        print(f"  {_words(done.extent)}: every bit is the same")
    new_id = done.record()
    if new_id is not None:
        also = "" if done.subject.evidence.row is not None else ", and in the tags of the run"
        print(f"recorded as {new_id}{also}")
    return done.verdict.is_identical


def _print_verdict(verdict: Verdict) -> None:
    print(f"verdict: {'identical' if verdict.difference is None else 'differs'}")
    if verdict.difference is not None:
        print(on_one_line(f"  first difference: {verdict.difference}"))
        for i, cause in enumerate(verdict.causes):
            print(on_one_line(f"  {'likely cause' if i == 0 else 'or'}: {cause}"))
        if not verdict.causes:
            print("  likely cause: unknown; data, engine, code and versions are those of the record")
    for note in verdict.notes:
        print(on_one_line(f"  note: {note}"))


def _print_population(done: Compared) -> bool:
    """Print what differs of a population; return whether nothing does."""
    _print_differing(done.verdicts, done.members, done.differ, "members")
    for text in (*done.damaged, *(f"note: {note}" for note in done.notes)):
        print(on_one_line(text))
    same = f"{done.members - done.differ:,} of {done.members:,} members are identical"
    print(f"\n{same}{f': {_words(done.extent)}' if done.members else ''}; {done.seconds:.1f} s")
    return done.is_identical


def _print_verdicts(done: Reruns) -> bool:
    """Print the verdicts on many runs; return whether all are identical."""
    differ, total = done.differ, len(done.verdicts)
    _print_differing(differ, total, len(differ), "runs")
    for note in dict.fromkeys(note for verdict in done.verdicts for note in verdict.notes):
        print(on_one_line(f"note: {note}"))
    same = f"{total - len(differ):,} of {total:,} runs are identical"
    print(f"\n{same}: {_words(done.extent)}; {done.seconds:.1f} s")
    return not differ


def _print_differing(verdicts: Sequence[Verdict], total: int, differ: int, what: str) -> None:
    """Print how many runs, or members, are identical, and the first of those that differ."""
    print(as_text({"verdict": ["identical", "differs"], what: [total - differ, differ]}))
    if differ:
        shown = verdicts[:LISTED]
        causes = [verdict.causes[0] if verdict.causes else "" for verdict in shown]
        columns = {"run": [v.run_id for v in shown], "name": [v.name for v in shown]}
        columns |= {"first difference": [v.difference or "" for v in shown], "likely cause": causes}
        print("\n" + as_text(columns))
        if differ > LISTED:
            print(f"… and {differ - LISTED:,} more")


def _words(extent: Counter[str]) -> str:
    """Return what was compared, in words."""
    counts = {"last metrics": extent["last metrics"], "hashes of weights": extent["hashes of weights"]}
    if counts["hashes of weights"] == 1:
        counts = {"last metrics": counts["last metrics"], "hash of weights": 1}
    parts = [f"{count:,} {kind}" for kind, count in counts.items() if count]
    if not parts:
        points = f"{extent['points']:,} points of {extent['curves']:,} curves"
        parts += ["initial weights", points, "final weights"]
    predictions = extent["predictions"]
    parts += [f"{predictions:,} prediction{'s' * (predictions != 1)}"] * (predictions > 0)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _print_forecast(forecast: Forecast) -> bool:
    """Print the result of a dry run; return whether all runs can be trained again."""
    total, cannot = forecast.total, forecast.cannot
    print(f"{total - len(cannot):,} of {total:,} {forecast.unit} can be trained again and compared")
    for reason in cannot[:LISTED]:
        print(on_one_line(f"  cannot: {reason}"))
    for doubt, count in forecast.doubts.items():
        print(on_one_line(f"  {doubt}" + (f" ({count:,} {forecast.unit})" if total > 1 else "")))
    return not cannot


def _vary(variation: Variation) -> bool:
    """Print a variation's changes, train it, and print the effect. Always returns True."""
    evidence = variation.was.evidence
    print(f"a variation of {evidence.name} ({evidence.run_id})\n")
    print(_compared("key", variation.changed()))
    if (note := variation.note()) is not None:
        print(f"note: {note}")
    if variation.dry_run:
        variation.check()
        print("\nit can be trained")
        return True
    done = variation.train()
    if done is None:
        return True
    print("\n" + _compared("", variation.effect(done)))
    remark(done, "this variation")
    print(f"\nrecorded as {done.run_id}")
    return True


def _compared(title: str, pairs: dict[str, tuple[object, object]]) -> str:
    """Return a table of recorded and new values."""
    columns = {title: list(pairs), "recorded": [_shown(was) for was, _ in pairs.values()]}
    return as_text(columns | {"now": [_shown(now) for _, now in pairs.values()]})


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
