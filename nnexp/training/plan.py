"""Compare the points of a sweep with what is recorded: which are done, failed or to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnexp.config.run import RunConfig
from nnexp.dataset.load import Dataset
from nnexp.training.checks import weight_count

# A run's approximate cost in seconds, for the plan only: to record it as a run or as a row of a table, and to
# train one sample and weight.
RECORD_SECONDS, ROW_SECONDS, WEIGHT_SECONDS = 4e-3, 1e-5, 1e-9


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a sweep: the configuration and data of a run, its key and its name."""

    config: RunConfig
    dataset: Dataset
    key: str
    name: str


@dataclass(frozen=True)
class Plan:
    """Which points of a sweep are done, failed before, or still to run."""

    total: int
    done: int  # how many finished before
    failed: list[Point]  # failed before, and are not run again
    todo: list[Point]
    attempt: int  # number of the attempt at the points to do; above 1 if finished ones are run again
    seconds: float  # estimated

    @property
    def seconds_as_table(self) -> float:
        """Return the estimated seconds for the points to do if they were recorded as rows of a table."""
        return self.seconds - len(self.todo) * (RECORD_SECONDS - ROW_SECONDS)

    def __str__(self) -> str:
        """Describe the plan: `600 runs: 72 done, 3 failed before, 525 new, about 2 s`."""
        counts = self.total, self.done, len(self.failed), len(self.todo)
        return described(*counts, self.attempt, self.seconds, "run")


def described(total: int, done: int, failed: int, todo: int, attempt: int, seconds: float, unit: str) -> str:
    """Describe what of a sweep is done, failed before, and to do, in an estimated time."""
    parts = [f"{done} done"] * (done > 0)
    parts += [f"{failed} failed before (retry=failed runs them again)"] * bool(failed)
    parts += [f"{todo} new" if attempt == 1 else f"{todo} again (attempt {attempt})"]
    parts += [f"about {duration(seconds)}"] * bool(todo)
    return f"{total} {unit}{'s' * (total != 1)}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """Return an estimated time in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan(points: Sequence[Point], recorded: Mapping[str, tuple[set[str], int]], reruns: str) -> Plan:
    """Compare the points with what is recorded: for a key, the statuses of its runs and its last attempt.

    `reruns` says which of those are run again: none, failed or all.
    """
    finished = {key for key, (statuses, _) in recorded.items() if "FINISHED" in statuses}
    failed = {key for key, (statuses, _) in recorded.items() if "FAILED" in statuses} - finished
    if reruns == "all":
        todo, left = list(points), []
        attempt = 1 + max((recorded[p.key][1] for p in points if p.key in finished), default=0)
    else:
        left = [p for p in points if p.key in failed] if reruns == "none" else []
        skipped = finished | {p.key for p in left}
        todo, attempt = [p for p in points if p.key not in skipped], 1
    done = len(points) - len(todo) - len(left)
    return Plan(len(points), done, left, todo, attempt, sum(map(_cost, todo)))


def _cost(point: Point) -> float:
    """Estimate the seconds that a run takes as part of a sweep."""
    steps = point.config.epochs * len(point.dataset.X)
    return RECORD_SECONDS + steps * weight_count(point.dataset, point.config) * WEIGHT_SECONDS
