"""Print what `nnexp doctor` finds in a store, and with --fix repair it."""

from __future__ import annotations

from itertools import groupby

from nnexp.config.text import masked, on_one_line
from nnexp.pipeline.doctor import NOTE, Finding, examine

# How many findings of one kind are printed; the rest are only counted.
MOST_LINES = 20


def doctor(fix: bool) -> bool:
    """Print a line for each finding; return whether nothing is wrong or everything was repaired."""
    seen, repaired = examine(), 0
    for kind, group in groupby(seen.findings, lambda finding: finding.kind):
        some = list(group)
        are_done = [fix and finding.repair is not None and finding.repair() is not False for finding in some]
        for finding, is_done in zip(some[:MOST_LINES], are_done, strict=False):
            print(_line(finding, fix, is_done))
        if len(some) > MOST_LINES:
            print(f"… and {len(some) - MOST_LINES:,} more such: {kind}")
        repaired += sum(are_done)
    wrong = [finding for finding in seen.findings if finding.kind != NOTE]
    said = f"{len(wrong):,} found" if wrong else "nothing is wrong"
    if can := sum(finding.repair is not None for finding in wrong):
        repairs = f"{repaired:,} of them repaired" if fix else f"{can:,} of which nnexp doctor --fix repairs"
        said += f", {repairs}"
    print(f"{masked(seen.uri)}: {seen.runs:,} runs, {said}")
    return len(wrong) == repaired


def _line(finding: Finding, fix: bool, is_done: bool) -> str:
    if finding.repair is None:
        return on_one_line(finding.text)
    what = "repaired" if is_done else "left alone, since it is in use" if fix else "--fix"
    return on_one_line(f"{finding.text}; {what}: {finding.remedy}")
